"""An engine's answer on its way to a client: every byte as it comes, but for names that are the engine's own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from starlette.types import Receive, Send

from . import safety
from .metrics import Request
from .safety import Judge, json_object

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "server", "date"}
_TOKEN = re.compile(rb'"(?:content|reasoning_content|reasoning|text|delta|arguments)"\s*:\s*"[^"]')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_TIMINGS = re.compile(rb'"timings"\s*:\s*(\{[^{}]*\})')
_END = 8192  # bytes at both ends of an answer in which its usage is looked for: llama.cpp tells it before embeddings
_ERROR = 64 << 10  # bytes of an error that are read


class Gone(Exception):
    """The client went away."""


class Watch:
    """Knows when the client goes away; the body of its request must have been read."""

    def __init__(self, receive: Receive) -> None:
        self._task = asyncio.ensure_future(_disconnected(receive))

    async def unless_gone(self, work: asyncio.Future[Any]) -> Any:
        """The result of `work`. Raises Gone when the client goes first; the work is then cancelled."""
        await asyncio.wait((work, self._task), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        work.cancel()
        await asyncio.wait((work,))
        if not work.cancelled() and not work.exception() and hasattr(work.result(), "close"):
            work.result().close()  # it came at the last moment
        raise Gone

    @property
    def gone(self) -> bool:
        return self._task.done()

    def when_gone(self, call: Any) -> None:
        self._task.add_done_callback(lambda _: call())

    def end(self) -> None:
        self._task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def headers_of(answer: aiohttp.ClientResponse, more: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """The engine's headers without those of one connection, with `more` in place of its own."""
    kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _HOP and k.lower() not in more]
    return [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (*kept, *more.items())]


async def stream(
    answer: aiohttp.ClientResponse,
    send: Send,
    watch: Watch,
    request: Request,
    renamer: Renamer,
    counted: Any,
    judge: Judge | None,
) -> None:
    """Passes the body on. Raises Gone, or aiohttp.ClientError when the engine breaks off."""
    watch.when_gone(answer.close)
    ends = bytearray()
    events = answer.content_type == "text/event-stream"
    pieces = _read(answer, request, renamer, counted if events else None, ends)
    if judge is not None and events:
        pieces = safety.streamed(judge, pieces, request)
    try:
        if judge is not None and not events:
            body = await safety.whole(judge, b"".join([piece async for piece in pieces]), request)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        else:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
        # aiohttp 3.14 raises one and the same instance whenever a connection was closed (client_reqrep.py): its
        # traceback would hold every request that ever ended so
        error.__traceback__ = None
        if watch.gone:
            raise Gone from None
        raise
    finally:
        _count(bytes(ends), request)
    if watch.gone:
        raise Gone
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(
    answer: aiohttp.ClientResponse, request: Request, renamer: Renamer, counted: Any, ends: bytearray
) -> AsyncIterator[bytes]:
    """What comes, as it comes, under the outer name; `ends` gets begin and end of it, `counted` a stream's events."""
    async for piece in answer.content.iter_any():
        if counted is not None:
            now = time.monotonic()
            if request.first is None and _TOKEN.search(piece):
                request.first = now
            if request.first is not None:
                count = piece.count(b"data:")
                request.events += count
                request.last = now
                counted(count)
        ends += piece
        del ends[_END:-_END]
        if whole := renamer.feed(piece):
            yield whole
    if rest := renamer.rest():
        yield rest


def _count(ends: bytes, request: Request) -> None:
    """The tokens that the engine counted, when it says so at an end of its answer; the last word counts."""
    if found := _USAGE.findall(ends):
        usage = json_object(found[-1])
        request.prompt_tokens = _number(usage, "prompt_tokens", "input_tokens")
        request.completion_tokens = _number(usage, "completion_tokens", "output_tokens")
    elif found := _TIMINGS.findall(ends):  # llama-server, where usage was not asked for
        timings = json_object(found[-1])
        request.prompt_tokens = (_number(timings, "prompt_n") or 0) + (_number(timings, "cache_n") or 0)
        request.completion_tokens = _number(timings, "predicted_n")
    elif request.events:
        request.events = max(1, request.events - 2)  # the last delta, which is empty, and [DONE]


def _number(value: dict[str, Any], *names: str) -> int | None:
    return next((value[name] for name in names if isinstance(value.get(name), int)), None)


class Renamer:
    """Puts the name that clients know in place of the engine's own, which may be a path.

    A line is looked at as a whole, so that no name is cut in two; where both names are the same nothing is held back.
    What the model writes stays as it is.
    """

    def __init__(self, inner: str, outer: str, *, error: bool = False) -> None:
        self._same = inner == outer
        self._begun: list[bytes] = []
        if self._same:
            return
        spellings = {json.dumps(inner, ensure_ascii=ascii)[1:-1].encode() for ascii in (True, False)}
        old = b"(?:" + b"|".join(re.escape(spelling) for spelling in spellings) + b")"
        # some engines append `@` and a revision; an error is the engine's own text
        self._name = re.compile(b"()" + old if error else rb'("model"\s*:\s*")' + old + rb'(?:@[^"]*)?(?=")')
        self._new = json.dumps(outer)[1:-1].encode()

    def feed(self, piece: bytes) -> bytes:
        if self._same:
            return piece
        whole, newline, rest = piece.rpartition(b"\n")
        found = b""
        if newline:
            found = self.renamed(b"".join((*self._begun, whole, newline)))
            self._begun = []
        if rest:
            self._begun.append(rest)
        return found

    def rest(self) -> bytes:
        left, self._begun = b"".join(self._begun), []
        return self.renamed(left)

    def renamed(self, text: bytes) -> bytes:
        return text if self._same else self._name.sub(lambda found: found[1] + self._new, text)


async def error_of(answer: aiohttp.ClientResponse, renamer: Renamer) -> bytes:
    """The body of an engine's error in OpenAI's shape, without the engine's paths."""
    read = b""
    while len(read) < _ERROR and (piece := await answer.content.read(_ERROR - len(read))):
        read += piece
    body = renamer.renamed(read)
    value = json_object(body)
    if isinstance(value.get("error"), dict):
        return body
    said = value.get("detail") or value.get("error") or value.get("message") or body.decode(errors="replace")
    kind = "invalid_request_error" if answer.status < 500 else "api_error"
    text = said if isinstance(said, str) else json.dumps(said)
    shaped = {"message": text or f"HTTP {answer.status}", "type": kind, "param": None, "code": None}
    return json.dumps({"error": shaped}).encode()
