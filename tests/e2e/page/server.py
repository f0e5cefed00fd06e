"""The pages under a real uvicorn, before an API that the test plays: keys, models, streams, trouble, /v1/status."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deployer.gateway import pages
from tests.servers import unused_port, wait_until

KEY = "sk-right"


@dataclass
class Answer:
    """What one request gets. `pieces` and `thoughts` are streamed `pause` seconds apart; `hold` keeps the stream open.

    `status` other than 200 gives an error with `message`; `headers` go with both;
    `cut` ends the stream without its end.
    """

    pieces: Sequence[str] = ("Paris", " is", " the", " capital", ".")
    thoughts: Sequence[str] = ()
    pause: float = 0.0
    hold: bool = False
    cut: bool = False
    finish: str = "stop"
    usage: bool = True
    status: int = 200
    message: str = ""
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    late: str | None = None  # an error inside the stream


class PageServer:
    """`answers` are used up, then every answer is the default one; `asked` are the bodies that came."""

    def __init__(self) -> None:
        self.reset()
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        app = Starlette(
            routes=[
                *pages.routes(),
                Route("/v1/models", self._models),
                Route("/v1/status", self._status),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app, port=self.port, log_level="warning", access_log=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def reset(self) -> None:
        self.key: str | None = KEY
        self.models = ["SmolLM2-135M"]
        self.models_status = 200
        self.more: dict[str, Any] = {}  # what each model says of itself besides
        self.answers: deque[Answer] = deque()
        self.asked: list[dict[str, Any]] = []
        self.left = 0  # streams that the page went away from
        self.status: dict[str, Any] = status()

    def __enter__(self) -> PageServer:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return _error(401, "the API key is missing or wrong")

    async def _models(self, request: Request) -> Response:
        if self.models_status != 200:
            return _error(self.models_status, "the model is loading", {"Retry-After": "1"})
        listed = {"object": "list", "data": [{"id": name, "object": "model", **self.more} for name in self.models]}
        return self._refused(request) or JSONResponse(listed)

    async def _status(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(self.status)

    async def _chat(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        self.asked.append(await request.json())
        answer = self.answers.popleft() if self.answers else Answer()
        if answer.status != 200:
            return _error(answer.status, answer.message, answer.headers, answer.code)
        return StreamingResponse(self._stream(answer), headers=answer.headers, media_type="text/event-stream")

    async def _stream(self, answer: Answer) -> AsyncIterator[bytes]:
        def event(value: object) -> bytes:
            return f"data: {json.dumps(value)}\n\n".encode()

        def delta(**parts: str) -> bytes:
            return event({"choices": [{"index": 0, "delta": parts, "finish_reason": None}]})

        over = False
        try:
            yield delta(role="assistant")
            for piece in answer.thoughts:
                await asyncio.sleep(answer.pause)
                yield delta(reasoning_content=piece)
            for piece in answer.pieces:
                await asyncio.sleep(answer.pause)
                yield delta(content=piece)
            while answer.hold:
                await asyncio.sleep(0.05)
                yield b": still here\n\n"
            if answer.late:
                yield event({"error": {"message": answer.late}})
            if not answer.cut and not answer.late:
                yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]})
                if answer.usage:
                    written = len(answer.pieces) + len(answer.thoughts)
                    yield event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": written}})
                yield b"data: [DONE]\n\n"
            over = True
        finally:
            self.left += not over


def _error(
    status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> Response:
    value = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return JSONResponse(value, status, headers)


def status() -> dict[str, Any]:
    """An answer of /v1/status with ten minutes behind it, a hole in them, and two GPUs."""
    rates = [None if 40 <= step < 55 else 60 + 25 * ((step * 7) % 11) / 11 for step in range(120)]
    gpu = {
        "name": "NVIDIA L40S", "uuid": "GPU-8d1b", "memory_used": 31 << 30, "memory_total": 45 << 30,
        "utilization": 87, "temperature": 61, "power_w": 287.5,
    }  # fmt: skip
    return {
        "deployment": "cpu-small", "generation": 3, "version": "0.1.0", "uptime_s": 93784.4,
        "models": [
            {"id": "SmolLM2-135M", "engine": "llamacpp", "context": 4096, "replicas": [
                {"name": "engine-0", "ready": True, "running": 2, "waiting": 0},
                {"name": "engine-1", "ready": False, "running": 0, "waiting": 0},
            ]},
        ],
        "running": 2, "waiting": 1, "limit": 4, "requests": 1204, "errors": 3,
        "prompt_tokens": 345_210, "completion_tokens": 678_120,
        "gpus": [gpu, {**gpu, "uuid": "GPU-77aa", "utilization": None, "power_w": None}],
        "series": {
            "step_s": 5, "end": time.time(), "tokens_per_s": rates,
            "first_token_s": [None if rate is None else 0.2 + (step % 9) / 40 for step, rate in enumerate(rates)],
            "running": [0 if rate is None else 1 + step % 3 for step, rate in enumerate(rates)],
            "waiting": [0 if rate is None else max(0, step % 5 - 3) for step, rate in enumerate(rates)],
        },
    }  # fmt: skip
