"""How the GPUs are set up: lanes, modes, slices, links, displays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Driver, Fabric, FabricManager, Host, Link, Mig, NvLinks
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import A100, CARD, CUT, EMPTY, NOBODY, OTHER, beside, card, cards
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, ROOT, RTX, TWO, check, system

SEAT = "seat the card again; look at risers and the firmware's slot settings"
NO_CARD = [
    (NO_GPU, GPU, "skip", "gpu.count says why", None),
    (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
    (RTX, CPU, "skip", "does not ask for a GPU", None),
]


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(link=Link(1, 8, 4, 16)), GPU, "pass", "1 GPU", None),
        (card(link=Link(4, 4, 4, 16)), GPU, "warn", "GPU 0: x4 of x16", SEAT),
        (beside(link=Link(4, 1, 4, 16)), GPU, "warn", "GPU 1: x1 of x16", SEAT),
        (card(link=Link(1, 1, 1, 1)), GPU, "pass", "1 GPU", None),
        (card(link=Link(LOST, 16, LOST, 16)), GPU, "pass", "1 GPU", None),
        (card(link=Link(4, LOST, 4, 16)), GPU, "unknown", "lost", None),
        (card(link=Link(4, 16, 4, LOST)), GPU, "unknown", "lost", None),
        (card(link=LOST), GPU, "unknown", "GPU 0: lost", None),
        (card(link=Link(None, None, None, None)), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_pcie(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.pcie", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(persistence=False), GPU, "warn", "GPU 0: off", "sudo nvidia-smi -pm 1"),
        (card(replace(RTX, system=ROOT), persistence=False), GPU, "warn", "off", "nvidia-smi -pm 1"),
        (
            card(system(tools=("nvidia-smi",)), persistence=False), GPU, "warn", "off",
            "as root: nvidia-smi -pm 1",
        ),
        (card(NOBODY, persistence=False), GPU, "warn", "off", None),
        (card(persistence=False, display=True), GPU, "pass", "1 GPU", None),
        (card(persistence=LOST), GPU, "unknown", "lost", None),
        (card(persistence=None), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_persistence(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.persistence", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(compute_mode="exclusive process"), GPU, "warn", "exclusive", "sudo nvidia-smi -c 0 -i 0"),
        (card(compute_mode="exclusive process"), TWO, "warn", "exclusive", "sudo nvidia-smi -c 0 -i 0"),
        (beside(compute_mode="prohibited"), GPU, "warn", "GPU 1: prohibited", "sudo nvidia-smi -c 0 -i 1"),
        (card(compute_mode="prohibited"), GPU, "fail", "GPU 0: prohibited", "sudo nvidia-smi -c 0 -i 0"),
        (beside(compute_mode="prohibited"), TWO, "fail", "GPU 1: prohibited", "sudo nvidia-smi -c 0 -i 1"),
        (card(NOBODY, compute_mode="prohibited"), GPU, "fail", "prohibited", None),
        (card(compute_mode=LOST), GPU, "unknown", "lost", None),
        (card(compute_mode=None), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_compute_mode(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.compute_mode", host, wanted, outcome, found, hint)


WHOLE = replace(A100, index=1)
OFF, PENDING = "sudo nvidia-smi -mig 0 -i 0", replace(A100, mig=Mig(False, True, ()))
ODD = replace(RTX, driver=Driver("570.133.20", True))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (cards(A100), GPU, "pass", "MIG is off", None),
        (cards(CUT), GPU, "pass", "2 slices", None),
        (cards(CUT, WHOLE, replace(WHOLE, index=2)), TWO, "warn", "no way to each other", OFF),
        (cards(EMPTY, WHOLE), GPU, "warn", "GPU 0: MIG is on and there are no slices", OFF),
        (cards(EMPTY, replace(CUT, index=1)), GPU, "warn", "GPU 0: MIG is on", OFF),
        (
            cards(PENDING), GPU, "warn", "GPU 0: a change waits for a reset",
            "sudo nvidia-smi --gpu-reset -i 0 with nothing running on it, or reboot",
        ),
        (cards(PENDING, host=NOBODY), GPU, "warn", "waits for a reset", "reboot"),
        (cards(CUT, host=ODD), GPU, "warn", "driver 570.133.20 misreports", "a driver after 570.158.01"),
        (cards(A100, host=ODD), GPU, "pass", "MIG is off", None),
        (cards(EMPTY), GPU, "fail", "MIG is on and there are no slices", OFF),
        (cards(EMPTY, host=NOBODY), GPU, "fail", "MIG is on and there are no slices", None),
        (cards(CUT, WHOLE), TWO, "fail", "GPU 0: cut into slices", OFF),
        (cards(replace(A100, mig=LOST)), GPU, "unknown", "lost", None),
        (cards(CUT, host=replace(RTX, driver=LOST)), GPU, "unknown", "lost", None),
        (cards(CUT, host=replace(RTX, driver=Driver("abc", True))), GPU, "unknown", "`abc`", None),
        (RTX, GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_mig(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.mig", host, wanted, outcome, found, hint)


STOPPED, DONE = Fabric("not started", 0), Fabric("completed", 0)
MANAGER = "driver.fabric_manager; when that is right, reboot"
WAIT = "wait a minute and ask again; if it stays so, look at the fabric manager's log"
HGX = replace(RTX, nvswitches=4, fabric_manager=FabricManager(True, True))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (card(HGX, fabric=DONE), GPU, "pass", "1 GPU", None),
        (card(HGX, fabric=Fabric("in progress", 0)), GPU, "warn", "in progress", WAIT),
        (card(HGX, fabric=Fabric("completed", 999)), GPU, "warn", "completed with error 999", WAIT),
        (cards(CARD, replace(OTHER, fabric=STOPPED)), GPU, "warn", "GPU 1: has not started", MANAGER),
        (card(HGX, fabric=STOPPED), GPU, "fail", "GPU 0: has not started", MANAGER),
        (
            cards(replace(CARD, fabric=DONE), replace(OTHER, fabric=STOPPED), host=HGX), GPU, "warn",
            "GPU 1: has not started", MANAGER,
        ),
        (
            card(replace(HGX, fabric_manager=FabricManager(True, False)), fabric=STOPPED), GPU, "skip",
            "driver.fabric_manager says why", None,
        ),
        (card(replace(HGX, fabric_manager=None), fabric=STOPPED), GPU, "skip", "says why", None),
        (card(replace(HGX, fabric_manager=LOST), fabric=STOPPED), GPU, "fail", "has not started", MANAGER),
        (card(HGX, fabric=LOST), GPU, "unknown", "lost", None),
        (RTX, GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_fabric(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.fabric", host, wanted, outcome, found, hint)


BRIDGE = "look at the bridge; until then NCCL_P2P_DISABLE=1 keeps programs from hanging"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (cards(*(replace(g, nvlinks=NvLinks(12, 12)) for g in (CARD, OTHER))), TWO, "pass", "2 GPUs", None),
        (beside(nvlinks=NvLinks(11, 12)), TWO, "warn", "GPU 1: 11 of 12", BRIDGE),
        (beside(nvlinks=NvLinks(0, 4)), TWO, "skip", "no GPU here has such a thing", None),
        (beside(nvlinks=LOST), TWO, "unknown", "GPU 1: lost", None),
        (beside(nvlinks=NvLinks(11, 12)), GPU, "skip", "does not need several", None),
        (replace(RTX, gpus=LOST), TWO, "unknown", "lost", None),
        (NO_GPU, TWO, "skip", "gpu.count says why", None),
    ],
)  # fmt: skip
def test_nvlinks(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.nvlinks", host, wanted, outcome, found, hint)


UNTIL = "sudo systemctl isolate multi-user.target ends the desktop until the next boot"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 without one", None),
        (beside(display=True), GPU, "pass", "1 without one", None),
        (cards(replace(CARD, display=None), replace(OTHER, display=True)), GPU, "pass", "1 without", None),
        (card(display=True), GPU, "warn", "GPU 0: draws one", UNTIL),
        (beside(display=True), TWO, "warn", "GPU 1: draws one", UNTIL),
        (
            card(system(RTX, systemd=False), display=True), GPU, "warn", "draws one",
            "plug the display into another card",
        ),
        (card(display=LOST), GPU, "unknown", "lost", None),
        (card(display=None), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_display(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.display", host, wanted, outcome, found, hint)


PACE = "the smallest and slowest card sets the pace of all"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (cards(CARD, OTHER), TWO, "pass", "2 × NVIDIA GeForce RTX 4060", None),
        (beside(name="NVIDIA L4"), GPU, "pass", "1 × NVIDIA L4", None),
        (cards(CARD, OTHER, replace(CARD, index=2, name=LOST)), TWO, "pass", "2 × NVIDIA", None),
        (beside(name="NVIDIA L4"), TWO, "warn", "1 × NVIDIA L4", PACE),
        (beside(name=LOST), TWO, "unknown", "name of a card", None),
        (RTX, TWO, "skip", "not more than one", None),
        (replace(RTX, gpus=LOST), TWO, "unknown", "lost", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_mixed(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.mixed", host, wanted, outcome, found, hint)


def test_pain_10_slices_are_refused_for_a_model_on_two_gpus_and_only_once() -> None:
    host = cards(CUT, WHOLE)
    check("gpu.mig", host, TWO, "fail", "cut into slices, which have no way to each other", OFF)
    check("gpu.count", host, TWO, "skip", "gpu.mig says why")


def test_pain_24_links_that_are_down_are_seen_before_several_gpus_hang() -> None:
    check("gpu.nvlinks", beside(nvlinks=NvLinks(1, 4)), TWO, "warn", "1 of 4", BRIDGE)
