"""The tensors that a config.json implies: their roles, shapes and sizes, without any file of weights."""

from __future__ import annotations

from collections.abc import Iterator

from deployer.description import Description, Tensor, label_of, merged
from deployer.models.metadata.config import Config, Plan, attention, mamba, read, text_of

# role, rows, columns: a row is as long as what the tensor is multiplied with
Shape = tuple[str, int, int]


def describe(config: Config, *, kind: str = "BF16", chat_template: bool = True) -> Description:
    """The model of a config.json with all weights in 16 bits (`kind`), as it was published before quantizing.

    Exact for what the rules in this module know; heads for multi-token prediction are left out, because the
    engines leave them out. Raises KeyError, TypeError or ValueError.
    """
    plan = read(config)
    made = merged(
        Tensor(role, layer, columns, rows * columns, kind, rows * columns * 2)
        for layer, shapes in _all(config, plan)
        for role, rows, columns in shapes
        if rows * columns
    )
    return Description(
        architecture=str((config.get("architectures") or [plan.family])[0]),
        format="config",
        label=label_of(made),
        context=plan.context,
        hidden=plan.hidden,
        heads=plan.heads,
        feed_forward=widest(plan),
        vocabulary=plan.vocabulary,
        layers=plan.layers,
        tensors=made,
        experts=plan.experts,
        active=plan.active,
        chat_template=chat_template,
        measured=False,
    )


def widest(plan: Plan) -> int:
    """The widest row that one token makes in a feed-forward network."""
    return max(max(plan.dense, default=0), plan.expert * plan.active, plan.shared)


def _all(config: Config, plan: Plan) -> Iterator[tuple[int | None, list[Shape]]]:
    c = text_of(config)
    h = plan.hidden
    ends: list[Shape] = [("token_embd", plan.vocabulary, h), ("output_norm", 1, h)]
    if not plan.tied:
        ends.append(("output", plan.vocabulary, h))
    if plan.family == "gpt2":
        ends.append(("position_embd", plan.context, h))
    if each := c.get("hidden_size_per_layer_input"):  # gemma3n, gemma4: a table of its own for every layer
        ends.append(("per_layer_token_embd", int(c["vocab_size_per_layer_input"]), each * len(plan.kinds)))
        ends.append(("per_layer_model_proj", each * len(plan.kinds), h))
    yield None, ends
    for i, kind in enumerate(plan.kinds):
        yield i, [*_mixer(c, plan, kind), *_feed_forward(plan, i), *_norms(plan)]
    yield None, _tower(config, h)


def _mixer(c: Config, plan: Plan, kind: str) -> list[Shape]:
    h, family = plan.hidden, plan.family
    if kind in ("mlp", "moe"):
        return []
    if kind == "linear_attention":
        nk, nv = int(c["linear_num_key_heads"]), int(c["linear_num_value_heads"])
        keys, values = nk * int(c["linear_key_head_dim"]), nv * int(c["linear_value_head_dim"])
        taps = int(c.get("linear_conv_kernel_dim") or 4)
        return [
            ("attn_qkv", 2 * keys + values, h),
            ("attn_gate", values, h),
            ("ssm_ba", 2 * nv, h),
            ("ssm_conv1d", 2 * keys + values, taps),
            ("ssm_norm", 1, 2 * nv + int(c["linear_value_head_dim"])),
            ("ssm_out", h, values),
        ]
    if kind == "conv":
        taps = int(c.get("conv_L_cache") or 3)
        return [("shortconv.in_proj", 3 * h, h), ("shortconv.conv", h, taps), ("shortconv.out_proj", h, h)]
    found: list[Shape] = []
    if kind == "mamba" or family == "falcon_h1":
        found = _mamba(c, family, h)
        if kind == "mamba":
            return found
    if c.get("kv_lora_rank"):
        return [*found, *_latent(c, h, plan.heads)]
    kv_heads, key, value = attention(c, kind)
    gate = 2 if c.get("attn_output_gate") or family.startswith("qwen3_next") else 1
    same = bool(c.get("attention_k_eq_v")) and kind == "full_attention"  # gemma4: values are the keys
    found += [
        ("attn_q", plan.heads * key * gate, h),
        ("attn_k", kv_heads * key, h),
        ("attn_v", 0 if same else kv_heads * value, h),
        ("attn_output", h, plan.heads * value),
    ]
    if c.get("attention_bias") or family in ("gpt2", "qwen2", "qwen2_moe", "qwen2_5_vl_text"):
        output = h if family in ("gpt2", "gpt_oss") else 0
        found.append(("attn_bias_norm", 1, plan.heads * key + kv_heads * (key + value) + output))
    if family == "gpt_oss":
        found.append(("attn_sinks_norm", 1, plan.heads))
    if family.startswith(("qwen3", "gemma3", "lfm2")):  # a norm for queries and one for keys, shared by all heads
        found.append(("attn_q_norm", 2, key))
    elif family.startswith("olmo2"):
        found.append(("attn_q_norm", 1, plan.heads * key + kv_heads * key))
    return found


