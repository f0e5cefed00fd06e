"""GPUs, asked through NVML; one field that a driver lacks never costs the device."""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from deployer.host.base import Fact, Questions, Unknown, words
from deployer.host.gpu import (
    Ecc,
    Fabric,
    Gpu,
    Heat,
    Link,
    Mig,
    NvLinks,
    Nvml,
    Power,
    Process,
    Repair,
    Slice,
)

LIMIT_S = 3.0  # the first call wakes every GPU: without persistence mode that takes about half a second each
T = TypeVar("T")

# Names of NVML's numbers: nvml.h, API version 13.
_ARCHITECTURES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada",
                  9: "Hopper", 10: "Blackwell", 13: "Rubin"}  # fmt: skip
_BRANDS = {1: "quadro", 2: "tesla", 3: "nvs", 4: "grid", 5: "geforce", 6: "titan", 7: "vapps", 8: "vpc", 9: "vcs",
           10: "vws", 11: "cloudgaming", 12: "quadrortx", 13: "nvidiartx", 14: "nvidia", 15: "geforcertx",
           16: "titanrtx"}  # fmt: skip
_REASONS = {0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "thermal", 0x40: "hardware thermal",
            0x80: "power brake", 0x2: "application clocks"}  # fmt: skip
_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
_FABRIC = {1: "not started", 2: "in progress", 3: "completed"}
_ERROR_TYPE, _VOLATILE, _AGGREGATE = 1, 0, 1
_SHUTDOWN, _SLOWDOWN = 0, 1


