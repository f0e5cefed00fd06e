"""Requests and answers that are checked: by patterns, by a moderation endpoint, by a model that judges."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import BEARER, CHAT, OUTER, Engine, configure, gateway, model, replica
from tests.servers import Handler, Server, unused_port

HTTP = httpx.Client(trust_env=False, timeout=30)
WORD = {"patterns": {"secrets": r"pass\s*word"}}


def says(*words: str, done: bool = True, pause: float = 0.0) -> Callable[[Handler], None]:
    """An engine that streams these words, one event each, or answers with all of them."""

    def play(handler: Handler) -> None:
        if not json.loads(handler.seen.body).get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
            handler.whole(200, json.dumps({"model": OUTER, "choices": [choice]}).encode())
            return
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        try:
            for word in words:
                event = {"id": "c1", "model": OUTER, "choices": [{"index": 0, "delta": {"content": word}}]}
                handler.chunk(b"data: %s\n\n" % json.dumps(event).encode())
                time.sleep(pause)
            if done:
                handler.chunk(b"data: [DONE]\n\n")
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            handler.close_connection = True  # the gateway has heard enough

    return play


def ask(url: str, text: str = "Hello", **more: Any) -> httpx.Response:
    return HTTP.post(f"{url}{CHAT}", json={"messages": [{"role": "user", "content": text}], **more}, headers=BEARER)


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(answer: httpx.Response) -> str:
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events(answer))


@pytest.mark.parametrize(
    "content",
    ["my PASSWORD is", [{"type": "text", "text": "the pass word"}, {"type": "image_url", "image_url": {"url": "x"}}]],
    ids=["text", "parts"],
)
def test_a_request_that_matches_never_reaches_the_engine(tmp_path: Path, content: Any) -> None:
    with Engine() as engine:
        configure(tmp_path, model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path) as url:
            refused = ask(url, content)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
            assert "secrets" in refused.json()["error"]["message"]
            assert not engine.seen
            assert ask(url, "a passport").status_code == 200
            old = HTTP.post(f"{url}/v1/completions", json={"prompt": "password"}, headers=BEARER)
            assert old.status_code == 400
            assert HTTP.post(f"{url}/v1/responses", json={"input": "hi"}, headers=BEARER).status_code == 404


@pytest.mark.parametrize("where", [0, 1, 50, 199], ids=str)
def test_a_stream_ends_before_what_matches_can_be_read(tmp_path: Path, where: int) -> None:
    words = [f"w{n} " for n in range(200)]
    words[where : where + 1] = ["pass", "", "wo", "rd", " is 1234 "]
    with Engine() as engine:
        engine.play = says(*words)
        configure(tmp_path, model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path) as url:
            answer = ask(url, stream=True)
            said, last = text_of(answer), events(answer)[-1]
            assert "".join(words).startswith(said)
            assert "pass" not in said and "1234" not in said
            assert last["choices"][0]["finish_reason"] == "content_filter"
            assert len(said) >= max(0, len("".join(words[:where])) - 170), "what came long before it has been read"


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("size", [1, 3, 500])
def test_a_stream_that_may_pass_is_whole(tmp_path: Path, size: int, done: bool) -> None:
    words = ["x" * size] * 40
    with Engine() as engine:
        engine.play = says(*words, done=done)
        configure(tmp_path / "bare", model(replica(engine.url)))
        configure(tmp_path / "safe", model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path / "bare") as bare, gateway(tmp_path / "safe") as safe:
            assert ask(safe, stream=True).content == ask(bare, stream=True).content


def test_a_whole_answer_that_matches_is_emptied(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = says("the pass", "word is 1234")
        configure(tmp_path, model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path) as url:
            answer = ask(url)
            assert answer.status_code == 200
            (choice,) = answer.json()["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")
            assert "1234" not in answer.text


def test_only_what_was_asked_for_is_checked(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = says("password")
        configure(tmp_path / "a", model(replica(engine.url)), safety={**WORD, "after": False})
        configure(tmp_path / "b", model(replica(engine.url)), safety={**WORD, "before": False})
        with gateway(tmp_path / "a") as requests, gateway(tmp_path / "b") as answers:
            assert (ask(requests, "password").status_code, text_of(ask(requests, stream=True))) == (400, "password")
            assert (ask(answers, "password").status_code, text_of(ask(answers, stream=True))) == (200, "")


@pytest.mark.parametrize("kind", ["moderation", "model"])
def test_somebody_else_judges(tmp_path: Path, kind: str) -> None:
    asked: list[Any] = []

    def judge(handler: Handler) -> None:
        body = json.loads(handler.seen.body)
        asked.append(body)
        text = body["input"] if kind == "moderation" else body["messages"][0]["content"]
        bad = "poison" in text
        told: dict[str, Any] = {"results": [{"flagged": bad, "categories": {"violence": bad, "other": False}}]}
        if kind == "model":
            told = {"choices": [{"message": {"content": "\n\nunsafe\nS9" if bad else "\n\nsafe"}}]}
        handler.whole(200, json.dumps(told).encode())

    with Engine() as engine, Server(judge) as other:
        engine.play = says(*(f"word{n} " for n in range(100)), "poison", *(f"word{n} " for n in range(10)))
        rules = {"url": f"{other.url}/x", "kind": kind, "model": "guard", "window": 50}
        configure(tmp_path, model(replica(engine.url)), safety=rules)
        with gateway(tmp_path) as url:
            refused = ask(url, "poison")
            assert refused.status_code == 400
            assert ("violence" if kind == "moderation" else "S9") in refused.json()["error"]["message"]
            answer = ask(url, stream=True)
            assert "poison" not in text_of(answer)
            assert "word80 " in text_of(answer)
            assert events(answer)[-1]["choices"][0]["finish_reason"] == "content_filter"
            assert {one["model"] for one in asked} == {"guard"}
            assert 8 < len(asked) < 30, "once for each window, not for each word"


@pytest.mark.parametrize(("otherwise", "status"), [("refuse", 503), ("pass", 200)])
@pytest.mark.parametrize("how", ["gone", "nonsense"])
def test_a_judge_that_does_not_answer(tmp_path: Path, otherwise: str, status: int, how: str) -> None:
    with Engine() as engine, Server(lambda handler: handler.whole(200, b"hello")) as other:
        engine.play = says("fine")
        address = other.url if how == "nonsense" else f"http://127.0.0.1:{unused_port()}"
        configure(tmp_path, model(replica(engine.url)), safety={"url": address, "otherwise": otherwise})
        with gateway(tmp_path) as url:
            assert ask(url).status_code == status


def test_what_is_blocked_ends_the_generation(tmp_path: Path) -> None:
    closed = threading.Event()

    def play(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        event = {"choices": [{"index": 0, "delta": {"content": "password"}}]}
        handler.chunk(b"data: %s\n\n" % json.dumps(event).encode())
        handler.connection.settimeout(10)
        if handler.connection.recv(1) == b"":
            closed.set()
        handler.close_connection = True

    with Engine() as engine:
        engine.play = play
        configure(tmp_path, model(replica(engine.url)), safety=WORD)
        with gateway(tmp_path) as url:
            assert text_of(ask(url, stream=True)) == ""
            assert closed.wait(5)
