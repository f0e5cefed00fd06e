"""What the container engine is asked for, by the part's GPUs and by what the engine can do."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from deployer.runtimes import Launch, Mount, Part
from deployer.runtimes.container import Ground, create
from deployer.runtimes.shell import as_commands
from deployer.sizing.memory import shared_memory

GROUND = Ground("abc123", "10001:10001")
GATEWAY = Part("gateway", ("gateway", "--port", "8080"), image="gateway:1")
UUIDS = ("GPU-0000", "GPU-1111")


def made(ground: Ground = GROUND, **about: Any) -> tuple[dict[str, Any], list[str]]:
    """What the engine is asked to create for an engine behind a gateway, and the words of its line."""
    engine = Part("engine", ("server", "--model", "/m/a b"), image="engine:1", **about)
    launch = Launch("small/g3/1", 3, None, (engine,))
    lines = [line for line in as_commands(launch, ground) if line.startswith("docker run ")]
    return create(launch, engine, ground), shlex.split(lines[0])


def options(words: list[str], name: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == name]


@pytest.mark.parametrize(
    ("way", "devices", "runtime", "line"),
    [
        (
            "cdi", [("cdi", ["nvidia.com/gpu=GPU-0000", "nvidia.com/gpu=GPU-1111"])], None,
            ["--device", "nvidia.com/gpu=GPU-0000", "--device", "nvidia.com/gpu=GPU-1111"],
        ),
        ("hook", [("", list(UUIDS))], None, ["--gpus", '"device=GPU-0000,GPU-1111"']),
        ("runtime", [], "nvidia", ["--runtime", "nvidia"]),
    ],
)  # fmt: skip
def test_gpus_by_uuid_on_every_way(
    way: str, devices: list[tuple[str, list[str]]], runtime: str | None, line: list[str]
) -> None:
    asked, words = made(gpus=UUIDS, gpu_injection=way)
    host = asked["host_config"]
    assert [(one["Driver"], one["DeviceIDs"]) for one in host.get("DeviceRequests") or ()] == devices
    assert host.get("Runtime") == runtime
    at = words.index(line[0])
    assert words[at : at + len(line)] == line
    named = asked["environment"].get("NVIDIA_VISIBLE_DEVICES")
    assert named == (",".join(UUIDS) if way == "runtime" else None)
    assert asked["environment"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(("count", "shared"), [(0, None), (1, None), (2, 1 << 30), (8, 4 << 30)])
def test_several_gpus_get_shared_memory_by_their_number_and_may_lock_it(count: int, shared: int | None) -> None:
    asked, words = made(gpus=tuple(f"GPU-{n}" for n in range(count)), gpu_injection="cdi" if count else None)
    host = asked["host_config"]
    assert host.get("ShmSize") == shared == (shared_memory(count) or None)
    limits = {one["Name"]: (one["Soft"], one["Hard"]) for one in host.get("Ulimits") or ()}
    assert limits == ({"memlock": (-1, -1), "stack": (64 << 20, 64 << 20)} if shared else {})
    assert options(words, "--ulimit") == (["memlock=-1:-1", "stack=67108864:67108864"] if shared else [])
    assert options(words, "--shm-size") == ([str(shared)] if shared else [])


def test_an_engine_that_may_not_raise_limits_is_not_asked_to() -> None:
    asked, words = made(Ground("abc123", "0:0", limits=False), gpus=UUIDS, gpu_injection="cdi")
    assert "Ulimits" not in asked["host_config"] and "--ulimit" not in words
    assert asked["host_config"]["ShmSize"] == 1 << 30


def test_seccomp_is_the_engines_own_filter_and_never_off() -> None:
    for known in (True, False):
        asked, words = made(Ground("abc123", "1:1", seccomp=known))
        said = asked["host_config"]["SecurityOpt"]
        assert said == ["no-new-privileges", *(["seccomp=builtin"] if known else [])]
        assert options(words, "--security-opt") == said


def test_programs_may_run_from_tmp_only_where_the_engine_compiles() -> None:
    assert made()[0]["host_config"]["Tmpfs"] == {"/tmp": "size=1g,mode=1777"}
    assert made(compiles=True)[0]["host_config"]["Tmpfs"] == {"/tmp": "size=8g,mode=1777,exec"}


def test_the_engine_publishes_nothing_and_its_network_is_not_even_this_hosts() -> None:
    engine = Part("engine", ("server",), image="engine:1", mounts=(Mount("/store/m", "/models/m"),))
    inner, first = as_commands(Launch("small/g2/1", 2, None, (engine,)), GROUND)
    outer, second, joined = as_commands(Launch("small", 1, 8000, (GATEWAY,)), GROUND)
    assert "--internal" in inner and "com.docker.network.bridge.inhibit_ipv4=true" in inner
    assert "--internal" not in outer and "com.docker.network.bridge.enable_ip_masquerade=false" in outer
    assert inner.endswith(" deployer-small-abc123-inner") and outer.endswith(" deployer-small-abc123")
    assert options(shlex.split(first), "--network") == ["deployer-small-abc123-inner"] and " -p " not in first
    assert options(shlex.split(first), "-v") == ["/store/m:/models/m:ro"]
    assert options(shlex.split(second), "-p") == ["127.0.0.1:8000:8080"]
    assert options(shlex.split(first), "--network-alias") == ["g2-1"]
    assert joined == "docker network connect deployer-small-abc123-inner deployer-small-gateway-abc123"


def test_the_engine_brings_back_only_what_it_was_asked_to() -> None:
    assert made()[0]["host_config"].get("RestartPolicy") is None
    asked, words = made(Ground("abc123", "1:1", restart=True))
    assert asked["host_config"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert options(words, "--restart") == ["unless-stopped"]
