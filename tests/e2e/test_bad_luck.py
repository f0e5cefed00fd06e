"""Kills, interrupts, taken ports, dying engines, hung daemons: the cause is named and the next `up` succeeds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Box, profile

pytestmark = pytest.mark.e2e

STEPS = ("pull model", "check that", "start ", "open the gateway", "wait until", "accept ", "let requests in")


def interrupt_at(box: Box, step: str, runtime: str, number: int) -> tuple[int, str]:
    """Runs `up` and sends the signal as soon as it says that it is at `step`; returns (exit code, stderr)."""
    child = box.start("up", "cpu-small", "--runtime", runtime, "--port", str(box.port))
    said: list[str] = []
    assert child.stderr is not None
    for line in child.stderr:
        said.append(line)
        if line.startswith((f"→ {step}", f"✓ {step}")):
            child.send_signal(number)
            break
    said += child.stderr.readlines()
    child.wait(timeout=60)
    return child.returncode, "".join(said)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_any_step_leaves_a_home_that_the_next_up_completes(box: Box, runtime: str, step: str) -> None:
    code, said = interrupt_at(box, step, runtime, signal.SIGKILL)
    assert code == -signal.SIGKILL, said

    result = box.up("cpu-small", "--runtime", runtime)

    assert result["tokens_per_s"] > 0
    manifest = json.loads(next(box.home.glob("models/llm-*/manifest.json")).read_text())
    assert manifest["files"][0]["size"] == 98_362_432


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_in_any_step_leaves_nothing_running(box: Box, runtime: str, step: str) -> None:
    code, said = interrupt_at(box, step, runtime, signal.SIGINT)
    assert code == 130, said
    assert "interrupted: nothing half-made stays" in said
    assert "Traceback" not in said
    assert box.left() == []
    assert box.up("cpu-small", "--runtime", runtime)["tokens_per_s"] > 0


def test_two_ups_at_once_end_with_one_deployment(box: Box, runtime: str) -> None:
    words = ("up", "cpu-small", "--runtime", runtime, "--port", str(box.port), "--json")
    both = [box.start(*words) for _ in range(2)]
    ends = [child.communicate(timeout=900) for child in both]
    assert [child.returncode for child in both] == [0, 0], ends
    assert sorted(json.loads(out)["changed"] for out, _ in ends) == [False, True]
    assert sum("waiting for `deployer` (pid" in err for _, err in ends) == 1
    assert len(box.json("status")["deployments"]) == 1


def test_a_taken_port_names_who_has_it(box: Box, runtime: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", box.port))
        taken.listen()
        done = box.run("up", "cpu-small", "--runtime", runtime, "--port", str(box.port), code=1)
    assert f"(pid {os.getpid()})" in done.stderr
    assert f"--port {box.port + 1}" in done.stderr
    assert box.left() == []


def test_an_engine_that_dies_while_loading_is_quoted(box: Box, runtime: str, tmp_path: Path) -> None:
    box.run("pull", "cpu-small")
    whole = next(box.home.glob("models/llm-*/*/*.gguf"))
    cut = tmp_path / "cut.gguf"
    with whole.open("rb") as source, cut.open("wb") as target:
        target.write(source.read(20_000_000))
    wanted = tmp_path / "cut.yaml"
    wanted.write_text(
        f"description: a cut model\nrank: 1\nrequirements: {{}}\nmodel: {{source: 'file://{cut}'}}\n"
        "engine: llamacpp\nvariant: cpu\nserving: {context: 512}\n"
    )
    done = box.run("up", str(wanted), "--runtime", runtime, "--port", str(box.port), code=1)
    assert "the engine ended while it was loading" in done.stderr
    assert "not within the file bounds" in done.stderr or "corrupted or incomplete" in done.stderr
    log = box.home / "deployments/cut/failed.log"
    assert done.stderr.endswith(f"log: {log}\n") and log.read_text()
    assert f"copy {cut} again from where it came" in done.stderr
    assert box.left() == []
    told = box.run("logs", "cut", "--explain")
    assert "is cut short or damaged" in told.stdout and told.stdout.endswith(f"log: {log}\n")


def test_after_a_failed_change_the_old_deployment_is_back(box: Box, runtime: str, tmp_path: Path) -> None:
    wanted = profile(box, "small")
    box.up(wanted, "--runtime", runtime)
    # no machine is that fast
    profile(box, "small", limits="{per_token: 0.001 ms}", serving="{context: 1024}")

    done = box.run("up", wanted, "--runtime", runtime, "--port", str(box.port), code=1)

    assert "the profile allows" in done.stderr and "generation 1 goes on" in done.stderr
    deadline = time.monotonic() + 60
    while box.json("status", code=None)["deployments"][0]["state"] != "answers":
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_wrong_hash_in_the_profile_is_refused_and_nothing_kept(box: Box, runtime: str) -> None:
    wanted = profile(box, "wrong", sha256="0" * 64)
    done = box.run("up", wanted, "--runtime", runtime, "--port", str(box.port), code=1)
    assert "wanted sha256 0000" in done.stderr and "b179c952" in done.stderr and "hint: " in done.stderr
    assert not list(box.home.glob("models/*/manifest.json"))
    assert box.left() == []


def test_a_host_that_cannot_run_the_profile_is_refused_before_anything(box: Box, runtime: str) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    done = box.run("up", "gpu-8gb", "--runtime", runtime, "--port", str(box.port), code=1)
    assert "there is no NVIDIA GPU in this machine" in done.stderr
    assert "→ choose a CPU profile" in done.stderr
    assert not (box.home / "models").exists()


def test_a_program_killed_later_comes_back_by_itself(box: Box) -> None:
    result = box.up("cpu-small", "--runtime", "process")
    time.sleep(31)  # a program that ran for 30 s is started again
    [engine] = [p for p in box.processes() if "llama-server" in p]
    os.kill(int(engine.split()[0]), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(result["url"].replace("/v1", "/health")).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(0.2)


@pytest.mark.docker
def test_a_frozen_daemon_costs_seconds_and_not_the_audit(box: Box, own_daemon: tuple[str, int]) -> None:
    address, pid = own_daemon
    environment = {**box.environment(), "DOCKER_HOST": address}
    assert json.loads(box.run("check", "cpu-small", "--json").stdout)["host"]["runtime"]["kind"] == "docker"
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    child = box.start("check", "cpu-small", "--json", env=environment)
    out, err = child.communicate(timeout=30)
    took = time.monotonic() - start
    assert child.returncode == 0, err
    found = json.loads(out)
    assert took < 5, f"{took:.1f} s"
    assert "does not answer" in found["host"]["runtime"]["unknown"]
    [engine] = [f for f in found["report"]["findings"] if f["id"] == "runtime.engine"]
    assert engine["outcome"] == "warn" and "embedded runtime" in engine["found"]

    child = box.start("up", "cpu-small", "--port", str(box.port), "--json", env=environment)
    out, err = child.communicate(timeout=900)
    assert child.returncode == 0, err
    assert json.loads(out)["runtime"] == "process"
    assert "the container runtime cannot be used" in err


def test_a_full_disk_is_said_before_the_first_byte(box: Box, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(small)], check=True)
    try:
        environment = {**box.environment(), "DEPLOYER_HOME": str(small)}
        child = box.start("pull", "cpu-small", env=environment)
        _, err = child.communicate(timeout=120)
        assert child.returncode == 1
        assert "needs 191 MB" in err and "free" in err and "hint: " in err
        assert sum(p.stat().st_size for p in small.rglob("*") if p.is_file()) < 10_000
        child = box.start("up", "cpu-small", "--runtime", "process", env=environment)
        _, err = child.communicate(timeout=120)
        assert child.returncode == 1 and "disk.models" in err
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_stuck_engine_is_given_up_after_a_stretch_without_progress(box: Box) -> None:
    child = box.start("up", "cpu-small", "--runtime", "process", "--port", str(box.port), "--stall", "3")
    frozen = threading.Event()

    def freeze() -> None:
        while not frozen.is_set() and child.poll() is None:
            for line in box.processes():
                if "llama-server" in line:
                    os.kill(int(line.split()[0]), signal.SIGSTOP)
                    frozen.set()
            time.sleep(0.005)

    thread = threading.Thread(target=freeze)
    thread.start()
    _, err = child.communicate(timeout=120)
    thread.join()
    assert child.returncode == 1, err
    assert "made no progress for 3.0 s" in err
    assert box.left() == []
