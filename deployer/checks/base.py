"""What a check is, how it is documented, and how hints fit the host at hand."""

from __future__ import annotations

import re
from collections.abc import Callable

from deployer import models, resources
from deployer.description import Description
from deployer.engines import engine
from deployer.frozen import dataclass
from deployer.host import ContainerRuntime, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding
from deployer.sizing import wanted
from deployer.sizing.memory import Memory

# Memory that the firmware, the kernel or ECC keeps back: a machine sold with 16 GB passes `16 GB`. Cards
# report at least 0.92 of their nominal size (a T4 under older drivers), computers about 0.93.
NOMINAL = 0.9


@dataclass(frozen=True)
class Check:
    """`id` is `group.subject`; `judge` is pure; `pains` are the numbers in `pains.tsv` that it sees coming.

    Of a check that is `advice`, not knowing leaves a report sure: a profile still fits when this user may not
    read the kernel's log.
    """

    id: str
    judge: Callable[[Host, Profile], Finding]
    pains: tuple[int, ...] = ()
    advice: bool = False

    @property
    def group(self) -> str:
        return self.id.split(".", 1)[0]


@dataclass(frozen=True)
class Documentation:
    """What a check looks at, why, when it ends how, and what mends it: for people, in plain sentences."""

    what: str
    why: str
    passes: str
    warns: str
    fails: str
    skips: str
    fix: str


_LABELS = ("Why", "Pass", "Warn", "Fail", "Skip", "Fix")


def documentation(check: Check) -> Documentation:
    """The docstring of `judge`: what, an empty line, then `Why:`, `Pass:`, `Warn:`, `Fail:`, `Skip:`, `Fix:`.

    A value may go on over several lines. Raises ValueError that says what is missing or out of order.
    """
    text = check.judge.__doc__ or ""
    what, *parts = re.split(rf"^\s*({'|'.join(_LABELS)}):", text, flags=re.MULTILINE)
    values = [" ".join(part.split()) for part in (what, *parts[1::2])]
    if tuple(parts[::2]) != _LABELS or not all(values):
        found = ", ".join(label for label, value in zip(parts[::2], values[1:], strict=True) if value)
        raise ValueError(
            f"{check.id}: the docstring of its judge must say what, then {', '.join(_LABELS)}, each once and in "
            f"this order; it has {found or 'none of them'}" + ("" if values[0] else ", and not what")
        )
    return Documentation(*values)


@dataclass(frozen=True)
class Pain:
    """A failure that people met and reported. `after` says why it cannot (all) be seen before launch."""

    number: int
    title: str
    sees: str
    references: tuple[str, ...]
    after: str


def pains() -> tuple[Pain, ...]:
    """The rows of `pains.tsv`."""
    lines = (resources.PACKAGE / "checks" / "pains.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return tuple(
        Pain(int(n), title, sees, tuple(where.split(", ")), after) for n, title, sees, where, after in rows
    )


NO_GPU = "there is no NVIDIA GPU in this machine"
NOT_ASKED = "the profile does not ask for a GPU"


def has_gpu(host: Host) -> bool | None:
    """Whether the PCI bus or NVML shows one; None when neither could be asked."""
    if not isinstance(host.gpus, Unknown) and host.gpus:
        return True
    if isinstance(host.pci_gpus, Unknown):
        return None
    if not host.pci_gpus and isinstance(host.gpus, Unknown) and _wsl(host) is not False:
        return None  # under WSL a GPU is not on the PCI bus
    return bool(host.pci_gpus)


def wants_gpu(profile: Profile) -> bool:
    return profile.requirements.gpu is not None


def headers_of(host: Host, profile: Profile) -> Description | None:
    """What the model's headers say, where somebody has read them."""
    if not host.headers:
        return None
    found = host.headers.get(models.model_id(profile.model, engine(profile.engine).files))
    return None if isinstance(found, Unknown) else found


def need_of(host: Host, profile: Profile) -> Memory | None:
    """What the model takes as the profile serves it, as `deployer fit` says; None where nothing is known of it."""
    return wanted.need(profile, headers_of(host, profile))


def multi(profile: Profile) -> bool:
    """Whether the profile needs more than one GPU at a time."""
    need = profile.requirements.gpu
    return need is not None and need.count > 1


def uses_containers(host: Host, profile: Profile) -> bool:
    """Whether this profile will run in containers here: it insists on them, or an engine answers."""
    if profile.runtime is not None:
        return profile.runtime == "docker"
    if profile.requirements.gpu is not None:
        return True  # GPU engines come as images
    return host.runtime is not None and not isinstance(host.runtime, Unknown)


def present(host: Host, profile: Profile) -> Fact[bool] | None:
    """Whether the engine has the image of this profile; None where it was not asked for."""
    return host.images.get(f"{profile.image}:{profile.variant}")


def has(host: Host, tool: str) -> bool:
    """Whether the command `tool` is known to be on this machine."""
    return not isinstance(host.system, Unknown) and tool in host.system.tools


def sudo(host: Host, command: str) -> str:
    """`command`, with sudo where this user is not root; `as root: …` where there is no sudo."""
    if isinstance(host.system, Unknown):
        return f"sudo {command}"
    if host.system.user == 0:
        return command
    return f"sudo {command}" if "sudo" in host.system.tools else f"as root: {command}"


def service(host: Host, action: str) -> str | None:
    """`systemctl restart docker` for this user, None where systemd does not run."""
    if isinstance(host.system, Unknown) or not host.system.systemd or "systemctl" not in host.system.tools:
        return None
    return sudo(host, f"systemctl {action}")


def then(*commands: str | None) -> str:
    """Commands one after the other; those that this host has no way to give are left out."""
    return " && ".join(command for command in commands if command)


def install(host: Host, apt: str, dnf: str | None = None, zypper: str | None = None) -> str | None:
    """The command that installs a package here, None where the package manager is not known."""
    for tool, verb, name in (
        ("apt-get", "install", apt),
        ("dnf", "install", dnf or apt),
        ("zypper", "install", zypper or dnf or apt),
    ):
        if has(host, tool):
            return sudo(host, f"{tool} {verb} {name}")
    return None


def initramfs(host: Host) -> str | None:
    """The command that makes the boot image again, None where none is known."""
    if has(host, "update-initramfs"):
        return sudo(host, "update-initramfs -u")
    return sudo(host, "dracut --force") if has(host, "dracut") else None


def route(host: Host) -> str | None:
    """How GPUs get into containers here: `cdi`, `runtime` (the nvidia runtime), None where there is no way."""
    if not isinstance(host.runtime, ContainerRuntime):
        return None
    if host.runtime.cdi_gpus:
        return "cdi"
    return "runtime" if host.runtime.nvidia_runtime else None


def _wsl(host: Host) -> bool | None:
    return None if isinstance(host.system, Unknown) else host.system.wsl
