"""The OS base of the images: a reference that a registry serves, or one made from the Debian archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from deployer.errors import BuildError
from deployer.home import Home
from deployer.images.recipe import ARCHIVE, DEFAULT_BASE, Recipe, Variant, tag
from deployer.progress import Progress

SUITE = "bookworm"
ARCHIVE_TAG = f"deployer/base:{SUITE}"
# What a container never reads; the same paths that Debian's own slim images leave out.
_TRIM = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
)


def resolve(base: str, home: Home, progress: Progress, *, fresh: bool = False) -> str:
    """A reference that `docker build` can use for the base word `base`, there on this engine afterwards.

    Raises BuildError when it cannot be had, with the way out.
    """
    if base == ARCHIVE:
        if fresh or not _present(ARCHIVE_TAG):
            _from_archive(home, progress)
        return ARCHIVE_TAG
    if not _present(base):
        progress.say(f"base: pulling {base}")
        pull = subprocess.run(["docker", "pull", "-q", base], capture_output=True, text=True, check=False)
        if pull.returncode:
            raise BuildError(
                f"the base image {base} cannot be pulled",
                hint="without a registry, build the base from the Debian archive: --base archive",
                evidence=pull.stderr.strip().splitlines()[-2:],
            )
    return base


def can_use_archive() -> str | None:
    """None when a base can be made from the archive here, else what is missing."""
    if not shutil.which("debootstrap"):
        return "debootstrap is not installed: apt-get install debootstrap"
    if os.geteuid() != 0:
        return "only root can run debootstrap: use sudo"
    return None


def _present(reference: str) -> bool:
    asked = subprocess.run(["docker", "image", "inspect", reference], capture_output=True, check=False)
    return asked.returncode == 0


def _from_archive(home: Home, progress: Progress) -> None:
    missing = can_use_archive()
    if missing:
        raise BuildError("the base cannot be made from the Debian archive", hint=missing)
    with home.scratch("base") as scratch:
        root = scratch / "root"
        progress.say(f"base: installing Debian {SUITE} from the archive (about a minute)")
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", SUITE, str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise BuildError(
                "debootstrap failed",
                hint="is the Debian archive reachable from here?",
                evidence=made.stdout.strip().splitlines()[-3:],
            )
        for path in _TRIM:
            for child in (root / path).iterdir() if (root / path).is_dir() else ():
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        (root / "var/lib/apt/lists/partial").mkdir(parents=True)
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            imported = subprocess.run(
                ["docker", "import", "-c", 'CMD ["bash"]', "-", ARCHIVE_TAG],
                stdin=tar.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
        if imported.returncode or tar.returncode:
            raise BuildError("the base could not be imported", evidence=imported.stderr.splitlines()[-3:])


def reachable(base: str) -> bool:
    """Whether `base` is on this engine, or a registry serves it now. Pulls nothing."""
    if _present(base):
        return True
    asked = subprocess.run(
        ["docker", "buildx", "imagetools", "inspect", base], capture_output=True, check=False
    )
    return asked.returncode == 0


def require_buildx() -> None:
    """Raises BuildError with the way out unless `docker buildx` is here."""
    if not shutil.which("docker"):
        raise BuildError(
            "images are built with the `docker` command, which is not installed", hint=_BUILDX_HINT
        )
    asked = subprocess.run(["docker", "buildx", "version"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise BuildError("images are built with BuildKit, and `docker buildx` is missing", hint=_BUILDX_HINT)


_BUILDX_HINT = (
    "install it: apt-get install docker-buildx-plugin (Docker's own packages), "
    "docker-buildx (Debian 13, Ubuntu 24.04 or later), dnf install docker-buildx-plugin (Fedora)"
)


def choose(recipe: Recipe, variant: Variant, has_image: Callable[[str], bool]) -> str:
    """The base word to use when none is asked for: one whose image is here, else one that can be had.

    Raises BuildError when the image is not here and cannot be built.
    """
    for base in (DEFAULT_BASE, ARCHIVE):
        if has_image(tag(recipe, variant, base)):
            return base
    require_buildx()
    if reachable(DEFAULT_BASE):
        return DEFAULT_BASE
    if _present(ARCHIVE_TAG):
        return ARCHIVE
    missing = can_use_archive()
    if missing:
        raise BuildError(
            f"the base image {DEFAULT_BASE} cannot be pulled",
            hint=f"reach a registry, or use the Debian archive: {missing}",
        )
    return ARCHIVE
