"""`deployer watch` from end to end: a real gateway, an engine that the test breaks, a fake driver, a kernel's log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployer.home import Home, read_json
from deployer.plan import door, keys
from deployer.plan.record import Record, save_record
from deployer.runtimes import Launch, Part, ProcessRuntime
from tests.servers import unused_port, wait_until

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
# It gives a token unless the file `broken` is newer than itself; then it says what the file says, and answers 500.
ENGINE = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
broken, begin = sys.argv[2], time.time()
if os.path.exists(broken + ".start"):
    sys.exit("it cannot start")
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.reply(200, {"status": "ok"})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if os.path.exists(broken) and os.path.getmtime(broken) > begin:
            print(open(broken).read(), flush=True)
            self.reply(500, {"error": {"message": "CUDA error: unknown error"}})
        else:
            self.reply(200, {"object": "chat.completion", "choices": [{"message": {"content": "Hi"}}]})
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Bed:
    """A deployment of one engine on one GPU, and what happens to it."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.broken, self.fallen, self.kmsg = folder / "broken", folder / "fallen", folder / "root/dev/kmsg"
        self.runtime = ProcessRuntime(self.home, os.environ)
        self.port = unused_port()
        self.kmsg.parent.mkdir(parents=True)
        self.kmsg.write_text("6,1,1,-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n")
        said = {
            "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-0", "pci": "00000000:CA:00.0", "until": str(self.fallen),
            "memory": {"total": 80 * GIB, "free": 60 * GIB, "used": 20 * GIB}, "temperature": 61,
            "utilization": [87, 30], "power": [287500, 700000, 700000, 200000, 700000], "compute": [], "graphics": [],
        }  # fmt: skip
        driver = {"driver": "580.95.05", "cuda_version": 13000, "gpus": [said]}
        (folder / "driver.json").write_text(json.dumps(driver))
        programs = folder / "bin"
        programs.mkdir()
        self.journal = folder / "journal"
        self.journal.write_text("")
        (programs / "journalctl").write_text(f"#!/bin/sh\ncat {self.journal}\n")
        (programs / "journalctl").chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        self.environment = {
            **os.environ, "LD_LIBRARY_PATH": str(built), "STAGE_HOST": str(folder / "driver.json"), "PATH": path,
            "DEPLOYER_HOME": str(self.home.root), "DEPLOYER_ROOT": str(folder / "root"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.start()

    def start(self) -> None:
        keys.ensure_owner(self.home, "small")
        gateway = self.home.gateway("small")
        program = Part("engine", (sys.executable, "-c", ENGINE, "{engine_port}", str(self.broken)), gpus=("GPU-0",))
        words = (sys.executable, "-m", "deployer.gateway", "--config", str(gateway), "--port", str(self.port))
        engine = Launch("small/g1/1", 1, None, (program,))
        door_ = Launch("small", 1, self.port, (Part("gateway", words, environment={"PYTHONPATH": str(ROOT)}),))
        model = {"id": "m", "engine": "llamacpp", "context": 4096, "paths": ["/v1/chat/completions"],
                 "replica": {"model": "m", "slots": 2}}  # fmt: skip
        told = {"deployment": "small", "generation": 1, "models": [model]}
        url, key = f"http://127.0.0.1:{self.port}/v1", str(self.home.deployment("small") / "key")
        record = Record("small", "none.yaml", "process", url, "m", "chat", "m", key, "2026-11-22", 0.1, 50.0, 1,
                        (engine,), door_, told, 4096, 2, "llamacpp", 1)  # fmt: skip
        save_record(self.home, record)
        self.runtime.start(engine)
        door.tell("small", [door.Side(told, (engine,))], home=self.home, runtime=self.runtime)
        self.runtime.start(door_)
        wait_until(lambda: self.status() is not None)

    def status(self) -> dict[str, Any] | None:
        key = (self.home.deployment("small") / "key").read_text().strip()
        url = f"http://127.0.0.1:{self.port}"
        try:
            with httpx.Client(trust_env=False, base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
                assert client.get("/readyz").status_code == 200
                value: dict[str, Any] = client.get("/v1/status").json()
                return value
        except (httpx.HTTPError, AssertionError):
            return None

    def kernel(self, line: str) -> None:
        at = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
        with self.kmsg.open("a") as file:
            file.write(f"4,9,{at},-;{line}\n")

    def engine(self) -> int:
        return next(about.pids[0] for about in self.runtime.about("small/g1/1"))

    def watch(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deployer", "watch", "--json", "--every", "200 ms", *words]
        log = (self.folder / "watch.log").open("w")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True)

    def said(self, part: str = "g1-1") -> list[tuple[str, str]]:
        """Events and texts of a part."""
        return [(one["event"], one["text"]) for one in self.told() if one["part"] == part]

    def told(self) -> list[dict[str, Any]]:
        lines = (self.folder / "watch.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture
def bed(built: Path, tmp_path: Path) -> Iterator[Bed]:
    found = Bed(tmp_path, built)
    yield found
    found.runtime.stop("small")


@pytest.fixture
def watching(bed: Bed) -> Iterator[Bed]:
    child = bed.watch()
    try:
        wait_until(lambda: [event for event, _ in bed.said()] == ["healthy"])
        yield bed
    finally:
        child.terminate()
        child.wait(30)


def events(bed: Bed) -> list[str]:
    return [event for event, _ in bed.said()]


def until(bed: Bed, event: str) -> str:
    wait_until(lambda: event in events(bed), 60)
    return next(text for one, text in bed.said() if one == event)


def test_what_the_driver_says_comes_to_the_gateway(watching: Bed) -> None:
    gpu = {"index": 0, "uuid": "GPU-0", "name": "NVIDIA H100 80GB HBM3", "memory_used": 20 * GIB, "xid": 0,
           "memory_total": 80 * GIB, "utilization": 87, "temperature": 61, "power_w": 287.5}  # fmt: skip
    wait_until(lambda: (watching.status() or {}).get("gpus") == [gpu])
    watching.kernel("NVRM: Xid (PCI:0000:CA:00): 31, pid=77, name=python3, Ch 00000008")
    wait_until(lambda: (watching.status() or {})["gpus"] == [{**gpu, "xid": 31}], 20)
    assert events(watching) == ["healthy"]  # that is a program's own fault, and it answers


def test_a_gpu_off_the_bus_is_reported_and_not_restarted(watching: Bed) -> None:
    engine = watching.engine()
    watching.kernel("NVRM: Xid (PCI:0000:ca:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    watching.fallen.touch()
    wait_until(lambda: (watching.status() or {}).get("gpus") == [], 30)  # the driver does not show it any more
    watching.broken.write_text("CUDA error: unspecified launch failure")
    said = until(watching, "broken")
    assert said.startswith("GPU-0 at 0000:ca:00.0 is not there any more: 0000:ca:00.0: Xid 79 at ")
    time.sleep(2)  # ten looks
    assert "restart" not in events(watching)
    assert watching.engine() == engine
    kept = read_json(watching.home.deployment("small") / "watch.json")
    assert (kept["state"], kept["restarts"]) == ("broken", 0)
    command = [sys.executable, "-m", "deployer", "status", "--json"]
    told = subprocess.run(command, env=watching.environment, capture_output=True, text=True, timeout=60).stdout
    [row] = json.loads(told)["deployments"]
    assert (row["state"], row["watch"]["state"], row["watch"]["cause"]) == ("answers", "broken", kept["cause"])


def test_a_gpu_lost_by_a_daemon_reload_is_given_again(watching: Bed) -> None:
    engine = watching.engine()
    reload = "Reloading requested from client PID 7 ('systemctl') (unit ssh.service)..."
    stamp = str(int(time.time() * 1e6))
    watching.journal.write_text(json.dumps({"__REALTIME_TIMESTAMP": stamp, "MESSAGE": reload}) + "\n")
    watching.broken.write_text("Failed to initialize NVML: Unknown Error")
    cause = until(watching, "restart")
    assert cause.startswith("its GPU was lost by a daemon-reload of systemd at ")
    assert cause in until(watching, "restarted")
    wait_until(lambda: events(watching)[-1] == "healthy", 30)
    assert watching.engine() != engine
    assert events(watching).count("restarted") == 1


def test_starts_that_fail_are_held_back_and_go_on_when_they_can(watching: Bed) -> None:
    start = watching.folder / "broken.start"
    start.touch()
    os.kill(watching.engine(), signal.SIGKILL)
    wait_until(lambda: events(watching).count("failed") == 3, 30)
    told = [one for one in watching.told() if one["event"] in ("failed", "restarted")]
    gaps = [after["at"] - before["at"] for before, after in pairwise(told)]
    assert 1 <= gaps[0] < gaps[1] and gaps[1] >= 2
    assert "small did not come up" in until(watching, "hold")
    start.unlink()
    wait_until(lambda: events(watching)[-1] == "healthy", 30)
    assert read_json(watching.home.deployment("small") / "watch.json")["restarts"] == 4


def test_what_was_taken_down_stays_so(watching: Bed) -> None:
    command = [sys.executable, "-m", "deployer", "down", "small"]
    subprocess.run([*command, "--keep"], env=watching.environment, check=True, timeout=60)
    until(watching, "down")
    time.sleep(1)
    assert "restarted" not in events(watching)
    assert watching.runtime.find("small") is None
    subprocess.run(command, env=watching.environment, check=True, timeout=60)
    wait_until(lambda: watching.said("small") == [("ended", "small was taken down")])


def test_one_look(bed: Bed) -> None:
    assert bed.watch("--once").wait(60) == 0
    assert [event for event, _ in bed.said()] == ["healthy"]
    bed.broken.write_text("something else")
    assert bed.watch("--once").wait(60) == 1
    bed.runtime.stop("small")
    assert bed.watch("--once").wait(60) == 1
    assert not (bed.home.deployment("small") / "watch.json").exists()


def test_two_do_not_watch_one(watching: Bed) -> None:
    command = [sys.executable, "-m", "deployer", "watch"]
    done = subprocess.run(command, env=watching.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "works on `watch-small`" in done.stderr


@pytest.mark.parametrize("words", [("--every", "soon"), ("--every", "0 s"), ("--timeout", "10")])
def test_times_that_make_no_sense(words: tuple[str, ...], bed: Bed) -> None:
    command: Callable[..., Any] = subprocess.run
    done = command([sys.executable, "-m", "deployer", "watch", *words], env=bed.environment, capture_output=True)
    assert done.returncode == 2
    assert f"hint: {words[0]} 10s".encode() in done.stderr
