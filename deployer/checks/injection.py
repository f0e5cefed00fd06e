"""How a GPU gets into a container: CDI specifications and the Container Toolkit's settings."""

from __future__ import annotations

from deployer.checks.base import Check, has, route, service, sudo, then
from deployer.checks.driver import known, number, on_disk
from deployer.checks.runtime import asked
from deployer.host import ContainerRuntime, Driver, Gpu, Host, Mig, Slice, Specification, Unknown
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
    if isinstance(engine.cdi, Unknown):
        return unknown(wanted, engine.cdi.reason)
    return (engine, host.cdi) if host.cdi else skipped(NO_SPECIFICATION, wanted)


def _read(
    host: Host, profile: Profile, wanted: str
) -> tuple[ContainerRuntime, tuple[Specification, ...]] | Finding:
    """The same, of an engine that reads specifications at all."""
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding) or found[0].cdi:
        return found
    return skipped("this engine reads none of them: runtime.cdi", wanted)


def _folder(path: str) -> str:
    return path.rpartition("/")[0].replace("/var/run", "/run")


def _in_force(specifications: tuple[Specification, ...]) -> tuple[Specification, ...]:
    """Those that define a device: of two that define the same, the one in the later folder (CDI, SPEC.md)."""
    winner = {device: one for one in specifications if not one.unreadable for device in one.devices}
    return tuple(one for one in specifications if one in winner.values())


def again(host: Host, path: str = "/var/run/cdi/nvidia.yaml") -> str:
    """The command that writes the specification anew."""
    refresh = service(host, "restart nvidia-cdi-refresh.service")
    packages = {} if isinstance(host.packages, Unknown) else host.packages
    toolkit = packages.get("nvidia-container-toolkit")
    version = number(toolkit.version) if toolkit else None
    if (
        refresh
        and path.startswith(("/var/run", "/run"))
        and isinstance(version, str)
        and at_least(version, "1.18")
    ):
        return refresh
    if has(host, "nvidia-ctk"):
        return sudo(host, f"nvidia-ctk cdi generate --output={path}")
    return (
        "install the NVIDIA Container Toolkit and write the specification anew with nvidia-ctk cdi generate"
    )


