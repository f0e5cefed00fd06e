"""Containers that run to their end: a job on files of this host, and what is taken out of an image."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.errors import LaunchError
from deployer.progress import Progress
from deployer.runtimes.base import Once, ending, errors_in, fill, watched
from deployer.runtimes.container import LABEL, PIDS, SCRATCH

if TYPE_CHECKING:
    import docker as sdk

USER = 10001  # of the images in images/


def run_once(
    job: Once, engine: sdk.DockerClient, tag: str, user: str, security: list[str], progress: Progress
) -> str:
    """Runs the job in a container of its own, without a network, and returns what it said."""
    import docker.errors

    mine = hashlib.sha256(job.purpose.encode()).hexdigest()[:12]
    for left in engine.api.containers(all=True, filters={"label": f"{LABEL}.once={tag}"}):
        labels = left["Labels"]  # of a command that was killed
        if labels.get(f"{LABEL}.purpose") == mine or not Path("/proc", labels.get(f"{LABEL}.pid", "-")).exists():
            engine.api.remove_container(left["Id"], force=True)
    outside = [job.paths[key] for key in job.writable] if os.geteuid() == 0 else []
    paths = {key: f"/{key}/{path.name}" if path.is_file() else f"/{key}" for key, path in job.paths.items()}
    first, *rest = (fill(word, paths) for word in job.arguments)
    container = None
    try:
        for path in outside:
            os.chown(path, USER, USER)
        container = engine.containers.create(
            job.program,
            entrypoint=[f"{job.folder}/{first}"],
            command=rest,
            volumes={
                str(path): {"bind": paths[key], "mode": "rw" if key in job.writable else "ro"}
                for key, path in job.paths.items()
            },
            environment=dict(job.environment),
            name=f"deployer-once-{mine}-{tag}",
            user=user,
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": SCRATCH},
            cap_drop=["ALL"],
            security_opt=security,
            init=True,
            pids_limit=PIDS,
            labels={
                f"{LABEL}.once": tag, f"{LABEL}.purpose": mine, f"{LABEL}.pid": str(os.getpid()),
            },
        )  # fmt: skip
        container.start()
        said = watched(lines_of(container.logs(stream=True, follow=True)), job.title, progress)
        if code := container.wait()["StatusCode"]:
            raise LaunchError(f"{job.title} failed ({ending(code)})", evidence=errors_in(said))
        return said
    except docker.errors.APIError as error:
        raise LaunchError(f"{job.title} could not be started: {error.explanation or error}") from error
    finally:
        if container is not None:
            container.remove(force=True)
        for path in (one for folder in outside for one in (folder, *folder.rglob("*"))):
            shutil.chown(path, 0, 0)



def taken_out(program: str, inside: str, path: Path, engine: sdk.DockerClient, tag: str) -> Path:
    """What lies at `inside` in the image `program`, as `path`."""
    import docker.errors

    container = None
    try:
        labels = {f"{LABEL}.once": tag, f"{LABEL}.pid": str(os.getpid())}
        container = engine.containers.create(program, labels=labels)
        pieces, _ = container.get_archive(inside)
        with path.with_name(f"{path.name}.tar").open("w+b") as file:
            file.writelines(pieces)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(path.parent, filter="data")
    except docker.errors.APIError as error:
        raise LaunchError(f"{path.name} cannot be taken out of {program}: {error.explanation or error}") from error
    finally:
        if container is not None:
            container.remove(force=True)
    return path


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream of a container, whole ones, as they come."""
    rest = b""
    for chunk in chunks:
        *whole, rest = re.split(rb"\r?\n|\r", rest + chunk)
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
