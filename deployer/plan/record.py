"""What is kept of an accepted deployment, so that the next `up` can compare, and go back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deployer.frozen import dataclass
from deployer.home import Home, read_json, write_json
from deployer.runtimes import Launch


@dataclass(frozen=True)
class Record:
    """Written only after acceptance. Times in seconds, rates in tokens per second, context in tokens."""

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
    launch: Launch
    context: int | None = None
    concurrency: int | None = None
    engine: str | None = None
    certificate: str | None = None


def save_record(home: Home, record: Record) -> None:
    write_json(home.deployment(record.name) / "deployment.json", asdict(record), 0o600)


def load_record(home: Home, name: str) -> Record | None:
    """The record of `name`; None when there is none, or one that this version does not understand."""
    raw = read_json(home.deployment(name) / "deployment.json")
    try:
        return _record(raw) if isinstance(raw, dict) else None
    except (KeyError, TypeError):
        return None


def records(home: Home) -> tuple[Record, ...]:
    """All records of this home, by name."""
    names = (path.parent.name for path in sorted(home.root.glob("deployments/*/deployment.json")))
    return tuple(record for record in (load_record(home, name) for name in names) if record)


def forget(home: Home, name: str) -> None:
    """Removes the record; the key stays, so that clients need not change."""
    (home.deployment(name) / "deployment.json").unlink(missing_ok=True)


def _record(raw: dict[str, Any]) -> Record:
    return Record(**{**raw, "launch": Launch.from_json(raw["launch"])})
