"""How the GPUs are set up: lanes, modes, slices, links, displays."""

from __future__ import annotations

from deployer.checks.base import NOT_ASKED, Check, has, multi, service, sudo
from deployer.checks.driver import known
from deployer.checks.gpu import both, each, enough_without, reset, usable
from deployer.compat import upkeep
from deployer.host import Fabric, Fact, Gpu, Host, Link, NvLinks, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _pcie(host: Host, profile: Profile) -> Finding:
    """Each card has at least half of the PCI Express lanes that card and slot could use.

    Why: a card that is not seated well trains at x4 or x1: models load slowly, and several GPUs work badly together.
    Pass: the width now is at least half of what card and slot can; two cards share the lanes of many boards.
    Warn: it is less than half.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, or there is no PCI Express (unified memory, WSL).
    Fix: seat the card again; look at risers and the firmware's slot settings.
    """

    def bad(gpu: Gpu, link: Link) -> str | None:
        now, most = link.width, link.most_width
        if isinstance(now, int) and isinstance(most, int) and 0 < now < most // 2:
            return f"x{now} of x{most}"
        return None

    hint = "seat the card again; look at risers and the firmware's slot settings"
    return each(
        host, profile, "at least half of the lanes", both("link", "width", "most_width"), bad, warned, hint
    )


def _persistence(host: Host, profile: Profile) -> Finding:
    """The driver keeps the cards awake when nobody uses them.

    Why: without it every start wakes the cards anew, which takes seconds, and the nvidia hook may run out of time.
    Pass: persistence mode is on, or the card shows a display.
    Warn: it is off.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, or the driver has no such mode (WSL).
    Fix: nvidia-smi -pm 1, which holds until the next boot.
    """
    hint = sudo(host, "nvidia-smi -pm 1") if has(host, "nvidia-smi") else None

    def bad(gpu: Gpu, on: bool) -> str | None:
        return None if on or gpu.display is True else "off"

    return each(host, profile, "persistence mode", lambda g: g.persistence, bad, warned, hint)


def _mode(host: Host, profile: Profile) -> Finding:
    """Programs may share the cards.

    Why: in exclusive mode a second program gets `CUDA-capable device(s) is/are busy`; prohibited lets none in.
    Pass: the mode is the default.
    Warn: it is exclusive.
    Fail: it is prohibited on a card, and the profile cannot do without that one.
    Skip: the profile wants no GPU, none is usable, or there is no such mode.
    Fix: nvidia-smi -c 0.
    """
    hint = sudo(host, "nvidia-smi -c 0 -i {index}") if has(host, "nvidia-smi") else None
    closed = not isinstance(host.gpus, Unknown) and any(_prohibited(gpu) for gpu in host.gpus)
    short = closed and not enough_without(host, profile, _prohibited)
    return each(
        host, profile, "compute mode default", lambda g: g.compute_mode,
        lambda _, mode: None if mode == "default" else mode, failed if short else warned, hint,
    )  # fmt: skip


def _prohibited(gpu: Gpu) -> bool:
    return gpu.compute_mode == "prohibited"


