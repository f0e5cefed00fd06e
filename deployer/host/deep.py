"""What can only be known by trying: copies on the GPUs, bytes to the disks and back, a container with a GPU."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.frozen import dataclass
from deployer.host.base import NOT_ASKED, Fact, Unknown

if TYPE_CHECKING:
    import subprocess

PROGRAM = Path(__file__).with_name("inside.py")
GPUS_S = 120.0  # for all GPUs and pairs
STALL_S = 20.0  # without a new answer
_CHUNK = 4 << 20


@dataclass(frozen=True)
class Way:
    """One way for a GPU into a container, tried: `cdi`, `runtime` or `hook`; counts of GPUs seen inside."""

    name: str
    nvml: Fact[int]
    cuda: Fact[int]
    cuda_version: Fact[str] = NOT_ASKED


@dataclass(frozen=True)
class DiskRate:
    """Bytes per second of a file of `size` bytes: written and flushed, and read back past the cache."""

    path: str
    size: int
    write: Fact[float]
    read: Fact[float]


@dataclass(frozen=True)
class GpuRate:
    """Bytes per second; `memory` counts what a copy reads and writes. `matrix` is bfloat16 operations per second."""

    uuid: str
    memory: Fact[float]
    to_gpu: Fact[float]
    from_gpu: Fact[float]
    matrix: Fact[float | None] = NOT_ASKED


@dataclass(frozen=True)
class Peer:
    """A copy from one GPU straight to another, by UUID. `rate` None: the driver allows none between them."""

    one: str
    other: str
    rate: Fact[float | None]


@dataclass(frozen=True)
class Deep:
    """All of it; Unknown says why something could not be tried."""

    ways: Fact[tuple[Way, ...]]
    disks: Mapping[str, Fact[DiskRate]] = field(default_factory=dict)
    gpus: Fact[tuple[GpuRate, ...]] = NOT_ASKED
    peers: Fact[tuple[Peer, ...]] = NOT_ASKED


def disk_rate(folder: Path, size: int = 256 << 20, limit: float = 20.0) -> Fact[DiskRate]:
    """Writes a file of `size` bytes to the nearest folder that there is, reads it back and removes it.

    The bytes are random, so that nothing compresses them. Stops after `limit` seconds each way and counts what
    was done by then.
    """
    while not folder.exists():
        folder = folder.parent
    stat = os.statvfs(folder)
    if stat.f_bavail * stat.f_frsize < 4 * size:
        return Unknown(f"there is no room for a file of {size >> 20} MiB in {folder}")
    path = folder / f".deployer-speed-{os.getpid()}"
    block = os.urandom(_CHUNK)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return Unknown(f"{folder}: {error.strerror}")
    try:
        path.unlink()  # gone even after a kill
        start = time.perf_counter()
        done = 0
        while done < size and time.perf_counter() - start < limit:
            done += os.write(handle, block)
        os.fsync(handle)
        write = done / (time.perf_counter() - start)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(handle, 0, os.SEEK_SET)
        start = time.perf_counter()
        seen = 0
        while (part := os.read(handle, _CHUNK)) and time.perf_counter() - start < limit:
            seen += len(part)
        return DiskRate(str(folder), done, write, seen / (time.perf_counter() - start))
    except OSError as error:
        return Unknown(f"{folder}: {error.strerror}")
    finally:
        os.close(handle)


def gpu_rates() -> tuple[Fact[tuple[GpuRate, ...]], Fact[tuple[Peer, ...]]]:
    """Measures every GPU and every pair in a process of its own, which is ended when it says nothing more."""
    lines, ended = answers([sys.executable, str(PROGRAM), "measure"], GPUS_S, STALL_S)
    return read_rates(lines, ended)


def read_rates(
    lines: list[dict[str, Any]], ended: str | None
) -> tuple[Fact[tuple[GpuRate, ...]], Fact[tuple[Peer, ...]]]:
    """The answers of `inside.py measure`; `ended` says why there are no more, None when it came to its end."""
    problem = next((line["error"] for line in lines if "error" in line), None) or ended
    gpus = []
    for line in lines:
        if facts := line.get("gpu"):
            missing = Unknown(facts.get("error") or "not measured")
            gpus.append(
                GpuRate(facts["uuid"], *(facts.get(k, missing) for k in ("memory", "to_gpu", "from_gpu")))
            )
    pairs: dict[tuple[str, str], Fact[float | None]] = {}
    for line in lines:
        if facts := line.get("peer"):
            pair = (facts["from"], facts["to"])
            if "began" in facts:
                pairs[pair] = Unknown(f"a copy between them does not end ({problem})")
            elif not facts.get("allowed"):
                pairs[pair] = None
            else:
                pairs[pair] = facts.get("rate", Unknown(str(facts.get("error"))))
    peers = tuple(Peer(one, other, rate) for (one, other), rate in pairs.items())
    if problem and not gpus:
        return Unknown(problem), Unknown(problem)
    return tuple(gpus), Unknown(problem) if problem and not peers else peers


def answers(command: list[str], limit: float, stall: float) -> tuple[list[dict[str, Any]], str | None]:
    """The JSON lines that a program prints, and why there are no more; None when it came to a good end."""
    import queue
    import subprocess

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + limit
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return found, f"no end in {limit:g} s"
            try:
                line = lines.get(timeout=min(stall, left))
            except queue.Empty:
                if stall <= left:
                    return found, f"no answer in {stall:g} s"
                continue
            if line is None:
                return found, _end(process)
            found += parse(line)
    finally:
        process.kill()  # one in the driver's hands may live on; nobody waits for it


def _end(process: subprocess.Popen[str]) -> str | None:
    """How a program that closed its output ended; None: well."""
    import subprocess

    try:
        code = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return "it closed its output and does not end"
    return None if code == 0 else f"it ended with code {code}"


def parse(text: str) -> list[dict[str, Any]]:
    """The JSON objects in `text`, one a line; other lines are a container's own banner."""
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
