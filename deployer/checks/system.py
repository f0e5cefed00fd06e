"""The machine at large: operating system, processor, what this process may use of it, the clock."""

from __future__ import annotations

import re

from deployer.checks.base import Check, has, sudo, uses_containers, wants_gpu
from deployer.checks.driver import number
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown, warned
from deployer.sizing.wanted import USERS

# transformers 5 without containers is installed for the Python at hand (runtimes/provision.py).
_TRANSFORMERS_PYTHON = "3.11"
# No machine with a right clock ran this program before; later than any certificate of today is valid.
_FIRST_DAY, _LAST_DAY = "2026-01-01", "2046-01-01"


def _os(host: Host, profile: Profile) -> Finding:
    """The operating system is the one that the profile is made for.

    Why: containers, drivers and every check here are Linux's.
    Pass: it is.
    Warn: never.
    Fail: it is another one.
    Skip: it could not be asked.
    Fix: use a Linux machine, or a Linux virtual machine.
    """
    wanted = profile.requirements.os
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    found = f"{host.system.distribution}, kernel {host.system.kernel}"
    return passed(wanted, found) if host.system.os == wanted else failed(wanted, host.system.os)


def _architecture(host: Host, profile: Profile) -> Finding:
    """The processor is of a kind that engines are built for.

    Why: there are no wheels of torch and no builds of the engines for others.
    Pass: it is x86_64 or aarch64.
    Warn: never.
    Fail: it is another one.
    Skip: it could not be asked.
    Fix: use another machine.
    """
    wanted = "x86_64 or aarch64"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    found = host.system.architecture
    return passed(wanted, found) if found in ("x86_64", "aarch64") else failed(wanted, found)


def _python(host: Host, profile: Profile) -> Finding:
    """This Python is new enough for the profile.

    Why: transformers is installed for the Python at hand where it runs without containers, and needs 3.11.
    Pass: it is as new as the profile asks, or as the engine needs.
    Warn: never.
    Fail: it is older.
    Skip: nobody asks for a version, or it could not be asked.
    Fix: make the environment of `deployer` with a newer Python.
    """
    wanted = profile.requirements.python
    if profile.engine == "transformers" and not uses_containers(host, profile):
        wanted = max(wanted or "0", _TRANSFORMERS_PYTHON, key=lambda v: [int(n) for n in v.split(".")])
    if wanted is None:
        return skipped("the profile does not ask for a version")
    if isinstance(host.system, Unknown):
        return unknown(f"{wanted} or later", host.system.reason)
    found = number(host.system.python)
    if isinstance(found, Unknown):
        return unknown(f"{wanted} or later", found.reason)
    if at_least(found, wanted):
        return passed(f"{wanted} or later", found)
    return failed(
        f"{wanted} or later", found, f"make the environment with a newer Python: python{wanted} -m venv"
    )


def _container(host: Host, profile: Profile) -> Finding:
    """`deployer` runs on the machine itself, or was shown the machine's own files.

    Why: inside a container the audit sees the container: its memory limit, its disks, its packages.
    Pass: it does not run in a container, or DEPLOYER_ROOT leads to the machine's files.
    Warn: it runs in a container.
    Fail: never.
    Skip: it could not be asked.
    Fix: mount the machine's files and name them in DEPLOYER_ROOT, or run it on the machine.
    """
    wanted = "the machine itself, not a container"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    kind = host.system.container
    if isinstance(kind, Unknown):
        return unknown(wanted, kind.reason)
    if kind is None:
        return passed(wanted, "no container around it")
    hint = "run deployer on the machine itself"
    if kind in ("docker", "podman"):
        hint = f"start this container with -v /:/host:ro -e DEPLOYER_ROOT=/host, or {hint}"
    return warned(wanted, f"this runs in a container ({kind}), and sees the container", hint)


