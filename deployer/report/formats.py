"""Reports for other programs: JSON, JUnit's XML, and Markdown for an issue or a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from deployer.report.text import first_reason, fits, printable, verdict
from deployer.report.values import Finding, Outcome, Report, by_group


def as_json(report: Report) -> dict[str, Any]:
    """Plain values of the published schema `SCHEMA_VERSION`."""
    return {
        "profile": report.profile,
        "ok": report.ok,
        "sure": report.sure,
        "counts": report.counts,
        "findings": [
            {
                "id": f.id,
                "outcome": f.outcome.value,
                "unknown": f.unknown,
                "advice": f.advice,
                "wanted": f.wanted,
                "found": f.found,
                "hint": f.hint,
            }
            for f in report.findings
        ],
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what `as_json` gives."""
    text = {"type": "string"}
    count = {"type": "integer", "minimum": 0}
    kinds = ("pass", "warn", "fail", "unknown", "skip")
    finding = {
        "id": {**text, "pattern": r"^[a-z0-9_]+\.[a-z0-9_]+$", "description": "group.subject"},
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
        "unknown": {"type": "boolean", "description": "a skip because a fact could not be asked"},
        "advice": {"type": "boolean", "description": "not knowing it leaves the report sure"},
        "wanted": text,
        "found": text,
        "hint": {"type": ["string", "null"], "description": "what mends it on this host"},
    }
    report = {
        "profile": text,
        "ok": {"type": "boolean", "description": "nothing failed"},
        "sure": {"type": "boolean", "description": "nothing failed, and nothing could not be asked"},
        "counts": {
            **_object(dict.fromkeys(kinds, count)),
            "description": "each finding once: `skip` is without `unknown`",
        },
        "findings": {"type": "array", "items": _object(finding)},
    }
    return _object(report)


def as_junit(reports: Sequence[Report], *, taken: str | None = None) -> bytes:
    """XML as CI servers read it: a suite for each report, a test case for each finding.

    A failure is a failure; a warning passes and says what it is in `system-out`; a skip, and what could not
    be asked, is skipped with the reason. `taken` is when the host was asked, in ISO 8601.
    """
    import xml.etree.ElementTree as ET

    root = ET.Element("testsuites", name="deployer check")
    for report in reports:
        about = {
            "name": _legal(report.profile),
            "tests": str(len(report.findings)),
            "failures": str(len(report.of(Outcome.FAIL))),
            "errors": "0",
            "skipped": str(len(report.of(Outcome.SKIP))),
            "time": "0",
            **({"timestamp": _legal(taken.removesuffix("Z"))} if taken else {}),
        }
        suite = ET.SubElement(root, "testsuite", about)
        for finding in report.findings:
            place = f"{_legal(report.profile)}.{finding.group}"
            case = ET.SubElement(suite, "testcase", classname=place, name=finding.id, time="0")
            if finding.outcome is Outcome.FAIL:
                ET.SubElement(case, "failure", message=_legal(finding.found), type="fail").text = _story(
                    finding
                )
            elif finding.outcome is Outcome.SKIP:
                ET.SubElement(case, "skipped", message=_legal(finding.found))
            elif finding.outcome is Outcome.WARN:
                ET.SubElement(case, "system-out").text = "warning\n" + _story(finding)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def as_markdown(report: Report, *, every: bool = False, note: str = "") -> str:
    """A table of the problems, then what passed by group; with `every`, each check in the table."""
    lines = [
        f"**{_cell(verdict(report))}**",
        "",
        "| | Check | Found | Wanted | Fix |",
        "| --- | --- | --- | --- | --- |",
    ]
    shown = report.problems
    if every:
        shown += report.unknown + report.of(Outcome.PASS) + report.skipped
    for f in shown:
        label = "unknown" if f.unknown else f.outcome.value
        lines.append(_line(label, f"`{f.id}`", _cell(_reason(f)), _cell(f.wanted), _cell(f.hint or "")))
    if not every:
        for findings in report.unknown_by_reason().values():
            names = ", ".join(f"`{f.id}`" for f in findings)
            wanted = findings[0].wanted if len(findings) == 1 else ""
            hints = "; ".join(dict.fromkeys(f.hint for f in findings if f.hint))
            lines.append(_line("unknown", names, _cell(_reason(findings[0])), _cell(wanted), _cell(hints)))
        for group, subjects in by_group(report.of(Outcome.PASS)).items():
            lines.append(_line("pass", f"`{group}`", _cell(", ".join(subjects)), "", ""))
    return "\n".join([*lines, *(["", _cell(note)] if note else [])])


def ranking_as_markdown(reports: Sequence[Report], *, note: str = "") -> str:
    """One row for each report, in the order given."""
    lines = [
        "| Fits | Profile | pass | warn | fail | unknown | First reason |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for report in reports:
        counts = [str(count) for name, count in report.counts.items() if name != "skip"]
        lines.append(_line(fits(report)[0], _cell(report.profile), *counts, _cell(first_reason(report))))
    return "\n".join([*lines, *(["", _cell(note)] if note else [])])


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _story(finding: Finding) -> str:
    lines = [f"wanted: {finding.wanted}", f"found:  {finding.found}"]
    return _legal("\n".join([*lines, *([f"fix:    {finding.hint}"] if finding.hint else [])]))


def _legal(text: str) -> str:
    """`text` with `\ufffd` for what XML 1.0 cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _reason(finding: Finding) -> str:
    return finding.found.removeprefix("unknown: ") if finding.unknown else finding.found


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    """`text` as itself inside a table: no markup, no HTML, no line break."""
    text = " ".join(printable(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
