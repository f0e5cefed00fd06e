"""`deployer upgrade`: the next generation of a deployment beside the one that runs, accepted, then switched to."""

from __future__ import annotations

import click

from deployer import plan, profile
from deployer.cli import up
from deployer.cli.place import build_options, place
from deployer.cli.which import which


@click.command("upgrade")
@click.argument("name", required=False)
@click.option("--profile", "profile_name", metavar="PROFILE", help="Another profile.  [default: the one it has]")
@click.option("--share", type=click.FloatRange(0, 1), default=plan.SHARE, show_default=True,
              help="The part of the old tokens/s that the new generation must give.")  # fmt: skip
@click.option("--drain", type=click.FloatRange(0), default=plan.DRAIN_S, show_default=True, metavar="SECONDS",
              help="How long the old generation may end what it has begun.")  # fmt: skip
@click.option("--after", is_flag=True, help="Stop the old generation first, even where memory holds both.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--stall", type=click.FloatRange(1), default=120, show_default=True,
              help="Give up when the engine makes no progress for so many seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the plan, for programs.")
@build_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    name: str | None,
    profile_name: str | None,
    share: float,
    drain: float,
    after: bool,
    dry_run: bool,
    stall: float,
    as_json: bool,
    **ways: str | None,
) -> None:
    """Bring deployment NAME, or the only one there is, to what its profile says now, or to another profile.

    The new generation starts beside the old one, or after it where memory does not hold both, which is said before. It
    is asked what the old one is asked; when it answers well and fast enough, it gets all requests, the old one ends
    what it has begun and is kept, stopped. When it does not, the old one goes on.
    """
    here = place(ctx, **ways)
    record = which(here, name)
    port = record.gateway.port
    path = profile.find(profile_name) if profile_name else record.profile
    wanted, reasons, facts = up.choose(here, str(path), record.name, port)
    asked = up.Asked(record.name, record.runtime, port, stall, dry_run, as_json, after, share, drain)
    up.bring(here, asked, wanted, reasons, facts)
