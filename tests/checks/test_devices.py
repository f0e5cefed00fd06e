"""What the driver needs beside itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Driver, Fabric, FabricManager, Host, Modules, Node, Nodes, Package
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import CARD, NOBODY, OTHER, WSL, card, cards, docker
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, ROOT, RTX, check, system

NODES = RTX.nodes
assert isinstance(NODES, Nodes)
FILES = dict(NODES.files)
MAKE = "sudo nvidia-modprobe -c 0 -u"
LOAD = "sudo modprobe nvidia_uvm, and install nvidia-modprobe, which makes the device files"
BY_HAND = "load the module nvidia_uvm, and install nvidia-modprobe, which makes the device files"
LAZY = "nvidia-modprobe makes it when a program on the host asks"
NOT_LOADED = "driver.loaded says why"


def nodes(host: Host = RTX, **changes: Any) -> Host:
    return replace(host, nodes=replace(NODES, **changes))


def without(*names: str, host: Host = RTX) -> Host:
    return nodes(host, files={name: node for name, node in FILES.items() if name not in names})


def asleep(host: Host = RTX) -> Host:
    """nvidia-uvm is not loaded, and its device file is not there."""
    return nodes(
        replace(host, modules=Modules(("nvidia",), None)),
        files={"nvidiactl": FILES["nvidiactl"]},
        uvm_major=None,
    )


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "loaded", None),
        (replace(RTX, modules=Modules((), LOST)), GPU, "pass", "loaded", None),
        (asleep(docker(nvidia_runtime=True)), GPU, "warn", f"nvidia_uvm is not loaded; {LAZY}", MAKE),
        (asleep(replace(docker(nvidia_runtime=True), system=ROOT)), GPU, "warn", LAZY, MAKE.removeprefix("sudo ")),
        (without("nvidia-uvm", host=docker(nvidia_runtime=True)), GPU, "warn", f"file is not there; {LAZY}", MAKE),
        (asleep(), GPU, "fail", "nvidia_uvm is not loaded", MAKE),
        (without("nvidia-uvm"), GPU, "fail", "the device file is not there", MAKE),
        (asleep(system(RTX, kernel="5.15.148-tegra")), GPU, "skip", "a Jetson's GPU needs none", None),
        (asleep(system(RTX, tools=("sudo", "modprobe"))), GPU, "fail", "nvidia_uvm is not loaded", LOAD),
        (without("nvidia-uvm", host=NOBODY), GPU, "fail", "the device file is not there", BY_HAND),
        (
            nodes(uvm_major=511), GPU, "fail", "it has number 508, the kernel's module has 511",
            f"sudo rm /dev/nvidia-uvm /dev/nvidia-uvm-tools && {MAKE}",
        ),
        (nodes(files={**FILES, "nvidia-uvm": Node(None, True)}), GPU, "fail", "it is no device file",
         f"sudo rm /dev/nvidia-uvm /dev/nvidia-uvm-tools && {MAKE}"),
        (nodes(uvm_major=None), GPU, "unknown", "does not say which number", None),
        (nodes(replace(RTX, modules=LOST), uvm_major=None), GPU, "unknown", "lost", None),
        (replace(RTX, nodes=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, driver=Driver("", True)), GPU, "unknown", "is not a number", None),
        (hosts.NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (WSL, GPU, "skip", "Windows's own", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_uvm(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.uvm", host, wanted, outcome, found, hint)


def test_pain_6_nvidia_smi_works_and_cuda_does_not_after_a_headless_boot() -> None:
    host = asleep(system(RTX, tools=("nvidia-smi", "sudo", "modprobe")))
    check("gpu.count", host, GPU, "pass", "RTX 4060")
    check("driver.uvm", host, GPU, "fail", "the module nvidia_uvm is not loaded", LOAD)


GROUP = "give this user the group that owns them: ls -l /dev/nvidia0 shows it"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "2 device files", None),
        (cards(CARD, OTHER), GPU, "pass", "3 device files", None),
        (without("nvidia1", host=cards(CARD, OTHER)), GPU, "warn", "missing: nvidia1", MAKE),
        (without("nvidiactl", "nvidia0"), GPU, "warn", "missing: nvidiactl, nvidia0", MAKE),
        (nodes(files={**FILES, "nvidia0": Node(195, False)}), GPU, "warn", "closed to this user: nvidia0",
         GROUP),
        (nodes(replace(RTX, gpus=LOST), files={}), GPU, "fail", "none of them", MAKE),
        (nodes(replace(NOBODY, gpus=()), files={}), GPU, "fail", "none of them", BY_HAND),
        (replace(RTX, gpus=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, gpus=()), GPU, "unknown", "NVML shows no GPU", None),
        (replace(RTX, nodes=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (hosts.NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_nodes(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.nodes", host, wanted, outcome, found, hint)


HOOKED = nodes(docker(nvidia_runtime=True), char_links=False)
LINKS = "sudo nvidia-ctk system create-dev-char-symlinks --create-all"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (nodes(char_links=False), GPU, "pass", "through CDI", None),
        (docker(nvidia_runtime=True), GPU, "pass", "links in /dev/char", None),
        (docker(HOOKED, nvidia_runtime=True, cgroup="cgroupfs v2"), GPU, "pass", "cgroupfs v2", None),
        (HOOKED, GPU, "warn", "control groups are systemd v2, the hook is used", LINKS),
        (system(HOOKED, tools=()), GPU, "warn", "the hook is used", "give GPUs through CDI: runtime.gpu"),
        (replace(HOOKED, nodes=LOST), GPU, "unknown", "lost", None),
        (replace(HOOKED, runtime=LOST), GPU, "unknown", "lost", None),
        (replace(HOOKED, driver=LOST), GPU, "unknown", "lost", None),
        (nodes(docker(), char_links=False), GPU, "skip", "no way to the GPUs", None),
        (replace(HOOKED, runtime=None), GPU, "skip", "runtime.engine says why", None),
        (replace(HOOKED, driver=None, gpus=()), GPU, "skip", NOT_LOADED, None),
        (HOOKED, replace(GPU, runtime="process"), "skip", "will not run in containers", None),
        (NO_GPU, GPU, "skip", "there is no GPU", None),
        (HOOKED, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_char_links(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.char_links", host, wanted, outcome, found, hint)


def test_pain_2_what_loses_a_gpu_at_the_next_systemd_reload_is_seen_before() -> None:
    check("driver.char_links", HOOKED, GPU, "warn", "no links in /dev/char", LINKS)


def hgx(
    *, installed: bool = True, running: bool = True, package: str | None = None, host: Host = RTX
) -> Host:
    names = {} if package is None else {"nvidia-fabricmanager-580": Package(package, False)}
    return replace(host, nvswitches=4, fabric_manager=FabricManager(installed, running), packages=names)


START = "sudo systemctl enable --now nvidia-fabricmanager"
RIGHT = "sudo apt-get install nvidia-fabricmanager-580=580.65.06-*"
FEDORA = system(tools=("dnf", "sudo", "systemctl"))
JOINED = card(fabric=Fabric("completed", 0))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (hgx(package="1:580.65.06-0ubuntu1"), GPU, "pass", "running, 580.65.06", None),
        (hgx(), GPU, "pass", "running, version not known", None),
        (replace(hgx(), packages=LOST), GPU, "pass", "version not known", None),
        (hgx(running=False, host=JOINED), GPU, "warn", "installed and not running", START),
        (hgx(running=False), GPU, "fail", "installed and not running", START),
        (hgx(running=False, host=system(RTX, systemd=False)), GPU, "fail", "not running",
         "start nv-fabricmanager"),
        (hgx(installed=False, running=False), GPU, "fail", "not installed", f"{RIGHT} && {START}"),
        (replace(hgx(), fabric_manager=None), GPU, "fail", "not installed", f"{RIGHT} && {START}"),
        (
            replace(hgx(installed=False), system=FEDORA.system), GPU, "fail", "not installed",
            f"sudo dnf install nvidia-fabric-manager-580.65.06 && {START}",
        ),
        (hgx(installed=False, host=NOBODY), GPU, "fail", "not installed",
         "install nvidia-fabricmanager 580.65.06"),
        (
            hgx(package="580.65.05-1"), GPU, "fail", "driver 580.65.06, fabric manager 580.65.05",
            f"{RIGHT} && sudo systemctl restart nvidia-fabricmanager",
        ),
        (hgx(package="570.86.10-1", host=NOBODY), GPU, "fail", "fabric manager 570.86.10",
         "install nvidia-fabricmanager 580.65.06"),
        (replace(RTX, nvswitches=LOST), GPU, "unknown", "lost", None),
        (replace(hgx(), fabric_manager=LOST), GPU, "unknown", "lost", None),
        (replace(hgx(), driver=LOST), GPU, "unknown", "lost", None),
        (RTX, GPU, "skip", "there is no NVSwitch", None),
        (replace(hgx(), driver=None), GPU, "skip", NOT_LOADED, None),
        (hgx(), CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_fabric_manager(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.fabric_manager", host, wanted, outcome, found, hint)


def test_packages_for_developers_say_nothing_of_the_manager_that_runs() -> None:
    host = hgx(package="580.65.06-1")
    assert isinstance(host.packages, dict)
    more = {"nvidia-fabricmanager-dev-570": Package("570.86.10-1", False), **host.packages}
    check("driver.fabric_manager", replace(host, packages=more), GPU, "pass", "running, 580.65.06")


def test_pain_9_a_fabric_manager_of_another_version_is_named_with_the_package_that_fits() -> None:
    host = replace(
        hgx(running=False, package="1:570.86.10-0ubuntu1"), driver=Driver("570.86.15", True),
        gpus=(replace(CARD, fabric=Fabric("not started", 0)),),
    )  # fmt: skip
    check("driver.fabric_manager", host, GPU, "fail", "driver 570.86.15, fabric manager 570.86.10",
          "sudo apt-get install nvidia-fabricmanager-570=570.86.15-* && "
          "sudo systemctl restart nvidia-fabricmanager")  # fmt: skip
    check("gpu.fabric", host, GPU, "skip", "driver.fabric_manager says why")
