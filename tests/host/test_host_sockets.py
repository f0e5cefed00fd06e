"""Probes that ask over sockets: container engines, ports, places."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import host
from deployer.host import Answer, ContainerRuntime, Port, Questions, Unknown
from deployer.host.runtime import runtime
from tests.host.conftest import put

VERSION: dict[str, Any] = {"Version": "28.3.0", "ApiVersion": "1.51", "Components": [{"Name": "Engine"}]}
INFO: dict[str, Any] = {
    "DockerRootDir": "/var/lib/docker",
    "Driver": "overlay2",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "Runtimes": {"runc": {}},
}
SPEC = """\
cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
- name: "0"
- name: GPU-1111
- name: all
"""


@contextmanager
def served(place: str | tuple[str, int], answers: dict[str, Any], status: int = 200) -> Iterator[Any]:
    """An HTTP server at a socket's path or an address, which gives `answers` by path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status if self.path in answers else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return None

    kind = (
        socketserver.ThreadingUnixStreamServer if isinstance(place, str) else socketserver.ThreadingTCPServer
    )
    with kind(place, Handler) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def engine(ask: Questions, version: Any = VERSION, info: Any = INFO, status: int = 200) -> Iterator[None]:
    path = ask.docker.removeprefix("unix://")
    with served(path, {"/version": version, "/info": info}, status):
        yield


def test_no_socket_is_no_runtime(ask: Questions) -> None:
    assert runtime(ask) is None


def test_a_docker_engine(ask: Questions) -> None:
    with engine(ask):
        found = runtime(ask)
    assert found == ContainerRuntime(
        kind="docker",
        version="28.3.0",
        api="1.51",
        root="/var/lib/docker",
        storage_driver="overlay2",
        cgroup="systemd v2",
        rootless=False,
        nvidia_runtime=False,
        cdi_gpus=(),
    )


@pytest.mark.parametrize(
    ("version", "info", "field", "value"),
    [
        pytest.param({"Components": [{"Name": "Podman Engine"}]}, {}, "kind", "podman", id="podman"),
        pytest.param({}, {"SecurityOptions": ["name=rootless"]}, "rootless", True, id="rootless"),
        pytest.param(
            {}, {"Runtimes": {"runc": {}, "nvidia": {}}}, "nvidia_runtime", True, id="nvidia runtime"
        ),
        pytest.param({}, {"Runtimes": None, "SecurityOptions": None}, "nvidia_runtime", False, id="nulls"),
        pytest.param({"Components": None}, {}, "kind", "docker", id="no components"),
    ],
)
def test_facts_of_engines(
    version: dict[str, Any], info: dict[str, Any], field: str, value: object, ask: Questions
) -> None:
    with engine(ask, {**VERSION, **version}, {**INFO, **info}):
        assert getattr(runtime(ask), field) == value


@pytest.mark.parametrize(
    ("files", "names"),
    [
        pytest.param({"nvidia.yaml": SPEC}, ("0", "GPU-1111", "all"), id="yaml"),
        pytest.param(
            {"nvidia.json": '{"kind": "nvidia.com/gpu", "devices": [{"name": "0"}]}'}, ("0",), id="json"
        ),
        pytest.param({"a.yaml": SPEC, "b.yml": SPEC}, ("0", "GPU-1111", "all"), id="twice"),
        pytest.param({"nvidia.yaml.bak": SPEC}, (), id="not a specification"),
        pytest.param({"other.yaml": SPEC.replace("nvidia.com/gpu", "nvidia.com/gds")}, (), id="another kind"),
        pytest.param(
            {"a.yaml": "nvidia.com/gpu: [", "nvidia.yaml": SPEC}, ("0", "GPU-1111", "all"), id="broken"
        ),
        pytest.param({"a.yaml": "kind: nvidia.com/gpu\ndevices: [1]\n"}, (), id="odd"),
    ],
)
def test_cdi_devices(files: dict[str, str], names: tuple[str, ...], ask: Questions, machine: Path) -> None:
    for name, text in files.items():
        put(machine / "cdi" / name, text)
    with engine(ask, info={**INFO, "CDISpecDirs": [str(machine / "cdi"), str(machine / "nowhere")]}):
        found = runtime(ask)
    assert found
    assert found.cdi_gpus == names


def test_the_disk_of_images_is_where_the_engine_says(ask: Questions, machine: Path) -> None:
    with engine(ask, info={**INFO, "DockerRootDir": str(machine / "images")}):
        found = host.probe(ask)
    assert isinstance(found.runtime, ContainerRuntime)
    assert isinstance(found.images_disk, host.Disk)
    assert found.images_disk.path == str(machine)


