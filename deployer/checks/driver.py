"""The NVIDIA driver and the CUDA version it speaks."""

from __future__ import annotations

from deployer import compat
from deployer.checks.base import Check, install
from deployer.host import Fact, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown

NO_GPU = "there is no NVIDIA GPU in this machine"


def has_gpu(host: Host) -> bool | None:
    """Whether the PCI bus or NVML shows one; None when neither could be asked."""
    if not isinstance(host.gpus, Unknown) and host.gpus:
        return True
    if isinstance(host.pci_gpus, Unknown):
        return None
    return bool(host.pci_gpus)


def _version(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.driver
    if need is None:
        return skipped("the profile does not ask for a driver")
    wanted = f"{need} or later"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is None:
        if has_gpu(host) is False:
            return failed(wanted, NO_GPU, "choose a CPU profile: deployer profiles list")
        return failed(wanted, "no NVIDIA driver is loaded", _install_driver(host, need))
    found = host.driver.version
    if at_least(found, need):
        return passed(wanted, found)
    return failed(wanted, found, _install_driver(host, need))


def _install_driver(host: Host, need: str) -> str:
    branch = need.split(".")[0]
    command = install(host, f"nvidia-driver-{branch}", f"nvidia-driver-{branch}xx")
    manual = f"install NVIDIA driver {branch} or later and reboot"
    if isinstance(host.system, Unknown) or "ubuntu" not in host.system.distribution_like or not command:
        return manual
    return f"{command}, then reboot"


def _cuda(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.cuda
    if need is None:
        return skipped("the profile does not ask for CUDA")
    wanted = f"{need} or later"
    found = _newest_cuda(host)
    if isinstance(found, Unknown):
        return unknown(wanted, found.reason)
    if found is None:
        why = "no NVIDIA driver is loaded" if host.driver is None else "the driver is older than CUDA 11.0"
        return failed(wanted, f"none: {why}")
    if at_least(found, need):
        return passed(wanted, found)
    least = compat.family_driver(need)
    return failed(wanted, found, f"CUDA {need} needs driver {least} or later" if least else None)


def _newest_cuda(host: Host) -> Fact[str | None]:
    """As the driver's library says; without it, from the version of the kernel module."""
    if isinstance(host.cuda, str):
        return host.cuda
    if isinstance(host.driver, Unknown):
        return host.driver
    return None if host.driver is None else compat.newest_cuda(host.driver.version)


CHECKS = (Check("driver.version", _version), Check("driver.cuda", _cuda))
