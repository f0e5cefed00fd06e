"""What a model's headers say: GGUF metadata and config.json; weights are never read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployer.errors import ModelError
from deployer.frozen import dataclass


@dataclass(frozen=True)
class Header:
    """What sizing needs. `context` is what the model was trained for, in tokens.

    `head_dim` is of keys and values alike; models that differ there are sized by the larger.
    """

    architecture: str
    context: int
    layers: int
    kv_heads: int
    head_dim: int
    chat_template: bool


def format_of(names: Sequence[str]) -> str:
    """`gguf` or `safetensors`. Raises ModelError for anything else: pickle files can run code."""
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    if any(name.endswith(".safetensors") for name in names):
        return "safetensors"
    raise ModelError(
        f"no weights that are safe to load among {len(names)} files",
        hint="only .safetensors and .gguf are loaded; pickle files (.bin, .pt) can run code",
    )


def read_header(weights: Path) -> Header:
    """The header of a GGUF file or of a folder with config.json. Raises ModelError when it is damaged."""
    from deployer.models.metadata.reader import DAMAGE

    try:
        header = _from_gguf(weights) if weights.is_file() else _from_config(weights)
        for number in (header.context, header.layers, header.kv_heads, header.head_dim):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"{number!r} is not a number of something")
        if not isinstance(header.architecture, str):
            raise ValueError(f"{header.architecture!r} is not an architecture")
        return header
    except DAMAGE as error:
        raise ModelError(
            f"the header of {weights.name} cannot be read: {type(error).__name__} {error}",
            hint="the file is damaged or of a kind that is not known",
        ) from error


def _from_config(folder: Path) -> Header:
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads") or config["n_head"]
    hidden = config.get("hidden_size") or config["n_embd"]
    tokenizer, limit = folder / "tokenizer_config.json", folder / "sentence_bert_config.json"
    context = config.get("max_position_embeddings") or config["n_positions"]
    if limit.exists():  # of a model that gives vectors: engines read no more
        context = min(context, json.loads(limit.read_text()).get("max_seq_length") or context)
    return Header(
        architecture=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
        context=context,
        layers=config.get("num_hidden_layers") or config["n_layer"],
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        chat_template=(folder / "chat_template.jinja").exists()
        or (tokenizer.exists() and "chat_template" in json.loads(tokenizer.read_text())),
    )


def _from_gguf(path: Path) -> Header:
    from deployer.models.metadata import gguf
    from deployer.models.metadata.reader import mapped

    with mapped(path) as data:
        meta, _, _ = gguf.keys(data)
    arch = meta["general.architecture"]
    heads = _largest(meta[f"{arch}.attention.head_count"])
    head_dim = meta.get(f"{arch}.attention.key_length") or meta[f"{arch}.embedding_length"] // heads
    return Header(
        architecture=arch,
        context=meta[f"{arch}.context_length"],
        layers=meta[f"{arch}.block_count"],
        kv_heads=_largest(meta.get(f"{arch}.attention.head_count_kv", heads)),
        head_dim=max(head_dim, meta.get(f"{arch}.attention.value_length", 0)),
        chat_template="tokenizer.chat_template" in meta,
    )


def _largest(value: Any) -> int:
    return max(value) if isinstance(value, tuple) else int(value)
