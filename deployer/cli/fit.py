"""`deployer fit`: does a model run here, how large, how fast; and what does where it does not. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deployer import compat, host
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.models.metadata import Description
from deployer.quantity import format_duration, format_size, parse_size
from deployer.sizing import catalogue, devices, ranking
from deployer.sizing.devices import Device
from deployer.sizing.fit import Answer, answers
from deployer.sizing.lines import Source, lines, profile
from deployer.sizing.memory import ENGINES
from deployer.sizing.memory import Memory as Need

SCHEMA = 1
_UNKNOWN = "file:///models/"  # where a GGUF of the catalogue would be
_SYSTEM = 64 << 30  # bytes of system memory beside GPUs that are only named


@dataclass(frozen=True)
class Asked:
    """The model in question and where a profile would get it."""

    name: str
    description: Description
    source: Source
    note: str


@click.command("fit")
@click.argument("model", required=False)
@click.option(
    "--context", type=click.IntRange(128), help="Tokens that one user shall have.  [default: the most]"
)
@click.option("--users", type=click.IntRange(1, 1024), help="Users at the same time.  [default: the most]")
@click.option("--cache", "number", type=click.Choice(["f16", "q8_0", "q4_0", "fp8"]), default="f16",
              help="Number format of the cache.  [default: f16]")  # fmt: skip
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), help="Only this engine.")
@click.option(
    "--file", "file", metavar="WORD", help="Which GGUF file of an address: a word of its name, Q8_0."
)
@click.option("--quantization", metavar="NAME",
              help="A catalogue model in this format: Q4_K_M, FP8, NF4 …")  # fmt: skip
@click.option(
    "--host", "saved", type=click.Path(exists=True, dir_okay=False), help="A host saved with check --json."
)
@click.option("--gpu", metavar="NAME", help='As if this GPU were here: "L40S".')
@click.option("--count", type=click.IntRange(1, 64), default=1, help="How many of --gpu.  [default: 1]")
@click.option("--memory", metavar="SIZE", help="System memory beside --gpu.  [default: 64 GiB]")
@click.option(
    "--profile", "write", metavar="FILE", help="Write a complete profile of the best answer; - for stdout."
)
@click.option("--history", is_flag=True, help="What each `up` here measured, beside what was expected.")
@click.option("--ca-cert", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust.")
@click.option("--json", "as_json", is_flag=True, help="Every part of every answer, for programs.")
@click.option("-v", "--verbose", is_flag=True, help="Also say what each part is.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    context: int | None,
    users: int | None,
    number: str,
    engines: tuple[str, ...],
    file: str | None,
    quantization: str | None,
    saved: str | None,
    gpu: str | None,
    count: int,
    memory: str | None,
    write: str | None,
    history: bool,
    ca_cert: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Say whether MODEL runs here, how large its context can be, for how many users and how fast.

    MODEL is a GGUF file, a folder with config.json, a model of the store, an address as `pull` takes them (hf://,
    modelscope://, oci:// or https://), or a name of the catalogue. Without it, the catalogue is ranked for this host.
    Only headers are read. Exits with 1 when the model does not fit.
    """
    here = place(ctx, ca_cert=ca_cert)
    if history:
        return _history(here, model, as_json)
    if saved and gpu:
        raise QuestionError("--host and --gpu exclude each other", hint="choose one of them")
    there = _devices(here, saved, gpu, count, memory)
    if not there:
        raise QuestionError(
            "nothing is known of this host's memory",
            hint='name a GPU with --gpu "RTX 4090", or a host with --host',
        )
    if model is None:
        return _rank(there, engines, context, as_json)
    asked = _asked(model, here, file, quantization)
    found = answers(
        asked.description, there, context=context, users=users, number=number, engines=engines or ENGINES
    )
    if not found:
        embeds = asked.description.kind == "embedding"
        raise QuestionError(
            f"no engine loads {asked.description.format} models for {asked.description.kind} on these devices",
            hint="llamacpp takes it as GGUF, vllm on a GPU" if embeds else f"engines: {', '.join(ENGINES)}",
        )
    if write:
        _write(write, asked, found)
    if as_json:
        show.show_json(_json(asked, found))
    elif write != "-":
        _show(asked, found, verbose=verbose)
    return 0 if found[0].fits else 1


def _history(here: Place, model: str | None, as_json: bool) -> int:
    from dataclasses import asdict

    from deployer.plan import history

    kept = [m for m in history.read(here.home) if model is None or model in (m.model, m.deployment)]
    if as_json:
        show.show_json({"schema": SCHEMA, "history": [asdict(m) for m in kept]})
        return 0
    if not kept:
        click.echo("nothing was measured here yet: each `deployer up` adds a line", err=True)
        return 0
    head = ("when", "deployment", "engine", "on", "serving", "tokens/s", "expected", "loading", "expected",
            "memory", "expected")  # fmt: skip
    rows = [
        (
            m.at.replace("T", " ").removesuffix(":00Z").removesuffix("Z"), m.deployment, f"{m.engine} ({m.runtime})",
            m.device, f"{m.users} × {m.context}", f"{m.rate:.3g}", _or_not(m.expected_rate, "{:.3g}".format),
            format_duration(m.load), _or_not(m.expected_load, format_duration), _or_not(m.memory, format_size),
            _or_not(m.expected_memory, format_size),
        )
        for m in kept
    ]  # fmt: skip
    show.out(show.table((head, *rows)))
    return 0


