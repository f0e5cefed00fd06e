"""How much memory a model takes on an engine, and how fast it can be at most. Pure arithmetic, in bytes.

`memory` gives every part for one engine, `fit` looks for the best use of devices, `catalogue` holds models to choose
from. docs/fit.md says what each term is and how well it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.sizing.speed import rate_bound as rate_bound
from deployer.sizing.speed import rate_floor as rate_floor

if TYPE_CHECKING:
    from deployer.models.metadata import Description
    from deployer.sizing.memory import Memory

# Memory of the program itself with its compute buffers, where nothing is known of the model but its size. Measured
# with SmolLM2-135M as resident memory less weights and cache: llama-server 36 MB, transformers serve 477 MB; taken
# larger to leave room for larger vocabularies and longer prompts.
PROGRAM = {"llamacpp": 300 << 20, "transformers": 1000 << 20}


def need(description: Description, *, context: int, concurrency: int, engine: str, gpus: int = 0) -> Memory:
    """Memory for `concurrency` requests of `context` tokens each, on the device that holds most."""
    from deployer.sizing.memory import Use, memory

    return memory(description, engine, Use(context, concurrency, gpus))
