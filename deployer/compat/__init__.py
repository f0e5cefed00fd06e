"""What works with what: CUDA and drivers, GPUs and their rates. Data with sources, and pure lookups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from deployer import resources
from deployer.quantity import at_least

# Least driver of a CUDA family under minor-version compatibility: NVIDIA, "CUDA Compatibility".
FAMILY_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


@dataclass(frozen=True)
class Card:
    """Nominal facts of a GPU model; `vram` in bytes, `bandwidth` in bytes per second."""

    name: str
    compute_capability: str
    vram: int
    bandwidth: float


def newest_cuda(driver: str) -> str | None:
    """The newest CUDA whose toolkit driver `driver` reaches: `"580.65.06"` → `"13.0"`; None before 11.0."""
    found = None
    for cuda, least in _rows("cuda.tsv"):
        if at_least(driver, least):
            found = cuda
    return found


def family_driver(cuda: str) -> str | None:
    """The least driver that runs programs of this CUDA's major version, None for unknown ones."""
    return FAMILY_DRIVER.get(cuda.split(".")[0])


def card(name: str) -> Card | None:
    """The GPU model that NVML calls `name`; drivers before 465 leave out the vendor's name."""
    wanted = name.lower().removeprefix("nvidia ")
    for model, capability, vram, rate in _rows("gpus.tsv"):
        if model.lower().removeprefix("nvidia ") == wanted:
            return Card(model, capability, int(vram) << 20, float(rate) * 1e9)
    return None


@cache
def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    text = (resources.PACKAGE / "compat" / "data" / name).read_text()
    return tuple(tuple(line.split("\t")) for line in text.splitlines() if line and not line.startswith("#"))
