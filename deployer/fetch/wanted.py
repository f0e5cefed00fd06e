"""What is to be fetched, from where, how much at once; and what is said when it cannot be had."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from urllib.parse import urlsplit

from deployer.errors import DeployerError, HashMismatch, NoSpace
from deployer.fetch.http import BULK, EMPTY_SHA256, STALL_S
from deployer.fetch.partial import PART
from deployer.frozen import dataclass
from deployer.quantity import format_size


@dataclass(frozen=True)
class Address:
    """One place to get a file from; `headers` go to its host and to no other.

    `fresh` gives such headers too, asked before every request: they hold a token that ends after some minutes.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    fresh: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)

    def ask(self, direct: str | None = None) -> dict[str, str]:
        """The headers of a request to here, or to `direct`, where it led to: bytes as they are, and who asks."""
        told = {**self.headers, **self.fresh()} if self.covers(direct) else {}
        return {"Accept-Encoding": "identity", **told}

    @property
    def public(self) -> str:
        """The address without query and password, for messages."""
        return re.sub(r"//[^/@\s]+@", "//", self.url.split("?")[0])

    @property
    def host(self) -> str:
        return self.public.split("/")[2]

    def covers(self, url: str | None) -> bool:
        """Whether `url`, to which this address led, is on the same host, so that `headers` may go there."""
        return url is None or urlsplit(url)[:2] == urlsplit(self.url)[:2]


@dataclass(frozen=True)
class Wanted:
    """A file: its size in bytes, its addresses in order of preference, and what its bytes must hash to.

    `git_sha1` is git's name of the content, for small files of a hub. `path` is where the bytes gather.
    """

    title: str
    addresses: tuple[Address, ...]
    path: Path
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Ways:
    """How much at once. What is lost in a kill is less than `connections` times `part` bytes."""

    connections: int = 8
    part: int = PART
    span: int = 64 << 20  # bytes in one request, when little is missing
    longest: int = 512 << 20  # and when much is
    sync: int = 256 << 20  # bytes between two times that all is brought onto the disk
    stall: float = STALL_S  # seconds, after which a connection that gave less than `least` bytes in them is changed
    least: int = 1 << 16
    bulk: int = BULK  # answers of so many bytes are read past the HTTP library


class Gone(Exception):
    """This address cannot give this file: `error` says why."""

    def __init__(self, error: DeployerError) -> None:
        super().__init__(error.message)
        self.error = error


class Trouble(Exception):
    """This connection failed; another may not. `wait` is how long the server asks to wait, in seconds."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


def right(wanted: Wanted, sha256: str, git: str | None) -> bool:
    """Whether these hashes are the ones that were asked for; what was not asked for is right."""
    return sha256 == (wanted.sha256 or sha256) and git == (wanted.git_sha1 if git else git)


def other_size(wanted: Wanted, address: Address, found: str, page: bool = False) -> HashMismatch:
    """The server's file is not as long as the listed one."""
    what = "a page" if page else "a file"
    return HashMismatch(
        f"{wanted.title}: {address.host} gives {what} of {found or 'unknown'} bytes, "
        f"{wanted.size} are listed",
        hint="a proxy may want you to sign in: open the address in a browser"
        if page
        else "the file was changed there, or a proxy or mirror changes bytes; what came so far is kept",
    )


def mismatch(wanted: Wanted, found: str, git: str | None, *, changed: bool) -> HashMismatch:
    """All bytes are there, and they are wrong; `changed` is whether the server gave two versions."""
    asked = f"sha256 {wanted.sha256}" if wanted.sha256 else f"git blob {wanted.git_sha1}"
    got = found if wanted.sha256 else git
    if found == EMPTY_SHA256:
        hint = "an empty file came: look at the proxy and the disk"
    elif changed:
        hint = "the file was changed while it was fetched; nothing of it was kept: run the same command again"
    else:
        hint = "a proxy or mirror changed the bytes, or the pin is wrong; nothing of it was kept"
    return HashMismatch(f"{wanted.title}: wanted {asked}, got {got} ({wanted.size} bytes)", hint=hint)


def told(error: BaseException, wanted: Wanted) -> BaseException:
    """`error`, or NoSpace when it is the disk that is full."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    folder = wanted.path.parent
    return NoSpace(
        f"the disk is full: {wanted.title} has {format_size(wanted.size)}, which was free when it began",
        hint=f"make room on the file system of {folder} and run the same command again: it goes on where it stopped",
    )
