"""What the gateway does while one generation of engines takes the place of another."""

from __future__ import annotations

import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.door import BEARER, CHAT, Engine, configure, gateway, hashed, model, replica
from tests.servers import Handler, wait_until

NAMED = {"X-Deployer-Replica": "new"}


def status(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/status", headers=BEARER).json()
    return found


def ask(url: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}{CHAT}", json={}, headers={**BEARER, **headers}, timeout=30)


def test_requests_wait_for_a_candidate_and_are_answered_when_it_is_accepted(tmp_path: Path) -> None:
    with Engine() as new:
        configure(tmp_path, model(replica(new.url, "new", state="candidate")))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            early = [pool.submit(ask, url) for _ in range(5)]
            wait_until(lambda: status(url)["waiting"] == 5)
            assert ask(url, **NAMED).status_code == 200, "who may ask for it by name does not wait behind them"
            assert httpx.get(f"{url}/health").status_code == 503
            assert httpx.get(f"{url}/health", headers=NAMED).status_code == 200
            assert httpx.get(f"{url}/health", headers={"X-Deployer-Replica": "other"}).status_code == 503
            assert not any(one.done() for one in early)
            configure(tmp_path, model(replica(new.url, "new")))
            assert [one.result().status_code for one in early] == [200] * 5
            assert httpx.get(f"{url}/health").status_code == 200


def test_requests_wait_between_an_engine_that_goes_and_one_that_comes(tmp_path: Path) -> None:
    with Engine() as old, Engine() as new:
        configure(tmp_path, model(replica(old.url, "old", state="draining")))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            early = [pool.submit(ask, url) for _ in range(3)]
            wait_until(lambda: status(url)["waiting"] == 3)
            configure(tmp_path, model(replica(new.url, "new", state="candidate")))
            wait_until(lambda: status(url)["models"][0]["replicas"][0]["state"] == "candidate")
            configure(tmp_path, model(replica(new.url, "new")))
            assert {one.result().headers["x-deployer-replica"] for one in early} == {"new"}
            assert not old.seen


def test_they_wait_no_longer_than_they_may_and_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    with Engine() as new:
        configure(tmp_path, model(replica(new.url, "new", state="candidate")), wait=1.5, queue=1)
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            first = pool.submit(ask, url)
            wait_until(lambda: status(url)["waiting"] == 1)
            crowded = ask(url)
            assert crowded.status_code == 429 and int(crowded.headers["retry-after"]) >= 1
            assert first.result().status_code == 429


def test_requests_outlast_an_engine_that_is_started_again(tmp_path: Path) -> None:
    asked: list[Handler] = []

    def loads(handler: Handler) -> None:
        asked.append(handler)
        ready = len(asked) > 6
        handler.whole(200 if ready else 503, b'{"choices": []}' if ready else b'{"error": {"message": "Loading"}}')

    with Engine() as one:
        one.play = loads
        configure(tmp_path, model(replica(one.url, "one")))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            answers = [pool.submit(ask, url) for _ in range(3)]
            assert [answer.result().status_code for answer in answers] == [200] * 3
            assert len(asked) == 6 + 3


def test_without_any_engine_nobody_waits(tmp_path: Path) -> None:
    configure(tmp_path, model())
    with gateway(tmp_path) as url:
        assert ask(url).status_code == 503


def test_only_the_owner_asks_by_name(tmp_path: Path) -> None:
    keys = [{"name": "owner", "hash": hashed("sk-right")}, {"name": "guest", "hash": hashed("sk-guest")}]
    with Engine() as new:
        configure(tmp_path, model(replica(new.url, "new")), keys=keys)
        with gateway(tmp_path) as url:
            assert ask(url, **NAMED).status_code == 200
            refused = ask(url, **NAMED, Authorization="Bearer sk-guest")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_the_owner")
            assert ask(url, Authorization="Bearer sk-guest").status_code == 200


def test_a_named_engine_is_asked_at_once_even_when_its_slots_are_taken(tmp_path: Path) -> None:
    begun: list[Handler] = []

    def hold(handler: Handler) -> None:
        begun.append(handler)
        wait_until(lambda: len(begun) == 2)
        handler.whole(200, b'{"choices": []}')

    with Engine() as new:
        new.play = hold
        configure(tmp_path, model(replica(new.url, "new", slots=1)))
        with gateway(tmp_path) as url, ThreadPoolExecutor() as pool:
            first = pool.submit(ask, url)
            wait_until(lambda: len(begun) == 1)
            assert ask(url, **NAMED).status_code == first.result().status_code == 200


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    configure(folder, model())
    certify(folder, "first")
    words = ("--certificate", str(folder / "certificate.pem"), "--certificate-key", str(folder / "certificate.key"))
    with gateway(folder, *words) as url:
        port = int(url.rpartition(":")[2])
        before = ssl.get_server_certificate(("127.0.0.1", port))
        certify(folder, "second")
        wait_until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
        assert ssl.get_server_certificate(("127.0.0.1", port)) == (folder / "certificate.pem").read_text()


def certify(folder: Path, name: str) -> None:
    """A new certificate in the folder, as `up` puts it there: its key first."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    words += ["-subj", f"/CN={name}", "-keyout", str(folder / "new.key"), "-out", str(folder / "new.pem")]
    subprocess.run(words, check=True, capture_output=True)
    (folder / "new.key").replace(folder / "certificate.key")
    (folder / "new.pem").replace(folder / "certificate.pem")
