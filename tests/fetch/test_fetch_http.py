"""`download` against servers that behave well and badly."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from deployer.errors import HashMismatch, NoSpace, SourceUnreachable
from deployer.fetch import Web, download, free_bytes
from deployer.fetch.patience import ATTEMPTS
from deployer.progress import Silent
from tests.servers import FileServer, Manner, unused_port, wait_until

CONTENT = random.Random(1).randbytes(200_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>"


class Amounts(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int | None]] = []

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        self.told.append((title, done, total))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/weights": CONTENT, "/nothing": b""}) as made:
        yield made


def fetch(
    client: httpx.Client,
    server: FileServer,
    dest: Path,
    *,
    path: str = "/weights",
    sha256: str | None = SHA256,
    size: int | None = len(CONTENT),
) -> str:
    return download(client, server.url + path, dest, sha256=sha256, size=size, progress=Silent())


@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(), id="well-behaved"),
        pytest.param(Manner(ranges=False), id="no-ranges"),
        pytest.param(Manner(chunked=True), id="no-length"),
        pytest.param(Manner(statuses=[500, 500]), id="twice-500"),
        pytest.param(Manner(statuses=[429]), id="once-429"),
        pytest.param(Manner(statuses=[503]), id="once-503"),
        pytest.param(Manner(gzip_if_asked=True), id="would-compress"),
        pytest.param(Manner(cut=70_000), id="cuts"),
        pytest.param(Manner(cut=70_000, chunked=True), id="cuts-without-length"),
        pytest.param(Manner(lie=1000), id="claims-more"),
    ],
)
def test_the_file_comes_whole(client: httpx.Client, tmp_path: Path, manner: Manner) -> None:
    dest = tmp_path / "deeper" / "weights"
    with FileServer({"/weights": CONTENT}, manner) as server:
        assert fetch(client, server, dest) == SHA256
    assert dest.read_bytes() == CONTENT
    assert names(dest.parent) == ["weights"]


@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(), id="with-length"),
        pytest.param(Manner(chunked=True), id="no-length"),
        pytest.param(Manner(cut=70_000), id="cuts"),
        pytest.param(Manner(cut=70_000, chunked=True), id="cuts-without-length"),
    ],
)
def test_nothing_needs_to_be_known_of_the_file(client: httpx.Client, tmp_path: Path, manner: Manner) -> None:
    with FileServer({"/weights": CONTENT}, manner) as server:
        assert fetch(client, server, tmp_path / "weights", sha256=None, size=None) == SHA256
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_cut_is_continued_where_it_was(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    server.manner.cut = 70_000
    fetch(client, server, tmp_path / "weights")
    assert [seen.range for seen in server.seen] == [None, "bytes=70000-", "bytes=140000-"]


def test_only_the_rest_is_asked_for(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "weights.partial").write_bytes(CONTENT[:150_000])
    assert fetch(client, server, tmp_path / "weights") == SHA256
    assert [seen.range for seen in server.seen] == ["bytes=150000-"]
    assert server.sent == len(CONTENT) - 150_000
    assert (tmp_path / "weights").read_bytes() == CONTENT


def test_a_whole_partial_file_needs_no_request(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    (tmp_path / "weights.partial").write_bytes(CONTENT)
    assert fetch(client, server, tmp_path / "weights") == SHA256
    assert server.seen == []


@pytest.mark.parametrize(
    ("manner", "size", "left"),
    [
        pytest.param(Manner(ranges=False), len(CONTENT), CONTENT[:150_000], id="server-starts-over"),
        pytest.param(Manner(), len(CONTENT), CONTENT + b"more", id="too-long"),
        pytest.param(Manner(), None, CONTENT + b"more", id="too-long-and-size-unknown"),
    ],
)
def test_a_partial_file_of_no_use_is_fetched_anew(
    client: httpx.Client, tmp_path: Path, manner: Manner, size: int | None, left: bytes
) -> None:
    (tmp_path / "weights.partial").write_bytes(left)
    with FileServer({"/weights": CONTENT}, manner) as server:
        assert fetch(client, server, tmp_path / "weights", size=size) == SHA256
    assert names(tmp_path) == ["weights"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_of_the_server_costs_nothing_that_was_there(
    client: httpx.Client, tmp_path: Path, server: FileServer, status: int
) -> None:
    (tmp_path / "weights.partial").write_bytes(CONTENT[:150_000])
    server.manner.statuses = [status]
    fetch(client, server, tmp_path / "weights")
    assert [seen.range for seen in server.seen] == ["bytes=150000-", "bytes=150000-"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once_and_costs_nothing_that_was_there(
    client: httpx.Client, tmp_path: Path, server: FileServer, status: int
) -> None:
    (tmp_path / "weights.partial").write_bytes(CONTENT[:150_000])
    server.manner.status = status
    with pytest.raises(SourceUnreachable, match=f"HTTP {status}") as caught:
        fetch(client, server, tmp_path / "weights")
    assert len(server.seen) == 1
    assert (tmp_path / "weights.partial").stat().st_size == 150_000
    expected = {401: "HF_TOKEN", 403: "HF_TOKEN", 404: "revision"}
    assert expected.get(status, "") in (caught.value.hint or "")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(instead=PAGE), id="page-shorter-than-the-file"),
        pytest.param(Manner(instead=PAGE * 5000), id="page-longer-than-the-file"),
        pytest.param(Manner(instead=bytes(len(CONTENT))), id="other-bytes-of-the-same-size"),
        pytest.param(Manner(instead=b""), id="nothing"),
        pytest.param(Manner(lie=-1000), id="claims-less"),
    ],
)
def test_wrong_bytes_leave_nothing(client: httpx.Client, tmp_path: Path, manner: Manner) -> None:
    with FileServer({"/weights": CONTENT}, manner) as server:
        with pytest.raises(HashMismatch, match=SHA256) as caught:
            fetch(client, server, tmp_path / "weights")
        assert len(server.seen) <= ATTEMPTS + 1
    assert caught.value.hint
    assert names(tmp_path) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("part", [b"", CONTENT[:100_000]], ids=["fresh", "resumed"])
def test_a_file_that_is_shorter_than_listed_is_no_endless_loop(
    client: httpx.Client, tmp_path: Path, ranges: bool, part: bytes
) -> None:
    if part:
        (tmp_path / "weights.partial").write_bytes(part)
    with FileServer({"/weights": CONTENT[:50_000]}, Manner(ranges=ranges)) as server:
        with pytest.raises(HashMismatch, match="50000 bytes"):
            fetch(client, server, tmp_path / "weights")
        assert len(server.seen) <= ATTEMPTS + 2
    assert names(tmp_path) == []


def test_a_flood_is_not_written_to_the_disk(client: httpx.Client, tmp_path: Path) -> None:
    with FileServer({"/weights": bytes(64 << 20)}) as server:
        with pytest.raises(HashMismatch):
            fetch(client, server, tmp_path / "weights", size=1000)
        assert server.sent < 32 << 20


def test_an_empty_answer_is_named(client: httpx.Client, tmp_path: Path) -> None:
    with FileServer({"/weights": b""}) as server, pytest.raises(HashMismatch) as caught:
        fetch(client, server, tmp_path / "weights", size=None)
    assert "empty" in (caught.value.hint or "")


@pytest.mark.parametrize("size", [0, None], ids=["listed", "unknown"])
def test_an_empty_file_may_be_meant(
    client: httpx.Client, tmp_path: Path, server: FileServer, size: int | None
) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert fetch(client, server, tmp_path / "n", path="/nothing", sha256=empty, size=size) == empty
    assert (tmp_path / "n").read_bytes() == b""


@pytest.mark.slow
def test_five_failures_are_enough(tmp_path: Path) -> None:
    """All at the same time, for each waits about 15 seconds between its attempts."""
    broken = {
        "always-500": Manner(status=500),
        "cuts-at-once": Manner(cut=0),
    }

    def attempt(name: str) -> tuple[SourceUnreachable, int]:
        with FileServer({"/weights": CONTENT}, broken.get(name)) as server, Web().client() as client:
            url = server.url if name in broken else f"http://127.0.0.1:{unused_port()}"
            with pytest.raises(SourceUnreachable, match="cannot be reached") as caught:
                download(
                    client, f"{url}/weights?key=secret", tmp_path / name,
                    sha256=SHA256, size=len(CONTENT), progress=Silent(),
                )  # fmt: skip
            return caught.value, len(server.seen)

    with ThreadPoolExecutor() as pool:
        results = dict(
            zip([*broken, "nobody"], pool.map(attempt, [*broken, "nobody"]), strict=True),
        )
    assert {name: count for name, (_, count) in results.items()} == {
        "always-500": ATTEMPTS, "cuts-at-once": ATTEMPTS, "nobody": 0,
    }  # fmt: skip
    for error, _ in results.values():
        assert "network" in (error.hint or "")
        assert "secret" not in str(error)


def test_too_large_for_the_disk_is_refused_before_the_first_byte(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    with pytest.raises(NoSpace, match="free") as caught:
        fetch(client, server, tmp_path / "weights", size=free_bytes(tmp_path) + (1 << 40))
    assert str(tmp_path) in (caught.value.hint or "")
    assert server.seen == []
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "deployer-test", str(path)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_is_told_and_then_continued(client: httpx.Client, small_disk: Path) -> None:
    large = random.Random(2).randbytes(1_500_000)
    digest = hashlib.sha256(large).hexdigest()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    with FileServer({"/weights": large}, Manner(chunked=True)) as server:
        with pytest.raises(NoSpace, match="disk is full") as caught:
            fetch(client, server, small_disk / "weights", sha256=digest, size=None)
        assert str(small_disk) in (caught.value.hint or "")
        assert not (small_disk / "weights").exists()

        with pytest.raises(NoSpace, match="needs"):
            fetch(client, server, small_disk / "weights", sha256=digest, size=len(large))
        assert len(server.seen) == 1

        ballast.unlink()
        assert fetch(client, server, small_disk / "weights", sha256=digest, size=len(large)) == digest
        assert (server.seen[-1].range or "").startswith("bytes=")
    assert (small_disk / "weights").read_bytes() == large


DOWNLOAD = """
import sys
from pathlib import Path
from deployer.fetch import Web, download
from deployer.progress import Silent
url, dest, sha256, size = sys.argv[1:]
with Web().client() as client:
    download(client, url, Path(dest), sha256=sha256, size=int(size), progress=Silent())
"""


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_killed_in_the_middle_it_goes_on_there(
    client: httpx.Client, tmp_path: Path, server: FileServer, share: float
) -> None:
    dest, server.manner.pause = tmp_path / "weights", 0.03
    child = subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, f"{server.url}/weights", str(dest), SHA256, str(len(CONTENT))]
    )
    wait_until(lambda: server.sent >= share * len(CONTENT) or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not dest.exists()
    kept = (tmp_path / "weights.partial").stat().st_size
    assert 0 < kept < len(CONTENT)

    server.manner.pause = 0
    assert fetch(client, server, dest) == SHA256
    assert [seen.range for seen in server.seen] == [None, f"bytes={kept}-"]
    assert dest.read_bytes() == CONTENT


def test_the_watcher_sees_it_grow_to_its_end(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    amounts = Amounts()
    download(
        client, f"{server.url}/weights", tmp_path / "w", sha256=SHA256, size=len(CONTENT), progress=amounts
    )
    done = [done for _, done, _ in amounts.told]
    assert done == sorted(done)
    assert len(done) > 1
    assert amounts.told[-1] == ("w", len(CONTENT), len(CONTENT))
