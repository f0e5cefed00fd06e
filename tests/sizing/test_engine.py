"""The model of memory against the engines themselves.

llama.cpp: real headers, weights that are holes, and what the server reports. transformers: random weights, the tensors
of the cache, and the peak of resident memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from deployer.engines import Job, engine
from deployer.models.metadata import describe, shapes
from deployer.sizing import buffers, cache
from deployer.sizing.memory import Use, memory
from tests.sizing import configs, ggufs
from tests.sizing.bed import MODELS
from tests.sizing.configs import CONFIGS, PYTHONS
from tests.sizing.llamacpp import SERVERS, reported, served

MIB = 1 << 20
QK = {"attn_q_norm": 128, "attn_k_norm": 128}

made_here = pytest.mark.skipif(not SERVERS, reason="the end-to-end tests have not made llama.cpp here yet")


@made_here
@pytest.mark.parametrize(("context", "slots"), [(4096, 2), (1000, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_every_part_of_every_family(tmp_path: Path, name: str, context: int, slots: int) -> None:
    path = ggufs.write(tmp_path / "model.gguf", *MODELS[name]())
    made = describe(path)
    with served(path, context, slots, tmp_path / "log") as (text, pid):
        assert "compute buffer size" in text, text[-2000:]
        status = Path(f"/proc/{pid}/status").read_text()
    if "REPACK" not in text:  # else some tensors are counted twice: mapped, and copied
        assert made.weights / MIB == pytest.approx(reported(text, "model"), abs=0.01)
    kept = slots * cache.request(made, context, "llamacpp") / MIB
    assert kept == pytest.approx(reported(text, "KV") + reported(text, "RS"), abs=0.011)
    scratch = buffers.llamacpp(made, context, slots) / MIB
    exact = 1.01 if name not in ("falcon-h1", "granite-hybrid", "qwen3-long-heads") else 1.09
    assert reported(text, "compute") <= scratch + 0.005 <= exact * reported(text, "compute") + 0.2
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert match
    need = memory(made, "llamacpp", Use(context, slots))
    repacked = reported(text, "CPU_REPACK model")
    held = int(match[1]) / 1024 - repacked
    assert held <= (need.part("cache") + need.part("process")) / MIB  # never under


WIDE = {
    "Llama-3.1-8B": ("llama", {"h": 4096, "heads": 32, "kv": 8, "wide": 14336}),
    "Qwen3-32B": ("qwen3", {"h": 5120, "heads": 64, "kv": 8, "wide": 25600, "key": 128, "norms_": QK}),
    "Qwen3-30B-A3B": ("qwen3moe", {"h": 2048, "heads": 32, "kv": 4, "wide": 768, "key": 128, "experts_": 16,
                                   "active": 8, "norms_": QK}),
    "Mixtral-8x7B": ("llama", {"h": 4096, "heads": 32, "kv": 8, "wide": 14336, "experts_": 2, "active": 2}),
    "Mistral-Small-24B": ("llama", {"h": 5120, "heads": 32, "kv": 8, "wide": 32768, "key": 128}),
}  # fmt: skip


@made_here
@pytest.mark.parametrize("name", WIDE)
def test_compute_buffers_at_the_width_of_famous_models(tmp_path: Path, name: str) -> None:
    """Two layers are enough: scratch does not grow with depth."""
    arch, values = WIDE[name]
    path = ggufs.write(tmp_path / "model.gguf", *ggufs.plain(arch, layers=2, vocab=8192, **values))  # type: ignore[arg-type]
    made = describe(path)
    with served(path, 8192, 1, tmp_path / "log") as (text, _pid):
        found = reported(text, "compute")
    assert found <= buffers.llamacpp(made, 8192, 1) / MIB <= 1.01 * found


QWEN = {"layers": 2, "h": 1024, "heads": 16, "kv": 8, "key": 128, "wide": 3072, "norms_": QK}
VECTORS = {
    "all-MiniLM-L6-v2": ggufs.bert(h=384, heads=12, wide=1536, vocab=30522, kind="F16"),
    "bge-large": ggufs.bert(h=1024, heads=16, wide=4096, vocab=3000, kind="F16"),
    "narrow": ggufs.bert(h=1024, heads=16, wide=256, vocab=3000, kind="F16"),
    "long": ggufs.bert(h=768, heads=12, wide=3072, vocab=3000, context=8192, kind="F16"),
    "Qwen3-Embedding": ggufs.plain("qwen3", vocab=151936, more={"pooling_type": 3}, **QWEN),  # type: ignore[arg-type]
    "averaged": ggufs.plain("qwen3", vocab=65536, more={"pooling_type": 1}, **QWEN),  # type: ignore[arg-type]
}


@made_here
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("name", VECTORS)
def test_models_that_give_vectors(tmp_path: Path, name: str, slots: int) -> None:
    """As the engine is started for them: what is read in one piece is one batch."""
    path = ggufs.write(tmp_path / "model.gguf", *VECTORS[name])
    made = describe(path)
    assert made.kind == "embedding"
    context = min(2048, made.context)
    job = Job("", str(path), "m", "", "", context, slots, 1, None, kind="embedding", whole=made.whole)
    given = engine("llamacpp").arguments(job)
    more = given[given.index("--embeddings") :]
    with served(path, context, slots, tmp_path / "log", more=more) as (text, pid):
        assert "compute buffer size" in text, text[-2000:]
        status = Path(f"/proc/{pid}/status").read_text()
    kept = slots * cache.request(made, context, "llamacpp") / MIB
    assert kept == pytest.approx(reported(text, "KV"), abs=0.011)
    assert (kept == 0) == made.encoder
    found, told = reported(text, "compute"), buffers.embedding(made, context, slots) / MIB
    assert found <= told + 0.005 <= 1.08 * found + 0.2
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    need = memory(made, "llamacpp", Use(context, slots))
    assert match and need.part("prompts") == 0
    held = int(match[1]) / 1024 - reported(text, "CPU_REPACK model")
    assert held <= (need.part("cache") + need.part("process")) / MIB


# Runs under the engine's own Python: the peak of resident memory while prompts of several lengths are read.
PROMPTS = """
import json, re, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
def held(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
model = LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[1]))).to(torch.bfloat16).eval()
for tokens in (512, 2048):
    prompt = torch.randint(3, 999, (1, tokens))
    for _ in range(2):  # what oneDNN makes once for each shape is there the second time
        before = held("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        model.generate(prompt, max_new_tokens=2, do_sample=False, pad_token_id=0)
    print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not PYTHONS, reason="the end-to-end tests have not made transformers here yet")
