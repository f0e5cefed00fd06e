"""What the driver needs beside itself: device files, nvidia-uvm, the fabric manager of NVSwitch machines."""

from __future__ import annotations

import re

from deployer.checks.base import NOT_ASKED, Check, has, install, route, service, sudo, then, wants_gpu
from deployer.checks.driver import NOT_LOADED, jetson, known, loaded, number
from deployer.checks.runtime import asked
from deployer.host import Fabric, Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _uvm(host: Host, profile: Profile) -> Finding:
    """nvidia-uvm is loaded and its device file is there, with the number that the kernel gave it.

    Why: nvidia-smi works without it and CUDA does not (error 999 or no device): after headless boots, after
        suspend, and when the number has changed since the file was made.
    Pass: the kernel has the module, and the file has its number.
    Warn: the module or the file is missing, and nvidia-modprobe is there to make it when a program asks.
    Fail: the module or the file is missing and nothing will make it (CDI never does), or the file has another number.
    Skip: the profile wants no GPU, no driver is loaded, this is a Jetson, which needs none, or /dev, the number or the
        modules cannot be read.
    Fix: nvidia-modprobe loads the module and makes the files.
    """
    wanted = "/dev/nvidia-uvm"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    if jetson(host):
        return skipped("a Jetson's GPU needs none", wanted)
    if isinstance(host.nodes, Unknown):
        return unknown(wanted, host.nodes.reason)
    node, major = host.nodes.files.get("nvidia-uvm"), host.nodes.uvm_major
    if node is not None and major is not None and node.major != major:
        hint = sudo(host, "rm /dev/nvidia-uvm /dev/nvidia-uvm-tools") + " && " + _make_nodes(host)
        found = "it is no device file" if node.major is None else f"it has number {node.major}"
        return failed(wanted, f"{found}, the kernel's module has {major}", hint)
    if major is not None and node is not None:
        return passed(wanted, "loaded")
    if major is None and isinstance(host.modules, Unknown):
        return unknown(wanted, host.modules.reason)
    if major is None and not isinstance(host.modules, Unknown) and "nvidia_uvm" not in host.modules.loaded:
        found = "the module nvidia_uvm is not loaded"
    elif node is None:
        found = "the device file is not there"
    else:
        return unknown(wanted, "the kernel does not say which number the module has")
    if has(host, "nvidia-modprobe") and not (wants_gpu(profile) and route(host) == "cdi"):
        return warned(
            wanted, f"{found}; nvidia-modprobe makes it when a program on the host asks", _make_nodes(host)
        )
    return failed(wanted, found, _make_nodes(host))


def _make_nodes(host: Host) -> str:
    if has(host, "nvidia-modprobe"):
        return sudo(host, "nvidia-modprobe -c 0 -u")
    load = sudo(host, "modprobe nvidia_uvm") if has(host, "modprobe") else "load the module nvidia_uvm"
    return f"{load}, and install nvidia-modprobe, which makes the device files"


def _nodes(host: Host, profile: Profile) -> Finding:
    """The device files of the driver and of every GPU are there, and this user may open them.

    Why: no device file, no CUDA: `no CUDA-capable device is detected` although the driver is loaded.
    Pass: /dev/nvidiactl and a file for each GPU are there and may be opened.
    Warn: some are missing or closed to this user; containers started by a daemon may still get them. Also where all
        are missing and NVML answers: it has made them since.
    Fail: none is there at all, and NVML shows no GPU.
    Skip: the profile wants no GPU, no driver is loaded, or /dev cannot be read.
    Fix: nvidia-modprobe makes the files.
    """
    wanted = "/dev/nvidiactl and /dev/nvidia0, …"
    driver = loaded(host, profile, wanted)
    if isinstance(driver, Finding):
        return driver
    if isinstance(host.nodes, Unknown):
        return unknown(wanted, host.nodes.reason)
    if not host.gpus or isinstance(host.gpus, Unknown):
        if "nvidiactl" not in host.nodes.files:
            return failed(wanted, "none of them", _make_nodes(host))
        return unknown(wanted, host.gpus.reason if isinstance(host.gpus, Unknown) else "NVML shows no GPU")
    names = ("nvidiactl", *(f"nvidia{gpu.index}" for gpu in host.gpus))
    missing = [name for name in names if name not in host.nodes.files]
    closed = [name for name in names if name in host.nodes.files and not host.nodes.files[name].usable]
    if missing:
        return warned(wanted, f"missing: {', '.join(missing)}", _make_nodes(host))
    if closed:
        hint = "give this user the group that owns them: ls -l /dev/nvidia0 shows it"
        return warned(wanted, f"closed to this user: {', '.join(closed)}", hint)
    return passed(wanted, f"{len(names)} device files")


