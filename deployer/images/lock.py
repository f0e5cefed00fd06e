"""Locks of Python packages: made by the pinned uv, read as pins, layered, and compared for people to read."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from deployer.errors import BuildError, HashMismatch, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.index import default_index
from deployer.fetch.wheel import choose, licence, listing, local, metadata, opened, ranks
from deployer.frozen import dataclass
from deployer.home import Home, write_whole
from deployer.quantity import format_size

if TYPE_CHECKING:
    import httpx

PYTHON = "3.11"  # Debian 12's, which the images run
LINUX = "x86_64-manylinux_2_28"
_COMPILE = """pip compile --quiet --color never --config-file uv.toml --no-python-downloads --generate-hashes
--no-header --no-annotate -c constraints.txt --overrides overrides.txt requirements.in -o lock.txt"""
# Settings of the person's own uv that would change what is chosen. The lock comes from what is named here alone.
_UNSET = """CONFIG_FILE NO_CONFIG DEFAULT_INDEX INDEX INDEX_URL EXTRA_INDEX_URL FIND_LINKS NO_INDEX INDEX_STRATEGY
CONSTRAINT OVERRIDE EXCLUDE EXCLUDE_NEWER PRERELEASE RESOLUTION FORK_STRATEGY TORCH_BACKEND NO_BINARY NO_BUILD
CUSTOM_COMPILE_COMMAND NO_SOURCES QUIET VERBOSE"""
_NETWORK = "check the network, --index-url, --proxy; without an index: --wheelhouse DIR"
_BEHIND = (
    "it may be behind, or want a password: --index-url URL for another, --wheelhouse DIR for more wheels"
)
# What uv writes → what it means, and what to do; the first that is found counts.
_CAUSES = (
    (
        r"invalid peer certificate|UnknownIssuer|CERTIFICATE_VERIFY",
        "the certificate of the package index is not trusted",
        "name your company's with --ca-cert FILE",
    ),
    (
        r"40[13] (?:Unauthorized|Forbidden)",
        "the package index refuses",
        "is a password missing in --index-url?",
    ),
    (r"Failed to read `--find-links`", "the wheelhouse cannot be read", "is --wheelhouse DIR a folder?"),
    (r"No space left", "the disk is full", "make room and run the same command again"),
    (
        r"(\S+) has no (?:usable )?wheels",
        "{} has no wheel for this Python and platform",
        "try another version",
    ),
    (r"(\S+) was not found in the p", "the index has no package {}", _BEHIND),
    (r"there (?:is|are) no versions? of ([^\s,]+)", "the index has no {}", _BEHIND),
    (r"only ([^\s:]+)[^\n]* available", "the index has only {}", _BEHIND),
    (
        r"are unsatisfiable|are incompatible",
        "the wanted versions exclude each other",
        "loosen one, or choose another version",
    ),
    (r"Failed to fetch|error sending request", "the package index cannot be reached", _NETWORK),
)


@dataclass(frozen=True)
class Pin:
    """One package of a lock; `hashes` are `sha256:…` of every file that may be installed for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str | None = None


@dataclass(frozen=True)
class About:
    """What an index tells of a pin: bytes of the file that is installed, and its licence; None: cannot be told."""

    size: int | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Change:
    """One package in which two locks differ. `size`, in bytes, is that of the new file."""

    package: str
    old: str | None
    new: str | None
    size: int | None = None
    old_licence: str | None = None
    licence: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Resolver:
    """The pinned uv, what it may reach, and for whom it chooses.

    `platform=None` makes a lock for every platform, with markers. `no_index` leaves only the wheelhouse of `web`.
    `environment` is what uv finds besides the environment of this process.
    """

    uv: Path
    home: Home
    web: Web = field(default_factory=Web)
    extra_index: tuple[str, ...] = ()
    no_index: bool = False
    python: str = PYTHON
    platform: str | None = LINUX
    environment: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def indexes(self) -> tuple[str, ...]:
        """The indexes that are asked, in order."""
        return () if self.no_index else (self.web.index or default_index(), *self.extra_index)


