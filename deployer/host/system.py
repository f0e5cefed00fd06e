"""The operating system, the CPU and who is asking."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from deployer.host.base import Questions


@dataclass(frozen=True)
class System:
    """`os` is lower case (`linux`); `user` is the numeric user of this process; `tools` are commands found."""

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


@dataclass(frozen=True)
class Cpu:
    """`cores` are physical, `threads` are what this process may use."""

    model: str
    cores: int
    threads: int
    flags: tuple[str, ...]


_TOOLS = (
    "apt-get",
    "dnf",
    "zypper",
    "pacman",
    "apk",
    "sudo",
    "debootstrap",
    "docker",
    "podman",
    "nvidia-ctk",
)


def system(ask: Questions) -> System:
    """Raises OSError when /etc/os-release or /proc cannot be read."""
    release = _os_release(ask)
    kernel = (ask.proc / "sys/kernel/osrelease").read_text().strip()
    return System(
        os=sys.platform,
        kernel=kernel,
        architecture=os.uname().machine,
        distribution=release.get("PRETTY_NAME", "unknown"),
        distribution_like=" ".join(filter(None, (release.get("ID"), release.get("ID_LIKE")))),
        python=".".join(str(part) for part in sys.version_info[:3]),
        user=os.geteuid(),
        wsl="microsoft" in kernel.lower(),
        systemd=(ask.etc.parent / "run/systemd/system").is_dir(),
        tools=tuple(name for name in _TOOLS if _on_path(name)),
    )


def cpu(ask: Questions) -> Cpu:
    """Raises OSError when /proc/cpuinfo cannot be read."""
    cores: set[tuple[str, str]] = set()
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
        elif key == "core id":
            cores.add((package, value))
    return Cpu(model, len(cores) or processors, len(os.sched_getaffinity(0)), tuple(flags.split()))


def _on_path(name: str) -> bool:
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in os.get_exec_path())


def _os_release(ask: Questions) -> dict[str, str]:
    found = {}
    for line in (ask.etc / "os-release").read_text().splitlines():
        key, sep, value = line.partition("=")
        if sep:
            found[key] = value.strip().strip("\"'")
    return found
