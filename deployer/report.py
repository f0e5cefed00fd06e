"""The result of an audit as values, and as text and JSON."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1


class Outcome(enum.Enum):
    """How a check ended. A skip is not a pass."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One check's answer. `unknown` marks a skip because a fact could not be asked."""

    outcome: Outcome
    wanted: str
    found: str
    hint: str | None = None
    unknown: bool = False
    id: str = ""


@dataclass(frozen=True)
class Report:
    """All findings of one profile on one host, in the order people read."""

    profile: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return not any(f.outcome is Outcome.FAIL for f in self.findings)

    @property
    def sure(self) -> bool:
        """Nothing failed and nothing that matters could not be asked."""
        return self.ok and not any(f.unknown for f in self.findings)

    def of(self, *outcomes: Outcome) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.outcome in outcomes)


def passed(wanted: str, found: str) -> Finding:
    return Finding(Outcome.PASS, wanted, found)


def warned(wanted: str, found: str, hint: str | None = None) -> Finding:
    return Finding(Outcome.WARN, wanted, found, hint)


def failed(wanted: str, found: str, hint: str | None = None) -> Finding:
    return Finding(Outcome.FAIL, wanted, found, hint)


def skipped(found: str, wanted: str = "") -> Finding:
    """The profile does not ask, or it does not apply here."""
    return Finding(Outcome.SKIP, wanted, found)


def unknown(wanted: str, reason: str, hint: str | None = None) -> Finding:
    """It is wanted and could not be asked."""
    return Finding(Outcome.SKIP, wanted, f"unknown: {reason}", hint, unknown=True)


def as_json(report: Report) -> dict[str, Any]:
    """Plain values of the published schema `SCHEMA_VERSION`."""
    return {
        "profile": report.profile,
        "ok": report.ok,
        "findings": [
            {
                "id": f.id,
                "outcome": f.outcome.value,
                "unknown": f.unknown,
                "wanted": f.wanted,
                "found": f.found,
                "hint": f.hint,
            }
            for f in report.findings
        ],
    }


def as_text(
    report: Report,
    *,
    width: int = 100,
    every: bool = False,
    style: Callable[[str, Outcome], str] | None = None,
) -> str:
    """A table for people: problems first, each with its fix; then, with `every`, also what was not asked for."""
    paint = style or (lambda text, _outcome: text)
    order = (Outcome.FAIL, Outcome.WARN, Outcome.PASS, Outcome.SKIP)
    shown = [
        f
        for outcome in order
        for f in report.of(outcome)
        if every or outcome is not Outcome.SKIP or f.unknown
    ]
    column = max((len(f.id) for f in shown), default=0)
    lines = []
    for finding in shown:
        head = f"{finding.outcome.value:4}  {finding.id:{column}}  "
        body = finding.found if not finding.wanted else f"{finding.found} (wanted: {finding.wanted})"
        beside = width - len(head) >= 40  # on a narrow terminal the text goes below
        indent = " " * (len(head) if beside else 6)
        text = _wrap(body, width, indent) + (
            _wrap(f"→ {finding.hint}", width, indent) if finding.hint else []
        )
        if beside:
            text[0] = paint(head, finding.outcome) + text[0][len(head) :]
        else:
            lines.append(paint(head.rstrip(), finding.outcome))
        lines += text
    return "\n".join([*lines, "", verdict(report)])


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(len(indent) + 20, width),
        initial_indent=indent,
        subsequent_indent=indent + ("  " if text.startswith("→ ") else ""),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


def verdict(report: Report) -> str:
    """One sentence."""
    fails, warns = len(report.of(Outcome.FAIL)), len(report.of(Outcome.WARN))
    asked = len(report.of(Outcome.PASS, Outcome.WARN, Outcome.FAIL))
    unasked = sum(f.unknown for f in report.findings)
    said = f"{report.profile}: " + (
        f"{fails} of {asked} checks failed" if fails else f"all {asked} checks passed"
    )
    if warns:
        said += f", {warns} with a warning"
    if unasked:
        said += f"; {unasked} could not be asked"
    return said
