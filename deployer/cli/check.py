"""`deployer check`: facts, judged against one profile or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from deployer import checks, host, profile, report
from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.errors import QuestionError
from deployer.host import Host
from deployer.profile import Profile
from deployer.report import SCHEMA_VERSION, Report


def _names(_ctx: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for text in given for name in text.split(","))


def _print_schema(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from deployer.cli.schema import check_schema

        show.show_json(check_schema())
        ctx.exit()


@click.command("check")
@click.argument("profile_name", metavar="[PROFILE]", required=False)
@click.option("--all", "everyone", is_flag=True, help="Rank all shipped profiles for this host.")
@click.option("--only", multiple=True, callback=_names, metavar="NAME,…",
              help="Only these checks: ids (gpu.count) or groups (gpu).")  # fmt: skip
@click.option("--skip", multiple=True, callback=_names, metavar="NAME,…", help="All but these.")
@click.option(
    "--host",
    "saved",
    type=click.Path(exists=True, dir_okay=False),
    help="Judge a host saved with --json instead.",
)
@click.option("--deep", is_flag=True,
              help="Also try it: containers with a GPU, copies on GPUs and disks (about a minute).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The whole host and every finding, for programs.")
@click.option("--markdown", is_flag=True, help="A table for an issue or a pull request.")
@click.option("--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Also write JUnit XML for CI.")
@click.option("-v", "--verbose", is_flag=True, help="List every check, also those that do not apply.")
@click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
              help="Print the JSON Schema of --json.")  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context,
    profile_name: str | None,
    everyone: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    saved: str | None,
    deep: bool,
    as_json: bool,
    markdown: bool,
    junit: str | None,
    verbose: bool,
) -> int:
    """Audit this machine against PROFILE (a shipped name or a file).

    Without PROFILE, the highest-ranked shipped profile that fits is taken, else the least demanding one.
    Exits with 0 when nothing fails, 1 when something does, 2 when the question is wrong; with --all, 0 when
    at least one profile surely fits.
    """
    if as_json and markdown:
        raise QuestionError("--json and --markdown exclude each other", hint="choose one of them")
    if deep and saved:
        raise QuestionError(
            "a saved host cannot be tried", hint="run --deep on that machine, and save it with --json"
        )
    if everyone and profile_name:
        raise QuestionError("--all judges every shipped profile", hint=f"leave out {profile_name}, or --all")
    checks.choose(only, skip)  # a wrong name is told before the machine is asked
    here = place(ctx)
    candidates = (
        (profile.load(profile.find(profile_name)),)
        if profile_name
        else tuple(profile.load(path) for path in profile.shipped())
    )
    if saved:
        found = host.load(Path(saved))
    else:
        ports = tuple(sorted({p.serving.port for p in candidates}))
        found = host.probe(here.questions(candidates, ports=ports))
        found = here.with_headers(found, candidates, hub=profile_name is not None)
        if deep:
            found = _tried(found, here, candidates)

    def judge(p: Profile, only: Sequence[str] = (), skip: Sequence[str] = ()) -> Report:
        return checks.audit(found if saved else here.seen_by(found, p, p.name), p, only, skip)

    if everyone:
        judged = _ranked([(p, judge(p, only, skip)) for p in candidates])
    else:
        chosen = candidates[0] if profile_name else _best([(p, judge(p)) for p in candidates])
        judged = (judge(chosen, only, skip),)
    if junit:
        _write_junit(Path(junit), judged, found)
    if as_json:
        _show_json(judged, found, many=everyone)
    elif markdown:
        _show_markdown(judged, found, many=everyone, verbose=verbose)
    elif everyone:
        show.out(report.ranking(judged, width=show.width(), style=show.paint))
    else:
        show.out(report.as_text(judged[0], width=show.width(), every=verbose, style=show.paint))
    return 0 if any(r.sure if everyone else r.ok for r in judged) else 1


def _tried(found: Host, here: Place, candidates: Sequence[Profile]) -> Host:
    """With what only trying can tell. Images of engines that have Python come before the gateway's."""
    from dataclasses import replace

    from deployer import images
    from deployer.runtimes import ways

    wanted = [(p.image, p.variant) for p in candidates if p.engine == "transformers"]
    known = [("transformers", "cu130"), ("gateway", "cpu"), ("transformers", "cpu")]
    tags = tuple(dict.fromkeys(tag for pair in (*wanted, *known) if (tag := images.tag(*pair))))
    screen = show.Screen()

    def make() -> str:
        """The smallest image with Python; GPU profiles need it anyway."""
        from deployer.images import builder

        target = images.target("gateway", "cpu")
        builder.build((target,), here.settings(), home=here.home, web=here.web, progress=screen)
        return target.reference

    return replace(found, deep=ways.tried(found, here.docker, tags, make, screen))


def _by_fit(item: tuple[Profile, Report]) -> tuple[bool, bool, int]:
    """Those that surely fit first, then those that may, then the rest; by rank within each."""
    wanted, judged = item
    return not judged.sure, not judged.ok, -wanted.rank


def _ranked(judged: Sequence[tuple[Profile, Report]]) -> tuple[Report, ...]:
    return tuple(r for _, r in sorted(judged, key=_by_fit))


def _best(judged: Sequence[tuple[Profile, Report]]) -> Profile:
    """The one to show: what `up` would take, else the least demanding one."""
    wanted, first = min(judged, key=_by_fit)
    if first.ok:
        return wanted
    return min((p for p, _ in judged), key=lambda p: (p.requirements.gpu is not None, p.rank))


def _show_json(judged: Sequence[Report], found: Host, *, many: bool) -> None:
    from deployer.report import formats

    reports = [formats.as_json(r) for r in judged]
    said = {"reports": reports} if many else {"report": reports[0]}
    show.show_json({"schema": SCHEMA_VERSION, **said, "host": host.to_json(found)})


def _show_markdown(judged: Sequence[Report], found: Host, *, many: bool, verbose: bool) -> None:
    from deployer.report import formats

    note = f"deployer {found.version}, host of {found.taken}"
    if many:
        show.out(formats.ranking_as_markdown(judged, note=note))
    else:
        show.out(formats.as_markdown(judged[0], every=verbose, note=note))


def _write_junit(path: Path, judged: Sequence[Report], found: Host) -> None:
    from deployer.home import write_whole
    from deployer.report import formats

    content = formats.as_junit(judged, taken=found.taken)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device: nothing may take its place
            path.write_bytes(content)
        else:
            write_whole(path.resolve(), content)
    except OSError as error:
        raise QuestionError(
            f"{path} cannot be written: {error.strerror or error}", hint="name another file for --junit"
        ) from error
