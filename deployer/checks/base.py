"""What a check is, and how hints fit the host at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding

# Memory that the firmware, the kernel or ECC keeps back: a machine sold with 16 GB passes `16 GB`. Cards
# report at least 0.92 of their nominal size (a T4 under older drivers), computers about 0.93.
NOMINAL = 0.9


@dataclass(frozen=True)
class Check:
    """`id` is `group.subject`; `judge` is pure."""

    id: str
    judge: Callable[[Host, Profile], Finding]


def sudo(host: Host, command: str) -> str:
    """`command`, with sudo where this user is not root."""
    system = host.system
    return command if not isinstance(system, Unknown) and system.user == 0 else f"sudo {command}"


def install(host: Host, apt: str, dnf: str | None = None) -> str | None:
    """The command that installs a package here, None where the package manager is not known."""
    if isinstance(host.system, Unknown):
        return None
    if "apt-get" in host.system.tools:
        return sudo(host, f"apt-get install {apt}")
    if "dnf" in host.system.tools:
        return sudo(host, f"dnf install {dnf or apt}")
    return None
