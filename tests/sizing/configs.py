"""Small models of many families, as config.json files with the keys of published ones, and what torch makes of them.

Widths are small and even; heads, windows, states and chunks are those of real models or a half of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.sizing.llamacpp import CACHE

PYTHONS = sorted(CACHE.glob("engines/transformers-*/bin/python3"))
# Every tensor is given back when freed: what an allocator keeps differs by run.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "TRANSFORMERS_VERBOSITY": "error"}


def measured(configs: Mapping[str, Mapping[str, Any]], tokens: int) -> Iterator[dict[str, Any]]:
    """What torch_engine.py says of each of them, in the engine that the end-to-end tests made."""
    script = Path(__file__).with_name("torch_engine.py")
    done = subprocess.run(
        [str(PYTHONS[-1]), "-W", "ignore", str(script), str(tokens), json.dumps(dict(configs))],
        capture_output=True, text=True, timeout=600, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    yield from map(json.loads, done.stdout.splitlines())


_SIZE = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 8192,
}  # fmt: skip
_MAMBA = {
    "mamba_d_ssm": 768, "mamba_n_heads": 12, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 64,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 256,
}  # fmt: skip


def _made(family: str, *without: str, **values: Any) -> dict[str, Any]:
    kept = {key: value for key, value in _SIZE.items() if key not in without}
    return {"model_type": family, "tie_word_embeddings": False, **kept, **values}


_LATENT = {
    "kv_lora_rank": 128, "q_lora_rank": 256, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
    "num_key_value_heads": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_GEMMA = {"head_dim": 128, "num_attention_heads": 4, "num_hidden_layers": 6, "sliding_window": 256}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _made("llama"),
    "llama-mha": _made("llama", num_key_value_heads=8, tie_word_embeddings=True),
    "llama-deep": _made("llama", hidden_size=256, intermediate_size=704, num_hidden_layers=16),
    "mistral-window": _made("mistral", sliding_window=256),
    "mixtral": _made("mixtral", num_local_experts=8, num_experts_per_tok=2, intermediate_size=704, sliding_window=None),
    "qwen2": _made("qwen2", use_sliding_window=False, sliding_window=4096, max_window_layers=4),
    "qwen3": _made("qwen3", head_dim=128, use_sliding_window=False, sliding_window=None, tie_word_embeddings=True),
    "qwen3-moe": _made("qwen3_moe", head_dim=128, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=256,
                       decoder_sparse_step=1, mlp_only_layers=[]),
    "gemma2": _made("gemma2", "tie_word_embeddings", attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                    query_pre_attn_scalar=128, **_GEMMA),
    "gemma3": _made("gemma3_text", sliding_window_pattern=6, query_pre_attn_scalar=128, **_GEMMA),
    "gpt-oss": _made("gpt_oss", head_dim=64, num_local_experts=8, num_experts_per_tok=4, intermediate_size=512,
                     sliding_window=128, attention_bias=True,
                     layer_types=["sliding_attention", "full_attention"] * 2),
    "phi3": _made("phi3", pad_token_id=0, sliding_window=None),
    "granite": _made("granite", tie_word_embeddings=True),
    "smollm3": _made("smollm3", tie_word_embeddings=True, no_rope_layer_interval=4, pad_token_id=0),
    "deepseek-v3": _made("deepseek_v3", **_LATENT),
    "olmo2": _made("olmo2"),
    "mamba2": {"model_type": "mamba2", "hidden_size": 512, "num_hidden_layers": 4, "vocab_size": 4096, "num_heads": 16,
               "head_dim": 64, "state_size": 64, "n_groups": 1, "expand": 2, "conv_kernel": 4, "chunk_size": 256,
               "tie_word_embeddings": True},
    "mamba": {"model_type": "mamba", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
              "vocab_size": 4096, "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 32,
              "tie_word_embeddings": True},
    "falcon-h1": _made("falcon_h1", head_dim=64, **_MAMBA),
    "granite-hybrid": _made("granitemoehybrid", **{k: v for k, v in _MAMBA.items() if k != "mamba_d_ssm"} |
                            {"mamba_n_heads": 16}, num_local_experts=8, num_experts_per_tok=2, intermediate_size=256,
                            shared_intermediate_size=512, tie_word_embeddings=True,
                            layer_types=["mamba", "mamba", "mamba", "attention"]),
    "nemotron-h": _made("nemotron_h", head_dim=64, hybrid_override_pattern="M*-E", mamba_num_heads=16,
                        mamba_head_dim=64, ssm_state_size=64, n_groups=1, conv_kernel=4, chunk_size=128,
                        n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=256,
                        moe_shared_expert_intermediate_size=256),
    "qwen3-next": _made("qwen3_next", head_dim=64, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=256,
                        shared_expert_intermediate_size=256, linear_num_key_heads=4, linear_num_value_heads=8,
                        linear_key_head_dim=128, linear_value_head_dim=128, linear_conv_kernel_dim=4,
                        full_attention_interval=4, decoder_sparse_step=1, mlp_only_layers=[]),
    "lfm2": _made("lfm2", block_auto_adjust_ff_dim=False, conv_L_cache=3, tie_word_embeddings=True,
                  layer_types=["conv", "conv", "full_attention", "conv"]),
}  # fmt: skip
