"""Takes a deployment down and waits until its memory is back: the system's and that of GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from deployer.errors import LaunchError
from deployer.frozen import dataclass
from deployer.host import Gpu, Unknown
from deployer.progress import Progress
from deployer.quantity import format_size
from deployer.runtimes import Runtime
from deployer.runtimes.living import Member, end, member

GRACE_S = 5.0  # for what still lives after its unit was stopped, before it is killed
LIMIT_S = 60.0  # until all its memory must be back


@dataclass(frozen=True)
class Holder:
    """A program that holds `memory` bytes of a GPU, None where the driver does not tell."""

    gpu: int
    pid: int
    name: str | None
    memory: int | None
    state: str | None

    def __str__(self) -> str:
        size = "an unknown amount" if self.memory is None else format_size(self.memory)
        stuck = ", which the driver does not let end" if self.state == "D" else ""
        return f"{self.name or 'a program'} (pid {self.pid}) holds {size} of GPU {self.gpu}{stuck}"


@dataclass(frozen=True)
class Released:
    """What came back. `gpus` is bytes by the GPU's index, `unknown` why the GPUs could not be asked.

    `killed` did not end with their unit; `others` are programs that are not ours and hold memory of the same GPUs.
    """

    processes: int
    gpus: dict[int, int]
    killed: tuple[Member, ...]
    others: tuple[Holder, ...]
    unknown: str | None = None


Look = Callable[[], "tuple[Gpu, ...] | Unknown"]


def release(
    unit: str, runtimes: Sequence[Runtime], look: Look, progress: Progress, *, limit: float = LIMIT_S
) -> Released:
    """Stops `unit` and returns when none of its processes lives and none holds memory of a GPU.

    `look` asks for the GPUs. A process is the unit's when it was in the unit's containers, or carried its mark, or
    descended from one that did, just before the stop; only such a one is killed. Raises LaunchError after `limit`
    seconds, with who still holds what.
    """
    members = {one.pid: one for runtime in runtimes for one in runtime.members(unit)}
    gpus = look()
    before = tuple(_holders(gpus))
    mine = [holder for holder in before if holder.pid in members]
    cards = {holder.gpu for holder in mine}
    for runtime in runtimes:
        runtime.stop(unit)
    begin = time.monotonic()
    killed: list[Member] = []
    while True:
        alive = [one for one in members.values() if one.state is not None]
        gpus = look() if cards else gpus
        now = tuple(_holders(gpus))
        # the number may be another program's by now: then that one holds it
        held = [h for h in now if h.pid in members and (members[h.pid].state or member(h.pid) is None)]
        if not alive and not held:
            break
        waited = time.monotonic() - begin
        if waited > limit:
            raise _stuck(unit, alive, [replace(h, name=members[h.pid].name) for h in held], limit)
        if waited > GRACE_S and len(killed) < len(alive):
            killed = [one for one in alive if end(one)]
            progress.say(f"{unit}: killed {', '.join(f'{one.name} (pid {one.pid})' for one in killed) or 'nobody'}")
        time.sleep(0.05 if waited < 1 else 0.5)
    back: dict[int, int] = {}
    for holder in mine:
        back[holder.gpu] = back.get(holder.gpu, 0) + (holder.memory or 0)
    others = tuple(h for h in now if h.gpu in cards)
    return Released(len(members), back, tuple(killed), others, gpus.reason if isinstance(gpus, Unknown) else None)


def _holders(gpus: tuple[Gpu, ...] | Unknown) -> Iterable[Holder]:
    for gpu in () if isinstance(gpus, Unknown) else gpus:
        for one in gpu.processes if isinstance(gpu.processes, tuple) else ():
            yield Holder(gpu.index, one.pid, one.name, one.memory, one.state)


def _stuck(unit: str, alive: Sequence[Member], held: Sequence[Holder], limit: float) -> LaunchError:
    lines = [str(holder) for holder in held]
    told = {holder.pid for holder in held}
    lines += [f"{one.name} (pid {one.pid}) has not ended, state {one.state}" for one in alive if one.pid not in told]
    if any(one.state == "D" for one in alive):
        hint = "a process in state D waits for the driver: sudo nvidia-smi --gpu-reset, or a reboot, ends it"
    elif alive:
        hint = f"sudo kill -9 {' '.join(str(one.pid) for one in alive)}"
    else:
        hint = "the driver still counts programs that have ended: sudo nvidia-smi --gpu-reset, or a reboot"
    return LaunchError(f"{unit} is stopped, and after {limit:.0f} s its memory is not back", hint=hint, evidence=lines)
