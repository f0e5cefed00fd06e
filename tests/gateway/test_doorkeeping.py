"""Who gets in, how many at once, and to which engine: keys, limits, queues, replicas, changes while it runs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import (
    BEARER,
    CHAT,
    KEY,
    OUTER,
    Engine,
    answer_at_once,
    configure,
    gateway,
    hashed,
    model,
    replica,
)
from tests.servers import Handler, wait_until

HTTP = httpx.Client(trust_env=False, timeout=30)  # making one takes longer than most of these tests
OWNER = {"name": "owner", "hash": hashed(KEY)}


def post(url: str, key: str = KEY, **body: Any) -> httpx.Response:
    return HTTP.post(f"{url}{CHAT}", json=body, headers={"Authorization": f"Bearer {key}"})


class Held:
    """Answers that wait until they are let go; `under_way` counts them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.under_way = 0
        self._lock = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            self.under_way += 1
        self.go.wait(20)
        with self._lock:
            self.under_way -= 1
        answer_at_once(handler)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as made:
        yield made


# keys


def test_each_key_has_its_own_limits(engine: Engine, tmp_path: Path) -> None:
    few = {"name": "few", "hash": hashed("sk-few"), "requests": 2}
    configure(tmp_path, model(replica(engine.url)), keys=[OWNER, few])
    with gateway(tmp_path) as url:
        assert [post(url, "sk-few").status_code for _ in range(3)] == [200, 200, 429]
        refused = post(url, "sk-few")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 31
        assert post(url).status_code == 200, "other keys are not touched by it"
        assert len(engine.seen) == 3


def test_tokens_are_paid_when_they_are_known(engine: Engine, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 70, "completion_tokens": 50, "total_tokens": 120}
    body = json.dumps({"model": "m", "choices": [], "usage": usage}).encode()
    engine.play = lambda handler: handler.whole(200, body)
    configure(tmp_path, model(replica(engine.url)), keys=[{**OWNER, "tokens": 60}])
    with gateway(tmp_path) as url:
        assert post(url).status_code == 200, "nobody knows before"
        refused = post(url)
        assert refused.status_code == 429
        assert 55 <= int(refused.headers["retry-after"]) <= 62, "60 too many at 60 a minute"


def test_a_key_may_be_for_some_models_and_some_streams(engine: Engine, tmp_path: Path) -> None:
    held = engine.play = Held()
    keys = [OWNER, {"name": "one", "hash": hashed("sk-one"), "streams": 1, "models": ["b"]}]
    both = [{**model(replica(engine.url)), "id": name} for name in ("a", "b")]
    configure(tmp_path, *both, keys=keys)
    with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
        told = HTTP.get(f"{url}/v1/models", headers={"Authorization": "Bearer sk-one"}).json()
        assert [entry["id"] for entry in told["data"]] == ["b"]
        assert post(url, "sk-one", model="a").status_code == 404
        first = pool.submit(post, url, "sk-one", model="b")
        wait_until(lambda: held.under_way == 1)
        assert post(url, "sk-one", model="b").status_code == 429
        held.go.set()
        assert first.result().status_code == 200
        assert post(url, "sk-one", model="b").status_code == 200, "its place is free again"


def test_keys_come_and_go_while_it_runs(engine: Engine, tmp_path: Path) -> None:
    configure(tmp_path, model(replica(engine.url)))
    with gateway(tmp_path) as url:
        assert post(url, "sk-new").status_code == 401
        configure(
            tmp_path, model(replica(engine.url)), keys=[OWNER, {"name": "new", "hash": hashed("sk-new")}]
        )
        wait_until(lambda: post(url, "sk-new").status_code == 200)
        configure(tmp_path, model(replica(engine.url)))
        wait_until(lambda: post(url, "sk-new").status_code == 401)


