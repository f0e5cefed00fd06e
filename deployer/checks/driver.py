"""The NVIDIA driver: loaded, whole, new enough, and everything that it needs beside it."""

from __future__ import annotations

import re
from dataclasses import replace

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
from deployer.checks.gpu import capability
from deployer.compat import upkeep
from deployer.host import Driver, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, Outcome, failed, passed, skipped, unknown, warned

NOT_LOADED = "no NVIDIA driver is loaded: driver.loaded says why"
UNSIGNED = ("unsigned", "Key was rejected", "Required key")  # what the kernel says of an unsigned module
WINDOWS = "under WSL the driver is Windows's own"


def number(text: str) -> Fact[str]:
    """The upstream version in a package's or an engine's: `5:28.3.0-rc.1+azure` is `28.3.0`."""
    found = re.split(r"[-+~]", text.rpartition(":")[2])[0]
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", found):
        return found
    return Unknown(f"the version `{text}` is not a number")


def known(host: Host) -> Fact[Driver | None]:
    """The loaded driver; Unknown also where its version is no version."""
    if isinstance(host.driver, Unknown) or host.driver is None:
        return host.driver
    version = number(host.driver.version)
    return version if isinstance(version, Unknown) else replace(host.driver, version=version)


def version(host: Host) -> Fact[str | None]:
    """The version of the driver that programs here meet: the loaded one's, or Windows's under WSL."""
    driver = known(host)
    if driver is None and under_wsl(host):
        return host.nvml_driver if isinstance(host.nvml_driver, Unknown) else number(host.nvml_driver)
    return driver if isinstance(driver, Unknown) or driver is None else driver.version


def under_wsl(host: Host) -> bool:
    return not isinstance(host.system, Unknown) and host.system.wsl


def _loaded(host: Host, profile: Profile) -> Finding:
    """An NVIDIA kernel module is loaded where there is an NVIDIA GPU.

    Why: without it no program sees the GPU; a kernel update, Secure Boot or nouveau are the usual reasons.
    Pass: the module is loaded.
    Warn: never.
    Fail: a GPU is on the PCI bus and the module is not loaded.
    Skip: the profile wants no GPU, there is none, Windows has the driver (WSL), or another finding says what keeps the
        module away: driver.nouveau, system.secure_boot.
    Fix: the command for the reason found: install the driver, or load the module.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "the NVIDIA kernel module"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is not None:
        kind = "open" if host.driver.open_module else "proprietary"
        return passed(wanted, f"{host.driver.version} ({kind})")
    if under_wsl(host):
        return skipped(WINDOWS, wanted)
    there = has_gpu(host)
    if there is None:
        return unknown(wanted, "not loaded, and the PCI bus cannot be read")
    if not there:
        return skipped("there is no GPU that would need it", wanted)
    if _nouveau(host) and not _missing(host):
        return skipped("nouveau has the card: driver.nouveau says how to take it away", wanted)
    if unsigned(host):
        return skipped("the kernel refused it: system.secure_boot says why", wanted)
    found, hint = _why_not_loaded(host, profile)
    return failed(wanted, found, hint)


def _why_not_loaded(host: Host, profile: Profile) -> tuple[str, str]:
    branch = (profile.requirements.driver or "580").split(".")[0]
    least = profile.requirements.gpu.compute_capability if profile.requirements.gpu else None
    if least and at_least(least, "7.5"):
        branch += "-open"  # serves every card from Turing on, and later ones need it
    refused = None if isinstance(host.kernel_log, Unknown) else host.kernel_log.refused
    if refused and "open kernel modules" in refused:
        return f"the kernel says: {refused}", install_driver(host, f"{branch.removesuffix('-open')}-open")
    if refused:
        look = sudo(host, "dmesg | grep NVRM")
        return f"the kernel says: {refused}", f"another driver branch or another card; all it says: {look}"
    if _missing(host):
        kernel = "this kernel" if isinstance(host.system, Unknown) else f"kernel {host.system.kernel}"
        return f"not installed for {kernel}", install_driver(host, branch)
    if not isinstance(host.system, Unknown) and host.system.secure_boot is True:
        return "not loaded, and Secure Boot is on", "system.secure_boot says how to sign it"
    if not isinstance(host.modules, Unknown) and host.modules.built is True and has(host, "modprobe"):
        return "not loaded", f"{sudo(host, 'modprobe nvidia')}; if that fails: {install_driver(host, branch)}"
    return "not loaded", install_driver(host, branch)


def _missing(host: Host) -> bool:
    """Whether no module of NVIDIA's is there that this kernel could load."""
    return not isinstance(host.modules, Unknown) and host.modules.built is False


