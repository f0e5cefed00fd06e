"""Scratch memory of a forward pass, per engine, in bytes.

llama.cpp: measured with version 0c1e570 (`sched_reserve: compute buffer size`) on the models of `tests/sizing/bed.py`;
the same rule gives the 22 to 57 MiB that it prints within 1 %, for phi3 and lfm2 7 % too much.
"""

from __future__ import annotations

from deployer.models.metadata import Description
from deployer.sizing.cache import PAD, UBATCH, padded

# vLLM 0.11 profiles its sampler with this many copies of the logits in 32 bits: eight runs on H100, all but one
# between 9.59 and 9.89 (llm-d-incubation/llm-d-planner, docs/empirical-vllm-memory-results.md).
VLLM_SAMPLER = 9.89
# vLLM's CUDA graphs: -0.88 to +1.03 GiB in the same runs, 0.32 to 0.48 GiB for 3B to 8B in its own logs.
VLLM_GRAPHS = 512 << 20


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


def transformers(description: Description, tokens: int, users: int, *, number: float = 2) -> int:
    """Scratch of transformers when a prompt of `tokens` tokens is read in one piece, as `generate` does.

    Rows of the whole prompt in the model's 16 bits: four of the widest feed-forward row and eight of the model's width
    (norms compute in 32 bits). Measured with transformers 5.23 on a CPU, 1024 against 4096 tokens: 17,300 numbers a
    token for width 1024 and 2816, where this gives 19,456; 37,700 for 2048 and 5632, where it gives 38,912. PyTorch's
    attention keeps no scores. The logits of the last token only, in 32 bits, three times for sampling; and one layer's
    cache a second time, because a dynamic cache grows by making a longer one.
    """
    rows = max(4 * description.feed_forward + 8 * description.hidden, _recurrent(description))
    grown = max((layer.per_token for layer in description.layers), default=0) * tokens
    return int(number * (tokens * rows + grown)) + 3 * 4 * description.vocabulary * users


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
