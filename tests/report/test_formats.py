"""What other programs read: JSON, JUnit's XML, Markdown."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deployer.report import Report, failed, passed
from deployer.report.formats import as_json, as_junit, as_markdown, json_schema, ranking_as_markdown
from tests.report.test_report import ASKED, EVERY, FAIL, PASS, SKIP, WARN

REPORT = Report("p", EVERY)


def test_json_carries_every_finding_in_the_order_given() -> None:
    raw = json.loads(json.dumps(as_json(Report("p", (PASS, ASKED, FAIL)))))
    assert (raw["profile"], raw["ok"], raw["sure"]) == ("p", False, False)
    assert [f["id"] for f in raw["findings"]] == ["memory.total", "gpu.count", "driver.version"]
    assert raw["findings"][1] == {
        "id": "gpu.count",
        "outcome": "skip",
        "unknown": True,
        "advice": False,
        "wanted": "1 NVIDIA GPU",
        "found": "unknown: NVML: timeout",
        "hint": None,
    }
    assert raw["findings"][2]["hint"].startswith("sudo apt-get")
    jsonschema.Draft202012Validator(json_schema()).validate(raw)


def test_junit_says_of_each_outcome_what_ci_servers_understand() -> None:
    root = ET.fromstring(as_junit((REPORT, Report("q", (PASS,))), taken="2026-01-01T00:00:00Z"))
    assert root.tag == "testsuites"
    first, second = root.findall("testsuite")
    assert {k: first.get(k) for k in ("name", "tests", "failures", "errors", "skipped", "timestamp")} == {
        "name": "p", "tests": "5", "failures": "1", "errors": "0", "skipped": "2",
        "timestamp": "2026-01-01T00:00:00",
    }  # fmt: skip
    cases = {case.get("name"): case for case in first.findall("testcase")}
    assert {name: [child.tag for child in case] for name, case in cases.items()} == {
        "memory.total": [],
        "disk.kind": ["skipped"],
        "runtime.engine": ["system-out"],
        "gpu.count": ["skipped"],
        "driver.version": ["failure"],
    }
    failure, said = cases["driver.version"][0], cases["runtime.engine"].findtext("system-out")
    assert failure.get("message") == "550.54.14"
    assert failure.text and "fix:    sudo apt-get install nvidia-driver-580" in failure.text
    assert said and said.startswith("warning\n") and "install one" in said
    assert cases["gpu.count"][0].get("message") == "unknown: NVML: timeout"
    assert cases["gpu.count"].get("classname") == "p.gpu"
    assert [case.get("classname") for case in second] == ["q.memory"]


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_junit_is_well_formed_whatever_a_host_says(text: str, name: str) -> None:
    nasty = replace(failed(text, text, text), id="x.y")
    [case] = ET.fromstring(as_junit((Report(name, (nasty,)),), taken=text)).iter("testcase")
    assert case[0].tag == "failure"


@pytest.mark.parametrize("control", ["\x00", "\x1b[31m", "\x0b", "\ud800", "\ufffe"])
def test_junit_keeps_what_stands_around_an_illegal_character(control: str) -> None:
    raw = as_junit((Report("p", (replace(failed("w", f"before{control}after"), id="x.y"),)),))
    message = ET.fromstring(raw).find(".//failure").get("message")  # type: ignore[union-attr]
    assert message is not None and message.startswith("before\ufffd") and message.endswith("after")


def cells(markdown: str) -> list[list[str]]:
    """The text of each row of the only table, as a renderer of GitHub's tables sees it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert sum(token.type == "table_open" for token in tokens) == 1
    rows: list[list[str]] = []
    for before, token in itertools.pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            children = token.children or []
            assert {c.type for c in children} <= {"text", "text_special", "code_inline"}, token.content
            rows[-1].append("".join(c.content for c in children))
    return rows


def test_markdown_is_a_table_with_problems_first_and_groups_of_what_passed() -> None:
    text = as_markdown(REPORT, note="deployer 1, host of 2026")
    assert text.startswith("**p: 1 of 3 checks failed, 1 with a warning; 1 could not be asked**\n")
    assert text.endswith("\n\ndeployer 1, host of 2026")
    assert cells(text)[1:] == [
        ["fail", "driver.version", "550.54.14", "580 or later", "sudo apt-get install nvidia-driver-580"],
        ["warn", "runtime.engine", "none answers", "a runtime", "install one"],
        ["unknown", "gpu.count", "NVML: timeout", "1 NVIDIA GPU", ""],
        ["pass", "memory", "total", "", ""],
    ]
    listed = [row[:2] for row in cells(as_markdown(REPORT, every=True))[4:]]
    assert listed == [["pass", "memory.total"], ["skip", "disk.kind"]]


def test_markdown_puts_what_could_not_be_asked_for_one_reason_in_one_row() -> None:
    other = replace(ASKED, id="gpu.vram", hint="reboot")
    rows = cells(as_markdown(Report("p", (ASKED, other))))
    assert rows[1:] == [["unknown", "gpu.count, gpu.vram", "NVML: timeout", "", "reboot"]]
    assert len(cells(as_markdown(Report("p", (ASKED, other)), every=True))) == 3


@given(st.text(st.sampled_from("ab \n|`*_<>[]()!~&#\\-:/.@$1")))
def test_markdown_shows_a_cell_as_it_is(text: str) -> None:
    nasty = replace(failed("wanted", f"x{text}x", f"y{text}y"), id="x.y")
    _, row = cells(as_markdown(Report("p", (nasty,))))
    assert row[2:] == [" ".join(f"x{text}x".split()), "wanted", " ".join(f"y{text}y".split())]


def test_a_ranking_is_a_table_too() -> None:
    rows = cells(ranking_as_markdown((Report("a", (PASS, WARN, SKIP)), Report("b|c", (FAIL,)))))
    assert rows[1] == ["yes", "a", "1", "1", "0", "0", ""]
    assert rows[2] == ["no", "b|c", "0", "0", "1", "0", "driver.version: 550.54.14 (wanted: 580 or later)"]


def test_a_passing_report_is_markdown_too() -> None:
    assert cells(as_markdown(Report("p", (replace(passed("w", "f"), id="a.b"),))))[1:] == [
        ["pass", "a", "b", "", ""]
    ]