def unsigned(host: Host) -> bool:
    """Whether the kernel's log says that it refused the module because of its signature."""
    said = None if isinstance(host.kernel_log, Unknown) else host.kernel_log.refused
    return said is not None and any(word in said for word in UNSIGNED)


def install_driver(host: Host, branch: str) -> str:
    """The command that installs a driver branch here, or what to do where none is known."""
    if jetson(host):
        return "a Jetson's driver comes with Jetson Linux: upgrade JetPack (https://developer.nvidia.com/embedded/jetpack)"
    manual = f"install NVIDIA driver {branch.removesuffix('-open')} or later and reboot"
    if isinstance(host.system, Unknown) or "ubuntu" not in host.system.distribution_like:
        return manual
    command = install(host, f"nvidia-driver-{branch}")
    return f"{command}, then reboot" if command else manual


def another_driver(host: Host, branch: str) -> str:
    """The same for a driver of the kind that is loaded, open or proprietary."""
    is_open = isinstance(host.driver, Driver) and host.driver.open_module
    return install_driver(host, f"{branch}-open" if is_open else branch)


def jetson(host: Host) -> bool:
    """Whether this is a Jetson, whose kernel carries NVIDIA's name for it."""
    return not isinstance(host.system, Unknown) and host.system.kernel.endswith("-tegra")


def _nouveau(host: Host) -> bool:
    bound = not isinstance(host.pci_gpus, Unknown) and any(
        gpu.bound in ("nouveau", "nova_core") for gpu in host.pci_gpus
    )
    return bound or (not isinstance(host.modules, Unknown) and "nouveau" in host.modules.loaded)


