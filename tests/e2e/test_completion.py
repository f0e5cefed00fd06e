"""A model that only completes, in the gpt2 profile's shape: no chat template, /v1/completions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import openai
import pytest

from deployer.fetch import Web
from deployer.home import Home
from deployer.host.deep import PROGRAM, parse
from deployer.progress import Silent
from deployer.runtimes.provision import provision
from tests.e2e.conftest import CACHE, Box, profile

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of the engine, which has torch."""
    links = os.environ.get("PIP_FIND_LINKS", "")
    web = Web(wheelhouse=Path(links) if links and Path(links).is_dir() else None)
    program = provision("transformers", "cpu", home=Home(CACHE), web=web, progress=Silent())
    return program.with_name("python")


@pytest.fixture(scope="module")
def model(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 in safetensors, made by the engine's own torch."""
    target = tmp_path_factory.mktemp("gpt2")
    script = Path(__file__).with_name("tiny_gpt2.py")
    done = subprocess.run([python, script, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def gpt2(box: Box, model: Path, **changes: str) -> str:
    """The gpt2 profile for this model; the revision, which only a hub has, is left out."""
    shape = {"source": f"file://{model}", "serving": "{context: 256}", "download": "1 MB", **changes}
    path = Path(profile(box, "tiny", base="gpt2", **shape))
    path.write_text("".join(line for line in path.open() if "revision:" not in line))
    return str(path)


def test_a_completion_model_is_served_and_completes(box: Box, runtime: str, model: Path) -> None:
    result = box.up(gpt2(box, model), "--runtime", runtime)
    key = Path(result["key_file"]).read_text().strip()
    with openai.OpenAI(base_url=result["url"], api_key=key) as api:
        stream = api.completions.create(
            model=result["model"], prompt="The capital of France is", max_tokens=8, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text.startswith(" Paris")
    assert "/v1/completions" in result["example"]
    assert (
        "Paris"
        in box.json("chat", "--temperature", "0", "--max-tokens", "8", "The capital of France is")["answer"]
    )


def test_a_chat_profile_of_a_model_without_a_chat_template_is_refused(box: Box, model: Path) -> None:
    done = box.run(
        "up", gpt2(box, model, kind="chat"), "--runtime", "process", "--port", str(box.port), code=1
    )
    assert "the model has no chat template" in done.stderr
    assert "set model.kind to completion" in done.stderr


def test_a_context_beyond_the_training_is_refused(box: Box, model: Path) -> None:
    wanted = gpt2(box, model, serving="{context: 512}")
    done = box.run("up", wanted, "--runtime", "process", "--port", str(box.port), code=1)
    assert "trained for 256 tokens, the profile asks for 512" in done.stderr


def test_torch_multiplies_the_matrices_that_a_deep_check_measures(python: Path) -> None:
    done = subprocess.run([python, PROGRAM, "matrix", "cpu", "256"], capture_output=True, text=True)
    (line,) = parse(done.stdout)
    assert line["matrix"]["uuid"] == "cpu" and line["matrix"]["rate"] > 1e8
