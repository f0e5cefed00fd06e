"""Looks into any image: the proof's facts, from a container of it in which no program of the image itself runs.

The container gets a Python of ours, with its own dynamic loader and C library, in a volume that goes with it: the
image needs no shell, no Python and no library, and the engine may be on another machine.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import resources
from deployer.errors import DeployerError, QuestionError, RuntimeUnavailable
from deployer.home import Home
from deployer.images.proof import elf
from deployer.images.target import PROOF, Target
from deployer.progress import Progress
from deployer.quantity import format_duration

if TYPE_CHECKING:
    import docker as sdk
    from docker.models.containers import Container

    from deployer.images.inspect import Image

LIMIT_S = 600  # an image of 30 GB on a slow disk takes minutes
_WHERE = "/.deployer-look"  # in the container; the proof leaves out what is mounted
_LABEL = "io.deployer.once"
_OWNER = "io.deployer.owner"  # the process that made it, as host:pid
_LAYOUT = 1  # of the tar that `_pack` makes; a change of it makes it anew
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_UNUSED = ("test", "unittest", "pydoc_data", "lib2to3", "distutils", "ensurepip", "idlelib", "tkinter")


def look(image: Image, python: Path, *, address: str, limit: float = LIMIT_S) -> dict[str, Any]:
    """The facts of an image on the engine at `address`, as `inside.py` writes them; `python` is a `python_tree`.

    Raises DeployerError when it takes more than `limit` seconds or cannot be read, RuntimeUnavailable when the engine
    does not answer or refuses.
    """
    import docker.errors
    import requests

    client = engine(address)
    container: Container | None = None
    try:
        _sweep(client)
        container = client.containers.create(image.identity, **_options(image))
        with python.open("rb") as file:
            container.put_archive(_WHERE, file)
        container.put_archive(_WHERE, _program())
        container.start()
        try:
            code = container.wait(timeout=limit)["StatusCode"]
        except requests.exceptions.RequestException as error:
            raise DeployerError(
                f"reading {image.reference} was not done after {format_duration(limit)}",
                hint="a busy or slow disk: try again; `deployer images inspect` has --limit",
            ) from error
        if code:
            said = container.logs(tail=5).decode(errors="replace").strip().splitlines()
            raise DeployerError(f"{image.reference} could not be read: exit code {code}", evidence=said)
        facts: dict[str, Any] = json.loads(_member(container, f"{_WHERE}/facts.json"))
        return facts
    except docker.errors.APIError as error:
        raise RuntimeUnavailable(
            f"the engine starts no container of {image.reference}: {error.explanation or error}",
            hint="it must allow volumes and the capability DAC_READ_SEARCH",
        ) from error
    finally:
        if container is not None:
            _remove(container)


def python_tree(
    target: Target, make: Callable[[], object], *, address: str, home: Home, progress: Progress
) -> Path:
    """A tar of the Python of the image `target`, with its loader and libraries; taken out of the image once.

    `make` builds the image where it is not on the engine.
    """
    path = home.sources / "look" / f"python-{target.reference.rpartition('-')[2]}-{_LAYOUT}.tar"
    if path.exists():
        return path
    client = engine(address)
    if not _is_here(client, target.reference):
        progress.say(f"{target.reference} brings the Python that reads images; it is made once")
        make()
    container = client.containers.create(target.reference, command=["true"], labels=_labels())
    try:
        with home.scratch("look") as scratch:
            architecture = str(client.images.get(target.reference).attrs["Architecture"])
            _take(container, f"usr/lib/{_TRIPLETS.get(architecture, '')}", scratch / "lib")
            name = f"python{target.variant.name}"
            _take(container, f"usr/lib/{name}", scratch / "lib" / name)
            _take(container, f"usr/bin/{name}", scratch / "bin")
            _pack(scratch, name, path)
    finally:
        _remove(container)
    return path


def engine(address: str) -> sdk.DockerClient:
    """A client of the container engine; raises RuntimeUnavailable when it does not answer."""
    import docker
    import docker.errors
    import requests

    try:
        return docker.DockerClient(base_url=address, version="auto", timeout=60)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise RuntimeUnavailable(
            f"no container engine answers at {address}",
            hint="deployer check --only runtime",
            evidence=[str(error)],
        ) from error


def _options(image: Image) -> dict[str, Any]:
    """Of the container: nothing of the image's configuration acts in it.

    Its variables are taken out, so that neither the loader (LD_PRELOAD) nor NVIDIA's runtime heeds them; so is its
    health check, and its ld.so.preload is hidden.
    """
    from docker.types import Mount

    program = [f"{_WHERE}/lib/ld.so", "--inhibit-cache", "--library-path", f"{_WHERE}/lib"]
    program += [f"{_WHERE}/bin/python3", "-I", "-S", "-B", "-X", "utf8", f"{_WHERE}/inside.py"]
    return {
        "entrypoint": program,
        "command": [image.user, image.environment.get("LD_LIBRARY_PATH", ""), f"{_WHERE}/facts.json"],
        "user": "0:0",
        "working_dir": "/",
        "environment": dict.fromkeys(image.environment),
        "healthcheck": {"test": ["NONE"]},
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": ["DAC_READ_SEARCH"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 16,
        "mounts": [
            Mount(_WHERE, None, type="volume"),
            Mount("/etc/ld.so.preload", "/dev/null", type="bind", read_only=True),
        ],
        "labels": _labels(),
    }


def _labels() -> dict[str, str]:
    return {_LABEL: "look", _OWNER: f"{platform.node()}:{os.getpid()}"}


def _sweep(client: sdk.DockerClient) -> None:
    """Removes what commands left that were killed."""
    for left in client.containers.list(all=True, filters={"label": f"{_LABEL}=look"}, ignore_removed=True):
        node, _, process = left.labels.get(_OWNER, "").rpartition(":")
        if node == platform.node() and not Path("/proc", process).exists():
            _remove(left)


def _program() -> bytes:
    """A tar of what is run: `inside.py` and the proof."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        out.add(resources.PACKAGE / "images/inside.py", "inside.py")
        for path in sorted((resources.PACKAGE / PROOF).glob("*.py")):
            out.add(path, f"proof/{path.name}")
    return made.getvalue()