def _mig(host: Host, profile: Profile) -> Finding:
    """Cards are either whole or cut into slices that can be used.

    Why: with MIG on and no slices there is no usable device at all; a slice has less memory than its card, and slices
        have no way to each other, so several of them cannot serve one model.
    Pass: MIG is off, or on with slices and the profile needs one GPU.
    Warn: a card cannot be used and the profile can do without it, a change waits for a reset, or the driver is one
        that misreports mixed slices (570.124.06 to 570.158.01).
    Fail: MIG is on without slices, or the profile needs several GPUs, and too few others are left.
    Skip: the profile wants no GPU, none is usable, or no card can be cut.
    Fix: make slices or turn MIG off with nvidia-smi.
    """
    need = profile.requirements.gpu
    wanted = "whole cards, or slices for a profile of one GPU"
    if need is None:
        return skipped(NOT_ASKED)
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    cut = [
        gpu
        for gpu in host.gpus
        if gpu.mig is not None and not isinstance(gpu.mig, Unknown) and gpu.mig.enabled
    ]
    off = sudo(host, "nvidia-smi -mig 0 -i {index}") if has(host, "nvidia-smi") else None

    def bad(gpu: Gpu, mig: object) -> str | None:
        if gpu not in cut or gpu.mig is None or isinstance(gpu.mig, Unknown):
            return None
        if not gpu.mig.slices:
            return "MIG is on and there are no slices"
        return "cut into slices, which have no way to each other" if multi(profile) else None

    gpus = usable(host, profile)
    short = not isinstance(gpus, Unknown) and len(gpus) < need.count
    finding = each(host, profile, wanted, lambda g: g.mig, bad, failed if short else warned, off)
    if finding.outcome.value != "pass":
        return finding
    pending = [
        g
        for g in host.gpus
        if g.mig is not None and not isinstance(g.mig, Unknown) and g.mig.enabled != g.mig.pending
    ]
    if pending:
        return warned(
            wanted,
            f"GPU {pending[0].index}: a change waits for a reset",
            reset(host).format(index=pending[0].index),
        )
    driver = known(host)
    if isinstance(driver, Unknown):
        return unknown(wanted, driver.reason)
    if cut and driver and upkeep.between(driver.version, "570.124.06", "570.158.01"):
        return warned(wanted, f"driver {driver.version} misreports mixed slices", "a driver after 570.158.01")
    slices = [s for gpu in cut if gpu.mig and not isinstance(gpu.mig, Unknown) for s in gpu.mig.slices]
    return passed(wanted, f"{len(slices)} slices" if slices else "MIG is off")


def _fabric(host: Host, profile: Profile) -> Finding:
    """On NVSwitch machines every GPU has joined the fabric.

    Why: until then CUDA says `system not yet initialized` (802), with one GPU as with eight.
    Pass: the state is completed, without an error.
    Warn: it is in progress, it ended with an error, or it has not started on a card that the profile can do without.
    Fail: it has not started on a card that is needed, although the fabric manager runs.
    Skip: the profile wants no GPU, none is usable, the cards are not on a fabric, or driver.fabric_manager says that
        the fabric manager does not run.
    Fix: driver.fabric_manager; when that is right, a reboot.
    """
    wanted = "fabric state completed"
    manager = host.fabric_manager
    stopped = not isinstance(host.gpus, Unknown) and any(_stopped(gpu) for gpu in host.gpus)
    switched = not isinstance(host.nvswitches, Unknown) and host.nvswitches > 0
    if stopped and switched and (manager is None or not (isinstance(manager, Unknown) or manager.running)):
        return skipped("not started: driver.fabric_manager says why", wanted)
    if stopped:
        short = not enough_without(host, profile, _stopped)
        return each(
            host, profile, wanted, lambda g: g.fabric, lambda g, _: "has not started" if _stopped(g) else None,
            failed if short else warned, "driver.fabric_manager; when that is right, reboot",
        )  # fmt: skip

    def bad(_: Gpu, fabric: Fabric) -> str | None:
        if fabric.state != "completed":
            return fabric.state
        return f"completed with error {fabric.status}" if fabric.status else None

    return each(
        host, profile, wanted, lambda g: g.fabric, bad, warned,
        "wait a minute and ask again; if it stays so, look at the fabric manager's log",
    )  # fmt: skip


def _stopped(gpu: Gpu) -> bool:
    return isinstance(gpu.fabric, Fabric) and gpu.fabric.state == "not started"


