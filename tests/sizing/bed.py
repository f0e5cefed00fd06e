"""Small models of many families, as GGUF files that llama.cpp loads: each is a name and how to make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sizing.ggufs import Tensors, attention, ends, experts, feed_forward, norms, plain, vocabulary

Made = tuple[dict[str, Any], Tensors]


def _plain(arch: str, **values: Any) -> Callable[[], Made]:
    def make() -> Made:
        return plain(arch, **{**BASE, **values})

    return make


BASE = {"layers": 4, "h": 1024, "heads": 16, "kv": 4, "wide": 2816, "vocab": 8192}
QK = {"attn_q_norm": 64, "attn_k_norm": 64}


def _gemma(arch: str, **values: Any) -> Callable[[], Made]:
    post = {"post_attention_norm": 1024, "post_ffw_norm": 1024}
    qk = {"attn_q_norm": 128, "attn_k_norm": 128} if arch == "gemma3" else {}
    soft = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0} if arch == "gemma2" else {}
    more = {"attention.sliding_window": 512, **soft}
    return _plain(
        arch, heads=8, kv=4, key=128, wide=4096, layers=6, more=more, norms_={**post, **qk}, **values
    )


def _gpt_oss() -> Made:
    keys, tensors = plain(
        "gpt-oss", **{**BASE, "heads": 16, "kv": 2, "key": 64, "wide": 1024, "experts_": 16, "active": 4,
                      "tied": False, "more": {"attention.sliding_window": 128}}
    )  # fmt: skip
    for i in range(4):
        b = f"blk.{i}."
        tensors.pop(f"{b}ffn_norm.weight")
        tensors |= {
            f"{b}post_attention_norm.weight": ((1024,), "F32"),
            f"{b}attn_sinks.weight": ((16,), "F32"),
            **{
                f"{b}attn_{n}.bias": ((w,), "F32")
                for n, w in (("q", 1024), ("k", 128), ("v", 128), ("output", 1024))
            },
            f"{b}ffn_gate_inp.bias": ((16,), "F32"),
            **{f"{b}ffn_{n}_exps.bias": ((1024, 16), "F32") for n in ("gate", "up", "down")},
        }
    return keys, tensors


def _ssm(arch: str, inner: int, width: int, groups: int, heads: int) -> dict[str, Any]:
    return {f"{arch}.ssm.{name}": value for name, value in (
        ("conv_kernel", 4), ("inner_size", inner), ("state_size", width), ("group_count", groups),
        ("time_step_rank", heads),
    )}  # fmt: skip


def _mamba_layer(i: int, h: int, inner: int, width: int, groups: int, heads: int) -> Tensors:
    b, conv = f"blk.{i}.", inner + 2 * groups * width
    return {
        f"{b}attn_norm.weight": ((h,), "F32"),
        f"{b}ssm_in.weight": ((h, inner + conv + heads), "Q8_0"),
        f"{b}ssm_conv1d.weight": ((4, conv), "F32"),
        f"{b}ssm_conv1d.bias": ((conv,), "F32"),
        f"{b}ssm_dt.bias": ((heads,), "F32"),
        f"{b}ssm_a": ((1, heads), "F32"),
        f"{b}ssm_d": ((1, heads), "F32"),
        f"{b}ssm_norm.weight": ((inner // groups, groups), "F32"),
        f"{b}ssm_out.weight": ((inner, h), "Q8_0"),
    }


def _mamba2() -> Made:
    h, inner, width, heads = 1024, 2048, 128, 32
    keys: dict[str, Any] = {
        "general.architecture": "mamba2",
        "mamba2.context_length": 32768, "mamba2.block_count": 4, "mamba2.embedding_length": h,
        "mamba2.feed_forward_length": 0, "mamba2.attention.head_count": 0,
        "mamba2.attention.layer_norm_rms_epsilon": 1e-5,
        **_ssm("mamba2", inner, width, 1, heads), **vocabulary(8192),
    }  # fmt: skip
    tensors = ends(h, 8192, "Q8_0")
    for i in range(4):
        tensors |= _mamba_layer(i, h, inner, width, 1, heads)
    return keys, tensors


def _falcon_h1() -> Made:
    keys, tensors = plain("falcon-h1", **{**BASE, "heads": 8, "kv": 2, "key": 64})
    tensors = {k.replace("ffn_norm.weight", "ffn_norm"): v for k, v in tensors.items()}
    for i in range(4):
        tensors |= _mamba_layer(i, 1024, 1536, 128, 1, 24)
    return {**keys, **_ssm("falcon-h1", 1536, 128, 1, 24)}, tensors


def _qwen3next() -> Made:
    h, arch = 1024, "qwen3next"
    keys, _ = plain(
        arch, **{**BASE, "heads": 8, "kv": 2, "key": 128, "wide": 512, "experts_": 16, "active": 4}
    )
    keys |= {**_ssm(arch, 2048, 128, 8, 16), f"{arch}.full_attention_interval": 4,
             f"{arch}.expert_shared_feed_forward_length": 512, f"{arch}.rope.dimension_count": 64}  # fmt: skip
    tensors = ends(h, 8192, "Q8_0")
    for i in range(4):
        b, key, value = f"blk.{i}.", 8 * 128, 16 * 128
        if i == 3:
            tensors |= attention(i, h, 8, 2, 128, 128, "Q8_0")
            tensors |= {f"{b}attn_q.weight": ((h, 8 * 128 * 2), "Q8_0"), **norms([i], {
                "attn_q_norm": 128, "attn_k_norm": 128})}  # fmt: skip
        else:
            tensors |= {
                f"{b}attn_norm.weight": ((h,), "F32"),
                f"{b}attn_qkv.weight": ((h, 2 * key + value), "Q8_0"),
                f"{b}attn_gate.weight": ((h, value), "Q8_0"),
                f"{b}ssm_conv1d.weight": ((4, 2 * key + value), "F32"),
                f"{b}ssm_dt.bias": ((16,), "F32"), f"{b}ssm_a": ((16,), "F32"),
                f"{b}ssm_ba.weight": ((h, 32), "Q8_0"), f"{b}ssm_norm.weight": ((128,), "F32"),
                f"{b}ssm_out.weight": ((value, h), "Q8_0"),
            }  # fmt: skip
        tensors |= experts(i, h, 512, 16, "Q8_0")
        tensors.pop(f"{b}ffn_norm.weight")
        tensors |= {
            f"{b}post_attention_norm.weight": ((h,), "F32"),
            f"{b}ffn_gate_inp_shexp.weight": ((h,), "F32"),
            f"{b}ffn_gate_shexp.weight": ((h, 512), "Q8_0"),
            f"{b}ffn_up_shexp.weight": ((h, 512), "Q8_0"),
            f"{b}ffn_down_shexp.weight": ((512, h), "Q8_0"),
        }
    return keys, tensors


def _deepseek2() -> Made:
    h, arch, heads, lora, q, rope, nope, value = 1024, "deepseek2", 8, 256, 512, 64, 128, 128
    keys, _ = plain(arch, **{**BASE, "heads": heads, "kv": 1, "key": lora + rope, "value": lora})
    keys |= {
        f"{arch}.{name}": v for name, v in (
            ("attention.q_lora_rank", q), ("attention.kv_lora_rank", lora), ("rope.dimension_count", rope),
            ("attention.key_length_mla", nope + rope), ("attention.value_length_mla", value),
            ("leading_dense_block_count", 1), ("expert_count", 16), ("expert_used_count", 4),
            ("expert_shared_count", 1), ("expert_feed_forward_length", 512), ("expert_weights_scale", 1.0),
            ("expert_gating_func", 2), ("vocab_size", 8192),
        )
    }  # fmt: skip
    tensors = ends(h, 8192, "Q8_0", tied=False)
    for i in range(4):
        b = f"blk.{i}."
        tensors |= {
            f"{b}attn_norm.weight": ((h,), "F32"),
            f"{b}attn_q_a.weight": ((h, q), "Q8_0"), f"{b}attn_q_a_norm.weight": ((q,), "F32"),
            f"{b}attn_q_b.weight": ((q, heads * (nope + rope)), "Q8_0"),
            f"{b}attn_kv_a_mqa.weight": ((h, lora + rope), "Q8_0"),
            f"{b}attn_kv_a_norm.weight": ((lora,), "F32"),
            f"{b}attn_k_b.weight": ((nope, lora, heads), "Q8_0"),
            f"{b}attn_v_b.weight": ((lora, value, heads), "Q8_0"),
            f"{b}attn_output.weight": ((heads * value, h), "Q8_0"),
        }  # fmt: skip
        if i == 0:
            tensors |= feed_forward(i, h, 2816, "Q8_0")
        else:
            tensors |= experts(i, h, 512, 16, "Q8_0")
            tensors |= {
                f"{b}ffn_gate_shexp.weight": ((h, 512), "Q8_0"), f"{b}ffn_up_shexp.weight": ((h, 512), "Q8_0"),
                f"{b}ffn_down_shexp.weight": ((512, h), "Q8_0"),
            }  # fmt: skip
    return keys, tensors


def _qwen2() -> Made:
    keys, tensors = plain("qwen2", **BASE)
    for i in range(4):
        tensors |= {f"blk.{i}.attn_{n}.bias": ((w,), "F32") for n, w in (("q", 1024), ("k", 256), ("v", 256))}
    return keys, tensors


def _phi3() -> Made:
    keys, tensors = plain("phi3", **BASE)
    for i in range(4):
        b = f"blk.{i}."
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            tensors.pop(f"{b}{name}.weight")
        tensors |= {
            f"{b}attn_qkv.weight": ((1024, 1536), "Q8_0"),
            f"{b}ffn_up.weight": ((1024, 2 * 2816), "Q8_0"),
        }
    return {**keys, "phi3.rope.scaling.original_context_length": 4096}, tensors


def _lfm2() -> Made:
    keys, tensors = plain("lfm2", **{**BASE, "norms_": {}})
    keys |= {"lfm2.attention.head_count_kv": [0, 0, 4, 0], "lfm2.shortconv.l_cache": 3}
    tensors["token_embd_norm.weight"] = ((1024,), "F32")
    tensors.pop("output_norm.weight")
    for i in range(4):
        b = f"blk.{i}."
        if i == 2:
            tensors |= norms([i], QK)
            continue
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.pop(f"{b}{name}.weight")
        tensors |= {
            f"{b}shortconv.conv.weight": ((3, 1024), "F32"),
            f"{b}shortconv.in_proj.weight": ((1024, 3072), "Q8_0"),
            f"{b}shortconv.out_proj.weight": ((1024, 1024), "Q8_0"),
        }
    return keys, tensors


def _granite_hybrid() -> Made:
    keys, tensors = plain("granitehybrid", **BASE)
    keys |= {"granitehybrid.attention.head_count_kv": [0, 0, 0, 4], **_ssm("granitehybrid", 2048, 128, 1, 32)}
    for i in range(3):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.pop(f"blk.{i}.{name}.weight")
        tensors |= _mamba_layer(i, 1024, 2048, 128, 1, 32)
    return keys, tensors


MODELS: dict[str, Callable[[], Made]] = {
    "llama": _plain("llama"),
    "llama-mha": _plain("llama", kv=16, tied=False),
    "llama-mqa": _plain("llama", kv=1),
    "llama-wide": _plain("llama", wide=8192, vocab=32768),
    "llama-deep": _plain("llama", layers=24, h=512, heads=8, kv=2, wide=1408),
    "llama-q4": _plain("llama", kind="Q4_K"),
    "llama-f16": _plain("llama", kind="F16"),
    "mixtral": _plain("llama", experts_=8, active=2, wide=1408),
    "qwen2": _qwen2,
    "qwen3": _plain("qwen3", norms_=QK),
    "qwen3-long-heads": _plain("qwen3", key=128, norms_={"attn_q_norm": 128, "attn_k_norm": 128}),
    "qwen3moe": _plain("qwen3moe", experts_=16, active=4, wide=768, norms_=QK),
    "gemma2": _gemma("gemma2"),
    "gemma3": _gemma("gemma3"),
    "gpt-oss": _gpt_oss,
    "phi3": _phi3,
    "granite": _plain("granite", more={"logit_scale": 8.0}),
    "smollm3": _plain("smollm3"),
    "deepseek2": _deepseek2,
    "mamba2": _mamba2,
    "falcon-h1": _falcon_h1,
    "granite-hybrid": _granite_hybrid,
    "qwen3next": _qwen3next,
    "lfm2": _lfm2,
}
