"""Scratch memory of a forward pass, per engine, in bytes.

llama.cpp: measured with version 0c1e570 (`sched_reserve: compute buffer size`) on the models of `tests/sizing/bed.py`;
the same rule gives the 22 to 57 MiB that it prints within 1 %, for phi3 and lfm2 7 % too much.
"""

from __future__ import annotations

from deployer.models.metadata import Description
from deployer.sizing import cache
from deployer.sizing.cache import PAD, UBATCH, padded

# vLLM 0.11 profiles its sampler with this many copies of the logits in 32 bits: eight runs on H100, all but one
# between 9.59 and 9.89 (llm-d-incubation/llm-d-planner, docs/empirical-vllm-memory-results.md).
VLLM_SAMPLER = 9.89
# vLLM's CUDA graphs: -0.88 to +1.03 GiB in the same runs, 0.32 to 0.48 GiB for 3B to 8B in its own logs.
VLLM_GRAPHS = 512 << 20
# Models without PyTorch's attention in transformers 5.23: bytes for each score.
_EAGER = {"gemma2": 10, "vaultgemma": 10, "gptoss": 6, "mimov2flash": 6}
_UNGATED = ("bert", "jina-bert-v3", "nomic-bert-moe")  # encoders whose feed-forward network has no gate
CHUNK = 256  # tokens that transformers' Mamba 2 takes at once; some models 128


def logits(vocabulary: int, hidden: int, rows: int) -> int:
    """llama.cpp's scratch for `rows` rows of logits in 32 bits, with the row they are made from.

    Before `n_outputs_max` (2026) a whole batch of 512 rows was set aside: Llama-3-8B 258.50 MiB, as ten public logs
    have it. Since then it is one row for each slot of the server.
    """
    return rows * (vocabulary + hidden) * 4


def llamacpp(
    description: Description, context: int, slots: int, *, batch: int = UBATCH, flash: bool = True
) -> int:
    """Scratch of llama.cpp on one device, for `slots` requests of `context` tokens.

    Rows of one batch in 32 bits: three of the widest feed-forward row (gate, up, product), three of the model's width,
    and the queries, which are left out where gate and up are one tensor. What experts give is one more row of the
    model's width for each that a token uses, unless it fits where gate and up were. In recurrent layers: four of what
    the convolution sees (gated delta nets: three), one of the inner width, three of the model's, and the states of
    every slot. The mask of full attention is one 16-bit number for each token of the batch and the cache, a second
    one that of the window. Without flash attention the scores of all heads are added in 32 bits, and masks are twice
    as large.
    """
    beside = 3 * description.hidden
    if not _fused(description):
        beside += max(description.hidden, _queries(description))
    rows = 3 * description.feed_forward + beside
    if inner := max((t.columns for t in description.tensors if t.role == "ffn_down_exps"), default=0):
        inner, given = inner * description.active, description.hidden * description.active
        rows = max(rows, 3 * inner + (given if given > 2 * inner else 0) + beside)
    states, recurrent = 0, _recurrent(description)
    if recurrent:
        rows = max(rows, recurrent)
        states = 4 * slots * max(layer.state + layer.history for layer in description.layers)
    work = max(4 * batch * rows + states, logits(description.vocabulary, description.hidden, slots))
    cells = padded(context, PAD)
    mask = 0
    if any(layer.kind in ("full", "mla") for layer in description.layers):
        mask += cells
    window = max((layer.window for layer in description.layers), default=0)
    if window:
        mask += min(cells, padded(window + batch, PAD))
    scores = 0 if flash else 4 * cells * batch * description.heads
    return work + mask * batch * (2 if flash else 4) + scores + (128 << 10)


