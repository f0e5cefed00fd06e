"""What brings a deployment back: `start`, the command of its systemd unit, and the engine where there is no systemd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deployer.runtimes import service
from tests.e2e.conftest import Box
from tests.e2e.test_hardened import containers, docker, program, up

pytestmark = pytest.mark.e2e
ALONE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # what systemd gives a service of the system


def until(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url.removesuffix('/v1')}/health").status_code == 200
    except httpx.HTTPError:
        return False


def kill_everything(box: Box, runtime: str) -> None:
    """As a reboot does it: nobody is asked."""
    if runtime == "docker":
        docker("rm", "-f", *(one["Id"] for one in containers(box).values()))
    else:
        supervised = [int(line.split()[0]) for line in box.processes()]
        for pid in supervised:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the kernel was faster: it ends children with their parent
    until(lambda: not box.processes(), "processes live")


def test_the_command_of_the_unit_brings_it_back_without_a_network(box: Box, runtime: str) -> None:
    first = up(box, runtime)
    text, watch = box.run("service", "install", "--dry-run").stdout.split("\n# ")
    assert watch.endswith("WantedBy=deployer-small.service\n") and " watch --json small\n" in watch
    assert text.startswith("# /") and ("PartOf=docker.service" in text) is (runtime == "docker")
    (line,) = [line.removeprefix("ExecStart=") for line in text.splitlines() if line.startswith("ExecStart=")]
    (stop,) = [line.removeprefix("ExecStop=") for line in text.splitlines() if line.startswith("ExecStop=")]
    assert line.endswith(" start small")
    kill_everything(box, runtime)
    assert not answers(first["url"])

    # a proxy that refuses everything stands for a network that is not there yet
    environment = {**ALONE, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}  # where it is not installed
    done = subprocess.run(line, shell=True, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert answers(first["url"]) and f"answers at {first['url']}" in done.stdout
    assert box.json("chat", "--temperature", "0", "--max-tokens", "8", "What is the capital of France?")["answer"]
    again = json.loads(box.run("start", "--json").stdout)
    assert again["changed"] is False and "up already" in box.run("start").stderr
    assert not up(box, runtime)["changed"]

    subprocess.run(stop, shell=True, cwd="/", env=environment, check=True, capture_output=True)
    assert box.left() == [] and not answers(first["url"])
    assert box.json("start")["changed"] and box.json("status")["deployments"][0]["generation"] == 1


def test_start_says_what_is_missing(box: Box, runtime: str) -> None:
    assert "there is no deployment" in box.run("start", code=2).stderr
    up(box, runtime)
    path = box.home / "deployments/small/deployment.json"
    record = json.loads(path.read_text())
    box.run("down", "--keep")
    part = record["engines"][0]["parts"][0]
    if runtime == "docker":
        part["image"] = "deployer/llamacpp:gone"
    else:
        part["arguments"][0] = "/no/such/llama-server"
    path.write_text(json.dumps(record))
    said = box.run("start", code=1).stderr
    assert ("the image is no longer there" if runtime == "docker" else "cannot be started") in said
    assert box.left() == [], "nothing is left half started"


def test_without_systemd_the_engine_restarts_it(box: Box, runtime: str) -> None:
    if service.booted():
        pytest.skip("systemd runs here: it would be used")
    first = up(box, runtime)
    assert "does not start with the machine" in box.run("service", "status", code=1).stdout
    if runtime == "process":
        said = box.run("service", "install", code=1).stderr
        assert "@reboot" in said and " start small'" in said
        return
    assert "Docker restarts it" in box.run("service", "install").stdout
    assert json.loads(box.run("service", "status", "--json").stdout)["by"] == "docker"

    def policy() -> str:
        return str(containers(box)["engine"]["HostConfig"]["RestartPolicy"]["Name"])

    assert policy() == "unless-stopped"
    before = program(containers(box)["engine"])
    os.kill(before, signal.SIGKILL)
    until(lambda: not answers(first["url"]) or program(containers(box)["engine"]) != before, "it was not killed")
    until(lambda: answers(first["url"]), "the engine did not bring it back")
    assert program(containers(box)["engine"]) != before

    assert "deployer service remove small" in box.run("down").stderr
    up(box, runtime)
    assert policy() == "unless-stopped", "the next `up` keeps what was asked for"
    box.run("service", "remove")
    assert policy() == "no"
    assert "and did not" in box.run("service", "remove").stdout
