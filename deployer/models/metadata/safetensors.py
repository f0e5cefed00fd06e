"""Safetensors headers: which tensors a file holds, with shapes and formats; weights are never read.

Format: https://github.com/huggingface/safetensors#format. Names are those of transformers' models.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from deployer.description import Tensor

# Bits of one number.
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
_MOST = 100_000_000  # bytes of a header that the format allows

# What a tensor's name says of its role, first match counts.
_TOWERS = (
    r"(^|\.)(visual|vision\w*|audio\w*|multi_modal_projector|mm_projector|embed_vision|embed_audio|mlp1)\."
)
_ROLES: tuple[tuple[str, str], ...] = (
    (_TOWERS, "tower"),
    (r"embed_tokens_per_layer", "per_layer_token_embd"),
    (r"(embed_tokens|word_embeddings|wte|tok_embeddings|embeddings?)\.weight$|embeddings\.(weight|word)", "token_embd"),
    (r"(lm_head|^output)\.", "output"),
    (r"indexer\.", "indexer"),
    (r"(gate|router|block_sparse_moe\.gate)\.(weight|bias|e_score_correction_bias)$|feed_forward\.router",
     "ffn_gate_inp"),
    (r"shared_experts?(_gate)?\.", "ffn_up_shexp"),
    (r"experts\..*(down_proj|w2)", "ffn_down_exps"),
    (r"experts\..*(gate_up_proj|up_proj|w3)", "ffn_up_exps"),
    (r"experts\.", "ffn_gate_exps"),
    (r"(mamba|mixer|linear_attn|ssm)\.conv1d\.weight", "ssm_conv1d"),
    (r"\bconv\.conv\.weight", "shortconv.conv"),
    (r"(mamba|mixer|linear_attn|ssm)\.out_proj", "ssm_out"),
    (r"linear_attn\.in_proj_(ba|b|a)\b", "ssm_ba"),
    (r"(mamba|mixer|linear_attn|ssm|conv)\.(in_proj|out_proj|conv1d|x_proj|dt_proj|A_log|D|dt_bias|norm)", "ssm_in"),
    (r"(q_proj|q_a_proj|q_b_proj|query|wq)\b", "attn_q"),
    (r"(k_proj|kv_a_proj_with_mqa|wk)\b", "attn_k"),
    (r"(v_proj|kv_b_proj|wv)\b", "attn_v"),
    (r"(qkv_proj|c_attn|query_key_value|Wqkv|in_proj_qkv)\b", "attn_qkv"),
    (r"(attn|attention|mixer)\..*(o_proj|out_proj|c_proj|dense|wo)\b", "attn_output"),
    (r"(down_proj|c_proj|fc2|w2|dense_4h_to_h)\b", "ffn_down"),
    (r"(gate_up_proj|up_proj|c_fc|fc1|w3|dense_h_to_4h)\b", "ffn_up"),
    (r"(gate_proj|w1)\b", "ffn_gate"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), role) for pattern, role in _ROLES)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


class Short(EOFError):
    """The data end inside the header; `wanted` bytes from the beginning are needed."""

    def __init__(self, wanted: int) -> None:
        super().__init__("the file ends inside its header")
        self.wanted = wanted


def tensors(data: bytes) -> tuple[Tensor, ...]:
    """The tensors of a file, from its first bytes. Raises Short and ValueError."""
    if len(data) < 8:
        raise Short(8)
    (length,) = struct.unpack_from("<Q", data)
    if length > _MOST:
        raise ValueError("not a safetensors file")
    if len(data) < 8 + length:
        raise Short(8 + length)
    raw = json.loads(bytes(data[8 : 8 + length]))
    return tuple(_tensor(name, about) for name, about in raw.items() if name != "__metadata__")


def _tensor(name: str, about: Any) -> Tensor:
    numbers = 1
    for length in about["shape"]:
        numbers *= length
    kind = about["dtype"]
    if kind not in BITS:
        raise ValueError(f"number format {kind} is not known")
    begin, end = about["data_offsets"]
    match = _LAYER.search(name)
    columns = about["shape"][-1] if about["shape"] else 1
    role = role_of(name, len(about["shape"]))
    return Tensor(
        role, int(match[1]) if match and role != "tower" else None, columns, numbers, kind, end - begin
    )


def role_of(name: str, dimensions: int = 2) -> str:
    """llama.cpp's word for what transformers calls `name`; norms, biases and scales go with what they belong to."""
    if name.startswith(("mtp.", "model.mtp")):
        return "nextn"
    for pattern, role in _COMPILED:
        if pattern.search(name):
            return role
    return "other_norm" if dimensions < 2 else "other"
