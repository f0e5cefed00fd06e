"""`deployer inspect`: what a deployment is now, and the commands that make the same by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from deployer import models, plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which
from deployer.plan import Record
from deployer.quantity import format_size
from deployer.runtimes import Runtime

_PINS = "io.deployer."


@click.command("inspect")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_context
def command(ctx: click.Context, name: str | None, as_json: bool) -> int:
    """Show what runs as NAME, or as the only deployment there is: record, parts, model, limits.

    Ends with the commands that start the same by hand. Exits with 1 when what runs is not what was accepted.
    """
    here = place(ctx)
    record = which(here, name)
    runtime = here.runtime(record.runtime)
    found = _everything(here, record, runtime)
    if as_json:
        show.show_json(found)
    else:
        _show(found)
    return 0 if found["as_accepted"] else 1


def _everything(here: Place, record: Record, runtime: Runtime) -> dict[str, Any]:
    units = [unit for name in record.units if (unit := runtime.find(name))]
    model = models.Store(here.home).get(record.model_id)
    return {
        "record": {**asdict(record), "engines": None, "gateway": None, "fingerprint": record.fingerprint},
        "units": [asdict(unit) for unit in units],
        "as_accepted": plan.stands(record, runtime),
        "parts": [asdict(part) for name in record.units for part in runtime.about(name)],
        "model": {
            "id": model.id,
            "source": model.source,
            "revision": model.revision,
            "size": model.size,
            "files": [asdict(file) for file in model.files],
        }
        if model
        else None,
        "commands": list(
            dict.fromkeys(line for launch in (*record.engines, record.gateway) for line in runtime.commands(launch))
        ),
    }


def _show(found: dict[str, Any]) -> None:
    record, units = found["record"], found["units"]
    states = ", ".join(sorted({unit["state"] for unit in units})) or "nothing runs"
    state = f"{states}, generation {record['generation']}"
    note = "" if found["as_accepted"] else "  (not what was accepted)"
    rows = [
        ("deployment", f"{record['name']} on {record['runtime']}: {state}{note}"),
        ("accepted", f"{record['accepted']}, profile {record['profile']}"),
        ("url", record["url"]),
        ("serves", f"{record['concurrency']} × {record['context']} tokens of {record['model']}"),
        ("launch", record["fingerprint"]),
    ]
    if model := found["model"]:
        rows.append(("model", f"{model['id']}: {format_size(model['size'])} from {model['source']}"))
        rows += [("", f"{file['path']}  sha256:{file['sha256']}") for file in model["files"]]
    for part in found["parts"]:
        pids = ", ".join(map(str, part["pids"])) or "-"
        rows.append((part["role"], f"{part['state']}, {part['program']}, pid {pids}"))
        rows += [("", line) for line in _lines(part)]
    click.echo(show.table(rows))
    click.echo("\nthe same by hand:")
    for line in found["commands"]:
        click.echo(line)


def _lines(part: dict[str, Any]) -> list[str]:
    lines = [f"image {part['identity']}"] if part["identity"] else []
    pins = {key.removeprefix(_PINS): value for key, value in part["labels"].items() if key.startswith(_PINS)}
    lines += [f"{key} {value}" for key, value in sorted(pins.items()) if key == "lock" or key.startswith("pin.")]
    for mount in part["mounts"]:
        access = "writable" if mount["writable"] else "read-only"
        lines.append(f"{mount['source']} as {mount['target']}, {access}")
    lines += [f"{'published at' if name == 'host' else name} {where}" for name, where in part["networks"].items()]
    lines += [f"GPU {gpu}" for gpu in part["gpus"]]
    return [*lines, ", ".join(f"{key} {value}" for key, value in part["limits"].items())]
