"""Wheels on an index: what is listed, which one is taken, and members read by ranges."""

from __future__ import annotations

import io
import platform
import random
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import sys_tags

from deployer.errors import SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.wheel import Listed, Ranges, choose, licence, listing, local, metadata, opened, ranks
from tests.servers import JSON_INDEX, Handler, Server, unused_port
from tests.wheels import Wheel, WheelIndex

LINUX = "x86_64-manylinux_2_28"
BIG = Wheel("big", "1.0", ["six>=1"], ["License: MIT"], padding=3_000_000)
CONTENT = random.Random(2).randbytes(300_001)

kinds = pytest.mark.parametrize("html", [False, True], ids=["json", "html"])


def at(index: WheelIndex, wheel: Wheel, size: int | None = None) -> Listed:
    return Listed(wheel.file, f"{index.url}/files/{wheel.file}", size=size)


@pytest.fixture(scope="module")
def far() -> Iterator[Ranges]:
    """CONTENT behind a server with ranges."""
    wheel = Wheel("x", "1")
    wheel.content = CONTENT
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with WheelIndex(wheel) as index, Web().client() as client:
            yield Ranges(client, f"{index.url}/files/{wheel.file}")


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.integers(-310_000, 310_000), st.integers(0, 200_000)),
        max_size=6,
    )
)
def test_a_far_file_reads_as_a_near_one(far: Ranges, steps: list[tuple[int, int, int]]) -> None:
    near = io.BytesIO(CONTENT)
    far.seek(0)
    for whence, offset, count in steps:
        start = {0: 0, 1: near.tell(), 2: len(CONTENT)}[whence] + offset
        if start < 0:
            with pytest.raises(OSError, match="before the beginning"):
                far.seek(offset, whence)
            continue
        assert far.seek(offset, whence) == near.seek(offset, whence)
        assert far.read(count) == near.read(count)
        assert far.tell() == near.tell()


@pytest.mark.parametrize("size", [len(BIG.content), None], ids=["size-known", "size-asked"])
def test_only_what_is_read_travels(client: httpx.Client, size: int | None) -> None:
    with WheelIndex(BIG) as index:
        with opened(client, at(index, BIG, size)) as wheel:
            assert metadata(wheel)["Name"] == "big"
        assert index.sent < len(BIG.content) / 10
        assert len(index.seen) == (1 if size else 2), "the end of a wheel has all of it"
        assert zipfile.ZipFile(io.BytesIO(BIG.content)).read("big/data") == opened(
            client, at(index, BIG, size)
        ).read("big/data")


def test_a_server_that_sends_more_than_it_was_asked_for(client: httpx.Client) -> None:
    with WheelIndex(BIG) as index:
        index.beyond = True
        with opened(client, at(index, BIG)) as wheel:
            assert metadata(wheel)["Version"] == "1.0"


def test_a_server_without_ranges(client: httpx.Client) -> None:
    with WheelIndex(BIG) as index:
        index.ranges = False
        for size in (None, len(BIG.content)):
            with pytest.raises(OSError, match="answers HTTP 200 to a range"):
                opened(client, at(index, BIG, size))


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (404, b"no", {}),
        (500, b"no", {}),
        (206, b"x", {}),
        (206, b"x", {"Content_Range": "bytes 0-0/*"}),
        (206, b"x", {"Content_Range": "bytes 7-7/100"}),
        (206, b"", {"Content_Range": "bytes 0-0/100"}),
    ],
    ids=["missing", "broken", "no-span", "no-size", "elsewhere", "short"],
)
def test_answers_that_are_no_range(
    client: httpx.Client, status: int, body: bytes, headers: dict[str, str]
) -> None:
    with (
        Server(lambda h: h.whole(status, body, **headers)) as server,
        pytest.raises(OSError, match="http://127"),
    ):
        Ranges(client, f"{server.url}/a.whl")


def test_a_server_that_is_not_there(client: httpx.Client) -> None:
    with pytest.raises(OSError, match="refused"):
        Ranges(client, f"http://127.0.0.1:{unused_port()}/a.whl")


def test_what_is_no_wheel(client: httpx.Client, tmp_path: Path) -> None:
    junk, bare, bad = Wheel("junk", "1"), Wheel("bare", "1"), Wheel("bad", "1", headers=["X: " + "a" * 90])
    junk.content = CONTENT
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/dist-info/METADATA", "")
    bare.content = buffer.getvalue()
    bad.content = bad.content.replace(b"a" * 90, b"b" * 90)
    with WheelIndex(junk, bare, bad) as index:
        with pytest.raises(OSError, match="is not a wheel"):
            opened(client, at(index, junk))
        with opened(client, at(index, bare)) as wheel, pytest.raises(OSError, match="no METADATA"):
            metadata(wheel)
        with opened(client, at(index, bad)) as wheel, pytest.raises(OSError, match="damaged"):
            metadata(wheel)


