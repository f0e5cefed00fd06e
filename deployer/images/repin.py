"""What `--set` changes in a variant, or the reason why not: another cuDNN in its lock, other GPUs to compile for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from deployer.compat import rows, runs_on
from deployer.compat.tables import architecture, cudnn_capabilities, cudnn_ends, major
from deployer.errors import BuildError, QuestionError, SourceUnreachable
from deployer.fetch.wheel import Listed, choose, listing, local, ranks
from deployer.frozen import dataclass
from deployer.images.lock import Pin, Resolver, parse, render, resolve
from deployer.images.recipe import Variant
from deployer.quantity import at_least, parse_version

if TYPE_CHECKING:
    import httpx

_FAMILIES = ("11", "12", "13")


@dataclass(frozen=True)
class Promise:
    """What a variant promises: its CUDA (`"13.0"`), torch, the cuDNN that torch was made with, compute capabilities."""

    name: str
    cuda: str
    torch: str
    cudnn: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repinned:
    """The new lock's text, and what a person should know of it."""

    lock: str
    notes: tuple[str, ...] = ()


def recompiled(variant: Variant, wanted: str) -> Variant:
    """The variant with machine code for the compute capabilities `wanted`, as in `8.6,9.0`, and for no others.

    Raises QuestionError when nothing in it is compiled, or its CUDA has no compiler for one of them.
    """
    if not variant.fatbins:
        raise QuestionError(
            f"`{variant.name}` is not compiled here: its wheels have code for {' '.join(variant.compute_capability)}",
            hint="llamacpp:cuda is compiled here",
        )
    found, cuda = tuple(dict.fromkeys(wanted.replace(",", " ").split())), variant.pins["cuda"]
    for capability in found:
        row = architecture(capability)
        if row is None:
            raise QuestionError(
                f"`{capability}` is no compute capability", hint="as deployer check shows it: compute_capability=8.6"
            )
        first, last = row["first_cuda"], row["last_cuda"]
        if (first != "-" and not at_least(cuda, first)) or (last != "-" and not at_least(last, cuda)):
            raise QuestionError(
                f"CUDA {cuda} does not compile for compute capability {capability} ({row['name']})",
                hint=f"the image has code for {' '.join(variant.compute_capability)}",
            )
    if not found:
        raise QuestionError("--set compute_capability= of which GPU?", hint="for example compute_capability=8.6")
    return replace(variant, compute_capability=tuple(sorted(found, key=parse_version)))


def promise(variant: Variant) -> Promise:
    """The facts of `variant`. Raises QuestionError when it has no CUDA."""
    pins = variant.pins
    if not {"cuda", "torch", "cudnn"} <= {*pins}:
        raise QuestionError(
            f"`{variant.name}` has no cuDNN", hint="only variants with CUDA and torch have one"
        )
    torch = pins["torch"].partition("+")[0]
    made = [
        row[4] for row in rows("torch.tsv") if (row[0], row[3]) == (torch, pins["cuda"]) and row[4] != "?"
    ]
    return Promise(
        variant.name, pins["cuda"], torch, (made or [pins["cudnn"]])[0], tuple(variant.compute_capability)
    )


