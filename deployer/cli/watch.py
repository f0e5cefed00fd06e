"""`deployer watch`: looks after a deployment, and starts it again when that can help."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from deployer import host, plan
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which
from deployer.errors import Busy, DeployerError, QuestionError
from deployer.home import read_json, write_json
from deployer.host import Gpu, kernel, nvml
from deployer.plan import Record, World, health, watch
from deployer.plan.health import GATEWAY, Cards, Door, Hands, Sight
from deployer.plan.watch import Around, Past, Seen, Verdict
from deployer.quantity import format_duration, format_size, parse_duration
from deployer.report import Outcome
from deployer.runtimes.base import alias
from deployer.runtimes.living import Member

_LINES = 200  # of a log that is read when an engine does not answer
_SINCE_S = 7 * 86400.0  # how long ago an error of the driver may be
_RUNTIME = "runtime"
_BAD = (watch.RESTART, watch.BROKEN, watch.HOLD)


@click.command("watch")
@click.argument("name", required=False)
@click.option("--every", default="10 s", show_default=True, metavar="TIME", help="Time between looks.")
@click.option("--timeout", default="10 s", show_default=True, metavar="TIME",
              help="How long one token may take before it counts as no answer.")  # fmt: skip
@click.option("--once", is_flag=True, help="Look once, change nothing, and exit with 1 unless all is well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on each line, for programs.")
@click.pass_context
def command(ctx: click.Context, name: str | None, every: str, timeout: str, once: bool, as_json: bool) -> int:
    """Look after deployment NAME, or the only one there is, until it is taken down or this is interrupted.

    Each engine is asked for one token, the driver for the GPUs, the kernel for its Xid lines. What has ended, is
    frozen or has lost its GPU is started again, with pauses that double; what that cannot help is reported and left.
    """
    here = place(ctx)
    record = which(here, name)
    watcher = Watcher(here, record, _seconds(timeout, "--timeout"), as_json)
    if once:
        return 0 if watcher.look(act=False).state == watch.HEALTHY else 1
    pause = _seconds(every, "--every")
    try:
        with here.home.lock(f"watch-{record.name}"):
            while plan.load_record(here.home, record.name) is not None:
                begin = time.monotonic()
                watcher.look(act=True)
                time.sleep(max(0.0, begin + pause - time.monotonic()))
            watcher.say(record.name, "ended", f"{record.name} was taken down")
    except KeyboardInterrupt:
        pass
    return 0


class Watcher:
    """One deployment, and what is remembered of it."""

    def __init__(self, here: Place, record: Record, limit: float, as_json: bool) -> None:
        self._here, self._name, self._limit, self._json = here, record.name, limit, as_json
        self._file = here.home.deployment(record.name) / "watch.json"
        self._questions = here.questions((), ports=())
        self._past = self._remembered(record.accepted)
        self._verdicts: dict[str, Verdict] = {}
        self._since: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._members: dict[int, Member] = {}
        self._blind_kernel = self._unwritten = False
        self._own: tuple[str, ...] = ()
        self._cards: Cards | None = None
        self._take(record)

    def look(self, *, act: bool) -> Verdict:
        """One round: what is seen is judged, said where it is new, and acted on."""
        record = plan.load_record(self._here.home, self._name)
        if record is not None and record != self._record:  # after an `up` nothing of the former counts
            self._past.clear()
            self._take(record)
        try:
            sights = self._hands.look()
            self._verdicts.pop(_RUNTIME, None)
        except DeployerError as error:  # a container engine that is being restarted
            return self._blind(error.message)
        except Exception as error:  # noqa: BLE001  a container that goes while it is looked at must not end the watch
            return self._blind(f"{type(error).__name__}: {error}")
        seen_now = {one.pid: one for sight in sights for one in sight.members}
        self._members = {pid: one for pid, one in self._members.items() if one.state is not None} | seen_now
        found = health.observe(sights, self._door)
        around = self._around(found)
        wanted: list[str] = []
        for seen in found:
            verdict, self._past[seen.name] = watch.judge(seen, around, self._past.get(seen.name, Past()))
            self._told(seen, verdict)
            wanted += [seen.name] if verdict.state == watch.RESTART else []
        if act:
            for name in wanted:
                self._again(name, sights)
            self._keep()
        return watch.worst(list(self._verdicts.values()))

    def _blind(self, why: str) -> Verdict:
        found = Verdict(watch.UNKNOWN, why)
        if self._verdicts.get(_RUNTIME) != found:
            self.say(_RUNTIME, found.state, found.cause)
        self._verdicts[_RUNTIME] = found
        return found

    def say(self, part: str, event: str, text: str, **more: Any) -> None:
        now = time.time()
        if self._json:
            told = {"at": round(now, 3), "deployment": self._name, "part": part, "event": event, "text": text, **more}
            click.echo(json.dumps(told, ensure_ascii=False))
        else:
            good = event not in (*_BAD, "failed", "killed")
            word = show.paint(f"{event:9}", Outcome.PASS if good else Outcome.FAIL)
            click.echo(f"{time.strftime('%H:%M:%S', time.localtime(now))}  {part:9} {word} {text}".rstrip())

    def _take(self, record: Record) -> None:
        """From now on it is this one."""
        self._record = record
        self._started.clear()
        self._own = tuple(gpu for launch in record.engines for gpu in launch.parts[0].gpus)
        if self._own and self._cards is None:
            self._cards = Cards(self._gpus, self._publish)
        self._hands = hands(self._here, record)
        key = self._here.home.deployment(record.name) / "key"
        certificate = Path(record.certificate) if record.certificate else None
        known = key.read_text().strip() if record.key_file and key.exists() else None
        url = record.url.removesuffix("/v1")
        self._door = Door(url, record.model, record.kind, known, certificate, self._limit)

    def _around(self, found: Sequence[Seen]) -> Around:
        """What the host says; while all is well, only what costs nothing."""
        now = time.time()
        trouble = [seen for seen in found if seen.answer.kind != watch.OK]
        if self._cards is None or not trouble:
            return Around(now, self._cards.now() if self._cards else ())
        since = max(now - _SINCE_S, min(seen.started for seen in found) or 0.0)
        events = kernel.events(self._questions, since)
        if isinstance(events, host.Unknown) and not self._blind_kernel:
            self._blind_kernel = True
            self.say("kernel", "note", f"no Xid lines: {events.reason}")
        reloads = kernel.reloads(since) if any(seen.log for seen in trouble) else ()
        return Around(now, self._cards.now(fresh=True), events, reloads)

    def _gpus(self) -> tuple[Gpu, ...] | host.Unknown:
        found = nvml.nvml(self._questions)
        return found if isinstance(found, host.Unknown) else found.gpus

    def _publish(self, gpus: tuple[Gpu, ...]) -> None:
        now = time.time()
        events = kernel.events(self._questions, now - health.HOUR_S)
        told = health.for_gateway(gpus, self._own, () if isinstance(events, host.Unknown) else events, now)
        with suppress(OSError):  # the gateway shows nothing that is old
            self._here.home.write_for_gateway(self._name, "gpus.json", told)

    def _told(self, seen: Seen, verdict: Verdict) -> None:
        old = self._verdicts.get(seen.name)
        known = self._started.get(seen.name)
        up = time.clock_gettime(time.CLOCK_BOOTTIME)  # other than the time of day, which may be set
        started = seen.started and seen.started - time.time() + up
        if started:
            self._started[seen.name] = started
        if known and started > known + 1:  # as containers and our supervisor do, sooner than a look comes
            self.say(seen.name, "note", "it had ended, and its runtime started it again")
        self._verdicts[seen.name] = verdict
        if old is None or old.state != verdict.state:
            self._since[seen.name] = time.time()
        if old is None or (old.state, old.until) != (verdict.state, verdict.until):
            wait = f", next try in {format_duration(verdict.until - time.time())}" if verdict.until else ""
            took = f"a token in {format_duration(seen.answer.seconds)}" if seen.name != GATEWAY else "answers"
            text = verdict.cause or (took if verdict.state == watch.HEALTHY else "")
            self.say(seen.name, verdict.state, text + wait, restarts=self._past[seen.name].restarts)

    def _again(self, name: str, sights: Sequence[Sight]) -> None:
        """Starts a part again, unless another command works on the deployment."""
        cause, failure = self._verdicts[name].cause, ""
        try:
            with self._here.home.lock(f"deployment-{self._name}"):
                same = plan.load_record(self._here.home, self._name) == self._record
                if not same or _changed(sights, self._hands.look()):
                    return  # somebody did something meanwhile: it is looked at again
                self._past[name] = replace(self._past[name], ours=True)
                self._keep()
                begin = time.monotonic()
                lines = [*self._hands.again(name), *self._tidied()]
                took = time.monotonic() - begin
                self.say(name, "restarted", f"after {format_duration(took)}; cause: {cause}", seconds=round(took, 3))
        except Busy as busy:
            self.say(name, "busy", busy.message)
            return
        except DeployerError as error:
            failure = error.message
            lines = [*error.evidence, *([error.hint] if error.hint else [])]
            self.say(name, "failed", f"it did not come back: {failure}")
        except Exception as error:  # noqa: BLE001  what it costs is a pause, and not the watch
            failure, lines = f"{type(error).__name__}: {error}", []
            self.say(name, "failed", f"it did not come back: {failure}")
        for line in lines:
            self.say(name, "note", line)
        self._started.clear()
        self._past[name] = watch.restarted(self._past[name], time.time(), failure)

    def _tidied(self) -> list[str]:
        gpus = self._cards.now(fresh=True) if self._cards else ()
        if isinstance(gpus, host.Unknown):
            return [f"whether anything still holds memory of the GPUs could not be asked: {gpus.reason}"]
        now = [one for sight in self._hands.look() for one in sight.members]
        found = health.tidy(health.left(gpus, self._own, self._members.values(), now))
        self._members = {one.pid: one for one in now}
        return found

    def _keep(self) -> None:
        whole = watch.worst(list(self._verdicts.values()))
        name = next(name for name, one in self._verdicts.items() if one == whole)
        parts = {
            part: {"state": one.state, "cause": one.cause, "since": self._since[part], "until": one.until,
                   "restarts": self._past[part].restarts, "restarted": self._past[part].restarted,
                   "ours": self._past[part].ours}
            for part, one in self._verdicts.items()
        }  # fmt: skip
        told = {"at": time.time(), "pid": os.getpid(), "accepted": self._record.accepted, "state": whole.state,
                "cause": whole.cause, "since": self._since[name], "parts": parts,
                "restarts": max(past.restarts for past in self._past.values())}  # fmt: skip
        try:
            write_json(self._file, told)
            self._unwritten = False
        except OSError as error:  # a full disk must not end the watch
            if not self._unwritten:
                self.say(self._name, "note", f"{self._file} cannot be written: {error.strerror}")
            self._unwritten = True

    def _remembered(self, accepted: str) -> dict[str, Past]:
        """What an earlier watcher had tried, so that to end it and to start it again is no way around the pauses."""
        raw: Any = read_json(self._file)
        try:
            if raw["accepted"] != accepted:
                return {}
            return {
                part: Past(restarts=int(one["restarts"]), restarted=float(one["restarted"]), ours=bool(one["ours"]))
                for part, one in raw["parts"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}


def hands(here: Place, record: Record) -> Hands:
    """The deployment of `record` for a watcher; each engine, and the gateway, is started again for itself."""
    return Hands(partial(_look, here, record), partial(_start, here, record))


def _look(here: Place, record: Record) -> tuple[Sight, ...]:
    runtime = here.runtime(record.runtime)
    units = {name: runtime.find(name) for name in record.units}
    sights: list[Sight] = []
    for name, unit in units.items():
        state, ended = (unit.state, unit.exit) if unit else ("gone", None)
        if unit is None and any(units.values()):  # nobody takes down a part
            state, ended = "stopped", "nothing of it is there any more"
        # without the supervisor, which works on while its engine does not
        own = {pid for about in runtime.about(name) for pid in about.pids}
        members = tuple(one for one in runtime.members(name) if one.pid in own)
        if name == record.name:
            sights.append(Sight(GATEWAY, state, members, None, (), ended))
            continue
        gpus = next(one.parts[0].gpus for one in record.engines if one.unit == name)
        log = partial(runtime.logs, name, lines=_LINES)
        sights.append(Sight(alias(name), state, members, runtime.pulse(name), gpus, ended, log))
    return tuple(sights)


def _start(here: Place, record: Record, part: str) -> list[str]:
    """Stops what is left of one part, until its memory is back, and starts what does not run."""
    screen = show.Screen(quiet=True)
    runtime = here.runtime(record.runtime)
    facts = host.probe(replace(here.questions((), ports=()), base=None))
    world = World(here.home, here.web, here.settings(), runtime, here.runtime, screen, facts)
    if part == GATEWAY:
        runtime.stop(record.name, below=False)
        plan.mend(record, world)
        return []
    unit = next(one.unit for one in record.engines if alias(one.unit) == part)
    released = plan.release(unit, [runtime], partial(host.gpus, here.questions((), ports=())), screen)
    plan.mend(record, world)
    back = [f"{format_size(size)} of GPU {gpu} came back" for gpu, size in sorted(released.gpus.items())]
    killed = [f"{one.name} (pid {one.pid}) did not end by itself and was killed" for one in released.killed]
    return [*back, *killed]


def _changed(before: Sequence[Sight], now: Sequence[Sight]) -> bool:
    def told(sights: Sequence[Sight]) -> list[Any]:
        return [(one.name, one.state, frozenset(m.pid for m in one.members)) for one in sights]

    return told(before) != told(now)


def _seconds(text: str, option: str) -> float:
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise QuestionError(f"{option}: {error}", hint=f"{option} 10s") from error
    if found <= 0:
        raise QuestionError(f"{option}: more than nothing", hint=f"{option} 10s")
    return found
