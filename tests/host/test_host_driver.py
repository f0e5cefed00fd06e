"""The NVIDIA driver from the kernel's side: modules, libraries, device files, the PCI bus, the fabric manager."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import host
from deployer.host import (
    Driver,
    FabricManager,
    Libraries,
    Modules,
    Node,
    Nodes,
    PciGpu,
    Questions,
    Unknown,
)
from deployer.host.driver import driver, fabric_manager, libraries, modules, nodes, nvswitches, pci_gpus
from tests.host.conftest import as_nobody, is_root, link, put

KERNEL = "6.8.0-60-generic"
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
LOADED = (
    "nvidia_uvm 2093056 0 - Live 0x0000000000000000 (O)\nnvidia_drm 135168 0 - Live 0x0000000000000000 (O)\n"
    "nvidia_modeset 1560576 1 nvidia_drm, Live 0x0000000000000000 (O)\n"
    "nvidia 104169472 2 nvidia_uvm,nvidia_modeset, Live 0x0000000000000000 (O)\n"
    "drm 622592 2 nvidia_drm,nvidia, Live 0x0000000000000000\next4 1060864 1 - Live 0x0000000000000000\n"
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


def test_loaded_modules_and_nobody_looks_for_built_ones(ask: Questions) -> None:
    put(ask.proc / "modules", LOADED)
    assert modules(ask) == Modules(("nvidia", "nvidia_drm", "nvidia_modeset", "nvidia_uvm"), None)


@pytest.mark.parametrize(
    ("listed", "built"),
    [
        pytest.param("kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\n", False, id="not built"),
        pytest.param("updates/dkms/nvidia.ko:\n", True, id="plain"),
        pytest.param("kernel/fs/ext4/ext4.ko.zst:\nupdates/dkms/nvidia.ko.zst:\n", True, id="zst"),
        pytest.param("extra/nvidia.ko.xz:\n", True, id="xz"),
        pytest.param("kernel/fs/ext4/ext4.ko:\nnvidia.ko:\n", True, id="at the top"),
        pytest.param("kernel/nvidia-580/nvidia-uvm.ko: kernel/nvidia-580/nvidia.ko\n", True, id="as a need"),
        pytest.param("updates/dkms/nvidia-current.ko.xz:\n", True, id="Debian"),
        pytest.param("updates/dkms/nvidia-tesla-470.ko:\n", True, id="Debian for Tesla"),
        pytest.param("kernel/drivers/video/fbdev/nvidia/nvidiafb.ko:\n", False, id="a frame buffer"),
        pytest.param("kernel/drivers/i2c/busses/i2c-nvidia-gpu.ko.zst:\n", False, id="a bus"),
        pytest.param("kernel/drivers/platform/x86/nvidia-wmi-ec-backlight.ko:\n", False, id="a light"),
        pytest.param(None, Unknown(f"there is no list of modules for kernel {KERNEL}"), id="no list"),
    ],
)
def test_whether_the_module_is_built_for_this_kernel(
    listed: str | None, built: object, ask: Questions
) -> None:
    put(ask.proc / "modules", "ext4 1060864 1 - Live 0x0000000000000000\n")
    put(ask.root / "lib/modules/6.8.0-59-generic/modules.dep", "updates/dkms/nvidia.ko:\n")
    if listed is not None:
        put(ask.root / "lib/modules" / KERNEL / "modules.dep", listed)
    assert modules(ask) == Modules((), built)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nouveau", "nova_core"])
def test_the_free_driver_is_seen(name: str, ask: Questions) -> None:
    put(
        ask.proc / "modules",
        f"{name} 3096576 5 - Live 0x0000000000000000\nmxm_wmi 12288 1 {name}, Live 0x0\n",
    )
    put(ask.root / "lib/modules" / KERNEL / "modules.dep", "")
    assert modules(ask) == Modules((name,), False)


def test_a_kernel_that_takes_no_modules(ask: Questions) -> None:
    assert modules(ask) == Modules((), Unknown("this kernel takes no modules"))


@pytest.mark.parametrize(
    ("links", "found"),
    [
        pytest.param({}, Libraries(None, None), id="none"),
        pytest.param(
            {
                "usr/lib/x86_64-linux-gnu/libcuda.so.1": "libcuda.so.580.65.06",
                "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "libnvidia-ml.so.580.65.06",
            },
            Libraries("580.65.06", "580.65.06"),
            id="debian",
        ),
        pytest.param(
            {"usr/lib64/libcuda.so.1": "/usr/lib64/libcuda.so.570.26"}, Libraries("570.26", None), id="fedora"
        ),
        pytest.param(
            {
                "usr/lib/x86_64-linux-gnu/libcuda.so.1": "nvidia/current/libcuda.so.1",
                "usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1": "libcuda.so.535.247.01",
            },
            Libraries("535.247.01", None),
            id="a link to a link",
        ),
        pytest.param(
            {"usr/lib/x86_64-linux-gnu/libcuda.so.1": "libcuda.so.wsl"}, Libraries(None, None), id="no version"
        ),
        pytest.param(
            {
                "usr/lib/x86_64-linux-gnu/libcuda.so.1": "libcuda.so.580.65.06",
                "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "libnvidia-ml.so.575.57.08",
            },
            Libraries("580.65.06", "575.57.08"),
            id="of two drivers",
        ),
    ],
)  # fmt: skip
def test_libraries_have_the_version_that_their_link_leads_to(
    links: dict[str, str], found: Libraries, ask: Questions
) -> None:
    for path, target in links.items():
        link(ask.root / path, target)
    assert libraries(ask) == found


def test_a_library_that_is_no_link_tells_no_version(ask: Questions) -> None:
    put(ask.root / "usr/lib/wsl/lib/libcuda.so.1", "")
    assert libraries(ask) == Libraries(None, None)


def test_a_machine_without_device_files(ask: Questions) -> None:
    assert nodes(ask) == Nodes({}, None, char_links=False)


def test_a_plain_file_is_no_device(ask: Questions) -> None:
    put(ask.dev / "nvidia0", "")
    put(ask.dev / "nvidia-caps/nvidia-cap1", "")  # a folder is no device either
    put(ask.dev / "video0", "")
    assert nodes(ask).files == {"nvidia0": Node(None, usable=True)}


def test_device_files_of_a_driver(ask: Questions) -> None:
    ask.dev.mkdir()
    try:
        os.mknod(ask.dev / "nvidia0", stat.S_IFCHR | 0o666, os.makedev(195, 0))
        os.mknod(ask.dev / "nvidia-uvm", stat.S_IFCHR | 0o666, os.makedev(508, 0))
    except PermissionError:
        pytest.skip("this user may not make device files")
    assert nodes(ask).files == {"nvidia0": Node(195, usable=True), "nvidia-uvm": Node(508, usable=True)}


USABLE = """
found = driver.nodes(Questions(Path("/"), Path("/"), root=Path(sys.argv[1])))
print([name for name, node in found.files.items() if node.usable])
"""


def test_a_device_that_this_user_may_not_open(open_folder: Path) -> None:
    put(open_folder / "dev/nvidia0", "", 0o600 if is_root() else 0)
    put(open_folder / "dev/nvidia1", "", 0o444)
    put(open_folder / "dev/nvidia2", "", 0o666)
    put(open_folder / "dev/dxg", "", 0o666)
    assert as_nobody(USABLE, open_folder) == "['nvidia2', 'dxg']"
    (open_folder / "dev/dxg").chmod(0o444)
    assert as_nobody(USABLE, open_folder) == "['nvidia2']"


def test_the_device_of_windows(ask: Questions) -> None:
    put(ask.dev / "dxg", "")
    assert nodes(ask).files == {"dxg": Node(None, usable=True)}


@pytest.mark.parametrize(
    ("text", "major"),
    [
        pytest.param("Character devices:\n  1 mem\n195 nvidia\n508 nvidia-uvm\n\nBlock devices:\n", 508, id="there"),
        pytest.param("Character devices:\n  1 mem\n 99 nvidia-uvm\n", 99, id="two digits"),
        pytest.param("Character devices:\n195 nvidia\n507 nvidia-uvm-tools\n", None, id="another"),
        pytest.param(None, None, id="no list"),
    ],
)  # fmt: skip
def test_the_number_of_nvidia_uvm(text: str | None, major: int | None, ask: Questions) -> None:
    if text is not None:
        put(ask.proc / "devices", text)
    assert nodes(ask).uvm_major == major


@pytest.mark.parametrize(("name", "there"), [("195:255", True), ("1:3", False), ("1195:0", False)])
def test_links_to_the_devices(name: str, there: bool, ask: Questions) -> None:
    link(ask.dev / "char" / name, "../nvidiactl")  # it need not lead anywhere
    assert nodes(ask).char_links is there


def pci(ask: Questions, address: str, vendor: str, kind: str, **files: str) -> Path:
    folder = ask.sys / "bus/pci/devices" / address
    for name, text in {"vendor": vendor, "class": kind, **files}.items():
        put(folder / name, f"{text}\n")
    return folder


def test_gpus_on_the_pci_bus_are_seen_without_a_driver(ask: Questions) -> None:
    pci(ask, "0000:00:02.0", "0x8086", "0x030000", device="0x3e98")
    pci(ask, "0000:02:00.0", "0x10de", "0x030200", device="0x2330")
    pci(ask, "0000:01:00.1", "0x10de", "0x040300", device="0x22bd")
    pci(ask, "0000:01:00.0", "0x10de", "0x030000")
    assert pci_gpus(ask) == (
        PciGpu("0000:01:00.0", "unknown", bound=None, numa=None),
        PciGpu("0000:02:00.0", "2330", bound=None, numa=None),
    )


@pytest.mark.parametrize("name", ["nvidia", "nouveau", "vfio-pci"])
def test_the_driver_that_has_a_gpu(name: str, ask: Questions) -> None:
    folder = pci(ask, "0000:01:00.0", "0x10de", "0x030000", device="0x2882")
    (ask.sys / f"bus/pci/drivers/{name}").mkdir(parents=True)
    link(folder / "driver", f"../../drivers/{name}")
    assert [gpu.bound for gpu in pci_gpus(ask)] == [name]


@pytest.mark.parametrize(("text", "numa"), [("1", 1), ("0", 0), ("-1", None), ("what", None)])
def test_the_memory_that_is_near_a_gpu(text: str, numa: int | None, ask: Questions) -> None:
    pci(ask, "0000:01:00.0", "0x10de", "0x030000", device="0x2882", numa_node=text)
    assert [gpu.numa for gpu in pci_gpus(ask)] == [numa]


def test_a_machine_without_a_pci_bus_has_no_gpus_on_it(ask: Questions) -> None:
    (ask.sys / "bus/pci/devices").rmdir()
    assert pci_gpus(ask) == ()
    assert nvswitches(ask) == 0


def test_nvswitches_are_bridges_of_nvidia(ask: Questions) -> None:
    for n in range(4):
        pci(ask, f"0000:0{n}:00.0", "0x10de", "0x068000")
    pci(ask, "0000:07:00.0", "0x8086", "0x068000")
    pci(ask, "0000:08:00.0", "0x10de", "0x030200")
    assert nvswitches(ask) == 4


def test_who_has_no_nvswitch_and_no_program_needs_no_fabric_manager(ask: Questions) -> None:
    assert fabric_manager(ask) is None


def test_an_nvswitch_machine_without_its_fabric_manager(ask: Questions) -> None:
    pci(ask, "0000:01:00.0", "0x10de", "0x068000")
    put(ask.proc / "70/comm", "nv-hostengine\n")
    (ask.proc / "71").mkdir()  # a process that has just ended
    assert fabric_manager(ask) == FabricManager(installed=False, running=False)


def test_a_fabric_manager_that_is_installed_and_runs(ask: Questions, tmp_path: Path) -> None:
    program = put(tmp_path / "real/usr/bin/nv-fabricmanager", "#!/bin/sh\necho up\nread line\n", 0o755)
    link(tmp_path / "real/proc", "/proc")
    here = replace(ask, root=tmp_path / "real")
    assert fabric_manager(here) == FabricManager(installed=True, running=False)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"up\n"  # its name is its own from here on
        assert fabric_manager(here) == FabricManager(installed=True, running=True)
        running.communicate(b"\n")
    assert fabric_manager(here) == FabricManager(installed=True, running=False)
