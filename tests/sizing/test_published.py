"""The model against what engines and their makers published: file sizes, caches, buffers, whole tables."""

from __future__ import annotations

import pytest

from deployer.sizing import buffers, cache, catalogue, formats, memory, speed
from deployer.sizing.memory import Use

GIB = 1 << 30
MIB = 1 << 20


def entry(name: str) -> catalogue.Entry:
    found = catalogue.find(name)
    assert found is not None
    return found


# ggml-org/llama.cpp, tools/quantize/README.md: bits per weight and GiB of Llama-3.1-8B.
MIXES = [
    ("Q2_K", 3.1593, 2.95), ("Q3_K_M", 3.9960, 3.74), ("IQ4_XS", 4.4597, 4.17), ("Q4_K_M", 4.8944, 4.58),
    ("Q5_K_M", 5.7036, 5.33), ("Q6_K", 6.5633, 6.14), ("Q8_0", 8.5008, 7.95), ("F16", 16.0005, 14.96),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bits", "gib"), MIXES, ids=[m[0] for m in MIXES])
def test_gguf_mixes_of_llama_3_1_8b(name: str, bits: float, gib: float) -> None:
    made = entry("Llama-3.1-8B-Instruct").description(name)
    assert made.weights / GIB == pytest.approx(gib, abs=0.006)
    assert made.weights * 8 / made.parameters == pytest.approx(bits, abs=0.0002)


def test_four_bits_are_not_half_a_byte() -> None:
    """Embeddings and output stay in 16 bits: 5.73 GB, where half a byte for each number gives 4.02."""
    assert entry("Llama-3.1-8B-Instruct").description("AWQ").weights == pytest.approx(5.73e9, rel=0.001)


def test_the_gguf_of_gpt_oss() -> None:
    """ggml-org/gpt-oss-20b-GGUF has one file of 12.1 GB: experts in MXFP4, the rest in Q8_0."""
    assert entry("gpt-oss-20b").description("MXFP4_MOE").weights == pytest.approx(12.1e9, rel=0.005)


# Numbers in a model, in billions, from its name or its card; where all digits are there, from keras-hub's presets.
SIZES = [
    ("Llama-3.1-8B-Instruct", 8.030261248), ("Llama-3.3-70B-Instruct", 70.554), ("Llama-3.1-405B-Instruct", 405.85),
    ("DeepSeek-V3", 671.03), ("Kimi-K2-Instruct", 1026.4), ("Qwen3-235B-A22B", 235.09), ("Qwen3-30B-A3B", 30.53),
    ("Qwen3-0.6B", 0.596049920), ("gpt-oss-20b", 20.91), ("gpt-oss-120b", 116.83),
    ("Mixtral-8x7B-Instruct-v0.1", 46.702792704),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.58), ("gemma-3-1b-it", 0.999885952), ("GLM-5", 744.0),
    ("SmolLM2-135M-Instruct", 0.134515), ("Mistral-Small-3.2-24B-Instruct-2506", 23.57),
    ("Qwen3-1.7B", 1.720574976), ("Qwen3-4B", 4.022468096), ("Qwen3-8B", 8.190735360), ("Qwen3-14B", 14.768307200),
    ("Qwen3-32B", 32.762123264), ("Qwen2.5-3B-Instruct", 3.085938688), ("Qwen2.5-7B-Instruct", 7.615616512),
    ("Qwen2.5-32B-Instruct", 32.763876352), ("Mistral-7B-Instruct-v0.2", 7.241732096), ("gemma-2-2b-it", 2.614341888),
    ("gemma-2-9b-it", 9.241705984), ("gemma-2-27b-it", 27.227128320), ("Phi-3-mini-128k-instruct", 3.821079552),
]  # fmt: skip


@pytest.mark.parametrize(("name", "billions"), SIZES, ids=[s[0] for s in SIZES])
def test_shapes_add_up_to_the_models_size(name: str, billions: float) -> None:
    assert entry(name).billions == pytest.approx(billions, rel=0.001)


def test_gemma_3_12b_without_its_tower() -> None:
    """keras-hub, gemma3_presets.py: 11,765,788,416 numbers in the text model, with 262,144 pieces and not 262,208."""
    made = entry("gemma-3-12b-it").description("BF16")
    text = sum(t.numbers for t in made.tensors if t.group != "tower")
    assert text - 64 * 3840 == pytest.approx(11_765_788_416, rel=0.0001)


