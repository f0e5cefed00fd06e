"""One request to an engine and back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from starlette.types import Receive, Scope, Send

from . import relay, safety, window
from .config import Key, Model
from .dialects import spoken
from .errors import UNAVAILABLE, Refusal
from .metrics import Request
from .relay import Gone, Renamer, Watch
from .replicas import Place
from .safety import Judge

if TYPE_CHECKING:
    from .app import Gateway

_ASKED = b"x-deployer-replica"


class Forward:
    """The ASGI application of the paths that engines answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        one: Request = scope["deployer.request"]
        begun = False

        async def noting(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        watch = None
        try:
            body = await _body(receive, dict(scope["headers"]), self._gateway.config.body)
            watch = Watch(receive)
            await self._answer(scope, body, noting, watch, one)
        except Gone:
            one.cause = "client gone"
        except Refusal as refusal:
            one.cause = refusal.code or refusal.kind
            if begun:
                raise _BrokenOff from refusal
            await refusal.response()(scope, receive, send)
        except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError) as error:
            one.cause = "engine broke off"
            if begun:
                raise _BrokenOff from error  # the server then closes the connection, so that nobody takes it for whole
            said = Refusal(502, f"the engine does not answer: {type(error).__name__}", "api_error")
            await said.response()(scope, receive, send)
        finally:
            if watch:
                watch.end()

    async def _answer(self, scope: Scope, body: bytes, send: Send, watch: Watch, one: Request) -> None:
        gateway, path = self._gateway, scope["path"]
        value = _parsed(body)
        key: Key = scope["deployer.key"]
        model = self._model(value, key, path)
        one.model = model.id
        if gateway.config.log_prompts:
            one.prompt = value.get("messages") or value.get("prompt") or value.get("input")
        judge = self._judge(path)
        if judge and judge.rules.before:
            await safety.asked(judge, value, one)
        if judge and not judge.rules.after:
            judge = None
        value = spoken(model.engine, path, value)
        headers = dict(scope["headers"])
        asked = headers[_ASKED].decode("latin-1") if _ASKED in headers else None
        with gateway.keys.held(key):
            dropped = 0
            try:
                while True:
                    taken = gateway.replicas.slot(model, _session(value), asked)
                    place = await watch.unless_gone(asyncio.ensure_future(taken.__aenter__()))
                    try:
                        one.queued = time.monotonic() - one.came
                        one.replica = place.replica.name
                        counting = partial(self._count, place, model, watch)
                        value, fewer = await window.fitted(model, value, counting)
                        dropped += fewer
                        if await self._ask(place, path, value, send, watch, one, model, dropped, judge):
                            return
                    finally:
                        await taken.__aexit__(None, None, None)
            finally:
                gateway.keys.pay(key, (one.prompt_tokens or 0) + one.tokens)

    async def _ask(
        self, place: Place, path: str, value: dict[str, Any], send: Send, watch: Watch, one: Request, model: Model,
        dropped: int, judge: Judge | None,
    ) -> bool:  # fmt: skip
        """Whether `place` took the request; False when another one may be asked instead."""
        replica = place.replica
        headers = {"Content-Type": "application/json", "X-Request-Id": one.id}
        if replica.key:
            headers["Authorization"] = f"Bearer {replica.key}"
        content = json.dumps({**value, "model": replica.model}).encode()
        asking = self._gateway.client.post(f"{replica.url}{path}", data=content, headers=headers)
        try:
            answer: aiohttp.ClientResponse = await watch.unless_gone(asyncio.ensure_future(_begun(asking)))
        except aiohttp.ClientConnectorError as error:
            if self._gateway.replicas.broken(model, place):
                return False
            raise Refusal(
                503, "the engine is not ready", UNAVAILABLE, code="model_not_ready", after=5
            ) from error
        try:
            renamer = Renamer(replica.model, model.id, error=answer.status >= 400)
            if answer.status >= 400:
                one.cause = "engine refused" if answer.status < 500 else "engine failed"
                body = await relay.error_of(answer, renamer)
                more = {"content-type": "application/json", "content-length": str(len(body))}
                status = 400 if answer.status == 422 else answer.status
                await send({"type": "http.response.start", "status": status, "headers": relay.headers_of(answer, more)})
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return True
            more = {"x-deployer-replica": replica.name}
            if dropped:
                more["x-deployer-dropped-messages"] = str(dropped)
            start = {"type": "http.response.start", "status": answer.status}
            await send({**start, "headers": relay.headers_of(answer, {**more, "cache-control": "no-store"})})
            await relay.stream(answer, send, watch, one, renamer, self._gateway.metrics.streamed, judge)
            return True
        finally:
            answer.close()

    def _judge(self, path: str) -> Judge | None:
        rules = self._gateway.config.safety
        if rules is None:
            return None
        if path not in safety.PATHS:
            raise Refusal(404, f"{path} is not there while answers are checked; /v1/chat/completions is")
        return Judge(rules, self._gateway.client)

    async def _count(self, place: Place, model: Model, watch: Watch, messages: list[Any]) -> int | None:
        """Tokens of a chat, as the engine counts them; None where it cannot."""
        if model.engine not in window.COUNTING:
            return None
        path, name = window.COUNTING[model.engine]
        content = {"model": place.replica.model, "messages": messages}
        headers = {"Authorization": f"Bearer {place.replica.key}"} if place.replica.key else {}
        asking = self._gateway.client.post(f"{place.replica.url}{path}", json=content, headers=headers)
        try:
            answer: aiohttp.ClientResponse = await watch.unless_gone(asyncio.ensure_future(_begun(asking)))
        except aiohttp.ClientConnectorError:
            return None  # the request itself finds out
        async with answer:
            told = await answer.json(content_type=None) if answer.status == 200 else {}
        found = told.get(name) if isinstance(told, dict) else None
        return found if isinstance(found, int) else None

    def _model(self, value: dict[str, Any], key: Key, path: str) -> Model:
        models = self._gateway.config.models
        name = value.get("model", models[0].id if len(models) == 1 else None)
        model = self._gateway.config.model(name)
        if model is None or (key.models is not None and model.id not in key.models):
            there = ", ".join(f"`{m.id}`" for m in models if key.models is None or m.id in key.models)
            raise Refusal(
                404, f"the model `{name}` does not exist; there is {there or 'none for this key'}",
                code="model_not_found", param="model",
            )  # fmt: skip
        if path not in model.paths:
            raise Refusal(404, f"the engine of `{model.id}` has no {path}")
        return model


class _BrokenOff(Exception):
    """The engine ended in the middle of its answer."""


async def _begun(asking: Any) -> aiohttp.ClientResponse:
    answer: aiohttp.ClientResponse = await asking
    return answer


def _session(value: dict[str, Any]) -> str:
    """What the turns of one conversation have in common: who it is for and how it began."""
    begin = value.get("prompt_cache_key") or value.get("session_id") or value.get("user")
    if not begin:
        messages = value.get("messages")
        begin = messages[:2] if isinstance(messages, list) else str(value.get("prompt") or value.get("input"))[:512]
    return hashlib.sha256(json.dumps(begin, sort_keys=True).encode()).hexdigest()


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal(400, "the body is not a JSON object")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _body(receive: Receive, headers: dict[bytes, bytes], most: int) -> bytes:
    """Raises Refusal when it is larger than `most` bytes, Gone when the client goes away before its end."""
    too_large = Refusal(413, f"the request is larger than {most} bytes", code="request_too_large")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > most:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large
        if not message.get("more_body"):
            return b"".join(parts)
