"""The stage itself: the whole program on described hosts, calls that fail or hang, and the fake libcuda."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from deployer.host import Unknown
from tests.stage import describe
from tests.stage.stage import Stage, environment, look, run

Enter = Callable[[Any], Stage]

# Every function of a device that the probe may ask for; a handle is needed to ask any of them.
FUNCTIONS = """
nvmlDeviceGetName nvmlDeviceGetUUID nvmlDeviceGetTemperature
nvmlDeviceGetMemoryInfo nvmlDeviceGetMemoryInfo_v2 nvmlDeviceGetPciInfo_v3 nvmlDeviceGetCudaComputeCapability
nvmlDeviceGetArchitecture nvmlDeviceGetBrand nvmlDeviceGetMigMode nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetEccMode
nvmlDeviceGetRetiredPagesPendingStatus nvmlDeviceGetPowerUsage nvmlDeviceGetEnforcedPowerLimit
nvmlDeviceGetPowerManagementDefaultLimit nvmlDeviceGetPowerManagementLimitConstraints
nvmlDeviceGetCurrPcieLinkGeneration nvmlDeviceGetCurrPcieLinkWidth nvmlDeviceGetMaxPcieLinkGeneration
nvmlDeviceGetMaxPcieLinkWidth nvmlDeviceGetPersistenceMode nvmlDeviceGetComputeMode nvmlDeviceGetDisplayActive
nvmlDeviceGetMemoryBusWidth nvmlDeviceGetRemappedRows nvmlDeviceGetTotalEccErrors
nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetCurrentClocksThrottleReasons nvmlDeviceGetTemperatureV
nvmlDeviceGetTemperatureThreshold nvmlDeviceGetMaxClockInfo nvmlDeviceGetNvLinkState nvmlDeviceGetGpuFabricInfoV
nvmlDeviceGetComputeRunningProcesses_v2 nvmlDeviceGetComputeRunningProcesses_v3
nvmlDeviceGetGraphicsRunningProcesses_v2 nvmlDeviceGetGraphicsRunningProcesses_v3
""".split()  # noqa: SIM905

COPIES = """
import ctypes, json, time
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *values):
    code = getattr(cuda, name)(*values)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(text))
        print(json.dumps({"error": text.value.decode(), "at": name}))
        raise SystemExit
count, context, size = ctypes.c_int(), ctypes.c_void_p(), 1 << 20
call("cuInit", 0)
call("cuDeviceGetCount", ctypes.byref(count))
name, total = ctypes.create_string_buffer(100), ctypes.c_size_t()
call("cuDeviceGetName", name, 100, 0)
call("cuDeviceTotalMem_v2", ctypes.byref(total), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
card, back = ctypes.c_uint64(), ctypes.create_string_buffer(size)
call("cuMemAlloc_v2", ctypes.byref(card), ctypes.c_size_t(size))
start = time.monotonic()
call("cuMemcpyHtoD_v2", card, bytes(range(256)) * (size // 256), ctypes.c_size_t(size))
spent = time.monotonic() - start
call("cuMemcpyDtoH_v2", back, card, ctypes.c_size_t(size))
call("cuMemFree_v2", card)
call("cuDevicePrimaryCtxRelease_v2", 0)
same = back.raw == bytes(range(256)) * (size // 256)
print(json.dumps({"count": count.value, "name": name.value.decode(), "total": total.value, "same": same,
    "spent": spent}))
"""


def copies(stage: Stage) -> dict[str, Any]:
    """What a program sees that copies a megabyte to the first card and back."""
    done = subprocess.run(
        [sys.executable, "-c", COPIES], env=environment(stage), capture_output=True, text=True, timeout=30
    )
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_hangs_leaves_the_rest_of_the_audit_in_five_seconds(stage: Enter) -> None:
    place = stage("all-hung")
    start = time.monotonic()
    assert run(place, "--version").returncode == 0
    startup = time.monotonic() - start
    start = time.monotonic()
    done = run(place, "check", "gpu-24gb", "--json")
    assert time.monotonic() - start < 5 + startup
    assert done.returncode in (0, 1), done.stderr
    host = json.loads(done.stdout)["host"]
    for name in ("gpus", "cuda", "runtime", "images_disk", "models_disk", "engines_disk", "base"):
        assert set(host[name]) == {"unknown"}, name
    assert host["sources"] == {"https://huggingface.co": {"unknown": "no answer in 2 s"}}
    assert host["driver"]["version"] == "580.95.05"
    assert [xid["code"] for xid in host["kernel_log"]["xids"]] == [119]


def test_the_whole_program_reports_a_described_host(stage: Enter) -> None:
    done = run(stage("driver-550"), "check", "gpu-24gb", "--json")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["host"]["gpus"][0]["name"] == "NVIDIA A100-SXM4-80GB"
    found = {finding["id"]: finding["outcome"] for finding in said["report"]["findings"]}
    assert found["driver.version"] == "fail"
    assert found["gpu.vram"] == "pass"


@pytest.mark.parametrize("code", [3, 13, 999], ids=["not supported", "not in this driver", "unknown error"])
def test_no_single_function_costs_the_device(code: int, stage: Enter) -> None:
    """All of them fail at once: the card is still there, at its place."""
    general = ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion", "nvmlShutdown")
    said = {**describe.load("h100"), "errors": dict.fromkeys((*FUNCTIONS, *general), code)}
    host = look(stage(said))
    assert not isinstance(host.gpus, Unknown)
    assert len(host.gpus) == 1
    assert isinstance(host.gpus[0].name, Unknown)
    assert host.driver and not isinstance(host.driver, Unknown)


def test_each_function_costs_no_more_than_its_own_facts(stage: Enter) -> None:
    """One card for each, which lacks just this one."""
    said = describe.load("h100")
    card = {**said["gpus"][0], "pci": None}
    said["gpus"] = [
        {**card, "pci": f"0000:{n + 16:02x}:00.0", "errors": {function: 13}}
        for n, function in enumerate(FUNCTIONS)
    ]
    host = look(stage(said))
    assert not isinstance(host.gpus, Unknown)
    for function, seen in zip(FUNCTIONS, host.gpus, strict=True):
        unknown = [key for key, value in vars(seen).items() if isinstance(value, Unknown)]
        assert len(unknown) <= 1, f"{function} costs {unknown}"


def test_libcuda_copies_and_says_who_it_is(stage: Enter) -> None:
    found = copies(stage("2x-rtx-3090"))
    assert found.pop("spent") < 1
    assert found == {"count": 2, "name": "NVIDIA GeForce RTX 3090", "total": 24576 << 20, "same": True}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("library-mismatch", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        ("fabric-manager-down", "CUDA_ERROR_SYSTEM_NOT_READY"),
        ("forward-compat-geforce", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"),
        ("uvm-missing", "CUDA_ERROR_UNKNOWN"),
    ],
)
def test_libcuda_fails_as_described(name: str, error: str, stage: Enter) -> None:
    assert copies(stage(name)) == {"error": error, "at": "cuInit"}


def test_libcuda_can_be_slow_and_wrong(stage: Enter) -> None:
    said = describe.load("h100")
    said["gpus"][0]["cuda"] = {"host_gb_s": 0.01, "corrupt": ["cuMemcpyDtoH_v2"]}
    found = copies(stage(said))
    assert found["spent"] >= 0.1  # a megabyte at 10 MB/s
    assert not found["same"]


def test_cuda_sees_the_first_slice_alone(stage: Enter) -> None:
    found = copies(stage("a100-mig"))
    assert (found["count"], found["name"]) == (1, "NVIDIA A100-SXM4-80GB MIG 3g.40gb")
