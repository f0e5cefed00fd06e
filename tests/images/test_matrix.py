"""The matrix for CI: every image on every platform that its locks are for, and what changed since a revision."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.errors import QuestionError
from deployer.images import matrix
from deployer.images import recipe as recipes
from deployer.images.bake import PLATFORMS, BuildSettings
from tests.images.conftest import Checkout

Every = Callable[[], dict[str, images.Target]]
NAMES = [f"{n}:{v.name}" for n in images.names() for v in images.load(n).variants]


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """The copy, as the one commit of a real repository that knows no settings of this machine."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    git(checkout.root, "init", "-q", "-b", "main")
    (checkout.root / ".gitignore").write_text("__pycache__/\n*.log\n")
    git(checkout.root, "add", "-A")
    git(checkout.root, "commit", "-q", "-m", "first")
    return checkout


def changed(every: Every, since: str = "HEAD") -> dict[str, list[str]]:
    """The files that changed by target, where there are any; the same on each platform."""
    rows = matrix.plan(tuple(every().values()), BuildSettings(), since)
    found: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row['image']}:{row['variant']}"
        assert found.setdefault(name, row["changed"]) == row["changed"]
    return {name: paths for name, paths in found.items() if paths}


def on(every: Every, *names: str) -> set[str]:
    """All that stand on one of `names`, or use it, or are it."""
    return {t.name for t in every().values() if {word for n in t.needed for word in (n.name, n.recipe.name)} & {*names}}


# ------------------------------------------------------------------------------------------------------ platforms


def test_platforms_are_those_that_every_lock_of_the_line_is_for() -> None:
    both, one = ("linux/amd64", "linux/arm64"), ("linux/amd64",)
    wanted = {"debian": both, "python": both, "llamacpp:cpu": both, "gateway": one, "torch": one, "vllm": one}
    for name in NAMES:
        image, variant = name.split(":")
        expected = wanted.get(name) or wanted.get(image)
        if expected:
            assert matrix.platforms(images.target(image, variant)) == expected, name


def test_a_lock_that_is_missing_takes_a_platform_away(checkout: Checkout) -> None:
    checkout.remove("images/python/packages-arm64.tsv")
    assert matrix.platforms(images.target("debian", "12")) == ("linux/amd64", "linux/arm64")
    assert matrix.platforms(images.target("llamacpp", "cpu")) == ("linux/amd64",), "it uses python"


def test_a_source_for_a_platform_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = images.target("gateway", "cpu")
    (uv,) = recipes.uv()
    monkeypatch.setattr(recipes, "uv", lambda: (uv, replace(uv, platform="linux/arm64")))
    assert matrix.platforms(target) == ("linux/amd64", "linux/arm64")


# ----------------------------------------------------------------------------------------------------------- rows


def test_a_row_says_what_ci_needs(every: Every) -> None:
    targets = every()
    rows = matrix.plan(tuple(targets.values()), BuildSettings(registry="reg.example", push=True))
    assert json.loads(json.dumps(rows)) == rows
    assert [f"{row['image']}:{row['variant']}" for row in rows if row["platform"] == "linux/amd64"] == [*targets]
    keys: set[str] = set()
    for row in rows:
        target = targets[f"{row['image']}:{row['variant']}"]
        assert row["reference"] == f"reg.example/{target.reference}"
        assert target.reference.endswith(f":{row['tag']}")
        assert row["stands_on"] == [t.name for t in target.needed[:-1]]
        assert row["disk"] == target.variant.build_disk and row["budget"] == target.variant.budget
        exact, prefix = row["cache"]
        assert exact.startswith(prefix) and prefix.endswith(f"-{PLATFORMS[row['platform']]}-")
        assert row["changed"] is None
        keys |= {exact}
    assert len(keys) == len(rows), "no two share a key"


def test_rows_for_people() -> None:
    rows: list[dict[str, Any]] = [
        {"image": "vllm", "variant": "cu130", "platform": "linux/amd64", "tag": "cu130-a", "disk": 28e9, "changed": why}
        for why in (None, [], ["images/a", "images/b"])
    ]
    told = matrix.as_text(rows).splitlines()
    assert told[0].split() == ["vllm:cu130", "linux/amd64", "cu130-a", "needs", "28", "GB"]
    assert told[1].endswith("needs 28 GB  unchanged")
    assert told[2].endswith("  changed: images/a, images/b")


