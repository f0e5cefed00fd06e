"""The operating system, the processor, and what stands between this process and the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.host import Cpu, Host
from deployer.profile import Profile
from tests import hosts
from tests.checks.rows import CPU, GPT2, GPU, LOST, NO_GPU, PROCESS, RTX, check, system

NO_SYSTEM = replace(NO_GPU, system=LOST)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "Ubuntu 24.04 LTS, kernel 6.8.0", None),
        (system(os="darwin"), CPU, "fail", "darwin", None),
        (NO_SYSTEM, CPU, "unknown", "lost", None),
    ],
)
def test_the_operating_system(host: Host, wanted: Profile, outcome: str, found: str, hint: str) -> None:
    check("system.os", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found"),
    [
        (NO_GPU, "pass", "x86_64"),
        (system(architecture="aarch64"), "pass", "aarch64"),
        (system(architecture="riscv64"), "fail", "riscv64"),
        (NO_SYSTEM, "unknown", "lost"),
    ],
)
def test_the_architecture(host: Host, outcome: str, found: str) -> None:
    check("system.architecture", host, CPU, outcome, found)


ANY_PYTHON = replace(CPU, requirements=replace(CPU.requirements, python=None))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "3.12.3", None),
        (system(python="3.10.0"), CPU, "pass", "3.10.0", None),
        (
            system(python="3.9.18"), CPU, "fail", "3.9.18",
            "make the environment with a newer Python: python3.10 -m venv",
        ),
        (NO_GPU, ANY_PYTHON, "skip", "does not ask", None),
        (NO_SYSTEM, CPU, "unknown", "lost", None),
        # transformers without containers is installed for this Python
        (system(python="3.10.12"), GPT2, "pass", "3.10.12", None),
        (system(PROCESS, python="3.11.0"), GPT2, "pass", "3.11.0", None),
        (
            system(PROCESS, python="3.10.12"), GPT2, "fail", "3.10.12",
            "make the environment with a newer Python: python3.11 -m venv",
        ),
    ],
)  # fmt: skip
def test_the_python(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.python", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "no container", None),
        (
            system(container="docker"), "warn", "a container (docker)",
            "start this container with -v /:/host:ro -e DEPLOYER_ROOT=/host, or run deployer on the machine itself",
        ),
        (system(container="lxc"), "warn", "(lxc)", "run deployer on the machine itself"),
        (system(container=LOST), "unknown", "lost", None),
        (NO_SYSTEM, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_inside_a_container(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("system.container", host, CPU, outcome, found, hint)


OLD = Cpu("Xeon E5-2670", cores=8, threads=16, flags=("avx",), all_threads=16)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "Some CPU", None),
        (
            replace(NO_GPU, cpu=OLD), CPU, "warn", "Xeon E5-2670 is without",
            "choose a smaller profile: deployer profiles list",
        ),
        (
            system(replace(NO_GPU, cpu=OLD), hypervisor="kvm"), CPU, "warn", "is without",
            "give this virtual machine the processor of its host (QEMU, libvirt: host-passthrough)",
        ),
        (replace(NO_GPU, cpu=replace(OLD, flags=())), CPU, "unknown", "lists no features", None),
        (system(replace(NO_GPU, cpu=OLD), architecture="aarch64"), CPU, "skip", "this is aarch64", None),
        (replace(RTX, cpu=OLD), GPU, "skip", "on the GPU", None),
        (replace(NO_GPU, cpu=LOST), CPU, "unknown", "lost", None),
        (NO_SYSTEM, CPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_avx2(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.cpu", host, wanted, outcome, found, hint)


def with_threads(some: int) -> Host:
    return replace(NO_GPU, cpu=Cpu("Some CPU", 8, some, ("avx2",), all_threads=16))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (with_threads(16), CPU, "pass", "16 of 16", None),
        (with_threads(8), CPU, "pass", "8 of 16", None),
        (
            with_threads(7), CPU, "warn", "7 of 16",
            "taskset, a cpuset or a job scheduler holds this process back: start without",
        ),
        (with_threads(7), GPU, "skip", "on the GPU", None),
        (replace(NO_GPU, cpu=LOST), CPU, "unknown", "lost", None),
        (replace(NO_GPU, cpu=replace(OLD, all_threads=LOST)), CPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_cores(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.cores", host, wanted, outcome, found, hint)


MANY = replace(CPU, serving=replace(CPU.serving, concurrency=400))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (PROCESS, CPU, "pass", "1048576", None),
        (system(PROCESS, limits={"open_files": None}), CPU, "pass", "no limit", None),
        (system(PROCESS, limits={"open_files": 264}), CPU, "pass", "264", None),
        (
            system(PROCESS, limits={"open_files": 263}), CPU, "warn", "at most 263",
            "in the shell that starts deployer: ulimit -n 1024",
        ),
        (
            system(PROCESS, limits={"open_files": 1024}), MANY, "warn", "at most 1024",
            "in the shell that starts deployer: ulimit -n 1856",
        ),
        (system(PROCESS, limits={}), CPU, "unknown", "were not read", None),
        (replace(PROCESS, system=LOST), CPU, "unknown", "lost", None),
        (system(limits={"open_files": 1}), CPU, "skip", "the engine's limits", None),
    ],
)  # fmt: skip
def test_open_files(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("system.open_files", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("taken", "tools", "outcome", "hint"),
    [
        ("2026-01-01T00:00:00Z", (), "pass", None),
        ("2025-12-31T23:59:59Z", (), "warn", "set the clock, and let the network keep it right"),
        ("1970-01-01T00:00:07Z", ("timedatectl", "sudo"), "warn", "sudo timedatectl set-ntp true"),
        ("2106-02-07T06:28:15Z", ("timedatectl",), "warn", "as root: timedatectl set-ntp true"),
        ("yesterday", (), "unknown", None),
    ],
)
def test_the_clock(taken: str, tools: tuple[str, ...], outcome: str, hint: str | None) -> None:
    host = replace(NO_GPU, taken=taken, system=replace(hosts.SYSTEM, tools=tools))
    check("system.clock", host, CPU, outcome, taken, hint)
