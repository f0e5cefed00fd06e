"""The files of an image: one walk, which leaves out what is mounted, and paths as the image's root sees them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LINKS = 40  # as the kernel has it
KERNEL = {"/proc", "/sys", "/dev", "/.dockerenv"}


class Node(NamedTuple):
    """A file, folder or other thing; sizes in bytes, `target` of symbolic links only."""

    mode: int
    uid: int
    gid: int
    size: int
    inode: tuple[int, int]
    target: str | None


class Tree:
    """All nodes below a root, by their path in the image, in order; `unreadable` are folders that were shut."""

    def __init__(self, root: Path, skip: Iterable[str] = ()) -> None:
        self.root = root.resolve()
        self.prefix = "" if str(self.root) == "/" else str(self.root)
        self.nodes: dict[str, Node] = {}
        self.unreadable: list[str] = []
        leave = {*mounts(), *(str(Path(path).resolve()) for path in skip)}
        leave |= {self.prefix + path for path in KERNEL}
        self._walk("", leave - {str(self.root)})
        self.nodes = dict(sorted(self.nodes.items()))

    def _walk(self, folder: str, leave: set[str]) -> None:
        try:
            with os.scandir(f"{self.prefix}{folder}/") as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except PermissionError:
            self.unreadable.append(folder or "/")
            return
        for name, facts in found:
            path = f"{folder}/{name}"
            if self.prefix + path in leave:
                continue
            target = str(self.at(path).readlink()) if stat.S_ISLNK(facts.st_mode) else None
            inode = (facts.st_dev, facts.st_ino)
            self.nodes[path] = Node(facts.st_mode, facts.st_uid, facts.st_gid, facts.st_size, inode, target)
            if stat.S_ISDIR(facts.st_mode):
                self._walk(path, leave)

    def at(self, path: str) -> Path:
        """Where this process finds a path of the image."""
        return Path(self.prefix + path)

    def real(self, path: str) -> str:
        """The path without links and dots. It need not exist."""
        done, rest, links = "", path.split("/")[::-1], 0
        while rest:
            part = rest.pop()
            if part == "..":
                done = done.rpartition("/")[0]
            elif part not in ("", "."):
                node = self.nodes.get(f"{done}/{part}")
                if node and node.target is not None and links < LINKS:
                    links += 1
                    done = "" if node.target.startswith("/") else done
                    rest += node.target.split("/")[::-1]
                else:
                    done = f"{done}/{part}"
        return done or "/"

    def file(self, path: str) -> Node | None:
        """The regular file that a path leads to."""
        node = self.nodes.get(self.real(path))
        return node if node and stat.S_ISREG(node.mode) else None

    def text(self, path: str) -> str:
        """A text of the image; empty when it is not there or not ours to read."""
        if not self.file(path):
            return ""
        try:
            return self.at(self.real(path)).read_text("utf-8", "replace")
        except PermissionError:
            return ""


def mounts() -> set[str]:
    """What is mounted where this process runs, files too; a build mounts caches, secrets and /etc/hosts."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[4].replace("\\040", " ") for line in lines}
