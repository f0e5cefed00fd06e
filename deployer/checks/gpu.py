"""GPUs: how many, how large, how new, how free, for the profile at hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from deployer.checks.base import NO_GPU, NOMINAL, NOT_ASKED, Check, has, has_gpu, multi, sudo
from deployer.host import Fact, Gpu, Host, Mig, Process, Unknown
from deployer.profile import GpuNeed, Profile
from deployer.quantity import at_least, format_size
from deployer.report import Finding, Outcome, failed, passed, skipped, unknown

NONE_USABLE = "no GPU can be used: gpu.count says why"
TOO_FEW = "there are too few GPUs: gpu.count says why"
SMALLER = "choose a smaller profile: deployer check --all"
T = TypeVar("T")


def reset(host: Host) -> str:
    """How one card is reset here, with `{index}` in it."""
    command = sudo(host, "nvidia-smi --gpu-reset -i {index}")
    return f"{command} with nothing running on it, or reboot" if has(host, "nvidia-smi") else "reboot"


def capability(gpu: Gpu) -> Fact[str]:
    """Its compute capability; Unknown also where that is not of the form `8.9`."""
    found = gpu.compute_capability
    if isinstance(found, Unknown) or re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", found):
        return found
    return Unknown(f"the compute capability `{found}` is not a number")


def usable(host: Host, profile: Profile) -> Fact[tuple[Gpu, ...]]:
    """The GPUs that this profile could be given: whole cards, and MIG slices as GPUs of their own.

    Slices have no way to each other, so a profile that needs several GPUs gets none of them.
    """
    if isinstance(host.gpus, Unknown):
        return host.gpus
    found: list[Gpu] = []
    for gpu in host.gpus:
        if not isinstance(gpu.mig, Mig) or not gpu.mig.enabled:
            found.append(gpu)
        elif not multi(profile):
            found += [
                replace(gpu, uuid=s.uuid, name=s.name, vram=s.vram, free_vram=s.free_vram, mig=None)
                for s in gpu.mig.slices
            ]
    return tuple(found)


def enough_without(host: Host, profile: Profile, bad: Callable[[Gpu], bool]) -> bool:
    """Whether the profile has enough GPUs left when it uses none that is bad."""
    need, gpus = profile.requirements.gpu, usable(host, profile)
    return need is None or isinstance(gpus, Unknown) or sum(not bad(gpu) for gpu in gpus) >= need.count


def _count(host: Host, profile: Profile) -> Finding:
    """There are as many usable GPUs as the profile needs.

    Why: everything else about GPUs follows from it; a machine without one runs a CPU profile well.
    Pass: NVML shows enough whole GPUs, or MIG slices for a profile that needs one.
    Warn: never.
    Fail: there are fewer, or a GPU on the PCI bus that no driver makes usable.
    Skip: the profile wants no GPU, NVML or one of the GPUs does not answer, or MIG has cut up what there is.
    Fix: a CPU profile where there is no GPU; else what driver.loaded, gpu.answers and gpu.mig say.
    """
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    wanted = f"{need.count} NVIDIA GPU" + ("s" if need.count > 1 else "")
    if has_gpu(host) is False:
        if not isinstance(host.system, Unknown) and host.system.wsl:
            return failed(wanted, "Windows passes no GPU on to this WSL", "system.wsl says what it lacks")
        return failed(wanted, NO_GPU, "choose a CPU profile: deployer profiles list")
    gpus = usable(host, profile)
    if (isinstance(gpus, Unknown) or not host.gpus) and has_gpu(host) and _no_driver(host):
        return failed(
            wanted, "a GPU is on the PCI bus, and no driver makes it usable", "driver.loaded says why"
        )
    if isinstance(gpus, Unknown):
        tool = "nvidia-smi should list them; if it fails too, reboot" if has(host, "nvidia-smi") else "reboot"
        return unknown(wanted, gpus.reason, tool)
    if len(gpus) >= need.count:
        silent = [gpu.uuid.reason for gpu in gpus if isinstance(gpu.uuid, Unknown) and not answers(gpu)]
        if len(gpus) - len(silent) < need.count:
            return unknown(wanted, f"a GPU is listed and does not answer: {silent[0]}")
        return passed(wanted, counted(_name(gpu) for gpu in gpus))
    if isinstance(host.gpus, Unknown) or has_gpu(host) is None:
        return unknown(wanted, "NVML shows none, and the PCI bus cannot be read")
    if not host.gpus:
        look = sudo(host, "dmesg | grep NVRM")
        return failed(
            wanted, "a GPU is on the PCI bus, and the driver shows none", f"the driver says why: {look}"
        )
    if len(host.gpus) >= need.count:
        return skipped("MIG has cut up what there is: gpu.mig says why", wanted)
    return failed(wanted, counted(_name(gpu) for gpu in host.gpus), SMALLER)


def _no_driver(host: Host) -> bool:
    """Whether no driver is loaded for sure; under WSL the driver is not this kernel's."""
    return host.driver is None and not isinstance(host.system, Unknown) and not host.system.wsl


