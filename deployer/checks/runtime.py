"""The container runtime and its way to the GPUs."""

from __future__ import annotations

from deployer.checks.base import Check, sudo
from deployer.checks.driver import has_gpu
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _engine(host: Host, profile: Profile) -> Finding:
    if profile.runtime == "process":
        return skipped("the profile uses the embedded runtime")
    wanted = "a container runtime that answers"
    must = profile.runtime == "docker" or profile.requirements.gpu is not None
    bad = failed if must else warned
    systemd = not isinstance(host.system, Unknown) and host.system.systemd
    instead = "" if must else "; without it the embedded runtime is used"
    if isinstance(host.runtime, Unknown):
        if "may not use" in host.runtime.reason:
            return bad(
                wanted, host.runtime.reason + instead, "sudo usermod -aG docker $USER, then log in again"
            )
        hint = sudo(host, "systemctl restart docker") if systemd else "restart the container engine"
        if must:
            return unknown(wanted, host.runtime.reason, hint)
        return warned(wanted, host.runtime.reason + instead, hint)
    if host.runtime is None:
        installed = not isinstance(host.system, Unknown) and "docker" in host.system.tools
        hint = "install Docker Engine: https://docs.docker.com/engine/install/"
        if installed and systemd:
            hint = sudo(host, "systemctl start docker")
        return bad(wanted, "none answers" + instead, hint)
    return passed(wanted, f"{host.runtime.kind} {host.runtime.version}")


def _gpu(host: Host, profile: Profile) -> Finding:
    if profile.requirements.gpu is None:
        return skipped("the profile does not ask for a GPU")
    wanted = "a runtime that can give GPUs to containers"
    if isinstance(host.runtime, Unknown):
        return unknown(wanted, host.runtime.reason)
    if host.runtime is None:
        return failed(wanted, "there is no container runtime")
    if host.runtime.cdi_gpus:
        return passed(wanted, f"CDI: {', '.join(host.runtime.cdi_gpus)}")
    if host.runtime.nvidia_runtime:
        return passed(wanted, "the nvidia runtime")
    if has_gpu(host) is False:
        return failed(wanted, "neither CDI devices nor the nvidia runtime, and no GPU either")
    toolkit = not isinstance(host.system, Unknown) and "nvidia-ctk" in host.system.tools
    hint = (
        sudo(host, "nvidia-ctk runtime configure --runtime=docker")
        + " && "
        + sudo(host, "systemctl restart docker")
        if toolkit
        else "install the NVIDIA Container Toolkit: "
        "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
    )
    return failed(wanted, "neither CDI devices nor the nvidia runtime", hint)


CHECKS = (Check("runtime.engine", _engine), Check("runtime.gpu", _gpu))
