"""The API keys of a deployment: the gateway has their hashes, and whoever made one has it alone."""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path
from typing import Any

from deployer.errors import QuestionError
from deployer.home import Home, read_json, write_whole

OWNER = "owner"  # of the deployment: the one key that is kept as it is, in a file that its user alone can read


def ensure_key(path: Path) -> str:
    """The API key in `path`; one of 256 random bits is made, readable by this user alone, unless there is one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{_new()}\n".encode(), 0o600)
    return path.read_text().strip()


def ensure_owner(home: Home, name: str) -> None:
    """Lets the gateway of deployment `name` know the owner's key."""
    digest = _hash(ensure_key(home.deployment(name) / "key"))
    others = [key for key in listed(home, name) if key["name"] != OWNER]
    known = next((key for key in listed(home, name) if key["name"] == OWNER), None)
    if known is None or known["hash"] != digest:
        _write(home, name, [{"name": OWNER, "hash": digest, "created": _now()}, *others])


def listed(home: Home, name: str) -> list[dict[str, Any]]:
    """The keys as the gateway knows them: name, hash, created, and their limits."""
    raw = read_json(home.gateway(name) / "keys.json")
    return list(raw["keys"]) if isinstance(raw, dict) and isinstance(raw.get("keys"), list) else []


def used(home: Home, name: str) -> dict[str, float]:
    """When each key was used last, in seconds since 1970, as the gateway wrote it within the last seconds."""
    raw = read_json(home.gateway(name) / "state" / "used.json")
    return raw if isinstance(raw, dict) else {}


def add(home: Home, name: str, label: str, limits: dict[str, Any]) -> str:
    """A new key of deployment `name`; the gateway takes it within a second. It is told this once.

    `limits` are `requests` and `tokens` for each minute, `streams` at once, and `models` by name.
    """
    found = listed(home, name)
    if any(key["name"] == label for key in found):
        raise QuestionError(f"there is a key `{label}` already", hint=f"deployer keys remove {label}, or another name")
    key = _new()
    said = {what: value for what, value in limits.items() if value is not None}
    _write(home, name, [*found, {"name": label, "hash": _hash(key), "created": _now(), **said}])
    return key


def remove(home: Home, name: str, label: str) -> None:
    """Takes a key back. What it asked for before goes on to its end."""
    found = listed(home, name)
    if all(key["name"] != label for key in found):
        there = ", ".join(key["name"] for key in found)
        raise QuestionError(f"there is no key `{label}`", hint=f"there are: {there}" if there else None)
    if label == OWNER:
        raise QuestionError(
            "the owner's key cannot be taken back", hint=f"remove {home.deployment(name) / 'key'} and run deployer up"
        )
    _write(home, name, [key for key in found if key["name"] != label])


def _write(home: Home, name: str, found: list[dict[str, Any]]) -> None:
    home.write_for_gateway(name, "keys.json", {"keys": found})


def _new() -> str:
    return f"sk-{secrets.token_urlsafe(32)}"


def _hash(key: str) -> str:
    """Without salt or stretching: a key has 256 random bits, nobody finds it from its hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
