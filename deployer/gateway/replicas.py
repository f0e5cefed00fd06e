"""Engines behind one door: which one gets a request, how many it works on, and who waits."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .config import ACTIVE, Config, Model, Replica
from .errors import LIMITED, UNAVAILABLE, Refusal

_BROKEN_S = 5.0  # how long a replica that refused a connection is passed over


@dataclass
class Place:
    """A replica and what it does now. `broken` is until when it is passed over, by the monotonic clock.

    `answered` counts requests that it answered, `events` what came of streams: what moves is alive.
    """

    replica: Replica
    running: int = 0
    broken: float = 0.0
    ready: bool | None = None
    answered: int = 0
    events: int = 0

    @property
    def free(self) -> bool:
        return self.running < self.replica.slots


@dataclass
class Crowd:
    """Who waits for one model, in order; and how long requests take, smoothed, in seconds."""

    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    takes: float = 2.0


class Replicas:
    """All engines of a configuration."""

    def __init__(self) -> None:
        self._config = Config("", 0, ())
        self._places: dict[tuple[str, str, str], Place] = {}
        self._crowds: dict[str, Crowd] = {}

    def take(self, config: Config) -> None:
        """The engines of `config` from now on. What runs on one that is gone ends there."""
        self._config = config
        old = self._places
        self._places = {}
        for model in config.models:
            for replica in model.replicas:
                name = (model.id, replica.name, replica.url)
                place = old.get(name) or Place(replica)
                place.replica = replica
                self._places[name] = place
            self._wake(model)

    def places(self, model: Model) -> list[Place]:
        return [place for (id_, _, _), place in self._places.items() if id_ == model.id]

    def everywhere(self) -> list[Place]:
        return list(self._places.values())

    @property
    def running(self) -> int:
        return sum(place.running for place in self._places.values())

    @property
    def waiting(self) -> int:
        return sum(len(crowd.waiting) for crowd in self._crowds.values())

    def waiting_for(self, model: Model) -> int:
        return len(self._crowd(model).waiting)

    @asynccontextmanager
    async def slot(self, model: Model, session: str, asked: str | None = None) -> AsyncIterator[Place]:
        """A place on an engine of `model`, waited for in order; `asked` names one replica, at once, whatever its state.

        Requests of one `session` go to one replica while it has a slot, because it may still hold what it read
        of them. Raises Refusal when too many wait, or for too long.
        """
        place = await self._found(model, session, asked)
        begin = time.monotonic()
        try:
            yield place
        finally:
            place.running -= 1
            crowd = self._crowd(model)
            crowd.takes += 0.2 * (time.monotonic() - begin - crowd.takes)
            self._wake(model)

    async def _found(self, model: Model, session: str, asked: str | None) -> Place:
        crowd = self._crowd(model)
        begin = time.monotonic()
        first = False  # whoever was woken does not queue again behind those who came later
        while True:
            places = self._usable(model, asked)
            if asked and places:  # whoever may ask for one by name tests it, and does not wait for others
                places[0].running += 1
                return places[0]
            if not places and not self._coming(model):
                raise Refusal(503, "the model is not ready", UNAVAILABLE, code="model_not_ready", after=5)
            if (first or not crowd.waiting) and (place := _best(places, session)):
                place.running += 1
                return place
            left = self._config.wait - (time.monotonic() - begin)
            if left <= 0 or (not first and len(crowd.waiting) >= self._config.queue):
                after = crowd.takes * (1 + len(crowd.waiting) / max(1, sum(p.replica.slots for p in places)))
                raise Refusal(429, "too many requests are waiting; try again later", LIMITED,
                              code="engine_busy", after=after)  # fmt: skip
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (crowd.waiting.appendleft if first else crowd.waiting.append)(turn)
            try:
                await asyncio.wait((turn,), timeout=left)  # wait_for swallows a cancellation that comes late
                first = turn.done()
            except asyncio.CancelledError:
                if turn.done():
                    self._wake(model)  # its turn had come: the next one's
                raise
            finally:
                if turn in crowd.waiting:
                    crowd.waiting.remove(turn)

    def broken(self, model: Model, place: Place) -> bool:
        """It refused a connection: others are asked first for a while. Whether there are others now."""
        place.broken = time.monotonic() + _BROKEN_S
        place.ready = False
        return any(not other.broken for other in self._usable(model, None))

    def _usable(self, model: Model, asked: str | None) -> list[Place]:
        now = time.monotonic()
        current = self._config.model(model.id)
        places = self.places(current) if current else []
        if asked is not None:
            return [place for place in places if place.replica.name == asked]
        active = [place for place in places if place.replica.state == ACTIVE]
        for place in active:
            place.broken = place.broken if place.broken > now else 0.0
        return [place for place in active if not place.broken] or active

    def _coming(self, model: Model) -> bool:
        """Whether there are engines that get no requests yet, or no more: others take their place in a moment."""
        current = self._config.model(model.id)
        return current is not None and any(replica.state != ACTIVE for replica in current.replicas)

    def _wake(self, model: Model) -> None:
        """Turns come as slots get free; a request that finds none after all waits again, in front."""
        crowd = self._crowd(model)
        free = sum(max(0, p.replica.slots - p.running) for p in self.places(model) if p.replica.state == ACTIVE)
        while free > 0 and crowd.waiting:
            turn = crowd.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def _crowd(self, model: Model) -> Crowd:
        return self._crowds.setdefault(model.id, Crowd())




def _best(places: list[Place], session: str) -> Place | None:
    """The session's own place while that has a free slot, else the one with the fewest requests."""
    free = [place for place in places if place.free]
    if not free:
        return None
    if session:
        own = max(places, key=lambda place: hashlib.sha256(f"{session}\0{place.replica.name}".encode()).digest())
        if own.free:
            return own
    return min(free, key=lambda place: place.running / place.replica.slots)
