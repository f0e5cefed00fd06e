"""The manifest of a model in the store: what it is, where it came from, and the hash of every file."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deployer.errors import ModelError
from deployer.frozen import dataclass
from deployer.home import read_json, write_json
from deployer.models.headers import Header, format_of, read_header

MANIFEST = "manifest.json"
SCHEMA = 3  # 2 had no recipe and no loss, 1 no `schema`, no licence and no blobs; both are still read
SAFE = (".safetensors", ".gguf")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(I?Q\d(?:_[0-9A-Za-z]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP8|MXFP4|NVFP4)(?![A-Za-z0-9])", re.IGNORECASE
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.\w+$)")


@dataclass(frozen=True)
class StoredFile:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Step:
    """One program that a conversion ran, and what it was told; in `arguments`, `{in}` and `{out}` stand for folders.

    `engine` is the image with its id, or the name of the engine's folder.
    """

    tool: str
    engine: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text: `windows` are the mean negative log-likelihoods of each window, in nats.

    `error` is the standard error of their mean over tokens: how far another text of this kind may lie.
    """

    windows: tuple[float, ...]
    error: float
    tool: str
    engine: str

    @property
    def value(self) -> float:
        return math.exp(statistics.fmean(self.windows))


@dataclass(frozen=True)
class Loss:
    """What a conversion cost: perplexity of original and result on the text with this SHA-256, in windows of tokens."""

    text: str
    window: int
    original: Perplexity
    result: Perplexity

    @property
    def tokens(self) -> int:
        """Tokens that are scored: of each window the second half, whose first one is only read."""
        return len(self.result.windows) * (self.window - 1 - self.window // 2)

    @property
    def change(self) -> float:
        """How much larger the result's perplexity is, as a share: 0.02 for 2 %."""
        return self.result.value / self.original.value - 1

    @property
    def change_error(self) -> float | None:
        """Standard error of `change` from the differences of single windows; None where they are not the same ones."""
        pairs = list(zip(self.original.windows, self.result.windows, strict=False))
        if len(self.original.windows) != len(self.result.windows) or len(pairs) < 2:
            return None
        spread = statistics.stdev(after - before for before, after in pairs)
        return (1 + self.change) * spread / math.sqrt(len(pairs))


@dataclass(frozen=True)
class Model:
    """A model of the store. `revision` is the resolved commit of an hf:// source.

    `quantization` is what the weights are kept in, as their makers call it; `context` is in tokens. What the
    source does not tell is None. `allowed` are the loosenings that its pull needed. Of a conversion `recipe` is how it
    was made and `loss` what it cost, None where nobody measured it.
    """

    id: str
    folder: Path
    source: str
    revision: str | None
    format: str
    files: tuple[StoredFile, ...]
    converted_from: str | None = None
    licence: str | None = None
    quantization: str | None = None
    context: int | None = None
    chat_template: bool | None = None
    allowed: tuple[str, ...] = ()
    recipe: tuple[Step, ...] = ()
    loss: Loss | None = None

    @property
    def weights(self) -> Path:
        """What an engine is pointed at: the one GGUF file (of several parts the first), or the folder."""
        return weights_in(self.folder, self.format, [f.path for f in self.files])

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)

    @property
    def header(self) -> Header:
        """Read from the file at each call. Raises ModelError when it is damaged."""
        return read_header(self.weights)


def read_manifest(folder: Path) -> Model | None:
    """The model that the manifest in `folder` speaks of, whether its files are there or not; None without one."""
    raw = read_json(folder / MANIFEST)
    try:
        return _model(folder, raw) if isinstance(raw, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def write_manifest(folder: Path, model: Model, added: str) -> None:
    """Writes it whole, synced to the disk. `added` is a time in UTC, as `2026-01-31T12:00:00Z`."""
    raw = {key: value for key, value in asdict(model).items() if key not in ("id", "folder")}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "id": model.id, "added": added, **raw})


def keep_loss(model: Model, loss: Loss) -> Model:
    """Writes into the manifest what the conversion cost. The caller is the model's one writer."""
    raw = read_json(model.folder / MANIFEST) or {}
    write_json(model.folder / MANIFEST, {**raw, "schema": SCHEMA, "loss": asdict(loss)})
    return replace(model, loss=loss)


