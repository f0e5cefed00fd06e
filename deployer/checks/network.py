"""The port that clients will use."""

from __future__ import annotations

from deployer.checks.base import Check
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown


def _port(host: Host, profile: Profile) -> Finding:
    number = profile.serving.port
    wanted = f"port {number} free on 127.0.0.1"
    port = host.ports.get(str(number))
    if port is None:
        return skipped("not asked: the deployment itself holds it, or the host was saved without it", wanted)
    if isinstance(port, Unknown):
        return unknown(wanted, port.reason)
    if port.free:
        return passed(wanted, "free")
    owner = port.owner or "a process of another user (sudo ss -ltnp shows it)"
    return failed(wanted, f"held by {owner}", f"end it, or choose another port: --port {number + 1}")


CHECKS = (Check("network.port", _port),)
