"""One build of the fake libraries for all tests, and described hosts that are looked at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.host import Host
from tests.stage.describe import Description
from tests.stage.stage import LIBRARIES, Stage, build, described, missing

SPECIFICATION = "deployer-stage.json"
INSIDE = "/usr/lib/x86_64-linux-gnu"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake libraries."""
    if why := missing():
        pytest.skip(why)
    return build(tmp_path_factory.mktemp("libraries"))


@pytest.fixture
def stage(built: Path, tmp_path: Path) -> Iterator[Callable[[str | Description], Stage]]:
    """Enters the stage of a described host."""
    with ExitStack() as stack:
        yield lambda said: stack.enter_context(Stage(said, tmp_path / f"stage-{id(said)}", built))


@pytest.fixture(scope="session")
def seen(built: Path) -> Callable[[str], Host]:
    """What the real probe says of a described host; each is looked at once."""
    known: dict[str, Host] = {}

    def see(name: str) -> Host:
        if name not in known:
            known[name] = described(name, built)
        return known[name]

    return see


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise OSError(done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def folder() -> Path:
    """A folder of CDI specifications that the engine reads and this user may write."""
    try:
        info = json.loads(docker("info", "--format", "{{json .}}"))
    except (OSError, ValueError) as error:
        pytest.skip(f"no Docker Engine: {error}")
    folders = [Path(name) for name in info.get("CDISpecDirs") or ()]
    if any("nvidia.com/gpu" in path.read_text() for f in folders for path in f.glob("*.[jy]*")):
        pytest.skip("the engine has real GPUs")
    for name in folders:
        if os.access(name if name.is_dir() else name.parent, os.W_OK):
            return name
    pytest.skip("the engine reads no CDI folder that this user may write")


@pytest.fixture(scope="module")
def image() -> str:
    """A local image with Python that runs programs built here, one that `check --deep` looks for."""
    if os.uname().machine != "x86_64":
        pytest.skip("the images are for x86_64")
    gateway = str(images.tag("gateway", "cpu"))
    there = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for name in (gateway, images.tag("transformers", "cpu"), images.tag("transformers", "cu130")):
        if name in there:
            return str(name)
    command = [sys.executable, "-m", "deployer", "build", "gateway:cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        pytest.skip(
            f"there is no local image with Python, and none can be made: {done.stderr.strip()[-200:]}"
        )
    return gateway


@pytest.fixture
def device(
    folder: Path, built: Path, stage: Callable[[Any], Stage], tmp_path: Path
) -> Iterator[Callable[[str | Stage], str]]:
    """Makes the GPUs of a described host those of the engine; gives the name of all of them."""
    made = folder.is_dir()
    path = folder / SPECIFICATION

    def give(name: str | Stage) -> str:
        place = stage(name) if isinstance(name, str) else name
        # Copies, so that one folder holds all that is mounted.
        files = tmp_path / "given"
        files.mkdir()
        for library in (LIBRARIES["nvml"], LIBRARIES["cuda"]):
            shutil.copy(built / library, files / library)
        shutil.copy(place.description, files / "host.json")
        mounts = [(files / LIBRARIES[n], f"{INSIDE}/{LIBRARIES[n]}") for n in ("nvml", "cuda")]
        mounts.append((files / "host.json", "/etc/stage.json"))
        edits = {
            "env": ["STAGE_HOST=/etc/stage.json"],
            "mounts": [
                {"hostPath": str(here), "containerPath": there, "options": ["ro", "nosuid", "nodev", "bind"]}
                for here, there in mounts
            ],
        }
        uuids = [gpu["uuid"] for gpu in json.loads(place.description.read_text())["gpus"]]
        names = [*(str(n) for n in range(len(uuids))), *uuids, "all"]
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "cdiVersion": "0.5.0",
                    "kind": "nvidia.com/gpu",
                    "devices": [{"name": n, "containerEdits": {"env": [f"STAGE_GPU={n}"]}} for n in names],
                    "containerEdits": edits,
                }
            )
        )
        return "nvidia.com/gpu"

    yield give
    path.unlink(missing_ok=True)
    if not made and folder.is_dir():
        folder.rmdir()
