"""What the kernel and systemd said since a time, with the hour: errors of the driver, reloads of systemd.

`host/driver.py` reads the kernel's records as files; where this user may not, programs that may are asked here. So this
is for `deployer watch` alone: `deployer check` starts no program.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from deployer.frozen import dataclass
from deployer.host.base import Fact, Questions, Unknown
from deployer.host.driver import kernel_log, xid_of

LIMIT_S = 5.0  # for one program
# systemd[1]: "Reloading." before version 253, "Reloading requested from client PID 7 ('systemctl')..." from then on
# (systemd/systemd#25717), "Reload requested from ..." from 256 on. "Reloading finished in 651 ms." is its end.
_RELOAD = re.compile(r"^(Reloading\.|Reload(ing)? requested from )")
Run = Callable[[list[str]], str]


@dataclass(frozen=True)
class Event:
    """An error that the driver wrote to the kernel's log at `at`, in seconds since 1970; `gpu` is a PCI address."""

    at: float
    gpu: str
    code: int
    text: str


@dataclass(frozen=True)
class Reload:
    """When systemd applied its configuration again, in seconds since 1970, and what it said of who wanted it."""

    at: float
    text: str


def run(words: list[str]) -> str:
    """What the program says. Raises OSError when it cannot be asked, with its own reason."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{words[0]} did not end in {LIMIT_S:g} s") from error
    if done.returncode:
        raise OSError(f"{words[0]}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}")
    return done.stdout


def events(ask: Questions, since: float, programs: Run = run) -> Fact[tuple[Event, ...]]:
    """Errors of the driver since `since`, from the kernel's records, else from the journal, else from `dmesg`."""
    try:
        found = kernel_log(ask)
        if all(xid.at is not None for xid in found.xids):
            # the kernel counts from the boot, without the time that the machine slept
            boot = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
            dated = (Event(boot + (xid.at or 0.0), xid.gpu, xid.code, xid.text) for xid in found.xids)
            return tuple(event for event in dated if event.at >= since)
        refused = ["/var/log/kern.log has no times since the boot"]
    except OSError as error:
        refused = [str(error)]
    for lines in (partial(_journal, "-k"), _dmesg):
        try:
            return tuple(one for at, text in lines(since, programs) if at >= since and (one := _event(at, text)))
        except (OSError, ValueError) as error:
            refused.append(str(error))
    return Unknown("; ".join(refused))


def reloads(since: float, programs: Run = run) -> Fact[tuple[Reload, ...]]:
    """When systemd was told to reload (`systemctl daemon-reload`) since `since`; Unknown without its journal."""
    try:
        return tuple(Reload(at, text) for at, text in _journal("_PID=1", since, programs) if _RELOAD.match(text))
    except (OSError, ValueError) as error:
        return Unknown(str(error))


def _event(at: float, line: str) -> Event | None:
    xid = xid_of(line)
    return Event(at, xid.gpu, xid.code, xid.text) if xid else None


def _journal(what: str, since: float, programs: Run) -> Iterator[tuple[float, str]]:
    """Time and text of each entry; a text that is not UTF-8 comes as a list of bytes.

    Raises OSError where the journal has no such entry at all: it is not kept, or not for this user, and says neither.
    """
    words = ["journalctl", what, "-o", "json", "--no-pager"]
    said = programs([*words, f"--since=@{since:.0f}"])
    if not said.strip() and not programs([*words, "-n", "1"]).strip():
        raise OSError("the journal shows this user nothing")
    for line in said.splitlines():
        entry: Any = json.loads(line) if line.startswith("{") else {}
        text = entry.get("MESSAGE")
        if isinstance(text, list):
            text = bytes(text).decode(errors="replace")
        if isinstance(text, str):
            yield int(entry["__REALTIME_TIMESTAMP"]) / 1e6, text


def _dmesg(since: float, programs: Run) -> Iterator[tuple[float, str]]:
    for line in programs(["dmesg", "--time-format=iso"]).splitlines():
        when, _, text = line.partition(" ")
        try:
            at = datetime.fromisoformat(when.replace(",", ".")).timestamp()
        except ValueError:
            continue  # a line of several lines
        yield at, text
