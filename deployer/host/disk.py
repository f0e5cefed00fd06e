"""The file systems on which images, engines and models land."""

from __future__ import annotations

import os
from pathlib import Path

from deployer.frozen import dataclass
from deployer.host.base import NOT_ASKED, Fact, Questions


@dataclass(frozen=True)
class Disk:
    """Bytes. `rotating` is None where the kernel does not know (network, memory, virtual disks).

    `inodes` and `free_inodes` are None on file systems that do not count them. `volume` tells file systems
    apart: two folders with the same one share their space. `owner` is the numeric user that `path` belongs to.
    """

    path: str
    filesystem: str
    size: int
    free: int
    rotating: bool | None
    writable: bool
    inodes: Fact[int | None] = NOT_ASKED
    free_inodes: Fact[int | None] = NOT_ASKED
    volume: Fact[str] = NOT_ASKED
    owner: Fact[int] = NOT_ASKED
    read_only: Fact[bool] = NOT_ASKED


def disk(path: Path, ask: Questions) -> Disk:
    """Facts of the file system that holds `path`, or will: of its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    about = path.stat()
    device = about.st_dev
    return Disk(
        path=str(path),
        filesystem=_filesystem(path, ask),
        size=stat.f_blocks * stat.f_frsize,
        free=stat.f_bavail * stat.f_frsize,
        rotating=_rotating(os.major(device), os.minor(device), ask),
        writable=os.access(path, os.W_OK),
        inodes=stat.f_files or None,
        free_inodes=stat.f_favail if stat.f_files else None,
        volume=f"{os.major(device)}:{os.minor(device)}",
        owner=about.st_uid,
        read_only=bool(stat.f_flag & os.ST_RDONLY),
    )


def entries(folder: Path) -> tuple[str, ...]:
    """Names in a folder, sorted, without hidden ones; none where there is no such folder. Raises OSError."""
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    except FileNotFoundError:
        return ()


def _filesystem(path: Path, ask: Questions) -> str:
    best, kind = -1, "unknown"
    resolved = str(path.resolve())
    for line in (ask.proc / "self/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:  # of two on one place, the later one hides the other
            best, kind = len(mount), name
    return kind


def _rotating(major: int, minor: int, ask: Questions) -> bool | None:
    block = ask.sys / f"dev/block/{major}:{minor}"
    if "virtio" in str(block.resolve()):
        return None  # a virtual disk says 1 whatever is under it
    for candidate in (block / "queue/rotational", block / "../queue/rotational"):
        try:
            return candidate.read_text().strip() == "1"
        except OSError:
            continue
    return None
