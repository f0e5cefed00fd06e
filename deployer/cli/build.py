"""`deployer build`: images from their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deployer import images
from deployer.cli import show
from deployer.cli.place import Place, build_options, place, this_platform
from deployer.errors import QuestionError
from deployer.images import Target, Variant
from deployer.images.bake import PLATFORMS, BuildSettings
from deployer.quantity import format_size

SETTABLE = ("cudnn", "compute_capability")


@click.command("build")
@click.argument("names", nargs=-1, metavar="[IMAGE[:VARIANT]]...")
@click.option("--all", "everyone", is_flag=True, help="Every variant of every image.")
@click.option("--list", "listing", is_flag=True, help="List the images and their variants.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="cudnn=VERSION: another, locked, proven; compute_capability=8.6,9.0: compile for them.")  # fmt: skip
@click.option("--push", is_flag=True, help="Push to the registry instead of keeping it on this engine.")
@click.option("--registry", metavar="HOST/PATH", help="Goes before the name of every image.")
@click.option("--tag", "tags", multiple=True, help="A further tag, or a whole reference.")
@click.option("--platform", type=click.Choice([*PLATFORMS]), help="[default: this machine's]")
@click.option("--builder", help="BuildKit builder to use.  [default: docker's]")
@click.option("--cache-from", multiple=True, metavar="REF|type=…", help="Where finished steps come from.")
@click.option("--cache-to", multiple=True, metavar="REF|type=…",
              help="Where they go; {image} and {variant} are filled in.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Build every step again.")
@click.option("--provenance", type=click.Choice(["min", "max"]), help="Attach BuildKit's provenance.")
@click.option("--sbom", metavar="FOLDER", type=click.Path(file_okay=False), help="Write a CycloneDX SBOM of each.")
@click.option("--lock", is_flag=True, help="Make the locks again, show what changed, and build nothing.")
@click.option("--plan", "planning", is_flag=True, help="Print what there is to build, as CI needs it.")
@click.option("--since", metavar="REVISION", help="With --plan: name what changed since a git revision.")
@click.option("--dry-run", is_flag=True, help="Print what would be built and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@build_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    everyone: bool,
    listing: bool,
    changes: tuple[str, ...],
    lock: bool,
    planning: bool,
    since: str | None,
    sbom: str | None,
    dry_run: bool,
    as_json: bool,
    platform: str | None,
    **words: Any,
) -> None:
    """Build IMAGEs; without :VARIANT, every variant. An image that is there already is not built again.

    The tag is made from the content: the same recipe, pins and base give the same tag. The last step of every build
    proves from inside that the image holds what is pinned.
    """
    ways = {key: words.pop(key) for key in ("base", "index_url", "ca_cert", "wheelhouse", "apt_mirror", "proxy")}
    here = place(ctx, **ways)
    settings = here.settings(**({"platform": platform} if platform else {}), **words)
    if settings.push and not settings.registry and not any("/" in tag for tag in settings.tags):
        raise QuestionError("--push to where?", hint="name it: --registry HOST/PATH")
    if changes and (everyone or listing or planning or lock or not names):
        raise QuestionError("--set needs the names of images", hint="deployer build transformers:cu130 --set …")
    if planning:
        import deployer.images.matrix as matrix

        rows = matrix.plan(_targets(names, everyone or not names, settings.base, {}), settings, since)
        show.show_json({"images": rows}) if as_json else click.echo(matrix.as_text(rows))
        return
    if lock:
        from deployer.cli import lock as locks

        locks.make(_targets(names, everyone or not names, settings.base, {}), here, settings, as_json=as_json)
        return
    if listing or not (names or everyone):
        _list(settings.base, as_json=as_json)
        return
    screen = show.Screen()
    targets = _targets(names, everyone, settings.base, _instead(changes, names, here, screen))
    if dry_run:
        _foretell(targets, here, settings, as_json=as_json)
        return
    _build(targets, here, settings, screen, sbom, as_json=as_json)


def _targets(
    names: tuple[str, ...], everyone: bool, base: str, instead: dict[str, Variant]
) -> tuple[Target, ...]:
    found = []
    for name in images.names() if everyone else names:
        image, _, variant = name.partition(":")
        recipe = images.load(image)
        for one in (recipe.variant(variant),) if variant else recipe.variants:
            found.append(images.target(image, one.name, base, instead))
    return tuple({target.key: target for target in found}.values())


def _instead(
    changes: tuple[str, ...], names: tuple[str, ...], here: Place, screen: show.Screen
) -> dict[str, Variant]:
    """Variants changed by `--set`, by `image:variant`."""
    if not changes:
        return {}
    from deployer.cli import lock
    from deployer.images import repin

    asked = dict(change.partition("=")[::2] for change in changes)
    if unknown := [key for key, value in asked.items() if key not in SETTABLE or not value]:
        raise QuestionError(
            f"--set {unknown[0]}={asked[unknown[0]]}: what can be set is {' and '.join(SETTABLE)}",
            hint="for example --set cudnn=9.24.0.43",
        )
    targets, found = _targets(names, False, images.ARCHIVE, {}), {}
    if "cudnn" in asked:
        found = lock.repinned(targets, asked["cudnn"], here, screen)
    if "compute_capability" in asked:
        found |= {t.name: repin.recompiled(t.variant, asked["compute_capability"]) for t in targets}
    return found


def _build(
    targets: tuple[Target, ...],
    here: Place,
    settings: BuildSettings,
    screen: show.Screen,
    sbom: str | None,
    *,
    as_json: bool,
) -> None:
    from deployer.images import bake

    if sbom:
        from deployer.images.sbom import require

        require()
    again = settings.push or settings.no_cache or settings.platform != this_platform()  # the tag names no platform
    there = {t.key: not again and _is_here(t, here, settings) for t in targets}
    wanted = tuple(t for t in targets if not there[t.key])
    digests = {}
    if wanted:
        from deployer.images import builder

        digests = builder.build(wanted, settings, home=here.home, web=here.web, progress=screen)
    if settings.tags or settings.registry:
        from deployer.images import builder

        builder.name(tuple(t for t in targets if there[t.key]), settings)
    rows = []
    for target in targets:
        reference = bake.references(target, settings)[0]
        digest = digests.get(target.key)
        rows.append({"image": target.name, "reference": reference, "digest": digest, "built": not there[target.key]})
        if not as_json:
            click.echo(f"{reference.rsplit(':', 1)[0]}@{digest}" if settings.push and digest else reference)
    if sbom:
        from deployer.images.sbom import write

        for target in targets:
            write(target, bake.references(target, settings)[0], Path(sbom), here.home, screen)
    if as_json:
        show.show_json({"images": rows})


def _is_here(target: Target, here: Place, settings: BuildSettings) -> bool:
    from deployer.errors import RuntimeUnavailable
    from deployer.host import Questions, runtime
    from deployer.images import bake

    ask = Questions(models=here.home.models, engines=here.home.root, docker=here.docker)
    try:
        return runtime.present(bake.references(target, settings)[0], ask)  # without the docker package: it is slow
    except OSError as error:
        raise RuntimeUnavailable(
            f"no container engine answers at {here.docker}: {error}", hint="deployer check --only runtime"
        ) from error


def _list(base: str, *, as_json: bool) -> None:
    rows = [
        {
            "image": target.name,
            "description": f"{target.recipe.description} {target.recipe.version}: {target.variant.description}",
            "tag": target.reference,
        }
        for target in _targets((), True, base, {})
    ]
    if as_json:
        show.show_json({"images": rows})
    for row in () if as_json else rows:
        click.echo(f"{row['image']:24}  {row['description']}")


def _foretell(targets: tuple[Target, ...], here: Place, settings: BuildSettings, *, as_json: bool) -> None:
    """What a build would do, image by image; nothing is fetched for it."""
    from deployer.images import bake

    rows: list[dict[str, Any]] = []
    for target in targets:
        there = not settings.push and not settings.no_cache and _is_here(target, here, settings)
        rows.append(
            {
                "image": target.name,
                "references": [*bake.references(target, settings)],
                "there": there,
                "stands_on": [t.reference for t in target.needed[:-1]],
                "base": target.base,
                "disk": target.variant.build_disk,
                "labels": bake.labels(target),
            }
        )
    if as_json:
        show.show_json({"images": rows})
        return
    for row in rows:
        state = "is there" if row["there"] else f"would be built, needs {format_size(row['disk'])} of disk"
        click.echo(f"{row['image']}: {row['references'][0]} {state}")
        for below in row["stands_on"]:
            click.echo(f"  on {below}")
