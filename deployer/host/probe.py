"""One look at everything, in parallel, as one value that can be saved and judged elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deployer._version import __version__
from deployer.errors import QuestionError
from deployer.host import disk, driver, gpu, memory, network, runtime, system
from deployer.host.base import Fact, Questions, Unknown, from_json, gather
from deployer.host.disk import Disk
from deployer.host.driver import Driver
from deployer.host.gpu import Gpu
from deployer.host.memory import Memory
from deployer.host.network import Answer, Port
from deployer.host.runtime import ContainerRuntime
from deployer.host.system import Cpu, System


@dataclass(frozen=True)
class Host:
    """What is there at one moment. `driver` and `runtime` are None when there is none."""

    taken: str
    version: str
    system: Fact[System]
    cpu: Fact[Cpu]
    memory: Fact[Memory]
    models_disk: Fact[Disk]
    images_disk: Fact[Disk]
    engines_disk: Fact[Disk]
    driver: Fact[Driver | None]
    pci_gpus: Fact[tuple[str, ...]]
    cuda: Fact[str]
    gpus: Fact[tuple[Gpu, ...]]
    runtime: Fact[ContainerRuntime | None]
    ports: Mapping[str, Fact[Port]]
    sources: Mapping[str, Fact[Answer]]


def probe(ask: Questions) -> Host:
    """Asks everything at once; no single answer can hold up or spoil the others."""
    probes: dict[str, Callable[[], Any]] = {
        "system": partial(system.system, ask),
        "cpu": partial(system.cpu, ask),
        "memory": partial(memory.memory, ask),
        "models_disk": partial(disk.disk, ask.models, ask),
        "engines_disk": partial(disk.disk, ask.engines, ask),
        "driver": partial(driver.driver, ask),
        "pci_gpus": partial(driver.pci_gpus, ask),
        "nvml": partial(gpu.nvml, ask),
        "runtime": partial(runtime.runtime, ask),
        **{f"port {n}": partial(network.port, n, ask) for n in ask.ports},
        **{f"url {u}": partial(network.answer, u, ask) for u in ask.urls},
    }
    found = gather(probes)
    nvml, engine = found["nvml"], found["runtime"]
    if isinstance(engine, ContainerRuntime) and engine.root:
        images = gather({"disk": partial(disk.disk, Path(engine.root), ask)})["disk"]
    else:
        images = engine if isinstance(engine, Unknown) else Unknown("there is no container runtime")
    return Host(
        taken=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=__version__,
        system=found["system"],
        cpu=found["cpu"],
        memory=found["memory"],
        models_disk=found["models_disk"],
        images_disk=images,
        engines_disk=found["engines_disk"],
        driver=found["driver"],
        pci_gpus=found["pci_gpus"],
        cuda=nvml if isinstance(nvml, Unknown) else nvml.cuda,
        gpus=nvml if isinstance(nvml, Unknown) else nvml.gpus,
        runtime=engine,
        ports={str(n): found[f"port {n}"] for n in ask.ports},
        sources={u: found[f"url {u}"] for u in ask.urls},
    )


def load(path: Path) -> Host:
    """A host that `deployer check --json` saved, alone or inside its report. Raises QuestionError."""
    try:
        raw = json.loads(path.read_text())
        host: Host = from_json(Host, raw.get("host", raw))
        return host
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise QuestionError(
            f"{path} is not a saved host: {error}", hint="save one with: deployer check --json > host.json"
        ) from error
