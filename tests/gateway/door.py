"""A gateway as its own process, in front of engines that the test plays."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import Handler, Server, unused_port, wait_until

KEY = "sk-right"
OUTER = "small"
INNER = "/models/small-0123456789ab/é/model.gguf"
BEARER = {"Authorization": f"Bearer {KEY}"}
CHAT = "/v1/chat/completions"


class Engine(Server):
    """The upstream; `play` answers completions. `seen` has no looks at its health."""

    def __init__(self) -> None:
        super().__init__()
        self.healthy = True
        self.play: Callable[[Handler], None] = answer_at_once

    def answer(self, handler: Handler) -> None:
        if handler.path == "/health":  # asked all the time, by itself
            self.seen.remove(handler.seen)
            handler.whole(200 if self.healthy else 503, b'{"status": "loading model"}')
        else:
            self.play(handler)


def answer_at_once(handler: Handler) -> None:
    value = {"object": "chat.completion", "model": INNER, "choices": [{"message": {"content": "Paris."}}]}
    handler.whole(200, json.dumps(value).encode())


PATHS = [CHAT, "/v1/completions", "/v1/responses"]


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def replica(url: str, name: str = "engine", **more: Any) -> dict[str, Any]:
    return {"name": name, "url": url, "model": INNER, "slots": 100, **more}


def model(*replicas: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": OUTER, "engine": "llamacpp", "context": 4096, "paths": PATHS, "replicas": replicas, **more}


def configure(folder: Path, *models: dict[str, Any], keys: list[dict[str, Any]] | None = None, **more: Any) -> None:
    """Writes the configuration as `up` does: aside, then renamed."""
    folder.mkdir(exist_ok=True)
    owner = [{"name": "owner", "hash": hashed(KEY)}]
    for name, value in (
        ("keys.json", {"keys": owner if keys is None else keys}),
        ("gateway.json", {"deployment": "test", "generation": 1, "models": models, **more}),
    ):
        (folder / "aside").write_text(json.dumps(value))
        (folder / "aside").replace(folder / name)


@contextmanager
def gateway(folder: Path, *arguments: str, log: Any = subprocess.DEVNULL) -> Iterator[str]:
    """The address of a running gateway."""
    port = unused_port()
    child = subprocess.Popen(
        [*(sys.executable, "-m", "deployer.gateway"), *("--config", str(folder), "--port", str(port), *arguments)],
        stdout=log,
    )

    def listens() -> bool:
        assert child.poll() is None, "the gateway ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
