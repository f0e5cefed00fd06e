"""How a GPU gets into a container: CDI specifications and the Container Toolkit's settings."""

from __future__ import annotations

from deployer.checks.base import Check, has, service, sudo, then, wants_gpu
from deployer.checks.runtime import asked
from deployer.host import ContainerRuntime, Host, Specification, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown, warned

# CDI format versions and the first engine that reads them: release notes of NVIDIA Container Toolkit 1.19.1
# (0.7.0), Docker 25 and Podman 4.1 (0.6.0).
_READS = (("0.7.0", "26.1", "5.1"), ("0.6.0", "25", "4.1"))
NO_SPECIFICATION = "there is no CDI specification of NVIDIA GPUs"


def _specifications(
    host: Host, profile: Profile, wanted: str
) -> tuple[ContainerRuntime, tuple[Specification, ...]] | Finding:
    """The engine and the specifications that it reads, or the finding of a check without any."""
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if isinstance(host.cdi, Unknown):
        return unknown(wanted, host.cdi.reason)
    return (engine, host.cdi) if host.cdi else skipped(NO_SPECIFICATION, wanted)


def again(host: Host, path: str = "/var/run/cdi/nvidia.yaml") -> str:
    """The command that writes the specification anew."""
    refresh = service(host, "restart nvidia-cdi-refresh.service")
    packages = {} if isinstance(host.packages, Unknown) else host.packages
    toolkit = packages.get("nvidia-container-toolkit")
    if refresh and toolkit and path.startswith(("/var/run", "/run")) and _version(toolkit.version, "1.18"):
        return refresh
    if has(host, "nvidia-ctk"):
        return sudo(host, f"nvidia-ctk cdi generate --output={path}")
    return (
        "install the NVIDIA Container Toolkit and write the specification anew with nvidia-ctk cdi generate"
    )


def _version(text: str, least: str) -> bool:
    try:
        return at_least(text.rpartition(":")[2].split("-")[0].split("~")[0], least)
    except ValueError:
        return False


def _enabled(host: Host, profile: Profile) -> Finding:
    """An engine reads the CDI specifications that are on this machine.

    Why: Docker before 28.3 reads them only when told to, and says `could not select device driver "cdi"`.
    Pass: it does.
    Warn: there are some, it does not, and the nvidia runtime is the way that is left.
    Fail: there are some, it does not, and there is no other way to a GPU.
    Skip: the profile wants no GPU, there is no specification, or no runtime answers.
    Fix: the feature switch in daemon.json.
    """
    wanted = "an engine that reads CDI specifications"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    engine, _ = found
    if isinstance(engine.cdi, Unknown):
        return unknown(wanted, engine.cdi.reason)
    if engine.cdi:
        return passed(wanted, "it does")
    change = '"features": {"cdi": true} in /etc/docker/daemon.json'
    restart = service(host, "restart docker")
    hint = f"{change}, then {restart or 'start the engine again'}"
    return (warned if engine.nvidia_runtime else failed)(
        wanted, f"{engine.kind} {engine.version} does not", hint
    )


def _readable(host: Host, profile: Profile) -> Finding:
    """Every CDI specification can be parsed, and is of a version that the engine reads.

    Why: the toolkit from 1.19.1 on writes version 0.7.0, which Podman before 5.1 and Docker before 26.1 cannot
        read: `unresolvable CDI devices nvidia.com/gpu=all` after a plain upgrade of a package.
    Pass: all are.
    Warn: never.
    Fail: one cannot be parsed, or is too new for the engine.
    Skip: the profile wants no GPU, there is no specification, no runtime answers, or its version is not a number.
    Fix: a newer engine, or the specification written in the older form.
    """
    wanted = "CDI specifications that this engine reads"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    engine, specifications = found
    for one in specifications:
        if one.unreadable:
            return failed(wanted, f"{one.path}: {one.unreadable}", again(host, one.path))
    number = engine.version.split("+")[0].split("-")[0].split("~")[0]
    for one in specifications:
        for version, docker, podman in _READS:
            least = podman if engine.kind == "podman" else docker
            try:
                new = at_least(one.version, version) and not at_least(number, least)
            except ValueError:
                return unknown(wanted, f"version {one.version} or {engine.version} is not a number")
            if new:
                older = "--feature-flag no-additional-gids-for-device-nodes"
                hint = f"{engine.kind} {least} or later"
                if version == "0.7.0" and has(host, "nvidia-ctk"):
                    hint += f", or: {sudo(host, f'nvidia-ctk cdi generate {older} --output={one.path}')}"
                said = f"{one.path} is version {one.version}; {engine.kind} {engine.version} does not read it"
                return failed(wanted, said, hint)
    return passed(wanted, ", ".join(f"{one.path} ({one.version})" for one in specifications))


