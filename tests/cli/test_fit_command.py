"""`deployer fit` as people and programs use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployer import host, profile
from tests import hosts
from tests.servers import Hub
from tests.sizing import ggufs
from tests.sizing.bed import MODELS


def run(*words: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "DEPLOYER_HOME": str(home),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    command = [sys.executable, "-m", "deployer", "fit", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )


def saved(found: host.Host, home: Path) -> tuple[str, str]:
    path = home / "host.json"
    path.write_text(json.dumps({"host": host.to_json(found)}))
    return "--host", str(path)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_file_on_this_machine(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "m.gguf", *MODELS["gemma3"]())
    done = run(
        str(path), "--context", "4096", "--users", "2", "--json", "--engine", "llamacpp", home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = told(done)
    assert found["model"]["layers"] == {"sliding": 5, "full": 1} and found["model"]["measured"]
    (here,) = found["answers"]
    assert here["fits"] and here["memory"]["parts"]["cache"] == 36 << 20 and here["speed"]["one"] > 0
    assert set(here["memory"]["parts"]) == {"weights", "cache", "compute", "prompts", "process"}


def test_a_model_that_does_not_fit_and_what_would(tmp_path: Path) -> None:
    done = run("Qwen3-32B", "--gpu", "L40S", "--engine", "transformers", home=tmp_path)
    assert done.returncode == 1
    assert "no   transformers on 1 × NVIDIA L40S, BF16: 68.2 GB needed, 46.9 GB there" in done.stdout
    assert "2 GPUs" in done.stdout and "requirements: {gpu: {count: 2}}" in done.stdout
    done = run("Qwen3-32B", "--gpu", "L40S", "--count", "2", "--engine", "transformers", home=tmp_path)
    assert done.returncode == 0 and "yes  transformers on 2 × NVIDIA L40S" in done.stdout


def test_a_saved_host(tmp_path: Path) -> None:
    done = run("gpt-oss-20b", *saved(hosts.H100, tmp_path), "--json", home=tmp_path)
    found = {(a["engine"], a["device"]): a for a in told(done)["answers"]}
    best = found["vllm", "NVIDIA H100 80GB HBM3"]
    assert done.returncode == 0 and best["fits"] and best["users"] > 1 and best["most_context"] == 131072


def test_the_catalogue_for_a_card(tmp_path: Path) -> None:
    done = run("--gpu", "rtx 4060", "--json", home=tmp_path)
    names = [m["name"] for m in told(done)["models"]]
    assert done.returncode == 0 and {"Qwen3-8B", "Llama-3.2-3B-Instruct"} <= set(names)
    assert all(m["fits"] and m["source"] for m in told(done)["models"])


def test_a_model_of_the_hub_is_not_fetched(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "m-Q8_0.gguf", *MODELS["qwen3"]())
    with Hub("org/model", {"m-Q8_0.gguf": path.read_bytes()}) as hub:
        done = run(
            "hf://org/model@main:Q8_0",
            "--profile",
            str(tmp_path / "p.yaml"),
            home=tmp_path,
            HF_ENDPOINT=hub.url,
        )
        sent = sum(seen.sent for seen in hub.seen)
    assert done.returncode == 0, done.stderr
    assert sent < 5_000_000 < path.stat().st_size
    made = profile.load(tmp_path / "p.yaml")
    assert made.model.source == "hf://org/model" and made.model.revision == hub.sha
    assert [f.path for f in made.model.files] == ["m-Q8_0.gguf"] and made.engine == "llamacpp"
    assert not list(tmp_path.glob("models/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing-like-it",), "no file, no model of the store and not in the catalogue"),
        (("Qwen3-9B", "--gpu", "L40S"), "hint: Qwen3"),
        (("Qwen3-8B", "--gpu", "RTX 9999"), "no GPU of the table is called RTX 9999"),
        (("Qwen3-8B", "--quantization", "Q9"), "no format is called Q9"),
        (("Qwen3-8B", "--gpu", "L40S", "--host", "x"), "does not exist"),
        (("Qwen3-8B", "--memory", "much", "--gpu", "L40S"), "--memory much is not right"),
    ],
)
def test_questions_that_are_wrong(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words, home=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    done = run(str(tmp_path / "m.gguf"), home=tmp_path)
    assert done.returncode != 0 and "the header of m.gguf cannot be read" in done.stderr
