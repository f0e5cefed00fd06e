"""The fake libraries inside a container of a real engine, given through a CDI specification as a real GPU is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stage.stage import LIBRARIES, Stage

pytestmark = pytest.mark.docker

SPECIFICATION = "deployer-stage.json"
INSIDE = "/usr/lib/x86_64-linux-gnu"

ASK = """
import ctypes, json
nvml, cuda = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.CDLL("libcuda.so.1")
assert nvml.nvmlInit_v2() == 0
count, handle, name = ctypes.c_uint(), ctypes.c_void_p(), ctypes.create_string_buffer(96)
assert nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0
assert nvml.nvmlDeviceGetName(handle, name, 96) == 0
version = ctypes.c_int()
cuda.cuDriverGetVersion(ctypes.byref(version))
print(json.dumps({"count": count.value, "name": name.value.decode(), "cuda": version.value, "init": cuda.cuInit(0)}))
"""


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise OSError(done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def folder() -> Path:
    """A folder of CDI specifications that the engine reads and this user may write."""
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
    except (OSError, ValueError) as error:
        pytest.skip(f"no Docker Engine: {error}")
    folders = [Path(name) for name in info.get("CDISpecDirs") or ()]
    if any("nvidia.com/gpu" in path.read_text() for f in folders for path in f.glob("*.[jy]*")):
        pytest.skip("the engine has real GPUs")
    for name in folders:
        if os.access(name if name.is_dir() else name.parent, os.W_OK):
            return name
    pytest.skip("the engine reads no CDI folder that this user may write")


@pytest.fixture(scope="module")
def image() -> str:
    """A local image with Python that runs programs built here."""
    if os.uname().machine != "x86_64":
        pytest.skip("the images are for x86_64")
    names = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for name in names:
        if name.startswith(("deployer/gateway:", "deployer/transformers:")):
            return name
    pytest.skip("there is no local image with Python; `deployer up` makes one")


@pytest.fixture
def device(
    folder: Path, built: Path, stage: Callable[[Any], Stage], tmp_path: Path
) -> Iterator[Callable[[str], str]]:
    """Makes the GPUs of a described host those of the engine; gives the name of all of them."""
    made = folder.is_dir()
    path = folder / SPECIFICATION

    def give(name: str) -> str:
        place = stage(name)
        # Copies, so that one folder holds all that is mounted.
        files = tmp_path / "given"
        files.mkdir()
        for library in (LIBRARIES["nvml"], LIBRARIES["cuda"]):
            shutil.copy(built / library, files / library)
        shutil.copy(place.description, files / "host.json")
        mounts = [(files / LIBRARIES[n], f"{INSIDE}/{LIBRARIES[n]}") for n in ("nvml", "cuda")]
        mounts.append((files / "host.json", "/etc/stage.json"))
        edits = {
            "env": ["STAGE_HOST=/etc/stage.json"],
            "mounts": [
                {"hostPath": str(here), "containerPath": there, "options": ["ro", "nosuid", "nodev", "bind"]}
                for here, there in mounts
            ],
        }
        names = [*(str(n) for n in range(len(place.said["gpus"]))), "all"]
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "cdiVersion": "0.5.0",
                    "kind": "nvidia.com/gpu",
                    "devices": [{"name": n, "containerEdits": {"env": [f"STAGE_GPU={n}"]}} for n in names],
                    "containerEdits": edits,
                }
            )
        )
        return "nvidia.com/gpu"

    yield give
    path.unlink(missing_ok=True)
    if not made and folder.is_dir():
        folder.rmdir()


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("h100", "0", {"count": 1, "name": "NVIDIA H100 80GB HBM3", "cuda": 13000, "init": 0}),
        ("2x-rtx-3090", "all", {"count": 2, "name": "NVIDIA GeForce RTX 3090", "cuda": 13000, "init": 0}),
        (
            "forward-compat-geforce",
            "0",
            {"count": 1, "name": "NVIDIA GeForce RTX 4090", "cuda": 12040, "init": 804},
        ),
    ],
)
def test_a_container_sees_the_described_gpus(
    name: str, number: str, expected: dict[str, Any], image: str, device: Callable[[str], str]
) -> None:
    kind = device(name)
    said = docker("run", "--rm", "--network", "none", "--user", "0", "--device", f"{kind}={number}",
                  "--entrypoint", "python3", image, "-c", ASK)  # fmt: skip
    assert json.loads(said) == expected


def test_a_device_that_is_not_there_is_refused(image: str, device: Callable[[str], str]) -> None:
    kind = device("h100")
    with pytest.raises(OSError, match="unresolvable CDI devices"):
        docker("run", "--rm", "--network", "none", "--device", f"{kind}=7", "--entrypoint", "true", image)
