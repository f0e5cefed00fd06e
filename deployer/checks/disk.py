"""The file systems that images, engines and models land on: how much room they have."""

from __future__ import annotations

from functools import cache

from deployer import images
from deployer.checks.base import Check, has, present, uses_containers
from deployer.engines import engine
from deployer.errors import QuestionError
from deployer.host import Disk, Fact, Host, Unknown
from deployer.models.store import model_id
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.report import Finding, Outcome, failed, passed, skipped, unknown, warned

NO_RUNTIME = "there is no container runtime, and so no place for images"
NO_SIZE = "the profile does not ask for a size"
# Free bytes without which runtimes/provision.py makes no engine, and what it puts into the temporary folder:
# wheels while they are unpacked (of torch 200 MB, of the C++ compiler 90 MB), files of the compiler.
_MAKING = {"llamacpp": 1_500_000_000, "transformers": 4_000_000_000}
_TEMPORARY = {"llamacpp": 300_000_000, "transformers": 1_000_000_000}
# Of a file system: files that an engine (torch alone: 30,000) or a model needs to be safe, and to be possible.
_INODES_IMAGES, _INODES_MODELS = (100_000, 2_000), (1_000, 50)
_FULL, _FULL_BYTES = 0.05, 50_000_000_000


def place(host: Host, profile: Profile) -> Fact[Disk | None]:
    """Where the image lands, or the engine without containers; None while there is no container runtime."""
    if not uses_containers(host, profile):
        return host.engines_disk
    return None if host.runtime is None else host.images_disk


def here(host: Host, profile: Profile) -> Fact[bool]:
    """Whether the image of the profile is on this host already; one that was not asked for is not."""
    if not uses_containers(host, profile):
        return False
    return present(host, profile) or False


@cache
def _to_build(image: str, variant: str) -> int:
    """Free bytes without which images/builder.py refuses to begin; 0 for an image that has no recipe."""
    try:
        return images.load(image).variant(variant).build_disk
    except QuestionError:
        return 0


def _images(host: Host, profile: Profile) -> Finding:
    """There is room for the image, or for the engine that is made without containers.

    Why: layers and weights land on different file systems, nobody adds them up, and the disk is full in the
        middle. A build needs more than its image.
    Pass: the image is here already, or the profile's figure is free, and what the build asks for.
    Warn: the profile's figure is free, and it is less than making an engine without containers needs.
    Fail: less is free.
    Skip: nobody asks for a size, or it could not be asked.
    Fix: remove what no container uses (docker system prune), or keep engines elsewhere with --home DIR.
    """
    need = profile.requirements.disk.images or 0
    disk = place(host, profile)
    if disk is None:
        return skipped(NO_RUNTIME)
    if not uses_containers(host, profile):
        finding = _free(need, disk, "keep engines elsewhere with --home DIR")
        making = _MAKING.get(profile.engine, 0)
        if finding.outcome in (Outcome.PASS, Outcome.SKIP) and isinstance(disk, Disk) and disk.free < making:
            wanted = f"{format_size(making)} free to make {profile.engine}"
            return warned(
                wanted, f"{format_size(disk.free)} free on {disk.path}", "make room there, or --home DIR"
            )
        return finding
    ready = here(host, profile)
    if ready is True:
        return passed("room for the image", "the image is here already")
    need = max(need, _to_build(profile.image, profile.variant))
    tool = next((name for name in ("docker", "podman") if has(host, name)), None)
    finding = _free(need, disk, f"{tool} system prune" if tool else "remove images that nobody uses")
    if isinstance(ready, Unknown) and finding.outcome is Outcome.FAIL:
        return unknown(finding.wanted, f"{finding.found}, and whether the image is here: {ready.reason}")
    return finding


def stored(host: Host, profile: Profile) -> bool:
    """Whether the profile's model is known to be in the store, whole: it comes there by one rename."""
    if isinstance(host.models, Unknown):
        return False
    return model_id(profile.model, engine(profile.engine).files) in host.models


