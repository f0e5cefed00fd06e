"""The conditions in an image's `NVIDIA_REQUIRE_*`: grammar, truth on a host, and the message when they fail.

The grammar is that of libnvidia-container (src/cli/dsl.c): a space means or, a comma means and, binding closer.
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from deployer.compat.tables import minor, rows
from deployer.frozen import dataclass
from deployer.quantity import parse_version

KEYS = ("cuda", "driver", "arch", "brand")
OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_UPDATE = ", please update your driver to a newer version, or use an earlier cuda container"
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}  # Go's strconv.ParseBool


class Truth(enum.Enum):
    """Three values: a fact that nobody knows makes neither a yes nor a no."""

    MET = "met"
    NOT_MET = "not met"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Facts:
    """What conditions speak of; None is unknown. With `cuda_or_later` the driver may speak a newer CUDA."""

    cuda: str | None
    driver: str | None
    arch: str | None
    brand: str | None
    cuda_or_later: bool = False


@dataclass(frozen=True)
class Clause:
    """One comparison, such as `driver>=535`."""

    key: str
    operator: str
    value: str


@dataclass(frozen=True)
class Requirement:
    """The value of one variable: it holds when all clauses of any alternative do, or when there are none."""

    text: str
    alternatives: tuple[tuple[Clause, ...], ...]


@lru_cache(256)
def parse(text: str) -> Requirement:
    """The condition that `text` writes. Raises ValueError with what would be right.

    Unlike NVIDIA's own, this also refuses what comes after the first alternative that holds.
    """
    alternatives = []
    for term in text.split(" "):
        clauses = tuple(_clause(part) for part in term.split(",") if part)
        if clauses:
            alternatives.append(clauses)
    return Requirement(text, tuple(alternatives))


def evaluate(requirement: Requirement, facts: Facts) -> Truth:
    """Whether it holds for one GPU. NVIDIA takes an unknown fact for a yes; here it is unknown."""
    if not requirement.alternatives:
        return Truth.MET
    found = [_every(_holds(clause, facts) for clause in clauses) for clauses in requirement.alternatives]
    if Truth.MET in found:
        return Truth.MET
    return Truth.UNKNOWN if Truth.UNKNOWN in found else Truth.NOT_MET


def message(requirement: Requirement) -> str:
    """What nvidia-container-cli prints when it does not hold: only the first alternative is named."""
    first = requirement.text.split(" ")[0]
    return f"unsatisfied condition: {first}{_UPDATE if first.startswith('cuda>=') else ''}"


def demanded(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The conditions of an image with this environment, as the toolkit collects them, in the order of names.

    All of them must hold. `NVIDIA_DISABLE_REQUIRE` switches them off; an image with `CUDA_VERSION` and without
    `NVIDIA_REQUIRE_CUDA` asks for that CUDA (internal/config/image/cuda_image.go). Raises ValueError for a
    `CUDA_VERSION` that is no version.
    """
    if environment.get("NVIDIA_DISABLE_REQUIRE") in _TRUE:
        return ()
    found = [
        value
        for name, value in sorted(environment.items())
        if name.startswith("NVIDIA_REQUIRE_") and not name.startswith("NVIDIA_REQUIRE_JETPACK")
    ]
    if environment.get("CUDA_VERSION") and not environment.get("NVIDIA_REQUIRE_CUDA"):
        found.append(f"cuda>={minor(environment['CUDA_VERSION'].removeprefix('v'))}")
    return tuple(value for value in found if value.strip())


def official(cuda: str) -> str | None:
    """`NVIDIA_REQUIRE_CUDA` of the nvidia/cuda images of this CUDA; None where it has not been seen."""
    for version, branches, brands in rows("requires.tsv"):
        if version == minor(cuda):
            clauses = (
                f"brand={brand},driver>={branch},driver<{int(branch) + 1}"
                for branch in branches.split()
                for brand in brands.split()
            )
            return " ".join([f"cuda>={version}", *clauses])
    return None


def _clause(part: str) -> Clause:
    match = re.fullmatch(r"([^<>=!]+)([<>=!]+)([^<>=!]+)", part)
    if not match or match[1].lower() not in KEYS or match[2] not in OPERATORS:
        raise ValueError(
            f"`{part}` is no condition: one of {', '.join(KEYS)}, then one of {' '.join(OPERATORS)}, then a value, "
            "for example cuda>=12.4; a comma means and, a space means or"
        )
    key, value = match[1].lower(), match[3]
    if key == "brand":
        if match[2] not in ("=", "!="):
            raise ValueError(f"`{part}` is no condition: a brand can only be = or !=")
    elif not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18}){0,9}", value):
        raise ValueError(f"`{part}` is no condition: {key} is compared with a version such as 12.4")
    return Clause(key, match[2], value)


def _every(found: Iterable[Truth]) -> Truth:
    seen = set(found)
    for truth in (Truth.NOT_MET, Truth.UNKNOWN):
        if truth in seen:
            return truth
    return Truth.MET


def _holds(clause: Clause, facts: Facts) -> Truth:
    fact: str | None = getattr(facts, clause.key)
    if fact is None:
        return Truth.UNKNOWN
    if clause.key == "brand":
        return _truth(OPERATORS[clause.operator](fact.lower(), clause.value.lower()))
    found, wanted = parse_version(fact), parse_version(clause.value)
    width = max(len(found), len(wanted))
    padded = (version + (0,) * (width - len(version)) for version in (found, wanted))
    truth = _truth(OPERATORS[clause.operator](*padded))
    if clause.key == "cuda" and facts.cuda_or_later:  # only "it is enough" is sure
        sure = truth is Truth.MET if clause.operator in (">=", ">") else truth is Truth.NOT_MET
        return truth if sure and clause.operator not in ("=", "!=") else Truth.UNKNOWN
    return truth


def _truth(value: bool) -> Truth:
    return Truth.MET if value else Truth.NOT_MET
