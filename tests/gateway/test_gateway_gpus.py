"""Facts of GPUs that the gateway is told of in a file; and the requests that look after an engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.door import BEARER, CHAT, KEY, OUTER, Engine, configure, gateway, hashed, model, replica
from tests.gateway.test_safety import says
from tests.servers import wait_until

GIB = 1 << 30
PROBE = {"X-Deployer-Probe": "1", "X-Deployer-Replica": "engine"}


def gpu(**more: Any) -> dict[str, Any]:
    return {
        "index": 0, "uuid": "GPU-8d1b", "name": "NVIDIA L40S", "memory_used": 31 * GIB, "memory_total": 45 * GIB,
        "utilization": 87, "temperature": 61, "power_w": 287.5, "xid": 0, **more,
    }  # fmt: skip


def gpus(*found: dict[str, Any], age: float = 0.0) -> dict[str, Any]:
    return {"at": time.time() - age, "gpus": found}


def write(folder: Path, value: Any) -> None:
    (folder / "aside").write_text(value if isinstance(value, str) else json.dumps(value))
    (folder / "aside").replace(folder / "gpus.json")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as found:
        yield found


@pytest.fixture
def client(tmp_path: Path, engine: Engine) -> Iterator[httpx.Client]:
    configure(tmp_path, model(replica(engine.url)))
    with gateway(tmp_path) as url, httpx.Client(trust_env=False, headers=BEARER, base_url=url) as found:
        yield found


def status(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/status").json()
    return found


def metrics(client: httpx.Client, name: str) -> list[str]:
    return [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]


def test_gpus_are_shown_as_they_change(client: httpx.Client, tmp_path: Path) -> None:
    assert status(client)["gpus"] == []
    write(tmp_path, gpus(gpu()))
    assert status(client)["gpus"] == [gpu()]
    write(tmp_path, gpus(gpu(utilization=None, xid=79)))
    assert status(client)["gpus"] == [gpu(utilization=None, xid=79)]
    labels = '{UUID="GPU-8d1b",gpu="0",modelName="NVIDIA L40S"}'
    for name, value in (
        *(("FB_USED", 31 * 1024.0), ("FB_FREE", 14 * 1024.0), ("GPU_TEMP", 61.0), ("POWER_USAGE", 287.5)),
        ("XID_ERRORS", 79.0),
    ):
        assert metrics(client, f"DCGM_FI_DEV_{name}{{") == [f"DCGM_FI_DEV_{name}{labels} {value}"]
    assert metrics(client, "DCGM_FI_DEV_GPU_UTIL{") == []  # not known is not 0


def test_facts_that_nobody_renews_are_not_shown(client: httpx.Client, tmp_path: Path) -> None:
    write(tmp_path, gpus(gpu(), age=29))
    assert len(status(client)["gpus"]) == 1
    wait_until(lambda: status(client)["gpus"] == [])
    assert metrics(client, "DCGM_FI_DEV_GPU_TEMP{") == []
    write(tmp_path, gpus(gpu(), age=-3600))  # of a clock that was set back
    assert status(client)["gpus"] == []


@pytest.mark.parametrize(
    "broken", ["", "[]", '{"at": 1}', '{"at": NaN, "gpus": []}', '{"at": 1e11, "gpus": [{"index": 0}]}', "{}", "null"]
)
def test_a_file_of_another_shape_is_nothing(broken: str, client: httpx.Client, tmp_path: Path) -> None:
    write(tmp_path, gpus(gpu()))
    assert len(status(client)["gpus"]) == 1
    write(tmp_path, broken)
    assert status(client)["gpus"] == []
    assert client.get("/metrics").status_code == 200


def test_a_look_at_an_engine_is_no_users_request(client: httpx.Client, engine: Engine) -> None:
    engine.play = says("a", "b", pause=0.01)
    asked = {"max_tokens": 1, "stream": True}
    assert client.post(CHAT, json=asked, headers=PROBE).status_code == 200
    found = status(client)
    assert (found["completion_tokens"], found["models"][0]["replicas"][0]["answered"]) == (0, 0)
    assert not [line for line in metrics(client, "deployer_requests_total{") if CHAT in line]
    assert client.post(CHAT, json=asked).status_code == 200  # a user's
    found = status(client)
    assert found["models"][0]["replicas"][0]["answered"] == 1
    assert found["models"][0]["waiting"] == 0
    assert [line for line in metrics(client, "deployer_requests_total{") if CHAT in line]


def test_tokens_on_their_way_are_seen(client: httpx.Client, engine: Engine) -> None:
    engine.play = says(*"abcdefgh", pause=0.2)
    with client.stream("POST", CHAT, json={"stream": True}) as answer:
        seen = []
        for _ in answer.iter_lines():
            seen.append(status(client)["models"][0]["replicas"][0]["events"])
    assert sorted(seen) == seen
    assert len(set(seen)) > 3


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({**PROBE, "Authorization": "Bearer sk-alice"}, {"max_tokens": 1}, id="another's key"),
        pytest.param(PROBE, {"max_tokens": 50}, id="more than one token"),
        pytest.param(PROBE, {}, id="no limit"),
    ],
)
def test_only_the_owner_looks_and_at_one_token(
    headers: dict[str, str], body: dict[str, Any], engine: Engine, tmp_path: Path
) -> None:
    keys = [{"name": name, "hash": hashed(key)} for name, key in (("owner", KEY), ("alice", "sk-alice"))]
    rules = {"safety": {"patterns": {"secret": "secret"}}}
    configure(tmp_path, model(replica(engine.url)), keys=keys, **rules)
    said = {"model": OUTER, "messages": [{"role": "user", "content": "secret"}], **body}
    with gateway(tmp_path) as url, httpx.Client(trust_env=False, headers=BEARER, base_url=url) as client:
        answer = client.post(CHAT, json=said, headers=headers)
        assert answer.status_code == 400  # the check of what is asked holds
        assert answer.json()["error"]["code"] == "content_filter"
        assert [line for line in metrics(client, "deployer_requests_total{") if CHAT in line]


def test_a_look_at_a_full_engine_is_not_sent_elsewhere(engine: Engine, tmp_path: Path) -> None:
    with Engine() as elsewhere:
        far = {"url": elsewhere.url, "model": "large", "when": ["full"]}
        configure(tmp_path, model(replica(engine.url, slots=1)), remote=far)
        engine.play = says(*"abcdefgh", pause=0.1)
        with gateway(tmp_path) as url, httpx.Client(trust_env=False, headers=BEARER, base_url=url) as client:
            with client.stream("POST", CHAT, json={"stream": True}) as busy:
                next(busy.iter_lines())
                answer = client.post(CHAT, json={"max_tokens": 1, "stream": True}, headers=PROBE)
            assert answer.headers["x-deployer-replica"] == "engine"
        assert elsewhere.seen == []
