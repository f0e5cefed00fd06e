"""What there is to build, as data for CI: image, platform, tag, disk, cache keys, and what changed since a revision."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deployer import resources
from deployer.errors import QuestionError
from deployer.images import bake
from deployer.images.bake import PLATFORMS, BuildSettings
from deployer.images.context import sources_for
from deployer.images.debian import lock_file
from deployer.images.target import PROOF, Target
from deployer.quantity import format_size


def plan(targets: tuple[Target, ...], settings: BuildSettings, since: str | None = None) -> list[dict[str, Any]]:
    """A row for each target and platform that its locks are made for; `disk` and `budget` are bytes.

    `cache` are keys for a CI's cache, the exact one first, then prefixes that are good enough to start from.
    `changed` are the files of the image, and of those it stands on, that differ from the git revision `since`; None
    without one. Raises QuestionError when git does not know it.
    """
    changed = _changed(targets[0].recipe.folder, since) if since and targets else None
    rows: list[dict[str, Any]] = []
    for target in targets:
        for platform in platforms(target):
            name = f"{target.recipe.name}-{target.variant.name}-{PLATFORMS[platform]}"
            files = {str(path) for above in target.needed for path in _files(above)} | _gone(target, changed or ())
            rows.append(
                {
                    "image": target.recipe.name,
                    "variant": target.variant.name,
                    "platform": platform,
                    "reference": bake.references(target, settings)[0],
                    "tag": target.reference.rsplit(":", 1)[1],
                    "stands_on": [above.name for above in target.needed[:-1]],
                    "disk": target.variant.build_disk,
                    "budget": target.variant.budget,
                    "cache": [f"{name}-{target.digest[:12]}", f"{name}-"],
                    "changed": None if changed is None else sorted(files & changed),
                }
            )
    root = _root(targets[0].recipe.folder) if since and targets else None
    for row in rows:
        if root and row["changed"]:
            row["changed"] = [str(Path(path).relative_to(root)) for path in row["changed"]]
    return rows


def platforms(target: Target) -> tuple[str, ...]:
    """The platforms that every lock of the target's line is for."""
    found = []
    for platform, architecture in PLATFORMS.items():
        whole = all(
            {s.package for s in t.sources} == {s.package for s in sources_for(t.sources, platform)}
            and (lock_file(t.recipe.folder, architecture).exists() or not (t.recipe.packages or t.variant.packages))
            for t in target.needed
        )
        found += [platform] if whole else []
    return tuple(found)


def as_text(rows: list[dict[str, Any]]) -> str:
    """The rows for people, a line each."""
    lines = []
    for row in rows:
        name = f"{row['image']}:{row['variant']}"
        why = ""
        if row["changed"] is not None:
            why = f"  changed: {', '.join(row['changed'])}" if row["changed"] else "  unchanged"
        lines.append(f"{name:20} {row['platform']:12} {row['tag']:22} needs {format_size(row['disk'])}{why}")
    return "\n".join(lines)


def _files(target: Target) -> list[Path]:
    found = [path for path, _ in target.files()]
    return [path.resolve() for path in (*found, target.recipe.folder / "image.yaml")]


def _gone(target: Target, changed: Iterable[str]) -> set[str]:
    """The files among `changed` that were the image's and are not there any more."""
    parts = [resources.PACKAGE / part for above in target.needed for part in (*above.recipe.copies, PROOF)]
    folders = [path.resolve() for path in (*(above.recipe.folder for above in target.needed), *parts)]
    paths = [Path(name) for name in changed if not name.endswith(".in") and not Path(name).exists()]
    return {str(path) for path in paths if any(path.is_relative_to(folder) for folder in folders)}


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise QuestionError("--since asks git, which is not installed", hint="apt-get install git") from None
    if done.returncode:
        raise QuestionError(
            f"git cannot tell what changed: {done.stderr.strip().splitlines()[-1]}",
            hint="--since takes a revision of this checkout; a shallow clone has only the last one",
        )
    return done.stdout


def _root(folder: Path) -> Path:
    return Path(_git(folder, "rev-parse", "--show-toplevel").strip())


def _changed(folder: Path, since: str) -> set[str]:
    root = _root(folder)
    tracked = _git(folder, "diff", "--name-only", "-z", since, "--", str(root)).split("\0")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return {str((root / name).resolve()) for name in (*tracked, *new) if name}
