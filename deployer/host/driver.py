"""The NVIDIA driver from the kernel's side, and the GPUs that the PCI bus shows even without it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from deployer.frozen import dataclass
from deployer.host.base import Fact, Questions, Unknown, words

NVIDIA = "0x10de"


@dataclass(frozen=True)
class Driver:
    """The loaded kernel module: its version, and whether it is NVIDIA's open one."""

    version: str
    open_module: bool


@dataclass(frozen=True)
class Modules:
    """Kernel modules: those loaded that matter here, whether NVIDIA's can be loaded into this kernel at all.

    `built` is None where one is loaded and nobody needs to look, or where the kernel's list cannot be read.
    """

    loaded: tuple[str, ...]
    built: Fact[bool | None]


@dataclass(frozen=True)
class Libraries:
    """Versions of the driver's libraries on disk, by file name; None: not there."""

    cuda: str | None
    nvml: str | None


@dataclass(frozen=True)
class Node:
    """A device file; `usable` is whether this user may open it. `major` is None for what is no device."""

    major: int | None
    usable: bool


@dataclass(frozen=True)
class Nodes:
    """NVIDIA's device files by name (`nvidia0`), the kernel's number for nvidia-uvm, links in /dev/char."""

    files: Mapping[str, Node]
    uvm_major: int | None
    char_links: bool


@dataclass(frozen=True)
class PciGpu:
    """A display or 3D controller of NVIDIA's; `bound` is the kernel driver that has it."""

    address: str
    device: str
    bound: str | None = None
    numa: int | None = None


@dataclass(frozen=True)
class FabricManager:
    """NVSwitch machines need it, at exactly the driver's version (its package is among `Host.packages`)."""

    installed: bool
    running: bool


@dataclass(frozen=True)
class Xid:
    """An error that the driver wrote to the kernel's log; `gpu` is a PCI address, `at` seconds since boot."""

    gpu: str
    code: int
    text: str
    at: float | None


@dataclass(frozen=True)
class KernelLog:
    """What the kernel said of the driver since boot; `refused` is its reason for not loading the module."""

    xids: tuple[Xid, ...]
    refused: str | None


