from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deployer.report import (
    Finding,
    Outcome,
    Report,
    as_json,
    as_text,
    failed,
    passed,
    skipped,
    unknown,
    verdict,
    warned,
)

PASS = replace(passed("8 GB", "16 GB"), id="memory.total")
WARN = replace(warned("a runtime", "none answers", "install one"), id="runtime.engine")
FAIL = replace(
    failed("580 or later", "550.54.14", "sudo apt-get install nvidia-driver-580"), id="driver.version"
)
SKIP = replace(skipped("the profile does not ask"), id="disk.kind")
ASKED = replace(unknown("1 NVIDIA GPU", "NVML: timeout"), id="gpu.count")


@pytest.mark.parametrize(
    ("findings", "ok", "sure"),
    [
        ((), True, True),
        ((PASS, SKIP), True, True),
        ((PASS, WARN), True, True),
        ((PASS, ASKED), True, False),
        ((PASS, FAIL), False, False),
        ((FAIL, ASKED), False, False),
    ],
    ids=["empty", "pass", "warn", "unknown", "fail", "both"],
)
def test_ok_means_no_failure_and_sure_means_no_doubt_either(
    findings: tuple[Finding, ...], ok: bool, sure: bool
) -> None:
    report = Report("p", findings)
    assert (report.ok, report.sure) == (ok, sure)


def test_an_unknown_is_a_skip_with_its_reason() -> None:
    assert ASKED.outcome is Outcome.SKIP
    assert ASKED.unknown
    assert ASKED.found == "unknown: NVML: timeout"
    assert not SKIP.unknown


def test_text_starts_with_problems_and_shows_each_fix() -> None:
    text = as_text(Report("p", (PASS, SKIP, WARN, ASKED, FAIL)))
    order = [
        line.split()[1] for line in text.splitlines() if line.startswith(("pass", "warn", "fail", "skip"))
    ]
    assert order == ["driver.version", "runtime.engine", "memory.total", "gpu.count"]
    assert "→ sudo apt-get install nvidia-driver-580" in text
    assert "→ install one" in text
    assert "550.54.14 (wanted: 580 or later)" in text


def test_text_hides_what_was_not_asked_for_unless_every_finding_is_wanted() -> None:
    report = Report("p", (PASS, SKIP))
    assert "disk.kind" not in as_text(report)
    assert "disk.kind" in as_text(report, every=True)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_text_stays_within_its_width(width: int) -> None:
    long = replace(failed("a " * 60, "b " * 60, "c " * 60), id="x.y")
    lines = as_text(Report("p", (long,)), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("b") for line in lines) == 60


def test_text_never_breaks_a_word() -> None:
    address = "https://docs.example/" + "x" * 120
    text = as_text(Report("p", (replace(failed("a", "b", f"see {address}"), id="x.y"),)), width=40)
    assert address in text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((PASS, SKIP), "p: all 1 checks passed"),
        ((PASS, WARN), "p: all 2 checks passed, 1 with a warning"),
        ((PASS, FAIL), "p: 1 of 2 checks failed"),
        ((PASS, ASKED), "p: all 1 checks passed; 1 could not be asked"),
    ],
    ids=["pass", "warn", "fail", "unknown"],
)
def test_the_verdict(findings: tuple[Finding, ...], said: str) -> None:
    report = Report("p", findings)
    assert verdict(report) == said
    assert as_text(report).endswith(said)


def test_json_carries_every_finding_in_the_order_given() -> None:
    raw = json.loads(json.dumps(as_json(Report("p", (PASS, ASKED, FAIL)))))
    assert raw["ok"] is False
    assert [f["id"] for f in raw["findings"]] == ["memory.total", "gpu.count", "driver.version"]
    assert raw["findings"][1] == {
        "id": "gpu.count",
        "outcome": "skip",
        "unknown": True,
        "wanted": "1 NVIDIA GPU",
        "found": "unknown: NVML: timeout",
        "hint": None,
    }
    assert raw["findings"][2]["hint"].startswith("sudo apt-get")
