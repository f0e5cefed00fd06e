"""`deployer check`: facts, judged against a profile."""

from __future__ import annotations

from pathlib import Path

import click

from deployer import checks, host, profile, report
from deployer.cli import show
from deployer.cli.place import place
from deployer.report import SCHEMA_VERSION


@click.command("check")
@click.argument("profile_name", metavar="[PROFILE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole host and every finding, for programs.")
@click.option(
    "--host",
    "saved",
    type=click.Path(exists=True, dir_okay=False),
    help="Judge a host saved with --json instead.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also list what the profile does not ask for.")
@click.pass_context
def command(
    ctx: click.Context, profile_name: str | None, as_json: bool, saved: str | None, verbose: bool
) -> int:
    """Audit this machine against PROFILE (a shipped name or a file).

    Without PROFILE, the highest-ranked shipped profile that fits is taken, else the least demanding one.
    Exits with 0 when nothing fails, 1 when something does, 2 when the question is wrong.
    """
    here = place(ctx)
    candidates = (
        (profile.load(profile.find(profile_name)),)
        if profile_name
        else tuple(profile.load(path) for path in profile.shipped())
    )
    if saved:
        found = host.load(Path(saved))
    else:
        ports = tuple(sorted({p.serving.port for p in candidates}))
        found = host.probe(here.questions(candidates, ports=ports))
    reports = {
        p.name: checks.audit(found if saved else here.seen_by(found, p, p.name), p) for p in candidates
    }
    ranked = sorted(candidates, key=lambda p: (not reports[p.name].sure, not reports[p.name].ok, -p.rank))
    best = ranked[0]
    if not reports[best.name].ok:
        best = min(candidates, key=lambda p: (p.requirements.gpu is not None, p.rank))
    judged = reports[best.name]
    if as_json:
        show.show_json(
            {"schema": SCHEMA_VERSION, "report": report.as_json(judged), "host": host.to_json(found)}
        )
    else:
        click.echo(report.as_text(judged, width=show.width(), every=verbose, style=show.paint))
    return 0 if judged.ok else 1