def test_nothing_asked_nothing_planned() -> None:
    assert matrix.plan((), BuildSettings(), "HEAD") == []


# ---------------------------------------------------------------------------------------------------------- since


def test_nothing_changed(repository: Checkout, every: Every) -> None:
    (repository.root / "images/torch/build.log").write_text("ignored")
    (repository.root / "README.md").write_text("of no image")
    assert changed(every) == {}
    rows = matrix.plan(tuple(every().values()), BuildSettings(), "HEAD")
    assert all(row["changed"] == [] for row in rows), "and not None, which means that nobody asked"


def test_what_changed_is_named_for_all_that_stand_on_it(repository: Checkout, every: Every) -> None:
    repository.add("images/torch/requirements-cu130.txt")
    repository.add("images/vllm/new.patch")
    repository.add("deployer/gateway/app.py")
    lock = "images/torch/requirements-cu130.txt"
    wanted = {name: [lock] for name in on(every, "torch:cu130")}
    wanted |= {name: ["deployer/gateway/app.py"] for name in on(every, "gateway")}
    wanted["vllm:cu130"] = [lock, "images/vllm/new.patch"]
    assert changed(every) == wanted
    git(repository.root, "add", "images/vllm")
    assert changed(every) == wanted, "staged or not"
    git(repository.root, "commit", "-q", "-a", "-m", "second")
    assert changed(every) == {}
    assert changed(every, "HEAD~1") == wanted


@pytest.mark.parametrize("name", ["images/tools/layer", "images/debian/packages-arm64.tsv", "images/debian/image.yaml"])
def test_what_all_stand_on(name: str, repository: Checkout, every: Every) -> None:
    repository.add(name)
    assert changed(every) == {target: [name] for target in NAMES}


def test_the_proof_is_of_those_that_are_proven(repository: Checkout, every: Every) -> None:
    file = "deployer/images/proof/verdict.py"
    repository.add(file)
    assert changed(every) == {name: [file] for name in NAMES if name not in ("debian:12", "python:3.11")}


def test_a_file_that_is_gone_has_changed_too(repository: Checkout, every: Every) -> None:
    repository.add("images/llamacpp/avx.patch")
    repository.add("images/transformers/notes.in")
    git(repository.root, "add", "-A")
    git(repository.root, "commit", "-q", "-m", "second")
    before = images.target("llamacpp", "cpu").reference
    repository.remove("images/llamacpp/avx.patch")
    repository.remove("images/transformers/notes.in")
    repository.remove("deployer/gateway/__main__.py")
    assert images.target("llamacpp", "cpu").reference != before
    wanted = {name: ["images/llamacpp/avx.patch"] for name in on(every, "llamacpp")}
    assert changed(every) == wanted | {"gateway:cpu": ["deployer/gateway/__main__.py"]}


def test_what_changes_a_tag_is_told_as_changed(repository: Checkout, every: Every) -> None:
    """A tag that moves is always explained."""
    tags = {name: target.reference for name, target in every().items()}
    for name in ("images/tools/wheels", "images/python/Dockerfile", "images/vllm/image.yaml"):
        path = repository.root / name
        content = path.read_bytes()
        repository.write(name, content.decode() + "\n")
        moved = {n for n, target in every().items() if target.reference != tags[n]}
        assert moved <= changed(every).keys(), name
        path.write_bytes(content)


@pytest.mark.parametrize("since", ["nothing", "HEAD~7", "v1.0"])
def test_a_revision_that_git_does_not_know(since: str, repository: Checkout, every: Every) -> None:
    with pytest.raises(QuestionError, match="git cannot tell what changed: ") as caught:
        changed(every, since)
    assert caught.value.hint and "shallow clone" in caught.value.hint


def test_without_a_repository_or_without_git(checkout: Checkout, every: Every, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.root.parent))
    with pytest.raises(QuestionError, match="not a git repository"):
        changed(every)
    monkeypatch.setenv("PATH", str(checkout.root))
    with pytest.raises(QuestionError, match="git, which is not installed"):
        changed(every)
