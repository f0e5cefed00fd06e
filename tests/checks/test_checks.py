"""Checks are pure: hosts in, findings out."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer import images, profile
from deployer.checks import CHECKS, audit
from deployer.host import Answer, Disk, Host, Memory, Port, Unknown
from deployer.profile import Profile
from deployer.report import Finding, Outcome
from tests import hosts

PROFILES = {path.stem: profile.load(path) for path in profile.shipped()}
CPU, GPU, TWO = PROFILES["cpu-small"], PROFILES["gpu-8gb"], PROFILES["gpu-2x24gb"]
BUILD = images.load(CPU.image).variant(CPU.variant).build_disk
FACTS = [
    *("system", "cpu", "memory", "models_disk", "images_disk", "engines_disk"),
    *("driver", "pci_gpus", "cuda", "gpus", "runtime"),
]
MADE_HERE = ("system.open_files", "disk.temporary", "disk.engines")
EVERY = [pytest.param(host, id=name) for name, host in hosts.NAMED.items()]


def findings(host: Host, wanted: Profile) -> dict[str, Finding]:
    return {finding.id: finding for finding in audit(host, wanted).findings}


def outcomes(host: Host, wanted: Profile) -> dict[str, str]:
    """What each check says, less passes, what the profile does not ask for, and advice nobody could give."""
    found = {id_: f for id_, f in findings(host, wanted).items() if not (f.unknown and f.advice)}
    said = {id_: "unknown" if f.unknown else f.outcome.value for id_, f in found.items()}
    return {id_: word for id_, word in said.items() if word not in ("pass", "skip")}


def disk(**changes: Any) -> Disk:
    return replace(hosts.DISK, **changes)


def memory(total: int, available: int) -> Memory:
    assert isinstance(hosts.NO_GPU.memory, Memory)
    return replace(hosts.NO_GPU.memory, total=total, available=available)


def with_gpu(**changes: Any) -> Host:
    return replace(hosts.RTX, gpus=(replace(hosts.RTX_4060, **changes),))


OF_GPUS = {
    *("gpu.count", "gpu.vram", "gpu.free_vram", "gpu.compute_capability", "gpu.compute_mode", "gpu.mig"),
    *("image.driver", "image.kernels", "image.cudnn", "model.memory"),
}
OF_DRIVER = {
    *("driver.loaded", "driver.version", "driver.libraries", "driver.uvm"),
    *("image.driver", "runtime.gpu"),
}
OF_RUNTIME = {"runtime.gpu", "runtime.here", "runtime.buildx"}


def unsure(*ids: str) -> dict[str, str]:
    return dict.fromkeys(ids, "unknown")


@pytest.mark.parametrize(
    ("host", "wanted", "problems"),
    [
        pytest.param(hosts.NO_GPU, CPU, {}, id="cpu-small without a GPU"),
        pytest.param(hosts.RTX, CPU, {}, id="cpu-small beside a GPU"),
        pytest.param(hosts.RTX, GPU, {}, id="8 GB on an RTX 4060"),
        pytest.param(hosts.H100, PROFILES["h100-80gb"], {}, id="80 GB on an H100"),
        pytest.param(
            hosts.RTX,
            PROFILES["h100-80gb"],
            {"gpu.vram": "fail", "gpu.compute_capability": "fail", "model.memory": "fail"},
            id="80 GB on an RTX 4060",
        ),
        pytest.param(hosts.H100, TWO, {"gpu.count": "fail"}, id="two GPUs where one is"),
        pytest.param(hosts.NO_GPU, GPU, {"gpu.count": "fail"}, id="8 GB without a GPU"),
        pytest.param(
            hosts.NO_DRIVER,
            GPU,
            {"gpu.count": "fail", "driver.loaded": "fail"},
            id="a GPU without its driver",
        ),
        pytest.param(hosts.OLD_DRIVER, GPU, {"driver.version": "fail"}, id="driver too old"),
        pytest.param(hosts.NVML_SILENT, GPU, unsure(*OF_GPUS), id="NVML does not answer"),
        pytest.param(
            hosts.FREE_UNKNOWN,
            GPU,
            {"gpu.free_vram": "unknown", "model.memory": "unknown"},
            id="free memory unknown",
        ),
        pytest.param(with_gpu(uuid=Unknown("x")), GPU, unsure("gpu.together"), id="a card without a name"),
        pytest.param(hosts.without_runtime(hosts.NO_GPU), CPU, {"runtime.engine": "warn"}, id="no runtime"),
        pytest.param(
            hosts.without_runtime(hosts.NO_GPU, hosts.DENIED), CPU, {"runtime.engine": "warn"}, id="denied"
        ),
        pytest.param(
            hosts.without_runtime(hosts.NO_GPU, hosts.HUNG), CPU, {"runtime.engine": "warn"}, id="hung"
        ),
        pytest.param(
            hosts.without_runtime(hosts.RTX),
            GPU,
            {"runtime.engine": "fail"},
            id="a GPU and no runtime",
        ),
        pytest.param(
            hosts.without_runtime(hosts.RTX, hosts.DENIED),
            GPU,
            {"runtime.engine": "fail", **unsure("disk.images", "disk.together", *OF_RUNTIME)},
            id="a GPU, and the runtime denied",
        ),
        pytest.param(
            hosts.without_runtime(hosts.RTX, hosts.HUNG),
            GPU,
            unsure("disk.images", "disk.together", "runtime.engine", *OF_RUNTIME),
            id="a GPU, and the runtime hung",
        ),
        pytest.param(hosts.UNCONFIGURED, GPU, unsure("runtime.gpu"), id="perhaps a way to the GPU"),
        pytest.param(hosts.NO_TOOLKIT, GPU, {"runtime.gpu": "fail"}, id="no way to the GPU"),
        pytest.param(
            replace(hosts.RTX, runtime=replace(hosts.DOCKER, nvidia_runtime=True)),
            GPU,
            {},
            id="nvidia runtime",
        ),
        pytest.param(
            replace(hosts.RTX, cuda=hosts.NO_LIBRARY),
            GPU,
            {},
            id="CUDA from the version of the kernel module",
        ),
        pytest.param(
            replace(hosts.RTX, cuda=hosts.NO_LIBRARY, driver=Unknown("x")),
            GPU,
            unsure("driver.cuda", *OF_DRIVER),
            id="driver unknown",
        ),
    ],
)
def test_hosts_against_profiles(host: Host, wanted: Profile, problems: dict[str, str]) -> None:
    assert outcomes(host, wanted) == problems


@pytest.mark.parametrize(
    ("changes", "wanted", "problems"),
    [
        pytest.param(
            {"memory": memory(900_000_000, 900_000_000)}, CPU, {}, id="memory kept back by firmware"
        ),
        pytest.param(
            {"memory": memory(899_000_000, 899_000_000)},
            CPU,
            {"memory.total": "fail"},
            id="too little memory",
        ),
        pytest.param(
            {"memory": memory(2 * hosts.GB, hosts.GB // 10)},
            CPU,
            {"memory.available": "warn"},
            id="memory in use",
        ),
        pytest.param(
            {"memory": memory(hosts.GB // 10, hosts.GB // 10)},
            CPU,
            {"memory.total": "fail", "memory.available": "fail"},
            id="a tenth of the memory",
        ),
        pytest.param({"images_disk": disk(free=BUILD, size=10**10)}, CPU, {}, id="just room to build images"),
        pytest.param(
            {"images_disk": disk(free=BUILD - 1, size=10**10)},
            CPU,
            {"disk.images": "fail"},
            id="no room for images",
        ),
        pytest.param({"engines_disk": disk(free=0)}, CPU, {}, id="no room for engines that are not built"),
        pytest.param(
            {"engines_disk": disk(free=0), "runtime": None},
            CPU,
            {"runtime.engine": "warn", "disk.images": "fail", "disk.full": "warn"},
            id="no room for engines",
        ),
        pytest.param(
            {"models_disk": disk(free=0)},
            CPU,
            {"disk.models": "fail", "disk.full": "warn"},
            id="no room for models",
        ),
        pytest.param(
            {"models_disk": disk(writable=False)}, CPU, {"disk.writable": "fail"}, id="not writable"
        ),
        pytest.param({"models_disk": disk(size=89 * 10**9)}, GPU, {"disk.size": "fail"}, id="small disk"),
        pytest.param({"models_disk": disk(size=90 * 10**9)}, GPU, {}, id="a disk of nominal size"),
        pytest.param({"models_disk": disk(rotating=True)}, GPU, {"disk.kind": "fail"}, id="rotating"),
        pytest.param({"models_disk": disk(rotating=None)}, GPU, {"disk.kind": "warn"}, id="rotating or not"),
        pytest.param({"models_disk": disk(rotating=True)}, CPU, {}, id="rotating, and nobody minds"),
        pytest.param(
            {"ports": {"8000": Port(8000, False, "nginx (pid 7)")}}, CPU, {"network.port": "fail"}, id="port"
        ),
        pytest.param({"ports": {"8000": Unknown("x")}}, CPU, {"network.port": "unknown"}, id="port unknown"),
        pytest.param({"ports": {}}, CPU, {}, id="port not asked"),
        pytest.param(
            {"sources": {"https://hub.example": Answer("https://hub.example", 200, 0.1)}}, GPU, {}, id="hub"
        ),
        pytest.param(
            {"sources": {"https://hub.example": Answer("https://hub.example", 503, 0.1)}},
            GPU,
            {"model.source": "fail"},
            id="hub is ill",
        ),
        pytest.param(
            {"sources": {"https://hub.example": Unknown("no route")}},
            GPU,
            {"model.source": "fail"},
            id="no hub",
        ),
        pytest.param({"sources": {"https://hub.example": Unknown("no route")}}, CPU, {}, id="no hub needed"),
        pytest.param(
            {"system": replace(hosts.SYSTEM, os="darwin")}, CPU, {"system.os": "fail"}, id="not Linux"
        ),
        pytest.param(
            {"system": replace(hosts.SYSTEM, architecture="riscv64")},
            CPU,
            {"system.architecture": "fail", "image.platform": "warn"},
            id="RISC-V",
        ),
        pytest.param(
            {"system": replace(hosts.SYSTEM, python="3.9.18")}, CPU, {"system.python": "fail"}, id="python"
        ),
        pytest.param(
            {"system": Unknown("x")},
            CPU,
            dict.fromkeys(("system.os", "system.architecture", "system.python", "image.platform"), "unknown"),
            id="system unknown",
        ),
    ],
)
def test_one_thing_differs(changes: dict[str, Any], wanted: Profile, problems: dict[str, str]) -> None:
    assert outcomes(replace(hosts.RTX, **changes), wanted) == problems


def test_every_check_has_an_id_of_its_own() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", check.id) for check in CHECKS)


@pytest.mark.parametrize("host", EVERY)
def test_every_check_gives_exactly_one_finding_that_says_something(host: Host) -> None:
    for wanted in PROFILES.values():
        report = audit(host, wanted)
        assert report.profile == wanted.name
        assert [finding.id for finding in report.findings] == [check.id for check in CHECKS]
        for finding in report.findings:
            assert finding.found
            assert finding.wanted or finding.outcome is Outcome.SKIP
            assert finding.hint is None or finding.outcome in (Outcome.FAIL, Outcome.WARN) or finding.unknown


def commands(hint: str | None, tool: str) -> bool:
    """Whether the hint tells to run `tool`."""
    return bool(re.search(rf"(^|sudo |&& |: ){tool} ", hint or ""))


@pytest.mark.parametrize("host", EVERY)
def test_hints_name_no_command_that_is_not_there(host: Host) -> None:
    lean = hosts.bare(host)
    poor = replace(
        lean, images_disk=disk(free=0), models_disk=disk(free=0, rotating=True), memory=Memory(1, 1)
    )
    for judged, wanted in itertools.product((host, lean, poor), PROFILES.values()):
        assert not isinstance(judged.system, Unknown)
        for finding in audit(judged, wanted).findings:
            for tool in ("docker", "podman", "nvidia-ctk", "apt-get", "dnf"):
                assert tool in judged.system.tools or not commands(finding.hint, tool), finding
            assert judged.system.systemd or not commands(finding.hint, "systemctl"), finding


@pytest.mark.parametrize(
    ("host", "id_", "tool"),
    [
        pytest.param(replace(hosts.RTX, images_disk=disk(free=0)), "disk.images", "docker", id="docker"),
        pytest.param(hosts.UNCONFIGURED, "runtime.gpu", "nvidia-ctk", id="nvidia-ctk"),
        pytest.param(hosts.NO_DRIVER, "driver.loaded", "apt-get", id="apt-get for the first driver"),
        pytest.param(hosts.OLD_DRIVER, "driver.version", "apt-get", id="apt-get"),
        pytest.param(hosts.without_runtime(hosts.RTX), "runtime.engine", "systemctl", id="systemctl"),
    ],
)
def test_hints_name_the_command_where_it_is_there(host: Host, id_: str, tool: str) -> None:
    hint = findings(host, GPU)[id_].hint
    assert commands(hint, tool)
    assert "sudo" in str(hint) or tool == "docker"
    root = replace(host, system=replace(hosts.SYSTEM, user=0))
    assert "sudo" not in str(findings(root, GPU)[id_].hint)


@pytest.mark.parametrize("name", [n for n, h in hosts.NAMED.items() if h.pci_gpus == () and h.gpus == ()])
def test_nobody_without_a_gpu_is_sent_to_drivers_or_the_toolkit(name: str) -> None:
    for host in (hosts.NAMED[name], hosts.bare(hosts.NAMED[name])):
        for wanted in PROFILES.values():
            for finding in audit(host, wanted).findings:
                said = (finding.hint or "").lower()
                assert not re.search(r"toolkit|nvidia-ctk|nvidia-driver|nvidia driver", said), finding


def test_what_holds_the_port_is_named_and_another_is_offered() -> None:
    host = replace(hosts.NO_GPU, ports={"8000": Port(8000, False, "nginx (pid 7)")})
    finding = findings(host, CPU)["network.port"]
    assert "nginx (pid 7)" in finding.found
    assert "--port 8001" in str(finding.hint)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(hosts.NAMED)),
    st.sampled_from(sorted(PROFILES)),
    st.sets(st.sampled_from([*FACTS, "ports", "sources"]), min_size=1),
)
def test_not_knowing_never_turns_anything_into_a_pass(name: str, wanted: str, lost: set[str]) -> None:
    answer = Answer("https://hub.example", 200, 0.1)
    host = replace(hosts.NAMED[name], sources={answer.url: answer})
    changes: dict[str, Any] = {fact: Unknown("not asked") for fact in lost}
    for fact in lost & {"ports", "sources"}:
        changes[fact] = {key: Unknown("not asked") for key in getattr(host, fact)}
    before = findings(host, PROFILES[wanted])
    for id_, finding in findings(replace(host, **changes), PROFILES[wanted]).items():
        if "runtime" in lost and id_ in MADE_HERE:
            continue  # without an engine that answers, engines are made here, and more is looked at
        assert finding.outcome is not Outcome.PASS or before[id_].outcome is Outcome.PASS, id_


@pytest.mark.parametrize(
    ("fact", "unsure"),
    [
        ("system", {"system.os", "system.architecture", "system.python", "image.platform"}),
        ("memory", {"memory.total", "memory.available"}),
        ("models_disk", {"disk.models", "disk.together", "disk.size", "disk.kind", "disk.writable"}),
        ("images_disk", {"disk.images", "disk.together"}),
        ("driver", OF_DRIVER),
        ("gpus", OF_GPUS),
        ("runtime", {"runtime.engine", *OF_RUNTIME}),
        ("cpu", set()),
        ("engines_disk", set()),
        ("pci_gpus", set()),
        ("cuda", set()),
    ],
)
def test_a_report_is_sure_only_if_all_that_matters_is_known(fact: str, unsure: set[str]) -> None:
    assert audit(hosts.RTX, GPU).sure
    report = audit(replace(hosts.RTX, **{fact: Unknown("not asked")}), GPU)
    assert report.ok
    assert {f.id for f in report.unknown if not f.advice} == unsure
    assert report.sure is not bool(unsure)


@pytest.mark.parametrize("field", ["vram", "free_vram", "compute_capability"])
def test_one_unknown_field_costs_neither_the_card_nor_the_doubt(field: str) -> None:
    alone = with_gpu(**{field: Unknown("NVML: not supported")})
    also = {"free_vram": ("model.memory",), "compute_capability": ("image.kernels", "image.cudnn")}
    assert outcomes(alone, GPU) == unsure(f"gpu.{field}", *also.get(field, ()))
    assert not isinstance(alone.gpus, Unknown)
    beside = replace(alone, gpus=(*alone.gpus, replace(hosts.RTX_4060, index=1)))
    assert outcomes(beside, GPU) == {}


def test_two_cards_that_meet_half_each_are_not_enough() -> None:
    busy = hosts.gpu(0, name="NVIDIA GeForce RTX 4090", vram=24564, free=1000, capability="8.9")
    small = hosts.gpu(1, name="NVIDIA GeForce GTX 1650", vram=8192, free=8000, capability="7.0")
    found = {f.id: f for f in audit(replace(hosts.RTX, gpus=(busy, small)), GPU).findings}
    assert {
        found[f"gpu.{name}"].outcome for name in ("count", "vram", "free_vram", "compute_capability")
    } == {Outcome.PASS}
    assert found["gpu.together"].outcome is Outcome.FAIL
