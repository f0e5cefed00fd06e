"""One generation of a deployment after another: whether both fit, what changed between them, and the way back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import checks, profile
from deployer.description import Description
from deployer.errors import DeployerError, LaunchError, QuestionError
from deployer.host import Gpu, Host, Memory, Unknown
from deployer.plan import acceptance, failed, standing
from deployer.plan.record import Record, generation, generations, limits, save_record
from deployer.plan.remedies import Situation
from deployer.plan.resolve import Choice
from deployer.plan.steps import DRAIN_S, Accept, Ready, Standing, Way, follow
from deployer.quantity import format_size
from deployer.runtimes.base import anonymous
from deployer.sizing import wanted
from deployer.sizing.memory import Memory as Terms

if TYPE_CHECKING:
    from deployer.plan.apply import World

SHARE = 0.8  # of the old generation's tokens/s; two measurements of the same on a shared machine differ by a tenth


def without(facts: Host, pids: Collection[int]) -> Host:
    """The host as it would be if these processes had ended: what they hold of memory and of GPUs is free."""
    gpus = facts.gpus
    if not isinstance(gpus, Unknown):
        gpus = tuple(_without(gpu, pids) for gpu in gpus)
    system = facts.memory
    if isinstance(system, Memory):
        system = replace(system, available=min(system.total, system.available + anonymous(pids)))
    return replace(facts, gpus=gpus, memory=system)


def _without(gpu: Gpu, pids: Collection[int]) -> Gpu:
    if not isinstance(gpu.processes, tuple) or not isinstance(gpu.free_vram, int):
        return gpu
    held = sum(one.memory or 0 for one in gpu.processes if one.pid in pids)
    return replace(gpu, free_vram=gpu.free_vram + held)


def need(choice: Choice, facts: Host) -> int | None:
    """Bytes that the engine needs, of each GPU or of the system; None when the model's headers are not known."""
    found = needed(choice, wanted.described(choice.profile, checks.headers_of(facts, choice.profile)))
    return found.total if found else None


def needed(choice: Choice, described: Description | None) -> Terms | None:
    """The same, term by term, for a model that is described; None for one that is not."""
    if described is None:
        return None
    return wanted.served(described, choice.profile, choice.context, choice.concurrency)


def room(names: Sequence[str], facts: Host) -> int | None:
    """Bytes that are free now: on the fullest of the GPUs of these names, else in the system; None when unknown."""
    if not names:
        return None if isinstance(facts.memory, Unknown) else facts.memory.available
    taken = chosen(names, facts)
    free = [gpu.free_vram for gpu in taken if isinstance(gpu.free_vram, int)]
    return min(free) if free and len(free) == len(taken) else None


def chosen(names: Sequence[str], facts: Host) -> list[Gpu]:
    """The GPUs of these names: UUIDs, or indexes."""
    if isinstance(facts.gpus, Unknown):
        return []
    return [gpu for gpu in facts.gpus if gpu.uuid in names or str(gpu.index) in names]


def follows(
    now: Record, needed: int | None, names: Sequence[str], facts: Host, *, share: float = SHARE, drain: float = DRAIN_S
) -> Way:
    """Whether a generation that needs so many bytes, on GPUs of these names, can start while `now` runs."""
    free = room(names, facts)
    if needed is None or free is None:
        return Way(False, "what it needs beside that cannot be told", share, drain)
    told = f"{format_size(needed)} are needed, {format_size(free)} are free"
    if needed <= free:
        return Way(True, f"beside generation {now.generation}: {told}", share, drain)
    return Way(False, told, share, drain)


