"""What a model's weights take in another number format: GGUF mixes as llama.cpp makes them, and those of torch.

`quantized` gives the same model with other bytes; embeddings, norms and routers stay where each scheme leaves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deployer.models.metadata import Description, Tensor
from deployer.models.metadata.ggml import BLOCKS

# Best first; each is smaller than the one before. What llama.cpp's `llama-quantize` calls them.
GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
# For torch: bits of a linear layer's number with its scales. FP8: one 32-bit scale for 128 × 128; INT8 (bitsandbytes):
# one 32-bit scale for a row; GPTQ and AWQ: 16-bit scale (and 4-bit zero) for 128; NF4 (bitsandbytes): 32-bit absmax
# for 64; MXFP4: 8-bit scale for 32; NVFP4: FP8 scale for 16.
BITS = {"FP8": 8.002, "INT8": 8.0, "AWQ": 4.15625, "GPTQ": 4.125, "NF4": 4.5, "NVFP4": 4.5, "MXFP4": 4.25}
_BASE = {"MXFP4_MOE": "Q8_0", "Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q3_K_M": "Q3_K"}
# What llama.cpp takes instead where a row is no whole number of blocks (tensor_type_fallback).
_FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
_ALWAYS = ("ssm_conv1d", "shortconv.conv", "ffn_gate_inp", "position_embd", "per_layer_model_proj", "ssm_a")
_LINEAR = ("attention", "recurrent", "dense", "experts", "shared")


def quantized(description: Description, name: str) -> Description:
    """The model in the format `name`: one of GGUF, of BITS, `BF16`, or any format of GGUF's tensors.

    Raises KeyError for an unknown one.
    """
    if name in BITS:
        return replace(description, label=name, tensors=_torch(description, name), measured=False)
    if name == "BF16":
        kind: Callable[[Tensor], str] = lambda t: "BF16"  # noqa: E731
    else:
        kind = _mix(description, name)
    made = tuple(_as(t, kind(t)) for t in description.tensors)
    return replace(description, label=name, tensors=made, measured=False, format=_format(name))


def unpacked(description: Description) -> Description:
    """The model with its linear layers in 16 bits, whatever they are kept in."""
    made = tuple(_as(t, "BF16") if t.group in _LINEAR and t.bytes < 2 * t.numbers else t for t in description.tensors)
    return replace(description, tensors=made, measured=False)


def _format(name: str) -> str:
    return "safetensors" if name == "BF16" else "gguf"


def _as(tensor: Tensor, kind: str) -> Tensor:
    block, each = BLOCKS[kind]
    size = -(-tensor.numbers // block) * each
    return Tensor(tensor.role, tensor.layer, tensor.columns, tensor.numbers, kind, size)


def _torch(description: Description, name: str) -> tuple[Tensor, ...]:
    """Linear layers in few bits; the rest, and for MXFP4 all but experts, in 16."""
    few = ("experts",) if name == "MXFP4" and description.experts else _LINEAR
    made = []
    for t in description.tensors:
        if t.group in few and t.columns >= 32 and t.role not in _ALWAYS:
            bits = BITS[name] + (32 / t.columns if name == "INT8" else 0)
            made.append(replace(t, kind=name, bytes=round(t.numbers * bits / 8)))
        else:
            made.append(_as(t, "BF16"))
    return tuple(made)


def _mix(description: Description, name: str) -> Callable[[Tensor], str]:
    """Which format each tensor gets in a GGUF mix: llama_tensor_get_type of llama.cpp (src/llama-quant.cpp).

    Without an importance matrix, as by `llama-quantize` alone.
    """
    base = _BASE.get(name, name)
    if base not in BLOCKS:
        raise KeyError(name)
    values = [t.layer for t in description.tensors if t.role == "attn_v"]
    order = {layer: n for n, layer in enumerate(values)}
    downs = [t.layer for t in description.tensors if t.role.startswith("ffn_down")]
    count = len(description.layers) if description.experts else len(downs)
    down = {layer: n for n, layer in enumerate(downs)}
    heads = next((layer.kv_heads for layer in description.layers if layer.kv_heads), 0)
    gqa = description.heads // heads if heads else 1
    eight = description.experts == 8

    def kind(t: Tensor) -> str:
        if name == "MXFP4_MOE" and t.group == "experts":
            return "MXFP4"
        if t.role.endswith("_norm") or t.role in _ALWAYS or t.columns < 32 or t.group == "other":
            return "F32"
        if t.group == "tower" or base in ("F16", "BF16", "F32"):
            return "F16" if base == "F32" or t.group == "tower" else base
        found = base
        if t.role == "output" or (t.role == "token_embd" and description.tied):
            found = "Q8_0" if base == "Q8_0" or t.columns % BLOCKS[base][0] else "Q6_K"
        elif t.role == "attn_v":
            found = _value(name, base, order[t.layer], len(order), gqa, _seventy(description), eight)
        elif t.role == "attn_k" and eight:
            found = "Q8_0"
        elif t.role.startswith("ffn_down"):
            i = t.layer if description.experts and t.layer is not None else down[t.layer]
            found = _down(name, base, i, count)
        elif t.role == "attn_output":
            found = _output(name, base, eight)
        elif t.role == "attn_qkv":
            found = {"Q3_K_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(name, base)
        if t.columns % BLOCKS[found][0]:
            found = _FALLBACK.get(found, "F16")
            found = "F16" if t.columns % BLOCKS[found][0] else found
        return found

    return kind


def _seventy(description: Description) -> bool:
    """llama.cpp's type 70B: 80 layers with eight heads for each key."""
    return len(description.layers) == 80 and not description.experts


def _more(i: int, count: int) -> bool:
    return i < count // 8 or i >= 7 * count // 8 or (i - count // 8) % 3 == 2


def _value(name: str, base: str, i: int, count: int, gqa: int, seventy: bool, eight: bool) -> str:
    found = base
    if name == "Q2_K":
        found = "Q4_K" if gqa >= 4 else "Q3_K"
    elif name == "Q3_K_M":
        found = "Q5_K" if i < 2 else "Q4_K"
    elif name == "IQ4_XS" and gqa >= 4:
        found = "Q5_K"
    elif name in ("Q4_K_M", "Q5_K_M") and _more(i, count):
        found = "Q6_K"
    if seventy and found in ("Q3_K", "Q4_K"):
        found = "Q5_K"
    return "Q8_0" if eight else found


def _down(name: str, base: str, i: int, count: int) -> str:
    if name == "Q2_K":
        return "Q3_K"
    if name == "Q3_K_M":
        return "Q5_K" if i < count // 16 else "Q4_K"
    if name in ("Q4_K_M", "Q5_K_M") and _more(i, count):
        return "Q6_K"
    return "Q5_K" if name == "IQ4_XS" and i < count // 8 else base


def _output(name: str, base: str, eight: bool) -> str:
    if eight:
        return "Q5_K" if name in ("Q2_K", "Q3_K_M", "Q4_K_M", "IQ4_XS") else base
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(name, base)
