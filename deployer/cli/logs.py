"""`deployer logs`: what the engine says."""

from __future__ import annotations

import click

from deployer.cli.place import place
from deployer.cli.which import which


@click.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come.")
@click.option("-n", "--lines", type=click.IntRange(1), help="Only the last so many.")
@click.pass_context
def command(ctx: click.Context, name: str | None, follow: bool, lines: int | None) -> None:
    """Print the log of deployment NAME, or of the only one there is."""
    here = place(ctx)
    record = which(here, name)
    for line in here.runtime(record.runtime).logs(record.name, lines=lines, follow=follow):
        click.echo(line)