def test_the_last_use_of_a_key_is_kept(engine: Engine, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    configure(tmp_path / "c", model(replica(engine.url)))
    begin = time.time()
    with gateway(tmp_path / "c", "--state", str(state)) as url:
        assert post(url).status_code == 200
    used = json.loads((state / "used.json").read_text())
    assert list(used) == ["owner"]
    assert begin - 1 <= used["owner"] <= time.time()
    with gateway(tmp_path / "c", "--state", str(state)):
        pass
    assert json.loads((state / "used.json").read_text()) == used, "a start is no use"


@pytest.mark.parametrize(
    "wrong", ["{", "[]", '{"models": []}', '{"deployment": "x", "generation": 1, "models": [{}]}']
)
def test_a_configuration_that_cannot_be_used(engine: Engine, tmp_path: Path, wrong: str) -> None:
    configure(tmp_path, model(replica(engine.url)))
    with (tmp_path / "log").open("w") as log, gateway(tmp_path, log=log) as url:
        (tmp_path / "gateway.json").write_text(wrong)
        wait_until(lambda: '"error"' in (tmp_path / "log").read_text())
        assert post(url).status_code == 200, "the old one stays"
        configure(tmp_path, model(replica(engine.url)), body=10)
        wait_until(lambda: post(url, text="longer than ten bytes").status_code == 413)


# queues


def test_who_finds_no_slot_waits_and_who_finds_no_place_is_told_when(engine: Engine, tmp_path: Path) -> None:
    held = engine.play = Held()
    configure(tmp_path, model(replica(engine.url, slots=2)), queue=3)
    with gateway(tmp_path) as url, ThreadPoolExecutor(8) as pool:
        asked = []
        for number in range(5):
            asked.append(pool.submit(post, url))
            wait_until(lambda n=number: status(url)["running"] + status(url)["waiting"] == n + 1)  # type: ignore[misc]
        assert (status(url)["running"], status(url)["waiting"], held.under_way) == (2, 3, 2)
        refused = post(url)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "engine_busy")
        assert int(refused.headers["retry-after"]) >= 1
        held.go.set()
        assert [one.result().status_code for one in asked] == [200] * 5
        assert len(engine.seen) == 5
        wait_until(lambda: status(url)["running"] == 0)


def test_nobody_waits_for_ever(engine: Engine, tmp_path: Path) -> None:
    held = engine.play = Held()
    configure(tmp_path, model(replica(engine.url, slots=1)), wait=0.5)
    with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(post, url)
        wait_until(lambda: held.under_way == 1)
        begin = time.monotonic()
        assert post(url).status_code == 429
        assert 0.4 < time.monotonic() - begin < 5
        held.go.set()
        assert first.result().status_code == 200


def test_who_goes_away_leaves_the_queue(engine: Engine, tmp_path: Path) -> None:
    held = engine.play = Held()
    configure(tmp_path, model(replica(engine.url, slots=1)))
    with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(post, url)
        wait_until(lambda: held.under_way == 1)
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 2\r\n\r\n{}"
                % (CHAT.encode(), KEY.encode())
            )
            wait_until(lambda: status(url)["waiting"] == 1)
        wait_until(lambda: status(url)["waiting"] == 0)
        held.go.set()
        assert first.result().status_code == 200
        assert len(engine.seen) == 1, "the engine never heard of it"
        assert post(url).status_code == 200


def test_a_hundred_clients_that_go_away_leave_nothing(engine: Engine, tmp_path: Path) -> None:
    engine.play = Held()
    configure(tmp_path, model(replica(engine.url, slots=3)))
    with gateway(tmp_path) as url:
        for _ in range(100):
            with pytest.raises(httpx.ReadTimeout):
                HTTP.post(f"{url}{CHAT}", json={}, headers=BEARER, timeout=0.02)
        engine.play.go.set()
        wait_until(lambda: (status(url)["running"], status(url)["waiting"]) == (0, 0))
        assert [post(url).status_code for _ in range(4)] == [200] * 4


# replicas


def test_the_engine_with_the_fewest_requests_is_asked(tmp_path: Path) -> None:
    with Engine() as one, Engine() as two:
        held = one.play = two.play = Held()
        configure(tmp_path, model(replica(one.url, "one", slots=4), replica(two.url, "two", slots=4)))
        with gateway(tmp_path) as url, ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, url, messages=[{"content": str(n)}]) for n in range(8)]
            wait_until(lambda: held.under_way == 8)
            assert (len(one.seen), len(two.seen)) == (4, 4)
            held.go.set()
            assert {answer.result().status_code for answer in asked} == {200}


