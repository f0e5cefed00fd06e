"""`deployer profiles`: what can be wanted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from deployer import profile
from deployer.cli import show
from deployer.errors import ProfileError


@click.group("profiles")
def command() -> None:
    """List, show and validate profiles."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_(as_json: bool) -> None:
    """List the shipped profiles, the highest-ranked first."""
    found = sorted((profile.load(path) for path in profile.shipped()), key=lambda p: -p.rank)
    if as_json:
        show.show_json({"profiles": [_plain(p) for p in found]})
    for p in () if as_json else found:
        click.echo(f"{p.name:12} {p.rank:4}  {p.description}")


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The values as they are understood, for programs.")
def show_(name: str, as_json: bool) -> None:
    """Print the profile NAME: a start for one of your own."""
    path = profile.find(name)
    loaded = profile.load(path)
    if as_json:
        show.show_json(_plain(loaded))
    else:
        click.echo(path.read_text(), nl=False)


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="FILE...")
def validate(names: tuple[str, ...]) -> int:
    """Report every mistake in FILEs, with file and line. Exits with 2 when there is one."""
    code = 0
    for name in names:
        try:
            loaded = profile.load(profile.find(name))
            click.echo(f"{loaded.path}: right")
        except ProfileError as error:
            show.show_error(error)
            code = error.exit_code
    return code


@command.command()
def schema() -> None:
    """Print the JSON Schema of profiles, for editors."""
    show.show_json(profile.json_schema())


def _plain(p: profile.Profile) -> dict[str, Any]:
    return {**asdict(p), "path": str(p.path)}
