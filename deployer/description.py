"""What a model is made of, as values: its layers by what they keep, its tensors by their part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from deployer.frozen import dataclass

# Parts of a model. A dense feed-forward network is read for every token, as shared experts are; of `experts` only
# some are. `tower` stands for what sees or hears; `other` are norms, biases and routers.
GROUPS = ("embeddings", "output", "attention", "recurrent", "dense", "experts", "shared", "tower", "other")


@dataclass(frozen=True)
class Layer:
    """What one layer keeps of a request. All counts are numbers, not bytes.

    `kind` is `full` (every token), `sliding` (the last `window` tokens), `mla` (`latent` numbers for every token),
    `encoder` (every token sees every other, and nothing is kept) or `none` (no attention, or the cache of another
    layer). `state` and `history` are kept once for each request, whatever its length: the recurrent state, and what a
    short convolution looks back at. A layer can have both (Falcon-H1). `index` is what a sparse-attention indexer keeps
    for every token (DeepSeek-V3.2).
    """

    kind: str
    kv_heads: int = 0
    key: int = 0
    value: int = 0
    window: int = 0
    latent: int = 0
    state: int = 0
    history: int = 0
    index: int = 0

    @property
    def per_token(self) -> int:
        """Numbers that one token adds to the cache of this layer."""
        if self.kind == "mla":
            return self.latent + self.index
        return 0 if self.kind in ("encoder", "none") else self.kv_heads * (self.key + self.value)


@dataclass(frozen=True)
class Tensor:
    """Tensors of one role and layer (experts of a layer together). `columns` is the length of a row.

    `role` is llama.cpp's name without layer and ending, as `attn_v`; `kind` its number format, as `Q4_K` or
    `BF16`. `layer` is None outside of the layers.
    """

    role: str
    layer: int | None
    columns: int
    numbers: int
    kind: str
    bytes: int

    @property
    def group(self) -> str:
        return group_of(self.role)


@dataclass(frozen=True)
class Description:
    """A model as its headers tell it, without weights.

    `feed_forward` is the widest feed-forward row that one token makes in a layer; `heads` the query heads.
    `measured` says that bytes are those of a file's tensors; else they follow from the shapes that config.json
    implies. `extra` are bytes of files beside the tensors. `label` is the quantization in the field's words. `pooling`
    is how the tokens of a text become one vector: `mean`, `cls` (the first one's), `last`; or `rank`, a score; empty
    where the headers do not say.
    """

    architecture: str
    format: str
    label: str
    context: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    experts: int = 0
    active: int = 0
    chat_template: bool = False
    measured: bool = True
    extra: int = 0
    pooling: str = ""

    @property
    def kind(self) -> str:
        """What it was trained for, in the words of profiles."""
        if self.encoder or self.pooling:
            return "embedding"
        return "chat" if self.chat_template else "completion"

    @property
    def encoder(self) -> bool:
        """It reads a text in one piece and keeps nothing of it, as BERT does."""
        return any(layer.kind == "encoder" for layer in self.layers)

    @property
    def whole(self) -> bool:
        """A text has to be in one batch: every token sees all others, or their vectors are put together."""
        return self.encoder or self.pooling in ("mean", "cls")

    @property
    def weights(self) -> int:
        """Bytes of all tensors."""
        return sum(t.bytes for t in self.tensors)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(t.numbers for t in self.tensors)

    @property
    def tied(self) -> bool:
        """The output layer uses the embedding table."""
        return not any(t.role == "output" for t in self.tensors)

    @property
    def groups(self) -> dict[str, int]:
        """Bytes by group, without empty ones."""
        return by_group(self.tensors)

    @property
    def kinds(self) -> dict[str, int]:
        """How many layers of each kind there are; `recurrent` counts layers that keep a state."""
        found: dict[str, int] = {}
        for layer in self.layers:
            if layer.kind != "none":
                found[layer.kind] = found.get(layer.kind, 0) + 1
            if layer.state or layer.history:
                found["recurrent"] = found.get("recurrent", 0) + 1
        return found


def by_group(tensors: Iterable[Tensor]) -> dict[str, int]:
    found = dict.fromkeys(GROUPS, 0)
    for tensor in tensors:
        found[tensor.group] += tensor.bytes
    return {name: count for name, count in found.items() if count}


def merged(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The same with tensors of one role, layer, width and format as one: thousands of experts become a few."""
    found: dict[tuple[str, int | None, int, str], list[int]] = {}
    for t in tensors:
        sums = found.setdefault((t.role, t.layer, t.columns, t.kind), [0, 0])
        sums[0] += t.numbers
        sums[1] += t.bytes
    return tuple(Tensor(*key[:3], sums[0], key[3], sums[1]) for key, sums in found.items())


def compact(description: Description) -> Description:
    """The same with the tensors of all layers as one for each role: sums stay, and are quick to make."""
    return replace(
        description,
        tensors=merged(
            Tensor(t.role, None, t.columns, t.numbers, t.kind, t.bytes) for t in description.tensors
        ),
    )


def label_of(tensors: Sequence[Tensor]) -> str:
    """The format that holds most bytes, by name."""
    held: dict[str, int] = {}
    for t in tensors:
        held[t.kind] = held.get(t.kind, 0) + t.bytes
    return max(held, key=lambda kind: held[kind]) if held else "?"


_STARTS = (
    ("token_embd", "embeddings"),
    ("per_layer_token_embd", "embeddings"),
    ("output_norm", "other"),
    ("output", "output"),
    ("tower", "tower"),
    ("ssm_", "recurrent"),
    ("shortconv", "recurrent"),
    ("time_mix", "recurrent"),
    ("attn_", "attention"),
    ("indexer", "attention"),
    ("ffn_gate_inp", "other"),
)


@cache
def group_of(role: str) -> str:
    """The part of a model that a tensor of this role belongs to."""
    if role.endswith("_norm"):
        return "other"
    for start, group in _STARTS:
        if role == start or (role.startswith(start) and start != "output"):
            return group
    if role.startswith("ffn_"):
        if role.endswith("_exps"):
            return "experts"
        return "shared" if role.endswith("_shexp") else "dense"
    return "other"