def _nvlinks(host: Host, profile: Profile) -> Finding:
    """All NVLinks of cards that have some are up.

    Why: with a link down several GPUs fall back to PCI Express, or hang without a word.
    Pass: all are up.
    Warn: some are up and some are down.
    Fail: never.
    Skip: the profile needs one GPU, none is usable, or no card has links that are up (no bridge fitted).
    Fix: the bridge or the board; NCCL_P2P_DISABLE=1 until then.
    """
    if not multi(profile):
        return skipped("the profile does not need several GPUs")

    def fact(gpu: Gpu) -> Fact[NvLinks | None]:
        links = gpu.nvlinks
        return None if isinstance(links, NvLinks) and not links.up else links

    return each(
        host, profile, "all NVLinks up", fact,
        lambda _, links: None if links.up == links.all else f"{links.up} of {links.all}", warned,
        "look at the bridge; until then NCCL_P2P_DISABLE=1 keeps programs from hanging",
    )  # fmt: skip


def _display(host: Host, profile: Profile) -> Finding:
    """The GPU for the model does not draw a desktop.

    Why: the desktop takes memory and time from the model, and freezes while it works.
    Pass: no display is active, or enough other GPUs have none.
    Warn: one is, and the profile cannot do without that card.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, the desktop is Windows's (WSL), or the driver does not tell.
    Fix: another card for the display, or no desktop.
    """
    need = profile.requirements.gpu
    if need is not None and not isinstance(host.gpus, Unknown):
        free = [gpu for gpu in host.gpus if gpu.display is False or gpu.display is None]
        free = free if any(gpu.display is not None for gpu in host.gpus) else []
        if len(free) >= need.count:
            return passed("no desktop on the GPU", f"{len(free)} without one")
    drawing = not isinstance(host.gpus, Unknown) and any(gpu.display is True for gpu in host.gpus)
    if need is not None and drawing and not isinstance(host.system, Unknown) and host.system.wsl:
        return skipped("under WSL the desktop is Windows's", "no desktop on the GPU")
    target = service(host, "isolate multi-user.target")
    hint = (
        f"{target} ends the desktop until the next boot" if target else "plug the display into another card"
    )
    return each(
        host, profile, "no desktop on the GPU", lambda g: g.display,
        lambda _, on: "draws one" if on else None, warned, hint,
    )  # fmt: skip


def _mixed(host: Host, profile: Profile) -> Finding:
    """Several GPUs that work together are of one kind.

    Why: the slowest one sets the pace, the smallest one the size; and programs count unlike cards in another order
        than nvidia-smi does, so that the wrong one gets the model. Deployer names cards by UUID for that reason.
    Pass: all are of one model, or the profile needs one.
    Warn: the profile needs several, and too few are of one model.
    Fail: never.
    Skip: the profile wants no GPU, there is only one, or a name is unknown.
    Fix: none; choose with a profile which cards suit.
    """
    need = profile.requirements.gpu
    wanted = "cards of one kind"
    if need is None:
        return skipped(NOT_ASKED)
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if len(host.gpus) < 2:
        return skipped("there is not more than one GPU", wanted)
    names = [gpu.name for gpu in host.gpus if not isinstance(gpu.name, Unknown)]
    counts = {name: names.count(name) for name in names}
    text = ", ".join(f"{count} × {name}" for name, count in counts.items())
    if need.count == 1 or max(counts.values(), default=0) >= need.count:
        return passed(wanted, text or "names unknown, and one is enough")
    if len(names) < len(host.gpus):
        return unknown(wanted, "the name of a card cannot be read")
    return warned(wanted, text, "the smallest and slowest card sets the pace of all")


CHECKS = (
    Check("gpu.pcie", _pcie, advice=True),
    Check("gpu.persistence", _persistence, advice=True),
    Check("gpu.compute_mode", _mode),
    Check("gpu.mig", _mig, pains=(10,)),
    Check("gpu.fabric", _fabric, pains=(9,), advice=True),
    Check("gpu.nvlinks", _nvlinks, pains=(24,), advice=True),
    Check("gpu.display", _display, pains=(11, 21), advice=True),
    Check("gpu.mixed", _mixed, pains=(11,), advice=True),
)
