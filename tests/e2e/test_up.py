"""From nothing to an answer, on both runtimes with both engines, and back to nothing."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.conftest import Box, profile

pytestmark = pytest.mark.e2e

QUESTION = "What is the capital of France? Answer in one sentence."


def client(result: dict[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=result["url"], api_key=Path(result["key_file"]).read_text().strip())


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_from_nothing_to_an_answer_and_back(box: Box, runtime: str, engine: str) -> None:
    wanted = profile(box, "small", engine=engine)

    first = box.up(wanted, "--runtime", runtime)

    assert first["changed"] and first["runtime"] == runtime
    assert first["tokens_per_s"] > 0 and first["first_token_s"] > 0
    assert stat.S_IMODE(Path(first["key_file"]).stat().st_mode) == 0o600

    with client(first) as api:
        stream = api.chat.completions.create(
            model=first["model"],
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=40,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len([p for p in pieces if p]) > 3, "not a stream"
    assert "Paris" in "".join(pieces)

    with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=first["url"], api_key="wrong") as thief:
        thief.chat.completions.create(
            model=first["model"], messages=[{"role": "user", "content": "Hello"}], max_tokens=1
        )

    start = time.monotonic()
    second = box.up(wanted, "--runtime", runtime)
    took = time.monotonic() - start
    assert not second["changed"]
    assert took < 2, f"the second up took {took:.1f} s"

    [row] = box.json("status")["deployments"]
    assert (row["name"], row["state"]) == ("small", "answers")
    answer = box.json("chat", "--temperature", "0", "--max-tokens", "40", QUESTION)
    assert "Paris" in answer["answer"] and answer["tokens"] > 3
    assert box.run("logs", "-n", "20").stdout

    box.run("down")
    assert box.left() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(first["url"])


def test_only_loopback_is_bound(box: Box, runtime: str) -> None:
    box.up("cpu-small", "--runtime", runtime)
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True)
    if listening.returncode:
        pytest.fail("ss is needed: apt-get install iproute2")
    ours = [line.split()[3] for line in listening.stdout.splitlines() if line.split()[3].endswith(f":{box.port}")]
    assert ours == [f"127.0.0.1:{box.port}"]


def test_a_changed_profile_replaces_the_deployment(box: Box, runtime: str) -> None:
    wanted = profile(box, "small")
    first = box.up(wanted, "--runtime", runtime)
    profile(box, "small", serving="{context: 2048, concurrency: 1}")

    second = box.up(wanted, "--runtime", runtime)

    assert second["changed"]
    assert Path(second["key_file"]).read_text() == Path(first["key_file"]).read_text(), "clients keep their key"
    [row] = box.json("status")["deployments"]
    assert row["generation"] == 2


def test_a_profile_may_leave_the_key_out_in_words(box: Box, runtime: str) -> None:
    wanted = profile(box, "open", serving="{context: 2048, api_key: none}")
    result = box.up(wanted, "--runtime", runtime)
    assert result["key_file"] is None
    body = {"model": result["model"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert httpx.post(f"{result['url']}/chat/completions", json=body, timeout=60).status_code == 200


def test_without_a_profile_up_chooses_and_says_why(box: Box, runtime: str) -> None:
    done = box.run("up", "--runtime", runtime, "--port", str(box.port), timeout=600)
    assert "url " in done.stdout and "tokens/s" in done.stdout and "curl " in done.stdout
    assert "profile cpu-" in done.stderr
    assert "not h100-80gb, " in done.stderr, "the reason against what ranks higher"


def test_the_dry_run_changes_nothing_and_shows_what_would_run(box: Box, runtime: str) -> None:
    before = sorted(p for p in box.home.rglob("*") if p.name != "locks" and p.parent.name != "locks")
    done = box.run("up", "cpu-small", "--runtime", runtime, "--port", str(box.port), "--dry-run")
    assert f"--ctx-size 8192 --parallel 2" in done.stdout  # noqa: F541
    assert ("docker run" if runtime == "docker" else "llama-server") in done.stdout
    assert sorted(p for p in box.home.rglob("*") if p.name != "locks" and p.parent.name != "locks") == before


def test_the_deployment_survives_the_shell_that_started_it(box: Box) -> None:
    words = f"{sys.executable} -m deployer up cpu-small --runtime process --port {box.port} --json"
    done = subprocess.run(
        ["setsid", "sh", "-c", words], env=box.environment(), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    [row] = box.json("status")["deployments"]
    assert row["state"] == "answers"


def test_what_a_profile_leaves_open_is_what_the_memory_holds(box: Box, runtime: str) -> None:
    """By headers that only a pull can read here; kept by the next `up`, and held against what was expected."""
    wanted = profile(box, "open", serving="{port: 8000, cache: 8-bit}")
    first = box.up(wanted, "--runtime", runtime)
    record = json.loads((box.home / "deployments/open/deployment.json").read_text())
    context, users = record["context"], record["concurrency"]
    assert context == 8192 and 1 <= users <= 4
    words = record["engines"][0]["parts"][0]["arguments"]
    assert words[words.index("--ctx-size") + 1] == str(context * users)
    assert words[words.index("--cache-type-k") + 1] == "q8_0"
    assert not box.up(wanted, "--runtime", runtime)["changed"]

    (measured,) = box.json("fit", "--history")["history"]
    assert measured["rate"] == pytest.approx(first["tokens_per_s"])
    assert (measured["context"], measured["users"], measured["runtime"]) == (context, users, runtime)
    assert measured["expected_rate"] > 0 and measured["load"] > 0
    # the weights are read, a cache that nobody has filled is not
    assert 98_000_000 < measured["memory"] <= measured["expected_memory"]
