"""`deployer start`: brings back what was accepted, as it was."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from deployer import host, plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which
from deployer.errors import RuntimeUnavailable
from deployer.plan import Record, World
from deployer.quantity import format_duration
from deployer.runtimes import Runtime

_ENGINE_S = 120.0  # after a boot the container engine may come up later than this command


@click.command("start")
@click.argument("name", required=False)
@click.option("--stall", type=click.FloatRange(1), default=120, show_default=True,
              help="Give up when the engine makes no progress for so many seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result, for programs.")
@click.pass_context
def command(ctx: click.Context, name: str | None, stall: float, as_json: bool) -> None:
    """Start deployment NAME, or the only one there is, again: after a reboot, or after `down --keep`.

    It is what `up` accepted, with the same image, model, port and key. Nothing is checked, built or fetched.
    """
    here = place(ctx)
    screen = show.Screen()
    record = which(here, name)
    with here.home.lock(f"deployment-{record.name}", waiting=lambda who: screen.say(f"waiting for {who}")):
        runs = _ready(here, record, screen)
        facts = host.probe(replace(here.questions((), ports=()), base=None))
        world = World(here.home, here.web, here.settings(), runs, here.runtime, screen, facts, stall)
        took = plan.again(record, world)
    if as_json:
        show.show_json({"name": record.name, "changed": took is not None, "url": record.url, "seconds": took})
    elif took is None:
        click.echo(f"{record.name} is up already; nothing was changed", err=True)
    else:
        click.echo(f"{record.name} answers at {record.url} after {format_duration(took)}")


def _ready(here: Place, record: Record, screen: show.Screen) -> Runtime:
    """The runtime of `record`, once it answers."""
    runtime = here.runtime(record.runtime)
    deadline = time.monotonic() + _ENGINE_S
    while True:
        try:
            runtime.find(record.name)
            return runtime
        except RuntimeUnavailable as error:
            if time.monotonic() > deadline:
                raise
            screen.amount(f"waiting: {error.message}", int(time.monotonic() - deadline + _ENGINE_S), None, "s")
            time.sleep(1)
