"""The embedded runtime with small real programs as parts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deployer.errors import LaunchError
from deployer.home import Home
from deployer.progress import Silent
from deployer.runtimes import Launch, Once, Part, ProcessRuntime
from deployer.runtimes.base import OFFLINE, fill, port_free
from deployer.runtimes.supervisor import GRACE_S, SETTLED_S
from tests.servers import unused_port, wait_until

SERVE = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "\\n".join([*sys.argv[1:], *(f"{k}={v}" for k, v in os.environ.items())]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        print("asked for", self.path, flush=True)
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
SLEEP = "import time; time.sleep(600)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("stubborn", flush=True)
time.sleep(600)
"""
# grandchildren: one in the same group, one that has made itself independent
FAMILY = f"""
import subprocess, sys, time
for alone in (False, True):
    child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=alone)
    print("child", child.pid, flush=True)
print("family", flush=True)
time.sleep(600)
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def runtime(home: Home) -> Iterator[ProcessRuntime]:
    made = ProcessRuntime(home, os.environ)
    yield made
    for unit in made.units():
        made.stop(unit.name)


def launch(*parts: Part, unit: str = "small", generation: int = 1, port: int = 0) -> Launch:
    return Launch(unit, generation, port or unused_port(), parts)


def engine(code: str, *arguments: str, **more: object) -> Part:
    return Part("engine", python(code, *arguments), **more)


def processes(home: Home) -> dict[int, str]:
    """Every live process that was started for a unit of `home`, with its part: read as the kernel tells it."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            entries = (folder / "environ").read_text(errors="replace").split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and any(e.startswith(f"DEPLOYER_UNIT={home.root}:") for e in entries):
            parts = [e.partition("=")[2] for e in entries if e.startswith("DEPLOYER_PART=")]
            found[int(folder.name)] = parts[0]
    return found


def pid_of(home: Home, part: str) -> int:
    (pid,) = [pid for pid, name in processes(home).items() if name == part]
    return pid


def says(runtime: ProcessRuntime, text: str, unit: str = "small") -> Callable[[], bool]:
    return lambda: text in "\n".join(runtime.logs(unit))


def state(runtime: ProcessRuntime, unit: str = "small") -> str | None:
    found = runtime.find(unit)
    return found.state if found else None


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_unit_from_start_to_stop(home: Home, runtime: ProcessRuntime) -> None:
    port = unused_port()
    what = launch(engine(SERVE, str(port)), port=port, generation=7)
    assert runtime.find("small") is None
    runtime.start(what)
    assert state(runtime) == "running", "also before its program is there"
    wait_until(lambda: answers(port))
    assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200

    again = ProcessRuntime(home, {})
    unit = again.find("small")
    assert unit is not None
    assert (unit.name, unit.state, unit.generation, unit.runtime) == ("small", "running", 7, "process")
    assert unit.fingerprint == what.fingerprint
    assert unit.exit is None
    assert again.units() == (unit,)

    again.stop("small")
    assert processes(home) == {}
    assert port_free(port)
    assert runtime.find("small") is None
    assert runtime.units() == ()
    runtime.stop("small")  # a second time is no error


def test_other_homes_are_other_worlds(home: Home, runtime: ProcessRuntime, tmp_path: Path) -> None:
    other_home = Home(tmp_path / "home2")
    other = ProcessRuntime(other_home, os.environ)
    runtime.start(launch(engine(SLEEP)))
    other.start(launch(engine(SLEEP)))
    try:
        wait_until(lambda: len(processes(home)) == len(processes(other_home)) == 2)
        other.stop("small")
        assert state(runtime) == "running"
        assert len(processes(home)) == 2
    finally:
        other.stop("small")


def test_two_units_side_by_side(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(SLEEP), unit="small"))
    runtime.start(launch(engine(SLEEP), unit="small-2"))
    wait_until(lambda: len(processes(home)) == 4)
    assert [unit.name for unit in runtime.units()] == ["small", "small-2"]
    runtime.stop("small")
    assert [(unit.name, unit.state) for unit in runtime.units()] == [("small-2", "running")]
    assert len(processes(home)) == 2


def test_both_parts_get_the_same_port(runtime: ProcessRuntime) -> None:
    public = unused_port()
    runtime.start(
        launch(
            engine(SERVE, "{engine_port}"),
            Part("gateway", python(SERVE, str(public), "http://127.0.0.1:{engine_port}/v1")),
            port=public,
        )
    )
    wait_until(lambda: answers(public))
    upstream = httpx.get(f"http://127.0.0.1:{public}/", trust_env=False).text.splitlines()[1]
    assert upstream.startswith("http://127.0.0.1:")
    inner = int(upstream.split(":")[2].removesuffix("/v1"))
    assert inner not in (0, public)
    wait_until(lambda: answers(inner))
    lines = httpx.get(f"http://127.0.0.1:{inner}/", trust_env=False).text.splitlines()
    assert lines[0] == str(inner)
    assert "DEPLOYER_PART=engine" in lines


