"""GGUF files of any size that take no room on the disk: real headers, and weights that are holes (zeros)."""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deployer.models.metadata.ggml import TYPES, size
from tests.models.headers import ARRAY, BOOL, F32, I32, STRING, U32, entry, text

NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
ALIGN = 32
Tensors = dict[str, tuple[tuple[int, ...], str]]


def _key(name: str, value: Any) -> bytes:
    if isinstance(value, bool):
        return entry(name, BOOL, value)
    if isinstance(value, int):
        return entry(name, U32, value)
    if isinstance(value, float):
        return entry(name, F32, value)
    if isinstance(value, str):
        return entry(name, STRING, value)
    if value and isinstance(value[0], bool):
        return entry(name, ARRAY, value, BOOL)
    return entry(name, ARRAY, value, STRING if value and isinstance(value[0], str) else I32)


def vocabulary(count: int) -> dict[str, Any]:
    """A tokenizer of `count` pieces that llama.cpp accepts."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [f"t{n}" for n in range(count)],
        "tokenizer.ggml.token_type": [3] + [1] * (count - 1),
        "tokenizer.ggml.merges": ["t 0"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }


LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pieces(count: int) -> dict[str, Any]:
    """A tokenizer of BERT (WordPiece) with `count` pieces: every letter, at the beginning of a word and inside."""
    made = [*MARKS, *(f"\u2581{c}" for c in LETTERS), *LETTERS]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": [*made, *(f"\u2581{n}" for n in range(count - len(made)))],
        "tokenizer.ggml.token_type": [3] * len(MARKS) + [1] * (count - len(MARKS)),
        **{f"tokenizer.ggml.{name}_token_id": number for number, name in enumerate(
            ("padding", "unknown", "cls", "seperator", "mask"))},
        "tokenizer.ggml.bos_token_id": 2,
    }  # fmt: skip


def bert(
    *, layers: int = 2, h: int = 64, heads: int = 4, wide: int = 256, vocab: int = 300, context: int = 512,
    pooling: int | None = 1, kind: str = "F32",
) -> tuple[dict[str, Any], Tensors]:  # fmt: skip
    """Keys and tensors of an encoder as llama.cpp's converter writes BERT; `pooling` 1 is the mean of all tokens."""
    values = {
        "context_length": context, "block_count": layers, "embedding_length": h, "feed_forward_length": wide,
        "attention.head_count": heads, "attention.layer_norm_epsilon": 1e-12, "attention.causal": False,
        **({} if pooling is None else {"pooling_type": pooling}),
    }  # fmt: skip
    keys = {"general.architecture": "bert", **{f"bert.{name}": v for name, v in values.items()}, **pieces(vocab)}
    tensors: Tensors = {
        "token_embd.weight": ((h, vocab), kind),
        "position_embd.weight": ((h, context), "F32"),
        "token_types.weight": ((h, 2), "F32"),
        "token_embd_norm.weight": ((h,), "F32"),
        "token_embd_norm.bias": ((h,), "F32"),
    }
    shapes = {"attn_q": (h, h), "attn_k": (h, h), "attn_v": (h, h), "attn_output": (h, h), "ffn_up": (h, wide),
              "ffn_down": (wide, h)}  # fmt: skip
    for i in range(layers):
        for name, shape in shapes.items():
            tensors[f"blk.{i}.{name}.weight"] = (shape, kind)
            tensors[f"blk.{i}.{name}.bias"] = ((shape[1],), "F32")
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{i}.{name}.weight"] = tensors[f"blk.{i}.{name}.bias"] = ((h,), "F32")
    return keys, tensors


def random(path: Path, keys: Mapping[str, Any], tensors: Tensors) -> Path:
    """The file with random weights, and norms of ones; all tensors are in 32 bits."""
    import random

    chance = random.Random(1)
    head = header(keys, tensors)
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGN))
        for name, (shape, kind) in tensors.items():
            assert kind == "F32"
            count = math.prod(shape)
            norm = name.endswith("norm.weight")
            numbers = array("f", [1.0] * count if norm else [chance.gauss(0, 0.2) for _ in range(count)]).tobytes()
            file.write(numbers + bytes(-len(numbers) % ALIGN))
    return path


