"""GPU models: what NVIDIA says of each, and what a GPU must be known by before anything can be judged."""

from __future__ import annotations

import re

from deployer.compat.tables import rows
from deployer.frozen import dataclass
from deployer.quantity import at_least

# Brands whose GPUs may use compat libraries, in the words of NVIDIA_REQUIRE_*: the numbers that cuda-compat 13.1
# lists as "Device" in its ELF note .note.cuda.fwd_compatibility (1 2 7 … 14 of nvmlBrandType_t).
FORWARD = frozenset(
    "quadro tesla vapps vpc vcs vws cloudgaming quadrortx nvidiartx nvidia".split()  # noqa: SIM905
)
# Short formats of tensor cores, and since which compute capability.
_FORMATS = (("bf16", "8.0"), ("fp8", "8.9"), ("fp4", "10.0"))


@dataclass(frozen=True)
class Card:
    """Nominal facts of a GPU model; None where NVIDIA publishes none or the part is missing.

    `vram` in bytes, `bandwidth` in bytes per second; `tensor` (dense BF16/FP16 with FP32 accumulation), `fp8` and
    `fp4` in operations per second. `group` is datacenter, geforce, titan, quadro, rtx-pro or jetson. `marks` say
    how sure memory, bandwidth and tensor rate are: the head of `data/gpus.tsv`.
    """

    name: str
    compute_capability: str
    vram: int | None
    bandwidth: float
    group: str
    brands: tuple[str, ...]
    tensor: float | None
    fp8: float | None
    fp4: float | None
    marks: str

    @property
    def formats(self) -> tuple[str, ...]:
        """The short number formats that its tensor cores compute in."""
        return tuple(name for name, least in _FORMATS if at_least(self.compute_capability, least))


@dataclass(frozen=True)
class Device:
    """One GPU as far as it is known; `brands` holds every word that drivers use for its brand, () when unknown."""

    name: str
    compute_capability: str | None
    group: str | None
    brands: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str | None, compute_capability: str | None = None) -> Device:
        """From what NVML says; what it does not say comes from the table, if the name is in it."""
        found = card(name) if name else None
        if found:
            capability = compute_capability or found.compute_capability
            return cls(found.name, capability, found.group, found.brands)
        group, brands = _guess(name or "")
        return cls(name or "a GPU without a name", compute_capability, group, brands)

    @property
    def forward(self) -> bool | None:
        """Whether compat libraries work on it at all; None when its brand is not known."""
        if self.group == "jetson":
            return True
        return bool(FORWARD & set(self.brands)) if self.brands else None

    @property
    def short(self) -> str:
        """`RTX 4090` for `NVIDIA GeForce RTX 4090`."""
        return _bare(self.name, re.IGNORECASE)


def models() -> tuple[Card, ...]:
    """Every GPU model in the table."""
    return tuple(_card(row) for row in rows("gpus.tsv"))


def card(name: str) -> Card | None:
    """The GPU model that NVML calls `name`; drivers before 465 leave out the vendor's name."""
    wanted = name.lower().removeprefix("nvidia ")
    for row in rows("gpus.tsv"):
        if row[0].lower().removeprefix("nvidia ") == wanted:
            return _card(row)
    return None


def find(name: str) -> Card | None:
    """The GPU model a person means by `name`: `RTX 4090`, `rtx4090`, `H100`; None when none or several differ.

    Of several that are alike in compute capability and class, as with `H100`, the one with the shortest name.
    """
    if exact := card(name):
        return exact
    wanted = _squash(name)
    same = [c for c in models() if _squash(c.name) == wanted]
    words = set(_words(name))
    alike = same or [c for c in models() if words and words <= set(_words(c.name))]
    kinds = {(c.compute_capability, c.group, c.brands) for c in alike}
    return min(alike, key=lambda c: len(c.name)) if len(kinds) == 1 else None


def near(name: str) -> tuple[str, ...]:
    """Up to three names that may have been meant."""
    words = set(_words(name))
    within = [c.name for c in models() if words and words <= set(_words(c.name))]
    bare = {_bare(c.name, re.IGNORECASE).lower(): c.name for c in models()}
    import difflib

    close = difflib.get_close_matches(_bare(name, re.IGNORECASE).lower(), bare, 3, 0.5)
    return tuple((within or [bare[c] for c in close])[:3])


def _card(row: tuple[str, ...]) -> Card:
    name, capability, vram, bandwidth, group, brands, *rates, marks = row
    tensor, fp8, fp4 = (None if rate in ("-", "?") else float(rate) * 1e12 for rate in rates)
    return Card(
        name,
        capability,
        None if vram == "-" else int(vram) << 20,
        float(bandwidth) * 1e9,
        group,
        () if brands == "unknown" else tuple(brands.split("|")),
        tensor,
        fp8,
        fp4,
        marks,
    )


def _guess(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Class and brands of a model that is not in the table, from the word NVIDIA puts into the name."""
    text = name.lower().removeprefix("nvidia ")
    for start, group, brands in (
        ("geforce", "geforce", ("geforce",)),
        ("titan", "titan", ("titan",)),
        ("quadro", "quadro", ("quadro", "quadrortx")),
        ("tesla", "datacenter", ("tesla", "nvidia")),
        ("rtx", "rtx-pro", ("nvidiartx",)),
    ):
        if text.startswith(start):
            return group, brands
    return None, ()


def _bare(name: str, flags: int = 0) -> str:
    return re.sub(r"^(nvidia\s+)?(geforce\s+|tesla\s+)?", "", name.strip(), flags=flags)


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _bare(name.lower()))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in ("", "nvidia")]
