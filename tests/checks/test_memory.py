"""System memory, its bounds and the kernel's settings for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Host
from deployer.profile import ModelChoice, Profile
from tests import hosts
from tests.checks.rows import (
    CPU,
    GPU,
    LOST,
    NO_GPU,
    PROCESS,
    RTX,
    TWO,
    TWO_PROCESSES,
    check,
    memory,
    system,
)

GB, MIB = hosts.GB, hosts.MIB
NO_MEMORY = replace(NO_GPU, memory=LOST)
NEED = 98_362_432 + 300 * MIB  # the weights of cpu-small, and llama-server
END_OTHERS = "end other programs: ps aux --sort=-rss | head"
SMALLER = "choose a smaller profile: deployer profiles list"
UNKNOWN = ModelChoice("hf://somebody/something")  # of no known size
ANY_SIZE = replace(CPU, requirements=replace(CPU.requirements, memory=None))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (memory(total=900_000_000), CPU, "pass", "900 MB", None),
        (memory(total=899_000_000), CPU, "fail", "899 MB", SMALLER),
        (NO_MEMORY, CPU, "unknown", "lost", None),
        (memory(total=1), ANY_SIZE, "skip", "does not ask", None),
    ],
)
def test_total(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.total", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "120 GB available", None),
        (memory(total=NEED, available=NEED), CPU, "pass", "413 MB available", None),
        (memory(total=NEED, available=NEED - 1), CPU, "warn", "413 MB available", END_OTHERS),
        (memory(total=NEED - 1, available=NEED - 1), CPU, "fail", "413 MB available", SMALLER),
        (memory(available=1), CPU, "warn", "1 B available", END_OTHERS),
        (system(memory(available=1), tools=()), CPU, "warn", "1 B available", "end other programs"),
        (memory(total=2, available=1), CPU, "fail", "1 B available", SMALLER),
        (NO_MEMORY, CPU, "unknown", "lost", None),
        (memory(RTX, total=2, available=1), GPU, "fail", "1 B available", SMALLER),
        (memory(RTX, available=734_003_200), GPU, "pass", "734 MB available", None),
        (memory(RTX, available=734_003_199), GPU, "warn", "734 MB available", END_OTHERS),
        (RTX, replace(GPU, model=UNKNOWN), "skip", "goes to the GPU", None),
        (NO_GPU, replace(CPU, model=UNKNOWN), "skip", "does not say how large", None),
    ],
)
def test_available(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.available", host, wanted, outcome, found, hint)


RAISE = "raise MemoryMax of the service, --memory of the container, or what the job scheduler was asked for"
ROOTLESS = replace(hosts.DOCKER, rootless=True)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "no limit", None),
        (
            memory(limit=4 * GB), CPU, "warn",
            "may use 4 GB of 128 GB; the engine's containers are not bound by that", RAISE,
        ),
        (memory(limit=1), CPU, "warn", "are not bound", RAISE),
        (memory(PROCESS, limit=4 * GB), CPU, "warn", "may use 4 GB of 128 GB", RAISE),
        (memory(PROCESS, limit=4 * GB, machine=LOST), CPU, "warn", "may use 4 GB", RAISE),
        (
            memory(PROCESS, limit=400_000_000), CPU, "fail",
            "may use 400 MB of 128 GB; the model needs 413 MB (weights 98.4 MB, process 315 MB)", RAISE,
        ),
        (replace(memory(limit=400_000_000), runtime=ROOTLESS), CPU, "fail", "needs 413 MB", RAISE),
        (memory(limit=LOST), CPU, "unknown", "lost", None),
        (NO_MEMORY, CPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_limit(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.limit", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "8 GB of 8 GB free", None),
        (memory(swap=10, free_swap=1), "pass", "1 B of 10 B free", None),
        (memory(swap=0, free_swap=0), "pass", "no swap", None),
        (
            memory(swap=100, free_swap=9), "warn", "9 B of 100 B free", END_OTHERS,
        ),
        (memory(swap=LOST), "unknown", "lost", None),
        (memory(free_swap=LOST), "unknown", "lost", None),
        (NO_MEMORY, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_swap(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("memory.swap", host, CPU, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (memory(RTX, shared=1 << 30), TWO_PROCESSES, "pass", "1.07 GB", None),
        (
            memory(RTX, shared=64 * MIB), TWO_PROCESSES, "warn", "67.1 MB",
            "sudo mount -o remount,size=1024M /dev/shm",
        ),
        (
            memory(RTX, shared=None), TWO_PROCESSES, "warn", "no /dev/shm",
            "sudo mount -t tmpfs -o size=1024M shm /dev/shm",
        ),
        (memory(RTX, shared=LOST), TWO_PROCESSES, "unknown", "lost", None),
        (replace(RTX, memory=LOST), TWO_PROCESSES, "unknown", "lost", None),
        (memory(RTX, shared=1), TWO, "skip", "container its own", None),
        (memory(RTX, shared=1), GPU, "skip", "several GPUs", None),
    ],
)  # fmt: skip
def test_shared(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.shared", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, TWO_PROCESSES, "pass", "no limit", None),
        (system(RTX, limits={"locked_memory": 64 * MIB}), TWO_PROCESSES, "pass", "67.1 MB", None),
        (
            system(RTX, limits={"locked_memory": 8 * MIB}), TWO_PROCESSES, "warn", "at most 8.39 MB",
            "LimitMEMLOCK=infinity in the service that starts deployer, or in its shell: ulimit -l unlimited",
        ),
        (system(RTX, limits={}), TWO_PROCESSES, "unknown", "were not read", None),
        (replace(RTX, system=LOST), TWO_PROCESSES, "unknown", "lost", None),
        (system(RTX, limits={"locked_memory": 1}), TWO, "skip", "lifts the limit", None),
        (system(RTX, limits={"locked_memory": 1}), GPU, "skip", "several GPUs", None),
    ],
)  # fmt: skip
def test_locked(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.locked", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "0", None),
        (memory(RTX, overcommit=1), GPU, "pass", "1", None),
        (
            memory(RTX, overcommit=2), GPU, "warn", "2: strict",
            "sudo sh -c 'echo 0 > /proc/sys/vm/overcommit_memory'; to keep it, a line in "
            "/etc/sysctl.d/90-deployer.conf: vm.overcommit_memory = 0",
        ),
        (memory(RTX, overcommit=None), GPU, "skip", "does not say", None),
        (memory(RTX, overcommit=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, memory=LOST), GPU, "unknown", "lost", None),
        (memory(overcommit=2), CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_overcommit(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.overcommit", host, wanted, outcome, found, hint)


FREE_OF_LIMITS = memory(RTX, total=2 * GB, limit=2 * GB)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (memory(RTX, total=4_100_000_000, machine=4_100_000_000), GPU, "pass", "4.1 GB", None),
        (memory(RTX, total=4 * GB, machine=4 * GB), GPU, "warn", "4 GB", SMALLER),
        (FREE_OF_LIMITS, GPU, "pass", "128 GB", None),
        (replace(FREE_OF_LIMITS, runtime=ROOTLESS), GPU, "warn", "2 GB", SMALLER),
        (memory(FREE_OF_LIMITS, machine=LOST), GPU, "warn", "2 GB", SMALLER),
        (replace(RTX, memory=LOST), GPU, "unknown", "lost", None),
        (RTX, replace(GPU, model=UNKNOWN), "skip", "does not say how large", None),
        (memory(total=1), CPU, "skip", "does not ask for a GPU", None),
    ],
)
def test_loading(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("memory.loading", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (memory(maps=65530), "pass", "65530", None),
        (
            system(memory(maps=1000), user=0), "warn", "1000",
            "sh -c 'echo 65530 > /proc/sys/vm/max_map_count'; to keep it, a line in "
            "/etc/sysctl.d/90-deployer.conf: vm.max_map_count = 65530",
        ),
        (memory(maps=None), "skip", "does not say", None),
        (memory(maps=LOST), "unknown", "lost", None),
        (NO_MEMORY, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_maps(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("memory.maps", host, CPU, outcome, found, hint)
