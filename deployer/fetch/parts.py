"""Several files over HTTP at once: in parallel parts, from an ordered list of addresses, each hashed as it comes.

A server without ranges (206) gives its file in one stream. No address need be trusted where the hash is known: what is
wrong in the end is asked for again, part by part, until the whole is right.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deployer.errors import DeployerError, SourceUnreachable
from deployer.fetch.http import bulk, hint_of, reason_of
from deployer.fetch.partial import Cursor, Memory, Partial
from deployer.fetch.patience import ATTEMPTS, BUSY, LONGEST_S, clock, pause, wait_of
from deployer.fetch.tally import Tally
from deployer.fetch.wanted import Address, Gone, Trouble, Wanted, Ways, mismatch, other_size, right, told
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx

_SPAN = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def fetch_all(
    client: httpx.Client,
    wanted: Sequence[Wanted],
    *,
    progress: Progress,
    done: Callable[[Wanted, str], None],
    ways: Ways | None = None,
) -> None:
    """Fetches all files; `done` is called with each one's SHA-256 as soon as it is whole and right at its `path`.

    Raises HashMismatch, NoSpace or SourceUnreachable for the first file that cannot be had; what came of it and of
    the others stays beside `path` and is not fetched again by the next call.
    """
    _Fetch(client, wanted, progress, done, ways or Ways()).run()


class _File:
    """One file under way. What changes is guarded by the lock of `_Fetch`."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.partial: Partial | None = None
        self.address = 0
        self.ranges: bool | None = None  # None: nobody has asked yet
        self.direct: str | None = None  # where the address leads to in the end
        self.etags: set[str] = set()
        self.came = self.high = 0
        self.claimed: set[int] = set()
        self.workers = 0
        self.ended = False

    @property
    def part(self) -> Partial:
        assert self.partial is not None
        return self.partial


