"""The container runtime and its way to the GPUs."""

from __future__ import annotations

from deployer.checks.base import (
    NOT_ASKED,
    Check,
    has,
    has_gpu,
    install,
    present,
    route,
    service,
    sudo,
    then,
    uses_containers,
    wants_gpu,
)
from deployer.checks.driver import NOT_LOADED, number, under_wsl
from deployer.host import ContainerRuntime, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown, warned

PROCESS = "this profile will not run in containers here"
NO_ENGINE = "no container runtime answers: runtime.engine says why"
ENGINE = "install Docker Engine: https://docs.docker.com/engine/install/"
TOOLKIT = (
    "install the NVIDIA Container Toolkit: "
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
)


def _engine(host: Host, profile: Profile) -> Finding:
    """A container runtime answers, and this user may use it.

    Why: images are run by it; without one a CPU profile can still use the embedded runtime.
    Pass: it answers.
    Warn: it does not, and the embedded runtime will be used.
    Fail: it does not, or this user may not use it, and the profile needs containers.
    Skip: the profile uses the embedded runtime, or the engine hangs.
    Fix: start it, or let this user use it.
    """
    if profile.runtime == "process":
        return skipped("the profile uses the embedded runtime")
    wanted = "a container runtime that answers"
    must = profile.runtime == "docker" or wants_gpu(profile)
    bad = failed if must else warned
    instead = "" if must else "; without it the embedded runtime is used"
    if isinstance(host.runtime, Unknown):
        said = host.runtime.reason
        if "may not use" in said:
            hint = "let this user use the socket, then log in again"
            if "docker.sock" in said and has(host, "usermod"):
                hint = f"{sudo(host, 'usermod -aG docker $USER')}, then log in again"
            return bad(wanted, said + instead, hint)
        name = "podman.socket" if "podman" in said else "docker"
        hint = service(host, f"restart {name}") or "restart the container engine"
        if must:
            return unknown(wanted, said, hint)
        return warned(wanted, said + instead, hint)
    if host.runtime is None:
        name = "docker" if has(host, "docker") else "podman.socket" if has(host, "podman") else ""
        start = (
            service(host, f"{'enable --now' if name == 'podman.socket' else 'start'} {name}")
            if name
            else None
        )
        return bad(wanted, "none answers" + instead, start or ENGINE)
    return passed(wanted, f"{host.runtime.kind} {host.runtime.version}")


def asked(host: Host, profile: Profile, wanted: str, *, gpu: bool = False) -> ContainerRuntime | Finding:
    """The engine that this profile will use, or the finding of a check that has nothing to judge without it."""
    if gpu and not wants_gpu(profile):
        return skipped(NOT_ASKED)
    if gpu and has_gpu(host) is False:
        return skipped("there is no GPU", wanted)
    if gpu and isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if gpu and host.driver is None and not under_wsl(host):
        return skipped(NOT_LOADED, wanted)
    if not uses_containers(host, profile):
        return skipped(PROCESS, wanted)
    if isinstance(host.runtime, Unknown):
        return unknown(wanted, host.runtime.reason)
    return skipped(NO_ENGINE, wanted) if host.runtime is None else host.runtime


