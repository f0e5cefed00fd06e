"""A program of its own, which needs Python alone: what NVML and CUDA say where it runs, and how fast the GPUs are.

`deployer check --deep` runs it on the host and, by `python3 -c`, in containers. It prints one JSON object a line
and flushes each, so that what was learned before a hang is not lost.

    inside.py ask                  {"nvml": …} and {"cuda": …}: a count and versions, or {"error": …}
    inside.py measure [MIB]        {"gpu": …} for each GPU, {"peer": …} for each pair; bytes per second
    inside.py matrix [DEVICE] [N]  {"matrix": …}: operations per second of bfloat16 N x N products, with torch
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

UUID_BYTES = 16
_CUDA: Any = None


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def nvml() -> dict[str, object]:
    """Driver version and number of GPUs, as NVML says."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    library.nvmlErrorString.restype = ctypes.c_char_p
    code = library.nvmlInit_v2()
    if code:
        return {"error": library.nvmlErrorString(code).decode(), "code": code}
    version = ctypes.create_string_buffer(80)
    count = ctypes.c_uint()
    library.nvmlSystemGetDriverVersion(version, 80)
    code = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if code:
        return {"error": library.nvmlErrorString(code).decode(), "code": code}
    return {"driver": version.value.decode(), "count": count.value}


class CudaError(Exception):
    """A call of the driver API that failed; its text is CUDA's own."""


def call(name: str, *words: object) -> None:
    code = getattr(_CUDA, name)(*words)
    if code:
        text = ctypes.c_char_p()
        _CUDA.cuGetErrorString(code, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({code})")


def start() -> tuple[int, int]:
    """cuInit; returns CUDA's version, as 13000 for 13.0, and the number of devices."""
    global _CUDA
    _CUDA = ctypes.CDLL("libcuda.so.1")
    call("cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    return version.value, count.value


def ask() -> None:
    for name, question in (("nvml", nvml), ("cuda", cuda)):
        try:
            say(**{name: question()})
        except (OSError, CudaError, AttributeError) as error:
            say(**{name: {"error": str(error)}})


def cuda() -> dict[str, object]:
    version, count = start()
    return {"version": f"{version // 1000}.{version % 1000 // 10}", "count": count}


def uuid_of(device: ctypes.c_int) -> str:
    raw = (ctypes.c_ubyte * UUID_BYTES)()
    call("cuDeviceGetUuid", ctypes.byref(raw), device)
    text = bytes(raw).hex()
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def rate(size: int, copy: Callable[[], None], least: float = 0.2) -> float:
    """Bytes per second of the best of several rounds that take `least` seconds in all, or more."""
    best, spent = 0.0, 0.0
    copy()
    call("cuCtxSynchronize")
    while spent < least:
        begin = time.perf_counter()
        for _ in range(4):
            copy()
        call("cuCtxSynchronize")
        took = time.perf_counter() - begin
        best, spent = max(best, 4 * size / took), spent + took
    return best


def memory(size: int) -> ctypes.c_uint64:
    place = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
    return place


def measure(mib: int) -> None:
    size = mib << 20
    _, count = start()
    contexts = []
    for index in range(count):
        device, context = ctypes.c_int(), ctypes.c_void_p()
        call("cuDeviceGet", ctypes.byref(device), index)
        facts: dict[str, object] = {"index": index, "uuid": uuid_of(device)}
        try:
            call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            call("cuCtxSetCurrent", context)
            contexts.append((device, context, facts["uuid"]))
            facts.update(rates(size))
        except CudaError as error:
            facts["error"] = str(error)
        say(gpu=facts)
    for one in contexts:
        for other in contexts:
            if one is not other:
                say(peer={"from": one[2], "to": other[2], "began": True})
                say(peer={"from": one[2], "to": other[2], **peer(one, other, min(size, 64 << 20))})


def rates(size: int) -> dict[str, float]:
    """A copy inside the GPU reads and writes, so each of its bytes counts twice."""
    count = ctypes.c_size_t(size)
    first, second, host = memory(size), memory(size), ctypes.c_void_p()
    call("cuMemHostAlloc", ctypes.byref(host), count, 0)
    try:
        return {
            "memory": 2 * rate(size, lambda: call("cuMemcpyDtoD_v2", second, first, count)),
            "to_gpu": rate(size, lambda: call("cuMemcpyHtoD_v2", first, host, count)),
            "from_gpu": rate(size, lambda: call("cuMemcpyDtoH_v2", host, first, count)),
        }
    finally:
        call("cuMemFreeHost", host)
        call("cuMemFree_v2", first)
        call("cuMemFree_v2", second)


def peer(one: Any, other: Any, size: int) -> dict[str, object]:
    can = ctypes.c_int()
    call("cuDeviceCanAccessPeer", ctypes.byref(can), one[0], other[0])
    if not can.value:
        return {"allowed": False}
    try:
        call("cuCtxSetCurrent", other[1])
        target = memory(size)
        call("cuCtxSetCurrent", one[1])
        call("cuCtxEnablePeerAccess", other[1], 0)
        source = memory(size)
        count = ctypes.c_size_t(size)
        found = rate(size, lambda: call("cuMemcpyPeer", target, other[1], source, one[1], count), 0.1)
        call("cuMemFree_v2", source)
        call("cuCtxSetCurrent", other[1])
        call("cuMemFree_v2", target)
        return {"allowed": True, "rate": found}
    except CudaError as error:
        return {"allowed": True, "error": str(error)}


def matrix(device: str, size: int) -> None:
    """Dense bfloat16 products with 32-bit sums, as torch does them; 2 n^3 operations each."""
    import torch

    count = torch.cuda.device_count() if device == "cuda" else 1
    for index in range(count):
        where = torch.device(device, index) if device == "cuda" else torch.device(device)
        one = torch.randn(size, size, device=where, dtype=torch.bfloat16)
        other = torch.randn(size, size, device=where, dtype=torch.bfloat16)
        wait = torch.cuda.synchronize if device == "cuda" else (lambda _=None: None)
        best, spent = 0.0, 0.0
        one @ other
        wait(where)
        while spent < 1.0:
            begin = time.perf_counter()
            for _ in range(8):
                one @ other
            wait(where)
            took = time.perf_counter() - begin
            best, spent = max(best, 8 * 2 * size**3 / took), spent + took
        name = str(torch.cuda.get_device_properties(index).uuid) if device == "cuda" else device
        uuid = name if name.startswith("GPU-") or device != "cuda" else f"GPU-{name}"
        say(matrix={"uuid": uuid, "rate": best, "torch": torch.__version__})


def main(words: list[str]) -> None:
    if words[0] == "ask":
        ask()
    elif words[0] == "measure":
        measure(int(words[1]) if len(words) > 1 else 256)
    else:
        matrix(words[1] if len(words) > 1 else "cuda", int(words[2]) if len(words) > 2 else 8192)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, CudaError, AttributeError, ImportError, RuntimeError) as error:
        say(error=str(error))
        sys.exit(1)