def nvml(ask: Questions) -> Nvml | Unknown:
    """All GPUs; none where there is no library or no driver is loaded. Unknown when the library does not answer."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Nvml(Unknown("no NVIDIA library"), Unknown("no NVIDIA library"), ())
    pynvml = _library()

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_DriverNotLoaded:
        return Nvml(Unknown("no driver is loaded"), Unknown("no driver is loaded"), ())
    except pynvml.NVMLError as error:
        return Unknown(f"NVML: {error}")
    try:
        count = _field(pynvml.nvmlDeviceGetCount)
        if not isinstance(count, int):
            return count if isinstance(count, Unknown) else Unknown("NVML does not count GPUs")
        return Nvml(
            driver=_text(_field(pynvml.nvmlSystemGetDriverVersion)),
            cuda=_cuda(_field(pynvml.nvmlSystemGetCudaDriverVersion)),
            gpus=tuple(_gpu(pynvml, index, ask) for index in range(count)),
        )
    finally:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            pass


def _library() -> Any:
    """The module `pynvml`.

    It asks for `ctypes.util` and uses nothing of it on Linux; that one brings in subprocess, tempfile and lzma, a
    tenth of what `check` may take. So an empty one stands in for the moment of the import.
    """
    if "pynvml" not in sys.modules and "ctypes.util" not in sys.modules:
        stand_in = types.ModuleType("ctypes.util")
        stand_in.find_library = lambda name: None  # type: ignore[attr-defined]
        sys.modules["ctypes.util"] = stand_in
        try:
            import pynvml
        finally:
            del sys.modules["ctypes.util"]
        return pynvml
    import pynvml

    return pynvml


def _gpu(library: Any, index: int, ask: Questions) -> Gpu:
    handle = _field(lambda: library.nvmlDeviceGetHandleByIndex(index))
    if isinstance(handle, Unknown):  # fell off the bus: it still counts as a GPU that is there
        return Gpu(index, **{field.name: handle for field in fields(Gpu) if field.name != "index"})

    def get(name: str, *words: Any) -> Any:
        return _field(lambda: getattr(library, name)(handle, *words))

    total, free, used, reserved = _memory(library, get)
    unified = total is None
    if unified:
        total, free = _system_memory(ask)
    capability = get("nvmlDeviceGetCudaComputeCapability")
    return Gpu(
        index=index,
        uuid=_text(get("nvmlDeviceGetUUID")),
        name=_text(get("nvmlDeviceGetName")),
        vram=total,
        free_vram=free,
        compute_capability=_then(capability, lambda pair: f"{pair[0]}.{pair[1]}", none="NVML does not tell"),
        used=used,
        reserved=reserved,
        unified=unified,
        pci=_then(get("nvmlDeviceGetPciInfo"), _address),
        architecture=_then(get("nvmlDeviceGetArchitecture"), _ARCHITECTURES.get),
        brand=_then(get("nvmlDeviceGetBrand"), _BRANDS.get),
        mig=_then(get("nvmlDeviceGetMigMode"), partial(_mig, library, handle)),
        ecc=_then(get("nvmlDeviceGetEccMode"), partial(_ecc, get)),
        retired=_then(get("nvmlDeviceGetRetiredPagesPendingStatus"), bool),
        remapped=_then(
            get("nvmlDeviceGetRemappedRows"), lambda rows: Repair(pending=bool(rows[2]), failed=bool(rows[3]))
        ),
        throttled=_then(
            _either(
                get, "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
            ),
            lambda bits: tuple(name for bit, name in _REASONS.items() if bits & bit),
        ),
        heat=Heat(
            now=_either(get, "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", 0),
            slowdown=get("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN),
            shutdown=get("nvmlDeviceGetTemperatureThreshold", _SHUTDOWN),
        ),
        power=Power(
            draw=_then(get("nvmlDeviceGetPowerUsage"), _watts),
            limit=_then(get("nvmlDeviceGetEnforcedPowerLimit"), _watts),
            default=_then(get("nvmlDeviceGetPowerManagementDefaultLimit"), _watts),
            most=_then(get("nvmlDeviceGetPowerManagementLimitConstraints"), lambda pair: _watts(pair[1])),
        ),
        link=Link(
            generation=get("nvmlDeviceGetCurrPcieLinkGeneration"),
            width=get("nvmlDeviceGetCurrPcieLinkWidth"),
            most_generation=get("nvmlDeviceGetMaxPcieLinkGeneration"),
            most_width=get("nvmlDeviceGetMaxPcieLinkWidth"),
        ),
        nvlinks=_nvlinks(get),
        fabric=_fabric(library, handle),
        persistence=_then(get("nvmlDeviceGetPersistenceMode"), bool),
        compute_mode=_then(get("nvmlDeviceGetComputeMode"), _MODES.get),
        display=_then(get("nvmlDeviceGetDisplayActive"), bool),
        processes=_processes(get, ask),
        bus_width=get("nvmlDeviceGetMemoryBusWidth"),
        memory_clock=get("nvmlDeviceGetMaxClockInfo", 2),
        utilization=_then(get("nvmlDeviceGetUtilizationRates"), lambda rates: int(rates.gpu)),
    )


def _field(call: Callable[[], Any]) -> Any:
    """The answer; None where the card has no such thing; Unknown where this driver cannot be asked."""
    pynvml = _library()

    try:
        return call()
    except pynvml.NVMLError_NotSupported:
        return None
    except pynvml.NVMLError as error:
        return Unknown(f"NVML: {error}")
    except AttributeError as error:  # a function that this nvidia-ml-py does not know
        return Unknown(str(error))
    except (
        pynvml.NVMLLibraryMismatchError
    ):  # no NVMLError: of a driver older than the package's latest structure
        return Unknown("NVML: Function Not Found")


def _then(value: Any, use: Callable[[Any], T], none: str | None = None) -> Any:
    """`use(value)` of a known value; `none` is the reason for Unknown where None makes no sense."""
    if isinstance(value, Unknown):
        return value
    if value is None:
        return Unknown(none) if none else None
    return use(value)


def _either(get: Callable[..., Any], new: str, old: str, *words: Any) -> Any:
    """The newer function, else the one that it replaces; the older one ends with CUDA 14."""
    value = get(new, *words)
    return get(old, *words) if isinstance(value, Unknown) else value


def _memory(library: Any, get: Callable[..., Any]) -> tuple[Any, Any, Any, Any]:
    """Total, free, used, reserved; total None for a GPU without memory of its own."""
    answer = get("nvmlDeviceGetMemoryInfo", getattr(library, "nvmlMemory_v2", None))
    if isinstance(answer, Unknown):  # before driver 510; `used` holds `reserved` there
        answer = get("nvmlDeviceGetMemoryInfo")
    if answer is None or isinstance(answer, Unknown):
        return answer, answer, answer, answer
    reserved = getattr(answer, "reserved", None)
    return int(answer.total), int(answer.free), int(answer.used), None if reserved is None else int(reserved)


def _system_memory(ask: Questions) -> tuple[Fact[int], Fact[int]]:
    found = {}
    try:
        for line in (ask.proc / "meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found[key] = int(value.split()[0]) * 1024
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, LookupError, ValueError) as error:
        unknown = Unknown(f"the GPU shares the system's memory, which cannot be read: {error}")
        return unknown, unknown


def _mig(library: Any, parent: Any, mode: Any) -> Mig:
    slices = []
    most = _field(lambda: library.nvmlDeviceGetMaxMigDeviceCount(parent))
    for index in range(most if isinstance(most, int) and mode[0] else 0):
        one = _field(partial(library.nvmlDeviceGetMigDeviceHandleByIndex, parent, index))
        if one is None or isinstance(one, Unknown):  # no slice in this place
            continue
        memory = _field(partial(library.nvmlDeviceGetMemoryInfo, one))
        slices.append(
            Slice(
                uuid=_text(_field(partial(library.nvmlDeviceGetUUID, one))),
                name=_text(_field(partial(library.nvmlDeviceGetName, one))),
                vram=_then(memory, lambda m: int(m.total), none="NVML does not tell"),
                free_vram=_then(memory, lambda m: int(m.free), none="NVML does not tell"),
            )
        )
    return Mig(bool(mode[0]), bool(mode[1]), tuple(slices))


def _ecc(get: Callable[..., Any], mode: Any) -> Ecc:
    return Ecc(
        enabled=bool(mode[0]),
        pending=bool(mode[1]),
        uncorrected=get("nvmlDeviceGetTotalEccErrors", _ERROR_TYPE, _VOLATILE),
        ever=get("nvmlDeviceGetTotalEccErrors", _ERROR_TYPE, _AGGREGATE),
    )


def _nvlinks(get: Callable[..., Any]) -> Fact[NvLinks | None]:
    up = every = 0
    for link in range(18):  # NVML_NVLINK_MAX_LINKS
        state = get("nvmlDeviceGetNvLinkState", link)
        if not isinstance(state, int):
            if link == 0 and isinstance(state, Unknown) and "Invalid" not in state.reason:
                return state
            break
        every += 1
        up += state == 1
    return NvLinks(up, every) if every else None


def _fabric(library: Any, handle: Any) -> Fact[Fabric | None]:
    def ask() -> Any:
        answer = library.c_nvmlGpuFabricInfo_v3_t()
        library.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(answer))
        return answer

    def value(answer: Any) -> Fabric | None:
        state = _FABRIC.get(answer.state)
        return Fabric(state, int(answer.status)) if state else None

    found: Fact[Fabric | None] = _then(_field(ask), value)
    return found


def _processes(get: Callable[..., Any], ask: Questions) -> Fact[tuple[Process, ...] | None]:
    kinds = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
    answers = [_either(get, name, f"{name}_v2") for name in kinds]  # _v2: before driver 510
    if isinstance(answers[0], Unknown) or answers[0] is None:
        return answers[0]
    sizes: dict[int, int | None] = {}
    for answer in answers:
        for entry in answer if isinstance(answer, list) else ():
            sizes[int(entry.pid)] = None if entry.usedGpuMemory is None else int(entry.usedGpuMemory)
    return tuple(_process(pid, size, ask) for pid, size in sorted(sizes.items()))


def _process(pid: int, size: int | None, ask: Questions) -> Process:
    folder = ask.proc / str(pid)

    def read(name: str) -> str:
        try:
            return words(folder / name)
        except OSError:
            return ""

    owner = next((line.split()[1] for line in read("status").splitlines() if line.startswith("Uid:")), None)
    state = read("stat").rpartition(")")[2].split()
    digits = _container(read("cgroup"))
    return Process(pid, size, read("comm") or None, _user(owner, ask), digits, state[0] if state else None)


def _container(groups: str) -> str | None:
    """The first 64 hexadecimal digits in a row are a container's id, as Docker, Podman and containerd write it."""
    run = ""
    for letter in groups:
        run = run + letter if letter in "0123456789abcdef" else ""
        if len(run) == 64:
            return run[:12]
    return None


def _user(number: str | None, ask: Questions) -> str | None:
    try:
        for line in (ask.etc / "passwd").read_text().splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2] == number:
                return parts[0]
    except OSError:
        pass
    return number


def _address(info: Any) -> str:
    """`00000000:01:00.0` as the kernel writes it: `0000:01:00.0`."""
    text = info.busId.decode() if isinstance(info.busId, bytes) else str(info.busId)
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def _watts(milliwatts: int) -> float:
    return milliwatts / 1000


def _text(value: Any) -> Fact[str]:
    if isinstance(value, Unknown):
        return value
    if value is None:
        return Unknown("NVML does not tell")
    return value.decode() if isinstance(value, bytes) else str(value)


def _cuda(value: Any) -> Fact[str]:
    found: Fact[str] = _then(value, lambda v: f"{v // 1000}.{v % 1000 // 10}", none="NVML does not tell")
    return found
