"""The image that the profile names, against this driver, these GPUs and this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from deployer import compat, images
from deployer.checks.base import NOT_ASKED, Check, present, route, uses_containers, wants_gpu
from deployer.checks.driver import NOT_LOADED, another_driver, number, version
from deployer.checks.gpu import NONE_USABLE, TOO_FEW, capability, small, usable
from deployer.compat.tables import cudnn_capabilities
from deployer.errors import QuestionError
from deployer.host import Gpu, Host, Unknown
from deployer.images import Target
from deployer.profile import Profile
from deployer.quantity import at_least, parse_version
from deployer.report import Finding, Outcome, failed, passed, skipped, unknown, warned

BELOW = "the cards miss the profile's own floor: gpu.compute_capability"


@cache
def demand(image: str, variant: str) -> compat.Demand | None:
    """What the recipe's variant demands of a host; None where there is no such recipe."""
    try:
        return demand_of(images.target(image, variant))
    except QuestionError:
        return None


def demand_of(target: Target) -> compat.Demand:
    """What an image demands of a host, with the pins of all that it stands on."""
    return compat.demand_of(
        target.name,
        pins={key: value for layer in target.line for key, value in layer.variant.pins.items()},
        compute_capability=target.variant.compute_capability,
        min_driver=target.variant.min_driver,
    )


def _asked(host: Host, profile: Profile, wanted: str) -> tuple[compat.Demand, tuple[Gpu, ...]] | Finding:
    """The image's demand and the GPUs here, or the finding of a check without them."""
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    found = demand(profile.image, profile.variant)
    if found is None:
        return skipped(f"there is no recipe {profile.image}:{profile.variant}", wanted)
    gpus = usable(host, profile)
    if isinstance(gpus, Unknown):
        return unknown(wanted, gpus.reason)
    if len(gpus) < _needed(profile):
        return skipped(TOO_FEW if gpus else NONE_USABLE, wanted)
    return found, gpus


def _needed(profile: Profile) -> int:
    return profile.requirements.gpu.count if profile.requirements.gpu else 1


def _driver(host: Host, profile: Profile) -> Finding:
    """The image runs on this driver and enough of these GPUs, given the way they get into containers here.

    Why: this is decided before the download, not at the start: `unsatisfied condition`, error 803 or 804.
    Pass: it runs, also with minor-version compatibility, which is then said.
    Warn: it needs compat libraries.
    Fail: it cannot run; the reason and the least driver are named.
    Skip: the profile wants no GPU, too few are usable, no driver is loaded, something that it depends on is unknown, or
        another finding has said no already: driver.version, gpu.compute_capability, image.kernels, image.cudnn.
    Fix: the driver named, or the variant of the image that runs here: deployer compat.
    """
    wanted = f"{profile.image}:{profile.variant} on this driver"
    asked = _asked(host, profile, wanted)
    return asked if isinstance(asked, Finding) else against(host, profile, wanted, *asked)


def against(
    host: Host, profile: Profile, wanted: str, needs: compat.Demand, gpus: tuple[Gpu, ...]
) -> Finding:
    """Whether an image with these demands runs on this driver and enough of these GPUs."""
    driver = version(host)
    if isinstance(driver, Unknown):
        return unknown(wanted, driver.reason)
    if driver is None:
        return skipped(NOT_LOADED, wanted)
    verdict = _verdict(host, profile, driver, needs, gpus)
    if verdict.runs:
        found = warned if verdict.kind is compat.Kind.COMPAT else passed
        return found(wanted, verdict.reason)
    if verdict.kind is compat.Kind.UNKNOWN:
        return unknown(wanted, verdict.reason)
    if any(judge(host, profile).outcome is Outcome.FAIL for judge in (small, _kernels, _cudnn)):
        return skipped("another finding has said no already", wanted)
    floor = profile.requirements.driver
    if floor and not at_least(driver, floor) and _verdict(host, profile, floor, needs, gpus).runs:
        return skipped("it runs on the driver that the profile asks for: driver.version", wanted)
    said = f"{verdict.reason} ({verdict.error})" if verdict.error else verdict.reason
    branch = verdict.least_driver.split(".")[0] if verdict.least_driver else None
    if branch is None or at_least(driver, str(verdict.least_driver)):
        return failed(wanted, said, "another profile: deployer check --all")
    return failed(wanted, said, another_driver(host, branch))