def _fresh(host: Host, profile: Profile) -> Finding:
    """Every file that a CDI specification mounts is still there, and of the loaded driver's version.

    Why: the specification names the driver's files by version; after an upgrade it names files that are gone, and
        no container with a GPU starts, or `cuInit` fails in it.
    Pass: all files are there, and their version is the driver's.
    Warn: never.
    Fail: some are missing, or they are of another version.
    Skip: the profile wants no GPU, there is no specification, or no runtime answers.
    Fix: write the specification anew.
    """
    wanted = "CDI specifications that match the driver"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    for one in found[1]:
        if one.unreadable:
            return unknown(wanted, f"{one.path}: {one.unreadable}")
        if one.missing:
            more = f" and {len(one.missing) - 1} more" if len(one.missing) > 1 else ""
            return failed(
                wanted, f"{one.path} names {one.missing[0]}{more}, which is not there", again(host, one.path)
            )
        if isinstance(host.driver, Unknown):
            return unknown(wanted, host.driver.reason)
        if host.driver and one.driver and one.driver != host.driver.version:
            said = f"{one.path} is for driver {one.driver}, {host.driver.version} is loaded"
            return failed(wanted, said, again(host, one.path))
    return passed(wanted, ", ".join(one.path for one in found[1]))


def _single(host: Host, profile: Profile) -> Finding:
    """No device is defined by two CDI specifications.

    Why: an old file in /etc/cdi beside the one that the toolkit keeps in /var/run/cdi wins or clashes, and its
        device numbers are those of an earlier boot: nvidia-smi works and `cuInit` fails.
    Pass: each device is defined once.
    Warn: some are defined twice.
    Fail: never.
    Skip: the profile wants no GPU, there is no specification, or no runtime answers.
    Fix: remove the older file.
    """
    wanted = "each CDI device defined once"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    seen: dict[str, str] = {}
    for one in found[1]:
        for device in one.devices:
            if device in seen and seen[device] != one.path:
                old = seen[device]
                return warned(wanted, f"`{device}` is in {old} and in {one.path}", sudo(host, f"rm {old}"))
            seen[device] = one.path
    return passed(wanted, ", ".join(seen))


def _complete(host: Host, profile: Profile) -> Finding:
    """The CDI specification has every GPU of this machine.

    Why: it is written at boot and when the driver changes, not when a card or a MIG slice is added.
    Pass: it has at least as many single devices as NVML shows GPUs.
    Warn: it has fewer.
    Fail: never.
    Skip: the profile wants no GPU, there is no specification, or NVML does not answer.
    Fix: write the specification anew.
    """
    wanted = "a CDI device for every GPU"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    names = {device for one in found[1] for device in one.devices if device != "all"}
    uuids = {gpu.uuid for gpu in host.gpus if isinstance(gpu.uuid, str)}
    single = {name for name in names if not name.startswith(("GPU-", "MIG-"))}
    if not names or uuids <= names or len(single) >= len(host.gpus):
        return passed(wanted, ", ".join(sorted(names)) or "all")
    said = f"{', '.join(sorted(names))}; NVML shows {len(host.gpus)} GPUs"
    return warned(wanted, said, again(host, found[1][0].path))


