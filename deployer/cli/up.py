"""`deployer up`: from whatever there is to a model that answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import click

from deployer import checks, host, images, plan, profile
from deployer.cli import show
from deployer.cli.place import Place, build_options, place
from deployer.engines import engine
from deployer.errors import BuildError, QuestionError, Refused
from deployer.frozen import dataclass
from deployer.images import buildkit
from deployer.models.pull import pull
from deployer.plan import Choice, Record, World
from deployer.profile import Profile
from deployer.quantity import format_duration
from deployer.report import Outcome
from deployer.sizing.wanted import described


@click.command("up")
@click.argument("profile_name", metavar="[PROFILE]", required=False)
@click.option("--name", help="Name of the deployment.  [default: the profile's]")
@click.option(
    "--runtime",
    type=click.Choice(["docker", "process"]),
    help="What runs it.  [default: docker if it answers]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port that clients use.  [default: the profile's]")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--stall", type=click.FloatRange(1), default=120, show_default=True,
              help="Give up when the engine makes no progress for so many seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the plan, for programs.")
@build_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    profile_name: str | None,
    name: str | None,
    runtime: str | None,
    port: int | None,
    dry_run: bool,
    stall: float,
    as_json: bool,
    **ways: str | None,
) -> None:
    """Bring up PROFILE: check, build, pull, launch, and prove that it answers.

    PROFILE is a shipped name or a file; without it the highest-ranked profile that fits this machine is
    taken. A second `up` of the same profile changes nothing; a changed one is brought up beside what runs, accepted,
    and takes its place without a request lost: deployer rollback goes back.
    After any interruption the same command goes on from where it was.
    """
    here = place(ctx, **ways)
    wanted, reasons, facts = choose(here, profile_name, name, port)
    asked = Asked(name or wanted.name, runtime, port, stall, dry_run, as_json)
    bring(here, asked, wanted, reasons, facts)


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line. `drain` in seconds, `share` of the rate of the generation before.

    `after` is whether that one is stopped first, even where memory holds both.
    """

    name: str
    runtime: str | None
    port: int | None
    stall: float
    dry_run: bool
    as_json: bool
    after: bool = False
    share: float = 0.0
    drain: float = plan.DRAIN_S


def bring(here: Place, asked: Asked, wanted: Profile, reasons: tuple[str, ...], facts: host.Host) -> None:
    """Brings the profile up under the name that was asked for, beside or after what runs there."""
    screen = show.Screen(quiet=False)
    label = asked.name
    with here.home.lock(f"deployment-{label}", waiting=lambda who: screen.say(f"waiting for {who}")):
        here.home.sweep()
        chosen = plan.choose_runtime(facts, wanted, asked.runtime)
        if chosen[0] == "docker":
            image = images.target(wanted.image, wanted.variant, here.base)
            try:
                if not here.runtime("docker").has_image(image.reference):
                    buildkit.require_buildx()
            except BuildError as error:
                chosen = plan.without_images(wanted, asked.runtime, error)
        now = facts
        record = plan.load_record(here.home, label)
        if record:  # what it holds is free for what takes its place
            facts = plan.without(facts, {one.pid for one in here.runtime(record.runtime).members(label)})
        _refuse(facts, dataclasses.replace(wanted, runtime=chosen[0]))
        runs = here.runtime(chosen[0])
        before = plan.before(here.home, label, wanted, record, facts, screen.say, forget=not asked.dry_run)
        if not before and not asked.dry_run:
            now = facts = _known(here, facts, wanted, screen)
        last = record if record and record.runtime == chosen[0] else None

        def resolved(on: host.Host) -> Choice:
            return plan.resolve(
                on,
                wanted,
                home=here.home,
                runtime=chosen,
                base=here.base,
                name=label,
                port=asked.port,
                reasons=reasons,
                before=before,
                share=record.share if record and before else None,
            )

        choice = resolved(facts)
        ran = last if last and plan.runs(last, runs) else None
        way = plan.FIRST
        if ran:
            choice, way = _beside(choice, ran, now, resolved, asked)
        numbers = (*plan.generations(here.home, label), *([record.generation] if record else []))
        steps = plan.steps(
            choice, home=here.home, runtime=runs, generation=max(numbers, default=0) + 1, last=last, now=ran, way=way
        )
        if asked.dry_run:
            click.echo(plan.as_json(choice, steps) if asked.as_json else _plan(choice, steps))
            return
        world = World(here.home, here.web, here.settings(), runs, here.runtime, screen, facts, asked.stall)
        there = plan.already_up(choice, steps, world)
        if there is None:
            for reason in choice.reasons:
                screen.say(reason)
        result = there or plan.apply(choice, steps, world)
    _show(result, changed=there is None, as_json=asked.as_json)


