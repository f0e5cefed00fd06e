"""https://host/path/file#sha256=…: one file from anywhere, held to a hash that the person brings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

from deployer.errors import QuestionError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.http import reason_of
from deployer.fetch.wanted import Address
from deployer.models.sources.base import Listing, RemoteFile, Source
from deployer.profile import ModelChoice

if TYPE_CHECKING:
    import httpx

_HASH = re.compile(r"sha256=([0-9a-f]{64})")


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    url, fragment = urldefrag(choice.source)
    named = choice.files[0] if choice.files else None
    found = _HASH.fullmatch(fragment)
    sha256 = found[1] if found else named.sha256 if named else None
    if not sha256:
        raise QuestionError(
            f"{Address(url).public} comes without a hash", hint="write it behind the address: …#sha256=64 hex digits"
        )
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    size = named.size if named and named.size else _size(client, url)
    return Listing(None, (RemoteFile(name, size, sha256),))


def _size(client: httpx.Client, url: str) -> int:
    """Asks for the first byte, because some servers do not answer HEAD."""
    import httpx

    public = Address(url).public
    try:
        with client.stream("GET", url, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as answer:
            status, headers = answer.status_code, answer.headers
    except httpx.HTTPError as error:
        raise SourceUnreachable(
            f"{public} cannot be reached: {reason_of(error)}", hint="check the network and the proxy"
        ) from error
    if status not in (200, 206):
        raise SourceUnreachable(f"{public} answers HTTP {status}", hint="check the address")
    text = headers.get("content-range", "").rpartition("/")[2] if status == 206 else headers.get("content-length", "")
    if not text.isdecimal():
        raise SourceUnreachable(f"{public} does not say how long it is", hint="fetch it yourself, and use file://")
    return int(text)


def _addresses(
    choice: ModelChoice, listing: Listing, file: RemoteFile, client: httpx.Client, web: Web
) -> tuple[Address, ...]:
    return (Address(urldefrag(choice.source)[0]),)


SOURCE = Source("https", lambda address, _web: urldefrag(address)[0], _listing, _addresses)
