"""Judgements of a host against a profile. Checks never look; CHECKS is the list, in reading order."""

from __future__ import annotations

from dataclasses import replace

from deployer.checks import disk, driver, gpu, memory, model, network, runtime, system
from deployer.checks.base import Check as Check
from deployer.checks.gpu import suits as suits
from deployer.host import Host
from deployer.profile import Profile
from deployer.report import Report

CHECKS: tuple[Check, ...] = (
    *system.CHECKS,
    *memory.CHECKS,
    *disk.CHECKS,
    *driver.CHECKS,
    *gpu.CHECKS,
    *runtime.CHECKS,
    *network.CHECKS,
    *model.CHECKS,
)


def audit(host: Host, profile: Profile) -> Report:
    """Every check's finding, exactly one each."""
    return Report(profile.name, tuple(replace(check.judge(host, profile), id=check.id) for check in CHECKS))
