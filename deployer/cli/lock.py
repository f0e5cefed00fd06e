"""`deployer build --lock` and `--set`: locks made again, with what changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import click

from deployer.cli import show
from deployer.cli.place import Place
from deployer.errors import QuestionError
from deployer.home import write_whole
from deployer.images import Target, Variant, bake, builder, context, debian, lock, repin, solve
from deployer.images import recipe as recipes
from deployer.images.bake import BuildSettings
from deployer.images.lock import Change


def make(targets: tuple[Target, ...], here: Place, settings: BuildSettings, *, as_json: bool) -> None:
    """Locks the Debian packages and the wheels of `targets` again, the lowest image first, and prints the difference.

    Raises QuestionError when the recipes cannot be written, as in an installed package.
    """
    made = tuple({t.key: t for wanted in targets for t in wanted.needed}.values())
    if not os.access(made[0].recipe.folder, os.W_OK):
        raise QuestionError(
            f"{made[0].recipe.folder} cannot be written", hint="make locks in a checkout of the project"
        )
    screen = show.Screen(quiet=as_json)
    snapshot = solve.now()
    changes: dict[Path, tuple[Change, ...]] = {}
    wanted = {t.key for t in targets}
    for target in made:
        if target.key in wanted:
            changes |= _packages(target, snapshot, here, settings, screen, changes)
            changes |= _wheels(target, here, screen, changes)
    named = {f"{path.parent.name}/{path.name}": found for path, found in changes.items() if found}
    if as_json:
        show.show_json({"locks": {name: [vars(change) for change in found] for name, found in named.items()}})
        return
    for name, found in named.items():
        click.echo(f"{name}\n{lock.table(found)}\n")
    if not named:
        click.echo("nothing changed")


def repinned(targets: tuple[Target, ...], cudnn: str, here: Place, screen: show.Screen) -> dict[str, Variant]:
    """The torch variants under `targets` with another cuDNN, by `image:variant`.

    Raises QuestionError when that cuDNN is refused, or when there is none in these images.
    """
    found = {}
    for target in targets:
        layer = next((t for t in target.line if "cudnn" in t.variant.pins), None)
        if layer is None or layer.lock is None:
            raise QuestionError(f"{target.name} has no cuDNN", hint="only variants with CUDA and torch have one")
        if layer.name in found:
            continue
        screen.say(f"lock: {layer.name} with cuDNN {cudnn}")
        new = repin.repin(
            layer.lock.read_text(), repin.promise(layer.variant), cudnn, _resolver(layer, here, screen)
        )
        for note in new.notes:
            screen.say(f"note: {note}")
        key = hashlib.sha256(new.lock.encode()).hexdigest()[:12]
        path = here.home.sources / "locks" / f"{layer.key}-{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, new.lock.encode())
        pins = {**layer.variant.pins, "cudnn": cudnn}
        found[layer.name] = replace(layer.variant, requirements=str(path), pins=pins)
    return found


def _packages(
    target: Target, snapshot: str, here: Place, settings: BuildSettings, screen: show.Screen, done: Container[Path]
) -> dict[Path, tuple[Change, ...]]:
    recipe = target.recipe
    wanted: dict[str, tuple[str, ...]] = {}
    for packages in (recipe.packages, *(variant.packages for variant in recipe.variants)):
        for step, names in packages.items():
            wanted[step] = (*wanted.get(step, ()), *names)
    paths = [debian.lock_file(recipe.folder, architecture) for architecture in bake.PLATFORMS.values()]
    if not wanted or paths[0] in done:
        return {}
    base = target.line[0]  # has apt
    if not here.runtime("docker").has_image(base.reference):
        alone = replace(settings, push=False, tags=())
        builder.build((base,), alone, home=here.home, web=here.web, progress=screen)
    found = {}
    for architecture, path in zip(bake.PLATFORMS.values(), paths, strict=True):
        screen.say(f"lock: {recipe.name}, Debian packages for {architecture}")
        with here.home.scratch("solve") as scratch:
            new = solve.solve(
                base.reference,
                wanted,
                architecture=architecture,
                snapshot=snapshot,
                below=tuple(p for t in target.line[:-1] for p in _locked(t, architecture)),
                secrets=context.secrets(settings, here.web, target, scratch),
                into=scratch,
            )
        old = debian.read(path) if path.exists() else None
        changed = solve.difference(old, new)
        if changed or old is None:
            write_whole(path, debian.write(new).encode())
        found[path] = changed
    return found


def _locked(target: Target, architecture: str) -> tuple[debian.Package, ...]:
    path = debian.lock_file(target.recipe.folder, architecture)
    return tuple(p for p in debian.read(path).packages if p.step == "image") if path.exists() else ()


def _wheels(
    target: Target, here: Place, screen: show.Screen, done: Container[Path]
) -> dict[Path, tuple[Change, ...]]:
    if target.lock is None or target.lock in done:
        return {}
    screen.say(f"lock: {target.name}, wheels")
    below = [pin for t in target.line[:-1] if t.lock for pin in lock.parse(t.lock.read_text())]
    resolver = _resolver(target, here, screen)
    found = lock.resolve(target.asked.read_text(), resolver, constraints=below)
    pins = lock.subtract(found, below)
    old = lock.parse(target.lock.read_text()) if target.lock.exists() else ()
    with here.web.client() as client:
        changes = lock.difference(old, pins, lock.describe(client, resolver))
    if changes:
        write_whole(target.lock, lock.render(pins).encode())
    return {target.lock: changes}


def _resolver(target: Target, here: Place, screen: show.Screen) -> lock.Resolver:
    (source,) = context.sources_for(recipes.uv(), "linux/amd64")
    context.fetch_sources((source,), home=here.home, web=here.web, progress=screen)
    uv = lock.uv_binary(here.home.sources / source.file, here.home.sources / "uv", sha256=source.sha256)
    extra = [t.variant.extra_index for t in target.line if t.variant.extra_index]
    local = here.web.wheelhouse and any(here.web.wheelhouse.glob("torch-*.whl"))
    return lock.Resolver(uv, here.home, here.web, extra_index=() if local else tuple(extra))