def _models(host: Host, profile: Profile) -> Finding:
    """There is room for the model.

    Why: a download that fills the disk fails after hours, and takes other programs with it.
    Pass: the profile's figure is free, or the model is in the store already.
    Warn: never.
    Fail: less is free.
    Skip: the profile does not ask for a size, or it could not be asked.
    Fix: make room, or keep models on a larger file system with --home DIR.
    """
    if stored(host, profile):
        return passed("room for the model", "it is in the store")
    return _free(
        profile.requirements.disk.models or 0, host.models_disk, "keep models elsewhere with --home DIR"
    )


def _free(need: int, disk: Fact[Disk], fix: str) -> Finding:
    if not need:
        return skipped(NO_SIZE)
    wanted = f"{format_size(need)} free"
    if isinstance(disk, Unknown):
        return unknown(wanted, disk.reason)
    found = f"{format_size(disk.free)} free on {disk.path}"
    if disk.free >= need:
        return passed(wanted, found)
    return failed(wanted, found, f"make room there, or: {fix}")


def _together(host: Host, profile: Profile) -> Finding:
    """Image and model fit beside each other where both land on one file system.

    Why: each fits alone, and the second one fills the disk.
    Pass: the sum of the profile's figures is free, or they land on two file systems.
    Warn: never.
    Fail: the sum is not free.
    Skip: one of the two does not fit alone, only one is asked for, one of them is here already, or it could not
        be asked.
    Fix: keep models on another file system with --home DIR, or make room.
    """
    need = profile.requirements.disk
    if need.images is None or need.models is None:
        return skipped("the profile does not ask for both sizes")
    ready = here(host, profile)
    if ready is True or stored(host, profile):
        return skipped("one of the two is here already")
    wanted = f"{format_size(need.images + need.models)} free for image and model together"
    one, other = place(host, profile), host.models_disk
    if one is None:
        return skipped(NO_RUNTIME)
    for disk in (one, other):
        if isinstance(disk, Unknown):
            return unknown(wanted, disk.reason)
        if isinstance(disk.volume, Unknown):
            return unknown(wanted, disk.volume.reason)
    assert isinstance(one, Disk) and isinstance(other, Disk)
    if one.volume != other.volume:
        return passed(wanted, "they land on two file systems")
    free = min(one.free, other.free)
    if free < need.images or free < need.models:
        return skipped("decided by another finding")
    found = f"{format_size(free)} free on {other.path}, where both land"
    if free >= need.images + need.models:
        return passed(wanted, found)
    if isinstance(ready, Unknown):
        return unknown(wanted, f"{found}, and whether the image is here: {ready.reason}")
    return failed(wanted, found, "make room there, or keep models on another file system with --home DIR")


def _temporary(host: Host, profile: Profile) -> Finding:
    """The temporary folder has room for what is unpacked there.

    Why: pip unpacks wheels there when an engine is made without containers. Images are built by the engine,
        and models are fetched next to their place: neither goes through it.
    Pass: about 1 GB is free for transformers, 300 MB for llama.cpp, and this user may write there.
    Warn: less is free, or this user may not write there; an engine that was made before needs neither.
    Fail: never.
    Skip: containers are used, or it could not be asked.
    Fix: make room there, or name another folder in TMPDIR.
    """
    if uses_containers(host, profile):
        return skipped("nothing of size goes there when images are used")
    need = _TEMPORARY.get(profile.engine, 0)
    wanted = f"{format_size(need)} free for temporary files"
    disk = host.temporary_disk
    if isinstance(disk, Unknown):
        return unknown(wanted, disk.reason)
    found = f"{format_size(disk.free)} free on {disk.path}"
    if disk.free >= need and disk.writable:
        return passed(wanted, found)
    hint = "name a folder with room: export TMPDIR=DIR"
    return warned(wanted, found if disk.writable else f"this user may not write to {disk.path}", hint)


