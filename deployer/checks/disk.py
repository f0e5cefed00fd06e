"""The file systems that images, engines and models land on."""

from __future__ import annotations

from deployer.checks.base import Check
from deployer.host import Disk, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _embedded(host: Host, profile: Profile) -> bool:
    """Whether engines will be built on this host, because no container runtime can be used or none may."""
    must = profile.runtime == "docker" or profile.requirements.gpu is not None
    usable = not (host.runtime is None or (isinstance(host.runtime, Unknown) and not must))
    return profile.runtime == "process" or not usable


def _images(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.disk.images
    if _embedded(host, profile):
        return _free(need, host.engines_disk, "keep engines elsewhere with --home DIR")
    installed = () if isinstance(host.system, Unknown) else host.system.tools
    tool = next((name for name in ("docker", "podman") if name in installed), None)
    return _free(need, host.images_disk, f"{tool} system prune" if tool else "remove images that nobody uses")


def _models(host: Host, profile: Profile) -> Finding:
    finding = _free(
        profile.requirements.disk.models, host.models_disk, "keep models elsewhere with --home DIR"
    )
    if isinstance(host.models_disk, Disk) and not host.models_disk.writable:
        return failed("a folder that this user can write", f"{host.models_disk.path} is read-only for this user",
                      "choose another with --home DIR")  # fmt: skip
    return finding


def _free(need: int | None, disk: Fact[Disk], fix: str) -> Finding:
    if need is None:
        return skipped("the profile does not ask for a size")
    wanted = f"{format_size(need)} free"
    if isinstance(disk, Unknown):
        return unknown(wanted, disk.reason)
    found = f"{format_size(disk.free)} free on {disk.path}"
    return (
        passed(wanted, found) if disk.free >= need else failed(wanted, found, f"make room there, or: {fix}")
    )


def _size(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.disk.size
    if need is None:
        return skipped("the profile does not ask for a size")
    wanted = f"a file system of {format_size(need)}"
    if isinstance(host.models_disk, Unknown):
        return unknown(wanted, host.models_disk.reason)
    found = f"{format_size(host.models_disk.size)} at {host.models_disk.path}"
    if host.models_disk.size >= 0.9 * need:
        return passed(wanted, found)
    return failed(wanted, found, "keep models on a larger one with --home DIR")


def _kind(host: Host, profile: Profile) -> Finding:
    if profile.requirements.disk.kind == "any":
        return skipped("the profile takes any disk")
    disk = host.models_disk
    if isinstance(disk, Unknown):
        return unknown("ssd", disk.reason)
    if disk.rotating is None:
        return warned("ssd", f"nobody can say from here what is under {disk.filesystem} at {disk.path}")
    if disk.rotating:
        return failed("ssd", f"{disk.path} is on a rotating disk", "keep models on an SSD with --home DIR")
    return passed("ssd", f"{disk.path} is on an SSD")


CHECKS = (
    Check("disk.images", _images),
    Check("disk.models", _models),
    Check("disk.size", _size),
    Check("disk.kind", _kind),
)
