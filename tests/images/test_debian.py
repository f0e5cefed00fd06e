"""Debian packages by lock: real .deb files, from a real server, into the first files of an OS base."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer import resources
from deployer.errors import BuildError, HashMismatch
from deployer.fetch import Web
from deployer.home import Home, write_whole
from deployer.images import debian
from deployer.images.debian import Lock, Package
from tests.servers import FileServer, Manner, unused_port

SNAPSHOT = "20261122T043000Z"
LOCKS = sorted(resources.folder("images").glob("*/packages-*.tsv"))
_TYPES = {"dir": tarfile.DIRTYPE, "file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}


def tar(*members: tuple[str, str, str]) -> bytes:
    """A tar of (kind, name, content or target), written as dpkg-deb does: names begin with `./`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for kind, name, what in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = _TYPES[kind], 1_600_000_000, 0o755
            if kind == "file":
                info.size = len(what)
            elif kind in ("link", "hard"):
                info.linkname = what
            out.addfile(info, io.BytesIO(what.encode()) if kind == "file" else None)
    return buffer.getvalue()


def deb(data: bytes, ending: str = ".xz", pack: Callable[[bytes], bytes] = lzma.compress) -> bytes:
    """A binary package (deb(5)): an `ar` archive of its version, its control files and its files."""
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": gzip.compress(b"odd", mtime=0)}
    whole = b"!<arch>\n"
    for name, content in {**parts, f"data.tar{ending}": pack(data)}.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        whole += b"\n" * (len(content) % 2)
    return whole


def save(folder: Path, name: str, content: bytes) -> Path:
    write_whole(folder / name, content)
    return folder / name


def package(file: str, content: bytes, step: str = "image") -> Package:
    name, version = file.split("_")[:2]
    path = f"debian/pool/main/{name[0]}/{name}/{file}"
    return Package(step, name, version, hashlib.sha256(content).hexdigest(), len(content), path)


TOOLS = deb(
    tar(
        ("dir", "./", ""),
        ("dir", "./bin/", ""),
        ("file", "./bin/tool", "tool 1"),
        ("hard", "./bin/same", "./bin/tool"),
        ("link", "./bin/alias", "tool"),
        ("dir", "./lib/", ""),
        ("dir", "./lib/x86_64/", ""),
        ("link", "./lib/x86_64/libc.so", "libc.so.6"),
        ("file", "./lib/x86_64/libc.so.6", "libc"),
        ("link", "./lib64/ld.so", "/lib/x86_64/libc.so.6"),
        ("dir", "./usr/bin/", ""),
        ("file", "./usr/bin/other", "other"),
    )
)
FILES = deb(
    tar(("dir", "./", ""), ("file", "./.hidden", "dot"), ("dir", "./usr/bin/", ""), ("file", "./etc/name", "a\n")),
    ".gz", gzip.compress,
)  # fmt: skip


def test_the_packages_become_one_tree_with_a_merged_usr(tmp_path: Path) -> None:
    debs = [save(tmp_path, "tools_1_amd64.deb", TOOLS), save(tmp_path, "files_1_all.deb", FILES)]
    debian.unpack(debs, tmp_path / "root.tar")
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "root.tar", "-C", root], check=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        assert (root / name).is_symlink() and (root / name).readlink() == Path(f"usr/{name}")
    assert (root / "usr/bin/tool").read_text() == "tool 1" == (root / "bin/alias").read_text()
    assert (root / "usr/bin/same").samefile(root / "usr/bin/tool"), "a hard link stays one"
    assert (root / "usr/bin/alias").readlink() == Path("tool")
    assert (root / "lib/x86_64/libc.so").read_text() == "libc"
    assert (root / "usr/lib64/ld.so").readlink() == Path("/lib/x86_64/libc.so.6")
    assert (root / "usr/bin/other").read_text() == "other" and (root / "etc/name").read_text() == "a\n"
    assert (root / ".hidden").read_text() == "dot"
    with tarfile.open(tmp_path / "root.tar") as archive:
        folders = [member.name for member in archive if member.isdir()]
        assert archive.getmember("usr/bin/same").linkname == "usr/bin/tool"
    assert len(folders) == len(set(folders)) and "" not in folders


