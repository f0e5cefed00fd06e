"""Context, concurrency and the share of a GPU's memory: what the plan takes where the profile leaves them open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployer import models, profile
from deployer.engines import engine
from deployer.errors import QuestionError
from deployer.home import Home
from deployer.host import Host, Unknown
from deployer.plan import Choice, resolve
from deployer.plan.steps import Fit, Start, steps
from deployer.profile import GpuNeed, Profile, Serving
from deployer.runtimes import runtime
from deployer.sizing import catalogue
from tests import hosts

NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
CPU, GPU, TWO = NAMED["cpu-small"], NAMED["gpu-24gb"], NAMED["gpu-2x24gb"]
ANY = replace(GPU, requirements=replace(GPU.requirements, gpu=GpuNeed()))  # any card, however full
ADA = replace(hosts.RTX, gpus=(hosts.gpu(name="NVIDIA GeForce RTX 4090", vram=24564, capability="8.9"),))
SMALL = catalogue.find("SmolLM2-135M-Instruct")
assert SMALL


def with_headers(host: Host, wanted: Profile) -> Host:
    assert SMALL
    id_ = models.model_id(wanted.model, engine(wanted.engine).files)
    return replace(host, headers={id_: SMALL.compact("Q4_0")})


def chosen(host: Host, wanted: Profile, home: Home, before: tuple[int, int, str] | None = None) -> Choice:
    return resolve(host, wanted, home=home, runtime=("docker", "a reason"), base="debian:x", before=before)


def left_open(wanted: Profile, **named: int) -> Profile:
    return replace(wanted, serving=Serving(**named))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_what_the_profile_names_is_taken_without_a_word(home: Home) -> None:
    found = chosen(hosts.NO_GPU, CPU, home)
    assert (found.context, found.concurrency) == (4096, 2)
    assert not any(reason.startswith("serving") for reason in found.reasons)


def test_what_it_leaves_open_follows_from_the_memory_and_is_said(home: Home) -> None:
    found = chosen(with_headers(hosts.NO_GPU, CPU), left_open(CPU), home)
    assert (found.context, found.concurrency) == (8192, 4)
    assert any(reason.startswith("serving: 4 × 8192 tokens: what ") for reason in found.reasons)


def test_the_engine_is_started_with_it_and_it_is_looked_at_again_after_the_pull(home: Home) -> None:
    found = chosen(with_headers(hosts.NO_GPU, CPU), left_open(CPU, concurrency=3), home)
    made = steps(found, home=home, runtime=runtime("docker", home, "unix:///nowhere", {}), generation=1)
    fit = next(step for step in made if isinstance(step, Fit))
    assert (fit.context, fit.concurrency, fit.number) == (8192, 3, "f16")
    words = next(step for step in made if isinstance(step, Start)).launches[0].parts[0].arguments
    assert words[words.index("--ctx-size") + 1] == str(3 * 8192)
    assert words[words.index("--parallel") + 1] == "3"


def test_an_earlier_choice_stays_beside_what_runs_now(home: Home) -> None:
    full = with_headers(replace(hosts.NO_GPU, memory=Unknown("lost")), CPU)
    found = chosen(full, left_open(CPU, concurrency=2), home, before=(2048, 4, "as it was"))
    assert (found.context, found.concurrency) == (2048, 2)
    # what the profile names now goes before
    named = chosen(full, CPU, home, before=(2048, 4, "as it was"))
    assert (named.context, named.concurrency) == (4096, 2)


def test_without_headers_it_is_one_user_with_4096_tokens(home: Home) -> None:
    found = chosen(hosts.NO_GPU, left_open(CPU), home)
    assert (found.context, found.concurrency) == (4096, 1)
    assert any("not known yet" in reason for reason in found.reasons)


def test_what_the_gpu_does_not_hold_is_refused_before_anything_is_fetched(home: Home) -> None:
    small = replace(hosts.RTX, gpus=(hosts.gpu(name="some card", vram=8188, capability="8.9"),))
    with pytest.raises(QuestionError, match="is needed for 4096 tokens"):
        chosen(small, left_open(ANY), home)


@pytest.mark.parametrize(
    ("free", "share"),
    [(24564, 0.92), (24000, 0.92), (20000, 0.80), (Unknown("lost"), 0.92)],
    ids=["all of it", "more than enough", "others hold some", "nobody knows"],
)
def test_the_share_of_memory_follows_from_what_is_free(home: Home, free: int | Unknown, share: float) -> None:
    (card,) = ADA.gpus if not isinstance(ADA.gpus, Unknown) else ()
    left = free if isinstance(free, Unknown) else free << 20
    found = chosen(replace(ADA, gpus=(replace(card, free_vram=left),)), ANY, home)
    assert found.share == share


def test_vllm_is_told_all_of_it_and_may_run_what_it_compiles(home: Home) -> None:
    cards = tuple(hosts.gpu(n, name="NVIDIA GeForce RTX 4090", vram=24564, capability="8.9") for n in (0, 1))
    wanted = replace(TWO, engine="vllm", image="vllm", serving=Serving(concurrency=32, cache="8-bit"))
    found = chosen(replace(ADA, gpus=cards), wanted, home)
    made = steps(found, home=home, runtime=runtime("docker", home, "unix:///nowhere", {}), generation=1)
    start = next(step for step in made if isinstance(step, Start))
    part = start.launches[0].parts[0]
    told = dict(zip(part.arguments, part.arguments[1:], strict=False))
    assert told["--tensor-parallel-size"] == "2" and told["--max-num-seqs"] == "32"
    assert told["--max-model-len"] == str(found.context) and found.context > 512
    assert told["--gpu-memory-utilization"] == "0.92" and told["--kv-cache-dtype"] == "fp8"
    (line,) = [line for line in start.shell if line.startswith("docker run ")]
    assert part.compiles and "exec" in line.split("--tmpfs ")[1].split()[0]
    assert f"--shm-size {1 << 30} --ulimit memlock=-1:-1 --ulimit stack=67108864:67108864" in line
