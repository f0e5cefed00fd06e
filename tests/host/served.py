"""Servers at real sockets that answer as container engines and places of the network do."""

from __future__ import annotations

import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployer.host import Questions

VERSION: dict[str, Any] = {
    "Platform": {"Name": "Docker Engine - Community"},
    "Version": "28.3.0",
    "ApiVersion": "1.51",
    "MinAPIVersion": "1.24",
    "Components": [
        {"Name": "Engine", "Version": "28.3.0", "Details": {"ApiVersion": "1.51", "Arch": "amd64"}},
        {"Name": "containerd", "Version": "1.7.27", "Details": {"GitCommit": "05044ec"}},
        {"Name": "runc", "Version": "1.2.5", "Details": {"GitCommit": "v1.2.5-0-g59923ef"}},
        {"Name": "docker-init", "Version": "0.19.0", "Details": {"GitCommit": "de40ad0"}},
    ],
}
INFO: dict[str, Any] = {
    "Containers": 2,
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
    "LoggingDriver": "json-file",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "GenericResources": None,
    "DockerRootDir": "/var/lib/docker",
    "HttpProxy": "",
    "HttpsProxy": "",
    "NoProxy": "",
    "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
    "DefaultRuntime": "runc",
    "Swarm": {"NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": ""},
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
}
CONTAINERS: list[dict[str, Any]] = [
    {"Id": "8dfafdbc3a40" + "0" * 52, "Names": ["/deployer-chat-gateway"], "Image": "gateway", "State": "running"},
    {"Id": "9cd87474be90" + "1" * 52, "Names": [], "Image": "other", "State": "running"},
]  # fmt: skip
PODMAN_VERSION: dict[str, Any] = {
    "Platform": {"Name": "linux/amd64/ubuntu-24.04"},
    "Components": [
        {"Name": "Podman Engine", "Version": "4.9.3", "Details": {"APIVersion": "4.9.3"}},
        {"Name": "Conmon", "Version": "conmon version 2.1.10, commit: unknown", "Details": {}},
        {"Name": "OCI Runtime (crun)", "Version": "crun version 1.14.1", "Details": {}},
    ],
    "Version": "4.9.3",
    "ApiVersion": "1.41",
}
PODMAN_INFO: dict[str, Any] = {
    "Driver": "overlay",
    "LoggingDriver": "",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "DockerRootDir": "/home/someone/.local/share/containers/storage",
    "Runtimes": {"crun": {"path": "/usr/bin/crun"}, "runc": {"path": "/usr/bin/runc"}},
    "DefaultRuntime": "crun",
    "Swarm": {"LocalNodeState": "inactive"},
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
}


@dataclass
class Served:
    """Where a server is, and the requests that arrived: method, path and headers."""

    place: Any
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]

    @property
    def port(self) -> int:
        return int(self.place[1])


@contextmanager
def served(
    place: str | tuple[str, int], answers: dict[str, Any], status: int = 200, certificate: Path | None = None
) -> Iterator[Served]:
    """An HTTP server at a socket's path or an address, which gives `answers` by path.

    An answer is JSON, bytes, or a pair of a status and one of both; every other path gets 404.
    """
    found = Served(place)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.seen.append((self.command, self.path, dict(self.headers)))
            said = answers.get(self.path, (404, {"message": "page not found"}))
            code, body = said if isinstance(said, tuple) else (status, said)
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return None

    with running(place, Handler, certificate) as address:
        found.place = address
        yield found


@contextmanager
def running(place: str | tuple[str, int], handler: Any, certificate: Path | None = None) -> Iterator[Any]:
    """A server that answers each connection with `handler`, over TLS where it has a certificate."""
    kind: Any = (
        socketserver.ThreadingUnixStreamServer if isinstance(place, str) else socketserver.ThreadingTCPServer
    )
    with kind(place, handler) as server:
        server.handle_error = lambda *_: None  # a client that trusts nobody hangs up
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()
            if isinstance(place, str):
                Path(place).unlink()


@contextmanager
def engine(
    ask: Questions,
    version: Any = VERSION,
    info: Any = INFO,
    containers: Any = (),
    status: int = 200,
    **images: Any,
) -> Iterator[Served]:
    """A container engine at the socket of `ask`; `images` are answers by reference."""
    answers = {
        "/version": version,
        "/info": info,
        "/containers/json": containers if isinstance(containers, tuple) and containers else list(containers),
        **{f"/images/{name}/json": answer for name, answer in images.items()},
    }
    with served(ask.docker.removeprefix("unix://"), answers, status) as found:
        yield found
