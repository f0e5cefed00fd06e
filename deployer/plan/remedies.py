"""What mends a failure on the host at hand: the facts and acts that the catalogue's texts name in braces.

The words are those of the checks wherever the cause is the same; a command is told only where its program is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deployer.checks import base, driver, gpu, injection, runtime
from deployer.frozen import dataclass
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.sizing.fit import LEAST


@dataclass(frozen=True)
class Situation:
    """What failed where. `program` is an image reference or a path, `shipped` whether the profile is a shipped one."""

    host: Host
    profile: Profile
    engine: str
    name: str
    runtime: str
    program: str
    model: str
    context: int
    concurrency: int
    port: int
    shipped: bool = False

    @property
    def asked(self) -> str:
        """The profile as it is named on the command line."""
        return self.profile.name if self.shipped else str(self.profile.path)


class Words(Mapping[str, str]):
    """All that a text of the catalogue may name: what its pattern found, then facts, then acts."""

    def __init__(self, found: Mapping[str, str | None], at: Situation) -> None:
        self._found = {key: value for key, value in found.items() if value is not None}
        self._at = at

    def __getitem__(self, key: str) -> str:
        return self._found[key] if key in self._found else (FACTS | ACTS)[key](self._at)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._found, **FACTS, **ACTS})

    def __len__(self) -> int:
        return len({**self._found, **FACTS, **ACTS})


def _less(at: Situation) -> str:
    """Half the tokens: the next step down that is worth a try, where the engine named no number."""
    context, users = at.context, at.concurrency
    if users > 1:
        users //= 2
    else:
        context = max(LEAST, context // 2 // 256 * 256)
    place = f"a copy of {at.profile.path}" if at.shipped else at.profile.path
    return f"in {place}: serving: {{context: {context}, concurrency: {users}}}; deployer fit says what holds"


def _smaller_model(at: Situation) -> str:
    return "choose a smaller model or fewer bits: deployer fit says which run here"


def _whole_again(at: Situation) -> str:
    source = at.profile.model.source
    if source.startswith("file://"):
        place = source.removeprefix("file://")
        return f"copy {place} again from where it came, then deployer models remove {at.model}, then the same up again"
    return f"deployer models verify {at.model}, then the same up again: it fetches what is damaged"


def _engine_again(at: Situation) -> str:
    if at.runtime == "docker":
        return f"make the image again: deployer build {at.profile.image}:{at.profile.variant}"
    folder = Path(at.program).parent
    return f"make the engine again: rm -r {folder.parent if folder.name == 'bin' else folder}, then the same up again"


def _newer_driver(at: Situation) -> str:
    need = at.profile.requirements.driver or "580"
    if driver.under_wsl(at.host):
        return f"install NVIDIA driver {need.split('.')[0]} or later in Windows"
    return driver.another_driver(at.host, need.split(".")[0])


def _driver(at: Situation) -> str:
    found = driver.known(at.host)
    return "that is loaded" if isinstance(found, Unknown) or found is None else found.version


def _of_gpus(at: Situation, field: str) -> str:
    found = [] if isinstance(at.host.gpus, Unknown) else [getattr(card, field) for card in at.host.gpus]
    return ", ".join(sorted({text for text in found if isinstance(text, str)})) or "the GPU"


def _memory_look(at: Situation) -> str:
    look = base.sudo(at.host, "dmesg | grep -i 'out of memory'")
    return f"whether the kernel ended it: {look}; then {_less(at)}"


def _fabric(at: Situation) -> str:
    restart = base.service(at.host, "restart nvidia-fabricmanager")
    install = base.install(at.host, f"nvidia-fabricmanager-{_driver(at).split('.')[0]}")
    return restart or install or "start NVIDIA's fabric manager, of the driver's version"


def _uvm(at: Situation) -> str:
    if base.has(at.host, "nvidia-modprobe"):
        return base.sudo(at.host, "nvidia-modprobe -c 0 -u")
    if base.has(at.host, "modprobe"):
        return base.sudo(at.host, "modprobe nvidia_uvm")
    return base.sudo(at.host, "reboot")


def _shared_mode(at: Situation) -> str:
    if base.has(at.host, "nvidia-smi"):
        return f"end what uses the GPU, or let programs share it: {base.sudo(at.host, 'nvidia-smi -c 0')}"
    return "end what uses the GPU"


def _toolkit(at: Situation) -> str:
    if not base.has(at.host, "nvidia-ctk"):
        return runtime.TOOLKIT
    configure = base.sudo(at.host, "nvidia-ctk runtime configure --runtime=docker")
    return base.then(configure, base.service(at.host, "restart docker"))


def _own(at: Situation) -> str:
    return "give it to the user that runs deployer (chown), or another home: deployer --home DIRECTORY"


def _room(at: Situation) -> str:
    shows = "docker system df shows what can go of images; " if base.has(at.host, "docker") else ""
    return f"{shows}deployer models gc removes what no deployment needs"


def _shared_memory(at: Situation) -> str:
    if at.runtime == "docker":
        return "deployer gives several GPUs 1 GiB of it: requirements.gpu.count must say how many there are"
    return base.sudo(at.host, "mount -o remount,size=1G /dev/shm")


def _cpu(at: Situation) -> str:
    return "this one" if isinstance(at.host.cpu, Unknown) else at.host.cpu.model


_REPORTS = {
    "llamacpp": "https://github.com/ggml-org/llama.cpp/issues",
    "transformers": "https://github.com/huggingface/transformers/issues",
    "vllm": "https://github.com/vllm-project/vllm/issues",
}
FACTS: dict[str, Callable[[Situation], str]] = {
    "name": lambda at: at.name,
    "profile": lambda at: at.asked,
    "profile_path": lambda at: str(at.profile.path),
    "program": lambda at: at.program,
    "context": lambda at: str(at.context),
    "concurrency": lambda at: str(at.concurrency),
    "port": lambda at: str(at.port),
    "driver": _driver,
    "gpu": lambda at: _of_gpus(at, "name"),
    "capability": lambda at: _of_gpus(at, "compute_capability"),
    "cpu": _cpu,
    "reports": lambda at: _REPORTS[at.engine],
}
ACTS: dict[str, Callable[[Situation], str]] = {
    "less": _less,
    "smaller_model": _smaller_model,
    "whole_again": _whole_again,
    "engine_again": _engine_again,
    "newer_driver": _newer_driver,
    "memory_look": _memory_look,
    "fabric": _fabric,
    "uvm": _uvm,
    "shared_mode": _shared_mode,
    "shared_memory": _shared_memory,
    "reset": lambda at: gpu.reset(at.host).replace("{index}", "0"),
    "reboot": lambda at: base.sudo(at.host, "reboot"),
    "toolkit": _toolkit,
    "cdi": lambda at: injection.again(at.host),
    "restart_docker": lambda at: base.service(at.host, "restart docker") or "start the engine again",
    "other_port": lambda at: f"choose another port: deployer up {at.asked} --port {at.port + 1}",
    "own": _own,
    "room": _room,
}
