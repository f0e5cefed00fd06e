"""What a source of models answers: a listing, and a file of it on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.fetch import Web
from deployer.frozen import dataclass
from deployer.profile import ModelChoice
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class RemoteFile:
    """A file as its origin lists it. `git_sha1` is what the Hub gives for small files instead."""

    path: str
    size: int | None
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """All files of a source at one resolved revision."""

    revision: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Source:
    """One kind of place.

    `listing` answers what is there; `fetch` brings one file of it to a path and returns the SHA-256 of what
    it wrote there; `url` is an address whose answer shows that the place can be reached, None for this host.
    """

    scheme: str
    url: Callable[[str, Web], str | None]
    listing: Callable[[ModelChoice, httpx.Client, Web], Listing]
    fetch: Callable[[ModelChoice, Listing, RemoteFile, Path, httpx.Client, Web, Progress], str]
