"""What is known of a GPU; host/nvml.py asks for it."""

from __future__ import annotations

from deployer.frozen import dataclass
from deployer.host.base import NOT_ASKED, Fact


@dataclass(frozen=True)
class Process:
    """A program that holds memory of a GPU. `memory` in bytes; None where the driver does not tell.

    `user` is a name or a number, `container` the first 12 digits of the container's id, `state` the kernel's
    letter (`D`: cannot be ended). None: it cannot be seen from here, or there is none.
    """

    pid: int
    memory: int | None
    name: str | None
    user: str | None
    container: str | None
    state: str | None


@dataclass(frozen=True)
class Slice:
    """A MIG instance: a part of a GPU with memory of its own, in bytes."""

    uuid: Fact[str]
    name: Fact[str]
    vram: Fact[int]
    free_vram: Fact[int]


@dataclass(frozen=True)
class Mig:
    """Whether the card is cut into slices, whether it will be after a reset, and the slices."""

    enabled: bool
    pending: bool
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Ecc:
    """Error correction; `uncorrected` counts errors since the driver was loaded, `ever` since the card was made."""

    enabled: bool
    pending: bool
    uncorrected: Fact[int | None]
    ever: Fact[int | None]


@dataclass(frozen=True)
class Repair:
    """Bad memory: whether a repair waits for a reset, and whether one failed."""

    pending: bool
    failed: bool


@dataclass(frozen=True)
class Link:
    """The PCI Express link. `generation` falls when the GPU is idle; `width` does not on most cards."""

    generation: Fact[int | None]
    width: Fact[int | None]
    most_generation: Fact[int | None]
    most_width: Fact[int | None]


@dataclass(frozen=True)
class Heat:
    """Degrees Celsius; `slowdown` is where the hardware slows itself down, None where it is given otherwise."""

    now: Fact[int | None]
    slowdown: Fact[int | None]
    shutdown: Fact[int | None]


@dataclass(frozen=True)
class Power:
    """Watts: drawn now, the limit in force, what the maker sets, the most that may be set."""

    draw: Fact[float | None]
    limit: Fact[float | None]
    default: Fact[float | None]
    most: Fact[float | None]


@dataclass(frozen=True)
class NvLinks:
    """How many of the card's NVLinks are up, of how many."""

    up: int
    all: int


@dataclass(frozen=True)
class Fabric:
    """Where an NVSwitch GPU's registration stands: `not started`, `in progress`, `completed`."""

    state: str
    status: int


@dataclass(frozen=True)
class Gpu:
    """One GPU; sizes in bytes. None: the card has no such thing.

    `unified` says that the card has no memory of its own: `vram` and `free_vram` are then the system's.
    `throttled` names why its clocks are held down right now, in NVML's words;
    `utilization` is in %, over the last second.
    """

    index: int
    uuid: Fact[str]
    name: Fact[str]
    vram: Fact[int]
    free_vram: Fact[int]
    compute_capability: Fact[str]
    used: Fact[int | None] = NOT_ASKED
    reserved: Fact[int | None] = NOT_ASKED
    unified: Fact[bool] = NOT_ASKED
    pci: Fact[str | None] = NOT_ASKED
    architecture: Fact[str | None] = NOT_ASKED
    brand: Fact[str | None] = NOT_ASKED
    mig: Fact[Mig | None] = NOT_ASKED
    ecc: Fact[Ecc | None] = NOT_ASKED
    retired: Fact[bool | None] = NOT_ASKED
    remapped: Fact[Repair | None] = NOT_ASKED
    throttled: Fact[tuple[str, ...] | None] = NOT_ASKED
    heat: Fact[Heat] = NOT_ASKED
    power: Fact[Power] = NOT_ASKED
    link: Fact[Link] = NOT_ASKED
    nvlinks: Fact[NvLinks | None] = NOT_ASKED
    fabric: Fact[Fabric | None] = NOT_ASKED
    persistence: Fact[bool | None] = NOT_ASKED
    compute_mode: Fact[str | None] = NOT_ASKED
    display: Fact[bool | None] = NOT_ASKED
    processes: Fact[tuple[Process, ...] | None] = NOT_ASKED
    bus_width: Fact[int | None] = NOT_ASKED
    memory_clock: Fact[int | None] = NOT_ASKED
    utilization: Fact[int | None] = NOT_ASKED


@dataclass(frozen=True)
class Nvml:
    """What the NVIDIA management library says of the machine."""

    driver: Fact[str]
    cuda: Fact[str]
    gpus: tuple[Gpu, ...]
