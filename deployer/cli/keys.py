"""`deployer keys`: who may use a deployment, and how much."""

from __future__ import annotations

import time

import click

from deployer import plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import QuestionError
from deployer.plan import keys

_LABEL = r"[A-Za-z0-9][\w.@-]{0,63}"


@click.group("keys")
def command() -> None:
    """Give keys to people and programs, and take them back; the gateway knows within a second."""


_deployment = click.option("--deployment", metavar="NAME", help="Which one, where there are several.")


@command.command("add")
@click.argument("label", metavar="KEY")
@_deployment
@click.option("--requests", type=click.IntRange(1), help="Requests that it may send in a minute.")
@click.option("--tokens", type=click.IntRange(1), help="Tokens that it may use in a minute, prompts and answers.")
@click.option("--streams", type=click.IntRange(1), help="Requests that it may have under way at once.")
@click.option("--model", "models", multiple=True, help="A model that it may use (all).")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_context
def add(
    ctx: click.Context,
    label: str,
    deployment: str | None,
    requests: int | None,
    tokens: int | None,
    streams: int | None,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a key, called KEY, and print it: it is kept nowhere, only its hash is."""
    import re

    if not re.fullmatch(_LABEL, label):
        raise QuestionError(f"`{label}` is no name for a key", hint="letters, digits, and . _ @ -; at most 64")
    here = place(ctx)
    name = _name(here, deployment)
    record = plan.load_record(here.home, name)
    known = record.model if record else ""
    if strange := [model for model in models if model != known]:
        raise QuestionError(f"{name} has no model {', '.join(strange)}", hint=f"it has: {known}")
    limits = {"requests": requests, "tokens": tokens, "streams": streams, "models": list(models) or None}
    with here.home.lock(f"keys-{name}", waiting=lambda who: None):
        made = keys.add(here.home, name, label, limits)
    if as_json:
        show.show_json({"deployment": name, "name": label, "key": made})
    else:
        show.Screen().say(f"key `{label}` of {name}; it is shown this once:")
        click.echo(made)


@command.command("list")
@_deployment
@click.option("--json", "as_json", is_flag=True, help="Print them for programs.")
@click.pass_context
def list_(ctx: click.Context, deployment: str | None, as_json: bool) -> None:
    """List the keys with their limits and their last use."""
    here = place(ctx)
    name = _name(here, deployment)
    used = keys.used(here.home, name)
    found = [{**key, "used": _stamp(used.get(key["name"]))} for key in keys.listed(here.home, name)]
    if as_json:
        show.show_json([{k: v for k, v in key.items() if k != "hash"} for key in found])
        return
    rows = [(key["name"], key["created"], key["used"] or "never", _limits(key)) for key in found]
    show.out(show.table([("name", "created", "last used", "limits"), *rows]))


@command.command("remove")
@click.argument("label", metavar="KEY")
@_deployment
@click.pass_context
def remove(ctx: click.Context, label: str, deployment: str | None) -> None:
    """Take a key back. What it asked for before goes on to its end."""
    here = place(ctx)
    name = _name(here, deployment)
    with here.home.lock(f"keys-{name}", waiting=lambda who: None):
        keys.remove(here.home, name, label)
    show.Screen().say(f"key `{label}` of {name} is taken back")


def _name(here: Place, asked: str | None) -> str:
    there = [record.name for record in plan.records(here.home)]
    if asked is None and len(there) == 1:
        return there[0]
    if asked in there:
        return asked
    about = f"nothing runs as `{asked}`" if asked else "no deployment" if not there else "which deployment?"
    raise QuestionError(about, hint=f"--deployment {' or '.join(there)}" if there else "deployer up")


def _limits(key: dict[str, object]) -> str:
    words = {"requests": "requests a minute", "tokens": "tokens a minute", "streams": "at once"}
    said = [f"{key[name]} {text}" for name, text in words.items() if key.get(name)]
    models = key.get("models")
    return ", ".join([*said, *(models if isinstance(models, list) else ())])


def _stamp(at: float | None) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else None
