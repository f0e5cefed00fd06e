"""Models in one file, for a machine without a network: a tar of manifests and contents, each content once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from deployer.errors import HashMismatch, ModelError, NoSpace
from deployer.fetch import free_bytes
from deployer.home import sync_folder
from deployer.models.manifest import MANIFEST, Model, StoredFile, parse
from deployer.models.store import Store
from deployer.progress import Progress
from deployer.quantity import format_size

_NAME = re.compile(r"models/([a-z0-9][a-z0-9.-]*)/manifest\.json")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_PIECE = 1 << 20


def pack(store: Store, models: Sequence[Model], dest: Path, progress: Progress) -> None:
    """Writes the models to `dest`, aside and renamed when it is whole. Every byte is hashed on the way.

    Raises HashMismatch when a file of the store is not what it was, NoSpace when they do not fit.
    """
    files = {f.sha256: (model.folder / f.path, f) for model in models for f in model.files}
    total = sum(f.size for _, f in files.values())
    if total > free_bytes(dest.absolute().parent):
        raise NoSpace(
            f"{dest} needs {format_size(total)}, {format_size(free_bytes(dest.absolute().parent))} are free there",
            hint="name a file on a larger file system",
        )
    aside = dest.with_name(f".{dest.name}.{os.getpid()}")
    done = 0
    try:
        with aside.open("wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for model in models:
                    content = (model.folder / MANIFEST).read_bytes()
                    info = tarfile.TarInfo(f"models/{model.id}/{MANIFEST}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                for sha256, (path, file) in sorted(files.items()):
                    info = tarfile.TarInfo(f"blobs/sha256/{sha256}")
                    info.size = file.size
                    with path.open("rb") as source:
                        reader = _Hashing(source)
                        tar.addfile(info, reader)
                    if reader.digest.hexdigest() != sha256:
                        raise HashMismatch(
                            f"{file.path} has changed on this disk; nothing was written",
                            hint="deployer models verify, then pull it again",
                        )
                    done += file.size
                    progress.amount(dest.name, done, total)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(dest)
        sync_folder(dest.absolute().parent)
    finally:
        aside.unlink(missing_ok=True)


def unpack(store: Store, source: Path, progress: Progress) -> tuple[Model, ...]:
    """Takes the models of a packed file into the store, those that are there already included.

    Every content is held to its name. Raises ModelError when the file is none of `pack`, or not whole; what was read
    until then is kept and the next call uses it.
    """
    try:
        with tarfile.open(source, mode="r:") as tar, contextlib.ExitStack() as locks:
            members = list(tar)
            wanted = _manifests(tar, members)
            found = {one.id: there for one in wanted if (there := store.get(one.id))}
            missing = [one for one in wanted if one.id not in found]
            for one in sorted(missing, key=lambda one: one.id):
                locks.enter_context(store.writing(one.id, waiting=progress.say))
            _room(store, missing)
            packed = {m[1]: member for member in members if (m := _BLOB.fullmatch(member.name))}
            done, total = 0, sum(one.size for one in missing)
            for one in missing:
                folder = store.staging(one.id) / "model"
                hashes = {}
                for file in one.files:
                    _take(store, tar, packed, one, file, folder / file.path)
                    hashes[file.path] = file.sha256
                    done += file.size
                    progress.amount(source.name, done, total)
                found[one.id] = store.add(
                    one.id, source=one.source, revision=one.revision, converted_from=one.converted_from,
                    licence=one.licence, allowed=one.allowed, recipe=one.recipe, loss=one.loss,
                    make=partial(_known, hashes),
                )  # fmt: skip
            return tuple(found[one.id] for one in wanted)
    except (tarfile.TarError, EOFError) as error:
        raise ModelError(f"{source} is not whole: {error}", hint="copy it again, or export it again") from error


def _manifests(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> list[Model]:
    found = []
    for member in members:
        if (named := _NAME.fullmatch(member.name)) and member.isfile() and (content := tar.extractfile(member)):
            one = parse(content.read(), Path(named[1]))
            if one.id != named[1] or not all(map(_inside, one.files)):
                raise ModelError(f"the manifest of {named[1]} is not one of ours", hint="export it again")
            found.append(one)
    if not found:
        raise ModelError(f"{Path(str(tar.name)).name} holds no models", hint="it is made by: deployer models export")
    return found


def _inside(file: StoredFile) -> bool:
    words = file.path.split("/")
    plain = not ({"", ".", ".."} & set(words)) and file.path != MANIFEST
    return plain and bool(re.fullmatch("[0-9a-f]{64}", file.sha256)) and file.size >= 0


def _room(store: Store, missing: Sequence[Model]) -> None:
    need = {f.sha256: f.size for one in missing for f in one.files if not store.find(f.sha256, f.size)}
    store.root.mkdir(parents=True, exist_ok=True)
    if sum(need.values()) > free_bytes(store.root):
        raise NoSpace(
            f"{format_size(sum(need.values()))} are needed and {format_size(free_bytes(store.root))} are free",
            hint=f"make room on the file system of {store.root}, or keep models elsewhere with --home",
        )


def _take(
    store: Store, tar: tarfile.TarFile, packed: dict[str, tarfile.TarInfo], model: Model, file: StoredFile, dest: Path
) -> None:
    if dest.exists() and store.placed(file.sha256, dest):
        return
    dest.unlink(missing_ok=True)
    if here := store.find(file.sha256, file.size):
        store.place(here, file.sha256, dest, take=False)
        return
    member = packed.get(file.sha256)
    content = tar.extractfile(member) if member else None
    if content is None:
        raise ModelError(f"{file.path} of {model.id} is not in {Path(str(tar.name)).name}", hint="export it again")
    aside = store.staging(model.id) / "parts" / file.sha256
    digest = hashlib.sha256()
    with aside.open("wb") as out:
        for piece in _pieces(content):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != file.sha256:
        aside.unlink()
        raise HashMismatch(
            f"{file.path} of {model.id} is damaged in {Path(str(tar.name)).name}",
            hint="copy it again, or export it again",
        )
    store.place(aside, file.sha256, dest, take=True)


def _known(hashes: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    return hashes


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while piece := content.read(_PIECE):
        yield piece


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        piece = self._file.read(count)
        self.digest.update(piece)
        return piece