def describe(
    id_: str,
    folder: Path,
    files: Sequence[StoredFile],
    *,
    source: str,
    revision: str | None,
    converted_from: str | None = None,
    licence: str | None = None,
    allowed: tuple[str, ...] = (),
    recipe: tuple[Step, ...] = (),
    loss: Loss | None = None,
) -> Model:
    """What the headers in `folder` say of the model. Raises ModelError when they cannot be read."""
    names = [f.path for f in files]
    pickled = "pickle" in allowed and not any(name.endswith(SAFE) for name in names)
    format_ = "pickle" if pickled else format_of(names)
    weights = weights_in(folder, format_, names)
    header = read_header(weights)
    return Model(
        id=id_,
        folder=folder,
        source=source,
        revision=revision,
        format=format_,
        files=tuple(files),
        converted_from=converted_from,
        licence=licence,
        quantization=quantization_of(weights),
        context=header.context,
        chat_template=header.chat_template,
        allowed=allowed,
        recipe=recipe,
        loss=loss,
    )


def weights_in(folder: Path, format_: str, names: Sequence[str]) -> Path:
    """What an engine is pointed at in a model's folder."""
    return folder / min(n for n in names if n.endswith(".gguf")) if format_ == "gguf" else folder


def quantization_of(weights: Path) -> str | None:
    """How weights are kept: the word in a GGUF file's name, or what a folder's config.json says."""
    if weights.suffix == ".gguf":
        return quantization_in(weights.name)
    config = read_json(weights / "config.json")
    if not isinstance(config, dict):
        return None
    text = config.get("text_config")
    how = config.get("quantization_config")
    if isinstance(how, dict) and isinstance(how.get("quant_method"), str):
        bits = how.get("bits") or ("4" if how.get("load_in_4bit") else "8" if how.get("load_in_8bit") else "")
        groups = how.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():  # of compressed-tensors
            kept = group.get("weights") if isinstance(group, dict) else None
            bits = bits or (kept.get("num_bits") if isinstance(kept, dict) else None) or ""
        return f"{how['quant_method']}{f' {bits}-bit' if bits else ''}"
    for key in ("dtype", "torch_dtype"):
        for level in (config, text):
            if isinstance(level, dict) and isinstance(kind := level.get(key), str):
                return kind
    return None


def quantization_in(name: str) -> str | None:
    """The quantization that a file's name tells, in capitals: `tiny-q4_k_m.gguf` → `Q4_K_M`."""
    found = _QUANTIZATION.findall(_SPLIT.sub("", name).removesuffix(".gguf"))
    return found[-1].upper() if found else None


def parts_of(name: str) -> str:
    """The name without its number when it is one part of several: `a-00001-of-00003.gguf` → `a.gguf`."""
    return _SPLIT.sub("", name)


def parse(content: bytes, folder: Path) -> Model:
    """The model of a manifest that was exported. Raises ModelError when it is none."""
    try:
        raw = json.loads(content)
        return _model(folder, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"a manifest cannot be read: {error!r}", hint="export it again") from error


def _model(folder: Path, raw: Any) -> Model:
    header = raw.get("header") or {}  # of schema 1
    return Model(
        id=raw.get("id", folder.name),
        folder=folder,
        source=raw["source"],
        revision=raw["revision"],
        format=raw["format"],
        files=tuple(StoredFile(**entry) for entry in raw["files"]),
        converted_from=raw["converted_from"],
        licence=raw.get("licence"),
        quantization=raw.get("quantization"),
        context=raw.get("context", header.get("context")),
        chat_template=raw.get("chat_template", header.get("chat_template")),
        allowed=tuple(raw.get("allowed", ())),
        recipe=tuple(Step(**{**step, "arguments": tuple(step["arguments"])}) for step in raw.get("recipe", ())),
        loss=_loss(raw.get("loss")),
    )


def _loss(raw: Any) -> Loss | None:
    if raw is None:
        return None
    both = [Perplexity(**{**raw[one], "windows": tuple(raw[one]["windows"])}) for one in ("original", "result")]
    return Loss(raw["text"], raw["window"], both[0], both[1])
