"""How well the GPUs are: what the card itself, the driver and the kernel say of it."""

from __future__ import annotations

from deployer.checks.base import NOT_ASKED, Check, has, service, sudo
from deployer.checks.gpu import NONE_USABLE, answers, both, each, enough_without, reset
from deployer.compat import upkeep
from deployer.host import Ecc, Fact, Gpu, Heat, Host, Power, Repair, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped, unknown, warned


def _answers(host: Host, profile: Profile) -> Finding:
    """Every GPU on the PCI bus answers the driver.

    Why: a card that fell off the bus still stands in lists, and a service on the others keeps saying that it is well.
    Pass: NVML shows as many GPUs as the bus, and each says who it is.
    Warn: one is on the bus and not in NVML, or does not answer, and the profile can do without it.
    Fail: one is lost, and too few others are left.
    Skip: the profile wants no GPU, none is usable, a GPU does not answer for another reason, or the bus cannot be read.
    Fix: power, cooling or the card itself; a cold reboot brings it back once if at all.
    """
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    wanted = "every GPU answers"
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    if not host.gpus:
        return skipped(NONE_USABLE, wanted)
    bus = () if isinstance(host.pci_gpus, Unknown) else host.pci_gpus
    seen = {gpu.pci for gpu in host.gpus if isinstance(gpu.pci, str)}
    silent = [
        f"GPU {gpu.index}: {gpu.uuid.reason}"
        for gpu in host.gpus
        if isinstance(gpu.uuid, Unknown) and not answers(gpu)
    ]
    found = list(silent)
    if len(bus) > len(host.gpus):
        missing = [gpu.address for gpu in bus if gpu.address not in seen]
        found.append(
            f"{', '.join(missing)} on the bus and not in NVML"
            if len(seen) == len(host.gpus)
            else f"{len(bus)} on the bus, {len(host.gpus)} in NVML"
        )
    hint = (
        "power, cooling or the card: switch the machine off and on; the kernel's log has the reason (gpu.xid)"
    )
    if found and enough_without(host, profile, lambda gpu: not answers(gpu)):
        return warned(wanted, "; ".join(found), hint)
    if any(_lost(gpu) for gpu in host.gpus):
        return failed(wanted, "; ".join(found), hint)
    if silent:
        return unknown(wanted, "; ".join(silent))
    if found:  # gpu.count has failed
        return warned(wanted, "; ".join(found), hint)
    if isinstance(host.pci_gpus, Unknown):
        return unknown(wanted, host.pci_gpus.reason)
    return passed(wanted, f"{len(host.gpus)}")


def _lost(gpu: Gpu) -> bool:
    """What NVML says of a card that has left the bus, has no power or needs a reset; else it is silent for others."""
    said = gpu.uuid.reason if isinstance(gpu.uuid, Unknown) else ""
    words = ("GPU is lost", "requires restart", "External Power", "Unknown Error")
    return not answers(gpu) and any(word in said for word in words)


def _xid(host: Host, profile: Profile) -> Finding:
    """The driver has written no serious error to the kernel's log since boot.

    Why: an Xid such as 79 (fallen off the bus), 48 (double-bit ECC) or 119 (GSP) comes before what users see.
    Pass: none, or only those that a program's own fault causes (13, 31, 43, 45, 68).
    Warn: one that asks for a reset or a look, or for a reboot on a card that the profile can do without or that
        answers again.
    Fail: 79 or another that only a reboot ends, and too few cards answer.
    Skip: the profile wants no GPU, there is no driver, or this user may not read the kernel's log.
    Fix: what NVIDIA's catalogue says for the number: reset, reboot, or support with the line kept.
    """
    if profile.requirements.gpu is None:
        return skipped(NOT_ASKED)
    wanted = "no Xid errors since boot"
    if isinstance(host.driver, Unknown):
        return unknown(wanted, host.driver.reason)
    if host.driver is None:
        return skipped("no driver of NVIDIA's writes to this kernel's log", wanted)
    if isinstance(host.kernel_log, Unknown):
        look = "journalctl -k | grep Xid" if service(host, "status") else "dmesg | grep Xid"
        return unknown(wanted, host.kernel_log.reason, sudo(host, look))
    worst = [
        (about.weight, f"{xid.gpu}: Xid {xid.code} ({about.meaning})", about.action, xid.gpu)
        for xid in host.kernel_log.xids
        for about in (upkeep.xid(xid.code),)
    ]
    serious = sorted((w for w in worst if w[0] > 0), key=lambda w: -w[0])
    if not serious:
        return passed(wanted, f"{len(worst)} that programs cause themselves" if worst else "none")
    found = "; ".join(dict.fromkeys(text for _, text, _, _ in serious))
    gpus = () if isinstance(host.gpus, Unknown) else host.gpus
    back = {gpu.pci for gpu in gpus if isinstance(gpu.pci, str) and answers(gpu)}
    gone = {address for weight, _, _, address in serious if weight > 1 and address not in back}
    left = sum(answers(gpu) for gpu in gpus)
    short = bool(gone) and left < profile.requirements.gpu.count
    hint, command = serious[0][2], "nvidia-smi --gpu-reset"
    if has(host, "nvidia-smi"):
        hint = hint.replace(command, sudo(host, command))
    else:
        hint = hint.replace(f"{command}, or reboot", "reboot")
    return (failed if short else warned)(wanted, found, hint)


def _ecc(host: Host, profile: Profile) -> Finding:
    """Error correction has met nothing that it could not correct since the driver was loaded.

    Why: an uncorrected error ends the program with `uncorrectable ECC error encountered` (214).
    Pass: the count is 0 on every card with error correction.
    Warn: it is not, or a change of the mode waits for a reboot.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, no card has error correction or it is off, or the count is unknown.
    Fix: a reset of the card; support when it comes again.
    """

    def fact(gpu: Gpu) -> Fact[Ecc | None]:
        if gpu.ecc is None or isinstance(gpu.ecc, Unknown) or gpu.ecc.enabled != gpu.ecc.pending:
            return gpu.ecc
        if isinstance(gpu.ecc.uncorrected, Unknown):
            return gpu.ecc.uncorrected
        return gpu.ecc if gpu.ecc.enabled and gpu.ecc.uncorrected is not None else None

    def bad(gpu: Gpu, ecc: Ecc) -> str | None:
        if isinstance(ecc.uncorrected, int) and ecc.uncorrected > 0:
            return f"{ecc.uncorrected} uncorrected errors"
        return "a change of the ECC mode waits for a reboot" if ecc.enabled != ecc.pending else None

    return each(host, profile, "no uncorrected memory errors", fact, bad, warned, reset(host))


def _repair(host: Host, profile: Profile) -> Finding:
    """No repair of a card's memory has failed or waits for a reset.

    Why: until the reset the bad rows or pages stay in use; after a failed remapping the card must be exchanged.
    Pass: nothing waits and nothing failed.
    Warn: a remapping or a page retirement waits for a reset, or a remapping failed on a card that the profile can do
        without.
    Fail: a remapping failed, and too few other cards are left.
    Skip: the profile wants no GPU, none is usable, or no card does such repairs.
    Fix: a reset of the card; a failed one is a case for the maker.
    """
    wanted = "no memory repair pending or failed"

    def fact(gpu: Gpu) -> Fact[Repair | None]:
        rows, pages = gpu.remapped, gpu.retired
        known = rows if isinstance(rows, Repair) else Repair(pending=pages is True, failed=False)
        if known.failed or known.pending or pages is True:
            return Repair(pending=True, failed=known.failed)
        for one in (rows, pages):
            if isinstance(one, Unknown):
                return one
        return None if rows is None and pages is None else known

    if not isinstance(host.gpus, Unknown) and any(_broken(gpu) for gpu in host.gpus):
        short = not enough_without(host, profile, _broken)
        return each(
            host, profile, wanted, fact, lambda _, r: "a row remapping failed" if r.failed else None,
            failed if short else warned, "have the card exchanged; take it out of use until then",
        )  # fmt: skip
    return each(
        host,
        profile,
        wanted,
        fact,
        lambda _, r: "a repair waits for a reset" if r.pending else None,
        warned,
        reset(host),
    )