def _no_nouveau(host: Host, profile: Profile) -> Finding:
    """The free driver nouveau does not hold a card.

    Why: a card that nouveau has cannot be taken by NVIDIA's module, and nouveau runs no CUDA.
    Pass: no card is bound to it and it is not loaded.
    Warn: it is loaded beside a working NVIDIA module, or none of NVIDIA's is installed yet: driver.loaded.
    Fail: it is there and NVIDIA's module, which is installed, is not loaded.
    Skip: the profile wants no GPU, or there is none.
    Fix: a file in /etc/modprobe.d, a new boot image and a reboot.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "nouveau not loaded"
    if has_gpu(host) is False:
        return skipped("there is no GPU", wanted)
    if not _nouveau(host):
        for fact in (host.modules, host.pci_gpus):
            if isinstance(fact, Unknown):
                return unknown(wanted, fact.reason)
        if has_gpu(host) is None:
            return unknown(wanted, "nobody knows whether there is a GPU")
        return passed(wanted, "not loaded")
    write = (
        "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/blacklist-nouveau.conf"
    )
    root = not isinstance(host.system, Unknown) and host.system.user == 0
    hint = then(write if root else sudo(host, f'sh -c "{write}"'), initramfs(host)) + ", then reboot"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is not None:
        return warned(wanted, "loaded beside NVIDIA's module", hint)
    if _missing(host):
        return warned(wanted, "nouveau has the card; most packages of NVIDIA's driver take it away", hint)
    return failed(wanted, "nouveau has the card", hint)


def _version(host: Host, profile: Profile) -> Finding:
    """The driver is as new as the profile asks.

    Why: the CUDA libraries in the image need a driver of at least their family's floor.
    Pass: the loaded version is the one asked for or later.
    Warn: never.
    Fail: it is older.
    Skip: the profile asks for none, no driver is loaded, it cannot be read, or a driver that is new enough is installed
        and waits for a reboot (driver.libraries).
    Fix: the distribution's package of the branch asked for, then a reboot; under WSL, the driver of Windows.
    """
    need = profile.requirements.driver
    if need is None:
        return skipped("the profile does not ask for a driver")
    wanted = f"{need} or later"
    found = version(host)
    if isinstance(found, Unknown):
        return unknown(wanted, found.reason)
    if found is None:
        return _without_driver(host, wanted)
    if at_least(found, need):
        return passed(wanted, found)
    waiting = on_disk(host)
    if waiting and at_least(waiting, need):
        return skipped(f"{waiting} is installed and waits for a reboot: driver.libraries", wanted)
    if under_wsl(host):
        hint = f"install NVIDIA driver {need.split('.')[0]} or later in Windows"
        return failed(wanted, f"{found}, Windows's own", hint)
    return failed(wanted, found, another_driver(host, need.split(".")[0]))


def on_disk(host: Host) -> str | None:
    """The version of libcuda on the disk; None where it does not say (WSL and Jetson call it `1.1`)."""
    if isinstance(host.libraries, Unknown) or host.libraries.cuda is None:
        return None
    version = number(host.libraries.cuda)
    return version if isinstance(version, str) and at_least(version, "100") else None


def _without_driver(host: Host, wanted: str) -> Finding:
    """Under WSL the version is only known through NVML; elsewhere another check has failed already."""
    if has_gpu(host) is False:
        return skipped("there is no GPU: gpu.count", wanted)
    return unknown(wanted, WINDOWS) if under_wsl(host) else skipped(NOT_LOADED, wanted)


def _cuda(host: Host, profile: Profile) -> Finding:
    """The driver's library speaks the CUDA version that the profile asks for.

    Why: a program of a newer CUDA than the driver speaks ends with error 35, 803 or `unsatisfied condition`.
    Pass: the driver's newest CUDA is the one asked for or later.
    Warn: never.
    Fail: it is older.
    Skip: the profile asks for none, no driver is loaded, driver.version has failed already, or nobody can say.
    Fix: a driver of the family's floor or later.
    """
    need = profile.requirements.cuda
    if need is None:
        return skipped("the profile does not ask for CUDA")
    wanted = f"{need} or later"
    if _version(host, profile).outcome is Outcome.FAIL:
        return skipped("the driver is too old anyway: driver.version", wanted)
    found = newest_cuda(host)
    if isinstance(found, Unknown):
        return unknown(wanted, found.reason)
    if found is None:
        if host.driver is None:
            return _without_driver(host, wanted)
        return failed(wanted, "none: the driver is older than CUDA 11.0", another_driver(host, "580"))
    if at_least(found, need):
        return passed(wanted, found)
    least = compat.family_driver(need)
    hint = f"CUDA {need} needs driver {least} or later" if least else None
    if least and not under_wsl(host):
        hint = another_driver(host, least.split(".")[0])
    return failed(wanted, found, hint)


def loaded(host: Host, profile: Profile, wanted: str) -> Driver | Finding:
    """The loaded driver, or the finding of a check that has nothing to judge without it."""
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    driver = known(host)
    if isinstance(driver, Unknown):
        return unknown(wanted, driver.reason)
    if driver is None:
        if has_gpu(host) is False:
            return skipped("there is no GPU", wanted)
        return skipped(WINDOWS if under_wsl(host) else NOT_LOADED, wanted)
    return driver


def newest_cuda(host: Host) -> Fact[str | None]:
    """As the driver's library says; without it, from its version, or else that of the kernel module."""
    if isinstance(host.cuda, str):
        return number(host.cuda)
    driver = known(host)
    if isinstance(driver, Unknown) or driver is None:
        return driver
    return compat.newest_cuda(on_disk(host) or driver.version)


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
    versions = {v for v in (host.libraries.cuda, host.libraries.nvml) if v and not v.startswith("1.")}
    if versions - {module} or "mismatch" in said.lower():
        other = ", ".join(sorted(versions - {module})) or "of another version"
        return failed(
            wanted, f"module {module}, libraries {other}", f"{reboot} loads the module of the libraries"
        )
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
    Pass: the loaded kind serves every GPU that it shows.
    Warn: a GPU is shown that this kind is said not to serve, or the kernel's log asks for the open one for a GPU that
        the profile can do without.
    Fail: the kernel's log asks for the open one, and none of the GPUs is shown.
    Skip: the profile wants no GPU, no driver is loaded, or no card's compute capability is known.
    Fix: the driver package of the other kind.
    """
    wanted = "a module that serves the cards"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    found = "open" if driver.open_module else "proprietary"
    branch = driver.version.split(".")[0]
    said = None if isinstance(host.kernel_log, Unknown) else host.kernel_log.refused
    if said and "open kernel modules" in said and not driver.open_module:
        text = f"{found}; the kernel says: {said}"
        return (warned if host.gpus else failed)(wanted, text, install_driver(host, f"{branch}-open"))
    for gpu in host.gpus:
        of_card = capability(gpu)
        if isinstance(of_card, Unknown):
            return unknown(wanted, of_card.reason)
        kind = upkeep.module_kind(of_card)
        if kind not in (None, "both", found):
            hint = install_driver(host, f"{branch}-open" if kind == "open" else branch)
            return warned(wanted, f"{found}; compute capability {of_card} needs the {kind} one", hint)
    return passed(wanted, found) if host.gpus else skipped("no GPU is shown", wanted)


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
        return warned(wanted, f"branch {branch} ended in {end}", another_driver(host, "580"))
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