def test_only_what_is_meant_for_it_reaches_a_program(home: Home) -> None:
    port = unused_port()
    given = {**os.environ, "HF_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "aws_secret", "LANG": "C.UTF-8"}
    runtime = ProcessRuntime(home, given)
    runtime.start(launch(engine(SERVE, str(port), environment={"HF_HUB_OFFLINE": "1"}), port=port))
    try:
        wait_until(lambda: answers(port))
        lines = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text.splitlines()[1:]
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["PATH"] == os.environ["PATH"]
        assert environment["LANG"] == "C.UTF-8"
        assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        known = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", *OFFLINE}
        assert {k for k in environment if k not in known and not k.startswith("DEPLOYER_")} <= {"LC_CTYPE"}
        assert "secret" not in str(environment)
    finally:
        runtime.stop("small")


def test_what_is_kept_of_a_launch_is_for_its_user_alone(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(SLEEP, environment={"X": "y"})))
    assert (home.deployment("small") / "process.json").stat().st_mode & 0o777 == 0o600


# ends


def test_a_program_that_ends_at_once(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(
        launch(engine("import sys; print('error: no such model', flush=True); sys.exit(3)"),
               Part("gateway", python(SLEEP)))
    )  # fmt: skip
    wait_until(lambda: state(runtime) != "running")
    unit = runtime.find("small")
    assert unit is not None
    assert unit.state == "stopped"
    assert (unit.exit or "").startswith("engine ended with 3 after")
    assert "error: no such model" in list(runtime.logs("small"))
    wait_until(lambda: processes(home) == {})


def test_the_exit_is_told_also_when_another_part_talks_on(runtime: ProcessRuntime) -> None:
    talker = """
import signal, sys, time
def bye(*_):
    print("\\n".join(f"closing connection {n}" for n in range(50)), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("ready", flush=True)
time.sleep(600)
"""
    wait = "import sys, time; time.sleep(1.5); sys.exit(4)"
    runtime.start(launch(engine(wait), Part("gateway", python(talker))))
    wait_until(lambda: state(runtime) == "stopped")
    assert says(runtime, "closing connection 49")()
    unit = runtime.find("small")
    assert unit is not None
    assert (unit.exit or "").startswith("engine ended with 4 after")


def test_a_program_that_is_killed(runtime: ProcessRuntime, home: Home) -> None:
    runtime.start(launch(engine(SLEEP)))
    wait_until(lambda: "engine" in processes(home).values())
    os.kill(pid_of(home, "engine"), signal.SIGKILL)
    wait_until(lambda: state(runtime) == "stopped")
    unit = runtime.find("small")
    assert unit is not None
    assert (unit.exit or "").startswith("engine ended with -9 after")


@pytest.mark.parametrize("first", [True, False], ids=["engine", "gateway"])
def test_a_program_that_does_not_exist(home: Home, runtime: ProcessRuntime, first: bool) -> None:
    missing, fine = ("/nowhere/llama-server",), python(SLEEP)
    runtime.start(
        launch(Part("engine", missing if first else fine), Part("gateway", fine if first else missing))
    )
    wait_until(lambda: state(runtime) == "stopped")
    unit = runtime.find("small")
    assert unit is not None
    assert "cannot be started" in (unit.exit or "")
    assert "/nowhere/llama-server" in (unit.exit or "")
    assert processes(home) == {}


def test_stop_ends_the_whole_family(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(FAMILY)))
    wait_until(says(runtime, "family"))
    assert len(processes(home)) == 4
    start = time.monotonic()
    runtime.stop("small")
    assert processes(home) == {}
    assert time.monotonic() - start < GRACE_S


@pytest.mark.slow
def test_stop_ends_what_does_not_want_to_end(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(STUBBORN)))
    wait_until(says(runtime, "stubborn"))
    start = time.monotonic()
    runtime.stop("small")
    assert GRACE_S - 1 < time.monotonic() - start < GRACE_S + 6
    assert processes(home) == {}


def test_stop_right_after_start(home: Home, runtime: ProcessRuntime) -> None:
    for _ in range(3):
        runtime.start(launch(engine(SLEEP)))
        runtime.stop("small")
        assert processes(home) == {}
        assert runtime.find("small") is None


