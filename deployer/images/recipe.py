"""A recipe: one folder under `images/`, read from its `image.yaml`, and the tag that its content gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any

from deployer import resources
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.quantity import parse_size

ARCHIVE = "archive"  # the base word for "make it from the Debian archive"
DEFAULT_BASE = "debian:bookworm-slim"


@dataclass(frozen=True)
class Source:
    """A file of a package index that the build needs; `platform=None` means every platform."""

    package: str
    file: str
    sha256: str
    size: int
    platform: str | None = None


@dataclass(frozen=True)
class Variant:
    """One way to build a recipe. `budget` and `build_disk` are bytes."""

    name: str
    description: str
    budget: int
    build_disk: int
    requirements: str | None = None
    extra_index: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    min_driver: str | None = None
    compute_capability: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What `image.yaml` says. `user` is the numeric user of the finished image."""

    name: str
    folder: Path
    description: str
    engine: str
    version: str
    user: int
    sources: tuple[Source, ...]
    package: tuple[str, ...]
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        """The variant called `name`; raises QuestionError with the known ones."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise QuestionError(f"image `{self.name}` has no variant `{name}`", hint=f"variants: {known}")


def names() -> tuple[str, ...]:
    """The names of all recipes, sorted."""
    return tuple(sorted(p.parent.name for p in resources.folder("images").glob("*/image.yaml")))


@cache
def load(name: str) -> Recipe:
    """The recipe `name`; raises QuestionError when there is none or its file is wrong."""
    import yaml

    folder = resources.folder("images") / name
    if name not in names():
        raise QuestionError(f"there is no image `{name}`", hint=f"images: {', '.join(names())}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C is ten times as fast
    raw = yaml.load((folder / "image.yaml").read_text(), Loader=loader)
    try:
        return Recipe(
            name=name,
            folder=folder,
            description=raw["description"],
            engine=raw["engine"],
            version=raw["version"],
            user=raw["user"],
            sources=tuple(Source(**entry) for entry in raw.get("sources", ())),
            package=tuple(raw.get("package", ())),
            variants=tuple(_variant(key, value) for key, value in raw["variants"].items()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise QuestionError(f"{folder / 'image.yaml'}: {error}", hint="see docs/architecture.md") from error


def tag(recipe: Recipe, variant: Variant, base: str) -> str:
    """The image's tag: the same folder, pins, copied package folders and base word give the same tag."""
    digest = hashlib.sha256(f"{variant.name}\0{base}\0".encode())
    for path, inside in _files(recipe):
        digest.update(f"{inside}\0{len(path.read_bytes())}\0".encode() + path.read_bytes())
    return f"deployer/{recipe.name}:{variant.name}-{digest.hexdigest()[:12]}"


@cache
def tags(name: str, variant: str) -> tuple[str, ...]:
    """The tags under which this image may be here, one for each way to its base; none for unknown names."""
    try:
        recipe = load(name)
        return tuple(tag(recipe, recipe.variant(variant), base) for base in (DEFAULT_BASE, ARCHIVE))
    except QuestionError:
        return ()


def _files(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    for root in (recipe.folder, *(resources.PACKAGE / part for part in recipe.package)):
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"{root.name}/{path.relative_to(root)}"


def _variant(name: str, raw: dict[str, Any]) -> Variant:
    return Variant(
        name=name,
        **{
            **raw,
            "budget": parse_size(raw["budget"]),
            "build_disk": parse_size(raw["build_disk"]),
            "compute_capability": tuple(raw.get("compute_capability", ())),
        },
    )
