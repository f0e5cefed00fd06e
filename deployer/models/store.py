"""The store: verified models on this host, each a folder with a manifest; whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployer import resources
from deployer.errors import HashMismatch
from deployer.frozen import dataclass
from deployer.home import Home, read_json, sync_folder, write_json
from deployer.models.headers import Header, format_of, read_header
from deployer.profile import ModelChoice

MANIFEST = "manifest.json"
CONVERTER = resources.PACKAGE / "models" / "gguf_to_safetensors.py"


@dataclass(frozen=True)
class StoredFile:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model of the store. `revision` is the resolved commit of an hf:// source."""

    id: str
    folder: Path
    source: str
    revision: str | None
    format: str
    files: tuple[StoredFile, ...]
    header: Header
    converted_from: str | None = None

    @property
    def weights(self) -> Path:
        """What an engine is pointed at: the one GGUF file, or the folder."""
        return weights_in(self.folder, self.format, [f.path for f in self.files])

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


def model_id(choice: ModelChoice, patterns: tuple[str, ...]) -> str:
    """The name of a choice in the store: readable, and different for any other revision, file or hash.

    `patterns` are the files that the engine needs; they count when the choice names none.
    """
    name = choice.source.partition("://")[2].rstrip("/").rsplit("/", 1)[-1]
    files = [asdict(f) for f in choice.files] or patterns
    key = json.dumps([choice.source, choice.revision, files])
    return f"{_slug(name)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def converted_id(origin: str) -> str:
    """The name of `origin` converted to safetensors by the converter as it is now."""
    return f"{origin}-safetensors-{hashlib.sha256(CONVERTER.read_bytes()).hexdigest()[:8]}"


class Store:
    """Models under `home.models`."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def get(self, id_: str) -> Model | None:
        """The model, or None when it is not there or a file of it is missing or has another size."""
        folder = self._home.models / id_
        raw = read_json(folder / MANIFEST)
        if not isinstance(raw, dict):
            return None
        try:
            model = _model(folder, raw)
        except (KeyError, TypeError):
            return None
        for file in model.files:
            path = folder / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return None
        return model

    def all(self) -> tuple[Model, ...]:
        """Every whole model, sorted by id."""
        found = (self.get(path.parent.name) for path in sorted(self._home.models.glob(f"*/{MANIFEST}")))
        return tuple(model for model in found if model)

    def verify(self, model: Model) -> None:
        """Reads every byte again. Raises HashMismatch with the first file that is not what it was."""
        for file in model.files:
            if hash_file(model.folder / file.path) != file.sha256:
                raise HashMismatch(
                    f"{file.path} of {model.id} has changed on this disk",
                    hint=f"remove {model.folder} and pull it again",
                )

    def staging(self, id_: str) -> Path:
        """Where the files of `id_` gather before they are whole; kept after a kill, so that work goes on."""
        path = self._home.models / ".staging" / id_
        path.mkdir(parents=True, exist_ok=True)
        return path

    def add(
        self, id_: str, *, source: str, revision: str | None, converted_from: str | None = None,
        make: Callable[[Path], Mapping[str, str]],
    ) -> Model:  # fmt: skip
        """Calls `make` to fill the staging folder, then puts it into the store in one rename.

        `make` returns the SHA-256 of the files for which it knows it; the others are hashed here.
        """
        staging = self.staging(id_)
        known = make(staging)
        files = []
        for path in sorted(p for p in staging.rglob("*") if p.is_file()):
            path.chmod(0o644)  # the engine's user in the container is not this one
            with path.open("rb") as file:
                os.fsync(file.fileno())
            name = str(path.relative_to(staging))
            files.append(StoredFile(name, path.stat().st_size, known.get(name) or hash_file(path)))
        names = [f.path for f in files]
        format_ = format_of(names)
        manifest = {
            "source": source,
            "revision": revision,
            "format": format_,
            "header": asdict(read_header(weights_in(staging, format_, names))),
            "converted_from": converted_from,
            "added": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "files": [asdict(f) for f in files],
        }
        write_json(staging / MANIFEST, manifest)
        target = self._home.models / id_
        if target.exists():  # a broken one: `get` did not accept it
            import shutil

            shutil.rmtree(target)
        staging.rename(target)
        sync_folder(target.parent)
        model = self.get(id_)
        assert model is not None
        return model


def weights_in(folder: Path, format_: str, names: Sequence[str]) -> Path:
    """What an engine is pointed at in a model's folder."""
    return folder / next(n for n in names if n.endswith(".gguf")) if format_ == "gguf" else folder


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _model(folder: Path, raw: Any) -> Model:
    return Model(
        id=folder.name,
        folder=folder,
        source=raw["source"],
        revision=raw["revision"],
        format=raw["format"],
        files=tuple(StoredFile(**entry) for entry in raw["files"]),
        header=Header(**raw["header"]),
        converted_from=raw["converted_from"],
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"
