"""Debian packages by lock: fetched from any mirror by SHA-256, and unpacked into the first files of an OS base."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deployer.errors import BuildError, HashMismatch, SourceUnreachable
from deployer.fetch import Web, download
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.progress import Progress, Silent

if TYPE_CHECKING:
    import httpx

MIRROR = "http://deb.debian.org"
SNAPSHOT = "http://snapshot.debian.org/archive"  # keeps every version that the archive ever had
_MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr since Debian 12; packages may still name the old paths
# BuildKit mounts over these; where they are missing it makes them, and with that a change of /etc in every layer.
_MOUNTED = ("etc/hosts", "etc/resolv.conf")
_CONNECTIONS = 8


@dataclass(frozen=True)
class Package:
    """One .deb: `step` is the build step that installs it, `path` is its place on a mirror, `size` is bytes."""

    step: str
    name: str
    version: str
    sha256: str
    size: int
    path: str

    @property
    def file(self) -> str:
        return self.path.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Lock:
    """Packages at one time of the archive; `snapshot` is that time as 20261122T043000Z."""

    snapshot: str
    packages: tuple[Package, ...]

    @property
    def epoch(self) -> int:
        """The time in seconds since 1970, the newest that a file of an image may have."""
        import calendar
        import time

        return calendar.timegm(time.strptime(self.snapshot, "%Y%m%dT%H%M%SZ"))


def lock_file(folder: Path, architecture: str) -> Path:
    """Where the packages of a recipe for one of Debian's architectures (`amd64`, `arm64`) are locked."""
    return folder / f"packages-{architecture}.tsv"


def read(path: Path) -> Lock:
    """The lock in `path`; raises BuildError when it is not one."""
    snapshot, packages = "", []
    try:
        for line in path.read_text().splitlines():
            if line.startswith("# snapshot "):
                snapshot = line.removeprefix("# snapshot ")
            elif line and not line.startswith("#"):
                step, name, version, sha256, size, where = line.split("\t")
                if "/" not in where:
                    raise ValueError(f"{where} is no path on a mirror")
                packages.append(Package(step, name, version, sha256, int(size), where))
        lock = Lock(snapshot, tuple(packages))
        _ = lock.epoch
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} is no lock of packages: {error}", hint="deployer build --lock") from error
    return lock


def write(lock: Lock) -> str:
    """The text of a lock file."""
    head = "# Made by `deployer build --lock`: step, Debian package, version, SHA-256, bytes, path on a mirror\n"
    rows = sorted(lock.packages, key=lambda p: (p.step, p.name))
    lines = ("\t".join((p.step, p.name, p.version, p.sha256, str(p.size), p.path)) for p in rows)
    return f"{head}# snapshot {lock.snapshot}\n" + "".join(f"{line}\n" for line in lines)


def fetch(
    lock: Lock, *, home: Home, web: Web, mirror: str | None, progress: Progress, title: str
) -> dict[str, dict[str, Path]]:
    """The files of `lock`, verified: a map of step to file name to path.

    Each comes from the wheelhouse, from `mirror` or, when that has moved on, from Debian's snapshot of the lock's
    time. Raises what `fetch.download` raises.
    """
    folder = home.sources / "debian"
    found = {package.sha256: folder / package.sha256[:12] / package.file for package in lock.packages}
    wanted = [p for p in lock.packages if not found[p.sha256].exists()]
    if web.wheelhouse:
        for package in [p for p in wanted if (web.wheelhouse / p.file).exists()]:
            found[package.sha256] = web.wheelhouse / package.file
            _verified(found[package.sha256], package)
            wanted.remove(package)
    once = {p.sha256: p for p in wanted}.values()  # a package may be in several steps
    if once:
        total, done, turn = sum(p.size for p in once), 0, threading.Lock()
        with web.client() as client, ThreadPoolExecutor(_CONNECTIONS) as pool:

            def get(package: Package) -> None:
                nonlocal done
                _download(client, package, found[package.sha256], lock.snapshot, mirror)
                with turn:
                    done += package.size
                    progress.amount(title, done, total)

            jobs = [pool.submit(get, package) for package in once]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    steps: dict[str, dict[str, Path]] = {}
    for package in lock.packages:
        steps.setdefault(package.step, {})[package.file] = found[package.sha256]
    return steps


def _download(client: httpx.Client, package: Package, dest: Path, snapshot: str, mirror: str | None) -> None:
    part, _, rest = package.path.partition("/")
    places = [f"{(mirror or MIRROR).rstrip('/')}/{quote(package.path)}", f"{SNAPSHOT}/{part}/{snapshot}/{quote(rest)}"]
    first: SourceUnreachable | HashMismatch | None = None
    for url in places:
        try:
            download(client, url, dest, sha256=package.sha256, size=package.size, progress=Silent())
            return
        except (SourceUnreachable, HashMismatch) as error:
            if isinstance(error, SourceUnreachable) and "HTTP 404" not in error.message and first is None:
                raise BuildError(
                    f"{package.file} cannot be fetched: {error.message}",
                    hint="name a mirror that is reached from here: --apt-mirror URL, or the proxy: --proxy URL",
                ) from error
            first = first or error
    assert first is not None
    raise BuildError(
        f"{package.file} of the lock is not on {mirror or MIRROR}, nor in Debian's snapshot: {first.message}",
        hint="make the locks again: deployer build --lock",
    ) from first


def _verified(path: Path, package: Package) -> None:
    import hashlib

    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise HashMismatch(
            f"{path}: wanted sha256 {package.sha256}, got {found}",
            hint="the wheelhouse holds another file under this name",
        )


def unpack(debs: Iterable[Path], archive: Path) -> None:
    """Writes the files of all `debs` into one tar `archive`, with a merged /usr; the same files give the same bytes."""
    seen = set()
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as out:
        for name in _MERGED:
            folder, link = tarfile.TarInfo(f"usr/{name}"), tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            link.type, link.linkname = tarfile.SYMTYPE, folder.name
            out.addfile(folder)
            out.addfile(link)
            seen |= {folder.name, name}
        for deb in sorted(debs, key=lambda path: path.name):  # wherever they lie
            with _data(deb) as inner:
                for member in inner:
                    member.name = _merged(member.name)
                    if member.islnk():
                        member.linkname = _merged(member.linkname)
                    if member.name and not (member.isdir() and member.name in seen):
                        seen.add(member.name)
                        out.addfile(member, inner.extractfile(member) if member.isreg() else None)
        for name in _MOUNTED:
            if name not in seen:
                out.addfile(tarfile.TarInfo(name))


def _data(deb: Path) -> tarfile.TarFile:
    """The member of a .deb that holds its files (deb(5): an `ar` archive)."""
    try:
        for name, content in _members(deb.read_bytes()):
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=io.BytesIO(content))
    except (ValueError, tarfile.TarError) as error:
        raise BuildError(f"{deb.name} cannot be unpacked: {error}", hint="zstd needs Python 3.14 or later") from error
    raise BuildError(f"{deb.name} is no Debian package", hint=f"remove it: {deb}")


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    at = 8
    while content.startswith(b"!<arch>\n") and at + 60 <= len(content):
        name, size = content[at : at + 16].decode().strip(" /"), int(content[at + 48 : at + 58])
        yield name, content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _merged(name: str) -> str:
    name = name.removeprefix("./").strip("/")
    if name == ".":
        return ""
    return f"usr/{name}" if name.split("/")[0] in _MERGED and "/" in name else name