def uv_binary(wheel: Path, into: Path, *, sha256: str) -> Path:
    """The program `uv` out of its wheel, as `into`/uv; made again unless it is there and right.

    Raises HashMismatch when the wheel is not `sha256`, or its program not what its RECORD says.
    """
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
        raise HashMismatch(f"{wheel} is not the pinned one", hint=f"remove it: rm {wheel}")
    with zipfile.ZipFile(wheel) as archive:
        member = next(n for n in archive.namelist() if re.fullmatch(r"uv-[^/]+\.data/scripts/uv", n))
        record = next(n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
        rows = (line.split(",") for line in archive.read(record).decode().splitlines())
        wanted = next(row[1] for row in rows if row[0] == member)
        target = into / "uv"
        if not target.is_file() or _record_hash(target.read_bytes()) != wanted:
            content = archive.read(member)
            if _record_hash(content) != wanted:
                raise HashMismatch(f"{member} in {wheel} is not what its RECORD says")
            write_whole(target, content, 0o755)
    return target


def resolve(
    requirements: str,
    resolver: Resolver,
    *,
    constraints: Iterable[Pin] = (),
    overrides: Iterable[str] = (),
    prefer: str = "",
) -> tuple[Pin, ...]:
    """Every package that `requirements` (lines of a requirements.in) bring, with hashes, chosen by uv.

    `constraints` are the pins of the layer below, which stay as they are; `overrides` replace what packages demand of
    each other; the versions in the lock `prefer` are kept where they can be. Raises BuildError with uv's last lines.
    """
    with resolver.home.scratch("lock") as scratch:
        (scratch / "requirements.in").write_text(requirements)
        (scratch / "constraints.txt").write_text("".join(f"{_line(pin)}\n" for pin in constraints))
        (scratch / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides))
        (scratch / "lock.txt").write_text(prefer)
        # addresses may hold passwords, which a command line would show to everybody
        (scratch / "uv.toml").write_text(_settings(resolver))
        command: list[str | Path] = [
            "env",
            *(word for name in _UNSET.split() for word in ("-u", f"UV_{name}")),
        ]
        command += [f"{key}={value}" for key, value in resolver.environment.items()]
        command += [
            resolver.uv,
            *_COMPILE.split(),
            "--cache-dir",
            (resolver.home.root / "cache/packages").resolve(),
        ]
        command += ["--python-version", resolver.python, "--python", sys.executable]
        if resolver.platform:
            command += ["--python-platform", resolver.platform, "--only-binary", ":all:"]
        else:
            command += ["--universal"]
        if resolver.web.ca:
            (scratch / "ca.pem").write_bytes(_trusted(resolver.web.ca))
            command += ["--cert", "ca.pem"]
        done = subprocess.run(
            command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise failure(done.stderr)
        return parse((scratch / "lock.txt").read_text())


def failure(said: str) -> BuildError:
    """What uv's error output `said` means, in plain words."""
    said = re.sub(r"//[^/@\s]+@", "//", said)
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    for pattern, cause, hint in _CAUSES:
        if found := re.search(pattern, said):
            name = next((group for group in found.groups() if group), "")
            return BuildError(
                f"the lock cannot be made: {cause.format(name)}", hint=hint, evidence=lines[-8:]
            )
    return BuildError("the lock cannot be made: uv failed", evidence=lines[-8:])


def parse(text: str) -> tuple[Pin, ...]:
    """The pins of a lock. Raises BuildError for a line that is not one version with its hashes."""
    pins: list[Pin] = []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        head, *hashes = re.split(r"\s--hash[= ]", line)
        if not line.strip():
            continue
        try:
            demand = Requirement(head.strip())
        except InvalidRequirement as error:
            raise BuildError("a lock has a line that is no pin", evidence=[line.strip()]) from error
        exact = [s.version for s in demand.specifier if s.operator == "==" and not s.version.endswith("*")]
        if len(exact) != len(demand.specifier) or len(exact) != 1 or not hashes:
            raise BuildError(
                f"the lock leaves {demand.name} open",
                hint="a lock has one version and its hashes for each package: deployer build --lock",
                evidence=[head.strip()],
            )
        marker = head.partition(";")[2].strip() or None
        pins.append(Pin(canonicalize_name(demand.name), exact[0], tuple(h.strip() for h in hashes), marker))
    twice = {pin.name for i, pin in enumerate(pins) for other in pins[:i] if _key(other) == _key(pin)}
    if twice:
        raise BuildError(f"the lock has {', '.join(sorted(twice))} twice")
    return tuple(pins)


def render(pins: Iterable[Pin]) -> str:
    """The lock's text, as uv writes it."""
    return "".join(
        _line(pin) + "".join(f" \\\n    --hash={value}" for value in pin.hashes) + "\n" for pin in pins
    )


def subtract(pins: Sequence[Pin], below: Iterable[Pin]) -> tuple[Pin, ...]:
    """What a layer adds to the one below it. Raises BuildError when it would change a package of that one."""
    there = {pin.name: pin.version for pin in below}
    for pin in pins:
        if there.get(pin.name, pin.version) != pin.version:
            raise BuildError(
                f"{pin.name} is {there[pin.name]} in the layer below and {pin.version} above it",
                hint="a package is in the image once: name one version in the lower requirements.in",
            )
    return tuple(pin for pin in pins if pin.name not in there)


def difference(old: Iterable[Pin], new: Iterable[Pin], about: Callable[[Pin], About]) -> tuple[Change, ...]:
    """What differs, by name; `about` is asked for changed versions only, several at a time."""
    before, after = ({_key(pin): pin for pin in pins} for pins in (old, new))
    changed = [key for key in sorted({*before, *after}) if _files(before.get(key)) != _files(after.get(key))]
    asked = [
        pins[key]
        for key in changed
        if key in after and (key not in before or before[key].version != after[key].version)
        for pins in (before, after)
        if key in pins
    ]
    with ThreadPoolExecutor(8) as pool:
        told = dict(zip(asked, pool.map(about, asked), strict=True))
    changes = []
    for key in changed:
        one, two = before.get(key), after.get(key)
        found = told.get(two, About()) if two else About()
        note = ""
        if one and two and one.version == two.version:
            note = "more files" if {*one.hashes} < {*two.hashes} else "other files"
        changes.append(
            Change(
                package=key[0],
                old=one.version if one else None,
                new=two.version if two else None,
                size=found.size,
                old_licence=told.get(one, About()).licence if one else None,
                licence=found.licence,
                note=note,
            )
        )
    return tuple(changes)


def table(changes: Sequence[Change]) -> str:
    """The difference as lines of text, with a last line that sums it up."""
    if not changes:
        return "nothing differs\n"
    rows = [("package", "old", "new", "download", "licence")]
    for change in changes:
        licence = change.licence or "unknown"
        if change.old_licence and change.licence and change.old_licence != change.licence:
            licence = f"{change.old_licence} → {change.licence}"
        size = format_size(change.size) if change.size is not None else "unknown"
        known = (size, licence) if change.new and not change.note else ("-", change.note or "-")
        rows.append((change.package, change.old or "-", change.new or "-", *known))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]) for row in rows]
    gone, fresh = sum(c.new is None for c in changes), sum(c.old is None for c in changes)
    moved = sum(c.old is not None and c.new is not None and not c.note for c in changes)
    loaded = format_size(sum(c.size or 0 for c in changes))
    parts = (
        (moved, "changed"),
        (fresh, "new"),
        (gone, "gone"),
        (len(changes) - moved - fresh - gone, "relocked"),
    )
    lines.append(f"{', '.join(f'{n} {word}' for n, word in parts if n)}; {loaded} to download")
    return "\n".join(lines) + "\n"


