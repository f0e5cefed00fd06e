"""oci://registry/name: a model that is an artifact of a container registry, one layer for each file.

The layers of four makers are understood: ORAS and whoever names files by its annotation, ModelPack (CNCF), Docker Model
Runner and Ollama. A layer's digest is the SHA-256 of its file, so the manifest's own digest pins all of the model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import ModelError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.registry import Registry, parse
from deployer.fetch.wanted import Address
from deployer.models.sources.base import Listing, RemoteFile, Source
from deployer.profile import ModelChoice

if TYPE_CHECKING:
    import httpx

TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"
LICENCES = "org.opencontainers.image.licenses"
_NAMES = (FILEPATH, "org.cnai.model.filepath", TITLE)  # the second is what ModelPack called it at first
_UNPACK = "io.deis.oras.content.unpack"  # ORAS: this layer is a folder, in a tar
_ORAS_FILE = "application/vnd.oci.image.layer.v1.tar"  # what ORAS calls every file, though it is none
_PACKED = re.compile(r"[.+](tar|gzip|zstd)\b")
_BESIDE = re.compile(r"application/vnd\.(cncf|cnai)\.model\.(doc|code|dataset)\.|application/vnd\.oci\.empty\.v1")
# What layers without a name hold. Ollama's template, system prompt and parameters are in its own language: an engine
# takes the template that the GGUF file has.
_WEIGHTS = {
    "application/vnd.docker.ai.gguf.v3": ".gguf",
    "application/vnd.ollama.image.model": ".gguf",
    "application/vnd.docker.ai.safetensors": ".safetensors",
}
_OTHERS = {
    "application/vnd.docker.ai.license": "LICENSE",
    "application/vnd.ollama.image.license": "LICENSE",
    "application/vnd.docker.ai.chat.template.jinja": "chat_template.jinja",
    "application/vnd.docker.ai.mmproj": "mmproj.gguf",
    "application/vnd.docker.ai.gguf.v3.mmproj": "mmproj.gguf",
    "application/vnd.ollama.image.projector": "mmproj.gguf",
}
_OWN = tuple(f"application/vnd.ollama.image.{kind}" for kind in ("template", "system", "params", "messages"))
_ADAPTERS = ("application/vnd.ollama.image.adapter", "application/vnd.docker.ai.gguf.v3.lora")


@functools.lru_cache(maxsize=4)  # one signs in once, and not for each file
def _registry(place: str, client: httpx.Client, config: Path | None) -> Registry:
    return Registry(client, parse(place), config)


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    place = parse(choice.source)
    version = choice.revision or place.version or "latest"
    found = _registry(place.place, client, web.docker).manifest(version)
    try:
        files = files_of(found.raw["layers"], place.at(version))
        licence = (found.raw.get("annotations") or {}).get(LICENCES)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SourceUnreachable(
            f"the manifest of {place.at(version)} cannot be read: {error!r}", hint="push it again"
        ) from error
    return Listing(found.digest, files, licence if isinstance(licence, str) else None)


def files_of(layers: Sequence[Mapping[str, Any]], where: str) -> tuple[RemoteFile, ...]:
    """The files that the layers of a manifest are. Raises ModelError for what is packed, and for an adapter."""
    files: dict[str, RemoteFile] = {}
    shut: list[str] = []
    for layer in layers:
        kind, digest, size = str(layer["mediaType"]), str(layer["digest"]), int(layer["size"])
        if kind in _ADAPTERS:
            raise ModelError(
                f"{where} is an adapter (LoRA) on another model", hint="take one whose weights are whole"
            )
        name = _name(layer, layers)
        if name is None or _packed(layer):
            if not _BESIDE.match(kind) and kind not in _OWN:
                shut.append(f"{kind}  {name or 'without a name'}")
            continue
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or size < 0:
            raise ValueError(f"{name} has the digest {digest} and {size} bytes")
        file = RemoteFile(name, size, digest.removeprefix("sha256:"))
        if files.setdefault(name, file) != file and kind not in _OTHERS:  # Ollama has several licences
            raise ModelError(f"{where} has two files {name}", hint="push it again, each file with its own name")
    if shut and not any(name.endswith(".gguf") for name in files):  # a GGUF file needs nothing beside it
        raise ModelError(
            f"{where} has layers that are no single files: a container image, or files packed in a tar",
            hint="push it again with one layer for each file: oras push, modctl build --raw, or deployer models push",
            evidence=shut[:20],
        )
    return tuple(files.values())


def _packed(layer: Mapping[str, Any]) -> bool:
    annotations, kind = layer.get("annotations") or {}, str(layer["mediaType"])
    if annotations.get(_UNPACK) == "true":
        return True
    return bool(_PACKED.search(kind)) and not (kind == _ORAS_FILE and TITLE in annotations)


def _name(layer: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> str | None:
    annotations, kind = layer.get("annotations") or {}, str(layer["mediaType"])
    for key in _NAMES:
        if isinstance(name := annotations.get(key), str) and name:
            return name.removeprefix("./")
    if kind in _OTHERS:
        return _OTHERS[kind]
    if kind not in _WEIGHTS:
        return None
    parts = [one["digest"] for one in layers if one["mediaType"] == kind]
    if len(parts) == 1:
        return f"model{_WEIGHTS[kind]}"
    return f"model-{parts.index(layer['digest']) + 1:05d}-of-{len(parts):05d}{_WEIGHTS[kind]}"


def _addresses(
    choice: ModelChoice, listing: Listing, file: RemoteFile, client: httpx.Client, web: Web
) -> tuple[Address, ...]:
    place = parse(choice.source)
    registry = _registry(place.place, client, web.docker)
    return (Address(f"{place.base}/blobs/sha256:{file.sha256}", fresh=registry.headers),)


SOURCE = Source("oci", lambda address, _web: f"{parse(address).origin}/v2/", _listing, _addresses)
