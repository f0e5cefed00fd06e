"""The long steps, killed and interrupted: building an image, making an engine, converting a model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import CACHE, Box, docker_reason, profile

pytestmark = pytest.mark.e2e


def stop_at(child: subprocess.Popen[str], text: str, number: int, delay: float) -> str:
    """Reads stderr until `text` comes, waits `delay` seconds, sends the signal; returns what was said."""
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if text in line:
            time.sleep(delay)
            child.send_signal(number)
            break
    said += child.stderr.readlines()
    child.wait(timeout=60)
    return "".join(said)


@pytest.mark.docker
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "ctrl-c", "terminate"])
def test_an_interrupted_build_leaves_only_cache(box: Box, number: int) -> None:
    if reason := docker_reason():
        pytest.fail(reason)
    words = ("build", "gateway:cpu")
    box.run(*words)
    reference = box.json(*words)["images"][0]["reference"]
    subprocess.run(["docker", "rmi", "-f", reference], check=True, capture_output=True)
    child = box.start("build", "gateway:cpu", "--no-cache")
    said = stop_at(child, "RUN bootstrap", number, 1)
    assert child.returncode in (-number, 130), said
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        at_work = subprocess.run(["pgrep", "-af", str(box.home)], capture_output=True, text=True).stdout
        assert "bake" not in at_work, "BuildKit goes on as long as somebody asks it to"
    done = box.run(*words)
    assert done.stdout.strip() == reference
    box.json("up", profile(box, "small"), "--runtime", "docker", "--port", str(box.port))
    assert list((box.home / "tmp").glob("*")) == [], "the next `up` sweeps what a kill left"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_an_interrupted_compilation_leaves_no_engine(box: Box, number: int) -> None:
    (box.home / "engines").unlink()  # not the shared ones
    child = box.start("up", "cpu-small", "--runtime", "process", "--port", str(box.port))
    said = stop_at(child, "engine: compiling", number, 4)
    assert child.returncode in (-number, 130), said
    assert not list((box.home / "engines").glob("*/llama-server"))
    shutil.rmtree(box.home / "engines", ignore_errors=True)
    (box.home / "engines").symlink_to(CACHE / "engines")
    assert box.up("cpu-small", "--runtime", "process")["tokens_per_s"] > 0
    assert list((box.home / "tmp").glob("*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_an_interrupted_conversion_is_made_again(box: Box, runtime: str, number: int) -> None:
    wanted = profile(box, "small", engine="transformers")
    child = box.start("up", wanted, "--runtime", runtime, "--port", str(box.port))
    said = stop_at(child, "→ convert", number, 5)
    assert child.returncode in (-number, 130), said
    assert not list(box.home.glob("models/*-safetensors-*"))
    if number == signal.SIGINT:
        assert box.containers() == [] and not converters(box)

    result = box.up(wanted, "--runtime", runtime)

    assert result["tokens_per_s"] > 0
    assert not converters(box)


def converters(box: Box) -> list[str]:
    """Command lines of converters that work for this home."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode() if folder.name.isdigit() else ""
        except OSError:
            continue
        if "gguf_to_safetensors" in line and str(box.home) in line:
            found.append(line)
    return found


@pytest.mark.docker
def test_without_buildx_the_way_to_it_is_said(
    box: Box, own_daemon: tuple[str, int], tmp_path: Path
) -> None:
    """An old docker client that knows no buildx, as Debian 12 has it, and an engine without any image."""
    old = tmp_path / "bin"
    old.mkdir()
    (old / "docker").write_text("#!/bin/sh\necho \"docker: 'buildx' is not a docker command.\" >&2\nexit 1\n")
    (old / "docker").chmod(0o755)
    path = f"{old}:{os.environ['PATH']}"
    environment = {**box.environment(), "DOCKER_HOST": own_daemon[0], "PATH": path}
    child = box.start("build", "gateway:cpu", env=environment)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "`docker buildx` is missing" in said and "docker-buildx-plugin" in said

    child = box.start("up", "cpu-small", "--runtime", "docker", env=environment)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and "`docker buildx` is missing" in said, "asked for, so nothing else will do"

    child = box.start("up", "cpu-small", "--port", str(box.port), "--json", env=environment)
    out, said = child.communicate(timeout=900)
    assert child.returncode == 0, said
    assert json.loads(out)["runtime"] == "process" and "`docker buildx` is missing" in said


def test_a_build_that_fails_shows_the_failing_lines_and_the_cause(box: Box, tmp_path: Path) -> None:
    """An index that is not there."""
    if reason := docker_reason():
        pytest.skip(reason) if not os.environ.get("CI") else pytest.fail(reason)
    box.run("build", "gateway:cpu")  # uv and the Debian packages are here then
    done = box.run("build", "gateway:cpu", "--no-cache", "--index-url", "http://127.0.0.1:9/simple", code=1)
    assert "building gateway:cpu failed" in done.stderr
    assert "  | " in done.stderr
    assert "hint: the package index cannot be reached" in done.stderr
    assert sys.executable not in done.stderr
