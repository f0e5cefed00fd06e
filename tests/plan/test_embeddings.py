"""A profile of an embedding model: what is planned, what is accepted, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import profile
from deployer.errors import AcceptanceFailed, ProfileError, Refused
from deployer.home import Home
from deployer.models import metadata, model_id
from deployer.plan import Choice, example, resolve, steps
from deployer.plan.acceptance import accept
from deployer.plan.kinds import agree
from deployer.plan.steps import Accept, Start, Switch
from deployer.profile import Profile
from deployer.runtimes import runtime
from deployer.sizing.memory import BATCH
from tests import hosts
from tests.servers import Handler, Server
from tests.sizing import ggufs

KEY = "sk-test-key"
GOOD = [[1.0, 0.0, 0.5], [0.9, 0.1, 0.5], [-0.5, 1.0, 0.1]]
LINES = """description: vectors
rank: 1
requirements: {{memory: 1 GB{need}}}
model: {{source: "{source}", kind: {kind}}}
engine: {engine}
variant: {variant}
serving: {{context: {context}, concurrency: 2}}
"""


def written(tmp_path: Path, **changed: Any) -> Profile:
    values = {"source": f"file://{tmp_path}/m.gguf", "kind": "embedding", "engine": "llamacpp", "variant": "cpu",
              "context": 512, "need": "", **changed}  # fmt: skip
    path = tmp_path / "vectors.yaml"
    path.write_text(LINES.format(**values))
    return profile.load(path)


# what is planned


def planned(wanted: Profile, home: Home, headers: Any = None) -> tuple[Choice, tuple[str, ...], Any]:
    """The choice, the engine's arguments, and what the gateway is told."""
    host = replace(hosts.NO_GPU if wanted.engine == "llamacpp" else hosts.H100, headers=headers or {})
    choice = resolve(host, wanted, home=home, runtime=("docker", "a reason"), base="debian:x")
    made = runtime("docker", home, "unix:///nowhere/docker.sock", {})
    found = steps(choice, home=home, runtime=made, generation=1)
    start = next(step for step in found if isinstance(step, Start))
    told = next(step for step in found if isinstance(step, Switch)).new.told
    return choice, start.launches[0].parts[0].arguments, told


@pytest.mark.parametrize(
    ("made", "batch"), [(ggufs.bert(), "512"), (None, "512"), ("last", None)], ids=["encoder", "nothing known", "last"]
)
def test_what_llamacpp_is_told_follows_from_the_headers(tmp_path: Path, made: Any, batch: str | None) -> None:
    """Where they are not known yet, as in a dry run, the most careful: a text in one piece."""
    if made == "last":
        made = ggufs.plain("qwen3", layers=1, h=64, heads=2, kv=1, wide=128, vocab=300, more={"pooling_type": 3})
    wanted = written(tmp_path)
    headers = {}
    if made:
        described = metadata.describe(ggufs.write(tmp_path / "m.gguf", *made))
        headers = {model_id(wanted.model, ("*.gguf",)): described}
    choice, arguments, told = planned(wanted, Home(tmp_path / "home"), headers)
    assert "--embeddings" in arguments
    assert ("--ubatch-size" in arguments) == ("--batch-size" in arguments) == (batch is not None) == choice.whole
    if batch:
        assert arguments[arguments.index("--ubatch-size") + 1] == batch
    assert told["models"][0]["paths"] == ["/v1/embeddings"]


def test_vllm_pools_and_reads_a_text_in_one_step(tmp_path: Path) -> None:
    gpu = ", gpu: {count: 1}"
    wanted = written(tmp_path, source="hf://a/b", engine="vllm", variant="cu130", context=8192, need=gpu)
    _, arguments, _ = planned(wanted, Home(tmp_path / "home"))
    assert arguments[arguments.index("--runner") + 1] == "pooling"
    assert arguments[arguments.index("--max-num-batched-tokens") + 1] == "8192" and BATCH < 8192


def test_transformers_is_refused_with_the_engines_that_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        written(tmp_path, engine="transformers")
    (problem,) = caught.value.problems
    assert "vectors.yaml:4: model.kind: transformers gives no embeddings (llamacpp does, vllm with GPUs)" in problem


def test_the_example_is_a_request_for_a_vector() -> None:
    line = example("http://127.0.0.1:8000", "m", "embedding", None)
    body = json.loads(line.partition("-d '")[2].removesuffix("'"))
    assert "/v1/embeddings" in line and set(body) == {"model", "input"}


# what the headers say


