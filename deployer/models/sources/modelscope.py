"""modelscope://owner/name: ModelScope (modelscope.cn, modelscope.ai), by the API that its own client uses.

As read in modelscope 1.28.0 and modelscope-hub 0.5.1: the listing has a SHA-256 for every file, answers 200 without
files for a revision that does not exist, and ends after 3000 entries without a word. It tells the commit in 8 digits;
the 40 are those of a file that this commit changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from deployer.errors import ModelError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.http import reason_of
from deployer.fetch.wanted import Address
from deployer.models.sources.base import COMMIT, Listing, RemoteFile, Source
from deployer.profile import ModelChoice

if TYPE_CHECKING:
    import httpx

_BRANCH = "master"
_CUT = 3000  # entries: a listing of so many may have been cut
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _model(choice: ModelChoice, web: Web) -> str:
    return f"{web.modelscope.rstrip('/')}/api/v1/models/{choice.source.removeprefix('modelscope://')}"


def _headers(web: Web) -> dict[str, str]:
    """Its older parts know a cookie, the newer ones a header; its client sends both."""
    token = web.modelscope_token
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    revision = choice.revision or _BRANCH
    # `Recursive` must be spelt like this: another spelling is no error, and lists no folders
    data = _ask(choice, client, web, "/repo/files", {"Revision": revision, "Recursive": "True"})
    try:
        entries = data["Files"]
        if entries is None:
            raise _no_revision(choice, revision, client, web)
        if len(entries) >= _CUT:
            raise ModelError(
                f"{choice.source} has {_CUT} files or more, and {web.modelscope} lists no more than that",
                hint="take it from the Hugging Face Hub, if it is there: hf://owner/name",
            )
        blobs = [entry for entry in entries if entry["Type"] != "tree"]
        files = tuple(RemoteFile(entry["Path"], int(entry["Size"]), _hash(entry)) for entry in blobs)
        commit = _commit(data.get("LatestCommitter") or {}, blobs)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _stranger(web, error) from error
    if not COMMIT.fullmatch(revision):
        revision = commit or revision
    listing = Listing(revision, files, _licence(choice, client, web))
    _may_read(choice, listing, client, web)
    return listing


def _hash(entry: Mapping[str, Any]) -> str | None:
    found = entry.get("Sha256")
    return found if isinstance(found, str) and _SHA256.fullmatch(found) else None


def _commit(latest: Mapping[str, Any], blobs: list[Any]) -> str | None:
    """The listed commit in 40 digits; None when the listing does not tell them: it may be one that removed a file."""
    for key in ("Id", "ShortId"):
        start = latest.get(key) or ""
        known = {start, *(str(blob.get("Revision")) for blob in blobs)}
        found = {one for one in known if COMMIT.fullmatch(one) and one.startswith(start)}
        if len(start) >= 7 and len(found) == 1:
            return found.pop()
    return None


def _licence(choice: ModelChoice, client: httpx.Client, web: Web) -> str | None:
    try:
        found = _ask(choice, client, web, "", {}).get("License")
    except ModelError:
        return None  # nothing depends on it
    return found if isinstance(found, str) and found else None


def _may_read(choice: ModelChoice, listing: Listing, client: httpx.Client, web: Web) -> None:
    """A listing may be open where the files are not: asks for the largest one, without its bytes."""
    import httpx

    if not listing.files:
        return
    largest = max(listing.files, key=lambda file: file.size or 0)
    (address,) = _addresses(choice, listing, largest, client, web)
    try:
        with client.stream("GET", address.url, headers={**address.ask(), "Range": "bytes=0-0"}) as answer:
            status = answer.status_code
    except httpx.HTTPError:
        return  # the pull itself will tell
    if status in (401, 403):
        raise _refused(choice, web)


def _ask(choice: ModelChoice, client: httpx.Client, web: Web, path: str, query: dict[str, str]) -> dict[str, Any]:
    """What is in `Data` of the answer."""
    import httpx

    try:
        answer = client.get(_model(choice, web) + path, params=query, headers=_headers(web))
    except httpx.HTTPError as error:
        raise SourceUnreachable(
            f"{web.modelscope} cannot be reached: {reason_of(error)}",
            hint="check the network and the proxy, or name another site in MODELSCOPE_ENDPOINT",
        ) from error
    try:
        raw = answer.json()
        said = str(raw.get("Message") or raw.get("message") or "")
    except (ValueError, AttributeError):
        raw, said = {}, ""
    if answer.status_code in (401, 403):
        raise _refused(choice, web)
    if answer.status_code == 404 or (answer.status_code == 200 and raw.get("Success") is False):
        raise ModelError(
            f"{web.modelscope} has no {choice.source}, or it is private{f': {said}' if said else ''}",
            hint="check the name; a private model needs MODELSCOPE_API_TOKEN, one of the international site "
            "MODELSCOPE_ENDPOINT=https://www.modelscope.ai",
        )
    if answer.status_code != 200:
        raise SourceUnreachable(
            f"{web.modelscope} answers HTTP {answer.status_code} for {choice.source}{f': {said}' if said else ''}",
            hint="it is busy: run the same command in a few minutes",
        )
    if not isinstance(data := raw.get("Data"), dict):
        raise _stranger(web, f"an answer without Data ({answer.headers.get('content-type')})")
    return data


def _no_revision(choice: ModelChoice, revision: str, client: httpx.Client, web: Web) -> ModelError:
    known = _ask(choice, client, web, "/revisions", {}).get("RevisionMap") or {}
    names = [one["Revision"] for kind in ("Tags", "Branches") for one in known.get(kind) or ()]
    hint = f"it has {', '.join(names[:20])}" if names else "check name and revision"
    return ModelError(f"{choice.source} has no revision {revision}, or no files", hint=hint)


def _refused(choice: ModelChoice, web: Web) -> ModelError:
    page = f"{web.modelscope.rstrip('/')}/models/{choice.source.removeprefix('modelscope://')}"
    if web.modelscope_token:
        hint = f"the token in MODELSCOPE_API_TOKEN has no access, or is old: apply at {page} with its account"
    else:
        hint = f"apply at {page} if it asks for that, make a token in the site's settings, and set MODELSCOPE_API_TOKEN"
    return ModelError(f"{choice.source} is private or gated; nothing was fetched", hint=hint)


def _stranger(web: Web, error: object) -> SourceUnreachable:
    return SourceUnreachable(
        f"{web.modelscope} does not speak ModelScope's protocol: {error}", hint="is MODELSCOPE_ENDPOINT right?"
    )


def _addresses(
    choice: ModelChoice, listing: Listing, file: RemoteFile, client: httpx.Client, web: Web
) -> tuple[Address, ...]:
    query = urlencode({"Revision": listing.revision, "FilePath": file.path})
    return (Address(f"{_model(choice, web)}/repo?{query}", _headers(web)),)


SOURCE = Source("modelscope", lambda _address, web: web.modelscope, _listing, _addresses)
