"""What clients see when something breaks under load: `make bench-faults`.

A real deployment, watched, is asked for streams all the time, and then one thing happens to it. For each fault it is
counted what came of the requests from then on, and how long it took until a whole answer came again.

    python benchmarks/faults.py --runtime process --only killed,frozen --save

As root, `full` mounts a small file system for the deployment's folder, `clock` sets the clock by an hour and back,
and `daemon` restarts the container engine with the command given by --restart-daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from run import ROOT, host

from deployer.home import Home
from deployer.plan import Record, load_record
from deployer.runtimes import Runtime, runtime

NAME = "faults"
STREAMS = 8
PROFILE = ROOT / "profiles" / "cpu-small.yaml"


@dataclass
class Seen:
    """What clients saw of one fault. Times in seconds after it; `outcomes` counts requests that ended after it."""

    fault: str
    runtime: str
    outcomes: dict[str, int] = field(default_factory=dict)
    first_failure: float | None = None
    answers_again: float | None = None
    longest: float = 0.0
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where the deployment is, and the command on it."""

    home: Path
    record: Record
    runtime: Runtime
    restart_daemon: str

    def pids(self, unit: str) -> list[int]:
        return [one.pid for one in self.runtime.members(unit) if one.name not in ("docker-init", "tini")]

    @property
    def engine(self) -> str:
        return self.record.engines[0].unit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["docker", "process"], default="process")
    parser.add_argument("--only", default=",".join(FAULTS), help="faults, by name")
    parser.add_argument("--engines", type=Path, help="a folder with engines that are made already")
    parser.add_argument("--model", type=Path, help="a folder with the model in it already")
    parser.add_argument("--restart-daemon", default="systemctl restart docker", metavar="COMMAND")
    parser.add_argument("--seconds", type=float, default=45, help="how long clients ask after it, if it is not frozen")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/faults.json")
    options = parser.parse_args()
    for name in options.only.split(","):
        seen = one(name, options)
        print(f"{seen.fault:8} {seen.runtime:8} {seen.outcomes}")
        print(f"         first failure {_s(seen.first_failure)}, whole answers again {_s(seen.answers_again)}, "
              f"longest request {seen.longest:.1f} s")  # fmt: skip
        for line in seen.said:
            print(f"         | {line}", flush=True)
        if options.save:
            keep(seen)
    return 0


