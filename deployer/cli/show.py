"""How things look: errors, progress, colours. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from deployer.errors import DeployerError
from deployer.quantity import format_duration, format_size
from deployer.report import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_COLOURS = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red", Outcome.SKIP: "cyan"}
_LINE_EVERY_S = 15.0  # without a terminal


def colourful(stream: Any) -> bool:
    """Whether to colour: a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, outcome: Outcome) -> str:
    """`text` in the colour of `outcome`, on a terminal."""
    return (
        click.style(text, fg=_COLOURS[outcome], bold=outcome is Outcome.FAIL)
        if colourful(sys.stdout)
        else text
    )


def width() -> int:
    """Columns of the terminal; 100 where there is none."""
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (ValueError, OSError):
        columns = 0
    return min(columns or 100, 120)


def out(text: str) -> None:
    """`text` on stdout, with `?` for what its encoding cannot hold."""
    code = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(code, "replace").decode(code))


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as text, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def show_json(value: Any) -> None:
    """`value` on stdout as JSON, in ASCII where nothing else can be printed."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str)
    click.echo(text)


def show_error(error: DeployerError, *, as_json: bool = False) -> None:
    """`error: …`, its evidence, `hint: …`, `log: …` on stderr; with `as_json` the same on stdout for programs."""
    if as_json:
        told = {"message": error.message, "hint": error.hint, "evidence": list(error.evidence)}
        show_json({"error": {**told, **({"log": error.log} if error.log else {})}})
    red = {"fg": "red", "bold": True} if colourful(sys.stderr) else {}
    click.echo(click.style("error: ", **red) + error.message, err=True)  # type: ignore[arg-type]
    for line in error.evidence:
        click.echo(f"  | {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    if error.log:
        click.echo(f"log: {error.log}", err=True)


class Screen:
    """Progress on stderr: bars with rate and time left on a terminal, single lines elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def say(self, text: str) -> None:
        if not self._quiet:
            self._close()
            click.echo(text, err=True)

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        if self._quiet:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._draw(title, done, total, unit)
        else:
            self._line(title, done, total, unit)

    def _line(self, title: str, done: int, total: int | None, unit: str) -> None:
        now = time.monotonic()
        last = self._said.setdefault(title, now)
        finished = total is not None and done >= total
        if finished:
            self._said.pop(title)
        elif now - last < _LINE_EVERY_S:
            return
        else:
            self._said[title] = now
        click.echo(f"{title}: {_amount(done, total, unit)}", err=True)

    def _draw(self, title: str, done: int, total: int | None, unit: str) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as SpeedColumn

            sizes = unit == "B"
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                DownloadColumn() if sizes else TextColumn("{task.fields[amount]}"),
                *([SpeedColumn()] if sizes else []),
                TimeRemainingColumn(),
                console=Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR"))),
                transient=True,
            )
            self._bars.start()
        amount = _amount(done, total, unit)
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=total, amount=amount)
        self._bars.update(self._tasks[title], completed=done, total=total, amount=amount)
        if total is not None and done >= total:
            self._close()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._tasks = None, {}


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "B":
        return f"{format_size(done)} of {format_size(total)}" if total else format_size(done)
    if unit == "s":
        return format_duration(done)
    return f"{done} of {total} {unit}" if total else f"{done} {unit}"
