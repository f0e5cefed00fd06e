"""How a deployment is, judged: from what was seen and what was seen before, one verdict. Nothing here asks or acts.

An open port says nothing: an engine is well when it gives a token. One that gives none may be loading or busy, which is
told by what moves: its log, its memory, what it reads, its processor time, tokens of others. No limit ends a load that
moves. One that will not come back by being started again is reported and left alone.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING

from deployer.compat import upkeep
from deployer.frozen import dataclass
from deployer.host import Gpu, Unknown
from deployer.quantity import format_duration

if TYPE_CHECKING:
    from deployer.host.kernel import Event, Reload

OK, FULL, FAILED, REFUSED, SILENT, UNASKED = "ok", "full", "failed", "refused", "silent", "unasked"
HEALTHY, BUSY, LOADING, UNKNOWN, DOWN, HOLD, RESTART, BROKEN = (
    *("healthy", "busy", "loading", "unknown", "down", "hold", "restart", "broken"),
)
# From well to bad: the worst of its parts is how a deployment is.
STATES = (HEALTHY, BUSY, LOADING, UNKNOWN, DOWN, HOLD, RESTART, BROKEN)

FAILURES = 3  # answers in a row that are errors, before the engine is started again
STILL_S = 30.0  # without an answer, and with nothing at all that moves
STALL_S = 120.0  # of a load whose log, memory and reading stand still, as in `up`; or without a token, while alone
STUCK_S = 600.0  # the same with requests at work that may be long prompts
GAP_S = 20.0  # between two looks, at most, that counts: a watcher may have slept, or a clock may have been set
FORGIVEN_S = 600.0  # of health, after which restarts do not count any more
FIRST_S, MOST_S = 1.0, 300.0  # the pause before the second restart, doubled for each further one
RESTARTS = 10  # that did not help
# NVML, CUDA and torch of a process whose devices were taken away, or whose context is lost.
LOST = (
    "Failed to initialize NVML: Unknown Error",
    "No CUDA GPUs are available",
    "no CUDA-capable device is detected",
    "CUDA unknown error",
    "CUDA error: unknown error",
    "CUDA-capable device(s) is/are busy or unavailable",
)


@dataclass(frozen=True)
class Answer:
    """What came of a completion of one token: `ok`; `full` (too many wait); `failed` (an error); `refused` (not ready,
    or nobody listens); `silent` (nothing in time); `unasked` (nothing could be asked). `seconds` it took."""

    kind: str
    seconds: float = 0.0
    said: str = ""


@dataclass(frozen=True)
class Seen:
    """One part of a deployment: a replica of its engine, or the gateway.

    `state` is the unit's: `running`, `dead`, `stopped`, or `gone`. `pulse` changes while a load goes on, `worked` is
    seconds of processor time; `tokens` changes with every token and request that it answered. `others` is how many
    requests are at work on it, `gpus` the UUIDs it was given, `log` the lines since its start that tell of lost GPUs.
    """

    name: str
    state: str
    answer: Answer
    pulse: Hashable = None
    worked: float = 0.0
    tokens: int = 0
    others: int = 0
    gpus: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    ended: str | None = None
    started: float = 0.0


@dataclass(frozen=True)
class Around:
    """What the host says at `at` (seconds since 1970): its GPUs, errors of the driver and reloads of systemd."""

    at: float
    gpus: tuple[Gpu, ...] | Unknown = ()
    events: tuple[Event, ...] | Unknown = ()
    reloads: tuple[Reload, ...] | Unknown = ()


@dataclass(frozen=True)
class Past:
    """What is remembered of a part since the look `at`; times in seconds since 1970, `cards` PCI addresses by UUID.

    `moved` is when a load moved last, `worked` when processor time did, `given` when a token or a request did.
    `ours`: if nothing of it is there, a restart that failed left it so, and nobody else; `failure` is why.
    """

    seen: Seen | None = None
    at: float = 0.0
    moved: float = 0.0
    worked: float = 0.0
    given: float = 0.0
    well: float | None = None
    failures: int = 0
    restarts: int = 0
    restarted: float = 0.0
    ours: bool = False
    failure: str = ""
    cards: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """How a part is, why, and for `hold` until when."""

    state: str
    cause: str = ""
    until: float | None = None


def judge(seen: Seen, around: Around, past: Past) -> tuple[Verdict, Past]:
    """The verdict on `seen`, and what is to be remembered for the next one. After a restart, ask `restarted`."""
    now = around.at
    past = _moved(seen, now, _known(around, _steady(past, now)))
    found = _found(seen, around, past)
    if found.state != RESTART:
        well = past.well if found.state in (HEALTHY, BUSY) else None
        if found.state == HEALTHY:
            well = now if well is None else well
            past = replace(past, ours=False, failure="")
            if now - well >= FORGIVEN_S:
                past = replace(past, restarts=0)
        return found, replace(past, well=well)
    past = replace(past, well=None)
    if past.failure and seen.state != "running":
        found = replace(found, cause=past.failure)
    if past.restarts >= RESTARTS:
        return Verdict(BROKEN, f"{past.restarts} restarts did not help: {found.cause}"), past
    until = past.restarted + pause(past.restarts)
    if now < until:
        return Verdict(HOLD, found.cause, until), past
    return found, past


def restarted(past: Past, at: float, failure: str = "") -> Past:
    """`past` after a restart that ended at `at`, well or with `failure`; what moved before it is forgotten."""
    count, ours = past.restarts + 1, bool(failure)
    return Past(restarts=count, restarted=at, ours=ours, failure=failure, cards=past.cards)


def pause(restarts: int) -> float:
    """Seconds to wait after so many restarts before the next one."""
    return min(FIRST_S * 2 ** (min(restarts, 20) - 1), MOST_S) if restarts else 0.0


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """How the whole is."""
    return max(verdicts, key=lambda one: STATES.index(one.state))


def _steady(past: Past, now: float) -> Past:
    """With its times moved on by what passed unseen since the last look, and back where the clock was set back."""
    if past.seen is None:
        return past
    gap = now - past.at
    unseen, back = gap - min(max(gap, 0.0), GAP_S), min(gap, 0.0)
    return replace(
        past,
        moved=past.moved + unseen,
        worked=past.worked + unseen,
        given=past.given + unseen,
        restarted=past.restarted + back,
        well=None if past.well is None else past.well + back,
    )


def _known(around: Around, past: Past) -> Past:
    """With the addresses of cards, which a lost one does not tell any more."""
    gpus = () if isinstance(around.gpus, Unknown) else around.gpus
    told = {g.uuid: g.pci for g in gpus if isinstance(g.uuid, str) and isinstance(g.pci, str)}
    for gpu in gpus:  # a slice has its card's address
        slices = getattr(gpu.mig, "slices", ()) if isinstance(gpu.pci, str) else ()
        told |= {one.uuid: gpu.pci for one in slices if isinstance(one.uuid, str) and isinstance(gpu.pci, str)}
    return replace(past, cards={**past.cards, **told})


def _moved(seen: Seen, now: float, past: Past) -> Past:
    old = past.seen or seen
    first = past.seen is None
    failures = past.failures + 1 if seen.answer.kind == FAILED else 0 if seen.answer.kind == OK else past.failures
    return replace(
        past,
        seen=seen,
        at=now,
        moved=now if first or seen.pulse != old.pulse else past.moved,
        worked=now if first or seen.worked != old.worked else past.worked,
        given=now if first or seen.tokens != old.tokens or seen.answer.kind == OK else past.given,
        failures=failures,
    )


def _found(seen: Seen, around: Around, past: Past) -> Verdict:
    """What is wrong, before anybody thinks of how often it was tried."""
    answer, now = seen.answer, around.at
    if answer.kind == OK:
        slow = f"the completion took {format_duration(answer.seconds)}" if answer.seconds > 5 else ""
        return Verdict(HEALTHY, slow)
    if seen.state == "gone" and not past.ours:
        return Verdict(DOWN, "it was taken down, and is left so")
    if lost := _gone(seen, around, past):
        return Verdict(BROKEN, lost)
    fatal = _fatal(seen, around, past)
    if seen.state != "running":
        return fatal or Verdict(RESTART, f"it ended ({seen.ended})" if seen.ended else "it ended")
    if answer.kind == UNASKED:
        return Verdict(UNKNOWN, answer.said)
    if fatal and answer.kind != FULL:
        return fatal
    loads = answer.kind == REFUSED and now - past.moved < STILL_S  # what its log says of lost GPUs is of an earlier run
    if seen.log and answer.kind != FULL and not loads:
        return Verdict(RESTART, _taken(seen, around))
    if answer.kind == FAILED:
        if past.failures >= FAILURES:
            return Verdict(RESTART, f"{past.failures} completions in a row failed: {answer.said}")
        return Verdict(UNKNOWN, f"a completion failed: {answer.said}")
    if answer.kind == REFUSED:
        if now - past.moved >= STALL_S:
            still = format_duration(now - past.moved)
            return Verdict(RESTART, f"not ready, and its log, memory and reading stand still for {still}")
        return Verdict(LOADING, answer.said)
    return _silent(seen, now, past)


def _silent(seen: Seen, now: float, past: Past) -> Verdict:
    """No answer in time, and no place in the queue: busy while tokens come, for a while also while it works."""
    given, worked = now - past.given, now - max(past.worked, past.given)
    if worked >= STILL_S:
        return Verdict(RESTART, f"frozen: no answer, and nothing of it moves for {format_duration(worked)}")
    limit = STUCK_S if seen.others else STALL_S
    if given >= limit:
        return Verdict(RESTART, f"stuck: it works and gives no token for {format_duration(given)}")
    count = "1 request is" if seen.others == 1 else f"{seen.others} requests are"
    return Verdict(BUSY, f"{count} at work" if seen.others else "no answer yet")


def _gone(seen: Seen, around: Around, past: Past) -> str:
    """Which of its GPUs the driver does not show any more, and what the kernel said of them."""
    if isinstance(around.gpus, Unknown) or not seen.gpus:
        return ""
    there = {gpu.uuid for gpu in around.gpus if isinstance(gpu.uuid, str)}
    for gpu in around.gpus:
        there |= {one.uuid for one in getattr(gpu.mig, "slices", ()) if isinstance(one.uuid, str)}
    missing = [uuid for uuid in seen.gpus if uuid.startswith(("GPU-", "MIG-")) and uuid not in there]
    if not missing:
        return ""
    said = [_about(event) for event in _events(around) if event.gpu in {past.cards.get(uuid) for uuid in missing}]
    silent = [gpu.uuid.reason for gpu in around.gpus if isinstance(gpu.uuid, Unknown)]
    why = "; ".join(dict.fromkeys([*said, *silent])) or "the kernel's log has no Xid of it"
    return f"{', '.join(_card(uuid, past) for uuid in missing)} is not there any more: {why}"


def _fatal(seen: Seen, around: Around, past: Past) -> Verdict | None:
    """An error since its start, on a card of its own, that no start of a program ends."""
    cards = {past.cards.get(uuid) for uuid in seen.gpus} - {None}
    for event in reversed(_events(around)):
        if event.at >= seen.started and event.gpu in cards and upkeep.xid(event.code).weight > 1:
            return Verdict(BROKEN, _about(event))
    return None


def _taken(seen: Seen, around: Around) -> str:
    """Why a GPU that the host has is not the engine's any more."""
    line = seen.log[-1][:160]
    told = () if isinstance(around.reloads, Unknown) else around.reloads
    since = [one for one in told if one.at >= seen.started]
    if since:
        when = time.strftime("%H:%M", time.localtime(since[-1].at))
        return f"its GPU was lost by a daemon-reload of systemd at {when}: {line}"
    serious = [one for one in _events(around) if one.at >= seen.started]
    if serious:
        return f"its GPU was lost: {line}; {_about(serious[-1])}"
    return f"its GPU was lost: {line}"


def _about(event: Event) -> str:
    about = upkeep.xid(event.code)
    when = time.strftime("%H:%M", time.localtime(event.at))
    return f"{event.gpu}: Xid {event.code} at {when} ({about.meaning}): {about.action}"


def _events(around: Around) -> tuple[Event, ...]:
    return () if isinstance(around.events, Unknown) else around.events


def _card(uuid: str, past: Past) -> str:
    return f"{uuid} at {past.cards[uuid]}" if uuid in past.cards else uuid
