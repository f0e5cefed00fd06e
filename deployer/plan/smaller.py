"""A smaller setting after a start that memory did not allow: from what the engine reported, once, and remembered.

What is remembered lies in the deployment's folder, with the model and the memory that it was found with: another
model, or a host with other memory, forgets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from deployer import host, models
from deployer.description import Description
from deployer.engines import engine
from deployer.errors import LaunchError, ModelError
from deployer.frozen import dataclass
from deployer.home import Home, read_json, write_json
from deployer.models import metadata
from deployer.plan.explain import recognise, shown
from deployer.plan.record import Record, load_record
from deployer.plan.resolve import Choice
from deployer.plan.steps import Accept, Pause, Step, Switch, Way, steps
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.sizing import wanted

if TYPE_CHECKING:
    from deployer.plan.apply import World

_FILE = "smaller.json"
_UNITS = {"B": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LEAST_SHARE = 0.05  # of a GPU's memory: with less of it no model starts
_ROUGH = 256 << 20  # bytes; a kernel's update takes some of a machine's memory


@dataclass(frozen=True)
class Shortage:
    """What an engine reported of the memory that it lacked, in words, and as one of three numbers.

    `tokens` are what the cache can hold, `lacking` bytes on the device that holds most, `free` the bytes of a GPU that
    the engine may take of its `total`.
    """

    reported: str
    line: str
    tokens: int | None = None
    lacking: int | None = None
    free: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Remembered:
    """What served `model` on a host with `memory`; `because` is the line that made it necessary."""

    context: int
    users: int
    model: str
    memory: str
    because: str


def shortage(log: Sequence[str], choice: Choice) -> Shortage | None:
    """What the log of a start that failed reports; None where memory was not the cause, or no setting would help."""
    known = recognise(log, choice.engine.name)
    if known is None:
        return None
    signature, found, one = known
    line = shown(one.line)
    asked = choice.context * choice.concurrency
    match signature.name:
        case "vllm.context":
            estimate = _number(r"estimated maximum model length is (\d+)", [one.text])
            tokens = estimate or int(float(found["have"]) / float(found["need"]) * int(found["wanted"]))
            return Shortage(f"it says that its cache holds {tokens} tokens", line, tokens=tokens)
        case "vllm.context_before_v1":
            return Shortage(f"it says that its cache holds {found['fits']} tokens", line, tokens=int(found["fits"]))
        case "vllm.taken":
            free, total = (int(float(found[key]) * (1 << 30)) for key in ("free", "total"))
            told = f"it says that {format_size(free)} of {format_size(total)} are free"
            return Shortage(told, line, free=free, total=total)
        case "torch.cuda_memory" if choice.engine.name == "vllm":
            lacking, total = _size(found["asked"]) - _size(found["free"]), _size(found["total"])
            return Shortage(f"it lacked {format_size(lacking)}", line, lacking=lacking, total=total)
        case "llamacpp.compute":
            size = _number(r"failed to allocate (?:\S+ )?buffer of size (\d+)", log)
            # what comes after it, threads and answers, has not been asked for yet: as much again
            return Shortage(f"it lacked {format_size(size)}", line, lacking=2 * size) if size else None
        case "llamacpp.cache":
            size = _number(r"failed to allocate (?:\S+ )?buffer of size (\d+)", log)
            told = f"it could not have a cache of {format_size(size)}" if size else "it could not have its cache"
            return Shortage(f"{told}; half of it is tried", line, tokens=asked // 2)
        case "llamacpp.memory":
            return Shortage(f"it could not have {found['size']}; half of the cache is tried", line, tokens=asked // 2)
        case "system.killed" if choice.engine.name == "llamacpp":
            return Shortage("it named no number; half of the cache is tried", line, tokens=asked // 2)
    return None


def again(choice: Choice, made: Sequence[Step], error: LaunchError, world: World) -> tuple[Choice, tuple[Step, ...]]:
    """The choice and the steps with the largest setting that should hold, said aloud.

    Raises `error` where memory was not the cause or nothing smaller is left, and with what would fit as lines of the
    profile where the profile names what would have to change.
    """
    log = error.log.read_text(errors="replace").splitlines() if error.log else []
    short = shortage([*log, *error.evidence], choice)
    share = _share(short, choice) if short else 0.0
    if short is None or share < min(choice.share, _LEAST_SHARE):
        raise error
    fits = _fits(short, choice, share, _described(choice, world.home))
    now = choice.context, choice.concurrency
    # a profile that names both asks for them; what fits beside that is what it would say if it named nothing
    smaller = now if fits(*now) and share != choice.share else wanted.less(choice.profile, now, fits)
    if smaller is None or (smaller == now and share == choice.share):
        free = replace(choice.profile, serving=replace(choice.profile.serving, context=None, concurrency=None))
        would = wanted.less(free, now, fits)
        if would is None or would == now:
            raise error
        lines = f"serving: {{context: {would[0]}, concurrency: {would[1]}}}"
        raise type(error)(
            error.message, evidence=error.evidence, log=error.log,
            hint=f"{choice.profile.path} names more; this should fit, from what the engine reported: {lines}",
        ) from error  # fmt: skip
    at = next(step for step in made if isinstance(step, Switch))
    changed = replace(choice, context=smaller[0], concurrency=smaller[1], share=share)
    world.progress.say(error.message)
    world.progress.say(f"  | {short.line}")
    world.progress.say(
        f"{short.reported}: starting again, once, with {smaller[1]} × {smaller[0]} tokens"
        + (f" and {share:.0%} of the GPU's memory" if share != choice.share else "")
    )
    left = next((step for step in made if isinstance(step, Pause)), None)
    against = next(step for step in made if isinstance(step, Accept)).against
    share = against.share if against else 0.0
    way = Way(left is None, left.because if left else "", share, at.drain)
    last = load_record(world.home, choice.name)
    ran = last if at.old else None
    number = at.new.told["generation"]
    made = steps(
        changed, home=world.home, runtime=world.runtime, generation=number, last=last, now=ran, way=way
    )
    return changed, made


def remember(choice: Choice, because: str, world: World) -> None:
    """Keeps a setting that a second start came up with, for the next `up` here."""
    kept = Remembered(choice.context, choice.concurrency, choice.model, _memory(world.facts), because)
    write_json(world.home.deployment(choice.name) / _FILE, asdict(kept), 0o600)


def recall(
    home: Home, name: str, model: str, facts: host.Host, say: Callable[[str], None], *, forget: bool = True
) -> Remembered | None:
    """What was remembered for this model on a host with this memory; what no longer holds is said, and forgotten."""
    path = home.deployment(name) / _FILE
    raw = read_json(path)
    try:
        kept = Remembered(**raw) if isinstance(raw, dict) else None
    except TypeError:
        kept = None
    if kept is None or "?" in _memory(facts):
        return kept
    other = "the model" if kept.model != model else "the host's memory" if kept.memory != _memory(facts) else None
    if other is None:
        return kept
    if forget:
        path.unlink(missing_ok=True)
    say(f"{other} is another than when {kept.users} × {kept.context} tokens were remembered: they are chosen anew")
    return None


def before(
    home: Home, name: str, profile: Profile, record: Record | None, facts: host.Host, say: Callable[[str], None],
    *, forget: bool = True,
) -> tuple[int, int, str] | None:  # fmt: skip
    """Context, users and why, as an earlier `up` left them; None where the profile or this host decides."""
    model = models.model_id(profile.model, engine(profile.engine).files)
    had = (home.deployment(name) / _FILE).exists()
    kept = recall(home, name, model, facts, say, forget=forget)
    if kept:
        return kept.context, kept.users, f"remembered, because the engine said: {kept.because}"
    if had or record is None or record.profile != str(profile.path):
        return None
    if not record.context or not record.concurrency:
        return None
    return record.context, record.concurrency, "as it was chosen before"


def _fits(
    short: Shortage, choice: Choice, share: float, described: Description | None
) -> Callable[[int, int], bool]:
    """Whether a setting should hold, by what was reported and, in bytes, by sizing's arithmetic."""
    def need(context: int, users: int) -> int:
        assert described is not None
        return wanted.served(described, choice.profile, context, users).total

    if short.tokens is not None:
        most = short.tokens
        return lambda context, users: context * users <= most
    if described is None:  # a design that sizing does not know
        half = choice.context * choice.concurrency // 2
        return lambda context, users: share != choice.share or context * users <= half
    if short.total is not None:  # vLLM: what it may take in all is set, and the cache gets what is left of that
        room = int(short.total * share)
    else:
        room = need(choice.context, choice.concurrency) - (short.lacking or 0)
    return lambda context, users: need(context, users) <= room


