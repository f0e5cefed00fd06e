"""Writes what is generated in this folder: `checks.md`, a page on every check, and `check.schema.json`.

`python docs/checks.py docs`, or `make docs`. Everything comes from the code: the docstring of each check's
judge, the pains that it names, `deployer/checks/pains.tsv`, and the types of the facts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from deployer.checks import CHECKS, Check, Pain, documentation, pains
from deployer.cli.schema import check_schema

INTRO = """\
# The checks

<!-- made by `make docs` from the docstrings of deployer/checks; edit those -->

`deployer check` judges what it finds on a host against a [profile](profiles.md). Each check ends as **pass**, **warn**
(it works, with something to know), **fail** (it will not work) or **skip** (the profile does not ask, or it does not
apply). What could not be asked is a skip that is marked as unknown: it is never taken for a pass.

`--only` and `--skip` take the ids and the groups below, `-v` lists every check, `--json` follows
[check.schema.json](check.schema.json). The command ends with 0 when nothing fails, with 1 when something does, and with
2 when the question was wrong.
"""
PAINS = """\
## The forty pains

Failures that people met with models on machines of their own, each with one or two of its public reports, and the
checks that see it coming. Where something cannot be seen before launch, the last column says why, and what deals
with it then.
"""


def main(folder: str) -> None:
    Path(folder, "check.schema.json").write_text(schema())
    if wrong := problems(CHECKS):
        sys.exit("\n".join(wrong))
    Path(folder, "checks.md").write_text(page(CHECKS, pains()))


def schema() -> str:
    return json.dumps(check_schema(), indent=2, ensure_ascii=False) + "\n"


def problems(checks: Sequence[Check]) -> list[str]:
    """What keeps the page from being made."""
    found = []
    for check in checks:
        try:
            documentation(check)
        except ValueError as error:
            found.append(str(error))
    return found


def page(checks: Sequence[Check], known: Sequence[Pain]) -> str:
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.group, []).append(check)
    lines = [
        INTRO,
        f"{len(checks)} checks in {len(groups)} groups:",
        "",
        "| Group | | Checks |",
        "| --- | ---: | --- |",
    ]
    for group, members in groups.items():
        links = " · ".join(f"[{c.id.split('.', 1)[1]}](#{anchor(c.id)})" for c in members)
        lines.append(f"| [{group}](#{anchor(group)}) | {len(members)} | {links} |")
    lines += [f"| [the forty pains](#{anchor('The forty pains')}) | {len(known)} | |", ""]
    for group, members in groups.items():
        lines += [f"## {group}", ""]
        for check in members:
            lines += section(check, known)
    lines += [PAINS, "| | Pain | What is seen | Checks | After launch |", "| ---: | --- | --- | --- | --- |"]
    lines += [row(pain, checks) for pain in known]
    return "\n".join(lines) + "\n"


def section(check: Check, known: Sequence[Pain]) -> list[str]:
    about = documentation(check)
    lines = [f"### {check.id}", "", prose(about.what), ""]
    for label, text in (
        ("Why", about.why),
        ("Pass", about.passes),
        ("Warn", about.warns),
        ("Fail", about.fails),
        ("Skip", about.skips),
        ("Fix", about.fix),
    ):
        lines.append(f"- **{label}**: {prose(text)}")
    from_ = [f"{prose(pain.title)} ({reports(pain)})" for pain in known if pain.number in check.pains]
    return [*lines, *([f"- **Pain**: {'; '.join(from_)}"] if from_ else []), ""]


def row(pain: Pain, checks: Sequence[Check]) -> str:
    covering = ", ".join(f"[{c.id}](#{anchor(c.id)})" for c in checks if pain.number in c.pains)
    cells = (
        str(pain.number),
        f"{prose(pain.title)} ({reports(pain)})",
        prose(pain.sees),
        covering,
        prose(pain.after),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reports(pain: Pain) -> str:
    """Links to the public reports; GitHub leads from an issue's address to a pull request of that number."""
    return ", ".join(f"[{r}](https://github.com/{r.replace('#', '/issues/')})" for r in pain.references)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def prose(text: str) -> str:
    """`text` as Markdown that shows it as it is; what stands in backticks stays code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a single backtick is no code
        parts = [text.replace("`", "\\`")]
    for i in range(0, len(parts), 2):
        part = parts[i].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        parts[i] = re.sub(r"([*\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", part)
    return "`".join(parts)


if __name__ == "__main__":
    main(sys.argv[1])
