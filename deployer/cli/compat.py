"""`deployer compat`: which images, CUDA versions and builds of torch run on a driver and GPUs, here or elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deployer import compat, host
from deployer.checks.image import demand_of, toolkit_version
from deployer.cli import show
from deployer.cli.place import place
from deployer.compat import Demand, Device, Injection, Verdict
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.host import Host, Unknown
from deployer.quantity import at_least, parse_version

SCHEMA = 1
_OLDEST = "11.8"  # of the matrix, without --verbose
_WAYS = {
    Injection.HOOK: "docker run --gpus, without CDI",
    Injection.RUNTIME: "the nvidia runtime",
    Injection.CDI: "CDI",
}
_COLOURS = {"runs": "green", "minor": "green", "compat": "yellow", "unknown": "yellow", "cannot": "red"}
_LEGEND = (
    ("minor", "by minor-version compatibility: only code compiled for the card, no PTX"),
    ("compat", "needs cuda-compat libraries in the image, or a newer driver"),
    ("unknown", "too little is known for a yes"),
)


@dataclass(frozen=True)
class Asked:
    """The host in question: `driver` and `toolkit` as `compat.judge` takes them."""

    driver: str | None
    devices: tuple[Device, ...]
    injection: Injection
    toolkit: str | None

    def judge(self, demand: Demand) -> Verdict:
        return compat.judge(self.driver, self.devices, demand, self.injection, self.toolkit)


@click.command("compat")
@click.option("--driver", metavar="VERSION", help="As if this driver were there, for example 550.54.14.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME", help='As if this GPU were there: "RTX 4090".')
@click.option(
    "--inject",
    type=click.Choice([way.value for way in Injection]),
    help="How the GPU gets into the container: --gpus, the nvidia runtime, or CDI.",
)
@click.option("--toolkit", metavar="VERSION", help="Version of NVIDIA Container Toolkit.")
@click.option("--image", metavar="IMAGE[:VARIANT]", help="Does this image run? Also nvidia/cuda:TAG.")
@click.option("--cuda", metavar="X.Y", help="Does a program built with this CUDA run?")
@click.option("--requires", metavar="COND", help="Does this NVIDIA_REQUIRE_CUDA hold?")
@click.option(
    "--host", "saved", type=click.Path(exists=True, dir_okay=False), help="A host saved with check --json."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("-v", "--verbose", is_flag=True, help="Every CUDA version, and the reason of every answer.")
@click.pass_context
def command(
    ctx: click.Context,
    driver: str | None,
    gpus: tuple[str, ...],
    inject: str | None,
    toolkit: str | None,
    image: str | None,
    cuda: str | None,
    requires: str | None,
    saved: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Say which images and CUDA versions run on a driver and GPUs, why not, and which driver would do.

    Without options for this machine; with --driver and --gpu for one that is not here. Nothing is pulled. Exits
    with 1 when --image, --cuda or --requires is asked and the answer is not a sure yes, 2 when the question is wrong.
    """
    for option, version in (("--driver", driver), ("--toolkit", toolkit), ("--cuda", cuda)):
        _version(option, version)
    driver = compat.complete(driver) if driver and driver != compat.NO_DRIVER else driver
    way = Injection(inject) if inject else (Injection.HOOK if requires else None)
    demands = tuple(_demands(image, cuda, requires))
    there = driver is not None and gpus
    found = None
    if not there and not (gpus and not saved):
        found = host.load(Path(saved)) if saved else host.probe(place(ctx).questions((), ports=()))
    asked = _asked(found, driver, gpus, way, toolkit)
    answers = [(demand, asked.judge(demand)) for demand in demands or _ours()]
    specific = bool(demands)
    table = [] if specific else _matrix(asked, verbose)
    if as_json:
        _show_json(asked, answers, table, specific)
    else:
        show.out(_about(asked, found))
        show.out("")
        for demand, verdict in answers:
            show.out(_answer(demand, verdict, verbose or specific))
        if table:
            show.out("")
            show.out(_drawn(asked, table, verbose))
    return 1 if specific and not all(verdict.runs for _, verdict in answers) else 0


def _version(option: str, text: str | None) -> None:
    try:
        if text is not None and text != compat.NO_DRIVER:
            parse_version(text)
    except ValueError as error:
        raise QuestionError(f"{option} {text}: not a version", hint=f"write {error}") from error