def test_the_same_packages_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    here = [save(tmp_path / "a", "tools_1_amd64.deb", TOOLS), save(tmp_path / "b", "files_1_all.deb", FILES)]
    there = [save(tmp_path / "c", "files_1_all.deb", FILES), save(tmp_path / "d", "tools_1_amd64.deb", TOOLS)]
    debian.unpack(here, tmp_path / "one.tar")
    debian.unpack(reversed(there), tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_compressions_that_packages_have(tmp_path: Path) -> None:
    data = tar(("file", "./usr/x", "content"))
    packings: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".gz": gzip.compress, "": bytes}
    if sys.version_info >= (3, 14):
        from compression.zstd import compress

        packings[".zst"] = compress
    for ending, pack in packings.items():
        debian.unpack([save(tmp_path, "x.deb", deb(data, ending, pack))], tmp_path / "root.tar")
        with tarfile.open(tmp_path / "root.tar") as archive:
            file = archive.extractfile("usr/x")
            assert file and file.read() == b"content", ending


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "x.deb is no Debian package", id="empty"),
        pytest.param(b"<html>login first</html>" * 9, "x.deb is no Debian package", id="a page"),
        pytest.param(TOOLS[: TOOLS.index(b"data.tar")], "x.deb is no Debian package", id="cut off"),
        pytest.param(deb(b"no tar at all", ".zzz", bytes), "x.deb cannot be unpacked", id="unknown compression"),
        pytest.param(b"!<arch>\n" + b"x" * 100, "x.deb cannot be unpacked", id="no ar"),
    ],
)
def test_what_is_no_package_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=said):
        debian.unpack([save(tmp_path, "x.deb", content)], tmp_path / "root.tar")



class Watch:
    """What was told of the amounts."""

    def __init__(self) -> None:
        self.amounts: list[tuple[int, int | None]] = []

    def say(self, text: str) -> None:
        raise AssertionError(text)

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        self.amounts.append((done, total))


CONTENTS = {"some_1.0-2+b1~x_amd64.deb": TOOLS, "files_1_all.deb": FILES}
PACKAGES = tuple(package(file, content) for file, content in CONTENTS.items())
LOCK = Lock(SNAPSHOT, (*PACKAGES, package("files_1_all.deb", FILES, "build")))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror at its root, and Debian's snapshot, which is empty, under /snapshot."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer({f"/{p.path}": CONTENTS[p.file] for p in PACKAGES}) as made:
        monkeypatch.setattr(debian, "SNAPSHOT", f"{made.url}/snapshot")
        yield made


def old(package: Package) -> str:
    """Where the snapshot keeps it."""
    return f"/snapshot/debian/{SNAPSHOT}/{package.path.removeprefix('debian/')}"


def fetch(home: Path, mirror: str | None, wheelhouse: Path | None = None, watch: Watch | None = None) -> None:
    web = Web(wheelhouse=wheelhouse)
    found = debian.fetch(LOCK, home=Home(home), web=web, mirror=mirror, progress=watch or Watch(), title="x")
    assert {step: {*files} for step, files in found.items()} == {"image": {*CONTENTS}, "build": {"files_1_all.deb"}}
    assert all(path.read_bytes() == CONTENTS[name] for files in found.values() for name, path in files.items())


def test_each_package_comes_once_and_stays(server: FileServer, tmp_path: Path) -> None:
    watch = Watch()
    for mirror in (server.url + "/", server.url):
        fetch(tmp_path, mirror, watch=watch)
        assert len(server.seen) == 2, "files_1_all.deb is in two steps"
    assert watch.amounts[-1] == (len(TOOLS + FILES), len(TOOLS + FILES))


def test_a_wheelhouse_needs_no_mirror(server: FileServer, tmp_path: Path) -> None:
    for file, content in CONTENTS.items():
        save(tmp_path / "wheels", file, content)
    fetch(tmp_path / "home", server.url, tmp_path / "wheels")
    (tmp_path / "wheels/files_1_all.deb").unlink()
    fetch(tmp_path / "home", server.url, tmp_path / "wheels")
    assert [seen.path.rpartition("/")[2] for seen in server.seen] == ["files_1_all.deb"]