def _or_not(value: Any, how: Callable[[Any], str]) -> str:
    return "?" if value is None else how(value)


def _devices(
    here: Place, saved: str | None, gpu: str | None, count: int, memory: str | None
) -> tuple[Device, ...]:
    if gpu:
        card = compat.find(gpu)
        if card is None or card.vram is None:
            near = ", ".join(compat.near(gpu)) or "deployer compat --gpu NAME"
            raise QuestionError(f"no GPU of the table is called {gpu}", hint=f"did you mean: {near}")
        return (devices.named(card, count, _size(memory) if memory else _SYSTEM),)
    if saved:
        return devices.of_host(host.load(Path(saved)), None)
    facts = host.probe(here.questions((), ports=()))
    return devices.of_host(facts, host.bandwidth(devices.cores(facts)))


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise QuestionError(f"--memory {text} is not right: {error}") from error


def _asked(model: str, here: Place, file: str | None, quantization: str | None) -> Asked:
    if model.startswith(("hf://", "modelscope://", "oci://", "https://")):
        return _remote(model, here, file)
    path = Path(model)
    if path.exists():
        from deployer.models import metadata

        made = metadata.describe(path)
        address = f"file://{path.resolve()}"
        return Asked(path.stem if path.is_file() else path.name, made, Source(address, kind=made.kind),
                     "from the file's header")  # fmt: skip
    if entry := catalogue.find(model):
        try:
            made = entry.description(quantization)
        except KeyError as error:
            raise QuestionError(
                f"no format is called {quantization}", hint="for example Q4_K_M, Q8_0, FP8, AWQ, NF4, BF16"
            ) from error
        source = Source(f"hf://{entry.hub}", download=made.weights)
        if made.format == "gguf":
            source = Source(f"{_UNKNOWN}{entry.name}-{made.label}.gguf")
        return Asked(
            f"{entry.name} {made.label}" if quantization else entry.name,
            made,
            source,
            f"computed from its shapes ({entry.source})",
        )
    return _stored(model, here)


def _stored(model: str, here: Place) -> Asked:
    from deployer import models
    from deployer.models import metadata

    for one in models.Store(here.home).all():
        if model in (one.id, one.source):
            made = metadata.describe(one.weights)
            files = tuple(f.path for f in one.files if f.path.endswith(".gguf"))
            return Asked(one.id, made, Source(one.source, one.revision, files, kind=made.kind),
                         "from the headers in the store")  # fmt: skip
    near = ", ".join(catalogue.near(model)) or "deployer fit lists what the catalogue has"
    raise QuestionError(f"{model} is no file, no model of the store and not in the catalogue", hint=near)


def _remote(model: str, here: Place, file: str | None) -> Asked:
    from deployer.cli.pull import address
    from deployer.models.metadata import remote

    choice = address(model)
    named = choice.files[0].path if choice.files else None
    found = remote.describe(replace(choice, files=()), here.web, file=file or named)
    files = (found.file,) if found.file else ()
    source = Source(choice.source, found.revision, files, found.download, found.description.kind)
    note = f"from its headers there: {format_size(found.fetched)} read of {format_size(found.download)}"
    return Asked(choice.source.partition("#")[0].rsplit("/", 1)[-1], found.description, source, note)


def _write(target: str, asked: Asked, found: Sequence[Answer]) -> None:
    good = [a for a in found if a.fits]
    if asked.description.format != "gguf" and not asked.source.files:
        good = [a for a in good if a.engine == "transformers"] or good
    if not good:
        raise QuestionError("nothing fits that a profile could ask for", hint="deployer fit says what would")
    text = profile(good[0], asked.source, name=asked.name)
    if asked.source.address.startswith(_UNKNOWN):
        click.echo(f"hint: {asked.source.address} stands for the file: put in where it is", err=True)
    if target == "-":
        show.out(text.rstrip("\n"))
        return
    try:
        Path(target).write_text(text)
    except OSError as error:
        raise QuestionError(
            f"{target} cannot be written: {error.strerror}", hint="name another file"
        ) from error


def _rank(there: tuple[Device, ...], engines: tuple[str, ...], context: int | None, as_json: bool) -> int:
    found = ranking.rank(there, engines or ("llamacpp", "transformers"), context or ranking.ROOM)
    if as_json:
        show.show_json({"schema": SCHEMA, "models": [
            {"name": r.entry.name, "hub": r.entry.hub, "source": r.entry.source, "billions": r.entry.billions,
             **_answer_json(r.answer)} for r in found
        ]})  # fmt: skip
        return 0 if found else 1
    show.out(
        f"{len(found)} of {len(catalogue.entries())} models fit {' and '.join(d.label for d in there)}\n"
    )
    rows: list[tuple[str, ...]] = [
        ("model", "size", "format", "engine", "on", "memory", "context", "users", "tokens/s")
    ]
    rows += [_row(r) for r in found]
    show.out(show.table(rows))
    return 0 if found else 1