def test_without_a_runtime_there_is_no_disk_of_images(ask: Questions) -> None:
    found = host.probe(ask)
    assert found.runtime is None
    assert found.images_disk == Unknown("there is no container runtime")


def test_an_engine_that_never_answers_is_unknown_and_the_rest_is_there(ask: Questions) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(ask.docker.removeprefix("unix://"))
        silent.listen()
        begin = time.monotonic()
        found = host.probe(ask)
        took = time.monotonic() - begin
    assert 1 < took < 4
    assert isinstance(found.runtime, Unknown)
    assert "does not answer" in found.runtime.reason or "no answer in" in found.runtime.reason
    assert found.images_disk == found.runtime
    for fact in (found.system, found.cpu, found.memory, found.models_disk, found.engines_disk, found.driver):
        assert not isinstance(fact, Unknown)


def test_a_socket_that_an_ended_engine_left_is_no_runtime(ask: Questions) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(ask.docker.removeprefix("unix://"))
    assert Path(ask.docker.removeprefix("unix://")).is_socket()
    assert runtime(ask) is None


@pytest.mark.parametrize(
    ("version", "status", "reason"),
    [
        pytest.param(VERSION, 500, "answers HTTP 500 to /info", id="HTTP 500"),
        pytest.param(b"not json", 200, "not JSON", id="not JSON"),
        pytest.param([], 200, "AttributeError", id="another shape"),
    ],
)
def test_an_engine_that_answers_nonsense_is_unknown(
    version: Any, status: int, reason: str, ask: Questions
) -> None:
    with engine(ask, version, status=status):
        found = host.probe(ask).runtime
    assert isinstance(found, Unknown)
    assert reason in found.reason


def test_something_that_does_not_speak_http_is_unknown(ask: Questions) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"220 hello\r\n")

    with socketserver.ThreadingUnixStreamServer(ask.docker.removeprefix("unix://"), Other) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = host.probe(ask).runtime
        server.shutdown()
        thread.join()
    assert isinstance(found, Unknown)
    assert "does not speak HTTP" in found.reason


DENIED = """
import os, sys
from pathlib import Path
from deployer.host import Questions, probe
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(probe(Questions(Path("/"), Path("/"), docker=sys.argv[1])).runtime.reason)
"""


@pytest.mark.parametrize("what", ["socket", "folder"])
def test_a_socket_that_this_user_may_not_use_is_unknown(what: str) -> None:
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which another user cannot enter at all
    path = folder / "docker.sock"
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            folder.chmod(0o755)
            (path if what == "socket" else folder).chmod(0)
            asked = subprocess.run(
                [sys.executable, "-c", DENIED, f"unix://{path}"], capture_output=True, text=True, check=False
            )
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert asked.stderr == ""
    assert asked.stdout.strip() == f"this user may not use {path}"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_held_port_names_its_owner(address: str, ask: Questions) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        server.listen()
        number = server.getsockname()[1]
        found = host.probe(replace(ask, proc=Path("/proc"), ports=(number,))).ports[str(number)]
        assert isinstance(found, Port)
        assert not found.free
        assert str(found.owner).endswith(f" (pid {os.getpid()})")
    assert host.port_owner(number) is None


def test_a_port_that_nobody_holds_is_free(ask: Questions) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        number = server.getsockname()[1]
    assert host.probe(replace(ask, ports=(number,))).ports == {str(number): Port(number, True, None)}


def test_the_owner_of_a_port_is_read_from_the_tables_of_the_kernel(ask: Questions, machine: Path) -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    row = "   0: 0100007F:1F40 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4242 1\n"
    put(ask.proc / "net/tcp", head + row.format(state="0A"))
    assert host.port_owner(8000, ask.proc) is None  # somebody else's
    put(ask.proc / "77/comm", "nginx\n")
    (ask.proc / "77/fd").mkdir()
    (ask.proc / "77/fd/3").symlink_to("socket:[4242]")
    assert host.port_owner(8000, ask.proc) == "nginx (pid 77)"
    assert host.port_owner(8001, ask.proc) is None
    put(ask.proc / "net/tcp", head + row.format(state="01"))  # a connection, not a listener
    assert host.port_owner(8000, ask.proc) is None


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_place_that_answers(status: int, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}, status) as (name, port):
        url = f"http://{name}:{port}"
        assert host.probe(replace(ask, urls=(url,))).sources == {url: Answer(url, status)}


def test_a_place_that_does_not_answer_is_unknown(ask: Questions) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert "Connection refused" in found.reason