def _share(short: Shortage, choice: Choice) -> float:
    """The part of a GPU's memory that vLLM is told to take: what is free, or as much less as it lacked."""
    if short.total is None or not short.total:
        return choice.share
    lacking = (short.lacking or 0) / short.total
    part = choice.share - lacking if short.free is None else short.free / short.total
    return min(choice.share, math.floor(100 * part - 1) / 100)


def _described(choice: Choice, home: Home) -> Description | None:
    model = models.Store(home).get(choice.converted or choice.model)
    try:
        return wanted.described(choice.profile, metadata.describe(model.weights)) if model else None
    except ModelError:
        return None


def _memory(facts: host.Host) -> str:
    """The host's memory as one word, that of the system and of each GPU; `?` in it where one was not told."""
    system = "?" if isinstance(facts.memory, host.Unknown) else str(facts.memory.total // _ROUGH)
    if isinstance(facts.gpus, host.Unknown):
        return f"{system}+?"
    cards = sorted(
        f"{card.name}:{card.vram // _ROUGH}" if isinstance(card.name, str) and isinstance(card.vram, int) else "?"
        for card in facts.gpus
    )
    return "+".join((system, *cards))


def _size(text: str) -> int:
    """`"350.00 MiB"` in bytes."""
    number, unit = text.split()
    return int(float(number) * _UNITS[unit])


def _number(pattern: str, log: Sequence[str]) -> int | None:
    import re

    found = next((match for line in log if (match := re.search(pattern, line))), None)
    return int(found[1]) if found else None