def _asked(
    found: Host | None, driver: str | None, gpus: tuple[str, ...], way: Injection | None, toolkit: str | None
) -> Asked:
    devices = tuple(_device(name) for name in gpus)
    if found is not None and not devices:
        devices = _devices(found)
        if driver and not devices:
            raise QuestionError(
                "for which GPU? there is none in this machine", hint='name one: --gpu "RTX 4090"'
            )
    if found is not None and driver is None:
        if isinstance(found.driver, Unknown):
            driver = None
        else:
            driver = found.driver.version if found.driver else compat.NO_DRIVER
    if toolkit is None and found is not None:
        toolkit = toolkit_version(found)
    return Asked(driver, devices, way or _way(found), toolkit)


def _device(name: str) -> Device:
    if model := compat.find(name):
        return Device.of(model.name)
    near = compat.near(name)
    raise QuestionError(
        f"which GPU is `{name}`?",
        hint=f"did you mean {', '.join(f'`{n}`' for n in near)}?"
        if near
        else "use the name nvidia-smi gives it",
    )


def _devices(found: Host) -> tuple[Device, ...]:
    """The GPUs of a host; those that only the PCI bus shows have neither name nor compute capability."""
    if isinstance(found.gpus, Unknown) or not found.gpus:
        count = 0 if isinstance(found.pci_gpus, Unknown) else len(found.pci_gpus)
        return (Device.of(None),) * max(count, int(isinstance(found.gpus, Unknown)))
    return tuple(
        Device.of(
            None if isinstance(gpu.name, Unknown) else gpu.name,
            None if isinstance(gpu.compute_capability, Unknown) else gpu.compute_capability,
        )
        for gpu in found.gpus
    )


def _way(found: Host | None) -> Injection:
    """As `deployer up` gives it: through CDI where the engine knows the devices, else the nvidia runtime."""
    runtime = None if found is None or isinstance(found.runtime, Unknown) else found.runtime
    if runtime is not None and runtime.nvidia_runtime and not runtime.cdi_gpus:
        return Injection.RUNTIME
    return Injection.CDI


def _demands(image: str | None, cuda: str | None, requires: str | None) -> Iterator[Demand]:
    if image and image.startswith("nvidia/cuda:"):
        tag = image.removeprefix("nvidia/cuda:")
        official = compat.demand_of_official(tag)
        if official is None:
            known = ", ".join(row[0] for row in compat.rows("requires.tsv"))
            raise QuestionError(
                f"what {image} requires is not in the tables",
                hint=f"known: CUDA {known}; for others --cuda and --requires",
            )
        yield official
    elif image:
        from deployer import images

        name, _, variant = image.partition(":")
        recipe = images.load(name)
        for one in (recipe.variant(variant),) if variant else recipe.variants:
            yield demand_of(images.target(name, one.name))
    if requires is not None:
        try:
            yield compat.demand_of_condition(requires, cuda)
        except ValueError as error:
            raise QuestionError(str(error)) from error
    elif cuda:
        yield compat.demand_of_cuda(cuda)


def _ours() -> Iterator[Demand]:
    """Of every image that has an engine; the others are what those stand on."""
    from deployer import images

    for name in images.names():
        recipe = images.load(name)
        for variant in recipe.variants if recipe.engine else ():
            yield demand_of(images.target(name, variant.name))


def _matrix(asked: Asked, every: bool) -> list[tuple[Demand, dict[str, Verdict]]]:
    """What runs, for each model on its own: CUDA versions, and the newest torch for each CUDA that it is built for."""
    versions = [row[0] for row in compat.rows("cuda.tsv") if every or at_least(row[0], _OLDEST)]
    torch = {demand.cuda: demand for demand in compat.demands_of_torch()}
    builds = sorted(torch.values(), key=lambda demand: parse_version(demand.cuda or "0"))
    demands = [*map(compat.demand_of_cuda, versions), *builds]
    models = tuple(dict.fromkeys(asked.devices))
    return [
        (
            demand,
            {
                device.short: compat.judge(asked.driver, (device,), demand, asked.injection, asked.toolkit)
                for device in models
            },
        )
        for demand in reversed(demands)
        if models
    ]


