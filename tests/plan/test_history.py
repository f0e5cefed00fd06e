"""What was measured beside what was expected: kept line by line, and read by whatever version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import profile
from deployer.home import Home
from deployer.plan import Record, history, resolve
from deployer.plan.acceptance import Measured
from deployer.plan.history import Measurement
from deployer.runtimes import Launch
from deployer.sizing import catalogue
from deployer.sizing.devices import Device
from tests import hosts

NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
SMALL = catalogue.find("SmolLM2-135M-Instruct")
assert SMALL
PROCESSOR = Device("cpu", "some processor", 1, 8 << 30, 8 << 30, 20e9, "ddr")
RECORD = Record(
    name="cpu-small", profile="p.yaml", runtime="process", url="http://127.0.0.1:8000/v1", model="m", kind="chat",
    model_id="m-123", key_file=None, accepted="2026-01-31T12:00:00Z", first_token=0.0512, rate=88.5,
    generation=1,
    engines=(Launch("cpu-small/g1/1", 1, None, ()),),
    gateway=Launch("cpu-small", 1, 8000, ()),
    told={"generation": 1},
    context=4096,
    concurrency=2,
    engine="llamacpp",
    size=98362432,
)  # fmt: skip
ANSWER = Measured("Paris.", 24, 0.05123, 88.512)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def fit(*words: str, home: Home) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployer", "fit", *words]
    env = {**os.environ, "DEPLOYER_HOME": str(home.root)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def made(home: Home, device: Device | None, *, known: bool = True) -> Measurement:
    choice = resolve(
        hosts.NO_GPU, NAMED["cpu-small"], home=home, runtime=("process", "a reason"), base="debian:x"
    )
    model = SMALL.description("Q4_1") if known and SMALL else None
    return history.measured(RECORD, choice, device, ANSWER, loaded=1.234, memory=400_000_000, model=model)


def test_the_expected_stands_beside_the_measured(home: Home) -> None:
    one = made(home, PROCESSOR)
    assert (one.rate, one.first_token, one.load, one.memory) == (88.5, 0.0512, 1.23, 400_000_000)
    assert (one.device, one.context, one.users) == ("some processor", 4096, 2)
    assert one.expected_rate and 20 < one.expected_rate < 250  # 20 GB/s over 90 MB, at most
    assert one.expected_load == pytest.approx(SMALL.description("Q4_1").weights / 2e9, abs=0.01)  # type: ignore[union-attr]
    assert one.expected_memory and one.expected_memory > SMALL.description("Q4_1").weights  # type: ignore[union-attr]


def test_what_sizing_does_not_know_is_left_open(home: Home) -> None:
    nothing = made(home, PROCESSOR, known=False)
    assert (nothing.expected_rate, nothing.expected_load, nothing.expected_memory) == (None, None, None)
    dark = made(home, replace(PROCESSOR, speed=None))
    assert dark.expected_rate is None and dark.expected_memory
    assert made(home, None).device == "?"


def test_lines_are_added_and_read_in_their_order(home: Home) -> None:
    assert history.read(home) == ()
    first = made(home, PROCESSOR)
    second = replace(first, rate=90.0, expected_rate=None)
    for one in (first, second):
        history.add(home, one)
    assert history.read(home) == (first, second)
    with (home.root / "history.jsonl").open("a") as file:
        file.write('{"at": "later", "a_field_of": "another version"}\nnot JSON at all\n')
    assert history.read(home) == (first, second)


def test_the_command_shows_both(home: Home) -> None:
    empty = fit("--history", home=home)
    assert empty.returncode == 0 and not empty.stdout and "nothing was measured here yet" in empty.stderr
    history.add(home, replace(made(home, PROCESSOR), expected_rate=100.0))
    history.add(home, replace(made(home, None, known=False), deployment="other"))
    shown = fit("--history", home=home).stdout.splitlines()
    assert len(shown) == 3 and shown[1].startswith("2026-01-31 12:00  cpu-small")
    assert "88.5" in shown[1] and "100" in shown[1] and "400 MB" in shown[1]
    assert "?" in shown[2]
    one = fit("other", "--history", "--json", home=home).stdout
    assert [row["deployment"] for row in json.loads(one)["history"]] == ["other"]
