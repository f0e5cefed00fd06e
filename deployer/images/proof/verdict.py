"""Facts against pins: each difference is one line that begins with a short name."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Any, NamedTuple

from .libraries import CUDA

Facts = dict[str, Any]
WRITABLE = ["/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue"]
SHOWN = 5


class Expect(NamedTuple):
    """What the builder pinned; `budget` in bytes, `seconds` for each program that is run."""

    pins: Mapping[str, str] = MappingProxyType({})
    compute_capability: Sequence[str] = ()
    fatbins: Sequence[str] = ()
    budget: int | None = None
    baseline: Sequence[str] = ()
    server: Sequence[str] = ()
    server_says: str = ""
    seconds: float = 120.0
    user: int | None = None
    allowed_writable: Sequence[str] = WRITABLE
    allowed_twice: Sequence[str] = ()
    torch: bool = False


def say(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def some(words: list[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def same(version: str, pin: str) -> bool:
    """2.13.0+cu130 is 2.13.0, and a Debian revision says nothing of what is packed."""
    return version == pin or ("+" not in pin and re.split(r"[+-]", version)[0] == pin)


def begins(version: str, pin: str) -> bool:
    """Whether the parts of a version begin with those of a pin, as those of 3.11.2 with 3.11."""
    parts = pin.split(".")
    return version.split(".")[: len(parts)] == parts


def problems(expect: Expect, facts: Facts, uid: int) -> Iterator[str]:
    yield from user(expect, uid)
    yield from versions(expect, facts)
    yield from cudnn(expect, facts)
    yield from cuda(expect, facts)
    yield from capability(expect, facts)
    yield from twice(expect, facts)
    yield from rights(expect, facts)
    yield from size(expect, facts)


def user(expect: Expect, uid: int) -> Iterator[str]:
    if uid == 0:
        yield "user: the process is root"
    elif expect.user not in (None, uid):
        yield f"user: the process is user {uid}, and {expect.user} is pinned"


def versions(expect: Expect, facts: Facts) -> Iterator[str]:
    process = facts["process"]
    if "python" in expect.pins:
        found = process.get("python", platform.python_version())
        if not begins(found, expect.pins["python"]):
            yield f"python: {expect.pins['python']} is pinned, and {found} runs"
    if {"torch"} <= process.keys() & expect.pins.keys() and not same(process["torch"], expect.pins["torch"]):
        yield f"torch: {expect.pins['torch']} is pinned, and {process['torch']} is imported"
    for name in sorted(expect.pins.keys() - {"python", "cuda", "cudnn"}):
        pin = expect.pins[name]
        there = [one for one in facts["distributions"] if plain(one["name"]) == plain(name)]
        wrong = [f"{one['version']} in {one['path']}" for one in there if not same(one["version"], pin)]
        if not there:
            yield f"{name}: {pin} is pinned, and there is none"
        elif wrong:
            yield f"{name}: {pin} is pinned, and there is {some(wrong)}"


def cudnn(expect: Expect, facts: Facts) -> Iterator[str]:
    pin, process = expect.pins.get("cudnn"), facts["process"]
    for name, code in sorted(process.get("checks", {}).items()):
        if code:
            yield f"cudnn: {name} answers {code}, so its parts do not fit together"
    reach = facts["loader"]["reach"]
    two = [soname for soname in reach if cudnn_twice(soname, reach[soname])]
    for soname in two[:1]:
        files = reach[soname]
        places = " and ".join(f"{file['path']} ({file['by']})" for file in files)
        more = f"; so it is with {some(two[1:])}" if two[1:] else ""
        yield f"cudnn: the loader reaches {len(files)} files for {soname}: {places}{more}"
    if pin is None:
        return
    parts = [one for one in facts["libraries"] if one["family"] == "cudnn"]
    mapped = set(process.get("mapped", ()))
    wrong: dict[tuple[bool, str, str], list[str]] = {}
    for one in parts:
        has = one["version"] or "a version that nobody tells"
        if one.get("altered") or not same(has, pin):
            has += " (but not the file that its distribution brought)" if one.get("altered") else ""
            folder, _, name = one["path"].rpartition("/")
            wrong.setdefault((one["path"] in mapped, folder, has), []).append(name)
    for (maps, folder, has), names in sorted(wrong.items()):
        what = f"from {folder} the process maps" if maps else f"in {folder} there is"
        yield f"cudnn: {pin} is pinned, and {what} {has}: {', '.join(names)}"
    for path, number in sorted(process.get("versions", {}).items()):
        if "/libcudnn.so" in path and not begins(pin, version := dotted(number)):
            yield f"cudnn: {pin} is pinned, and {path} says that it is {version}"
    if "mapped" in process and not any("/libcudnn.so" in path for path in mapped):
        yield f"cudnn: {pin} is pinned, and the process maps none"
    for path in sorted(mapped - {one["path"] for one in parts}):
        if "/libcudnn" in path:
            yield f"cudnn: the process maps {path}, which is not in the image"


def cudnn_twice(soname: str, files: list[Facts]) -> bool:
    return soname.startswith("libcudnn") and len(files) > 1


def dotted(number: int) -> str:
    """9.20.0 for cuDNN's 92000, and 8.9.2 for 8902."""
    base = 10_000 if number >= 90_000 else 1000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def cuda(expect: Expect, facts: Facts) -> Iterator[str]:
    pin, process = expect.pins.get("cuda"), facts["process"]
    if pin is None:
        return
    if "torch" in process and process["cuda"] != ".".join(pin.split(".")[:2]):
        yield f"cuda: {pin} is pinned, and torch is made for {process['cuda'] or 'no CUDA'}"
    runtimes = {path: number for path, number in process["versions"].items() if "/libcudart.so" in path}
    for path, number in sorted(runtimes.items()):
        if not begins(pin, version := f"{number // 1000}.{number % 1000 // 10}"):
            yield f"cuda: {pin} is pinned, and {path} says that it is {version}"
    if "mapped" in process and not runtimes:
        yield f"cuda: {pin} is pinned, and the process maps no libcudart"


