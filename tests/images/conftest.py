"""For tests of images: a copy of what they are made from, and a `docker` that is played."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployer import images, resources
from deployer.images import recipe as recipes

SHIPPED = resources.PACKAGE.parent


def forget() -> None:
    """Recipes and tags are read from the files again."""
    images.load.cache_clear()
    images.tag.cache_clear()
    recipes.uv.cache_clear()


@dataclass
class Checkout:
    """`images/` and the parts of the package that images hold, in a folder of the test; the program reads these."""

    root: Path

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)
        forget()

    def add(self, name: str) -> None:
        """One line more at the end of the file, which may be new."""
        path = self.root / name
        self.write(name, (path.read_text() if path.exists() else "") + "# changed\n")

    def remove(self, name: str) -> None:
        (self.root / name).unlink()
        forget()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    """One without any image."""
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "checkout/deployer")
    forget()
    yield Checkout(tmp_path / "checkout")
    monkeypatch.undo()
    forget()


@pytest.fixture
def checkout(bare: Checkout) -> Checkout:
    """A whole one, with every shipped image."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SHIPPED / "images", bare.root / "images", ignore=skip)
    for part in ("gateway", "images/proof"):
        shutil.copytree(SHIPPED / "deployer" / part, bare.root / "deployer" / part, ignore=skip)
    forget()
    return bare


@pytest.fixture
def every() -> Callable[[], dict[str, images.Target]]:
    """All targets by name, as the files say now."""

    def read() -> dict[str, images.Target]:
        found = (images.target(n, v.name) for n in images.names() for v in images.load(n).variants)
        return {one.name: one for one in found}

    return read


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` on PATH that plays what lies in its folder, and keeps what it was told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(
        f"""#!{sys.executable} -IS
import os, pathlib, signal, sys, time
here, words = pathlib.Path({str(folder)!r}), sys.argv[1:]
(here / "words").write_text(" ".join(words))
said = {{name: (here / name).read_text() for name in os.listdir(here) if name != "docker"}}
if "bake" in words and not (here / "deaf").exists():
    (here / "definition").write_text(sys.stdin.read())
for word in words:
    if word.startswith("--metadata-file=") and "metadata" in said:
        pathlib.Path(word.partition("=")[2]).write_text(said["metadata"])
sys.stdout.write(said.get("stdout", ""))
sys.stderr.write(said.get("stderr", ""))
sys.stderr.flush()
if (here / "endless").exists():
    def stop(*_):
        (here / "stopped").touch()
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (here / "ready").touch()
    time.sleep(60)
sys.exit(int(said.get("rc", 0)))
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder
