"""Decides, from values alone, what `up` will do, and keeps the reason of each choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from deployer import checks, images, models
from deployer.checks.base import route
from deployer.engines import Engine, engine
from deployer.errors import BuildError, QuestionError, Refused
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.host import ContainerRuntime, Gpu, Host, Mig, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least
from deployer.report import first_reason
from deployer.runtimes import provision
from deployer.sizing import devices, wanted
from deployer.sizing.memory import VLLM_SHARE


@dataclass(frozen=True)
class Choice:
    """Everything that was decided. `program` is an image reference, or a path without containers."""

    name: str
    profile: Profile
    runtime: str
    engine: Engine
    base: str
    program: str
    gateway: str
    model: str
    converted: str | None
    weights: Path
    folder: Path
    alias: str
    port: int
    threads: int
    gpus: tuple[str, ...]
    gpu_injection: str | None
    half: bool
    context: int
    concurrency: int
    share: float
    whole: bool
    reasons: tuple[str, ...]


def rank(host_for: Callable[[Profile], Host], profiles: Sequence[Profile]) -> tuple[Profile, tuple[str, ...]]:
    """The highest-ranked profile that surely fits, and why those above it do not.

    Raises Refused when none fits.
    """
    against: dict[str, list[str]] = {}
    for profile in sorted(profiles, key=lambda p: -p.rank):
        report = checks.audit(host_for(profile), profile)
        if report.sure:
            return profile, (*_told(against), f"profile {profile.name}: {profile.description}")
        against.setdefault(first_reason(report), []).append(profile.name)
    raise Refused(
        "no profile fits this host",
        hint="deployer check PROFILE says what is missing",
        evidence=_told(against),
    )


def choose_runtime(host: Host, profile: Profile, asked: str | None) -> tuple[str, str]:
    """(runtime, reason): as asked, else as the profile says, else docker when it answers, else process."""
    if asked:
        return asked, f"runtime {asked}: asked for"
    if profile.runtime:
        return profile.runtime, f"runtime {profile.runtime}: the profile says so"
    if isinstance(host.runtime, ContainerRuntime):
        return "docker", f"runtime docker: {host.runtime.kind} {host.runtime.version} answers"
    if isinstance(host.runtime, Unknown):
        return "process", f"runtime process: the container runtime cannot be used ({host.runtime.reason})"
    return "process", "runtime process: there is no container runtime"


def without_images(profile: Profile, asked: str | None, error: BuildError) -> tuple[str, str]:
    """The embedded runtime, where containers would do but their image cannot be made here.

    Raises `error` again when containers were asked for or are needed for the GPU.
    """
    if asked or profile.runtime or profile.requirements.gpu:
        raise error
    return "process", f"runtime process: {error.message} ({error.hint})"


def resolve(
    host: Host,
    profile: Profile,
    *,
    home: Home,
    runtime: tuple[str, str],
    base: str,
    name: str | None = None,
    port: int | None = None,
    reasons: Sequence[str] = (),
    before: tuple[int, int, str] | None = None,
    share: float | None = None,
) -> Choice:
    """The choice for this host. `before` are context and concurrency that the profile left to an earlier call, and why;
    `share` is the part of each GPU's memory that it took then.

    Raises QuestionError when the profile contradicts itself, or does not fit.
    """
    chosen = engine(profile.engine)
    recipe = images.load(profile.image)
    recipe.variant(profile.variant)
    if recipe.engine != chosen.name:
        raise QuestionError(
            f"profile {profile.name} asks for engine {chosen.name} in image {recipe.name}, which holds {recipe.engine}",
            hint=f"image: {chosen.name}",
        )
    containers = runtime[0] == "docker"
    identity = models.model_id(profile.model, chosen.files)
    source_format = _format(profile)
    converted = None
    said = [*reasons, runtime[1]]
    if source_format not in chosen.formats:
        if chosen.convert.get(source_format) not in chosen.formats:
            raise QuestionError(
                f"{chosen.name} cannot load {source_format} models",
                hint=f"it loads: {', '.join(chosen.formats)}",
            )
        converted = models.converted_id(identity)
        said.append(
            f"model: {chosen.name} cannot serve this {source_format} file as it is; it is converted once"
        )
    folder = home.models / (converted or identity)
    gguf = _gguf_path(profile)
    taken = _taken(host, profile)
    gpus, injection, half = _names(host, taken)
    served = _served(host, profile, taken, before)
    if not (profile.serving.context and profile.serving.concurrency):
        said.append(f"serving: {served.users} × {served.context} tokens: {served.reason}")
    return Choice(
        name=name or profile.name,
        profile=profile,
        runtime=runtime[0],
        engine=chosen,
        base=base,
        program=images.target(profile.image, profile.variant, base).reference
        if containers
        else str(provision.program(chosen.name, profile.variant, home)),
        gateway=images.target("gateway", "cpu", base).reference if containers else "gateway",
        model=identity,
        converted=converted,
        weights=folder / gguf if gguf and not converted else folder,
        folder=folder,
        alias=PurePath(gguf).stem if gguf else profile.model.source.rstrip("/").rsplit("/", 1)[-1],
        port=port or profile.serving.port,
        threads=1 if isinstance(host.cpu, Unknown) else min(host.cpu.cores, host.cpu.threads),
        gpus=gpus,
        gpu_injection=injection,
        half=half,
        context=served.context,
        concurrency=served.users,
        share=share if share and taken else _share(taken),
        whole=wanted.whole(profile, checks.headers_of(host, profile)),
        reasons=tuple(said),
    )


def _format(profile: Profile) -> str:
    return "gguf" if _gguf_path(profile) else "safetensors"


def _gguf_path(profile: Profile) -> str | None:
    """The one GGUF file of the model as it will lie in the store; None for safetensors models."""
    named = [f.path for f in profile.model.files if f.path.endswith(".gguf")]
    if not named and profile.model.source.startswith("file://"):
        root = Path(profile.model.source.removeprefix("file://"))
        found = [root] if root.suffix == ".gguf" else sorted(root.glob("*.gguf"))
        named = [path.name for path in found]
    if len(named) > 1:
        raise QuestionError(
            f"profile {profile.name} leads to {len(named)} GGUF files: {', '.join(named[:4])}",
            hint="name one in model.files",
        )
    if not named and profile.engine == "llamacpp":
        raise QuestionError(f"profile {profile.name} names no GGUF file", hint="name one in model.files")
    return named[0] if named else None


def _taken(host: Host, profile: Profile) -> tuple[Gpu, ...]:
    """The GPUs with the most free memory, in their own order."""
    need, gpus = profile.requirements.gpu, checks.usable(host, profile)
    if need is None or isinstance(gpus, Unknown):
        return ()
    usable = [g for g in gpus if isinstance(g.uuid, str) and checks.suits(g, need)]
    usable.sort(key=lambda g: -g.free_vram if isinstance(g.free_vram, int) else 0)
    return tuple(sorted(usable[: need.count], key=lambda g: g.index))


def _served(
    host: Host, profile: Profile, taken: Sequence[Gpu], before: tuple[int, int, str] | None
) -> wanted.Chosen:
    """Context and concurrency: the profile's, else those of an earlier call, else what the memory holds."""
    serving = profile.serving
    if before and not (serving.context and serving.concurrency):
        context, users = serving.context or before[0], serving.concurrency or before[1]
        return wanted.Chosen(context, users, before[2])
    device = devices.of_gpus(taken, host) if profile.requirements.gpu else devices.of_cpu(host, None)
    return wanted.choose(profile, checks.headers_of(host, profile), device)


