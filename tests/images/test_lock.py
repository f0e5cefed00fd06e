"""Locks: read, layered, compared, and made by the real uv from a local index."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import ssl
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer import resources
from deployer.errors import BuildError, HashMismatch
from deployer.fetch import Web
from deployer.home import Home
from deployer.images import lock
from deployer.images.lock import About, Change, Pin, Resolver
from tests.servers import unused_port
from tests.wheels import Wheel, WheelIndex, uv_wheel

LOCKS = sorted(resources.folder("images").glob("*/requirements*.txt"))

digests = st.integers(0, 255).map("sha256:{:064x}".format)
pins = st.builds(
    Pin,
    st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,2}", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(rc1|\.post2|\+cpu)?", fullmatch=True),
    st.lists(digests, min_size=1, max_size=3, unique=True).map(tuple),
    st.sampled_from([None, "sys_platform == 'win32'", "python_full_version < '3.12'"]),
)
locks = st.lists(pins, max_size=6, unique_by=lambda pin: pin.name).map(
    lambda found: tuple(sorted(found, key=lambda pin: pin.name))
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, the servers of the tests are reached directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned uv."""
    wheel, sha256 = uv_wheel()
    return lock.uv_binary(wheel, tmp_path_factory.mktemp("uv"), sha256=sha256)


@pytest.fixture
def index() -> Iterator[WheelIndex]:
    """The packages of a small world: `engine` on `torch` on `maths`."""
    with WheelIndex(
        Wheel("maths", "1.0", headers=["License: MIT"]),
        Wheel("maths", "1.5", headers=["License-Expression: MIT"]),
        Wheel("maths", "2.0", headers=["License-Expression: Apache-2.0"], padding=1000),
        Wheel("torch", "2.13.0", ["maths>=1.0"], tag="cp311-cp311-manylinux_2_28_x86_64"),
        Wheel("torch", "2.13.0", ["maths>=1.0"], tag="cp312-cp312-manylinux_2_28_x86_64"),
        Wheel("engine", "5.0", ["torch>=2", "tokens"], headers=["Classifier: License :: OSI Approved :: X"]),
        Wheel("tokens", "0.1", ["maths<2", "colour; sys_platform == 'win32'"]),
        Wheel("colour", "3.0"),
        Wheel("windows", "1.0", tag="py3-none-win_amd64"),
        Wheel("needy", "1.0", ["absent>=3"]),
    ) as made:
        yield made


@pytest.fixture
def resolver(uv: Path, tmp_path: Path, index: WheelIndex) -> Resolver:
    return Resolver(uv, Home(tmp_path / "home"), Web(index=index.index))


def pin(name: str, version: str = "1.0", *marks: str, marker: str | None = None) -> Pin:
    return Pin(name, version, tuple(f"sha256:{mark}" for mark in marks or ("0",)), marker)


def versions(found: tuple[Pin, ...]) -> dict[str, str]:
    return {pin.name: pin.version for pin in found}


# ------------------------------------------------------------------------------------------------- read and write


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_shipped_locks_are_read_and_written_to_the_byte(path: Path) -> None:
    found = lock.parse(path.read_text())
    assert found
    assert lock.render(found) == path.read_text()


@given(locks)
def test_what_is_written_is_read_again(found: tuple[Pin, ...]) -> None:
    assert lock.parse(lock.render(found)) == found


