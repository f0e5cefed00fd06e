"""`deployer check --deep` on described hosts: a real engine starts the containers, the fake CUDA copies real memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.stage import describe
from tests.stage.stage import Stage, environment

pytestmark = pytest.mark.docker
SOCKET = "unix:///var/run/docker.sock"


def check(place: Stage, *words: str) -> dict[str, Any]:
    """The report and the host of `deployer check --deep`, with the machine's own engine."""
    command = [sys.executable, "-m", "deployer", "check", "--deep", "--json", *words]
    env = {**environment(place), "DOCKER_HOST": SOCKET}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["by"] = {f["id"]: f for f in found["report"]["findings"]}
    return found


def test_everything_is_tried_and_slow_cards_are_named(
    stage: Callable[[Any], Stage], device: Callable[[Any], str], image: str
) -> None:
    place = stage("2x-rtx-3090")
    device(place)
    found = check(place, "gpu-2x24gb")
    deep, by = found["host"]["deep"], found["by"]
    ways = {way["name"]: way for way in deep["ways"]}
    assert (ways["cdi"]["nvml"], ways["cdi"]["cuda"], ways["cdi"]["cuda_version"]) == (2, 2, "13.0")
    assert {gpu["uuid"] for gpu in deep["gpus"]} == {gpu["uuid"] for gpu in found["host"]["gpus"]}
    assert all(gpu[rate] > 0 for gpu in deep["gpus"] for rate in ("memory", "to_gpu", "from_gpu"))
    assert len(deep["peers"]) == 2 and all(peer["rate"] > 0 for peer in deep["peers"])
    assert (
        by["runtime.proof"]["outcome"] != "fail" and "cdi: 2 GPUs, CUDA 13.0" in by["runtime.proof"]["found"]
    )
    # The memory of this machine stands in for the card's: no RTX 3090 is that slow.
    assert by["gpu.memory_rate"]["outcome"] == "warn"
    assert (
        "NVIDIA GeForce RTX 3090" in by["gpu.memory_rate"]["found"]
        and "% of its class" in by["gpu.memory_rate"]["found"]
    )
    assert by["gpu.peers"]["outcome"] == "pass"
    assert (
        by["disk.model_rate"]["outcome"] in ("pass", "warn")
        and "29.6 GB in" in by["disk.model_rate"]["found"]
    )
    assert not list(place.root.rglob(".deployer-speed-*"))


def test_a_container_whose_cuda_refuses_is_told_in_cudas_words(
    stage: Callable[[Any], Stage], device: Callable[[Any], str], image: str
) -> None:
    place = stage("forward-compat-geforce")
    device(place)
    proof = check(place, "gpu-24gb", "--only", "runtime.proof")["by"]["runtime.proof"]
    assert proof["outcome"] == "fail"
    assert (
        "NVML sees 1" in proof["found"]
        and "forward compatibility was attempted on non supported HW" in proof["found"]
    )


@pytest.mark.slow
def test_a_copy_between_gpus_that_never_ends_is_found_out(
    stage: Callable[[Any], Stage], device: Callable[[Any], str], image: str
) -> None:
    said = describe.load("2x-rtx-3090")
    for gpu in said["gpus"]:
        gpu["cuda"] = {**(gpu.get("cuda") or {}), "hang": ["cuMemcpyPeer"]}
    place = stage(said)
    device(place)
    by = check(place, "gpu-2x24gb", "--only", "gpu.peers,gpu.memory_rate")["by"]
    assert (
        by["gpu.peers"]["outcome"] == "fail"
        and "does not end (no answer in 20 s)" in by["gpu.peers"]["found"]
    )
    assert "NCCL_P2P_DISABLE=1" in by["gpu.peers"]["hint"]
    assert by["gpu.memory_rate"]["outcome"] == "warn"  # what was measured before the hang is not lost


def test_without_a_gpu_the_rest_is_tried(stage: Callable[[Any], Stage]) -> None:
    found = check(stage("no-gpu"), "cpu-small")
    assert found["host"]["deep"]["ways"] == {"unknown": "there is no usable GPU"}
    by = found["by"]
    assert by["runtime.proof"]["outcome"] == by["gpu.memory_rate"]["outcome"] == "skip"
    assert by["disk.model_rate"]["outcome"] in ("pass", "warn")
