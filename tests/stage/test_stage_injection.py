"""GPUs given to an engine's container by UUID, through CDI, and the limits that several GPUs ask for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.home import Home
from deployer.runtimes import DockerRuntime, Launch, Part
from tests.servers import unused_port
from tests.stage.conftest import docker
from tests.stage.stage import Stage

pytestmark = pytest.mark.docker
SOCKET = "unix:///var/run/docker.sock"
# What a program inside sees; the specification of a described GPU names it in STAGE_GPU.
LOOK = """
import ctypes, json, os, resource, sys
nvml = ctypes.CDLL("libnvidia-ml.so.1")
assert nvml.nvmlInit_v2() == 0
limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name.upper())) for name in ("memlock", "stack")}
shm = os.statvfs("/dev/shm")
gpu, order = os.environ["STAGE_GPU"], os.environ["CUDA_DEVICE_ORDER"]
print("said " + json.dumps({"gpu": gpu, "order": order, "uid": os.getuid(),
                  "shm": shm.f_blocks * shm.f_frsize, **limits}))
"""


@pytest.fixture
def python() -> str:
    """An image with Python and no entry point of its own."""
    name = str(images.tag("python", "3.11"))
    if name not in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        pytest.skip(f"{name} is not here; deployer build python:3.11 makes it")
    return name


def ran(runtime: DockerRuntime, image: str, *gpus: str) -> dict[str, Any]:
    arguments = ("python3", "python3", "-c", LOOK)
    part = Part("engine", arguments, image=image, gpus=gpus, gpu_injection="cdi" if gpus else None)
    launch = Launch("small", 1, unused_port(), (part,))
    try:
        runtime.start(launch)
        deadline = time.monotonic() + 60
        while not (said := [line for line in runtime.logs("small") if line.startswith("said ")]):
            assert time.monotonic() < deadline, list(runtime.logs("small"))
            time.sleep(0.1)
        (about,) = runtime.about("small")
        (line,) = [one for one in runtime.commands(launch) if one.startswith("docker run ")]
        found: dict[str, Any] = {**json.loads(said[0][5:]), "gpus": about.gpus, "line": line}
        return found
    finally:
        runtime.stop("small")


def test_one_gpu_is_given_by_its_uuid(
    stage: Callable[[Any], Stage], device: Callable[[Any], str], python: str, tmp_path: Path
) -> None:
    place = stage("2x-rtx-3090")
    device(place)
    _, second = [gpu["uuid"] for gpu in json.loads(place.description.read_text())["gpus"]]
    found = ran(DockerRuntime(Home(tmp_path / "home"), SOCKET), python, second)
    assert second.startswith("GPU-") and found["gpu"] == second
    assert found["gpus"] == (f"nvidia.com/gpu={second}",) and f"--device nvidia.com/gpu={second}" in found["line"]
    assert found["order"] == "PCI_BUS_ID" and found["uid"] != 0
    assert found["shm"] == 64 << 20 and "--ulimit" not in found["line"], "as every container"


def test_several_gpus_share_memory_and_may_lock_it(
    stage: Callable[[Any], Stage], device: Callable[[Any], str], python: str, tmp_path: Path
) -> None:
    place = stage("2x-rtx-3090")
    device(place)
    uuids = [gpu["uuid"] for gpu in json.loads(place.description.read_text())["gpus"]]
    found = ran(DockerRuntime(Home(tmp_path / "home"), SOCKET), python, *uuids)
    assert found["gpus"] == tuple(f"nvidia.com/gpu={uuid}" for uuid in uuids)
    assert found["shm"] == 2 * (512 << 20)
    if lifts(python):
        assert found["memlock"] == [-1, -1] and found["stack"] == [64 << 20, 64 << 20]
    assert ("--ulimit memlock=-1:-1 --ulimit stack=67108864:67108864" in found["line"]) is lifts(python)


def lifts(image: str) -> bool:
    """Whether this engine may raise limits; one that is in a container itself may not."""
    try:
        docker("run", "--rm", "--network", "none", "--ulimit", "memlock=-1:-1", "--entrypoint", "true", image)
    except OSError as error:
        assert "setting rlimit" in str(error)
        return False
    return True
