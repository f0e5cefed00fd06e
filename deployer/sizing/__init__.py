"""How much memory a model takes on an engine, and how fast it can be at most. Pure arithmetic, in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.frozen import dataclass
from deployer.quantity import format_size

if TYPE_CHECKING:
    from deployer.models import Header

KV_VALUE = 2  # bytes of one cached number: 16 bit in both engines unless told otherwise

# Memory of the program itself with its compute buffers, on a CPU. Measured with SmolLM2-135M (vocabulary of
# 49152) as resident memory less weights and cache: llama-server 36 MB (323 MB with 98 MB of weights and 189 MB of
# cache), transformers serve 477 MB (746 MB with 269 MB of weights); taken larger to leave room for larger
# vocabularies and longer prompts.
PROGRAM = {"llamacpp": 300 << 20, "transformers": 1000 << 20}

# The least share of the memory-bandwidth bound that a healthy engine reaches. Published figures for GPUs lie
# between 0.3 and 0.9 (docs/architecture.md, "Acceptance"), an engine that fell back to the CPU stays under 0.1.
# On CPUs other programs share the cores. Every step also has a cost that no bandwidth explains (Python and kernel
# launches in eager mode, the sampler, the way to the client), which is all that small models show; in seconds.
FLOOR_GPU, FLOOR_CPU = 0.2, 0.03
STEP_GPU, STEP_CPU = 0.02, 0.2


@dataclass(frozen=True)
class Need:
    """Bytes of each part."""

    weights: int
    cache: int
    program: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.program

    def __str__(self) -> str:
        return (
            f"{format_size(self.total)} (weights {format_size(self.weights)}, "
            f"cache {format_size(self.cache)}, program {format_size(self.program)})"
        )


def need(header: Header, weights: int, *, context: int, concurrency: int, engine: str) -> Need:
    """Memory for `concurrency` requests of `context` tokens each.

    Cache of one token: 2 (key and value) × layers × key-value heads × head size × 2 bytes, as for every
    multi-head, grouped-query or multi-query attention; an upper bound for models that cache less.
    """
    token = 2 * header.layers * header.kv_heads * header.head_dim * KV_VALUE
    return Need(weights, token * context * concurrency, PROGRAM[engine])


def rate_bound(weights: int, bandwidth: float) -> float:
    """Tokens per second that one user gets at most: each token reads all weights once from memory."""
    return bandwidth / weights


def rate_floor(weights: int, bandwidth: float, *, gpu: bool) -> float:
    """Tokens per second under which something is wrong with the deployment."""
    share, step = (FLOOR_GPU, STEP_GPU) if gpu else (FLOOR_CPU, STEP_CPU)
    return 1 / (1 / (share * rate_bound(weights, bandwidth)) + step)
