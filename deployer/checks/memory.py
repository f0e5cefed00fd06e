"""System memory."""

from __future__ import annotations

from deployer import sizing
from deployer.checks.base import NOMINAL, Check
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _total(host: Host, profile: Profile) -> Finding:
    need = profile.requirements.memory
    if need is None:
        return skipped("the profile does not ask for a size")
    wanted = format_size(need)
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    found = format_size(host.memory.total)
    if host.memory.total >= NOMINAL * need:
        return passed(wanted, found)
    return failed(wanted, found, "choose a smaller profile: deployer profiles list")


def _free(host: Host, profile: Profile) -> Finding:
    """Weights and program must fit in what is available now; the rest of the need is known after the pull."""
    if profile.requirements.gpu is not None:
        return skipped("the model goes to the GPU")
    weights = sum(f.size or 0 for f in profile.model.files) or profile.model.download or 0
    need = weights + sizing.PROGRAM[profile.engine]
    wanted = f"{format_size(need)} available for weights and program"
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    found = f"{format_size(host.memory.available)} available"
    if host.memory.available >= need:
        return passed(wanted, found)
    if host.memory.total >= need:
        return warned(wanted, found, "end other programs: ps aux --sort=-rss | head")
    return failed(wanted, found, "choose a smaller profile: deployer profiles list")


CHECKS = (Check("memory.total", _total), Check("memory.available", _free))