_LIBRARIES = (
    *("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "usr/lib/wsl/lib"),
    *("usr/lib/x86_64-linux-gnu/nvidia/current", "usr/lib/aarch64-linux-gnu/nvidia/current"),
    *("usr/lib/aarch64-linux-gnu/nvidia", "usr/lib/aarch64-linux-gnu/tegra", "run/opengl-driver/lib"),
)
_MODULES = ("nvidia", "nouveau", "nova_core")
_BUILT = re.compile(
    rb"(?m)(?:^|/)nvidia(?:-current|-tesla[^/:]*|-legacy[^/:]*)?\.ko"
)  # Debian calls its own so
# What the kernel and the driver say when a module may not be loaded.
_REFUSED = (
    "Loading of unsigned module is rejected",
    "Key was rejected by service",
    "Required key not available",
    "requires use of the NVIDIA open kernel modules",
    "Lockdown: modprobe: unsigned module loading is restricted",
    "installed in this system is not supported",
)


def driver(ask: Questions) -> Driver | None:
    """None when no NVIDIA kernel module is loaded."""
    try:
        text = (ask.proc / "driver/nvidia/version").read_text()
    except FileNotFoundError:
        return None
    match = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", text)
    if not match:
        raise ValueError(f"/proc/driver/nvidia/version is not understood: {text.splitlines()[:1]}")
    return Driver(match[1], "Open Kernel Module" in text)


def modules(ask: Questions) -> Modules:
    """Raises OSError when /proc/modules cannot be read; a kernel that takes no modules has no such file."""
    try:
        names = [line.split(" ", 1)[0] for line in (ask.proc / "modules").read_text().splitlines()]
    except FileNotFoundError:
        return Modules((), Unknown("this kernel takes no modules"))
    loaded = tuple(sorted(name for name in names if name.startswith(_MODULES)))
    if "nvidia" in loaded:
        return Modules(loaded, None)
    kernel = words(ask.proc / "sys/kernel/osrelease")
    try:
        listed = (ask.root / "lib/modules" / kernel / "modules.dep").read_bytes()
    except OSError:
        return Modules(loaded, Unknown(f"there is no list of modules for kernel {kernel}"))
    return Modules(loaded, _BUILT.search(listed) is not None)


def libraries(ask: Questions) -> Libraries:
    """Read from file names: libcuda.so.1 is a link to libcuda.so.<version of the driver>."""
    return Libraries(_version(ask, "libcuda.so"), _version(ask, "libnvidia-ml.so"))


def nodes(ask: Questions) -> Nodes:
    """Raises OSError when /dev cannot be read."""
    files = {}
    for path in sorted(ask.dev.glob("nvidia*")):
        about = path.stat()
        if not stat.S_ISDIR(about.st_mode):
            major = os.major(about.st_rdev) if stat.S_ISCHR(about.st_mode) else None
            files[path.name] = Node(major, os.access(path, os.R_OK | os.W_OK))
    if (ask.dev / "dxg").exists():
        files["dxg"] = Node(None, os.access(ask.dev / "dxg", os.R_OK | os.W_OK))
    numbers = {}
    try:
        for line in (ask.proc / "devices").read_text().splitlines():
            number, _, name = line.strip().partition(" ")
            numbers[name] = number
    except OSError:
        pass
    uvm = numbers.get("nvidia-uvm", "")
    links = any(True for _ in (ask.dev / "char").glob("195:*"))
    return Nodes(files, int(uvm) if uvm.isdecimal() else None, links)


def pci_gpus(ask: Questions) -> tuple[PciGpu, ...]:
    """NVIDIA's display and 3D controllers on the PCI bus, in the order of their addresses."""
    found = []
    for device in _nvidia_devices(ask, "0x03"):
        bound = device / "driver"
        try:
            numa = int(words(device / "numa_node"))
        except (OSError, ValueError):
            numa = -1
        try:
            number = words(device / "device").removeprefix("0x")
        except OSError:
            number = "unknown"
        found.append(
            PciGpu(
                address=device.name,
                device=number,
                bound=bound.resolve().name if bound.exists() else None,
                numa=None if numa < 0 else numa,
            )
        )
    return tuple(found)


def nvswitches(ask: Questions) -> int:
    """How many NVSwitches the PCI bus shows; they are bridges of class 0x0680."""
    return len(_nvidia_devices(ask, "0x0680"))


def fabric_manager(ask: Questions) -> FabricManager | None:
    """None where there is neither an NVSwitch nor the program."""
    program = ask.root / "usr/bin/nv-fabricmanager"
    if not program.exists() and not nvswitches(ask):
        return None
    running = False
    for folder in ask.proc.iterdir():
        if folder.name.isdigit():
            try:
                running = running or words(folder / "comm") == "nv-fabricmanage"  # 15 letters is all there is
            except OSError:
                continue
    return FabricManager(program.exists(), running)


def kernel_log(ask: Questions) -> KernelLog:
    """The driver's lines of this boot, from /dev/kmsg, else from /var/log/kern.log. Raises OSError."""
    text = _kernel_lines(ask)
    xids = []
    refused = None
    for line in text.splitlines():
        if "NVRM" not in line and "nvidia" not in line and "module" not in line:
            continue
        if xid := xid_of(line):
            xids.append(xid)
        for sentence in _REFUSED:
            if sentence in line and ("nvidia" in line.lower() or "NVRM" in line or "module" in sentence):
                refused = sentence
    return KernelLog(tuple(xids), refused)


def xid_of(line: str) -> Xid | None:
    """The error of the driver that a line of the kernel's log tells of."""
    match = re.search(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)(?:, )?(.*)", line)
    if match is None:
        return None
    at = re.match(r"\d+,\d+,(\d+),", line)
    address = match[1].lower() if "." in match[1] else f"{match[1].lower()}.0"
    return Xid(address, int(match[2]), match[3][:200], int(at[1]) / 1e6 if at else None)


def _kernel_lines(ask: Questions) -> str:
    try:
        handle = os.open(ask.dev / "kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        try:
            with (ask.root / "var/log/kern.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
                text = file.read().decode(errors="replace")
                return text[max(0, text.rfind(" Linux version ")) :]  # the first line of each boot
        except OSError:
            raise OSError(f"this user may not read the kernel's log ({error.strerror})") from error
    parts = []
    try:
        while True:
            try:
                part = os.read(handle, 1 << 16)
            except BrokenPipeError:  # records were overwritten while we read; the next ones are fine
                continue
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts).decode(errors="replace")


def _nvidia_devices(ask: Questions, kind: str) -> list[Path]:
    return [
        device
        for device in sorted((ask.sys / "bus/pci/devices").glob("*"))
        if words(device / "vendor") == NVIDIA and words(device / "class").startswith(kind)
    ]


def _version(ask: Questions, name: str) -> str | None:
    for folder in _LIBRARIES:
        try:
            target = (ask.root / folder / f"{name}.1").readlink().name
        except OSError:
            continue
        version = target.removeprefix(f"{name}.")
        if re.fullmatch(r"\d+(\.\d+)+", version):
            return version
    return None
