"""The definition of a build, as `docker buildx bake` reads it: a pure function of targets and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from deployer.compat.tables import newest_cuda
from deployer.frozen import dataclass
from deployer.images.target import ARCHIVE, Target

PLATFORMS = {"linux/amd64": "amd64", "linux/arm64": "arm64"}  # to Debian's names
PROOF_PATH = "/usr/share/deployer/proof.json"


@dataclass(frozen=True)
class BuildSettings:
    """How images are built; what is None is as the engine has it.

    `base` is the word for the OS base: `archive`, or a reference of a registry's image. `registry` goes before every
    name that is pushed. `apt_mirror` stands for http://deb.debian.org.
    """

    base: str = ARCHIVE
    no_cache: bool = False
    platform: str = "linux/amd64"
    tags: tuple[str, ...] = ()
    registry: str | None = None
    push: bool = False
    apt_mirror: str | None = None
    proxy: str | None = field(default=None, repr=False)
    no_proxy: str | None = None
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    provenance: str | None = None
    builder: str | None = None


def definition(
    targets: tuple[Target, ...],
    settings: BuildSettings,
    *,
    contexts: Mapping[str, Mapping[str, Path]],
    secrets: Mapping[str, Mapping[str, Path]],
    epoch: int,
    stock: bool = False,
) -> dict[str, Any]:
    """The targets to make and all that they stand on; `contexts` are folders by target key and context name.

    With `stock`, what they stand on is on the engine already, and they alone are made.
    """
    made = {t.key: t for target in targets for t in ((target,) if stock else target.needed)}
    wanted = {t.key for t in targets}
    return {
        "group": {"default": {"targets": sorted(wanted)}},
        "target": {
            key: {
                **_target(t, settings, contexts[key], secrets[key], epoch, stock),
                **(_named(t, settings) if key in wanted else {"output": ["type=cacheonly"]}),
            }
            for key, t in made.items()
        },
    }


def _target(
    target: Target,
    settings: BuildSettings,
    contexts: Mapping[str, Path],
    secrets: Mapping[str, Path],
    epoch: int,
    stock: bool,
) -> dict[str, Any]:
    def link(other: Target) -> str:
        return f"docker-image://{other.reference}" if stock else f"target:{other.key}"

    linked = {used.recipe.name: link(used) for used in target.uses}
    if isinstance(target.parent, Target):
        linked["parent"] = link(target.parent)
    elif target.parent:
        linked["parent"] = f"docker-image://{target.parent}"
    arguments = {"SOURCE_DATE_EPOCH": str(epoch), "KIND": "cuda" if "cuda" in target.pins else "cpu"}
    if "cuda" in target.pins:
        arguments |= {"REQUIRE": require(target), "CUDA_VERSION": target.pins["cuda"]}
        codes = (f"{code.replace('.', '')}-real" for code in target.variant.compute_capability)
        arguments["ARCHITECTURES"] = ";".join(codes)  # as CMake has them: machine code, no PTX
    made: dict[str, Any] = {
        "context": str(contexts.get("recipe", target.recipe.folder)),
        "dockerfile": str(target.recipe.folder / "Dockerfile"),
        "contexts": {**{name: str(path) for name, path in contexts.items() if name != "recipe"}, **linked},
        "args": arguments,
        "labels": labels(target),
        "platforms": [settings.platform],
        "secret": [f"id={name},src={path}" for name, path in secrets.items()],
        "output": ["type=docker"],
        "attest": ["type=provenance,disabled=true"],  # it holds the time, and the same content has the same digest
    }
    if settings.no_cache:
        made["no-cache"] = True
    if settings.cache_from:
        made["cache-from"] = [_cache(word, target) for word in settings.cache_from]
    if settings.cache_to:
        made["cache-to"] = [_cache(word, target) for word in settings.cache_to]
    return made


def _named(target: Target, settings: BuildSettings) -> dict[str, Any]:
    named: dict[str, Any] = {
        "tags": [*references(target, settings)],
        "output": ["type=registry" if settings.push else "type=docker"],
    }
    if settings.provenance:
        named["attest"] = [f"type=provenance,mode={settings.provenance}"]
    return named


def references(target: Target, settings: BuildSettings) -> tuple[str, ...]:
    """Every name that the image gets, the one made of its content first: in the registry when it is pushed there.

    What is pushed without a registry gets only the whole references among its tags: its own name is for this engine.
    """
    own: tuple[str, ...] = (target.reference,)
    if settings.registry:
        away = f"{settings.registry.rstrip('/')}/{target.reference}"
        own = (away,) if settings.push else (*own, away)
    elif settings.push:
        own = tuple(tag for tag in settings.tags if "/" in tag)[:1] or own
    folder, slash, name = own[-1].rpartition("/")
    repository = folder + slash + name.partition(":")[0]
    tags = (tag if "/" in tag or ":" in tag else f"{repository}:{tag}" for tag in settings.tags)
    return tuple(dict.fromkeys((*own, *tags)))


def _cache(word: str, target: Target) -> str:
    """`type=…` with {image} and {variant} filled in; a bare reference is a registry's."""
    filled = word.replace("{image}", target.recipe.name).replace("{variant}", target.variant.name)
    return filled if "=" in filled else f"type=registry,ref={filled}"


