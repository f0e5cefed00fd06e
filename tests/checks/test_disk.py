"""Room for images, engines and models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer import images
from deployer.host import Disk, Host, Unknown
from deployer.profile import DiskNeed, Profile
from deployer.quantity import format_size
from tests import hosts
from tests.checks.rows import CPU, GPT2, GPU, LOST, NO_GPU, PROCESS, RTX, check, system

GB = hosts.GB
HERE = {"llamacpp:cpu": True, "transformers:cpu": False}
UNSURE: dict[str, bool | Unknown] = {"llamacpp:cpu": LOST, "transformers:cpu": True}
# What a build wants, whatever the profile asks for.
SMALL, LARGE = (images.load(p.image).variant(p.variant).build_disk for p in (CPU, GPU))
ROOT, STORE, OWN, TMP = "/var/lib/docker", "/srv/models", "/srv/engines", "/tmp"


def disk(path: str = "/srv", **changes: Any) -> Disk:
    return replace(hosts.DISK, path=path, **changes)


def images_disk(host: Host = NO_GPU, **changes: Any) -> Host:
    return replace(host, images_disk=disk(ROOT, **changes))


def engines_disk(**changes: Any) -> Host:
    return replace(PROCESS, engines_disk=disk(OWN, **changes))


def models_disk(host: Host = NO_GPU, **changes: Any) -> Host:
    return replace(host, models_disk=disk(STORE, **changes))


def asking(wanted: Profile, **changes: Any) -> Profile:
    return replace(wanted, requirements=replace(wanted.requirements, disk=DiskNeed(**changes)))


NOTHING = asking(CPU)
FOREIGN = replace(NOTHING, image="of-somebody-else")
PRUNE = "make room there, or: docker system prune"
HOME = "make room there, or: keep engines elsewhere with --home DIR"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (images_disk(free=SMALL), CPU, "pass", f"{format_size(SMALL)} free on /var/lib/docker", None),
        (images_disk(free=SMALL - 1), CPU, "fail", "GB free on /var/lib/docker", PRUNE),
        (images_disk(RTX, free=LARGE), GPU, "pass", f"{format_size(LARGE)} free", None),
        (images_disk(RTX, free=LARGE - 1), GPU, "fail", "GB free", PRUNE),
        (images_disk(free=SMALL), asking(CPU, images=SMALL + 1), "fail", f"{format_size(SMALL)} free", PRUNE),
        (images_disk(free=SMALL + 1), asking(CPU, images=SMALL + 1), "pass", "GB free", None),
        (images_disk(free=1), NOTHING, "fail", "1 B free", PRUNE),
        (images_disk(free=1), FOREIGN, "skip", "does not ask for a size", None),
        (
            system(images_disk(free=1), tools=("podman",)), CPU, "fail", "1 B free",
            "make room there, or: podman system prune",
        ),
        (
            system(images_disk(free=1), tools=()), CPU, "fail", "1 B free",
            "make room there, or: remove images that nobody uses",
        ),
        (replace(images_disk(free=1), images=HERE), CPU, "pass", "is here already", None),
        (replace(images_disk(free=1), images=UNSURE), CPU, "unknown", "whether the image is here: lost", None),
        (replace(images_disk(), images=UNSURE), CPU, "pass", "1 TB free", None),
        (replace(NO_GPU, images_disk=LOST), CPU, "unknown", "lost", None),
        (hosts.without_runtime(RTX), GPU, "skip", "no container runtime", None),
        # without containers
        (engines_disk(free=1_500_000_000), CPU, "pass", "1.5 GB free on /srv/engines", None),
        (
            engines_disk(free=1_400_000_000), CPU, "warn", "1.4 GB free on /srv/engines",
            "make room there, or --home DIR",
        ),
        (engines_disk(free=999_000_000), CPU, "fail", "999 MB free on /srv/engines", HOME),
        (engines_disk(free=3 * GB), GPT2, "warn", "3 GB free", "make room there, or --home DIR"),
        (engines_disk(free=4 * GB), GPT2, "pass", "4 GB free", None),
        (engines_disk(free=4 * GB), NOTHING, "skip", "does not ask for a size", None),
        (engines_disk(free=1), NOTHING, "warn", "1 B free", "make room there, or --home DIR"),
        (replace(PROCESS, engines_disk=LOST), CPU, "unknown", "lost", None),
        (replace(engines_disk(free=1), images=HERE), CPU, "fail", "1 B free", HOME),
    ],
)  # fmt: skip
def test_images(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.images", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (models_disk(free=300_000_000), CPU, "pass", "300 MB free on /srv/models", None),
        (
            models_disk(free=299_000_000), CPU, "fail", "299 MB free on /srv/models",
            "make room there, or: keep models elsewhere with --home DIR",
        ),
        (replace(NO_GPU, models_disk=LOST), CPU, "unknown", "lost", None),
        (models_disk(free=0), NOTHING, "skip", "does not ask for a size", None),
    ],
)  # fmt: skip
def test_models(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.models", host, wanted, outcome, found, hint)


BOTH = asking(CPU, images=10 * GB, models=20 * GB)


def shared(free: int, **changes: Any) -> Host:
    return models_disk(images_disk(free=free), free=free, **changes)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (shared(30 * GB), BOTH, "pass", "30 GB free on /srv/models, where both land", None),
        (
            shared(29 * GB), BOTH, "fail", "29 GB free on /srv/models, where both land",
            "make room there, or keep models on another file system with --home DIR",
        ),
        (
            shared(20 * GB), BOTH, "fail", "20 GB free on /srv/models, where both land",
            "make room there, or keep models on another file system with --home DIR",
        ),
        (shared(29 * GB, volume="8:1"), BOTH, "pass", "two file systems", None),
        (shared(19 * GB), BOTH, "skip", "another finding", None),
        (replace(shared(29 * GB), images=HERE), BOTH, "skip", "is here already", None),
        (replace(shared(29 * GB), images=UNSURE), BOTH, "unknown", "whether the image is here: lost", None),
        (shared(29 * GB), asking(CPU, models=20 * GB), "skip", "both sizes", None),
        (shared(29 * GB, volume=LOST), BOTH, "unknown", "lost", None),
        (replace(shared(29 * GB), images_disk=LOST), BOTH, "unknown", "lost", None),
        (replace(shared(29 * GB), models_disk=LOST), BOTH, "unknown", "lost", None),
        (hosts.without_runtime(RTX), GPU, "skip", "no container runtime", None),
        (
            models_disk(engines_disk(free=29 * GB), free=29 * GB), BOTH, "fail", "29 GB free",
            "make room there, or keep models on another file system with --home DIR",
        ),
    ],
)  # fmt: skip
def test_together(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.together", host, wanted, outcome, found, hint)


def temporary(**changes: Any) -> Host:
    return replace(PROCESS, temporary_disk=disk(TMP, **changes))


ELSEWHERE = "name a folder with room: export TMPDIR=DIR"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (temporary(free=300_000_000), CPU, "pass", "300 MB free on /tmp", None),
        (temporary(free=299_000_000), CPU, "warn", "299 MB free on /tmp", ELSEWHERE),
        (temporary(free=300_000_000), GPT2, "warn", "300 MB free on /tmp", ELSEWHERE),
        (temporary(writable=False), CPU, "warn", "may not write to /tmp", ELSEWHERE),
        (replace(PROCESS, temporary_disk=LOST), CPU, "unknown", "lost", None),
        (replace(NO_GPU, temporary_disk=disk(TMP, free=0)), CPU, "skip", "images are used", None),
    ],
)
def test_temporary(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.temporary", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (models_disk(RTX, size=90 * GB), GPU, "pass", "90 GB at /srv/models", None),
        (
            models_disk(RTX, size=89 * GB), GPU, "fail", "89 GB at /srv/models",
            "keep models on a larger one with --home DIR",
        ),
        (replace(RTX, models_disk=LOST), GPU, "unknown", "lost", None),
        (models_disk(size=1), CPU, "skip", "does not ask for a size", None),
    ],
)  # fmt: skip
def test_size(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.size", host, wanted, outcome, found, hint)


def shows(path: str) -> str:
    return f"df -i {path} shows it; remove what has many small files"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "110,000,000; 110,000,000", None),
        (images_disk(free_inodes=100_000), CPU, "pass", "100,000;", None),
        (images_disk(free_inodes=99_999), CPU, "warn", "99,999 on /var/lib/docker", shows(ROOT)),
        (images_disk(free_inodes=2_000), CPU, "warn", "2,000 on /var/lib/docker", shows(ROOT)),
        (images_disk(free_inodes=1_999), CPU, "fail", "1,999 on /var/lib/docker", shows(ROOT)),
        (replace(images_disk(free_inodes=0), images=HERE), CPU, "pass", "110,000,000", None),
        (engines_disk(free_inodes=99_999), CPU, "warn", "99,999 on /srv/engines", shows(OWN)),
        (models_disk(free_inodes=999), CPU, "warn", "999 on /srv/models", shows(STORE)),
        (models_disk(free_inodes=49), CPU, "fail", "49 on /srv/models", shows(STORE)),
        # the worst is told
        (models_disk(images_disk(free_inodes=99_999), free_inodes=49), CPU, "fail", "49 on", shows(STORE)),
        (models_disk(images_disk(free_inodes=LOST), free_inodes=999), CPU, "warn", "999 on", shows(STORE)),
        (images_disk(inodes=None, free_inodes=None), CPU, "pass", "not counted; 110,000,000", None),
        (hosts.without_runtime(RTX), GPU, "pass", "110,000,000", None),
        (images_disk(free_inodes=LOST), CPU, "unknown", "lost", None),
        (replace(NO_GPU, models_disk=LOST), CPU, "unknown", "lost", None),
    ],
)
def test_inodes(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.inodes", host, wanted, outcome, found, hint)


def room(path: str) -> str:
    return f"make room there: du -xh {path} | sort -h | tail"


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "/srv", None),
        (images_disk(size=100 * GB, free=5 * GB), "pass", "/var/lib/docker, /srv", None),
        (
            images_disk(size=100 * GB, free=4 * GB),
            "warn",
            "4 GB of 100 GB free on /var/lib/docker",
            room(ROOT),
        ),
        (models_disk(size=100_000 * GB, free=51 * GB), "pass", "/srv/models", None),
        (models_disk(size=100_000 * GB, free=49 * GB), "warn", "49 GB of 100 TB", room(STORE)),
        (replace(NO_GPU, temporary_disk=disk(TMP, size=GB, free=1)), "warn", "1 B of 1 GB", room(TMP)),
        (replace(NO_GPU, temporary_disk=LOST), "unknown", "lost", None),
        (replace(models_disk(size=GB, free=1), temporary_disk=LOST), "warn", "1 B of 1 GB", room(STORE)),
    ],
)
def test_full(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("disk.full", host, CPU, outcome, found, hint)
