"""What the gateway is told: two JSON files in a folder, read again when they change.

`gateway.json` says which models there are and what is allowed; `keys.json` who may ask. Each is written aside and
renamed, so that a half of one is never read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACTIVE, CANDIDATE, DRAINING = STATES = ("active", "candidate", "draining")


class ConfigError(Exception):
    """A file that cannot be used, with its place."""


@dataclass(frozen=True)
class Replica:
    """One engine. `model` is what it calls the model, `slots` how many requests it works on at once.

    A `candidate` gets what is asked of it by name, a `draining` one ends what it has begun.
    """

    name: str
    url: str
    model: str
    slots: int = 1
    key: str | None = None
    state: str = ACTIVE


@dataclass(frozen=True)
class Model:
    """One model by the name that clients use; `paths` are those of the API that its engine has.

    `context` is what prompt and answer may have together, `prompt` what a prompt may have, both in tokens; `overflow`
    what happens to a longer one.
    """

    id: str
    engine: str
    context: int | None
    paths: tuple[str, ...]
    replicas: tuple[Replica, ...]
    prompt: int | None = None
    overflow: str = "refuse"


@dataclass(frozen=True)
class Key:
    """One key: `hash` is the SHA-256 of the key, in hex. None means no limit; rates are for each minute."""

    name: str
    hash: str
    created: str = ""
    requests: int | None = None
    tokens: int | None = None
    streams: int | None = None
    models: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Safety:
    """What requests and answers are checked by: (name, regular expression), or what answers at `url`.

    `kind` is `moderation` (OpenAI's endpoint) or `model` (a chat model that says `safe` or `unsafe`). `window` in
    characters; `otherwise` is what happens while nothing answers at `url`: `refuse` or `pass`.
    """

    patterns: tuple[tuple[str, str], ...] = ()
    url: str | None = None
    kind: str = "moderation"
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    before: bool = True
    after: bool = True
    window: int = 160
    otherwise: str = "refuse"


@dataclass(frozen=True)
class Remote:
    """An OpenAI-compatible service elsewhere, and when it is asked: `full`, `too-long`, `named` (as model `name`)."""

    url: str
    model: str
    when: tuple[str, ...]
    name: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2].partition("/")[0]


@dataclass(frozen=True)
class Config:
    """`body` in bytes, `queue` in requests that wait for a slot, `wait` in seconds that each of them may."""

    deployment: str
    generation: int
    models: tuple[Model, ...]
    open: bool = False
    body: int = 8 << 20
    queue: int = 64
    wait: float = 120.0
    cors: tuple[str, ...] = ()
    log_prompts: bool = False
    version: str = ""
    certificate: str | None = None  # its hash, so that `up` knows which one it serves
    safety: Safety | None = None
    remote: Remote | None = None
    keys: tuple[Key, ...] = field(default=(), repr=False)

    def model(self, name: object) -> Model | None:
        return next((model for model in self.models if model.id == name), None)


def load(folder: Path) -> Config:
    """The configuration in `folder`. Raises ConfigError."""
    raw = _read(folder / "gateway.json")
    keys = folder / "keys.json"
    try:
        found = tuple(_key(one) for one in _read(keys)["keys"]) if keys.exists() else ()
        models = tuple(_model(one) for one in raw.pop("models"))
        cors = tuple(raw.pop("cors", ()))
        safety, remote = _safety(raw.pop("safety", None)), _remote(raw.pop("remote", None))
        if remote and remote.name and "named" in remote.when:
            paths = ("/v1/chat/completions", "/v1/completions")
            models += (Model(remote.name, "remote", None, paths, ()),)
        return Config(models=models, keys=found, cors=cors, safety=safety, remote=remote, **raw)
    except (AttributeError, KeyError, OSError, TypeError, ValueError, re.error) as error:
        raise ConfigError(f"{folder}: {type(error).__name__}: {error}") from error


def _model(raw: dict[str, Any]) -> Model:
    replicas = tuple(Replica(**{**one, "key": _secret(one)}) for one in raw["replicas"])
    if strange := {replica.state for replica in replicas} - set(STATES):
        raise ValueError(f"no state of a replica: {strange}")
    return Model(**{**raw, "paths": tuple(raw["paths"]), "replicas": replicas})


def _safety(raw: dict[str, Any] | None) -> Safety | None:
    if raw is None:
        return None
    patterns = tuple((name, pattern) for name, pattern in raw.get("patterns", {}).items())
    for _, pattern in patterns:
        re.compile(pattern)
    return Safety(**{**raw, "patterns": patterns, "key": _secret(raw)})


def _remote(raw: dict[str, Any] | None) -> Remote | None:
    return None if raw is None else Remote(**{**raw, "when": tuple(raw["when"]), "key": _secret(raw)})


def _secret(raw: dict[str, Any]) -> str | None:
    return Path(raw["key"]).read_text().strip() if raw.get("key") else None


def _key(raw: dict[str, Any]) -> Key:
    return Key(**{**raw, "models": tuple(raw["models"]) if raw.get("models") is not None else None})


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value


def stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """A value that changes when one of the files does."""
    found = []
    for name in ("gateway.json", "keys.json", "certificate.pem"):
        try:
            about = (folder / name).stat()
            found.append((about.st_mtime_ns, about.st_ino))
        except OSError:
            found.append((0, 0))
    return tuple(found)
