"""Programs that are run for a proof: each as this user, with a time limit, told of when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LINES = 5  # of what a failed program said last
MAPPED = Path(__file__).with_name("mapped.py")


class Program:
    """A program that was started. After `wait`: what it wrote, and `failure` if it failed, as a sentence's end."""

    def __init__(self, words: Sequence[str], seconds: float) -> None:
        self.seconds, self.until = seconds, time.monotonic() + seconds
        self.failure = self.out = self.err = ""
        self.process: subprocess.Popen[str] | None = None
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self.failure = f"does not start: {error.strerror}"

    def wait(self) -> None:
        """When it is out of time, it and its children are ended."""
        if self.process is None:
            return
        try:
            self.out, self.err = self.process.communicate(timeout=max(0.0, self.until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.out, self.err = self.process.communicate()
            self.failure = f"is not done after {self.seconds:g} s{last(self.err)}"
        else:
            code = self.process.returncode
            if code < 0:
                self.failure = f"is ended by {signal.Signals(-code).name}{last(self.err)}"
            elif code:
                self.failure = f"exits {code}{last(self.err or self.out)}"


def interpreter() -> list[str]:
    """How this Python was started: in an image without one, by a loader that is told where its libraries are."""
    words = [os.fsdecode(word) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0")]
    return words[: words.index(sys.executable) + 1] if sys.executable in words else [sys.executable]


def last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()][-LINES:]
    return f": {' / '.join(lines)}" if lines else ""


class Mapping(Program):
    """`mapped.py` in a process of its own; `facts` is what it learned, also when it crashed after that."""

    def __init__(self, words: Sequence[str], seconds: float) -> None:
        super().__init__([*interpreter(), str(MAPPED), *words], seconds)

    def facts(self) -> dict[str, Any]:
        self.wait()
        found: dict[str, Any] = {"versions": {}, "checks": {}}
        for line in self.out.splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if "library" in said:
                found["versions"][said["library"]] = said["version"]
            elif "check" in said:
                found["checks"][said["check"]] = said["code"]
            else:
                found |= said
        return found