def _broken(gpu: Gpu) -> bool:
    return isinstance(gpu.remapped, Repair) and gpu.remapped.failed


def _throttled(host: Host, profile: Profile) -> Finding:
    """Nothing holds the clocks of a card down right now.

    Why: heat, a weak power supply or a power cap make a card much slower than its kind, without any message.
    Pass: no reason is set.
    Warn: heat, hardware slowdown, power brake or a power cap is set.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, or the driver does not tell.
    Fix: cooling and power; nvidia-smi -pl for a cap that somebody set.
    """
    serious = {"hardware slowdown", "thermal", "hardware thermal", "power brake", "power cap"}
    return each(
        host, profile, "no reason to slow down", lambda g: g.throttled,
        lambda _, reasons: ", ".join(r for r in reasons if r in serious) or None, warned,
        "look at cooling and power cables; for a cap: nvidia-smi -q -d PERFORMANCE,POWER -i {index}"
        if has(host, "nvidia-smi") else "look at cooling and power cables",
    )  # fmt: skip


def _temperature(host: Host, profile: Profile) -> Finding:
    """No card is within 5 °C of the temperature at which it slows itself down.

    Why: under load it will pass it, and the measured speed of the deployment will fall.
    Pass: there is more room than that.
    Warn: there is less.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, or the card gives no limit in degrees (Ada and later give margins).
    Fix: airflow, fans, dust.
    """

    def bad(gpu: Gpu, heat: Heat) -> str | None:
        if isinstance(heat.now, int) and isinstance(heat.slowdown, int) and heat.now > heat.slowdown - 5 > 0:
            return f"{heat.now} °C, slows down at {heat.slowdown} °C"
        return None

    return each(
        host,
        profile,
        "at least 5 °C to the limit",
        both("heat", "now", "slowdown"),
        bad,
        warned,
        "look at fans, airflow and dust",
    )


def _power(host: Host, profile: Profile) -> Finding:
    """No card's power limit is set below 80 % of what its maker sets.

    Why: such a cap costs speed for every token, and somebody may have forgotten it.
    Pass: the limit in force is at least 80 % of the default.
    Warn: it is less.
    Fail: never.
    Skip: the profile wants no GPU, none is usable, or the card has no such limit.
    Fix: nvidia-smi -pl with the default.
    """

    def bad(gpu: Gpu, power: Power) -> str | None:
        limit, default = power.limit, power.default
        if isinstance(limit, float) and isinstance(default, float) and limit < 0.8 * default:
            return f"{limit:.0f} W of {default:.0f} W"
        return None

    low = [
        gpu.power.default
        for gpu in (() if isinstance(host.gpus, Unknown) else host.gpus)
        if isinstance(gpu.power, Power) and bad(gpu, gpu.power)
    ]
    hint = None
    if low and isinstance(low[0], float) and has(host, "nvidia-smi"):
        hint = sudo(host, f"nvidia-smi -pl {low[0]:.0f} -i {{index}}")
    return each(
        host,
        profile,
        "at least 80 % of the default power",
        both("power", "limit", "default"),
        bad,
        warned,
        hint,
    )


CHECKS = (
    Check("gpu.answers", _answers, pains=(39,), advice=True),
    Check("gpu.xid", _xid, pains=(39,), advice=True),
    Check("gpu.ecc", _ecc, advice=True),
    Check("gpu.repair", _repair, advice=True),
    Check("gpu.throttled", _throttled, advice=True),
    Check("gpu.temperature", _temperature, advice=True),
    Check("gpu.power", _power, advice=True),
)
