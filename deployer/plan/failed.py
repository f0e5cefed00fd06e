"""What is said of a deployment that did not come up: the cause and the act on this host, and where the whole log is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import resources
from deployer.errors import AcceptanceFailed, EngineDied, EngineStuck, LaunchError
from deployer.frozen import dataclass
from deployer.home import Home, read_json, write_json, write_whole
from deployer.host import Host
from deployer.plan.explain import explain, shown
from deployer.plan.record import Record
from deployer.plan.remedies import Situation
from deployer.plan.resolve import Choice
from deployer.plan.testimony import first_error
from deployer.profile import Profile
from deployer.quantity import format_duration
from deployer.runtimes import Runtime
from deployer.runtimes.base import alias

if TYPE_CHECKING:
    from deployer.plan.apply import World

_UNKNOWN = "this is in no list of known causes; what the engine said before it is in its log"
_LAST = 3  # lines
_READ = 5000  # lines; eight workers that fail leave more than a thousand
_TRIED = ("engine", "name", "runtime", "program", "model", "context", "concurrency", "port")


def situation(choice: Choice, facts: Host) -> Situation:
    """Where it failed, for the texts of the catalogue."""
    return Situation(
        host=facts,
        profile=choice.profile,
        engine=choice.engine.name,
        name=choice.name,
        runtime=choice.runtime,
        program=choice.program,
        model=choice.converted or choice.model,
        context=choice.context,
        concurrency=choice.concurrency,
        port=choice.port,
        shipped=choice.profile.path.parent == resources.folder("profiles"),
    )


def died(at: Situation, world: World, units: Sequence[str], how: str | None) -> EngineDied:
    """One of `units` ended; `how` is what the runtime says of that."""
    log, saved = _saved(at, world, units)
    seen = [*log, *([how] if how and how.startswith("Exited") else [])]
    message = "the engine ended while it was loading"
    known = explain(seen, at)
    if known:
        return EngineDied(f"{message}: {known.cause}", hint=known.fix, evidence=[known.line], log=saved)
    first = first_error(log)
    lines = [*([first] if first else []), *(line for line in log[-_LAST:] if line.strip() != first)]
    return EngineDied(
        f"{message} ({how})" if how else message, hint=_UNKNOWN, evidence=[shown(line) for line in lines], log=saved
    )


def stuck(at: Situation, world: World, units: Sequence[str]) -> EngineStuck:
    """The engine lives and does nothing more."""
    log, saved = _saved(at, world, units)
    known = explain(log, at)
    message = f"the engine made no progress for {format_duration(world.stall)}"
    if known and known.sure:
        return EngineStuck(f"{message}: {known.cause}", hint=known.fix, evidence=[known.line], log=saved)
    return EngineStuck(message, hint=_UNKNOWN, evidence=[shown(line) for line in log[-2 * _LAST :]], log=saved)


def unaccepted(error: AcceptanceFailed, at: Situation, world: World, units: Sequence[str]) -> AcceptanceFailed:
    """It answers, and wrongly: what was seen from outside, with what the engine itself said."""
    log, saved = _saved(at, world, units)
    known = explain(log, at)
    if known and known.sure:
        evidence = [*error.evidence, known.line]
        return AcceptanceFailed(f"{error.message}: {known.cause}", hint=known.fix, evidence=evidence, log=saved)
    first = first_error(log)
    evidence = [*error.evidence, *([shown(first)] if first else [])]
    return AcceptanceFailed(error.message, hint=error.hint, evidence=evidence, log=saved)


def unstarted(error: LaunchError, at: Situation) -> LaunchError:
    """The runtime refused to start it; unchanged where the cause is not known."""
    known = explain([error.message], at)
    if known is None or error.hint:
        return error
    return LaunchError(f"{at.name} could not be started: {known.cause}", hint=known.fix, evidence=[known.line])


def lines_of(units: Sequence[str], runtime: Runtime, *, lines: int | None = None) -> Iterator[str]:
    """What units of a deployment said, one after the other, with who said it: `engine`, `engine g2-1`, `gateway`."""
    several = len(units) > 2
    for unit in units:
        who = f"engine {alias(unit)}" if alias(unit) and several else "engine" if alias(unit) else "gateway"
        yield from (f"{who} | {line}" for line in runtime.logs(unit, lines=lines))


def _saved(at: Situation, world: World, units: Sequence[str]) -> tuple[list[str], Path]:
    """The units' log, and where it was saved with what was tried: the units themselves will be gone."""
    log = list(lines_of(units, world.runtime, lines=_READ))
    folder = world.home.deployment(at.name)
    tried = {field: getattr(at, field) for field in _TRIED}
    write_json(folder / "failed.json", {**tried, "profile": str(at.profile.path)}, 0o600)
    write_whole(folder / "failed.log", "\n".join([*log, ""]).encode(), 0o600)
    return log, folder / "failed.log"


@dataclass(frozen=True)
class Attempt:
    """A start that failed: its log, and what was tried, with the profile's path."""

    log: Path
    profile: Path
    tried: dict[str, Any]

    def at(self, facts: Host, profile: Profile) -> Situation:
        shipped = profile.path.parent == resources.folder("profiles")
        return Situation(host=facts, profile=profile, shipped=shipped, **self.tried)


def last(home: Home, name: str) -> Attempt | None:
    """The last start under this name that failed; None where there was none, or its log is gone."""
    folder = home.deployment(name)
    raw = read_json(folder / "failed.json")
    if not isinstance(raw, dict) or not {"profile", *_TRIED} <= set(raw) or not (folder / "failed.log").exists():
        return None
    return Attempt(folder / "failed.log", Path(raw["profile"]), {field: raw[field] for field in _TRIED})


def of_record(record: Record, facts: Host, profile: Profile) -> Situation:
    """Where a deployment is that had been accepted, and failed later."""
    part = record.engines[0].parts[0]
    return Situation(
        host=facts,
        profile=profile,
        engine=profile.engine,
        name=record.name,
        runtime=record.runtime,
        program=part.image or part.arguments[0],
        model=record.model_id,
        context=record.context or 0,
        concurrency=record.concurrency or 1,
        port=record.gateway.port or 0,
        shipped=profile.path.parent == resources.folder("profiles"),
    )
