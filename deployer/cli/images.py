"""`deployer images`: any image looked into, and what `deployer build` left on this engine."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deployer import compat, host, images
from deployer.cli import compat as asking
from deployer.cli import show
from deployer.cli.compat import Asked
from deployer.cli.place import Place, place, this_platform
from deployer.compat import Demand, Injection, Kind, Verdict
from deployer.errors import DeployerError, QuestionError, RuntimeUnavailable
from deployer.frozen import dataclass
from deployer.host import Host, Unknown
from deployer.quantity import format_size

if TYPE_CHECKING:
    from deployer.images.inspect import Image

SCHEMA = 1
_LEFT = 11  # columns before what is said


@dataclass(frozen=True)
class Answer:
    """All that was found out; `facts` are of the inside, None when `unknown` says why they are not known."""

    image: Image
    facts: Mapping[str, Any] | None
    unknown: str | None
    demand: Demand
    verdict: Verdict
    problems: tuple[str, ...]
    lies: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """It runs on this host, and it is what it says."""
        return self.verdict.runs and not (self.problems or self.lies)


@click.group("images")
def command() -> None:
    """Look into images, ours and others; list and remove those of `deployer build`."""


@command.command()
@click.argument("reference", metavar="REF")
@click.option("--remote", is_flag=True, help="Ask the registry, also when the image is on this engine.")
@click.option("--driver", metavar="VERSION", help="As if this driver were there, for example 550.54.14.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME", help='As if this GPU were there: "RTX 4090".')
@click.option("--inject", type=click.Choice([way.value for way in Injection]),
              help="How the GPU gets into the container: --gpus, the nvidia runtime, or CDI.")  # fmt: skip
@click.option("--toolkit", metavar="VERSION", help="Version of NVIDIA Container Toolkit.")
@click.option("--host", "saved", type=click.Path(exists=True, dir_okay=False),
              help="A host saved with check --json.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(min=1), default=600, show_default=True, metavar="SECONDS",
              help="For reading what is inside.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_context
def inspect(
    ctx: click.Context,
    reference: str,
    remote: bool,
    driver: str | None,
    gpus: tuple[str, ...],
    inject: str | None,
    toolkit: str | None,
    saved: str | None,
    limit: float,
    as_json: bool,
) -> int:
    """Say what the image REF demands and contains, and whether this host can run it.

    REF is any image: on this engine, or else in its registry, from which only the configuration is read. Ours can
    be named as `deployer build` names them: transformers:cu130. No program of the image is started.

    Exits with 1 when this host cannot surely run it, when a label of ours is not true, or when the inside could not
    be read; else with 0.
    """
    for option, version in (("--driver", driver), ("--toolkit", toolkit)):
        asking._version(option, version)
    driver = compat.complete(driver) if driver and driver != compat.NO_DRIVER else driver
    here, screen = place(ctx), show.Screen()
    found = None
    if not gpus or (saved and not driver):
        found = host.load(Path(saved)) if saved else host.probe(here.questions((), ports=()))
    platform = _platform(found)
    asked = asking._asked(found, driver, gpus, Injection(inject) if inject else None, toolkit)
    image = _find(reference, here, platform, remote=remote)
    facts: dict[str, Any] | None = None
    unknown: str | None = "its layers are not here: docker pull, then ask again"
    if image.place == "engine":
        try:
            facts, unknown = look(image, here, screen, limit), None
        except DeployerError as error:
            unknown = " ".join(filter(None, (error.message, *error.evidence, error.hint)))
    answer = _answer(image, facts, unknown, asked, platform)
    if as_json:
        _show_json(answer, asked)
    else:
        show.out("\n".join(_lines(answer, asked)))
    return 0 if answer.fits else 1


@command.command()
@click.argument("reference", metavar="REF")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="[default: stdout]")
@click.pass_context
def sbom(ctx: click.Context, reference: str, output: str | None) -> None:
    """Write a CycloneDX 1.6 SBOM of the image REF: its Debian and Python packages, from inside."""
    from deployer.home import write_whole
    from deployer.images import sbom as bills

    bills.require()
    here, screen = place(ctx), show.Screen()
    image = _find(reference, here, this_platform())
    if image.place != "engine":
        raise QuestionError(f"{reference} is not on this engine", hint=f"docker pull {reference}")
    text = bills.document(image, look(image, here, screen), bills.built_from(image))
    if output is None:
        show.out(text.rstrip())
    else:
        write_whole(Path(output).absolute(), text.encode())
        screen.say(f"{output} is written")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the images that `deployer build` left here, and say which no recipe makes any more."""
    from deployer.images import stock

    found = stock.kept(place(ctx).docker)
    if as_json:
        show.show_json({"images": [asdict(one) for one in found]})
        return
    for one in found:
        state = "" if one.present else "  old"
        click.echo(f"{one.references[0]:44} {format_size(one.size):>8}  {one.created[:10]}{state}")
    click.echo(f"{len(found)} images; those that stand on each other share their layers", err=True)


