"""`deployer down`: stops deployments and leaves nothing running."""

from __future__ import annotations

import click

from deployer import plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import QuestionError, RuntimeUnavailable


@click.command("down")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop every deployment of this home.")
@click.option("--json", "as_json", is_flag=True, help="Print what was stopped, for programs.")
@click.pass_context
def command(ctx: click.Context, name: str | None, everything: bool, as_json: bool) -> None:
    """Stop deployment NAME, or the only one there is. Models, images and the key stay."""
    here = place(ctx)
    screen = show.Screen()
    units = _units(here)
    if name and name not in units:
        raise QuestionError(f"nothing runs as `{name}`", hint=f"deployments: {', '.join(units) or 'none'}")
    if not name and not everything and len(units) > 1:
        raise QuestionError(
            f"there are {len(units)} deployments: {', '.join(units)}", hint="name one, or use --all"
        )
    stopped = [name] if name else list(units)
    for unit in stopped:
        with here.home.lock(f"deployment-{unit}", waiting=lambda who: screen.say(f"waiting for {who}")):
            for runtime in units[unit]:
                here.runtime(runtime).stop(unit)
            plan.forget(here.home, unit)
        screen.say(f"{unit} is stopped")
    if not stopped:
        screen.say("nothing runs")
    if as_json:
        show.show_json({"stopped": stopped})


def _units(here: Place) -> dict[str, set[str]]:
    """Runtimes by unit: what runs, and what is only recorded."""
    found: dict[str, set[str]] = {}
    for record in plan.records(here.home):
        found.setdefault(record.name, set()).add(record.runtime)
    for runtime in ("process", "docker"):
        try:
            for unit in here.runtime(runtime).units():
                found.setdefault(unit.name, set()).add(runtime)
        except RuntimeUnavailable:
            continue  # without an engine there are no containers of ours to stop
    return found