@kinds
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_a_listing(client: httpx.Client, html: bool, told: bool) -> None:
    wheels = Wheel("a-b", "1.0"), Wheel("a-b", "2.0", yanked=True), Wheel("a-b", "3.0", yanked="it was wrong")
    with WheelIndex(*wheels, html=html, told=told) as index:
        found = listing(client, index.index + "/", "A_b")
        assert [f.name for f in found] == [w.file for w in wheels]
        assert [f.url for f in found] == [f"{index.url}/files/{w.file}" for w in wheels]
        assert [f.sha256 for f in found] == [w.sha256 if told else None for w in wheels]
        assert [f.size for f in found] == [len(w.content) if told and not html else None for w in wheels]
        assert [f.yanked for f in found] == [None, "no reason given", "it was wrong"]
        assert listing(client, index.index, "unknown") == ()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"files": 3}', b'{"files": [{}]}'])
def test_what_is_no_listing(client: httpx.Client, body: bytes) -> None:
    def reply(handler: Handler) -> None:
        handler.whole(200, body, JSON_INDEX)

    with Server(reply) as server, pytest.raises(SourceUnreachable, match="does not speak"):
        listing(client, server.url, "six")


def test_an_index_that_refuses_does_not_tell_the_password(client: httpx.Client) -> None:
    with Server(lambda h: h.whole(403, b"no")) as server:
        index = server.url.replace("//", "//me:secret@")
        with pytest.raises(SourceUnreachable, match="does not answer for six") as caught:
            listing(client, index, "six")
    assert "secret" not in str(caught.value)


def test_a_folder_of_wheels(client: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "with space%20"
    BIG.save(folder)
    (folder / "notes.txt").touch()
    (found,) = local(folder)
    assert (found.name, found.size) == (BIG.file, len(BIG.content))
    with opened(client, found) as wheel:
        assert metadata(wheel)["License"] == "MIT"
    assert local(None) == ()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: other"], "MIT OR Apache-2.0"),
        (["License: BSD-3-Clause", "Classifier: License :: OSI Approved :: BSD License"], "BSD-3-Clause"),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], "MIT License"),
        (
            ["Classifier: License :: OSI Approved :: A", "Classifier: License :: B", "Classifier: X :: Y"],
            "A, B",
        ),
        (["License: Copyright me", "        All rights", "        are mine."], "Copyright me"),
        (["License: The text", "        of it", "Classifier: License :: Free"], "Free"),
        (["License: UNKNOWN"], None),
        ([], None),
    ],
)
def test_the_licence_that_metadata_names(lines: list[str], said: str | None) -> None:
    assert licence(message_from_string("\n".join(["Name: a", *lines]) + "\n\nbody")) == said


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the tags of manylinux are those of glibc")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the images run CPython")
def test_the_tags_are_those_that_an_installer_would_use_here() -> None:
    libc = platform.libc_ver()[1].replace(".", "_")
    mine = ranks(platform.python_version(), f"{platform.machine()}-manylinux_{libc}")
    assert list(mine) == list(sys_tags())
    assert list(mine.values()) == list(range(len(mine)))


def test_without_a_platform_only_what_runs_everywhere_fits() -> None:
    assert {tag.platform for tag in ranks("3.11", None)} == {"any"}


@pytest.mark.parametrize(
    ("platform", "files", "taken"),
    [
        (LINUX, ["1.0-cp311-cp311-manylinux_2_28_x86_64", "1.0-3-cp311-cp311-manylinux_2_28_x86_64"], 1),
        (LINUX, ["1.0-10-cp311-cp311-manylinux_2_28_x86_64", "1.0-9-cp311-cp311-manylinux_2_28_x86_64"], 0),
        (LINUX, ["1.0-py3-none-any", "1.0-cp311-cp311-manylinux2014_x86_64"], 1),
        (LINUX, ["1.0-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64", "1.0-py2.py3-none-any"], 0),
        (LINUX, ["1.0-cp312-cp312-manylinux_2_28_x86_64", "1.0-cp311-cp311-manylinux_2_34_x86_64"], None),
        (LINUX, ["1.0-cp311-cp311-manylinux_2_28_aarch64", "1.0-cp311-cp311-musllinux_1_2_x86_64"], None),
        (LINUX, ["1.1-py3-none-any", "1.0-py3-none-win_amd64"], None),
        ("aarch64-manylinux_2_28", ["1.0-py3-none-manylinux_2_27_x86_64", "1.0-py3-none-manylinux_2_27_aarch64"], 1),
        (None, ["1.0-py3-none-manylinux_2_27_x86_64", "1.0-py3-none-any"], 1),
    ],
)  # fmt: skip
def test_the_wheel_that_an_installer_takes(platform: str | None, files: list[str], taken: int | None) -> None:
    fits = ranks("3.11", platform)
    listed = [Listed(f"a_b-{name}.whl", f"http://x/{name}") for name in files]
    also = [
        Listed("a-b-1.0.tar.gz", "x"),
        Listed("other-1.0-py3-none-any.whl", "x"),
        Listed("nonsense.whl", "x"),
    ]
    for order in (listed, listed[::-1]):
        assert choose([*also, *order], "a-b", "1.0", fits) == (None if taken is None else listed[taken])
