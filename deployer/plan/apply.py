"""Does the steps, and undoes what it did when one fails or the person interrupts."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from deployer import compat, host, images, models, sizing
from deployer.engines import Engine
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
from deployer.plan import acceptance, door, failed, history, kinds, smaller
from deployer.plan.acceptance import Measured
from deployer.plan.conversion import Workshop, convert
from deployer.plan.record import Record, forget, load_record, save_record
from deployer.plan.remedies import Situation
from deployer.plan.resolve import Choice
from deployer.plan.steps import Accept, Build, Convert, Fit, Provision, Pull, Ready, Replace, Start, Step
from deployer.progress import Progress
from deployer.quantity import format_duration, format_size
from deployer.runtimes import Runtime, Unit, provision
from deployer.runtimes.base import port_free
from deployer.sizing import wanted
from deployer.sizing.memory import Use, memory

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
    wanted = next(step.launch.fingerprint for step in steps if isinstance(step, Start))
    unit = world.runtime.find(choice.name)
    if unit is None or unit.state != "running" or not unit.fingerprint == wanted == record.launch.fingerprint:
        return None
    return record if acceptance.healthy(record.url, record.certificate) else None


def apply(choice: Choice, steps: Sequence[Step], world: World) -> Record:
    """Does every step that is not done yet and returns the record of the accepted deployment.

    On any error, and on KeyboardInterrupt, what this call started is stopped, and what it replaced is
    started again; downloads and builds stay, so that the next call goes on from there.
    """
    measured: Measured | None = None
    loaded = 0.0
    begin = time.monotonic()
    asked, short = choice, ""
    with contextlib.ExitStack() as undo:
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
                case Replace():
                    _replace(step, world, undo)
                case Start():
                    _start(step, choice, world, undo)
                case Ready():
                    loaded = -time.monotonic()
                    try:
                        wait(step, choice.engine, world, partial(failed.situation, choice, world.facts))
                    except EngineDied as error:
                        if choice is not asked:
                            raise
                        choice, steps = smaller.again(choice, steps, error, world)
                        short = error.evidence[0]
                        world.runtime.stop(step.unit)
                        pending = deque(s for s in steps if isinstance(s, (Start, Ready, Accept)))
                        continue
                    loaded += time.monotonic()
                case Accept():
                    measured = _accept(step, choice, world)
        assert measured is not None
        undo.pop_all()
    started = next(step.launch for step in steps if isinstance(step, Start))
    accepted = next(step for step in steps if isinstance(step, Accept))
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
        launch=started,
        context=choice.context,
        concurrency=choice.concurrency,
        engine=choice.engine.name,
        certificate=str(accepted.certificate) if accepted.certificate else None,
    )
    save_record(world.home, record)
    if (choice.context, choice.concurrency) != (asked.context, asked.concurrency):
        smaller.remember(choice, short, world)
    history.keep(record, choice, world.facts, _chosen(choice, world.facts), world.runtime, measured, loaded, world.home)
    world.progress.say(f"up in {format_duration(time.monotonic() - begin)}")
    return record


def _done(step: Step, world: World) -> bool:
    """Whether there is nothing to do; starting, waiting and accepting are never skipped."""
    match step:
        case Build():
            return world.runtime.has_image(step.reference)
        case Provision():
            return provision.ready(step.program)
        case Pull():
            return models.Store(world.home).get(step.model) is not None
        case Convert():
            return models.Store(world.home).get(step.converted) is not None
        case Replace():
            return not any(_others(step, world))
        case _:
            return False


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
    model = models.Store(world.home).get(choice.converted or choice.model)
    assert model is not None
    header = model.header
    if step.context > header.context:
        raise Refused(
            f"the model was trained for {header.context} tokens, the profile asks for {step.context}",
            hint=f"set serving.context to {header.context} or less in {choice.profile.path}",
        )
    kinds.agree(choice.profile, model.weights, header.chat_template)
    try:
        described = wanted.described(choice.profile, metadata.describe(model.weights))
        assert described is not None, "it was converted to what the engine loads"
    except ModelError as error:  # a design that sizing does not know; the engine may
        world.progress.say(f"whether it fits cannot be told: {error.message}")
        return
    need = memory(described, step.engine, Use(step.context, step.concurrency, len(choice.gpus), step.number))
    available = _memory_for(choice, world.facts)
    if available is not None and need.total > available:
        raise Refused(
            f"{need} is needed, {format_size(available)} is available",
            hint="lower serving.context or serving.concurrency, or end other programs; deployer fit says what holds",
        )


def _memory_for(choice: Choice, facts: host.Host) -> int | None:
    """Bytes that the engine can have: on the fullest of the chosen GPUs, else in the system."""
    if not choice.gpus:
        return None if isinstance(facts.memory, host.Unknown) else facts.memory.available
    taken = _chosen(choice, facts)
    free = [g.free_vram for g in taken if isinstance(g.free_vram, int)]
    return min(free) if free and len(free) == len(taken) else None


def _chosen(choice: Choice, facts: host.Host) -> list[host.Gpu]:
    if isinstance(facts.gpus, host.Unknown):
        return []
    return [g for g in facts.gpus if g.uuid in choice.gpus or str(g.index) in choice.gpus]


def _others(step: Replace, world: World) -> Iterator[tuple[Runtime, Unit]]:
    """What is there under this name on either runtime, but for what is wanted and runs.

    That one is there when an earlier `up` was killed after it had started it.
    """
    record = load_record(world.home, step.unit)
    for name in {world.runtime.name, record.runtime if record else world.runtime.name}:
        runtime = world.runtime if name == world.runtime.name else world.other(name)
        unit = runtime.find(step.unit)
        here = name == world.runtime.name and unit is not None and unit.state == "running"
        if unit is not None and not (here and unit.fingerprint == step.wanted):
            yield runtime, unit


def _replace(step: Replace, world: World, undo: contextlib.ExitStack) -> None:
    record = load_record(world.home, step.unit)
    for runtime, unit in _others(step, world):
        runtime.stop(step.unit)
        if record and record.runtime == runtime.name and record.launch.fingerprint == unit.fingerprint:
            undo.callback(_bring_back, record, runtime, world)


def _bring_back(record: Record, runtime: Runtime, world: World) -> None:
    world.progress.say(f"bringing back what ran before as {record.name}")
    try:
        runtime.start(record.launch)
    except DeployerError as error:
        world.progress.say(f"what ran before does not start again: {error.message}")
        forget(world.home, record.name)


def _start(step: Start, choice: Choice, world: World, undo: contextlib.ExitStack) -> None:
    unit = world.runtime.find(step.launch.unit)
    if unit and unit.state == "running":
        undo.callback(world.runtime.stop, step.launch.unit)
        return
    door.prepare(choice, world.home)
    await_port(step.launch.port)
    undo.callback(world.runtime.stop, step.launch.unit)
    try:
        world.runtime.start(step.launch)
    except LaunchError as error:
        raise failed.unstarted(error, failed.situation(choice, world.facts)) from error


def await_port(port: int) -> None:
    """Waits a moment until 127.0.0.1:`port` is free. Raises LaunchError with who holds it."""
    deadline = time.monotonic() + 5  # what was just stopped may hold it for a moment
    while not port_free(port):
        if time.monotonic() > deadline:
            owner = host.port_owner(port) or "a process of another user (sudo ss -ltnp shows it)"
            raise LaunchError(
                f"port {port} is held by {owner}", hint=f"end it, or choose another port: --port {port + 1}"
            )
        time.sleep(0.1)


def wait(step: Ready, engine: Engine, world: World, at: Callable[[], Situation]) -> None:
    """Waits as long as the unit makes progress: log, memory or bytes read change."""
    import httpx

    begin = moved = looked = time.monotonic()
    pulse = None
    trusted = acceptance.trust(step.certificate)
    with httpx.Client(timeout=httpx.Timeout(5.0), trust_env=False, verify=trusted) as client:
        while True:
            try:
                if client.get(f"{step.url}{engine.health}").status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # it does not listen yet
            now = time.monotonic()
            if now - looked > 0.5:
                looked = now
                unit = world.runtime.find(step.unit)
                if unit is None or unit.state != "running":
                    raise failed.died(at(), world, unit.exit if unit else None)
                seen = world.runtime.pulse(step.unit)
                if seen != pulse:
                    pulse, moved = seen, now
                world.progress.amount("loading", int(now - begin), None, "s")
                if now - moved > world.stall:
                    raise failed.stuck(at(), world)
            time.sleep(0.02 if now - begin < 5 else 0.2)


def _accept(step: Accept, choice: Choice, world: World) -> Measured:
    """The acceptance; when it fails, the engine's own first error stands beside what was seen from outside."""
    try:
        return acceptance.accept(step, _floor(choice, world), world.progress.say)
    except AcceptanceFailed as error:
        raise failed.unaccepted(error, failed.situation(choice, world.facts), world) from error


def _floor(choice: Choice, world: World) -> float | None:
    """The least rate that the memory at hand should give for these weights; None when unknown."""
    model = models.Store(world.home).get(choice.converted or choice.model)
    assert model is not None
    if choice.gpus:
        rates = [
            card.bandwidth if isinstance(gpu.name, str) and (card := compat.card(gpu.name)) else None
            for gpu in _chosen(choice, world.facts)
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
