"""Metadata of a model that is not here: headers by range requests from a hub or a registry, never weights.

Of safetensors files the header is asked for: some 10 to 100 kB each. A GGUF header holds the vocabulary before the
list of tensors, so it takes 1 to 10 MB; of it only what is missing is asked for, in growing steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from deployer.description import Description, Tensor
from deployer.errors import ModelError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.wanted import Address
from deployer.frozen import dataclass
from deployer.models.metadata import gguf, safetensors
from deployer.models.metadata.config import chat_template
from deployer.models.metadata.reader import DAMAGE, SPLIT, VECTORS, from_config, unreadable
from deployer.profile import ModelChoice

if TYPE_CHECKING:
    import httpx

_FIRST = 100_000  # bytes that a safetensors file is asked for at first: most headers are shorter
_STEP = 1 << 20
_MOST = 64 << 20  # a header longer than this is none
_SHARDS = 200
_AT_ONCE = 8


@dataclass(frozen=True)
class Remote:
    """A model of a hub or a registry: `revision` is the resolved commit or digest.

    `file` is the GGUF file, None for safetensors; `download` are the bytes that an engine needs; `others` names the
    GGUF files that could be had instead; `fetched` is how many bytes were read to know all this.
    """

    description: Description
    revision: str | None
    file: str | None
    download: int
    others: tuple[str, ...]
    fetched: int


def describe(choice: ModelChoice, web: Web, *, file: str | None = None) -> Remote:
    """The model of a source that serves files over HTTP, by its metadata.

    `file` is a GGUF file or a word of its name, as `Q4_K_M`. Without it, safetensors are preferred, then `Q4_K_M`.
    Raises ModelError for what is no model or is gated, SourceUnreachable.
    """
    from deployer.models.sources import source_of

    source = source_of(choice.source)
    if source.addresses is None:
        raise ModelError(f"the headers of {choice.source} cannot be read before it is here", hint="deployer pull it")
    addresses = source.addresses
    with web.client() as client:
        listing = source.listing(choice, client, web)
        files = {f.path: f for f in listing.files}
        sizes = {f.path: f.size or 0 for f in listing.files}
        # the last address is the origin's: who is not trusted is not asked for what has no hash of its own
        get = _Ranges(client, lambda path: addresses(choice, listing, files[path], client, web)[-1])
        ggufs = tuple(sorted(p for p in sizes if p.endswith(".gguf") and "mmproj" not in p))
        weights = sorted(p for p in sizes if p.endswith(".safetensors") and "/" not in p)
        wanted = _pick(ggufs, file) if ggufs and (file or not weights) else None
        if file and wanted is None:
            raise ModelError(
                f"{choice.source} has no GGUF file like {file}",
                hint=f"it has: {', '.join(ggufs[:9]) or 'none'}",
            )
        try:
            if wanted:
                parts = _parts(wanted, ggufs)
                made = get.gguf(parts)
                return Remote(made, listing.revision, wanted, sum(sizes[p] for p in parts), ggufs, get.read)
            if not weights or "config.json" not in sizes:
                raise ModelError(
                    f"{choice.source} holds neither GGUF nor safetensors with config.json",
                    hint="pickle files (.bin, .pt) are not loaded: they can run code",
                )
            made = get.safetensors(weights, tuple(sizes))
        except DAMAGE as error:
            raise unreadable(choice.source, error) from error
    return Remote(made, listing.revision, None, sum(sizes[p] for p in weights), ggufs, get.read)


def _pick(ggufs: tuple[str, ...], file: str | None) -> str | None:
    if not file:
        return next(
            (p for word in ("Q4_K_M", "MXFP4", "Q8_0", "") for p in ggufs if word.lower() in p.lower()), None
        )
    if file in ggufs:
        return file
    return next((p for p in ggufs if file.lower() in PurePath(p).name.lower()), None)


def _parts(wanted: str, ggufs: tuple[str, ...]) -> tuple[str, ...]:
    match = SPLIT.search(wanted)
    if not match:
        return (wanted,)
    return tuple(p for p in ggufs if p.startswith(wanted[: match.start()]) and SPLIT.search(p))


class _Ranges:
    """First bytes of the files of one model; `read` counts what came. `where` is the address of a file."""

    def __init__(self, client: httpx.Client, where: Callable[[str], Address]) -> None:
        self.read = 0
        self._client, self._where = client, where

    def safetensors(self, paths: list[str], names: tuple[str, ...]) -> Description:
        config = json.loads(self._head("config.json", _MOST))
        told: Any = {}
        if "tokenizer_config.json" in names:
            told = json.loads(self._head("tokenizer_config.json", _MOST))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found: list[Tensor] = [t for made in pool.map(self._shard, paths[:_SHARDS]) for t in made]
        if len(paths) > _SHARDS:
            found = []  # thousands of requests would tell little more than the shapes that config.json implies
        vectors = [json.loads(self._head(name, _MOST)) for name in VECTORS if name in names]
        return from_config(config, found, chats=chat_template(config, told, names), vectors=vectors)

    def gguf(self, parts: tuple[str, ...]) -> Description:
        first = self._parsed(parts[0], gguf.describe)
        rest = [t for p in parts[1:] for t in self._parsed(p, gguf.tensors_of)]
        return gguf.with_tensors(first, (*first.tensors, *rest)) if rest else first

    def _shard(self, path: str) -> tuple[Tensor, ...]:
        data = self._head(path, _FIRST)
        try:
            return safetensors.tensors(data)
        except safetensors.Short as short:
            return safetensors.tensors(data + self._more(path, len(data), short.wanted))

    def _parsed(self, path: str, parse: Any) -> Any:
        data = self._head(path, _STEP)
        while True:
            try:
                return parse(data)
            except gguf.Short:
                before = len(data)
                data += self._more(path, before, min(2 * before, _MOST))
                if len(data) == before:
                    raise

    def _head(self, path: str, end: int) -> bytes:
        return self._more(path, 0, end)

    def _more(self, path: str, begin: int, end: int) -> bytes:
        """Bytes from `begin` to before `end`, fewer at the end of the file."""
        import httpx

        address = self._where(path)
        url = address.public
        headers = {**address.ask(), "Range": f"bytes={begin}-{end - 1}"}
        found = bytearray()
        try:
            with self._client.stream("GET", address.url, headers=headers) as answer:
                if answer.status_code == 416:
                    return b""
                if answer.status_code >= 400:
                    raise SourceUnreachable(
                        f"{url} answers HTTP {answer.status_code}",
                        hint="accept its licence on its page, and set HF_TOKEN"
                        if answer.status_code in (401, 403)
                        else None,
                    )
                skip = begin if answer.status_code == 200 else 0  # it does not know ranges
                for chunk in answer.iter_raw():
                    found += chunk
                    if len(found) >= skip + end - begin:
                        break
        except httpx.HTTPError as error:
            raise SourceUnreachable(f"{url} cannot be reached: {error}", hint="check the network") from error
        self.read += len(found)
        return bytes(found[skip : skip + end - begin])