def _is_here(client: sdk.DockerClient, reference: str) -> bool:
    import docker.errors

    try:
        client.images.get(reference)
    except docker.errors.NotFound:
        return False
    return True


def _remove(container: Container) -> None:
    import docker.errors
    import requests

    try:
        container.remove(force=True, v=True)
    except (docker.errors.APIError, requests.exceptions.RequestException):
        pass  # its label says whose it is


def _members(container: Container, path: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    import docker.errors

    try:
        stream, _ = container.get_archive(path)
    except docker.errors.NotFound as error:
        raise QuestionError(f"there is no {path} in the image") from error
    with tarfile.open(fileobj=_Stream(stream), mode="r|") as archive:
        for member in archive:
            yield member, archive


def _member(container: Container, path: str) -> bytes:
    """The content of one file of a container."""
    for member, archive in _members(container, path):
        if file := archive.extractfile(member):
            return file.read()
    raise DeployerError(f"{path} is no file")


def _take(container: Container, path: str, folder: Path) -> None:
    """The files of a folder of a container, or that one file; links to other folders are left out."""
    links = {}
    for member, archive in _members(container, f"/{path}"):
        inside = member.name.partition("/")[2] or member.name
        place = folder / inside
        if inside.split("/")[0] in _UNUSED or (path.endswith("-gnu") and "/" in inside):
            continue
        if member.isreg() and (file := archive.extractfile(member)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read())
            place.chmod(member.mode)
            os.utime(place, (member.mtime, member.mtime))
        elif member.issym() and "/" not in member.linkname:
            links[place] = member.linkname
    for place, name in links.items():
        place.symlink_to(name)


def _pack(root: Path, name: str, archive: Path) -> None:
    """Leaves out the libraries that Python itself does not need, and the modules that would need them."""
    libraries = root / "lib"
    needed, more = set[str](), _needs(root / "bin" / name)
    while more - needed:
        needed |= more
        more = {other for found in needed for other in _needs(libraries / found)}
    modules = libraries / name / "lib-dynload"
    unfit = {path.name for path in modules.iterdir() if not _needs(path) <= needed}
    archive.parent.mkdir(parents=True, exist_ok=True)
    # beside it: a rename stays on one file system
    aside = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(aside, "w") as out:
        out.add(root / "bin" / name, "bin/python3")
        for library in sorted(needed):
            inside = "ld.so" if library.startswith("ld-linux") else library
            out.add((libraries / library).resolve(), f"lib/{inside}")
        out.add(
            libraries / name,
            f"lib/{name}",
            filter=lambda member: None if member.name.rpartition("/")[2] in unfit else member,
        )
    aside.replace(archive)


def _needs(library: Path) -> set[str]:
    found = elf.read(library)
    return set(found.needed) if found else set()


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._pieces, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