def answers(gpu: Gpu) -> bool:
    """A GPU that fell off the bus is still in NVML's list, and says nothing of itself."""
    return not (isinstance(gpu.uuid, Unknown) and isinstance(gpu.vram, Unknown))


def _vram(host: Host, profile: Profile) -> Finding:
    """Each GPU has the nominal memory that the profile asks for.

    Why: weights, key-value cache and the engine's own buffers must fit, and none of them can be made smaller here.
    Pass: enough GPUs have at least 0.9 of the nominal size (ECC and firmware keep some back: a T4 shows 0.92).
    Warn: never.
    Fail: too few have it.
    Skip: the profile asks for none, there are too few GPUs, or the size of a card that matters is unknown.
    Fix: a smaller profile.
    """
    need = profile.requirements.gpu
    if need is None or need.vram is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for a size")
    size = need.vram
    finding = _enough(
        host, profile, f"{format_size(size)} each", lambda gpu: gpu.vram,
        lambda found: found >= NOMINAL * size, SMALLER,
    )  # fmt: skip
    shared = not isinstance(host.gpus, Unknown) and any(gpu.unified is True for gpu in host.gpus)
    return replace(finding, found=f"{finding.found} (shared with the system)") if shared else finding


def holders(host: Host, gpu: Gpu) -> list[str]:
    """`python (pid 812, user ada, container old-llm, 9.8 GB)` for each program that holds memory of the GPU."""
    if gpu.processes is None or isinstance(gpu.processes, Unknown):
        return []
    return [holder(host, process) for process in gpu.processes]


def holder(host: Host, process: Process) -> str:
    names = {}
    if host.runtime is not None and not isinstance(host.runtime, Unknown):
        names = {} if isinstance(host.runtime.containers, Unknown) else dict(host.runtime.containers)
    parts = [f"pid {process.pid}"]
    if process.user:
        parts.append(f"user {process.user}")
    if process.container:
        parts.append(f"container {names.get(process.container, process.container)}")
    if process.memory:
        parts.append(format_size(process.memory))
    return f"{process.name or 'a program'} ({', '.join(parts)})"


