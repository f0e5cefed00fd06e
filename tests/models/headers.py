"""Headers of models, written by hand: GGUF as its specification has it, and a config.json."""

from __future__ import annotations

import struct
from typing import Any

STRING, ARRAY, BOOL, U32, I32, F32, U64, F64 = 8, 9, 7, 4, 5, 6, 10, 12
CODES = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", 11: "q", F64: "d"}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: Any, inner: int | None = None) -> bytes:
    """One key with its value; `inner` is the kind of the elements of an array."""
    head = text(key) + struct.pack("<I", kind)
    if kind == STRING:
        return head + text(value)
    if kind == ARRAY:
        assert inner is not None
        items = [text(v) if inner == STRING else struct.pack(f"<{CODES[inner]}", v) for v in value]
        return head + struct.pack("<IQ", inner, len(items)) + b"".join(items)
    return head + struct.pack(f"<{CODES[kind]}", value)


def gguf(*entries: bytes, version: int = 3, count: int | None = None) -> bytes:
    count = len(entries) if count is None else count
    return struct.pack("<4sIQQ", b"GGUF", version, 1, count) + b"".join(entries)


LLAMA = {
    "llama.context_length": (U32, 8192),
    "llama.block_count": (U32, 30),
    "llama.embedding_length": (U32, 576),
    "llama.attention.head_count": (U32, 9),
    "llama.attention.head_count_kv": (U32, 3),
}
VOCABULARY = entry("tokenizer.ggml.tokens", ARRAY, ["<s>", "", "naïve", "語"] * 500, STRING)
SCORES = entry("tokenizer.ggml.scores", ARRAY, [0.5, -1.0] * 1000, F32)


def llama(*more: bytes, version: int = 3, leave_out: str = "", **changed: Any) -> bytes:
    values = {key: value for key, value in LLAMA.items() if key != leave_out}
    values |= {f"llama.{key.replace('__', '.')}": value for key, value in changed.items()}
    first = () if leave_out == "general.architecture" else (entry("general.architecture", STRING, "llama"),)
    return gguf(
        *first, VOCABULARY, *(entry(key, *value) for key, value in values.items()), SCORES, *more,
        version=version,
    )  # fmt: skip


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "max_position_embeddings": 8192,
}