def _share(taken: Sequence[Gpu]) -> float:
    """The part of each GPU's memory that an engine may take: what is free, less a hundredth; 0 without GPUs."""
    free = [
        g.free_vram / g.vram for g in taken if isinstance(g.free_vram, int) and isinstance(g.vram, int) and g.vram
    ]
    if not free:
        return VLLM_SHARE if taken else 0.0
    return min(VLLM_SHARE, math.floor(100 * min(free) - 1) / 100)


def _names(host: Host, taken: Sequence[Gpu]) -> tuple[tuple[str, ...], str | None, bool]:
    """The GPUs as they are asked for, how they get into containers, whether bfloat16 lacks."""
    if not taken:
        return (), None, False
    half = any(
        isinstance(g.compute_capability, str) and not at_least(g.compute_capability, "8.0") for g in taken
    )
    way = route(host) or "hook"
    cdi = host.runtime.cdi_gpus if isinstance(host.runtime, ContainerRuntime) else ()
    names = [str(g.uuid) for g in taken]
    if cdi and not set(names) <= set(cdi):
        names = [_place(gpu, host) for gpu in taken]
    return tuple(names), way, half


def _place(gpu: Gpu, host: Host) -> str:
    """The name of a GPU where a specification names devices by index: `0`, and `0:1` for a slice of it."""
    for card in () if isinstance(host.gpus, Unknown) else host.gpus:
        slices = card.mig.slices if isinstance(card.mig, Mig) else ()
        for number, one in enumerate(slices):
            if one.uuid == gpu.uuid:
                return f"{card.index}:{number}"
    return str(gpu.index)


def _told(against: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"not {', '.join(names)}: {problem}" for problem, names in against.items())