def _char_links(host: Host, profile: Profile) -> Finding:
    """Containers keep their GPU when systemd reads its units again.

    Why: with the systemd cgroup driver and the hook, `systemctl daemon-reload` takes the GPU from running
        containers: `Failed to initialize NVML: Unknown Error` hours after a good start.
    Pass: GPUs come through CDI, or cgroups are not systemd's, or the links in /dev/char are there.
    Warn: none of these.
    Fail: never.
    Skip: the profile wants no GPU, there is no container runtime, no driver or no way to the GPUs (runtime.gpu), or
        /dev cannot be read.
    Fix: nvidia-ctk makes the links, or a CDI specification that makes them unnecessary.
    """
    wanted = "GPUs that survive systemctl daemon-reload"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if engine.cdi_gpus:
        return passed(wanted, "GPUs are given through CDI")
    if route(host) is None:
        return skipped("no way to the GPUs is configured: runtime.gpu", wanted)
    if not engine.cgroup.startswith("systemd"):
        return passed(wanted, f"control groups are {engine.cgroup}")
    if isinstance(host.nodes, Unknown):
        return unknown(wanted, host.nodes.reason)
    if host.nodes.char_links:
        return passed(wanted, "links in /dev/char")
    hint = "give GPUs through CDI: runtime.gpu"
    if has(host, "nvidia-ctk"):
        hint = sudo(host, "nvidia-ctk system create-dev-char-symlinks --create-all")
    return warned(
        wanted, f"control groups are {engine.cgroup}, the hook is used, and no links in /dev/char", hint
    )


def _fabric_manager(host: Host, profile: Profile) -> Finding:
    """On NVSwitch machines the fabric manager runs, in exactly the driver's version.

    Why: without it every CUDA program ends with `system not yet initialized` (802), even on a single GPU, while
        nvidia-smi lists all GPUs.
    Pass: it runs, and its package has the driver's version or cannot be seen.
    Warn: it does not run and every GPU has joined the fabric already, which holds until a reset.
    Fail: it does not run, or it is of another version.
    Skip: the profile wants no GPU, or there is no NVSwitch.
    Fix: the package of the driver's version, and its service enabled.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "the fabric manager of the driver's version, running"
    if isinstance(host.nvswitches, Unknown):
        return unknown(wanted, host.nvswitches.reason)
    if not host.nvswitches:
        return skipped("there is no NVSwitch", wanted)
    if isinstance(host.fabric_manager, Unknown):
        return unknown(wanted, host.fabric_manager.reason)
    driver = known(host)
    if isinstance(driver, Unknown):
        return unknown(wanted, driver.reason)
    if driver is None:
        return skipped(NOT_LOADED, wanted)
    version = driver.version
    branch = version.split(".")[0]
    installed = _packages(host)
    right = install(host, f"nvidia-fabricmanager-{branch}={version}-*", f"nvidia-fabric-manager-{version}")
    start = service(host, "enable --now nvidia-fabricmanager")
    if host.fabric_manager is None or not host.fabric_manager.installed:
        return failed(
            wanted, "not installed", then(right, start) or f"install nvidia-fabricmanager {version}"
        )
    if installed and version not in installed:
        restart = service(host, "restart nvidia-fabricmanager")
        hint = then(right, restart) if right else f"install nvidia-fabricmanager {version}"
        return failed(wanted, f"driver {version}, fabric manager {', '.join(installed)}", hint)
    if host.fabric_manager.running:
        return passed(wanted, f"running, {version if installed else 'version not known'}")
    joined = not isinstance(host.gpus, Unknown) and [
        isinstance(gpu.fabric, Fabric) and gpu.fabric.state == "completed" for gpu in host.gpus
    ]
    bad = warned if joined and all(joined) else failed
    return bad(wanted, "installed and not running", start or "start nv-fabricmanager")


def _packages(host: Host) -> list[str]:
    """Versions of the fabric manager's packages: `1:570.86.15-0ubuntu1` is `570.86.15`."""
    if isinstance(host.packages, Unknown):
        return []
    found = [
        number(package.version)
        for name, package in host.packages.items()
        if re.fullmatch(r"nvidia-fabric-?manager(-\d+)?", name)
    ]
    return [version for version in found if isinstance(version, str)]


CHECKS = (
    Check("driver.uvm", _uvm, pains=(6,)),
    Check("driver.nodes", _nodes, pains=(6,), advice=True),
    Check("driver.char_links", _char_links, pains=(2,), advice=True),
    Check("driver.fabric_manager", _fabric_manager, pains=(9,), advice=True),
)
