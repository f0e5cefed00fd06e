"""Who else uses the GPUs, and whether the cards are what their names say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Host, Process
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import CARD, NOBODY, OTHER, beside, card, cards
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, ROOT, RTX, check

GB, MIB = hosts.GB, hosts.MIB
INSIDE = Process(812, 9_800_000_000, "python", "ada", "0123456789ab", "S")
XORG = Process(901, 90 * 10**6, "Xorg", "root", None, "S")
WAITING = Process(77, GB, "VLLM::Worker", "root", None, "D")
NAMED = replace(hosts.CDI, containers={"0123456789ab": "old-llm"})
END = "end them, or let gpu.free_vram decide whether the rest is enough"
HELD = card(processes=(INSIDE, XORG))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "none", None),
        (card(processes=(XORG,)), GPU, "pass", "Xorg (pid 901, user root, 90 MB)", None),
        (beside(processes=None), GPU, "pass", "none", None),
        (card(processes=(replace(XORG, memory=256 * 10**6),)), GPU, "pass", "256 MB", None),
        (card(processes=(replace(XORG, memory=256 * 10**6 + 1),)), GPU, "warn", "Xorg", END),
        (
            replace(HELD, runtime=NAMED), GPU, "warn",
            "GPU 0: python (pid 812, user ada, container old-llm, 9.8 GB)", END,
        ),
        (HELD, GPU, "warn", "container 0123456789ab", END),
        (card(processes=(Process(5, None, None, None, None, None),)), GPU, "warn", "a program (pid 5)", END),
        (
            cards(replace(CARD, processes=LOST), replace(OTHER, processes=(INSIDE,))), GPU, "warn",
            "GPU 1: python", END,
        ),
        (card(processes=None), GPU, "skip", "does not say who uses", None),
        (card(processes=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_holders(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.holders", host, wanted, outcome, found, hint)


STAYS = "ask again; if it stays so, only a reboot ends it"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "none of them is in a container", None),
        (card(processes=(XORG,)), GPU, "pass", "none of them is in a container", None),
        (replace(HELD, runtime=NAMED), GPU, "pass", "every container runs", None),
        (
            HELD, GPU, "warn", "container 0123456789ab, 9.8 GB), whose container does not run in docker",
            "unless another engine runs it: sudo kill 812",
        ),
        (replace(HELD, system=ROOT), GPU, "warn", "pid 812", "unless another engine runs it: kill 812"),
        (
            replace(HELD, system=NOBODY.system), GPU, "warn", "pid 812",
            "unless another engine runs it: as root: kill 812",
        ),
        (card(processes=(WAITING,)), GPU, "warn", "in state D, which no signal ends: VLLM::Worker", STAYS),
        (hosts.without_runtime(HELD), GPU, "unknown", "containers cannot be listed", None),
        (hosts.without_runtime(HELD, hosts.HUNG), GPU, "unknown", "containers cannot be listed", None),
        (
            replace(HELD, runtime=replace(NAMED, containers=LOST)), GPU, "unknown",
            "containers cannot be listed", None,
        ),
        (card(processes=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_orphans(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.orphans", host, wanted, outcome, found, hint)


def test_pain_25_memory_held_for_a_container_that_is_gone_names_exactly_its_programs() -> None:
    worker = replace(INSIDE, pid=813, container="ba9876543210")
    host = replace(card(processes=(INSIDE, worker, XORG)), runtime=NAMED)
    check("gpu.orphans", host, GPU, "warn", "pid 813", "unless another engine runs it: sudo kill 813")


L4 = hosts.gpu(name="NVIDIA L4", vram=23034, capability="8.9")
LOOK = "have the card looked at; measured values are used"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "NVIDIA GeForce RTX 4060", None),
        (cards(L4, replace(L4, index=1)), GPU, "pass", "2 × NVIDIA L4", None),
        (cards(replace(L4, vram=20731 * MIB)), GPU, "pass", "NVIDIA L4", None),
        (cards(replace(L4, vram=20730 * MIB)), GPU, "warn", "a NVIDIA L4 has 24.2 GB", LOOK),
        (card(compute_capability="7.5"), GPU, "warn", "capability 7.5, not 8.9", LOOK),
        (card(name="NVIDIA GeForce RTX 4060 Ti", vram=8188 * MIB), GPU, "pass", "4060 Ti", None),
        (card(name="NVIDIA GB10", compute_capability="12.1", vram=LOST, unified=True), GPU, "pass", "GB10",
         None),
        (card(name="Some Card"), GPU, "skip", "no card's name is in the table", None),
        (cards(replace(L4, vram=LOST)), GPU, "unknown", "lost", None),
        (card(compute_capability=LOST), GPU, "unknown", "lost", None),
        (card(compute_capability="abc"), GPU, "unknown", "`abc` is not a number", None),
        (card(name=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "gpu.count says why", None),
        (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_genuine(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.genuine", host, wanted, outcome, found, hint)
