"""How much memory a model takes on an engine, in bytes: part by part, on the device that holds most."""

from __future__ import annotations

from dataclasses import replace

from deployer.frozen import dataclass
from deployer.models.metadata import Description
from deployer.quantity import format_size
from deployer.sizing import buffers, cache

ENGINES = ("llamacpp", "transformers", "vllm")
# What a process holds before any model. llama.cpp: 15 to 19 MB and 200 bytes for each piece of the vocabulary
# (measured, 0c1e570). transformers: 477 MB resident less weights with torch's CPU build (measured, 5.0), taken larger.
_PROCESS = {"llamacpp": 20 << 20, "transformers": 700 << 20, "vllm": 1 << 30}
_PIECE = 200
# llama.cpp keeps room for its graph: 1024 nodes or 8 for each tensor, and with delta nets 40 for each of 512 tokens or
# 32 for each tensor (llama-context.cpp, graph_max_nodes). A small Qwen3-Next takes 25.5 MB more than others (0c1e570).
_NODE = 1300
_NODES, _TENSORS = 1024, 12  # a layer has 9 to 16 tensors
# What a CUDA context takes on each GPU before any model. vLLM on an RTX 3090 starts with 0.63 GiB taken; gpustack
# and llmfit assume 0.5 GB. Not one figure is published by NVIDIA, so the larger is taken.
_CONTEXT = 645 << 20
# Communication buffers for each GPU when several share every layer: 0.54 against 0.13 GiB (llm-d-planner's runs).
_COMMUNICATION = {1: 140 << 20, 2: 560 << 20}
PROMPT_CACHE = 256 << 20  # of llama-server, for earlier prompts; its own 8 GiB would fill small hosts
# Of /dev/shm, for each of several GPUs: runtimes/container.py sets it. NVIDIA's document of NCCL gives two GPUs 1 GiB.
_SHARED = 512 << 20
VLLM_SHARE = 0.92  # gpu_memory_utilization, vLLM's default since 0.11
SEQUENCES, BATCH = 256, 2048  # vLLM's max_num_seqs and max_num_batched_tokens on cards below 70 GiB


@dataclass(frozen=True)
class Part:
    """One term, in bytes, with what it is."""

    name: str
    bytes: int
    about: str


@dataclass(frozen=True)
class Memory:
    """What each device needs: `parts` of the one that holds most, and what stays in the host's memory beside a GPU."""

    engine: str
    gpus: int
    parts: tuple[Part, ...]
    host: tuple[Part, ...] = ()

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def host_total(self) -> int:
        return sum(part.bytes for part in self.host)

    def part(self, name: str) -> int:
        return sum(part.bytes for part in self.parts if part.name == name)

    def times(self, number: int) -> Memory:
        """What so many of it need together, on one device."""
        return replace(self, parts=tuple(replace(part, bytes=part.bytes * number) for part in self.parts))

    def __str__(self) -> str:
        told = ", ".join(f"{p.name} {format_size(p.bytes)}" for p in self.parts if p.bytes)
        return f"{format_size(self.total)} ({told})"


@dataclass(frozen=True)
class Use:
    """How a model is served: `number` is the format of cached numbers, `gpus` 0 for a CPU.

    `sequences` and `batch` are vLLM's own limits; None follows from `users`.
    """

    context: int
    users: int = 1
    gpus: int = 0
    number: str = "f16"
    sequences: int | None = None
    batch: int = BATCH


def memory(description: Description, engine: str, use: Use) -> Memory:
    """The memory of `use.users` requests of `use.context` tokens each, with the model, on an engine.

    Raises KeyError for an unknown engine or cache format.
    """
    return {"llamacpp": _llamacpp, "transformers": _transformers, "vllm": _vllm}[engine](description, use)


def weights(description: Description, engine: str) -> int:
    """Bytes of what an engine loads: heads that predict further tokens stay out, and llama.cpp reads no tower.

    All experts are in memory, whichever are used.
    """
    skipped = {"nextn", *(("tower",) if engine == "llamacpp" else ())}
    return sum(t.bytes for t in description.tensors if t.role.split(".")[0] not in skipped)


def _llamacpp(d: Description, use: Use) -> Memory:
    held = weights(d, "llamacpp")
    kept = use.users * cache.request(d, use.context, "llamacpp", number=use.number)
    embeds = d.kind == "embedding"
    scratch = (buffers.embedding if embeds else buffers.llamacpp)(d, use.context, use.users)
    read = f"rows of a batch of {use.context if embeds and d.whole else cache.UBATCH} tokens"
    prompts = Part("prompts", 0 if embeds else PROMPT_CACHE, "the server's memory of earlier prompts")
    process = _PROCESS["llamacpp"] + _PIECE * d.vocabulary + _NODE * _nodes(d)
    served = 4 * use.users * (d.vocabulary + d.hidden)
    if not use.gpus:
        return Memory("llamacpp", 0, (
            Part("weights", held, "every tensor as it is in the file, mapped from it"),
            Part("cache", kept, f"{use.users} × {use.context} tokens, rounded up to 256"),
            Part("compute", scratch, read),
            prompts,
            Part("process", process + served, "the program, its vocabulary, its answers"),
        ))  # fmt: skip
    table = sum(t.bytes for t in d.tensors if t.group == "embeddings")
    spread = (
        held if d.tied else held - table
    )  # a tied table is copied: its rows on the host, the product on a GPU
    return Memory("llamacpp", use.gpus, (
        Part("weights", _layers(spread, d, use.gpus), "all layers; the embedding table stays on the host"),
        Part("cache", _layers(kept, d, use.gpus), f"{use.users} × {use.context} tokens, rounded up to 256"),
        Part("compute", scratch, f"{read}, on each GPU"),
        Part("context", _CONTEXT, "CUDA's own, on each GPU"),
    ), (
        Part("weights", table, "the embedding table"),
        prompts,
        Part("process", process + served, "the program, its vocabulary, its answers"),
    ))  # fmt: skip


