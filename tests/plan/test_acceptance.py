"""`accept` against servers that play a good engine and many bad ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import AcceptanceFailed
from deployer.plan.acceptance import RETRIES_S, TOKENS, Measured, accept
from deployer.plan.steps import Accept, Against
from tests.servers import Handler, Server, unused_port

KEY = "sk-test-key"
WORDS = ("The", " capital", " of", " France", " is", " Paris", ".")
TEXT = "".join(WORDS)


@dataclass
class Play:
    """What the engine does. `delays` are seconds before the first piece, one for each answer, the last
    for all that follow; `gap` is between pieces; `after` is written raw behind the pieces."""

    pieces: Sequence[str] = WORDS
    carrier: str = "content"
    delays: list[float] = field(default_factory=lambda: [0.0])
    gap: float = 0.01
    usage: Any = None
    after: bytes = b"data: [DONE]\n\n"
    cut: bool = False
    status: int = 200
    key: str | None = KEY
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, handler: Handler) -> None:
        if self.key and handler.seen.headers.get("authorization") != f"Bearer {self.key}":
            return handler.whole(401, b'{"error": {"message": "no key"}}')
        if self.status != 200:
            return handler.whole(self.status, b'{"error": {"message": "CUDA out of memory"}}')
        body = json.loads(handler.seen.body)
        self.asked.append(body)
        if not body.get("stream"):
            return handler.whole(200, b'{"choices": []}')
        chat = handler.path == "/v1/chat/completions"
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        time.sleep(self.delays.pop(0) if len(self.delays) > 1 else self.delays[0])
        if chat:
            handler.chunk(b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n')
        for number, piece in enumerate(self.pieces):
            if number:
                time.sleep(self.gap)
            choice = {"delta": {self.carrier: piece}} if chat else {"text": piece}
            handler.chunk(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        if self.usage is not None:
            handler.chunk(f"data: {json.dumps({'choices': [], 'usage': self.usage})}\n\n".encode())
        if self.after:
            handler.chunk(self.after)
        if self.cut:
            return handler.hang_up()
        handler.wfile.write(b"0\r\n\r\n")
        return None


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., Accept]:
    def made(url: str, **changed: Any) -> Accept:
        (tmp_path / "key").write_text(f"{KEY}\n")
        values: dict[str, Any] = {
            "unit": "small", "url": url, "model": "small", "kind": "chat", "key_file": tmp_path / "key",
            "first_token": 5.0, "per_token": 1.0, "weights": tmp_path,
        }  # fmt: skip
        return Accept(**{**values, **changed})

    return made


def accepted(step: Callable[..., Accept], play: Play, floor: float | None = None, **changed: Any) -> Measured:
    with Server(play) as server:
        return accept(step(server.url, **changed), floor)


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_good_answer_is_measured(step: Callable[..., Accept], kind: str) -> None:
    play = Play(delays=[0.2], gap=0.05, usage={"completion_tokens": 7})
    measured = accepted(step, play, kind=kind)
    assert measured.text == TEXT
    assert measured.tokens == 7
    assert 0.2 <= measured.first_token < 2
    assert 2 < measured.rate < 40  # 20 is what the gaps allow, give or take the scheduler


def test_what_is_asked(step: Callable[..., Accept]) -> None:
    play = Play()
    with Server(play) as server:
        accept(step(server.url), None)
        assert [seen.path for seen in server.seen] == ["/v1/chat/completions"] * 2
        assert [seen.headers.get("authorization") for seen in server.seen] == [None, f"Bearer {KEY}"]
    (body,) = play.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("small", 0, TOKENS)
    assert body["messages"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [(None, 7), ({"completion_tokens": 14}, 14), ({"completion_tokens": 3}, 7), ({}, 7), ("odd", 7)],
    ids=["not-told", "more-than-pieces", "fewer-than-pieces", "empty", "text"],
)
def test_tokens_are_those_of_the_engine_or_the_pieces(
    step: Callable[..., Accept], usage: Any, expected: int
) -> None:
    assert accepted(step, Play(usage=usage)).tokens == expected


def test_thinking_counts_as_an_answer(step: Callable[..., Accept]) -> None:
    assert accepted(step, Play(carrier="reasoning_content")).text == TEXT


def test_a_stream_may_end_without_a_last_word(step: Callable[..., Accept]) -> None:
    assert accepted(step, Play(after=b": a comment\n\n")).text == TEXT


def test_without_a_key_nobody_is_refused(step: Callable[..., Accept]) -> None:
    play = Play(key=None)
    with Server(play) as server:
        accept(step(server.url, key_file=None), None)
        assert len(server.seen) == 1
        assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(Play(pieces=()), id="nothing"),
        pytest.param(Play(pieces=("", "")), id="empty-pieces"),
        pytest.param(Play(pieces=("\n", "  ", "\t")), id="blanks"),
        pytest.param(Play(pieces=(), after=b'data: {"choices": [null, 3]}\n\ndata: 7\n\n'), id="odd-events"),
        pytest.param(Play(pieces=(), after=b'{"choices": [{"message": {"content": "x"}}]}'), id="no-events"),
    ],
)
def test_an_empty_answer(step: Callable[..., Accept], play: Play) -> None:
    with pytest.raises(AcceptanceFailed, match="answer is empty") as caught:
        accepted(step, play)
    assert "wrong chat template" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(["�"] * 8, id="replacement-characters"),
        pytest.param(["Paris", "���"], id="partly"),
        pytest.param(["\x00\x01\x02ab"] * 3, id="control-characters"),
        pytest.param(["@" * 24], id="one-character"),
        pytest.param(["!"] * 24, id="one-character-in-pieces"),
        pytest.param(["ab"] * 12, id="two-characters"),
    ],
)
def test_a_broken_answer(step: Callable[..., Accept], pieces: list[str]) -> None:
    with pytest.raises(AcceptanceFailed, match="answer is broken") as caught:
        accepted(step, Play(pieces=pieces, gap=0))
    assert "".join(pieces)[:5] in caught.value.evidence[0]


@pytest.mark.parametrize(
    "pieces",
    [["Paris"], ["...", "!"], ["Paris\n\n", "is\tit."], ["パリです。"], ["Paris � is the capital of France"]],
    ids=["word", "short-repeat", "layout", "other-script", "one-slip"],
)
def test_an_answer_that_only_looks_odd(step: Callable[..., Accept], pieces: list[str]) -> None:
    assert accepted(step, Play(pieces=pieces)).text == "".join(pieces)


def test_a_first_token_that_is_too_late(step: Callable[..., Accept]) -> None:
    play = Play(delays=[0.4])
    with pytest.raises(AcceptanceFailed, match=r"first token took .* allows 200 ms") as caught:
        accepted(step, play, first_token=0.2)
    assert len(play.asked) == 1 + len(RETRIES_S), "measured again before it is refused"
    assert "busy" in (caught.value.hint or "")


def test_a_single_slow_answer_is_forgiven(step: Callable[..., Accept]) -> None:
    play = Play(delays=[1.2, 0.0])
    assert accepted(step, play, first_token=1.0).first_token < 1.0
    assert len(play.asked) == 2


def test_tokens_that_are_too_slow(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match=r"each token takes .* allows 50 ms"):
        accepted(step, Play(gap=0.1), per_token=0.05)


def test_slower_than_this_host_should_be(step: Callable[..., Accept]) -> None:
    play = Play(gap=0.1)
    with pytest.raises(AcceptanceFailed, match=r"tokens/s; this host should give at least 50\.0") as caught:
        accepted(step, play, floor=50.0)
    assert len(play.asked) == 1 + len(RETRIES_S)
    assert "GPU to CPU" in (caught.value.hint or "")
    assert accepted(step, Play(gap=0.1), floor=1.0).rate > 1


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_an_engine_that_refuses_nobody(step: Callable[..., Accept], kind: str) -> None:
    play = Play(key=None)
    with pytest.raises(AcceptanceFailed, match="without the key is answered with HTTP 200, not 401"):
        accepted(step, play, kind=kind)
    assert len(play.asked) == 1, "nothing more is asked of it"


def test_an_engine_that_refuses_the_key(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match="HTTP 401"):
        accepted(step, Play(key="another"))


def test_an_error_in_the_stream(step: Callable[..., Accept]) -> None:
    after = b'data: {"error": {"message": "out of slots", "code": 500}}\n\n'
    with pytest.raises(AcceptanceFailed, match="error in its stream") as caught:
        accepted(step, Play(after=after))
    assert "out of slots" in caught.value.evidence[0]


def test_a_stream_that_is_not_json(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match="not JSON") as caught:
        accepted(step, Play(after=b"data: {half\n\n"))
    assert caught.value.evidence == ("data: {half",)


def test_a_stream_that_is_cut(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match="broke off the answer") as caught:
        accepted(step, Play(after=b"", cut=True))
    assert "RemoteProtocolError" in caught.value.message


def test_an_internal_error(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match="HTTP 500 to /v1/chat/completions") as caught:
        accepted(step, Play(status=500))
    assert "CUDA out of memory" in caught.value.evidence[0]


def test_nobody_there(step: Callable[..., Accept]) -> None:
    with pytest.raises(AcceptanceFailed, match="ConnectError"):
        accept(step(f"http://127.0.0.1:{unused_port()}"), None)


class Generations:
    """Replicas by their name, each with its own gaps between tokens."""

    def __init__(self, **gaps: float) -> None:
        self._plays = {name.replace("_", "-"): Play(gap=gap) for name, gap in gaps.items()}

    def __call__(self, handler: Handler) -> None:
        self._plays[handler.seen.headers.get("x-deployer-replica", "g2-1")](handler)


def against(share: float = 0.8, size: int = 1000, replica: str | None = "g1-1", rate: float = 1.0) -> Against:
    return Against(1, replica, rate, share, size, "small", "chat")


@pytest.mark.parametrize("new", [0.02, 0.021, 0.001], ids=["as fast", "about as fast", "faster"])
def test_a_generation_that_is_as_fast_as_the_one_before_is_accepted(step: Callable[..., Accept], new: float) -> None:
    with Server(Generations(g1_1=0.02, g2_1=new)) as server:
        assert accept(step(server.url, engines=("small/g2/1",), against=against(0.5)), None, size=1000).rate > 0


def test_a_slower_one_is_refused_and_what_would_allow_it_is_said(step: Callable[..., Accept]) -> None:
    with Server(Generations(g1_1=0.01, g2_1=0.1)) as server, pytest.raises(AcceptanceFailed) as caught:
        accept(step(server.url, engines=("small/g2/1",), against=against()), None, size=1000)
    said = str(caught.value.message)
    assert "where generation 1 gives" in said and "less than 80% of that (`deployer upgrade --share`" in said


def test_larger_weights_may_be_slower_in_proportion(step: Callable[..., Accept]) -> None:
    with Server(Generations(g1_1=0.02, g2_1=0.06)) as server:
        made = step(server.url, engines=("small/g2/1",), against=against(0.8, size=250))
        assert accept(made, None, size=1000).rate > 0, "a third of the rate with four times the bytes"
        with pytest.raises(AcceptanceFailed, match=r"0\.50 for larger weights"):
            accept(step(server.url, engines=("small/g2/1",), against=against(0.8, size=500)), None, size=1000)


def test_one_that_is_stopped_is_compared_by_what_it_gave(step: Callable[..., Accept]) -> None:
    with Server(Generations(g2_1=0.02)) as server:
        stopped = against(replica=None, rate=10.0)
        assert accept(step(server.url, engines=("small/g2/1",), against=stopped), None, size=1000).rate > 0
        with pytest.raises(AcceptanceFailed, match=r"where generation 1 gives 1000\.0"):
            quick = against(replica=None, rate=1000.0)
            accept(step(server.url, engines=("small/g2/1",), against=quick), None, size=1000)


def test_each_engine_is_asked_and_the_slowest_counts(step: Callable[..., Accept]) -> None:
    with Server(Generations(g2_1=0.005, g2_2=0.05)) as server:
        made = step(server.url, engines=("small/g2/1", "small/g2/2"))
        assert 5 < accept(made, None).rate < 25
        assert {seen.headers.get("x-deployer-replica") for seen in server.seen} == {None, "g2-1", "g2-2"}