def _toolkit(host: Host, profile: Profile) -> Finding:
    """The Container Toolkit is of a version without a known fault.

    Why: 1.17.4 and 1.18.0 leave an image's compat libraries unused, so a data-centre card with an older driver fails
        where neighbouring versions work.
    Pass: another version, or it is not known and nothing is known against it.
    Warn: one of these.
    Fail: never.
    Skip: the profile wants no GPU, no runtime answers, the toolkit is not installed, or its version is unknown.
    Fix: a newer package.
    """
    wanted = "a Container Toolkit without known faults"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if isinstance(host.packages, Unknown):
        return unknown(wanted, host.packages.reason)
    package = host.packages.get("nvidia-container-toolkit")
    if package is None:
        return skipped("it is not installed as a package", wanted)
    number = package.version.rpartition(":")[2].split("-")[0].split("~")[0]
    if number in ("1.17.4", "1.18.0"):
        hint = then(
            sudo(host, "apt-get install --only-upgrade nvidia-container-toolkit")
            if has(host, "apt-get")
            else None,
            service(host, "restart docker"),
        )
        return warned(wanted, f"{number} leaves compat libraries of images unused", hint or "a later version")
    return passed(wanted, number)


def _mode(host: Host, profile: Profile) -> Finding:
    """The toolkit's settings leave the way open that deployer takes.

    Why: `mode = "cdi"` without a specification, or a disabled hook, ends with `invoking the NVIDIA Container Runtime
        Hook directly is not supported` or `unresolvable CDI devices`.
    Pass: the mode is auto, legacy or jit-cdi, or CDI specifications are there.
    Warn: never.
    Fail: the mode is cdi and there is no specification.
    Skip: the profile wants no GPU, no runtime answers, or the toolkit is not installed.
    Fix: mode auto, or a specification.
    """
    wanted = "toolkit settings that fit"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if isinstance(host.toolkit, Unknown):
        return unknown(wanted, host.toolkit.reason)
    if host.toolkit is None:
        return skipped("the Container Toolkit is not installed", wanted)
    mode = host.toolkit.settings.get("nvidia-container-runtime.mode", "auto")
    if mode == "cdi" and not engine.cdi_gpus:
        if isinstance(host.cdi, Unknown):
            return unknown(wanted, host.cdi.reason)
        return failed(wanted, "mode is cdi, and the engine finds no CDI devices", again(host))
    return passed(wanted, f"mode {mode}")


def _proven(host: Host, profile: Profile) -> Finding:
    """What the engine says of its GPUs agrees with what the files say.

    Why: a verdict from one word of metadata is wrong on boxes where the other way works; two answers are compared.
    Pass: CDI devices come from a specification that is read here too, or the nvidia runtime's program is there.
    Warn: the engine lists the nvidia runtime and its program is in no usual folder.
    Fail: never; `deployer check --deep` starts a container and knows.
    Skip: the profile wants no GPU, no runtime answers, or no way to the GPUs is configured.
    Fix: install the toolkit again, or remove the runtime from daemon.json.
    """
    wanted = "a way to the GPUs whose parts are there"
    engine = asked(host, profile, wanted, gpu=True)
    if isinstance(engine, Finding):
        return engine
    if engine.cdi_gpus:
        return passed(wanted, "CDI specifications")
    if not engine.nvidia_runtime:
        return skipped("no way is configured: runtime.gpu", wanted)
    if isinstance(host.toolkit, Unknown):
        return unknown(wanted, host.toolkit.reason)
    if host.toolkit is None or not host.toolkit.runtime:
        hint = "prove it: deployer check --deep" if wants_gpu(profile) else None
        return warned(
            wanted,
            "the nvidia runtime is registered, and nvidia-container-runtime is in no usual folder",
            hint,
        )
    return passed(wanted, "nvidia-container-runtime")


CHECKS = (
    Check("runtime.cdi", _enabled, pains=(1, 4), advice=True),
    Check("runtime.cdi_version", _readable, pains=(3,), advice=True),
    Check("runtime.cdi_files", _fresh, pains=(3, 15), advice=True),
    Check("runtime.cdi_once", _single, pains=(6,), advice=True),
    Check("runtime.cdi_gpus", _complete, pains=(10,), advice=True),
    Check("runtime.toolkit", _toolkit, pains=(12,), advice=True),
    Check("runtime.mode", _mode, pains=(1,), advice=True),
    Check("runtime.parts", _proven, pains=(4,), advice=True),
)