# Bytes that one token adds with 16-bit numbers: vLLM's log for Mistral and gpt-oss, published configs for the others.
TOKENS = [
    ("Llama-3.1-8B-Instruct", 131_072), ("DeepSeek-V3", 70_272), ("Mistral-Small-3.2-24B-Instruct-2506", 163_840),
    ("gpt-oss-120b", 73_728), ("Qwen3-32B", 262_144), ("Qwen3.6-27B", 65_536), ("SmolLM2-135M-Instruct", 23_040),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size"), TOKENS, ids=[t[0] for t in TOKENS])
def test_cache_of_one_token(name: str, size: int) -> None:
    assert cache.per_token(entry(name).description()) == size


def test_caches_of_whole_contexts() -> None:
    qwen = entry("Qwen3-32B").description()
    assert cache.request(qwen, 32768, "llamacpp") == 8 * GIB  # hf-mem says 5: it leaves out key_length
    gemma = entry("gemma-3-27b-it").description()
    growing = (cache.request(gemma, 65536, "vllm") - cache.request(gemma, 32768, "vllm")) / 32768
    assert growing == 10 * 2 * 16 * 128 * 2  # 81,920 bytes: only ten layers in 62 see everything
    hybrid = entry("Qwen3.6-27B").description()
    assert cache.request(hybrid, 262_144, "llamacpp") - cache.states(hybrid, "llamacpp") == 16 * GIB
    # LM Studio bug 1862: llama.cpp prints 598.5 MiB of recurrent state for four requests
    assert 4 * cache.states(hybrid, "llamacpp") / MIB == pytest.approx(598.5, abs=0.05)
    small = entry("SmolLM2-135M-Instruct").description()
    assert cache.request(small, 8192, "llamacpp") == 180 * MIB
    assert cache.request(small, 8192, "llamacpp", number="q8_0") == 180 * MIB * 34 // 64


# Ten public logs have the first; the others follow from the same rule, for llama.cpp before 2026.
LOGITS = [(128256, 4096, 258.50), (32000, 4096, 70.5), (151936, 4096, 304.75), (201088, 2880, 398.375),
          (262144, 3840, 519.5)]  # fmt: skip


@pytest.mark.parametrize(("vocabulary", "hidden", "mib"), LOGITS)
def test_logits_of_a_whole_batch(vocabulary: int, hidden: int, mib: float) -> None:
    assert buffers.logits(vocabulary, hidden, 512) / MIB == mib


# llm-d-incubation/llm-d-planner, docs/empirical-vllm-memory-results.md: vLLM 0.11 on H100 with 79.18 GiB, max_num_seqs
# 1024, max_num_batched_tokens 8192: GPUs, GiB of weights on each, of activations on each.
VLLM = [
    ("gpt-oss-20b", None, 1, 13.47, 7.38), ("gpt-oss-120b", None, 1, 64.38, 7.38),
    ("Llama-3.3-70B-Instruct", "FP8", 2, 33.88, 4.84), ("Llama-3.1-8B-Instruct", None, 1, 14.99, 4.76),
    ("Qwen3-0.6B", None, 1, 1.12, 5.56), ("Qwen3-32B", None, 1, 61.03, 5.64), ("Qwen3-32B", None, 2, 30.59, 5.64),
    ("Mistral-Small-3.2-24B-Instruct-2506", None, 1, 44.76, None),  # 2.12: the one run that does not follow the rule
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "gpus", "weights", "activation"), VLLM)
def test_what_vllm_measured_of_itself(
    name: str, kind: str | None, gpus: int, weights: float, activation: float | None
) -> None:
    need = memory.memory(
        entry(name).description(kind), "vllm", Use(4096, 1, gpus, sequences=1024, batch=8192)
    )
    assert need.part("weights") / GIB == pytest.approx(weights, rel=0.025)
    if activation:
        assert need.part("compute") / GIB == pytest.approx(activation, rel=0.035)
        assert need.part("compute") / GIB > 0.999 * activation  # never under


def test_what_a_step_reads() -> None:
    """8.030 - 0.525 billion numbers: of the embedding table one row. Of experts only those that are chosen."""
    assert speed.read_per_step(entry("Llama-3.1-8B-Instruct").description()) == pytest.approx(
        15.01e9, rel=0.001
    )
    assert speed.read_per_step(entry("Llama-3.1-8B-Instruct").description("Q4_K_M")) == pytest.approx(
        4.62e9, rel=0.01
    )
    sparse = entry("Qwen3-30B-A3B").description()
    active = speed.read_per_step(sparse) / 2
    assert 2.7e9 < active < 3.4e9  # "A3B"
    assert speed.read_per_step(sparse, 1000) == pytest.approx(2 * (30.53e9 - 151936 * 2048), rel=0.001)


# Tokens per second of one user: the measurements that the shares were taken from, and one that they were not (*).
RATES = [
    ("Llama-3.1-8B-Instruct", "BF16", "vllm", 3.35e12, "hbm", 155),  # vLLM blog 2026-04-22, H100
    ("Llama-3.1-8B-Instruct", "BF16", "vllm", 8.0e12, "hbm", 254),  # the same, B200
    ("Qwen3-8B", "BF16", "vllm", 3.35e12, "hbm", 136),  # * GPUStack lab, vLLM 0.11, H100 SXM, 7.38 ms
    ("Llama-3.1-8B-Instruct", "F16", "llamacpp", 1.008e12, "gddr", 54.3),  # XiongjieDai, RTX 4090
    ("Llama-3.1-8B-Instruct", "Q4_K_M", "llamacpp", 1.008e12, "gddr", 127.7),
    ("Llama-3.1-8B-Instruct", "Q4_K_M", "llamacpp", 0.936e12, "gddr", 111.7),  # RTX 3090
    ("Llama-3.1-8B-Instruct", "F16", "llamacpp", 2.039e12, "hbm", 53.2),  # A100 SXM
]


@pytest.mark.parametrize(("name", "kind", "engine", "bandwidth", "type_", "rate"), RATES)
def test_speed_against_measurements(
    name: str, kind: str, engine: str, bandwidth: float, type_: str, rate: float
) -> None:
    found = speed.speed(entry(name).description(kind), engine, bandwidth=bandwidth, memory=type_)
    assert found.one == pytest.approx(rate, rel=0.15)


def test_every_format_keeps_norms_and_names_its_size() -> None:
    model = entry("Qwen3-8B").description("BF16")
    sizes = [formats.quantized(model, name).weights for name in formats.GGUF]
    assert sizes == sorted(sizes, reverse=True)
    for name in formats.BITS:
        made = formats.quantized(model, name)
        assert made.parameters == model.parameters
        assert {t.kind for t in made.tensors if t.group in ("embeddings", "output", "other")} == {"BF16"}