def _size(host: Host, profile: Profile) -> Finding:
    """The file system of the models is as large as the profile asks for.

    Why: room for one model today is no room for the next generation beside it.
    Pass: it has nine tenths of that size or more.
    Warn: never.
    Fail: it is smaller.
    Skip: the profile does not ask for a size, or it could not be asked.
    Fix: keep models on a larger file system with --home DIR.
    """
    need = profile.requirements.disk.size
    if need is None:
        return skipped(NO_SIZE)
    wanted = f"a file system of {format_size(need)}"
    if isinstance(host.models_disk, Unknown):
        return unknown(wanted, host.models_disk.reason)
    found = f"{format_size(host.models_disk.size)} at {host.models_disk.path}"
    if host.models_disk.size >= 0.9 * need:
        return passed(wanted, found)
    return failed(wanted, found, "keep models on a larger one with --home DIR")


def _inodes(host: Host, profile: Profile) -> Finding:
    """There is room for more files, not only for more bytes.

    Why: a file system that has no inodes left says "no space left on device" with half of its bytes free.
    Pass: 100,000 are free where images land (1,000 for models), or the file system does not count them.
    Warn: fewer are free.
    Fail: fewer than 2,000 (50 for models), less than any image (model) has files.
    Skip: it could not be asked.
    Fix: df -i shows it; remove folders of many small files, or keep models and engines elsewhere with --home.
    """
    asked = [("models", host.models_disk, *_INODES_MODELS)]
    first = place(host, profile)
    if first is not None and here(host, profile) is not True:
        what = "images" if uses_containers(host, profile) else "engines"
        asked.insert(0, (what, first, *_INODES_IMAGES))
    findings = []
    for what, disk, few, none in asked:
        wanted = f"{few:,} free inodes for {what}"
        free = disk if isinstance(disk, Unknown) else disk.free_inodes
        if isinstance(free, Unknown):
            findings.append(unknown(wanted, free.reason))
        elif free is None or free >= few:
            findings.append(passed(wanted, "not counted" if free is None else f"{free:,}"))
        else:
            path = "" if isinstance(disk, Unknown) else disk.path
            hint = f"df -i {path} shows it; remove what has many small files"
            findings.append((failed if free < none else warned)(wanted, f"{free:,} on {path}", hint))
    order = (Outcome.FAIL, Outcome.WARN, Outcome.SKIP, Outcome.PASS)
    worst = min(findings, key=lambda finding: order.index(finding.outcome))
    if worst.outcome is not Outcome.PASS:
        return worst
    return passed("; ".join(f.wanted for f in findings), "; ".join(f.found for f in findings))


def _full(host: Host, profile: Profile) -> Finding:
    """No file system that is needed is nearly full.

    Why: logs, keys and temporary files need room as well, and file systems get slow when they are full.
    Pass: each has 5 % or 50 GB free.
    Warn: one has less of both.
    Fail: never.
    Skip: it could not be asked.
    Fix: make room.
    """
    wanted = "5 % or 50 GB free on every file system"
    disks = (place(host, profile), host.models_disk, host.temporary_disk)
    for disk in disks:
        if isinstance(disk, Disk) and disk.free < min(_FULL * disk.size, _FULL_BYTES):
            found = f"{format_size(disk.free)} of {format_size(disk.size)} free on {disk.path}"
            return warned(wanted, found, f"make room there: du -xh {disk.path} | sort -h | tail")
    for disk in disks:
        if isinstance(disk, Unknown):
            return unknown(wanted, disk.reason)
    return passed(wanted, ", ".join(dict.fromkeys(d.path for d in disks if isinstance(d, Disk))))


CHECKS = (
    Check("disk.images", _images, pains=(28,)),
    Check("disk.models", _models, pains=(28,)),
    Check("disk.together", _together, pains=(28,)),
    Check("disk.temporary", _temporary, pains=(28,), advice=True),
    Check("disk.size", _size),
    Check("disk.inodes", _inodes, pains=(28,), advice=True),
    Check("disk.full", _full, pains=(28,), advice=True),
)
