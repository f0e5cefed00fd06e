"""What the documents say of the code is what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer import images, profile
from deployer.cli import COMMANDS
from deployer.profile.schema import PROFILE, Section

ROOT = Path(__file__).resolve().parent.parent


def rows(section: Section, where: str = "") -> Iterator[str]:
    for name, key in section.keys.items():
        full = f"{where}{name}{'[]' if key.many else ''}"
        if isinstance(key, Section):
            yield f"| `{full}` |"
            yield from rows(key, f"{full}.")
        else:
            yield f"| `{full}` | {key.kind.name} | {'yes' if key.required else ''} | {key.doc} |"


@pytest.mark.parametrize("row", tuple(rows(PROFILE)))
def test_every_key_of_a_profile_is_documented(row: str) -> None:
    assert row in (ROOT / "docs/profiles.md").read_text()


def test_every_shipped_profile_is_documented_with_its_rank() -> None:
    text = (ROOT / "docs/profiles.md").read_text()
    found = dict(re.findall(r"^\| `([\w-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert found == {p.name: str(p.rank) for p in map(profile.load, profile.shipped())}


def test_the_readme_names_every_command_and_every_image() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`(?:deployer )?(\w+)", text))
    assert set(COMMANDS) <= named
    for recipe in map(images.load, images.names()):
        for variant in recipe.variants:
            assert f"`{recipe.name}:{variant.name}`" in text


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_changelog_has_this_version() -> None:
    from deployer import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_tables_of_fit_are_those_of_the_saved_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sizing as benchmark

    page = (ROOT / "docs/fit.md").read_text()
    kept = json.loads((ROOT / "benchmarks/data/sizing.json").read_text())
    assert set(kept) == set(benchmark.TABLES)
    assert benchmark.documented(page, kept) == page, "python benchmarks/sizing.py --docs"
    assert all(f"<!-- {name} -->" in page for name in kept)
