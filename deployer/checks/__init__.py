"""Judgements of a host against a profile. Checks never look; CHECKS is the list, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployer.checks import (
    cards,
    deep,
    devices,
    disk,
    driver,
    filesystem,
    gpu,
    health,
    image,
    injection,
    kernel,
    memory,
    model,
    network,
    programs,
    runtime,
    system,
)
from deployer.checks.base import Check as Check
from deployer.checks.base import Documentation as Documentation
from deployer.checks.base import Pain as Pain
from deployer.checks.base import documentation as documentation
from deployer.checks.base import headers_of as headers_of
from deployer.checks.base import pains as pains
from deployer.checks.gpu import suits as suits
from deployer.checks.gpu import usable as usable
from deployer.errors import QuestionError
from deployer.host import Host
from deployer.profile import Profile
from deployer.report import Report

CHECKS: tuple[Check, ...] = (
    *system.CHECKS,
    *kernel.CHECKS,
    *memory.CHECKS,
    *disk.CHECKS,
    *filesystem.CHECKS,
    *gpu.CHECKS,
    *programs.CHECKS,
    *cards.CHECKS,
    *health.CHECKS,
    *driver.CHECKS,
    *devices.CHECKS,
    *runtime.CHECKS,
    *injection.CHECKS,
    *network.CHECKS,
    *image.CHECKS,
    *model.CHECKS,
    *deep.CHECKS,
)


def audit(host: Host, profile: Profile, only: Sequence[str] = (), skip: Sequence[str] = ()) -> Report:
    """Exactly one finding of each check that was chosen: all, or `only` these, less those to `skip`.

    Names are ids or groups. Raises QuestionError for a name that there is not, and when nothing is left.
    """
    chosen = choose(only, skip) if only or skip else CHECKS
    return Report(
        profile.name,
        tuple(replace(check.judge(host, profile), id=check.id, advice=check.advice) for check in chosen),
    )


def choose(only: Sequence[str] = (), skip: Sequence[str] = ()) -> tuple[Check, ...]:
    """The checks that these ids and groups leave, in reading order. Raises QuestionError, see `audit`."""
    for name in (*only, *skip):
        if not any(name in (check.id, check.group) for check in CHECKS):
            raise _no_such(name)
    left = tuple(
        check
        for check in CHECKS
        if (not only or check.id in only or check.group in only)
        and check.id not in skip
        and check.group not in skip
    )
    if not left:
        raise QuestionError("no check is left", hint="ask for less to be skipped: what is skipped wins")
    return left


def groups() -> tuple[str, ...]:
    """The groups of checks, in reading order."""
    return tuple(dict.fromkeys(check.group for check in CHECKS))


def _no_such(name: str) -> QuestionError:
    import difflib

    ids = [check.id for check in CHECKS]
    near = [i for i in ids if i.split(".", 1)[1] == name]
    near += [n for n in difflib.get_close_matches(name, [*groups(), *ids], 3) if n not in near]
    guess = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
    return QuestionError(f"there is no check or group `{name}`", hint=f"{guess}groups: {', '.join(groups())}")