def _gpu(host: Host, profile: Profile) -> Finding:
    """The runtime has a way to give GPUs to containers: CDI devices, or the nvidia runtime.

    Why: `could not select device driver "" with capabilities: [[gpu]]` has five causes, and says none of them.
    Pass: CDI devices are found, or the nvidia runtime is registered. `deployer check --deep` proves it.
    Warn: never.
    Fail: neither is there, nor the toolkit's hook; the one broken link is named.
    Skip: the profile wants no GPU, there is none, no driver is loaded, no runtime answers, or the toolkit's hook is
        there: Docker uses it if it was started after it was installed, and does not say so.
    Fix: install the Container Toolkit, register it, or write a CDI specification.
    """
    wanted = "a runtime that can give GPUs to containers"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    way = route(host)
    if way == "cdi":
        return passed(wanted, f"CDI: {', '.join(engine.cdi_gpus)}")
    if way == "runtime":
        return passed(wanted, "the nvidia runtime")
    found = "neither CDI devices nor the nvidia runtime"
    if engine.root.startswith("/var/snap/"):
        return failed(wanted, f"{found}; this Docker is a snap", _unsnap(host))
    if isinstance(host.toolkit, Unknown):
        return unknown(wanted, host.toolkit.reason)
    if not has(host, "nvidia-ctk") and host.toolkit is None:
        return failed(wanted, f"{found}; the Container Toolkit is not installed", TOOLKIT)
    hook = engine.kind == "docker" and host.toolkit is not None and host.toolkit.hook
    if not hook and not isinstance(host.cdi, Unknown) and host.cdi and engine.cdi is True:
        return failed(
            wanted,
            f"{found}; it does not find the CDI specification",
            "runtime.cdi and runtime.cdi_version say why",
        )
    if engine.kind == "podman":
        hint = "write a CDI specification with nvidia-ctk cdi generate"
        if has(host, "nvidia-ctk"):
            hint = sudo(host, "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
        return failed(wanted, f"{found}; no CDI specification has been written", hint)
    hint = _configure(host, engine)
    if hook:
        return unknown(wanted, f"{found}; whether Docker has seen the toolkit's hook, --deep can try", hint)
    return failed(wanted, f"{found}; the toolkit is there and Docker does not know it", hint)


def _configure(host: Host, engine: ContainerRuntime) -> str:
    configure = "nvidia-ctk runtime configure --runtime=docker"
    if not has(host, "nvidia-ctk"):
        return TOOLKIT
    if engine.rootless:
        return f"{configure} --config=$HOME/.config/docker/daemon.json, then restart the rootless daemon"
    return then(sudo(host, configure), service(host, "restart docker"))


def _version(host: Host, profile: Profile) -> Finding:
    """The engine is new enough for what deployer asks of it.

    Why: CDI devices over the API need Docker 25 (API 1.44); without BuildKit no image can be built.
    Pass: Docker 25 or later, Podman 4 or later.
    Warn: it is older; GPUs still come through the nvidia runtime.
    Fail: Docker before 19.03, which knows no GPUs, and the profile wants one.
    Skip: containers are not used, no runtime answers, or its version is not a number.
    Fix: Docker's own packages are newer than the distribution's.
    """
    wanted = "Docker 25 or Podman 4, or later"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    version = number(engine.version)
    if isinstance(version, Unknown):
        return unknown(wanted, version.reason)
    found = f"{engine.kind} {engine.version}"
    if at_least(version, "4" if engine.kind == "podman" else "25"):
        return passed(wanted, found)
    if engine.kind == "podman":
        return warned(wanted, found, "a newer Podman: https://podman.io/docs/installation")
    old = wants_gpu(profile) and not at_least(version, "19.3")
    hint = "newer packages: https://docs.docker.com/engine/install/"
    return (failed if old else warned)(wanted, found, hint)


def _storage(host: Host, profile: Profile) -> Finding:
    """The engine keeps layers with a driver that shares them.

    Why: `vfs` copies every layer whole, so a 6 GB image takes many times that; devicemapper is gone from Docker 25.
    Pass: any other driver.
    Warn: vfs or devicemapper.
    Fail: never.
    Skip: containers are not used, or no runtime answers.
    Fix: a file system that overlay2 works on, and the engine's `storage-driver` setting.
    """
    wanted = "a storage driver that shares layers"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    if engine.storage_driver in ("vfs", "devicemapper"):
        hint = 'set "storage-driver": "overlay2" in /etc/docker/daemon.json'
        if engine.kind == "podman":
            hint = 'set driver = "overlay" in /etc/containers/storage.conf'
        return warned(wanted, engine.storage_driver, hint)
    return passed(wanted, engine.storage_driver or "its default")


def _snap(host: Host, profile: Profile) -> Finding:
    """Docker is not a snap.

    Why: a snap is confined: it sees neither the driver's libraries nor the toolkit, and says `load library failed:
        libnvidia-ml.so.1`.
    Pass: its data is not below /var/snap.
    Warn: it is; without a way to the GPUs that is what runtime.gpu fails for.
    Fail: never.
    Skip: containers are not used, or no runtime answers.
    Fix: remove the snap, install Docker's own packages.
    """
    wanted = "Docker from packages, not from a snap"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    if not engine.root.startswith("/var/snap/"):
        return passed(wanted, engine.root or "not a snap")
    return warned(wanted, f"a snap: {engine.root}", _unsnap(host))


def _unsnap(host: Host) -> str:
    return f"{sudo(host, 'snap remove docker')}, then {ENGINE}" if has(host, "snap") else ENGINE


def _rootless(host: Host, profile: Profile) -> Finding:
    """The toolkit's `no-cgroups` suits the daemon: on for a rootless one, off for the system's.

    Why: without it a rootless container fails in `bpf_prog_query`; with it a container of the system's daemon says
        `Failed to initialize NVML: Unknown Error`. One file serves both, so CDI is the way for both.
    Pass: GPUs come through CDI, or the setting suits the daemon.
    Warn: never.
    Fail: it does not suit.
    Skip: the profile wants no GPU, there is none, no runtime answers, no way to the GPUs is configured, or the
        toolkit's settings cannot be read.
    Fix: nvidia-ctk sets it, or writes a CDI specification.
    """
    wanted = "no-cgroups as the daemon needs it"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if route(host) == "cdi":
        return passed(wanted, "CDI does not use it")
    if isinstance(host.toolkit, Unknown):
        return unknown(wanted, host.toolkit.reason)
    if host.toolkit is None:
        return skipped("the Container Toolkit is not installed", wanted)
    if route(host) is None and not host.toolkit.hook:
        return skipped("no way to the GPUs is configured: runtime.gpu", wanted)
    on = host.toolkit.settings.get("nvidia-container-cli.no-cgroups") == "true"
    if on == engine.rootless:
        return passed(wanted, "on" if on else "off")
    daemon = "the daemon is rootless" if engine.rootless else "the daemon is the system's"
    hint = None
    if has(host, "nvidia-ctk"):
        value = "" if engine.rootless else "=false"
        hint = sudo(host, f"nvidia-ctk config --set nvidia-container-cli.no-cgroups{value} --in-place")
    return failed(wanted, f"it is {'on' if on else 'off'}, and {daemon}", hint)


def _buildx(host: Host, profile: Profile) -> Finding:
    """Images can be built here, or need not be.

    Why: they are built with BuildKit, for its secrets and caches; the plug-in is a package of its own.
    Pass: the client has buildx, or the image is here already.
    Warn: it has not, the image must be built, and the embedded runtime can stand in.
    Fail: it has not, the image must be built, and the profile needs containers.
    Skip: containers are not used, no runtime answers, Podman stands in for docker, or it could not be asked.
    Fix: the package of the plug-in.
    """
    wanted = "docker with buildx"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    if engine.buildx is True:
        return passed(wanted, "there")
    here = present(host, profile)
    if here is True:
        return passed(wanted, "not needed: the image is here")
    for fact in (engine.buildx, Unknown("not asked") if here is None else here):
        if isinstance(fact, Unknown):
            return unknown(wanted, fact.reason)
    if engine.kind == "podman" and has(host, "docker"):
        return unknown(wanted, "whether Podman's docker command builds as buildx does is not known")
    known = not isinstance(host.packages, Unknown) and "docker-ce" in host.packages
    hint = install(host, "docker-buildx-plugin" if known else "docker-buildx", "docker-buildx-plugin")
    must = profile.runtime == "docker" or wants_gpu(profile)
    found = "no buildx for the docker client" + ("" if must else "; without it the embedded runtime is used")
    return (failed if must else warned)(wanted, found, hint or "install docker-buildx-plugin")


def _logs(host: Host, profile: Profile) -> Finding:
    """The logs of containers stop growing at some size.

    Why: `json-file` without a limit fills the disk of the images; deployer limits the logs of its own containers.
    Pass: another driver, or a limit is set.
    Warn: `json-file` and no limit.
    Fail: never.
    Skip: containers are not used, no runtime answers, or its settings cannot be read.
    Fix: log-opts in daemon.json.
    """
    wanted = "container logs with a limit"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    if isinstance(engine.logs_limited, Unknown):
        return unknown(wanted, engine.logs_limited.reason)
    if engine.logs_limited is False:
        hint = '"log-opts": {"max-size": "50m", "max-file": "3"} in /etc/docker/daemon.json'
        return warned(wanted, "json-file, which grows for ever", hint)
    driver = "another driver" if isinstance(engine.log_driver, Unknown) else engine.log_driver
    return passed(wanted, "limited" if engine.logs_limited else driver or "another driver")


def _here(host: Host, profile: Profile) -> Finding:
    """The engine runs on this machine.

    Why: with DOCKER_HOST or a context elsewhere, the facts of this audit are of one machine and the containers on
        another; folders given to a container would be looked for there.
    Pass: it is asked over a local socket.
    Warn: never.
    Fail: it is asked over the network.
    Skip: containers are not used, or no runtime answers.
    Fix: unset DOCKER_HOST, and run deployer on that machine.
    """
    wanted = "an engine on this machine"
    engine = asked(host, profile, wanted)
    if isinstance(engine, Finding):
        return engine
    if engine.remote:
        return failed(
            wanted, "DOCKER_HOST names another machine", "run deployer there, or: unset DOCKER_HOST"
        )
    return passed(wanted, "a local socket")


def _swarm(host: Host, profile: Profile) -> Finding:
    """A swarm does not give the same GPU to other services.

    Why: without `node-generic-resources` every service of a swarm that asks for GPUs sees all of them.
    Pass: this node is in no swarm, or its GPUs are listed as generic resources.
    Warn: it is in a swarm and they are not listed.
    Fail: never.
    Skip: the profile wants no GPU, there is none, or no runtime answers.
    Fix: node-generic-resources by UUID in daemon.json, swarm-resource in the toolkit's config.toml.
    """
    wanted = "GPUs that swarm services do not share unseen"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if isinstance(engine.swarm, Unknown):
        return unknown(wanted, engine.swarm.reason)
    if not engine.swarm:
        return passed(wanted, "no swarm")
    if isinstance(engine.generic_resources, Unknown):
        return unknown(wanted, engine.generic_resources.reason)
    if any("gpu" in entry.lower() for entry in engine.generic_resources):
        return passed(wanted, ", ".join(engine.generic_resources))
    cards = () if isinstance(host.gpus, Unknown) else host.gpus
    names = [f'"NVIDIA-GPU={gpu.uuid}"' for gpu in cards if isinstance(gpu.uuid, str)]
    hint = f'"node-generic-resources": [{", ".join(names) or "…"}] in /etc/docker/daemon.json'
    return warned(wanted, "this node is in a swarm and lists no GPUs", hint)


CHECKS = (
    Check("runtime.engine", _engine, pains=(1,)),
    Check("runtime.gpu", _gpu, pains=(1, 4)),
    Check("runtime.version", _version, advice=True),
    Check("runtime.here", _here, pains=(1,)),
    Check("runtime.snap", _snap, pains=(1,), advice=True),
    Check("runtime.rootless", _rootless, pains=(7,), advice=True),
    Check("runtime.storage", _storage, pains=(28,), advice=True),
    Check("runtime.buildx", _buildx),
    Check("runtime.logs", _logs, pains=(28,), advice=True),
    Check("runtime.swarm", _swarm, pains=(40,), advice=True),
)
