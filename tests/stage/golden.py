"""Golden reports: every described host against every shipped profile, as text for people to review.

    python -m tests.stage.golden [HOST…]     writes tests/golden/<host>.txt (make golden)

Hosts of real machines, saved with `deployer check --json > tests/stage/saved/<name>.json`, are judged too.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from deployer import checks, profile
from deployer.host import Host, from_json
from deployer.profile import Profile
from deployer.report import Finding, Outcome, Report
from tests.stage import describe
from tests.stage.stage import HERE, build, described, missing

GOLDEN = HERE.parent / "golden"
SAVED = HERE / "saved"
WIDTH = 118


def saved(path: Path) -> Host:
    """A real host, saved by `deployer check --json`."""
    raw = json.loads(path.read_text())
    host: Host = from_json(Host, raw.get("host", raw))
    return host


def profiles() -> tuple[Profile, ...]:
    """The shipped ones, from the least demanding on."""
    found = [profile.load(path) for path in profile.shipped()]
    return tuple(sorted(found, key=lambda p: (p.rank, p.name)))


def report(headline: str, host: Host, wanted: Sequence[Profile]) -> str:
    """One host against these profiles: problems first, each once with who has it; then passes; then verdicts."""
    judged = [checks.audit(host, p) for p in wanted]
    who = Who(wanted)
    found: dict[Finding, list[str]] = {}
    passes: dict[tuple[str, str], list[str]] = {}
    skips: dict[str, list[str]] = {}
    for one in judged:
        for finding in one.findings:
            if finding.outcome is Outcome.PASS:
                passes.setdefault((finding.id, finding.found), []).append(one.profile)
            elif finding.outcome is Outcome.SKIP and not finding.unknown:
                skips.setdefault(finding.id, []).append(one.profile)
            else:
                found.setdefault(finding, []).append(one.profile)
    ids = [check.id for check in checks.CHECKS]
    lines = [headline, ""]
    for kind in ("fail", "warn", "unknown"):
        group = [f for f in found if ("unknown" if f.unknown else f.outcome.value) == kind]
        for finding in sorted(group, key=lambda f: ids.index(f.id)):
            lines += _block(kind, finding, who(found[finding]))
        lines += [""] if group else []
    for id_, text in sorted(passes, key=lambda entry: ids.index(entry[0])):
        lines.append(_short(f"pass {id_:26} {text}", who(passes[id_, text])))
    lines.append("")
    groups: dict[str, list[str]] = {}
    for id_, names in skips.items():
        groups.setdefault(who(names), []).append(id_)
    for names_, ids_ in groups.items():
        lines += _wrapped(f"skip{names_} ", " ".join(ids_))
    lines += ["", *(_verdict(one) for one in judged)]
    text = re.sub(r"(deployer/[a-z.]+:[a-z0-9]+)-[0-9a-f]{12}", r"\1-…", "\n".join(lines))
    return text + "\n"


class Who:
    """Names of profiles as briefly as can be: nothing for all, [gpu] and [cpu] for those that want one or not."""

    def __init__(self, wanted: Sequence[Profile]) -> None:
        self._all = [p.name for p in wanted]
        gpu = {p.name for p in wanted if p.requirements.gpu}
        self._known = {frozenset(gpu): " [gpu]", frozenset(set(self._all) - gpu): " [cpu]"}
        self._known[frozenset(self._all)] = ""

    def __call__(self, names: Sequence[str]) -> str:
        if (known := self._known.get(frozenset(names))) is not None:
            return known
        others = [name for name in self._all if name not in names]
        if len(others) < len(names) / 2:
            return f" [all but {' '.join(others)}]"
        return f" [{' '.join(dict.fromkeys(names))}]"


def _block(kind: str, finding: Finding, who: str) -> Iterator[str]:
    yield f"{kind} {finding.id}{who}"
    yield from _wrapped("     wanted ", finding.wanted)
    yield from _wrapped("     found  ", finding.found)
    if finding.hint:
        yield from _wrapped("     hint   ", finding.hint)


def _short(text: str, who: str) -> str:
    room = WIDTH - len(who)
    return (text if len(text) <= room else f"{text[: room - 1]}…") + who


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * (len(label) if label.startswith(" ") else 5)
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=label,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [label.rstrip()]


def _verdict(one: Report) -> str:
    failed = [f.id for f in one.of(Outcome.FAIL)]
    unknown = [f.id for f in one.unknown]
    if failed:
        said = f"does not fit: {' '.join(failed)}"
    elif not one.sure:
        said = f"may fit, not asked: {' '.join(unknown)}"
    else:
        said = "fits"
    return "\n".join(_wrapped(f"{one.profile:14} ", said))


def title(name: str) -> str:
    """The first line of the report of a described host."""
    return f"{name}: {describe.load(name)['about']}"


def every(names: Sequence[str] = ()) -> dict[str, str]:
    """Name of the host to its report, for these hosts or for all."""
    wanted = profiles()
    chosen = [name for name in describe.names() if not names or name in names]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        hosts = list(pool.map(partial(described, built=build(Path(folder))), chosen))
    found = {name: report(title(name), host, wanted) for name, host in zip(chosen, hosts, strict=True)}
    for path in sorted(SAVED.glob("*.json")):
        if not names or path.stem in names:
            found[path.stem] = report(f"{path.stem}: a real machine", saved(path), wanted)
    return found


def main(arguments: Sequence[str]) -> int:
    """Writes the golden files. Those of hosts that are gone are removed when all are made."""
    if why := missing():
        sys.stderr.write(f"error: {why}\n")
        return 2
    made = every(arguments)
    GOLDEN.mkdir(exist_ok=True)
    for name, text in made.items():
        (GOLDEN / f"{name}.txt").write_text(text)
    for path in GOLDEN.glob("*.txt") if not arguments else ():
        if path.stem not in made:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
