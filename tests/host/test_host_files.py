"""Probes that read what the kernel shows."""

from __future__ import annotations

import os
import platform
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import host
from deployer.host import Driver, Memory, Questions, Unknown, base
from deployer.host.disk import disk
from deployer.host.driver import driver, pci_gpus
from deployer.host.memory import memory
from deployer.host.system import cpu, system
from tests.host.conftest import put

GIB = 2**30
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(PROPRIETARY, Driver("550.54.14", False), id="proprietary"),
        pytest.param(OPEN, Driver("580.65.06", True), id="open"),
        pytest.param(OPEN.replace("x86_64", "aarch64"), Driver("580.65.06", True), id="open on aarch64"),
        pytest.param(PROPRIETARY.replace("550.54.14", "570.26"), Driver("570.26", False), id="two parts"),
        pytest.param(None, None, id="none"),
    ],
)
def test_driver(text: str | None, found: Driver | None, ask: Questions) -> None:
    if text is not None:
        put(ask.proc / "driver/nvidia/version", text)
    assert driver(ask) == found


def test_a_driver_that_speaks_another_way_is_unknown_and_not_absent(ask: Questions) -> None:
    put(ask.proc / "driver/nvidia/version", "NVRM version: something new\n")
    answer = host.probe(ask).driver
    assert isinstance(answer, Unknown)
    assert "something new" in answer.reason


def test_gpus_on_the_pci_bus_are_seen_without_a_driver(ask: Questions) -> None:
    for address, vendor, kind in (
        ("0000:00:02.0", "0x8086", "0x030000"),
        ("0000:01:00.0", "0x10de", "0x030000"),
        ("0000:01:00.1", "0x10de", "0x040300"),
        ("0000:02:00.0", "0x10de", "0x030200"),
    ):
        put(ask.sys / "bus/pci/devices" / address / "vendor", f"{vendor}\n")
        put(ask.sys / "bus/pci/devices" / address / "class", f"{kind}\n")
    assert pci_gpus(ask) == ("0000:01:00.0", "0000:02:00.0")


def test_a_machine_without_a_pci_bus_has_no_gpus_on_it(ask: Questions) -> None:
    assert pci_gpus(replace(ask, sys=ask.sys / "nowhere")) == ()


@pytest.mark.parametrize(
    ("path", "limit", "total", "available"),
    [
        pytest.param(None, "", 16_384_000_000, 12_288_000_000, id="no limit"),
        pytest.param("memory.max", "max\n", 16_384_000_000, 12_288_000_000, id="v2 max"),
        pytest.param("memory.max", f"{GIB}\n", GIB, GIB, id="v2"),
        pytest.param("memory.max", "14000000000\n", 14_000_000_000, 12_288_000_000, id="v2 above available"),
        pytest.param("memory/memory.limit_in_bytes", f"{GIB}\n", GIB, GIB, id="v1"),
        pytest.param(
            "memory/memory.limit_in_bytes",
            "9223372036854771712\n",
            16_384_000_000,
            12_288_000_000,
            id="v1 none",
        ),
    ],
)
def test_memory(path: str | None, limit: str, total: int, available: int, ask: Questions) -> None:
    if path:
        put(ask.sys / "fs/cgroup" / path, limit)
    assert memory(ask) == Memory(total, available)


def test_memory_bandwidth_is_measured() -> None:
    assert 1e8 < host.bandwidth(1 << 20) < 1e13


def test_a_disk_that_will_hold_a_folder_is_that_of_its_nearest_parent(ask: Questions, machine: Path) -> None:
    found = disk(ask.models, ask)
    stat = os.statvfs(machine)
    assert found.path == str(machine)
    assert found.size == stat.f_blocks * stat.f_frsize
    assert 0 <= found.free <= found.size
    assert found.filesystem == "overlay"
    assert found.rotating is None
    assert found.writable


