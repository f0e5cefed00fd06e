"""What an image asks of a host, as plain values: from its pins, from its environment, or from a question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from deployer.compat.requirement import demanded, official, parse
from deployer.compat.tables import cuda_driver, minor, rows
from deployer.frozen import dataclass


@dataclass(frozen=True)
class Compat:
    """Compat libraries in an image: `driver` is the version in the name of their libcuda.so, None when not known.

    `branches` are the drivers that its ELF note .note.cuda.fwd_compatibility lists; () takes NVIDIA's table.
    With `first` the image itself puts them before the driver's libraries, by LD_LIBRARY_PATH or ld.so.conf.
    """

    cuda: str
    driver: str | None = None
    branches: tuple[int, ...] = ()
    first: bool = False

    @property
    def major(self) -> int:
        """The driver branch that they are from. Raises ValueError for a CUDA that is in no table."""
        known = self.driver or cuda_driver(self.cuda)
        if known is None:
            raise ValueError(f"the driver branch of cuda-compat {self.cuda} is not known")
        return int(known.split(".")[0])


@dataclass(frozen=True)
class Demand:
    """An image's demands. None or () is "not known", and nothing is concluded from it.

    `requires` is the image's environment, of which `NVIDIA_REQUIRE_*`, `NVIDIA_DISABLE_REQUIRE` and
    `CUDA_VERSION` count. `sass` and `ptx` are the compute capabilities it has code for, `driver` the least driver
    it says it needs, `compat` its compat libraries, None when it has none.
    """

    name: str
    cuda: str | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    cudnn: str | None = None
    sass: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    driver: str | None = None
    compat: Compat | None = None

    @property
    def gpu(self) -> bool:
        """Whether it asks for a GPU at all."""
        return bool(self.cuda or self.sass or self.ptx or self.driver or self.conditions)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Its conditions on driver and GPU, all of which must hold."""
        return demanded(self.requires)


def demand_of(
    name: str,
    *,
    pins: Mapping[str, str] | None = None,
    compute_capability: tuple[str, ...] = (),
    min_driver: str | None = None,
) -> Demand:
    """The demand of one of the project's own images, from its recipe: no compat libraries, no conditions."""
    pins = pins or {}
    return Demand(
        name,
        cuda=pins.get("cuda"),
        cudnn=pins.get("cudnn"),
        sass=compute_capability if pins.get("cuda") else (),
        driver=min_driver,
    )


def demand_of_environment(name: str, environment: Mapping[str, str]) -> Demand:
    """The demand of any image, from the environment in its configuration: what can be known before a pull.

    A `CUDA_VERSION` together with NVIDIA's `NV_CUDA_CUDART_VERSION` means an image from nvidia/cuda, which holds
    compat libraries. Raises ValueError for versions that are none.
    """
    cuda = environment.get("CUDA_VERSION") or None
    cudnn = (environment.get("NV_CUDNN_VERSION") or "").split("-")[0] or None
    paths = environment.get("LD_LIBRARY_PATH", "").split(":")
    compat = None
    if cuda and environment.get("NV_CUDA_CUDART_VERSION") and cuda_driver(cuda):
        compat = Compat(minor(cuda), first=any(p.rstrip("/").endswith("/compat") for p in paths))
    return Demand(name, cuda=cuda, cudnn=cudnn, requires=environment, compat=compat)


def demand_of_cuda(cuda: str) -> Demand:
    """A program built with this CUDA, of which nothing else is known."""
    return Demand(f"CUDA {minor(cuda)}", cuda=minor(cuda))


def demand_of_condition(text: str, cuda: str | None = None) -> Demand:
    """Whatever image has this NVIDIA_REQUIRE_CUDA; its CUDA is the first `cuda>=` in it, unless it is given."""
    for clauses in parse(text).alternatives:
        for clause in clauses:
            if clause.key == "cuda" and clause.operator == ">=":
                cuda = cuda or clause.value
    return Demand(f"an image that requires `{text}`", cuda=cuda, requires={"NVIDIA_REQUIRE_CUDA": text})


def demand_of_official(tag: str) -> Demand | None:
    """An nvidia/cuda image by its tag, such as `12.9.1-base-ubuntu24.04`; None where the tables know too little."""
    version = tag.split("-")[0]
    try:
        condition = official(version)
    except ValueError:
        return None
    if condition is None:
        return None
    return Demand(
        f"nvidia/cuda:{tag}",
        cuda=version,
        requires={"NVIDIA_REQUIRE_CUDA": condition, "CUDA_VERSION": version},
        compat=Compat(minor(version)),
    )


def demands_of_torch(machine: str = "x86_64") -> tuple[Demand, ...]:
    """Every build of torch in the table that has a CUDA build for `machine`, oldest first."""
    found = []
    for version, build, _, cuda, cudnn, x86_64, aarch64, _ in rows("torch.tsv"):
        code = {"x86_64": x86_64, "aarch64": aarch64}.get(machine, "cpu")
        if code != "cpu":
            sass = () if code == "?" else tuple(code.split())
            found.append(
                Demand(f"torch {version}+{build}", cuda, cudnn=None if cudnn == "?" else cudnn, sass=sass)
            )
    return tuple(found)
