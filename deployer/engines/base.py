"""What `deployer` must know of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from deployer.frozen import dataclass

# How often a thread looks whether the others are done before it sleeps. GNU's default is 300000, a millisecond: when
# another program has one of the cores, all threads wait for the one that has none, and burn what it waits for.
# SmolLM2-135M on two cores, tokens/s with the default and with this: llama.cpp 71 and 73 alone, 1.0 to 1.8 and 21 to
# 27 at a load of ten; transformers 2 and 12 at a load of three.
PATIENT = {"GOMP_SPINCOUNT": "300"}


@dataclass(frozen=True)
class Job:
    """One model to be served; paths are as the engine sees them. `gpus` is how many it may use.

    `half` asks for float16 on GPUs without bfloat16 (compute capability below 8.0). `cache` is the width of cached
    numbers, `share` the part of each GPU's memory that the engine may take. `kind` is the profile's word for what the
    model does; `whole`: each text has to be read in one batch.
    """

    program: str
    model: str
    alias: str
    host: str
    port: str
    context: int
    concurrency: int
    threads: int
    key_file: str | None
    gpus: int = 0
    half: bool = False
    cache: str = "16-bit"
    share: float = 0.0
    kind: str = "chat"
    whole: bool = False


@dataclass(frozen=True)
class Engine:
    """One engine.

    `formats` are the model formats that it loads, best first; `convert` maps a format that it cannot load
    to one that it can. `own_key` is whether it can ask for an API key itself. `files` are the patterns of
    what it needs from a source that holds more. `folder` is where its programs are
    in its images. `compiles`: it makes programs when it starts, and runs them. `paths` are those of the OpenAI API
    that it has for models that write, `vectors` those for models that give embeddings, `aliases` whether it can be told
    how clients call the model.
    """

    name: str
    formats: tuple[str, ...]
    own_key: bool
    files: tuple[str, ...]
    folder: str
    arguments: Callable[[Job], tuple[str, ...]]
    health: str = "/health"
    convert: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    compiles: bool = False
    paths: tuple[str, ...] = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
    vectors: tuple[str, ...] = ("/v1/embeddings",)
    aliases: bool = True

    def serves(self, kind: str) -> tuple[str, ...]:
        """The paths of the API that it has for a model of this kind; none where it cannot serve such a model."""
        return self.vectors if kind == "embedding" else self.paths
