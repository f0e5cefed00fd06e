"""`deployer down` waits for the memory of GPUs: real processes, and a fake driver that says what they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.home import Home
from deployer.runtimes import DockerRuntime, Launch, Part, ProcessRuntime, Runtime
from deployer.runtimes.living import Member, member
from tests.servers import unused_port, wait_until
from tests.stage.conftest import docker

SOCKET = "unix:///var/run/docker.sock"
GB = 10**9
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
# It ignores a polite end, so that the kernel's is needed.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(600)
"""

Down = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def down(built: Path, home: Home, tmp_path: Path) -> Down:
    """`deployer down` beside a driver that says so of two GPUs."""

    def run(
        *entries: list[dict[str, Any]], words: tuple[str, ...] = (), hang: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        gpus = [
            {"name": "NVIDIA H100", "uuid": f"GPU-{n}", "memory": {"total": 80 * GB}, "compute": said, "graphics": []}
            for n, said in enumerate(entries)
        ]
        path = tmp_path / "driver.json"
        path.write_text(json.dumps({"driver": "580.95.05", "cuda_version": 13000, "gpus": gpus, "hang": hang}))
        env = {**os.environ, "LD_LIBRARY_PATH": str(built), "STAGE_HOST": str(path), "DEPLOYER_HOME": str(home.root)}
        command = [sys.executable, "-m", "deployer", "down", "small", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def engine(home: Home) -> Iterator[Member]:
    """A unit that runs; its engine."""
    runtime = ProcessRuntime(home, os.environ)
    runtime.start(Launch("small", 1, unused_port(), (Part("engine", SLEEP),)))
    yield started(runtime)
    runtime.stop("small")


def started(runtime: Runtime) -> Member:
    wait_until(lambda: len(runtime.members("small")) == 2)
    return max(runtime.members("small"), key=lambda one: one.started)


def holds(pid: int, size: int, **more: str) -> dict[str, Any]:
    return {"pid": pid, "memory": size, "while": f"/proc/{pid}", **more}


def test_what_comes_back_is_told_by_gpu_and_strangers_by_name(down: Down, engine: Member) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        both = [holds(engine.pid, 20 * GB), holds(stranger.pid, 3 * GB)]
        done = down(both, [holds(engine.pid, 1 * GB)], words=("--json",))
        assert done.returncode == 0, done.stderr
        assert stranger.poll() is None, "what is not ours is left alone"
        stranger.kill()
    assert engine.state is None
    (row,) = json.loads(done.stdout)["released"]
    assert row["gpu_bytes"] == {"0": 20 * GB, "1": 1 * GB} and row["processes"] == 2 and row["killed"] == []
    assert [(one["gpu"], one["pid"], one["name"], one["memory"]) for one in row["others"]] == [
        (0, stranger.pid, "sleep", 3 * GB)
    ]
    assert "small is stopped: 20 GB of GPU 0, 1 GB of GPU 1 are back" in done.stderr
    assert f"sleep (pid {stranger.pid}) holds 3 GB of GPU 0, and is not of this deployment" in done.stderr


def test_it_returns_when_the_driver_has_let_go_not_when_the_process_has_ended(
    down: Down, engine: Member, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    gone: list[float] = []

    def let_go() -> None:
        wait_until(lambda: engine.state is None)
        time.sleep(1.5)
        gone.append(time.monotonic())
        held.unlink()

    thread = threading.Thread(target=let_go)
    thread.start()
    done = down([holds(engine.pid, GB, **{"while": str(held)})])
    ended = time.monotonic()
    thread.join()
    assert done.returncode == 0, done.stderr
    assert gone and ended > gone[0] and "1 GB of GPU 0 are back" in done.stderr


def test_memory_that_does_not_come_back_is_no_success(down: Down, engine: Member, tmp_path: Path) -> None:
    done = down([holds(engine.pid, 20 * GB, **{"while": str(tmp_path)})], words=("--wait", "1"))
    assert done.returncode == 1 and engine.state is None
    assert "error: small is stopped, and after 1 s its memory is not back" in done.stderr
    assert f"(pid {engine.pid}) holds 20 GB of GPU 0" in done.stderr
    assert "hint: the driver still counts programs that have ended: sudo nvidia-smi --gpu-reset" in done.stderr


def test_a_driver_that_hangs_holds_nobody_up_and_is_told(down: Down, engine: Member) -> None:
    begin = time.monotonic()
    done = down([holds(engine.pid, GB)], hang=["nvmlDeviceGetComputeRunningProcesses_v3"])
    assert done.returncode == 0 and engine.state is None and time.monotonic() - begin < 30
    assert "whether the GPUs' memory is back could not be asked: no answer in 3 s" in done.stderr


def groups(id_: str) -> list[Path]:
    """The folders of a container's control group: one, or one for each controller."""
    return [path.parent for path in Path("/sys/fs/cgroup").rglob("cgroup.procs") if id_ in str(path.parent)]


@pytest.mark.docker
def test_a_process_of_the_container_that_outlives_it_is_ended_by_its_group(down: Down, home: Home) -> None:
    """One that is in the container's control group, and not in its process namespace: the engine does not end it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a process is put into a container's control group")
    image = images.tag("debian", "12")
    if image not in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        pytest.skip(f"{image} is not here; deployer build debian:12 makes it")
    runtime = DockerRuntime(home, SOCKET)
    runtime.start(Launch("small", 1, unused_port(), (Part("engine", ("sleep", "sleep", "600"), image=image),)))
    try:
        (part,) = runtime.about("small")
        assert part.id is not None
        wait_until(lambda: len(runtime.members("small")) == 2)
        stubborn = [sys.executable, "-c", STUBBORN]
        with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as stray, subprocess.Popen(["sleep", "600"]) as other:
            assert stray.stdout is not None and stray.stdout.readline() == b"here\n"
            threading.Thread(target=stray.wait, daemon=True).start()  # takes note of its end
            for folder in groups(part.id):
                (folder / "cgroup.procs").write_text(str(stray.pid))
            assert member(stray.pid) in runtime.members("small")
            done = down([holds(stray.pid, 7 * GB), holds(other.pid, GB)], words=("--json",))
            assert done.returncode == 0, done.stderr
            wait_until(lambda: stray.poll() == -9)
            assert other.poll() is None
            other.kill()
    finally:
        runtime.stop("small")
    (row,) = json.loads(done.stdout)["released"]
    assert [one["pid"] for one in row["killed"]] == [stray.pid] and row["gpu_bytes"] == {"0": 7 * GB}
    assert [one["pid"] for one in row["others"]] == [other.pid]
