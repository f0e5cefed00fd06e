"""The NVIDIA driver: loaded, whole, new enough, and everything that it needs beside it."""

from __future__ import annotations

from deployer import compat
from deployer.checks.base import (
    NOT_ASKED,
    Check,
    has,
    has_gpu,
    initramfs,
    install,
    sudo,
    then,
    wants_gpu,
)
from deployer.compat import upkeep
from deployer.host import Driver, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown, warned

NOT_LOADED = "no NVIDIA driver is loaded: driver.loaded says why"


def _loaded(host: Host, profile: Profile) -> Finding:
    """An NVIDIA kernel module is loaded where there is an NVIDIA GPU.

    Why: without it no program sees the GPU; a kernel update, Secure Boot or nouveau are the usual reasons.
    Pass: the module is loaded.
    Warn: never.
    Fail: a GPU is on the PCI bus and the module is not loaded.
    Skip: the profile wants no GPU, there is none, or Windows has the driver (WSL).
    Fix: the command for the reason found: sign, build or install the module, or take the card from nouveau.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "the NVIDIA kernel module"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is not None:
        kind = "open" if host.driver.open_module else "proprietary"
        return passed(wanted, f"{host.driver.version} ({kind})")
    there = has_gpu(host)
    if not isinstance(host.system, Unknown) and host.system.wsl:
        return skipped("under WSL the driver is Windows's own", wanted)
    if there is None:
        return unknown(wanted, "not loaded, and the PCI bus cannot be read")
    if not there:
        return skipped("there is no GPU that would need it", wanted)
    found, hint = _why_not_loaded(host, profile)
    return failed(wanted, found, hint)


def _why_not_loaded(host: Host, profile: Profile) -> tuple[str, str]:
    branch = (profile.requirements.driver or "580").split(".")[0]
    refused = None if isinstance(host.kernel_log, Unknown) else host.kernel_log.refused
    secure = not isinstance(host.system, Unknown) and host.system.secure_boot is True
    built = True if isinstance(host.modules, Unknown) else host.modules.built
    kernel = "this kernel" if isinstance(host.system, Unknown) else f"kernel {host.system.kernel}"
    if _nouveau(host):
        return "nouveau has the card", "take it away from nouveau: driver.nouveau says how"
    if refused and "open kernel modules" in refused:
        return f"the kernel says: {refused}", install_driver(host, f"{branch}-open")
    if built is False:
        return f"not installed for {kernel}", install_driver(host, branch)
    if refused or secure:
        said = (
            f"the kernel says: {refused}" if refused else "installed, Secure Boot is on, and it is not loaded"
        )
        if has(host, "mokutil"):
            key = "mokutil --import /var/lib/shim-signed/mok/MOK.der"
            return said, f"enrol the key that signed it: {sudo(host, key)}, then reboot"
        return (
            said,
            "use a signed driver package of the distribution, or turn Secure Boot off in the firmware",
        )
    if built is True and has(host, "modprobe"):
        return "not loaded", f"{sudo(host, 'modprobe nvidia')}; if that fails: {install_driver(host, branch)}"
    return "not loaded", install_driver(host, branch)


def install_driver(host: Host, branch: str) -> str:
    """The command that installs a driver branch here, or what to do where none is known."""
    manual = f"install NVIDIA driver {branch.removesuffix('-open')} or later and reboot"
    if isinstance(host.system, Unknown) or "ubuntu" not in host.system.distribution_like:
        return manual
    command = install(host, f"nvidia-driver-{branch}")
    return f"{command}, then reboot" if command else manual


def _nouveau(host: Host) -> bool:
    bound = not isinstance(host.pci_gpus, Unknown) and any(
        gpu.bound in ("nouveau", "nova_core") for gpu in host.pci_gpus
    )
    return bound or (not isinstance(host.modules, Unknown) and "nouveau" in host.modules.loaded)


def _no_nouveau(host: Host, profile: Profile) -> Finding:
    """The free driver nouveau does not hold a card.

    Why: a card that nouveau has cannot be taken by NVIDIA's module, and nouveau runs no CUDA.
    Pass: no card is bound to it and it is not loaded.
    Warn: it is loaded beside a working NVIDIA module.
    Fail: it is there and NVIDIA's module is not.
    Skip: the profile wants no GPU, or there is none.
    Fix: a file in /etc/modprobe.d, a new boot image and a reboot.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "nouveau not loaded"
    if has_gpu(host) is False:
        return skipped("there is no GPU", wanted)
    if isinstance(host.modules, Unknown) and isinstance(host.pci_gpus, Unknown):
        return unknown(wanted, host.modules.reason)
    if not _nouveau(host):
        if isinstance(host.modules, Unknown):
            return unknown(wanted, host.modules.reason)
        return passed(wanted, "not loaded")
    write = (
        "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/blacklist-nouveau.conf"
    )
    root = not isinstance(host.system, Unknown) and host.system.user == 0
    hint = then(write if root else sudo(host, f'sh -c "{write}"'), initramfs(host)) + ", then reboot"
    if isinstance(host.driver, Unknown) or host.driver is None:
        return failed(wanted, "nouveau has it", hint)
    return warned(wanted, "loaded beside NVIDIA's module", hint)


