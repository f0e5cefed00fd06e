"""Conversations that outgrow the context: refused, or cut at their oldest turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import BEARER, CHAT, Engine, answer_at_once, configure, gateway, model, replica
from tests.servers import Handler

HTTP = httpx.Client(trust_env=False, timeout=30)
COUNT = "/v1/chat/completions/input_tokens"


def counts(handler: Handler) -> None:
    """An engine that counts ten tokens for each message and one for each character."""
    if handler.path != COUNT:
        answer_at_once(handler)
        return
    messages = json.loads(handler.seen.body)["messages"]
    told = sum(10 + len(one["content"]) for one in messages)
    handler.whole(200, json.dumps({"object": "response.input_tokens", "input_tokens": told}).encode())


def talk(turns: int, size: int = 90) -> list[dict[str, str]]:
    """Ten tokens of the system, and turns of two messages with `size` + 10 each, the last without its answer."""
    found = [{"role": "system", "content": ""}]
    for turn in range(turns):
        found.append({"role": "user", "content": f"{turn:0{size}}"})
        found.append({"role": "assistant", "content": "a" * size})
    return found[:-1]


def ask(url: str, messages: list[dict[str, str]], **more: Any) -> httpx.Response:
    return HTTP.post(f"{url}{CHAT}", json={"messages": messages, **more}, headers=BEARER)


def sent(engine: Engine) -> list[Any]:
    found: list[Any] = json.loads(next(seen for seen in engine.seen if seen.path == CHAT).body)["messages"]
    return found


@pytest.mark.parametrize(
    ("turns", "more", "fits"),
    [
        (4, {"max_tokens": 290}, True), (4, {"max_tokens": 291}, False), (4, {"max_completion_tokens": 291}, False),
        (4, {}, True), (5, {}, False), (1, {"max_tokens": 10**9}, False),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_engine_reads_it(
    tmp_path: Path, turns: int, more: dict[str, Any], fits: bool
) -> None:
    """1000 tokens of context; four turns are 710 tokens, five 910; an eighth is kept where nothing is asked for."""
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=1000))
        with gateway(tmp_path) as url:
            answer = ask(url, talk(turns), **more)
            assert answer.status_code == (200 if fits else 400)
            assert (CHAT in [seen.path for seen in engine.seen]) is fits
            if not fits:
                assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_prompt_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=100_000, prompt=700))
        with gateway(tmp_path) as url:
            assert ask(url, talk(3)).status_code == 200
            assert ask(url, talk(4)).status_code == 400


@pytest.mark.parametrize(("turns", "max_tokens", "dropped"), [(4, 290, 0), (4, 291, 2), (50, 290, 92), (4, 889, 6)])
def test_the_oldest_turns_are_left_out_and_that_is_told(
    tmp_path: Path, turns: int, max_tokens: int, dropped: int
) -> None:
    whole = talk(turns)
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=1000, overflow="drop-oldest"))
        with gateway(tmp_path) as url:
            answer = ask(url, whole, max_tokens=max_tokens)
            assert answer.status_code == 200
            assert answer.headers.get("x-deployer-dropped-messages") == (str(dropped) if dropped else None)
            assert sent(engine) == [whole[0], *whole[1 + dropped :]]


def test_a_last_turn_that_is_too_long_alone_is_refused(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=1000, overflow="drop-oldest"))
        with gateway(tmp_path) as url:
            last = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b" * 2000}]
            answer = ask(url, [*talk(2), *last])
            assert answer.status_code == 400
            assert CHAT not in [seen.path for seen in engine.seen]


def test_short_prompts_are_not_counted(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=4096))
        with gateway(tmp_path) as url:
            assert ask(url, talk(2)).status_code == 200
            assert [seen.path for seen in engine.seen] == [CHAT]


def test_an_engine_that_cannot_count_judges_itself(tmp_path: Path) -> None:
    with Engine() as engine:
        configure(tmp_path, model(replica(engine.url), context=100, engine="transformers", overflow="drop-oldest"))
        with gateway(tmp_path) as url:
            assert ask(url, talk(9)).status_code == 200
            assert sent(engine) == talk(9)
