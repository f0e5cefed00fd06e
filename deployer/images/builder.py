"""Builds targets: in which order, with which BuildKit, and what came out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from deployer import resources
from deployer.errors import BuildError, NoSpace
from deployer.fetch import Web, free_bytes
from deployer.home import Home
from deployer.images import bake, buildkit, context, debian
from deployer.images.bake import PLATFORMS, BuildSettings
from deployer.images.target import OS, Target
from deployer.progress import Progress
from deployer.quantity import format_size


def build(
    targets: tuple[Target, ...], settings: BuildSettings, *, home: Home, web: Web, progress: Progress
) -> dict[str, str]:
    """Makes the images of `targets`; afterwards each is on this engine, or pushed, under its references.

    Returns the digest of each by target key: of the pushed manifest, or of the image as the engine names it.

    What is half-built stays in BuildKit's cache only. Raises BuildError with the failing step's last lines and,
    if known, the cause; NoSpace before anything is fetched when the engine's disk is too small.
    """
    title = ", ".join(t.name for t in targets)
    with ThreadPoolExecutor() as pool:
        there = pool.submit(buildkit.require_buildx)
        driver = pool.submit(buildkit.driver, settings.builder)
        room = pool.submit(_room_for, targets, settings)
        there.result()
        stock = driver.result() == "docker"
        room.result()
    architecture = architecture_of(settings.platform)
    epoch = debian.read(debian.lock_file(resources.folder("images") / OS, architecture)).epoch
    digests: dict[str, str] = {}
    with home.scratch("build") as scratch:
        scratch.chmod(0o700)
        for made, these in _tiers(targets, settings) if stock else [(targets, settings)]:
            every = tuple({t.key: t for one in made for t in ((one,) if stock else one.needed)}.values())
            contexts, hidden = {}, {}
            for target in every:
                contexts[target.key] = context.contexts(target, these, architecture, epoch, home, web, progress)
                hidden[target.key] = context.secrets(these, web, target, scratch)
            definition = bake.definition(made, these, contexts=contexts, secrets=hidden, epoch=epoch, stock=stock)
            progress.say(f"build: {', '.join(t.name for t in made)}")
            digests |= buildkit.bake(definition, title, progress, scratch, builder=settings.builder)
    context.sweep(home)
    for target in targets:
        reference = bake.references(target, settings)[0]
        where = "pushed" if settings.push else format_size(size_of(reference))
        progress.say(f"build: {reference}, {where}")
    return digests


def _tiers(
    targets: tuple[Target, ...], settings: BuildSettings
) -> Iterator[tuple[tuple[Target, ...], BuildSettings]]:
    """What the engine's own BuildKit makes at once, with its settings; each stands on images that are there by then.

    One by one, not as one graph: the engine then reads each image's one large layer as what was written on top of an
    image that it has. In a graph it may find that it has the layer below under another id, compares the two trees
    instead, and writes the same entries in another order: another digest.
    """
    alone = replace(settings, push=False, tags=(), registry=None, provenance=None)
    wanted = {t.key for t in targets}
    tiers: dict[tuple[int, bool], dict[str, Target]] = {}
    depths: dict[str, int] = {}

    def stand(target: Target) -> int:
        """Puts what the target stands on and is not there into its tiers; returns the target's own."""
        found = 0
        for one in (*target.uses, target.parent):
            if not isinstance(one, Target):
                continue
            if one.key not in depths:
                there = not settings.no_cache and _has(one.reference, settings.platform)
                depths[one.key] = 0 if there else stand(one)
            found = max(found, depths[one.key])
            kept = settings.push or one.key not in wanted  # what is pushed is not on the engine
            if depths[one.key] and kept:
                tiers.setdefault((depths[one.key], False), {})[one.key] = one
        return found + 1

    for target in targets:
        tiers.setdefault((stand(target), True), {})[target.key] = target
    for (_, asked), tier in sorted(tiers.items(), key=lambda item: item[0]):
        yield tuple(tier.values()), settings if asked else alone


def _has(reference: str, platform: str) -> bool:
    """Whether the engine has the image, for this platform."""
    command = ["docker", "image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", reference]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == platform


def architecture_of(platform: str) -> str:
    """Debian's name of a platform; raises BuildError for one that no lock is for."""
    if platform not in PLATFORMS:
        raise BuildError(f"there are no images for {platform}", hint=f"platforms: {', '.join(PLATFORMS)}")
    return PLATFORMS[platform]


def size_of(reference: str) -> int:
    """Bytes of an image on this engine; raises BuildError when it is not there."""
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", reference]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise BuildError(f"{reference} is not there after its build", evidence=asked.stderr.splitlines()[-2:])
    return int(asked.stdout)


def name(targets: tuple[Target, ...], settings: BuildSettings) -> None:
    """Gives images that are on this engine the further names that the settings ask for."""
    for target in targets:
        first, *more = bake.references(target, settings)
        for reference in more:
            tagged = subprocess.run(["docker", "tag", first, reference], capture_output=True, text=True, check=False)
            if tagged.returncode:
                raise BuildError(f"{first} cannot be named {reference}", evidence=tagged.stderr.splitlines()[-2:])


def _room_for(targets: tuple[Target, ...], settings: BuildSettings) -> None:
    asked = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"], capture_output=True, text=True, check=False
    )
    root = Path(asked.stdout.strip() or "/")
    # what several builds need at once beside their images is what the largest of them needs
    need = sum(t.variant.budget for t in targets) + max(t.variant.build_disk - t.variant.budget for t in targets)
    if settings.builder is None and root.is_dir() and free_bytes(root) < need:
        raise NoSpace(
            f"the build needs {format_size(need)} and {root} has {format_size(free_bytes(root))} free",
            hint="docker system prune removes what nothing uses",
        )
