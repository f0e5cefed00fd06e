"""Container engines, asked over real sockets."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import host
from deployer.host import ContainerRuntime, Questions, Unknown
from deployer.host.runtime import present, runtime
from tests.host.conftest import as_nobody, put
from tests.host.served import CONTAINERS, INFO, PODMAN_INFO, PODMAN_VERSION, VERSION, engine, running, served

DOCKER = ContainerRuntime(
    kind="docker",
    version="28.3.0",
    api="1.51",
    root="/var/lib/docker",
    storage_driver="overlay2",
    cgroup="systemd v2",
    rootless=False,
    nvidia_runtime=False,
    cdi_gpus=(),
    cdi=True,
    cdi_folders=("/etc/cdi", "/var/run/cdi"),
    runtimes=("io.containerd.runc.v2", "runc"),
    default_runtime="runc",
    log_driver="json-file",
    logs_limited=False,
    proxies={},
    swarm=False,
    generic_resources=(),
    containers={"8dfafdbc3a40": "deployer-chat-gateway", "9cd87474be90": ""},
    components={"Engine": "28.3.0", "containerd": "1.7.27", "runc": "1.2.5", "docker-init": "0.19.0"},
    security=("name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"),
    buildx=False,
    remote=False,
)
PODMAN = ContainerRuntime(
    kind="podman",
    version="4.9.3",
    api="1.41",
    root="/home/someone/.local/share/containers/storage",
    storage_driver="overlay",
    cgroup="systemd v2",
    rootless=True,
    nvidia_runtime=False,
    cdi_gpus=(),
    cdi=True,
    cdi_folders=("/etc/cdi", "/var/run/cdi"),
    runtimes=("crun", "runc"),
    default_runtime="crun",
    log_driver="",
    logs_limited=None,
    proxies={},
    swarm=False,
    generic_resources=(),
    containers={},
    components={
        "Podman Engine": "4.9.3",
        "Conmon": "conmon version 2.1.10, commit: unknown",
        "OCI Runtime (crun)": "crun version 1.14.1",
    },
    security=("name=seccomp,profile=default", "name=rootless"),
    buildx=False,
    remote=False,
)
SPEC = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: '0'\n- name: GPU-1111\n- name: all\n"


def test_no_socket_is_no_runtime(ask: Questions) -> None:
    assert runtime(ask) is None


def test_a_docker_engine(ask: Questions) -> None:
    with engine(ask, containers=CONTAINERS):
        assert runtime(ask) == DOCKER


def test_a_podman_engine(ask: Questions) -> None:
    with engine(ask, PODMAN_VERSION, PODMAN_INFO):
        assert runtime(ask) == PODMAN


def test_an_engine_that_says_next_to_nothing(ask: Questions) -> None:
    with engine(ask, {}, {}):
        found = runtime(ask)
    assert isinstance(found, ContainerRuntime)
    assert (found.kind, found.cdi, found.runtimes, found.cgroup) == ("docker", False, (), " v")


@pytest.mark.parametrize(
    ("version", "info", "field", "value"),
    [
        pytest.param({}, {"SecurityOptions": ["name=rootless"]}, "rootless", True, id="rootless"),
        pytest.param(
            {}, {"Runtimes": {"runc": {}, "nvidia": {}}}, "nvidia_runtime", True, id="nvidia runtime"
        ),
        pytest.param({}, {"Runtimes": None, "SecurityOptions": None}, "nvidia_runtime", False, id="nulls"),
        pytest.param({"Components": None}, {}, "components", {}, id="no components"),
        pytest.param({}, {"DefaultRuntime": "nvidia"}, "default_runtime", "nvidia", id="default runtime"),
        pytest.param({}, {"CDISpecDirs": None}, "cdi", False, id="no CDI"),
        pytest.param({}, {"CDISpecDirs": ["/etc/cdi"]}, "cdi_folders", ("/etc/cdi",), id="a CDI folder"),
        pytest.param({}, {"LoggingDriver": "local"}, "logs_limited", True, id="local logs end"),
        pytest.param({}, {"LoggingDriver": "journald"}, "logs_limited", None, id="logs elsewhere"),
        pytest.param({}, {"Swarm": {"LocalNodeState": "active"}}, "swarm", True, id="swarm"),
        pytest.param({}, {"Swarm": {"LocalNodeState": "pending"}}, "swarm", False, id="not yet a swarm"),
        pytest.param({}, {"Swarm": None}, "swarm", False, id="no word of a swarm"),
        pytest.param(
            {},
            {"HttpProxy": "http://proxy:3128", "HttpsProxy": "http://proxy:3129", "NoProxy": "localhost,.corp"},
            "proxies",
            {"http": "http://proxy:3128", "https": "http://proxy:3129", "no": "localhost,.corp"},
            id="proxies",
        ),
        pytest.param(
            {},
            {"HttpsProxy": "http://someone:secret@proxy:3129"},
            "proxies",
            {"https": "http://proxy:3129"},
            id="a proxy with a password",
        ),
    ],
)  # fmt: skip
def test_facts_of_engines(
    version: dict[str, Any], info: dict[str, Any], field: str, value: object, ask: Questions
) -> None:
    with engine(ask, {**VERSION, **version}, {**INFO, **info}):
        assert getattr(runtime(ask), field) == value


@pytest.mark.parametrize(
    ("settings", "limited", "resources"),
    [
        pytest.param(None, False, (), id="no file"),
        pytest.param("", False, (), id="an empty file"),
        pytest.param('{"log-opts": {"max-size": "10m"}}', True, (), id="logs with an end"),
        pytest.param('{"log-opts": {"max-file": "3"}}', False, (), id="many logs without an end"),
        pytest.param('{"log-opts": null}', False, (), id="null"),
        pytest.param(
            '{"node-generic-resources": ["gpu=GPU-1", "gpu=GPU-2"]}', False, ("gpu=GPU-1", "gpu=GPU-2"), id="gpus"
        ),
        pytest.param(
            "[]", Unknown("daemon.json is no object"), Unknown("daemon.json is no object"), id="no object"
        ),
    ],
)  # fmt: skip
def test_the_settings_of_the_engine(
    settings: str | None, limited: object, resources: object, ask: Questions
) -> None:
    if settings is not None:
        put(ask.etc / "docker/daemon.json", settings)
    with engine(ask):
        found = runtime(ask)
    assert found
    assert (found.logs_limited, found.generic_resources) == (limited, resources)


@pytest.mark.parametrize("text", ['{"log-opts": ', "\\x00", b"\xff"])
def test_broken_settings_spoil_only_what_is_read_from_them(text: str | bytes, ask: Questions) -> None:
    put(ask.etc / "docker/daemon.json", text)
    with engine(ask, containers=CONTAINERS):
        found = runtime(ask)
    assert found
    assert isinstance(found.logs_limited, Unknown)
    assert found.logs_limited.reason.startswith("daemon.json: ")
    assert found == replace(
        DOCKER, logs_limited=found.logs_limited, generic_resources=found.generic_resources
    )
    with engine(ask, info={**INFO, "LoggingDriver": "local"}):
        assert getattr(runtime(ask), "logs_limited", None) is True


@pytest.mark.parametrize(
    ("containers", "found"),
    [
        pytest.param((500, {"message": "no"}), "answers HTTP 500 to /containers/json", id="HTTP 500"),
        pytest.param((404, {}), "answers HTTP 404 to /containers/json", id="HTTP 404"),
        pytest.param((200, b"not json"), "not JSON", id="not JSON"),
        pytest.param((200, None), {}, id="null"),
        pytest.param((200, []), {}, id="none"),
        pytest.param(
            (200, [{"Id": "a" * 64, "Names": None}, {"Id": "b" * 64, "Names": ["/x", "/y/x"]}]),
            {"a" * 12: "", "b" * 12: "x"},
            id="names",
        ),
    ],
)
def test_a_list_of_containers_that_fails_leaves_the_rest(
    containers: tuple[int, Any], found: object, ask: Questions
) -> None:
    with engine(ask, containers=containers):
        said = runtime(ask)
    assert said
    if isinstance(found, str):
        assert isinstance(said.containers, Unknown)
        assert found in said.containers.reason
    else:
        assert said.containers == found
    assert replace(said, containers=DOCKER.containers) == DOCKER


PLACES = ["usr/libexec/docker", "usr/lib/docker", "usr/local/lib/docker", "usr/local/libexec/docker"]


@pytest.mark.parametrize("place", [*PLACES, "home/me/.docker"])
def test_the_places_of_buildx(place: str, ask: Questions) -> None:
    put(
        ask.etc / "passwd",
        f"you:x:{os.geteuid() + 1}:1::/home/you:/bin/sh\nme:x:{os.geteuid()}:1::/home/me:/bin/sh\n",
    )
    put(ask.root / "home/you/.docker/cli-plugins/docker-buildx", "", 0o755)
    with engine(ask):
        assert getattr(runtime(ask), "buildx", None) is False
        put(ask.root / place / "cli-plugins/docker-buildx", "", 0o755)
        assert getattr(runtime(ask), "buildx", None) is True


@pytest.mark.parametrize(
    ("files", "names"),
    [
        pytest.param({"nvidia.yaml": SPEC}, ("0", "GPU-1111", "all"), id="yaml"),
        pytest.param({"a.yaml": SPEC, "b.yml": SPEC}, ("0", "GPU-1111", "all"), id="twice"),
        pytest.param(
            {"a.yaml": SPEC, "b.yaml": SPEC.replace("'0'", "'1'")}, ("0", "GPU-1111", "all", "1"), id="two files"
        ),
        pytest.param({"a.yaml": SPEC.replace("com/gpu", "com/gds")}, (), id="another kind"),
        pytest.param({"a.yaml": "nvidia.com/gpu: [", "b.yaml": SPEC}, ("0", "GPU-1111", "all"), id="broken"),
    ],
)  # fmt: skip
def test_cdi_devices_are_those_of_the_folders_that_the_engine_reads(
    files: dict[str, str], names: tuple[str, ...], ask: Questions
) -> None:
    for name, text in files.items():
        put(ask.root / "srv/cdi" / name, text)
    put(ask.etc / "cdi/nvidia.yaml", SPEC.replace("'0'", "not-read"))
    with engine(ask, info={**INFO, "CDISpecDirs": ["/srv/cdi", "/nowhere"]}):
        assert getattr(runtime(ask), "cdi_gpus", None) == names


def test_an_engine_without_cdi_has_no_devices(ask: Questions) -> None:
    put(ask.etc / "cdi/nvidia.yaml", SPEC)
    with engine(ask, info={**INFO, "CDISpecDirs": []}):
        assert getattr(runtime(ask), "cdi_gpus", None) == ()
    with engine(ask, PODMAN_VERSION, PODMAN_INFO):
        assert getattr(runtime(ask), "cdi_gpus", None) == ("0", "GPU-1111", "all")


def test_an_engine_on_another_machine(ask: Questions) -> None:
    put(
        ask.etc / "docker/daemon.json",
        '{"log-opts": {"max-size": "10m"}, "node-generic-resources": ["gpu=1"]}',
    )
    answers = {"/version": VERSION, "/info": INFO, "/containers/json": CONTAINERS}
    elsewhere = Unknown("the container runtime is on another machine")
    with served(("0.0.0.0", 0), answers) as server:
        own = runtime(replace(ask, docker=f"tcp://127.0.0.1:{server.port}"))
        found = host.probe(
            replace(ask, docker=f"tcp://0.0.0.0:{server.port}")
        )  # an address that is not loopback's
    assert own is not None and (own.remote, own.generic_resources) == (False, ("gpu=1",))
    assert found.runtime == replace(
        DOCKER, remote=True, logs_limited=elsewhere, generic_resources=elsewhere
    )  # this machine's settings are not the engine's
    assert found.images_disk == elsewhere


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("tcp://127.0.0.1", "tcp://127.0.0.1", id="no port"),
        pytest.param("tcp://127.0.0.1:port", "tcp://127.0.0.1:port", id="a word for a port"),
        pytest.param("ssh://box", "only unix:// and tcp:// addresses can be asked", id="ssh"),
        pytest.param("/var/run/docker.sock", "only unix:// and tcp:// addresses can be asked", id="a path"),
    ],
)
def test_an_address_that_cannot_be_asked_is_unknown(address: str, reason: str, ask: Questions) -> None:
    found = host.probe(replace(ask, docker=address, images={"a": "a:1"}))
    assert isinstance(found.runtime, Unknown)
    assert reason in found.runtime.reason
    assert isinstance(found.images["a"], Unknown)


IMAGE = "ghcr.io/someone/deployer/gateway:cpu"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        pytest.param({"Id": "sha256:1", "RepoTags": [IMAGE]}, True, id="there"),
        pytest.param((404, {"message": f"No such image: {IMAGE}"}), False, id="absent"),
    ],
)
def test_whether_an_image_is_there(answer: Any, found: bool, ask: Questions) -> None:
    with engine(ask, **{IMAGE: answer}):
        assert present(IMAGE, ask) is found


def test_an_image_is_asked_for_by_its_digest(ask: Questions) -> None:
    digest = "@sha256:" + "0" * 64
    with engine(ask, **{IMAGE + digest.replace("@", "%40"): {}}) as server:
        assert present(IMAGE + digest, ask)
    assert len(server.paths) == 1


def test_an_engine_that_fails_at_an_image_does_not_say_that_it_is_absent(ask: Questions) -> None:
    with engine(ask, **{"a:1": (500, {}), "b:1": {}, "c:1": (404, {})}):
        found = host.probe(replace(ask, images={"a": "a:1", "b": "b:1", "c": "c:1"})).images
    assert isinstance(found["a"], Unknown)
    assert "answers HTTP 500 to /images/a:1/json" in found["a"].reason
    assert (found["b"], found["c"]) == (True, False)


def test_a_socket_that_an_ended_engine_left_is_no_runtime(ask: Questions) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(ask.docker.removeprefix("unix://"))
    assert Path(ask.docker.removeprefix("unix://")).is_socket()
    assert runtime(ask) is None


@pytest.mark.parametrize(
    ("version", "info", "reason"),
    [
        pytest.param((500, {}), INFO, "answers HTTP 500 to /version", id="HTTP 500"),
        pytest.param(VERSION, (403, {}), "answers HTTP 403 to /info", id="HTTP 403"),
        pytest.param(b"not json", INFO, "not JSON", id="not JSON"),
        pytest.param([], INFO, "AttributeError", id="another shape"),
        pytest.param(VERSION, {**INFO, "Runtimes": 7}, "TypeError", id="a number for runtimes"),
    ],
)
def test_an_engine_that_answers_nonsense_is_unknown(
    version: Any, info: Any, reason: str, ask: Questions
) -> None:
    with engine(ask, version, info):
        found = host.probe(ask).runtime
    assert isinstance(found, Unknown)
    assert reason in found.reason


def test_something_that_does_not_speak_http_is_unknown(ask: Questions) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"220 hello\r\n")

    with running(ask.docker.removeprefix("unix://"), Other):
        found = host.probe(ask).runtime
    assert isinstance(found, Unknown)
    assert "does not speak HTTP" in found.reason


@pytest.mark.parametrize("what", ["socket", "folder"])
def test_a_socket_that_this_user_may_not_use_is_unknown(what: str, open_folder: Path) -> None:
    path = open_folder / "docker.sock"
    code = "print(probe(Questions(Path('/'), Path('/'), docker=sys.argv[1])).runtime.reason)"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        (path if what == "socket" else open_folder).chmod(0)
        assert as_nobody(code, f"unix://{path}") == f"this user may not use {path}"


def test_the_engine_of_this_machine(ask: Questions) -> None:
    here = replace(
        ask, docker="unix:///var/run/docker.sock", root=Path("/"), images={"this": "nobody/has-this:ever"}
    )
    try:
        said = subprocess.run(
            ["docker", "version", "--format", "{{json .Server}}"], capture_output=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no engine: {error}")
    found = runtime(here)
    assert isinstance(found, ContainerRuntime)
    assert found.version == json.loads(said.stdout)["Version"]
    assert found.runtimes and isinstance(found.runtimes, tuple)
    assert found.default_runtime in found.runtimes
    assert not isinstance(found.containers, Unknown)
    assert host.probe(here).images == {"this": False}
