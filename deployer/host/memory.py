"""System memory: how much there is, how much is free, how fast it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from deployer.frozen import dataclass
from deployer.host.base import NOT_ASKED, Fact, Questions

_READ = 64 << 20  # bytes that are read to measure the bandwidth: more than a core keeps


@dataclass(frozen=True)
class Memory:
    """Bytes. `available` is what a new program can get without swapping; `limit` is this control group's.

    `machine` is the whole machine's memory whatever the limit, `shared` the size of /dev/shm, `overcommit` the
    kernel's mode (0 heuristic, 1 always, 2 strict), `maps` how many regions one process may map.
    """

    total: int
    available: int
    machine: Fact[int] = NOT_ASKED
    limit: Fact[int | None] = NOT_ASKED
    swap: Fact[int] = NOT_ASKED
    free_swap: Fact[int] = NOT_ASKED
    shared: Fact[int | None] = NOT_ASKED
    overcommit: Fact[int | None] = NOT_ASKED
    maps: Fact[int | None] = NOT_ASKED


def memory(ask: Questions) -> Memory:
    """From /proc/meminfo, bounded by this control group's limit if it has one."""
    found = {}
    for line in (ask.proc / "meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found[key] = int(value.split()[0]) * 1024
    total, available = found["MemTotal"], found["MemAvailable"]
    least: int | None = None
    for limit, used in _groups(ask):
        if limit < found["MemTotal"]:
            least = limit if least is None else min(least, limit)
            total, available = min(total, limit), max(0, min(available, limit - used))
    return Memory(
        total=total,
        available=available,
        machine=found["MemTotal"],
        limit=least,
        swap=found.get("SwapTotal", 0),
        free_swap=found.get("SwapFree", 0),
        shared=_shared(ask),
        overcommit=_number(ask.proc / "sys/vm/overcommit_memory"),
        maps=_number(ask.proc / "sys/vm/max_map_count"),
    )


def _groups(ask: Questions) -> Iterator[tuple[int, int]]:
    """Limit and use of every control group around this process; page cache that can go is not use."""
    paths = {""}
    try:
        for line in (ask.proc / "self/cgroup").read_text().splitlines():
            controllers, path = line.split(":", 2)[1:]
            if controllers == "" or "memory" in controllers.split(","):
                parts = [part for part in path.split("/") if part not in ("", "..")]
                paths |= {"/".join(parts[:n]) for n in range(len(parts) + 1)}
    except (OSError, ValueError):
        pass
    for folder, limit, used, cache in (
        (ask.sys / "fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            ask.sys / "fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        for path in sorted(paths):
            size = _number(folder / path / limit)  # None: no such control group, or "max"
            if size is None:
                continue
            try:
                stat = dict(line.split() for line in (folder / path / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                stat = {}
            yield size, max(0, (_number(folder / path / used) or 0) - int(stat.get(cache, 0)))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _shared(ask: Questions) -> int | None:
    try:
        stat = os.statvfs(ask.dev / "shm")
    except OSError:
        return None
    return stat.f_blocks * stat.f_frsize


def bandwidth(threads: int = 1) -> float:
    """Bytes per second of a core's own time that each of so many cores reads while all do; median of three, 50 ms.

    What other programs take of the cores does not count. The C library looks for a byte that is not there: a plain
    read at full speed, without Python's lock.
    """
    import ctypes
    import statistics
    from concurrent.futures import ThreadPoolExecutor

    size = _READ // threads
    library = ctypes.CDLL(None)
    library.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    library.memchr.restype = ctypes.c_void_p

    def read(_: int) -> list[float]:
        block = (ctypes.c_char * size).from_buffer(bytearray(b"\1") * size)
        found = []
        for _ in range(3):
            start = time.thread_time()
            library.memchr(ctypes.addressof(block), 0, size)
            found.append(size / max(time.thread_time() - start, 1e-6))
        return found

    with ThreadPoolExecutor(threads) as pool:
        return statistics.median(rate for rates in pool.map(read, range(threads)) for rate in rates)
