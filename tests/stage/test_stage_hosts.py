"""Every described host, seen by the real probe through the real nvidia-ml-py: the facts that it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deployer.host import Fabric, Host, Slice, Unknown
from deployer.host.nvml import LIMIT_S
from tests.stage import describe

MIB, GIB = 2**20, 2**30
HUNG = Unknown(f"no answer in {LIMIT_S:g} s")
See = Callable[[str], Host]

# What each host is about: a path into its facts, and the value there.
FACTS: dict[str, dict[str, Any]] = {
    "h100": {
        "gpus.0.name": "NVIDIA H100 80GB HBM3",
        "gpus.0.vram": 81559 * MIB,
        "gpus.0.compute_capability": "9.0",
        "gpus.0.architecture": "Hopper",
        "gpus.0.pci": "0000:06:00.0",
        "pci_gpus.0.device": "2330",
        "cuda": "13.0",
        "driver.version": "580.95.05",
        "driver.open_module": True,
        "libraries.cuda": "580.95.05",
        "gpus.0.bus_width": 5120,
        "gpus.0.memory_clock": 2619,
        "base.status": 200,
        "runtime.cdi_gpus": ("0", "all"),
    },
    "a100": {
        "gpus.0.mig.enabled": False,
        "system.hypervisor": "google",
        "system.user": 0,
        "models_disk.rotating": None,
    },
    "rtx-4090": {
        "gpus.0.display": True,
        "gpus.0.ecc": None,
        "gpus.0.processes.0.name": "Xorg",
        "gpus.0.processes.0.user": "root",
        "gpus.0.processes.1.user": "ubuntu",
        "gpus.0.persistence": False,
        "gpus.0.nvlinks": None,
        "gpus.0.brand": "geforce",
    },
    "rtx-5090": {
        "gpus.0.compute_capability": "12.0",
        "gpus.0.architecture": "Blackwell",
        "cuda": "13.1",
        "runtime.version": "29.2.0",
        "runtime.nvidia_runtime": False,
        "gpus.0.heat.slowdown": None,
    },
    "l4": {"gpus.0.vram": 23034 * MIB, "gpus.0.power.limit": 72.0, "gpus.0.link.most_width": 16},
    "t4": {
        "driver.open_module": False,
        "gpus.0.retired": False,
        "gpus.0.remapped": None,
        "system.hypervisor": "amazon",
    },
    "2x-rtx-3090": {
        "gpus.1.pci": "0000:0c:00.0",
        "gpus.0.nvlinks.up": 4,
        "gpus.1.link.width": 8,
        "system.iommu": True,
    },
    "rtx-2060-8gb": {
        "gpus.0.vram": 8 * GIB,
        "models_disk.rotating": True,
        "memory.total": int(15.5 * 2**20) * 1024,
    },
    "gtx-1080": {"gpus.0.compute_capability": "6.1", "gpus.0.architecture": "Pascal", "gpus.0.mig": None},
    "jetson-orin": {
        "gpus.0.unified": True,
        "gpus.0.vram": int(61.4 * 2**20) * 1024,
        "pci_gpus": (),
        "gpus.0.pci": None,
        "system.architecture": "aarch64",
        "gpus.0.heat.now": None,
        "toolkit.settings.nvidia-container-runtime.mode": "csv",
        "runtime.cdi": False,
    },
    "gb10": {
        "gpus.0.unified": True,
        "gpus.0.compute_capability": "12.1",
        "gpus.0.used": None,
        "cpu.threads": 20,
    },
    "b200": {"gpus.0.vram": 183359 * MIB, "cdi.0.version": "0.7.0"},
    "8x-h100": {
        "gpus.7.fabric": Fabric("completed", 0),
        "nvswitches": 4,
        "fabric_manager.running": True,
        "gpus.7.nvlinks.up": 18,
        "pci_gpus.7.numa": 1,
        "cpu.sockets": 2,
        "cpu.threads": 224,
    },
    "a100-mig": {
        "gpus.0.mig.enabled": True,
        "gpus.0.mig.slices.0.name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "gpus.0.mig.slices.2.vram": 9728 * MIB,
        "gpus.0.vram": Unknown("NVML: Insufficient Permissions"),
        "gpus.0.remapped": None,
    },
    "wsl2": {
        "system.wsl": True,
        "driver": None,
        "libraries.cuda": "581.42",
        "nodes.files.dxg.usable": True,
        "gpus.0.persistence": None,
        "pci_gpus": (),
        "system.wsl_library": True,
        "gpus.0.processes": None,
    },
    "no-gpu": {
        "gpus": (),
        "driver": None,
        "cuda": Unknown("no NVIDIA library"),
        "toolkit": None,
        "system.hypervisor": "kvm",
    },
    "gpu-no-driver": {
        "gpus": (),
        "driver": None,
        "pci_gpus.0.device": "2504",
        "pci_gpus.0.bound": None,
        "modules.built": False,
    },
    "library-mismatch": {
        "driver.version": "580.82.07",
        "libraries.nvml": "580.95.05",
        "gpus": Unknown("NVML: RM has detected an NVML/RM version mismatch."),
    },
    "nouveau": {
        "pci_gpus.0.bound": "nouveau",
        "modules.loaded": ("nouveau",),
        "modules.built": True,
        "driver": None,
    },
    "uvm-missing": {"nodes.uvm_major": None, "gpus.0.compute_capability": "8.9"},
    "fabric-manager-down": {
        "fabric_manager.running": False,
        "gpus.0.fabric.state": "in progress",
        "packages.nvidia-fabricmanager-580.version": "580.82.07-0ubuntu0.24.04.1",
    },
    "vram-orphan": {
        "gpus.0.processes.0.state": "D",
        "gpus.0.processes.0.container": "4f2c9a7be1d0",
        "gpus.0.processes.0.memory": 20 * GIB,
        "runtime.containers": {"9b1deb4d3b7d": "open-webui"},
    },
    "xid-79": {
        "gpus.1.name": Unknown("NVML: GPU is lost"),
        "gpus.0.name": "NVIDIA GeForce RTX 3090",
        "kernel_log.xids.1.code": 79,
        "kernel_log.xids.1.gpu": "0000:0c:00.0",
        "kernel_log.xids.0.code": 13,
    },
    "ecc-pending": {"gpus.0.remapped.pending": True, "gpus.0.ecc.uncorrected": 2, "gpus.0.ecc.ever": 5},
    "throttled": {
        "gpus.0.throttled": ("power cap", "thermal", "hardware thermal"),
        "gpus.0.heat.now": 97,
        "gpus.0.power.limit": 60.0,
        "gpus.0.power.default": 72.0,
    },
    "pcie-x4": {"gpus.0.link.width": 4, "gpus.0.link.most_width": 16},
    "stale-cdi": {
        "cdi.0.driver": "570.172.08",
        "cdi.1.missing": (),
        "cdi.0.missing.0": "/usr/lib/x86_64-linux-gnu/libcuda.so.570.172.08",
    },
    "toolkit-no-runtime": {
        "toolkit.runtime": True,
        "runtime.nvidia_runtime": False,
        "runtime.cdi": False,
        "cdi": (),
    },
    "snap-docker": {"runtime.root": "/var/snap/docker/common/var-lib-docker"},
    "driver-550": {"cuda": "12.4", "driver.version": "550.163.01", "gpus.0.heat.now": 38},
    "forward-compat-geforce": {"cuda": "12.4", "gpus.0.brand": "geforce"},
    "driver-470": {
        "cuda": "11.4",
        "gpus.0.vram": 15360 * MIB,
        "gpus.0.reserved": None,
        "gpus.0.throttled": (),
        "gpus.0.fabric": Unknown("NVML: Function Not Found"),
        "gpus.0.processes": (),
    },
    "secure-boot": {
        "system.secure_boot": True,
        "kernel_log.refused": "Loading of unsigned module is rejected",
        "driver": None,
    },
    "kernel-without-module": {
        "modules.built": False,
        "libraries.cuda": "580.95.05",
        "gpus": (),
        "cuda": Unknown("no driver is loaded"),
    },
    "hung-nvml": {
        "gpus": HUNG,
        "runtime.version": "28.5.1",
        "pci_gpus.1.device": "2204",
    },
    "all-hung": {
        "gpus": HUNG,
        "models_disk": Unknown("no answer in 2 s"),
        "memory.swap": 8 * GIB,
        "sources.https://huggingface.co": Unknown("no answer in 2 s"),
    },
    "rootless-docker": {"runtime.rootless": True, "toolkit.settings.nvidia-container-cli.no-cgroups": "true"},
    "podman": {
        "runtime.kind": "podman",
        "runtime.cdi_gpus": ("0", "all"),
        "system.selinux": "enforcing",
        "system.selinux_devices": False,
        "cdi.0.version": "0.7.0",
        "libraries.nvml": "580.95.05",
    },
    "container": {
        "system.container": "docker",
        "memory.limit": 8 * GIB,
        "memory.available": int(6.5 * GIB),
        "cpu.threads": 4,
        "cpu.all_threads": 64,
        "runtime": None,
    },
    "models-on-nfs": {
        "models_disk.filesystem": "nfs4",
        "models_disk.rotating": None,
        "images_disk.filesystem": "ext4",
    },
    "disk-full": {
        "images_disk.free_inodes": 900,
        "models_disk.read_only": True,
        "models_disk.writable": False,
    },
    "docker-denied": {"gpus.0.name": "NVIDIA L4"},
    "no-docker": {"runtime": None, "toolkit": None, "gpus.0.name": "NVIDIA GeForce RTX 4090"},
    "offline": {
        "ports.8000.owner": "python3 (pid 3311)",
        "ports.8000.free": False,
        "base": None,
        "sources.https://huggingface.co": Unknown("the name huggingface.co cannot be resolved"),
    },
}


def fact(host: Host, path: str) -> Any:
    """`gpus.0.name`: fields, places of tuples and keys of mappings, which may have dots of their own."""
    value: Any = host
    parts = path.split(".")
    while parts:
        if isinstance(value, dict):
            taken = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in value)
            value, parts = value[".".join(parts[:taken])], parts[taken:]
            continue
        part, *parts = parts
        value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
    return value


@pytest.mark.parametrize("name", describe.names())
def test_a_host_is_seen_as_it_is_described(name: str, seen: See) -> None:
    host = seen(name)
    assert {path: fact(host, path) for path in FACTS[name]} == FACTS[name]


def answers(name: str) -> bool:
    """Whether all that is asked of the cards of this host has an answer."""
    said = describe.load(name)
    broken = said["hang"] or said["errors"] or said["missing"] or any("lost" in gpu for gpu in said["gpus"])
    return bool(said["gpus"] and said["driver"] and not broken and name not in ("a100-mig", "wsl2"))


@pytest.mark.parametrize("name", list(filter(answers, describe.names())))
def test_nothing_is_unknown_of_cards_that_answer(name: str, seen: See) -> None:
    host = seen(name)
    assert not isinstance(host.gpus, Unknown)
    for gpu in host.gpus:
        assert not [key for key, value in vars(gpu).items() if isinstance(value, Unknown)]


def test_memory_of_slices_and_of_programs_adds_up(seen: See) -> None:
    slices = fact(seen("a100-mig"), "gpus.0.mig.slices")
    assert [type(part) for part in slices] == [Slice] * 3  # the empty place is none
    assert slices[2].free_vram == (9728 - 8200) * MIB
    card = fact(seen("vram-orphan"), "gpus.0")
    assert card.free_vram == card.vram - card.used - card.reserved
    assert card.used == (20480 + 310 + 30) * MIB


def test_every_named_host_has_facts() -> None:
    assert sorted(FACTS) == sorted(describe.names())
    assert len(FACTS) >= 28
