"""What each `up` measured, beside what sizing had said of it: kept in the home, one line for each, newest last."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace

from deployer import host, models
from deployer.description import Description
from deployer.errors import ModelError
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.models import metadata
from deployer.plan.acceptance import Measured
from deployer.plan.record import Record
from deployer.plan.resolve import Choice
from deployer.runtimes import Runtime
from deployer.sizing import devices, speed, wanted
from deployer.sizing.devices import Device

_FILE = "history.jsonl"
_PROMPT = 40  # tokens, about, of the question that the acceptance asks


@dataclass(frozen=True)
class Measurement:
    """One `up`. Rates in tokens per second of one user, `load` in seconds from the start, memory in bytes.

    What was expected is None where sizing does not know the model, the engine on such memory, or the bandwidth.
    `memory` is what the engine's processes hold after the first answer, without a GPU's: a cache that no request has
    filled yet, and memory of earlier prompts, are not in it.
    """

    at: str
    deployment: str
    model: str
    engine: str
    runtime: str
    device: str
    context: int
    users: int
    rate: float
    first_token: float
    load: float
    memory: int | None
    expected_rate: float | None = None
    expected_load: float | None = None
    expected_memory: int | None = None


def keep(
    record: Record, choice: Choice, facts: host.Host, cards: Sequence[host.Gpu], runtime: Runtime, found: Measured,
    loaded: float, home: Home,
) -> None:  # fmt: skip
    """Adds to `home` the acceptance of a deployment that has just come up, on `cards` or the processor."""
    if choice.gpus:
        device, held = devices.of_gpus(cards, facts), None
    else:
        device, held = devices.of_cpu(facts, host.bandwidth(devices.cores(facts))), _resident(record, runtime)
    model = models.Store(home).get(record.model_id)
    try:
        described = metadata.describe(model.weights) if model else None
    except ModelError:  # a design that sizing does not know
        described = None
    add(home, measured(record, choice, device, found, loaded=loaded, memory=held, model=described))


def _resident(record: Record, runtime: Runtime) -> int | None:
    """Bytes that all engines of it hold; None when one cannot tell."""
    held = [runtime.resident(one.unit) for one in record.engines]
    return sum(one or 0 for one in held) if all(held) else None


def measured(
    record: Record, choice: Choice, device: Device | None, found: Measured, *, loaded: float, memory: int | None,
    model: Description | None,
) -> Measurement:  # fmt: skip
    """What was measured, with what sizing says of the model on `device`."""
    one = Measurement(
        at=record.accepted,
        deployment=record.name,
        model=record.model_id,
        engine=choice.engine.name,
        runtime=record.runtime,
        device=device.label if device else "?",
        context=choice.context,
        users=choice.concurrency,
        rate=record.rate,
        first_token=record.first_token,
        load=round(loaded, 2),
        memory=memory,
    )
    if model is None:
        return one
    gpus, number = wanted.each(choice.profile), wanted.number(choice.profile)
    expected = wanted.served(model, choice.profile, choice.context, choice.concurrency)
    one = replace(one, expected_memory=expected.total)
    if device is None or not device.speed:
        return one
    try:
        told = speed.speed(
            model, choice.engine.name, bandwidth=device.speed, memory=device.type, context=_PROMPT + found.tokens,
            gpus=max(1, gpus), number=number,
        )  # fmt: skip
    except KeyError:
        return one  # nobody measured that engine on such memory
    rate = None if choice.profile.model.kind == "embedding" else round(told.one, 2)  # it writes no tokens
    return replace(one, expected_rate=rate, expected_load=round(told.load, 2))


def add(home: Home, one: Measurement) -> None:
    """Appends it, in one write."""
    home.root.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(one)) + "\n"
    file = os.open(home.root / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(home: Home) -> tuple[Measurement, ...]:
    """All of them, oldest first; lines that this version does not understand are left out."""
    try:
        lines = (home.root / _FILE).read_text().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(Measurement(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return tuple(found)
