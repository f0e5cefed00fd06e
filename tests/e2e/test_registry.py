"""A model into a registry and back by the command line, with real sizes, killed on the way in both directions."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.fetch.partial import PART
from deployer.home import Home
from deployer.models import Store
from tests import registries
from tests.models.headers import CONFIG, llama
from tests.servers import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
MIB = 1 << 20


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path, **registries.htpasswd(tmp_path)) as made:
        registries.config(tmp_path / "docker", made.address)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "origin"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    for seed, size in ((1, 150), (2, 250)):
        (path / f"model-{seed}.safetensors").write_bytes(llama() + random.Random(seed).randbytes(size * MIB))
    return path


def start(tmp_path: Path, home: str, *words: str) -> subprocess.Popen[str]:
    environment = {
        "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path / "docker"), "NO_PROXY": "127.0.0.1",
        "PATH": os.environ["PATH"],
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "deployer", "--home", str(tmp_path / home), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(tmp_path: Path, home: str, *words: str) -> tuple[str, str]:
    child = start(tmp_path, home, *words)
    out, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    return out.strip(), said


def test_kills_in_both_directions(tmp_path: Path, folder: Path, registry: registries.Registry) -> None:
    run(tmp_path, "one", "pull", f"file://{folder}")
    where = f"oci://{registry.address}/team/large:v1"

    child = start(tmp_path, "one", "models", "push", "origin", where)
    wait_until(lambda: registry.uploads > 20 * MIB or child.poll() is not None, 60)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    child = start(tmp_path, "none", "pull", where)
    assert "there is no" in child.communicate(timeout=60)[1], "half a model has no name there"
    address, said = run(tmp_path, "one", "models", "push", "origin", where)
    assert address.startswith(f"oci://{registry.address}/team/large@sha256:")
    assert "config.json: the registry has it already" in said

    parts, kills, dice = tmp_path / "two/models/.staging", 0, random.Random(1)
    while True:
        child = start(tmp_path, "two", "pull", address)
        goal = kept(parts) + dice.randrange(1, 150) * MIB
        wait_until(lambda child=child, goal=goal: child.poll() is not None or kept(parts) >= goal, 120)
        if kills < 3:
            child.send_signal(signal.SIGKILL)
        _, said = child.communicate(timeout=300)
        store = Store(Home(tmp_path / "two"))
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, said
        assert store.all() == ()
        kills += 1
    assert kills > 0 and "were here already" in said
    (model,) = store.all()
    assert f"@{model.revision}" in address
    assert {f.path: f.sha256 for f in model.files} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert not list((tmp_path / "two/models/.staging").iterdir())


def test_what_cannot_be_pushed(tmp_path: Path, registry: registries.Registry) -> None:
    where = f"oci://{registry.address}/a"
    for words, code, said in (
        (("nothing", where), 1, "no model is called nothing"),
        (("nothing", f"{where}@sha256:{'0' * 64}"), 2, f"name a tag: {where}:v1"),
        (("nothing", "registry.example/a"), 2, "names no artifact of a registry"),
    ):
        child = start(tmp_path, "one", "models", "push", *words)
        told = child.communicate(timeout=60)[1]
        assert child.returncode == code and said in told, told
        assert "Traceback" not in told


def kept(staging: Path) -> int:
    """Bytes that the journals of a pull say are whole, and files that are."""
    whole = sum(path.stat().st_size for path in staging.glob("*/model/*"))
    return whole + sum(PART * path.read_bytes().count(b"\n") for path in staging.glob("*/parts/*.parts"))
