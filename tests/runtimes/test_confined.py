"""What a program of the embedded runtime may do, asked of the kernel and tried by the program itself."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.home import Home
from deployer.runtimes import Launch, Part, ProcessRuntime
from deployer.runtimes.living import confinement, family, member
from deployer.runtimes.supervisor import landlock
from tests.servers import unused_port, wait_until

TRY = """
import json, os, resource, signal, socket, sys, tempfile, time
outside, port, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
said = {"umask": os.umask(0o077), "core": resource.getrlimit(resource.RLIMIT_CORE), "home": os.environ["HOME"]}
def attempt(name, act):
    try:
        act()
        said[name] = "done"
    except OSError as error:
        said[name] = type(error).__name__
def write(path):
    with open(path, "w") as file:
        file.write("x")
attempt("write outside", lambda: write(outside + "/new"))
attempt("change outside", lambda: os.truncate(outside + "/there", 0))
attempt("remove outside", lambda: os.remove(outside + "/there"))
attempt("write own", lambda: write(tempfile.gettempdir() + "/mine"))
attempt("read outside", lambda: open(outside + "/there").read())
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 5).close())
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)).close())
attempt("signal", lambda: os.kill(victim, signal.SIGTERM))
print("said " + json.dumps(said), flush=True)
time.sleep(600)
"""
# A child that has taken every sign off: another session, an empty environment, its parent gone.
STRAY = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], env={}, start_new_session=True) if len(sys.argv) > 1 else None
if child:
    print("stray", child.pid, flush=True)
    os._exit(0)
subprocess.run([sys.executable, "-c", open("/proc/self/cmdline").read().split(chr(0))[2], "x"])
time.sleep(600)
"""


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ProcessRuntime]:
    made = ProcessRuntime(Home(tmp_path / "home"), os.environ)
    yield made
    made.stop("small")


def part(code: str, *words: str, role: str = "engine") -> Part:
    return Part(role, (sys.executable, "-c", code, *words))


def said(runtime: ProcessRuntime) -> list[str]:
    return [line for line in runtime.logs("small") if line.startswith("said ")]


@pytest.fixture
def tried(runtime: ProcessRuntime, tmp_path: Path) -> Iterator[list[dict[str, object]]]:
    """What an engine, and a gateway beside it, could do."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as listener, subprocess.Popen(["sleep", "600"]) as victim:
        words = (str(outside), str(listener.getsockname()[1]), str(victim.pid))
        runtime.start(Launch("small", 1, unused_port(), (part(TRY, *words),)))
        wait_until(lambda: len(said(runtime)) == 1)
        engine = json.loads(said(runtime)[0][5:])
        assert (outside / "there").read_text() == "kept" or not landlock()
        runtime.stop("small")
        (outside / "there").write_text("kept")
        idle = part("import time; time.sleep(600)")
        runtime.start(Launch("small", 1, unused_port(), (idle, part(TRY, *words, role="gateway"))))
        wait_until(lambda: len(said(runtime)) == 1)
        yield [engine, json.loads(said(runtime)[0][5:])]
        victim.kill()


@pytest.mark.skipif(landlock() < 6, reason="this kernel has no Landlock of version 6 (Linux 6.12)")
def test_an_engine_writes_in_its_own_folder_alone_and_reaches_nobody(
    tried: list[dict[str, object]], tmp_path: Path
) -> None:
    engine, gateway = tried
    for name in ("write outside", "change outside", "remove outside", "connect", "signal"):
        assert engine[name] == "PermissionError", name
        assert gateway[name] == "done", f"{name}: the gateway needs it, or the trial proves nothing"
    assert [engine[name] for name in ("write own", "read outside", "listen")] == ["done"] * 3
    assert engine["home"] == str(tmp_path / "home/deployments/small/scratch")


def test_files_are_for_this_user_alone_and_nothing_gains_privileges(
    tried: list[dict[str, object]], runtime: ProcessRuntime, tmp_path: Path
) -> None:
    assert [(one["umask"], one["core"]) for one in tried] == [(0o077, [0, 0])] * 2
    members = runtime.members("small")
    assert len(members) == 3
    for one in members:
        assert confinement(one.pid)["NoNewPrivs"] == "1"
    engine, gateway = runtime.about("small")
    assert int(engine.limits["CapEff"], 16) == (1 << 2 if os.geteuid() == 0 else 0), "of root's, reading alone"
    assert (engine.limits["landlock"], gateway.limits["landlock"]) == (str(landlock() or "none"), "none")
    folder = tmp_path / "home/deployments/small"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"log": 0o600, "process.json": 0o600, "scratch": 0o700}


LOOK = """
import os, time
print("said", os.listdir(os.environ["TMPDIR"]), flush=True)
open(os.environ["TMPDIR"] + "/x", "w")
time.sleep(600)
"""


def test_the_scratch_folder_is_new_at_every_start_and_goes_with_it(runtime: ProcessRuntime, tmp_path: Path) -> None:
    for _ in range(2):
        runtime.start(Launch("small", 1, unused_port(), (part(LOOK),)))
        wait_until(lambda: bool(said(runtime)) and (tmp_path / "home/deployments/small/scratch/x").exists())
        assert said(runtime)[0].endswith("[]")
        runtime.stop("small")
        assert not (tmp_path / "home/deployments/small/scratch").exists()


def test_a_child_without_any_sign_is_ended_too(runtime: ProcessRuntime) -> None:
    runtime.start(Launch("small", 1, unused_port(), (part(STRAY),)))
    wait_until(lambda: any(line.startswith("stray ") for line in runtime.logs("small")))
    (pid,) = [int(line.split()[1]) for line in runtime.logs("small") if line.startswith("stray ")]
    stray = member(pid)
    assert stray is not None and stray.state is not None
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    wait_until(lambda: stray in runtime.members("small"))
    runtime.stop("small")
    assert stray.state is None


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        one = member(child.pid)
        assert one is not None and one.state is not None
        # its name may have been read before it became another program; it is the same process
        assert (one.pid, one.started) in [(other.pid, other.started) for other in family([os.getpid()])]
        assert type(one)(one.pid, one.started + 1, one.name).state is None
        child.kill()
        wait_until(lambda: one.state is None)  # a zombie holds nothing
    assert member(child.pid) is None
