"""What a fact is, how probes run with a time limit, and how facts become JSON and come back."""

from __future__ import annotations

import threading
import time
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union

from deployer.frozen import dataclass

LIMIT_S = 2.0  # how long one probe may take


@dataclass(frozen=True)
class Unknown:
    """It could not be asked, which is not the same as `there is none`."""

    reason: str


T = TypeVar("T")
Fact = Union[T, Unknown]  # noqa: UP007  `T | Unknown` is no value under Python 3.10


NOT_ASKED = Unknown("not asked")


@dataclass(frozen=True)
class Questions:
    """What to ask beyond the machine itself, and where the machine's own files are.

    `models`, `engines` and `temporary` are the folders whose file systems matter, `ports` the TCP ports that
    should be free, `urls` the places that models would come from, `base` the one that the OS base of images would
    come from, `images` references of which the engine is asked whether it has them, by `name:variant`. `root` is
    where the machine's `/` is: elsewhere in tests, and for a container that has the host's files mounted.
    """

    models: Path
    engines: Path
    docker: str = "unix:///var/run/docker.sock"
    temporary: Path = Path("/tmp")
    ports: tuple[int, ...] = ()
    urls: tuple[str, ...] = ()
    base: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)
    root: Path = Path("/")

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def dev(self) -> Path:
        return self.root / "dev"


def gather(
    probes: Mapping[str, Callable[[], Any]],
    limit: float = LIMIT_S,
    limits: Mapping[str, float] | None = None,
    quick: Collection[str] = (),
) -> dict[str, Any]:
    """Runs all probes at once, in daemon threads; who has no answer after `limit` seconds is Unknown.

    `limits` gives single probes another limit. Those named in `quick` share one thread, one after the other: a
    thread costs more than a few small files. A probe that fails, or that is told something of another shape than
    it expects, becomes Unknown with the reason.
    """
    found: dict[str, Any] = {}

    def run(*names: str) -> None:
        for name in names:
            try:
                found[name] = probes[name]()
            except (OSError, ValueError) as error:
                found[name] = Unknown(str(error) or type(error).__name__)
            except Exception as error:  # noqa: BLE001  what one library raises must not cost the other answers
                found[name] = Unknown(f"{type(error).__name__}: {error}")

    start = time.monotonic()
    lanes: list[tuple[str, ...]] = [(name,) for name in probes if name not in quick]
    lanes += [tuple(name for name in probes if name in quick)] if quick else []
    allowed = {name: (limits or {}).get(name, limit) for name in probes}
    threads = [(threading.Thread(target=run, args=lane, daemon=True), allowed[lane[-1]]) for lane in lanes]
    for thread, _ in threads:
        thread.start()
    for thread, seconds in sorted(threads, key=lambda pair: pair[1]):
        thread.join(max(0.0, start + seconds - time.monotonic()))
    answers = dict(found)
    return {name: answers.get(name, Unknown(f"no answer in {allowed[name]:g} s")) for name in probes}


def words(path: Path) -> str:
    """The text of a small file of the kernel, without the end of its line. Raises OSError."""
    return path.read_text(errors="replace").strip()


def to_json(value: Any) -> Any:
    """A fact, or anything made of facts, as plain JSON values; Unknown becomes {"unknown": reason}."""
    if isinstance(value, Unknown):
        return {"unknown": value.reason}
    if is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: Any, raw: Any) -> Any:
    """The value of type `kind` that `to_json` wrote as `raw`. Raises ValueError on anything else.

    Fields that are missing in `raw` become Unknown where the type allows it, else their default, so that a host
    saved by an older version can still be judged.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if isinstance(raw, dict) and set(raw) == {"unknown"} and isinstance(raw["unknown"], str):
            return Unknown(raw["unknown"])
        if raw is None and type(None) in inner:
            return None
        rest = [part for part in inner if part not in (Unknown, type(None))]
        return from_json(rest[0], raw)
    if origin is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"a list was expected, not {raw!r}")
        return tuple(from_json(inner[0], item) for item in raw)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        if not isinstance(raw, dict):
            raise ValueError(f"a mapping was expected, not {raw!r}")
        return {(int(k) if inner[0] is int else k): from_json(inner[1], v) for k, v in raw.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(raw, dict):
            raise ValueError(f"{kind.__name__} was expected, not {raw!r}")
        hints = typing.get_type_hints(kind)
        values = {}
        for f in fields(kind):
            if f.name in raw:
                values[f.name] = from_json(hints[f.name], raw[f.name])
            elif Unknown in typing.get_args(hints[f.name]):
                values[f.name] = Unknown("not in the saved host")
            elif f.default is MISSING and f.default_factory is MISSING:
                raise ValueError(f"{kind.__name__} has no {f.name}")
        return kind(**values)
    if kind is float and isinstance(raw, int):
        return float(raw)
    if isinstance(kind, type) and not isinstance(raw, kind):
        raise ValueError(f"{kind.__name__} was expected, not {raw!r}")
    return raw
