"""What a source of models answers: a listing, and where the bytes of a file are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.fetch import Web
from deployer.fetch.wanted import Address
from deployer.frozen import dataclass
from deployer.profile import ModelChoice
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as its origin lists it. `git_sha1` is what the Hub gives for small files instead."""

    path: str
    size: int | None
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """All files of a source at one resolved revision. `remote_code`: it wants to run Python that comes with it."""

    revision: str | None
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    remote_code: bool = False


@dataclass(frozen=True)
class Source:
    """One kind of place.

    `listing` answers what is there. `addresses` are where a file of it can be had, in order of preference; a source
    without addresses has `fetch`, which brings one file to a path and returns the SHA-256 of what it wrote there.
    `url` is an address whose answer shows that the place can be reached, None for this host. `cached` is where this
    user's other programs may have the file already.
    """

    scheme: str
    url: Callable[[str, Web], str | None]
    listing: Callable[[ModelChoice, httpx.Client, Web], Listing]
    addresses: Callable[[ModelChoice, Listing, RemoteFile, httpx.Client, Web], tuple[Address, ...]] | None = None
    fetch: Callable[[ModelChoice, RemoteFile, Path, httpx.Client, Web, Progress], str] | None = None
    cached: Callable[[ModelChoice, RemoteFile, Web], Path | None] = lambda _choice, _file, _web: None
