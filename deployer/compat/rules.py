"""The rules for one GPU, in the order in which a start would meet them; each gives a verdict or passes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deployer.compat import requirement
from deployer.compat.cards import Device
from deployer.compat.demand import Demand
from deployer.compat.requirement import Facts, Truth
from deployer.compat.tables import (
    architecture,
    cuda_driver,
    cudnn_capabilities,
    family_driver,
    first_cuda,
    major,
    minor,
    newest_cuda,
    newest_known,
    rows,
    runs_on,
)
from deployer.compat.verdict import Kind, Verdict, World, failed
from deployer.quantity import at_least, parse_version


def apply(driver: str, device: Device, demand: Demand, world: World) -> Verdict:
    """What happens with this one GPU, in a world where the toolkit behaves in one known way."""
    found = (
        _known_to_driver(driver, device)
        or _conditions(driver, device, demand, world)
        or _libraries(driver, device, demand, world)
        or _driver(driver, device, demand)
    )
    if not found.runs:
        besides = _code(device, demand, Verdict(Kind.RUNS, ""))
        if found.error and besides and besides.kind is Kind.CANNOT:
            return replace(found, reason=f"{found.reason}; besides, {besides.reason}")
        return found
    if not world.enforced and any(
        _truth(requirement.parse(text), driver, device) is not Truth.MET for text in demand.conditions
    ):
        note = "its own condition does not hold, but nothing enforces it with CDI"
        found = replace(found, notes=(*found.notes, note))
    return _code(device, demand, found) or _cudnn(device, demand) or found


def last_branch(device: Device) -> int:
    """The last driver branch that knows the card, as far as the tables go."""
    row = architecture(device.compute_capability or "")
    return int(row["last_branch"]) if row and row["last_branch"] != "-" else int(newest_known())


def _known_to_driver(driver: str, device: Device) -> Verdict | None:
    """A driver sees a card neither before it knows it nor after NVIDIA has dropped it."""
    row = architecture(device.compute_capability or "")
    if row is None:
        return None
    if row["least_driver"] != "-" and not at_least(driver, row["least_driver"]):
        return Verdict(
            Kind.CANNOT,
            f"driver {driver} does not know the {device.short} ({row['name']}): {row['least_driver']} is its first",
        )
    if row["last_branch"] != "-" and major(driver) > last_branch(device):
        return Verdict(
            Kind.CANNOT,
            f"driver {driver} no longer knows the {device.short} ({row['name']}): "
            f"{row['last_branch']} is its last branch",
        )
    return None


def _conditions(driver: str, device: Device, demand: Demand, world: World) -> Verdict | None:
    """The image's own conditions, where they are enforced; or where nothing else is known of it."""
    if not world.enforced and demand.cuda:
        return None
    for text in demand.conditions:
        condition = requirement.parse(text)
        found = _truth(condition, driver, device)
        wants = f"the image wants {text.split(' ')[0]}"
        if len(condition.alternatives) > 1:
            wants += " or one of the brands and driver branches that it lists"
        if found is Truth.NOT_MET and world.enforced:
            return Verdict(
                Kind.CANNOT,
                f"{wants}; driver {driver} speaks CUDA {newest_cuda(driver)}, and the {device.short} is of brand "
                f"{' or '.join(device.brands) or 'unknown'}",
                f"nvidia-container-cli: requirement error: {requirement.message(condition)}",
            )
        if found is not Truth.MET:
            return Verdict(Kind.UNKNOWN, f"{wants}: whether that holds is not known")
    return None


def _truth(condition: requirement.Requirement, driver: str, device: Device) -> Truth:
    """For every word that drivers use for the card's brand: the same truth for all, or unknown."""
    facts = Facts(
        cuda=newest_cuda(driver),
        driver=driver,
        arch=device.compute_capability,
        brand=None,
        cuda_or_later=major(driver) > int(newest_known()),
    )
    found = {requirement.evaluate(condition, replace(facts, brand=word)) for word in device.brands or (None,)}
    return found.pop() if len(found) == 1 else Truth.UNKNOWN


def _libraries(driver: str, device: Device, demand: Demand, world: World) -> Verdict | None:
    """What happens when the image's compat libraries take the place of the driver's; None when they do not."""
    compat = demand.compat
    if compat is None or compat.major == major(driver):
        return None
    first = compat.first and world.first
    works = major(driver) in (compat.branches or _branches(compat.cuda))
    used = {
        "mount": True,
        "none": False,
        "newer": compat.major > major(driver),
        "note": works if compat.branches else compat.major > major(driver) and works,
    }[world.treatment]
    if not (used or first):
        return None
    theirs = f"the image's compat libraries (CUDA {compat.cuda}, branch {compat.major})"
    if compat.major < major(driver):
        return failed(803, f"{theirs} are older than driver {driver} and hide its own")
    if device.forward is False:
        return failed(804, f"{theirs} do not work on a {_class(device)} card such as the {device.short}")
    if device.forward is None:
        return Verdict(Kind.UNKNOWN, f"whether compat libraries work on the {device.short} is not known")
    if not works:
        return failed(803, f"{theirs} do not support driver branch {major(driver)}")
    if demand.cuda and not at_least(compat.cuda, minor(demand.cuda)):
        return Verdict(Kind.UNKNOWN, f"{theirs} are older than the image's CUDA {demand.cuda}")
    notes = ("NVIDIA supports compat libraries on selected RTX cards only",)
    return Verdict(
        Kind.COMPAT,
        f"{theirs} work on driver branch {major(driver)}",
        notes=notes if device.group in ("rtx-pro", "quadro") else (),
    )