def test_without_its_supervisor_nothing_goes_on(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(STUBBORN), Part("gateway", python(SLEEP))))
    wait_until(says(runtime, "stubborn"))
    wait_until(lambda: len(processes(home)) == 3)
    os.kill(pid_of(home, "supervisor"), signal.SIGKILL)
    wait_until(lambda: processes(home) == {})
    assert state(runtime) == "stopped"


def test_what_a_dead_supervisor_leaves_is_seen_and_ended(home: Home, runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(FAMILY)))
    wait_until(says(runtime, "family"))
    os.kill(pid_of(home, "supervisor"), signal.SIGKILL)
    wait_until(lambda: len(processes(home)) == 2)  # the grandchildren
    assert state(runtime) == "dead"
    runtime.stop("small")
    assert processes(home) == {}


def test_the_starter_may_end(home: Home, runtime: ProcessRuntime) -> None:
    """A unit outlives the command that started it, also when that one's terminal goes away."""
    code = f"""
import os
from pathlib import Path
from deployer.home import Home
from deployer.runtimes import Launch, Part, ProcessRuntime
part = Part("engine", {python(SLEEP)!r})
ProcessRuntime(Home(Path({str(home.root)!r})), os.environ).start(Launch("small", 1, 1, (part,)))
"""
    starter = subprocess.Popen(python(code), start_new_session=True)
    assert starter.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGHUP)
    wait_until(lambda: len(processes(home)) == 2)
    assert state(runtime) == "running"


@pytest.mark.slow
def test_a_program_that_ends_late_comes_back(home: Home, runtime: ProcessRuntime) -> None:
    """Takes as long as the supervisor waits until it takes a program for settled."""
    port = unused_port()
    slow = launch(engine(SERVE, str(port)), Part("gateway", python(SLEEP)), port=port)
    pausing = launch(engine(SLEEP), unit="pausing")
    runtime.start(slow)
    runtime.start(pausing)
    wait_until(lambda: answers(port) and len(processes(home)) == 5)
    before, others = pid_of_unit(home, "small", "engine"), pid_of_unit(home, "small", "gateway")
    time.sleep(SETTLED_S + 1)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not answers(port))
    assert state(runtime) == "running", "it is about to be started again"
    wait_until(lambda: answers(port))
    assert pid_of_unit(home, "small", "engine") != before
    assert pid_of_unit(home, "small", "gateway") == others
    assert says(runtime, "supervisor: engine ended with -9")()
    assert state(runtime) == "running"

    # stopped in the pause before it comes back: the pause is not waited for, and it does not come back
    os.kill(pid_of_unit(home, "pausing", "engine"), signal.SIGKILL)
    wait_until(says(runtime, "ended with -9", "pausing"))
    start = time.monotonic()
    runtime.stop("pausing")
    assert time.monotonic() - start < 1.5
    assert [unit.name for unit in runtime.units()] == ["small"]


def pid_of_unit(home: Home, unit: str, part: str) -> int:
    for pid, name in processes(home).items():
        entries = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        if name == part and f"DEPLOYER_UNIT={home.root}:{unit}" in entries:
            return pid
    raise AssertionError(f"no {part} of {unit}")


# logs and pulse


def test_logs(runtime: ProcessRuntime) -> None:
    assert list(runtime.logs("small")) == []
    code = "import time; print(*range(30), sep='\\n', flush=True); print('caf\\udce9', flush=True)"
    runtime.start(
        launch(engine(f"import sys; sys.stdout.reconfigure(errors='surrogateescape'); {code}; {SLEEP}"))
    )
    wait_until(says(runtime, "caf"))
    everything = list(runtime.logs("small"))
    assert everything == [*map(str, range(30)), "caf\ufffd"]
    assert list(runtime.logs("small", lines=3)) == everything[-3:]
    assert list(runtime.logs("small", lines=0)) == []
    assert list(runtime.logs("small", lines=1000)) == everything


def test_a_new_start_has_a_new_log(runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine(f"print('first', flush=True); {SLEEP}")))
    wait_until(says(runtime, "first"))
    runtime.stop("small")
    assert says(runtime, "first")(), "what was said can still be read after the end"
    runtime.start(launch(engine(f"print('second', flush=True); {SLEEP}")))
    wait_until(says(runtime, "second"))
    assert list(runtime.logs("small")) == ["second"]


def test_following_ends_with_the_unit(runtime: ProcessRuntime) -> None:
    talk = "import time\nfor n in range(600): print(n, flush=True); time.sleep(0.05)"
    runtime.start(launch(engine(talk)))
    seen: list[str] = []

    def follow() -> None:
        seen.extend(runtime.logs("small", follow=True))

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(says(runtime, "10"))
    runtime.stop("small")
    thread.join(10)
    assert not thread.is_alive()
    assert seen[:10] == [str(n) for n in range(10)]