@pytest.mark.parametrize(
    ("mounts", "filesystem"),
    [
        pytest.param("/dev/a / ext4 rw 0 0\n", "ext4", id="root"),
        pytest.param("/dev/a / ext4 rw 0 0\n/dev/b {here} xfs rw 0 0\n", "xfs", id="deepest"),
        pytest.param("/dev/b {here} xfs rw 0 0\n/dev/a / ext4 rw 0 0\n", "xfs", id="deepest first"),
        pytest.param("/dev/b {here} xfs rw 0 0\n/dev/c {here} btrfs rw 0 0\n", "btrfs", id="hidden"),
        pytest.param("/dev/a / ext4 rw 0 0\n/dev/b {here}x xfs rw 0 0\n", "ext4", id="a longer name"),
        pytest.param(
            "/dev/a / ext4 rw 0 0\n/dev/b {here}/my\\040models xfs rw 0 0\n", "xfs", id="with a space"
        ),
        pytest.param("", "unknown", id="nothing"),
    ],
)
def test_the_file_system_is_that_of_the_mount(
    mounts: str, filesystem: str, ask: Questions, machine: Path
) -> None:
    folder = machine / "my models"
    folder.mkdir()
    put(ask.proc / "self/mounts", mounts.replace("{here}", str(machine)))
    assert disk(folder, ask).filesystem == filesystem


@pytest.mark.parametrize(("text", "rotating"), [("1\n", True), ("0\n", False)], ids=["rotating", "ssd"])
@pytest.mark.parametrize("partition", [False, True], ids=["whole disk", "partition"])
def test_rotating(text: str, rotating: bool, partition: bool, ask: Questions, machine: Path) -> None:
    device = machine.stat().st_dev
    whole = machine / "sys/devices/disk"
    place = whole / "disk1" if partition else whole
    place.mkdir(parents=True)
    put(whole / "queue/rotational", text)
    link = machine / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(place)
    assert disk(machine, ask).rotating is rotating


def test_a_virtual_disk_says_nothing_of_what_is_under_it(ask: Questions, machine: Path) -> None:
    device = machine.stat().st_dev
    whole = machine / "sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda"
    put(whole / "queue/rotational", "1\n")
    link = machine / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(whole)
    assert disk(machine, ask).rotating is None


def test_system(ask: Questions) -> None:
    found = system(ask)
    assert found.os == "linux"
    assert found.kernel == "6.8.0-60-generic"
    assert found.distribution == "Ubuntu 24.04 LTS"
    assert found.distribution_like == "ubuntu debian"
    assert found.python == platform.python_version().rstrip("+")
    assert found.user == os.geteuid()
    assert not found.wsl
    assert not found.systemd


def test_wsl_and_systemd_are_seen(ask: Questions, machine: Path) -> None:
    put(ask.proc / "sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
    (machine / "run/systemd/system").mkdir(parents=True)
    found = system(ask)
    assert found.wsl
    assert found.systemd


def test_a_distribution_without_a_name_has_none(ask: Questions) -> None:
    put(ask.etc / "os-release", "VERSION=1\n")
    assert (system(ask).distribution, system(ask).distribution_like) == ("unknown", "")


def test_cpu_counts_cores_and_threads_apart(ask: Questions) -> None:
    found = cpu(ask)
    assert found.model == "Some CPU @ 3 GHz"
    assert found.cores == 2
    assert found.threads == len(os.sched_getaffinity(0))
    assert found.flags == ("fpu", "avx2", "amx_tile")


def test_an_arm_cpu_has_features_and_no_core_ids(ask: Questions) -> None:
    put(
        ask.proc / "cpuinfo",
        "".join(f"processor\t: {n}\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n\n" for n in range(3)),
    )
    found = cpu(ask)
    assert (found.model, found.cores, found.flags) == ("0xd0c", 3, ("fp", "asimd"))


def test_what_cannot_be_read_is_unknown_and_costs_nothing_else(ask: Questions) -> None:
    (ask.proc / "meminfo").unlink()
    put(ask.etc / "os-release", "")
    (ask.etc / "os-release").unlink()
    found = host.probe(ask)
    assert isinstance(found.memory, Unknown)
    assert isinstance(found.system, Unknown)
    assert "os-release" in found.system.reason
    assert isinstance(found.cpu, host.Cpu)
    assert found.driver is None


def test_a_probe_that_takes_too_long_does_not_hold_up_the_others() -> None:
    never = threading.Event()
    begin = time.monotonic()
    found = base.gather({"slow": lambda: never.wait(30), "fast": lambda: 7}, limit=0.1)
    assert time.monotonic() - begin < 5
    never.set()
    assert found == {"slow": Unknown("no answer in 0.1 s"), "fast": 7}


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, IndexError, TypeError, AttributeError])
def test_a_probe_that_fails_is_unknown_with_its_reason(error: type[Exception]) -> None:
    def fail() -> None:
        raise error("why")

    found = base.gather({"one": fail, "two": lambda: None})
    assert isinstance(found["one"], Unknown)
    assert "why" in found["one"].reason
    assert found["two"] is None