def capability(expect: Expect, facts: Facts) -> Iterator[str]:
    process = facts["process"]
    if "architectures" in process:
        words = (re.match(r"sm_(\d+)(\d)", word) for word in process["architectures"])
        yield from differ("torch", [f"{word[1]}.{word[2]}" for word in words if word], expect)
    for pattern in expect.fatbins:
        named = [one for one in facts["fatbins"] if fnmatches([one["path"], *one["links"]], pattern)]
        for one in named:
            yield from differ(one["path"], [word.rstrip("a") for word in one["sass"]], expect)
        if not named:
            yield f"architectures: no library with code for GPUs is {pattern}"


def fnmatches(paths: list[str], pattern: str) -> bool:
    return any(fnmatch(path, pattern) for path in paths)


def differ(who: str, found: list[str], expect: Expect) -> Iterator[str]:
    label = expect.compute_capability
    if set(found) != set(label):
        has = " ".join(dict.fromkeys(found)) or "none"
        yield f"architectures: the label says {' '.join(label) or 'none'}, and {who} has {has}"


def twice(expect: Expect, facts: Facts) -> Iterator[str]:
    families = {one["soname"]: one["family"] for one in facts["libraries"]}
    folders: dict[tuple[str, ...], list[Facts]] = {}
    for one in facts["twice"]:
        soname = one["soname"]
        told = cudnn_twice(soname, facts["loader"]["reach"].get(soname, []))
        allowed = any(fnmatch(soname, pattern) for pattern in expect.allowed_twice)
        if families.get(soname) in CUDA and not told and not allowed:
            places = tuple(file["path"].rpartition("/")[0] for file in one["files"])
            folders.setdefault(places, []).append(one)
    for same in folders.values():
        more = f"; so it is with {some([one['soname'] for one in same[1:]])}" if same[1:] else ""
        yield f"twice: {copies(same[0])}{more}"


def copies(one: Facts) -> str:
    places = some([f"{file['path']} ({say(file['bytes'])})" for file in one["files"]])
    return f"{one['soname']} is {places}{', all the same' if one['identical'] else ''}"


def rights(expect: Expect, facts: Facts) -> Iterator[str]:
    files = facts["files"]
    for name in ("setuid", "capabilities"):
        if files[name]:
            yield f"{name}: {some(files[name])}"
    paths = sorted({*files["world_writable"], *files["writable"]})
    allowed = [path.rstrip("/") for path in expect.allowed_writable]
    wrong = [path for path in paths if not any(f"{path}/".startswith(f"{one}/") for one in allowed)]
    if wrong:
        yield f"writable: {some(wrong)}"


def size(expect: Expect, facts: Facts) -> Iterator[str]:
    sizes = facts["sizes"]
    if expect.budget is not None and sizes["bytes"] > expect.budget:
        largest = ", ".join(f"{one['path']} {say(one['bytes'])}" for one in sizes["largest"])
        double = "; ".join(map(copies, facts["twice"]))
        yield (
            f"size: {say(sizes['bytes'])} is {say(sizes['bytes'] - expect.budget)} over the budget of "
            f"{say(expect.budget)}; new and largest are {largest or 'none'}{'; twice there: ' * bool(double)}{double}"
        )
