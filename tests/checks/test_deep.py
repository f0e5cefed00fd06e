"""What `check --deep` has tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Deep, DiskRate, GpuRate, Host, Link, Peer, Unknown, Way
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import CARD, OTHER, card, cards, docker
from tests.checks.rows import CHAT, CPU, GPU, LOST, NO_GPU, PROFILES, RTX, TWO, check

NOT_TRIED = "not tried: deployer check --deep"
L4 = hosts.gpu(name="NVIDIA L4", vram=23034, capability="8.9")
RATE = GpuRate("GPU-0000", 250e9, 25e9, 24e9, 90e12)
DISK = DiskRate("/srv", 256 << 20, 400e6, 1000e6)


def tried(host: Host = RTX, **changes: Any) -> Host:
    facts: dict[str, Any] = {"ways": (), "disks": {}, "gpus": (), "peers": (), **changes}
    return replace(host, deep=Deep(**facts))


def ways(*found: Way, host: Host = RTX) -> Host:
    return tried(host, ways=found)


CDI, HOOK, RUNTIME = (Way(name, 1, 1, "13.0") for name in ("cdi", "hook", "runtime"))
BROKEN = Unknown("cuInit: unknown error (999)")
USUAL = "runtime.gpu, runtime.cdi_files and driver.uvm name the usual reasons"
HOOKED = docker(nvidia_runtime=True)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (ways(CDI), GPU, "pass", "cdi: 1 GPU, CUDA 13.0", None),
        (ways(replace(CDI, cuda=2, cuda_version=LOST)), TWO, "pass", "cdi: 2 GPUs", None),
        (ways(CDI, replace(HOOK, cuda=BROKEN)), GPU, "warn", "hook: NVML sees 1, CUDA: cuInit", None),
        (ways(HOOK, replace(RUNTIME, nvml=LOST, cuda=LOST), host=HOOKED), GPU, "warn",
         "runtime: CUDA: lost; hook: 1 GPU", None),
        (ways(replace(CDI, cuda=BROKEN)), GPU, "fail", "cdi: NVML sees 1, CUDA: cuInit: unknown error (999)",
         USUAL),
        (ways(replace(CDI, cuda=0), HOOK), GPU, "fail", "cdi: CUDA sees no GPU; hook: 1 GPU", USUAL),
        (ways(CDI), TWO, "fail", "cdi: CUDA sees 1 GPU", USUAL),
        (ways(CDI, replace(HOOK, cuda=BROKEN), host=HOOKED), GPU, "fail", "hook: NVML sees 1", USUAL),
        (ways(RUNTIME, host=HOOKED), GPU, "unknown", "`hook`, which deployer takes, was not tried", None),
        (tried(ways=LOST), GPU, "unknown", "lost", None),
        (ways(CDI, host=replace(RTX, runtime=LOST)), GPU, "unknown", "lost", None),
        (ways(), GPU, "skip", "no way is configured", None),
        (ways(CDI), replace(GPU, runtime="process"), "skip", "will not run in containers", None),
        (RTX, GPU, "skip", NOT_TRIED, None),
        (ways(CDI), CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_proof(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.proof", host, wanted, outcome, found, hint)


def test_pain_4_a_container_that_works_is_believed_more_than_metadata() -> None:
    host = ways(HOOK, host=hosts.UNCONFIGURED)
    check("runtime.proof", host, GPU, "pass", "hook: 1 GPU")


FASTER = "keep models on a faster disk with --home DIR"


def disks(rate: Any = DISK, name: str = "models", host: Host = NO_GPU) -> Host:
    return tried(host, disks={name: rate})


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (disks(), CHAT, "pass", "reads 1 GB/s, writes 400 MB/s; 1.12 GB in 1.1 s", None),
        (disks(replace(DISK, write=LOST)), CHAT, "pass", "reads 1 GB/s; 1.12 GB", None),
        (disks(replace(DISK, read=9_311_000.0)), CHAT, "warn", "reads 9.31 MB/s", FASTER),
        (disks(replace(DISK, read=0.0)), CHAT, "warn", "reads 0 B/s", FASTER),
        (disks(replace(DISK, read=LOST)), CHAT, "unknown", "lost", None),
        (disks(LOST), CHAT, "unknown", "lost", None),
        (tried(NO_GPU), CHAT, "unknown", "not measured", None),
        (NO_GPU, CHAT, "skip", NOT_TRIED, None),
    ],
)  # fmt: skip
def test_model_rate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.model_rate", host, wanted, outcome, found, hint)


ROOT = '"data-root" in /etc/docker/daemon.json names another folder'
SLOW = replace(DISK, write=49.9e6)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (disks(name="images"), CPU, "pass", "400 MB/s in /srv", None),
        (disks(SLOW, "images"), CPU, "warn", "49.9 MB/s in /srv", ROOT),
        (disks(replace(DISK, write=LOST), "images"), CPU, "unknown", "lost", None),
        (disks(LOST, "images"), CPU, "unknown", "lost", None),
        (disks(SLOW, "images", hosts.without_runtime(NO_GPU)), CPU, "skip", "will not run in containers", None),
        (NO_GPU, CPU, "skip", NOT_TRIED, None),
    ],
)  # fmt: skip
def test_image_rate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("disk.image_rate", host, wanted, outcome, found, hint)


ON_L4 = cards(L4)


def measured(host: Host = ON_L4, **changes: Any) -> Host:
    return tried(host, gpus=(replace(RATE, **changes),))


REASONS = "gpu.throttled, gpu.power, gpu.pcie and gpu.holders name the usual reasons"
OF_GPUS = [
    (tried(gpus=LOST), GPU, "unknown", "lost", None),
    (measured(replace(RTX, gpus=LOST)), GPU, "unknown", "lost", None),
    (measured(card(name=LOST)), GPU, "unknown", "GPU 0: lost", None),
    (tried(), GPU, "skip", "nothing was measured", None),
    (RTX, GPU, "skip", NOT_TRIED, None),
    (measured(), CPU, "skip", "does not ask for a GPU", None),
]


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (measured(), GPU, "pass", "NVIDIA L4: 250 GB/s", None),
        (measured(memory=199.3e9), GPU, "pass", "NVIDIA L4: 199 GB/s", None),
        (measured(memory=199.1e9), GPU, "warn", "NVIDIA L4: 199 GB/s, 80 % of its class", REASONS),
        (measured(card(name="Some Card")), GPU, "pass", "Some Card: 250 GB/s, in no table", None),
        (measured(memory=LOST), GPU, "unknown", "NVIDIA L4: lost", None),
        *OF_GPUS,
    ],
)  # fmt: skip
def test_memory_rate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.memory_rate", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (measured(), GPU, "pass", "NVIDIA L4: 90 TFLOPS", None),
        (measured(matrix=60e12), GPU, "warn", "NVIDIA L4: 60 TFLOPS, 71 % of its class", REASONS),
        (measured(card(name="NVIDIA GB10")), GPU, "pass", "in no table", None),
        (measured(matrix=LOST), GPU, "unknown", "NVIDIA L4: lost", None),
        (measured(matrix=Unknown("not asked")), GPU, "skip", "deployer build transformers:cu130", None),
        (measured(matrix=None), GPU, "skip", "nothing was measured", None),
        *OF_GPUS,
    ],
)  # fmt: skip
def test_matrix_rate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.matrix_rate", host, wanted, outcome, found, hint)


def linked(generation: Any, width: Any, **changes: Any) -> Host:
    return measured(cards(replace(L4, link=Link(1, 16, generation, width))), **changes)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (linked(4, 16), GPU, "pass", "NVIDIA L4: 24 GB/s", None),
        (linked(4, 16, from_gpu=3e9), GPU, "warn", "NVIDIA L4: 3 GB/s, 12 % of its class", REASONS),
        (linked(9, 16), GPU, "pass", "in no table", None),
        (linked(LOST, 16), GPU, "unknown", "lost", None),
        (linked(4, LOST), GPU, "unknown", "lost", None),
        (linked(4, 16, to_gpu=LOST), GPU, "unknown", "lost", None),
        (linked(4, 16, from_gpu=LOST), GPU, "unknown", "lost", None),
        (measured(card(link=LOST)), GPU, "unknown", "lost", None),
        (linked(None, None), GPU, "skip", "nothing was measured", None),
        *OF_GPUS,
    ],
)  # fmt: skip
def test_transfer_rate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.transfer_rate", host, wanted, outcome, found, hint)


def pair(*rates: Any) -> Host:
    names = (("GPU-0000", "GPU-1111"), ("GPU-1111", "GPU-0000"))
    peers = tuple(Peer(one, other, rate) for (one, other), rate in zip(names, rates, strict=False))
    return tried(cards(CARD, OTHER), peers=peers)


P2P = "NCCL_P2P_DISABLE=1 works around it; IOMMU and ACS in the firmware cause it"
HANGS = Unknown("a copy between them does not end (no answer in 20 s)")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (pair(20e9, 19e9), TWO, "pass", "2 of 2, the slowest 19 GB/s", None),
        (pair(20e9, None), TWO, "pass", "1 of 2, the slowest 20 GB/s", None),
        (pair(None, None), TWO, "warn", "the driver allows none", None),
        (pair(20e9, Unknown("cuMemcpyPeer: unspecified launch failure (719)")), TWO, "warn",
         "GPU-1111 to GPU-0000: cuMemcpyPeer", P2P),
        (pair(20e9, HANGS), TWO, "fail", "GPU-1111 to GPU-0000: a copy between them does not end", P2P),
        (pair(LOST, HANGS), TWO, "fail", "does not end", P2P),
        (pair(20e9, Unknown("cuMemAlloc_v2: out of memory (2)")), TWO, "unknown", "out of memory", None),
        (tried(peers=LOST), TWO, "unknown", "lost", None),
        (tried(), TWO, "skip", "there is one GPU", None),
        (RTX, TWO, "skip", NOT_TRIED, None),
        (pair(HANGS), PROFILES["gpu-24gb"], "skip", "does not need several", None),
    ],
)  # fmt: skip
def test_pain_24_peers(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.peers", host, wanted, outcome, found, hint)
