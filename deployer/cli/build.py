"""`deployer build`: images from their recipes."""

from __future__ import annotations

import click

from deployer import images
from deployer.cli import show
from deployer.cli.place import build_options, place
from deployer.images import Recipe, Variant, builder
from deployer.images.builder import BuildSettings


@click.command("build")
@click.argument("names", nargs=-1, metavar="[IMAGE[:VARIANT]]...")
@click.option("--no-cache", is_flag=True, help="Build every step again.")
@click.option("--list", "listing", is_flag=True, help="List the images and their variants.")
@click.option("--json", "as_json", is_flag=True, help="Print the references, for programs.")
@build_options
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    no_cache: bool,
    listing: bool,
    as_json: bool,
    base: str | None,
    index_url: str | None,
    ca_cert: str | None,
    wheelhouse: str | None,
) -> None:
    """Build IMAGEs; without :VARIANT, every variant. An image that is there already is not built again.

    The tag is made from the content: the same recipe, pins and base give the same tag.
    """
    here = place(ctx, index_url=index_url, ca_cert=ca_cert, wheelhouse=wheelhouse)
    if listing or not names:
        rows = [
            _row(recipe, variant)
            for recipe in map(images.load, images.names())
            for variant in recipe.variants
        ]
        if as_json:
            show.show_json({"images": rows})
        for row in () if as_json else rows:
            click.echo(f"{row['image']:24}  {row['description']}")
        return
    screen = show.Screen()
    runtime = here.runtime("docker")
    settings = BuildSettings(base or images.DEFAULT_BASE, no_cache)
    built = []
    for recipe, variant in [pair for name in names for pair in _wanted(name)]:
        reference = images.tag(recipe, variant, settings.base)
        there = runtime.has_image(reference) and not no_cache
        if not there:
            builder.build(recipe, variant, settings, home=here.home, web=here.web, progress=screen)
        built.append({"image": f"{recipe.name}:{variant.name}", "reference": reference, "built": not there})
        if not as_json:
            click.echo(reference)
    if as_json:
        show.show_json({"images": built})


def _wanted(name: str) -> list[tuple[Recipe, Variant]]:
    image, _, variant = name.partition(":")
    recipe = images.load(image)
    return [(recipe, v) for v in ((recipe.variant(variant),) if variant else recipe.variants)]


def _row(recipe: Recipe, variant: Variant) -> dict[str, str]:
    return {
        "image": f"{recipe.name}:{variant.name}",
        "description": f"{recipe.description} {recipe.version}: {variant.description}",
        "tag": images.tag(recipe, variant, images.DEFAULT_BASE),
    }
