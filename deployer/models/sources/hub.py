"""hf://owner/name: the Hugging Face Hub, and mirrors that speak its protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deployer.errors import ModelError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.wanted import Address
from deployer.models.sources.base import COMMIT, Listing, RemoteFile, Source
from deployer.profile import ModelChoice

if TYPE_CHECKING:
    import httpx


def _repository(choice: ModelChoice) -> str:
    return choice.source.removeprefix("hf://")


def _headers(web: Web) -> dict[str, str]:
    return {"Authorization": f"Bearer {web.token}"} if web.token else {}


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    try:
        return _ask(choice, client, web)
    except SourceUnreachable:
        if web.mirrors and (pinned := _pinned(choice)):
            return pinned
        raise


def _ask(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    import httpx

    name, hub = _repository(choice), web.hub.rstrip("/")
    url = f"{hub}/api/models/{name}/revision/{quote(choice.revision or 'main', safe='')}"
    try:
        answer = client.get(url, params={"blobs": "true"}, headers=_headers(web))
    except httpx.HTTPError as error:
        raise SourceUnreachable(
            f"{web.hub} cannot be reached: {error}",
            hint="check the network and the proxy, or name a mirror in HF_ENDPOINT",
        ) from error
    if answer.status_code in (401, 403):
        raise _refused(name, web, answer)
    if answer.status_code == 404:
        raise ModelError(
            f"there is no {name} at revision {choice.revision or 'main'}", hint="check name and revision"
        )
    if answer.status_code != 200:
        raise SourceUnreachable(
            f"{web.hub} answers HTTP {answer.status_code} for {name}",
            hint="it is busy: run the same command in a few minutes, with HF_TOKEN set for a higher limit",
        )
    try:
        raw = answer.json()
        files = tuple(
            RemoteFile(
                path=entry["rfilename"],
                size=(entry.get("lfs") or {}).get("size", entry.get("size")),
                sha256=(entry.get("lfs") or {}).get("sha256"),
                git_sha1=None if entry.get("lfs") else entry.get("blobId"),
            )
            for entry in raw["siblings"]
        )
        if not COMMIT.fullmatch(raw["sha"]):
            raise ValueError(f"{raw['sha']!r} is not a commit")
        listing = Listing(raw["sha"], files, _licence(raw), _remote_code(raw))
        gated = raw.get("gated")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnreachable(
            f"{web.hub} does not speak the Hub's protocol: {error}", hint="is HF_ENDPOINT right?"
        ) from error
    if gated:
        _may_read(name, listing, client, web)
    return listing


def _may_read(name: str, listing: Listing, client: httpx.Client, web: Web) -> None:
    """The listing of a gated model is open to all; its files are not: asks for one, without its bytes."""
    import httpx

    weights = [f for f in listing.files if f.sha256] or list(listing.files)
    if not weights:
        return
    url = f"{web.hub.rstrip('/')}/{name}/resolve/{listing.revision}/{quote(weights[0].path)}"
    try:
        answer = client.head(url, headers=_headers(web), follow_redirects=False)
    except httpx.HTTPError:
        return  # the pull itself will tell
    if answer.status_code in (401, 403):
        raise _refused(name, web, answer, gated=True)


def _refused(name: str, web: Web, answer: httpx.Response, *, gated: bool = False) -> ModelError:
    page = f"{web.hub.rstrip('/')}/{name}"
    code = answer.headers.get("x-error-code", "")
    gated = gated or code == "GatedRepo"
    if not web.token:
        hint = f"accept its licence at {page}, make a token in the Hub's settings, and set HF_TOKEN"
    elif answer.status_code == 401 and gated:
        hint = "the token in HF_TOKEN is not valid any more: make another one in the Hub's settings"
    else:
        hint = f"the token in HF_TOKEN has no access: accept the licence at {page} with its account"
    what = "is gated" if gated else "is private, gated, or not there"
    return ModelError(f"{name} {what}; nothing was fetched", hint=hint)


def _licence(raw: dict[str, Any]) -> str | None:
    card = raw.get("cardData") or {}
    if isinstance(named := card.get("license_name") or card.get("license"), str):
        return named
    tags = [tag.removeprefix("license:") for tag in raw.get("tags") or () if tag.startswith("license:")]
    return tags[0] if tags else None


def _remote_code(raw: dict[str, Any]) -> bool:
    return bool((raw.get("config") or {}).get("auto_map")) or "custom_code" in (raw.get("tags") or ())


def _pinned(choice: ModelChoice) -> Listing | None:
    """The profile's pins in place of the origin's listing; None unless they pin all."""
    files = tuple(RemoteFile(f.path, f.size, f.sha256) for f in choice.files if f.size and f.sha256)
    whole = files and len(files) == len(choice.files) and COMMIT.fullmatch(choice.revision or "")
    return Listing(choice.revision, files) if whole else None


def _addresses(
    choice: ModelChoice, listing: Listing, file: RemoteFile, client: httpx.Client, web: Web
) -> tuple[Address, ...]:
    path = f"{_repository(choice)}/resolve/{listing.revision}/{quote(file.path)}"
    mirrors = (Address(f"{mirror.rstrip('/')}/{path}") for mirror in web.mirrors)
    return (*mirrors, Address(f"{web.hub.rstrip('/')}/{path}", _headers(web)))


def _cached(choice: ModelChoice, file: RemoteFile, web: Web) -> Path | None:
    """Where huggingface_hub keeps this content: blobs are named by SHA-256, small ones by git's name."""
    name = file.sha256 or file.git_sha1
    if not web.cache or not name:
        return None
    return web.cache / f"models--{_repository(choice).replace('/', '--')}" / "blobs" / name


def git_sha1(content: bytes) -> str:
    """The name that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


SOURCE = Source("hf", lambda _address, web: web.hub, _listing, _addresses, cached=_cached)
