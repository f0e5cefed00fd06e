"""What the file systems of images, engines and models are, and who may write there."""

from __future__ import annotations

from pathlib import PurePath

from deployer.checks.base import Check, sudo, uses_containers
from deployer.checks.disk import place
from deployer.host import ContainerRuntime, Disk, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned

_NETWORK = (
    *("nfs", "cifs", "smb", "9p", "ceph", "fuse.", "glusterfs", "lustre", "beegfs", "afs", "drvfs"),
    *("davfs", "sshfs", "ncp", "orangefs", "gpfs"),
)
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


def _kind(host: Host, profile: Profile) -> Finding:
    """Models are on an SSD where the profile asks for one.

    Why: a rotating disk reads a large model in minutes, at every start.
    Pass: the kernel says that the disk does not rotate.
    Warn: nobody can say: it is a network, a memory or a virtual disk.
    Fail: it rotates.
    Skip: the profile takes any disk, or it could not be asked.
    Fix: keep models on an SSD with --home DIR.
    """
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


def _writable(host: Host, profile: Profile) -> Finding:
    """This user may write where models go.

    Why: a folder that an engine or another user made belongs to root, and the pull ends with "permission denied".
    Pass: it may.
    Warn: never.
    Fail: it may not, or the file system is read-only.
    Skip: it could not be asked.
    Fix: chown the folder to this user, or keep models elsewhere with --home DIR.
    """
    return _may_write(host, host.models_disk, "models")


def _engines(host: Host, profile: Profile) -> Finding:
    """This user may write where engines are made without containers.

    Why: the engine is compiled or installed there, once.
    Pass: it may.
    Warn: never.
    Fail: it may not, or the file system is read-only.
    Skip: engines come as images, or it could not be asked.
    Fix: chown the folder to this user, or keep engines elsewhere with --home DIR.
    """
    if uses_containers(host, profile):
        return skipped("engines come as images here")
    return _may_write(host, host.engines_disk, "engines")


def _may_write(host: Host, disk: Fact[Disk], what: str) -> Finding:
    wanted = f"a folder for {what} that this user can write"
    if isinstance(disk, Unknown):
        return unknown(wanted, disk.reason)
    if disk.read_only is True:
        return failed(wanted, f"{disk.path} is mounted read-only", "choose another place with --home DIR")
    if disk.writable:
        return passed(wanted, disk.path)
    owner = "" if isinstance(disk.owner, Unknown) else f"; it belongs to user {disk.owner}"
    found = f"this user may not write to {disk.path}{owner}"
    user = None if isinstance(host.system, Unknown) else host.system.user
    # Only what is deployer's own is handed over: the nearest folder that there is may be / or /home.
    if user and PurePath(disk.path).name in (what, "deployer"):
        own = sudo(host, f"chown -R {user} {disk.path}")
        return failed(wanted, found, f"{own}, or choose another place with --home DIR")
    return failed(wanted, found, "choose another place with --home DIR")


def _network(host: Host, profile: Profile) -> Finding:
    """Models and images are on disks of this machine.

    Why: over a network, every start reads all weights again at its speed, and overlay2 cannot write to NFS.
    Pass: they are on local file systems.
    Warn: models, images or engines are on a network's file system.
    Fail: images are on NFS and the engine's storage driver is overlay2.
    Skip: it could not be asked.
    Fix: keep models and engines on a local disk with --home DIR; move the engine's data-root to one.
    """
    wanted = "local file systems"
    root, models = place(host, profile), host.models_disk
    inside = uses_containers(host, profile)
    if inside and isinstance(root, Disk) and root.filesystem.startswith("nfs"):
        engine = host.runtime
        if isinstance(engine, ContainerRuntime) and engine.storage_driver == "overlay2":
            return failed(
                wanted,
                f"{root.path} is {root.filesystem}, and overlay2 cannot write there",
                'put {"data-root": "/a/local/folder"} into /etc/docker/daemon.json and restart the engine',
            )
    for disk in (models, root):
        if isinstance(disk, Disk) and disk.filesystem.startswith(_NETWORK):
            hint = "keep models and engines on a local disk with --home DIR"
            if disk is root and inside:
                hint = "move the engine's data-root to a local disk"
            return warned(wanted, f"{disk.path} is {disk.filesystem}", hint)
    return _or_unknown(wanted, models, root)


def _memory_backed(host: Host, profile: Profile) -> Finding:
    """Models and images are on disks, not in memory.

    Why: what lies on a tmpfs takes memory from the engine and is gone after a reboot.
    Pass: they are on disks.
    Warn: one of them is on a tmpfs or ramfs.
    Fail: never.
    Skip: it could not be asked.
    Fix: keep models and engines on a disk with --home DIR; move the engine's data-root to one.
    """
    wanted = "file systems that outlast a reboot"
    root, models = place(host, profile), host.models_disk
    for disk in (models, root):
        if isinstance(disk, Disk) and disk.filesystem in _MEMORY:
            hint = "keep models and engines on a disk with --home DIR"
            if disk is root and uses_containers(host, profile):
                hint = "move the engine's data-root to a disk"
            return warned(wanted, f"{disk.path} is a {disk.filesystem}", hint)
    return _or_unknown(wanted, models, root)


def _or_unknown(wanted: str, *disks: Fact[Disk | None]) -> Finding:
    for disk in disks:
        if isinstance(disk, Unknown):
            return unknown(wanted, disk.reason)
    kinds = dict.fromkeys(f"{disk.path} is {disk.filesystem}" for disk in disks if isinstance(disk, Disk))
    return passed(wanted, ", ".join(kinds))


CHECKS = (
    Check("disk.kind", _kind),
    Check("disk.writable", _writable, pains=(38,)),
    Check("disk.engines", _engines, pains=(38,)),
    Check("disk.network", _network, pains=(34,), advice=True),
    Check("disk.memory_backed", _memory_backed, advice=True),
)
