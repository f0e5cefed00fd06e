"""A container engine and places of the network, played by small servers as the real ones answer."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.stage.describe import Description

PLAIN = ("deb.debian.org",)  # Debian's archive signs what it serves


@contextmanager
def engine(said: dict[str, Any] | None, place: Path) -> Iterator[None]:
    """The engine at the socket `place`. Its state is `ok`, `hang` (never answers), `refuse` (a socket that an
    ended daemon left), `denied` (libc.c says so) or, for `said` None, that there is none."""
    if said is None:
        yield
    elif said["state"] in ("hang", "refuse"):
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.bind(str(place))
            if said["state"] == "hang":
                waiting.listen(16)
            yield
    else:
        with _serving(socketserver.ThreadingUnixStreamServer, str(place), lambda path: _answer(said, path)):
            yield


@contextmanager
def network(said: Description, certificate: Path) -> Iterator[dict[str, int]]:
    """Places that answer with the status described, over TLS unless named in `PLAIN`, and the port of each.

    A status of None: the name is not known here. 0: the question for the name is never answered, port 0."""
    with ExitStack() as stack:
        ports = {}
        for name, status in said["network"].items():
            if status is None:
                continue
            ports[name] = 0
            if status:
                server = stack.enter_context(
                    _serving(
                        socketserver.ThreadingTCPServer,
                        ("127.0.0.1", 0),
                        lambda path, status=status: (status, b""),
                        None if name in PLAIN else certificate,
                    )
                )
                ports[name] = server.server_address[1]
        yield ports


@contextmanager
def _serving(kind: Any, place: Any, answer: Any, certificate: Path | None = None) -> Iterator[Any]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return None

    kind.allow_reuse_address, kind.daemon_threads = True, True
    with kind(place, Handler) as server:
        server.handle_error = lambda *_: None  # who asked may have been ended
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _answer(said: dict[str, Any], path: str) -> tuple[int, bytes]:
    if path == "/version":
        return _json(_version(said))
    if path == "/info":
        return _json(_info(said))
    if path == "/containers/json":
        return _json(
            [{"Id": i, "Names": [f"/{n}"], "State": "running"} for i, n in said["containers"].items()]
        )
    if path.startswith("/images/") and path.endswith("/json"):
        name = path.removeprefix("/images/").removesuffix("/json")
        if any(name.startswith(image) for image in said["images"]):
            return _json({"Id": "sha256:" + "0" * 64, "RepoTags": [name]})
        return _json({"message": f"No such image: {name}"}, 404)
    return _json({"message": "page not found"}, 404)


def _json(value: Any, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


def _version(said: dict[str, Any]) -> dict[str, Any]:
    name = "Podman Engine" if said["kind"] == "podman" else "Engine"
    parts = {name: said["version"], **said["components"]}
    return {
        "Platform": {"Name": "Docker Engine - Community" if said["kind"] == "docker" else "linux/amd64"},
        "Components": [{"Name": n, "Version": v, "Details": {}} for n, v in parts.items()],
        "Version": said["version"],
        "ApiVersion": said["api"],
        "MinAPIVersion": "1.24",
        "Os": "linux",
    }


def _info(said: dict[str, Any]) -> dict[str, Any]:
    proxies = said.get("proxies", {})
    found = {
        "DockerRootDir": said["root"],
        "Driver": said["storage"],
        "CgroupDriver": said["cgroup_driver"],
        "CgroupVersion": said["cgroup_version"],
        "LoggingDriver": said["log_driver"],
        "Runtimes": {name: {"path": name} for name in said["runtimes"]},
        "DefaultRuntime": said["default_runtime"],
        "SecurityOptions": said["security"],
        "Swarm": {"NodeID": "", "LocalNodeState": "active" if said["swarm"] else "inactive"},
        "HttpProxy": proxies.get("http", ""),
        "HttpsProxy": proxies.get("https", ""),
        "NoProxy": proxies.get("no", ""),
        "OSType": "linux",
        "GenericResources": None,
        "Warnings": None,
    }
    if said["cdi_folders"]:  # no such entry where CDI is switched off, nor from Podman
        found["CDISpecDirs"] = said["cdi_folders"]
    return found