def _latent(c: Config, h: int, heads: int) -> list[Shape]:
    """Multi-head latent attention: DeepSeek-V2 and later, Kimi, GLM-5."""
    lora, rope, nope = int(c["kv_lora_rank"]), int(c["qk_rope_head_dim"]), int(c["qk_nope_head_dim"])
    value = int(c["v_head_dim"])
    query = int(c.get("q_lora_rank") or 0)
    found = [
        ("attn_kv_a_mqa", lora + rope, h),
        ("attn_kv_b", heads * (nope + value), lora),
        ("attn_kv_a_norm", 1, lora),
        ("attn_output", h, heads * value),
    ]
    if query:
        found += [("attn_q_a", query, h), ("attn_q_a_norm", 1, query), ("attn_q_b", heads * (nope + rope), query)]
    else:
        found.append(("attn_q", heads * (nope + rope), h))
    if each := int(c.get("index_head_dim") or 0):
        count = int(c["index_n_heads"])
        found += [
            ("indexer.attn_q_b", count * each, query or h),
            ("indexer.attn_k", each, h),
            ("indexer.proj", count, h),
        ]
    return found


def _mamba(c: Config, family: str, h: int) -> list[Shape]:
    inner, width, groups, taps = mamba(c, family)
    if not groups:
        rank = int(c.get("time_step_rank") or -(-h // 16))
        return [
            ("ssm_in", 2 * inner, h), ("ssm_conv1d", inner, taps), ("ssm_x", rank + 2 * width, inner),
            ("ssm_dt", inner, rank), ("ssm_a", inner, width), ("ssm_norm", 3, inner), ("ssm_out", h, inner),
        ]  # fmt: skip
    heads = int(c.get("mamba_num_heads") or c.get("mamba_n_heads") or c.get("num_heads") or 0)
    normed = family != "falcon_h1" or c.get("mamba_rms_norm")
    return [
        ("ssm_in", 2 * inner + 2 * groups * width + heads, h),
        ("ssm_conv1d", inner + 2 * groups * width, taps),
        # the convolution's bias; of each head a bias, a decay and a skip; the norm
        ("ssm_norm", 1, inner + 2 * groups * width + 3 * heads + (inner if normed else 0)),
        ("ssm_out", h, inner),
    ]


def _feed_forward(plan: Plan, i: int) -> list[Shape]:
    h, found = plan.hidden, []
    for wide, end, count in (
        (plan.dense[i], "", 1),
        (plan.expert if plan.moe[i] else 0, "_exps", plan.experts),
        (plan.shared if plan.moe[i] else 0, "_shexp", 1),
    ):
        if wide:
            found += [(f"ffn_up{end}", wide * count, h), (f"ffn_down{end}", h * count, wide)]
            found += [(f"ffn_gate{end}", wide * count, h)] if plan.gated else []
    if plan.moe[i]:
        found.append(("ffn_gate_inp", plan.experts, h))
        if plan.family.startswith(("qwen2_moe", "qwen3_next", "qwen3_5_moe")):
            found.append(("ffn_gate_inp_shexp", 1, h))
        if plan.family == "gpt_oss":  # each expert's bias, and the router's
            found.append(("ffn_bias_norm", plan.experts, 2 * plan.expert + h + 1))
    return found


def _norms(plan: Plan) -> list[Shape]:
    if plan.family in ("nemotron_h", "mamba", "mamba2", "falcon_mamba"):
        return [("attn_norm", 1, plan.hidden)]
    return [
        ("attn_norm", 4 if plan.family.startswith("gemma") and plan.family != "gemma" else 2, plan.hidden)
    ]


def _tower(config: Config, h: int) -> list[Shape]:
    """A vision transformer and its projector, as far as config.json tells; exact to about a tenth."""
    v = config.get("vision_config")
    if not isinstance(v, dict):
        return []
    wide = int(v.get("hidden_size") or v.get("embed_dim") or 0)
    depth = int(v.get("num_hidden_layers") or v.get("depth") or 0)
    inner = int(v.get("intermediate_size") or 4 * wide)
    patch = int(v.get("patch_size") or 14) ** 2 * int(v.get("temporal_patch_size") or 1) * 3
    merge = int(v.get("spatial_merge_size") or 1) ** 2
    gates = 3 if v.get("hidden_act") == "silu" else 2
    blocks = depth * (4 * wide * wide + gates * wide * inner)
    projector = wide * merge * (wide * merge if merge > 1 else 0) + wide * merge * h
    return [("tower", 1, blocks + patch * wide + projector)]
