"""`deployer models`: what is in the store, whether it is still right, and ways in and out of it without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deployer import plan
from deployer.cli import push, show
from deployer.cli.place import Place, build_options, place
from deployer.errors import HashMismatch, ModelError, QuestionError, Refused, RuntimeUnavailable
from deployer.models import Model, Store, convert
from deployer.models.pack import pack, unpack
from deployer.quantity import format_size


@click.group("models")
def command() -> None:
    """List, verify, remove, export and import the models of this home. A model is named by the start of its id."""


command.add_command(push.command)
as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@command.command("list")
@as_json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the models, with those that `verify` set aside."""
    store = Store(place(ctx).home)
    found, damaged = store.all(), store.damaged()
    if as_json:
        rows = [{**_row(store, one), "damaged": False} for one in found]
        show.show_json({"models": rows + [{**_row(store, one), "damaged": True} for one in damaged]})
        return
    if not (found or damaged):
        click.echo("no model; fetch one with: deployer pull", err=True)
        return
    table = [("MODEL", "SIZE", "FORMAT", "KEPT IN", "CONTEXT", "LICENCE")]
    for one in found:
        context = f"{one.context:,}" if one.context else "?"
        kept = one.quantization or "?"
        table.append((one.id, format_size(one.size), one.format, kept, context, one.licence or "?"))
    show.out(show.table(table))
    for one in damaged:
        show.out(f"{one.id}  damaged: pull it again, or remove it")
    unique = {f.sha256: f.size for one in found for f in one.files}
    click.echo(f"{len(found)} models, {format_size(sum(unique.values()))} on {store.root}", err=True)


@command.command("show")
@click.argument("name", metavar="MODEL")
@as_json_option
@click.pass_context
def show_(ctx: click.Context, name: str, as_json: bool) -> None:
    """Say all that is known of MODEL."""
    store = Store(place(ctx).home)
    one = _find(store, name)
    if as_json:
        show.show_json(_row(store, one))
        return
    lines = {
        "model": one.id,
        "source": one.source,
        "revision": one.revision,
        "converted from": one.converted_from,
        "licence": one.licence or "not told by the source",
        "format": one.format,
        "kept in": one.quantization,
        "context": f"{one.context:,} tokens" if one.context else None,
        "chat template": {True: "yes", False: "no", None: None}[one.chat_template],
        "allowed": ", ".join(one.allowed) or None,
        "size": f"{format_size(one.size)}, of which {format_size(store.shared(one))} are shared with other models",
        "path": str(one.weights),
    }
    for key, value in lines.items():
        if value is not None:
            show.out(f"{key:15} {value}")
    for step in one.recipe:
        show.out(f"{'made by':15} {step.tool} {' '.join(step.arguments)}")
        show.out(f"{'':15} of {step.engine}")
    for number, line in enumerate(_lost(one)):
        show.out(f"{'' if number else 'perplexity':15} {line}")
    for file in one.files:
        show.out(f"{'':15} {file.sha256}  {format_size(file.size):>8}  {file.path}")


@command.command("convert")
@click.argument("name", metavar="MODEL")
@click.option("--to", "wanted", metavar="FORMAT", required=True, help="safetensors, int8, int4, gguf:Q4_K_M …")
@click.option("--runtime", type=click.Choice(["docker", "process"]),
              help="What runs it.  [default: docker if it answers]")  # fmt: skip
@click.option("--no-measure", is_flag=True, help="Do not measure perplexity; the same command does so later.")
@as_json_option
@build_options
@click.pass_context
def convert_(
    ctx: click.Context,
    /,
    name: str,
    wanted: str,
    runtime: str | None,
    no_measure: bool,
    as_json: bool,
    **ways: str | None,
) -> None:
    """Make of MODEL a model in another FORMAT, once, and say what that cost.

    GGUF becomes `safetensors`; safetensors in 16 bits become `gguf:` with one of llama.cpp's types, or `int8` and
    `int4` for transformers; GGUF in 16 bits becomes a smaller `gguf:`. The perplexity of both is measured on a text
    that comes with deployer, and kept with the recipe in the result's manifest.
    """
    here, screen = place(ctx, **ways), show.Screen()
    store, to = Store(here.home), convert.target(wanted)
    origin = _find(store, name)
    there = store.get(convert.identity(origin.id, to))
    if there is None:
        convert.ways(origin, to)  # what cannot be made is said before a runtime is looked for
    if there is None or not (no_measure or there.loss):
        here.home.sweep()
        shop = plan.Workshop(here.home, here.web, here.settings(), here.runtime(_runtime(here, runtime)), screen)
        one = plan.convert(origin, to, shop)
        one = one if no_measure else plan.measure(origin, one, shop)
    else:
        one = there
    if as_json:
        show.show_json(_row(store, one))
        return
    screen.say(f"{one.id} {'was there already' if there else 'is there'}: {format_size(one.size)}")
    for line in _lost(one):
        screen.say(line)
    show.out(str(one.weights))


