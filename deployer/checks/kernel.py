"""What the kernel and the distribution do to drivers and devices: WSL, SELinux, Secure Boot, IOMMU, upgrades."""

from __future__ import annotations

import re

from deployer.checks.base import (
    NO_GPU,
    NOT_ASKED,
    Check,
    has,
    has_gpu,
    multi,
    sudo,
    uses_containers,
    wants_gpu,
)
from deployer.checks.driver import UNSIGNED
from deployer.host import ContainerRuntime, Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned

_UPGRADERS = ("unattended-upgrades", "dnf-automatic")
# Packages that hold a part of the driver; those of the Container Toolkit and of CUDA's tools are not.
_DRIVER = re.compile(
    r"(nvidia-(driver|dkms|kernel|open|headless|utils|compute-utils|firmware|fabricmanager|persistenced|alternative)"
    r"|libnvidia-(compute|common|cfg|decode|encode|extra|fbc|gl|ml|nvml|ptxjitcompiler|gpucomp))"
)


def _wsl(host: Host, profile: Profile) -> Finding:
    """Windows passes the GPU on to this WSL machine, and no Linux driver stands in the way.

    Why: under WSL the driver is Windows's own; a Linux driver package hides its libraries.
    Pass: Windows's libcuda and /dev/dxg are there, and no driver package is installed.
    Warn: never.
    Fail: one of the two is missing, this user may not open /dev/dxg, or a driver package is installed.
    Skip: this is not WSL, the profile wants no GPU, or it could not be asked.
    Fix: update the NVIDIA driver in Windows and restart WSL; remove the Linux driver's packages.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "the GPU from Windows, and no Linux driver"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    if not host.system.wsl:
        return skipped("this is not WSL")
    if names := _driver_packages(host):
        tool = next((tool for tool in ("apt-get", "dnf") if has(host, tool)), None)
        hint = sudo(host, f"{tool} remove {' '.join(names)}") if tool else "remove these packages"
        return failed(wanted, f"a Linux driver is installed: {', '.join(names)}", hint)
    update = "update the NVIDIA driver in Windows, then in PowerShell: wsl --update; wsl --shutdown"
    library, nodes = host.system.wsl_library, host.nodes
    if library is False:
        return failed(wanted, "there is no /usr/lib/wsl/lib/libcuda.so.1", update)
    if not isinstance(nodes, Unknown) and "dxg" not in nodes.files:
        return failed(wanted, "there is no /dev/dxg", update)
    if not isinstance(nodes, Unknown) and not nodes.files["dxg"].usable:
        return failed(wanted, "this user may not open /dev/dxg", sudo(host, "chmod 666 /dev/dxg"))
    for fact in (library, nodes, host.packages):
        if isinstance(fact, Unknown):
            return unknown(wanted, fact.reason)
    return passed(wanted, "libcuda.so.1 and /dev/dxg are there")


def _selinux(host: Host, profile: Profile) -> Finding:
    """SELinux lets containers use devices.

    Why: otherwise the GPU is in the container and cannot be opened: NVML says "Insufficient Permissions".
    Pass: the boolean container_use_devices is on, SELinux only warns, or the engine does not use it.
    Warn: SELinux is enforced on containers and the boolean is off; a policy of your own may still allow it.
    Fail: never.
    Skip: SELinux is off, the profile wants no GPU or no containers, or it could not be asked.
    Fix: setsebool -P container_use_devices 1.
    """
    if not wants_gpu(profile) or not uses_containers(host, profile):
        return skipped(NOT_ASKED if not wants_gpu(profile) else "no containers are used")
    wanted = "containers that may use devices"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    mode, allowed, engine = host.system.selinux, host.system.selinux_devices, host.runtime
    if isinstance(mode, Unknown):
        return unknown(wanted, mode.reason)
    if mode is None:
        return skipped("SELinux is not on")
    if mode != "enforcing":
        return passed(wanted, f"SELinux is {mode}")
    if isinstance(allowed, Unknown):
        return unknown(wanted, allowed.reason)
    if allowed is None:
        return skipped("this policy has no rule about the devices of containers")
    if allowed:
        return passed(wanted, "container_use_devices is on")
    if not isinstance(engine, ContainerRuntime):
        return skipped("there is no container runtime") if engine is None else unknown(wanted, engine.reason)
    if isinstance(engine.security, Unknown):
        return unknown(wanted, engine.security.reason)
    if not any("selinux" in option for option in engine.security):
        return passed(wanted, f"{engine.kind} runs containers without SELinux")
    hint = "switch the SELinux boolean container_use_devices on"
    if has(host, "setsebool"):
        hint = sudo(host, "setsebool -P container_use_devices 1")
    return warned(wanted, "SELinux is enforcing and container_use_devices is off", hint)


def _secure_boot(host: Host, profile: Profile) -> Finding:
    """Secure Boot does not keep the driver out.

    Why: the kernel then loads only signed modules, and one that was built on this machine is signed with a
        key that the firmware does not know yet.
    Pass: the driver is loaded, or Secure Boot is off and the kernel's log names no refusal.
    Warn: Secure Boot is on, a GPU is there, and no driver is loaded.
    Fail: the kernel refused the module because of its signature.
    Skip: the profile wants no GPU, there is none, Windows has the driver (WSL), or it could not be asked.
    Fix: enrol the key that signed the module and reboot, or switch Secure Boot off in the firmware.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "a kernel that takes the driver's module"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    if host.system.wsl:
        return skipped("under WSL the driver is Windows's own")
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is not None:
        return passed(wanted, f"module {host.driver.version} is loaded")
    if not (there := has_gpu(host)):
        return skipped(NO_GPU) if there is False else unknown(wanted, "nobody knows whether there is a GPU")
    said = None if isinstance(host.kernel_log, Unknown) else host.kernel_log.refused
    if said and any(word in said for word in UNSIGNED):
        return failed(wanted, f"the kernel refused it: {said}", _enrol(host))
    on = host.system.secure_boot
    if isinstance(on, Unknown):
        return unknown(wanted, on.reason)
    if on:
        return warned(wanted, "Secure Boot is on and no driver is loaded", _enrol(host))
    if isinstance(host.kernel_log, Unknown):  # kernels can insist on signatures without Secure Boot
        return unknown(wanted, host.kernel_log.reason)
    return passed(wanted, "Secure Boot is off" if on is False else "this machine has no Secure Boot")


