from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployer.errors import Busy
from deployer.home import Home, read_json, write_json, write_whole

HOLD = """
import sys
from pathlib import Path
from deployer.home import Home
with Home(Path(sys.argv[1])).lock("model"):
    print("held", flush=True)
    sys.stdin.read()
"""
WRITE = """
import itertools, sys
from pathlib import Path
from deployer.home import write_whole
for letter in itertools.cycle(b"ab"):
    write_whole(Path(sys.argv[1]), bytes([letter]) * (1 << 20))
    print("written", flush=True)
"""
SCRATCH = """
import os, sys
from pathlib import Path
from deployer.home import Home
with Home(Path(sys.argv[1])).scratch("build") as folder:
    (folder / "half").write_text("x")
    os._exit(9)
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_lock_that_another_process_holds_is_busy_and_names_it(home: Home) -> None:
    holder = start(HOLD, home.root)
    try:
        assert first_line(holder) == "held"
        with pytest.raises(Busy, match=rf"pid {holder.pid}.* works on `model`"), home.lock("model"):
            pass
        with home.lock("another"):
            pass
    finally:
        end(holder)


@pytest.mark.timeout(30)
def test_waiting_is_told_who_holds_the_lock_and_then_gets_it(home: Home) -> None:
    holder = start(HOLD, home.root)
    said: list[str] = []

    def waiting(who: str) -> None:
        said.append(who)
        assert holder.stdin
        holder.stdin.close()

    try:
        assert first_line(holder) == "held"
        with home.lock("model", waiting=waiting):
            assert holder.wait(10) == 0
        assert len(said) == 1
        assert f"pid {holder.pid}" in said[0]
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout
        holder.stdout.close()


def test_a_holder_that_is_killed_leaves_the_lock_free(home: Home) -> None:
    holder = start(HOLD, home.root)
    assert first_line(holder) == "held"
    end(holder)
    with home.lock("model"):
        pass


def test_a_lock_is_free_after_an_error_and_a_stranger_finds_no_stale_name(home: Home) -> None:
    with pytest.raises(RuntimeError), home.lock("model"):
        raise RuntimeError
    assert (home.root / "locks/model.lock").read_text() == ""
    with home.lock("model"):
        assert f"pid {os.getpid()}" in (home.root / "locks/model.lock").read_text()


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "value"
    for delay in (0.0, 0.003, 0.011):
        writer = start(WRITE, path)
        assert first_line(writer) == "written"
        time.sleep(delay)
        end(writer)
        content = path.read_bytes()
        assert content in (b"a" * (1 << 20), b"b" * (1 << 20))


def test_a_write_that_fails_leaves_nothing_aside(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep/key", b"sk", 0o600)
    assert stat.S_IMODE((tmp_path / "deep/key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["key"]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff\xfe"], ids=["missing", "empty", "half", "not text"]
)
def test_what_is_not_json_reads_as_nothing(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None


def test_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"é": [1, None]})
    assert read_json(tmp_path / "value.json") == {"é": [1, None]}


def test_scratch_is_gone_afterwards_and_private_before(home: Home) -> None:
    with pytest.raises(RuntimeError), home.scratch("build") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        raise RuntimeError
    assert not folder.exists()


def test_sweep_removes_what_a_dead_process_left_and_nothing_else(home: Home) -> None:
    dead = start(SCRATCH, home.root)
    dead.communicate()
    assert dead.returncode == 9
    left = list((home.root / "tmp").iterdir())
    assert len(left) == 1
    (home.root / "tmp/my-notes").mkdir()
    with home.scratch("mine") as mine:
        home.sweep()
        assert not left[0].exists()
        assert mine.exists()
        assert (home.root / "tmp/my-notes").exists()


def test_sweeping_a_home_that_is_not_there_makes_none(home: Home) -> None:
    home.sweep()
    assert not home.root.exists()