def test_other_ways_to_write_a_lock() -> None:
    text = (
        "# made by hand\n\n"
        'Some_Package[extra] == 1.0 ; python_version < "4" \\\r\n    --hash=sha256:a \\\r\n    --hash sha256:b\n'
        "    # via other\n"
        "other==2 --hash=sha256:c  # why\n"
    )
    assert lock.parse(text) == (
        Pin("some-package", "1.0", ("sha256:a", "sha256:b"), 'python_version < "4"'),
        Pin("other", "2", ("sha256:c",)),
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("six", "leaves six open"),
        ("six==1.0", "leaves six open"),
        ("six>=1.0 --hash=sha256:a", "leaves six open"),
        ("six==1.* --hash=sha256:a", "leaves six open"),
        ("six==1.0,>0 --hash=sha256:a", "leaves six open"),
        ("six @ https://example.com/six.whl --hash=sha256:a", "leaves six open"),
        ("--index-url https://example.com", "no pin"),
        ("six==1 --hash=sha256:a\nSIX==1 --hash=sha256:a", "six twice"),
    ],
)
def test_a_lock_that_is_none(line: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        lock.parse(line)


# ------------------------------------------------------------------------------------------------- layers


@given(locks, st.data())
def test_a_layer_adds_what_the_one_below_lacks(found: tuple[Pin, ...], data: st.DataObject) -> None:
    below = tuple(pin for pin in found if data.draw(st.booleans()))
    added = lock.subtract(found, below)
    assert not {p.name for p in added} & {p.name for p in below}
    assert sorted((*added, *below), key=lambda pin: pin.name) == list(found)


def test_a_layer_does_not_change_the_one_below() -> None:
    with pytest.raises(BuildError, match=r"numpy is 1\.0 in the layer below and 2\.0 above") as caught:
        lock.subtract([pin("six"), pin("numpy", "2.0")], [pin("numpy", "1.0")])
    assert "requirements.in" in (caught.value.hint or "")


# ------------------------------------------------------------------------------------------------- differences


@given(locks, locks)
def test_a_difference_is_of_what_differs(old: tuple[Pin, ...], new: tuple[Pin, ...]) -> None:
    asked = []

    def about(pin: Pin) -> About:
        asked.append(pin)
        return About(1)

    assert lock.difference(old, old, about) == ()
    found = lock.difference(old, new, about)
    there, back = {p.name: p for p in old}, {p.name: p for p in new}
    for change in found:
        assert there.get(change.package) != back.get(change.package)
    same = {p.name for p in old if p in new}
    assert {c.package for c in found} == {*there, *back} - same
    assert not {p.name for p in asked} & same
    turned = lock.difference(new, old, lambda _: About())
    assert [(c.package, c.new, c.old) for c in turned] == [(c.package, c.old, c.new) for c in found]


def test_a_difference_for_people() -> None:
    told = {
        ("torch", "2.10"): About(900, "BSD"),
        ("torch", "2.13.0"): About(526_555_154, "Apache-2.0"),
        ("fresh", "1.0"): About(5_290, "MIT"),
        ("dark", "1.0"): About(),
        ("dark", "2.0"): About(None, None),
    }
    old = [
        pin("torch", "2.10"),
        pin("gone"),
        pin("more", "1.0", "a"),
        pin("other", "1.0", "a"),
        pin("dark"),
        pin("x"),
    ]
    new = [
        *(pin("torch", "2.13.0"), pin("fresh"), pin("more", "1.0", "b", "a"), pin("other", "1.0", "b")),
        *(pin("dark", "2.0"), pin("x")),
    ]
    found = lock.difference(old, new, lambda pin: told[pin.name, pin.version])
    assert found[-1] == Change("torch", "2.10", "2.13.0", 526_555_154, "BSD", "Apache-2.0")
    assert lock.table(found) == (
        "package  old   new     download  licence\n"
        "dark     1.0   2.0     unknown   unknown\n"
        "fresh    -     1.0     5.29 kB   MIT\n"
        "gone     1.0   -       -         -\n"
        "more     1.0   1.0     -         more files\n"
        "other    1.0   1.0     -         other files\n"
        "torch    2.10  2.13.0  527 MB    BSD → Apache-2.0\n"
        "2 changed, 1 new, 1 gone, 2 relocked; 527 MB to download\n"
    )
    assert lock.table(()) == "nothing differs\n"


def test_the_order_of_hashes_is_no_difference() -> None:
    assert lock.difference([pin("a", "1.0", "x", "y")], [pin("a", "1.0", "y", "x")], lambda _: About()) == ()


def locked(index: WheelIndex, name: str, version: str) -> Pin:
    hashes = tuple(f"sha256:{w.sha256}" for w in index.wheels if (w.name, w.version) == (name, version))
    return Pin(name, version, hashes)


def told(index: WheelIndex, home: Path, one: Pin, web: Web | None = None, **more: object) -> About:
    resolver = Resolver(Path("uv"), Home(home), web or Web(index=index.index), **more)  # type: ignore[arg-type]
    with resolver.web.client() as client:
        return lock.describe(client, resolver)(one)


def test_size_and_licence_come_from_the_index(index: WheelIndex, tmp_path: Path) -> None:
    wheel = next(w for w in index.wheels if (w.name, w.version) == ("maths", "2.0"))
    assert told(index, tmp_path, locked(index, "maths", "2.0")) == About(len(wheel.content), "Apache-2.0")
    index.told = False  # then the answer to the first range has the size
    assert told(index, tmp_path, locked(index, "maths", "2.0")) == About(len(wheel.content), "Apache-2.0")
    assert told(index, tmp_path, locked(index, "engine", "5.0")).licence == "X"


def test_the_size_is_that_of_the_file_for_this_python(index: WheelIndex, tmp_path: Path) -> None:
    for wheel in index.wheels:
        if wheel.name == "torch":
            wheel.padding = 5000 if "cp312" in wheel.tag else 100
            wheel.__post_init__()
    small = next(w for w in index.wheels if "cp311" in w.tag)
    assert told(index, tmp_path, locked(index, "torch", "2.13.0")).size == len(small.content)


def test_what_cannot_be_told_is_unknown_and_no_failure(index: WheelIndex, tmp_path: Path) -> None:
    good = locked(index, "maths", "2.0")
    assert told(index, tmp_path, pin("maths", "2.0", "00")) == About(), "not the locked file"
    assert told(index, tmp_path, pin("absent")) == About()
    nowhere = Web(index=f"http://127.0.0.1:{unused_port()}/simple")
    assert told(index, tmp_path, good, nowhere) == About()
    index.ranges = False
    assert told(index, tmp_path, good) == About(len(index.wheels[2].content), None)


def test_more_places_to_look(index: WheelIndex, tmp_path: Path) -> None:
    private = Wheel("private", "1.0", headers=["License: ours"])
    one = Pin("private", "1.0", (f"sha256:{private.sha256}",))
    with WheelIndex(private) as other:
        assert told(index, tmp_path, one, extra_index=(other.index,)).licence == "ours"
    private.save(tmp_path / "wheels")
    web = Web(index=index.index, wheelhouse=tmp_path / "wheels")
    assert told(index, tmp_path, one, web, no_index=True) == About(len(private.content), "ours")


# ------------------------------------------------------------------------------------------------- uv's words

# Each is what uv 0.13.9 writes, with names changed.
UNREACHABLE = """error: Failed to fetch: http://me:secret@127.0.0.1:9/simple/six/
  cause: error sending request for url (http://me:secret@127.0.0.1:9/simple/six/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
CERTIFICATE = """error: Failed to fetch: https://127.0.0.1:9/simple/six/
  cause: error sending request for url (https://127.0.0.1:9/simple/six/)
  cause: client error (Connect)
  cause: invalid peer certificate: UnknownIssuer
"""
UNKNOWN = """error: No solution found when resolving dependencies
  cause: Because no-such was not found in the package registry and you require no-such==1, we can conclude that your requirements are unsatisfiable.
"""  # noqa: E501
NO_VERSION = """error: No solution found when resolving dependencies
  cause: Because there is no version of six==99 and you require six==99, we can conclude that your requirements are unsatisfiable.
"""  # noqa: E501
SOURCE_ONLY = """error: No solution found when resolving dependencies
  cause: Because llama-cpp-python==0.3.36 has no usable wheels and you require llama-cpp-python==0.3.36, we can conclude that your requirements are unsatisfiable.
"""  # noqa: E501
CONFLICT = """error: No solution found when resolving dependencies
  cause: Because torch==2.13.0 depends on nvidia-cudnn-cu13{sys_platform == 'linux'}==9.20.0.48 and you require torch==2.13.0, we can conclude that you require nvidia-cudnn-cu13==9.20.0.48.
         And because you require nvidia-cudnn-cu13==9.24.0.43, we can conclude that your requirements are unsatisfiable.
"""  # noqa: E501
FOLDER = "error: Failed to read `--find-links` directory: /nowhere\n  cause: No such file or directory (os error 2)\n"


@pytest.mark.parametrize(
    ("said", "cause", "hint"),
    [
        (UNREACHABLE, "the package index cannot be reached", "--index-url"),
        (CERTIFICATE, "certificate of the package index is not trusted", "--ca-cert"),
        (UNKNOWN, "the index has no package no-such", "--index-url"),
        (NO_VERSION, "the index has no six==99", "--index-url"),
        (SOURCE_ONLY, "llama-cpp-python==0.3.36 has no wheel", "another version"),
        (CONFLICT, "exclude each other", "loosen"),
        (FOLDER, "the wheelhouse cannot be read", "--wheelhouse"),
        ("error: something new\n", "uv failed", ""),
    ],
)
def test_what_uv_says_in_plain_words(said: str, cause: str, hint: str) -> None:
    error = lock.failure(said)
    assert cause in error.message
    assert hint in (error.hint or "")
    assert error.evidence[0].startswith("error: ")
    assert "secret" not in " ".join(error.evidence)


# ------------------------------------------------------------------------------------------------- the program


def made_uv(path: Path, content: bytes, recorded: bytes) -> str:
    """A wheel like uv's, and its SHA-256."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded).digest()).decode().rstrip("=")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("uv/__init__.py", "")
        archive.writestr("uv-1.0.data/scripts/uv", content)
        archive.writestr(
            "uv-1.0.dist-info/RECORD", f"uv-1.0.data/scripts/uv,sha256={digest},{len(content)}\n"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_program_comes_out_of_its_wheel_whole_or_not(tmp_path: Path) -> None:
    script = b"#!/bin/sh\necho $1\n"
    sha256 = made_uv(tmp_path / "uv.whl", script, script)
    program = lock.uv_binary(tmp_path / "uv.whl", tmp_path / "bin", sha256=sha256)
    assert subprocess.run([program, "hello"], capture_output=True, text=True, check=True).stdout == "hello\n"
    before = program.stat()
    assert lock.uv_binary(tmp_path / "uv.whl", tmp_path / "bin", sha256=sha256) == program
    assert program.stat() == before, "it is right and stays"
    program.write_bytes(b"half")
    lock.uv_binary(tmp_path / "uv.whl", tmp_path / "bin", sha256=sha256)
    assert program.read_bytes() == script
    assert os.access(program, os.X_OK)


def test_a_wrong_program_is_not_used(tmp_path: Path) -> None:
    made_uv(tmp_path / "uv.whl", b"x", b"x")
    with pytest.raises(HashMismatch, match="not the pinned one"):
        lock.uv_binary(tmp_path / "uv.whl", tmp_path / "bin", sha256="00")
    sha256 = made_uv(tmp_path / "uv.whl", b"evil", b"good")
    with pytest.raises(HashMismatch, match="RECORD"):
        lock.uv_binary(tmp_path / "uv.whl", tmp_path / "bin", sha256=sha256)
    assert not (tmp_path / "bin/uv").exists()


# ------------------------------------------------------------------------------------------------- with the real uv


@pytest.mark.slow
def test_layers_are_locked_one_on_the_other(resolver: Resolver, index: WheelIndex) -> None:
    alone = lock.resolve("torch==2.13.0\n", resolver)
    assert versions(alone) == {"maths": "2.0", "torch": "2.13.0"}
    with pytest.raises(BuildError, match="exclude each other") as caught:
        lock.resolve("engine\n", resolver, constraints=alone)
    assert "maths" in " ".join(caught.value.evidence)
    below = lock.resolve("torch==2.13.0\nmaths<2\n", resolver)
    above = lock.resolve("engine\n", resolver, constraints=below)
    assert versions(above) == {"engine": "5.0", "maths": "1.5", "tokens": "0.1", "torch": "2.13.0"}
    assert versions(lock.subtract(above, below)) == {"engine": "5.0", "tokens": "0.1"}
    for one in above:
        assert {*one.hashes} == {*locked(index, one.name, one.version).hashes}
        assert one.marker is None
    assert not list((resolver.home.root / "tmp").iterdir())


@pytest.mark.slow
def test_a_lock_for_every_platform_has_markers(resolver: Resolver) -> None:
    everywhere = Resolver(resolver.uv, resolver.home, resolver.web, platform=None)
    found = {pin.name: pin for pin in lock.resolve("tokens\n", everywhere)}
    assert found["colour"].marker == "sys_platform == 'win32'"
    assert found["tokens"].marker is None


@pytest.mark.slow
def test_what_was_locked_stays_when_it_is_preferred(resolver: Resolver) -> None:
    old = lock.resolve("torch==2.13.0\nmaths==1.5\n", resolver)
    assert versions(lock.resolve("torch==2.13.0\n", resolver, prefer=lock.render(old)))["maths"] == "1.5"
    assert versions(lock.resolve("torch==2.13.0\n", resolver, overrides=["maths==1.0"]))["maths"] == "1.0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "cause"),
    [
        ("maths==9", "the index has no maths==9"),
        ("maths>=9", "the index has only maths<=2.0"),
        ("maths==1.0\nmaths==2.0", "exclude each other"),
        ("unheard-of", "the index has no package unheard-of"),
        ("needy", "the index has no package absent"),
        ("windows", "windows==1.0 has no wheel for this Python and platform"),
    ],
)
def test_what_cannot_be_locked_is_said(resolver: Resolver, wanted: str, cause: str) -> None:
    with pytest.raises(BuildError) as caught:
        lock.resolve(wanted + "\n", resolver)
    assert cause in caught.value.message
    assert caught.value.evidence


@pytest.mark.slow
def test_an_index_that_cannot_be_reached(resolver: Resolver) -> None:
    nowhere = Web(index=f"http://127.0.0.1:{unused_port()}/simple")
    quick = {"UV_HTTP_RETRIES": "0"}
    with pytest.raises(BuildError, match="the package index cannot be reached"):
        lock.resolve("six\n", Resolver(resolver.uv, resolver.home, nowhere, environment=quick))


@pytest.mark.slow
def test_a_password_opens_the_index_and_is_not_shown(resolver: Resolver, index: WheelIndex) -> None:
    index.password = base64.b64encode(b"me:secret").decode()
    with pytest.raises(BuildError, match="refuses") as caught:
        lock.resolve("maths\n", resolver)
    right = Web(index=index.index.replace("//", "//me:secret@"))
    assert versions(lock.resolve("maths\n", Resolver(resolver.uv, resolver.home, right))) == {"maths": "2.0"}
    wrong = Web(index=index.index.replace("//", "//me:wrong-one@"))
    with pytest.raises(BuildError, match="refuses") as caught:
        lock.resolve("maths\n", Resolver(resolver.uv, resolver.home, wrong))
    assert "wrong-one" not in " ".join([caught.value.message, *caught.value.evidence])


@pytest.mark.slow
def test_a_proxy_is_asked_for_everything(resolver: Resolver, index: WheelIndex) -> None:
    behind = Web(
        index="http://packages.example/simple", proxy=index.url
    )  # the server answers as a proxy would
    found = lock.resolve("maths\n", Resolver(resolver.uv, resolver.home, behind))
    assert versions(found) == {"maths": "2.0"}
    with behind.client() as client:
        told = lock.describe(client, Resolver(resolver.uv, resolver.home, behind))
        assert told(found[0]).licence == "Apache-2.0"
    assert {seen.path.split("/")[2] for seen in index.seen} == {"packages.example"}


@pytest.mark.slow
def test_a_persons_own_settings_of_uv_change_nothing(
    resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config/uv").mkdir(parents=True)
    (tmp_path / "config/uv/uv.toml").write_text('resolution = "lowest"\n')
    (tmp_path / "constraints").write_text("maths==1.0\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UV_CONSTRAINT", str(tmp_path / "constraints"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_RESOLUTION", "lowest")
    assert versions(lock.resolve("maths\n", resolver)) == {"maths": "2.0"}


@pytest.mark.slow
def test_a_wheelhouse_needs_no_index(resolver: Resolver, index: WheelIndex, tmp_path: Path) -> None:
    for wheel in index.wheels[:4]:
        wheel.save(tmp_path / "wheels")
    web = Web(index="http://127.0.0.1:9/simple", wheelhouse=tmp_path / "wheels")
    alone = Resolver(resolver.uv, resolver.home, web, no_index=True)
    found = lock.resolve("torch==2.13.0\n", alone)
    assert versions(found) == {"maths": "2.0", "torch": "2.13.0"}
    assert found[0].hashes == locked(index, "maths", "2.0").hashes
    with pytest.raises(BuildError, match="the index has no package tokens"):
        lock.resolve("tokens\n", alone)


@pytest.mark.slow
def test_the_best_version_of_all_indexes_is_taken(resolver: Resolver, index: WheelIndex) -> None:
    with WheelIndex(Wheel("torch", "2.13.0+cpu", ["maths"]), Wheel("maths", "0.1")) as other:
        both = Resolver(resolver.uv, resolver.home, resolver.web, extra_index=(other.index,))
        assert versions(lock.resolve("torch==2.13.0\n", both)) == {"maths": "2.0", "torch": "2.13.0+cpu"}


@pytest.fixture
def certificate(index: WheelIndex, tmp_path: Path) -> Path:
    """Of the index, which then speaks TLS; nobody else has signed it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    index._http.socket = context.wrap_socket(index._http.socket, server_side=True)
    index.url = index.url.replace("http:", "https:")
    return certificate


@pytest.mark.slow
def test_a_companys_certificate(resolver: Resolver, index: WheelIndex, certificate: Path) -> None:
    with pytest.raises(BuildError, match="certificate of the package index is not trusted") as caught:
        lock.resolve("maths\n", Resolver(resolver.uv, resolver.home, Web(index=index.index)))
    assert "--ca-cert" in (caught.value.hint or "")
    trusting = Web(index=index.index, ca=certificate)
    assert versions(lock.resolve("maths\n", Resolver(resolver.uv, resolver.home, trusting))) == {
        "maths": "2.0"
    }
    with trusting.client() as client:
        found = lock.describe(client, Resolver(resolver.uv, resolver.home, trusting))
        assert found(locked(index, "maths", "2.0")).licence == "Apache-2.0"
