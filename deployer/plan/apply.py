"""Does the steps, and undoes what it did when one fails or the person interrupts."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from deployer import compat, host, images, models, sizing
from deployer.errors import (
    AcceptanceFailed,
    DeployerError,
    EngineDied,
    LaunchError,
    ModelError,
    Refused,
)
from deployer.fetch import Web
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.images import builder
from deployer.images.bake import BuildSettings
from deployer.models import metadata
from deployer.models.convert import target
from deployer.models.pull import pull
from deployer.plan import acceptance, door, failed, history, kinds, smaller, standing
from deployer.plan.acceptance import Measured
from deployer.plan.conversion import Workshop, convert
from deployer.plan.generations import chosen, needed, room
from deployer.plan.record import Record, kept_units, limits, load_record, refuse, save_record
from deployer.plan.resolve import Choice
from deployer.plan.steps import (
    Accept,
    Build,
    Clear,
    Convert,
    Fit,
    Open,
    Provision,
    Pull,
    Ready,
    Start,
    Step,
    Switch,
)
from deployer.progress import Progress
from deployer.quantity import format_duration, format_size
from deployer.runtimes import Runtime, provision
from deployer.sizing import wanted

S = TypeVar("S", bound=Step)
STALL_S = 120.0  # an engine that makes no progress for this long is stuck


@dataclass(frozen=True)
class World:
    """Everything that steps touch. `other` makes the runtime of another name, for what is replaced."""

    home: Home
    web: Web
    build: BuildSettings
    runtime: Runtime
    other: Callable[[str], Runtime]
    progress: Progress
    facts: host.Host
    stall: float = STALL_S


def already_up(choice: Choice, steps: Sequence[Step], world: World) -> Record | None:
    """The record, when exactly this is accepted and runs and answers; None when there is work to do."""
    record = load_record(world.home, choice.name)
    if record is None or record.runtime != choice.runtime:
        return None
    wanted = (_one(steps, Start).launches, _one(steps, Open).gateway, limits(_one(steps, Switch).new.told))
    if wanted != (record.engines, record.gateway, limits(record.told)) or not standing.stands(record, world.runtime):
        return None
    return record if acceptance.healthy(record.url, record.certificate) else None


def apply(choice: Choice, steps: Sequence[Step], world: World) -> Record:
    """Does every step that is not done yet and returns the record of the accepted deployment.

    On any error, and on KeyboardInterrupt, what this call started is stopped, and what it took the place of runs
    again; downloads and builds stay, so that the next call goes on from there.
    """
    before = load_record(world.home, choice.name)
    runtime = world.runtime if before is None or before.runtime == world.runtime.name else world.other(before.runtime)
    ran = before if before and standing.runs(before, runtime) else None
    number = _one(steps, Switch).new.told["generation"]
    try:
        return _apply(choice, steps, world, before)
    except BaseException as error:
        if isinstance(error, DeployerError):
            refuse(world.home, choice.name, number, error.message)
        standing.go_back(ran, choice.name, world, partial(failed.situation, choice, world.facts))
        raise


def _apply(choice: Choice, steps: Sequence[Step], world: World, before: Record | None) -> Record:
    measured: Measured | None = None
    loaded = 0.0
    begin = time.monotonic()
    asked, short = choice, ""
    pending = deque(steps)
    while pending:
        step = pending.popleft()
        if _done(step, world):
            world.progress.say(f"✓ {step.title}: done already")
            continue
        world.progress.say(f"→ {step.title}")
        match step:
            case Build():
                _build(step, world)
            case Provision():
                provision.provision(
                    step.engine, step.variant, home=world.home, web=world.web, progress=world.progress
                )
            case Pull():
                pull(
                    choice.profile.model, choice.engine.files, home=world.home, web=world.web,
                    progress=world.progress,
                )  # fmt: skip
            case Convert():
                _convert(step, world)
            case Fit():
                _fit(step, choice, world)
            case Start():
                _start(step, choice, world)
            case Ready():
                loaded = -time.monotonic()
                try:
                    standing.wait(step, world, partial(failed.situation, choice, world.facts))
                except EngineDied as error:
                    if choice is not asked:
                        raise
                    choice, steps = smaller.again(choice, steps, error, world)
                    short = error.evidence[0]
                    for unit in step.engines:
                        world.runtime.stop(unit)
                    pending = deque(s for s in steps if isinstance(s, (Start, Open, Ready, Accept, Switch)))
                    continue
                loaded += time.monotonic()
            case Accept():
                measured = _accept(step, choice, world)
            case _:
                standing.do(step, world)
    assert measured is not None
    started, accepted, switched = _one(steps, Start), _one(steps, Accept), _one(steps, Switch)
    model = _model(choice, world)
    record = Record(
        name=choice.name,
        profile=str(choice.profile.path),
        runtime=choice.runtime,
        url=f"{accepted.url}/v1",
        model=choice.alias,
        kind=choice.profile.model.kind,
        model_id=choice.converted or choice.model,
        key_file=str(accepted.key_file) if accepted.key_file else None,
        accepted=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        first_token=round(measured.first_token, 4),
        rate=round(measured.rate, 2),
        generation=switched.new.told["generation"],
        engines=started.launches,
        gateway=_one(steps, Open).gateway,
        told=switched.new.told,
        context=choice.context,
        concurrency=choice.concurrency,
        engine=choice.engine.name,
        size=model.size,
        need=_need(choice, model),
        share=choice.share,
        certificate=str(accepted.certificate) if accepted.certificate else None,
        kept=_kept(before, choice, switched.new.told["generation"]),
    )
    save_record(world.home, record)
    standing.clear(Clear(record.name, (*record.engines, record.gateway), kept_units(world.home, record)), world)
    if (choice.context, choice.concurrency) != (asked.context, asked.concurrency):
        smaller.remember(choice, short, world)
    cards = chosen(choice.gpus, world.facts)
    history.keep(record, choice, world.facts, cards, world.runtime, measured, loaded, world.home)
    world.progress.say(f"up in {format_duration(time.monotonic() - begin)}")
    return record


def _kept(before: Record | None, choice: Choice, number: int) -> int | None:
    """The generation that is there to go back to."""
    if before is None or before.runtime != choice.runtime:
        return None
    return before.kept if before.generation == number else before.generation


def _need(choice: Choice, model: models.Model) -> int | None:
    try:
        found = needed(choice, wanted.described(choice.profile, metadata.describe(model.weights)))
        return found.total if found else None
    except ModelError:
        return None


def _one(steps: Sequence[Step], kind: type[S]) -> S:
    return next(step for step in steps if isinstance(step, kind))


def _done(step: Step, world: World) -> bool:
    """Whether there is nothing to do; waiting, accepting and switching are never skipped."""
    match step:
        case Build():
            return world.runtime.has_image(step.reference)
        case Provision():
            return provision.ready(step.program)
        case Pull():
            return models.Store(world.home).get(step.model) is not None
        case Convert():
            return models.Store(world.home).get(step.converted) is not None
        case _:
            return standing.done(step, world)


def _build(step: Build, world: World) -> None:
    target = images.target(step.image, step.variant, step.base)
    settings = replace(world.build, base=step.base)
    builder.build((target,), settings, home=world.home, web=world.web, progress=world.progress)


def _convert(step: Convert, world: World) -> None:
    origin = models.Store(world.home).get(step.model)
    assert origin is not None
    shop = Workshop(world.home, world.web, world.build, world.runtime, world.progress)
    convert(origin, target("safetensors"), shop, program=step.program)
    world.progress.say(f"what it lost was not measured: deployer models convert {step.model} --to safetensors")


def _fit(step: Fit, choice: Choice, world: World) -> None:
    model = _model(choice, world)
    header = model.header
    if step.context > header.context:
        raise Refused(
            f"the model was trained for {header.context} tokens, the profile asks for {step.context}",
            hint=f"set serving.context to {header.context} or less in {choice.profile.path}",
        )
    kinds.agree(choice.profile, model.weights, header.chat_template)
    try:
        need = needed(choice, wanted.described(choice.profile, metadata.describe(model.weights)))
    except ModelError as error:  # a design that sizing does not know; the engine may
        world.progress.say(f"whether it fits cannot be told: {error.message}")
        return
    available = room(choice.gpus, world.facts)
    if available is not None and need is not None and need.total > available:
        raise Refused(
            f"{need} is needed, {format_size(available)} is available",
            hint="lower serving.context or serving.concurrency, or end other programs; deployer fit says what holds",
        )


def _start(step: Start, choice: Choice, world: World) -> None:
    door.prepare(choice, world.home)
    try:
        standing.do(step, world)
    except LaunchError as error:
        raise failed.unstarted(error, failed.situation(choice, world.facts)) from error


def _accept(step: Accept, choice: Choice, world: World) -> Measured:
    """The acceptance; when it fails, the engine's own first error stands beside what was seen from outside."""
    try:
        size, say = _model(choice, world).size, world.progress.say
        return acceptance.accept(step, _floor(choice, world), size=size, say=say)
    except AcceptanceFailed as error:
        at = failed.situation(choice, world.facts)
        raise failed.unaccepted(error, at, world, (*step.engines, step.unit)) from error


