"""Outcomes, findings and reports as values."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from deployer.frozen import dataclass

SCHEMA_VERSION = 3  # of `deployer check --json`: a version may gain fields; any other change makes the next


class Outcome(enum.Enum):
    """How a check ended. A skip is not a pass."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One check's answer. `unknown` marks a skip because a fact could not be asked.

    `advice` is set where not knowing leaves the report sure: the profile fits without it.
    """

    outcome: Outcome
    wanted: str
    found: str
    hint: str | None = None
    unknown: bool = False
    id: str = ""
    advice: bool = False

    @property
    def group(self) -> str:
        return self.id.split(".", 1)[0]

    @property
    def subject(self) -> str:
        return self.id.split(".", 1)[-1]


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
        return self.ok and all(finding.advice for finding in self.unknown)

    def of(self, *outcomes: Outcome) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.outcome in outcomes)

    @property
    def unknown(self) -> tuple[Finding, ...]:
        """What is wanted and could not be asked."""
        return tuple(f for f in self.findings if f.unknown)

    @property
    def skipped(self) -> tuple[Finding, ...]:
        """What the profile does not ask for, or what does not apply; without the unknown."""
        return tuple(f for f in self.of(Outcome.SKIP) if not f.unknown)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What a person should look at, the worst first: failures, then warnings; without the unknown."""
        return self.of(Outcome.FAIL) + self.of(Outcome.WARN)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind; each is counted once, so `skip` is without `unknown`."""
        return {
            "pass": len(self.of(Outcome.PASS)),
            "warn": len(self.of(Outcome.WARN)),
            "fail": len(self.of(Outcome.FAIL)),
            "unknown": len(self.unknown),
            "skip": len(self.skipped),
        }

    def unknown_by_reason(self) -> dict[str, tuple[Finding, ...]]:
        """What could not be asked under why: one silent driver or engine silences many checks."""
        found: dict[str, tuple[Finding, ...]] = {}
        for finding in self.unknown:
            found[finding.found] = (*found.get(finding.found, ()), finding)
        return found


def by_group(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """The subjects of findings under their group, in order."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        found.setdefault(finding.group, []).append(finding.subject)
    return found


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