def _enrol(host: Host) -> str:
    """How the key that this distribution signs built modules with gets into the firmware."""
    like = "" if isinstance(host.system, Unknown) else host.system.distribution_like
    keys = {
        "ubuntu": "/var/lib/shim-signed/mok/MOK.der",
        "debian": "/var/lib/dkms/mok.pub",
        "fedora": "/etc/pki/akmods/certs/public_key.der",
    }
    key = next((path for name, path in keys.items() if name in like.split()), None)
    if key and has(host, "mokutil"):
        enrol = sudo(host, f"mokutil --import {key}")
        return f"{enrol}, reboot and choose Enroll MOK; or switch Secure Boot off in the firmware"
    return "enrol the key that signed the module and reboot, or switch Secure Boot off in the firmware"


def _iommu(host: Host, profile: Profile) -> Finding:
    """GPUs can reach each other past the IOMMU.

    Why: an IOMMU that translates sends what one GPU writes to another through the root complex, or loses it:
        transfers hang or are wrong.
    Pass: the IOMMU is off, or the kernel was told to pass devices through.
    Warn: it is on and the kernel's options do not say passthrough; a kernel may have it built in.
    Fail: never.
    Skip: one GPU is enough, this is a virtual machine, or it could not be asked.
    Fix: iommu=pt (iommu.passthrough=1 on aarch64) among the kernel's options, and a reboot.
    """
    if not multi(profile):
        return skipped("the profile does not ask for several GPUs")
    wanted = "no IOMMU between the GPUs"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    around, on, options = host.system.hypervisor, host.system.iommu, host.system.boot
    if isinstance(around, Unknown):
        return unknown(wanted, around.reason)
    if around or host.system.wsl:
        return skipped("this is a virtual machine: its host decides")
    if isinstance(on, Unknown):
        return unknown(wanted, on.reason)
    if not on:
        return passed(wanted, "the IOMMU is off")
    if isinstance(options, Unknown):
        return unknown(wanted, options.reason)
    if found := [o for o in options if o in ("iommu=pt", "iommu.passthrough=1", "iommu.passthrough=on")]:
        return passed(wanted, f"passthrough: {found[0]}")
    option = "iommu=pt" if host.system.architecture == "x86_64" else "iommu.passthrough=1"
    return warned(
        wanted,
        "the IOMMU is on, and the kernel's options do not ask for passthrough",
        f"add {option} to the kernel's options (GRUB_CMDLINE_LINUX in /etc/default/grub) and reboot",
    )


def _updates(host: Host, profile: Profile) -> Finding:
    """Nothing upgrades the NVIDIA driver while it is in use.

    Why: an unattended upgrade replaces the libraries and the old module stays loaded; from then on every new
        GPU program fails until a reboot.
    Pass: nothing upgrades by itself, the driver is held, or it is no package of the distribution.
    Warn: upgrades run unattended and driver packages are not held.
    Fail: never.
    Skip: the profile wants no GPU, or the packages could not be asked.
    Fix: apt-mark hold on the driver's packages, and upgrade them by hand together with a reboot.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "a driver that changes only when somebody wants it"
    if isinstance(host.packages, Unknown):
        if isinstance(host.system, Unknown) or has(host, "apt-get"):
            return unknown(wanted, host.packages.reason)
        return skipped(f"this distribution's packages are not read ({host.packages.reason})", wanted)
    upgraders = [name for name in _UPGRADERS if name in host.packages]
    if not upgraders:
        return passed(wanted, "nothing that upgrades by itself is installed")
    installed = _driver_packages(host)
    if not installed:
        return passed(wanted, "no driver package of the distribution is installed")
    loose = [name for name in installed if not host.packages[name].held]
    if not loose:
        return passed(wanted, f"{len(installed)} driver packages are held")
    hint = "keep upgrades away from these packages"
    if has(host, "apt-mark"):
        hint = sudo(host, f"apt-mark hold {' '.join(loose)}")
    return warned(wanted, f"{upgraders[0]} may upgrade {', '.join(loose)}", hint)


def _driver_packages(host: Host) -> list[str]:
    return [] if isinstance(host.packages, Unknown) else [n for n in host.packages if _DRIVER.match(n)]


CHECKS = (
    Check("system.wsl", _wsl, pains=(8,), advice=True),
    Check("system.selinux", _selinux, pains=(7,), advice=True),
    Check("system.secure_boot", _secure_boot, pains=(15,), advice=True),
    Check("system.iommu", _iommu, pains=(24,), advice=True),
    Check("system.updates", _updates, pains=(15,), advice=True),
)
