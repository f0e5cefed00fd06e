"""Generations under load: upgraded, refused, rolled back, killed; nobody who asks is failed or cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Box, profile

pytestmark = pytest.mark.e2e

STREAMS = 32
SHARE = ("--share", "0.2")  # what two engines and their clients leave one another of two cores differs by the second
SMALLER = "{context: 2048, concurrency: 4}"


class Load:
    """Clients that ask for one stream after another until they are told to end; what came of each is counted."""

    def __init__(self, result: dict[str, str], streams: int = STREAMS) -> None:
        self.found: Counter[str] = Counter()
        self._stop = threading.Event()
        self._key = Path(result["key_file"]).read_text().strip()
        self._url, self._model = result["url"], result["model"]
        self._threads = [threading.Thread(target=self._ask) for _ in range(streams)]

    def _ask(self) -> None:
        body = {
            "model": self._model, "max_tokens": 30, "stream": True,
            "messages": [{"role": "user", "content": "Count from one to ten."}],
        }  # fmt: skip
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(timeout=300, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    with client.stream("POST", f"{self._url}/chat/completions", json=body, headers=headers) as answer:
                        lines = list(answer.iter_lines())
                    self.found[self._came(answer.status_code, lines)] += 1
                except httpx.HTTPError as error:
                    self.found[f"{type(error).__name__}: {error}"] += 1

    @staticmethod
    def _came(status: int, lines: list[str]) -> str:
        if status != 200:
            return f"HTTP {status}: {lines[:1]}"
        events = [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]
        ended = any(event["choices"] and event["choices"][0].get("finish_reason") for event in events)
        return "whole" if ended and "data: [DONE]" in lines else "cut off"

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            deadline = time.monotonic() + 120
            while not self.found and time.monotonic() < deadline:
                time.sleep(0.05)
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def history(box: Box) -> list[tuple[int, str]]:
    return [(row["generation"], row["state"]) for row in box.json("history")["generations"]]


def test_thirty_two_streams_go_through_an_upgrade_and_back(box: Box, runtime: str) -> None:
    wanted = profile(box, "small")
    first = box.up(wanted, "--runtime", runtime)
    load = Load(first)
    with load.running():
        profile(box, "small", serving=SMALLER)
        upgraded = box.json("upgrade", *SHARE)
        assert upgraded["changed"] and upgraded["url"] == first["url"]
        assert history(box) == [(1, "kept"), (2, "runs")]
        back = box.json("rollback")
        assert back["generation"] == 1 and back["seconds"] < 30
        assert history(box) == [(1, "runs"), (2, "kept")]
        # where memory does not hold both, whoever asks in between waits in the gateway
        again = box.run("upgrade", "--after", *SHARE)
        assert "stop generation 1 before the next one starts" in again.stderr
    assert set(load.found) == {"whole"} and load.found["whole"] > STREAMS, load.found
    assert box.json("status")["deployments"][0]["generation"] == 3
    box.run("rollback", "--to", "1")
    assert history(box) == [(1, "runs"), (2, "past"), (3, "kept")]
    assert box.run("rollback", "--to", "7", code=2).stderr.startswith("error: small has no accepted generation 7")


def test_a_generation_that_is_refused_changes_nothing(box: Box, runtime: str) -> None:
    wanted = profile(box, "small")
    first = box.up(wanted, "--runtime", runtime)
    load = Load(first, 4)
    with load.running():
        profile(box, "small", limits="{first_token: 1 ms, per_token: 500 ms}", serving=SMALLER)
        for more, said in (((), "generation 1 goes on"), (("--after",), "going back to generation 1")):
            done = box.run("upgrade", *more, code=1)
            assert "the first token took" in done.stderr
            assert said in done.stderr
            [row] = box.json("status")["deployments"]
            assert (row["state"], row["generation"]) == ("answers", 1)
    assert set(load.found) == {"whole"}, load.found
    assert history(box) == [(1, "runs"), (2, "refused"), (3, "refused")]
    assert box.json("inspect")["as_accepted"]


def test_what_the_gateway_alone_is_told_leaves_the_engine_as_it_is(box: Box, runtime: str) -> None:
    wanted = profile(box, "small")
    first = box.up(wanted, "--runtime", runtime)
    pids = engine_pids(box)
    with Path(wanted).open("a") as file:
        file.write("gateway: {queue: 5}\n")
    assert box.up(wanted, "--runtime", runtime)["changed"]
    assert engine_pids(box) == pids
    assert history(box) == [(1, "kept"), (2, "runs")]
    told = json.loads((box.home / "deployments/small/gateway/gateway.json").read_text())
    assert told["queue"] == 5
    [changed] = [row["changes"] for row in box.json("history")["generations"] if row["generation"] == 2]
    assert changed == ["gateway.queue 64 → 5"]
    assert box.json("rollback")["generation"] == 1
    assert engine_pids(box) == pids
    assert httpx.get(first["url"].replace("/v1", "/health")).status_code == 200


@pytest.mark.parametrize("moment", ["start small/g2/1", "wait until", "accept small", "switch"])
def test_a_kill_leaves_the_old_one_serving_and_the_next_call_goes_on(box: Box, runtime: str, moment: str) -> None:
    wanted = profile(box, "small")
    first = box.up(wanted, "--runtime", runtime)
    profile(box, "small", serving=SMALLER)
    load = Load(first, 4)
    with load.running():
        child = box.start("upgrade", *SHARE)
        assert child.stderr is not None
        for line in child.stderr:
            if moment in line:
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert box.json("upgrade", *SHARE)["changed"]
    assert set(load.found) == {"whole"}, load.found
    assert history(box) == [(1, "kept"), (2, "runs")]
    names = [line for line in running(box) if "engine" in line]
    assert len(names) == 1, names


def test_of_two_engines_one_may_be_killed(box: Box, runtime: str) -> None:
    wanted = profile(box, "small", serving="{context: 2048, concurrency: 2, replicas: 2}")
    first = box.up(wanted, "--runtime", runtime)
    pids = engine_pids(box)
    assert len(pids) == 2
    headers = {"Authorization": f"Bearer {Path(first['key_file']).read_text().strip()}"}
    body = {"model": first["model"], "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}

    def asked(content: str) -> str:
        body["messages"] = [{"role": "user", "content": content}]
        answer = httpx.post(f"{first['url']}/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-deployer-replica"]

    assert {asked(str(n)) for n in range(12)} == {"g1-1", "g1-2"}
    for pid in pids[0]:
        os.kill(pid, signal.SIGKILL)
    assert {asked(str(n)) for n in range(12)} <= {"g1-1", "g1-2"}


def engine_pids(box: Box) -> Any:
    return [part["pids"] for part in box.json("inspect")["parts"] if part["role"] == "engine"]


def running(box: Box) -> list[str]:
    """Engines that run: processes by their mark, containers by their name."""
    listed = subprocess.run(["docker", "ps", "--format", "{{.Names}}"], capture_output=True, text=True).stdout.split()
    return [name for name in listed if name in box.containers()] + [
        f"engine {one}" for one in box.processes() if "llama-server" in one
    ]
