"""The ASGI application in front of one engine."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PATHS = ("/v1/chat/completions", "/v1/completions")
MAX_BODY = 8 << 20  # bytes of one request
_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "server",
    "date",
}


def build(*, upstream: str, upstream_model: str, model: str, key: str | None) -> Starlette:
    """The application. `model` is the name that clients see, `upstream_model` the one the engine knows.

    With `key`, every request but `GET /health` needs `Authorization: Bearer <key>`.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # an engine may think for minutes before its first byte; only the connection itself is limited
        limits = httpx.Limits(max_connections=None)
        timeout = httpx.Timeout(None, connect=10.0)
        async with httpx.AsyncClient(
            base_url=upstream, timeout=timeout, limits=limits, trust_env=False
        ) as client:
            app.state.client = client
            yield

    async def health(request: Request) -> Response:
        try:
            answer = await request.app.state.client.get("/health", timeout=5.0)
        except httpx.HTTPError:
            return _error(503, "the engine is not ready", "service_unavailable")
        if answer.status_code != 200:
            return _error(503, "the engine is not ready", "service_unavailable")
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        if refused := _refuse(request, key):
            return refused
        entry = {"id": model, "object": "model", "created": started, "owned_by": "deployer"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def forward(request: Request) -> Response:
        if refused := _refuse(request, key):
            return refused
        body = await _body(request)
        if body is None:
            return _error(413, f"the request is larger than {MAX_BODY} bytes", "invalid_request_error")
        try:
            value = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return _error(400, "the body is not a JSON object", "invalid_request_error")
        asked = value.get("model", model)
        if asked != model:
            return _error(
                404, f"the model `{asked}` does not exist; this is `{model}`", "invalid_request_error"
            )
        value["model"] = upstream_model
        client: httpx.AsyncClient = request.app.state.client
        try:
            sent = client.build_request(
                "POST",
                request.url.path,
                content=json.dumps(value),
                headers={"Content-Type": "application/json"},
            )
            answer = await _unless_gone(request, client.send(sent, stream=True))
        except httpx.HTTPError as error:
            return _error(502, f"the engine does not answer: {type(error).__name__}", "api_error")
        if answer is None:
            return Response(status_code=499)  # nobody is there to read it
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        return StreamingResponse(
            _named(answer, upstream_model, model),
            answer.status_code,
            headers,
            background=BackgroundTask(answer.aclose),
        )

    async def nothing(request: Request) -> Response:
        return _refuse(request, key) or _error(
            404, f"there is no {request.url.path}", "invalid_request_error"
        )

    async def unroutable(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refuse(request, key) or _error(error.status_code, error.detail, "invalid_request_error")

    started = int(time.time())
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/v1/models", models, methods=["GET"]),
            *(Route(path, forward, methods=["POST"]) for path in PATHS),
            Route("/{rest:path}", nothing, methods=methods),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: unroutable},  # methods and paths that no route takes
    )


async def _named(answer: httpx.Response, inner: str, outer: str) -> AsyncIterator[bytes]:
    """The engine's bytes, line by line as they come, without its model name: it is a path of the engine's own.

    An event of a stream is a line; what comes in pieces is put together first, so that no name is cut in two.
    What the model writes stays as it is, an error is the engine's own text.
    """
    spellings = {json.dumps(inner, ensure_ascii=ascii)[1:-1].encode() for ascii in (True, False)}
    old = b"(?:" + b"|".join(re.escape(spelling) for spelling in spellings) + b")"
    new = json.dumps(outer)[1:-1].encode()
    if answer.status_code < 400:  # some engines append `@` and a revision
        name = re.compile(rb'("model"\s*:\s*")' + old + rb'(?:@[^"]*)?(?=")')
    else:
        name = re.compile(b"()" + old)

    def renamed(*pieces: bytes) -> bytes:
        return name.sub(lambda found: found[1] + new, b"".join(pieces))

    begun: list[bytes] = []
    try:
        async for chunk in answer.aiter_bytes():
            whole, newline, rest = chunk.rpartition(b"\n")
            if newline:
                yield renamed(*begun, whole, newline)
                begun = []
            begun.append(rest)
        yield renamed(*begun)
    finally:
        await answer.aclose()


async def _unless_gone(
    request: Request, sending: Coroutine[Any, Any, httpx.Response]
) -> httpx.Response | None:
    """The engine's answer, or None when the client goes away first; the engine is then let go."""
    answer, gone = asyncio.ensure_future(sending), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.wait((answer, gone))


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _body(request: Request) -> bytes | None:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _refuse(request: Request, key: str | None) -> Response | None:
    if key is None:
        return None
    given = request.headers.get("authorization", "")
    if hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        return None
    return _error(401, "the API key is missing or wrong", "invalid_request_error", code="invalid_api_key")


def _error(status: int, message: str, kind: str, code: str | None = None) -> Response:
    """An error as the OpenAI API shapes it."""
    value: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": code}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": value}, status, headers)
