"""hf://owner/name: the Hugging Face Hub, or a mirror that speaks its protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deployer.errors import HashMismatch, ModelError, SourceUnreachable
from deployer.fetch import Web, download
from deployer.models.sources.base import Listing, RemoteFile, Source
from deployer.profile import ModelChoice
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx


def _repository(choice: ModelChoice) -> str:
    return choice.source.removeprefix("hf://")


def _headers(web: Web) -> dict[str, str]:
    return {"Authorization": f"Bearer {web.token}"} if web.token else {}


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    import httpx

    name = _repository(choice)
    url = f"{web.hub.rstrip('/')}/api/models/{name}/revision/{quote(choice.revision or 'main', safe='')}"
    try:
        answer = client.get(url, params={"blobs": "true"}, headers=_headers(web))
    except httpx.HTTPError as error:
        raise SourceUnreachable(
            f"{web.hub} cannot be reached: {error}",
            hint="check the network and the proxy, or name a mirror in HF_ENDPOINT",
        ) from error
    if answer.status_code in (401, 403):
        raise ModelError(
            f"{name} is private, gated, or not there",
            hint=f"accept its licence at {web.hub}/{name} and set HF_TOKEN"
            if not web.token
            else f"the token in HF_TOKEN has no access: accept the licence at {web.hub}/{name}",
        )
    if answer.status_code == 404:
        raise ModelError(
            f"there is no {name} at revision {choice.revision or 'main'}", hint="check name and revision"
        )
    if answer.status_code != 200:
        raise SourceUnreachable(f"{web.hub} answers HTTP {answer.status_code} for {name}")
    try:
        raw = answer.json()
        files = tuple(
            RemoteFile(
                path=entry["rfilename"],
                size=entry.get("size"),
                sha256=(entry.get("lfs") or {}).get("sha256"),
                git_sha1=None if entry.get("lfs") else entry.get("blobId"),
            )
            for entry in raw["siblings"]
        )
        return Listing(raw["sha"], files)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceUnreachable(
            f"{web.hub} does not speak the Hub's protocol: {error}", hint="is HF_ENDPOINT right?"
        ) from error


def _fetch(
    choice: ModelChoice,
    listing: Listing,
    file: RemoteFile,
    dest: Path,
    client: httpx.Client,
    web: Web,
    progress: Progress,
) -> str:
    url = f"{web.hub.rstrip('/')}/{_repository(choice)}/resolve/{listing.revision}/{quote(file.path)}"
    headers = {"Accept-Encoding": "identity", **_headers(web)}
    sha256 = download(
        client, url, dest, sha256=file.sha256, size=file.size, progress=progress, headers=headers
    )
    if file.sha256 is None and file.git_sha1:
        found = git_sha1(dest.read_bytes())
        if found != file.git_sha1:
            dest.unlink()
            raise HashMismatch(
                f"{file.path}: wanted git blob {file.git_sha1}, got {found}",
                hint="a proxy or mirror changed the bytes; nothing of it was kept",
            )
    return sha256


def git_sha1(content: bytes) -> str:
    """The name that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


SOURCE = Source("hf", lambda _address, web: web.hub, _listing, _fetch)
