"""Local first, remote if allowed: by the rules of the configuration alone, and never unmarked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import BEARER, CHAT, OUTER, Engine, configure, gateway, model, replica
from tests.gateway.test_doorkeeping import Held
from tests.gateway.test_safety import WORD
from tests.gateway.test_window import counts, talk
from tests.servers import Handler, Server, unused_port, wait_until

HTTP = httpx.Client(trust_env=False, timeout=30)


def elsewhere(handler: Handler) -> None:
    body = json.loads(handler.seen.body)
    told = {"model": body["model"], "choices": [{"message": {"content": "from far away"}}]}
    handler.whole(200, json.dumps(told).encode())


@pytest.fixture
def there() -> Iterator[Server]:
    with Server(elsewhere) as made:
        yield made


def rule(server: Server, *when: str, **more: Any) -> dict[str, Any]:
    return {"url": f"{server.url}/api/v1", "model": "large-1", "when": list(when), **more}


def ask(url: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{url}{CHAT}", json=body, headers=BEARER)


def test_by_name(there: Server, tmp_path: Path) -> None:
    (tmp_path / "remote.key").write_text("sk-there\n")
    rules = rule(there, "named", name="cloud", key=str(tmp_path / "remote.key"))
    with Engine() as engine:
        configure(tmp_path / "c", model(replica(engine.url)), remote=rules)
        with (tmp_path / "log").open("w") as log, gateway(tmp_path / "c", log=log) as url:
            names = [one["id"] for one in HTTP.get(f"{url}/v1/models", headers=BEARER).json()["data"]]
            assert names == [OUTER, "cloud"]
            answer = ask(url, model="cloud", messages=[])
            assert answer.json()["model"] == "cloud", "clients see the name that they asked for"
            assert answer.headers["x-deployer-remote"] == f"127.0.0.1:{there.port}; named"
            (seen,) = there.seen
            assert (seen.path, json.loads(seen.body)["model"]) == ("/api/v1/chat/completions", "large-1")
            assert seen.headers["authorization"] == "Bearer sk-there"
            local = ask(url, model=OUTER, messages=[])
            assert "x-deployer-remote" not in local.headers
            assert len(there.seen) == 1
            text = HTTP.get(f"{url}/metrics", headers=BEARER).text
            assert 'deployer_remote_requests_total{model_name="cloud",reason="named"} 1.0' in text
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [entry.get("remote") for entry in entries if entry.get("path") == CHAT] == ["named", None]


def test_when_no_place_is_free(there: Server, tmp_path: Path) -> None:
    with Engine() as engine:
        held = engine.play = Held()
        configure(tmp_path, model(replica(engine.url, slots=1)), remote=rule(there, "full"))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            first = pool.submit(ask, url)
            wait_until(lambda: held.under_way == 1)
            answer = ask(url)
            assert answer.headers["x-deployer-remote"].endswith("; full")
            held.go.set()
            assert "x-deployer-remote" not in first.result().headers
            assert "x-deployer-remote" not in ask(url).headers


def test_when_the_prompt_outgrows_the_context(there: Server, tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = counts
        configure(tmp_path, model(replica(engine.url), context=1000), remote=rule(there, "too-long"))
        with gateway(tmp_path) as url:
            assert "x-deployer-remote" not in ask(url, messages=talk(4)).headers
            assert ask(url, messages=talk(9)).headers["x-deployer-remote"].endswith("; too-long")
            assert json.loads(there.seen[0].body)["messages"] == talk(9)


def test_no_rule_no_remote(there: Server, tmp_path: Path) -> None:
    """An engine that is down is no rule; what is checked is checked before it leaves."""
    with Engine() as engine:
        address = f"http://127.0.0.1:{unused_port()}"
        configure(tmp_path / "a", model(replica(address)), remote=rule(there, "named", "too-long", name="cloud"),
                  wait=0.5)  # fmt: skip
        configure(tmp_path / "b", model(replica(engine.url)), remote=rule(there, "named", name="cloud"), safety=WORD)
        with gateway(tmp_path / "a") as down, gateway(tmp_path / "b") as safe:
            assert ask(down, model=OUTER).status_code == 503
            refused = ask(safe, model="cloud", messages=[{"role": "user", "content": "password"}])
            assert refused.json()["error"]["code"] == "content_filter"
            assert there.seen == []


def test_a_remote_that_cannot_be_reached(tmp_path: Path) -> None:
    with Engine() as engine:
        rules = {"url": f"http://127.0.0.1:{unused_port()}", "model": "m", "when": ["named"], "name": "cloud"}
        configure(tmp_path, model(replica(engine.url)), remote=rules)
        with gateway(tmp_path) as url:
            answer = ask(url, model="cloud")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "remote_unreachable")
