"""What is asked of a deployment that is watched: a gateway that the test plays, processes, and a driver that hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deployer.host import Gpu, Unknown
from deployer.host.gpu import Mig, Process, Slice
from deployer.host.kernel import Event
from deployer.plan import health
from deployer.plan.health import Cards, Door, Sight, observe
from deployer.plan.watch import FAILED, FULL, OK, REFUSED, SILENT, UNASKED
from deployer.runtimes.living import Member, member
from tests.servers import Handler, Server, unused_port, wait_until

TOKEN = json.dumps({"choices": [{"message": {"content": "Hi"}}]})
NVML = "Failed to initialize NVML: Unknown Error"


class Gateway(Server):
    """The gateway of one replica: `status` and `body` answer a completion, after `pause` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self.body, self.pause = 200, TOKEN, 0.0

    def answer(self, handler: Handler) -> None:
        if handler.path == "/healthz":
            handler.whole(200, b"{}")
        elif handler.path == "/v1/status":
            one = {"name": "engine", "running": 2, "events": 30, "answered": 4}
            handler.whole(200, json.dumps({"models": [{"replicas": [one]}]}).encode())
        else:
            time.sleep(self.pause)
            handler.whole(self.status, self.body.encode())


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found


def door(url: str, kind: str = "chat", limit: float = 5.0) -> Door:
    return Door(url, "m", kind, "sk-owner", None, limit)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (200, TOKEN, OK, ""),
        (200, "{}", FAILED, "an answer without a choice"),
        (200, "<html>", FAILED, "JSONDecodeError"),
        (429, '{"error": {"message": "too many"}}', FULL, "HTTP 429: too many"),
        (500, '{"error": {"message": "CUDA error"}}', FAILED, "HTTP 500: CUDA error"),
        (502, "{}", FAILED, "HTTP 502: no reason given"),
        (503, "{}", REFUSED, "HTTP 503"),
        (401, "{}", UNASKED, "HTTP 401"),
        (404, "[]", UNASKED, "HTTP 404"),
    ],
)
def test_what_answers_mean(status: int, body: str, kind: str, said: str, gateway: Gateway) -> None:
    gateway.status, gateway.body = status, body
    answer = door(gateway.url).token("engine")
    assert (answer.kind, answer.said[: len(said)]) == (kind, said)


@pytest.mark.parametrize(
    ("kind", "path"),
    [("chat", "/v1/chat/completions"), ("text", "/v1/completions"), ("embedding", "/v1/embeddings")],
)
def test_the_request_is_for_one_token_of_this_replica(kind: str, path: str, gateway: Gateway) -> None:
    door(gateway.url, kind).token("engine-1")
    seen = gateway.seen[-1]
    assert (seen.path, json.loads(seen.body)["max_tokens"]) == (path, 1)
    headers = {key.lower(): value for key, value in seen.headers.items()}
    assert headers["x-deployer-replica"] == "engine-1"
    assert headers["authorization"] == "Bearer sk-owner"
    assert "x-deployer-probe" in headers


def test_silence_and_nobody(gateway: Gateway) -> None:
    gateway.pause = 1.0
    assert door(gateway.url, limit=0.2).token("engine").kind == SILENT
    assert door(f"http://127.0.0.1:{unused_port()}").alive().kind == REFUSED


def test_parts_are_seen_with_what_the_gateway_counts(gateway: Gateway) -> None:
    me = member(0) or Member(1, 0, "x")
    sights = (Sight("engine", "running", (me,), 7, ("GPU-0",)), Sight("gateway", "running"))
    engine, front = observe(sights, door(gateway.url))
    assert (engine.answer.kind, engine.tokens, engine.others, engine.gpus) == (OK, 34, 2, ("GPU-0",))
    assert front.answer.kind == OK
    alone, front = observe(sights, door(f"http://127.0.0.1:{unused_port()}"))
    assert (alone.answer.kind, front.answer.kind) == (UNASKED, REFUSED)


def test_only_the_log_of_this_life_counts() -> None:
    news = '{"time": "x", "prompt": "No CUDA GPUs are available"}'
    assert health.lost([NVML, "supervisor: engine ended with -9 after 60 s", "loading"]) == ()
    assert health.lost(["loading", f"  {NVML}", news, "done"]) == (NVML,)


