"""The one question: does an image run on a driver and GPUs; over all GPUs, and all that the toolkit may do."""

from __future__ import annotations

from dataclasses import replace

from deployer.compat import requirement, rules
from deployer.compat.cards import Device
from deployer.compat.demand import Demand
from deployer.compat.tables import complete, family_driver, major, rows
from deployer.compat.verdict import Injection, Kind, Verdict, World
from deployer.quantity import at_least, parse_version

NO_DRIVER = "none"  # known, and there is none: not the same as an unknown version
_CURRENT = "1.17.7"  # without a known toolkit, versions from this one on are thought of


def judge(
    driver: str | None,
    devices: tuple[Device, ...],
    demand: Demand,
    injection: Injection = Injection.CDI,
    toolkit: str | None = None,
) -> Verdict:
    """Whether `demand` runs on `driver` and all of `devices`; `driver` and `toolkit` are versions, None is unknown.

    What is not known never makes a yes. Raises ValueError for versions and conditions that cannot be read.
    """
    if not demand.gpu:
        return Verdict(Kind.RUNS, "it needs no GPU")
    if not devices:
        return Verdict(Kind.CANNOT, "there is no NVIDIA GPU")
    worlds = _worlds(demand, injection, toolkit)
    if driver is None:
        found = Verdict(Kind.UNKNOWN, "the version of the driver is not known")
    elif driver == NO_DRIVER:
        found = Verdict(Kind.CANNOT, "no NVIDIA driver is loaded")
    else:
        found = _all(driver, devices, demand, worlds)
    return replace(found, least_driver=_least(devices, demand, worlds))


def _worlds(demand: Demand, injection: Injection, toolkit: str | None) -> tuple[World, ...]:
    found: list[World] = []
    table = rows("toolkit.tsv")
    if toolkit is None:
        table = tuple(row for row in table if at_least(row[0], _CURRENT) and "?" not in row[1:4])
    else:
        table = tuple(row for row in table if at_least(toolkit, row[0]))[-1:]
    for _, hook, runtime, cdi, mode, _ in table:
        told = {Injection.HOOK: hook, Injection.RUNTIME: runtime, Injection.CDI: cdi}[injection]
        enforced = injection is Injection.HOOK or (injection is Injection.RUNTIME and mode == "legacy")
        for treatment in ("newer", "none") if told == "?" else (told,):
            told_here = treatment if demand.compat else "none"
            world = World(enforced, told_here, injection is not Injection.HOOK)
            if world not in found:
                found.append(world)
    return tuple(found)


def _least(devices: tuple[Device, ...], demand: Demand, worlds: tuple[World, ...]) -> str | None:
    """The driver from which on it runs; where a card is not known, the one that CUDA asks for.

    Not simply the smallest that runs: compat libraries make single older branches work and later ones fail.
    """
    bounds = [
        clause.value
        for text in demand.conditions
        for clauses in requirement.parse(text).alternatives
        for clause in clauses
        if clause.key == "driver" and clause.operator in (">=", ">", "=")
    ]
    table = [row[1] for name in ("cuda.tsv", "families.tsv") for row in rows(name)]
    table += [row[0] for row in rows("branches.tsv") if complete(row[0]) == row[0]]
    table += [row[4] for row in rows("architectures.tsv") if row[4] != "-"]
    floor = [version for version in (demand.driver, family_driver(demand.cuda or "-")) if version]
    last = min(map(rules.last_branch, devices))
    best = None
    for driver in sorted({*table, *bounds, *floor}, key=parse_version, reverse=True):
        if major(driver) > last:
            continue
        if not _all(driver, devices, demand, worlds).runs:
            break
        best = driver
    if best:
        return best
    known = all(device.compute_capability for device in devices)
    return None if known else max(floor, key=parse_version, default=None)


def _all(driver: str, devices: tuple[Device, ...], demand: Demand, worlds: tuple[World, ...]) -> Verdict:
    """The worst over all GPUs; where versions of the toolkit differ in it, that it is not known."""
    worst: Verdict | None = None
    for device in dict.fromkeys(devices):
        found = list(dict.fromkeys(rules.apply(driver, device, demand, world) for world in worlds))
        one = found[0]
        if len({(v.kind, v.error) for v in found}) > 1:
            choices = "; or ".join(dict.fromkeys(f"{v.reason} ({v.kind.value})" for v in found))
            one = Verdict(Kind.UNKNOWN, f"it depends on the version of NVIDIA Container Toolkit: {choices}")
        if len(set(devices)) > 1:
            one = replace(one, reason=f"{device.short}: {one.reason}")
        if worst is None or _rank(one) > _rank(worst):
            worst = one
    assert worst
    return worst


def _rank(verdict: Verdict) -> tuple[int, bool]:
    return list(Kind).index(verdict.kind), verdict.error is not None