@command.command("verify")
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@as_json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Read every byte of MODEL, or of all models, again.

    One that changed is set aside, so that nothing is started with it, and the next `pull` of it fetches just the bad
    files. Exits with 1 then.
    """
    store, screen = Store(place(ctx).home), show.Screen()
    chosen = [_find(store, name) for name in names] if names else list(store.all())
    rows: list[dict[str, Any]] = []
    for one in chosen:
        if store.get(one.id) is None:  # it shared what was bad
            rows.append({"id": one.id, "good": False, "error": "it shares a bad file"})
            continue
        try:
            store.verify(one, screen)
            rows.append({"id": one.id, "good": True, "error": None})
            screen.say(f"{one.id}: every byte is right, {format_size(one.size)}")
        except HashMismatch as error:
            rows.append({"id": one.id, "good": False, "error": error.message})
            show.show_error(error)
    if as_json:
        show.show_json({"models": rows})
    return 0 if all(row["good"] for row in rows) else 1


@command.command("remove")
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also when a deployment was started with it.")
@as_json_option
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove models, and of their files what no other model has too."""
    here = place(ctx)
    store = Store(here.home)
    chosen = [_find(store, name, damaged=True) for name in names]
    for one in () if force else chosen:
        _unused(here, one)
    freed = sum(store.remove(one.id) for one in chosen)
    if as_json:
        show.show_json({"removed": [one.id for one in chosen], "bytes": freed})
    else:
        click.echo(f"removed {', '.join(one.id for one in chosen)}: {format_size(freed)}", err=True)


@command.command("gc")
@click.option("--now", is_flag=True, help="Also what pulls left that ended less than a week ago.")
@as_json_option
@click.pass_context
def gc(ctx: click.Context, now: bool, as_json: bool) -> None:
    """Remove contents of no model, and what pulls left that ended long ago."""
    done = Store(place(ctx).home).collect(now=now)
    if as_json:
        show.show_json({"contents": done.contents, "downloads": done.downloads, "bytes": done.bytes})
    else:
        text = f"removed {done.contents} contents and {done.downloads} unfinished pulls: {format_size(done.bytes)}"
        click.echo(text, err=True)


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
@as_json_option
@click.pass_context
def export(ctx: click.Context, file: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write models into FILE, a tar, for a machine without a network. Every byte is hashed on the way."""
    store, screen = Store(place(ctx).home), show.Screen()
    chosen = list({one.id: one for one in (_find(store, name) for name in names)}.values())
    if not file.absolute().parent.is_dir():
        raise QuestionError(f"there is no folder {file.absolute().parent}", hint="make it, or name another file")
    pack(store, chosen, file, screen)
    if as_json:
        show.show_json({"file": str(file), "models": [one.id for one in chosen], "bytes": file.stat().st_size})
    else:
        screen.say(f"{file}: {', '.join(one.id for one in chosen)}, {format_size(file.stat().st_size)}")


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
@click.pass_context
def import_(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Take the models in FILE, which `export` wrote, into the store. Every byte is held to its hash."""
    store, screen = Store(place(ctx).home), show.Screen()
    found = unpack(store, file, screen)
    if as_json:
        show.show_json({"models": [_row(store, one) for one in found]})
    for one in () if as_json else found:
        screen.say(f"{one.id} is there: {format_size(one.size)}")


def _row(store: Store, one: Model) -> dict[str, Any]:
    return {
        "id": one.id,
        "source": one.source,
        "revision": one.revision,
        "converted_from": one.converted_from,
        "licence": one.licence,
        "format": one.format,
        "quantization": one.quantization,
        "context": one.context,
        "chat_template": one.chat_template,
        "allowed": list(one.allowed),
        "recipe": [{"tool": s.tool, "engine": s.engine, "arguments": list(s.arguments)} for s in one.recipe],
        "loss": _loss(one),
        "path": str(one.weights),
        "size": one.size,
        "shared": store.shared(one),
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in one.files],
    }


def _loss(one: Model) -> dict[str, Any] | None:
    """What the conversion cost, with the text and the tools it was measured with."""
    if (loss := one.loss) is None:
        return None
    both = {
        which: {
            "perplexity": round(p.value, 4), "standard_error": round(p.value * p.error, 4),
            "tool": p.tool, "engine": p.engine,
        }
        for which, p in (("original", loss.original), ("result", loss.result))
    }  # fmt: skip
    error = loss.change_error
    return {
        "text_sha256": loss.text, "window": loss.window, "tokens": loss.tokens, **both,
        "change": round(loss.change, 6), "change_standard_error": None if error is None else round(error, 6),
    }  # fmt: skip


def _lost(one: Model) -> list[str]:
    """The perplexities of original and result, as lines; none where they were not measured."""
    if (loss := one.loss) is None:
        return []
    error = f" ± {loss.change_error:.2%}" if loss.change_error is not None else ", of texts cut differently"
    pairs = (("original", loss.original), ("result", loss.result))
    return [
        *(f"{which:8} {p.value:.3f} ± {p.value * p.error:.3f}  {p.tool}" for which, p in pairs),
        f"change   {loss.change:+.2%}{error}, on {loss.tokens:,} tokens",
    ]


def _runtime(here: Place, asked: str | None) -> str:
    """As asked, else docker when it answers, else process."""
    if asked:
        return asked
    try:
        here.runtime("docker").units()
    except RuntimeUnavailable:
        return "process"
    return "docker"


def _find(store: Store, name: str, *, damaged: bool = False) -> Model:
    every = {one.id: one for one in (*(store.damaged() if damaged else ()), *store.all())}
    found = [every[name]] if name in every else [one for id_, one in every.items() if id_.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise QuestionError(f"{name} may be {', '.join(one.id for one in found)}", hint="write more of its id")
    raise ModelError(f"no model is called {name}", hint="deployer models list")


def _unused(here: Place, one: Model) -> None:
    for record in plan.records(here.home):
        kept = plan.generation(here.home, record.name, record.kept) if record.kept else None
        if record.model_id == one.id:
            raise Refused(
                f"the deployment {record.name} was started with {one.id}",
                hint=f"deployer down {record.name}, or --force",
            )
        if kept and kept.model_id == one.id:
            raise Refused(
                f"{record.name} can go back to generation {kept.generation}, which has {one.id}",
                hint="--force, if it need not",
            )
