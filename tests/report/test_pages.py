"""The page on every check, the forty pains, and the published schema: made from the code, and not stale."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deployer.checks import CHECKS, Check, documentation, pains
from deployer.cli.schema import check_schema
from deployer.host import Host, to_json
from deployer.profile import Profile
from deployer.report import SCHEMA_VERSION, Finding, Report, passed
from deployer.report.formats import as_json
from tests import hosts

ROOT = Path(__file__).resolve().parents[2]
DOCS = runpy.run_path(str(ROOT / "docs/checks.py"))
COVERED = {number for check in CHECKS for number in check.pains}


def good(host: Host, profile: Profile) -> Finding:
    """One `thing` is <there>
    and works.

    Why: it_is needed
        by * all *.
    Pass: it is there: yes.
    Warn: never.
    Fail: it is not.
    Skip: never.
    Fix: `do it --all*`.
    """
    return passed("", "")


def judge(text: str | None) -> Any:
    def look(host: Host, profile: Profile) -> Finding:
        return passed("", "")

    look.__doc__ = text
    return look


GOOD = Check("gpu.one_thing", good, pains=(1, 40))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_every_check_says_what_why_when_and_how_to_mend_it(check: Check) -> None:
    about = documentation(check)
    assert about.what.endswith(".") and len(about.why) > 20


def test_a_docstring_becomes_documentation() -> None:
    about = documentation(GOOD)
    assert about.what == "One `thing` is <there> and works."
    assert about.why == "it_is needed by * all *."
    assert (about.passes, about.warns, about.fix) == ("it is there: yes.", "never.", "`do it --all*`.")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Fix: `do it --all*`.", ""), "Why, Pass, Warn, Fail, Skip"),
        (("Warn: never.", "Warn:"), "Why, Pass, Fail, Skip, Fix"),
        (("Warn: never.\nFail: it is not.", "Fail: it is not.\nWarn: never."), "Why, Pass, Fail, Warn"),
        (("Skip:", "Pass:"), "it has Why, Pass, Warn, Fail, Pass, Fix"),
        (("One `thing` is <there>\nand works.", ""), "and not what"),
    ],
    ids=["missing", "empty", "order", "twice", "no first sentence"],
)
def test_an_incomplete_docstring_is_told(change: tuple[str, str], said: str) -> None:
    # Python 3.13 takes the indent out of docstrings when it compiles, those before leave it.
    written = inspect.cleandoc(good.__doc__ or "")
    assert change[0] in written
    with pytest.raises(ValueError, match=re.escape(said)):
        documentation(Check("x.y", judge(written.replace(*change))))


def test_no_docstring_is_told() -> None:
    with pytest.raises(ValueError, match=r"x\.y: .* none of them"):
        documentation(Check("x.y", judge(None)))


def test_the_pains_are_forty_with_references() -> None:
    known = pains()
    assert [pain.number for pain in known] == list(range(1, 41))
    for pain in known:
        assert pain.title and pain.sees and 1 <= len(pain.references) <= 2
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", r) for r in pain.references), pain
    assert len({pain.title for pain in known}) == 40


@pytest.mark.parametrize("pain", pains(), ids=lambda pain: str(pain.number))
def test_every_pain_is_seen_by_a_check_or_says_why_not(pain: Any) -> None:
    assert pain.number in COVERED or len(pain.after) > 40


def test_checks_name_pains_that_there_are() -> None:
    assert {pain.number for pain in pains()} >= COVERED


def test_the_page_is_not_stale() -> None:
    assert not DOCS["problems"](CHECKS)
    assert (ROOT / "docs/checks.md").read_text() == DOCS["page"](CHECKS, pains()), "make docs"


def test_the_published_schema_is_not_stale() -> None:
    assert (ROOT / "docs/check.schema.json").read_text() == DOCS["schema"](), "make docs"


def test_the_page_says_everything_of_a_check_and_of_its_pains() -> None:
    page = DOCS["page"]((GOOD,), pains())
    section = page.split("### gpu.one_thing\n")[1].split("\n## ")[0]
    assert section.startswith(
        "\nOne `thing` is &lt;there&gt; and works.\n\n- **Why**: it_is needed by \\* all \\*.\n"
    )
    assert "- **Fix**: `do it --all*`.\n" in section
    assert "(https://github.com/NVIDIA/nvidia-docker/issues/1642)" in section
    assert "| [gpu](#gpu) | 1 | [one_thing](#gpuone_thing) |" in page
    rows = re.findall(r"^\| (\d+) \| .*\| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 41))
    assert rows[0][1] == rows[39][1] == "[gpu.one_thing](#gpuone_thing)"
    assert rows[1][1] == "" and rows[17][2].startswith("Only a running engine shows")


def test_links_inside_the_page_lead_to_a_heading() -> None:
    page = DOCS["page"]((GOOD,), pains())
    headings = {DOCS["anchor"](h) for h in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings


def strict(schema: Any) -> Any:
    """`schema` with every object closed: what is printed has nothing that is not published."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    return (
        {"additionalProperties": False, **closed}
        if "required" in closed and "properties" in closed
        else closed
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(check_schema())


@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in hosts.NAMED.items()])
def test_every_host_meets_the_schema(host: Host) -> None:
    report = as_json(Report("p", ()))
    raw = {"schema": SCHEMA_VERSION, "report": report, "host": to_json(host)}
    jsonschema.Draft202012Validator(strict(check_schema())).validate(raw)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside `value`."""
    if path:
        yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`, or without it when `new` is Ellipsis."""
    if not path:
        return new
    items = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    inner = changed(items[path[0]], path[1:], new)
    items = {k: v for k, v in {**items, path[0]: inner}.items() if v is not ...}
    return items if isinstance(value, dict) else list(items.values())


def test_wrong_documents_are_refused() -> None:
    finding = Finding(passed("w", "f").outcome, "w", "f", id="gpu.count")
    report = as_json(Report("p", (finding,)))
    right: Any = {"schema": SCHEMA_VERSION, "report": report, "host": to_json(hosts.RTX)}
    validator = jsonschema.Draft202012Validator(check_schema())
    assert validator.is_valid(right)
    shapes = [set(d["properties"]) for d in (*check_schema()["$defs"].values(), *check_schema()["oneOf"])]
    shapes += [set(report["findings"][0]), set(report["counts"])]
    shapes.remove({"unknown"})  # without it, it is an empty mapping, which a few facts may be
    tried = 0
    for path in places(right):
        parent = right
        for key in path[:-1]:
            parent = parent[key]
        if not isinstance(parent[path[-1]], (dict, list)):
            assert not validator.is_valid(changed(right, path, b"?")), f"{path} may be anything"
        if isinstance(parent, dict) and set(parent) in shapes:  # neither a list nor a mapping with free keys
            assert not validator.is_valid(changed(right, path, ...)), f"{path} may be missing"
            tried += 1
    assert tried > 60
    for path, new in (
        (("schema",), SCHEMA_VERSION - 1),
        (("report", "findings", 0, "outcome"), "maybe"),
        (("report", "findings", 0, "id"), "count"),
        (("report", "counts", "pass"), -1),
        (("host", "gpus", 0, "vram"), "8 GB"),
        (("host", "gpus", 0, "vram"), {"unknown": 3}),
        (("host", "system"), None),
    ):
        assert not validator.is_valid(changed(right, path, new)), (path, new)
    assert validator.is_valid(changed(right, ("host", "system"), {"unknown": "no answer in 2 s"}))
    assert validator.is_valid(changed(right, ("host", "driver"), None))
    assert not validator.is_valid({**right, "reports": [report]})
