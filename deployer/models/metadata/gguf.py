"""GGUF headers: keys, the list of tensors, and what they say of the model; weights are never read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What the keys mean for caches is as
ggml-org/llama.cpp at commit 0c1e570 reads them (src/llama-hparams.cpp, src/models/*.cpp).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deployer.description import Description, Layer, Tensor, label_of, merged
from deployer.models.metadata.ggml import FILE_TYPES, TYPES, size

Bytes = Any  # bytes, or what looks like it: a memory map

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 28  # bytes or entries of one value; more makes no sense
_DEEPEST = 8
# Every how many layers one attends to everything, where the file does not say and llama.cpp knows by name
# (load_swa_pattern in src/models/*.cpp).
_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "llama4": 4,
    "olmo2": 4,
}
_CHUNK = {"llama4": 8192}
# Designs without a cache (llama_model::create_memory), but for those that write by diffusion.
_ENCODERS = {"bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert",
             "modern-bert", "gemma-embedding"}  # fmt: skip
_POOLING = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama_pooling_type


class Short(EOFError):
    """The data end inside the header; more of the file must be read."""


def keys(data: Bytes) -> tuple[dict[str, Any], int, int]:
    """(values by key, where the tensors are listed, how many there are). Raises Short and ValueError.

    Of lists of texts only the length is kept, as a range.
    """
    magic, version, tensors, count = _unpack("<4sIQQ", data, 0)
    if magic != b"GGUF" or version not in (2, 3) or count > 100_000 or tensors > 1_000_000:
        raise ValueError("not a GGUF file of version 2 or 3")
    found: dict[str, Any] = {}
    at = 24
    for _ in range(count):
        key, at = _text(data, at)
        (kind,) = _unpack("<I", data, at)
        found[key], at = _value(data, at + 4, kind, 0)
    return found, at, tensors


def tensors(data: Bytes, at: int, count: int) -> tuple[tuple[tuple[str, tuple[int, ...], str], ...], int]:
    """(name, shape with the row's length first, format) of each tensor, and where the header ends.

    Raises Short and ValueError.
    """
    found = []
    for _ in range(count):
        name, at = _text(data, at)
        (dimensions,) = _unpack("<I", data, at)
        if not 0 < dimensions <= 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = _unpack(f"<{dimensions}Q", data, at + 4)
        kind, _offset = _unpack("<IQ", data, at + 4 + 8 * dimensions)
        at += 16 + 8 * dimensions
        if kind not in TYPES:
            raise ValueError(f"tensor format {kind} is not known")
        found.append((name, shape, TYPES[kind][0]))
    return tuple(found), at


def describe(data: Bytes) -> Description:
    """The model of a GGUF file, from its first bytes. Raises Short, ValueError, and KeyError for a missing key."""
    meta, at, count = keys(data)
    listed, end = tensors(data, at, count)
    arch = meta["general.architecture"]
    made = merged(_tensor(name, shape, kind) for name, shape, kind in listed)
    layers = _layers(arch, meta, listed)
    vocabulary = next((t.numbers // t.columns for t in made if t.role == "token_embd"), 0)
    label = FILE_TYPES.get(meta.get("general.file_type", -1)) or label_of(made)
    return Description(
        architecture=arch,
        format="gguf",
        label=label,
        context=meta[f"{arch}.context_length"],
        hidden=meta[f"{arch}.embedding_length"],
        heads=_most(meta.get(f"{arch}.attention.head_count", 0)),
        feed_forward=_widest(arch, meta, made, len(layers)),
        vocabulary=vocabulary,
        layers=layers,
        tensors=made,
        experts=_most(meta.get(f"{arch}.expert_count", 0)),
        active=_most(meta.get(f"{arch}.expert_used_count", 0)),
        chat_template="tokenizer.chat_template" in meta,
        extra=end,
        pooling=_POOLING.get(meta.get(f"{arch}.pooling_type", 0), ""),
    )


def tensors_of(data: Bytes) -> tuple[Tensor, ...]:
    """The tensors of one file of a split. Raises Short and ValueError."""
    _, at, count = keys(data)
    return tuple(_tensor(name, shape, kind) for name, shape, kind in tensors(data, at, count)[0])


def with_tensors(first: Description, found: tuple[Tensor, ...]) -> Description:
    """The model of a split: its first file holds the keys, and each file its own tensors."""
    made = merged(found)
    vocabulary = next((t.numbers // t.columns for t in made if t.role == "token_embd"), 0)
    state = {t.layer for t in made if t.group == "recurrent"}
    layers = tuple(
        layer if i in state or layer.kind != "none" else replace(layer, state=0, history=0)
        for i, layer in enumerate(first.layers)
    )
    return replace(first, tensors=made, vocabulary=vocabulary, layers=layers)


def _layers(arch: str, meta: Mapping[str, Any], listed: tuple[Any, ...]) -> tuple[Layer, ...]:
    def get(name: str, default: Any = 0) -> Any:
        return meta.get(f"{arch}.{name}", default)

    count = int(meta[f"{arch}.block_count"]) - int(get("nextn_predict_layers"))
    heads = _each(get("attention.head_count"), count)
    kv_heads = _each(get("attention.head_count_kv", get("attention.head_count")), count)
    hidden = int(meta[f"{arch}.embedding_length"])
    even = [hidden // h if h else 0 for h in heads]
    lora, rope = int(get("attention.kv_lora_rank")), int(get("rope.dimension_count"))
    mla = bool(get("attention.key_length_mla")) or (lora and max(kv_heads) == 1)
    sliding = _sliding(arch, get, count)
    recurrent = _recurrent(count, listed)
    state, history = _state(get, hidden, heads[0] if heads else 0)
    shared = int(get("attention.shared_kv_layers"))
    found = []
    for i in range(count):
        window = int(get("attention.sliding_window") or _CHUNK.get(arch, 0)) if sliding[i] else 0
        wide = "_swa" if window and get("attention.key_length_swa") else ""
        key = int(get(f"attention.key_length{wide}") or even[i])
        value = int(get(f"attention.value_length{wide}") or even[i])
        kept = {"state": state, "history": history} if recurrent[i] else {}
        attends = kv_heads[i] > 0 and (not recurrent[i] or arch == "falcon-h1")
        if not attends or i >= count - shared:
            found.append(Layer("none", **kept))
        elif mla:
            index = int(get("attention.indexer.key_length"))
            found.append(Layer("mla", latent=lora + rope, index=index, **kept))
        else:
            kind = "encoder" if arch in _ENCODERS else "sliding" if window else "full"
            found.append(Layer(kind, kv_heads[i], key, value, window, **kept))
    return tuple(found)


def _sliding(arch: str, get: Any, count: int) -> list[bool]:
    pattern = get("attention.sliding_window_pattern", None)
    if arch == "phi3":  # llama.cpp leaves it out: the converter wrote wrong values
        return [False] * count
    if isinstance(pattern, tuple) and len(pattern) >= count:
        return [bool(p) for p in pattern[:count]]
    period = (
        int(pattern) if isinstance(pattern, int) and not isinstance(pattern, bool) else _PERIODS.get(arch, 0)
    )
    if not period or not (get("attention.sliding_window") or arch in _CHUNK):
        return [False] * count  # a window that the engine has no pattern for is not used
    return [i % period < period - 1 for i in range(count)]


def _recurrent(count: int, listed: tuple[Any, ...]) -> list[bool]:
    """Which layers keep a state: those that have tensors of state-space models or short convolutions."""
    found = [False] * count
    for name, _shape, _kind in listed:
        match = re.match(r"blk\.(\d+)\.(ssm_|shortconv\.|time_mix_)", name)
        if match and int(match[1]) < count:
            found[int(match[1])] = True
    return found


def _state(get: Any, hidden: int, heads: int) -> tuple[int, int]:
    """(numbers of the recurrent state, of the convolution's history) of one layer: llama_hparams::n_embd_s, _r."""
    inner, width, groups = int(get("ssm.inner_size")), int(get("ssm.state_size")), int(get("ssm.group_count"))
    taps = max(0, int(get("ssm.conv_kernel")) - 1)
    if each := int(get("wkv.head_size")):
        return hidden * each, int(get("token_shift_count", 2)) * hidden
    if cells := int(get("shortconv.l_cache")):
        return 0, hidden * (cells - 1)
    if each := int(get("kda.head_dim")):
        return each * each * heads, 3 * (taps or 3) * heads * each
    return width * inner, taps * (inner + 2 * groups * width)


def _widest(arch: str, meta: Mapping[str, Any], made: tuple[Tensor, ...], count: int) -> int:
    """The widest row that one token makes in a feed-forward network."""
    dense = max(_each(meta.get(f"{arch}.feed_forward_length", 0), count), default=0)
    each = _most(meta.get(f"{arch}.expert_feed_forward_length", 0))
    active = _most(meta.get(f"{arch}.expert_used_count", 0))
    return max(dense, each * active) if each else dense * max(active, 1)


def _tensor(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    numbers = 1
    for length in shape:
        numbers *= length
    match = re.match(r"blk\.(\d+)\.(.+)", name)
    role = match[2] if match else name
    for end in (".weight", ".bias", ".scale"):
        role = role.removesuffix(end)
    if name.startswith(("v.", "a.", "mm.")):
        role = "tower"
    elif len(shape) == 1:
        role = f"{role}_norm" if not role.endswith("_norm") else role
    return Tensor(role, int(match[1]) if match else None, shape[0], numbers, kind, size(kind, numbers))


def _each(value: Any, count: int) -> list[int]:
    """One number for each layer, of a list or of one number for all."""
    if isinstance(value, tuple):
        return [int(v) for v in value[:count]] + [0] * (count - len(value))
    return [int(value)] * count


def _most(value: Any) -> int:
    return max(value) if isinstance(value, tuple) else int(value)


def _value(data: Bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == _STRING:
        return _text(data, at)
    if kind != _ARRAY:
        code = _SCALARS[kind]
        return _unpack(f"<{code}", data, at)[0], at + struct.calcsize(code)
    inner, length = _unpack("<IQ", data, at)
    at += 12
    if length > _MOST or depth > _DEEPEST:
        raise ValueError("a length that makes no sense")
    if inner in _SCALARS:
        code = f"<{length}{_SCALARS[inner]}"
        return _unpack(code, data, at), at + struct.calcsize(code)
    if inner == _STRING:
        return range(length), _past_texts(data, at, length)
    if inner != _ARRAY:
        raise ValueError(f"a list of {inner}")
    for _ in range(length):
        _, at = _value(data, at, inner, depth + 1)
    return (), at


def _past_texts(data: Bytes, at: int, count: int) -> int:
    """Where a list of texts ends: half a million of them in a large vocabulary, so nothing is copied."""
    length_at = struct.Struct("<Q").unpack_from
    end = len(data)
    try:
        for _ in range(count):
            (length,) = length_at(data, at)
            at += 8 + length
            if at > end:
                break
    except struct.error:
        at = end + 1
    if at > end:
        if at > end + _MOST:
            raise ValueError("a length that makes no sense")
        raise Short("the file ends inside its header")
    return int(at)


def _text(data: Bytes, at: int) -> tuple[str, int]:
    (length,) = _unpack("<Q", data, at)
    if length > _MOST:
        raise ValueError("a length that makes no sense")
    if at + 8 + length > len(data):
        raise Short("the file ends inside its header")
    return bytes(data[at + 8 : at + 8 + length]).decode("utf-8", "replace"), at + 8 + length


def _unpack(code: str, data: Bytes, at: int) -> tuple[Any, ...]:
    if at + struct.calcsize(code) > len(data):
        raise Short("the file ends inside its header")
    return struct.unpack_from(code, data, at)
