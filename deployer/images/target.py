"""A target: one image to build with all that its content follows from, and the tag that this content gives."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path

from deployer import resources
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.images import recipe as recipes
from deployer.images.recipe import Recipe, Source, Variant

ARCHIVE = "archive"  # the base word for "made from the locked packages of the Debian archive"
OS = "debian"  # the recipe of that base
_TOOL = re.compile(r"/tools/(\w+)")
PROOF = "images/proof"  # the folder of the deployer package that every build runs


@dataclass(frozen=True)
class Target:
    """A recipe's variant on its parent: another target, a reference of a registry's image, or None."""

    recipe: Recipe
    variant: Variant
    parent: Target | str | None
    uses: tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.recipe.name}:{self.variant.name}"

    @property
    def key(self) -> str:
        """The target's name in a bake definition."""
        return f"{self.recipe.name}-{self.variant.name}".replace(".", "_")

    @property
    def reference(self) -> str:
        """The image's tag: the same folder, pins, tools, parent and base give the same tag."""
        return f"deployer/{self.recipe.name}:{self.variant.name}-{self.digest[:12]}"

    @property
    def lock(self) -> Path | None:
        """The hash-locked file of wheels that this layer installs."""
        return self.recipe.folder / self.variant.requirements if self.variant.requirements else None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The pinned files that the build reads: the recipe's own, and uv where it installs wheels."""
        return self.recipe.sources + (recipes.uv() if self.lock else ())

    @property
    def asked(self) -> Path:
        """The file that the lock is made from."""
        own = self.recipe.folder / f"requirements-{self.variant.name}.in"
        return own if own.exists() else self.recipe.folder / "requirements.in"

    @property
    def line(self) -> tuple[Target, ...]:
        """This target after all that its layers stand on, the lowest first."""
        below = self.parent.line if isinstance(self.parent, Target) else ()
        return (*below, self)

    @property
    def needed(self) -> tuple[Target, ...]:
        """Every target that a build of this one makes, parents before children."""
        every = [t for above in self.line for used in above.uses for t in used.needed]
        return tuple({t.key: t for t in (*every, *self.line)}.values())

    @property
    def pins(self) -> dict[str, str]:
        """The pins of everything that the image stands on, the image's own last."""
        return {key: value for above in self.line for key, value in above.variant.pins.items()}

    @property
    def base(self) -> str:
        """The word for the OS below: `archive`, or a reference."""
        return ARCHIVE if (lowest := self.line[0].parent) is None else str(lowest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that the image's content follows from."""
        about = asdict(self.recipe) | {"variants": None, "folder": None}
        own = asdict(self.variant) | {"requirements": None}
        below = self.parent.reference if isinstance(self.parent, Target) else self.parent
        words = [about, own, below, [used.reference for used in self.uses], [asdict(s) for s in self.sources]]
        digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
        for path, inside in self.files():
            content = path.read_bytes()
            digest.update(f"{inside}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def files(self) -> Iterator[tuple[Path, str]]:
        """The files that go into the build, each with its name in the digest; other variants' locks do not."""
        others = {v.requirements for v in self.recipe.variants} | {"image.yaml"}
        for path, inside in _tree(self.recipe.folder):
            if inside not in others and not inside.endswith(".in"):
                yield path, f"recipe/{inside}"
        if self.lock:
            yield self.lock, "recipe/lock"
        tools = resources.folder("images") / "tools"
        for name in sorted(set(_TOOL.findall((self.recipe.folder / "Dockerfile").read_text()))):
            yield tools / name, f"tools/{name}"
        for part in (*self.recipe.copies, *([PROOF] if self.recipe.server else [])):
            for path, inside in _tree(resources.PACKAGE / part):
                yield path, f"package/{part}/{inside}"


def target(
    name: str, variant: str, base: str = ARCHIVE, instead: Mapping[str, Variant] | None = None
) -> Target:
    """The image `name:variant` on the OS base `base`; `instead` holds changed variants by `name:variant`.

    Raises QuestionError for names that there are not.
    """
    recipe = recipes.load(name)
    found = (instead or {}).get(f"{name}:{variant}") or recipe.variant(variant)

    def other(word: str) -> Target:
        of, _, its = word.partition(":")
        return target(of, its or variant, base, instead)

    parent: Target | str | None = None
    if recipe.parent:
        parent = base if base != ARCHIVE and recipe.parent.split(":")[0] == OS else other(recipe.parent)
    return Target(recipe, found, parent, tuple(map(other, recipe.uses)))


@cache
def tag(name: str, variant: str, base: str = ARCHIVE) -> str | None:
    """The tag under which this image is here after a build; None for unknown names."""
    try:
        return target(name, variant, base).reference
    except QuestionError:
        return None


def _tree(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, str(path.relative_to(root))
