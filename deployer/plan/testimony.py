"""What a log says went wrong: the first error of the process that failed first, not the last line of its parent.

An engine of several processes ends with its parent's "see root cause above". So each line is read with who says it,
which a logger puts before it; a child is heard before its parent. In a Python traceback the exception counts, and of
exceptions that led to each other the first, which Python prints first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deployer.frozen import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PART = re.compile(r"^(engine|gateway)(?: [\w-]+)? \| ")  # plan/failed.py
_PROCESS = re.compile(r"^\(([A-Za-z]\w*)[^()]*\bpid=\d+[^()]*\) ?")
_RANK = re.compile(r"^\[(?:rank\d+|Stage-\d+|\d+)\]:? ")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S* ")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL)(?: \d\d-\d\d \d\d:\d\d:\d\d)? \[?[\w./]+(?::\d+)?\] ?")
_MODULE = re.compile(r"^\[[\w./]+\.py:\d+\] ")
_LLAMA = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([DIWE]) ")
_NEWS = re.compile(r'^\{"time": "')  # the gateway's access log
_QUIET = ("DEBUG", "INFO", "WARNING", "D", "I", "W")
# Who is heard first: what stands at the end of a chain of processes.
_RANKS = (("Worker", 0), ("VllmWorker", 0), ("RayWorker", 0), ("Engine", 1), ("APIServer", 3))
_MAIN, _SUPERVISOR, _GATEWAY = 2, 4, 5

_BEGIN = "Traceback (most recent call last)"
_EXCEPTION = re.compile(r"^(?:\| )?[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Failure|Enabled)\b(?::|$)")
_ALARM = re.compile(
    r"error|fail|fatal|cannot|can't|could not|couldn't|unable|denied|killed|not found|no such|abort|out of memory|"
    r"NCCL WARN|illegal|invalid|unsupported|mismatch|ended with|^Exited \(|fallen off|refused|unresolvable|no space",
    re.IGNORECASE,
)
# What a parent says of its children's errors, and loggers of what comes next: never the cause itself.
_ECHO = re.compile(
    r"See root cause above|See stack trace for root cause|EngineCore (failed to start|hit an exception|encountered)|"
    r"WorkerProc (failed|hit an exception)|ProcessRaisedException|ProcessExitedException|EngineDeadError|"
    r"Process \S+ terminated|Failed core proc|raise_exception|Error executing method|cleaning up|exiting due to|"
    r"process group has NOT been destroyed|resource_tracker|leaked|Parent process exited|BrokenPipeError|"
    r"failed to load model\b|failed to create.context|failed to load model from"
)
_KEPT = 6  # lines of an exception's message that are read


@dataclass(frozen=True)
class Said:
    """A line that may say the cause: `text` without what loggers put before it, `line` as it stands in the log.

    It is `sure` to be an error when it ends a traceback, or its level says so, and may be one by its words.
    """

    text: str
    line: str
    rank: int
    number: int
    sure: bool

    @property
    def alarm(self) -> bool:
        """Whether it speaks of an error at all."""
        return self.sure or _ALARM.search(self.text) is not None

    @property
    def echo(self) -> bool:
        """Whether it only repeats that something else failed."""
        return _ECHO.search(self.text) is not None


def said(log: Sequence[str]) -> tuple[Said, ...]:
    """The lines that are no mere news, those of children first, each process's in the order of the log."""
    return tuple(sorted(_heard(log), key=lambda one: (one.rank, one.number)))


def first_error(log: Sequence[str]) -> str | None:
    """The line that says best what went wrong; None where none speaks of an error."""
    found = [one for one in said(log) if one.alarm]
    best = min(found, key=lambda one: (one.echo, one.rank > _MAIN + 1, not one.sure), default=None)
    return best.line if best else None


def _heard(log: Sequence[str]) -> Iterator[Said]:
    inside: dict[str, bool] = {}  # who is in the middle of a traceback
    kept: dict[str, int] = {}  # lines of a message that are still to be read
    for number, line in enumerate(log):
        text, who, level = _bare(line)
        if _NEWS.match(text):
            continue
        sure = level is not None
        if _BEGIN in text:
            inside[who], kept[who] = True, 0
            continue
        if inside.get(who):
            if text[:1] in (" ", "\t", "") or set(text) <= set("~^ "):
                continue
            inside[who], kept[who], sure = False, _KEPT, True
        elif _EXCEPTION.match(text) and level not in _QUIET:
            kept[who], sure = _KEPT, True
        elif kept.get(who, 0) > 0 and text.strip():
            kept[who] -= 1
        elif level in _QUIET:
            continue
        if text.strip() and not text.lstrip().startswith("File \""):
            yield Said(text.strip(), line.strip(), _rank(who, text), number, sure)


def _bare(line: str) -> tuple[str, str, str | None]:
    """The line without its marks, who says it, and its level where there is one."""
    text = _COLOUR.sub("", line.rstrip("\r\n"))
    who, level = "", None
    if part := _PART.match(text):
        who, text = part[1] if part[1] == "gateway" else "", text[part.end() :]
    while found := _PROCESS.match(text) or _RANK.match(text) or _STAMP.match(text):
        if found.re is _PROCESS:
            who = found[0].strip()
        text = text[found.end() :]
    if (found := _LEVEL.match(text)) or (found := _LLAMA.match(text)):
        level, text = found[1], text[found.end() :]
    elif found := _MODULE.match(text):
        text = text[found.end() :]
    return text, who, level


def _rank(who: str, text: str) -> int:
    if who == "gateway":
        return _GATEWAY
    if text.startswith(("supervisor: ", "Exited (")):
        return _SUPERVISOR
    return next((rank for name, rank in _RANKS if who.lstrip("(").startswith(name)), _MAIN)
