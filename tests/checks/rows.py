"""How the tests of single checks are written: one row, one host, one outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deployer import profile
from deployer.checks import audit
from deployer.host import Host, Unknown
from deployer.profile import Profile
from tests import hosts

PROFILES = {path.stem: profile.load(path) for path in profile.shipped()}
CPU, CHAT, GPT2 = PROFILES["cpu-small"], PROFILES["cpu-8gb"], PROFILES["gpt2"]
GPU, TWO = PROFILES["gpu-8gb"], PROFILES["gpu-2x24gb"]
TWO_PROCESSES = replace(TWO, runtime="process")
NO_GPU, RTX = hosts.NO_GPU, hosts.RTX
PROCESS = hosts.without_runtime(NO_GPU)  # engines are made on the host
LOST = Unknown("lost")
ROOT = replace(hosts.SYSTEM, user=0)


def system(host: Host = NO_GPU, **changes: Any) -> Host:
    """`host` with another system."""
    assert not isinstance(host.system, Unknown)
    return replace(host, system=replace(host.system, **changes))


def memory(host: Host = NO_GPU, **changes: Any) -> Host:
    """`host` with another memory."""
    assert not isinstance(host.memory, Unknown)
    return replace(host, memory=replace(host.memory, **changes))


def check(id_: str, host: Host, wanted: Profile, outcome: str, found: str, hint: str | None = None) -> None:
    """The check ends so, says `found` somewhere in what it found, and gives exactly this hint."""
    (finding,) = audit(host, wanted, only=(id_,)).findings
    assert ("unknown" if finding.unknown else finding.outcome.value) == outcome, finding
    assert found in finding.found, finding
    assert finding.hint == hint
    assert finding.wanted or outcome == "skip"
