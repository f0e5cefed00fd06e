"""`deployer logs`: what the engine says, and what it means when it has ended."""

from __future__ import annotations

from pathlib import Path

import click

from deployer import host, plan, profile
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which

_READ = 500  # lines; an error of days ago is not why it ended


@click.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come.")
@click.option("-n", "--lines", type=click.IntRange(1), help="Only the last so many.")
@click.option("--explain", is_flag=True, help="Say why it ended, and what mends it, instead of the log.")
@click.pass_context
def command(ctx: click.Context, name: str | None, follow: bool, lines: int | None, explain: bool) -> int:
    """Print the log of deployment NAME, or of the only one there is.

    With --explain, what is known of the failure in it: of what runs or ran, or of a start that failed. It ends with 1
    when the cause is not known.
    """
    here = place(ctx)
    if explain:
        return _explain(here, name)
    record = which(here, name)
    runtime = here.runtime(record.runtime)
    for line in plan.lines_of(record.units, runtime, lines=lines):
        click.echo(line)
    for line in runtime.logs(record.engines[0].unit, lines=1, follow=True) if follow else ():
        click.echo(f"engine | {line}")
    return 0


def _explain(here: Place, name: str | None) -> int:
    """What happened, why, and what to do, of what runs or ran under `name`, else of the last start that failed."""
    record = plan.load_record(here.home, name) if name else None
    attempt = plan.last(here.home, name) if name else None
    if record is None and attempt is None:
        record = which(here, name)
    log: list[str] = []
    if record:
        runs = here.runtime(record.runtime)
        log = list(plan.lines_of(record.units, runs, lines=_READ))
        ended = (unit.exit for name in record.units if (unit := runs.find(name)))
        log += [how for how in ended if how and how.startswith("Exited")]
        attempt = attempt if not log else None
    if attempt:
        log = attempt.log.read_text(errors="replace").splitlines()
    path = attempt.profile if attempt else Path(record.profile if record else "")
    wanted = profile.load(path)
    facts = host.probe(here.questions((wanted,), ports=(wanted.serving.port,)))
    at = attempt.at(facts, wanted) if attempt else plan.of_record(record, facts, wanted) if record else None
    known = plan.explain(log, at) if at else None
    if known:
        show.out(f"{at.name if at else name}: {known.cause}\n  | {known.line}\nfix: {known.fix}")
    elif first := plan.first_error(log):
        show.out(f"the cause is in no list of known ones; the first error is:\n  | {first}")
    else:
        show.out("the log speaks of no error")
    if attempt:
        show.out(f"log: {attempt.log}")
    return 0 if known else 1
