"""Machines with GPUs that differ from a healthy one in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deployer.host import Gpu, Host, Mig, PciGpu, Slice
from tests import hosts
from tests.checks.rows import GPU, RTX, TWO, system

CARD = hosts.RTX_4060
OTHER = replace(CARD, index=1, uuid="GPU-1111", pci="0000:02:00.0")
NOBODY = system(RTX, tools=())  # no command that a hint could name
WSL = replace(system(RTX, wsl=True), driver=None, pci_gpus=(), libraries=hosts.NO_GPU.libraries)
ONE_OF_TWO = replace(TWO, requirements=replace(TWO.requirements, gpu=GPU.requirements.gpu))


def cards(*gpus: Gpu, host: Host = RTX) -> Host:
    """`host` with these GPUs, all of them on the PCI bus."""
    bus = tuple(PciGpu(f"0000:0{gpu.index + 1}:00.0", "2882", "nvidia") for gpu in gpus)
    return replace(host, gpus=gpus, pci_gpus=bus)


def card(host: Host = RTX, **changes: Any) -> Host:
    """`host` with one GPU that differs."""
    return cards(replace(CARD, **changes), host=host)


def beside(**changes: Any) -> Host:
    """A healthy GPU, and one that differs as GPU 1."""
    return cards(CARD, replace(OTHER, **changes))


def docker(host: Host = RTX, **changes: Any) -> Host:
    """`host` with Docker and no way to its GPUs, but for what is changed."""
    return replace(host, runtime=replace(hosts.DOCKER, **changes))


def podman(host: Host = RTX, **changes: Any) -> Host:
    """`host` with Podman and CDI devices, but for what is changed."""
    about: dict[str, Any] = {"kind": "podman", "version": "5.4.0", **changes}
    return replace(host, runtime=replace(hosts.CDI, **about))


A100 = hosts.gpu(name="NVIDIA A100 80GB PCIe", vram=81920, free=81000, capability="8.0")
SLICE = Slice("MIG-aaaa", "NVIDIA A100 80GB PCIe MIG 3g.40gb", 40 * 10**9, 39 * 10**9)
CUT = replace(A100, mig=Mig(True, True, (SLICE, replace(SLICE, uuid="MIG-bbbb"))))
EMPTY = replace(A100, mig=Mig(True, True, ()))
