"""llama.cpp's server as the end-to-end tests made it, for a moment: what it says of its memory, and its process."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("DEPLOYER_TEST_CACHE", Path.home() / ".cache/deployer-tests"))
SERVERS = sorted(CACHE.glob("engines/llamacpp-*/llama-server"))
PORT = 20000 + os.getpid() % 20000


@contextmanager
def served(
    model: Path, context: int, slots: int, log: Path, *, threads: int = 1, more: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """(what the server says until the model is loaded, its process)."""
    command = [
        str(SERVERS[-1]), "--model", str(model), "--port", str(PORT), "--ctx-size", str(context * slots),
        "--parallel", str(slots), "--threads", str(threads), "--cache-ram", "256", "--no-ui", "--offline",
        "--fit", "off", "--no-warmup", "-lv", "4", *more,
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while "n_slots = " not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        yield log.read_text(), process.pid
    finally:
        process.kill()
        process.wait()


def reported(text: str, what: str) -> float:
    """The MiB of all buffers of a kind."""
    return sum(float(n) for n in re.findall(rf" {what} buffer size = +([\d.]+) MiB", text))