def repin(lock: str, promise: Promise, wanted: str, resolver: Resolver) -> Repinned:
    """The lock with cuDNN `wanted`, and a newer nvidia-cublas where that cuDNN needs it; all else stays to the byte.

    Raises QuestionError, before anything is downloaded, when `wanted` is not for this CUDA, drops an architecture, is
    excluded by torch, or is not on the index; BuildError when what it needs does not go with the rest of the lock.
    """
    package = f"nvidia-cudnn-cu{major(promise.cuda)}"
    cublas = "nvidia-cublas" if major(promise.cuda) >= 13 else f"nvidia-cublas-cu{major(promise.cuda)}"
    before = {pin.name: pin for pin in parse(lock)}
    if package not in before:
        raise QuestionError(
            f"the lock of `{promise.name}` has no {package}", hint="cuDNN is in the torch layer"
        )
    if before[package].version == wanted:
        return Repinned(lock, notes(promise, wanted))
    _check(promise, wanted, resolver)
    # Every version is demanded as it is locked; only these two are free, and cuBLAS stays if it can.
    demands = [f"{pin.name}=={pin.version}" for pin in before.values() if pin.name not in (package, cublas)]
    try:
        found = resolve(
            "\n".join([*demands, package]), resolver, overrides=[f"{package}=={wanted}"], prefer=lock
        )
    except BuildError as error:
        raise BuildError(
            f"cuDNN {wanted}: {error.message}", hint=error.hint, evidence=error.evidence
        ) from error
    after = {pin.name: pin for pin in found}
    strange = [pin.name for pin in found if pin.name not in before]
    if strange:
        raise BuildError(
            f"cuDNN {wanted} needs more than the lock has: {', '.join(strange)}",
            hint="remake the whole lock first: deployer build --lock",
        )
    older = after[cublas].version if cublas in before and cublas in after else None
    if older and not at_least(older, before[cublas].version):
        raise BuildError(f"cuDNN {wanted} needs {cublas} {older}, older than {before[cublas].version}")
    return Repinned(
        render(_merged(pin, after.get(pin.name)) for pin in before.values()),
        notes(promise, wanted, before.get(cublas), after.get(cublas)),
    )


def refusals(promise: Promise, wanted: str) -> tuple[str, ...]:
    """Why the tables and torch's own rule say no to this cuDNN; nothing is asked of the network."""
    found = []
    cuda, ends = major(promise.cuda), cudnn_ends(promise.cuda)
    if ends and at_least(wanted, ends):
        found.append(f"cuDNN {wanted} is not for CUDA {cuda}: {ends} and later are not made for it")
    if excluded := torch_excludes(promise, wanted):
        found.append(excluded)
    if dropped := _dropped(promise, wanted):
        found.append(
            f"cuDNN {wanted} has no code for compute capability {', '.join(dropped)}, which `{promise.name}` promises"
        )
    return tuple(found)


def torch_excludes(promise: Promise, wanted: str) -> str | None:
    """Why torch would refuse this cuDNN when it loads it, None when it would not.

    The rule is `_init` in torch/backends/cudnn/__init__.py, the same in the wheels of torch 2.6.0 to 2.15.0: the
    major version is the one that torch was compiled against, and the minor is not older; the patch does not count.
    Since torch 2.10.0, cuDNN 9.11 or later also needs a GPU of compute capability 7.5 or later.
    """
    made, asked = parse_version(promise.cudnn)[:2], parse_version(wanted)[:2]
    compiled = f"torch {promise.torch} was compiled with cuDNN {promise.cudnn} and refuses"
    if asked[0] != made[0]:
        return f"{compiled} another major version, {wanted}"
    if asked[1] < made[1]:
        return f"{compiled} an older minor version, {wanted}"
    old = [c for c in promise.capabilities if not at_least(c, "7.5")]
    if old and at_least(promise.torch, "2.10") and at_least(wanted, "9.11"):
        return (
            f"torch {promise.torch} refuses cuDNN 9.11 and later on compute capability {', '.join(old)}, "
            f"which `{promise.name}` promises"
        )
    return None


def notes(promise: Promise, wanted: str, *cublas: Pin | None) -> tuple[str, ...]:
    """What a person should know of a cuDNN that is allowed; `cublas` is the pin before and after."""
    found = []
    if wanted != promise.cudnn:
        found.append(f"torch {promise.torch} was tested with cuDNN {promise.cudnn}, not with {wanted}")
    known, own = (cudnn_capabilities(version, promise.cuda) for version in (wanted, promise.cudnn))
    if known is None:
        found.append(f"which GPUs cuDNN {wanted} has code for is in no table")
    elif own and (lost := [c for c in promise.capabilities if c in own[0] and c not in known[0]]):
        found.append(
            f"cuDNN {wanted} has no code of its own for {', '.join(lost)} and runs that of an older GPU there"
        )
    old, new = cublas or (None, None)
    if old and new and old.version != new.version:
        found.append(f"cuDNN {wanted} needs a newer {new.name}: {old.version} → {new.version}")
    return tuple(found)