@pytest.mark.parametrize(
    ("kind", "pooling", "said"),
    [
        ("embedding", 1, None), ("embedding", 3, None), ("embedding", None, "become one vector"),
        ("embedding", 0, "become one vector"), ("embedding", 4, "scores texts"), ("chat", 2, "gives embeddings"),
        ("completion", 2, "gives embeddings"),
    ],
)  # fmt: skip
def test_a_model_of_another_kind(tmp_path: Path, kind: str, pooling: int | None, said: str | None) -> None:
    path = ggufs.write(tmp_path / "m.gguf", *ggufs.bert(pooling=pooling))
    wanted = written(tmp_path, kind=kind)
    if said is None:
        agree(wanted, path, False)
        return
    with pytest.raises(Refused, match=said) as caught:
        agree(wanted, path, False)
    assert caught.value.hint


# what is accepted


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., Accept]:
    def made(url: str, **changed: Any) -> Accept:
        (tmp_path / "key").write_text(f"{KEY}\n")
        values: dict[str, Any] = {
            "unit": "small", "url": url, "model": "small", "kind": "embedding", "key_file": tmp_path / "key",
            "first_token": 5.0, "per_token": 1e-9, "weights": tmp_path,
        }  # fmt: skip
        return Accept(**{**values, **changed})

    return made


def plays(vectors: Any, *, open: bool = False, usage: Any = None) -> Callable[[Handler], None]:
    """An engine that gives these vectors, the last first: their order is told by their index."""

    def play(handler: Handler) -> None:
        if not open and handler.seen.headers.get("authorization") != f"Bearer {KEY}":
            return handler.whole(401, b"{}")
        data = [{"index": n, "embedding": one} for n, one in enumerate(vectors)]
        return handler.whole(200, json.dumps({"data": data[::-1], "usage": usage}).encode())

    return play


def test_good_vectors_are_measured(step: Callable[..., Accept]) -> None:
    said: list[str] = []
    with Server(plays(GOOD, usage={"prompt_tokens": 30})) as server:
        measured = accept(step(server.url), None, say=said.append)
        assert [seen.path for seen in server.seen] == ["/v1/embeddings"] * 2
        assert "authorization" not in server.seen[0].headers
        assert len(json.loads(server.seen[1].body)["input"]) == 3
    assert measured.tokens == 30 and 0 < measured.first_token < 5
    assert measured.rate == pytest.approx(30 / measured.first_token)
    assert said == ["vectors of 3 numbers; cosine 0.99 between paraphrases, -0.26 to another sentence"]


def test_a_model_that_sees_no_paraphrase_is_accepted_and_it_is_said(step: Callable[..., Accept]) -> None:
    said: list[str] = []
    with Server(plays([GOOD[0], GOOD[2], GOOD[1]])) as server:
        assert accept(step(server.url), None, say=said.append).rate == 0, "no usage, no rate"
    assert "cosine -0.36 between paraphrases, 0.99 to another sentence: unless it does not know English" in said[0]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([GOOD[0]] * 3, "different texts have the same vector"),
        ([GOOD[0], GOOD[1], GOOD[1]], "different texts have the same vector"),
        (GOOD[:2], "2 vectors for 3 texts"),
        ([*GOOD[:2], [1.0, 2.0]], "not of one length"),
        ([*GOOD[:2], [1.0, float("nan"), 0.5]], "not a number"),
        ([*GOOD[:2], [1.0, None, 0.5]], "not a number"),
        ([*GOOD[:2], [1.0, "2", 0.5]], "not a number"),
        ([*GOOD[:2], [0.0, 0.0, 0.0]], "one number all over"),
        ([[0.5], [0.6], [0.7]], "holds no vectors"),
        (["AAAA", "BBBB", "CCCC"], "holds no vectors"),
    ],
)
def test_vectors_that_are_none(step: Callable[..., Accept], vectors: Any, said: str) -> None:
    with Server(plays(vectors)) as server, pytest.raises(AcceptanceFailed, match=said):
        accept(step(server.url), None)


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"data": null}', b'{"data": [{"embedding": [1]}]}', b"{}"])
def test_an_answer_that_is_none(step: Callable[..., Accept], body: bytes) -> None:
    def play(handler: Handler) -> None:
        handler.whole(200 if "authorization" in handler.seen.headers else 401, body)

    with Server(play) as server, pytest.raises(AcceptanceFailed, match="answers something else"):
        accept(step(server.url), None)


def test_a_door_that_is_open_and_an_answer_that_is_late(step: Callable[..., Accept]) -> None:
    with Server(plays(GOOD, open=True)) as server, pytest.raises(AcceptanceFailed, match="HTTP 200, not 401"):
        accept(step(server.url), None)
    with Server(plays(GOOD)) as server, pytest.raises(AcceptanceFailed, match=r"the answer took .* allows"):
        accept(step(server.url, first_token=1e-6), None)