def _model(choice: Choice, world: World) -> models.Model:
    model = models.Store(world.home).get(choice.converted or choice.model)
    assert model is not None
    return model


def _floor(choice: Choice, world: World) -> float | None:
    """The least rate that the memory at hand should give for these weights; None when unknown."""
    model = _model(choice, world)
    if choice.gpus:
        rates = [
            card.bandwidth if isinstance(gpu.name, str) and (card := compat.card(gpu.name)) else None
            for gpu in chosen(choice.gpus, world.facts)
        ]
        known = [rate for rate in rates if rate]  # layers are split: one card works at a time
        return sizing.rate_floor(model.size, min(known), gpu=True) if known else None
    return sizing.rate_floor(model.size, host.bandwidth(), gpu=False)


def describe(steps: Sequence[Step]) -> str:
    """The plan for people: each step with its shell commands."""
    lines = []
    for number, step in enumerate(steps, 1):
        lines.append(f"{number}. {step.title}")
        lines += [f"     {command}" for command in step.commands]
    return "\n".join(lines)


def as_json(choice: Choice, steps: Sequence[Step]) -> str:
    """The plan for programs."""
    value = {
        "profile": choice.profile.name,
        "runtime": choice.runtime,
        "reasons": choice.reasons,
        "steps": [
            {"kind": type(s).__name__.lower(), "title": s.title, "commands": s.commands} for s in steps
        ],
    }
    return json.dumps(value, indent=2, default=os.fspath)