@command.command()
@click.argument("names", nargs=-1, metavar="[IMAGE[:VARIANT]]...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def prune(ctx: click.Context, names: tuple[str, ...], yes: bool) -> int:
    """Remove the images that no recipe makes any more, of all names or of IMAGEs; one repinned with --set is such.

    What a container uses stays, and so do names that others gave. Exits with 1 when something stays that should go.
    """
    from deployer.images import stock

    address = place(ctx).docker
    old = [one for one in stock.kept(address) if not one.present]
    old = [one for one in old if not names or one.name in names or one.name.split(":")[0] in names]
    for one in old:
        click.echo(f"{one.references[0]:44} {format_size(one.size):>8}")
    if not old:
        click.echo("nothing is old")
        return 0
    if not yes:
        click.confirm(f"Remove {len(old)}?", abort=True, err=True)
    before = stock.layers_size(address)
    kept = {one.references[0]: why for one in old if (why := stock.remove(one, address))}
    for reference, why in kept.items():
        click.echo(f"{reference} stays: {why}", err=True)
    freed = format_size(before - stock.layers_size(address))
    click.echo(f"removed {len(old) - len(kept)}: {freed}, without what others share", err=True)
    return 1 if kept else 0


def look(image: Image, here: Place, screen: show.Screen, limit: float = 600) -> dict[str, Any]:
    """The facts of the inside; the Python that reads them is built when it is not there."""
    from deployer.images import look as looking

    target = images.target("python", "3.11")

    def make() -> None:
        from deployer.images import builder

        settings = here.settings()
        builder.build((target,), settings, home=here.home, web=here.web, progress=screen)

    python = looking.python_tree(target, make, address=here.docker, home=here.home, progress=screen)
    screen.say(f"reading {image.reference}, {format_size(image.size)}")
    return looking.look(image, python, address=here.docker, limit=limit)


def _platform(found: Host | None) -> str:
    """Of the host in question; of one that is described by driver and GPU only, this machine's."""
    machine = None if found is None or isinstance(found.system, Unknown) else found.system.architecture
    return {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}.get(machine or "", this_platform())


def _find(reference: str, here: Place, platform: str, *, remote: bool = False) -> Image:
    """On the engine by this name, or as one of ours; else in the registry."""
    from deployer.images.inspect import in_registry, on_engine

    silent = None
    if not remote:
        name, _, variant = reference.partition(":")
        own = images.tag(name, variant) if name in images.names() and images.load(name).server else None
        try:
            if image := on_engine(reference, here.docker) or (own and on_engine(own, here.docker)):
                return image
            if own:
                raise QuestionError(f"{own} is not on this engine", hint=f"deployer build {reference}")
        except RuntimeUnavailable as error:
            silent = error
    try:
        return in_registry(reference, platform)
    except DeployerError as error:
        if silent is None:
            raise
        raise type(error)(
            f"{silent.message}, and {error.message}", hint=error.hint, evidence=silent.evidence
        ) from error


def _answer(
    image: Image, facts: Mapping[str, Any] | None, unknown: str | None, asked: Asked, platform: str
) -> Answer:
    from deployer.images import inspect as looking

    try:
        capabilities = [device.compute_capability for device in asked.devices]
        every = [looking.for_devices(demand, capabilities) for demand in looking.demands(image, facts)]
        judged = [(demand, asked.judge(demand)) for demand in every]
        demand, verdict = next((pair for pair in judged if not pair[1].runs), judged[0])
    except ValueError as error:
        demand, verdict = (
            Demand(image.reference),
            Verdict(Kind.UNKNOWN, f"its demands cannot be read: {error}"),
        )
    problems = []
    if not image.platform.startswith(platform):
        problems.append(f"it is made for {image.platform}, and the host is {platform}")
    if image.place == "engine" and facts is None:
        problems.append("its inside could not be read")
    if facts is not None and facts["uid"] is None:
        problems.append(f"its user {image.user} is in no list of the image, so it does not start")
    promised = () if facts is None or not image.ours else tuple(looking.lies(image, facts, _fatbins(image)))
    return Answer(image, facts, unknown, demand, verdict, tuple(problems), promised)


def _fatbins(image: Image) -> tuple[str, ...]:
    """The libraries that the recipe holds to the label, where it still is there."""
    from deployer.images.inspect import OURS

    try:
        recipe = images.load(image.labels[OURS])
        return recipe.variant(image.labels.get("io.deployer.variant", "")).fatbins
    except QuestionError:
        return ()


def _lines(answer: Answer, asked: Asked) -> Iterator[str]:
    from deployer.images import summary

    image, verdict = answer.image, answer.verdict
    where = "on this engine" if image.place == "engine" else "in its registry, not pulled"
    yield f"{_printable(image.reference)}: {where}"
    yield from _drawn(summary.configuration(image))
    yield ""
    yield from _drawn(summary.demands(image, answer.demand.conditions))
    about = (
        asking._about(asked, None)
        if asked.devices
        else "no NVIDIA GPU; another one: --driver 550.54 --gpu NAME"
    )
    yield from _drawn([("host", about)])
    demand = replace(answer.demand, name=_printable(answer.demand.name))
    yield asking._answer(demand, replace(verdict, reason=_printable(verdict.reason)), True)
    for problem in answer.problems:
        yield from _drawn([("problem", problem)])
    yield ""
    if answer.facts is None:
        yield from _drawn([("inside", f"not known: {answer.unknown}")])
    else:
        yield from _drawn(summary.inside(image, answer.facts))
        if image.ours:
            yield ""
            for lie in answer.lies:
                yield from _drawn([("lie", lie)])
            if not answer.lies:
                yield from _drawn([("labels", "what they promise is there")])


def _printable(text: str) -> str:
    """Without the control characters that somebody's image may hold: they would act on the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _drawn(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A title in the first columns where it changes, and the text beside it."""
    last = None
    for title, text in rows:
        shown = title if title != last else ""
        last = title or last
        yield from textwrap.wrap(
            _printable(text),
            show.width(),
            initial_indent=f"{shown:{_LEFT}}",
            subsequent_indent=" " * _LEFT,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _show_json(answer: Answer, asked: Asked) -> None:
    from deployer.images import inspect as looking

    image, facts = answer.image, answer.facts
    contents = None
    if facts is not None:
        contents = {
            "engines": looking.engines(facts),
            "cuda": looking.reached(facts, "cudart"),
            "cudnn": looking.reached(facts, "cudnn"),
            "compiled": looking.compiled(facts),
            "facts": facts,
        }
    show.show_json(
        {
            "schema": SCHEMA,
            "image": {**asdict(image), "environment": dict(image.environment), "labels": dict(image.labels)},
            "host": {
                "driver": None if asked.driver == compat.NO_DRIVER else asked.driver,
                "gpus": [asdict(device) for device in asked.devices],
                "injection": asked.injection.value,
                "toolkit": asked.toolkit,
            },
            "conditions": list(answer.demand.conditions),
            "verdict": asking._plain(answer.demand, answer.verdict),
            "contents": contents,
            "unknown": answer.unknown,
            "problems": list(answer.problems),
            "lies": list(answer.lies),
            "fits": answer.fits,
        }
    )
