"""Reports for a person at a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from deployer.report.values import Finding, Outcome, Report, by_group

Style = Callable[[str, Outcome], str]


def as_text(report: Report, *, width: int = 100, every: bool = False, style: Style | None = None) -> str:
    """A table to scan: problems first, each with its fix, then what passed, one line per group.

    What could not be asked for one reason stands together. `every` lists each check by itself, also those that
    the profile does not ask for.
    """
    paint = style or _plain
    if every:
        together: list[tuple[Finding, ...]] = []
        blocks = [report.problems + report.unknown, report.of(Outcome.PASS), report.skipped]
    else:
        reasons = report.unknown_by_reason().values()
        together = [findings for findings in reasons if len(findings) > 1]
        blocks = [report.problems + tuple(f for findings in reasons if len(findings) == 1 for f in findings)]
    column = max((len(f.id) for block in blocks for f in block), default=0)
    shown = [[line for f in block for line in _finding(f, column, width, paint)] for block in blocks]
    shown += [list(_silent(findings, width, paint)) for findings in together]
    if not every:
        shown.append(list(_groups("pass", report.of(Outcome.PASS), Outcome.PASS, width, paint)))
    tail = [*_wrap(_counts(report, every), width, ""), *_wrap(verdict(report), width, "")]
    return "\n\n".join("\n".join(block) for block in (*shown, tail) if block)


def ranking(reports: Sequence[Report], *, width: int = 100, style: Style | None = None) -> str:
    """One line for each report, in the order given: whether it fits, the counts, the first reason why not."""
    paint = style or _plain
    column = max((len(printable(r.profile)) for r in reports), default=0)
    kinds = [name for name in ("pass", "warn", "fail", "unknown") if any(r.counts[name] for r in reports)]
    digits = len(str(max((count for r in reports for count in r.counts.values()), default=0)))
    lines = []
    for report in reports:
        word, outcome = fits(report)
        head = f"{word:4}  {printable(report.profile):{column}}  "
        body = "  ".join(f"{report.counts[name]:{digits}} {name}" for name in kinds)
        if reason := first_reason(report):
            body += f"  {reason}"
        lines.append(paint(head, outcome) + _cut(printable(body), max(20, width - len(head))))
    good = [r.profile for r in reports if r.sure]
    said = f"{len(good)} of {len(reports)} profiles fit this host" + (f", first {good[0]}" if good else "")
    return "\n".join([*lines, "", *_wrap(f"{said}; deployer check PROFILE says more of one", width, "")])


def fits(report: Report) -> tuple[str, Outcome]:
    """`yes`; `?` when nothing failed and something could not be asked; `no`. With the outcome of that colour."""
    if report.sure:
        return "yes", Outcome.PASS
    return ("?", Outcome.SKIP) if report.ok else ("no", Outcome.FAIL)


def first_reason(report: Report) -> str:
    """Why this profile does not surely fit, in one finding; empty when it does.

    A failure before what could not be asked; a missing GPU or driver says more than what else is missing.
    """
    against = [*report.of(Outcome.FAIL), *(f for f in report.unknown if not f.advice)]
    against.sort(key=lambda f: (f.unknown, f.group not in ("gpu", "driver")))
    return f"{against[0].id}: {_body(against[0])}" if against else ""


def verdict(report: Report) -> str:
    """One sentence."""
    counts = report.counts
    fails, warns, unasked = counts["fail"], counts["warn"], counts["unknown"]
    asked = counts["pass"] + warns + fails
    if fails:
        said = f"{fails} of {_checks(asked)} failed"
    elif asked:
        said = f"{'all ' if asked > 1 else ''}{_checks(asked)} passed"
    else:
        said = "nothing was asked" if not unasked else "nothing could be judged"
    if warns:
        said += f", {warns} with a warning"
    if unasked:
        said += f"; {unasked} could not be asked"
    return f"{printable(report.profile)}: {said}"


def printable(text: str) -> str:
    """`text` with nothing in it that a terminal obeys: a host that was saved elsewhere may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _plain(text: str, _outcome: Outcome) -> str:
    return text


def _checks(count: int) -> str:
    return f"{count} check" + ("" if count == 1 else "s")


def _counts(report: Report, every: bool) -> str:
    said = ", ".join(f"{count} {name}" for name, count in report.counts.items() if count) or "no check"
    return said if every else f"{said} (-v lists every check)"


def _body(finding: Finding) -> str:
    return finding.found if not finding.wanted else f"{finding.found} (wanted: {finding.wanted})"


def _finding(finding: Finding, column: int, width: int, paint: Style) -> Iterator[str]:
    label = "?" if finding.unknown else finding.outcome.value
    texts = [_body(finding), *([f"→ {finding.hint}"] if finding.hint else [])]
    return _row(f"{label:4}  {finding.id:{column}}  ", texts, finding.outcome, width, paint)


def _silent(findings: Sequence[Finding], width: int, paint: Style) -> Iterator[str]:
    """Checks that could not be asked for one and the same reason."""
    said = f"{findings[0].found}; so {len(findings)} checks could not be asked:"
    yield from _row(f"{'?':4}  ", [said], Outcome.SKIP, width, paint)
    yield from _groups("", findings, Outcome.SKIP, width, paint)
    for hint in dict.fromkeys(f.hint for f in findings if f.hint):
        yield from _wrap(f"→ {hint}", width, " " * 6)


def _groups(
    label: str, findings: Sequence[Finding], outcome: Outcome, width: int, paint: Style
) -> Iterator[str]:
    """One line for each group, with the subjects of its checks."""
    groups = by_group(findings)
    column = max(map(len, groups), default=0)
    for name, subjects in groups.items():
        yield from _row(f"{label:4}  {name:{column}}  ", [" ".join(subjects)], outcome, width, paint, 24)


def _row(
    head: str, texts: Sequence[str], outcome: Outcome, width: int, paint: Style, least: int = 40
) -> Iterator[str]:
    """`head` with `texts` beside it, or below it where less than `least` columns are left."""
    beside = width - len(head) >= least
    indent = " " * (len(head) if beside else 6)
    lines = [line for text in texts for line in _wrap(text, width, indent)]
    if beside:
        yield paint(head, outcome) + lines[0][len(head) :]
        yield from lines[1:]
    else:
        yield paint(head.rstrip(), outcome)
        yield from lines


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        max(len(indent) + 20, width),
        initial_indent=indent,
        subsequent_indent=indent + ("  " if text.startswith("→ ") else ""),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