def _row(ranked: ranking.Ranked) -> tuple[str, ...]:
    a = ranked.answer
    on = "CPU" if a.device.kind == "cpu" else f"{a.gpus} GPU{'s' if a.gpus > 1 else ''}"
    rate = f"{a.speed.one:.0f}" if a.speed else "?"
    return (ranked.entry.name, f"{ranked.entry.billions:.3g}B", a.label, a.engine, on, format_size(a.memory.total),
            str(a.context), str(a.users), rate)  # fmt: skip


def _show(asked: Asked, found: Sequence[Answer], *, verbose: bool) -> None:
    d = asked.description
    kinds = ", ".join(f"{count} {kind}" for kind, count in d.kinds.items())
    show.out(
        f"{asked.name}: {d.architecture}, {d.parameters / 1e9:.3g}B, {d.label}, {format_size(d.weights)}"
    )
    experts = f", {d.active} of {d.experts} experts" if d.experts else ""
    show.out(f"{kinds} layers{experts}, trained for {d.context} tokens; {asked.note}")
    for a in found:
        show.out("\n" + "\n".join(_told(a, d.kind, verbose=verbose)))


def _told(a: Answer, kind: str, *, verbose: bool) -> list[str]:
    where = "the processor" if a.device.kind == "cpu" else f"{max(1, a.gpus)} × {a.device.name}"
    head = f"{a.engine} on {where}, {a.label}"
    parts = _parts(a.memory, verbose)
    if not a.fits:
        told = [
            f"no   {head}: {format_size(a.memory.total)} needed, {format_size(a.available)} there",
            *parts,
        ]
        for near in a.nearest:
            told.append(f"     {near.change}: {format_size(near.memory.total)}")
            told += [f"       {line}" for line in lines(near)]
        return told
    users = f"{a.users} user{'s' if a.users > 1 else ''}"
    told = [f"yes  {head}: {a.use.context} tokens for {users} (one alone: {a.context}), "
            f"{format_size(a.memory.total)} of {format_size(a.available)}", *parts]  # fmt: skip
    if a.speed:
        told.append(f"     about {a.speed.one:.3g} tokens/s for one user, {a.speed.total:.3g} in all; "
                    f"loading {format_duration(a.speed.load)}")  # fmt: skip
    elif kind != "embedding":
        told.append(
            "     speed is not known: nobody measured this engine on such memory, or its bandwidth is unknown"
        )
    return told


def _parts(need: Need, verbose: bool) -> list[str]:
    if verbose:
        told = [f"     {p.name:14}{format_size(p.bytes):>9}  {p.about}" for p in need.parts]
        return told + [
            f"     {p.name:14}{format_size(p.bytes):>9}  {p.about}, in the host's memory" for p in need.host
        ]
    told = ["     " + ", ".join(f"{p.name} {format_size(p.bytes)}" for p in need.parts)]
    if need.host:
        told.append(f"     beside it in the host's memory: {format_size(need.host_total)}")
    return told


def _json(asked: Asked, found: Sequence[Answer]) -> dict[str, Any]:
    d = asked.description
    about = {
        "name": asked.name, "architecture": d.architecture, "format": d.format, "quantization": d.label,
        "parameters": d.parameters, "weights": d.weights, "groups": d.groups, "layers": d.kinds, "hidden": d.hidden,
        "vocabulary": d.vocabulary, "context": d.context, "experts": d.experts, "active_experts": d.active,
        "chat_template": d.chat_template, "measured": d.measured, "note": asked.note,
    }  # fmt: skip
    return {"schema": SCHEMA, "model": about, "answers": [_answer_json(a) for a in found]}


def _answer_json(a: Answer) -> dict[str, Any]:
    return {
        "engine": a.engine, "device": a.device.name, "gpus": a.gpus, "format": a.label, "fits": a.fits,
        "context": a.use.context, "most_context": a.context, "users": a.use.users, "cache": a.use.number,
        "available": a.available, "memory": _need_json(a.memory),
        "speed": a.speed and {"one": a.speed.one, "total": a.speed.total, "load": a.speed.load,
                              "source": a.speed.source},
        "nearest": [
            {"change": n.change, "format": n.label, "context": n.use.context, "cache": n.use.number, "gpus": n.gpus,
             "memory": _need_json(n.memory), "profile": list(lines(n))} for n in a.nearest
        ],
    }  # fmt: skip


def _need_json(need: Need) -> dict[str, Any]:
    return {
        "total": need.total, "parts": {p.name: p.bytes for p in need.parts},
        "host": {p.name: p.bytes for p in need.host},
    }  # fmt: skip
