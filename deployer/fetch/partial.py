"""A file that arrives in parts: what of it is on the disk, and its hashes, which grow as it does.

Beside the file lies a journal with one line for each part that is whole, so that a kill loses what was under way and
nothing else. A part's check value finds what a torn write or a failing disk changed; whether the bytes are the right
ones is for SHA-256 over the whole file to say.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deployer.fetch.http import HOLD_S

PART = 4 << 20
_READ = 1 << 20


class Partial:
    """`size` bytes at `path`, of which `done` are there. Methods may be called by several threads."""

    def __init__(self, path: Path, size: int, git: bool = False, part: int = PART) -> None:
        self.path, self.size, self.part = path, size, part
        self.count = -(-size // part)
        self.checks: dict[int, int] = {}  # of parts that are whole
        self.came_from: dict[int, int] = {}
        self.done = 0
        self._journal_path = path.with_name(path.name + ".parts")
        self._lock, self._hashing, self._closing = threading.Lock(), threading.Lock(), threading.Lock()
        self._closed = False
        self._sha, self._git, self._hashed = hashlib.sha256(), _git(size) if git else None, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)  # it may have been on its way into the store
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._journal = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    def resume(self) -> int:
        """Reads what an earlier process left; bytes of it that are whole."""
        header, *lines = self._journal_path.read_text(errors="replace").split("\n")[:-1] or [""]
        noted: dict[int, tuple[int, int]] = {}
        if header == self._header():
            for line in lines:
                words = line.split()
                if len(words) == 3 and all(word.isdecimal() for word in words):
                    noted[int(words[0])] = int(words[1]), int(words[2])
        else:
            os.ftruncate(self._journal, 0)
            os.ftruncate(self._file, 0)
            os.write(self._journal, (self._header() + "\n").encode())
        for index, (check, source) in sorted(noted.items()):
            if index < self.count and self._read(index) == check:
                self.checks[index], self.came_from[index] = check, source
                self.done += self.length(index)
                self._catch_up(wait=True)  # while it is in the page cache
        return self.done

    def start(self, index: int) -> int:
        return index * self.part

    def length(self, index: int) -> int:
        return min(self.part, self.size - index * self.part)

    def missing(self) -> list[int]:
        return [index for index in range(self.count) if index not in self.checks]

    @property
    def whole(self) -> bool:
        return len(self.checks) == self.count

    def writer(self, index: int, source: int) -> Writer:
        """What takes the bytes of part `index`, from its first on."""
        return Writer(self, index, source)

    def sync(self) -> None:
        """Makes what is there survive a power cut."""
        with self._closing:
            if not self._closed:
                os.fdatasync(self._file)
                os.fdatasync(self._journal)

    def digests(self) -> tuple[str, str | None]:
        """SHA-256 and, where it was asked for, git's name of the whole file."""
        self._catch_up(wait=True)
        assert self._hashed == self.size, (self._hashed, self.size)
        return self._sha.hexdigest(), self._git.hexdigest() if self._git else None

    def damaged(self) -> list[int]:
        """Parts that are on the disk no longer as they arrived; they are missing from now on."""
        bad = [index for index, check in sorted(self.checks.items()) if self._read(index) != check]
        for index in bad:
            self.done -= self.length(index)
            del self.checks[index]
        self._again()
        return bad

    def replace(self, index: int, content: bytes, source: int) -> bool:
        """Puts other bytes in the place of a part; whether they are other ones indeed."""
        if (check := zlib.crc32(content)) == self.checks.get(index):
            self.came_from[index] = source
            return False
        os.pwrite(self._file, content, self.start(index))
        if index not in self.checks:
            self.done += len(content)
        self.checks[index], self.came_from[index] = check, source
        self._note(index)
        self._again()
        return True

    def forget(self) -> None:
        """All of it is missing from now on."""
        self.checks.clear()
        self.came_from.clear()
        self.done = 0
        os.ftruncate(self._journal, 0)
        os.ftruncate(self._file, 0)
        os.write(self._journal, (self._header() + "\n").encode())
        self._again()

    def close(self, *, keep: bool = True) -> None:
        """Ends the work; without `keep`, nothing stays of it."""
        self._close()
        if not keep:
            self.path.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """The file is whole and right: it stays, on the disk, without its journal."""
        os.fsync(self._file)
        self._close()
        self._journal_path.unlink(missing_ok=True)

    def _close(self) -> None:
        with self._closing:
            self._closed = True
            os.close(self._file)
            os.close(self._journal)

    def _header(self) -> str:
        return json.dumps({"size": self.size, "part": self.part})

    def _note(self, index: int) -> None:
        os.write(self._journal, f"{index} {self.checks[index]} {self.came_from[index]}\n".encode())

    def _again(self) -> None:
        self._sha, self._hashed = hashlib.sha256(), 0
        self._git = _git(self.size) if self._git else None

    def _pieces(self, index: int) -> Iterator[bytes]:
        at, end = self.start(index), self.start(index) + self.length(index)
        while at < end and (piece := os.pread(self._file, min(_READ, end - at), at)):
            at += len(piece)
            yield piece

    def _read(self, index: int) -> int:
        """The check value of a part as it is on the disk, -1 for a short one."""
        check = length = 0
        for piece in self._pieces(index):
            check = zlib.crc32(piece, check)
            length += len(piece)
        return check if length == self.length(index) else -1

    def _update(self, piece: bytes | memoryview) -> None:
        self._sha.update(piece)
        if self._git:
            self._git.update(piece)

    def _catch_up(self, *, wait: bool) -> None:
        """Hashes the parts that came before their turn; they are in the page cache still."""
        if not self._hashing.acquire(blocking=wait):
            return
        try:
            while (index := self._hashed // self.part) in self.checks and self._hashed < self.size:
                for piece in self._pieces(index):
                    self._update(piece)
                self._hashed = self.start(index) + self.length(index)
        finally:
            self._hashing.release()


class Writer:
    """One part on its way. Its bytes go to the disk as they come, and into the hash when all before them did."""

    def __init__(self, partial: Partial, index: int, source: int) -> None:
        self._partial, self._index, self._source = partial, index, source
        self._check, self.at = 0, partial.start(index)
        self.end = self.at + partial.length(index)
        with partial._lock:
            self._direct = partial._hashed == self.at
            self._before = partial._sha.copy(), partial._git.copy() if partial._git else None

    def write(self, piece: memoryview) -> None:
        """The next bytes, no more than are missing."""
        partial = self._partial
        os.pwrite(partial._file, piece, self.at)
        self._check = zlib.crc32(piece, self._check)
        if self._direct:
            partial._update(piece)
        self.at += len(piece)
        if self.at == self.end:
            self._commit()

    def give_up(self) -> int:
        """What came of this part so far does not count; how many bytes that were."""
        if self._direct:
            self._partial._sha, self._partial._git = self._before
        return self.at - self._partial.start(self._index)

    def _commit(self) -> None:
        partial = self._partial
        if self._direct:
            partial._hashed = self.end  # before it counts as there, so that nobody hashes it again
        with partial._lock:
            partial.came_from[self._index] = self._source
            partial.checks[self._index] = self._check
            partial.done += partial.length(self._index)
            partial._note(self._index)
        partial._catch_up(wait=False)


class Cursor:
    """Where the bytes of an answer go: parts of a file in order; those that are not wanted pass by."""

    def __init__(self, partial: Partial, parts: Sequence[int], came: Callable[[int], None]) -> None:
        self._partial, self._came, self.source = partial, came, 0
        self._todo = list(parts)
        self.at, self.end = partial.start(parts[0]), partial.start(parts[-1]) + partial.length(parts[-1])
        self._writer: Writer | None = None
        self._held: list[bytes] = []
        self._flushed = time.monotonic()
        self._holds, self._pause = 0, self.at + partial.length(parts[0])  # the end of the part, where it is judged
        self.wide = False

    @property
    def finished(self) -> bool:
        return not self._todo

    def whole(self, missing: Sequence[int]) -> None:
        """From the first byte of the file on, because the server gives no ranges."""
        self.give_up()
        self.wide = True
        self._todo, self.at, self.end = list(missing), 0, self._partial.size
        self._pause = self._partial.length(0)

    def take(self, content: bytes | memoryview) -> None:
        """The next bytes of the answer; what is more than was asked for is dropped."""
        if not self._held and len(content) >= _READ:
            return self._put(memoryview(content))
        self._held.append(bytes(content))
        self._holds += len(content)
        late = time.monotonic() - self._flushed > HOLD_S
        if late or self._holds >= _READ or self.at + self._holds >= self._pause:
            self.flush()
        return None

    def flush(self) -> None:
        """Puts what is held where it belongs. A megabyte at a time, because each step costs more than its bytes."""
        held, self._held, self._holds = self._held, [], 0
        self._put(memoryview(b"".join(held)))

    def _put(self, view: memoryview) -> None:
        self._flushed = time.monotonic()
        while view and self._todo and self.at < self.end:
            index = self.at // self._partial.part
            room = self._partial.start(index) + self._partial.length(index) - self.at
            piece, view = view[:room], view[room:]
            if index in self._todo:
                if self._writer is None:
                    self._writer = self._partial.writer(index, self.source)
                self._writer.write(piece)
                self._came(len(piece))
                if self._writer.at == self._writer.end:
                    self._todo.remove(index)
                    self._writer = None
            self.at += len(piece)
        index = self.at // self._partial.part
        self._pause = self._partial.start(index) + self._partial.length(index)

    def give_up(self) -> None:
        """The part that is half there is not kept."""
        self._held, self._holds = [], 0
        if self._writer:
            self._came(-self._writer.give_up())
            self._writer = None


class Memory:
    """Where the bytes of an answer go when they are only to be compared."""

    def __init__(self, start: int, length: int) -> None:
        self._start, self.end, self.content, self.source = start, start + length, bytearray(), 0
        self.wide = False

    @property
    def at(self) -> int:
        return self._start + len(self.content)

    @property
    def finished(self) -> bool:
        return self.at == self.end

    def take(self, content: bytes | memoryview) -> None:
        self.content += content[: self.end - self.at]

    def flush(self) -> None:
        """Nothing is held back."""


def _git(size: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