def _verdict(
    host: Host, profile: Profile, driver: str, needs: compat.Demand, gpus: tuple[Gpu, ...]
) -> compat.Verdict:
    """The worst of the best GPUs, as many as the profile needs: one that it can do without does not count."""
    injection = compat.Injection.HOOK if route(host) == "runtime" else compat.Injection.CDI
    kinds = list(compat.Kind)
    devices = tuple(_devices(gpus))
    toolkit = toolkit_version(host)
    verdicts = {d: compat.judge(driver, (d,), needs, injection, toolkit) for d in dict.fromkeys(devices)}
    found = [verdicts[device] for device in devices]
    found.sort(key=lambda verdict: (kinds.index(verdict.kind), verdict.error is not None))
    return found[_needed(profile) - 1]


def _devices(gpus: tuple[Gpu, ...]) -> Iterator[compat.Device]:
    for gpu in gpus:
        of_card = capability(gpu)
        yield compat.Device.of(
            "" if isinstance(gpu.name, Unknown) else gpu.name,
            None if isinstance(of_card, Unknown) else of_card,
        )


def toolkit_version(host: Host) -> str | None:
    """The version of NVIDIA Container Toolkit by its package, None where it is not known."""
    if isinstance(host.packages, Unknown) or "nvidia-container-toolkit" not in host.packages:
        return None
    version = number(host.packages["nvidia-container-toolkit"].version)
    return None if isinstance(version, Unknown) else version


def _kernels(host: Host, profile: Profile) -> Finding:
    """The image has compiled code for enough of these GPUs.

    Why: `no kernel image is available for execution on the device`: a card newer or older than what torch was
        compiled for, found out after gigabytes were pulled.
    Pass: its list of architectures covers as many cards as the profile needs.
    Warn: never.
    Fail: it does not.
    Skip: the profile wants no GPU, too few are usable, they miss the profile's own floor (gpu.compute_capability), the
        image has no such list, or a capability is unknown.
    Fix: another variant or profile: deployer compat lists what runs here.
    """
    wanted = f"{profile.image}:{profile.variant} with code for these GPUs"
    asked = _asked(host, profile, wanted)
    if isinstance(asked, Finding):
        return asked
    needs, gpus = asked
    if not needs.sass:
        return skipped("the image lists no architectures", wanted)
    if small(host, profile).outcome is Outcome.FAIL:
        return skipped(BELOW, wanted)
    cards = [c for gpu in gpus if isinstance(c := capability(gpu), str)]
    good = [c for c in cards if any(compat.runs_on(code, c, needs.cuda) for code in needs.sass)]
    listed = f"the image has {', '.join(needs.sass)}"
    if len(good) >= _needed(profile):
        return passed(wanted, f"{', '.join(dict.fromkeys(good))}; {listed}")
    if len(cards) < len(gpus):
        return unknown(wanted, "the compute capability of a GPU cannot be read")
    text = f"these GPUs are {', '.join(dict.fromkeys(cards))}; {listed}"
    return failed(wanted, text, "deployer compat says which image runs here")


def _cudnn(host: Host, profile: Profile) -> Finding:
    """The image's cuDNN serves these GPUs.

    Why: cuDNN 9.11 dropped Maxwell, Pascal and Volta, and a second copy of another version gives
        `CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH`; the image pins one, and the build proves that it is the only one.
    Pass: the pinned version serves as many cards as the profile needs.
    Warn: the version is in no table, or the table does not list a card, which is not older than all that it lists.
    Fail: it serves none so old.
    Skip: the profile wants no GPU, too few are usable, they miss the profile's own floor (gpu.compute_capability), the
        image pins none, or a capability is unknown.
    Fix: another variant or profile.
    """
    wanted = f"a cuDNN in {profile.image}:{profile.variant} that serves these GPUs"
    asked = _asked(host, profile, wanted)
    if isinstance(asked, Finding):
        return asked
    needs, gpus = asked
    if not needs.cudnn or not needs.cuda:
        return skipped("the image pins no cuDNN", wanted)
    table = cudnn_capabilities(needs.cudnn, needs.cuda)
    if table is None:
        return warned(wanted, f"cuDNN {needs.cudnn} for CUDA {needs.cuda} is in no table")
    if small(host, profile).outcome is Outcome.FAIL:
        return skipped(BELOW, wanted)
    cards = [c for gpu in gpus if isinstance(c := capability(gpu), str)]
    good = [c for c in cards if any(compat.runs_on(code, c, needs.cuda) for code in table[0])]
    if len(good) >= _needed(profile):
        return passed(wanted, f"cuDNN {needs.cudnn}")
    if len(cards) < len(gpus):
        return unknown(wanted, "the compute capability of a GPU cannot be read")
    text = f"cuDNN {needs.cudnn} has code for {', '.join(table[0])}; these GPUs are {', '.join(dict.fromkeys(cards))}"
    oldest = min(table[0], key=parse_version)
    if sum(at_least(c, oldest) for c in cards) >= _needed(profile):
        return warned(wanted, text)
    return failed(wanted, text, "deployer compat says which image runs here")