def test_a_conversation_stays_on_its_engine(tmp_path: Path) -> None:
    with Engine() as one, Engine() as two:
        configure(tmp_path, model(replica(one.url, "one"), replica(two.url, "two")))
        with gateway(tmp_path) as url:
            for talk in range(12):
                turns = [{"role": "user", "content": f"talk {talk}"}, {"role": "assistant", "content": "yes"}]
                places = {
                    post(
                        url, messages=[*turns, *({"role": "user", "content": str(n)} for n in range(turn))]
                    ).headers["x-deployer-replica"]
                    for turn in range(4)
                }
                assert len(places) == 1
            assert one.seen
            assert two.seen


def test_an_engine_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    with Engine() as there:
        gone = socket.socket()
        gone.bind(("127.0.0.1", 0))  # nobody listens, and nobody else can
        address = f"http://127.0.0.1:{gone.getsockname()[1]}"
        configure(tmp_path, model(replica(address, "gone"), replica(there.url, "there")))
        with gateway(tmp_path) as url:
            answers = [post(url, messages=[{"content": str(n)}]) for n in range(20)]
            assert [(a.status_code, a.headers["x-deployer-replica"]) for a in answers] == [
                (200, "there")
            ] * 20
        gone.close()


def test_a_candidate_is_asked_by_name_and_a_draining_engine_ends_what_it_began(tmp_path: Path) -> None:
    """How a deployment is upgraded without a request that fails."""
    with Engine() as old, Engine() as new:
        held = old.play = Held()
        configure(tmp_path, model(replica(old.url, "old"), replica(new.url, "new", state="candidate")))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            asked = HTTP.post(
                f"{url}{CHAT}", json={}, headers={**BEARER, "X-Deployer-Replica": "new"}
            )
            assert (asked.status_code, asked.headers["x-deployer-replica"]) == (200, "new")
            begun = [pool.submit(post, url) for _ in range(4)]
            wait_until(lambda: held.under_way == 4)
            configure(tmp_path, model(replica(old.url, "old", state="draining"), replica(new.url, "new")))
            wait_until(lambda: status(url)["models"][0]["replicas"][0]["state"] == "draining")
            assert [post(url).headers["x-deployer-replica"] for _ in range(5)] == ["new"] * 5
            assert [r["running"] for r in status(url)["models"][0]["replicas"]] == [4, 0]
            held.go.set()
            assert {(b.result().status_code, b.result().headers["x-deployer-replica"]) for b in begun} == {
                (200, "old")
            }
            configure(tmp_path, model(replica(new.url, "new")))
            wait_until(lambda: len(status(url)["models"][0]["replicas"]) == 1)
            assert post(url).status_code == 200


# what it tells


def test_metrics_and_status_count_what_was_served(engine: Engine, tmp_path: Path) -> None:
    def play(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for word in ("", "Pa", "ris", "."):
            handler.chunk(b'data: {"choices":[{"delta":{"content":%s}}]}\n\n' % json.dumps(word).encode())
            time.sleep(0.02)
        timings = {"cache_n": 10, "prompt_n": 5, "predicted_n": 3}
        handler.chunk(b'data: {"choices":[{"delta":{}}],"timings":%s}\n\n' % json.dumps(timings).encode())
        handler.chunk(b"data: [DONE]\n\n")
        handler.wfile.write(b"0\r\n\r\n")

    engine.play = play
    configure(tmp_path / "c", model(replica(engine.url)))
    with (tmp_path / "log").open("w") as log, gateway(tmp_path / "c", log=log) as url:
        assert post(url, stream=True, messages=[{"content": "secret"}]).status_code == 200
        assert post(url, model="other").status_code == 404
        text = HTTP.get(f"{url}/metrics", headers=BEARER).text
        for line in (
            f'deployer_prompt_tokens_total{{model_name="{OUTER}"}} 15.0',
            f'deployer_generation_tokens_total{{model_name="{OUTER}"}} 3.0',
            f'deployer_time_to_first_token_seconds_count{{model_name="{OUTER}"}} 1.0',
            f'deployer_time_per_output_token_seconds_count{{model_name="{OUTER}"}} 1.0',
            f'deployer_requests_total{{code="200",model_name="{OUTER}",path="{CHAT}"}} 1.0',
            'deployer_request_errors_total{cause="model_not_found",model_name="none"} 1.0',
            f'deployer_replica_up{{model_name="{OUTER}",replica="engine"}} 0.0',
        ):
            assert line in text.splitlines(), line
        told = status(url)
        assert (told["prompt_tokens"], told["completion_tokens"], told["errors"]) == (15, 3, 1)
        assert told["limit"] == 100
        assert {len(told["series"][name]) for name in ("tokens_per_s", "first_token_s", "running")} == {120}
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    first = next(entry for entry in entries if entry.get("model"))
    assert (first["status"], first["key"], first["prompt_tokens"], first["completion_tokens"]) == (
        200,
        "owner",
        15,
        3,
    )
    assert 0 < first["first_token_s"] <= first["total_s"]
    assert "secret" not in (tmp_path / "log").read_text()


def test_prompts_are_in_the_log_only_where_that_is_wanted(engine: Engine, tmp_path: Path) -> None:
    configure(tmp_path / "c", model(replica(engine.url)), log_prompts=True)
    with (tmp_path / "log").open("w") as log, gateway(tmp_path / "c", log=log) as url:
        post(url, messages=[{"content": "secret"}])
    assert "secret" in (tmp_path / "log").read_text()


def test_every_answer_has_an_id_and_keeps_a_good_one(engine: Engine, tmp_path: Path) -> None:
    configure(tmp_path, model(replica(engine.url)))
    with gateway(tmp_path) as url:
        ids = [
            HTTP.post(f"{url}{CHAT}", json={}, headers={**BEARER, **more}).headers["x-request-id"]
            for more in ({}, {"X-Request-Id": "mine-1"}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 200})
        ]
        assert ids[1] == "mine-1"
        assert len({*ids}) == 4
        assert all(len(one) == 32 for one in (ids[0], ids[2], ids[3]))
        assert engine.seen[1].headers["x-request-id"] == "mine-1"
        assert HTTP.get(f"{url}/nothing").headers["x-request-id"]


