"""GPUs against what a profile asks of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.checks import suits, usable
from deployer.host import Fabric, Host, PciGpu, Process, Repair, Unknown
from deployer.profile import GpuNeed, Profile
from tests import hosts
from tests.checks.machines import A100, CARD, CUT, EMPTY, NOBODY, OTHER, SLICE, WSL, beside, card, cards
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, PROFILES, RTX, TWO, check

GB = hosts.GB
SMALLER = "choose a smaller profile: deployer check --all"
CPU_PROFILE = "choose a CPU profile: deployer profiles list"
GONE = Unknown("NVML: GPU is lost")
OFF_THE_BUS = replace(CARD, uuid=GONE, name=GONE, vram=GONE, free_vram=GONE, compute_capability=GONE)
NOT_LOADED = replace(hosts.NO_DRIVER, gpus=Unknown("NVML: Driver Not Loaded"))
TWO_8GB = replace(TWO, requirements=replace(TWO.requirements, gpu=GpuNeed(count=2, vram=8 * GB)))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "NVIDIA GeForce RTX 4060", None),
        (cards(CARD, OTHER), TWO, "pass", "2 × NVIDIA GeForce RTX 4060", None),
        (card(name=LOST), GPU, "pass", "GPU 0", None),
        (cards(CUT), GPU, "pass", "2 × NVIDIA A100 80GB PCIe MIG 3g.40gb", None),
        (WSL, GPU, "pass", "RTX 4060", None),
        (NO_GPU, GPU, "fail", "no NVIDIA GPU in this machine", CPU_PROFILE),
        (
            replace(NO_GPU, gpus=Unknown("NVML: Driver Not Loaded")), GPU, "fail", "no NVIDIA GPU", CPU_PROFILE,
        ),
        (replace(WSL, gpus=()), GPU, "fail", "Windows passes no GPU on", "system.wsl says what it lacks"),
        (hosts.NO_DRIVER, GPU, "fail", "no driver makes it usable", "driver.loaded says why"),
        (NOT_LOADED, GPU, "fail", "no driver makes it usable", "driver.loaded says why"),
        (
            replace(RTX, gpus=()), GPU, "fail", "the driver shows none",
            "the driver says why: sudo dmesg | grep NVRM",
        ),
        (RTX, TWO, "fail", "NVIDIA GeForce RTX 4060", SMALLER),
        (cards(EMPTY), GPU, "skip", "gpu.mig says why", None),
        (cards(CUT, replace(CUT, index=1)), TWO, "skip", "gpu.mig says why", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", "nvidia-smi should list them; if it fails too, reboot"),
        (replace(NOBODY, gpus=LOST), GPU, "unknown", "lost", "reboot"),
        (cards(OFF_THE_BUS), GPU, "unknown", "NVML: GPU is lost", None),
        (cards(OFF_THE_BUS, OTHER), GPU, "pass", "GPU 0, NVIDIA GeForce RTX 4060", None),
        (replace(NO_GPU, pci_gpus=LOST), GPU, "unknown", "PCI bus cannot be read", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_count(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.count", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "8.59 GB", None),
        (card(vram=7_200_000_000), GPU, "pass", "7.2 GB", None),
        (card(vram=7_199_999_999), GPU, "fail", "7.2 GB", SMALLER),
        (beside(vram=10**9), GPU, "pass", "8.59 GB, 1 GB", None),
        (cards(CARD, OTHER), TWO, "fail", "2 × 8.59 GB", SMALLER),
        (card(vram=LOST), GPU, "unknown", "lost", None),
        (beside(vram=LOST), GPU, "pass", "8.59 GB, lost", None),
        (card(vram=128 * GB, unified=True), GPU, "pass", "128 GB (shared with the system)", None),
        (cards(CUT), PROFILES["h100-80gb"], "fail", "2 × 40 GB", SMALLER),
        (cards(CUT), PROFILES["gpu-24gb"], "pass", "2 × 40 GB", None),
        (RTX, TWO, "skip", "too few", None),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
        (
            RTX, replace(GPU, requirements=replace(GPU.requirements, gpu=GpuNeed(1))), "skip",
            "does not ask for a size", None,
        ),
    ],
)  # fmt: skip
def test_vram(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.vram", host, wanted, outcome, found, hint)


OLLAMA = Process(812, 5 * GB, "ollama", "ada", "0123456789ab", "S")
XORG = Process(901, 900_000_000, "Xorg", "root", None, "S")
BUSY = card(free_vram=2 * GB, processes=(OLLAMA, XORG))
RUNNING = replace(BUSY, runtime=replace(hosts.CDI, containers={"0123456789ab": "old-llm"}))
NO_SIZE = replace(GPU, requirements=replace(GPU.requirements, gpu=GpuNeed(1, free_vram=70 * GB)))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "8.27 GB", None),
        (card(free_vram=6 * GB), GPU, "pass", "6 GB", None),
        (
            card(free_vram=6 * GB - 1), GPU, "fail", "6 GB",
            "end what holds it: another program; gpu.holders could not see it",
        ),
        (
            RUNNING, GPU, "fail", "2 GB",
            "end what holds it: ollama (pid 812, user ada, container old-llm, 5 GB), "
            "Xorg (pid 901, user root, 900 MB)",
        ),
        (
            BUSY, GPU, "fail", "2 GB",
            "end what holds it: ollama (pid 812, user ada, container 0123456789ab, 5 GB), "
            "Xorg (pid 901, user root, 900 MB)",
        ),
        (RTX, NO_SIZE, "fail", "8.27 GB", SMALLER),
        (RTX, PROFILES["h100-80gb"], "skip", "too small: gpu.vram", None),
        (card(free_vram=LOST), GPU, "unknown", "lost", None),
        (beside(free_vram=LOST), GPU, "pass", "8.27 GB, lost", None),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (RTX, TWO, "skip", "too few", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
        (RTX, TWO_8GB, "skip", "does not ask for free memory", None),
    ],
)  # fmt: skip
def test_free_vram(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.free_vram", host, wanted, outcome, found, hint)


def test_pain_21_too_little_free_memory_names_who_holds_it() -> None:
    check("gpu.vram", RUNNING, GPU, "pass", "8.59 GB")
    check("gpu.holders", RUNNING, GPU, "warn", "container old-llm, 5 GB",
          "end them, or let gpu.free_vram decide whether the rest is enough")  # fmt: skip


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "8.9", None),
        (card(compute_capability="10.0"), GPU, "pass", "10.0", None),
        (card(compute_capability="7.5"), GPU, "pass", "7.5", None),
        (
            card(compute_capability="6.1"), GPU, "fail", "6.1",
            "the image's kernels need 7.5: deployer check --all",
        ),
        (beside(compute_capability="6.1"), GPU, "pass", "8.9, 6.1", None),
        (card(compute_capability=LOST), GPU, "unknown", "lost", None),
        *(
            (card(compute_capability=odd), GPU, "unknown", f"`{odd}` is not a number", None)
            for odd in ("", "8", "abc", "8.x", "9" * 40 + ".0")
        ),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (RTX, TWO, "skip", "too few", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
        (RTX, NO_SIZE, "skip", "does not ask for one", None),
    ],
)  # fmt: skip
def test_compute_capability(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.compute_capability", host, wanted, outcome, found, hint)


SMALL = replace(OTHER, vram=4 * GB, free_vram=4 * GB)
FULL = replace(CARD, free_vram=GB)
ANOTHER = "another profile may fit one of them: deployer check --all"
STOPPED = Fabric("not started", 0)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "GPU 0", None),
        (cards(FULL, OTHER), GPU, "pass", "GPU 1", None),
        (cards(CUT), GPU, "pass", "GPU 0", None),
        (cards(FULL, replace(OTHER, compute_capability="6.1")), GPU, "fail", "none", ANOTHER),
        (
            cards(replace(CARD, compute_mode="prohibited"), replace(OTHER, free_vram=GB)), GPU, "fail",
            "GPU 0: its compute mode is prohibited", ANOTHER,
        ),
        (
            cards(replace(CARD, remapped=Repair(False, True)), replace(OTHER, free_vram=GB)), GPU, "fail",
            "GPU 0: a repair of its memory failed", ANOTHER,
        ),
        (
            cards(replace(CARD, fabric=STOPPED), replace(OTHER, free_vram=GB)), GPU, "fail",
            "GPU 0: it has not joined its fabric", ANOTHER,
        ),
        (card(fabric=Fabric("in progress", 0)), GPU, "pass", "GPU 0", None),
        (card(compute_mode="prohibited"), GPU, "skip", "decided by another finding", None),
        (card(free_vram=GB), GPU, "skip", "decided by another finding", None),
        (card(free_vram=LOST), GPU, "skip", "decided by another finding", None),
        (card(uuid=LOST), GPU, "unknown", "lost", None),
        (beside(uuid=LOST), GPU, "pass", "GPU 0", None),
        (cards(replace(FULL, uuid=LOST), replace(OTHER, compute_capability="6.1")), GPU, "fail", "none",
         ANOTHER),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_together(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.together", host, wanted, outcome, found, hint)


def test_pain_10_a_slice_is_a_gpu_of_its_own_and_several_are_none() -> None:
    whole = replace(A100, index=1)
    host = cards(CUT, whole)
    found = usable(host, GPU)
    assert not isinstance(found, Unknown)
    assert [gpu.uuid for gpu in found] == ["MIG-aaaa", "MIG-bbbb", whole.uuid]
    assert [gpu.vram for gpu in found][:2] == [SLICE.vram, SLICE.vram]
    assert usable(host, TWO) == (whole,)
    assert usable(replace(host, gpus=LOST), GPU) == LOST


def test_pain_5_one_failed_field_never_costs_the_device() -> None:
    silent = card(vram=LOST, free_vram=LOST)
    check("gpu.count", silent, GPU, "pass", "RTX 4060")
    check("gpu.compute_capability", silent, GPU, "pass", "8.9")
    check("gpu.vram", silent, GPU, "unknown", "lost")


def test_pain_11_only_a_card_that_is_known_to_suit_is_taken() -> None:
    need = GPU.requirements.gpu
    assert need is not None
    assert suits(CARD, need)
    for bad in (FULL, SMALL, replace(CARD, uuid=LOST), replace(CARD, vram=LOST), replace(CARD, free_vram=LOST),
                replace(CARD, compute_capability="7.0"), replace(CARD, compute_capability=LOST),
                replace(CARD, compute_mode="prohibited"), replace(CARD, fabric=STOPPED)):  # fmt: skip
        assert not suits(bad, need), bad


def test_a_card_that_another_driver_has_is_not_called_missing() -> None:
    bound = replace(RTX, gpus=(), pci_gpus=(PciGpu("0000:01:00.0", "2882", "vfio-pci"),))
    check(
        "gpu.count",
        bound,
        GPU,
        "fail",
        "the driver shows none",
        "the driver says why: sudo dmesg | grep NVRM",
    )
