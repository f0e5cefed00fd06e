"""The parent of a unit's programs: starts them, starts them again when they die late, ends them all.

Run as `python -I supervisor.py SPEC`: it needs nothing but Python. A program that ends within SETTLED_S of
its start is not started again, so that a broken deployment is seen as broken; one that ran longer comes
back after a pause that doubles up to a minute. When this process is killed, the kernel ends its programs.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

SETTLED_S = 30.0
GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


def main(spec_path: str) -> int:
    spec: dict[str, Any] = json.loads(Path(spec_path).read_text())
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    port = str(_free_port())
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    pause = 1.0
    try:
        for part in spec["parts"]:
            try:
                running[part["role"]] = _start(part, port)
            except OSError as error:
                _say(f"{part['role']} cannot be started: {error}")
                return 1
        while not stopping:
            time.sleep(0.2)
            for part in spec["parts"]:
                child, since = running[part["role"]]
                if child.poll() is None or stopping:
                    continue
                age = time.monotonic() - since
                _say(f"{part['role']} ended with {child.returncode} after {age:.0f} s")
                if age < SETTLED_S:
                    return 1
                pause = 1.0 if age > 600 else min(pause * 2, 60.0)
                wake = time.monotonic() + pause
                while not stopping and time.monotonic() < wake:
                    time.sleep(0.2)
                if stopping:
                    break
                running[part["role"]] = _start(part, port)
        return 0
    finally:
        _end([child for child, _ in running.values()])


_LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Run in a new child: the kernel kills it when its parent ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(part: dict[str, Any], port: str) -> tuple[subprocess.Popen[bytes], float]:
    arguments = [a.replace("{engine_port}", port) for a in part["arguments"]]
    environment = {**os.environ, **part["environment"], "DEPLOYER_PART": part["role"]}
    child = subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    return child, time.monotonic()


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in reversed(children):
        _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        _signal_group(child, signal.SIGKILL)  # also what the program itself left behind


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def _say(text: str) -> None:
    sys.stdout.write(f"supervisor: {text}\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
