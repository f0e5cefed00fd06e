"""file:///path: a file or folder of this host; its files are copied, so that nobody changes them later."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.errors import ModelError
from deployer.fetch import Web
from deployer.models.sources.base import Listing, RemoteFile, Source
from deployer.profile import ModelChoice
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx


def _root(choice: ModelChoice) -> Path:
    return Path(choice.source.removeprefix("file://"))


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    root = _root(choice)
    if not root.exists():
        raise ModelError(f"there is no {root}", hint="check model.source in the profile")
    paths = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    base = root.parent if root.is_file() else root
    return Listing(None, tuple(RemoteFile(str(p.relative_to(base)), p.stat().st_size, None) for p in paths))


def _fetch(
    choice: ModelChoice,
    file: RemoteFile,
    dest: Path,
    client: httpx.Client,
    web: Web,
    progress: Progress,
) -> str:
    root = _root(choice)
    source = root if root.is_file() else root / file.path
    digest, done = hashlib.sha256(), 0
    with source.open("rb") as original, dest.open("wb") as copy:
        while chunk := original.read(1 << 20):
            copy.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress.amount(file.path, done, file.size)
    return digest.hexdigest()


SOURCE = Source("file", lambda _address, _web: None, _listing, fetch=_fetch)
