"""Debian packages locked anew: apt chooses, in a container of the image below, from the archive as it is now."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from deployer import resources
from deployer.errors import BuildError
from deployer.images.buildkit import cause
from deployer.images.debian import Lock, Package
from deployer.images.lock import Change

_FILE = """\
FROM {image} AS solve
ARG TIME
RUN --mount=type=bind,from=tools,target=/tools --mount=type=secret,id=ca,target=/ca \\
    --mount=type=bind,from=below,target=/below --mount=type=secret,id=outside,target=/outside \\
    mkdir /solved {commands}
FROM scratch
COPY --from=solve /solved/ /
"""


def now() -> str:
    """The present time as locks write it."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def solve(
    image: str,
    wanted: Mapping[str, tuple[str, ...]],
    *,
    architecture: str,
    snapshot: str,
    below: tuple[Package, ...],
    secrets: Mapping[str, Path],
    into: Path,
) -> Lock:
    """What apt would install for the packages `wanted` by each step, now, on a system that has the packages `below`.

    `image` runs apt and may be of another architecture. Each step stands for itself: they are installed in different
    stages. Raises BuildError with apt's last lines.
    """
    commands = "".join(
        f"\\\n    && /tools/solve {architecture} /below/list {' '.join(names)} > /solved/{step}"
        for step, names in wanted.items()
    )
    command = ["docker", "buildx", "build", "--progress=plain", "--build-arg", f"TIME={snapshot}"]
    command += ["--build-context", f"tools={resources.folder('images') / 'tools'}"]
    for name, path in secrets.items():
        command += ["--secret", f"id={name},src={path}"]
    for name in ("context", "below"):
        (into / name).mkdir()
    folder = into / "context"
    (into / "below/list").write_text("".join(f"{p.name}={p.version}\n" for p in below))
    command += ["--build-context", f"below={into / 'below'}"]
    (folder / "Dockerfile").write_text(_FILE.format(image=image, commands=commands))
    command += ["--output", f"type=local,dest={into / 'solved'}", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BuildError("apt cannot choose the packages", hint=cause(done.stderr), evidence=lines[-8:])
    packages = []
    for step in wanted:
        for line in (into / "solved" / step).read_text().splitlines():
            name, version, sha256, size, where = line.split("\t")
            packages.append(Package(step, name, version, sha256, int(size), where))
    return Lock(snapshot, tuple(packages))


def difference(old: Lock | None, new: Lock) -> tuple[Change, ...]:
    """What changed; sizes are of the packages as they are downloaded."""
    before = {(p.name, p.step): p for p in (old.packages if old else ())}
    after = {(p.name, p.step): p for p in new.packages}
    found = []
    for key in sorted(before.keys() | after.keys()):
        was, is_ = before.get(key), after.get(key)
        if was is None or is_ is None or was.version != is_.version:
            size = is_.size if is_ else None
            found.append(Change(key[0], was.version if was else None, is_.version if is_ else None, size))
    return tuple(dict.fromkeys(found))
