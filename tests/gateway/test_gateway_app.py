"""The gateway as its own process in front of an engine that the test plays."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import (
    BEARER,
    CHAT,
    INNER,
    KEY,
    OUTER,
    Engine,
    answer_at_once,
    configure,
    gateway,
    model,
    replica,
)
from tests.servers import Handler, unused_port

LIMIT = 8 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    folder = tmp_path_factory.mktemp("gateway")
    with Engine() as engine:
        configure(folder, model(replica(engine.url)))
        with gateway(folder) as url:
            yield url, engine


@pytest.fixture
def engine(running: tuple[str, Engine]) -> Engine:
    made = running[1]
    made.seen.clear()
    made.healthy, made.play = True, answer_at_once
    return made


@pytest.fixture
def client(running: tuple[str, Engine], engine: Engine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running[0], trust_env=False, timeout=20) as made:
        yield made


def is_openai_error(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


# the key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer sk-wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": KEY},
        {"Authorization": b"Bearer sk-r\xefght"},
        {"X-Api-Key": KEY},
    ],
    ids=["none", "empty", "wrong", "longer", "shorter", "no-scheme", "not-ascii", "elsewhere"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
def test_without_the_key(client: httpx.Client, engine: Engine, headers: dict[str, str], path: str) -> None:
    answer = client.request("POST" if path == CHAT else "GET", path, headers=headers)
    assert answer.status_code == 401
    assert is_openai_error(answer)
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.seen == []


@pytest.mark.parametrize(
    "path",
    [CHAT, "/v1/completions", "/v1/responses", "/v1/models", "/v1/models/small", "/v1/embeddings", "/v1/status",
     "/health/", "/docs", "/x/y", "/v1/models/", "/slots", "/metrics", "/readyz/", "/v1", "/openapi.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "HEAD"]
)
def test_without_the_key_on_every_path(client: httpx.Client, engine: Engine, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 401
    assert method == "HEAD" or is_openai_error(answer)
    assert engine.seen == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz"])
def test_without_the_key_health_can_only_be_read(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 401


@pytest.mark.parametrize("target", ["*", "//health", "/v1/../health", "/%2e/health", "/Health", "/health%00"])
def test_odd_targets_without_the_key(running: tuple[str, Engine], target: str) -> None:
    port = int(running[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 401 ")


def test_an_open_gateway_asks_for_no_key(engine: Engine, tmp_path: Path) -> None:
    configure(tmp_path, model(replica(engine.url)), open=True)
    with gateway(tmp_path) as url:
        answer = httpx.post(f"{url}{CHAT}", json={"messages": []}, trust_env=False)
        assert answer.status_code == 200
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200


# what it answers itself


def test_models_are_called_by_the_outer_name(client: httpx.Client) -> None:
    answer = client.get("/v1/models", headers=BEARER)
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    assert [(m["id"], m["object"]) for m in answer.json()["data"]] == [(OUTER, "model")]
    assert "/models/" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/embeddings", 405), ("POST", "/v1/embeddings", 404), ("GET", "/slots", 404),
        ("GET", CHAT, 405), ("TRACE", CHAT, 405), ("DELETE", "/v1/models", 405), ("GET", "/v1/models/other", 404),
    ],
)  # fmt: skip
def test_other_paths_are_closed_also_with_the_key(
    client: httpx.Client, engine: Engine, method: str, path: str, expected: int
) -> None:
    answer = client.request(method, path, headers=BEARER, content=b"{}" if method == "POST" else None)
    assert answer.status_code == expected
    assert is_openai_error(answer)
    assert engine.seen == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"hello", b"\xff\xfe", b"[]", b'["model"]', b'"model"', b'"text"', b"7", b"null", b"true",
        b'{"temperature": NaN}', b'{"temperature": -Infinity}', b"[" * 200_000, b'{"a":' * 100_000,
    ],
    ids=["empty", "half", "text", "not-utf8", "list", "list-model", "string-model", "string", "number",
         "null", "true", "nan", "infinity", "deep-list", "deep-object"],
)  # fmt: skip
def test_a_body_that_is_not_a_json_object(client: httpx.Client, engine: Engine, body: bytes) -> None:
    answer = client.post(CHAT, content=body, headers=BEARER)
    assert answer.status_code == 400
    assert is_openai_error(answer)
    assert engine.seen == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_is_too_large(client: httpx.Client, engine: Engine, chunked: bool) -> None:
    body = b'{"prompt": "' + b"a" * LIMIT + b'"}'
    answer = client.post(CHAT, content=iter([body]) if chunked else body, headers=BEARER)
    assert answer.status_code == 413
    assert is_openai_error(answer)
    assert engine.seen == []


def test_a_body_that_is_just_small_enough(client: httpx.Client, engine: Engine) -> None:
    body = b'{"prompt": "' + b"a" * (LIMIT - 14) + b'"}'
    assert len(body) == LIMIT
    assert client.post(CHAT, content=body, headers=BEARER).status_code == 200
    assert len(engine.seen[0].body) >= LIMIT


@pytest.mark.parametrize("model", ["other", INNER, "", None, 7, ["small"]], ids=repr)
def test_another_model_is_not_there(client: httpx.Client, engine: Engine, model: Any) -> None:
    answer = client.post(CHAT, json={"model": model, "messages": []}, headers=BEARER)
    assert answer.status_code == 404
    assert is_openai_error(answer)
    assert OUTER in answer.json()["error"]["message"]
    assert engine.seen == []


def test_health(client: httpx.Client, engine: Engine) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    engine.healthy = False
    answer = client.get("/health")
    assert answer.status_code == 503
    assert is_openai_error(answer)


def test_an_engine_that_is_down(tmp_path: Path) -> None:
    configure(tmp_path, model(replica(f"http://127.0.0.1:{unused_port()}")), wait=0.5)
    with gateway(tmp_path) as url:
        answer = httpx.post(f"{url}{CHAT}", json={"messages": []}, headers=BEARER, trust_env=False)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert is_openai_error(answer)
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 503
        assert httpx.get(f"{url}/v1/models", headers=BEARER, trust_env=False).status_code == 200


# what it passes on


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_what_the_engine_gets(client: httpx.Client, engine: Engine, path: str, named: bool) -> None:
    asked = {"messages": [{"role": "user", "content": "naïve \ud83d 語"}], "temperature": 0, "n": 10**30}
    answer = client.post(
        path,
        content=json.dumps({**asked, "model": OUTER} if named else asked),
        headers={**BEARER, "X-Secret": "s"},
    )
    assert answer.status_code == 200
    (seen,) = engine.seen
    assert seen.path == path
    assert json.loads(seen.body) == {**asked, "model": INNER}
    assert seen.headers["content-type"] == "application/json"
    assert KEY not in str(seen.headers)
    assert "x-secret" not in seen.headers


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": ")], ids=["tight", "spaced"])
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "utf-8"])
@pytest.mark.parametrize("suffix", ["", "@main"], ids=["name", "name-and-revision"])
@pytest.mark.parametrize("size", [1, 7, 10_000], ids=["byte-by-byte", "in-sevens", "at-once"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_engines_name_of_the_model_never_appears(
    client: httpx.Client,
    engine: Engine,
    spaces: tuple[str, str],
    escaped: bool,
    suffix: str,
    size: int,
    stream: bool,
) -> None:
    """Also where the network cuts it in two."""
    value = {"model": INNER + suffix, "choices": [{"text": 'in /models/ it is, "model": "x"'}]}
    line = json.dumps(value, separators=spaces, ensure_ascii=escaped).encode()
    sent = b"data: %s\n\ndata: %s\n\ndata: [DONE]\n\n" % (line, line) if stream else line

    def play(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        for start in range(0, len(sent), size):
            handler.chunk(sent[start : start + size])
        handler.wfile.write(b"0\r\n\r\n")

    engine.play = play
    answer = client.post(CHAT, json={}, headers=BEARER)
    lines = [text.removeprefix("data: ") for text in answer.text.splitlines() if text and "DONE" not in text]
    assert [json.loads(text) for text in lines] == [{**value, "model": OUTER}] * (2 if stream else 1)
    assert answer.text.endswith("data: [DONE]\n\n") == stream


@pytest.mark.parametrize("status", [400, 404, 500])
def test_errors_of_the_engine_pass_without_its_paths(
    client: httpx.Client, engine: Engine, status: int
) -> None:
    body = json.dumps({"error": {"message": f"cannot load {INNER}: no such file"}}).encode()
    engine.play = lambda handler: handler.whole(status, body, X_Trace="abc")
    answer = client.post(CHAT, json={}, headers=BEARER)
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": f"cannot load {OUTER}: no such file"}}
    assert answer.headers["x-trace"] == "abc"


def test_a_compressed_answer_is_readable(client: httpx.Client, engine: Engine) -> None:
    import gzip

    packed = gzip.compress(json.dumps({"model": INNER}).encode())
    engine.play = lambda handler: handler.whole(200, packed, Content_Encoding="gzip")
    assert client.post(CHAT, json={}, headers=BEARER).json() == {"model": OUTER}


def test_a_stream_arrives_piece_by_piece(client: httpx.Client, engine: Engine) -> None:
    arrived = threading.Event()
    in_time: list[bool] = []

    def play(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for number in range(3):
            handler.chunk(b'data: {"model":%s,"n":%d}\n\n' % (json.dumps(INNER).encode(), number))
            in_time.append(arrived.wait(10))
            arrived.clear()
        handler.wfile.write(b"0\r\n\r\n")

    engine.play = play
    seen = []
    with client.stream("POST", CHAT, json={"stream": True}, headers=BEARER) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                seen.append(json.loads(line.removeprefix("data: ")))
                arrived.set()
    assert in_time == [True, True, True], "the engine did not have to send more before one came through"
    assert seen == [{"model": OUTER, "n": number} for number in range(3)]


def test_an_engine_that_breaks_off_is_seen_as_that(client: httpx.Client, engine: Engine) -> None:
    def play(handler: Handler) -> None:
        handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        handler.chunk(b"data: {}\n\n")
        handler.hang_up()

    engine.play = play
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(CHAT, json={"stream": True}, headers=BEARER)
    engine.play = answer_at_once
    assert client.post(CHAT, json={}, headers=BEARER).status_code == 200


@pytest.mark.parametrize("begun", [True, False], ids=["in-the-stream", "before-the-first-byte"])
def test_a_client_that_goes_away_lets_the_engine_go(
    running: tuple[str, Engine], engine: Engine, begun: bool
) -> None:
    asked, closed = threading.Event(), threading.Event()

    def play(handler: Handler) -> None:
        handler.close_connection = True
        if begun:
            handler.start(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
            handler.chunk(b"data: {}\n\n")
        asked.set()
        handler.connection.settimeout(15)
        try:
            if handler.connection.recv(1) == b"":
                closed.set()
        except ConnectionResetError:
            closed.set()
        except TimeoutError:
            pass

    engine.play = play
    port = int(running[0].rpartition(":")[2])
    body = b'{"stream": true}'
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
            % (CHAT.encode(), KEY.encode(), len(body), body)
        )
        assert asked.wait(10)
        if begun:
            assert b"200 OK" in line.recv(1000)
        time.sleep(0.1)
        assert not closed.is_set()
    assert closed.wait(5)


def test_many_at_once(running: tuple[str, Engine], engine: Engine) -> None:
    """As many as come: no request waits for another one's place."""
    everyone = threading.Barrier(30, timeout=20)

    def play(handler: Handler) -> None:
        everyone.wait()
        answer_at_once(handler)

    engine.play = play
    statuses: list[int] = []

    def ask() -> None:
        answer = httpx.post(f"{running[0]}{CHAT}", json={}, headers=BEARER, trust_env=False, timeout=30)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 30
