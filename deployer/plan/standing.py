"""What runs of a deployment and what its gateway is told: made so, switched, and put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import host
from deployer.errors import DeployerError, LaunchError
from deployer.plan import acceptance, door, failed
from deployer.plan.door import Side
from deployer.plan.record import Record, forget, kept_units, load_record
from deployer.plan.remedies import Situation
from deployer.plan.steps import REPLICA, Clear, Open, Pause, Ready, Start, Step, Switch
from deployer.quantity import format_duration
from deployer.runtimes import Launch, Runtime, Unit
from deployer.runtimes.base import alias, port_free, within

if TYPE_CHECKING:
    from deployer.plan.apply import World

_TAKEN_S = 30.0  # within which a gateway must have taken what it is told; it looks every second


def running(launch: Launch, runtime: Runtime) -> bool:
    """Whether exactly this runs."""
    unit = runtime.find(launch.unit)
    return unit is not None and unit.state == "running" and unit.fingerprint == launch.fingerprint


def runs(record: Record, runtime: Runtime) -> bool:
    """Whether any engine of `record` runs, so that it may have requests."""
    return any(running(one, runtime) for one in record.engines)


def stands(record: Record, runtime: Runtime) -> bool:
    """Whether all of `record` runs, as it was accepted."""
    return all(running(one, runtime) for one in (*record.engines, record.gateway))


def others(step: Clear, world: World) -> Iterator[tuple[Runtime, Unit]]:
    """What is there under this name, on either runtime, and is not to stay."""
    record = load_record(world.home, step.unit)
    for name in {world.runtime.name, record.runtime if record else world.runtime.name}:
        runtime = world.runtime if name == world.runtime.name else world.other(name)
        for unit in runtime.units():
            stays = unit.name in step.kept or any(
                (one.unit, one.fingerprint) == (unit.name, unit.fingerprint) for one in step.stays
            )
            if within(step.unit, unit.name) and not (stays and name == world.runtime.name):
                yield runtime, unit


def clear(step: Clear, world: World) -> None:
    for runtime, unit in list(others(step, world)):
        runtime.stop(unit.name, below=False)


def done(step: Step, world: World) -> bool:
    """Whether there is nothing to do."""
    match step:
        case Clear():
            return not any(others(step, world))
        case Pause():
            return not any(world.runtime.members(one.unit) for one in step.old.engines)
        case Start():
            return all(running(one, world.runtime) for one in step.launches)
        case _:
            return False


def do(step: Step, world: World) -> None:
    """A step that is the same for every generation, whether it is new or was accepted before."""
    match step:
        case Clear():
            clear(step, world)
        case Pause():
            _pause(step, world)
        case Start():
            _start(step, world)
        case Open():
            sides = [step.old, step.new] if step.old else [step.new]
            door.tell(step.gateway.unit, sides, home=world.home, runtime=world.runtime)
            _stand(step.gateway, world)
        case Switch():
            _switch(step, world)
        case _:
            raise TypeError(f"{type(step).__name__} needs more than the world")


def _switch(step: Switch, world: World) -> None:
    """The new engines get all requests; the old ones are stopped, and kept, when they have ended what they began."""
    sides = [step.new]
    if step.old and _up(step.old, world):
        sides.append(Side(step.old.told, step.old.engines, "draining"))
    door.tell(step.name, sides, home=world.home, runtime=world.runtime)
    new = {alias(one.unit) for one in step.new.engines}
    _wait(step, lambda told: all(told.get(one, {}).get("state") == "active" for one in new), _TAKEN_S)
    if step.old and len(sides) > 1:
        _drained(step, step.old, step.drain, world)
        door.tell(step.name, [step.new], home=world.home, runtime=world.runtime)
    for launch in step.old.engines if step.old else ():
        world.runtime.stop(launch.unit, keep=True)


def settle(record: Record, world: World, at: Callable[[], Situation]) -> None:
    """Makes exactly `record` run and answer: its engines, its gateway before them, nothing else but what is kept."""
    clear(Clear(record.name, (*record.engines, record.gateway), kept_units(world.home, record)), world)
    there = tuple(one for one in record.engines if running(one, world.runtime))
    loads = tuple(one for one in record.engines if one not in there)
    _start(Start(loads, ()), world)
    sides = [Side(record.told, there), Side(record.told, loads, "candidate")]  # where none is there, requests wait
    door.tell(record.name, sides, home=world.home, runtime=world.runtime)
    _stand(record.gateway, world)
    certificate = Path(record.certificate) if record.certificate else None
    engines = tuple(one.unit for one in record.engines)
    wait(Ready(record.name, record.url.removesuffix("/v1"), engines, certificate), world, at)
    door.tell(record.name, [Side(record.told, record.engines)], home=world.home, runtime=world.runtime)
    deadline = time.monotonic() + _TAKEN_S
    while not acceptance.healthy(record.url, record.certificate) and time.monotonic() < deadline:
        time.sleep(0.05)


def go_back(record: Record | None, name: str, world: World, at: Callable[[], Situation]) -> None:
    """After a failure: what ran before runs again, as `record`, or nothing does. Never raises."""
    try:
        if record is None:
            world.runtime.stop(name)
            return
        if record.runtime != world.runtime.name:
            world.runtime.stop(name)
            world = replace(world, runtime=world.other(record.runtime))
        goes_on = stands(record, world.runtime)
        world.progress.say(f"{'' if goes_on else 'going back to '}generation {record.generation}{' goes on' * goes_on}")
        settle(record, world, at)
    except DeployerError as error:
        world.progress.say(f"what ran before does not start again: {error.message}")
        if record is not None:
            forget(world.home, name)


def wait(step: Ready, world: World, at: Callable[[], Situation]) -> None:
    """Waits as long as the engines make progress: log, memory or bytes read change."""
    import httpx

    begin = moved = looked = time.monotonic()
    pulse = None
    trusted = acceptance.trust(step.certificate)
    with httpx.Client(timeout=httpx.Timeout(5.0), trust_env=False, verify=trusted) as client:
        while True:
            try:
                names = [{REPLICA: alias(unit)} for unit in step.engines]
                if all(client.get(f"{step.url}/health", headers=one).status_code == 200 for one in names):
                    return
            except httpx.HTTPError:
                pass  # it does not listen yet
            now = time.monotonic()
            if now - looked > 0.5:
                looked = now
                for name in (*step.engines, step.unit):
                    unit = world.runtime.find(name)
                    if unit is None or unit.state != "running":
                        raise failed.died(at(), world, (*step.engines, step.unit), unit.exit if unit else None)
                seen = tuple(world.runtime.pulse(unit) for unit in step.engines)
                if seen != pulse:
                    pulse, moved = seen, now
                world.progress.amount("loading", int(now - begin), None, "s")
                if now - moved > world.stall:
                    raise failed.stuck(at(), world, (*step.engines, step.unit))
            time.sleep(0.02 if now - begin < 5 else 0.2)


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


def _pause(step: Pause, world: World) -> None:
    """The old engines end what they have begun, and are stopped and kept; new requests wait in the gateway."""
    door.tell(step.name, [Side(step.old.told, step.old.engines, "draining")], home=world.home, runtime=world.runtime)
    _drained(step, step.old, step.drain, world)
    for launch in step.old.engines:
        world.runtime.stop(launch.unit, keep=True)


def _start(step: Start, world: World) -> None:
    for launch in step.launches:
        if not running(launch, world.runtime):
            world.runtime.start(launch)


def _stand(gateway: Launch, world: World) -> None:
    if running(gateway, world.runtime):
        return
    if world.runtime.find(gateway.unit):
        world.runtime.stop(gateway.unit, below=False)
    assert gateway.port is not None
    await_port(gateway.port)
    world.runtime.start(gateway)


def _up(side: Side, world: World) -> bool:
    return all(running(one, world.runtime) for one in side.engines)


def _drained(step: Switch | Pause, side: Side, limit: float, world: World) -> None:
    """Waits until the engines of `side` get no new requests and have ended those that they had."""
    names = {alias(one.unit) for one in side.engines}

    def done(told: dict[str, Any]) -> bool:
        mine = [told[one] for one in names if one in told]
        return not any(one["state"] == "active" or one["running"] for one in mine)

    gateway = world.runtime.find(step.name)
    if gateway is None or gateway.state != "running":
        return  # nobody asks
    if not _wait(step, done, limit):
        world.progress.say(f"after {format_duration(limit)} they had not: what runs on them is broken off")


def _wait(step: Switch | Pause, good: Callable[[dict[str, Any]], bool], limit: float) -> bool:
    """Whether what the gateway says of its replicas, by name, becomes `good` within `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        told = replicas(step.url, step.key_file, step.certificate)
        if told is not None and good(told):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def replicas(url: str, key_file: Path | None, certificate: Path | None) -> dict[str, Any] | None:
    """What the gateway at `url` says of each replica, by its name: `state`, `ready`, `running`; None without answer."""
    import httpx

    headers = {"Authorization": f"Bearer {key_file.read_text().strip()}"} if key_file else {}
    try:
        with httpx.Client(trust_env=False, verify=acceptance.trust(certificate), timeout=10) as client:
            answer = client.get(f"{url}/v1/status", headers=headers)
            answer.raise_for_status()
            return {one["name"]: one for model in answer.json()["models"] for one in model["replicas"]}
    except (httpx.HTTPError, ValueError, KeyError):
        return None
