"""One request to an engine and back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from starlette.types import Receive, Scope, Send

from . import relay, remote, safety, window
from .config import Key, Model, Replica
from .dialects import EMBEDDINGS, spoken
from .errors import UNAVAILABLE, Refusal
from .metrics import Request
from .relay import Gone, Renamer, Watch
from .replicas import Place
from .safety import Judge

if TYPE_CHECKING:
    from .app import Gateway

_ASKED = b"x-deployer-replica"
_PATIENCE_S = 15.0  # for an engine that was started again by whoever looks after it
_AGAIN_S = 0.25
_DROPPED, _REMOTE = "x-deployer-dropped-messages", "x-deployer-remote"


@dataclass(frozen=True)
class Work:
    """One request that was let in."""

    path: str
    value: dict[str, Any]
    model: Model
    send: Send
    watch: Watch
    one: Request
    judge: Judge | None


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
        one.probe = one.probe and value.get("max_tokens") == 1
        judge = None if one.probe else self._judge(path)
        if judge and judge.rules.before:
            await safety.asked(judge, value, one)
        if judge and (path == EMBEDDINGS or not judge.rules.after):
            judge = None  # vectors say nothing
        headers = dict(scope["headers"])
        asked = headers[_ASKED].decode("latin-1") if _ASKED in headers else None
        if asked and not gateway.keys.owns(key):
            raise Refusal(403, "only the owner's key may ask for a replica by its name", code="not_the_owner")
        work = Work(path, value, model, send, watch, one, judge)
        if one.probe:  # of this very engine, and at nobody's expense
            await self._here(work, asked)
            return
        with gateway.keys.held(key):
            try:
                if why := remote.instead(gateway.config, gateway.replicas, model, path):
                    await self._elsewhere(work, why)
                    return
                try:
                    await self._here(work, asked)
                except Refusal as refusal:
                    if refusal.code != window.TOO_LONG or not remote.takes(gateway.config, "too-long", path):
                        raise
                    await self._elsewhere(work, "too-long")
            finally:
                gateway.keys.pay(key, (one.prompt_tokens or 0) + one.tokens)

    async def _here(self, work: Work, asked: str | None) -> None:
        """Asks an engine of this deployment."""
        session = _session(work.value)
        patience, until = 0 if asked else min(self._gateway.config.wait, _PATIENCE_S), None
        while True:
            taken = self._gateway.replicas.slot(work.model, session, asked)
            place = await work.watch.unless_gone(asyncio.ensure_future(taken.__aenter__()))
            try:
                work.one.queued = time.monotonic() - work.one.came
                counting = partial(self._count, place, work)
                value = spoken(work.model.engine, work.path, work.value)
                value, dropped = await window.fitted(work.model, value, counting)
                more = {_DROPPED: str(dropped)} if dropped else {}
                try:
                    await self._ask(place.replica, work, value, more, place)
                    if not work.one.probe:
                        place.answered += 1
                    return
                except (aiohttp.ClientConnectorError, _NotReady) as error:
                    others = self._gateway.replicas.broken(work.model, place)
                    until = until or time.monotonic() + patience
                    if not others and time.monotonic() > until:
                        raise Refusal(
                            503, "the engine is not ready", UNAVAILABLE, code="model_not_ready", after=5
                        ) from error
            finally:
                await taken.__aexit__(None, None, None)
            if not others:  # it may be started again just now
                await work.watch.unless_gone(asyncio.ensure_future(asyncio.sleep(_AGAIN_S)))

    async def _elsewhere(self, work: Work, why: str) -> None:
        """Asks the remote upstream, and says so in the answer, the log and the metrics."""
        there = self._gateway.config.remote
        assert there is not None
        work.one.remote = why
        path = work.path.removeprefix("/v1")
        replica = Replica("remote", there.url.rstrip("/"), there.model, key=there.key)
        try:
            await self._ask(replica, replace(work, path=path), work.value, {_REMOTE: f"{there.host}; {why}"})
        except aiohttp.ClientConnectorError as error:
            raise Refusal(
                503, f"{there.host} cannot be reached", UNAVAILABLE, code="remote_unreachable", after=5
            ) from error

    async def _ask(
        self, replica: Replica, work: Work, value: dict[str, Any], more: dict[str, str], place: Place | None = None
    ) -> None:
        """Passes the request to `replica` and the answer back, with `more` headers.

        Raises aiohttp.ClientConnectorError when it cannot be reached; nothing was asked then.
        """
        one, watch, send = work.one, work.watch, work.send
        one.replica = replica.name
        headers = {"Content-Type": "application/json", "X-Request-Id": one.id}
        if replica.key:
            headers["Authorization"] = f"Bearer {replica.key}"
        content = json.dumps({**value, "model": replica.model}).encode()
        asking = self._gateway.client.post(f"{replica.url}{work.path}", data=content, headers=headers)
        answer: aiohttp.ClientResponse = await watch.unless_gone(asyncio.ensure_future(_begun(asking)))
        try:
            if answer.status == 503 and place is not None:  # it loads: nothing was begun
                raise _NotReady
            renamer = Renamer(replica.model, work.model.id, error=answer.status >= 400)
            if answer.status >= 400:
                one.cause = "engine refused" if answer.status < 500 else "engine failed"
                body = await relay.error_of(answer, renamer)
                if refusal := window.outgrown(body):
                    raise refusal
                more = {**more, "content-type": "application/json", "content-length": str(len(body))}
                status = 400 if answer.status == 422 else answer.status
                await send({"type": "http.response.start", "status": status, "headers": relay.headers_of(answer, more)})
                await send({"type": "http.response.body", "body": body, "more_body": False})
                return
            more = {**more, "x-deployer-replica": replica.name, "cache-control": "no-store"}
            start = {"type": "http.response.start", "status": answer.status}
            await send({**start, "headers": relay.headers_of(answer, more)})
            counted = partial(self._streamed, place)
            await relay.stream(answer, send, watch, one, renamer, counted, work.judge)
        finally:
            answer.close()

    def _streamed(self, place: Place | None, events: int) -> None:
        self._gateway.metrics.streamed(events)
        if place is not None:
            place.events += events

    def _judge(self, path: str) -> Judge | None:
        rules = self._gateway.config.safety
        if rules is None:
            return None
        if path not in (*safety.PATHS, EMBEDDINGS):
            raise Refusal(404, f"{path} is not there while answers are checked; /v1/chat/completions is")
        return Judge(rules, self._gateway.client)

    async def _count(self, place: Place, work: Work, messages: list[Any]) -> int | None:
        """Tokens of a chat, as the engine counts them; None where it cannot."""
        model, watch = work.model, work.watch
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
            raise Refusal(404, f"the engine of `{model.id}` has no {path}; it has {', '.join(model.paths)}")
        return model


class _NotReady(Exception):
    """The engine listens, and does not answer yet."""


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