@pytest.mark.parametrize("width", [1024, 2048])
def test_what_transformers_takes_for_a_longer_prompt(width: int) -> None:
    config = {"hidden_size": width, "intermediate_size": width * 11 // 4, "num_attention_heads": 16,
              "num_key_value_heads": 4, "num_hidden_layers": 4, "vocab_size": 4096,
              "max_position_embeddings": 8192}  # fmt: skip
    done = subprocess.run(
        [str(PYTHONS[-1]), "-W", "ignore", "-c", PROMPTS, json.dumps(config)],
        capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, **configs.ENVIRONMENT},
    )  # fmt: skip
    short, long = map(int, done.stdout.split())
    made = shapes.describe({**config, "model_type": "llama", "tie_word_embeddings": False})
    told = [
        need.part("compute") + need.part("cache")
        for need in (memory(made, "transformers", Use(tokens)) for tokens in (512, 2048))
    ]
    assert long - short <= told[1] - told[0] <= 1.3 * (long - short)


@pytest.mark.skipif(not PYTHONS, reason="the end-to-end tests have not made transformers here yet")
def test_weights_and_caches_of_every_family_in_transformers() -> None:
    """Exact, but for the position that a sliding layer keeps beside its window."""
    tokens = 300  # more than a window and than a chunk
    for found in configs.measured(CONFIGS, tokens):
        made = shapes.describe(CONFIGS[found["model"]])
        assert made.weights == found["weights"], found["model"]
        told = cache.request(made, tokens + 1, "transformers")
        assert 0 <= found["cache"] - told <= 64 * len(made.layers), found["model"]
        assert found["compute"] <= buffers.transformers(made, tokens, 1) + (4 << 20), found["model"]
        written = shapes.describe(found["config"])  # as transformers writes it now
        assert (written.tensors, written.layers) == (made.tensors, made.layers), found["model"]
