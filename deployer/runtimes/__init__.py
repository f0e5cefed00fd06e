"""What runs things on this host; RUNTIMES is the list, best first."""

from __future__ import annotations

from collections.abc import Callable

from deployer.errors import QuestionError
from deployer.home import Home
from deployer.runtimes.base import Inside as Inside
from deployer.runtimes.base import Launch as Launch
from deployer.runtimes.base import Mount as Mount
from deployer.runtimes.base import Part as Part
from deployer.runtimes.base import Runtime as Runtime
from deployer.runtimes.base import Unit as Unit
from deployer.runtimes.docker import DockerRuntime
from deployer.runtimes.process import ProcessRuntime

RUNTIMES: dict[str, Callable[[Home, str], Runtime]] = {
    "docker": DockerRuntime,
    "process": lambda home, _address: ProcessRuntime(home),
}


def runtime(name: str, home: Home, address: str) -> Runtime:
    """The runtime called `name`; `address` is where the container engine listens."""
    if name not in RUNTIMES:
        raise QuestionError(f"there is no runtime `{name}`", hint=f"runtimes: {', '.join(RUNTIMES)}")
    return RUNTIMES[name](home, address)