def embedding(description: Description, context: int, slots: int) -> int:
    """llama.cpp's scratch for a model that gives vectors; measured with 0c1e570 as above.

    A text that has to be read in one piece is one batch. BERT and its like: one feed-forward row and three of the
    model's width, or five and a half of these in the attention, whichever is more, and the mask in 16 bits. Models with
    a cache make logits of every token, which nobody reads: rows of the vocabulary and six of the model's width.
    """
    batch = context if description.whole else min(UBATCH, context)
    mask = 2 * batch * padded(context, PAD) + (128 << 10)
    if description.encoder:
        wide = description.feed_forward * (1 if description.architecture in _UNGATED else 3)
        return 4 * batch * max(wide + 3 * description.hidden, 11 * description.hidden // 2) + mask
    rows = logits(description.vocabulary, 6 * description.hidden, batch) + mask
    return max(rows, llamacpp(description, context, slots, batch=batch))


def transformers(description: Description, tokens: int, users: int, *, gpus: int = 0, number: float = 2) -> int:
    """Scratch of transformers when a prompt of `tokens` tokens is read in one piece, as `generate` does.

    Rows of the whole prompt (`_rows`); what of scores and masks is kept whole, tokens × tokens (`_squared`); the logits
    of the last token only, in 32 bits, three times for sampling; one layer's cache a second time, because a dynamic
    cache grows by making a longer one; and in sliding layers the whole prompt, because what they keep of it is a view
    of all of it until the next token (DynamicSlidingWindowLayer.update).
    """
    grown = max((layer.per_token for layer in description.layers), default=0) * tokens
    past = sum(layer.per_token * max(0, tokens - layer.window) for layer in description.layers if layer.window)
    read = padded(tokens, CHUNK) if cache.taps(description) else tokens
    rows = read * _rows(description) + number * (grown + past)
    return int(rows) + tokens * tokens * _squared(description, tokens, gpus) + 3 * 4 * description.vocabulary * users


def _rows(d: Description) -> int:
    """Bytes that each token of a prompt takes in transformers 5.23, in the layer that takes most.

    Each term was counted among the tensors that are alive at the peak. Dense: gate, up and their product (one more
    where gate and up are one tensor) and six of the model's width in 16 bits; four of them in Llama, nearly six where
    norms compute in 32 bits (Gemma). Experts (grouped_mm_experts_forward): for each that a token uses its input, gate
    and up and what becomes of them, or at the end input and output in 16 and twice the output in 32 bits; with biases
    and clamps (gpt-oss) five rows more. Recurrent layers without CUDA kernels of their own, in 32 bits: Mamba three
    states and eight rows; Mamba 2 three of heads × a chunk and twelve rows; gated delta nets thirteen rows.
    """
    beside = 6 * d.hidden
    roles = {t.role for t in d.tensors}
    fused = _family(d) == "phi3" or ("ffn_up" in roles and "ffn_gate" not in roles)
    dense = (4 if fused else 3) * d.feed_forward
    wide = max((t.columns for t in d.tensors if t.role == "ffn_down_exps"), default=0)
    used = max(d.hidden + (9 if _family(d) == "gptoss" else 4) * wide, 6 * d.hidden) if wide else 0
    least = 2 * (max(dense, d.active * used) + beside)
    inner = max((t.columns for t in d.tensors if t.role == "ssm_out"), default=0)
    seen = cache.taps(d)
    if not inner or seen < 2:
        return least
    conv = max(layer.history for layer in d.layers) // (seen - 1)
    state = max(layer.state for layer in d.layers)
    if any(t.role in ("ssm_ba", "ssm_beta", "ssm_alpha") for t in d.tensors):
        return max(least, 4 * 13 * inner + 2 * (2 * conv + inner + beside))
    if conv == inner:  # Mamba 1: keys and queries of the state do not go through the convolution
        return max(least, 4 * (3 * state + 8 * inner) + 2 * beside)
    each = max((t.numbers // t.columns for t in d.tensors if t.role == "ssm_in" and t.columns == d.hidden), default=0)
    heads = max(each // max(1, _layers_with(d, "ssm_in")) - inner - conv, inner // 128)
    return max(least, 4 * (3 * heads * CHUNK + 12 * inner) + 2 * (inner + conv + beside))


def _squared(d: Description, tokens: int, gpus: int) -> int:
    """Bytes for each pair of tokens: attention that keeps its scores, and masks.

    Models that PyTorch's attention does not serve (`_supports_sdpa = False`) keep the scores of all heads: with a soft
    cap in 16 bits and twice in 32 (gemma2's eager_attention_forward), with sinks three times in 16 (gpt-oss), and two
    masks in 16. On a CPU latent attention does too, in 32 bits: keys and values differ in length, which the kernel for
    CPUs does not take (check_head_dim_size_cpp in sdp_utils_cpp.cpp). Sliding windows need a mask, once as bits in
    bytes and once in 16; full attention alone needs none.
    """
    if each := _EAGER.get(_family(d)):
        return each * d.heads + 4
    if not gpus and any(layer.kind == "mla" for layer in d.layers):
        return 10 * d.heads + 4
    return 4 if any(0 < layer.window < tokens for layer in d.layers) else 0


def _family(d: Description) -> str:
    """The architecture without signs and endings: `gptoss` of GptOssForCausalLM, gpt_oss and gpt-oss."""
    return d.architecture.lower().removesuffix("forcausallm").replace("-", "").replace("_", "")


def _layers_with(d: Description, role: str) -> int:
    """How many layers have been added up in each tensor of this role (`compact` adds all)."""
    found = [t for t in d.tensors if t.role == role]
    recurrent = sum(bool(layer.state) for layer in d.layers)
    return recurrent if any(t.layer is None for t in found) else 1


def vllm(description: Description, *, sequences: int, batch: int, gpus: int = 1) -> int:
    """What vLLM finds when it profiles itself: the sampler's copies of the logits, or the widest layer if larger.

    `sequences` is max_num_seqs, `batch` max_num_batched_tokens. Logits are gathered, so each GPU holds all of them.
    """
    sampler = VLLM_SAMPLER * sequences * description.vocabulary * 4
    layer = batch * 3 * description.feed_forward * 2 // gpus
    return int(max(sampler, layer))


def _recurrent(description: Description) -> int:
    """Numbers that one token makes in a recurrent layer at once; 0 for a model without such layers."""
    taps = max((t.columns for t in description.tensors if t.role == "ssm_conv1d"), default=0)
    if taps < 2:
        return 0
    conv = max(layer.history for layer in description.layers) // (taps - 1)
    inner = max((t.columns for t in description.tensors if t.role == "ssm_out"), default=0)
    delta = any(t.role in ("ssm_ba", "ssm_beta", "ssm_alpha") for t in description.tensors)
    beside = any(
        layer.state and layer.kind != "none" for layer in description.layers
    )  # attention at the same time
    return (3 if delta else 4) * conv + inner + (7 if beside else 6) * description.hidden // 2


def _queries(description: Description) -> int:
    """Numbers of one token's queries in the widest layer with keys."""
    return description.heads * max((layer.key for layer in description.layers), default=0)


def _fused(description: Description) -> bool:
    """Gate and up are one tensor (Phi-3), or the mixer is a short convolution (LFM2): one row less is alive."""
    roles = {t.role for t in description.tensors}
    return ("ffn_up" in roles and "ffn_gate" not in roles) or "shortconv.in_proj" in roles
