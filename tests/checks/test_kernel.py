"""What the kernel and the distribution do to drivers and devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Host, KernelLog, Node, Nodes, Package
from deployer.profile import Profile
from tests import hosts
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, RTX, TWO, check, system

NO_SYSTEM = replace(RTX, system=LOST)
FROM_WINDOWS = replace(
    system(RTX, wsl=True, wsl_library=True, hypervisor="microsoft"),
    nodes=Nodes({"dxg": Node(None, True)}, None, False),
    packages={},
)
UPDATE = "update the NVIDIA driver in Windows, then in PowerShell: wsl --update; wsl --shutdown"


def packages(host: Host, *names: str, held: bool = False) -> Host:
    return replace(host, packages={name: Package("1", held) for name in names})


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (FROM_WINDOWS, GPU, "pass", "/dev/dxg", None),
        (
            packages(FROM_WINDOWS, "nvidia-container-toolkit", "libnvidia-container1"),
            GPU, "pass", "/dev/dxg", None,
        ),
        (
            packages(FROM_WINDOWS, "libnvidia-compute-580", "nvidia-driver-580", "docker-ce"), GPU, "fail",
            "libnvidia-compute-580, nvidia-driver-580",
            "sudo apt-get remove libnvidia-compute-580 nvidia-driver-580",
        ),
        (
            system(packages(FROM_WINDOWS, "nvidia-driver-580"), tools=()), GPU, "fail", "nvidia-driver-580",
            "remove these packages",
        ),
        (system(FROM_WINDOWS, wsl_library=False), GPU, "fail", "libcuda.so.1", UPDATE),
        (replace(FROM_WINDOWS, nodes=Nodes({}, None, False)), GPU, "fail", "no /dev/dxg", UPDATE),
        (
            replace(FROM_WINDOWS, nodes=Nodes({"dxg": Node(None, False)}, None, False)), GPU, "fail",
            "may not open /dev/dxg", "sudo chmod 666 /dev/dxg",
        ),
        (system(FROM_WINDOWS, wsl_library=LOST), GPU, "unknown", "lost", None),
        (replace(FROM_WINDOWS, nodes=LOST), GPU, "unknown", "lost", None),
        (replace(FROM_WINDOWS, packages=LOST), GPU, "unknown", "lost", None),
        (NO_SYSTEM, GPU, "unknown", "lost", None),
        (RTX, GPU, "skip", "not WSL", None),
        (FROM_WINDOWS, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_wsl(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.wsl", host, wanted, outcome, found, hint)


LABELS = replace(hosts.CDI, security=("name=seccomp,profile=builtin", "name=selinux"))
ENFORCING = replace(system(RTX, selinux="enforcing", selinux_devices=False, tools=("setsebool", "sudo")),
                    runtime=LABELS)  # fmt: skip


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (
            ENFORCING, GPU, "warn", "container_use_devices is off",
            "sudo setsebool -P container_use_devices 1",
        ),
        (
            system(ENFORCING, tools=()), GPU, "warn", "container_use_devices is off",
            "switch the SELinux boolean container_use_devices on",
        ),
        (system(ENFORCING, selinux_devices=True), GPU, "pass", "is on", None),
        (system(ENFORCING, selinux="permissive"), GPU, "pass", "permissive", None),
        (replace(ENFORCING, runtime=hosts.CDI), GPU, "pass", "docker runs containers without SELinux", None),
        (RTX, GPU, "skip", "not on", None),
        (system(ENFORCING, selinux_devices=None), GPU, "skip", "no rule", None),
        (replace(ENFORCING, runtime=None), GPU, "skip", "no container runtime", None),
        (ENFORCING, CPU, "skip", "does not ask for a GPU", None),
        (ENFORCING, replace(GPU, runtime="process"), "skip", "no containers", None),
        (system(ENFORCING, selinux=LOST), GPU, "unknown", "lost", None),
        (system(ENFORCING, selinux_devices=LOST), GPU, "unknown", "lost", None),
        (replace(ENFORCING, runtime=LOST), GPU, "unknown", "lost", None),
        (replace(ENFORCING, runtime=replace(LABELS, security=LOST)), GPU, "unknown", "lost", None),
        (NO_SYSTEM, GPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_selinux(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.selinux", host, wanted, outcome, found, hint)


BARE_CARD = hosts.NO_DRIVER
SECURE = system(BARE_CARD, secure_boot=True, tools=("mokutil", "sudo"))
REFUSED = KernelLog((), "Key was rejected by service")
BY_HAND = "enrol the key that signed the module and reboot, or switch Secure Boot off in the firmware"
ENROL = "reboot and choose Enroll MOK; or switch Secure Boot off in the firmware"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "module 580.65.06 is loaded", None),
        (system(RTX, secure_boot=True), GPU, "pass", "is loaded", None),
        (BARE_CARD, GPU, "pass", "Secure Boot is off", None),
        (system(BARE_CARD, secure_boot=None), GPU, "pass", "has no Secure Boot", None),
        (
            SECURE, GPU, "warn", "Secure Boot is on",
            f"sudo mokutil --import /var/lib/shim-signed/mok/MOK.der, {ENROL}",
        ),
        (
            replace(system(SECURE, distribution_like="debian"), kernel_log=LOST), GPU, "warn", "is on",
            f"sudo mokutil --import /var/lib/dkms/mok.pub, {ENROL}",
        ),
        (
            replace(system(SECURE, distribution_like="rhel fedora", user=0), kernel_log=REFUSED), GPU, "fail",
            "the kernel refused it: Key was rejected by service",
            f"mokutil --import /etc/pki/akmods/certs/public_key.der, {ENROL}",
        ),
        (system(SECURE, tools=()), GPU, "warn", "is on", BY_HAND),
        (system(SECURE, distribution_like="arch"), GPU, "warn", "is on", BY_HAND),
        # kernels can insist on signatures without Secure Boot
        (replace(BARE_CARD, kernel_log=REFUSED), GPU, "fail", "refused", BY_HAND),
        # refused for what no signature mends
        (
            replace(BARE_CARD, kernel_log=KernelLog((), "is not supported by the NVIDIA")), GPU, "pass",
            "Secure Boot is off", None,
        ),
        (replace(BARE_CARD, kernel_log=LOST), GPU, "unknown", "lost", None),
        (system(BARE_CARD, secure_boot=LOST), GPU, "unknown", "lost", None),
        (replace(BARE_CARD, driver=LOST), GPU, "unknown", "lost", None),
        (replace(BARE_CARD, pci_gpus=LOST), GPU, "unknown", "nobody knows", None),
        (NO_SYSTEM, GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "no NVIDIA GPU", None),
        (system(BARE_CARD, wsl=True), GPU, "skip", "Windows", None),
        (SECURE, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_secure_boot(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.secure_boot", host, wanted, outcome, found, hint)


BEHIND = system(RTX, iommu=True)


def add(option: str) -> str:
    return f"add {option} to the kernel's options (GRUB_CMDLINE_LINUX in /etc/default/grub) and reboot"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, TWO, "pass", "is off", None),
        (BEHIND, TWO, "warn", "the IOMMU is on", add("iommu=pt")),
        (system(BEHIND, architecture="aarch64"), TWO, "warn", "is on", add("iommu.passthrough=1")),
        (system(BEHIND, boot=("quiet", "iommu=pt")), TWO, "pass", "iommu=pt", None),
        (system(BEHIND, boot=("iommu.passthrough=1",)), TWO, "pass", "iommu.passthrough=1", None),
        (system(BEHIND, boot=("iommu=ptx",)), TWO, "warn", "is on", add("iommu=pt")),
        (system(BEHIND, hypervisor="kvm"), TWO, "skip", "virtual machine", None),
        (system(BEHIND, wsl=True), TWO, "skip", "virtual machine", None),
        (BEHIND, GPU, "skip", "several GPUs", None),
        (system(BEHIND, hypervisor=LOST), TWO, "unknown", "lost", None),
        (system(BEHIND, iommu=LOST), TWO, "unknown", "lost", None),
        (system(BEHIND, boot=LOST), TWO, "unknown", "lost", None),
        (NO_SYSTEM, TWO, "unknown", "lost", None),
    ],
)
def test_iommu(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.iommu", host, wanted, outcome, found, hint)


LOOSE = packages(RTX, "unattended-upgrades", "libnvidia-compute-580", "nvidia-driver-580", "nvidia-docker2")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "nothing that upgrades", None),
        (
            LOOSE, GPU, "warn", "unattended-upgrades may upgrade libnvidia-compute-580, nvidia-driver-580",
            "sudo apt-mark hold libnvidia-compute-580 nvidia-driver-580",
        ),
        (system(LOOSE, tools=()), GPU, "warn", "may upgrade", "keep upgrades away from these packages"),
        (
            packages(RTX, "unattended-upgrades", "nvidia-driver-580", held=True), GPU, "pass",
            "1 driver packages are held", None,
        ),
        (packages(RTX, "unattended-upgrades", "nvidia-container-toolkit"), GPU, "pass", "no driver package", None),
        (replace(RTX, packages=LOST), GPU, "unknown", "lost", None),
        (system(replace(RTX, packages=LOST), tools=("dnf",)), GPU, "skip", "are not read (lost)", None),
        (replace(NO_SYSTEM, packages=LOST), GPU, "unknown", "lost", None),
        (LOOSE, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_updates(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.updates", host, wanted, outcome, found, hint)