def _version(host: Host, profile: Profile) -> Finding:
    """The driver is as new as the profile asks.

    Why: the CUDA libraries in the image need a driver of at least their family's floor.
    Pass: the loaded version is the one asked for or later.
    Warn: never.
    Fail: it is older.
    Skip: the profile asks for none, no driver is loaded, or it cannot be read.
    Fix: the distribution's package of the branch asked for, then a reboot.
    """
    need = profile.requirements.driver
    if need is None:
        return skipped("the profile does not ask for a driver")
    wanted = f"{need} or later"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is None:
        return _without_driver(host, wanted)
    found = host.driver.version
    if at_least(found, need):
        return passed(wanted, found)
    return failed(wanted, found, install_driver(host, need.split(".")[0]))


def _without_driver(host: Host, wanted: str) -> Finding:
    """Under WSL the version is only known through NVML; elsewhere another check has failed already."""
    if has_gpu(host) is False:
        return skipped("there is no GPU: gpu.count", wanted)
    if not isinstance(host.system, Unknown) and host.system.wsl:
        return unknown(wanted, "under WSL the driver is Windows's own")
    return skipped(NOT_LOADED, wanted)


def _cuda(host: Host, profile: Profile) -> Finding:
    """The driver's library speaks the CUDA version that the profile asks for.

    Why: a program of a newer CUDA than the driver speaks ends with error 35, 803 or `unsatisfied condition`.
    Pass: the driver's newest CUDA is the one asked for or later.
    Warn: never.
    Fail: it is older.
    Skip: the profile asks for none, no driver is loaded, or nobody can say.
    Fix: a driver of the family's floor or later.
    """
    need = profile.requirements.cuda
    if need is None:
        return skipped("the profile does not ask for CUDA")
    wanted = f"{need} or later"
    found = newest_cuda(host)
    if isinstance(found, Unknown):
        return unknown(wanted, found.reason)
    if found is None:
        if host.driver is None:
            return _without_driver(host, wanted)
        return failed(wanted, "none: the driver is older than CUDA 11.0", install_driver(host, "580"))
    if at_least(found, need):
        return passed(wanted, found)
    least = compat.family_driver(need)
    return failed(wanted, found, f"CUDA {need} needs driver {least} or later" if least else None)


def loaded(host: Host, profile: Profile, wanted: str) -> Driver | Finding:
    """The loaded driver, or the finding of a check that has nothing to judge without it."""
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is None:
        return skipped(NOT_LOADED if has_gpu(host) is not False else "there is no GPU", wanted)
    return host.driver


def newest_cuda(host: Host) -> Fact[str | None]:
    """As the driver's library says; without it, from the version of the kernel module."""
    if isinstance(host.cuda, str):
        return host.cuda
    if isinstance(host.driver, Unknown):
        return host.driver
    return None if host.driver is None else compat.newest_cuda(host.driver.version)


