"""What must hold for whatever host is judged: every check ends, and nothing unknown is called good."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Union

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployer.checks import CHECKS, audit
from deployer.host import Deep, DiskRate, Fabric, FabricManager, GpuRate, Host, Peer, Unknown, Way
from deployer.report import Finding, Outcome
from tests import hosts
from tests.checks.machines import A100, CARD, CUT, OTHER, WSL, cards, docker, podman
from tests.checks.rows import PROFILES

ODD = ("", "abc", "580..1", "28.3.0-rc.1+azure", "9" * 40, "99999.99999", "-1", "1", "٣.٤", "8.9", "12.0",
       "{index}", "%s", "580.65.06", "550.54.14", "13.0", "0.7.0", "5:28.3.0-1~ubuntu", "not started",
       "completed", "prohibited", "GPU-0000", "MIG-aaaa", "docker", "podman", "nouveau", "nvidia_uvm", "all", "0",
       "NVIDIA L4", "NVIDIA GeForce RTX 4060", "/etc/cdi/x.yaml", "linux", "x86_64", "no answer in 2 s",
       "this user may not use /var/run/docker.sock", "Key was rejected by service", "/", "\n", "\0")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 508, 10**9, 10**12, 10**30)
RATES = (0.0, -1.0, 1e-300, 0.5, 1e9, 1e300)
LOST = Unknown("lost")
# Without an engine that answers, engines are made on the host itself: then these ask another question.
MADE_HERE = {
    "system.open_files",
    "system.python",
    "disk.images",
    "disk.temporary",
    "disk.inodes",
    "disk.engines",
}


@cache
def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a fact's type, the usual and the odd, and Unknown wherever the type allows it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*(anything(part) for part in inner))
    if origin is tuple:
        return st.lists(anything(inner[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(anything(inner[0]), anything(inner[1]), max_size=3)
    if kind is Unknown:
        return st.builds(Unknown, st.sampled_from(ODD))
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: anything(hints[f.name]) for f in fields(kind)})
    if kind is bool:
        return st.booleans()
    if kind is type(None):
        return st.none()
    return st.sampled_from({str: ODD, int: NUMBERS, float: RATES}[kind])


@st.composite
def changed(draw: st.DrawFn, value: Any, kind: Any) -> Any:
    """`value` with something somewhere inside it replaced by anything."""
    if is_dataclass(value) and not isinstance(value, type) and draw(st.integers(0, 9)):
        hints = typing.get_type_hints(type(value))
        name = draw(st.sampled_from([f.name for f in fields(value)]))
        return replace(value, **{name: draw(changed(getattr(value, name), hints[name]))})
    if isinstance(value, tuple) and value and draw(st.integers(0, 9)):
        place = draw(st.integers(0, len(value) - 1))
        parts = [p for p in typing.get_args(kind) if typing.get_origin(p) is tuple] or [kind]
        inside = draw(changed(value[place], typing.get_args(parts[0])[0]))
        return (*value[:place], inside, *value[place + 1 :])
    return draw(anything(kind))


WAYS = (Way("cdi", 1, 1, "13.0"), Way("hook", LOST, LOST))
DISK = DiskRate("/srv", 1, 1e9, 1e9)
DEEP = Deep(
    WAYS,
    {"models": DISK, "images": DISK},
    (GpuRate("GPU-0000", 200e9, 25e9, 25e9, 50e12),),
    (Peer("GPU-0000", "GPU-1111", 1e9),),
)
RICH = replace(
    cards(replace(CARD, fabric=Fabric("completed", 0)), OTHER),
    nvswitches=4,
    fabric_manager=FabricManager(True, True),
    deep=DEEP,
    images={"transformers:cu130": False},
)
MACHINES = {
    **hosts.NAMED,
    "rich": RICH,
    "slices": cards(CUT, replace(A100, index=1)),
    "wsl": WSL,
    "podman": podman(),
    "hooked": docker(nvidia_runtime=True),
}
NEAR = st.sampled_from(sorted(MACHINES)).flatmap(lambda name: changed(MACHINES[name], Host))
TWICE = NEAR.flatmap(lambda host: changed(host, Host))
WHOLLY = anything(Host)
FACTS = [f.name for f in fields(Host) if Unknown in typing.get_args(typing.get_type_hints(Host)[f.name])]


def judged(host: Host, name: str, skip: tuple[str, ...] = ()) -> dict[str, Finding]:
    return {finding.id: finding for finding in audit(host, PROFILES[name], skip=skip).findings}


def says_one_thing_each(host: Host, name: str) -> None:
    found = audit(host, PROFILES[name]).findings
    assert [finding.id for finding in found] == [c.id for c in CHECKS]
    for finding in found:
        assert finding.wanted or finding.outcome is Outcome.SKIP
        assert not finding.unknown or finding.outcome is Outcome.SKIP
        assert finding.hint != ""


@settings(max_examples=400, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.one_of(NEAR, TWICE), st.sampled_from(sorted(PROFILES)))
def test_a_host_with_something_odd_gets_one_finding_of_every_check(host: Host, name: str) -> None:
    says_one_thing_each(host, name)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(WHOLLY)
def test_any_host_at_all_gets_one_finding_of_every_check(host: Host) -> None:
    for name in PROFILES:
        says_one_thing_each(host, name)


def without(host: Host, fact: str) -> Host:
    return replace(host, **{fact: LOST})


def passes_anew(host: Host, fact: str, name: str) -> list[str]:
    """Checks that say yes without the fact, and did not say the very same with it."""
    before, after = judged(host, name), judged(without(host, fact), name)
    other = MADE_HERE if fact == "runtime" else set()
    return [i for i, f in after.items() if f.outcome is Outcome.PASS and f != before[i] and i not in other]


@pytest.mark.parametrize("fact", FACTS)
def test_what_depends_on_an_unknown_fact_does_not_pass(fact: str) -> None:
    for machine in MACHINES.values():
        for name in PROFILES:
            assert passes_anew(machine, fact, name) == []


@settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
@given(NEAR, st.sampled_from(FACTS), st.sampled_from(sorted(PROFILES)))
def test_what_depends_on_an_unknown_fact_does_not_pass_on_odd_hosts(host: Host, fact: str, name: str) -> None:
    before, after = judged(host, name), judged(without(host, fact), name)
    for id_, finding in after.items():
        if fact == "runtime" and id_ in MADE_HERE:
            continue
        if finding.outcome is Outcome.PASS and before[id_].outcome is Outcome.PASS:
            assert finding == before[id_], id_
