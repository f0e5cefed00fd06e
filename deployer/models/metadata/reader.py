"""Metadata of models on this disk: a GGUF file, a folder with config.json, or a split of either."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployer.description import Description, Tensor, label_of, merged
from deployer.errors import ModelError
from deployer.models.metadata import gguf, quantized, safetensors, shapes
from deployer.models.metadata.config import chat_template, read

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# What sentence-transformers writes of a model that gives vectors: how it pools, and how much it reads.
VECTORS = ("1_Pooling/config.json", "sentence_bert_config.json")
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
    EOFError,
)


def describe(weights: Path) -> Description:
    """The model in a GGUF file or in a folder with config.json. Raises ModelError where that cannot be read."""
    try:
        if weights.is_dir() and not (weights / "config.json").exists():
            found = sorted(p for p in weights.glob("*.gguf") if not p.name.startswith("mmproj"))
            if not found:
                raise ValueError("it holds neither config.json nor a GGUF file")
            weights = found[0]
        return _gguf(weights) if weights.is_file() else _folder(weights)
    except DAMAGE as error:
        raise unreadable(weights.name, error) from error


def unreadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"the header of {name} cannot be read: {type(error).__name__} {error}",
        hint="the file is damaged or of a kind that is not known",
    )


@contextmanager
def mapped(path: Path) -> Iterator[Any]:
    """The bytes of a file, read as they are looked at. Raises OSError, ValueError for an empty file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _gguf(path: Path) -> Description:
    """One file, or the first of a split with the tensors of the others."""
    paths = [path]
    if match := SPLIT.search(path.name):
        start = path.name[: match.start()]
        paths = [path.with_name(f"{start}-{n:05d}-of-{match[2]}.gguf") for n in range(1, int(match[2]) + 1)]
    with mapped(paths[0]) as data:
        first = gguf.describe(data)
    rest: list[Tensor] = []
    for other in paths[1:]:
        with mapped(other) as data:
            rest += gguf.tensors_of(data)
    return gguf.with_tensors(first, (*first.tensors, *rest)) if rest else first


def _folder(folder: Path) -> Description:
    config = json.loads((folder / "config.json").read_text())
    tokenizer = folder / "tokenizer_config.json"
    told = json.loads(tokenizer.read_text()) if tokenizer.exists() else {}
    names = tuple(p.name for p in folder.iterdir())
    chats = chat_template(config, told, names)
    found: list[Tensor] = []
    for path in sorted(folder.glob("*.safetensors")):
        with mapped(path) as data:
            found += safetensors.tensors(data)
    vectors = [json.loads((folder / name).read_text()) for name in VECTORS if (folder / name).exists()]
    return from_config(config, found, chats=chats, vectors=vectors)


def from_config(config: Any, found: Sequence[Tensor], *, chats: bool, vectors: Sequence[Any] = ()) -> Description:
    """The model of a config.json, with the tensors of its files where those are known; `vectors` are those of VECTORS.

    vLLM reads no more tokens than sentence-transformers would (get_sentence_transformer_tokenizer_config).
    """
    said = {key: value for one in vectors for key, value in one.items()}
    made = _from_config(config, found, chats)
    context = min(made.context, said.get("max_seq_length") or made.context)
    return replace(made, pooling=_pooling(said), context=context)


def _pooling(said: Mapping[str, Any]) -> str:
    """`pooling_mode_mean_tokens: true`, and newer `pooling_mode: mean`, as vLLM reads them."""
    names = [key.removeprefix("pooling_mode_") for key, value in said.items() if value is True]
    words = (name.replace("lasttoken", "last").partition("_")[0] for name in (str(said.get("pooling_mode")), *names))
    return next((word for word in words if word in ("cls", "mean", "last")), "")


def _from_config(config: Any, found: Sequence[Tensor], chats: bool) -> Description:
    if not found:
        return shapes.describe(config, chat_template=chats)
    plan = read(config)
    bits = quantized.packed(config)
    made = merged(_placed(_counted(t, bits), len(plan.kinds)) for t in found)
    return Description(
        architecture=str((config.get("architectures") or [plan.family])[0]),
        format="safetensors",
        label=quantized.label(config) or label_of(made),
        context=plan.context,
        hidden=plan.hidden,
        heads=plan.heads,
        feed_forward=shapes.widest(plan),
        vocabulary=plan.vocabulary,
        layers=plan.layers,
        tensors=made,
        experts=plan.experts,
        active=plan.active,
        chat_template=chats,
    )


def _counted(tensor: Tensor, bits: int | None) -> Tensor:
    """With the numbers that are packed into its integers; vectors are indices and zeros."""
    whole = {"I32": 32, "U8": 8}.get(tensor.kind)
    if not bits or not whole or tensor.columns == tensor.numbers:
        return tensor
    return replace(tensor, numbers=tensor.numbers * whole // bits)


def _placed(tensor: Tensor, layers: int) -> Tensor:
    """Layers behind the last one predict further tokens; engines leave them out unless asked."""
    beyond = tensor.layer is not None and tensor.layer >= layers
    return replace(tensor, role="nextn") if beyond else tensor