def test_other_origins_only_where_they_are_named(engine: Engine, tmp_path: Path) -> None:
    origin = {"Origin": "https://a.example"}
    ask = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    configure(tmp_path, model(replica(engine.url)))
    with gateway(tmp_path) as url:
        assert HTTP.options(f"{url}{CHAT}", headers=ask).status_code == 401
        answer = HTTP.post(f"{url}{CHAT}", json={}, headers={**BEARER, **origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        configure(tmp_path, model(replica(engine.url)), cors=["https://a.example"])
        wait_until(lambda: HTTP.options(f"{url}{CHAT}", headers=ask).status_code == 200)
        answer = HTTP.post(f"{url}{CHAT}", json={}, headers={**BEARER, **origin})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = HTTP.options(f"{url}{CHAT}", headers={**ask, "Origin": "https://b.example"})
        assert other.status_code == 400
        assert HTTP.post(f"{url}{CHAT}", json={}, headers=origin).status_code == 401


# what engines understand


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"user": "u", "store": True, "stream_options": {"include_usage": True}, "n": 1, "top_k": None}, None),
        ({"n": 2}, "n"), ({"response_format": {"type": "json_object"}}, "response_format"), ({"top_k": 5}, "top_k"),
        ({"response_format": {"type": "text"}, "presence_penalty": 0.0, "tool_choice": "auto"}, None),
        ({"logprobs": True}, "logprobs"), ({"nonsense": 1}, "nonsense"),
    ],
)  # fmt: skip
def test_what_transformers_would_choke_on(
    engine: Engine, tmp_path: Path, body: dict[str, Any], refused: str | None
) -> None:
    configure(tmp_path, model(replica(engine.url), engine="transformers"))
    with gateway(tmp_path) as url:
        answer = post(url, messages=[], temperature=0, **body)
        assert answer.status_code == (400 if refused else 200)
        if refused:
            assert answer.json()["error"]["param"] == refused
            assert not engine.seen
        else:
            assert set(json.loads(engine.seen[0].body)) == {"messages", "temperature", "model"}


def test_an_error_in_another_shape_gets_openais(engine: Engine, tmp_path: Path) -> None:
    engine.play = lambda handler: handler.whole(
        422, b'{"detail": "Unexpected fields in the request: {\'x\'}"}'
    )
    configure(tmp_path, model(replica(engine.url)))
    with gateway(tmp_path) as url:
        answer = post(url)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "Unexpected fields in the request: {'x'}"


def status(url: str) -> dict[str, Any]:
    found: dict[str, Any] = HTTP.get(f"{url}/v1/status", headers=BEARER).json()
    return found