def one(name: str, options: argparse.Namespace) -> Seen:
    """Brings a deployment up, breaks it, and takes it down."""
    with tempfile.TemporaryDirectory() as work:
        home = Path(work) / "home"
        home.mkdir()
        if name == "full":
            small_disk(home / "deployments", Path(work))
        for folder, there in (("engines", options.engines), ("models", options.model)):
            if there:
                (home / folder).symlink_to(there.absolute())
        command = [sys.executable, "-m", "deployer", "--home", str(home)]
        up = [*command, "up", str(PROFILE), "--name", NAME, "--runtime", options.runtime, "--port", str(unused_port())]
        subprocess.run(up, check=True, capture_output=True, cwd=ROOT)
        watch = subprocess.Popen([*command, "watch", NAME], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            record = load_record(Home(home), NAME)
            assert record is not None
            address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
            runs = runtime(options.runtime, Home(home), address, os.environ)
            place = Place(home, record, runs, options.restart_daemon)
            if name in ("killed", "gateway") and options.runtime == "process":
                time.sleep(31)  # what ends within half a minute of its start is taken for broken
            seen = Seen(name, options.runtime)
            asyncio.run(load(place, seen, FAULTS[name], max(options.seconds, 90 if name == "frozen" else 0)))
        finally:
            watch.terminate()
            said = watch.communicate()[0].splitlines()
            subprocess.run([*command, "down", NAME], capture_output=True, cwd=ROOT)
            if name == "full":
                subprocess.run(["umount", str(home / "deployments")], check=True)
        seen.said = [line for line in said if line.strip()]
        return seen


async def load(place: Place, seen: Seen, fault: Callable[[Place], None], seconds: float) -> None:
    """Clients that ask for one stream after another; the fault comes after ten seconds."""
    key = Path(str(place.record.key_file)).read_text().strip()
    body = {
        "model": place.record.model, "max_tokens": 40, "stream": True,
        "messages": [{"role": "user", "content": "Count from one to ten."}],
    }  # fmt: skip
    begin = time.monotonic()
    at, end = begin + 10, begin + 10 + seconds
    whole: list[tuple[float, float]] = []  # when they began and ended

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            asked = time.monotonic()
            outcome = await request(session, f"{place.record.url}/chat/completions", body, key)
            ended = time.monotonic()
            if outcome == "whole":
                whole.append((asked, ended))
            if ended < at:
                continue
            seen.outcomes[outcome] = seen.outcomes.get(outcome, 0) + 1
            seen.longest = max(seen.longest, ended - asked)
            if outcome != "whole":
                if seen.first_failure is None:
                    seen.first_failure = ended - at
                await asyncio.sleep(0.2)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        clients = [asyncio.ensure_future(client(session)) for _ in range(STREAMS)]
        await asyncio.sleep(10)
        await asyncio.to_thread(fault, place)
        _, late = await asyncio.wait(clients, timeout=seconds + 60)
        for task in late:
            task.cancel()
            seen.outcomes["never ended"] = seen.outcomes.get("never ended", 0) + 1
    failed = seen.first_failure
    again = [ended - at for asked, ended in whole if failed is not None and asked - at > failed]
    seen.answers_again = min(again, default=None)


async def request(session: aiohttp.ClientSession, url: str, body: dict[str, Any], key: str) -> str:
    """What came of one stream: whole, cut off, an HTTP status, or no connection."""
    try:
        async with session.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
            text = await answer.text()
            if answer.status != 200:
                return f"HTTP {answer.status} {json.loads(text)['error'].get('code')}"
            return "whole" if "data: [DONE]" in text and '"finish_reason":"' in text.replace(" ", "") else "cut off"
    except aiohttp.ClientConnectorError:
        return "no connection"
    except (aiohttp.ClientError, ConnectionError):
        return "cut off"


def killed(place: Place) -> None:
    for pid in engine_pids(place):
        os.kill(pid, signal.SIGKILL)


def frozen(place: Place) -> None:
    for pid in engine_pids(place):
        os.kill(pid, signal.SIGSTOP)


def gateway(place: Place) -> None:
    """The gateway itself is killed."""
    about = place.runtime.about(place.record.gateway.unit)
    for pid in about[0].pids:
        os.kill(pid, signal.SIGKILL)


def daemon(place: Place) -> None:
    subprocess.run(place.restart_daemon, shell=True, check=True)


def full(place: Place) -> None:
    """Not a byte is left where the deployment writes its log and the last use of keys."""
    with (place.home / "deployments/filler").open("wb") as file:
        try:
            while True:
                file.write(b"\0" * (1 << 16))
                file.flush()
        except OSError:
            pass


def clock(place: Place) -> None:
    """An hour on, and after half a minute an hour back."""
    def move(seconds: int) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)

    move(3600)
    threading.Timer(30, move, (-3600,)).start()


FAULTS: dict[str, Callable[[Place], None]] = {
    "killed": killed, "frozen": frozen, "gateway": gateway, "daemon": daemon, "full": full, "clock": clock,
}  # fmt: skip


def engine_pids(place: Place) -> list[int]:
    """The engine's own processes, without the supervisor or init above them."""
    return list(place.runtime.about(place.engine)[0].pids)


def small_disk(path: Path, work: Path) -> None:
    """A file system of 16 MiB at `path`."""
    path.mkdir()
    image = work / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)


def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keep(seen: Seen) -> None:
    """Adds the result to the data, in the place of an earlier one of the same fault and runtime."""
    path = ROOT / "benchmarks/data/faults.json"
    old = json.loads(path.read_text())["faults"] if path.exists() else []
    rows = [one for one in old if (one["fault"], one["runtime"]) != (seen.fault, seen.runtime)] + [asdict(seen)]
    value = {"host": host(), "date": time.strftime("%Y-%m-%d"), "streams": STREAMS, "faults": rows}
    path.write_text(json.dumps(value, indent=1) + "\n")


def _s(seconds: float | None) -> str:
    return "none" if seconds is None else f"after {seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
