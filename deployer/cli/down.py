"""`deployer down`: stops deployments, leaves nothing running, and waits until their memory is back."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import click

from deployer import host, plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import QuestionError, RuntimeUnavailable
from deployer.plan import Released
from deployer.quantity import format_size
from deployer.runtimes.base import deployment_of


@click.command("down")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop every deployment of this home.")
@click.option("--keep", is_flag=True, help="Keep its record: `deployer start` brings it back as it was.")
@click.option("--wait", type=click.FloatRange(1), default=60, show_default=True, metavar="SECONDS",
              help="Give up when memory is not back after so long.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was stopped, for programs.")
@click.pass_context
def command(
    ctx: click.Context, name: str | None, everything: bool, keep: bool, wait: float, as_json: bool
) -> None:
    """Stop deployment NAME, or the only one there is. Models, images and the key stay.

    Returns when its processes have ended and hold no memory of a GPU. What does not end and is the deployment's is
    killed; of other programs on the same GPUs it says who they are.
    """
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
    rows = []
    look = partial(host.gpus, host.Questions(here.home.models, here.home.engines))
    for unit in stopped:
        with here.home.lock(f"deployment-{unit}", waiting=lambda who: screen.say(f"waiting for {who}")):
            runs = [here.runtime(runtime) for runtime in sorted(units[unit])]
            released = plan.release(unit, runs, look, screen, limit=wait)
            if not keep:
                plan.forget(here.home, unit)
        for line in _told(unit, released):
            screen.say(line)
        if not keep and here.service(unit, None).installed(here.home):
            screen.say(f"it would start with the machine: deployer service remove {unit}")
        rows.append(_row(unit, released))
    if not stopped:
        screen.say("nothing runs")
    if as_json:
        show.show_json({"stopped": stopped, "released": rows})


def _told(unit: str, released: Released) -> list[str]:
    back = ", ".join(f"{format_size(size)} of GPU {gpu}" for gpu, size in sorted(released.gpus.items()))
    lines = [f"{unit} is stopped" + (f": {back} are back" if back else "")]
    lines += [f"{other}, and is not of this deployment" for other in released.others]
    if released.unknown:
        lines.append(f"whether the GPUs' memory is back could not be asked: {released.unknown}")
    return lines


def _row(unit: str, released: Released) -> dict[str, Any]:
    return {
        "name": unit,
        "processes": released.processes,
        "gpu_bytes": {str(gpu): size for gpu, size in released.gpus.items()},
        "killed": [{"pid": one.pid, "name": one.name} for one in released.killed],
        "others": [asdict(other) for other in released.others],
        "unknown": released.unknown,
    }


def _units(here: Place) -> dict[str, set[str]]:
    """Runtimes by unit: what runs, and what is only recorded."""
    found: dict[str, set[str]] = {}
    for record in plan.records(here.home):
        found.setdefault(record.name, set()).add(record.runtime)
    for runtime in ("process", "docker"):
        try:
            for unit in here.runtime(runtime).units():
                found.setdefault(deployment_of(unit.name), set()).add(runtime)
        except RuntimeUnavailable:
            continue  # without an engine there are no containers of ours to stop
    return found
