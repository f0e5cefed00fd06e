"""What the file systems are, and who may write there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Disk, Host
from deployer.profile import Profile
from tests import hosts
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, PROCESS, RTX, check, system


def disk(path: str = "/srv", **changes: Any) -> Disk:
    return replace(hosts.DISK, path=path, **changes)


def models(host: Host = NO_GPU, path: str = "/srv/models", **changes: Any) -> Host:
    return replace(host, models_disk=disk(path, **changes))


def engines(path: str = "/srv/engines", **changes: Any) -> Host:
    return replace(PROCESS, engines_disk=disk(path, **changes))


def image(**changes: Any) -> Host:
    return replace(NO_GPU, images_disk=disk("/var/lib/docker", **changes))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "/srv is on an SSD", None),
        (
            models(RTX, rotating=True), GPU, "fail", "/srv/models is on a rotating disk",
            "keep models on an SSD with --home DIR",
        ),
        (models(RTX, rotating=None), GPU, "warn", "nobody can say from here what is under ext4", None),
        (models(rotating=True), CPU, "skip", "any disk", None),
        (replace(RTX, models_disk=LOST), GPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_kind(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.kind", host, wanted, outcome, found, hint)


ELSEWHERE = "choose another place with --home DIR"
SHUT = {"writable": False, "owner": 0}


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "/srv", None),
        (
            models(**SHUT), "fail", "this user may not write to /srv/models; it belongs to user 0",
            f"sudo chown -R 1000 /srv/models, or {ELSEWHERE}",
        ),
        (
            system(models(path="/opt/deployer", **SHUT), tools=()), "fail", "/opt/deployer",
            f"as root: chown -R 1000 /opt/deployer, or {ELSEWHERE}",
        ),
        # never what is not deployer's own
        (models(path="/opt", **SHUT), "fail", "/opt", ELSEWHERE),
        (models(path="/", **SHUT), "fail", "may not write to /", ELSEWHERE),
        (system(models(**SHUT), user=0), "fail", "/srv/models", ELSEWHERE),
        (replace(models(**SHUT), system=LOST), "fail", "/srv/models", ELSEWHERE),
        (models(writable=False, owner=LOST), "fail", "this user may not write to /srv/models",
         f"sudo chown -R 1000 /srv/models, or {ELSEWHERE}"),
        (models(writable=False, read_only=True), "fail", "mounted read-only", ELSEWHERE),
        (replace(NO_GPU, models_disk=LOST), "unknown", "lost", None),
    ],
)  # fmt: skip
def test_writable(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("disk.writable", host, CPU, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (engines(), "pass", "/srv/engines", None),
        (
            engines(**SHUT), "fail", "may not write to /srv/engines",
            f"sudo chown -R 1000 /srv/engines, or {ELSEWHERE}",
        ),
        (engines(path="/srv/models", **SHUT), "fail", "/srv/models", ELSEWHERE),
        (engines(read_only=True), "fail", "mounted read-only", ELSEWHERE),
        (replace(PROCESS, engines_disk=LOST), "unknown", "lost", None),
        (replace(NO_GPU, engines_disk=disk(writable=False)), "skip", "as images", None),
    ],
)  # fmt: skip
def test_engines(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("disk.engines", host, CPU, outcome, found, hint)


LOCAL = "keep models and engines on a local disk with --home DIR"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (models(), CPU, "pass", "/srv/models is ext4, /srv is ext4", None),
        (models(filesystem="nfs4"), CPU, "warn", "/srv/models is nfs4", LOCAL),
        (models(filesystem="fuse.sshfs"), CPU, "warn", "fuse.sshfs", LOCAL),
        (models(filesystem="9p"), CPU, "warn", "9p", LOCAL),
        (models(filesystem="fuseblk"), CPU, "pass", "fuseblk", None),
        (engines(filesystem="cifs"), CPU, "warn", "/srv/engines is cifs", LOCAL),
        (
            image(filesystem="nfs4"), CPU, "fail", "/var/lib/docker is nfs4, and overlay2 cannot write there",
            'put {"data-root": "/a/local/folder"} into /etc/docker/daemon.json and restart the engine',
        ),
        (
            replace(image(filesystem="nfs"), runtime=replace(hosts.DOCKER, storage_driver="vfs")), CPU,
            "warn", "/var/lib/docker is nfs", "move the engine's data-root to a local disk",
        ),
        (
            image(filesystem="ceph"), CPU, "warn", "/var/lib/docker is ceph",
            "move the engine's data-root to a local disk",
        ),
        (hosts.without_runtime(RTX), GPU, "pass", "/srv is ext4", None),
        (replace(NO_GPU, models_disk=LOST), CPU, "unknown", "lost", None),
        (replace(NO_GPU, images_disk=LOST), CPU, "unknown", "lost", None),
        (replace(models(filesystem="nfs"), images_disk=LOST), CPU, "warn", "nfs", LOCAL),
    ],
)  # fmt: skip
def test_network(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.network", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "/srv is ext4", None),
        (
            models(filesystem="tmpfs"), "warn", "/srv/models is a tmpfs",
            "keep models and engines on a disk with --home DIR",
        ),
        (image(filesystem="ramfs"), "warn", "is a ramfs", "move the engine's data-root to a disk"),
        (engines(filesystem="tmpfs"), "warn", "/srv/engines", "keep models and engines on a disk with --home DIR"),
        (replace(NO_GPU, models_disk=LOST), "unknown", "lost", None),
        (replace(NO_GPU, images_disk=LOST), "unknown", "lost", None),
    ],
)  # fmt: skip
def test_memory_backed(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("disk.memory_backed", host, CPU, outcome, found, hint)
