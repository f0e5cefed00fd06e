"""The embedded runtime: programs of a unit as supervised, detached processes of this user.

What runs is found by a mark in the environment of its processes, so that no file can be out of date. The supervisor
confines them as far as that goes without containers; docs/security.md says what it does not give.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from deployer.errors import LaunchError
from deployer.home import Home, read_json, write_json
from deployer.progress import Progress
from deployer.runtimes import supervisor
from deployer.runtimes.base import (
    ENGINE_PORT,
    OFFLINE,
    About,
    Inside,
    Launch,
    Mount,
    Once,
    Unit,
    deployment_of,
    ending,
    errors_in,
    fill,
    resident,
    watched,
    within,
)
from deployer.runtimes.living import Member, confinement, family

_MARK = "DEPLOYER_UNIT"


class ProcessRuntime:
    """Processes under `home`."""

    name = "process"

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home = home
        self._environment = environment

    def inside(self, unit: str, model: Path, folder: Path, port: int) -> Inside:
        return Inside(
            model=str(model),
            config=str(self._home.gateway(deployment_of(unit))),
            state=str(self._home.gateway(deployment_of(unit)) / "state"),
            listen="127.0.0.1",
            engine_port=ENGINE_PORT,
            public_port=str(port),
        )

    def mounts(self, unit: str, folder: Path, role: str) -> tuple[Mount, ...]:
        return ()

    def start(self, launch: Launch) -> None:
        folder = self._home.deployment(launch.unit)
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "generation": launch.generation,
            "port": launch.port,
            "engine_port": unused_port(),  # the same for as long as the supervisor lives
            "fingerprint": launch.fingerprint,
            "parts": [asdict(part) for part in launch.parts],
        }
        write_json(folder / "process.json", spec, 0o600)
        unit = launch.unit
        environment = {
            key: value
            for key, value in self._environment.items()
            if key in ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
        }
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        environment |= {**OFFLINE, _MARK: self._mark(unit), "DEPLOYER_PART": "supervisor"}
        environment |= {"HOME": str(scratch), "TMPDIR": str(scratch)}  # all that the engine may write
        (folder / "log").unlink(missing_ok=True)
        private = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        with os.fdopen(private, "wb") as log:
            subprocess.Popen(
                [sys.executable, "-I", supervisor.__file__, str(folder / "process.json")],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 5
        while not self._marked(unit) and time.monotonic() < deadline:
            time.sleep(0.01)

    def address(self, unit: str) -> str:
        spec = read_json(self._home.deployment(unit) / "process.json")
        if spec is None:
            raise LaunchError(f"`{unit}` does not run")
        return f"http://127.0.0.1:{spec['engine_port']}"

    def find(self, unit: str) -> Unit | None:
        spec = read_json(self._home.deployment(unit) / "process.json")
        found = {part: pid for pid, part in self._marked(unit)}
        if spec is None:
            return None
        wanted = {"supervisor", *(part["role"] for part in spec["parts"])}
        state = "stopped" if not found else "running" if wanted <= set(found) else "dead"
        starting = "supervisor" in found and len(found) < len(wanted)
        return Unit(
            unit,
            "running" if starting else state,
            spec["fingerprint"],
            spec["generation"],
            self.name,
            spec["port"],
            exit=self._exit(unit) if state != "running" else None,
        )

    def units(self) -> tuple[Unit, ...]:
        root = self._home.root / "deployments"
        names = (path.parent.relative_to(root).as_posix() for path in sorted(root.rglob("process.json")))
        return tuple(unit for unit in map(self.find, names) if unit)

    def pulse(self, unit: str) -> Hashable:
        try:
            size = (self._home.deployment(unit) / "log").stat().st_size
        except OSError:
            size = 0
        return size, tuple(_footprint(pid) for pid, part in self._marked(unit) if part == "engine")

    def resident(self, unit: str) -> int | None:
        return resident(pid for pid, part in self._marked(unit) if part == "engine") or None

    def members(self, unit: str) -> tuple[Member, ...]:
        return family([pid for pid, _ in self._marked(unit, below=True)])

    def about(self, unit: str) -> tuple[About, ...]:
        spec = read_json(self._home.deployment(unit) / "process.json") or {"parts": []}
        pids = {part: pid for pid, part in self._marked(unit)}
        found = []
        for part in spec["parts"]:
            pid = pids.get(part["role"])
            words = _words(pid) or part["arguments"]
            confined = part["role"] == "engine" and supervisor.landlock()
            limits = {"landlock": str(confined or "none"), **(confinement(pid) if pid else {})}
            own = tuple(one.pid for one in family([pid])) if pid else ()
            state = "running" if pid else "stopped"
            found.append(About(part["role"], state, words[0], tuple(words[1:]), own, limits, gpus=tuple(part["gpus"])))
        return tuple(found)

    def keep(self, unit: str) -> bool:
        return False

    def stop(self, unit: str, *, keep: bool = False, below: bool = True) -> None:
        for pid, part in self._marked(unit, below=below):
            if part == "supervisor":
                _kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + supervisor.GRACE_S + 2
        while left := self._marked(unit, below=below):
            supervised = any(part == "supervisor" for _, part in left)
            if not supervised or time.monotonic() > deadline:
                for pid, _ in left:
                    _kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline + 10:
                raise LaunchError(
                    f"processes of `{unit}` do not end: {', '.join(str(pid) for pid, _ in left)}",
                    hint="one in uninterruptible sleep (state D in `ps`) needs a reboot",
                )
            time.sleep(0.05)
        for path in self._home.deployment(unit).rglob("process.json"):
            if within(unit, path.parent.relative_to(self._home.root / "deployments").as_posix(), below=below):
                if not keep:
                    path.unlink(missing_ok=True)
                shutil.rmtree(path.with_name("scratch"), ignore_errors=True)

    def logs(self, unit: str, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
        path = self._home.deployment(unit) / "log"
        if not path.exists():
            return
        with path.open(errors="replace") as file:
            yield from (line.rstrip("\n") for line in (file if lines is None else deque(file, lines)))
            while follow:
                if line := file.readline():
                    yield line.rstrip("\n")
                elif not self._marked(unit):
                    return
                else:
                    time.sleep(0.2)

    def commands(self, launch: Launch) -> tuple[str, ...]:
        lines = []
        for part in launch.parts:
            words = [word.replace(ENGINE_PORT, "8001") for word in part.arguments]  # any that is free
            named = (f"{key}={shlex.quote(value)}" for key, value in {**OFFLINE, **part.environment}.items())
            lines.append(" ".join([*named, shlex.join(words)]))
        return tuple(lines)

    def has_image(self, reference: str) -> bool:
        return False

    def once(self, job: Once, progress: Progress) -> str:
        paths = {key: str(path) for key, path in job.paths.items()}
        first, *rest = (fill(word, paths) for word in job.arguments)
        keys = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
        environment = {key: value for key, value in self._environment.items() if key in keys}
        with subprocess.Popen(
            [str(Path(job.program).with_name(first)), *rest],
            env={**environment, **OFFLINE, **job.environment, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=supervisor.end_with_parent,
        ) as child:
            assert child.stdout is not None
            try:
                said = watched((line.rstrip("\n") for line in child.stdout), job.title, progress)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            raise LaunchError(f"{job.title} failed ({ending(child.returncode)})", evidence=errors_in(said))
        return said

    def engine_folder(self, program: str, folder: str, name: str, scratch: Path) -> Path:
        return Path(program).parent / name

    def named(self, program: str) -> str:
        folder = Path(program).parent
        return (folder.parent if folder.name == "bin" else folder).name

    def _mark(self, unit: str) -> str:
        return f"{self._home.root}:{unit}"

    def _marked(self, unit: str, *, below: bool = False) -> list[tuple[int, str]]:
        """(pid, part) of this user's processes that carry the mark of `unit`; children carry it too."""
        wanted = f"{_MARK}={self._mark(unit)}".encode()
        lower = wanted + b"/"
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                entries = (folder / "environ").read_bytes().split(b"\0")
                if not (wanted in entries or (below and any(entry.startswith(lower) for entry in entries))):
                    continue
                if " Z " in (folder / "stat").read_text():
                    continue
            except OSError:
                continue  # it has just ended, or belongs to somebody else
            part = next((e[14:] for e in entries if e.startswith(b"DEPLOYER_PART=")), b"")
            found.append((int(folder.name), part.decode()))
        return found

    def _exit(self, unit: str) -> str | None:
        # other parts may write more while they are ended
        found = [line for line in self.logs(unit, lines=200) if line.startswith("supervisor: ")]
        return found[-1].removeprefix("supervisor: ") if found else None


def unused_port() -> int:
    """A TCP port of 127.0.0.1 that nothing holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _words(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _footprint(pid: int) -> tuple[int, int]:
    """Resident pages and bytes read so far."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        read = int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except (OSError, IndexError):
        return 0, 0
    return pages, read


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
