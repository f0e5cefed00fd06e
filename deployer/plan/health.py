"""What `deployer watch` asks: a token of each engine, GPUs, what runs; and who holds memory of GPUs after a stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.frozen import dataclass
from deployer.host import Gpu, Unknown
from deployer.plan.acceptance import trust
from deployer.plan.release import Holder
from deployer.plan.watch import FAILED, FULL, LOST, OK, REFUSED, SILENT, UNASKED, Answer, Seen
from deployer.runtimes.living import Member, end, stat

if TYPE_CHECKING:
    import httpx

    from deployer.host.kernel import Event

GATEWAY = "gateway"
_PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    "completion": ("/v1/completions", {"prompt": "Hi"}),
    "embedding": ("/v1/embeddings", {"input": "Hi"}),
}
_NEWS = '{"time": "'  # the gateway's own log
HOUR_S = 3600.0
LIMIT_S = 3.0  # for one look at the GPUs, which may have to wake them


@dataclass(frozen=True)
class Sight:
    """One part as its runtime shows it: a replica by the gateway's name for it, or GATEWAY.

    `state` and `ended` are the unit's, `members` the part's own processes; `log` reads its last lines.
    """

    name: str
    state: str
    members: tuple[Member, ...] = ()
    pulse: Hashable = None
    gpus: tuple[str, ...] = ()
    ended: str | None = None
    log: Callable[[], Iterable[str]] = tuple


@dataclass(frozen=True)
class Hands:
    """All that a watcher does to a deployment: `look` at its parts, and start one of them, by name, `again`.

    `again` gives what was done, as lines for people; it raises DeployerError when the part does not come up.
    """

    look: Callable[[], tuple[Sight, ...]]
    again: Callable[[str], Sequence[str]]


class Door:
    """The gateway at `url`, as the owner of the deployment asks it; `limit` in seconds for one completion."""

    def __init__(
        self, url: str, model: str, kind: str, key: str | None, certificate: Path | None, limit: float
    ) -> None:
        self._url, self._certificate, self._limit = url, certificate, limit
        self._path, prompt = _PATHS.get(kind, _PATHS["completion"])
        self._body = {"model": model, "max_tokens": 1, "temperature": 0, **prompt}
        self._headers = {"X-Deployer-Probe": "1", **({"Authorization": f"Bearer {key}"} if key else {})}

    def alive(self) -> Answer:
        """Whether the gateway itself answers."""
        answer, _ = self._ask("GET", "/healthz", limit=5.0)
        return answer

    def replicas(self) -> dict[str, Mapping[str, Any]]:
        """What the gateway counts of each replica, by name; nothing where it does not tell."""
        answer, value = self._ask("GET", "/v1/status", limit=5.0)
        models = value.get("models", []) if answer.kind == OK and isinstance(value, dict) else []
        return {one["name"]: one for model in models for one in model["replicas"]}

    def token(self, replica: str) -> Answer:
        """A completion of one token by this replica, or the vector of one word."""
        answer, value = self._ask("POST", self._path, {"X-Deployer-Replica": replica}, self._limit)
        if answer.kind == OK and not (isinstance(value, dict) and (value.get("choices") or value.get("data"))):
            return Answer(FAILED, answer.seconds, "an answer without a choice")
        return answer

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        alone = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(base_url=self._url, limits=alone, trust_env=False, verify=trust(self._certificate))

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, limit: float = 5.0
    ) -> tuple[Answer, Any]:
        import httpx

        begin = time.monotonic()
        body, headers = self._body if method == "POST" else None, {**self._headers, **(headers or {})}
        try:
            got = self._client.request(method, path, headers=headers, timeout=limit, json=body)
            value: Any = got.json()
        except httpx.TimeoutException:
            return Answer(SILENT, time.monotonic() - begin, f"no answer in {limit:g} s"), None
        except httpx.ConnectError as error:
            return Answer(REFUSED, said=str(error)), None
        except (httpx.HTTPError, ValueError) as error:
            return Answer(FAILED, time.monotonic() - begin, f"{type(error).__name__} {error}"), None
        return Answer(_kind(got.status_code), time.monotonic() - begin, _said(got.status_code, value)), value


def _kind(status: int) -> str:
    """What an HTTP status says of an engine; a request that is refused as such says nothing of it."""
    known = {200: OK, 429: FULL, 503: REFUSED}
    return known.get(status, FAILED if status >= 500 else UNASKED)


def _said(status: int, value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return "" if status == 200 else f"HTTP {status}: {said or 'no reason given'}"


def observe(sights: Sequence[Sight], door: Door) -> tuple[Seen, ...]:
    """Each part with what came of asking it, all of them at once."""
    alive = door.alive()
    engines = [sight for sight in sights if sight.name != GATEWAY]
    counts = door.replicas() if alive.kind == OK else {}
    if alive.kind == OK:
        with ThreadPoolExecutor(max(1, len(engines))) as pool:
            answers = list(pool.map(door.token, [sight.name for sight in engines]))
    else:
        answers = [Answer(UNASKED, said="the gateway does not answer") for _ in engines]
    asked = {sight.name: answer for sight, answer in zip(engines, answers, strict=True)} | {GATEWAY: alive}
    return tuple(_seen(sight, asked[sight.name], counts.get(sight.name, {})) for sight in sights)


def _seen(sight: Sight, answer: Answer, counts: Mapping[str, Any]) -> Seen:
    return Seen(
        name=sight.name,
        state=sight.state,
        answer=answer,
        pulse=sight.pulse,
        worked=worked(sight.members),
        tokens=int(counts.get("events", 0)) + int(counts.get("answered", 0)),
        others=int(counts.get("running", 0)),
        gpus=sight.gpus,
        log=() if answer.kind == OK else lost(sight.log()),
        ended=sight.ended,
        started=min((begun(one) for one in sight.members), default=0.0),
    )


def lost(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines of a log that tell of GPUs that are gone from the program, since it was started last."""
    found: list[str] = []
    for line in lines:
        if line.startswith("supervisor: ") and " ended with " in line:
            found = []
        elif _NEWS not in line and any(word in line for word in LOST):
            found.append(line.strip())
    return tuple(found)