def test_a_wrong_file_in_the_wheelhouse_is_refused(server: FileServer, tmp_path: Path) -> None:
    save(tmp_path / "wheels", "files_1_all.deb", b"other")
    with pytest.raises(HashMismatch, match=r"files_1_all\.deb: wanted sha256") as caught:
        fetch(tmp_path / "home", server.url, tmp_path / "wheels")
    assert caught.value.hint and "wheelhouse" in caught.value.hint


@pytest.mark.parametrize("mirror", [None, b"<html>what you want is not here</html>"], ids=["lost", "changed"])
def test_a_mirror_that_lost_a_file_falls_back_to_the_snapshot(
    mirror: bytes | None, server: FileServer, tmp_path: Path
) -> None:
    server.files[old(PACKAGES[0])] = server.files.pop(f"/{PACKAGES[0].path}")
    if mirror:
        server.files[f"/{PACKAGES[0].path}"] = mirror
    fetch(tmp_path, server.url)
    assert server.asked(old(PACKAGES[0])) and not server.asked(old(PACKAGES[1]))


def test_a_file_that_is_nowhere_asks_for_new_locks(server: FileServer, tmp_path: Path) -> None:
    del server.files[f"/{PACKAGES[0].path}"]
    with pytest.raises(BuildError, match=r"some_1\.0-2\+b1~x_amd64\.deb of the lock is not on") as caught:
        fetch(tmp_path, server.url)
    assert caught.value.hint == "make the locks again: deployer build --lock"


def test_wrong_bytes_are_refused_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    wrong = bytes(len(TOOLS))
    server.files[f"/{PACKAGES[0].path}"] = server.files[old(PACKAGES[0])] = wrong
    with pytest.raises(BuildError, match="wanted sha256"):
        fetch(tmp_path, server.url)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == wrong]


@pytest.mark.parametrize("state", ["closed", "forbidden"])
def test_a_mirror_that_cannot_be_reached(
    state: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts
    server.manner = Manner(status=403)
    mirror = server.url if state == "forbidden" else f"http://127.0.0.1:{unused_port()}"
    with pytest.raises(BuildError, match="cannot be fetched") as caught:
        fetch(tmp_path, mirror)
    assert caught.value.hint and "--apt-mirror URL" in caught.value.hint and "--proxy URL" in caught.value.hint
    assert not any(old(package) == seen.path for seen in server.seen for package in PACKAGES)


words = st.from_regex(r"[a-z0-9][a-z0-9.+~:-]{0,12}", fullmatch=True)
packages = st.builds(
    Package, words, words, words, st.integers(0).map("{:064x}".format), st.integers(0), words.map("pool/{}".format)
)
times = st.datetimes().map(lambda t: t.strftime("%Y%m%dT%H%M%SZ").rjust(16, "0"))


@settings(max_examples=50)
@given(times, st.lists(packages, max_size=4, unique_by=lambda p: (p.step, p.name)))
def test_what_is_written_is_read_again(snapshot: str, found: list[Package]) -> None:
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(debian.write(Lock(snapshot, tuple(found))))
        file.flush()
        read = debian.read(Path(file.name))
    assert read == Lock(snapshot, tuple(sorted(found, key=lambda p: (p.step, p.name))))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_shipped_locks_are_written_to_the_byte(path: Path) -> None:
    assert debian.write(debian.read(path)) == path.read_text()


def test_the_time_of_a_lock_is_in_utc() -> None:
    assert Lock(SNAPSHOT, ()).epoch == 1795321800


ROW = "image\tapt\t2.6\t" + "0" * 64 + "\t10\tdebian/pool/apt.deb\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="not there"),
        pytest.param("", id="empty"),
        pytest.param(ROW, id="no time"),
        pytest.param(f"# snapshot \n{ROW}", id="an empty time"),
        pytest.param(f"# snapshot yesterday\n{ROW}", id="no such time"),
        pytest.param(f"# snapshot {SNAPSHOT}\nimage\tapt\n", id="too few columns"),
        pytest.param(f"# snapshot {SNAPSHOT}\n{ROW.replace('10', 'ten')}", id="no size"),
        pytest.param(f"# snapshot {SNAPSHOT}\n{ROW.replace('debian/pool/', '')}", id="no place"),
    ],
)
def test_what_is_no_lock_is_told(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "lock.tsv").write_text(text)
    with pytest.raises(BuildError, match=r"lock\.tsv is no lock of packages"):
        debian.read(tmp_path / "lock.tsv")
