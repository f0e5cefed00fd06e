"""What a host has for a model: its GPUs as groups of equal ones, or its processor, as values that sizing needs."""

from __future__ import annotations

from collections.abc import Sequence

from deployer import compat
from deployer.frozen import dataclass
from deployer.host import Gpu, Host, Mig, Unknown

_HBM = 1.2e12  # bytes per second; graphics memory of single cards ends at 1.8e12, but those are named GeForce or RTX

_CORES = 8  # beyond so many, memory channels bound the rate, and one core's copy tells nothing of them


@dataclass(frozen=True)
class Device:
    """`count` alike devices. `memory` is what each can give now, `host` what the system can beside GPUs, in bytes.

    `kind` is `gpu` or `cpu`; `speed` is bytes per second of one, None when it is not known; `type` is hbm, gddr or
    ddr. `capability` is a GPU's compute capability.
    """

    kind: str
    name: str
    count: int
    memory: int
    host: int
    speed: float | None
    type: str
    capability: str | None = None

    @property
    def label(self) -> str:
        return f"{self.count} × {self.name}" if self.count > 1 else self.name


def of_host(host: Host, bandwidth: float | None) -> tuple[Device, ...]:
    """The devices of a host, GPUs first. `bandwidth` is what each of `cores(host)` reads from memory, measured."""
    system = 0 if isinstance(host.memory, Unknown) else host.memory.available
    found = []
    gpus = () if isinstance(host.gpus, Unknown) else host.gpus
    whole = [
        g for g in gpus if not (isinstance(g.mig, Mig) and g.mig.enabled) and isinstance(g.free_vram, int)
    ]
    for name in dict.fromkeys(str(g.name) for g in whole):
        alike = [g for g in whole if str(g.name) == name]
        found.append(_gpus(name, alike, system))
    processor = of_cpu(host, bandwidth)
    return (*found, processor) if processor else tuple(found)


def of_cpu(host: Host, bandwidth: float | None) -> Device | None:
    """The processor with the system's memory; None when that is not known. `bandwidth` as for `of_host`."""
    system = 0 if isinstance(host.memory, Unknown) else host.memory.available
    if not system:
        return None
    name = "processor" if isinstance(host.cpu, Unknown) else host.cpu.model or "processor"
    return Device("cpu", name, 1, system, system, bandwidth and bandwidth * cores(host), "ddr")


def of_gpus(gpus: Sequence[Gpu], host: Host) -> Device | None:
    """Some GPUs of a host as one group; None when there is none, or when the free memory of one is not known."""
    if not gpus or not all(isinstance(g.free_vram, int) for g in gpus):
        return None
    system = 0 if isinstance(host.memory, Unknown) else host.memory.available
    return _gpus(str(gpus[0].name), gpus, system)


def cores(host: Host) -> int:
    """How many cores are counted for the rate of the processor's memory."""
    return 1 if isinstance(host.cpu, Unknown) else max(1, min(host.cpu.cores, host.cpu.threads, _CORES))


def named(card: compat.Card, count: int, system: int) -> Device:
    """`count` cards of a model that is not here, as NVML would show them with nothing running."""
    return Device(
        "gpu", card.name, count, card.vram or 0, system, card.bandwidth, _type(card), card.compute_capability
    )


def _gpus(name: str, alike: Sequence[Gpu], system: int) -> Device:
    card = compat.card(name)
    capability = alike[0].compute_capability
    return Device(
        kind="gpu",
        name=name,
        count=len(alike),
        memory=min(g.free_vram for g in alike if isinstance(g.free_vram, int)),
        host=system,
        speed=card.bandwidth if card else None,
        type=_type(card) if card else "gddr",
        capability=capability if isinstance(capability, str) else None,
    )


def _type(card: compat.Card) -> str:
    return "hbm" if (card.group == "datacenter" and card.bandwidth >= _HBM) or "V100" in card.name else "gddr"
