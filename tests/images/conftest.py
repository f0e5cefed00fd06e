"""A copy of what images are made from, for tests that change it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployer import images, resources


def forget() -> None:
    """Recipes and tags are read from the files again."""
    images.load.cache_clear()
    images.tag.cache_clear()


@dataclass
class Checkout:
    """`images/` and the parts of the package that images hold, in a folder of the test; the program reads these."""

    root: Path

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)
        forget()

    def change(self, name: str, old: str, new: str) -> None:
        """`old`, which is there once, becomes `new`."""
        text = (self.root / name).read_text()
        assert text.count(old) == 1, f"{name}: {old}"
        self.write(name, text.replace(old, new))

    def add(self, name: str) -> None:
        """One line more at the end of the file, which may be new."""
        path = self.root / name
        self.write(name, (path.read_text() if path.exists() else "") + "# changed\n")

    def remove(self, name: str) -> None:
        (self.root / name).unlink()
        forget()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    """A whole one, with every shipped image."""
    root, skip = tmp_path / "checkout", shutil.ignore_patterns("__pycache__")
    shutil.copytree(resources.folder("images"), root / "images", ignore=skip)
    for part in ("gateway", "images/proof"):
        shutil.copytree(resources.PACKAGE / part, root / "deployer" / part, ignore=skip)
    monkeypatch.setattr(resources, "PACKAGE", root / "deployer")
    forget()
    yield Checkout(root)
    monkeypatch.undo()
    forget()


@pytest.fixture
def every() -> Callable[[], dict[str, images.Target]]:
    """All targets by name, as the files say now."""

    def read() -> dict[str, images.Target]:
        found = (images.target(n, v.name) for n in images.names() for v in images.load(n).variants)
        return {one.name: one for one in found}

    return read