def test_the_pulse_beats_while_the_log_grows(runtime: ProcessRuntime) -> None:
    runtime.start(launch(engine("import time\nwhile True: print('.', flush=True); time.sleep(0.05)")))
    wait_until(says(runtime, "."))
    for _ in range(3):
        before = runtime.pulse("small")
        wait_until(lambda before=before: runtime.pulse("small") != before, 5)


def test_the_pulse_beats_while_a_file_is_read(runtime: ProcessRuntime, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1 << 20))
    path = str(tmp_path / "weights")
    loop = f"import time\nwhile True: open({path!r}, 'rb').read(4096); time.sleep(0.05)"
    runtime.start(launch(engine(f"print('reading', flush=True)\n{loop}")))
    wait_until(says(runtime, "reading"))
    before = runtime.pulse("small")
    wait_until(lambda: runtime.pulse("small") != before, 5)


def test_no_pulse_where_nothing_moves(runtime: ProcessRuntime, home: Home) -> None:
    assert runtime.pulse("small") == runtime.pulse("small")
    runtime.start(launch(engine(f"print('stuck', flush=True); {SLEEP}")))
    wait_until(says(runtime, "stuck"))
    engine_only = [pid for pid, part in processes(home).items() if part == "engine"]
    assert len(engine_only) == 1
    wait_until(lambda: still(runtime))


def still(runtime: ProcessRuntime) -> bool:
    before = runtime.pulse("small")
    time.sleep(1)
    return runtime.pulse("small") == before


# the rest


def test_commands_can_be_pasted(runtime: ProcessRuntime, tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['A'], sys.argv[1])"
    (line,) = runtime.commands(
        launch(Part("engine", python(code, "two words; $HOME"), environment={"A": "it's here"}))
    )
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "it's here two words; $HOME\n"


def test_inside_is_this_host(runtime: ProcessRuntime, home: Home, tmp_path: Path) -> None:
    found = runtime.inside("small", tmp_path / "m" / "a.gguf", tmp_path / "m", 8000)
    assert found.model == str(tmp_path / "m" / "a.gguf")
    assert found.config == str(home.deployment("small") / "gateway")
    assert (found.listen, found.public_port) == ("127.0.0.1", "8000")
    assert runtime.mounts("small", tmp_path, "engine") == ()
    assert not runtime.has_image("anything")


class Counted(Silent):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int | None]] = []

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        self.seen.append((title, done, total))


def once(tmp_path: Path, code: str, **paths: Path) -> Once:
    """A job of an engine whose one program is `sh`."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    return Once(str(tmp_path / "engine"), "/opt/engine", ("sh", "-c", code), paths, tuple(paths))


def test_a_job_runs_to_its_end(home: Home, tmp_path: Path) -> None:
    runtime = ProcessRuntime(home, {"PATH": "/usr/bin:/bin", "HF_TOKEN": "secret", "DEPLOYER_HOME": "x"})
    seen = Counted()
    (tmp_path / "out").mkdir()
    job = once(tmp_path, "env; echo '[ 1/ 2] a'; echo '2/2 windows' >&2; echo done > {out}/file", out=tmp_path / "out")
    said = runtime.once(job, seen)
    assert (tmp_path / "out/file").read_text() == "done\n"
    assert "secret" not in said and "DEPLOYER_HOME" not in said and "HF_HUB_OFFLINE=1" in said
    assert [one[1:] for one in seen.seen] == [(1, 2), (2, 2)]
    assert runtime.engine_folder(job.program, job.folder, "convert", tmp_path) == tmp_path / "convert"
    assert runtime.named("/engines/llamacpp-1/llama-server") == "llamacpp-1"
    assert runtime.named("/engines/transformers-1/bin/transformers") == "transformers-1"


@pytest.mark.parametrize(
    ("code", "said"),
    [("echo fine; echo Error: no such tensor; exit 3", "exit code 3"), ("echo x; kill -9 $$", "enough memory")],
)
def test_a_job_that_fails_says_why(runtime: ProcessRuntime, tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(LaunchError, match=f"failed .*{said}") as caught:
        runtime.once(once(tmp_path, code), Silent())
    assert caught.value.evidence == (("Error: no such tensor",) if "Error" in code else ("x",))


def test_words_that_name_no_path_stay() -> None:
    assert fill("{in}/a.gguf {other} {{in}}", {"in": "/m"}) == "/m/a.gguf {other} {/m}"
