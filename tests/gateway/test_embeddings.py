"""/v1/embeddings through the gateway: what is counted, refused, and left to the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import BEARER, CHAT, INNER, OUTER, Engine, configure, gateway, hashed, model, replica
from tests.gateway.test_safety import WORD
from tests.servers import Handler, Server

HTTP = httpx.Client(trust_env=False, timeout=30)
PATH = "/v1/embeddings"
VECTORS = [{"object": "embedding", "index": n, "embedding": [0.125] * 3000} for n in range(3)]


def vectors(handler: Handler, *, first: bool = True) -> None:
    """As llama.cpp answers, which tells usage before the vectors, or as vLLM does, which tells it behind them."""
    ends: list[dict[str, Any]] = [{"usage": {"prompt_tokens": 34, "total_tokens": 34}}, {"data": VECTORS}]
    value = {"model": INNER, "object": "list"}
    for part in ends if first else reversed(ends):
        value |= part
    handler.whole(200, json.dumps(value).encode())


def served(engine: Server, /, **more: Any) -> dict[str, Any]:
    return {**model(replica(engine.url, **more.pop("place", {}))), "paths": [PATH], **more}


def post(url: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{url}{PATH}", json={"model": OUTER, "input": "hi", **body}, headers=BEARER)


@pytest.mark.parametrize("first", [True, False], ids=["llamacpp", "vllm"])
def test_the_answer_is_renamed_and_its_tokens_are_counted_wherever_they_stand(tmp_path: Path, first: bool) -> None:
    with Engine() as engine:
        engine.play = lambda handler: vectors(handler, first=first)
        key = {"name": "owner", "hash": hashed("sk-right"), "tokens": 30}
        configure(tmp_path, served(engine), keys=[key])
        with gateway(tmp_path) as url:
            answer = post(url, encoding_format="float")
            assert answer.json()["model"] == OUTER and answer.json()["data"] == VECTORS
            assert post(url).status_code == 429, "34 of 30 tokens a minute are used up"
            told = HTTP.get(f"{url}/metrics", headers=BEARER).text
    assert f'deployer_prompt_tokens_total{{model_name="{OUTER}"}} 34.0' in told
    assert f'deployer_generation_tokens_total{{model_name="{OUTER}"}} 0.0' in told


@pytest.mark.parametrize(
    ("engine_name", "body", "sent"),
    [
        ("llamacpp", {"encoding_format": None, "dimensions": None, "user": "u"}, {"user": "u"}),
        ("llamacpp", {"encoding_format": "base64", "content": "x"}, {"encoding_format": "base64"}),
        ("llamacpp", {"dimensions": 64}, None),
        ("vllm", {"dimensions": 64, "encoding_format": "base64"}, {"dimensions": 64, "encoding_format": "base64"}),
    ],
)
def test_what_reaches_the_engine(
    tmp_path: Path, engine_name: str, body: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    with Engine() as engine:
        engine.play = vectors
        configure(tmp_path, served(engine, engine=engine_name))
        with gateway(tmp_path) as url:
            answer = post(url, **body)
            if sent is None:
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")
                assert not engine.seen
            else:
                assert answer.status_code == 200
                assert json.loads(engine.seen[0].body) == {"model": INNER, "input": "hi", **sent}


def test_a_text_that_is_too_long_is_the_clients_mistake(tmp_path: Path) -> None:
    """The words are llama.cpp's (0c1e570), which takes it for a failure of its own."""
    said = "input (702 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    with Engine() as engine:
        body = json.dumps({"error": {"code": 500, "message": said, "type": "server_error"}}).encode()
        engine.play = lambda handler: handler.whole(500, body)
        configure(tmp_path, served(engine))
        with gateway(tmp_path) as url:
            answer = post(url)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
            assert error["message"] == "the input has 702 tokens; the model reads 512"
            told = HTTP.get(f"{url}/metrics", headers=BEARER).text
            assert 'cause="context_length_exceeded"' in told
            engine.play = lambda handler: handler.whole(500, b'{"error": {"message": "out of memory"}}')
            assert post(url).status_code == 500


def test_what_the_model_does_is_told(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = vectors
        configure(tmp_path, served(engine))
        with gateway(tmp_path) as url:
            (one,) = HTTP.get(f"{url}/v1/models", headers=BEARER).json()["data"]
            assert one["paths"] == [PATH]
            refused = HTTP.post(f"{url}{CHAT}", json={"messages": []}, headers=BEARER)
            assert (refused.status_code, refused.json()["error"]["message"]) == (
                404, f"the engine of `{OUTER}` has no {CHAT}; it has {PATH}",
            )  # fmt: skip
            assert HTTP.post(f"{url}{PATH}", json={}).status_code == 401
            assert HTTP.get(f"{url}{PATH}", headers=BEARER).status_code == 405
            assert not engine.seen
        configure(tmp_path, model(replica(engine.url)))
        with gateway(tmp_path) as url:
            assert post(url).status_code == 404, "a chat model has none"


@pytest.mark.parametrize(
    "text",
    ["my PASSWORD is", ["fine", "my password is"], [[1, 2, 3]], [1, 2, 3], [{"content": "password"}], 5],
    ids=["text", "texts", "lists of tokens", "tokens", "parts", "a number"],
)
def test_what_may_not_pass_is_not_embedded(tmp_path: Path, text: Any) -> None:
    with Engine() as engine:
        engine.play = vectors
        configure(tmp_path, served(engine), safety=WORD)
        with gateway(tmp_path) as url:
            refused = post(url, input=text)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
            assert not engine.seen
            assert post(url, input=["fine", "good"]).json()["data"] == VECTORS


def test_tokens_by_their_numbers_do_not_pass_a_check_of_texts(tmp_path: Path) -> None:
    with Engine() as engine:
        configure(tmp_path, model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path) as url:
            body = {"prompt": [1, 2, 3]}
            assert HTTP.post(f"{url}/v1/completions", json=body, headers=BEARER).status_code == 400
            assert not engine.seen


def test_another_models_vectors_are_never_given_instead(tmp_path: Path) -> None:
    with Engine() as engine, Server() as there:
        remote = {"url": f"{there.url}/v1", "model": "large", "when": ["full", "too-long"]}
        configure(tmp_path, served(engine, place={"slots": 0}), remote=remote, queue=0)
        with gateway(tmp_path) as url:
            assert post(url).status_code == 429
            assert not there.seen
