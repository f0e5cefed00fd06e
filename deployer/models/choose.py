"""Which files of a source are fetched: what the engine needs, in one format and one quantization, and nothing else."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from deployer.errors import HashMismatch, ModelError
from deployer.models.manifest import PICKLES, SAFE, parts_of, quantization_in
from deployer.models.sources import Listing, RemoteFile
from deployer.profile import ModelChoice, ModelFile
from deployer.profile.schema import ALLOWABLE
from deployer.quantity import format_size

REMOTE_CODE, PICKLE = ALLOWABLE
INDEX = "model.safetensors.index.json"


def choose(
    choice: ModelChoice, listing: Listing, patterns: tuple[str, ...], allow: Collection[str] = ()
) -> tuple[RemoteFile, ...]:
    """The files to fetch. Raises ModelError when there are none that may be, or when it is not clear which."""
    files = _named(choice, listing) if choice.files else _needed(listing, patterns, allow)
    safe = [f for f in files if f.path.endswith(SAFE)]
    if safe or PICKLE not in allow:
        files = [f for f in files if not f.path.endswith(PICKLES)]
    if not safe and not (PICKLE in allow and any(f.path.endswith(PICKLES) for f in files)):
        deep = next((f.path for f in listing.files if "/" in f.path and f.path.endswith(".gguf")), None)
        raise ModelError(
            f"{choice.source} has no weights that are safe to load",
            hint=f"its GGUF files are in folders: name one in model.files of a profile, as `path: {deep}`"
            if deep and not choice.files
            else "only .safetensors and .gguf are loaded; name a GGUF file in model.files if it has several",
        )
    if any(f.path.endswith(".safetensors") for f in safe):
        files = [f for f in files if not f.path.endswith(".gguf")]
    elif safe:
        if not choice.files:
            files = safe
        _one_quantization(choice, safe)
    if listing.remote_code and not all(f.path.endswith(".gguf") for f in files):
        refuse_remote_code(choice.source, allow)
    return tuple(files)


def refuse_remote_code(source: str, allow: Collection[str]) -> None:
    """Raises ModelError unless it is allowed that a model brings Python of its own."""
    if REMOTE_CODE not in allow:
        raise ModelError(
            f"{source} wants to run Python code that comes with it (trust_remote_code)",
            hint="take another model, or one in GGUF; having read its code, you may say --allow remote-code, or "
            "model.allow: [remote-code] in a profile",
        )


def brings_code(config: Path) -> bool:
    """Whether a config.json names classes that are not those of the engine."""
    try:
        return bool(json.loads(config.read_text()).get("auto_map"))
    except (OSError, ValueError, AttributeError):
        return False


def indexed(files: Collection[RemoteFile], index: Path) -> tuple[RemoteFile, ...]:
    """The files without weights that `model.safetensors.index.json` does not name; some sources hold them twice.

    Raises ModelError when one that it names is not among them.
    """
    try:
        content = json.loads(index.read_text())["weight_map"]
        needed = set(content.values()) if isinstance(content, Mapping) else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return tuple(files)
    if lacking := sorted(needed - {f.path for f in files}):
        raise ModelError(
            f"the index of the weights names {lacking[0]}, which the source does not have",
            hint="the model is not whole where it comes from: take another revision",
        )
    # layers behind the model, which make its vectors, have an index of their own or none
    needed |= {f.path for f in files if "_Dense/" in f.path}
    return tuple(f for f in files if f.path in needed or not f.path.endswith(".safetensors"))


def _needed(listing: Listing, patterns: tuple[str, ...], allow: Collection[str]) -> list[RemoteFile]:
    more = (("*.py",) if REMOTE_CODE in allow else ()) + (("*.bin", "*.pt", "*.pth") if PICKLE in allow else ())
    found = [f for f in listing.files if any(_match(f.path, p) for p in (*patterns, *more))]
    found = [f for f in found if not f.path.startswith("mmproj")]  # of images; the engines here read text
    twice = [f for f in found if f.path.startswith("consolidated") and f.path.endswith(".safetensors")]
    if any(f.path.startswith("model") and f.path.endswith(".safetensors") for f in found):
        found = [f for f in found if f not in twice]
    return found


def _named(choice: ModelChoice, listing: Listing) -> list[RemoteFile]:
    chosen: dict[str, RemoteFile] = {}
    for wish in choice.files:
        matches = [f for f in listing.files if _match(f.path, wish.path)]
        if not matches:
            matches = [
                f for f in listing.files if f.path.endswith(".gguf") and quantization_in(f.path) == wish.path.upper()
            ]
        if not matches:
            names = ", ".join(f.path for f in listing.files[:8])
            raise ModelError(f"{choice.source} has no {wish.path}", hint=f"it has: {names}")
        for file in matches:
            chosen[file.path] = _pinned(file, wish)
    return list(chosen.values())


def _pinned(file: RemoteFile, wish: ModelFile) -> RemoteFile:
    if wish.sha256 and file.sha256 and wish.sha256 != file.sha256:
        raise HashMismatch(
            f"{file.path}: the profile pins sha256 {wish.sha256}, the source lists {file.sha256}",
            hint="the source was changed, or the pin is wrong; nothing was fetched",
        )
    size = wish.size if file.size is None else file.size
    return replace(file, size=size, sha256=wish.sha256 or file.sha256)


def _one_quantization(choice: ModelChoice, files: Collection[RemoteFile]) -> None:
    sizes: dict[str, int] = {}
    for file in files:
        sizes[parts_of(file.path)] = sizes.get(parts_of(file.path), 0) + (file.size or 0)
    if len(sizes) > 1:
        listed = [f"{name}: {format_size(size)}" for name, size in sorted(sizes.items(), key=lambda one: one[1])]
        raise ModelError(
            f"{choice.source} has {len(sizes)} GGUF models",
            hint="name one, in model.files of the profile or behind a colon: hf://owner/name:Q4_K_M",
            evidence=listed[:30],
        )


def _match(path: str, pattern: str) -> bool:
    # `*` stays inside one folder: `*.json` is not `onnx/config.json`
    inside = not path.startswith("/") and ".." not in path.split("/")
    return inside and path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)