def _driver(driver: str, device: Device, demand: Demand) -> Verdict:
    """What the driver itself can run."""
    if demand.cuda is None:
        if demand.driver and not at_least(driver, demand.driver):
            return failed(35, f"it needs driver {demand.driver} or later, this is {driver}")
        return Verdict(Kind.RUNS, f"it asks for nothing that driver {driver} lacks")
    wanted = minor(demand.cuda)
    spoken = newest_cuda(driver)
    least = family_driver(wanted)
    floor = max((v for v in (least, demand.driver) if v), key=parse_version, default=None)
    if floor and not at_least(driver, floor):
        return _too_old(driver, device, demand, floor)
    if spoken and at_least(spoken, wanted):
        return Verdict(Kind.RUNS, f"driver {driver} speaks CUDA {spoken}")
    if least is None:
        return Verdict(Kind.UNKNOWN, f"which driver CUDA {wanted} needs is not in the tables")
    own = cuda_driver(wanted)
    return Verdict(
        Kind.MINOR,
        f"driver {driver} is older than CUDA {wanted}{f' ({own})' if own else ''}, but {least} or later runs "
        f"programs of every CUDA {wanted.split('.')[0]}",
        notes=("only code compiled for the card runs: no PTX, and nothing that needs a newer driver",),
    )


def _too_old(driver: str, device: Device, demand: Demand, floor: str) -> Verdict:
    cuda = minor(demand.cuda or "0")
    why = f"driver {driver} is too old for CUDA {cuda}, which needs {floor} or later"
    package = f"cuda-compat-{cuda.replace('.', '-')}"
    if major(driver) not in _branches(cuda) or device.forward is None:
        return failed(35, why)
    if device.forward is False:
        return failed(35, f"{why}; {_class(device)} cards cannot use compat libraries instead")
    if demand.compat is None:
        return replace(failed(35, f"{why}, or {package} in the image"), kind=Kind.COMPAT)
    held = f"{why}; the image has compat libraries, but this version of the toolkit leaves them unused"
    return replace(failed(35, held), kind=Kind.COMPAT)


def _code(device: Device, demand: Demand, found: Verdict) -> Verdict | None:
    """Whether there is code for the card; None when there is."""
    capability = device.compute_capability
    if capability is None:
        return Verdict(Kind.UNKNOWN, f"the compute capability of the {device.short} is not known")
    row = architecture(capability)
    cuda = minor(demand.cuda) if demand.cuda else None
    this = f"the {device.short} ({row['name'] + ', ' if row else ''}{capability})"
    if row and cuda and row["last_cuda"] != "-" and not at_least(row["last_cuda"], cuda):
        return failed(209, f"CUDA {cuda} has no code for {this}: {row['last_cuda']} is the last that has")
    if not demand.sass and not demand.ptx:
        since = first_cuda(capability)
        if since and cuda and not at_least(cuda, since):
            return Verdict(
                Kind.UNKNOWN,
                f"CUDA {cuda} cannot make code for {this}, {since} is the first; only a program with PTX would run",
            )
        return None
    if any(runs_on(code, capability, cuda) for code in demand.sass):
        return None
    held = f"its code is for {_listed(demand.sass) or 'PTX only'}, not for {this}"
    if not any(at_least(capability, code) for code in demand.ptx):
        return failed(209, held)
    if found.kind is Kind.MINOR:
        return failed(222, f"{held}, and its PTX is newer than driver and CUDA allow")
    note = f"compiled from PTX at the first start: {held}"
    return replace(found, notes=(*found.notes, note))


def _cudnn(device: Device, demand: Demand) -> Verdict | None:
    if not (demand.cudnn and demand.cuda and device.compute_capability):
        return None
    known = cudnn_capabilities(demand.cudnn, demand.cuda)
    if known is None:
        return None
    capabilities, since = known
    oldest = min(capabilities, key=parse_version)
    if at_least(device.compute_capability, oldest):
        return None
    return Verdict(
        Kind.CANNOT,
        f"cuDNN {demand.cudnn} has no code for the {device.short} ({device.compute_capability}): "
        f"from {since} on it begins at {oldest}",
    )


def _branches(cuda: str) -> tuple[int, ...]:
    """Driver branches that cuda-compat of this CUDA works on, by NVIDIA's table or by its images' conditions."""
    found = {
        branch
        for name in ("forward.tsv", "requires.tsv")
        for version, branches, *_ in rows(name)
        if version == minor(cuda)
        for branch in branches.split()
        if branch != "-"
    }
    return tuple(sorted(map(int, found)))


def _class(device: Device) -> str:
    return {"geforce": "GeForce", "titan": "TITAN"}.get(device.group or "", str(device.group))


def _listed(capabilities: Iterable[str]) -> str:
    return " ".join(sorted(capabilities, key=parse_version))
