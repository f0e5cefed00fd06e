"""What requests keep in memory while they run: key-value caches and recurrent states, per engine.

`tokens` are what one request uses, prompt and answer. Sizes are bytes for one request unless a name says otherwise.
"""

from __future__ import annotations

from deployer.models.metadata import Description, Layer
from deployer.models.metadata.ggml import BLOCKS

# Bytes of one cached number. Quantized ones carry their scales: GGUF blocks.
NUMBER: dict[str, float] = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "fp8": 1.0,
    **{name.lower(): BLOCKS[name][1] / BLOCKS[name][0] for name in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")},
}  # fmt: skip
PAD = 256  # llama.cpp rounds caches up to this many tokens (llama-context.cpp, llama-kv-cache-iswa.cpp)
BLOCK = 16  # tokens of one block of vLLM's and transformers' paged caches
UBATCH = 512  # tokens that llama.cpp computes at once (common.h: n_ubatch)


def padded(tokens: int, step: int) -> int:
    return -(-tokens // step) * step


def kept(layer: Layer, tokens: int, engine: str, ahead: int = UBATCH) -> int:
    """How many tokens of a request this layer keeps.

    llama.cpp keeps the window and one batch, rounded up to 256 (llama_kv_cache_iswa). vLLM keeps the window and the
    tokens of one step in blocks of 16 (SlidingWindowSpec.max_memory_usage_bytes); `ahead` is that batch. transformers
    shows the window less one and holds the tensor that this is cut from (DynamicSlidingWindowLayer.update).
    """
    if layer.kind in ("encoder", "none"):
        return 0
    if engine == "llamacpp":
        tokens = padded(tokens, PAD)
        return min(tokens, padded(layer.window + ahead, PAD)) if layer.window else tokens
    if engine == "vllm":
        return padded(min(tokens, layer.window - 1 + ahead) if layer.window else tokens, BLOCK)
    return min(tokens, layer.window) if layer.window else tokens


def states(description: Description, engine: str) -> int:
    """Bytes that one request takes whatever its length: recurrent states and the histories of convolutions.

    llama.cpp keeps both in 32 bits (llama_memory_recurrent). vLLM and transformers keep states in 32 bits unless
    told otherwise (`mamba_ssm_dtype`), and histories in the model's 16 bits; transformers keeps as many tokens of them
    as the convolution has taps (LinearAttentionLayer), the others one less.
    """
    states = 4 * sum(layer.state for layer in description.layers)
    history = sum(layer.history for layer in description.layers)
    if engine == "llamacpp":
        return states + 4 * history
    if engine == "transformers" and (seen := taps(description)) > 1:
        history = history * seen // (seen - 1)
    return states + 2 * history


def taps(description: Description) -> int:
    """How many tokens the short convolutions of recurrent layers see, 0 where there are none."""
    roles = ("ssm_conv1d", "shortconv.conv")
    return max((t.columns for t in description.tensors if t.role in roles), default=0)


def per_token(description: Description, number: str = "f16") -> float:
    """Bytes that one token adds while no window is full: what engines print, and what vLLM counts tokens by."""
    return NUMBER[number] * sum(layer.per_token for layer in description.layers)


def request(
    description: Description, tokens: int, engine: str, *, number: str = "f16", ahead: int = UBATCH
) -> int:
    """Bytes of one request of `tokens` tokens: multi-head, grouped, latent and sliding attention, and states."""
    cached = sum(kept(layer, tokens, engine, ahead) * layer.per_token for layer in description.layers)
    return int(cached * NUMBER[number]) + states(description, engine)


def shared(description: Description, tokens: int, engine: str, *, gpus: int, number: str = "f16") -> int:
    """Bytes of one request on each of `gpus` GPUs that split every layer (tensor parallelism).

    Heads are split; where there are fewer than GPUs each GPU holds a whole one. Latent caches are on every GPU.
    """
    total = 0.0
    for layer in description.layers:
        if layer.kind == "mla":
            each = float(layer.per_token)
        else:
            heads = max(1, -(-layer.kv_heads // gpus)) if layer.kv_heads else 0
            each = float(heads * (layer.key + layer.value))
        total += kept(layer, tokens, engine) * each
    return int(total * NUMBER[number]) + -(-states(description, engine) // gpus)
