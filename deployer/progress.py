"""What long work tells whoever watches: lines, and amounts that grow."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher; the command line draws bars on a terminal and prints lines elsewhere."""

    def say(self, text: str) -> None:
        """One finished thought, for example `model: already there`."""

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        """`done` of `total` so far; called often, also with `done == total` at the end."""


class Silent:
    """A watcher that looks away."""

    def say(self, text: str) -> None:
        return None

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        return None