def _nodes(d: Description) -> int:
    """The nodes of a graph that llama.cpp keeps room for."""
    tensors = _TENSORS * len(d.layers)
    if any(t.role in ("ssm_ba", "ssm_beta", "ssm_alpha") for t in d.tensors):
        return max(40 * 512, 32 * tensors)
    return max(_NODES, 8 * tensors)


def _transformers(d: Description, use: Use) -> Memory:
    held = weights(d, "transformers")
    kept = use.users * cache.request(d, use.context, "transformers", number=use.number)
    scratch = buffers.transformers(d, use.context, use.users, gpus=use.gpus)
    parts = (
        Part("weights", _layers(held, d, use.gpus), "every tensor, embeddings in 16 bits"),
        Part("cache", _layers(kept, d, use.gpus), f"{use.users} × {use.context} tokens"),
        Part("compute", scratch, "the rows of one prompt, read in one piece"),
    )
    process = Part("process", _PROCESS["transformers"], "Python and torch")
    if not use.gpus:
        return Memory("transformers", 0, (*parts, process))
    return Memory("transformers", use.gpus, (*parts, Part("context", _CONTEXT, "CUDA's own")), (process,))


def _vllm(d: Description, use: Use) -> Memory:
    """Tensor parallelism: every layer is split; norms, routers and latent projections are on every GPU."""
    gpus = max(1, use.gpus)
    at_once = use.sequences or sequences(use.users)
    kept = use.users * cache.shared(d, use.context, "vllm", gpus=gpus, number=use.number)
    batch = step(use.context, whole=d.whole, least=use.batch)
    return Memory("vllm", gpus, (
        Part("weights", split(d, gpus), "every tensor, split over the GPUs"),
        Part("cache", kept, f"{use.users} × {use.context} tokens in blocks of {cache.BLOCK}"),
        Part("compute", buffers.vllm(d, sequences=at_once, batch=batch, gpus=gpus), "the sampler's logits"),
        Part("graphs", buffers.VLLM_GRAPHS, "CUDA graphs"),
        Part("communication", _COMMUNICATION[min(gpus, 2)], "what is not torch's"),
        Part("context", _CONTEXT, "CUDA's own"),
    ), (Part("process", _PROCESS["vllm"], "Python and torch"), *_shared(gpus)))  # fmt: skip


def _shared(gpus: int) -> tuple[Part, ...]:
    """Shared memory, where GPUs cannot write to each other: NCCL's, at most what containers are given of it."""
    size = shared_memory(gpus)
    return (Part("shared", size, "NCCL's, at most"),) if size else ()


def shared_memory(gpus: int) -> int:
    """Bytes of /dev/shm that the programs of so many GPUs get; 0: what every container has is enough."""
    return gpus * _SHARED if gpus > 1 else 0


def sequences(users: int) -> int:
    """vLLM's max_num_seqs for so many users, as engines/vllm.py sets it."""
    return max(users, 16)


def step(context: int, *, whole: bool, least: int = BATCH) -> int:
    """vLLM's max_num_batched_tokens: a text that cannot be read in pieces has to fit."""
    return max(least, context) if whole else least


def split(description: Description, gpus: int) -> int:
    """Bytes of weights on each of `gpus` GPUs that split every layer. `replicated` says what each holds whole."""
    whole = weights(description, "vllm") + _padding(description)
    copied = replicated(description)
    return -(-(whole - copied) // gpus) + copied


def _padding(description: Description) -> int:
    """What vLLM adds to MXFP4 experts: rows are filled up to 256 numbers.

    gpt-oss has rows of 2880, so its experts grow by a fifteenth: 13.47 and 64.38 GiB in vLLM's log where the files
    have 12.82 and 60.77 (llm-d-planner's runs).
    """
    packed = (t for t in description.tensors if t.kind == "MXFP4")
    return sum(t.bytes * cache.padded(t.columns, 256) // t.columns - t.bytes for t in packed)


def replicated(description: Description) -> int:
    """Bytes that every GPU holds whole: norms, routers, and what makes latent caches (ReplicatedLinear in vLLM)."""
    latent = ("attn_kv_a_mqa", "attn_q_a", "indexer")
    return sum(
        t.bytes for t in description.tensors
        if t.role != "nextn" and (t.group == "other" or t.role.startswith(latent))
    )  # fmt: skip


def _layers(size: int, d: Description, gpus: int) -> int:
    """The largest share when whole layers are dealt to `gpus` devices."""
    if gpus <= 1:
        return size
    count = len(d.layers) + 1  # the output layer counts as one
    return size * -(-count // gpus) // count