def labels(target: Target) -> dict[str, str]:
    """The OCI labels and our own, all from the recipe; the lock hash covers every wheel and package of the line."""
    recipe, variant = target.recipe, target.variant
    found = {
        "org.opencontainers.image.title": f"deployer {recipe.name}",
        "org.opencontainers.image.description": f"{recipe.description}: {variant.description}",
        "org.opencontainers.image.version": variant.pins.get(recipe.name, recipe.version),
        "org.opencontainers.image.base.name": target.base,
        "io.deployer.image": recipe.name,
        "io.deployer.variant": variant.name,
        "io.deployer.content": target.digest,
        "io.deployer.lock": lock_hash(target),
    }
    if "@sha256:" in target.base:
        found["org.opencontainers.image.base.digest"] = target.base.rpartition("@")[2]
    if recipe.engine:
        found["io.deployer.engine"] = recipe.engine
    if variant.compute_capability:
        found["io.deployer.compute-capability"] = " ".join(variant.compute_capability)
    return found | {f"io.deployer.pin.{key}": value for key, value in sorted(target.pins.items())}


def lock_hash(target: Target) -> str:
    """SHA-256 over the locks of everything that the image stands on, as in `sha256:…`."""
    import hashlib

    digest = hashlib.sha256()
    for above in target.line:
        locks = [*sorted(above.recipe.folder.glob("packages-*.tsv")), *([above.lock] if above.lock else [])]
        for path in locks:
            digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def require(target: Target) -> str:
    """NVIDIA_REQUIRE_CUDA: the CUDA version that the least driver speaks, as in `cuda>=12.0`.

    Less than the image's own CUDA where minor-version compatibility runs it: the compiled code is there for every
    card that the label names.
    """
    variant = target.variant
    return f"cuda>={(variant.min_driver and newest_cuda(variant.min_driver)) or target.pins['cuda']}"


def expectation(target: Target) -> str:
    """What the proof inside the image compares with, as JSON."""
    proven = isinstance(target.parent, Target) and target.parent.recipe.server
    about = {
        "pins": target.pins,
        "compute_capability": list(target.variant.compute_capability),
        "fatbins": list(target.variant.fatbins),
        "budget": target.variant.budget if target.base == ARCHIVE else None,  # another's base has another's size
        "baseline": [PROOF_PATH] if proven else [],
        "server": list(target.recipe.server),
        "user": target.recipe.user,
        "torch": "torch" in target.pins,
    }
    return json.dumps(about, indent=1, sort_keys=True)
