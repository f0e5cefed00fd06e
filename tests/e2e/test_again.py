"""The same image from two engines that share nothing, and what an engine with containerd's image store adds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Box
from tests.e2e.test_build import docker

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a second engine with empty stores; it shares the first one's network alone."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        reason = "needs root and dockerd: a second engine is started"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    run = Path(f"/tmp/deployer-second-{os.getpid()}")
    run.mkdir()
    address = f"unix://{run}/docker.sock"
    containerd = getattr(request, "param", "") == "containerd"
    (run / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": containerd}}))
    command = ["dockerd", "--config-file", f"{run}/daemon.json", "--bridge=docker0", "--iptables=false"]
    command += ["--ip6tables=false", "--data-root", f"{run}/data", "--exec-root", f"{run}/exec", "-p", f"{run}/pid"]
    with (tmp_path / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen([*command, "-H", address], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "-H", address, "version"], capture_output=True).returncode:
            said = (tmp_path / "dockerd.log").read_text()[-2000:]
            assert daemon.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)
        yield address
        daemon.terminate()
        daemon.wait(timeout=60)
    shutil.rmtree(run, ignore_errors=True)


def built(box: Box, address: str, *words: str) -> tuple[dict[str, Any], str]:
    """The first row of a build on that engine, and what it said."""
    child = box.start("build", *words, "--json", env={**box.environment(), "DOCKER_HOST": address})
    out, err = child.communicate(timeout=3600)
    assert child.returncode == 0, err
    row: dict[str, Any] = json.loads(out)["images"][0]
    return row, err


@pytest.mark.parametrize("name", ["transformers:cpu", pytest.param("llamacpp:cpu", marks=pytest.mark.long)])
def test_two_engines_make_the_same_image(box: Box, elsewhere: str, name: str) -> None:
    here = box.json("build", name, timeout=3600)["images"][0]["reference"]
    row, _ = built(box, elsewhere, name)
    assert row["reference"] == here and row["built"]
    words = ("image", "inspect", "--format", "{{.Id}} {{json .RootFS}}", here)
    assert docker("-H", elsewhere, *words) == docker(*words)


@pytest.mark.parametrize("elsewhere", ["containerd"], indirect=True)
def test_cache_and_provenance_in_a_registry(box: Box, elsewhere: str, registry: str) -> None:
    first, _ = built(box, elsewhere, "gateway:cpu")
    cache = f"{registry}/cache:{{image}}-{{variant}}"
    words = ("gateway:cpu", "--push", "--registry", f"{registry}/team", "--cache-to", cache, "--provenance", "max")
    pushed, _ = built(box, elsewhere, *words)
    about = docker("buildx", "imagetools", "inspect", pushed["reference"], "--format", "{{json .Provenance}}")
    assert json.loads(about)["SLSA"]["buildType"].startswith("https://mobyproject.org/buildkit")

    images = docker("-H", elsewhere, "images", "-q").split()
    docker("-H", elsewhere, "rmi", "-f", *set(images))
    docker("-H", elsewhere, "builder", "prune", "-af")
    again, said = built(box, elsewhere, "gateway:cpu", "--cache-from", cache)
    assert "RUN bootstrap" in said and "RUN wheels" not in said, "the cache has the gateway's steps alone"
    assert again["built"] and again["digest"] == first["digest"]