def roll_back(record: Record, number: int | None, world: World, *, drain: float = DRAIN_S) -> Record:
    """Generation `number`, or the one that ran before, takes the place of `record`; nothing is fetched or built.

    Raises QuestionError when there is no such generation, LaunchError or AcceptanceFailed when it does not come up or
    does not answer; then `record` goes on.
    """
    target = _target(record, number, world)
    ran = record if standing.runs(record, world.runtime) else None
    names = tuple(gpu for launch in target.engines for gpu in launch.parts[0].gpus)
    way = follows(record, target.need, names, world.facts, share=0.0, drain=drain) if ran else Way(True, "")
    accept = Accept(
        target.name, target.url.removesuffix("/v1"), target.model, target.kind,
        Path(target.key_file) if target.key_file else None, math.inf, math.inf, world.home.models / target.model_id,
        Path(target.certificate) if target.certificate else None,
    )  # fmt: skip
    measured = None
    try:
        at = Standing.of(target)
        for step in follow(at, accept, home=world.home, runtime=world.runtime, now=ran, way=way, going=target):
            if standing.done(step, world):
                continue
            world.progress.say(f"→ {step.title}")
            match step:
                case Ready():
                    standing.wait(step, world, partial(situation, target, world))
                case Accept():
                    measured = acceptance.accept(step, None)
                case _:
                    standing.do(step, world)
    except BaseException:
        standing.go_back(ran, record.name, world, partial(situation, record, world))
        raise
    assert measured is not None
    back = replace(target, kept=record.generation)
    save_record(world.home, back)
    return back


def _target(record: Record, number: int | None, world: World) -> Record:
    wanted_ = number or record.kept
    if wanted_ is None:
        raise QuestionError(f"{record.name} has no generation to go back to", hint=f"deployer history {record.name}")
    if wanted_ == record.generation:
        raise QuestionError(f"generation {wanted_} is the one that runs", hint=f"deployer history {record.name}")
    found = generation(world.home, record.name, wanted_)
    if found is None:
        known = [str(n) for n in generations(world.home, record.name) if generation(world.home, record.name, n)]
        raise QuestionError(
            f"{record.name} has no accepted generation {wanted_}", hint=f"accepted: {', '.join(known)}"
        )
    if found.runtime != record.runtime:
        raise QuestionError(
            f"generation {wanted_} ran on {found.runtime}, this one runs on {record.runtime}",
            hint=f"deployer up {found.profile} --runtime {found.runtime}",
        )
    image = found.engines[0].parts[0].image
    if image and not world.runtime.has_image(image):
        raise LaunchError(f"the image of generation {wanted_} is gone: {image}", hint=f"deployer up {found.profile}")
    if not (world.home.models / found.model_id).exists():
        raise LaunchError(f"the model of generation {wanted_} is gone: {found.model_id}",
                          hint=f"deployer up {found.profile}")  # fmt: skip
    return found


def situation(record: Record, world: World) -> Situation:
    """What explains a failure; only for that is the profile read, which may be gone."""
    try:
        return failed.of_record(record, world.facts, profile.load(Path(record.profile)))
    except DeployerError as error:
        said = tuple(failed.lines_of(record.units, world.runtime, lines=20))
        raise LaunchError(f"{record.name} did not come up", evidence=said, hint=error.message) from error


def changes(before: Record | None, after: Record) -> tuple[str, ...]:
    """What is another in `after`, a line for each; with nothing before it, what it is."""
    now = _facts(after)
    if before is None:
        return tuple(f"{name} {value}" for name, value in now.items() if name in ("model", "engine", "serves"))
    old = _facts(before)
    return tuple(
        f"{name} {_short(old.get(name))} → {_short(value)}" for name, value in now.items() if old.get(name) != value
    ) + tuple(f"{name} {_short(value)} → none" for name, value in old.items() if name not in now)


def _facts(record: Record) -> dict[str, Any]:
    """What people tell generations apart by, in the order they read it."""
    part = record.engines[0].parts[0]
    found: dict[str, Any] = {
        "model": record.model_id,
        "engine": record.engine,
        "runtime": record.runtime,
        "program": part.image or part.arguments[0],
        "serves": f"{record.concurrency} × {record.context} tokens",
        "replicas": len(record.engines),
        "gpus": ", ".join(part.gpus) or "none",
        "url": record.url,
    }
    found |= _options(part.arguments[1:])
    if gateway := record.gateway.parts[0].image:
        found["gateway"] = gateway
    return found | {f"gateway.{key}": value for key, value in _flat(limits(record.told)).items()}


def _options(words: Sequence[str]) -> dict[str, str]:
    """Arguments by their option: `--parallel 2` as one; where a model lies is said by its name."""
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        if word.startswith("-") and word not in ("--model", "--api-key-file"):
            value = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("--") else "on"
            found[word] = value
    return found


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is allowed, without what only names the engines."""
    model = {key: told["models"][0].get(key) for key in ("prompt", "overflow")}
    return {**model, **{key: value for key, value in told.items() if key not in ("models", "deployment")}}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
