"""`deployer pull ADDRESS` and `deployer models`, as a person calls them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.home import Home
from deployer.plan.record import Record, save_record
from deployer.runtimes import Launch
from tests.models.headers import CONFIG, llama
from tests.servers import Hub

WEIGHTS = llama() + random.Random(3).randbytes(300_000)
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
}
ADDRESS = "hf://someone/a-model"


class Caller:
    def __init__(self, home: Path, hub: Hub) -> None:
        self.home, self.hub = home, hub

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "HF_ENDPOINT": self.hub.url, "HOME": str(self.home), "NO_PROXY": "127.0.0.1", "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "deployer", "--home", str(self.home), *words],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture
def deployer(tmp_path: Path) -> Iterator[Caller]:
    with Hub("someone/a-model", FILES) as hub:
        hub.about = {"cardData": {"license": "apache-2.0"}}
        yield Caller(tmp_path / "home", hub)


def test_the_life_of_a_model(deployer: Caller, tmp_path: Path) -> None:
    assert "no model" in deployer("models", "list").stderr

    pulled = deployer("pull", ADDRESS)
    assert pulled.returncode == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert (folder / "model-1.safetensors").read_bytes() == WEIGHTS
    assert "was there already" in deployer("pull", ADDRESS).stderr

    listed = deployer("models", "list").stdout
    assert "a-model-" in listed and "apache-2.0" in listed and "safetensors" in listed
    (row,) = deployer.json("models", "list")["models"]
    assert row["revision"] == deployer.hub.sha and not row["damaged"]
    shown = deployer("models", "show", "a-model").stdout
    assert deployer.hub.sha in shown and "model-2.safetensors" in shown

    assert deployer("models", "verify").returncode == 0
    bad = folder / "model-2.safetensors"
    bad.chmod(0o644)
    bad.write_bytes(WEIGHTS)
    told = deployer("models", "verify", "a-model")
    assert told.returncode == 1
    assert "model-2.safetensors of a-model" in told.stderr and "pull it again" in told.stderr
    assert "damaged" in deployer("models", "list").stdout

    before = len(deployer.hub.seen)
    assert deployer("pull", ADDRESS).returncode == 0
    assert {seen.path.rsplit("/", 1)[-1] for seen in deployer.hub.seen[before:]} == {"model-2.safetensors"}

    packed = tmp_path / "models.tar"
    assert deployer("models", "export", str(packed), "a-model").returncode == 0
    removed = deployer.json("models", "remove", "a-model")
    assert removed["bytes"] == row["size"]
    assert deployer.json("models", "gc") == {"contents": 0, "downloads": 0, "bytes": 0}
    (taken,) = deployer.json("models", "import", str(packed))["models"]
    assert taken["files"] == row["files"]
    assert taken["licence"] == "apache-2.0"


def test_pull_verify_mends_in_one_command(deployer: Caller) -> None:
    folder = Path(deployer("pull", ADDRESS).stdout.strip())
    bad = folder / "model-1.safetensors"
    bad.chmod(0o644)
    bad.write_bytes(WEIGHTS[::-1])
    mended = deployer("pull", "--verify", ADDRESS)
    assert mended.returncode == 0, mended.stderr
    assert "model-1.safetensors of a-model" in mended.stderr
    assert bad.read_bytes() == WEIGHTS


def test_a_model_that_a_deployment_uses_is_kept(deployer: Caller) -> None:
    deployer("pull", ADDRESS)
    (row,) = deployer.json("models", "list")["models"]
    record = Record(
        name="mine", profile="p", runtime="process", url="u", model="m", kind="chat", model_id=row["id"], key_file=None,
        accepted="now", first_token=1.0, rate=1.0, generation=1, engines=(Launch("mine/g1/1", 1, None, ()),),
        gateway=Launch("mine", 1, 1, ()), told={}, context=1, concurrency=1, engine="llamacpp", size=1,
    )  # fmt: skip
    save_record(Home(deployer.home), record)
    refused = deployer("models", "remove", row["id"])
    assert refused.returncode == 1
    assert "deployer down mine" in refused.stderr
    save_record(Home(deployer.home), replace(record, generation=2, model_id="another", kept=1))
    refused = deployer("models", "remove", row["id"])
    assert refused.returncode == 1
    assert "mine can go back to generation 1" in refused.stderr
    assert deployer("models", "remove", row["id"], "--force").returncode == 0


def test_questions_that_make_no_sense(deployer: Caller, tmp_path: Path) -> None:
    assert deployer("models", "show", "nothing").returncode == 1
    assert deployer("pull", "ftp://a/b").returncode == 2
    assert deployer("models", "import", str(tmp_path / "missing.tar")).returncode == 2
    deployer("pull", ADDRESS)
    assert deployer("models", "export", str(tmp_path / "no/models.tar"), "a-model").returncode == 2


def test_the_rate_is_told_where_there_is_no_terminal(deployer: Caller) -> None:
    deployer.hub.manner.pause = 0.05
    told = deployer("pull", ADDRESS).stderr
    assert "model-1.safetensors: 330 kB, " in told
    assert "kB/s" in told


def test_what_cannot_be_converted_is_said_before_anything_runs(deployer: Caller) -> None:
    deployer("pull", ADDRESS)
    for wanted, said in [("awq", "gguf: with one of"), ("gguf:Q9_0", "Q8_0"), ("safetensors", "already")]:
        told = deployer("models", "convert", "a-model", "--to", wanted, "--runtime", "process")
        assert told.returncode == 2, told.stderr
        assert said in told.stderr
    assert deployer("models", "convert", "nothing", "--to", "int8").returncode == 1
    assert not (deployer.home / "engines").exists()
