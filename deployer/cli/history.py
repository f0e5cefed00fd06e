"""`deployer history`: the generations of a deployment, and what changed from one to the next."""

from __future__ import annotations

from typing import Any

import click

from deployer import plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which
from deployer.plan import Record
from deployer.report import Outcome


@click.command("history")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def command(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List the generations of deployment NAME, or of the only one: the newest first, with what each changed.

    `runs` is the one that was accepted last, `kept` the one that `deployer rollback` goes to; a `refused` one was not
    accepted.
    """
    here = place(ctx)
    record = which(here, name)
    rows = _rows(here, record)
    if as_json:
        show.show_json({"name": record.name, "generations": rows})
        return
    for row in reversed(rows):
        state = show.paint(f"{row['state']:8}", Outcome.FAIL if row["state"] == "refused" else Outcome.PASS)
        rate = f"  {row['tokens_per_s']:.0f} tokens/s" if row["tokens_per_s"] else ""
        click.echo(f"{row['generation']:>3}  {state}  {row['at']}{rate}")
        for line in row["changes"]:
            click.echo(f"     {line}")


def _rows(here: Place, record: Record) -> list[dict[str, Any]]:
    """Oldest first; each is compared with the accepted one before it."""
    rows: list[dict[str, Any]] = []
    before: Record | None = None
    for number in plan.generations(here.home, record.name):
        found = plan.generation(here.home, record.name, number)
        refused = plan.refused(here.home, record.name, number)
        if found:
            state = "runs" if number == record.generation else "kept" if number == record.kept else "past"
            changes = plan.changes(before, found)
            rows.append(_row(number, state, found.accepted, changes, found.rate))
            before = found
        elif refused:
            rows.append(_row(number, "refused", refused[0], (refused[1],), None))
    return rows


def _row(number: int, state: str, at: str, changes: tuple[str, ...], rate: float | None) -> dict[str, Any]:
    return {"generation": number, "state": state, "at": at, "tokens_per_s": rate, "changes": list(changes)}
