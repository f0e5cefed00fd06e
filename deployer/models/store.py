"""The store: verified models on this host. Every content is kept once; a model is a folder of links, whole or absent.

`blobs/sha256/<hash>` are contents. A model is a folder with a manifest and hard links to blobs, so that an engine
that sees this folder alone sees whole files. `.staging/<id>` is where a pull works; nothing in it is a model.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from deployer import resources
from deployer.errors import Busy, HashMismatch, ModelError
from deployer.frozen import dataclass
from deployer.home import Home, sync_folder
from deployer.models.manifest import (
    MANIFEST,
    Loss,
    Model,
    Step,
    StoredFile,
    describe,
    read_manifest,
    write_manifest,
)
from deployer.profile import ModelChoice
from deployer.progress import Progress, Silent

CONVERTER = resources.PACKAGE / "models" / "gguf_to_safetensors.py"
READERS = 4  # files that are hashed at the same time
KEPT_S = 7 * 86400  # how long what an ended pull left is kept by `collect`
_ASIDE = ".placing"  # what is between two names
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


@dataclass(frozen=True)
class Collected:
    """What `collect` removed."""

    contents: int
    downloads: int
    bytes: int


def model_id(choice: ModelChoice, patterns: tuple[str, ...]) -> str:
    """The name of a choice in the store: readable, and different for any other revision, file or hash.

    `patterns` are the files that the engine needs; they count when the choice names none.
    """
    name = choice.source.partition("://")[2].partition("#")[0].rstrip("/").rsplit("/", 1)[-1]
    files = [asdict(f) for f in choice.files] or patterns
    key = json.dumps([choice.source, choice.revision, files])
    return f"{_slug(name)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def converted_id(origin: str) -> str:
    """The name of `origin` converted to safetensors by the converter as it is now."""
    return f"{origin}-safetensors-{hashlib.sha256(CONVERTER.read_bytes()).hexdigest()[:8]}"


class Store:
    """Models under `home.models`. Reading needs no lock; who writes a model holds `writing` of it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.root = home.models
        self._blobs = home.models / "blobs" / "sha256"

    def writing(
        self, id_: str, waiting: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """The lock of a model's one writer. Raises Busy without `waiting`, as `Home.lock` does."""
        return self._home.lock(f"model-{id_}", waiting=waiting)

    def get(self, id_: str) -> Model | None:
        """The model, or None when it is not there or a file of it is missing or has another size."""
        model = read_manifest(self.root / id_)
        return model if model and not self.missing(model) else None

    def all(self) -> tuple[Model, ...]:
        """Every whole model, sorted by id."""
        found = (self.get(path.parent.name) for path in sorted(self.root.glob(f"*/{MANIFEST}")))
        return tuple(model for model in found if model)

    def damaged(self) -> tuple[Model, ...]:
        """What `verify` set aside, sorted by id."""
        found = (read_manifest(path.parent) for path in sorted(self.root.glob(f".staging/*/torn/{MANIFEST}")))
        return tuple(model for model in found if model and not self.get(model.id))

    def missing(self, model: Model) -> tuple[StoredFile, ...]:
        """Files of the model that are not in its folder in their size."""
        return tuple(f for f in model.files if _size(model.folder / f.path) != f.size)

    def torn(self, id_: str) -> Model | None:
        """What is left of a model that was whole once: found bad by `verify`, or damaged by somebody."""
        return read_manifest(self.staging(id_) / "torn") or read_manifest(self.root / id_)

    def find(self, sha256: str, size: int) -> Path | None:
        """A file of this store with this content. What is not a blob is read first, to be sure."""
        if _size(blob := self._blobs / sha256) == size:
            return blob
        for path in sorted((*self.root.glob(f"*/{MANIFEST}"), *self.root.glob(f".staging/*/torn/{MANIFEST}"))):
            model = read_manifest(path.parent)
            for file in model.files if model else ():
                there = path.parent / file.path
                if file.sha256 == sha256 and _size(there) == size and hash_file(there) == sha256:
                    return there
        return None

    def staging(self, id_: str) -> Path:
        """Where a pull of `id_` works: `model` becomes the model, `parts` are downloads that can go on."""
        path = self.root / ".staging" / id_
        (path / "model").mkdir(parents=True, exist_ok=True)
        (path / "parts").mkdir(exist_ok=True)
        return path

    def place(self, path: Path, sha256: str, dest: Path, *, take: bool) -> None:
        """Puts the verified content at `path` to `dest`, by a link, and among the blobs.

        With `take`, `path` is the store's from now on; without, it belongs to somebody else and is linked or copied.
        """
        blob = self._blobs / sha256
        dest.parent.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(parents=True, exist_ok=True)
        if path != blob and hash_or_none(blob) == sha256:  # read, because links make old damage everybody's
            self.place(blob, sha256, dest, take=False)
            if take:
                path.unlink()
            return
        if take:
            path.chmod(0o444)  # engines run as another user, and nobody writes it any more
            _sync(path)
        aside = dest.with_name(f".{dest.name}{_ASIDE}-{os.getpid()}")
        aside.unlink(missing_ok=True)
        try:
            if not take and path.stat().st_mode & 0o444 != 0o444:  # an engine's user could not read it
                raise OSError(errno.EPERM, "not for all to read")
            aside.hardlink_to(path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if take:
                path.replace(dest)
                return
            shutil.copyfile(path, aside)
            aside.chmod(0o444)
            _sync(aside)
        if path != blob:  # after the link, so that `collect` sees that it is in use
            fresh = self._blobs / f"{sha256}{_ASIDE}-{os.getpid()}"
            fresh.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # without it nothing is lost but the sharing
                fresh.hardlink_to(aside)
                fresh.replace(blob)
                fresh.unlink(missing_ok=True)  # a rename onto the same file leaves both names
                sync_folder(self._blobs)
            if take:
                path.unlink()
        aside.replace(dest)
        aside.unlink(missing_ok=True)

    def placed(self, sha256: str, dest: Path) -> bool:
        """Whether `dest` has this content: a link to its blob, or read to the end."""
        blob = self._blobs / sha256
        if dest.exists() and blob.exists() and dest.samefile(blob):
            return True
        return hash_or_none(dest) == sha256

    def add(
        self, id_: str, *, source: str, revision: str | None, converted_from: str | None = None,
        licence: str | None = None, allowed: tuple[str, ...] = (), recipe: Sequence[Step] = (),
        loss: Loss | None = None, make: Callable[[Path], Mapping[str, str]],
    ) -> Model:  # fmt: skip
        """Calls `make` to fill a folder, then puts it into the store in one rename.

        `make` returns the SHA-256 of the files that it has placed; the others are hashed and placed here. Raises
        ModelError when the headers cannot be read. The caller holds `writing`.
        """
        folder = self.staging(id_) / "model"
        for left in (folder / MANIFEST, *folder.rglob(f".*{_ASIDE}*")):  # of a kill before a rename
            left.unlink(missing_ok=True)
        known = make(folder)
        (folder / MANIFEST).unlink(missing_ok=True)  # a source's own, as the folder of a model of a store has one
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = str(path.relative_to(folder))
            if not (sha256 := known.get(name)):
                sha256 = hash_file(path)
                self.place(path.rename(path.with_name(f".{path.name}{_ASIDE}")), sha256, path, take=True)
            files.append(StoredFile(name, path.stat().st_size, sha256))
        model = describe(
            id_, folder, files, source=source, revision=revision, converted_from=converted_from,
            licence=licence, allowed=allowed, recipe=tuple(recipe), loss=loss,
        )  # fmt: skip
        for below in {path.parent for path in folder.rglob("*")}:
            sync_folder(below)
        write_manifest(folder, model, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        target = self.root / id_
        if target.exists():  # a broken one: `get` did not accept it
            self._aside(id_)
        folder.rename(target)
        sync_folder(self.root)
        shutil.rmtree(self.root / ".staging" / id_, ignore_errors=True)
        found = self.get(id_)
        assert found is not None
        return found

    def verify(self, model: Model, progress: Progress | None = None) -> None:
        """Reads every byte again.

        Raises HashMismatch that names the bad files, after it has set the model aside, and every other one that shares
        them, so that nothing is started with it and `pull` mends just these files. Raises ModelError when two reads
        of a file differ: then it is the memory or the disk, and nothing is touched.
        """
        bad = self._bad(model, progress or Silent())
        if not bad:
            return
        names = ", ".join(f.path for f in bad)
        hashes = {f.sha256 for f in bad}
        damaged = [model, *(m for m in self.all() if m.id != model.id and _shares(m, model, bad))]
        for one in damaged:
            with self.writing(one.id, waiting=lambda _who: None):
                if (self.root / one.id).exists():
                    self._aside(one.id)
        for sha256 in hashes:
            (self._blobs / sha256).unlink(missing_ok=True)
        others = "".join(f", and of {m.id}" for m in damaged[1:])
        raise HashMismatch(
            f"{names} of {model.id}{others} changed on this disk",
            hint="pull it again: only what is bad is fetched; the disk and the memory should be looked at",
        )

    def remove(self, id_: str) -> int:
        """Removes the model and what no other one shares with it; bytes that are free now. Raises ModelError."""
        with self.writing(id_):
            model = read_manifest(self.root / id_) or read_manifest(self.root / ".staging" / id_ / "torn")
            if model is None:
                raise ModelError(f"no model is called {id_}", hint="deployer models list")
            alone = self._alone(model)
            if (self.root / id_).exists():
                self._aside(id_)
            shutil.rmtree(self.root / ".staging" / id_, ignore_errors=True)
        for file in alone:
            (self._blobs / file.sha256).unlink(missing_ok=True)
        return sum(f.size for f in alone)

    def collect(self, *, now: bool = False) -> Collected:
        """Removes contents of no model, and what pulls left that ended a week ago (with `now`: all that ended)."""
        downloads, freed = 0, 0
        for path in sorted((self.root / ".staging").glob("*")):
            try:
                with self.writing(path.name):
                    ages = [p.stat().st_mtime for p in (path, *path.rglob("*")) if p.exists()]
                    if now or time.time() - max(ages) > KEPT_S:
                        alone = [p for p in path.rglob("*") if p.is_file() and _links(p) == 1]
                        freed += sum(p.stat().st_blocks * 512 for p in alone)
                        shutil.rmtree(path)
                        downloads += 1
            except Busy:
                continue
        contents = 0
        for blob in sorted(self._blobs.glob("*")):
            # A pull that links it at this moment keeps its link, and loses nothing but the sharing.
            if _links(blob) == 1 or _ASIDE in blob.name:
                freed += blob.stat().st_size if _links(blob) == 1 else 0
                blob.unlink()
                contents += 1
        return Collected(contents, downloads, freed)

    def shared(self, model: Model) -> int:
        """Bytes of it that another model has too."""
        return model.size - sum(f.size for f in self._alone(model))

    def _alone(self, model: Model) -> tuple[StoredFile, ...]:
        others = {f.sha256 for m in self.all() if m.id != model.id for f in m.files}
        return tuple(f for f in model.files if f.sha256 not in others)

    def _bad(self, model: Model, progress: Progress) -> tuple[StoredFile, ...]:
        """Files that are not what they were, after a second look past the cache."""
        total, done = model.size, 0

        def read(file: StoredFile) -> StoredFile | None:
            nonlocal done
            path = model.folder / file.path
            if hash_or_none(path) == file.sha256:
                done += file.size
                progress.amount("verify", done, total)
                return None
            if path.exists():
                with path.open("rb") as handle:
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if hash_or_none(path) == file.sha256:
                raise ModelError(
                    f"two reads of {file.path} of {model.id} gave different bytes",
                    hint="the memory or the disk of this machine fails: test both before you trust any result",
                )
            return file

        with ThreadPoolExecutor(READERS) as pool:
            return tuple(file for file in pool.map(read, model.files) if file)

    def _aside(self, id_: str) -> None:
        torn = self.staging(id_) / "torn"
        shutil.rmtree(torn, ignore_errors=True)
        (self.root / id_).rename(torn)
        sync_folder(self.root)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def hash_or_none(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none."""
    try:
        return hash_file(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _shares(other: Model, model: Model, bad: Sequence[StoredFile]) -> bool:
    """Whether a bad file of `model` is the very same file in `other`."""
    for file in bad:
        path = model.folder / file.path
        for theirs in other.files:
            there = other.folder / theirs.path
            if theirs.sha256 == file.sha256 and path.exists() and there.exists() and there.samefile(path):
                return True
    return False


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except OSError:
        return 0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"