def _free_vram(host: Host, profile: Profile) -> Finding:
    """Each GPU has the free memory that the profile asks for, now.

    Why: a display, another model or an orphan holds memory, and the engine ends with `Free memory on device … is
        less than desired`, after all downloads.
    Pass: enough GPUs have it.
    Warn: never.
    Fail: too few have it.
    Skip: the profile asks for none, there are too few GPUs, they are too small even when empty, or the free memory of
        a card that matters is unknown.
    Fix: end what holds it; gpu.holders names the programs.
    """
    need = profile.requirements.gpu
    if need is None or need.free_vram is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for free memory")
    size = need.free_vram
    wanted = f"{format_size(size)} free on each"
    if _vram(host, profile).outcome is Outcome.FAIL:
        return skipped("the cards are too small: gpu.vram", wanted)
    cards = () if isinstance(host.gpus, Unknown) else host.gpus
    held = [text for gpu in cards for text in holders(host, gpu)]
    hint = f"end what holds it: {', '.join(held) or 'another program; gpu.holders could not see it'}"
    if not enough_without(host, profile, lambda gpu: isinstance(gpu.vram, int) and gpu.vram < size):
        hint = SMALLER
    return _enough(
        host, profile, wanted, lambda gpu: gpu.free_vram, lambda found: found >= size, hint
    )  # fmt: skip


def small(host: Host, profile: Profile) -> Finding:
    """Each GPU has the compute capability that the profile asks for.

    Why: kernels are compiled for capabilities; on others the engine ends with `no kernel image is available`.
    Pass: enough GPUs have it.
    Warn: never.
    Fail: too few have it.
    Skip: the profile asks for none, there are too few GPUs, or the capability of a card that matters is unknown.
    Fix: another profile.
    """
    need = profile.requirements.gpu
    if need is None or need.compute_capability is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for one")
    least = need.compute_capability
    return _enough(
        host, profile, f"{least} or later", capability,
        lambda found: at_least(found, least), f"the image's kernels need {least}: deployer check --all",
    )  # fmt: skip


def _enough(
    host: Host,
    profile: Profile,
    wanted: str,
    field: Callable[[Gpu], Fact[object]],
    good: Callable[..., bool],
    hint: str,
) -> Finding:
    """Whether enough GPUs have a good value; unknown values count neither way."""
    need, gpus = profile.requirements.gpu, usable(host, profile)
    if isinstance(gpus, Unknown):
        return unknown(wanted, gpus.reason)
    if need is None or len(gpus) < need.count:
        return skipped(TOO_FEW if gpus else NONE_USABLE, wanted)
    values = [field(gpu) for gpu in gpus]
    known = [v for v in values if not isinstance(v, Unknown)]
    text = counted(
        v.reason if isinstance(v, Unknown) else format_size(v) if isinstance(v, int) else str(v)
        for v in values
    )
    if sum(map(good, known)) >= need.count:
        return passed(wanted, text)
    if len(known) < len(values):
        return unknown(wanted, text)
    return failed(wanted, text, hint)


def counted(texts: Iterable[str]) -> str:
    """`8 × NVIDIA L4`: equal texts once, with how often."""
    found = Counter(texts)
    return ", ".join(text if count == 1 else f"{count} × {text}" for text, count in found.items())


def both(part: str, *names: str) -> Callable[[Gpu], Any]:
    """The fact of a part of a GPU, when all these fields of it are known; else what is the matter with the first."""

    def fact(gpu: Gpu) -> Any:
        whole = getattr(gpu, part)
        for value in () if isinstance(whole, Unknown) else (getattr(whole, name) for name in names):
            if value is None or isinstance(value, Unknown):
                return value
        return whole

    return fact


def each(
    host: Host,
    profile: Profile,
    wanted: str,
    fact: Callable[[Gpu], Fact[T | None]],
    bad: Callable[[Gpu, T], str | None],
    outcome: Callable[[str, str, str | None], Finding],
    hint: str | None,
) -> Finding:
    """One finding for all GPUs: `bad` says what is wrong with a value; None is what the card has not got."""
    if profile.requirements.gpu is None:
        return skipped(NOT_ASKED)
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return skipped(NONE_USABLE, wanted)
    problems: list[str] = []
    unasked: list[str] = []
    fine = first = 0
    for gpu in host.gpus:
        value = fact(gpu)
        if isinstance(value, Unknown):
            unasked.append(f"GPU {gpu.index}: {value.reason}")
        elif value is not None:
            fine += 1
            if text := bad(gpu, value):
                first = gpu.index if not problems else first
                problems.append(f"GPU {gpu.index}: {text}")
    if problems:
        return outcome(wanted, "; ".join(problems), hint.format(index=first) if hint else None)
    if unasked:
        return unknown(wanted, "; ".join(dict.fromkeys(unasked)))
    if not fine:
        return skipped("no GPU here has such a thing", wanted)
    return passed(wanted, f"{fine} GPUs" if fine > 1 else "1 GPU")


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index}" if isinstance(gpu.name, Unknown) else gpu.name


