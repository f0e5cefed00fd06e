"""What is kept of an accepted deployment, so that the next `up` can compare, and go back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployer.frozen import dataclass
from deployer.home import Home, read_json, write_json
from deployer.runtimes import Launch

_GENERATION, _REFUSED = "record.json", "refused.json"


@dataclass(frozen=True)
class Record:
    """A generation of a deployment, written only after acceptance: its engines and the gateway in front of them.

    Times in seconds, rates in tokens per second, context in tokens; `size` of the weights and what the engine `need`s
    in bytes, `share` the part of a GPU's memory that it may take. `told` is what the gateway is told; `kept` is the
    generation that ran before and is kept, stopped.
    """

    name: str
    profile: str
    runtime: str
    url: str
    model: str
    kind: str
    model_id: str
    key_file: str | None
    accepted: str
    first_token: float
    rate: float
    generation: int
    engines: tuple[Launch, ...]
    gateway: Launch
    told: Mapping[str, Any]
    context: int
    concurrency: int
    engine: str
    size: int
    need: int | None = None
    share: float = 0.0
    certificate: str | None = None
    kept: int | None = None

    @property
    def units(self) -> tuple[str, ...]:
        """The engines', then the gateway's."""
        return (*(one.unit for one in self.engines), self.gateway.unit)

    @property
    def fingerprint(self) -> str:
        """The same for every generation that would run the same and answer the same."""
        parts = (*(one.fingerprint for one in self.engines), self.gateway.fingerprint, json.dumps(limits(self.told)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def limits(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a gateway is told, without what says only who tells it."""
    return {key: value for key, value in sorted(told.items()) if key not in ("generation", "version")}


def save_record(home: Home, record: Record) -> None:
    """Makes `record` the deployment's own; it stays among its generations when another takes its place."""
    folder = home.deployment(record.name)
    write_json(folder / f"g{record.generation}" / _GENERATION, asdict(record), 0o600)
    write_json(folder / "deployment.json", asdict(record), 0o600)


def generation(home: Home, name: str, number: int) -> Record | None:
    """The record of an accepted generation; None when there is none, or this version does not understand it."""
    return _read(home.deployment(name) / f"g{number}" / _GENERATION)


def generations(home: Home, name: str) -> tuple[int, ...]:
    """The numbers of all generations that were tried under this name, accepted or not, oldest first."""
    noted = (path for file in (_GENERATION, _REFUSED) for path in home.deployment(name).glob(f"g*/{file}"))
    found = {path.parent.name[1:] for path in noted}
    return tuple(sorted(int(number) for number in found if number.isdigit()))


def kept_units(home: Home, record: Record) -> tuple[str, ...]:
    """The engines of the generation that is kept, stopped."""
    kept = generation(home, record.name, record.kept) if record.kept else None
    return tuple(one.unit for one in kept.engines) if kept else ()


def refuse(home: Home, name: str, number: int, why: str) -> None:
    """Notes that a generation was not accepted, and why."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(home.deployment(name) / f"g{number}" / _REFUSED, {"at": at, "why": why}, 0o600)


def refused(home: Home, name: str, number: int) -> tuple[str, str] | None:
    """When and why that generation was not accepted; None when it was, or nobody noted it."""
    raw = read_json(home.deployment(name) / f"g{number}" / _REFUSED)
    return (str(raw["at"]), str(raw["why"])) if isinstance(raw, dict) and {"at", "why"} <= set(raw) else None


def load_record(home: Home, name: str) -> Record | None:
    """The record of `name`; None when there is none, or one that this version does not understand."""
    return _read(home.deployment(name) / "deployment.json")


def records(home: Home) -> tuple[Record, ...]:
    """All records of this home, by name."""
    names = (path.parent.name for path in sorted(home.root.glob("deployments/*/deployment.json")))
    return tuple(record for record in (load_record(home, name) for name in names) if record)


def forget(home: Home, name: str) -> None:
    """Removes the record; the key stays, so that clients need not change."""
    (home.deployment(name) / "deployment.json").unlink(missing_ok=True)


def _read(path: Path) -> Record | None:
    raw = read_json(path)
    if not isinstance(raw, dict):
        return None
    try:
        engines = tuple(Launch.from_json(one) for one in raw["engines"])
        return Record(**{**raw, "engines": engines, "gateway": Launch.from_json(raw["gateway"])})
    except (KeyError, TypeError):
        return None
