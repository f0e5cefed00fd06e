"""`fetch_all` against servers that behave well and badly: many files, in parallel parts, from several places."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from deployer.errors import HashMismatch, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.parts import fetch_all
from deployer.fetch.patience import wait_of
from deployer.fetch.wanted import Address, Wanted, Ways
from deployer.progress import Silent
from tests.servers import FileServer, Manner, git_sha1, unused_port, wait_until

LARGE = random.Random(1).randbytes(1_000_003)
SMALL = b'{"small": true}'
FILES = {"/large": LARGE, "/second": LARGE[::-1], "/small": SMALL, "/nothing": b""}
WAYS = Ways(connections=4, part=16 << 10, span=64 << 10, sync=64 << 10, bulk=8 << 10)
PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>"


class Watcher(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.last: dict[str, tuple[int, int | None]] = {}

    def say(self, text: str) -> None:
        self.said.append(text)

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        assert 0 <= done <= (total or 0)
        self.last[title] = done, total


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(FILES) as made:
        yield made


def wish(folder: Path, *servers: FileServer | str, name: str = "large", content: bytes | None = None) -> Wanted:
    content = FILES[f"/{name}"] if content is None else content
    places = [server if isinstance(server, str) else server.url for server in servers]
    return Wanted(
        name, tuple(Address(f"{place}/{name}") for place in places), folder / name,
        len(content), hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


def fetch(
    client: httpx.Client, *wanted: Wanted, ways: Ways = WAYS, watcher: Watcher | None = None
) -> dict[str, str]:
    found: dict[str, str] = {}
    fetch_all(
        client, wanted, progress=watcher or Watcher(), ways=ways,
        done=lambda one, sha256: found.update({one.title: sha256}),
    )  # fmt: skip
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(), id="well-behaved"),
        pytest.param(Manner(ranges=False), id="no-ranges"),
        pytest.param(Manner(ranges=False, chunked=True), id="no-ranges-and-no-length"),
        pytest.param(Manner(chunked=True), id="no-length"),
        pytest.param(Manner(statuses=[500, 503]), id="twice-5xx"),
        pytest.param(Manner(statuses=[429], retry_after="1"), id="once-429"),
        pytest.param(Manner(gzip_if_asked=True), id="would-compress"),
        pytest.param(Manner(cut=40_000), id="cuts"),
        pytest.param(Manner(wrong=[500_000]), id="one-wrong-byte"),
        pytest.param(Manner(wrong=[3, 999_999]), id="two-wrong-bytes"),
    ],
)
def test_the_file_comes_whole(client: httpx.Client, tmp_path: Path, manner: Manner) -> None:
    with FileServer(FILES, manner) as server:
        wanted = wish(tmp_path, server)
        assert fetch(client, wanted) == {"large": wanted.sha256}
    assert (tmp_path / "large").read_bytes() == LARGE
    assert names(tmp_path) == ["large"]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_many_files_at_once(client: httpx.Client, tmp_path: Path, server: FileServer, ranges: bool) -> None:
    server.manner.ranges = ranges
    wanted = [wish(tmp_path, server, name=name.strip("/")) for name in FILES]
    watcher = Watcher()
    assert fetch(client, *wanted, watcher=watcher) == {one.title: one.sha256 for one in wanted}
    assert {f"/{name}": (tmp_path / name).read_bytes() for name in names(tmp_path)} == FILES
    size = sum(map(len, FILES.values()))
    assert watcher.last["total"] == (size, size)
    assert server.sent == size, "every byte comes once"
    assert server.asked("/nothing") == []


def test_one_large_file_comes_over_several_connections(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    server.manner.pause = 0.01
    begin = time.monotonic()
    fetch(client, wish(tmp_path, server))
    assert all(seen.range for seen in server.seen)
    assert time.monotonic() - begin < 0.8 * 0.01 * len(LARGE) / (16 << 10), "one connection alone is slower"


def test_a_hub_names_small_files_by_git(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    wanted = replace(wish(tmp_path, server, name="small"), sha256=None, git_sha1=git_sha1(SMALL))
    assert fetch(client, wanted) == {"small": hashlib.sha256(SMALL).hexdigest()}
    server.files["/small"] = SMALL[::-1]
    with pytest.raises(HashMismatch, match=f"git blob {wanted.git_sha1}"):
        fetch(client, wanted)
    assert names(tmp_path) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("name", ["large", "small"])
def test_wrong_bytes_of_the_right_size_leave_nothing(
    client: httpx.Client, tmp_path: Path, server: FileServer, name: str, ranges: bool
) -> None:
    server.manner.ranges = ranges
    wanted = wish(tmp_path, server, name=name)
    server.files[f"/{name}"] = bytes(wanted.size)
    with pytest.raises(HashMismatch, match=f"wanted sha256 {wanted.sha256}") as caught:
        fetch(client, wanted)
    assert "proxy or mirror" in (caught.value.hint or "")
    assert names(tmp_path) == []
    assert server.sent <= 2 * wanted.size, "asked for twice at the most"


def test_one_bad_part_costs_less_than_starting_over(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    server.manner.wrong = [100_000]
    watcher = Watcher()
    fetch(client, wish(tmp_path, server), watcher=watcher)
    assert (tmp_path / "large").read_bytes() == LARGE
    again = server.sent - len(LARGE)
    assert again <= 100_000 + WAYS.part, "the parts before it were compared, those after it were left alone"
    assert "compared part by part" in "".join(watcher.said)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(instead=PAGE), id="page-with-200"),
        pytest.param(Manner(instead=PAGE * 50_000), id="large-page"),
        pytest.param(Manner(instead=b""), id="nothing"),
        pytest.param(Manner(lie=1000, ranges=False), id="claims-more"),
    ],
)
@pytest.mark.parametrize("name", ["large", "small"])
def test_an_answer_of_another_size_is_refused_before_it_is_read(
    client: httpx.Client, tmp_path: Path, manner: Manner, name: str
) -> None:
    with FileServer(FILES, manner) as server:
        with pytest.raises(HashMismatch, match=f"{len(FILES[f'/{name}'])} are listed") as caught:
            fetch(client, wish(tmp_path, server, name=name))
        assert len(server.seen) == 1
    if manner.instead:
        assert "sign in" in (caught.value.hint or "")


@pytest.mark.parametrize("change", [len(LARGE) - 1, len(LARGE) + 1, 1000], ids=["shorter", "longer", "much-shorter"])
def test_a_file_whose_size_changes_between_two_parts(
    client: httpx.Client, tmp_path: Path, server: FileServer, change: int
) -> None:
    server.manner.change = (3, "/large", bytes(change))
    wanted = wish(tmp_path, server)
    with pytest.raises(HashMismatch, match=f"{len(LARGE)} are listed"):
        fetch(client, wanted, ways=replace(WAYS, connections=1))
    server.files["/large"], server.manner.change, before = LARGE, None, server.sent
    fetch(client, wanted)
    assert (tmp_path / "large").read_bytes() == LARGE
    assert server.sent - before < len(LARGE) - 2 * WAYS.span, "what came before was kept"


def test_a_file_that_changes_between_two_parts(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    server.manner.change = (3, "/large", LARGE[::-1])
    with pytest.raises(HashMismatch) as caught:
        fetch(client, wish(tmp_path, server), ways=replace(WAYS, connections=1))
    assert "changed while it was fetched" in (caught.value.hint or "")
    assert names(tmp_path) == []


# several places


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(Manner(instead=PAGE), id="page"),
        pytest.param(Manner(status=404), id="404"),
        pytest.param(Manner(status=503), id="503"),
        pytest.param(Manner(status=429, retry_after="3600"), id="busy-for-an-hour"),
        pytest.param(Manner(cut=0), id="cuts-at-once"),
        pytest.param(Manner(wrong=[700_000]), id="one-wrong-byte"),
    ],
)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_a_mirror_need_not_be_good(
    client: httpx.Client, tmp_path: Path, server: FileServer, manner: Manner, ranges: bool
) -> None:
    with FileServer(FILES, replace(manner, ranges=ranges, wrong=list(manner.wrong))) as mirror:
        fetch(client, wish(tmp_path, mirror, server), wish(tmp_path, mirror, server, name="second"))
        assert mirror.seen
    assert (tmp_path / "large").read_bytes() == LARGE
    assert (tmp_path / "second").read_bytes() == LARGE[::-1]


def test_a_good_mirror_spares_the_origin(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    with FileServer(FILES) as mirror:
        fetch(client, wish(tmp_path, mirror, server))
    assert server.seen == []


def test_a_mirror_that_is_not_there(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    nobody, watcher = f"http://127.0.0.1:{unused_port()}", Watcher()
    fetch(client, wish(tmp_path, nobody, server), watcher=watcher)
    assert (tmp_path / "large").read_bytes() == LARGE
    assert any("asking 127.0.0.1" in text for text in watcher.said)


@pytest.mark.parametrize("here", [True, False], ids=["same-host", "other-host"])
def test_the_token_goes_to_its_host_and_not_where_that_leads(
    client: httpx.Client, tmp_path: Path, server: FileServer, here: bool
) -> None:
    with FileServer({"/there": LARGE}) as storage:
        server.files["/there"] = LARGE
        server.redirects["/large"] = f"{server.url if here else storage.url}/there"
        wanted = wish(tmp_path, server)
        address = Address(wanted.addresses[0].url, {"Authorization": "Bearer hf_secret"})
        fetch(client, replace(wanted, addresses=(address,)))
        assert {seen.headers.get("authorization") for seen in server.seen} == {"Bearer hf_secret"}
        assert not any("authorization" in seen.headers for seen in storage.seen)
        assert len(server.asked("/large")) <= WAYS.connections, "where it leads to is remembered"
        assert bool(storage.seen) != here


def test_an_address_that_expires_is_asked_for_again(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    with FileServer({"/there": LARGE}, Manner(statuses=[0, 0, 0, 403, 0, 403])) as storage:
        server.redirects["/large"] = f"{storage.url}/there"
        fetch(client, wish(tmp_path, server), ways=replace(WAYS, connections=2))
    assert (tmp_path / "large").read_bytes() == LARGE
    assert len(server.asked("/large")) >= 2


# patience


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once(
    client: httpx.Client, tmp_path: Path, server: FileServer, status: int
) -> None:
    server.manner.status = status
    with pytest.raises(SourceUnreachable, match=f"HTTP {status}"):
        fetch(client, wish(tmp_path, server))
    assert len(server.seen) == 1


@pytest.mark.parametrize("after", ["3600", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"])
def test_a_server_that_wants_an_hour_is_taken_at_its_word(
    client: httpx.Client, tmp_path: Path, server: FileServer, after: str
) -> None:
    server.manner.status, server.manner.retry_after = 429, after
    begin = time.monotonic()
    with pytest.raises(SourceUnreachable, match=r"HTTP 429.* come back at \d\d:\d\d:\d\d"):
        fetch(client, wish(tmp_path, server))
    assert time.monotonic() - begin < 5


def test_retry_after_is_kept_to_and_told(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    server.manner.statuses, server.manner.retry_after, watcher = [429], "4", Watcher()
    begin = time.monotonic()
    fetch(client, wish(tmp_path, server), watcher=watcher)
    assert 4 <= time.monotonic() - begin < 15
    assert any("HTTP 429; asked again at" in text for text in watcher.said)


@pytest.mark.parametrize(
    ("text", "expected"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), (formatdate(110, usegmt=True), 10.0)]
)
def test_what_retry_after_means(text: str, expected: float | None) -> None:
    assert wait_of({"retry-after": text}, now=100.0) == expected


def test_a_stall_changes_the_connection(tmp_path: Path, server: FileServer) -> None:
    server.manner.stalls, server.manner.stall = 3, 20_000
    with httpx.Client(timeout=httpx.Timeout(1.0), trust_env=False) as client:
        fetch(client, wish(tmp_path, server))
    assert (tmp_path / "large").read_bytes() == LARGE


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("trickles", [1, 3])
def test_a_trickle_changes_the_connection(
    client: httpx.Client, tmp_path: Path, server: FileServer, trickles: int, ranges: bool
) -> None:
    """In drops the 1 MB would take 40 s, and no single wait is ever long."""
    server.manner.trickles, server.manner.stall, server.manner.ranges = trickles, 20_000, ranges
    ways, begin = replace(WAYS, span=1 << 20, stall=0.5), time.monotonic()
    fetch(client, wish(tmp_path, server), ways=ways)
    assert 0.5 < time.monotonic() - begin < 15
    assert (tmp_path / "large").read_bytes() == LARGE
    cut = [seen for seen in server.seen if seen.sent < 0.2 * len(LARGE)]
    assert len(cut) >= trickles, "each was left before its end"


def test_a_slow_connection_that_gives_enough_is_kept(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    server.manner.pause = 0.02  # 16 KiB each time
    begin = time.monotonic()
    fetch(client, wish(tmp_path, server), ways=replace(WAYS, connections=1, span=1 << 20, stall=0.3))
    assert time.monotonic() - begin > 1
    assert len(server.seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "manner",
    [Manner(status=500), Manner(cut=0), Manner(lie=-5000)],
    ids=["500", "cuts-at-once", "never-gives-the-end"],
)
def test_five_failures_are_enough(client: httpx.Client, tmp_path: Path, manner: Manner) -> None:
    with (
        FileServer(FILES, manner) as server,
        pytest.raises(SourceUnreachable, match="cannot be reached") as caught,
    ):
        fetch(client, wish(tmp_path, f"{server.url}"))
    assert "network" in (caught.value.hint or "")


# kills and the disk

CHILD = """
import sys
from pathlib import Path
from deployer.fetch import Web
from deployer.fetch.parts import fetch_all
from deployer.fetch.wanted import Address, Wanted, Ways
from deployer.progress import Silent
url, dest, sha256, size, part, span = sys.argv[1:]
wanted = Wanted("large", (Address(url),), Path(dest), int(size), sha256)
with Web().client() as client:
    fetch_all(client, [wanted], progress=Silent(), done=lambda one, sha256: print(sha256),
              ways=Ways(4, int(part), int(span), int(span)))
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_no_more_than_the_parts_under_way(
    client: httpx.Client, tmp_path: Path, server: FileServer, seed: int
) -> None:
    dice, wanted = random.Random(seed), wish(tmp_path, server)
    server.manner.pause = 0.02
    kills = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, wanted.addresses[0].url, str(wanted.path), str(wanted.sha256),
             str(wanted.size), str(WAYS.part), str(WAYS.span)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        moment = server.sent + dice.randrange(len(LARGE) // 2)
        wait_until(lambda child=child, moment=moment: child.poll() is not None or server.sent > moment)
        child.send_signal(signal.SIGKILL)
        output, _ = child.communicate()
        if child.returncode == 0:
            assert output.decode().strip() == wanted.sha256
            break
        kills += 1
        server.manner.pause = 0.02 if kills < 4 else 0
    assert wanted.path.read_bytes() == LARGE
    assert names(tmp_path) == ["large"]
    sent_ahead = 4 << 20  # what the server wrote into sockets that nobody read any more
    assert server.sent <= len(LARGE) + kills * (WAYS.connections * WAYS.part + sent_ahead)


def half(client: httpx.Client, server: FileServer, wanted: Wanted) -> int:
    """Fetches about half of it; bytes that are in whole parts."""
    server.manner.statuses = [0] * 8 + [404] * WAYS.connections
    with pytest.raises(SourceUnreachable):
        fetch(client, wanted)
    server.manner.statuses = []
    journal = wanted.path.with_name("large.parts").read_text().splitlines()
    return (len(journal) - 1) * WAYS.part


def test_only_the_rest_is_asked_for(client: httpx.Client, tmp_path: Path, server: FileServer) -> None:
    wanted, watcher = wish(tmp_path, server), Watcher()
    there, before = half(client, server, wanted), len(server.seen)
    fetch(client, wanted, watcher=watcher)
    spans = [seen.range.removeprefix("bytes=").split("-") for seen in server.seen[before:] if seen.range]
    assert sum(int(last) - int(first) + 1 for first, last in spans) == len(LARGE) - there
    assert "were here already" in watcher.said[0]
    assert wanted.path.read_bytes() == LARGE


@pytest.mark.parametrize("where", ["data", "journal", "short", "no-data", "other-part"])
def test_what_the_disk_lost_is_fetched_again(
    client: httpx.Client, tmp_path: Path, server: FileServer, where: str
) -> None:
    wanted = wish(tmp_path, server)
    half(client, server, wanted)
    journal = wanted.path.with_name("large.parts")
    if where == "data":
        with wanted.path.open("r+b") as file:
            file.seek(1000)
            file.write(b"torn")
    elif where == "journal":
        journal.write_bytes(journal.read_bytes()[:-3] + b"\xff\x00")
    elif where == "short":
        with wanted.path.open("r+b") as file:
            file.truncate(20_000)
    elif where == "no-data":
        wanted.path.unlink()
    else:
        journal.write_text(journal.read_text().replace(str(WAYS.part), "4096", 1))
    fetch(client, wanted)
    assert wanted.path.read_bytes() == LARGE


def test_a_disk_that_changes_bytes_while_others_come(
    client: httpx.Client, tmp_path: Path, server: FileServer
) -> None:
    wanted = wish(tmp_path, server)
    half(client, server, wanted)

    class Vandal(Watcher):
        def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
            if done == total and not self.last:
                with wanted.path.open("r+b") as file:  # after all came and before the whole is judged
                    file.seek(WAYS.part * 60)
                    file.write(b"rot")
            super().amount(title, done, total, unit)

    server.manner.wrong = [len(LARGE) - 1]
    fetch(client, wanted, watcher=Vandal())
    assert wanted.path.read_bytes() == LARGE


def test_the_token_is_in_no_message(client: httpx.Client, tmp_path: Path) -> None:
    address = Address(f"http://user:word@127.0.0.1:{unused_port()}/large?key=secret", {"Authorization": "hf_1"})
    assert "secret" not in address.public
    assert "word" not in address.public
    assert "hf_1" not in repr(address)


def test_a_web_has_room_for_mirrors() -> None:
    assert Web(mirrors=("http://a", "http://b")).mirrors == ("http://a", "http://b")
