"""Debian's docker-registry, the real one, on this machine: open, with names and passwords, or with tokens."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import Handler, Server, unused_port, wait_until

USER, WORD = "alice", "correct horse"
HTPASSWD = f"{USER}:$2b$04$1XRlRg7Je/QLCDoGwNAD4uSOzBsj6ZftN1XDoqB.I7A0g0JGv0E4u\n"  # bcrypt of WORD


class Registry:
    """A registry that runs: its address as `host:port`, and where it keeps its blobs."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder

    def blob(self, sha256: str) -> Path:
        return self.folder / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"

    @property
    def uploads(self) -> int:
        """Bytes of uploads under way, or broken off."""
        return sum(path.stat().st_size for path in self.folder.rglob("_uploads/*/data"))


@contextlib.contextmanager
def registry(folder: Path, host: str = "127.0.0.1", **auth: Any) -> Iterator[Registry]:
    """An empty registry below `folder`; `auth` is a part of its settings of this name."""
    if not shutil.which("docker-registry"):
        reason = "docker-registry is not installed: apt-get install docker-registry"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    address = f"{host}:{unused_port()}"
    settings: dict[str, Any] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}, "delete": {"enabled": True}},
        "http": {"addr": address},
        "log": {"level": "error"},
        **({"auth": auth} if auth else {}),
    }
    path = folder / "registry.yml"
    path.write_text(json.dumps(settings))
    with (folder / "registry.log").open("w") as log:
        child = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(address))
            yield Registry(address, folder / "registry")
        finally:
            child.terminate()
            child.wait(timeout=10)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/", trust_env=False).status_code in (200, 401)
    except httpx.TransportError:
        return False


def htpasswd(folder: Path) -> dict[str, Any]:
    """Settings of a registry that wants USER and WORD."""
    path = folder / "htpasswd"
    path.write_text(HTPASSWD)
    return {"htpasswd": {"realm": "here", "path": str(path)}}


def config(folder: Path, address: str, user: str = USER, word: str = WORD) -> Path:
    """What `docker login` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{user}:{word}".encode()).decode()
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    return path


class Tokens(Server):
    """What gives tokens for a registry, as Docker's specification of them has it: RS256, its certificate inside.

    Whoever brings USER and WORD may push; everybody may pull from `open/…`. `given` are the scopes that were asked for.
    `ill` is how many times it gives no token, once it gave the first.
    """

    def __init__(self, folder: Path, lasts: float = 60) -> None:
        if not shutil.which("openssl"):
            reason = "openssl is not installed: apt-get install openssl"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        super().__init__()
        self._folder, self._lasts = folder, lasts
        self.given: list[tuple[str, str]] = []
        self.ill = 0
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "2",
             "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
            check=True, capture_output=True,
        )  # fmt: skip

    def __enter__(self) -> Tokens:
        super().__enter__()
        return self

    @property
    def settings(self) -> dict[str, Any]:
        bundle = str(self._folder / "certificate.pem")
        about = {"realm": f"{self.url}/token", "service": "a registry", "issuer": "me", "rootcertbundle": bundle}
        return {"token": about}

    def answer(self, handler: Handler) -> None:
        if self.ill and self.given:
            self.ill -= 1
            return handler.whole(503, b"{}")
        query = httpx.URL(handler.path).params
        _, name, actions = query["scope"].split(":")
        basic = "Basic " + base64.b64encode(f"{USER}:{WORD}".encode()).decode()
        known = handler.seen.headers.get("authorization") == basic
        if "authorization" in handler.seen.headers and not known:
            return handler.whole(401, b'{"errors": []}')
        may = actions.split(",") if known else ["pull"] if name.startswith("open/") else []
        self.given.append((query["scope"], USER if known else ""))
        token = self._token(query["service"], name, may)
        return handler.whole(200, json.dumps({"token": token, "expires_in": self._lasts}).encode())

    def _token(self, service: str, name: str, may: list[str]) -> str:
        lines = (self._folder / "certificate.pem").read_text().splitlines()
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(line for line in lines if "--" not in line)]}
        said = {
            "iss": "me", "sub": "", "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now,
            "jti": os.urandom(8).hex(),
            "access": [{"type": "repository", "name": name, "actions": may}] if may else [],
        }  # fmt: skip
        text = f"{_coded(json.dumps(head).encode())}.{_coded(json.dumps(said).encode())}"
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._folder / "key.pem"],
            input=text.encode(), check=True, capture_output=True,
        )  # fmt: skip
        return f"{text}.{_coded(signed.stdout)}"


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