def _enabled(host: Host, profile: Profile) -> Finding:
    """An engine reads the CDI specifications that are on this machine.

    Why: Docker before 28.3 reads them only when told to, and says `could not select device driver "cdi"`; and an engine
        that looks in another folder finds none.
    Pass: it reads the folder of one of them.
    Warn: it reads none of them; whether another way to a GPU is left, runtime.gpu says.
    Fail: never.
    Skip: the profile wants no GPU, there is no specification, or no runtime answers.
    Fix: the feature switch in daemon.json, for Docker 25 and later; or the specification in the engine's folder.
    """
    wanted = "an engine that reads CDI specifications"
    found = _specifications(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    engine, specifications = found
    if not engine.cdi:
        change = '"features": {"cdi": true} in /etc/docker/daemon.json'
        hint = f"{change}, then {service(host, 'restart docker') or 'start the engine again'}"
        version = number(engine.version)
        if isinstance(version, str) and not at_least(version, "25"):
            hint = "Docker 25 or later: https://docs.docker.com/engine/install/"
        return warned(wanted, f"{engine.kind} {engine.version} does not", hint)
    folders = engine.cdi_folders
    if isinstance(folders, Unknown):
        return unknown(wanted, folders.reason)
    looked = {folder.rstrip("/").replace("/var/run", "/run") for folder in folders}
    if any(_folder(one.path) in looked for one in specifications):
        return passed(wanted, f"in {', '.join(folders)}")
    text = f"it looks in {', '.join(folders)}, and not in {_folder(specifications[0].path)}"
    return warned(wanted, text, again(host, f"{folders[0].rstrip('/')}/nvidia.yaml") if folders else None)


def _readable(host: Host, profile: Profile) -> Finding:
    """Every CDI specification can be parsed, and is of a version that the engine reads.

    Why: the toolkit from 1.19.1 on writes version 0.7.0, which Podman before 5.1 and Docker before 26.1 cannot
        read: `unresolvable CDI devices nvidia.com/gpu=all` after a plain upgrade of a package.
    Pass: all are.
    Warn: one cannot be parsed or is too new for the engine, and others have devices, or the nvidia runtime is used.
    Fail: GPUs would come from a specification that is too new for the engine.
    Skip: the profile wants no GPU, there is no specification, no runtime answers or it reads none of them, or a version
        is not a number.
    Fix: a newer engine, or the specification written in the older form.
    """
    wanted = "CDI specifications that this engine reads"
    found = _read(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    engine, specifications = found
    own = number(engine.version)
    problems: list[tuple[str, str]] = []
    devices: set[str] = set()
    for one in specifications:
        if one.unreadable:
            problems.append((f"{one.path}: {one.unreadable}", again(host, one.path)))
            continue
        version = number(one.version)
        if isinstance(own, Unknown) or isinstance(version, Unknown):
            return unknown(wanted, own.reason if isinstance(own, Unknown) else f"{one.path}: {version}")
        if problem := _too_new(host, engine, own, one, version):
            problems.append(problem)
        else:
            devices |= {*one.devices}
    if problems:
        must = route(host) == "cdi" and not devices
        return (failed if must else warned)(wanted, *problems[0])
    return passed(wanted, ", ".join(f"{one.path} ({one.version})" for one in specifications))


def _too_new(
    host: Host, engine: ContainerRuntime, own: str, one: Specification, version: str
) -> tuple[str, str] | None:
    """What is wrong with a specification of this version, and its fix; None where the engine reads it."""
    for since, docker, podman in _READS:
        least = podman if engine.kind == "podman" else docker
        if at_least(version, since) and not at_least(own, least):
            older = "--feature-flag no-additional-gids-for-device-nodes"
            hint = f"{engine.kind} {least} or later"
            if since == "0.7.0" and has(host, "nvidia-ctk"):
                hint += f", or: {sudo(host, f'nvidia-ctk cdi generate {older} --output={one.path}')}"
            return (
                f"{one.path} is version {one.version}; {engine.kind} {engine.version} does not read it",
                hint,
            )
    return None


def _fresh(host: Host, profile: Profile) -> Finding:
    """Every file that a CDI specification mounts is still there, and of the loaded driver's version.

    Why: the specification names the driver's files by version; after an upgrade it names files that are gone, and
        no container with a GPU starts, or `cuInit` fails in it.
    Pass: all files are there, and their version is the driver's.
    Warn: some are missing or of another version, and GPUs come through the nvidia runtime.
    Fail: some are missing or of another version, and GPUs come through CDI.
    Skip: the profile wants no GPU, there is no specification, no driver is loaded, no runtime answers or it reads none
        of them, or libraries of another version than the loaded module wait for a reboot (driver.libraries).
    Fix: write the specification anew.
    """
    wanted = "CDI specifications that match the driver"
    found = _read(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    in_force = _in_force(found[1])
    if not in_force:
        return unknown(wanted, "; ".join(f"{one.path}: {one.unreadable or 'no device'}" for one in found[1]))
    waiting = on_disk(host)
    driver = known(host)
    if isinstance(driver, Driver) and waiting and waiting != driver.version:
        return skipped("first a reboot: driver.libraries", wanted)
    bad = failed if route(host) == "cdi" else warned
    for one in in_force:
        missing = [path for path in one.missing if not path.startswith("/dev/nvidia-uvm")]  # driver.uvm's
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return bad(
                wanted, f"{one.path} names {missing[0]}{more}, which is not there", again(host, one.path)
            )
        if isinstance(driver, Unknown):
            return unknown(wanted, driver.reason)
        if driver and one.driver and one.driver != driver.version:
            said = f"{one.path} is for driver {one.driver}, {driver.version} is loaded"
            return bad(wanted, said, again(host, one.path))
    return passed(wanted, ", ".join(one.path for one in in_force))


def _single(host: Host, profile: Profile) -> Finding:
    """No device is defined by two CDI specifications.

    Why: an old file in /etc/cdi beside the one that the toolkit keeps in /var/run/cdi, and its device numbers are those
        of an earlier boot: nvidia-smi works and `cuInit` fails. Of two files in one folder neither counts.
    Pass: each device is defined once.
    Warn: some are defined twice.
    Fail: some are defined twice in one folder, and GPUs come through CDI.
    Skip: the profile wants no GPU, there is no specification, or no runtime answers or it reads none of them.
    Fix: remove the file that another one replaces, or that is for another driver.
    """
    wanted = "each CDI device defined once"
    found = _read(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    driver = known(host)
    loaded = driver.version if driver and not isinstance(driver, Unknown) else None
    seen: dict[str, Specification] = {}
    for one in found[1]:
        for device in one.devices:
            first = seen.setdefault(device, one)
            if first.path != one.path:
                clash = _folder(first.path) == _folder(one.path)
                old = one if clash and one.driver != loaded and first.driver == loaded else first
                bad = failed if clash and route(host) == "cdi" else warned
                hint = sudo(host, f"rm {old.path}")
                return bad(wanted, f"`{device}` is in {first.path} and in {one.path}", hint)
    if not seen:
        return unknown(wanted, "; ".join(f"{one.path}: {one.unreadable or 'no device'}" for one in found[1]))
    return passed(wanted, ", ".join(seen))


def _complete(host: Host, profile: Profile) -> Finding:
    """The CDI specification has every GPU of this machine.

    Why: it is written at boot and when the driver changes, not when a card or a MIG slice is added.
    Pass: it has at least as many single devices as NVML shows GPUs.
    Warn: it has fewer.
    Fail: never.
    Skip: the profile wants no GPU, there is no specification that can be read, or NVML does not answer.
    Fix: write the specification anew.
    """
    wanted = "a CDI device for every GPU"
    found = _read(host, profile, wanted)
    if isinstance(found, Finding):
        return found
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not any(one.devices for one in found[1]):
        return unknown(wanted, "; ".join(f"{one.path}: {one.unreadable or 'no device'}" for one in found[1]))
    names = {device for one in found[1] for device in one.devices if device != "all"}
    each = [one.uuid for gpu in host.gpus for one in _parts(gpu)]
    uuids = {uuid for uuid in each if isinstance(uuid, str)}
    single = {name for name in names if not name.startswith(("GPU-", "MIG-"))}
    every = len(uuids) == len(each) and uuids <= names
    if not names or every or len(single) >= len(each):
        return passed(wanted, ", ".join(sorted(names)) or "all")
    said = f"{', '.join(sorted(names))}; NVML shows {len(each)} GPUs"
    return warned(wanted, said, again(host, found[1][0].path))


def _parts(gpu: Gpu) -> tuple[Gpu | Slice, ...]:
    """The GPU itself, or its slices where it is cut into some."""
    return gpu.mig.slices if isinstance(gpu.mig, Mig) and gpu.mig.enabled else (gpu,)


def _toolkit(host: Host, profile: Profile) -> Finding:
    """The Container Toolkit is of a version without a known fault.

    Why: 1.17.4 and 1.18.0 leave an image's compat libraries unused, so a data-centre card with an older driver fails
        where neighbouring versions work.
    Pass: another version.
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
    version = number(package.version)
    if isinstance(version, Unknown):
        return unknown(wanted, version.reason)
    if version in ("1.17.4", "1.18.0"):
        hint = "a later version of nvidia-container-toolkit"
        if has(host, "apt-get"):
            restart = service(host, "restart docker") if engine.kind == "docker" else None
            hint = then(sudo(host, "apt-get install --only-upgrade nvidia-container-toolkit"), restart)
        return warned(wanted, f"{version} leaves compat libraries of images unused", hint)
    return passed(wanted, version)


def _mode(host: Host, profile: Profile) -> Finding:
    """The toolkit's settings leave the way open that deployer takes.

    Why: `mode = "cdi"` without a specification ends with `invoking the NVIDIA Container Runtime Hook directly is not
        supported` or `unresolvable CDI devices`.
    Pass: the mode is not cdi, or the engine finds CDI devices.
    Warn: never.
    Fail: the mode is cdi and Docker finds no CDI devices.
    Skip: the profile wants no GPU, no runtime answers, it is Podman's, which does not use them, or the toolkit is not
        installed or its settings cannot be read.
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
    if engine.kind == "podman":
        return skipped("Podman does not use them", wanted)
    mode = host.toolkit.settings.get("nvidia-container-runtime.mode", "auto")
    if mode == "cdi" and not engine.cdi_gpus:
        return failed(wanted, "mode is cdi, and the engine finds no CDI devices", again(host))
    return passed(wanted, f"mode {mode}")


def _proven(host: Host, profile: Profile) -> Finding:
    """What the engine says of its GPUs agrees with what the files say.

    Why: a verdict from one word of metadata is wrong on boxes where the other way works; two answers are compared.
    Pass: CDI devices come from a specification that is read here too, or the nvidia runtime's program is there.
    Warn: the engine lists the nvidia runtime and its program is in no usual folder.
    Fail: never; `deployer check --deep` starts a container and knows.
    Skip: the profile wants no GPU, no runtime answers, or no way to the GPUs is configured.
    Fix: prove it with --deep; then install the toolkit again, or remove the runtime from daemon.json.
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
        return warned(
            wanted,
            "the nvidia runtime is registered, and nvidia-container-runtime is in no usual folder",
            "prove it: deployer check --deep",
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
