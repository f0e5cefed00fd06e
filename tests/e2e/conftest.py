"""Real deployments: a home per test, the compiled engines shared by all, the command as people run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import deployer
from tests import registries

CACHE = Path(os.environ.get("DEPLOYER_TEST_CACHE", Path.home() / ".cache/deployer-tests"))
PROFILES = Path(deployer.__file__).parent.parent / "profiles"


def docker_reason() -> str | None:
    """Why Docker cannot be used here, None when it can."""
    if not shutil.which("docker"):
        return "the docker command is not installed"
    for command in (["docker", "version"], ["docker", "buildx", "version"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"`{' '.join(command)}` fails: {done.stderr.strip()[:200]}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Docker its tests are skipped with the reason; in CI they fail instead."""
    reason = docker_reason()
    for item in items:
        if item.get_closest_marker("docker") and reason and not os.environ.get("CI"):
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Box:
    """One home and the command line on it."""

    home: Path
    port: int
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DEPLOYER_HOME": str(self.home), "COLUMNS": "100"}

    def start(self, *words: str, **extra: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deployer", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        settings = {"env": self.environment(), **pipes, **extra}
        child = subprocess.Popen(command, text=True, **settings)
        self.runs.append(child)
        return child

    def run(self, *words: str, code: int | None = 0, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        """Runs `deployer`; `code=None` accepts every exit code."""
        child = self.start(*words)
        out, err = child.communicate(timeout=timeout)
        assert code is None or child.returncode == code, f"{words} ended with {child.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, child.returncode, out, err)

    def json(self, *words: str, **more: Any) -> Any:
        return json.loads(self.run(*words, "--json", **more).stdout)

    def up(self, *words: str, **more: Any) -> Any:
        return self.json("up", *words, "--port", str(self.port), **more)

    def processes(self) -> list[str]:
        """Processes that carry the mark of this home."""
        mark = f"DEPLOYER_UNIT={self.home}:".encode()
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes():
                    found.append(f"{folder.name} {(folder / 'comm').read_text().strip()}")
            except OSError:
                continue
        return found

    def containers(self) -> list[str]:
        """Containers and networks whose name ends with this home's tag."""
        import hashlib

        tag = hashlib.sha256(str(self.home).encode()).hexdigest()[:6]
        found = []
        for command in (["ps", "-a", "--format", "{{.Names}}"], ["network", "ls", "--format", "{{.Name}}"]):
            done = subprocess.run(["docker", *command], capture_output=True, text=True)
            found += [name for name in done.stdout.split() if tag in name]
        return found

    def left(self) -> list[str]:
        """Everything that still runs or is half made."""
        docker = self.containers() if docker_reason() is None else []
        scratch = [str(p) for p in (self.home / "tmp").glob("*")]
        return [*self.processes(), *docker, *scratch]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A new home; engines and verified sources, which take minutes to make, are shared by all tests."""
    home = tmp_path / "home"
    home.mkdir()
    for shared in ("engines", "sources"):
        (CACHE / shared).mkdir(parents=True, exist_ok=True)
        (home / shared).symlink_to(CACHE / shared)
    made = Box(home, free_port())
    yield made
    for child in made.runs:
        if child.poll() is None:
            child.kill()
            child.wait()
    made.run("down", "--all")
    deadline = time.monotonic() + 5
    while made.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert made.left() == []


@pytest.fixture(params=["docker", "process"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both runtimes; docker needs an engine."""
    reason = docker_reason()
    if request.param == "docker" and reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(request.param)


def profile(box: Box, name: str, base: str = "cpu-small", **changes: str) -> str:
    """A copy of a shipped profile with lines changed: `engine="transformers"` or `serving="{…}"`."""
    lines = []
    for line in (PROFILES / f"{base}.yaml").read_text().splitlines():
        key = line.strip().split(":")[0].removeprefix("- ")
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(f"{indent}{key}: {changes[key]}" if key in changes else line)
    path = box.home.parent / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A second, real dockerd of this test's own: (address, pid)."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        reason = "needs root and dockerd: only a daemon of one's own may be frozen"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    run = Path(f"/tmp/deployer-dockerd-{os.getpid()}")
    run.mkdir()
    address = f"unix://{run}/docker.sock"
    log = (tmp_path / "dockerd.log").open("w")
    # in a network namespace of its own: with --bridge=none it would remove the system's docker0
    command = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false",
               "--storage-driver=vfs",
               "--data-root", f"{run}/data", "--exec-root", f"{run}/exec", "-p", f"{run}/pid",
               "-H", address]  # fmt: skip
    daemon = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while subprocess.run(["docker", "-H", address, "version"], capture_output=True).returncode:
        assert daemon.poll() is None and time.monotonic() < deadline, (tmp_path / "dockerd.log").read_text()[-2000:]
        time.sleep(0.2)
    yield address, daemon.pid  # unshare has become dockerd
    os.kill(daemon.pid, signal.SIGCONT)
    daemon.terminate()
    daemon.wait(timeout=30)
    log.close()
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on this machine, empty: its address."""
    with registries.registry(tmp_path, "localhost") as made:
        yield made.address
