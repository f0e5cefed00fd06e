"""A recipe: one folder under `images/`, read from its `image.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from deployer import resources
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.quantity import parse_size


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
    """One way to build a recipe.

    `budget` (the finished image) and `build_disk` (free space that a build from nothing needs) are bytes.
    `requirements` is a hash-locked file of wheels: a name in the recipe's folder, or a path for one that was made
    here. `packages` are Debian packages by step, beside those of the recipe. `trim` are globs under site-packages
    that the image leaves out, `strip` libraries there that lose their symbol tables. `fatbins` are globs of
    libraries whose compiled architectures are to be exactly `compute_capability`.
    """

    name: str
    description: str
    budget: int
    build_disk: int
    requirements: str | None = None
    extra_index: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    min_driver: str | None = None
    compute_capability: tuple[str, ...] = ()
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trim: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    fatbins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What `image.yaml` says.

    `parent` is the image whose layers come first, as `name` (its variant of the same name) or `name:variant`;
    None for the OS base. `uses` are further images whose files the build reads. `packages` are Debian packages by
    step. `copies` are folders of the deployer package that the image holds. `server` is the command that must
    answer inside the finished image. `user` is its numeric user.
    """

    name: str
    folder: Path
    description: str
    version: str
    user: int
    variants: tuple[Variant, ...]
    engine: str | None = None
    parent: str | None = None
    uses: tuple[str, ...] = ()
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    copies: tuple[str, ...] = ()
    server: tuple[str, ...] = ()

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
def uv() -> tuple[Source, ...]:
    """The pinned files of uv, which installs wheels, one for each platform."""
    import yaml

    raw = yaml.safe_load((resources.folder("images") / "uv.yaml").read_text())
    return tuple(_typed(Source(**entry)) for entry in raw)


@cache
def load(name: str) -> Recipe:
    """The recipe `name`; raises QuestionError when there is none or its file is wrong."""
    import yaml

    folder = resources.folder("images") / name
    if name not in names():
        raise QuestionError(f"there is no image `{name}`", hint=f"images: {', '.join(names())}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C is ten times as fast
    try:
        raw: dict[str, Any] = yaml.load((folder / "image.yaml").read_text(), Loader=loader)
        if not isinstance(raw, dict):
            raise TypeError("keys with values are expected")
        return _typed(
            Recipe(
                **{
                    **raw,
                    "name": name,
                    "folder": folder,
                    "packages": _tuples(raw.get("packages", {})),
                    "sources": tuple(_typed(Source(**entry)) for entry in raw.get("sources", ())),
                    "variants": tuple(_variant(key, value) for key, value in raw["variants"].items()),
                    **{key: _tuple(key, raw.get(key, [])) for key in ("uses", "copies", "server")},
                }
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        said = f"there is no `{error.args[0]}`" if isinstance(error, KeyError) else error
        raise QuestionError(f"{folder / 'image.yaml'}: {said}", hint="see docs/images.md") from error


def _variant(name: str, raw: dict[str, Any]) -> Variant:
    return _typed(
        Variant(
            **{
                **raw,
                "name": str(name),
                "budget": parse_size(str(raw["budget"])),
                "build_disk": parse_size(str(raw["build_disk"])),
                "packages": _tuples(raw.get("packages", {})),
                **{key: _tuple(key, raw.get(key, [])) for key in ("compute_capability", "trim", "strip", "fatbins")},
            }
        )
    )


def _tuples(raw: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {key: _tuple(key, value) for key, value in raw.items()}


def _tuple(key: str, raw: list[str]) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
        raise TypeError(f"`{key}` is {raw!r}, a list of texts is expected (7.5 is a number, \"7.5\" a text)")
    return tuple(raw)


T = TypeVar("T", Recipe, Source, Variant)


def _typed(made: T) -> T:
    """`made`, when its texts are texts and its numbers whole ones: YAML takes 13.0 for a number."""
    kinds: dict[Any, Any] = {"str": str, "str | None": (str, type(None)), "int": int}
    for name, kind, value in ((f.name, f.type, getattr(made, f.name)) for f in fields(made)):
        if kind == "Mapping[str, str]":
            for key, text in value.items():
                if not isinstance(text, str):
                    raise TypeError(f"`{name}`: `{key}` is {text!r}, a text is expected: put it in quotes")
        elif not isinstance(value, kinds.get(kind, object)):
            raise TypeError(f"`{name}` is {value!r}, not {kind}; quotes make a text of a number")
    return made
