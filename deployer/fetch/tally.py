"""How far several downloads are, together and each: told to whoever watches, a few times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from deployer.progress import Progress
from deployer.quantity import format_size

TOTAL = "total"
_EVERY_S = 0.1


class Tally:
    """Bytes by title; what an earlier call left counts as done, and is told once."""

    def __init__(self, progress: Progress, sizes: Mapping[str, int]) -> None:
        self._progress, self._sizes = progress, sizes
        self._done = dict.fromkeys(sizes, 0)
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def resumed(self, title: str, count: int) -> None:
        """So much of a file was there before."""
        with self._lock:
            self._done[title] += count
            if count:
                size = format_size(self._sizes[title])
                self._progress.say(f"{title}: {format_size(count)} of {size} were here already")

    def came(self, title: str, count: int) -> None:
        """More of a file came; less than nothing when it does not count after all."""
        with self._lock:
            self._done[title] += count
            now, size = time.monotonic(), self._sizes[title]
            if now - self._told.get(title, 0.0) >= _EVERY_S or self._done[title] == size:
                self._told[title] = now
                self._progress.amount(title, self._done[title], size)
                if len(self._sizes) > 1:
                    self._progress.amount(TOTAL, sum(self._done.values()), sum(self._sizes.values()))
