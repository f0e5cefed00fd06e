"""The operating system, its limits and locks, and who is asking."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from deployer.frozen import dataclass
from deployer.host.base import NOT_ASKED, Fact, Questions, Unknown, words


@dataclass(frozen=True)
class System:
    """`os` is lower case (`linux`); `user` is the numeric user of this process; `tools` are commands found.

    `container` names what this process itself runs in, `hypervisor` what the machine runs in; None: neither.
    `secure_boot` is None on a machine without UEFI. `selinux` is `enforcing`, `permissive` or None, and
    `selinux_devices` whether it lets containers use devices. `limits` are this process's own soft limits
    (`open_files`, `locked_memory` in bytes), None where there is no limit. `boot` are the kernel's options.
    """

    os: str
    kernel: str
    architecture: str
    distribution: str
    distribution_like: str
    python: str
    user: int
    wsl: bool
    systemd: bool
    tools: tuple[str, ...]
    container: Fact[str | None] = NOT_ASKED
    hypervisor: Fact[str | None] = NOT_ASKED
    secure_boot: Fact[bool | None] = NOT_ASKED
    selinux: Fact[str | None] = NOT_ASKED
    selinux_devices: Fact[bool | None] = NOT_ASKED
    apparmor: Fact[bool] = NOT_ASKED
    limits: Mapping[str, int | None] = field(default_factory=dict)
    boot: Fact[tuple[str, ...]] = NOT_ASKED
    iommu: Fact[bool] = NOT_ASKED
    wsl_library: Fact[bool | None] = NOT_ASKED


@dataclass(frozen=True)
class Package:
    """An installed package of the distribution; `held` keeps upgrades away from it."""

    version: str
    held: bool


@dataclass(frozen=True)
class Cpu:
    """`cores` are physical, `threads` are what this process may use, `all_threads` what the machine has."""

    model: str
    cores: int
    threads: int
    flags: tuple[str, ...]
    sockets: int = 1
    all_threads: Fact[int] = NOT_ASKED


_TOOLS = (
    *("apt-get", "apt-mark", "dnf", "yum", "zypper", "pacman", "apk", "nixos-rebuild", "snap", "sudo"),
    *("docker", "podman", "systemctl", "modprobe", "mokutil", "update-initramfs", "dracut"),
    *("nvidia-ctk", "nvidia-smi", "nvidia-modprobe", "setsebool", "ss", "ps", "usermod", "timedatectl"),
)
# Hypervisors by what the firmware calls itself; the names are systemd-detect-virt's.
_FIRMWARE = {
    "amazon ec2": "amazon", "google": "google", "microsoft corporation": "microsoft", "qemu": "kvm", "kvm": "kvm",
    "vmware": "vmware", "innotek": "oracle", "xen": "xen", "parallels": "parallels", "openstack": "kvm",
}  # fmt: skip
_PACKAGES = (
    "nvidia-",
    "libnvidia-",
    "docker",
    "unattended-upgrades",
    "podman",
    "containerd",
    "dnf-automatic",
)


def system(ask: Questions) -> System:
    """Raises OSError when /etc/os-release or /proc cannot be read."""
    release = _os_release(ask)
    kernel = words(ask.proc / "sys/kernel/osrelease")
    return System(
        os=sys.platform,
        kernel=kernel,
        architecture=os.uname().machine,
        distribution=release.get("PRETTY_NAME", "unknown"),
        distribution_like=" ".join(filter(None, (release.get("ID"), release.get("ID_LIKE")))),
        python=".".join(str(part) for part in sys.version_info[:3]),
        user=os.geteuid(),
        wsl="microsoft" in kernel.lower(),
        systemd=(ask.root / "run/systemd/system").is_dir(),
        tools=tuple(name for name in _TOOLS if _on_path(name, ask)),
        container=_container(ask),
        hypervisor=_hypervisor(ask),
        secure_boot=_secure_boot(ask),
        selinux=_selinux(ask),
        selinux_devices=_switch(ask.sys / "fs/selinux/booleans/container_use_devices"),
        apparmor=(ask.sys / "kernel/security/apparmor").is_dir(),
        limits=_limits(ask),
        boot=_or_unknown(ask.proc / "cmdline"),
        iommu=any((ask.sys / "class/iommu").glob("*")),
        wsl_library=(ask.root / "usr/lib/wsl/lib/libcuda.so.1").exists()
        if "microsoft" in kernel.lower()
        else None,
    )


def cpu(ask: Questions) -> Cpu:
    """Raises OSError when /proc/cpuinfo cannot be read."""
    cores: set[tuple[str, str]] = set()
    packages: set[str] = set()
    model, flags, package = "unknown", "", "0"
    processors = 0
    for line in (ask.proc / "cpuinfo").read_text().splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor":
            processors += 1
        elif key in ("model name", "CPU part") and model == "unknown":
            model = value
        elif key in ("flags", "Features") and not flags:
            flags = value
        elif key == "physical id":
            package = value
            packages.add(value)
        elif key == "core id":
            cores.add((package, value))
    return Cpu(
        model=model,
        cores=len(cores) or processors,
        threads=len(os.sched_getaffinity(0)),
        flags=tuple(flags.split()),
        sockets=len(packages) or 1,
        all_threads=processors,
    )


def packages(ask: Questions) -> dict[str, Package]:
    """Installed packages of the driver, the container runtime and what upgrades them by itself.

    Read from dpkg's own file. Raises OSError where there is none: the rpm database has no plain form.
    """
    found = {}
    try:
        text = (ask.root / "var/lib/dpkg/status").read_text(errors="replace")
    except FileNotFoundError as error:
        raise OSError("only Debian's package database is read without starting a program") from error
    for name in _PACKAGES:
        start = 0
        while (start := text.find(f"Package: {name}", start)) >= 0:
            entry = text[start : text.find("\n\n", start) + 1 or len(text)]
            start += len(name)
            facts = dict(
                line.split(": ", 1) for line in entry.splitlines() if ": " in line and line[0] != " "
            )
            state = facts.get("Status", "").split()
            if state[-1:] == ["installed"] and "Version" in facts:
                found[facts["Package"]] = Package(facts["Version"], state[0] == "hold")
    return dict(sorted(found.items()))


def _on_path(name: str, ask: Questions) -> bool:
    """Whether the command is there. Under another root, the usual folders of that root are looked at."""
    folders = os.get_exec_path()
    if ask.root != Path("/"):
        folders = [
            f"{ask.root}/{place}" for place in ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")
        ]
    elif "/usr/sbin" not in folders:
        folders = [*folders, "/usr/sbin", "/sbin"]  # where a user's PATH does not go and sudo's does
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in folders)


def _os_release(ask: Questions) -> dict[str, str]:
    found = {}
    for line in (ask.etc / "os-release").read_text().splitlines():
        key, sep, value = line.partition("=")
        if sep:
            found[key] = value.strip().strip("\"'")
    return found


def _container(ask: Questions) -> str | None:
    if (ask.root / ".dockerenv").exists() and _bound(ask, "/etc/hosts"):
        return "docker"  # the mark alone also lies in machines that were made from an image
    if (ask.root / "run/.containerenv").exists():
        return "podman"
    try:
        environment = (ask.proc / "1/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return (
        next((e[10:].decode(errors="replace") for e in environment if e.startswith(b"container=")), None)
        or None
    )


def _bound(ask: Questions, path: str) -> bool:
    """Whether something is mounted just there, as engines do with three files of /etc."""
    try:
        lines = (ask.proc / "self/mounts").read_text().splitlines()
    except OSError:
        return False
    return any(line.split(" ")[1:2] == [path] for line in lines)


def _hypervisor(ask: Questions) -> str | None:
    try:
        if words(ask.sys / "hypervisor/type") == "xen":
            return "xen"
    except OSError:
        pass
    for name in ("sys_vendor", "product_name", "bios_vendor"):
        try:
            text = words(ask.sys / "class/dmi/id" / name).lower()
        except OSError:
            continue
        for start, kind in _FIRMWARE.items():
            if text.startswith(start):
                return None if _real(kind, ask) else kind
    try:
        return "unknown" if " hypervisor" in (ask.proc / "cpuinfo").read_text() else None
    except OSError:
        return None


def _real(kind: str, ask: Questions) -> bool:
    """Microsoft makes laptops too, and Amazon lends whole machines."""
    try:
        product = words(ask.sys / "class/dmi/id/product_name").lower()
    except OSError:
        return False
    return (kind == "microsoft" and "virtual" not in product) or (kind == "amazon" and ".metal" in product)


def _secure_boot(ask: Questions) -> Fact[bool | None]:
    """The firmware's variable: four bytes of attributes, then one that says it (UEFI, section 3.3)."""
    if not (ask.sys / "firmware/efi").is_dir():
        return None
    try:
        for path in (ask.sys / "firmware/efi/efivars").glob("SecureBoot-*"):
            said = path.read_bytes()[4:5]
            return said == b"\1" if said else Unknown(f"{path.name} is empty")
    except OSError as error:
        return Unknown(str(error))
    return Unknown("the firmware's variables are not mounted")


def _selinux(ask: Questions) -> str | None:
    try:
        return "enforcing" if words(ask.sys / "fs/selinux/enforce") == "1" else "permissive"
    except OSError:
        return None


def _switch(path: Path) -> Fact[bool | None]:
    try:
        return words(path).split()[:1] == ["1"]
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unknown(str(error))


def _limits(ask: Questions) -> dict[str, int | None]:
    """From /proc/self/limits; asked in this process, so they hold for what it starts."""
    found: dict[str, int | None] = {}
    names = {"Max open files": "open_files", "Max locked memory": "locked_memory"}
    try:
        lines = (ask.proc / "self/limits").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        for start, name in names.items():
            if line.startswith(start):
                soft = line[len(start) :].split()[0]
                found[name] = None if soft == "unlimited" else int(soft)
    return found


def _or_unknown(path: Path) -> Fact[tuple[str, ...]]:
    try:
        return tuple(words(path).split())
    except OSError as error:
        return Unknown(str(error))