@pytest.fixture
def child() -> Iterator[Member]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    found = member(process.pid)
    assert found is not None
    yield found
    process.kill()
    process.wait()


def test_processor_time_and_age_of_a_process(child: Member) -> None:
    assert health.begun(child) == pytest.approx(time.time(), abs=5)
    before = health.worked([child])
    wait_until(lambda: health.worked([child]) > before)
    assert health.worked([Member(2**22 + 1, 0, "gone")]) == 0


def card(index: int, *pids: int, **more: Any) -> Gpu:
    held = tuple(Process(pid, 20 << 30, f"p{pid}", "user", None, "S") for pid in pids)
    known = {"uuid": f"GPU-{index}", "pci": f"0000:0{index}:00.0", "name": "NVIDIA H100", "processes": held, **more}
    return Gpu(index, vram=80 << 30, free_vram=60 << 30, compute_capability="9.0", **known)


def test_who_outlives_a_stop_is_ended_if_it_is_ours_and_named_if_not(child: Member) -> None:
    reused = Member(1, child.started + 1, "another program by now")
    running = Member(77, 5, "new engine")
    gpus = (card(0, child.pid, 1, 77, 4711), card(1, 4712))
    found = health.left(gpus, ("GPU-0",), (child, reused, running), (running,))
    assert found.ours == (child,)
    assert [holder.pid for holder in found.others] == [1, 4711]  # GPU 1 is not the deployment's
    lines = health.tidy(found)
    assert lines[0] == f"{child.name} (pid {child.pid}) of this deployment outlived it: killed"
    assert lines[2] == "p4711 (pid 4711) holds 21.5 GB of GPU 0, and is not of this deployment"
    wait_until(lambda: child.state is None)


def test_what_the_gateway_is_told() -> None:
    part = Slice("MIG-1", "1g.10gb", 10 << 30, 10 << 30)
    gpus = (card(0), card(1, mig=Mig(True, True, (part,))), Gpu(2, *[Unknown("GPU is lost")] * 5), card(3))
    events = (Event(10_000.0, "0000:00:00.0", 79, ""), Event(9_990.0, "0000:01:00.0", 31, ""),
              Event(100.0, "0000:01:00.0", 48, ""))  # fmt: skip
    told = health.for_gateway(gpus, ("GPU-0", "MIG-1"), events, 10_010.0)
    assert [(one["uuid"], one["xid"]) for one in told["gpus"]] == [("GPU-0", 79), ("GPU-1", 31)]
    assert told["gpus"][0]["memory_used"] == 20 << 30
    assert told["gpus"][0]["utilization"] is None  # not asked is not 0
    assert json.loads(json.dumps(told)) == told


def test_gpus_are_looked_at_aside_and_at_once_when_wanted() -> None:
    looks: list[int] = []
    published: list[Any] = []

    def ask() -> tuple[Gpu, ...] | Unknown:
        looks.append(len(looks))
        if len(looks) == 2:
            raise RuntimeError("strange")
        return (card(len(looks)),)

    cards = Cards(ask, published.append, every=60)
    assert cards.now() == (card(1),) == cards.now()
    assert cards.now(fresh=True) == Unknown("RuntimeError: strange")
    assert cards.now(fresh=True) == (card(3),)
    assert (len(looks), published) == (3, [(card(1),), (card(3),)])


def test_a_driver_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.1)
    hang, calls = threading.Event(), [0]

    def ask() -> tuple[Gpu, ...]:
        calls[0] += 1
        if calls[0] > 1:
            hang.wait()
        return (card(0),)

    cards = Cards(ask, lambda _: None, every=0.1)
    try:
        assert cards.now() == (card(0),)
        wait_until(lambda: calls[0] == 2)
        time.sleep(0.5)
        found = cards.now(fresh=True)
        assert isinstance(found, Unknown) and found.reason.startswith("the driver has not answered for")
        assert calls[0] == 2  # nobody asks a second time while the first waits
    finally:
        hang.set()