def _beside(
    choice: Choice, ran: Record, now: host.Host, resolved: Callable[[host.Host], Choice], asked: Asked
) -> tuple[Choice, plan.Way]:
    """How the choice follows what runs; on other GPUs, where there is no room for both on its own."""

    def way(one: Choice) -> plan.Way:
        return plan.follows(ran, plan.need(one, now), one.gpus, now, share=asked.share, drain=asked.drain)

    if asked.after:
        return choice, plan.Way(False, "as it was asked for", asked.share, asked.drain)
    first = way(choice)
    if first.beside or not choice.gpus:
        return choice, first
    try:
        other = resolved(now)
    except (QuestionError, Refused):
        return choice, first
    same = (other.context, other.concurrency) == (choice.context, choice.concurrency)
    return (other, way(other)) if same and way(other).beside else (choice, first)


def choose(
    here: Place, profile_name: str | None, name: str | None, port: int | None
) -> tuple[Profile, tuple[str, ...], host.Host]:
    """The profile, why, and the host as it was asked for it."""

    def with_port(p: Profile) -> Profile:
        return dataclasses.replace(p, serving=dataclasses.replace(p.serving, port=port or p.serving.port))

    profiles = tuple(
        with_port(profile.load(path))
        for path in ((profile.find(profile_name),) if profile_name else profile.shipped())
    )
    ports = tuple(sorted({p.serving.port for p in profiles}))
    facts = host.probe(here.questions(profiles, ports=ports))
    facts = here.with_headers(facts, profiles, hub=profile_name is not None)

    def seen_by(p: Profile) -> host.Host:
        return here.seen_by(facts, p, name or p.name)

    if profile_name:
        return profiles[0], (), seen_by(profiles[0])
    wanted, reasons = plan.rank(seen_by, profiles)
    return wanted, reasons, seen_by(wanted)


def _known(here: Place, facts: host.Host, wanted: Profile, screen: show.Screen) -> host.Host:
    """With the model's headers, where what is served follows from them and nothing but a pull brings them."""
    serving, headers = wanted.serving, checks.headers_of(facts, wanted)
    known = (serving.context and serving.concurrency) or described(wanted, headers)
    if headers or (known and wanted.model.kind != "embedding"):
        return facts
    screen.say("what fits follows from the model's headers: it is pulled first")
    pull(wanted.model, engine(wanted.engine).files, home=here.home, web=here.web, progress=screen)
    return here.with_headers(facts, (wanted,))


def _refuse(facts: host.Host, wanted: Profile) -> None:
    report = checks.audit(facts, wanted)
    if report.ok:
        return
    lines = []
    for failure in report.of(Outcome.FAIL):
        lines.append(f"{failure.id}: {failure.found} (wanted: {failure.wanted})")
        lines += [f"  → {failure.hint}"] if failure.hint else []
    raise Refused(
        f"this host cannot run {wanted.name}; nothing was changed",
        hint="mend what is named, or see what fits: deployer check",
        evidence=lines,
    )


def _plan(choice: Choice, steps: tuple[plan.Step, ...]) -> str:
    return "\n".join([*choice.reasons, "", plan.describe(steps)])


def _show(record: Record, *, changed: bool, as_json: bool) -> None:
    from pathlib import Path

    root = record.url.removesuffix("/v1")
    key_file, certificate = (Path(one) if one else None for one in (record.key_file, record.certificate))
    curl = plan.example(root, record.model, record.kind, key_file, certificate)
    if as_json:
        show.show_json(
            {
                "name": record.name,
                "changed": changed,
                "runtime": record.runtime,
                "url": record.url,
                "key_file": record.key_file,
                "model": record.model,
                "first_token_s": record.first_token,
                "tokens_per_s": record.rate,
                "example": curl,
            }
        )
        return
    if not changed:
        click.echo(f"{record.name} is up already; nothing was changed", err=True)
    key = f"{record.key_file} (only you can read it)" if record.key_file else "none is asked for"
    click.echo(f"url       {record.url}")
    click.echo(f"key       {key}")
    click.echo(f"model     {record.model} on {record.runtime}")
    embeds = record.kind == "embedding"
    first, then = ("", "at") if embeds else ("first token after ", "then")
    click.echo(f"measured  {first}{format_duration(record.first_token)}, {then} {record.rate:.0f} tokens/s")
    click.echo(f"try       {curl}")
    if not embeds:
        click.echo("          deployer chat")
