"""The tables in `data/`, read as rows, and what single rows say of CUDA, drivers and compiled code."""

from __future__ import annotations

from functools import cache

from deployer import resources
from deployer.quantity import at_least, parse_version

# Code for these runs on nothing else, and they run nothing else: GPUs inside a system on a chip. From CUDA 13.2 on
# the last two also run code for their major version. Source: torch/cuda/__init__.py, DEVICE_REQUIREMENT.
_INTEGRATED = {"5.3", "6.2", "7.2", "8.7"}
_UNIFIED = {"7.2", "8.7"}
_ARCHITECTURE = (
    "name",
    "first_cuda",
    "last_cuda",
    "least_driver",
    "last_branch",
    "module",
    "integrated",
    "mark",
)
_RENAMED = {"10.1": "11.0"}


def newest_cuda(driver: str) -> str | None:
    """The newest CUDA whose toolkit driver `driver` reaches: `"580.65.06"` → `"13.0"`; None before 11.0."""
    found = None
    for cuda, least in rows("cuda.tsv"):
        if at_least(driver, least):
            found = cuda
    return found


def cuda_driver(cuda: str) -> str | None:
    """The driver of the release of this CUDA, `"12.9"` or `"12.9.1"`; None for one that is not in the table."""
    return {row[0]: row[1] for row in rows("cuda.tsv")}.get(minor(cuda))


def family_driver(cuda: str) -> str | None:
    """The least driver that runs programs of this CUDA's major version, None for unknown ones."""
    return {row[0]: row[1] for row in rows("families.tsv")}.get(cuda.split(".")[0])


def complete(driver: str) -> str:
    """The first release that `driver` begins, as people shorten it: `"550.54"` → `"550.54.14"`.

    Unchanged where no release in the table begins so. Raises ValueError unless it is a version.
    """
    asked = parse_version(driver)
    for _, release in rows("cuda.tsv"):
        if parse_version(release)[: len(asked)] == asked:
            return release
    return driver


def newest_known() -> str:
    """The newest driver branch in the tables; what a later one speaks is not known, only that it is more."""
    return rows("branches.tsv")[-1][0]


def minor(version: str) -> str:
    """`"12.9.1"` → `"12.9"`, `"13"` → `"13.0"`. Raises ValueError unless it is a version."""
    numbers = parse_version(version)
    return f"{numbers[0]}.{numbers[1] if len(numbers) > 1 else 0}"


def major(version: str) -> int:
    """`"575.57.08"` → 575. Raises ValueError unless it is a version."""
    return parse_version(version)[0]


def architecture(capability: str) -> dict[str, str] | None:
    """The row of `architectures.tsv` for this compute capability, by column; `-` means none."""
    for row in rows("architectures.tsv"):
        if row[0] == capability:
            return dict(zip(_ARCHITECTURE, row[1:], strict=True))
    return None


def runs_on(code: str, capability: str, cuda: str | None = None) -> bool:
    """Whether SASS for `code` runs on a GPU of `capability`: the same major version, and minor not above it.

    The rule and its exceptions are torch's own; `cuda` is what the code was built with, None when not known.
    """
    code, capability = _RENAMED.get(code, code), _RENAMED.get(capability, capability)
    if code == capability:
        return True
    unified = cuda is not None and at_least(cuda, "13.2")
    if code in _INTEGRATED or (capability in _INTEGRATED and not (unified and capability in _UNIFIED)):
        return False
    (a, b), (x, y) = parse_version(code), parse_version(capability)
    return a == x and b <= y


def first_cuda(capability: str) -> str | None:
    """The first CUDA that makes code which runs on `capability`, perhaps made for an older one of its family."""
    found = [
        row[2] for row in rows("architectures.tsv") if row[2] != "-" and runs_on(row[0], capability, "13.2")
    ]
    return min(found, key=parse_version, default=None)


def cudnn_capabilities(cudnn: str, cuda: str) -> tuple[tuple[str, ...], str] | None:
    """Compute capabilities that this cuDNN has code for, and its first version of that kind; None: not known."""
    found = None
    for family, since, capabilities, _, ends in rows("cudnn.tsv"):
        if family == cuda.split(".")[0] and at_least(cudnn, since):
            found = tuple(capabilities.split()), since
            if ends != "-" and at_least(cudnn, ends):
                return None
    return found


def cudnn_ends(cuda: str) -> str | None:
    """The first cuDNN that is not made for this CUDA's major version any more: `"11.8"` → `"9.11.0"`."""
    found = {row[4] for row in rows("cudnn.tsv") if row[0] == cuda.split(".")[0]} - {"-"}
    return min(found, key=parse_version, default=None)


@cache
def rows(name: str) -> tuple[tuple[str, ...], ...]:
    """The rows of `data/<name>`, as text; lines with `#` are its source and its columns."""
    text = (resources.PACKAGE / "compat" / "data" / name).read_text()
    return tuple(tuple(line.split("\t")) for line in text.splitlines() if line and not line.startswith("#"))
