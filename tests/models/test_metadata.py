"""What metadata says of models: every GGML format, every kind of layer, safetensors, and the same over HTTP."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.errors import ModelError
from deployer.fetch import Web
from deployer.models import metadata
from deployer.models.metadata import Layer, ggml, gguf, remote, safetensors, shapes
from deployer.profile import ModelChoice
from deployer.sizing import fit
from deployer.sizing.devices import Device
from tests.servers import Hub
from tests.sizing import ggufs
from tests.sizing.bed import MODELS

# bits of one number, as gguf-parser-go's table and llama.cpp's block definitions have them
BITS = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q8_1": 9.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q4_0": 4.5, "Q4_1": 5.0,
    "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_K": 9.125, "IQ1_S": 1.5625,
    "IQ1_M": 1.75, "IQ2_XXS": 2.0625, "IQ2_XS": 2.3125, "IQ2_S": 2.5625, "IQ3_XXS": 3.0625, "IQ3_S": 3.4375,
    "IQ4_XS": 4.25, "IQ4_NL": 4.5, "MXFP4": 4.25, "TQ1_0": 1.6875, "TQ2_0": 2.0625, "NVFP4": 4.5,
}  # fmt: skip


@pytest.mark.parametrize("kind", BITS)
def test_every_format_of_ggml(tmp_path: Path, kind: str) -> None:
    assert ggml.size(kind, 256 * 1024) * 8 / (256 * 1024) == BITS[kind]
    keys, tensors = ggufs.plain("llama", layers=2, h=512, heads=8, kv=2, wide=1024, vocab=64, kind=kind)
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", keys, tensors))
    assert made.label == kind
    assert (
        made.weights + made.extra
        <= (tmp_path / "m.gguf").stat().st_size
        <= made.weights + made.extra + 32 * 30
    )


LLAMA = Layer("full", 4, 64, 64)
LAYERS = {
    "llama": (LLAMA,) * 4,
    "llama-mqa": (Layer("full", 1, 64, 64),) * 4,
    "qwen3-long-heads": (Layer("full", 4, 128, 128),) * 4,
    "gemma2": (Layer("sliding", 4, 128, 128, 512), Layer("full", 4, 128, 128)) * 3,
    "gemma3": (*[Layer("sliding", 4, 128, 128, 512)] * 5, Layer("full", 4, 128, 128)),
    "gpt-oss": (Layer("sliding", 2, 64, 64, 128), Layer("full", 2, 64, 64)) * 2,
    "deepseek2": (Layer("mla", latent=320),) * 4,
    "mamba2": (Layer("none", state=262144, history=3 * 2304),) * 4,
    "falcon-h1": (Layer("full", 2, 64, 64, state=196608, history=3 * 1792),) * 4,
    "granite-hybrid": (*[Layer("none", state=262144, history=3 * 2304)] * 3, LLAMA),
    "qwen3next": (*[Layer("none", state=262144, history=3 * 4096)] * 3, Layer("full", 2, 128, 128)),
    "lfm2": (Layer("none", history=2048), Layer("none", history=2048), LLAMA, Layer("none", history=2048)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_a_gguf_header(tmp_path: Path, name: str) -> None:
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", *MODELS[name]()))
    assert made.layers == LAYERS[name]
    assert sum(made.groups.values()) == made.weights


def test_groups_of_a_model_with_experts(tmp_path: Path) -> None:
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", *MODELS["deepseek2"]()))
    assert set(made.groups) == {"embeddings", "output", "attention", "dense", "experts", "shared", "other"}
    assert made.groups["experts"] == 3 * 3 * 16 * 1024 * 512 * 34 // 32
    assert (made.experts, made.active, made.tied, made.vocabulary) == (16, 4, False, 8192)


def test_a_split_model_is_one(tmp_path: Path) -> None:
    keys, tensors = MODELS["llama"]()
    whole = metadata.describe(ggufs.write(tmp_path / "m.gguf", keys, tensors))
    names = list(tensors)
    for number, part in enumerate((names[:9], names[9:]), 1):
        said = keys if number == 1 else {"general.architecture": "llama"}
        ggufs.write(tmp_path / f"s-{number:05d}-of-00002.gguf", said, {n: tensors[n] for n in part})
    made = metadata.describe(tmp_path / "s-00001-of-00002.gguf")
    assert (made.weights, made.layers, made.groups) == (whole.weights, whole.layers, whole.groups)


@given(st.data())
def test_a_header_that_is_cut_says_so(data: st.DataObject) -> None:
    head = ggufs.header(*MODELS["gemma2"]())
    end = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(gguf.Short):
        gguf.describe(head[:end])
    assert gguf.describe(head + b"weights").layers


def shard(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """A safetensors file; its weights are zeros."""
    listed: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape) in tensors.items():
        numbers = 1
        for length in shape:
            numbers *= length
        size = numbers * safetensors.BITS[kind] // 8
        listed[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(listed).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128, "vocab_size": 512,
    "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip


def moe_tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("BF16", (512, 64)), "model.norm.weight": ("BF16", (64,)),
        "lm_head.weight": ("BF16", (512, 64)),
    }  # fmt: skip
    for i in range(3):  # the third one predicts further tokens
        p = f"model.layers.{i}."
        found |= {
            f"{p}self_attn.q_proj.weight": ("BF16", (128, 64)), f"{p}self_attn.k_proj.weight": ("BF16", (64, 64)),
            f"{p}self_attn.v_proj.weight": ("BF16", (64, 64)), f"{p}self_attn.o_proj.weight": ("BF16", (64, 128)),
            f"{p}input_layernorm.weight": ("BF16", (64,)), f"{p}post_attention_layernorm.weight": ("BF16", (64,)),
            f"{p}self_attn.q_norm.weight": ("BF16", (32,)), f"{p}self_attn.k_norm.weight": ("BF16", (32,)),
            f"{p}mlp.gate.weight": ("BF16", (4, 64)),
        }  # fmt: skip
        for e in range(4):
            q = f"{p}mlp.experts.{e}."
            found |= {f"{q}gate_proj.weight": ("F8_E4M3", (32, 64)), f"{q}up_proj.weight": ("F8_E4M3", (32, 64)),
                      f"{q}down_proj.weight": ("F8_E4M3", (64, 32))}  # fmt: skip
    return found


def test_a_folder_of_safetensors(tmp_path: Path) -> None:
    tensors = moe_tensors()
    names = list(tensors)
    (tmp_path / "config.json").write_text(
        json.dumps({**CONFIG, "quantization_config": {"quant_method": "fp8"}})
    )
    (tmp_path / "a.safetensors").write_bytes(shard({n: tensors[n] for n in names[:20]}))
    (tmp_path / "b.safetensors").write_bytes(shard({n: tensors[n] for n in names[20:]}))
    made = metadata.describe(tmp_path)
    assert made.label == "FP8" and made.measured and made.layers == (Layer("full", 2, 32, 32),) * 2
    assert made.groups["experts"] == 2 * 4 * 3 * 32 * 64
    assert made.groups["attention"] == 2 * 2 * (128 + 64 + 64 + 128) * 64
    assert made.groups["embeddings"] == made.groups["output"] == 2 * 512 * 64
    assert not made.tied and not made.chat_template


def test_shapes_of_a_config_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    kept = {n: t for n, t in moe_tensors().items() if "layers.2." not in n}
    (tmp_path / "m.safetensors").write_bytes(shard({n: ("BF16", shape) for n, (_, shape) in kept.items()}))
    real, implied = metadata.describe(tmp_path), shapes.describe(CONFIG)
    assert (real.parameters, real.groups, real.layers) == (implied.parameters, implied.groups, implied.layers)


def packed(bits: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Linear layers as compressed-tensors, GPTQ and AWQ keep them: several numbers in each integer."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (kind, shape) in moe_tensors().items():
        if "layers.2." in name:
            continue
        if "_proj.weight" in name:
            found[f"{name}_packed"] = ("I32", (shape[0], shape[1] * bits // 32))
            found[f"{name}_scale"] = ("BF16", (shape[0], shape[1] // 32))
        else:
            found[name] = (kind, shape)
    return found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", ["compressed-tensors", "gptq"])
def test_packed_numbers_are_counted_and_unpacked_where_engines_do(tmp_path: Path, bits: int, method: str) -> None:
    said: dict[str, Any] = {"quant_method": "gptq", "bits": bits}
    if method == "compressed-tensors":
        weights = {"num_bits": bits, "type": "int"}
        said = {"quant_method": method, "format": "pack-quantized", "config_groups": {"g": {"weights": weights}}}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": said}))
    (tmp_path / "m.safetensors").write_bytes(shard(packed(bits)))
    made, implied = metadata.describe(tmp_path), shapes.describe(CONFIG)
    assert made.label == (f"INT{bits} (compressed-tensors)" if method == "compressed-tensors" else f"GPTQ {bits} bit")
    scales = sum(t[1][0] * t[1][1] for n, t in packed(bits).items() if n.endswith("_scale"))
    assert made.parameters == implied.parameters + scales
    assert made.weights < implied.weights
    cpu = Device("cpu", "", 1, 1 << 40, 1 << 40, None, "ddr")
    served, kept = fit.loadable(made, "transformers", cpu), fit.loadable(made, "vllm", replace(cpu, kind="gpu"))
    assert kept == made and served
    assert served.weights == (implied.weights + 2 * scales if method == "compressed-tensors" else made.weights)


@pytest.mark.parametrize(
    "broken", [{"block_configs": [1]}, {"num_hidden_layers": None}, {"layer_types": ["x"]}]
)
def test_a_config_that_follows_no_known_rule(tmp_path: Path, broken: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **broken}))
    with pytest.raises(ModelError, match="cannot be read"):
        metadata.describe(tmp_path)


def test_a_model_of_the_hub_without_its_weights(tmp_path: Path) -> None:
    big = {**moe_tensors(), "model.layers.0.extra.weight": ("BF16", (1024, 2048))}
    files = {
        "config.json": json.dumps(CONFIG).encode(), "model-1.safetensors": shard(big),
        "tokenizer_config.json": b'{"chat_template": "x"}', "onnx/model.safetensors": bytes(99),
    }  # fmt: skip
    with Hub("org/model", files) as hub:
        found = remote.describe(ModelChoice("hf://org/model"), Web(hub=hub.url))
    (tmp_path / "config.json").write_bytes(files["config.json"])
    (tmp_path / "m.safetensors").write_bytes(files["model-1.safetensors"])
    here = metadata.describe(tmp_path)
    assert found.description.groups == here.groups and found.description.chat_template
    assert found.download == len(files["model-1.safetensors"]) > 4_000_000
    assert found.fetched < 200_000 and found.file is None


def test_one_gguf_of_many_on_the_hub(tmp_path: Path) -> None:
    keys, tensors = MODELS["gemma3"]()
    keys |= ggufs.vocabulary(100_000)  # a header that takes more than one request
    path = ggufs.write(tmp_path / "m.gguf", keys, tensors)
    files = {"m-Q8_0.gguf": path.read_bytes(), "m-Q4_K_M.gguf": b"GGUF", "mmproj-m.gguf": b"x"}
    with Hub("org/model", files) as hub:
        web = Web(hub=hub.url)
        found = remote.describe(ModelChoice("hf://org/model"), web, file="q8_0")
        with pytest.raises(ModelError, match="no GGUF file like Q5"):
            remote.describe(ModelChoice("hf://org/model"), web, file="Q5")
        with pytest.raises(ModelError, match="cannot be read"):
            remote.describe(ModelChoice("hf://org/model"), web)
    assert found.description.layers == metadata.describe(path).layers
    assert found.file == "m-Q8_0.gguf" and found.others == ("m-Q4_K_M.gguf", "m-Q8_0.gguf")
    assert found.fetched < 8_000_000 < found.download


def test_a_hub_that_does_not_know_ranges(tmp_path: Path) -> None:
    files = {"config.json": json.dumps(CONFIG).encode(), "m.safetensors": shard(moe_tensors())}
    with Hub("org/model", files) as hub:
        hub.manner.ranges = False
        found = remote.describe(ModelChoice("hf://org/model"), Web(hub=hub.url))
    assert found.description.groups["experts"] == 2 * 4 * 3 * 32 * 64


def test_pickle_files_alone_are_no_model() -> None:
    with (
        Hub("org/model", {"config.json": b"{}", "pytorch_model.bin": b"x"}) as hub,
        pytest.raises(ModelError, match="neither GGUF nor safetensors"),
    ):
        remote.describe(ModelChoice("hf://org/model"), Web(hub=hub.url))
