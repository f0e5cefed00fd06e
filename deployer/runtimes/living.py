"""Processes, as the kernel tells of them: which are a unit's, whether they still live, and how they are confined."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

from deployer.frozen import dataclass

_CONFINEMENT = ("Uid", "CapEff", "NoNewPrivs", "Seccomp")  # lines of /proc/PID/status


@dataclass(frozen=True)
class Member:
    """A process of a unit. `started` in clock ticks since boot: with `pid`, it is no other process ever after."""

    pid: int
    started: int
    name: str

    @property
    def state(self) -> str | None:
        """The kernel's letter, None when it has ended; a zombie has: it holds nothing."""
        words = stat(self.pid)
        if not words or int(words[19]) != self.started or words[0] in "ZX":
            return None
        return words[0]


def member(pid: int) -> Member | None:
    """The process that has this number now."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return Member(pid, int(stat(pid)[19]), name)
    except (OSError, IndexError):
        return None


def family(pids: Collection[int]) -> tuple[Member, ...]:
    """These processes and all that descend from them."""
    parents = {pid: int(words[1]) for pid in _all() if (words := stat(pid))}
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return tuple(one for pid in sorted(found) if (one := member(pid)))


def in_containers(ids: Collection[str]) -> dict[str, tuple[Member, ...]]:
    """The processes in the control groups of containers, by the container's id; none where they are elsewhere."""
    found: dict[str, list[Member]] = {id_: [] for id_ in ids}
    for pid in _all():
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        for id_ in ids:
            if id_ in groups and (one := member(pid)):
                found[id_].append(one)
    return {id_: tuple(members) for id_, members in found.items()}


def confinement(pid: int) -> dict[str, str]:
    """What the kernel keeps the process to: user, capabilities in force, whether it can gain any, system calls."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    told = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {key: told[key][0] for key in _CONFINEMENT if told.get(key)}


def end(one: Member) -> bool:
    """Kills exactly this process; False when this user may not."""
    if one.state is not None:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            return False
    return True


def _all() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def stat(pid: int) -> list[str]:
    """The words of /proc/PID/stat after the name: state, parent …; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
