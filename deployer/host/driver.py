"""The NVIDIA driver, from the kernel's side, and the GPUs that the PCI bus shows even without it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployer.host.base import Questions


@dataclass(frozen=True)
class Driver:
    """The loaded kernel module: its version, and whether it is NVIDIA's open one."""

    version: str
    open_module: bool


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


def pci_gpus(ask: Questions) -> tuple[str, ...]:
    """PCI addresses of NVIDIA display and 3D controllers."""
    found = []
    for device in sorted((ask.sys / "bus/pci/devices").glob("*")):
        vendor = (device / "vendor").read_text().strip()
        kind = (device / "class").read_text().strip()
        if vendor == "0x10de" and kind.startswith("0x03"):
            found.append(device.name)
    return tuple(found)
