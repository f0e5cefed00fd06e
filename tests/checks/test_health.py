"""How well the GPUs are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Ecc, Gpu, Heat, Host, KernelLog, PciGpu, Power, Repair, Unknown, Xid
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import CARD, NOBODY, OTHER, WSL, beside, card, cards
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, RTX, TWO, check, system

COLD = "power, cooling or the card: switch the machine off and on; the kernel's log has the reason (gpu.xid)"
RESET = "sudo nvidia-smi --gpu-reset -i 0 with nothing running on it, or reboot"
NO_CARD = [
    (NO_GPU, GPU, "skip", "gpu.count says why", None),
    (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
    (RTX, CPU, "skip", "does not ask for a GPU", None),
]


def silent(reason: str, gpu: Gpu = CARD) -> Gpu:
    """A card that is in NVML's list and says nothing but this."""
    said = Unknown(reason)
    return replace(gpu, uuid=said, name=said, vram=said, free_vram=said, compute_capability=said, pci=said)


GONE = silent("NVML: GPU is lost")
BUS = (PciGpu("0000:01:00.0", "2882", "nvidia"), PciGpu("0000:02:00.0", "2882", "nvidia"))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1", None),
        (WSL, GPU, "pass", "1", None),
        (cards(GONE, OTHER), GPU, "warn", "GPU 0: NVML: GPU is lost", COLD),
        (replace(RTX, pci_gpus=BUS), GPU, "warn", "0000:02:00.0 on the bus and not in NVML", COLD),
        (replace(RTX, pci_gpus=BUS), TWO, "warn", "0000:02:00.0 on the bus", COLD),
        (replace(card(pci=LOST), pci_gpus=BUS), GPU, "warn", "2 on the bus, 1 in NVML", COLD),
        (cards(GONE), GPU, "fail", "GPU 0: NVML: GPU is lost", COLD),
        (cards(GONE, OTHER), TWO, "fail", "GPU 0: NVML: GPU is lost", COLD),
        (cards(silent("NVML: Unknown Error")), GPU, "fail", "Unknown Error", COLD),
        (cards(silent("NVML: Insufficient Permissions")), GPU, "unknown", "Insufficient Permissions", None),
        (card(uuid=LOST), GPU, "pass", "1", None),
        (replace(RTX, pci_gpus=LOST), GPU, "unknown", "lost", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_answers(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.answers", host, wanted, outcome, found, hint)


def logged(*codes: int, host: Host = RTX) -> Host:
    return replace(host, kernel_log=KernelLog(tuple(Xid("0000:01:00.0", c, "…", 5.0) for c in codes), None))


SUPPORT = "switch the machine off and on; look at power, cooling and the slot; keep the line for support"
AGAIN = "stop what runs on the GPU and reset it; support when it comes again"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "none", None),
        (logged(13, 31, 43, 45, 68), GPU, "pass", "5 that programs cause themselves", None),
        (logged(13, 48), GPU, "warn", "0000:01:00.0: Xid 48 (double-bit memory error)", AGAIN),
        (
            logged(46), GPU, "warn", "Xid 46",
            "reset the GPU: sudo nvidia-smi --gpu-reset, or reboot",
        ),
        (logged(46, host=NOBODY), GPU, "warn", "Xid 46", "reset the GPU: reboot"),
        (
            logged(4711), GPU, "warn", "not in our table",
            "look it up: https://docs.nvidia.com/deploy/xid-errors/",
        ),
        (logged(79), GPU, "warn", "fallen off the bus", SUPPORT),
        (logged(79, host=cards(GONE, OTHER)), GPU, "warn", "fallen off the bus", SUPPORT),
        (logged(48, 79, host=cards(GONE)), GPU, "fail", "Xid 79 (GPU has fallen off the bus)", SUPPORT),
        (logged(79, host=hosts.NVML_SILENT), GPU, "fail", "fallen off the bus", SUPPORT),
        (replace(RTX, kernel_log=LOST), GPU, "unknown", "lost", "sudo journalctl -k | grep Xid"),
        (
            replace(system(RTX, systemd=False), kernel_log=LOST), GPU, "unknown", "lost",
            "sudo dmesg | grep Xid",
        ),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "no driver of NVIDIA's", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_xid(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.xid", host, wanted, outcome, found, hint)


def test_pain_39_a_gpu_off_the_bus_is_not_called_healthy() -> None:
    host = logged(79, host=cards(GONE))
    check("gpu.answers", host, GPU, "fail", "GPU is lost", COLD)
    check("gpu.xid", host, GPU, "fail", "Xid 79", SUPPORT)
    check("gpu.count", host, GPU, "unknown", "does not answer: NVML: GPU is lost")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (card(ecc=Ecc(True, True, 0, 7)), GPU, "pass", "1 GPU", None),
        (card(ecc=Ecc(True, True, 2, 9)), GPU, "warn", "GPU 0: 2 uncorrected errors", RESET),
        (card(NOBODY, ecc=Ecc(True, True, 2, 9)), GPU, "warn", "2 uncorrected", "reboot"),
        (card(ecc=Ecc(False, True, None, None)), GPU, "warn", "waits for a reboot", RESET),
        (card(ecc=Ecc(True, True, LOST, 0)), GPU, "unknown", "lost", None),
        (card(ecc=LOST), GPU, "unknown", "lost", None),
        (card(ecc=Ecc(False, False, None, None)), GPU, "skip", "no GPU here has such a thing", None),
        (RTX, GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_ecc(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.ecc", host, wanted, outcome, found, hint)


EXCHANGE = "have the card exchanged; take it out of use until then"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (card(remapped=Repair(False, False)), GPU, "pass", "1 GPU", None),
        (card(retired=False), GPU, "pass", "1 GPU", None),
        (card(remapped=Repair(True, False)), GPU, "warn", "GPU 0: a repair waits for a reset", RESET),
        (card(retired=True), GPU, "warn", "a repair waits", RESET),
        (card(remapped=LOST, retired=True), GPU, "warn", "a repair waits", RESET),
        (beside(remapped=Repair(False, True)), GPU, "warn", "GPU 1: a row remapping failed", EXCHANGE),
        (beside(remapped=Repair(False, True)), TWO, "fail", "GPU 1: a row remapping failed", EXCHANGE),
        (card(remapped=Repair(False, True)), GPU, "fail", "a row remapping failed", EXCHANGE),
        (card(remapped=LOST), GPU, "unknown", "lost", None),
        (card(remapped=LOST, retired=False), GPU, "unknown", "lost", None),
        (card(remapped=Repair(False, False), retired=LOST), GPU, "unknown", "lost", None),
        (RTX, GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_repair(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.repair", host, wanted, outcome, found, hint)


CABLES = "look at cooling and power cables"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(throttled=("application clocks", "sync boost")), GPU, "pass", "1 GPU", None),
        (
            beside(throttled=("power cap", "thermal")), GPU, "warn", "GPU 1: power cap, thermal",
            f"{CABLES}; for a cap: nvidia-smi -q -d PERFORMANCE,POWER -i 1",
        ),
        (card(NOBODY, throttled=("power brake",)), GPU, "warn", "power brake", CABLES),
        (card(throttled=LOST), GPU, "unknown", "lost", None),
        (card(throttled=None), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_throttled(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.throttled", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(heat=Heat(85, 90, 95)), GPU, "pass", "1 GPU", None),
        (card(heat=Heat(86, 90, 95)), GPU, "warn", "86 °C, slows down at 90 °C",
         "look at fans, airflow and dust"),
        (card(heat=Heat(45, 0, 0)), GPU, "pass", "1 GPU", None),
        (card(heat=Heat(LOST, 90, 95)), GPU, "unknown", "lost", None),
        (card(heat=Heat(45, LOST, 95)), GPU, "unknown", "lost", None),
        (card(heat=LOST), GPU, "unknown", "lost", None),
        (card(heat=Heat(45, None, None)), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_temperature(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.temperature", host, wanted, outcome, found, hint)


CAPPED = Power(60.0, 359.9, 450.0, 600.0)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1 GPU", None),
        (card(power=replace(CAPPED, limit=360.0)), GPU, "pass", "1 GPU", None),
        (beside(power=CAPPED), GPU, "warn", "GPU 1: 360 W of 450 W", "sudo nvidia-smi -pl 450 -i 1"),
        (card(NOBODY, power=CAPPED), GPU, "warn", "360 W of 450 W", None),
        (card(power=replace(CAPPED, limit=LOST)), GPU, "unknown", "lost", None),
        (card(power=replace(CAPPED, default=LOST)), GPU, "unknown", "lost", None),
        (card(power=LOST), GPU, "unknown", "lost", None),
        (card(power=Power(None, None, None, None)), GPU, "skip", "no GPU here has such a thing", None),
        *NO_CARD,
    ],
)  # fmt: skip
def test_power(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("gpu.power", host, wanted, outcome, found, hint)
