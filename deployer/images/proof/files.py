"""Who may change what in an image, which programs gain rights, and where its bytes are."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence

from .packages import SITES
from .tree import Node, Tree

LARGE = 32 << 20  # bytes; such a file is named itself
DEPTH = 3  # folders of a path that are told apart, outside of Python packages
SHARED = re.compile(r"cu\d+$")  # nvidia/cu13 holds the libraries of ten distributions
SHOWN = 10
CAPABILITY = "security.capability"


def groups_of(tree: Tree, uid: int) -> set[int]:
    """The groups that the image's own lists give to a user; one that they do not know has the group of its number."""
    users = [line.split(":") for line in tree.text("/etc/passwd").splitlines()]
    found = {int(user[3]) for user in users if len(user) > 3 and user[2] == str(uid)} or {uid}
    names = {user[0] for user in users if len(user) > 3 and user[2] == str(uid)}
    for line in tree.text("/etc/group").splitlines():
        words = line.split(":")
        if len(words) > 3 and names & set(words[3].split(",")):
            found.add(int(words[2]))
    return found


def may_write(node: Node, uid: int, groups: set[int]) -> bool:
    """As the mode says; an owner may also change the mode."""
    if node.uid == uid:
        return True
    return bool(node.mode & (stat.S_IWGRP if node.gid in groups else stat.S_IWOTH))


def rights(tree: Tree, uid: int | None) -> dict[str, list[str]]:
    """Of things below a folder that is named already, none is named. `uid` 0 or None: nothing is asked for a user."""
    found: dict[str, list[str]] = {
        name: [] for name in ("setuid", "capabilities", "world_writable", "writable", "unreadable")
    }
    groups = groups_of(tree, uid) if uid else set()
    named: set[str] = set()
    for path, node in tree.nodes.items():
        if node.target is not None:
            continue
        folder, mode = stat.S_ISDIR(node.mode), node.mode
        if not folder and mode & (stat.S_ISUID | stat.S_ISGID):
            found["setuid"].append(path)
        if stat.S_ISREG(mode) and mode & 0o111 and capable(tree, path):
            found["capabilities"].append(path)
        if mode & stat.S_IWOTH and not (folder and mode & stat.S_ISVTX):
            found["world_writable"].append(path)
        if uid and may_write(node, uid, groups):
            if path.rpartition("/")[0] not in named:
                found["writable"].append(path)
            if folder:
                named.add(path)
    found["unreadable"] = sorted(tree.unreadable)
    return found


def capable(tree: Tree, path: str) -> bool:
    try:
        return bool(os.getxattr(tree.at(path), CAPABILITY))
    except OSError:
        return False


def place(path: str, size: int) -> str:
    """The package, folder or large file that a file's bytes are counted for; it depends on nothing else."""
    parts = path.split("/")
    for index, part in enumerate(parts[:-1]):
        if part in SITES:
            depth = index + (3 if parts[index + 1] == "nvidia" else 2)
            if size < LARGE or not SHARED.match(parts[min(depth, len(parts)) - 1]):
                return "/".join(parts[:depth])
    return path if size >= LARGE else "/".join(parts[: min(DEPTH + 1, len(parts) - 1)]) or "/"


def sizes(tree: Tree, parents: Sequence[dict[str, int]] = ()) -> dict[str, object]:
    """Bytes of all files, each inode once; `largest` and `new_bytes` count what is in no parent's `places`."""
    total: Counter[str] = Counter()
    seen = set()
    for path, node in tree.nodes.items():
        if stat.S_ISREG(node.mode) and node.inode not in seen:
            seen.add(node.inode)
            total[place(path, node.size)] += node.size
    new = {name: size - max((one.get(name, 0) for one in parents), default=0) for name, size in total.items()}
    new = {name: size for name, size in new.items() if size > 0}
    largest = sorted(new.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return {
        "bytes": sum(total.values()),
        "new_bytes": sum(new.values()),
        "files": len(seen),
        "largest": [{"path": name, "bytes": size} for name, size in largest],
        "places": {name: total[name] for name in sorted(total)},
    }
