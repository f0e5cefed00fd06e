"""A model that gives vectors: a tiny BERT with random weights, served by llama.cpp, /v1/embeddings."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import Box
from tests.sizing import ggufs

pytestmark = pytest.mark.e2e
WIDTH, CONTEXT = 64, 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ggufs.random(tmp_path_factory.mktemp("bert") / "bert.gguf", *ggufs.bert(h=WIDTH, context=CONTEXT))


def written(box: Box, model: Path, **changes: str) -> str:
    values = {"kind": "embedding", "engine": "llamacpp", "serving": "{concurrency: 2}", **changes}
    path = box.home.parent / "vectors.yaml"
    path.write_text(
        "description: vectors\nrank: 1\nrequirements: {memory: 200 MB}\n"
        f"model: {{source: 'file://{model}', kind: {values['kind']}}}\n"
        f"engine: {values['engine']}\nvariant: cpu\nserving: {values['serving']}\n"
    )
    return str(path)


def test_a_model_gives_vectors_through_the_gateway(box: Box, runtime: str, model: Path) -> None:
    result = box.up(written(box, model), "--runtime", runtime)
    key = Path(result["key_file"]).read_text().strip()
    assert result["tokens_per_s"] > 0 and 0 < result["first_token_s"] < 10
    assert "/v1/embeddings" in result["example"]
    texts = ["a cat", "a dog that sleeps", "the price of tea"]
    with openai.OpenAI(base_url=result["url"], api_key=key, max_retries=0) as api:
        plain = api.embeddings.create(model=result["model"], input=texts, encoding_format="float")
        packed = api.embeddings.create(model=result["model"], input=texts)  # in base64, which the client unpacks
        assert [one.index for one in plain.data] == [0, 1, 2]
        for one, other in zip(plain.data, packed.data, strict=True):
            assert len(one.embedding) == WIDTH and math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert plain.usage.prompt_tokens == plain.usage.total_tokens == sum(2 + len(t.replace(" ", "")) for t in texts)
        assert api.embeddings.create(model=result["model"], input="a cat").data[0].embedding == pytest.approx(
            plain.data[0].embedding, abs=1e-4
        )
        with pytest.raises(openai.BadRequestError, match="has 302 tokens; the model reads 256"):
            api.embeddings.create(model=result["model"], input="x" * 50 + " y" * 250)
        with pytest.raises(openai.BadRequestError, match="leave `dimensions` out"):
            api.embeddings.create(model=result["model"], input="x", dimensions=8)
        with pytest.raises(openai.NotFoundError, match="it has /v1/embeddings"):
            api.chat.completions.create(model=result["model"], messages=[{"role": "user", "content": "hi"}])
    headers = {"Authorization": f"Bearer {key}"}
    raw = post(result, headers, {"input": "a cat", "encoding_format": "base64"})
    assert struct.unpack(f"<{WIDTH}f", base64.b64decode(raw.json()["data"][0]["embedding"]))
    assert post(result, {}, {"input": "a cat"}).status_code == 401
    assert "does not chat" in box.run("chat", "hello", code=2).stderr

    told = httpx.get(f"{result['url'].removesuffix('/v1')}/metrics", headers=headers, trust_env=False).text
    assert 'requests_total{code="200",model_name="bert",path="/v1/embeddings"}' in told
    (kept,) = box.json("fit", "--history")["history"]
    assert kept["expected_rate"] is None and kept["expected_memory"] > 0
    assert box.up(written(box, model), "--runtime", runtime)["changed"] is False
    assert box.run("watch", "--once").returncode == 0, "a vector is as good a sign of life as a token"


def post(result: Any, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{result['url']}/embeddings", headers=headers, json=body, trust_env=False, timeout=30)


@pytest.mark.parametrize(
    ("pooling", "kind", "said", "hint"),
    [
        (1, "chat", "the model gives embeddings", "set model.kind to embedding"),
        (None, "embedding", "does not say how the tokens of a text become one vector", "modules.json"),
        (4, "embedding", "it gives no embeddings", "take an embedding model"),
    ],
)
def test_a_model_of_another_kind_is_refused_before_it_is_started(
    box: Box, tmp_path: Path, pooling: int | None, kind: str, said: str, hint: str
) -> None:
    path = ggufs.random(tmp_path / "bert.gguf", *ggufs.bert(pooling=pooling))
    done = box.run("up", written(box, path, kind=kind), "--runtime", "process", "--port", str(box.port), code=1)
    assert said in done.stderr and hint in done.stderr
    assert not box.processes()


def test_weights_that_give_the_same_vector_for_all_texts_are_not_accepted(box: Box, tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "zeros.gguf", *ggufs.bert())
    done = box.run("up", written(box, path), "--runtime", "process", "--port", str(box.port), code=1)
    assert "vector" in done.stderr and "damaged weights" in done.stderr


def test_fit_writes_a_profile_that_up_takes(box: Box, model: Path) -> None:
    told = box.json("fit", str(model))
    assert {one["engine"] for one in told["answers"]} == {"llamacpp"}
    assert told["model"]["layers"] == {"encoder": 2} and told["answers"][0]["memory"]["parts"]["cache"] == 0
    path = box.home.parent / "fitted.yaml"
    box.run("fit", str(model), "--users", "2", "--profile", str(path))
    assert "kind: embedding" in path.read_text()
    assert json.loads(box.run("up", str(path), "--port", str(box.port), "--dry-run", "--json").stdout)["steps"]