def _check(promise: Promise, wanted: str, resolver: Resolver) -> None:
    """Raises QuestionError with all reasons, and with the nearest versions that none of them hits."""
    try:
        if len(parse_version(wanted)) < 2:
            raise ValueError
    except ValueError:
        raise QuestionError(
            f"`{wanted}` is no version of cuDNN", hint="all its numbers, for example cudnn=9.24.0.43"
        ) from None
    reasons = list(refusals(promise, wanted))
    family, ends = str(major(promise.cuda)), cudnn_ends(promise.cuda)
    good: list[str] = []
    try:
        with resolver.web.client() as client:
            there = _versions(client, resolver, family)
            good = [v for v, file in there.items() if not file.yanked and not refusals(promise, v)]
            if (wanted not in there or there[wanted].yanked) and not (ends and at_least(wanted, ends)):
                reasons.append(_absent(client, resolver, family, wanted, there.get(wanted)))
    except SourceUnreachable:
        if not reasons:
            raise
    if reasons:
        near = ", ".join(_nearest(good, wanted))
        hint = f"for CUDA {family} and torch {promise.torch} there are: {near}" if near else None
        raise QuestionError(reasons[0], hint=hint, evidence=reasons[1:])


def _absent(client: httpx.Client, resolver: Resolver, family: str, wanted: str, file: Listed | None) -> str:
    """Why this version cannot be had for the CUDA family: withdrawn, made for another one, or nowhere."""
    if file and file.yanked:
        return f"cuDNN {wanted} for CUDA {family} was withdrawn from the index: {file.yanked}"
    others = [f for f in _FAMILIES if f != family and wanted in _versions(client, resolver, f)]
    if others:
        return f"cuDNN {wanted} is not for CUDA {family}: the index has it for CUDA {' and '.join(others)}"
    return f"the index has no cuDNN {wanted} for CUDA {family}"


def _versions(client: httpx.Client, resolver: Resolver, family: str) -> dict[str, Listed]:
    """Released versions for one CUDA that have a wheel for the resolver's platform, with that wheel."""
    package, fits = f"nvidia-cudnn-cu{family}", ranks(resolver.python, resolver.platform)
    files = [*local(resolver.web.wheelhouse)]
    for index in resolver.indexes:
        files += listing(client, index, package)
    found = {}
    for file in files:
        try:
            version = str(parse_wheel_filename(file.name)[1])
            parse_version(version)
        except (InvalidWheelFilename, ValueError):  # development versions too
            continue
        if choose([file], package, version, fits):
            found[version] = file
    return found


def _nearest(versions: Iterable[str], wanted: str) -> list[str]:
    """Two on either side of `wanted`, in order."""
    ordered = sorted(versions, key=parse_version)
    below = [v for v in ordered if parse_version(v) < parse_version(wanted)]
    above = [v for v in ordered if parse_version(v) > parse_version(wanted)]
    return [*below[-2:], *above[:2]]


def _dropped(promise: Promise, wanted: str) -> list[str]:
    """Promised capabilities for which torch's own cuDNN has code that runs there, and this one has none."""
    known, own = (cudnn_capabilities(version, promise.cuda) for version in (wanted, promise.cudnn))
    if known is None:
        return []

    def served(codes: Iterable[str], capability: str) -> bool:
        return any(runs_on(code, capability, promise.cuda) for code in codes)

    return [c for c in promise.capabilities if not served(known[0], c) and (own is None or served(own[0], c))]


def _merged(old: Pin, new: Pin | None) -> Pin:
    return new if new and new.version != old.version else old
