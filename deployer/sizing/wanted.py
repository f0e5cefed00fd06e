"""What a profile asks of memory: by the model's headers, else by its shapes in the catalogue, else by its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deployer.description import Description, compact
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.sizing import catalogue, fit
from deployer.sizing.devices import Device
from deployer.sizing.memory import Memory, Part, Use, memory

# Memory of the program itself with its compute buffers, where nothing is known of the model but its size. Measured
# with SmolLM2-135M as resident memory less weights and cache: llama-server 36 MB, transformers serve 477 MB; taken
# larger to leave room for larger vocabularies and longer prompts.
PROGRAM = {"llamacpp": 300 << 20, "transformers": 1000 << 20, "vllm": 3 << 30}
# What `up` takes where the profile leaves it out. More context than this is asked for by name: on a processor a prompt
# of 8192 tokens takes minutes. A processor's memory is other programs' too; a GPU's is the engine's.
CONTEXT = {"gpu": 32768, "cpu": 8192}
USERS = {"gpu": 16, "cpu": 4}
SHARE = {"gpu": 1.0, "cpu": 0.5}
_STEP = 256  # tokens; engines round contexts up to blocks of 16 or 256

# What sizing calls a cache in 8 bits: as the engine that keeps it does.
_EIGHT = {"llamacpp": "q8_0", "vllm": "fp8"}


@dataclass(frozen=True)
class Chosen:
    """How a profile is served, and why so."""

    context: int
    users: int
    reason: str


def described(profile: Profile, headers: Description | None = None) -> Description | None:
    """The model as the profile's engine loads it, layers merged; None where neither headers nor catalogue know it."""
    found = headers or catalogue.of(profile.model)
    if found is None:
        return None
    kind = "gpu" if profile.requirements.gpu else "cpu"
    made = fit.loadable(found, profile.engine, Device(kind, "", 1, 0, 0, None, ""))
    return compact(made) if made else None


def whole(profile: Profile, headers: Description | None) -> bool:
    """Whether the engine has to read each text in one batch; without headers, of every model that gives vectors."""
    return profile.model.kind == "embedding" and (headers is None or headers.whole)


def number(profile: Profile) -> str:
    """The number format of the profile's cache, in the engine's words."""
    return _EIGHT[profile.engine] if profile.serving.cache == "8-bit" else "f16"


def need(profile: Profile, headers: Description | None = None) -> Memory | None:
    """What the model takes as the profile serves it, on the device that holds most; None where nothing is known.

    Where the profile leaves context and concurrency out, the least that is worth serving counts.
    """
    serving = profile.serving
    if found := described(profile, headers):
        context = serving.context or min(fit.WANTED, found.context)
        return served(found, profile, context, serving.concurrency or 1)
    gpus = each(profile)
    if not profile.model.size:
        return None
    share = -(-profile.model.size // max(1, gpus))
    parts = (Part("weights", share, "what is fetched"), Part("process", PROGRAM[profile.engine], "the program"))
    whole = Memory(profile.engine, gpus, parts)
    return whole if gpus else whole.times(serving.replicas)


def each(profile: Profile) -> int:
    """The GPUs that each engine of the profile has, 0 for none."""
    return profile.requirements.gpu.count // profile.serving.replicas if profile.requirements.gpu else 0


def served(found: Description, profile: Profile, context: int, users: int) -> Memory:
    """What the engines of the profile take: each GPU, or the system for all of them."""
    whole = memory(found, profile.engine, Use(context, users, each(profile), number(profile)))
    return whole if whole.gpus else whole.times(profile.serving.replicas)


def choose(profile: Profile, headers: Description | None, device: Device | None) -> Chosen:
    """Context and users: what the profile names, else what the device holds. Raises QuestionError when nothing fits.

    Without headers, or a device, what the profile leaves out is 4096 tokens for one user.
    """
    serving = profile.serving
    found = described(profile, headers)
    if serving.context and serving.concurrency:
        return Chosen(serving.context, serving.concurrency, "as the profile says")
    if found is None or device is None:
        return Chosen(serving.context or fit.WANTED, serving.concurrency or 1, "the model's headers are not known yet")
    kind = device.kind
    share = SHARE[kind] if kind == "gpu" else SHARE[kind] / serving.replicas
    room = replace(device, memory=int(device.memory * share), count=each(profile) or 1)
    most = fit.answer(found, profile.engine, room, users=serving.concurrency, number=number(profile))
    if not most.fits:
        raise QuestionError(
            f"{most.memory} is needed for {most.use.context} tokens, {format_size(most.available)} may be used",
            hint="name serving.context and serving.concurrency to use more, or choose a smaller model",
        )
    context = serving.context or min(most.context, CONTEXT[kind])
    whole = fit.answer(
        found, profile.engine, room, context=context, users=serving.concurrency, number=number(profile)
    )
    users = serving.concurrency or min(whole.users, USERS[kind])
    part = "" if SHARE[kind] == 1 else f", in {SHARE[kind]:.0%} of what is free"
    engines = f", for {serving.replicas} engines" if serving.replicas > 1 else ""
    return Chosen(context, max(1, users), f"what {device.label} holds{part}{engines}")


def less(profile: Profile, now: tuple[int, int], fits: Callable[[int, int], bool]) -> tuple[int, int] | None:
    """The largest context and users, at most `now`, that `fits`; what the profile names stays. None when none does.

    Fewer users come before less context: a prompt that is cut off is worse than one that waits.
    """
    context, users = now
    if not profile.serving.concurrency:
        for fewer in range(users, 0, -1):
            if fits(context, fewer):
                return context, fewer
        users = 1
    if not profile.serving.context:
        for shorter in range(context // _STEP * _STEP, fit.LEAST - 1, -_STEP):
            if fits(shorter, users):
                return shorter, users
    return None
