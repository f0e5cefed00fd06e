"""Which models of the catalogue a host runs best: for each the most precise format that leaves room to chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployer.frozen import dataclass
from deployer.models.metadata.ggml import BLOCKS
from deployer.sizing import catalogue, formats
from deployer.sizing.catalogue import Entry
from deployer.sizing.devices import Device
from deployer.sizing.fit import Answer, answer

ROOM = 8192  # tokens that one user must have
PLEASANT = 5.0  # tokens per second; people read slower than that
FORMATS = formats.GGUF[1:7]  # Q8_0 to Q3_K_M; what is smaller loses too much
_HALF = 0.7  # billions of numbers; below this, quantizing costs more than it gives


@dataclass(frozen=True)
class Ranked:
    """A model with how it would run."""

    entry: Entry
    answer: Answer

    @property
    def quick(self) -> bool:
        return self.answer.speed is None or self.answer.speed.one >= PLEASANT


def rank(devices: Sequence[Device], engines: Sequence[str], context: int = ROOM) -> tuple[Ranked, ...]:
    """All models that fit, best first: those that answer at reading speed, then by size."""
    found = [one for entry in catalogue.entries() if (one := best(entry, devices, engines, context))]
    return tuple(sorted(found, key=lambda r: (not r.quick, -r.entry.billions, r.entry.name)))


def best(
    entry: Entry, devices: Sequence[Device], engines: Sequence[str], context: int = ROOM
) -> Ranked | None:
    """How `entry` would run here: on the first device that holds it, in the most precise format; None if nowhere."""
    room = min(context, entry.compact("BF16").context)
    for device in devices:
        slow = None
        for engine, format_ in _tries(entry, device, engines):
            if entry.billions * 1e9 * _least(format_) / 8 > device.memory * device.count:
                continue
            made = answer(entry.compact(format_), engine, device, context=room, users=1, explain=False)
            if not made.fits or made.context < room:
                continue
            if made.speed is None or made.speed.one >= PLEASANT:
                return Ranked(entry, answer(entry.compact(format_), engine, device))
            slow = slow or (engine, format_)
        if slow:
            return Ranked(entry, answer(entry.compact(slow[1]), slow[0], device))
    return None


def _least(format_: str) -> float:
    """Bits that a number takes at least in a model of this format."""
    if format_ in formats.BITS or format_ == "MXFP4_MOE":
        return 4.0
    if format_ not in BLOCKS:
        format_ = format_.removesuffix("_M")
    numbers, size = BLOCKS[format_]
    return 8 * size / numbers


def _tries(entry: Entry, device: Device, engines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Engines and formats from the most precise to the smallest."""
    for engine in engines:
        if engine == "vllm" and device.kind == "gpu":
            yield engine, entry.native
    if "llamacpp" in engines:
        if entry.billions < _HALF:
            yield "llamacpp", "F16"
        for name in ("MXFP4_MOE", *FORMATS) if entry.native == "MXFP4" else FORMATS:
            yield "llamacpp", name
    if "transformers" in engines and entry.native == "BF16":
        yield "transformers", "BF16"