def _libraries(host: Host, profile: Profile) -> Finding:
    """The loaded kernel module and the driver's libraries on disk have the same version.

    Why: an unattended upgrade replaces the libraries while the old module stays loaded: `Driver/library version
        mismatch` for every program and container that starts from then on.
    Pass: the versions are equal.
    Warn: libcuda is in none of the usual folders although the module is loaded.
    Fail: they differ, or the driver's own library says so.
    Skip: the profile wants no GPU, no driver is loaded, or the versions cannot be read.
    Fix: a reboot, which loads the module that belongs to the libraries; never a new start of the container.
    """
    wanted = "module and libraries of one version"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    module = driver.version
    said = host.gpus.reason if isinstance(host.gpus, Unknown) else ""
    reboot = sudo(host, "reboot")
    if isinstance(host.libraries, Unknown):
        if "mismatch" in said.lower():
            return failed(wanted, f"module {module}; the library says: {said}", reboot)
        return unknown(wanted, host.libraries.reason)
    versions = {v for v in (host.libraries.cuda, host.libraries.nvml) if v}
    if versions - {module} or "mismatch" in said.lower():
        other = ", ".join(sorted(versions - {module})) or "another version"
        return failed(wanted, f"module {module}, libraries {other}", f"{reboot} loads the module of {other}")
    if host.libraries.cuda is None:
        branch = module.split(".")[0]
        hint = install(host, f"libnvidia-compute-{branch}") if _ubuntu(host) else None
        found = f"module {module}; libcuda.so.1 is in no usual folder"
        return warned(wanted, found, hint or f"install the CUDA libraries of driver {module}")
    return passed(wanted, module)


def _ubuntu(host: Host) -> bool:
    return not isinstance(host.system, Unknown) and "ubuntu" in host.system.distribution_like


def _kind(host: Host, profile: Profile) -> Finding:
    """The kernel module is of the kind that the card needs: open or proprietary.

    Why: Blackwell and Grace Hopper work with NVIDIA's open module alone, cards before Turing with the proprietary
        one alone; with the other kind the module loads and shows no GPU.
    Pass: the loaded kind serves every GPU.
    Warn: never.
    Fail: it does not serve one of them.
    Skip: the profile wants no GPU, no driver is loaded, or no card's compute capability is known.
    Fix: the driver package of the other kind.
    """
    wanted = "a module that serves the cards"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    kinds = {}
    for gpu in host.gpus:
        if isinstance(gpu.compute_capability, Unknown):
            return unknown(wanted, gpu.compute_capability.reason)
        kinds[gpu.compute_capability] = upkeep.module_kind(gpu.compute_capability)
    found = "open" if driver.open_module else "proprietary"
    for capability, kind in kinds.items():
        if kind not in (None, "both", found):
            branch = driver.version.split(".")[0]
            hint = install_driver(host, f"{branch}-open" if kind == "open" else branch)
            return failed(wanted, f"{found}; compute capability {capability} needs the {kind} one", hint)
    if not kinds:
        return skipped("no GPU is shown", wanted)
    return passed(wanted, found)


def _supported(host: Host, profile: Profile) -> Finding:
    """The driver branch still gets security fixes.

    Why: a branch past its end of life gets none, and new images stop listing it.
    Pass: its end of life is ahead, or no end is published for it.
    Warn: its end of life has passed.
    Fail: never.
    Skip: the profile wants no GPU, or no driver is loaded.
    Fix: the long-term branch that NVIDIA supports now.
    """
    wanted = "a driver branch that NVIDIA still mends"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    branch = driver.version.split(".")[0]
    end = upkeep.end_of_life(branch)
    if end is None:
        return passed(wanted, f"branch {branch}; no end of life is published that we know of")
    if host.taken[:7] > end:
        return warned(wanted, f"branch {branch} ended in {end}", install_driver(host, "580"))
    return passed(wanted, f"branch {branch}, until {end}")


CHECKS = (
    Check("driver.loaded", _loaded, pains=(15,)),
    Check("driver.nouveau", _no_nouveau, pains=(15,), advice=True),
    Check("driver.version", _version, pains=(12,)),
    Check("driver.cuda", _cuda, pains=(12,)),
    Check("driver.libraries", _libraries, pains=(15, 5)),
    Check("driver.kind", _kind, advice=True),
    Check("driver.supported", _supported, advice=True),
)