def _cpu(host: Host, profile: Profile) -> Finding:
    """The processor has AVX2, which everything that computes on it is fastest with.

    Why: without it each token takes several times as long.
    Pass: it has AVX2.
    Warn: an x86-64 processor, or the one that a virtual machine shows, is without.
    Fail: never.
    Skip: the model is computed on a GPU, the processor is no x86-64, or it could not be asked.
    Fix: give a virtual machine the processor of its host; else take a newer computer or a smaller model.
    """
    if wants_gpu(profile):
        return skipped("the model is computed on the GPU")
    wanted = "AVX2"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    if host.system.architecture != "x86_64":
        return skipped(f"only x86-64 has it, this is {host.system.architecture}")
    if isinstance(host.cpu, Unknown):
        return unknown(wanted, host.cpu.reason)
    if not host.cpu.flags:
        return unknown(wanted, "/proc/cpuinfo lists no features")
    if "avx2" in host.cpu.flags:
        return passed(wanted, host.cpu.model)
    hint = "choose a smaller profile: deployer profiles list"
    if isinstance(host.system.hypervisor, str):
        hint = "give this virtual machine the processor of its host (QEMU, libvirt: host-passthrough)"
    return warned(wanted, f"{host.cpu.model} is without", hint)


def _cores(host: Host, profile: Profile) -> Finding:
    """This process may use at least half of the machine's processors.

    Why: the engine is started with as many threads as this process may use cores.
    Pass: it may.
    Warn: it may use less than half of them.
    Fail: never.
    Skip: the model is computed on a GPU, or it could not be asked.
    Fix: start `deployer` without taskset, outside of a cpuset, or ask the job scheduler for more.
    """
    if wants_gpu(profile):
        return skipped("the model is computed on the GPU")
    wanted = "at least half of the machine's processors"
    if isinstance(host.cpu, Unknown):
        return unknown(wanted, host.cpu.reason)
    if isinstance(host.cpu.all_threads, Unknown):
        return unknown(wanted, host.cpu.all_threads.reason)
    found = f"{host.cpu.threads} of {host.cpu.all_threads}"
    if 2 * host.cpu.threads >= host.cpu.all_threads:
        return passed(wanted, found)
    return warned(
        wanted, found, "taskset, a cpuset or a job scheduler holds this process back: start without"
    )


def _open_files(host: Host, profile: Profile) -> Finding:
    """The limit of open files leaves room for the requests that the profile allows.

    Why: each request holds a connection to the gateway and one to the engine; past the limit they are refused.
    Pass: the limit is at least 256 and 4 for each request at a time.
    Warn: it is lower.
    Fail: never.
    Skip: containers have limits of their own, or it could not be asked.
    Fix: raise it in the shell that starts `deployer`: ulimit -n.
    """
    if uses_containers(host, profile):
        return skipped("containers get the engine's limits, not this user's")
    need = 256 + 4 * (profile.serving.concurrency or max(USERS.values()))
    wanted = f"{need} open files"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    if "open_files" not in host.system.limits:
        return unknown(wanted, "the limits of this process were not read")
    limit = host.system.limits["open_files"]
    if limit is None or limit >= need:
        return passed(wanted, "no limit" if limit is None else str(limit))
    return warned(
        wanted, f"at most {limit}", f"in the shell that starts deployer: ulimit -n {max(need, 1024)}"
    )


def _clock(host: Host, profile: Profile) -> Finding:
    """The machine's clock can be right.

    Why: with a clock that is years off no certificate is valid, and every download fails.
    Pass: it shows a time after this program was made.
    Warn: it shows one before, or one decades ahead.
    Fail: never.
    Skip: the time of the audit is not readable.
    Fix: let the machine set its clock over the network.
    """
    wanted = f"a time after {_FIRST_DAY}"
    if not re.match(r"\d{4}-\d\d-\d\dT", host.taken):
        return unknown(wanted, f"`{host.taken}` is no time")
    if _FIRST_DAY <= host.taken < _LAST_DAY:
        return passed(wanted, host.taken)
    hint = "set the clock, and let the network keep it right"
    if has(host, "timedatectl"):
        hint = sudo(host, "timedatectl set-ntp true")
    return warned(wanted, host.taken, hint)


CHECKS = (
    Check("system.os", _os),
    Check("system.architecture", _architecture),
    Check("system.python", _python),
    Check("system.container", _container, advice=True),
    Check("system.cpu", _cpu, advice=True),
    Check("system.cores", _cores, advice=True),
    Check("system.open_files", _open_files, advice=True),
    Check("system.clock", _clock, advice=True),
)