def suits(gpu: Gpu, need: GpuNeed) -> bool:
    """Whether this one GPU is known to meet everything that is asked of each, and nothing is known against it."""
    wishes: tuple[tuple[Fact[object], object, Callable[..., bool]], ...] = (
        (gpu.vram, need.vram, lambda found, size: found >= NOMINAL * size),
        (gpu.free_vram, need.free_vram, lambda found, size: found >= size),
        (capability(gpu), need.compute_capability, at_least),
    )
    return (
        ill(gpu) is None
        and not isinstance(gpu.uuid, Unknown)
        and all(
            wish is None or (not isinstance(found, Unknown) and good(found, wish))
            for found, wish, good in wishes
        )
    )


def ill(gpu: Gpu) -> str | None:
    """Why nothing should be started on this GPU, None where nothing is known against it."""
    if gpu.compute_mode == "prohibited":
        return "its compute mode is prohibited"
    if gpu.remapped is not None and not isinstance(gpu.remapped, Unknown) and gpu.remapped.failed:
        return "a repair of its memory failed"
    if gpu.fabric is not None and not isinstance(gpu.fabric, Unknown) and gpu.fabric.state == "not started":
        return "it has not joined its fabric"
    return None


def _together(host: Host, profile: Profile) -> Finding:
    """As many GPUs as the profile needs meet all of its wishes at once, and are well.

    Why: a large busy card and a small free one are each half of what is wanted.
    Pass: enough GPUs have the size, the free memory and the capability, and nothing is known against them.
    Warn: never.
    Fail: each wish is met by some card, and all of them by too few.
    Skip: the profile wants no GPU, a single wish is already unmet or unknown, another finding says why too few are
        well (gpu.mig, gpu.compute_mode, gpu.repair, gpu.fabric), or a card that is needed does not say who it is.
    Fix: another profile, or what the other findings say of the cards.
    """
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    alone = [judge(host, profile) for judge in (_count, _vram, _free_vram, small)]
    gpus = usable(host, profile)
    wanted = f"{need.count} that meet all of it at once"
    if (
        isinstance(gpus, Unknown)
        or any(f.outcome is Outcome.FAIL or f.unknown for f in alone)
        or not enough_without(host, profile, lambda gpu: ill(gpu) is not None)
    ):
        return skipped("decided by another finding", wanted)
    good = [f"GPU {gpu.index}" for gpu in gpus if suits(gpu, need)]
    if len(good) >= need.count:
        return passed(wanted, ", ".join(good))
    named = [gpu if isinstance(gpu.uuid, str) else replace(gpu, uuid="") for gpu in gpus]
    if sum(suits(gpu, need) for gpu in named) >= need.count:
        return unknown(wanted, next(g.uuid.reason for g in gpus if isinstance(g.uuid, Unknown)))
    bad = [f"GPU {gpu.index}: {why}" for gpu in gpus if (why := ill(gpu))]
    return failed(
        wanted, ", ".join(good + bad) or "none", "another profile may fit one of them: deployer check --all"
    )


CHECKS = (
    Check("gpu.count", _count, pains=(18,)),
    Check("gpu.vram", _vram, pains=(5, 21)),
    Check("gpu.free_vram", _free_vram, pains=(21,)),
    Check("gpu.compute_capability", small, pains=(16,)),
    Check("gpu.together", _together, pains=(11,)),
)
