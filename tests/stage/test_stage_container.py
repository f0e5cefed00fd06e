"""The fake libraries inside a container of a real engine, given through a CDI specification as a real GPU is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.stage.conftest import docker

pytestmark = pytest.mark.docker

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