class _Fetch:
    def __init__(
        self,
        client: httpx.Client,
        wanted: Sequence[Wanted],
        progress: Progress,
        done: Callable[[Wanted, str], None],
        ways: Ways,
    ) -> None:
        self._client, self._ways, self._done, self._progress = client, ways, done, progress
        self._files = [_File(one) for one in wanted]
        self._tally = Tally(progress, {one.title: one.size for one in wanted})
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._busy_until: dict[str, float] = {}
        self._dead: set[str] = set()
        self._unsynced, self._syncing = 0, threading.Lock()

    def run(self) -> None:
        spans = sum(one.wanted.size // self._ways.span + 2 for one in self._files)
        names = range(min(self._ways.connections, spans))
        threads = [threading.Thread(target=self._work, daemon=True, name=f"fetch-{n}") for n in names]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # in pieces, so that Ctrl-C gets through
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(1.0)
            for file in () if any(t.is_alive() for t in threads) else self._files:  # else one may still write
                if file.partial and not file.ended:
                    file.partial.close()
        if self._error:
            raise self._error

    # what to do next

    def _work(self) -> None:
        mine: _File | None = None
        while job := self._next(mine):
            mine, parts = job
            try:
                if mine.partial is None:
                    self._open(mine)
                elif parts:
                    self._span(mine, parts)
                else:
                    self._finish(mine)
            except BaseException as error:  # noqa: BLE001  it is raised again where `run` was called
                with self._change:
                    self._error = self._error or told(error, mine.wanted)
                    self._stop.set()
            with self._change:
                mine.workers -= 1
                mine.claimed.difference_update(parts)
                self._change.notify_all()

    def _next(self, mine: _File | None) -> tuple[_File, list[int]] | None:
        """A file and parts of it to fetch; no parts: it is to be opened or finished. None when all is done."""
        with self._change:
            while not self._stop.is_set():
                if all(file.ended for file in self._files):
                    return None
                for file in self._order(mine):
                    if (parts := self._claim(file)) is not None:
                        file.workers += 1
                        file.claimed.update(parts)
                        return file, parts
                self._change.wait(1.0)
        return None

    def _order(self, mine: _File | None) -> list[_File]:
        """The file that this worker had, then those that nobody works on, then those with the fewest workers."""
        return sorted(
            (file for file in self._files if not file.ended),
            key=lambda file: (file is not mine, file.workers),
        )

    def _claim(self, file: _File) -> list[int] | None:
        if file.workers and file.ranges is not True:
            return None  # it is opened now, or comes in one stream, or nobody knows yet
        if file.partial is None:
            return []
        missing = [index for index in file.partial.missing() if index not in file.claimed]
        if not missing:
            return None if file.workers else []
        share = len(missing) * self._ways.part // (2 * self._ways.connections)  # large at first, so few requests
        span = min(max(self._ways.span, share), self._ways.longest)
        most = max(1, span // self._ways.part) if file.ranges is not False else len(missing)
        parts = missing[:1]
        for index in missing[1:most]:
            if index != parts[-1] + 1 and file.ranges is not False:
                break
            parts.append(index)
        return parts

    # one file

    def _open(self, file: _File) -> None:
        wanted = file.wanted
        partial = Partial(wanted.path, wanted.size, wanted.git_sha1 is not None, self._ways.part)
        self._tally.resumed(wanted.title, partial.resume())
        file.partial = partial

    def _finish(self, file: _File) -> None:
        wanted, partial = file.wanted, file.part
        sha256, git = partial.digests()
        if not right(wanted, sha256, git):
            before = partial.done
            if partial.damaged():
                self._tally.came(wanted.title, partial.done - before)
                self._progress.say(f"{wanted.title}: this disk changed bytes of it; they are fetched again")
                return None
            if file.ranges is False and file.address + 1 < len(wanted.addresses):
                self._tally.came(wanted.title, -partial.done)
                partial.forget()
                wrong = mismatch(wanted, sha256, git, changed=False)
                return self._leave(file, file.address, wrong)
            if not self._repair(file):
                if self._stop.is_set():
                    return None
                error = mismatch(wanted, *partial.digests(), changed=len(file.etags) > 1)
                partial.close(keep=False)
                file.ended = True
                raise error
            sha256, git = partial.digests()
        partial.finish()
        file.ended = True
        self._done(wanted, sha256)
        return None

    def _repair(self, file: _File) -> bool:
        """Asks for the parts again, those from the least trusted address first, until the whole is right."""
        partial, last = file.part, len(file.wanted.addresses) - 1
        if file.ranges is False:
            return False
        self._progress.say(f"{file.wanted.title}: its bytes are wrong; they are compared part by part")
        for index in sorted(partial.checks, key=lambda i: (partial.came_from[i], i)):
            with self._change:
                file.address = last
                file.direct = file.direct if last == 0 else None
            memory = Memory(partial.start(index), partial.length(index))
            self._pull(file, memory)
            if self._stop.is_set():
                return False
            if partial.replace(index, bytes(memory.content), last) and right(file.wanted, *partial.digests()):
                return True
        return False

    def _span(self, file: _File, parts: list[int]) -> None:
        partial, title = file.part, file.wanted.title

        def came(count: int) -> None:
            self._tally.came(title, count)
            self._unsynced += count  # need not be exact
            if self._unsynced >= self._ways.sync and self._syncing.acquire(blocking=False):
                try:
                    self._unsynced = 0
                    for one in [f.partial for f in self._files if f.partial]:
                        one.sync()
                finally:
                    self._syncing.release()

        cursor = Cursor(partial, parts, came)
        try:
            self._pull(file, cursor)
        finally:
            cursor.give_up()

    # one connection

    def _pull(self, file: _File, sink: Cursor | Memory) -> None:
        """Fills the sink, over as many connections and addresses as it takes, or leaves when one stream must do."""
        import httpx

        failures, asked, seen = 0, 0, 0
        while not sink.finished and not self._stop.is_set():
            if sink.wide and file.ranges is not False:  # another address: its parts are for all workers
                return
            number = file.address
            failures = 0 if number != asked or file.came > seen else failures
            asked, seen = number, file.came
            try:
                self._await_turn(file, number)
                if not self._stream(file, number, sink):
                    return
                continue
            except httpx.HTTPError as error:
                if sink.finished:  # it promised more than the file has
                    return
                trouble = Trouble(reason_of(error))
            except SourceUnreachable as error:  # of who gives the tokens for this address
                trouble = Trouble(error.message)
            except Trouble as error:
                trouble = error
            except Gone as gone:
                self._leave(file, number, gone.error)
                continue
            failures = 1 if file.came > seen else failures + 1  # bytes of other workers count: it is alive
            seen = file.came
            self._after(file, number, trouble, failures)

    def _stream(self, file: _File, number: int, sink: Cursor | Memory) -> bool:
        """One request; False when its answer shows that this file must come in one stream, by one worker."""
        address, partial = file.wanted.addresses[number], file.part
        direct = file.direct
        ask = address.ask(direct)
        small = partial.count == 1 and sink.at == 0
        if file.ranges is False and isinstance(sink, Cursor):
            sink.whole(partial.missing())
        elif not small:
            ask["Range"] = f"bytes={sink.at}-{sink.end - 1}"
        sink.source = number
        with self._client.stream("GET", direct or address.url, headers=ask) as answer:
            if direct and answer.status_code in (401, 403, 404, 410):  # such addresses end after a while
                file.direct = None
                raise Trouble(f"HTTP {answer.status_code} from where it led to")
            ranged = self._judge(file, address, answer, sink, asked="Range" in ask)
            with self._change:
                if file.address == number:
                    file.direct = str(answer.url) if answer.history else direct
                    file.ranges = True if ranged else None if small else False
                alone = file.workers == 1
                self._change.notify_all()
            if not ranged and "Range" in ask:
                if sink.at != 0 or not alone or isinstance(sink, Memory):
                    return False
                sink.whole(partial.missing())
            if etag := answer.headers.get("etag"):
                file.etags.add(etag)
            try:
                self._read(file, answer, sink, ranged)
            finally:
                sink.flush()
        if sink.finished:
            return True
        raise Trouble("the answer ended too early")

    def _read(self, file: _File, answer: httpx.Response, sink: Cursor | Memory, ranged: bool) -> None:
        since, came = time.monotonic(), 0
        for chunk in bulk(answer, self._ways.bulk):
            if self._stop.is_set():
                return
            sink.take(chunk)
            # What is sent once more, because there are no ranges, is no progress. Several workers write this number,
            # and it need not be exact.
            file.came += len(chunk) if ranged else max(0, sink.at - file.high)
            file.high = max(file.high, sink.at)
            came += len(chunk)
            if sink.finished and not ranged:
                return
            if time.monotonic() - since > self._ways.stall:
                if came < self._ways.least:
                    raise Trouble(f"only {came} bytes in {self._ways.stall:.0f} s")
                since, came = time.monotonic(), 0

    def _judge(
        self, file: _File, address: Address, answer: httpx.Response, sink: Cursor | Memory, *, asked: bool
    ) -> bool:
        """Whether the answer is the range that was asked for; False: it is the whole file. Raises when neither."""
        status, size, headers = answer.status_code, file.wanted.size, answer.headers
        if status in BUSY:
            raise Trouble(f"HTTP {status}", wait_of(headers))
        if status == 416:
            raise Gone(other_size(file.wanted, address, headers.get("content-range", "").rpartition("/")[2]))
        if status not in (200, 206):
            raise Gone(SourceUnreachable(f"{address.public} answers HTTP {status}", hint=hint_of(answer)))
        if headers.get("content-encoding", "identity") != "identity":
            raise Gone(SourceUnreachable(f"{address.public} comes compressed", hint="look at the proxy"))
        if status == 206 and asked:
            span = _SPAN.fullmatch(headers.get("content-range", ""))
            if span and int(span[3]) != size:
                raise Gone(other_size(file.wanted, address, span[3]))
            if not span or int(span[1]) != sink.at:
                raise Trouble(f"another range than the one asked for: {headers.get('content-range')}")
            return True
        length = headers.get("content-length", "")
        if status == 206 or (length.isdecimal() and int(length) != size):
            page = "text/html" in headers.get("content-type", "")
            raise Gone(other_size(file.wanted, address, length, page))
        return False

    # trouble

    def _await_turn(self, file: _File, number: int) -> None:
        """Waits while the address is busy. Goes to the next one when others found that it is dead."""
        host = file.wanted.addresses[number].host
        while (left := self._busy_until.get(host, 0.0) - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(min(left, 1.0))
        if host in self._dead and number + 1 < len(file.wanted.addresses):
            raise Gone(SourceUnreachable(f"{host} cannot be reached"))

    def _after(self, file: _File, number: int, trouble: Trouble, failures: int) -> None:
        """Decides whether this address is asked again, and when."""
        address, wait = file.wanted.addresses[number], trouble.wait
        more = number + 1 < len(file.wanted.addresses)
        if wait and wait > LONGEST_S and not more:
            raise SourceUnreachable(
                f"{address.host} is busy ({trouble}) and asks to come back at {clock(wait)}",
                hint="run the same command then: it goes on where it stopped; a token has a higher limit",
            )
        if failures >= ATTEMPTS or (more and (failures >= 2 or (wait or 0) > 1)):
            self._dead.add(address.host)
            error = SourceUnreachable(
                f"{address.public} cannot be reached: {trouble}",
                hint="check the network and the proxy, then run the same command: it goes on where it stopped",
            )
            return self._leave(file, number, error)
        seconds = pause(failures - 1) if wait is None else max(wait, 0.1)
        if wait is not None:
            self._busy_until[address.host] = time.monotonic() + seconds
        if seconds > 3:
            self._progress.say(f"{address.host}: {trouble}; asked again at {clock(seconds)}")
        self._stop.wait(seconds)
        return None

    def _leave(self, file: _File, number: int, error: DeployerError) -> None:
        """Goes to the next address. Raises `error` when there is none."""
        with self._change:
            if file.address != number:
                return  # another worker did
            if number + 1 == len(file.wanted.addresses):
                raise error
            file.address, file.ranges, file.direct, file.high = number + 1, None, None, 0
            follow = file.wanted.addresses[number + 1].host
        self._progress.say(f"{file.wanted.title}: {error.message}; asking {follow}")
