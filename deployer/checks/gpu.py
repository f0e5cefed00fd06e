"""GPUs: how many, how large, how new, how free."""

from __future__ import annotations

from collections.abc import Callable

from deployer.checks.base import NOMINAL, Check
from deployer.checks.driver import NO_GPU, has_gpu
from deployer.host import Fact, Gpu, Host, Unknown
from deployer.profile import GpuNeed, Profile
from deployer.quantity import at_least, format_size
from deployer.report import Finding, Outcome, failed, passed, skipped, unknown

NOT_ASKED = "the profile does not ask for a GPU"


def _count(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    wanted = f"{need.count} NVIDIA GPU" + ("s" if need.count > 1 else "")
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason, "nvidia-smi should list them; if it fails too, reboot")
    if len(host.gpus) >= need.count:
        return passed(wanted, ", ".join(_name(gpu) for gpu in host.gpus))
    if has_gpu(host) is False:
        return failed(wanted, NO_GPU, "choose a CPU profile: deployer profiles list")
    if not host.gpus:
        return failed(wanted, "a GPU is on the PCI bus, and no driver makes it usable")
    return failed(wanted, f"{len(host.gpus)}: {', '.join(_name(gpu) for gpu in host.gpus)}")


def _vram(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.gpu
    if need is None or need.vram is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for a size")
    size = need.vram
    return _enough(
        host, need, f"{format_size(size)} each", lambda gpu: gpu.vram,
        lambda found: found >= NOMINAL * size, "choose a smaller profile: deployer profiles list",
    )  # fmt: skip


def _free_vram(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.gpu
    if need is None or need.free_vram is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for free memory")
    size = need.free_vram
    return _enough(
        host, need, f"{format_size(size)} free on each", lambda gpu: gpu.free_vram,
        lambda found: found >= size, "end what holds it: nvidia-smi lists the processes",
    )  # fmt: skip


def _capability(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.gpu
    if need is None or need.compute_capability is None:
        return skipped(NOT_ASKED if need is None else "the profile does not ask for one")
    least = need.compute_capability
    return _enough(
        host, need, f"{least} or later", lambda gpu: gpu.compute_capability,
        lambda found: at_least(found, least), f"the image's kernels need {least}; choose another profile",
    )  # fmt: skip


def _enough(
    host: Host,
    need: GpuNeed,
    wanted: str,
    field: Callable[[Gpu], Fact[object]],
    good: Callable[..., bool],
    hint: str,
) -> Finding:
    """Whether enough GPUs have a good value; unknown values count neither way."""
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return failed(wanted, "no usable GPU")
    values = [field(gpu) for gpu in host.gpus]
    known = [v for v in values if not isinstance(v, Unknown)]
    text = ", ".join(
        v.reason if isinstance(v, Unknown) else format_size(v) if isinstance(v, int) else str(v)
        for v in values
    )
    if sum(map(good, known)) >= need.count:
        return passed(wanted, text)
    if len(known) < len(values):
        return unknown(wanted, text)
    return failed(wanted, text, hint)


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index}" if isinstance(gpu.name, Unknown) else gpu.name


def suits(gpu: Gpu, need: GpuNeed) -> bool:
    """Whether this one GPU is known to meet everything that is asked of each."""
    wishes: tuple[tuple[Fact[object], object, Callable[..., bool]], ...] = (
        (gpu.vram, need.vram, lambda found, size: found >= NOMINAL * size),
        (gpu.free_vram, need.free_vram, lambda found, size: found >= size),
        (gpu.compute_capability, need.compute_capability, at_least),
    )
    return all(
        wish is None or (not isinstance(found, Unknown) and good(found, wish)) for found, wish, good in wishes
    )


def _together(host: Host, profile: Profile) -> Finding:
    """A large busy card and a small free one are each half of what is wanted."""
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    alone = [judge(host, profile) for judge in (_count, _vram, _free_vram, _capability)]
    if isinstance(host.gpus, Unknown) or any(f.outcome is Outcome.FAIL or f.unknown for f in alone):
        return skipped("decided by another finding")
    wanted = f"{need.count} that meet all of it at once"
    good = [f"GPU {gpu.index}" for gpu in host.gpus if suits(gpu, need)]
    if len(good) >= need.count:
        return passed(wanted, ", ".join(good))
    return failed(wanted, ", ".join(good) or "none", "another profile fits one of them: deployer check")


CHECKS = (
    Check("gpu.count", _count),
    Check("gpu.vram", _vram),
    Check("gpu.free_vram", _free_vram),
    Check("gpu.compute_capability", _capability),
    Check("gpu.together", _together),
)
