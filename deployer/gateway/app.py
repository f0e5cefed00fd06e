"""The ASGI application: the one door to all engines of a deployment."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import certifi
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import config as configuration
from . import pages
from .config import Config, ConfigError
from .dialects import EMBEDDINGS
from .errors import UNAVAILABLE, Refusal
from .forward import Forward
from .gpus import Gpus
from .keys import OWNER, Keys
from .metrics import STEP_S, Metrics
from .metrics import Request as Measured
from .replicas import Place, Replicas

API = ("/v1/chat/completions", "/v1/completions", EMBEDDINGS, "/v1/responses")
_PROBE = b"x-deployer-probe"
_PUBLIC = {"/healthz", "/readyz", "/health"}
_NAME = re.compile(rb"[\x21-\x7e]{1,128}")
_LOOK_S = 1.0  # between looks at the files of the configuration
_READY_S = 5.0


class Gateway:
    """Everything that lives as long as the process; `folder` holds the configuration, `state` is kept across starts.

    Raises ConfigError when the configuration cannot be used. One that comes later and cannot be used is reported and
    not taken.
    """

    def __init__(self, folder: Path, state: Path | None) -> None:
        self._folder = folder
        self._stamp = configuration.stamp(folder)
        self.keys = Keys(state)
        self.replicas = Replicas()
        self.metrics = Metrics()
        self.gpus = Gpus(folder)
        self.started = time.time()
        self.client: aiohttp.ClientSession
        self.certify: Callable[[], None] = lambda: None  # takes the certificate as it is now
        self.config: Config
        self._door: ASGIApp
        page = pages.routes()
        self._open = _PUBLIC | {route.path for route in page}
        self._routes = Starlette(
            routes=[
                Route("/healthz", self._alive, methods=["GET"]),
                *(Route(path, self._ready, methods=["GET"]) for path in ("/readyz", "/health")),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/v1/status", self._status, methods=["GET"]),
                Route("/metrics", self._measures, methods=["GET"]),
                *(Route(path, Forward(self), methods=["POST"]) for path in API),
                *page,
            ],
            lifespan=self._lifespan,
        )
        self._take(configuration.load(folder))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if _NAME.fullmatch(given) else uuid.uuid4().hex
        one = scope["deployer.request"] = Measured(name, scope["path"])

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                one.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._door(scope, receive, marked)
        finally:
            self._ended(scope, one)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing but the state of health and the empty pages is told without a key, whatever path and method."""
        one: Measured = scope["deployer.request"]
        try:
            if not (scope["path"] in self._open and scope["method"] in ("GET", "HEAD")):
                key = self.keys.who(dict(scope["headers"]).get(b"authorization"))
                scope["deployer.key"], one.key = key, key.name
                one.probe = key.name == OWNER and _PROBE in dict(scope["headers"])
            routed = [route for route in self._routes.routes if isinstance(route, Route) and
                      route.path_regex.match(scope["path"])]  # fmt: skip
            if not routed:
                raise Refusal(404, f"there is no {scope['path']}")
            if not any(scope["method"] in (route.methods or ()) for route in routed):
                raise Refusal(405, f"{scope['path']} does not take {scope['method']}")
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self._routes(scope, receive, send)

    def _take(self, config: Config) -> None:
        self.config = config
        self.keys.take(config)
        self.replicas.take(config)
        self._door = self._guarded
        if config.cors:
            self._door = CORSMiddleware(
                self._guarded, allow_origins=config.cors, allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"], expose_headers=["X-Request-Id"],
            )  # fmt: skip

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        # an engine may think for minutes before its first byte; only the connection itself is limited.
        # A connection that was kept may be closed by the engine just then, so each request takes a new one.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        trusted = ssl.create_default_context()  # of services elsewhere; the image has no certificates of its own
        trusted.load_verify_locations(certifi.where())
        # a container that is started again may have another address
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=trusted, ttl_dns_cache=1)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=True) as client:
            self.client = client
            tasks = [asyncio.ensure_future(work()) for work in (self._look, self._sample)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                self.keys.keep()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            stamp = configuration.stamp(self._folder)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self.certify()
                self._take(configuration.load(self._folder))
                say({"event": "configuration", "generation": self.config.generation})
            except (ConfigError, OSError) as error:
                say({"event": "configuration", "error": str(error)})

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self.metrics.sample(self.replicas.running, self.replicas.waiting)
            await asyncio.gather(*(self._ask_health(place) for place in self.replicas.everywhere()))
            self.keys.keep()

    def _ended(self, scope: Scope, one: Measured) -> None:
        if one.path in self._open or one.probe:
            return  # asked all the time, and nobody's
        if one.status >= 400 and not one.cause:
            one.cause = "refused" if one.status < 500 else "failed"
        one.path = one.path if one.path in (*API, "/v1/models", "/v1/status", "/metrics") else "other"
        self.metrics.ended(one)
        now = time.monotonic()
        entry = {
            "event": "request", "id": one.id, "client": (scope.get("client") or ("",))[0], "key": one.key,
            "method": scope["method"], "path": scope["path"], "status": one.status, "model": one.model,
            "replica": one.replica, "cause": one.cause, "remote": one.remote, "prompt_tokens": one.prompt_tokens,
            "completion_tokens": one.tokens or None, "queue_s": round(one.queued, 4),
            "first_token_s": round(one.first - one.came, 4) if one.first else None, "total_s": round(now - one.came, 4),
        }  # fmt: skip
        if one.prompt is not None:
            entry["prompt"] = one.prompt
        say({key: value for key, value in entry.items() if value not in (None, "")})

    # what it answers itself

    async def _alive(self, asked: Asked) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, asked: Asked) -> Response:
        if await self._answering(asked.headers.get("x-deployer-replica")):
            return JSONResponse({"status": "ok"})
        return Refusal(503, "no engine is ready", UNAVAILABLE, code="model_not_ready", after=5).response()

    async def _answering(self, name: str | None = None) -> bool:
        """Whether an active engine says that it is ready, or the one called `name`; only these are asked."""
        everywhere = self.replicas.everywhere()
        places = [one for one in everywhere if name == one.replica.name or
                  (name is None and one.replica.state == configuration.ACTIVE)]  # fmt: skip
        await asyncio.gather(*(self._ask_health(place) for place in places))
        return any(place.ready for place in places)

    async def _ask_health(self, place: Place) -> None:
        try:
            url = f"{place.replica.url}/health"
            async with self.client.get(url, timeout=aiohttp.ClientTimeout(total=_READY_S)) as answer:
                place.ready = answer.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            place.ready = False
        if place.ready:
            place.broken = 0.0

    def _seen(self, asked: Asked) -> list[dict[str, Any]]:
        allowed = asked.scope["deployer.key"].models
        return [
            {"id": model.id, "object": "model", "created": int(self.started), "owned_by": "deployer",
             "max_model_len": model.context, "paths": list(model.paths)}
            for model in self.config.models if allowed is None or model.id in allowed
        ]  # fmt: skip

    async def _models(self, asked: Asked) -> Response:
        return JSONResponse({"object": "list", "data": self._seen(asked)})

    async def _model(self, asked: Asked) -> Response:
        name = asked.path_params["name"]
        found = next((one for one in self._seen(asked) if one["id"] == name), None)
        if found is None:
            return Refusal(404, f"there is no model `{name}`", code="model_not_found", param="model").response()
        return JSONResponse(found)

    async def _status(self, asked: Asked) -> Response:
        models = [
            {
                "id": model.id, "engine": model.engine, "context": model.context,
                "waiting": self.replicas.waiting_for(model),
                "replicas": [
                    {"name": place.replica.name, "state": place.replica.state, "ready": place.ready,
                     "running": place.running, "slots": place.replica.slots,
                     "answered": place.answered, "events": place.events}
                    for place in self.replicas.places(model)
                ],
            }
            for model in self.config.models
        ]  # fmt: skip
        slots = sum(place.replica.slots for place in self.replicas.everywhere()
                    if place.replica.state == configuration.ACTIVE)  # fmt: skip
        return JSONResponse({
            "deployment": self.config.deployment, "generation": self.config.generation,
            "version": self.config.version, "uptime_s": round(time.time() - self.started, 1), "models": models,
            "running": self.replicas.running, "waiting": self.replicas.waiting, "limit": slots,
            "requests": self.metrics.requests, "errors": self.metrics.errors,
            "prompt_tokens": self.metrics.prompt_tokens, "completion_tokens": self.metrics.completion_tokens,
            "gpus": self.gpus.now(), "series": self.metrics.series(),
        })  # fmt: skip

    async def _measures(self, asked: Asked) -> Response:
        running, up = {}, {}
        for model in self.config.models:
            for place in self.replicas.places(model):
                running[model.id, place.replica.name] = place.running
                up[model.id, place.replica.name] = bool(place.ready)
        text = self.metrics.text(running, up, self.replicas.waiting, self.gpus.now())
        return Response(text, media_type="text/plain; version=0.0.4")


def say(entry: dict[str, Any]) -> None:
    """One line of the log, as JSON."""
    with suppress(OSError, ValueError):  # a full disk must not end requests
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sys.stdout.write(json.dumps({"time": stamp, **entry}) + "\n")
        sys.stdout.flush()
