"""System memory: how much there is, how much is free, how fast it is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from deployer.host.base import Questions


@dataclass(frozen=True)
class Memory:
    """Bytes. `available` is what a new program can get without swapping."""

    total: int
    available: int


def memory(ask: Questions) -> Memory:
    """From /proc/meminfo, bounded by this control group's limit if it has one."""
    found = {}
    for line in (ask.proc / "meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found[key] = int(value.split()[0]) * 1024
    total, available = found["MemTotal"], found["MemAvailable"]
    for path in ("fs/cgroup/memory.max", "fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int((ask.sys / path).read_text())
        except (OSError, ValueError):
            continue  # no such control group, or "max"
        total, available = min(total, limit), min(available, limit)
    return Memory(total, available)


def bandwidth(size: int = 16 << 20) -> float:
    """Bytes per second that one core moves when it copies `size` bytes; best of three, about 15 ms.

    A copy reads and writes, so twice `size` is counted. This is a floor of what an engine with several
    threads can read, which is what a lower bound on its speed needs.
    """
    source = bytearray(size)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        bytes(memoryview(source))
        best = max(best, 2 * size / (time.perf_counter() - start))
    return best
