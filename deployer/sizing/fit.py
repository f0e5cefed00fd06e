"""Whether and how a model runs on devices: the best use on each engine, and the nearest one where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from deployer.frozen import dataclass
from deployer.models.metadata import Description, compact
from deployer.models.metadata.quantized import UNPACKED
from deployer.sizing import formats, speed
from deployer.sizing.devices import Device
from deployer.sizing.memory import VLLM_SHARE, Memory, Use, memory

LEAST = 512  # tokens; a chat with less is none
WANTED = 4096  # tokens that are asked for where nobody says
USERS = 1024  # the most that is looked for
SPARE = 0.97  # share of a device's free memory that may be planned away


@dataclass(frozen=True)
class Answer:
    """One engine on one device. Without `fits`, `use` is what was asked and `nearest` what would do instead.

    `context` is the most tokens that one user can have, `users` how many can have `use.context` at once.
    """

    engine: str
    device: Device
    gpus: int
    label: str
    fits: bool
    use: Use
    context: int
    users: int
    memory: Memory
    available: int
    speed: speed.Speed | None
    nearest: tuple[Nearest, ...] = ()

    @property
    def short(self) -> int:
        """Bytes that lack, on the device that holds most."""
        return max(0, self.memory.total - self.available)


@dataclass(frozen=True)
class Nearest:
    """A change that makes it fit: what to change, in words, and what then holds."""

    change: str
    label: str
    use: Use
    gpus: int
    memory: Memory


def answers(
    description: Description, devices: Sequence[Device], *, context: int | None = None, users: int | None = None,
    number: str = "f16", engines: Sequence[str] = ("llamacpp", "transformers", "vllm"),
) -> tuple[Answer, ...]:  # fmt: skip
    """An answer for each engine that can load the model on each device, best first.

    `context` and `users` are what is wanted; without them, as much as the memory holds.
    """
    found = [
        answer(made, engine, device, context=context, users=users, number=number)
        for device in devices
        for engine in engines
        if (made := loadable(description, engine, device))
    ]
    return tuple(sorted(found, key=_order))


def _order(found: Answer) -> tuple[bool, float, int]:
    rate = found.speed.one if found.speed else 0.0
    return not found.fits, -rate, found.short


def loadable(description: Description, engine: str, device: Device) -> Description | None:
    """The model in a format that this engine loads on this device, None where it loads none.

    transformers serves no embeddings. Models known by config.json alone are taken in 16 bits, and for llama.cpp as the
    GGUF that would be made of them.
    """
    if engine == "transformers" and description.kind == "embedding":
        return None
    if engine == "llamacpp":
        if description.format == "gguf":
            return description
        if description.format != "config":
            return None
        return formats.quantized(description, "MXFP4_MOE" if description.label == "MXFP4" else "F16")
    if engine == "vllm" and device.kind == "cpu":
        return None
    if description.format == "gguf":
        # transformers gets GGUF models converted to 16 bits once; vLLM is given safetensors only
        return formats.quantized(description, "BF16") if engine == "transformers" else None
    if engine == "transformers" and UNPACKED in description.label:
        return formats.unpacked(description)
    return description


def answer(
    description: Description, engine: str, device: Device, *, context: int | None = None, users: int | None = None,
    number: str = "f16", explain: bool = True,
) -> Answer:  # fmt: skip
    """The best use of a model on one engine and device, with the fewest GPUs that hold it.

    Where none holds it, and `explain`, with what would do instead.
    """
    small = compact(description)
    choices = _counts(device)
    wanted = min(context or WANTED, description.context)
    for count in choices:
        use = Use(wanted if context else LEAST, users or 1, count, number)
        if holds(small, engine, device, use):
            return _filled(small, engine, device, use, context, users)
    use = Use(wanted, users or 1, choices[-1], number)
    needed = memory(small, engine, use)
    found = Answer(engine, device, use.gpus, description.label, False, use, 0, 0, needed,
                   _available(engine, device), None)  # fmt: skip
    if not explain:
        return found
    return replace(found, nearest=tuple(nearest(description, engine, device, use)))


def _filled(
    description: Description, engine: str, device: Device, use: Use, context: int | None, users: int | None
) -> Answer:
    most = _most(description, engine, device, replace(use, context=LEAST))
    chosen = context or most
    if context and most < context:
        chosen = most
    use = replace(use, context=min(chosen, description.context))
    many = users or _users(description, engine, device, use)
    use = replace(use, users=many)
    rate = None
    if device.speed and description.kind != "embedding":  # which writes no tokens
        try:
            rate = speed.speed(
                description, engine, bandwidth=device.speed, memory=device.type, users=many,
                context=min(use.context, WANTED), gpus=max(1, use.gpus), number=use.number,
            )  # fmt: skip
        except KeyError:
            rate = None  # nobody measured that engine on such memory
    return Answer(
        engine, device, use.gpus, description.label, True, use, most, many, memory(description, engine, use),
        _available(engine, device), rate,
    )  # fmt: skip


def holds(description: Description, engine: str, device: Device, use: Use) -> bool:
    """Whether the device, and the system beside it, have room for this use."""
    need = memory(description, engine, use)
    beside = need.host_total <= device.host or not device.host
    return need.total <= _available(engine, device) and beside


def _available(engine: str, device: Device) -> int:
    return int(device.memory * (VLLM_SHARE if engine == "vllm" else SPARE))


def _counts(device: Device) -> list[int]:
    """How many GPUs to try: one, then powers of two, then all of them."""
    if device.kind == "cpu":
        return [0]
    powers = [1 << n for n in range(10) if 1 << n <= device.count]
    return sorted({*powers, device.count})


def _most(description: Description, engine: str, device: Device, use: Use) -> int:
    """The largest context of one user, in whole 256 tokens, at most what the model was trained for."""
    low, high = LEAST // 256, max(LEAST, description.context) // 256
    while low < high:
        middle = (low + high + 1) // 2
        if holds(description, engine, device, replace(use, context=middle * 256)):
            low = middle
        else:
            high = middle - 1
    return min(low * 256, description.context)


def _users(description: Description, engine: str, device: Device, use: Use) -> int:
    low, high = 1, USERS
    while low < high:
        middle = (low + high + 1) // 2
        if holds(description, engine, device, replace(use, users=middle)):
            low = middle
        else:
            high = middle - 1
    return low


def nearest(description: Description, engine: str, device: Device, use: Use) -> Iterator[Nearest]:
    """What would fit instead, each one change away from `use`, then two: each is verified by the same arithmetic."""

    def tried(change: str, made: Description, one: Use, at: Device = device) -> Nearest | None:
        if not holds(made, engine, at, one):
            return None
        return Nearest(change, made.label, one, one.gpus, memory(made, engine, one))

    small = compact(description)
    if found := _shorter(small, engine, device, use, tried):
        yield found
    if engine != "transformers" and use.number in ("f16", "bf16"):
        eight = replace(use, number="q8_0" if engine == "llamacpp" else "fp8")
        if found := tried("cache in 8 bits", small, eight):
            yield found
    smaller = None
    for name in _smaller(description, engine):
        made = compact(formats.quantized(description, name))
        smaller = tried(f"{name} weights", made, use)
        if smaller is None:
            smaller = _shorter(made, engine, device, use, tried, f"{name} weights and ")
        if smaller:
            yield smaller
            break
    if device.kind == "gpu":
        for count in (2, 4, 8, 16):
            if count <= use.gpus:
                continue
            more = replace(device, count=count)
            if found := tried(f"{count} GPUs", small, replace(use, gpus=count), more):
                yield found
                break


def _shorter(
    description: Description, engine: str, device: Device, use: Use, tried: object, before: str = ""
) -> Nearest | None:
    least = replace(use, context=LEAST)
    if use.context <= LEAST or not holds(description, engine, device, least):
        return None
    most = min(_most(description, engine, device, use), use.context)
    one = replace(use, context=most)
    assert callable(tried)
    found: Nearest | None = tried(f"{before}context of {most}", description, one)
    return found


def _smaller(description: Description, engine: str) -> tuple[str, ...]:
    """Formats that are smaller than the model's own, the largest first."""
    names = (
        formats.GGUF if engine == "llamacpp" else tuple(formats.BITS) if engine == "vllm" else ("INT8", "NF4")
    )
    made = [(formats.quantized(description, name).weights, name) for name in names]
    return tuple(name for size, name in sorted(made, reverse=True) if size < 0.97 * description.weights)
