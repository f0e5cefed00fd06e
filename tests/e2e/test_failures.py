"""Real failures of real engines: what is on screen, and the second start with less."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from deployer import images
from deployer import profile as profiles
from deployer.errors import LaunchError
from deployer.fetch import Web
from deployer.home import Home
from deployer.images.bake import BuildSettings
from deployer.models.pull import pull
from deployer.plan import Choice, World, apply, resolve, steps
from deployer.plan.failed import situation, unstarted
from deployer.plan.steps import Build
from deployer.profile import Serving
from deployer.progress import Silent
from deployer.runtimes import Launch, Part, container
from deployer.runtimes.docker import DockerRuntime
from tests import hosts
from tests.e2e.conftest import Box, docker_reason, profile

pytestmark = pytest.mark.e2e
CACHE = 32768 * 23040  # bytes: 4 × 8192 tokens of SmolLM2-135M


def in_use(pid: int) -> int:
    """Bytes of address space, without what malloc only reserves for threads: it does without where there is no more."""
    total = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, access = line.split()[:2]
        start, end = (int(number, 16) for number in span.split("-"))
        total += end - start if access != "---p" else 0
    return total


def test_a_cache_that_memory_does_not_allow_is_halved_once_and_remembered(box: Box) -> None:
    patient = "{first_token: 60 s, per_token: 10 s}"
    small = profile(box, "tried", serving="{context: 512, concurrency: 1}", limits=patient)
    box.up(small, "--runtime", "process")
    [engine] = [line.split()[0] for line in box.processes() if "llama-server" in line]
    needed = in_use(int(engine))
    box.run("down", "tried")
    wanted = profile(box, "open", serving="{api_key: required}", limits=patient)
    limit = needed + CACHE * 3 // 4  # of the address space: the whole cache is too much, half of it is not

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    words = ("up", wanted, "--runtime", "process", "--port", str(box.port))
    child = box.start(*words, preexec_fn=narrow)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert "serving: 4 × 8192 tokens: what" in said
    assert "the engine ended while it was loading: " in said  # where in its start it ran out depends on the machine
    assert ": starting again, once, with 2 × 8192 tokens\n" in said
    box.run("down", "open")

    again = box.run("up", wanted, "--runtime", "process", "--port", str(box.port)).stderr
    assert "serving: 2 × 8192 tokens: remembered, because the engine said: " in again
    box.run("down", "open")

    named = profile(box, "named", serving="{context: 8192, concurrency: 4}")
    child = box.start("up", named, "--runtime", "process", "--port", str(box.port), preexec_fn=narrow)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 1
    assert f"hint: {named} names more" in said and "serving: {context: 8192, concurrency: 2}" in said
    assert box.left() == []


def test_one_that_dies_later_is_explained_by_logs(box: Box) -> None:
    box.up("cpu-small", "--runtime", "process")
    [engine] = [line.split()[0] for line in box.processes() if "llama-server" in line]
    os.kill(int(engine), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while box.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    told = box.run("logs", "--explain").stdout.splitlines()
    assert told[0] == "cpu-small: the kernel ended the engine; memory ran out, here or in its control group"
    assert re.fullmatch(r"  \| engine \| supervisor: engine ended with -9 after \d+ s", told[1])
    assert told[2].startswith("fix: ")
    box.up("cpu-small", "--runtime", "process")
    fine = box.run("logs", "--explain", code=1).stdout
    assert "no error" in fine or "in no list" in fine


class Limited(DockerRuntime):
    """Containers that get `limit` bytes of memory."""

    limit = 0

    def start(self, launch: Launch) -> None:
        def limited(*words: Any) -> dict[str, Any]:
            made = container.create(*words)
            made["host_config"] |= {"Memory": self.limit, "MemorySwap": self.limit}
            return made

        with mock.patch("deployer.runtimes.docker.create", limited):
            super().start(launch)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Limited]:
    if reason := docker_reason():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    runtime = Limited(Home(tmp_path / "home"), "unix:///var/run/docker.sock")
    yield runtime
    runtime.stop("small")


def chosen(home: Home, port: int) -> Choice:
    wanted = profiles.load(profiles.find("cpu-small"))
    wanted = replace(wanted, serving=Serving(port=port))
    base = images.ARCHIVE
    return resolve(
        hosts.NO_GPU, wanted, home=home, runtime=("docker", "a reason"), base=base, name="small",
        before=(8192, 4, "so"),
    )  # fmt: skip


@pytest.mark.docker
def test_a_container_that_the_kernel_ends_for_its_memory_gets_half_of_the_cache(box: Box, docker: Limited) -> None:
    home = docker._home
    world = World(home, Web(), BuildSettings("linux/amd64"), docker, lambda name: docker, Silent(), hosts.NO_GPU)
    choice = chosen(home, box.port)
    if not docker.has_image(choice.program):
        pytest.skip("the image is not built")
    pull(choice.profile.model, choice.engine.files, home=home, web=world.web, progress=Silent())
    docker.limit = CACHE * 3 // 4
    made = steps(choice, home=home, runtime=docker, generation=1)
    record = apply(choice, [step for step in made if not isinstance(step, Build)], world)
    assert (record.context, record.concurrency) == (8192, 2)
    assert "Exited (137)" in (home.deployment("small") / "smaller.json").read_text()


@pytest.mark.docker
def test_what_the_container_engine_refuses_is_explained(box: Box, docker: Limited) -> None:
    choice = chosen(docker._home, box.port)

    def refused(launch: Launch) -> LaunchError:
        with pytest.raises(LaunchError) as caught:
            docker.start(launch)
        return unstarted(caught.value, situation(choice, hosts.NO_GPU))

    missing = refused(Launch("small", 1, box.port, (Part("engine", ("x",), "deployer/nothing:none"),)))
    assert missing.message == "small could not be started: the image is no longer there"
    assert str(missing.hint).startswith("make the image again: deployer build llamacpp:cpu")
    docker.stop("small")
    if not docker.has_image(choice.program):
        pytest.skip("the image is not built")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", box.port))
        taken.listen()
        port = refused(Launch("small", 1, box.port, (Part("engine", ("x",), choice.program),)))
    assert port.message == f"small could not be started: port {box.port} is taken"
    assert str(port.hint) == f"choose another port: deployer up cpu-small --port {box.port + 1}"
