"""Who else uses the GPUs, and whether the cards are what their names say."""

from __future__ import annotations

from deployer import compat
from deployer.checks.base import NOMINAL, NOT_ASKED, Check, sudo
from deployer.checks.gpu import NONE_USABLE, capability, counted, holder
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.report import Finding, passed, skipped, unknown, warned


def _held(host: Host, profile: Profile) -> Finding:
    """No other program holds memory of the GPUs.

    Why: what is free now may be gone when the engine starts, and a shared card is slower than the table says.
    Pass: no program but a few megabytes of a display.
    Warn: programs hold more than 256 MB of a GPU, or how much is not told; each is named with pid, user and container.
    Fail: never; whether enough is left is gpu.free_vram's question.
    Skip: the profile wants no GPU, none is usable, or the driver does not tell (WSL).
    Fix: end the programs named, or take another GPU.
    """
    if profile.requirements.gpu is None:
        return skipped(NOT_ASKED)
    wanted = "no other program on the GPUs"
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return skipped(NONE_USABLE, wanted)
    large: list[str] = []
    quiet: list[str] = []
    unasked: list[str] = []
    for gpu in host.gpus:
        if isinstance(gpu.processes, Unknown):
            unasked.append(gpu.processes.reason)
            continue
        for process in gpu.processes or ():
            size = process.memory
            (large if size is None or size > 256 * 10**6 else quiet).append(
                f"GPU {gpu.index}: {holder(host, process)}"
            )
    if large:
        return warned(
            wanted, "; ".join(large), "end them, or let gpu.free_vram decide whether the rest is enough"
        )
    if unasked:
        return unknown(wanted, unasked[0])
    if all(gpu.processes is None for gpu in host.gpus):
        return skipped("this driver does not say who uses a GPU", wanted)
    return passed(wanted, "; ".join(quiet) or "none")


def _orphans(host: Host, profile: Profile) -> Finding:
    """No program holds memory of a GPU for a container that is gone, or cannot be ended.

    Why: a worker that outlived its container keeps its memory; one that stays in state D (uninterruptible) is only
        ended by a reboot.
    Pass: every program on a GPU belongs to the host or to a running container.
    Warn: a program's container does not run in the engine that was asked, or its state is D now.
    Fail: never; whether enough memory is left is gpu.free_vram's question.
    Skip: the profile wants no GPU, none is usable, or programs or containers cannot be seen.
    Fix: end exactly the programs named, unless another engine runs them; a reboot where they cannot be ended.
    """
    if profile.requirements.gpu is None:
        return skipped(NOT_ASKED)
    wanted = "no program that outlived its container"
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return skipped(NONE_USABLE, wanted)
    processes = []
    for gpu in host.gpus:
        if isinstance(gpu.processes, Unknown):
            return unknown(wanted, gpu.processes.reason)
        processes += list(gpu.processes or ())
    stuck = [p for p in processes if p.state == "D"]
    if stuck:
        found = f"in state D, which no signal ends: {', '.join(holder(host, p) for p in stuck)}"
        return warned(wanted, found, "ask again; if it stays so, only a reboot ends it")
    inside = [p for p in processes if p.container]
    if not inside:
        return passed(wanted, "none of them is in a container")
    engine = host.runtime
    if engine is None or isinstance(engine, Unknown) or isinstance(engine.containers, Unknown):
        return unknown(wanted, "running containers cannot be listed")
    gone = [p for p in inside if p.container not in engine.containers]
    if not gone:
        return passed(wanted, "every container runs")
    kill = sudo(host, "kill " + " ".join(str(p.pid) for p in gone))
    found = f"{', '.join(holder(host, p) for p in gone)}, whose container does not run in {engine.kind}"
    return warned(wanted, found, f"unless another engine runs it: {kill}")


def _genuine(host: Host, profile: Profile) -> Finding:
    """Each card has the memory and the capability that its name stands for.

    Why: flashed cards carry another card's name, and a card that lost a memory module shows less than its kind.
    Pass: the memory is at least 0.9 of what the table gives for the name, and the capability is the table's. Memory
        that the table does not know from NVIDIA or a log is not compared: some names stand for two sizes.
    Warn: it is less, or the capability is another.
    Fail: never; measured values win over the table.
    Skip: the profile wants no GPU, none is usable, no card's name is in the table, or a card does not say.
    Fix: none from here; have the card looked at.
    """
    if profile.requirements.gpu is None:
        return skipped(NOT_ASKED)
    wanted = "cards that are what their name says"
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return skipped(NONE_USABLE, wanted)
    odd, known, unasked = [], [], []
    for gpu in host.gpus:
        if isinstance(gpu.name, Unknown):
            unasked.append(f"GPU {gpu.index}: {gpu.name.reason}")
            continue
        card, of_card = compat.card(gpu.name), capability(gpu)
        if card is None:
            continue
        known.append(card.name)
        if isinstance(of_card, Unknown):
            unasked.append(f"GPU {gpu.index}: {of_card.reason}")
        elif of_card != card.compute_capability:
            odd.append(f"GPU {gpu.index}: capability {of_card}, not {card.compute_capability}")
        if card.vram is None or gpu.unified is True or card.marks.startswith("M"):
            continue
        if isinstance(gpu.vram, Unknown):
            unasked.append(f"GPU {gpu.index}: {gpu.vram.reason}")
        elif gpu.vram < NOMINAL * card.vram:
            odd.append(
                f"GPU {gpu.index}: {format_size(gpu.vram)}, a {card.name} has {format_size(card.vram)}"
            )
    if odd:
        return warned(wanted, "; ".join(odd), "have the card looked at; measured values are used")
    if unasked:
        return unknown(wanted, "; ".join(unasked))
    return passed(wanted, counted(known)) if known else skipped("no card's name is in the table", wanted)


CHECKS = (
    Check("gpu.holders", _held, pains=(21, 25), advice=True),
    Check("gpu.orphans", _orphans, pains=(25,), advice=True),
    Check("gpu.genuine", _genuine, advice=True),
)