def _about(asked: Asked, found: Host | None) -> str:
    if not asked.devices:
        return (
            "there is no NVIDIA GPU: only images for CPUs run\n"
            'another host: deployer compat --driver 550.54 --gpu "RTX 4090"'
        )
    if asked.driver == compat.NO_DRIVER:
        driver = "no NVIDIA driver loaded"
    elif asked.driver is None:
        why = f": {found.driver.reason}" if found and isinstance(found.driver, Unknown) else ""
        driver = f"driver not known{why}"
    else:
        driver = f"driver {asked.driver} (CUDA {compat.newest_cuda(asked.driver) or 'before 11.0'})"
    counts = {device: asked.devices.count(device) for device in asked.devices}
    gpus = ", ".join(
        f"{f'{count} × ' if count > 1 else ''}{device.name}"
        + (f" ({device.compute_capability})" if device.compute_capability else "")
        for device, count in counts.items()
    )
    toolkit = f", toolkit {asked.toolkit}" if asked.toolkit else ""
    return f"{driver}, {gpus}, given through {_WAYS[asked.injection]}{toolkit}"


def _answer(demand: Demand, verdict: Verdict, whole: bool) -> str:
    word = _painted(f"{verdict.kind.value:8}", verdict)
    lines = [f"{word}{demand.name}: {verdict.reason}"]
    if verdict.error and (whole or not verdict.runs):
        number = f"error {verdict.code}: " if verdict.code else ""
        lines.append(f"would end with: {number}{verdict.error}")
    if not verdict.runs and verdict.least_driver:
        lines.append(f"→ driver {verdict.least_driver} or later")
    if whole:
        lines += [f"note: {note}" for note in verdict.notes]
    text = []
    for first, line in zip([True] + [False] * len(lines), lines, strict=False):
        text += textwrap.wrap(
            line,
            show.width(),
            initial_indent="" if first else " " * 8,
            subsequent_indent=" " * 8,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(text)


def _drawn(asked: Asked, table: list[tuple[Demand, dict[str, Verdict]]], verbose: bool) -> str:
    first = max(len(demand.name) for demand, _ in table)
    names = list(table[0][1])
    columns = [max(len(name), 9) for name in names]
    head = "  ".join(f"{name:{width}}" for name, width in zip(names, columns, strict=True))
    lines = [f"{'':{first}}  {head}".rstrip()]
    seen = set()
    for demand, verdicts in table:
        cells = [
            _painted(f"{_cell(asked, verdicts[name]):{width}}", verdicts[name])
            for name, width in zip(names, columns, strict=True)
        ]
        seen |= {verdict.kind.value for verdict in verdicts.values()}
        lines.append(f"{demand.name:{first}}  {'  '.join(cells)}".rstrip())
        if verbose:
            lines += [f"  {verdicts[name].reason}" for name in names]
    legend = [f"{word}: {about}" for word, about in _LEGEND if word in seen]
    if asked.driver is None:
        legend = ["the first driver with which each runs; -: none that is known"]
    return "\n".join([*lines, *([""] if legend else []), *legend])


def _cell(asked: Asked, verdict: Verdict) -> str:
    """The answer; where the driver is the one thing missing, the driver that it takes."""
    return verdict.kind.value if asked.driver is not None else verdict.least_driver or "-"


def _painted(text: str, verdict: Verdict) -> str:
    import sys

    return click.style(text, fg=_COLOURS[verdict.kind.value]) if show.colourful(sys.stdout) else text


def _show_json(
    asked: Asked,
    answers: list[tuple[Demand, Verdict]],
    table: list[tuple[Demand, dict[str, Verdict]]],
    specific: bool,
) -> None:
    show.show_json(
        {
            "schema": SCHEMA,
            "driver": None if asked.driver == compat.NO_DRIVER else asked.driver,
            "cuda": compat.newest_cuda(asked.driver)
            if asked.driver not in (None, compat.NO_DRIVER)
            else None,
            "gpus": [asdict(device) for device in asked.devices],
            "injection": asked.injection.value,
            "toolkit": asked.toolkit,
            "answers" if specific else "images": [_plain(*answer) for answer in answers],
            **({} if specific else {"matrix": [_row(demand, verdicts) for demand, verdicts in table]}),
        }
    )


def _row(demand: Demand, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    return {
        "name": demand.name,
        "cuda": demand.cuda,
        "gpus": {model: _plain(demand, verdict) for model, verdict in verdicts.items()},
    }


def _plain(demand: Demand, verdict: Verdict) -> dict[str, Any]:
    return {
        "name": demand.name,
        "verdict": verdict.kind.value,
        "runs": verdict.runs,
        "reason": verdict.reason,
        "error": verdict.error,
        "code": verdict.code,
        "least_driver": verdict.least_driver,
        "notes": list(verdict.notes),
    }
