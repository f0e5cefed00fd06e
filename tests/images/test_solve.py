"""Debian packages chosen anew: what the container is asked, how its answer is read, and what changed."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import BuildError
from deployer.images import solve
from deployer.images.debian import Lock, Package

APT = Package("image", "apt", "2.6.2", "a" * 64, 1373116, "debian/pool/main/a/apt/apt_2.6.2_amd64.deb")
GCC = Package("build", "gcc", "4:12.2.0-3", "b" * 64, 19380, "debian/pool/main/g/gcc/gcc_12.2.0-3_amd64.deb")
BELOW = Package("image", "libc6", "2.36-9+deb12u13", "c" * 64, 1, "debian/pool/l/libc6.deb")


def row(package: Package) -> str:
    """What tools/solve prints."""
    return "\t".join((package.name, package.version, package.sha256, str(package.size), package.path)) + "\n"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` on PATH that gives out the files in `answers/`, or fails with what `stderr` says."""
    folder = tmp_path / "bin"
    (folder / "answers").mkdir(parents=True)
    (folder / "docker").write_text(
        f"""#!{sys.executable} -IS
import pathlib, shutil, sys
here, words = pathlib.Path({str(folder)!r}), sys.argv[1:]
(here / "words").write_text("\\n".join(words))
shutil.copytree(words[-1], here / "context")
shutil.copytree(next(w for w in words if w.startswith("below=")).partition("=")[2], here / "below")
if (here / "stderr").exists():
    sys.exit((here / "stderr").read_text())
[output] = (w for w in words if w.startswith("type=local,dest="))
shutil.copytree(here / "answers", output.partition("dest=")[2])
"""
    )
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def ask(into: Path, **steps: tuple[str, ...]) -> Lock:
    into.mkdir()
    secrets = {"outside": into / "outside"}
    return solve.solve(
        "deployer/debian:12-abc", steps, architecture="arm64", snapshot="20261122T043000Z", below=(BELOW,),
        secrets=secrets, into=into,
    )  # fmt: skip


def test_each_step_is_asked_for_on_its_own(docker: Path, tmp_path: Path) -> None:
    (docker / "answers/image").write_text(row(APT))
    (docker / "answers/build").write_text(row(GCC) + row(APT))
    found = ask(tmp_path / "scratch", image=("essential", "apt"), build=("gcc",))
    again = Package("build", *(getattr(APT, name) for name in ("name", "version", "sha256", "size", "path")))
    assert found == Lock("20261122T043000Z", (APT, GCC, again))
    told = (docker / "context/Dockerfile").read_text()
    assert told.startswith("FROM deployer/debian:12-abc AS solve\n")
    assert "/tools/solve arm64 /below/list essential apt > /solved/image" in told
    assert "/tools/solve arm64 /below/list gcc > /solved/build" in told
    assert (docker / "below/list").read_text() == "libc6=2.36-9+deb12u13\n"
    words = (docker / "words").read_text().splitlines()
    assert words[:2] == ["buildx", "build"] and f"id=outside,src={tmp_path}/scratch/outside" in words
    assert "TIME=20261122T043000Z" in words, "what was chosen yesterday is no answer for today"


def test_why_apt_cannot_choose_is_told(docker: Path, tmp_path: Path) -> None:
    (docker / "stderr").write_text(
        "#5 0.3 Err:1 http://mirror.invalid/debian bookworm InRelease\n"
        "#5 0.3   Could not resolve 'mirror.invalid'\n\n#5 0.4 E: Unable to locate package nothing\n"
    )
    with pytest.raises(BuildError, match="apt cannot choose the packages") as caught:
        ask(tmp_path / "scratch", image=("nothing",))
    assert caught.value.evidence[-1] == "#5 0.4 E: Unable to locate package nothing"
    assert caught.value.hint and "names do not resolve" in caught.value.hint


def test_the_time_is_now_in_utc() -> None:
    before = int(time.time())
    epoch = Lock(solve.now(), ()).epoch
    assert before <= epoch <= int(time.time())


def changed(old: Lock | None, *packages: Package) -> list[tuple[str, str | None, str | None, int | None]]:
    found = solve.difference(old, Lock("20261201T000000Z", packages))
    return [(c.package, c.old, c.new, c.size) for c in found]


def test_what_changed() -> None:
    old = Lock("20261122T043000Z", (APT, GCC))
    assert changed(old, GCC, APT) == [], "neither the time nor the order counts"
    assert changed(None, APT) == [("apt", None, "2.6.2", APT.size)]
    assert changed(old, APT) == [("gcc", GCC.version, None, None)]
    assert changed(old, replace(APT, version="2.6.3"), GCC) == [("apt", "2.6.2", "2.6.3", APT.size)]


def test_a_package_in_two_steps_is_told_once_and_one_that_enters_a_step_is_told() -> None:
    """What is in the lock already for one step may be new for another; the lock must be written then."""
    both = (APT, replace(APT, step="build"))
    assert changed(Lock("20261122T043000Z", both), *(replace(p, version="3") for p in both)) == [
        ("apt", "2.6.2", "3", APT.size)
    ]
    assert changed(Lock("20261122T043000Z", (APT,)), *both) == [("apt", None, "2.6.2", APT.size)]
