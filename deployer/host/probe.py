"""One look at everything, in parallel, as one value that can be saved and judged elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

from deployer._version import __version__
from deployer.description import Description
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.host import disk, driver, memory, network, nvml, runtime, system, toolkit
from deployer.host.base import NOT_ASKED, Fact, Questions, Unknown, from_json, gather
from deployer.host.deep import Deep
from deployer.host.disk import Disk
from deployer.host.driver import Driver, FabricManager, KernelLog, Libraries, Modules, Nodes, PciGpu
from deployer.host.gpu import Gpu
from deployer.host.memory import Memory
from deployer.host.network import Answer, Port, Proxies
from deployer.host.runtime import ContainerRuntime
from deployer.host.system import Cpu, Package, System
from deployer.host.toolkit import Specification, Toolkit


@dataclass(frozen=True)
class Host:
    """What is there at one moment. None means that there is none, or that it does not apply here.

    `driver` is the loaded kernel module, `libraries` what lies on the disk of it, `cuda` the newest CUDA that its
    library speaks, `nvml_driver` the version that NVML gives (Windows's driver under WSL). `images` says by
    `name:variant` whether the engine has them; `base` is the place of their OS base, None when nothing has to come
    from it. `models` are the names in the store, `headers` what the headers of models say, by such names. `deep` is
    what `check --deep` tried, None where it was not asked to.
    """

    taken: str
    version: str
    system: Fact[System]
    cpu: Fact[Cpu]
    memory: Fact[Memory]
    models_disk: Fact[Disk]
    images_disk: Fact[Disk]
    engines_disk: Fact[Disk]
    driver: Fact[Driver | None]
    pci_gpus: Fact[tuple[PciGpu, ...]]
    cuda: Fact[str]
    gpus: Fact[tuple[Gpu, ...]]
    runtime: Fact[ContainerRuntime | None]
    ports: Mapping[str, Fact[Port]]
    sources: Mapping[str, Fact[Answer]]
    temporary_disk: Fact[Disk] = NOT_ASKED
    libraries: Fact[Libraries] = NOT_ASKED
    modules: Fact[Modules] = NOT_ASKED
    nodes: Fact[Nodes] = NOT_ASKED
    nvswitches: Fact[int] = NOT_ASKED
    fabric_manager: Fact[FabricManager | None] = NOT_ASKED
    kernel_log: Fact[KernelLog] = NOT_ASKED
    packages: Fact[Mapping[str, Package]] = NOT_ASKED
    toolkit: Fact[Toolkit | None] = NOT_ASKED
    cdi: Fact[tuple[Specification, ...]] = NOT_ASKED
    images: Mapping[str, Fact[bool]] = field(default_factory=dict)
    base: Fact[Answer | None] = NOT_ASKED
    proxies: Fact[Proxies | None] = NOT_ASKED
    models: Fact[tuple[str, ...]] = NOT_ASKED
    nvml_driver: Fact[str] = NOT_ASKED
    headers: Mapping[str, Fact[Description]] = field(default_factory=dict)
    deep: Deep | None = None


# What only reads small files of the kernel and of the system's own disk.
_QUICK = (
    *("system", "cpu", "memory", "driver", "modules", "libraries", "nodes", "pci_gpus", "nvswitches"),
    *("fabric_manager", "packages", "toolkit", "cdi", "proxies"),
)


def probe(ask: Questions) -> Host:
    """Asks everything at once; no single answer can hold up or spoil the others."""
    engine = _Shared(partial(runtime.runtime, ask))
    present = _Shared(partial(_present, engine, ask))
    probes: dict[str, Callable[[], Any]] = {
        "system": partial(system.system, ask),
        "cpu": partial(system.cpu, ask),
        "memory": partial(memory.memory, ask),
        "models_disk": partial(disk.disk, ask.models, ask),
        "engines_disk": partial(disk.disk, ask.engines, ask),
        "temporary_disk": partial(disk.disk, ask.temporary, ask),
        "images_disk": partial(_images_disk, engine, ask),
        "driver": partial(driver.driver, ask),
        "modules": partial(driver.modules, ask),
        "libraries": partial(driver.libraries, ask),
        "nodes": partial(driver.nodes, ask),
        "pci_gpus": partial(driver.pci_gpus, ask),
        "nvswitches": partial(driver.nvswitches, ask),
        "fabric_manager": partial(driver.fabric_manager, ask),
        "kernel_log": partial(driver.kernel_log, ask),
        "packages": partial(system.packages, ask),
        "toolkit": partial(toolkit.toolkit, ask),
        "cdi": partial(toolkit.cdi, ask),
        "nvml": partial(nvml.nvml, ask),
        "runtime": engine.ask,
        "images": present.ask,
        "base": partial(_base, present, ask),
        "proxies": partial(network.proxies, ask),
        "models": partial(disk.entries, ask.models),
        **{f"port {n}": partial(network.port, n, ask) for n in ask.ports},
        **{f"url {u}": partial(network.answer, u, ask) for u in ask.urls},
    }
    found = gather(probes, limits={"nvml": nvml.LIMIT_S}, quick=_QUICK)
    gpus, images = found.pop("nvml"), found.pop("images")
    return Host(
        taken=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=__version__,
        cuda=gpus if isinstance(gpus, Unknown) else gpus.cuda,
        gpus=gpus if isinstance(gpus, Unknown) else gpus.gpus,
        nvml_driver=gpus if isinstance(gpus, Unknown) else gpus.driver,
        ports={str(n): found.pop(f"port {n}") for n in ask.ports},
        sources={u: found.pop(f"url {u}") for u in ask.urls},
        images=dict.fromkeys(ask.images, images) if isinstance(images, Unknown) else images,
        **found,
    )


def gpus(ask: Questions) -> Fact[tuple[Gpu, ...]]:
    """The GPUs alone, as NVML tells of them now."""
    found = gather({"nvml": partial(nvml.nvml, ask)}, nvml.LIMIT_S)["nvml"]
    return found if isinstance(found, Unknown) else found.gpus


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


class _Shared:
    """One answer that several probes wait for: asked by the one, taken by the others, errors included."""

    def __init__(self, question: Callable[[], Any]) -> None:
        self._question = question
        self._done = threading.Event()
        self._answer: Any = None
        self._error: Exception | None = None

    def ask(self) -> Any:
        try:
            self._answer = self._question()
        except Exception as error:
            self._error = error
            raise
        finally:
            self._done.set()
        return self._answer

    def take(self) -> Any:
        self._done.wait()
        if self._error:
            raise OSError(str(self._error))
        return self._answer


def _images_disk(engine: _Shared, ask: Questions) -> Disk | Unknown:
    found = engine.take()
    if not isinstance(found, ContainerRuntime) or not found.root:
        return Unknown("there is no container runtime")
    if found.remote:
        return Unknown("the container runtime is on another machine")
    return disk.disk(ask.root / found.root.lstrip("/"), ask)


def _present(engine: _Shared, ask: Questions) -> dict[str, Fact[bool]]:
    if engine.take() is None:
        return dict.fromkeys(ask.images, False)
    return gather({name: partial(runtime.present, tag, ask) for name, tag in ask.images.items()})


def _base(present: _Shared, ask: Questions) -> Answer | None:
    """Asked only where something would have to come from there."""
    if ask.base is None or not ask.images or all(here is True for here in present.take().values()):
        return None
    return network.answer(ask.base, ask)
