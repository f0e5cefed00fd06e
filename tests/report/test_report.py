"""What a report is, and how it looks to a person."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.report import (
    Finding,
    Outcome,
    Report,
    as_text,
    failed,
    passed,
    ranking,
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
EVERY = (PASS, SKIP, WARN, ASKED, FAIL)
MANY = tuple(replace(PASS, id=f"{group}.subject_{n}") for group in ("system", "gpu") for n in range(12))


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


def test_each_finding_is_counted_once() -> None:
    report = Report("p", (*EVERY, *MANY))
    assert report.counts == {"pass": 25, "warn": 1, "fail": 1, "unknown": 1, "skip": 1}
    assert sum(report.counts.values()) == len(report.findings)


def test_text_starts_with_problems_and_shows_each_fix() -> None:
    lines = as_text(Report("p", EVERY)).splitlines()
    labels = [line.split()[:2] for line in lines if line.startswith(("pass", "warn", "fail", "skip", "?"))]
    assert labels == [
        ["fail", "driver.version"],
        ["warn", "runtime.engine"],
        ["?", "gpu.count"],
        ["pass", "memory"],
    ]
    fix = lines.index(next(line for line in lines if "→ sudo apt-get install nvidia-driver-580" in line))
    assert "550.54.14 (wanted: 580 or later)" in lines[fix - 1], "the fix stands under its problem"
    assert "→ install one" in lines[fix + 2]
    assert "unknown: NVML: timeout (wanted: 1 NVIDIA GPU)" in lines[fix + 3]


def test_what_could_not_be_asked_for_one_reason_stands_together_with_each_fix_once() -> None:
    silent = tuple(
        replace(unknown("w", "NVML: timeout", hint), id=i)
        for i, hint in (
            ("gpu.vram", "reboot"),
            ("gpu.xid", None),
            ("driver.kind", "reboot"),
            ("gpu.mig", "wait"),
        )
    )
    lone = replace(unknown("w", "no answer"), id="runtime.gpu")
    text = as_text(Report("p", (FAIL, *silent, lone, PASS)), width=80)
    assert text.splitlines()[:12] == [
        "fail  driver.version  550.54.14 (wanted: 580 or later)",
        "                      → sudo apt-get install nvidia-driver-580",
        "?     runtime.gpu     unknown: no answer (wanted: w)",
        "",
        "?     unknown: NVML: timeout; so 4 checks could not be asked:",
        "      gpu     vram xid mig",
        "      driver  kind",
        "      → reboot",
        "      → wait",
        "",
        "pass  memory  total",
        "",
    ]
    listed = as_text(Report("p", silent), width=80, every=True)
    assert listed.count("unknown: NVML: timeout (wanted: w)") == 4
    assert all(len(line) <= 40 for line in as_text(Report("p", silent), width=40).splitlines())


def test_what_passed_takes_one_line_for_each_group_in_order() -> None:
    text = as_text(Report("p", (FAIL, *MANY, PASS)), width=200)
    said = [line for line in text.splitlines() if line.startswith("pass")]
    assert [line.split()[1] for line in said] == ["system", "gpu", "memory"]
    assert said[1].split()[2:] == [f"subject_{n}" for n in range(12)]


def test_v_lists_every_finding_by_itself() -> None:
    text = as_text(Report("p", (*EVERY, *MANY)), every=True)
    assert [i for f in (*EVERY, *MANY) if (i := f.id) not in text] == []
    assert text.count("16 GB (wanted: 8 GB)") == 25
    order = [text.index(word) for word in ("fail ", "warn ", "?  ", "pass ", "skip ")]
    assert order == sorted(order)
    assert "the profile does not ask" in text
    assert "-v" not in text


def test_text_hides_what_was_not_asked_for_unless_every_finding_is_wanted() -> None:
    report = Report("p", (PASS, SKIP))
    assert "disk.kind" not in as_text(report)
    assert "disk.kind" in as_text(report, every=True)


def test_text_ends_with_the_counts_and_the_verdict() -> None:
    *_, counts, last = as_text(Report("p", EVERY)).splitlines()
    assert counts == "1 pass, 1 warn, 1 fail, 1 unknown, 1 skip (-v lists every check)"
    assert last == verdict(Report("p", EVERY))


@pytest.mark.parametrize("every", [False, True], ids=["short", "every"])
@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_text_stays_within_its_width(width: int, every: bool) -> None:
    long = replace(failed("a " * 60, "b " * 60, "c " * 60), id="x.y")
    lines = as_text(Report("p", (long, *MANY)), width=width, every=every).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.split().count("b") for line in lines) == 60


def test_text_never_breaks_a_word() -> None:
    address = "https://docs.example/" + "x" * 120
    text = as_text(Report("p", (replace(failed("a", "b", f"see {address}"), id="x.y"),)), width=40)
    assert address in text


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x07", "\x9b31m", "\ud800", "\u202e", "\x00"])
def test_a_host_cannot_command_the_terminal(evil: str) -> None:
    report = Report(f"p{evil}", (replace(failed(f"a{evil}", f"b{evil}", f"c{evil}"), id="x.y"),))
    for text in (as_text(report), as_text(report, every=True), ranking((report,)), verdict(report)):
        assert all(c.isprintable() or c == "\n" for c in text)
        text.encode()


def test_a_line_break_in_a_fact_makes_no_line() -> None:
    text = as_text(Report("p", (replace(failed("w", "one\npass  gpu.count"), id="x.y"),)))
    assert "one pass  gpu.count" in text or "one pass gpu.count" in text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((PASS, SKIP), "p: 1 check passed"),
        ((PASS, WARN), "p: all 2 checks passed, 1 with a warning"),
        ((PASS, FAIL), "p: 1 of 2 checks failed"),
        ((PASS, WARN, ASKED), "p: all 2 checks passed, 1 with a warning; 1 could not be asked"),
        ((SKIP,), "p: nothing was asked"),
        ((SKIP, ASKED), "p: nothing could be judged; 1 could not be asked"),
    ],
    ids=["pass", "warn", "fail", "unknown", "skip", "only unknown"],
)
def test_the_verdict(findings: tuple[Finding, ...], said: str) -> None:
    report = Report("p", findings)
    assert verdict(report) == said
    assert as_text(report).endswith(said)


def test_a_ranking_has_one_line_for_each_report_and_the_reason_that_counts() -> None:
    memory = replace(failed("96 GB", "25 GB"), id="memory.total")
    reports = (
        Report("small", (PASS, WARN)),
        Report("maybe", (ASKED,)),
        Report("large", (memory, ASKED, FAIL)),
    )
    lines = ranking(reports, width=100).splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["yes", "small"], ["?", "maybe"], ["no", "large"]]
    assert lines[0].endswith("1 pass  1 warn  0 fail  0 unknown")
    assert "gpu.count: unknown: NVML: timeout" in lines[1]
    assert "2 fail  1 unknown  driver.version: 550.54.14 (wanted: 580 or later)" in lines[2]
    assert lines[3] == "" and lines[4].startswith("1 of 3 profiles fit this host, first small")
    assert all(len(line) <= 60 for line in ranking(reports, width=60).splitlines())
