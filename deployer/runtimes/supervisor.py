"""The parent of a unit's programs: starts them, starts them again when they die late, ends them all.

Run as `python -I supervisor.py SPEC`: it needs nothing but Python. A program that ends within SETTLED_S of
its start is not started again, so that a broken deployment is seen as broken; one that ran longer comes
back after a pause that doubles up to a minute. When this process is killed, the kernel ends its programs.

Without containers this is what confines them: nothing that they start gains privileges, their files are for this
user alone, no memory is dumped, and what they leave behind is ended with them. Where the kernel has Landlock, the
engine writes nowhere but in its own folder, opens no TCP connection and signals no other program.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

SETTLED_S = 30.0
GRACE_S = 10.0
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
_CAP_DAC_READ_SEARCH = 2
# linux/landlock.h. Everything that changes a file, from which version of the interface on; reading stays free.
_WRITE = {1: 0b1111111110010, 2: 1 << 13, 3: 1 << 14}
_CONNECT_TCP = 1 << 1  # from version 4
_SCOPES = 0b11  # from version 6: abstract sockets and signals
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1


def main(spec_path: str) -> int:
    spec: dict[str, Any] = json.loads(Path(spec_path).read_text())
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold prompts
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if not landlock():
        sys.stdout.write("note: this kernel has no Landlock: the engine may write and connect as this user may\n")
        sys.stdout.flush()
    port = str(spec["engine_port"])
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
            _reap([child.pid for child, _ in running.values()])
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


_LIBC = ctypes.CDLL(None, use_errno=True)


def landlock() -> int:
    """The version of Landlock's interface that this kernel has; 0 for none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, 1)))


def confine(folders: list[str]) -> None:
    """From here on, for this process and its children: writes below `folders` alone, no TCP connection."""
    version = landlock()
    if not version:
        return
    access = sum(bits for since, bits in _WRITE.items() if version >= since)
    rules = struct.pack("=QQQ", access, _CONNECT_TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = _LIBC.syscall(_CREATE_RULESET, rules, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    for folder in folders:
        handle = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        _LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", access, handle), 0)
        os.close(handle)
    if ruleset < 0 or _LIBC.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock")
    os.close(ruleset)


def end_with_parent() -> None:
    """Run in a new child: the kernel kills it when its parent ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(part: dict[str, Any], port: str) -> tuple[subprocess.Popen[bytes], float]:
    arguments = [a.replace("{engine_port}", port) for a in part["arguments"]]
    environment = {**os.environ, **part["environment"], "DEPLOYER_PART": part["role"]}
    folder = os.environ.get("TMPDIR")

    def ready() -> None:
        end_with_parent()
        if part["role"] == "engine" and folder:
            confine([folder, "/dev"])
            for capability in set(range(64)) - {_CAP_DAC_READ_SEARCH}:  # of root's: it may read, as it could before
                _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)

    child = subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=ready,
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
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (left := _orphans()):  # and what made itself independent
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        _reap([])
        time.sleep(0.02)


def _orphans() -> list[int]:
    """Children of this process: whoever loses its parent below becomes one."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and int((path / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _reap(known: list[int]) -> None:
    """Takes note of the end of children that are nobody's; those of `known` are asked for elsewhere."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in known:
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def _say(text: str) -> None:
    sys.stdout.write(f"supervisor: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
