"""How fast a model answers: bytes that one step reads, over the memory's bandwidth, and a fixed cost of each step."""

from __future__ import annotations

from functools import cache as once
from typing import TYPE_CHECKING

from deployer.frozen import dataclass
from deployer.resources import PACKAGE

if TYPE_CHECKING:
    from deployer.models.metadata import Description

# The least share of the memory-bandwidth bound that a healthy engine reaches. Published figures for GPUs lie
# between 0.3 and 0.9 (docs/architecture.md, "Acceptance"), an engine that fell back to the CPU stays under 0.1.
# On CPUs other programs share the cores. Every step also has a cost that no bandwidth explains (Python and kernel
# launches in eager mode, the sampler, the way to the client), which is all that small models show; in seconds.
FLOOR_GPU, FLOOR_CPU = 0.2, 0.03
STEP_GPU, STEP_CPU = 0.02, 0.2
# Bytes per second of a disk where nothing better is known: an NVMe drive, read once.
DISK = 2.0e9


@dataclass(frozen=True)
class Efficiency:
    """A row of data/speed.tsv: the share of the bandwidth that a step reaches, and seconds that each step costs."""

    engine: str
    memory: str
    bits: str
    share: float
    step: float
    source: str


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one user alone, of all together, and the seconds until weights are loaded."""

    one: float
    total: float
    load: float
    source: str


@once
def table() -> tuple[Efficiency, ...]:
    """Measured efficiencies, with where each comes from."""
    lines = (PACKAGE / "sizing/data/speed.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return tuple(Efficiency(e, m, b, float(share), float(step), src) for e, m, b, share, step, src in rows)


def efficiency(engine: str, memory: str, bits: str) -> Efficiency:
    """The row for an engine, a kind of memory (`hbm`, `gddr`, `ddr`) and width of weights (`16` or `few`)."""
    for row in table():
        if row.engine == engine and row.memory == memory and row.bits in (bits, "any"):
            return row
    raise KeyError(f"{engine} {memory} {bits}")


def read_per_step(description: Description, users: int = 1) -> float:
    """Bytes of weights that one step reads: all but the embedding table, of which it takes a row for each user.

    Of the experts, those that `users` tokens choose: 1 - (1 - k/E)^users of them, if all are chosen alike. A tied
    table is read whole, as the output layer.
    """
    total = 0.0
    share = 1.0
    if description.experts and description.active:
        share = 1 - (1 - min(1.0, description.active / description.experts)) ** users
    for tensor in description.tensors:
        group, role = tensor.group, tensor.role
        if group == "tower" or role.startswith("nextn") or role == "per_layer_token_embd":
            continue
        if group == "embeddings" and not description.tied:
            continue
        total += tensor.bytes * (share if group == "experts" else 1.0)
    return total


def speed(
    description: Description, engine: str, *, bandwidth: float, memory: str, users: int = 1, context: int = 0,
    gpus: int = 1, number: str = "f16", disk: float = DISK,
) -> Speed:  # fmt: skip
    """Decode speed at `context` tokens in each cache. `bandwidth` is one device's, in bytes per second.

    vLLM's GPUs work at once; llama.cpp's and transformers' one after the other, so more of them hold more and
    are no faster.
    """
    from deployer.sizing import cache

    bits = "16" if description.weights * 8 > 12 * description.parameters else "few"
    row = efficiency(engine, memory, bits)
    rate = bandwidth * row.share * (gpus if engine == "vllm" else 1)

    def step(count: int) -> float:
        kept = cache.request(description, context, engine, number=number) if context else 0
        return (read_per_step(description, count) + count * kept) / rate + row.step

    return Speed(1 / step(1), users / step(users), description.weights / disk, row.source)


def rate_bound(weights: int, bandwidth: float) -> float:
    """Tokens per second that one user gets at most: each token reads all weights once from memory."""
    return bandwidth / weights


def rate_floor(weights: int, bandwidth: float, *, gpu: bool) -> float:
    """Tokens per second under which something is wrong with the deployment."""
    share, step = (FLOOR_GPU, STEP_GPU) if gpu else (FLOOR_CPU, STEP_CPU)
    return 1 / (1 / (share * rate_bound(weights, bandwidth)) + step)
