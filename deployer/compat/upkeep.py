"""What NVIDIA says of driver branches, kernel modules and the errors that the driver logs."""

from __future__ import annotations

from deployer.compat.tables import architecture, rows
from deployer.frozen import dataclass
from deployer.quantity import at_least

# NVIDIA's immediate actions by how bad they are: 0 a program's own fault, 1 look at it or reset, 2 reboot.
_WEIGHTS = {"ignore": 0, "restart program": 0, "look": 1, "reset": 1, "support": 2, "reboot": 2}


@dataclass(frozen=True)
class XidAbout:
    """`weight` 0: a program's own fault; 1: a look or a reset of the GPU; 2: a reboot or support."""

    meaning: str
    action: str
    weight: int


def xid(code: int) -> XidAbout:
    """What NVIDIA's catalogue says of an Xid number; numbers that are not in it ask for a look."""
    for number, meaning, word, action in rows("xid.tsv"):
        if int(number) == code:
            return XidAbout(meaning, action, _WEIGHTS[word])
    return XidAbout("not in our table", "look it up: https://docs.nvidia.com/deploy/xid-errors/", 1)


def module_kind(capability: str) -> str | None:
    """`open`, `proprietary` or `both`: the kernel module that serves the compute capability; None if unknown."""
    about = architecture(capability)
    return about["module"] if about else None


def end_of_life(branch: str) -> str | None:
    """`2028-06` for driver branch `580`; None where no end is published that we know of."""
    for row in rows("branches.tsv"):
        if row[0] == branch:
            return None if row[3] in ("?", "-") else row[3]
    return None


def between(version: str, low: str, high: str) -> bool:
    """Whether `version` lies from `low` to `high`, both included."""
    return at_least(version, low) and at_least(high, version)
