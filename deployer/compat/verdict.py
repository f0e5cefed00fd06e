"""The answer as a value: one word, the reason, and how it would fail."""

from __future__ import annotations

import enum

from deployer.frozen import dataclass

# What CUDA's runtime says, by its error code: cudaGetErrorString of libcudart.
ERRORS = {
    35: "CUDA driver version is insufficient for CUDA runtime version",
    100: "no CUDA-capable device is detected",
    209: "no kernel image is available for execution on the device",
    222: "the provided PTX was compiled with an unsupported toolchain.",
    803: "system has unsupported display driver / cuda driver combination",
    804: "forward compatibility was attempted on non supported HW",
}


class Kind(enum.Enum):
    """The answer in one word."""

    RUNS = "runs"
    MINOR = "minor"  # with minor-version compatibility: no PTX, no feature that needs a newer driver
    COMPAT = "compat"  # with compat libraries; with an error when the image lacks them or they stay unused
    UNKNOWN = "unknown"
    CANNOT = "cannot"


class Injection(enum.Enum):
    """How the GPU gets into the container."""

    HOOK = "hook"  # `docker run --gpus` without CDI
    RUNTIME = "runtime"  # the nvidia runtime: legacy mode before toolkit 1.18, CDI made on the spot after
    CDI = "cdi"


@dataclass(frozen=True)
class Verdict:
    """`error` is the text that would be seen, `code` its number in CUDA, `least_driver` the smallest that would do.

    `least_driver` is None where no driver known would do, or none is needed.
    """

    kind: Kind
    reason: str
    error: str | None = None
    code: int | None = None
    least_driver: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """It is sure to start and to reach the GPU."""
        return self.kind in (Kind.RUNS, Kind.MINOR, Kind.COMPAT) and self.error is None


@dataclass(frozen=True)
class World:
    """One way the toolkit may behave: whether conditions are enforced, and what happens to compat libraries."""

    enforced: bool
    treatment: str
    first: bool  # libraries that the image itself puts first stay first


def failed(code: int, reason: str) -> Verdict:
    """It ends with this error of CUDA's."""
    return Verdict(Kind.CANNOT, reason, ERRORS[code], code)
