"""In which order the engine makes what is asked, and what of it it has already."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deployer import images
from deployer.home import Home
from deployer.images import builder, context
from deployer.images.bake import BuildSettings
from deployer.images.target import Target

BASES = ["debian:12", "python:3.11", "torch:cpu"]


def tiers(*names: str, **settings: object) -> list[tuple[list[str], bool]]:
    """The names that are made at once, and whether they are pushed."""
    targets = tuple(images.target(*name.split(":")) for name in names)
    found = builder._tiers(targets, BuildSettings(**settings))  # type: ignore[arg-type]
    return [([t.name for t in tier], these.push) for tier, these in found]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The images that the engine has."""
    there: set[str] = set()
    monkeypatch.setattr(builder, "_has", lambda reference, platform: f"{reference} {platform}" in there)
    return there


def test_an_engine_with_nothing_makes_the_lowest_first(engine: set[str]) -> None:
    alone = [([name], False) for name in BASES]
    assert tiers("transformers:cpu") == [*alone, (["transformers:cpu"], False)]
    assert tiers("gateway:cpu", "llamacpp:cpu") == [*alone[:2], (["gateway:cpu", "llamacpp:cpu"], False)]


def test_what_is_there_is_not_made_again(engine: set[str]) -> None:
    engine.add(f"{images.target('torch', 'cpu').reference} linux/amd64")
    assert tiers("transformers:cpu") == [(["transformers:cpu"], False)], "nothing that only torch stands on"
    engine |= {f"{of(name).reference} linux/amd64" for name in BASES}
    assert len(tiers("transformers:cpu", no_cache=True)) == 4
    assert len(tiers("transformers:cpu", platform="linux/arm64")) == 4, "it is there for another platform"


def test_what_is_pushed_and_stood_on_is_kept_too(engine: set[str]) -> None:
    engine |= {f"{of(name).reference} linux/amd64" for name in BASES[:2]}
    found = tiers("torch:cpu", "transformers:cpu", push=True, registry="reg.example")
    assert found == [(["torch:cpu"], False), (["torch:cpu"], True), (["transformers:cpu"], True)]


def of(name: str) -> Target:
    return images.target(*name.split(":"))


def test_another_base_is_under_everything(engine: set[str], tmp_path: Path) -> None:
    target = images.target("torch", "cu130", base="nvidia/cuda:13.0.1-base-ubuntu24.04")
    found = [[t.name for t in tier] for tier, _ in builder._tiers((target,), BuildSettings())]
    assert found == [["python:3.11"], ["torch:cu130"]]


def test_a_view_has_what_is_named_and_changes_with_it(tmp_path: Path) -> None:
    home, epoch = Home(tmp_path / "home"), 1_700_000_000
    (tmp_path / "a").write_text("1\n")
    first = context.view(home, {"sub/a": tmp_path / "a"}, epoch, texts={"b": "x"}, folders=["empty"])
    assert sorted(p.relative_to(first).as_posix() for p in first.rglob("*")) == ["b", "empty", "sub", "sub/a"]
    assert {int(p.stat().st_mtime) for p in first.rglob("*") if p.is_file()} == {epoch}, "layers hold whole seconds"
    assert context.view(home, {"sub/a": tmp_path / "a"}, epoch, texts={"b": "x"}, folders=["empty"]) == first
    before = (first / "sub/a").stat()
    (tmp_path / "a").write_text("2\n")
    second = context.view(home, {"sub/a": tmp_path / "a"}, epoch, texts={"b": "x"}, folders=["empty"])
    after = (second / "sub/a").stat()
    assert second != first and before.st_size == after.st_size and before.st_mtime_ns != after.st_mtime_ns


def test_views_that_nothing_reads_any_more_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    view = context.view(home, {}, 17, texts={"b": "x"})
    context.sweep(home)
    assert view.exists()
    later = time.time() + 31 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    context.sweep(home)
    assert not view.exists()