def worked(members: Iterable[Member]) -> float:
    """Seconds of processor time that these processes have used."""
    ticks = 0
    for one in members:
        words = stat(one.pid)
        ticks += int(words[11]) + int(words[12]) if words else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def begun(one: Member) -> float:
    """When the process began, in seconds since 1970."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + one.started / os.sysconf("SC_CLK_TCK")


class Cards:
    """The GPUs, asked every `every` seconds aside, so that a driver that hangs holds up nobody but this.

    `publish` is given what was found each time.
    """

    def __init__(
        self,
        ask: Callable[[], tuple[Gpu, ...] | Unknown],
        publish: Callable[[tuple[Gpu, ...]], None],
        every: float = 5.0,
    ) -> None:
        self._ask, self._publish, self._every = ask, publish, every
        self._found: tuple[Gpu, ...] | Unknown = ()
        self._asked = time.monotonic()
        self._wanted, self._done = threading.Event(), threading.Condition()
        self._looks = 0
        threading.Thread(target=self._go, daemon=True).start()

    def now(self, *, fresh: bool = False) -> tuple[Gpu, ...] | Unknown:
        """What was found last, or, with `fresh`, what is found now. Unknown when nothing was for three looks."""
        begin = time.monotonic()
        with self._done:
            if fresh:
                self._wanted.set()
            self._done.wait_for(
                lambda: self._looks > 0 and not (fresh and self._asked < begin), self._every if self._looks else LIMIT_S
            )
            age = time.monotonic() - self._asked
            if not self._looks or age > 3 * self._every + LIMIT_S:
                return Unknown(f"the driver has not answered for {age:.0f} s")
            return self._found

    def _go(self) -> None:
        while True:
            self._wanted.clear()
            begin = time.monotonic()
            try:
                found = self._ask()
                if not isinstance(found, Unknown):
                    self._publish(found)
            except Exception as error:  # noqa: BLE001  one answer of the driver must not end all looks
                found = Unknown(f"{type(error).__name__}: {error}")
            with self._done:
                self._found, self._asked, self._looks = found, begin, self._looks + 1
                self._done.notify_all()
            self._wanted.wait(self._every)


def for_gateway(gpus: Sequence[Gpu], own: Iterable[str], events: Iterable[Event], now: float) -> dict[str, Any]:
    """What the gateway is told of the GPUs `own` (deployer/gateway/gpus.py), with the last Xid of an hour."""
    wanted, recent = set(own), [one for one in events if one.at > now - HOUR_S]
    rows = []
    for gpu in gpus:
        slices = [one.uuid for one in getattr(gpu.mig, "slices", ())]
        if not isinstance(gpu.uuid, str) or not wanted & {gpu.uuid, *(s for s in slices if isinstance(s, str))}:
            continue
        used = gpu.vram - gpu.free_vram if isinstance(gpu.vram, int) and isinstance(gpu.free_vram, int) else None
        rows.append({
            "index": gpu.index, "uuid": gpu.uuid, "name": gpu.name if isinstance(gpu.name, str) else "GPU",
            "memory_used": used, "memory_total": _number(gpu.vram), "utilization": _number(gpu.utilization),
            "temperature": _number(getattr(gpu.heat, "now", None)),
            "power_w": _number(getattr(gpu.power, "draw", None)),
            "xid": next((one.code for one in reversed(recent) if one.gpu == gpu.pci), 0),
        })  # fmt: skip
    return {"at": now, "gpus": rows}


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class Left:
    """What holds memory of GPUs after a stop: `ours` ran in the deployment before, `others` are somebody else's."""

    ours: tuple[Member, ...]
    others: tuple[Holder, ...]


def left(gpus: Sequence[Gpu], own: Iterable[str], before: Iterable[Member], now: Iterable[Member]) -> Left:
    """Who still holds memory of the GPUs `own`, of those that ran `before`, and of others that do not run `now` in it.

    A number that another program has by now is not ours.
    """
    wanted, running = set(own), {one.pid for one in now}
    mine = {one.pid: one for one in before if one.pid not in running and one.state is not None}
    ours: dict[int, Member] = {}
    others = []
    for gpu in gpus:
        for one in gpu.processes if isinstance(gpu.processes, tuple) else ():
            if one.pid in mine:
                ours[one.pid] = mine[one.pid]
            elif one.pid not in running and gpu.uuid in wanted:
                others.append(Holder(gpu.index, one.pid, one.name, one.memory, one.state))
    return Left(tuple(ours.values()), tuple(others))


def tidy(found: Left) -> list[str]:
    """Ends what is ours of `found`, and says whose the rest is."""
    lines = [
        f"{one.name} (pid {one.pid}) of this deployment outlived it: {'killed' if end(one) else 'it may not be killed'}"
        for one in found.ours
    ]
    return lines + [f"{other}, and is not of this deployment" for other in found.others]