def _platform(host: Host, profile: Profile) -> Finding:
    """The image can be had for this machine's processor.

    Why: a lock of x86-64 wheels or Debian packages installs nothing on aarch64; better known before the build than in
        its middle.
    Pass: the image is here, or its recipe, and those that it stands on, have what they need for this architecture.
    Warn: it has not, and the embedded runtime can stand in.
    Fail: it has not, and the profile needs containers.
    Skip: containers are not used, there is no such recipe, or the architecture is unknown.
    Fix: another profile: llama.cpp is built for both; Debian packages are locked anew by deployer build --lock.
    """
    wanted = f"{profile.image}:{profile.variant} for this architecture"
    if not uses_containers(host, profile):
        return skipped("this profile will not run in containers here", wanted)
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    try:
        found = images.target(profile.image, profile.variant)
    except QuestionError as error:
        return skipped(error.message, wanted)
    if present(host, profile) is True:
        return passed(wanted, "it is here")
    bad = failed if profile.runtime == "docker" or wants_gpu(profile) else warned
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(host.system.architecture)
    if architecture is None:
        return bad(wanted, host.system.architecture, "deployer serves x86_64 and aarch64")
    if lacks := lacking(found, architecture):
        return bad(wanted, *lacks)
    return passed(wanted, f"linux/{architecture}")


def lacking(target: Target, architecture: str) -> tuple[str, str] | None:
    """What the image, or one that it is made with, lacks for this architecture (Debian's name), and what mends it."""
    files, locks = set(), []
    for made in target.needed:
        recipe, variant = made.recipe, made.variant
        here = {source.package for source in made.sources if source.platform in (None, f"linux/{architecture}")}
        files |= {source.package for source in made.sources} - here
        locked = (recipe.folder / f"packages-{architecture}.tsv").exists()
        locks += [recipe.name] if (recipe.packages or variant.packages) and not locked else []
    if files:
        text = f"{', '.join(sorted(files))} is pinned for other architectures only"
        return text, "choose a llamacpp profile: deployer profiles list"
    text = f"the Debian packages of {', '.join(locks)} are locked for other architectures only"
    return (text, f"deployer build --lock {' '.join(locks)}") if locks else None


def _here(host: Host, profile: Profile) -> Finding:
    """The image is on this machine already.

    Why: building takes minutes and a way out; a machine without one needs the image beforehand.
    Pass: the engine has it.
    Warn: never.
    Fail: never: what is not here is built, and network.base says whether its base can be had.
    Skip: it will be built, containers are not used, or the host was saved without it.
    Fix: deployer build, where there is a network.
    """
    wanted = f"{profile.image}:{profile.variant}"
    if not uses_containers(host, profile):
        return skipped("this profile will not run in containers here", wanted)
    here = present(host, profile)
    if here is None:
        return skipped("not asked: the host was saved without it, or by another version", wanted)
    if isinstance(here, Unknown):
        return unknown(wanted, here.reason)
    return passed(wanted, "it is here") if here else skipped("it is not here: it will be built", wanted)


def _ready(host: Host, profile: Profile) -> Finding:
    """The profile's own floors agree with what its image demands.

    Why: a profile that asks for an older driver than its image needs says yes to hosts that cannot run it.
    Pass: the driver that the profile asks for is at least the image's.
    Warn: it is older; image.driver judges by the image.
    Fail: never.
    Skip: the profile wants no GPU, or one of the two names no driver.
    Fix: raise `driver` in the profile.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    needs = demand(profile.image, profile.variant)
    floor = profile.requirements.driver
    if needs is None or needs.driver is None or floor is None:
        return skipped("the image or the profile names no driver")
    wanted = f"driver {needs.driver} or later in the profile"
    if at_least(floor, needs.driver):
        return passed(wanted, floor)
    return warned(wanted, floor, f"set `driver: {needs.driver}` in {profile.path.name}")


CHECKS = (
    Check("image.driver", _driver, pains=(12, 13, 14)),
    Check("image.kernels", _kernels, pains=(16,)),
    Check("image.cudnn", _cudnn, pains=(17,)),
    Check("image.platform", _platform),
    Check("image.here", _here, pains=(20, 29), advice=True),
    Check("image.floors", _ready, pains=(12,), advice=True),
)
