"""`deployer rollback`: the generation that ran before takes over again."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from deployer import host, plan
from deployer.cli import show
from deployer.cli.place import place
from deployer.cli.which import which
from deployer.plan import World
from deployer.quantity import format_duration


@click.command("rollback")
@click.argument("name", required=False)
@click.option("--to", "number", type=click.IntRange(1), metavar="GENERATION",
              help="Another than the one before: deployer history lists them.")  # fmt: skip
@click.option("--drain", type=click.FloatRange(0), default=plan.DRAIN_S, show_default=True, metavar="SECONDS",
              help="How long what runs may end what it has begun.")  # fmt: skip
@click.option("--stall", type=click.FloatRange(1), default=120, show_default=True,
              help="Give up when the engine makes no progress for so many seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result, for programs.")
@click.pass_context
def command(
    ctx: click.Context, name: str | None, number: int | None, drain: float, stall: float, as_json: bool
) -> None:
    """Go back to the generation of deployment NAME, or of the only one, that ran before.

    Nothing is checked, built or fetched: its engine starts as it was accepted, answers, and gets all requests; what ran
    ends what it has begun and is kept. A second rollback goes forward again.
    """
    here = place(ctx)
    screen = show.Screen(quiet=False)
    record = which(here, name)
    begin = time.monotonic()
    with here.home.lock(f"deployment-{record.name}", waiting=lambda who: screen.say(f"waiting for {who}")):
        facts = host.probe(replace(here.questions((), ports=()), base=None))
        runtime = here.runtime(record.runtime)
        world = World(here.home, here.web, here.settings(), runtime, here.runtime, screen, facts, stall)
        back = plan.roll_back(record, number, world, drain=drain)
    took = time.monotonic() - begin
    if as_json:
        show.show_json({"name": back.name, "generation": back.generation, "url": back.url, "seconds": round(took, 2)})
    else:
        click.echo(f"{back.name} is generation {back.generation} again, at {back.url}, after {format_duration(took)}")
