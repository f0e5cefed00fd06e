"""`deployer pull` with real sizes: killed at random moments, and on a disk that fills up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.home import Home
from deployer.models import Store
from tests.models.headers import CONFIG, llama
from tests.servers import Hub, Manner, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ADDRESS = "hf://someone/a-model"
MIB = 1 << 20


def weights(seed: int, size: int) -> bytes:
    return llama() + random.Random(seed).randbytes(size)


def start(home: Path, hub: Hub, *words: str) -> subprocess.Popen[str]:
    environment = {
        "HF_ENDPOINT": hub.url, "HOME": str(home), "NO_PROXY": "127.0.0.1", "PATH": os.environ["PATH"],
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "deployer", "--home", str(home), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model-1.safetensors": weights(1, 150 * MIB),
        "model-2.safetensors": weights(2, 60 * MIB),
    }


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments_lose_little_and_break_nothing(
    tmp_path: Path, large: dict[str, bytes], seed: int
) -> None:
    dice, total = random.Random(seed), sum(map(len, large.values()))
    kills, store = 0, Store(Home(tmp_path))
    with Hub("someone/a-model", large) as hub:
        hub.manner.pause = 0.001
        while True:
            child = start(tmp_path, hub, "pull", ADDRESS)
            goal = hub.sent + dice.randrange(total // 3)
            wait_until(lambda child=child, goal=goal: child.poll() is not None or hub.sent > goal, 120)
            time.sleep(dice.random() * 0.2)
            if kills < 6:
                child.send_signal(signal.SIGKILL)
            _, said = child.communicate(timeout=300)
            found = store.all()
            for model in found:
                store.verify(model)
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL, said
            assert found == () or len(found) == 1
            kills += 1
        again = hub.sent - total
        assert again <= kills * (64 * MIB + 8 * 4 * MIB), "parts under way, and what sockets held"
    (model,) = store.all()
    assert {f.path: f.sha256 for f in model.files} == {
        name: hashlib.sha256(content).hexdigest() for name, content in large.items()
    }
    assert not list((tmp_path / "models/.staging").iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 400 MB in a file."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    image, path = tmp_path / "disk.img", tmp_path / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(path)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no file system can be made here: {error}")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_too_little_room_is_told_before_the_first_byte(disk: Path, large: dict[str, bytes]) -> None:
    (disk / "ballast").write_bytes(bytes(200 * MIB))
    with Hub("someone/a-model", large) as hub:
        child = start(disk, hub, "pull", ADDRESS)
        _, said = child.communicate(timeout=120)
        assert child.returncode == 1
        assert "needs" in said and str(disk) in said
        assert len(hub.seen) == 1, "the listing alone"


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_a_disk_that_fills_up_on_the_way(disk: Path, large: dict[str, bytes], ranges: bool) -> None:
    with Hub("someone/a-model", large) as hub:
        hub.manner = Manner(pause=0.001, ranges=ranges)
        child = start(disk, hub, "pull", ADDRESS)
        wait_until(lambda: hub.sent > 20 * MIB or child.poll() is not None, 120)
        ballast = disk / "ballast"  # another program writes
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(MIB))
            except OSError:
                pass
        _, said = child.communicate(timeout=300)
        assert child.returncode == 1
        assert "disk" in said and "full" in said and "hint:" in said
        assert "Traceback" not in said
        assert Store(Home(disk)).all() == ()

        ballast.unlink()
        hub.manner.pause, before = 0, hub.sent
        child = start(disk, hub, "pull", ADDRESS)
        _, said = child.communicate(timeout=300)
        assert child.returncode == 0, said
        assert "were here already" in said
        if ranges:
            assert hub.sent - before < sum(map(len, large.values()))
    (model,) = Store(Home(disk)).all()
    Store(Home(disk)).verify(model)
