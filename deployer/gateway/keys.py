"""Who may ask, and how much: keys are known by their hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .config import Config, Key
from .errors import LIMITED, Refusal

OWNER = "owner"  # the key in the deployment's folder
ANYBODY = Key("anybody", "")
_MINUTE = 60.0


class Bucket:
    """So many for each minute, refilled evenly; what was taken may go below nothing, and is then paid back."""

    def __init__(self, each: int) -> None:
        self.each = each
        self._left = float(each)
        self._at = time.monotonic()

    def wait(self) -> float:
        """Seconds until something is left; 0 when there is."""
        now = time.monotonic()
        self._left = min(self.each, self._left + (now - self._at) * self.each / _MINUTE)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) * _MINUTE / self.each

    def take(self, count: int) -> None:
        self._left -= count


OWNER = "owner"


class Keys:
    """The keys of a configuration, what each has used, and when; `state` is a folder that keeps the last use."""

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self._keys: tuple[Key, ...] = ()
        self._open = False
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._streams: dict[str, int] = {}
        self.used: dict[str, float] = self._read()
        self._kept = dict(self.used)

    def take(self, config: Config) -> None:
        """The keys of `config` from now on; what was used of a limit that stays is remembered."""
        self._keys, self._open = config.keys, config.open
        limits = {(k.name, what): each for k in config.keys
                  for what, each in (("requests", k.requests), ("tokens", k.tokens)) if each}  # fmt: skip
        old = self._buckets
        self._buckets = {
            name: old[name] if name in old and old[name].each == each else Bucket(each)
            for name, each in limits.items()
        }

    def owns(self, key: Key) -> bool:
        """Whether it is the key of whoever runs the deployment; where none is asked for, everybody does."""
        return self._open or key.name == OWNER

    def who(self, authorization: bytes | None) -> Key:
        """The key of a request. Raises Refusal. How long it takes does not depend on what was given."""
        if self._open:
            return ANYBODY
        scheme, _, given = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(given.strip()).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.hash):
                found = key
        if found is None or scheme.lower() != b"bearer":
            raise Refusal(401, "the API key is missing or wrong", code="invalid_api_key")
        return found

    @contextmanager
    def held(self, key: Key) -> Iterator[None]:
        """One request of `key`, while it lasts. Raises Refusal where a limit of the key is reached."""
        for what, words in (("requests", "requests"), ("tokens", "tokens")):
            bucket = self._buckets.get((key.name, what))
            if bucket and (wait := bucket.wait()):
                raise Refusal(
                    429, f"this key may use {bucket.each} {words} each minute", LIMITED,
                    code="rate_limit_exceeded", after=wait,
                )  # fmt: skip
        if key.streams is not None and self._streams.get(key.name, 0) >= key.streams:
            raise Refusal(
                429, f"this key may ask {key.streams} at once", LIMITED, code="rate_limit_exceeded", after=1
            )
        if bucket := self._buckets.get((key.name, "requests")):
            bucket.take(1)
        self._streams[key.name] = self._streams.get(key.name, 0) + 1
        self.used[key.name] = time.time()
        try:
            yield
        finally:
            self._streams[key.name] -= 1

    def pay(self, key: Key, tokens: int) -> None:
        """Tokens that a request took, known when it has ended."""
        if bucket := self._buckets.get((key.name, "tokens")):
            bucket.take(tokens)

    def keep(self) -> None:
        """Writes when each key was used last, if that changed."""
        if self._state is None or self.used == self._kept:
            return
        aside = self._state / "used.json.part"
        try:
            aside.write_text(json.dumps(self.used))
            aside.replace(self._state / "used.json")
            self._kept = dict(self.used)
        except OSError:
            pass  # a full disk: the next time

    def _read(self) -> dict[str, float]:
        try:
            value = json.loads((self._state / "used.json").read_bytes()) if self._state else {}
            return {str(name): float(at) for name, at in value.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
