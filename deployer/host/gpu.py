"""GPUs, asked through NVML; one field that a driver lacks never costs the device."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deployer.host.base import Fact, Questions, Unknown


@dataclass(frozen=True)
class Gpu:
    """One GPU. Bytes for `vram` and `free_vram`; `cuda` is the newest CUDA the driver's library speaks."""

    index: int
    uuid: Fact[str]
    name: Fact[str]
    vram: Fact[int]
    free_vram: Fact[int]
    compute_capability: Fact[str]


@dataclass(frozen=True)
class Nvml:
    """What the NVIDIA management library says of the machine."""

    driver: Fact[str]
    cuda: Fact[str]
    gpus: tuple[Gpu, ...]


def nvml(ask: Questions) -> Nvml | Unknown:
    """All GPUs; none where there is no library. Unknown when the library is there and does not answer."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Nvml(Unknown("no NVIDIA library"), Unknown("no NVIDIA library"), ())
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Unknown(f"NVML: {error}")
    try:
        count = _field(pynvml.nvmlDeviceGetCount)
        if isinstance(count, Unknown):
            return count
        return Nvml(
            driver=_text(_field(pynvml.nvmlSystemGetDriverVersion)),
            cuda=_cuda(_field(pynvml.nvmlSystemGetCudaDriverVersion)),
            gpus=tuple(_gpu(pynvml, index) for index in range(count)),
        )
    finally:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            pass


def _gpu(library: Any, index: int) -> Gpu:
    handle = _field(lambda: library.nvmlDeviceGetHandleByIndex(index))
    if isinstance(handle, Unknown):  # fell off the bus: it still counts as a GPU that is there
        return Gpu(index, handle, handle, handle, handle, handle)
    memory = _field(lambda: library.nvmlDeviceGetMemoryInfo(handle))
    capability = _field(lambda: library.nvmlDeviceGetCudaComputeCapability(handle))
    return Gpu(
        index=index,
        uuid=_text(_field(lambda: library.nvmlDeviceGetUUID(handle))),
        name=_text(_field(lambda: library.nvmlDeviceGetName(handle))),
        vram=memory if isinstance(memory, Unknown) else int(memory.total),
        free_vram=memory if isinstance(memory, Unknown) else int(memory.free),
        compute_capability=capability
        if isinstance(capability, Unknown)
        else f"{capability[0]}.{capability[1]}",
    )


def _field(call: Callable[[], Any]) -> Any:
    import pynvml

    try:
        return call()
    except pynvml.NVMLError as error:
        return Unknown(f"NVML: {error}")
    except AttributeError as error:  # a function that this nvidia-ml-py does not know
        return Unknown(str(error))


def _text(value: Any) -> Fact[str]:
    if isinstance(value, Unknown):
        return value
    return value.decode() if isinstance(value, bytes) else str(value)


def _cuda(value: Any) -> Fact[str]:
    return value if isinstance(value, Unknown) else f"{value // 1000}.{value % 1000 // 10}"
