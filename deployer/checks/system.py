"""Operating system, architecture, Python."""

from __future__ import annotations

from deployer.checks.base import Check
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import Finding, failed, passed, skipped, unknown


def _os(host: Host, profile: Profile) -> Finding:
    wanted = profile.requirements.os
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    found = f"{host.system.distribution}, kernel {host.system.kernel}"
    return passed(wanted, found) if host.system.os == wanted else failed(wanted, host.system.os)


def _architecture(host: Host, profile: Profile) -> Finding:
    wanted = "x86_64 or aarch64"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    found = host.system.architecture
    return passed(wanted, found) if found in ("x86_64", "aarch64") else failed(wanted, found)


def _python(host: Host, profile: Profile) -> Finding:
    wanted = profile.requirements.python
    if wanted is None:
        return skipped("the profile does not ask for a version")
    if isinstance(host.system, Unknown):
        return unknown(f"{wanted} or later", host.system.reason)
    found = host.system.python
    if at_least(found, wanted):
        return passed(f"{wanted} or later", found)
    return failed(
        f"{wanted} or later", found, f"make the environment with a newer Python: python{wanted} -m venv"
    )


CHECKS = (
    Check("system.os", _os),
    Check("system.architecture", _architecture),
    Check("system.python", _python),
)