def describe(client: httpx.Client, resolver: Resolver) -> Callable[[Pin], About]:
    """What `difference` asks: from the wheelhouse and the indexes of `resolver`; never fails."""
    fits, indexes = ranks(resolver.python, resolver.platform), resolver.indexes

    def about(pin: Pin) -> About:
        size = None
        try:
            found = [*local(resolver.web.wheelhouse)]
            for index in indexes:
                listed = listing(client, index, pin.name)
                found += [f for f in listed if not f.sha256 or f"sha256:{f.sha256}" in pin.hashes]
            file = choose(found, pin.name, pin.version, fits)
            if file is None:
                return About()
            size = file.size
            with opened(client, file) as wheel:
                if size is None and wheel.fp:
                    size = wheel.fp.seek(0, 2)
                return About(size, licence(metadata(wheel)))
        except (OSError, SourceUnreachable):
            return About(size)

    return about


def _line(pin: Pin) -> str:
    return f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")


def _key(pin: Pin) -> tuple[str, str]:
    return pin.name, pin.marker or ""


def _files(pin: Pin | None) -> object:
    return pin and (pin.version, {*pin.hashes})


def _record_hash(content: bytes) -> str:
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _settings(resolver: Resolver) -> str:
    """A uv.toml. As in the images, the best version of all indexes is taken, not the first index that has one."""
    lines = [f"no-index = {str(resolver.no_index).lower()}"]
    if len(resolver.indexes) > 1:  # for one index uv tells more when it is refused
        lines.append('index-strategy = "unsafe-best-match"')
    if resolver.web.wheelhouse:
        lines.append(f"find-links = [{_quoted(str(resolver.web.wheelhouse.resolve()))}]")
    if proxy := resolver.web.proxy:
        lines += [f"http-proxy = {_quoted(proxy)}", f"https-proxy = {_quoted(proxy)}"]
    for position, url in enumerate(resolver.indexes):
        lines += ["[[index]]", f"url = {_quoted(url)}", f"default = {str(position == 0).lower()}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _trusted(ca: Path) -> bytes:
    """The company's certificates beside those that are trusted anyway, as `Web.client` trusts them."""
    import ssl

    import certifi

    system = ssl.get_default_verify_paths().cafile
    paths = [Path(certifi.where()), *([Path(system)] if system else []), ca]
    return b"\n".join(path.read_bytes() for path in paths if path.is_file())
