"""Why a start failed, and what mends it here: the catalogue of signatures (`data/failures.yaml`) against a log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from deployer import checks, resources
from deployer.checks.base import NO_GPU, has_gpu
from deployer.frozen import dataclass
from deployer.plan.remedies import Situation, Words
from deployer.plan.testimony import Said, said
from deployer.report import Outcome

_ENGINES = {"llamacpp", "transformers", "vllm"}
_ELSEWHERE = re.compile(r"\bsays? (why|how)\b")  # a hint that only leads to another check
_LONG = 300  # characters of a line that are shown


@dataclass(frozen=True)
class Signature:
    """One cause that is known; docs/failures.md lists them. `who` are engines, or driver, runtime, download, system."""

    name: str
    who: tuple[str, ...]
    says: re.Pattern[str]
    cause: str
    fix: str
    source: str
    checks: tuple[str, ...] = ()
    gpu: bool = False
    weak: bool = False

    def concerns(self, engine: str) -> bool:
        """Whether this engine can say it: drivers, runtimes and the system speak through every one."""
        return engine in self.who or not _ENGINES & {*self.who}


@dataclass(frozen=True)
class Explanation:
    """A known cause: why, what to do on this host, and the line of the log that says it.

    It is `sure` unless it is only what has many causes, or follows from another.
    """

    name: str
    cause: str
    fix: str
    line: str
    sure: bool


@cache
def catalogue() -> tuple[Signature, ...]:
    """All signatures, in the order of the file: the first that matches a line counts."""
    import yaml

    text = (resources.PACKAGE / "plan/data/failures.yaml").read_text()
    return tuple(
        Signature(**{**one, "who": tuple(one["who"].split()), "says": re.compile(one["says"]),
                     "checks": tuple(one.get("checks", ()))})
        for one in yaml.safe_load(text)
    )  # fmt: skip


def recognise(log: Sequence[str], engine: str) -> tuple[Signature, re.Match[str], Said] | None:
    """The signature that fits the log best, what it found and the line; None where none fits.

    A strong one counts before a weak one, then what a child says before what its parent says, then the earlier.
    """
    weak = None
    for one in said(log):
        for signature in catalogue():
            if not signature.concerns(engine) or not (found := signature.says.search(one.text)):
                continue
            if not signature.weak:
                return signature, found, one
            weak = weak or (signature, found, one)
            break
    return weak


def explain(log: Sequence[str], at: Situation) -> Explanation | None:
    """Why the engine ended that left this log, and what mends it on this host; None where nothing is known."""
    known = recognise(log, at.engine)
    if known is None:
        return None
    signature, found, one = known
    words = Words(found.groupdict(), at)
    cause, fix = signature.cause.format_map(words), _fix(signature, words, at)
    return Explanation(signature.name, cause, fix, shown(one.line), not signature.weak)


def shown(line: str) -> str:
    """A line of a log as it is put on screen: whole in the log, cut here."""
    return line if len(line) <= _LONG else f"{line[:_LONG]} …"


def _fix(signature: Signature, words: Words, at: Situation) -> str:
    """The hint of the first check that sees the cause on this host, else the signature's own act."""
    if signature.gpu and has_gpu(at.host) is False:
        return f"{NO_GPU}: choose a CPU profile: deployer profiles list"
    if signature.checks:
        report = checks.audit(at.host, at.profile, only=signature.checks)
        for id in signature.checks:
            for finding in (*report.of(Outcome.FAIL), *report.of(Outcome.WARN)):
                if finding.id == id and finding.hint and not _ELSEWHERE.search(finding.hint):
                    return f"{finding.hint} ({id}: {finding.found})"
    return signature.fix.format_map(words)
