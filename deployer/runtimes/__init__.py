"""What runs things on this host; RUNTIMES is the list, best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deployer.errors import QuestionError
from deployer.home import Home
from deployer.runtimes.base import Inside as Inside
from deployer.runtimes.base import Launch as Launch
from deployer.runtimes.base import Mount as Mount
from deployer.runtimes.base import Once as Once
from deployer.runtimes.base import Part as Part
from deployer.runtimes.base import Runtime as Runtime
from deployer.runtimes.base import Unit as Unit
from deployer.runtimes.docker import DockerRuntime
from deployer.runtimes.process import ProcessRuntime

RUNTIMES: dict[str, Callable[[Home, str, Mapping[str, str]], Runtime]] = {
    "docker": lambda home, address, _environment: DockerRuntime(home, address),
    "process": lambda home, _address, environment: ProcessRuntime(home, environment),
}


def runtime(name: str, home: Home, address: str, environment: Mapping[str, str]) -> Runtime:
    """The runtime called `name`.

    `address` is where the container engine listens; of `environment`, processes inherit what they need.
    """
    if name not in RUNTIMES:
        raise QuestionError(f"there is no runtime `{name}`", hint=f"runtimes: {', '.join(RUNTIMES)}")
    return RUNTIMES[name](home, address, environment)
