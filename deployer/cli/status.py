"""`deployer status`: what runs, where, and how fast it was when it was accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deployer import plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import RuntimeUnavailable
from deployer.home import read_json
from deployer.plan import Record
from deployer.report import Outcome


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> int:
    """List the deployments of this home. Exits with 1 when one of them does not answer."""
    here = place(ctx)
    rows = [_row(here, record) for record in plan.records(here.home)]
    if as_json:
        show.show_json({"deployments": rows})
    elif not rows:
        click.echo("no deployment; start one with: deployer up", err=True)
    for row in () if as_json else rows:
        good = row["state"] == "answers"
        state = show.paint(f"{row['state']:8}", Outcome.PASS if good else Outcome.FAIL)
        click.echo(
            f"{row['name']}  {state}  {row['url']}  {row['model']} on {row['runtime']}, "
            f"{row['tokens_per_s']:.0f} tokens/s when accepted {row['accepted']}"
        )
        if watched := row["watch"]:
            click.echo(f"  watched: {watched['state']}" + (f", {watched['cause']}" if watched["cause"] else ""))
        if not good:
            click.echo(f"  → deployer logs {row['name']} --explain; deployer up {row['profile']}", err=True)
    return 0 if all(row["state"] == "answers" for row in rows) else 1


def _row(here: Place, record: Record) -> dict[str, Any]:
    try:
        found = [here.runtime(record.runtime).find(unit) for unit in record.units]
        states = {unit.state if unit else "gone" for unit in found}
        state = "running" if states == {"running"} else "dead" if "running" in states else sorted(states)[0]
    except RuntimeUnavailable:
        state = "unknown"
    if state == "running":
        state = "answers" if plan.healthy(record.url, record.certificate) else "silent"
    return {
        "name": record.name,
        "state": state,
        "url": record.url,
        "runtime": record.runtime,
        "model": record.model,
        "profile": record.profile,
        "key_file": record.key_file,
        "generation": record.generation,
        "accepted": record.accepted,
        "first_token_s": record.first_token,
        "tokens_per_s": record.rate,
        "watch": _watched(here, record),
    }


def _watched(here: Place, record: Record) -> dict[str, Any] | None:
    """What `deployer watch` knows now; None where nobody watches."""
    told: Any = read_json(here.home.deployment(record.name) / "watch.json")
    try:
        if not Path("/proc", str(told["pid"])).exists():
            return None
        return {key: told[key] for key in ("state", "cause", "since", "restarts")}
    except (KeyError, TypeError):
        return None