def header(keys: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The bytes before the weights."""
    listed, offset = [], 0
    for name, (shape, kind) in tensors.items():
        count = 1
        for length in shape:
            count *= length
        listed.append(
            text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, NUMBERS[kind], offset)
        )
        offset += -(-size(kind, count) // ALIGN) * ALIGN
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(listed), len(keys))
    return head + b"".join(_key(k, v) for k, v in keys.items()) + b"".join(listed)


def write(path: Path, keys: Mapping[str, Any], tensors: Tensors) -> Path:
    """The file: its length is real, its weights are holes."""
    head = header(keys, tensors)
    start = -(-len(head) // ALIGN) * ALIGN
    total = 0
    for shape, kind in tensors.values():
        count = 1
        for length in shape:
            count *= length
        total += -(-size(kind, count) // ALIGN) * ALIGN
    path.write_bytes(head)
    os.truncate(path, start + total)
    return path


def attention(i: int, h: int, heads: int, kv: int, key: int, value: int, kind: str) -> Tensors:
    b = f"blk.{i}."
    return {
        f"{b}attn_norm.weight": ((h,), "F32"),
        f"{b}attn_q.weight": ((h, heads * key), kind),
        f"{b}attn_k.weight": ((h, kv * key), kind),
        f"{b}attn_v.weight": ((h, kv * value), kind),
        f"{b}attn_output.weight": ((heads * value, h), kind),
    }


def feed_forward(i: int, h: int, wide: int, kind: str) -> Tensors:
    b = f"blk.{i}."
    return {
        f"{b}ffn_norm.weight": ((h,), "F32"),
        f"{b}ffn_gate.weight": ((h, wide), kind),
        f"{b}ffn_up.weight": ((h, wide), kind),
        f"{b}ffn_down.weight": ((wide, h), kind),
    }


def experts(i: int, h: int, wide: int, count: int, kind: str) -> Tensors:
    b = f"blk.{i}."
    return {
        f"{b}ffn_norm.weight": ((h,), "F32"),
        f"{b}ffn_gate_inp.weight": ((h, count), "F32"),
        f"{b}ffn_gate_exps.weight": ((h, wide, count), kind),
        f"{b}ffn_up_exps.weight": ((h, wide, count), kind),
        f"{b}ffn_down_exps.weight": ((wide, h, count), kind),
    }


def ends(h: int, vocab: int, kind: str, *, tied: bool = True) -> Tensors:
    out = {} if tied else {"output.weight": ((h, vocab), kind)}
    return {"token_embd.weight": ((h, vocab), kind), "output_norm.weight": ((h,), "F32"), **out}


def norms(layers: Iterable[int], names: Mapping[str, int]) -> Tensors:
    return {f"blk.{i}.{name}.weight": ((length,), "F32") for i in layers for name, length in names.items()}


def plain(
    arch: str, *, layers: int, h: int, heads: int, kv: int, wide: int, vocab: int, key: int = 0, value: int = 0,
    kind: str = "Q8_0", context: int = 32768, tied: bool = True, experts_: int = 0, active: int = 0,
    more: Mapping[str, Any] | None = None, norms_: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], Tensors]:  # fmt: skip
    """Keys and tensors of a model whose layers are all attention and feed-forward, as `llama` and its kin."""
    key = key or h // heads
    value = value or key
    keys: dict[str, Any] = {
        "general.architecture": arch,
        f"{arch}.context_length": context,
        f"{arch}.block_count": layers,
        f"{arch}.embedding_length": h,
        f"{arch}.feed_forward_length": wide,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv,
        f"{arch}.attention.key_length": key,
        f"{arch}.attention.value_length": value,
        f"{arch}.rope.dimension_count": key,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        **({f"{arch}.expert_count": experts_, f"{arch}.expert_used_count": active,
            f"{arch}.expert_feed_forward_length": wide} if experts_ else {}),
        **{f"{arch}.{name}": v for name, v in (more or {}).items()},
        **vocabulary(vocab),
    }  # fmt: skip
    tensors = ends(h, vocab, kind, tied=tied)
    for i in range(layers):
        tensors |= attention(i, h, heads, kv, key, value, kind)
        tensors |= experts(i, h, wide, experts_, kind) if experts_ else feed_forward(i, h, wide, kind)
    return keys, tensors | norms(range(layers), norms_ or {})
