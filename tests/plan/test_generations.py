"""One generation after another, as values: whether both fit, what the steps are, what changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import plan, profile
from deployer.home import Home
from deployer.host import Gpu, Memory, Unknown
from deployer.host.gpu import Process
from deployer.plan import Record, Step, Way, changes, door, follows, resolve, without
from deployer.plan.door import Side
from deployer.plan.record import generation, kept_units, refuse, save_record
from deployer.plan.steps import Accept, Clear, Open, Pause, Start, Switch
from deployer.profile import Profile
from deployer.runtimes import runtime
from deployer.sizing import catalogue
from deployer.sizing.wanted import served
from tests import hosts

NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
CPU = NAMED["cpu-small"]
GB = 10**9


def planned(home: Home, wanted: Profile, number: int, *, last: Record | None = None, **more: Any) -> tuple[Step, ...]:
    choice = resolve(hosts.NO_GPU, wanted, home=home, runtime=("docker", "so"), base="debian:x")
    runs = runtime("docker", home, "unix:///nowhere", {})
    return plan.steps(choice, home=home, runtime=runs, generation=number, last=last, **more)


def one(found: tuple[Step, ...], kind: type[Any]) -> Any:
    [step] = [step for step in found if isinstance(step, kind)]
    return step


def accepted(home: Home, wanted: Profile = CPU, number: int = 1, **more: Any) -> Record:
    """The record that an `up` of the profile leaves."""
    found = planned(home, wanted, number, last=more.pop("last", None))
    record = Record(
        name=wanted.name, profile=str(wanted.path), runtime="docker", url="http://127.0.0.1:8000/v1", model="m",
        kind="chat", model_id="m-1", key_file=None, accepted="2026-11-22T21:32:37Z", first_token=0.1, rate=40.0,
        generation=one(found, Switch).new.told["generation"], engines=one(found, Start).launches,
        gateway=one(found, Open).gateway, told=one(found, Switch).new.told, context=4096, concurrency=2,
        engine="llamacpp", size=GB, need=2 * GB, **more,
    )  # fmt: skip
    save_record(home, record)
    return record


def card(index: int, free: int) -> Gpu:
    return replace(hosts.gpu(index, name="a card", vram=24564, capability="8.9"), free_vram=free)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


SMALLER = replace(CPU, serving=replace(CPU.serving, context=2048))
TOLD = replace(CPU, gateway=replace(CPU.gateway, queue=7))


def kinds(found: tuple[Step, ...]) -> list[str]:
    return [type(step).__name__ for step in found][-6:]


def test_beside_the_old_one_nothing_is_stopped_before_the_switch(home: Home) -> None:
    now = accepted(home)
    found = planned(home, SMALLER, 2, last=now, now=now, way=Way(True, "beside generation 1", 0.8))
    assert kinds(found) == ["Clear", "Start", "Open", "Ready", "Accept", "Switch"]
    start, opened, accept, switch = (one(found, kind) for kind in (Start, Open, Accept, Switch))
    assert [launch.unit for launch in start.launches] == ["cpu-small/g2/1"]
    assert (opened.old.state, opened.new.state) == ("active", "candidate")
    assert [launch.unit for launch in opened.old.engines] == ["cpu-small/g1/1"]
    assert opened.gateway == now.gateway, "the door stays open"
    assert (accept.engines, accept.against.replica) == (("cpu-small/g2/1",), "g1-1")
    assert (switch.new.state, switch.old.engines) == ("active", now.engines)
    assert {launch.unit for launch in one(found, Clear).stays} == {"cpu-small", "cpu-small/g1/1", "cpu-small/g2/1"}
    assert "at least 80% of generation 1" in accept.title


def test_after_the_old_one_it_is_stopped_first_and_the_plan_says_so(home: Home) -> None:
    now = accepted(home)
    found = planned(home, SMALLER, 2, last=now, now=now, way=Way(False, "3 GB are needed, 1 GB are free", 0.8))
    assert kinds(found) == ["Pause", "Start", "Open", "Ready", "Accept", "Switch"]
    assert one(found, Pause).title == "stop generation 1 before the next one starts: 3 GB are needed, 1 GB are free"
    assert one(found, Open).old is None
    assert one(found, Accept).against.replica is None and one(found, Accept).against.rate == 40.0
    assert one(found, Switch).old.engines == now.engines


def test_what_only_the_gateway_is_told_starts_no_engine(home: Home) -> None:
    now = accepted(home)
    found = planned(home, TOLD, 2, last=now, now=now, way=Way(False, "no room"))
    assert kinds(found) == ["Clear", "Start", "Open", "Ready", "Accept", "Switch"]
    assert one(found, Start).launches == now.engines and one(found, Open).gateway == now.gateway
    assert one(found, Open).new.told["queue"] == 7 and one(found, Open).new.state == "active"
    assert one(found, Accept).against is None and one(found, Switch).old is None
    assert one(found, Switch).new.told["generation"] == 2


def test_the_same_again_is_the_same_generation(home: Home) -> None:
    last = accepted(home)
    found = planned(home, CPU, 2, last=last)  # after a reboot: nothing runs
    assert one(found, Start).launches == last.engines
    assert one(found, Switch).new.told == last.told, "also its number"


@pytest.mark.parametrize(
    ("need", "free", "beside", "words"),
    [
        (2 * GB, 2 * GB, True, "beside generation 1: 2 GB are needed, 2 GB are free"),
        (2 * GB + 1, 2 * GB, False, "2 GB are needed, 2 GB are free"),
        (None, 2 * GB, False, "what it needs beside that cannot be told"),
        (1, None, False, "what it needs beside that cannot be told"),
    ],
)
def test_beside_or_after(home: Home, need: int | None, free: int | None, beside: bool, words: str) -> None:
    facts = replace(hosts.NO_GPU, memory=Unknown("x") if free is None else Memory(64 * GB, free))
    way = follows(accepted(home), need, (), facts, share=0.5, drain=9)
    assert (way.beside, way.because, way.share, way.drain) == (beside, words, 0.5, 9)


def test_on_gpus_the_fullest_of_them_decides(home: Home) -> None:
    cards = tuple(card(n, free) for n, free in ((0, 20 * GB), (1, 5 * GB)))
    facts = replace(hosts.RTX, gpus=cards)
    names = tuple(str(card.uuid) for card in cards)
    now = accepted(home)
    assert follows(now, 6 * GB, names[:1], facts).beside
    assert not follows(now, 6 * GB, names, facts).beside
    assert not follows(now, 6 * GB, ("GPU-that-is-gone",), facts).beside


def test_what_a_deployment_holds_is_free_for_what_takes_its_place() -> None:
    held = (Process(10, 18 * GB, "engine", "root", None, "S"), Process(11, GB, "other", "root", None, "S"))
    facts = without(replace(hosts.RTX, gpus=(replace(card(0, 4 * GB), processes=held),)), {10})
    assert isinstance(facts.gpus, tuple) and facts.gpus[0].free_vram == 22 * GB


def test_of_the_systems_memory_what_is_no_files_is_counted() -> None:
    code = "import time; held = b'x' * (300 << 20); print(len(held), flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        facts = replace(hosts.NO_GPU, memory=Memory(64 * GB, 10 * GB))
        after = without(facts, {child.pid}).memory
        assert isinstance(after, Memory)
        assert 300 << 20 <= after.available - 10 * GB < 400 << 20
        full = replace(hosts.NO_GPU, memory=Memory(64 * GB, 64 * GB))
        assert without(full, {child.pid}).memory == full.memory, "no more than there is"
        child.kill()
    assert without(facts, {child.pid}) == facts


def test_history_says_what_changed(home: Home) -> None:
    first = accepted(home)
    second = accepted(home, SMALLER, 2, last=first, kept=1)
    assert changes(None, first) == ("model m-1", "engine llamacpp", "serves 2 × 4096 tokens")
    assert changes(first, second) == ("--ctx-size 8192 → 4096",)
    assert changes(first, first) == ()
    third = accepted(home, TOLD, 3, last=first)
    assert changes(first, third) == ("gateway.queue 64 → 7",)
    assert plan.generations(home, "cpu-small") == (1, 2, 3)
    assert generation(home, "cpu-small", 2) == second
    assert kept_units(home, second) == ("cpu-small/g1/1",)


def test_an_attempt_that_was_refused_is_in_it_and_a_folder_alone_is_not(home: Home) -> None:
    accepted(home)
    refuse(home, "cpu-small", 2, "too slow")
    (home.deployment("cpu-small") / "g3" / "1").mkdir(parents=True)  # of one that was killed
    assert plan.generations(home, "cpu-small") == (1, 2)
    said = plan.refused(home, "cpu-small", 2)
    assert said and said[1] == "too slow"
    assert plan.refused(home, "cpu-small", 1) is None


def test_a_record_of_another_version_is_no_record(home: Home) -> None:
    accepted(home)
    path = home.deployment("cpu-small") / "deployment.json"
    path.write_text(path.read_text().replace('"engines"', '"launch"'))
    assert plan.load_record(home, "cpu-small") is None


def test_one_engine_for_each_gpu(home: Home) -> None:
    two = NAMED["gpu-2x24gb"]
    cards = tuple(hosts.gpu(n, name="NVIDIA RTX 4090", vram=24564, capability="8.9") for n in (0, 1))
    facts = replace(hosts.RTX, gpus=cards)
    runs = runtime("docker", home, "unix:///nowhere", {})

    def started(replicas: int) -> tuple[Start, Side]:
        wanted = replace(two, serving=replace(two.serving, replicas=replicas))
        choice = resolve(facts, wanted, home=home, runtime=("docker", "so"), base="debian:x")
        found = plan.steps(choice, home=home, runtime=runs, generation=3)
        return one(found, Start), one(found, Open).new

    (whole,) = started(1)[0].launches
    assert whole.parts[0].gpus == ("0", "1")
    start, side = started(2)
    assert [launch.unit for launch in start.launches] == ["gpu-2x24gb/g3/1", "gpu-2x24gb/g3/2"]
    assert [launch.parts[0].gpus for launch in start.launches] == [("0",), ("1",)]
    door.tell("gpu-2x24gb", [side], home=home, runtime=runs)
    told = json.loads((home.gateway("gpu-2x24gb") / "gateway.json").read_text())
    assert [one["url"] for one in told["models"][0]["replicas"]] == ["http://g3-1:8080", "http://g3-2:8080"]


def test_engines_share_the_cores_and_need_memory_for_each(home: Home) -> None:
    wanted = replace(CPU, serving=replace(CPU.serving, replicas=3))
    start = one(planned(home, wanted, 1), Start)
    words = start.launches[0].parts[0].arguments
    assert len(start.launches) == 3 and words[words.index("--threads") + 1] == "2", "of eight"
    described = catalogue.of(NAMED["gpu-8gb"].model)
    assert described, "it is in the catalogue"
    single, three = (served(described, replace(CPU, serving=replace(CPU.serving, replicas=n)), 4096, 2) for n in (1, 3))
    assert three.total == 3 * single.total
    gpu = NAMED["gpu-2x24gb"]
    apart = served(described, replace(gpu, serving=replace(gpu.serving, replicas=2)), 4096, 2)
    assert apart.total == served(described, replace(gpu, requirements=replace(gpu.requirements, gpu=replace(
        gpu.requirements.gpu, count=1))), 4096, 2).total, "each has its own GPU"  # fmt: skip
