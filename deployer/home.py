"""The one folder where `deployer` keeps things: models, engines, keys, deployments, scratch space."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from deployer.errors import Busy
from deployer.frozen import dataclass


@dataclass(frozen=True)
class Home:
    """Paths under `root`; nothing is made before it is needed."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def engines(self) -> Path:
        """Resolved, because a virtual environment remembers the path it was made under."""
        return (self.root / "engines").resolve()

    @property
    def sources(self) -> Path:
        """Verified source files of builds, by name."""
        return self.root / "sources"

    def deployment(self, name: str) -> Path:
        return self.root / "deployments" / name

    def gateway(self, name: str) -> Path:
        """The folder that the gateway of a deployment reads; it writes to `state` in it."""
        return self.deployment(name) / "gateway"

    def write_for_gateway(self, name: str, file: str, value: Any) -> Path:
        """Writes a JSON file that the gateway takes within a second, for the owner of its folder alone: the folder."""
        folder = self.gateway(name)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        content = (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        write_whole(folder / file, content, 0o600, like=folder)
        return folder

    @contextlib.contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """A folder that is gone afterwards; after a kill, `sweep` removes it."""
        import shutil

        path = self.root / "tmp" / f"{os.getpid()}-{purpose}-{os.urandom(4).hex()}"
        path.mkdir(parents=True, mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> None:
        """Removes scratch folders whose process has ended."""
        import shutil

        for path in (self.root / "tmp").glob("*-*"):
            pid = path.name.split("-", 1)[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Holds the lock `name` of this home; the kernel frees it when the process ends, however it ends.

        While another process has it, `waiting` is called once with who that is and the call blocks; without
        `waiting`, Busy is raised.
        """
        path = self.root / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(file)
                if waiting is None:
                    raise Busy(f"{holder} works on `{name}`", hint="wait until it has ended") from None
                waiting(holder)
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate()
            file.write(f"`deployer` (pid {os.getpid()}, since {time.strftime('%H:%M:%S')})")
            file.flush()
            try:
                yield
            finally:
                file.seek(0)
                file.truncate()
                file.flush()


def _holder(file: TextIO) -> str:
    """What the holder of a lock wrote of itself; it may have taken the lock a moment ago."""
    for _ in range(20):
        file.seek(0)
        if text := file.read().strip():
            return text
        time.sleep(0.01)
    return "another process"


def write_whole(path: Path, content: bytes, mode: int = 0o644, *, like: Path | None = None) -> None:
    """Writes aside, syncs, renames: after a kill `path` is the old content or the new, never half.

    For root, the file belongs to whom `like` belongs to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            if like is not None and os.geteuid() == 0:
                about = like.stat()
                os.fchown(handle, about.st_uid, about.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """`write_whole` for a JSON value."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), mode)


def read_json(path: Path) -> Any | None:
    """The JSON value in `path`, or None when there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
