"""What a config.json says of a model: its layers, its width, its experts, how its weights are quantized.

Keys are those of Hugging Face's transformers (models/*/configuration_*.py, version 5.0); rules that depend on one
model family stand beside the family's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployer.description import Layer
from deployer.frozen import dataclass

Config = Mapping[str, Any]
# Families whose sliding layers follow a period that config.json may leave out: every n-th layer is a full one.
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma3n_text": 5, "cohere2": 4, "llama4_text": 4}
_MAMBA1, _MAMBA2 = (
    ("mamba", "falcon_mamba"),
    ("mamba2", "nemotron_h", "falcon_h1", "granitemoehybrid", "bamba"),
)
# Words of designs whose caches or shapes do not follow from the rules here.
_STRANGE = ("block_configs", "moe_latent_size", "compress_ratios", "attention_other_setting", "swa_num_attention_heads",
            "linear_attn_config")  # fmt: skip
# Families in which every token sees every other: nothing is kept of a text.
_ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "nomic_bert", "modernbert", "eurobert")
_PATTERN = {"M": "mamba", "*": "full_attention", "-": "mlp", "E": "moe"}  # nemotron_h


@dataclass(frozen=True)
class Plan:
    """The numbers of a config.json that shapes follow from; lengths in numbers, `moe` by layer."""

    family: str
    context: int
    hidden: int
    vocabulary: int
    heads: int
    kinds: tuple[str, ...]
    layers: tuple[Layer, ...]
    dense: tuple[int, ...]
    moe: tuple[bool, ...]
    expert: int
    experts: int
    active: int
    shared: int
    gated: bool
    tied: bool


def text_of(config: Config) -> Config:
    """The part about the language model, of a model that also sees or hears."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        if isinstance(config.get(name), Mapping):
            return text_of(
                {**{k: v for k, v in config.items() if k == "tie_word_embeddings"}, **config[name]}
            )
    return config


def read(config: Config) -> Plan:
    """The plan of a model. Raises KeyError, TypeError or ValueError where it is no language model that is known."""
    c = text_of(config)
    family = str(c.get("model_type", "unknown"))
    if strange := [name for name in _STRANGE if c.get(name)]:
        raise ValueError(f"its shapes do not follow from config.json by a known rule ({', '.join(strange)})")
    listed = c.get("layers_block_type") or c.get("layer_types") or ()
    count = int(_maybe(c, "num_hidden_layers", "n_layer", "n_layers") or len(listed))
    hidden = _first(c, "hidden_size", "n_embd", "d_model")
    heads = int(c.get("num_attention_heads") or c.get("n_head") or 0)
    kinds = _kinds(c, family, count)
    if len(kinds) != count or count < 1 or hidden < 1:
        raise ValueError(f"{len(kinds)} layers are described, and there are {count}")
    experts = int(_maybe(c, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))
    expert = int(_maybe(c, "moe_intermediate_size") or (c.get("intermediate_size") or 0))
    dense = _maybe(c, "intermediate_size_mlp", "shared_intermediate_size", "intermediate_size", "n_inner")
    return Plan(
        family=family,
        context=int(_maybe(c, "max_position_embeddings", "n_positions", "max_seq_len") or 1 << 20),
        hidden=hidden,
        vocabulary=_first(c, "vocab_size"),
        heads=heads,
        kinds=kinds,
        layers=tuple(_layer(c, family, i, kind, count) for i, kind in enumerate(kinds)),
        dense=_dense(c, family, kinds, int(dense or 4 * hidden), experts),
        moe=_moe(c, family, kinds, experts),
        expert=expert if experts else 0,
        experts=experts,
        active=int(_maybe(c, "num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_topk")),
        shared=_shared(c, family, expert) if experts else 0,
        gated=family not in ("gpt2", "nemotron_h", "phi", "gpt_neox", "falcon", *_ENCODERS[:5]),
        tied=bool(
            c.get("tie_word_embeddings", family in ("gpt2", "gemma", "gemma2", "gemma3", "gemma3_text", *_ENCODERS))
        ),
    )


def chat_template(config: Config, tokenizer: Config, names: tuple[str, ...]) -> bool:
    """Whether the model knows how to chat, from tokenizer_config.json and the names of the files."""
    return "chat_template" in tokenizer or "chat_template.jinja" in names or "chat_template.json" in names


def _kinds(c: Config, family: str, count: int) -> tuple[str, ...]:
    if types := c.get("layer_types") or c.get("layers_block_type"):
        # since 5.0 transformers writes the layers of Mamba models as linear attention
        other = {"attention": "full_attention"} | ({"linear_attention": "mamba"} if family in _MAMBA2 else {})
        return tuple(other.get(t, str(t)) for t in types[:count])
    if pattern := c.get("hybrid_override_pattern"):
        return tuple(_PATTERN[sign] for sign in pattern)
    if family in (*_MAMBA1, "mamba2"):
        return ("mamba",) * count
    if step := c.get("full_attention_interval"):
        return tuple("full_attention" if (i + 1) % step == 0 else "linear_attention" for i in range(count))
    if c.get("attention_chunk_size") and family.startswith("llama4"):
        return tuple("full_attention" if (i + 1) % 4 == 0 else "chunked_attention" for i in range(count))
    window = c.get("sliding_window")
    if not window or c.get("use_sliding_window") is False:
        return ("full_attention",) * count
    pattern = c.get("sliding_window_pattern") or _PERIODS.get(family)
    if isinstance(pattern, int):
        return tuple(
            "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)
        )
    if family.startswith("qwen2"):  # the first layers see everything
        full = int(c.get("max_window_layers") or count)
        return tuple("full_attention" if i < full else "sliding_attention" for i in range(count))
    return ("sliding_attention",) * count


def _layer(c: Config, family: str, i: int, kind: str, count: int) -> Layer:
    kept = _state(c, family, kind)
    if kind in ("mamba", "linear_attention", "conv", "recurrent", "mlp", "moe"):
        return Layer("none", **kept)
    shared = int(c.get("num_kv_shared_layers") or 0)
    if i >= count - shared:
        return Layer("none", **kept)
    if lora := c.get("kv_lora_rank"):
        # The sparse indexer keeps one key of its own for every token (DeepSeek-V3.2, GLM-5).
        index = int(c.get("index_head_dim") or 0)
        return Layer("mla", latent=int(lora) + int(c["qk_rope_head_dim"]), index=index, **kept)
    kv_heads, key, value = attention(c, kind)
    if kind in ("sliding_attention", "chunked_attention"):
        window = int(c.get("sliding_window") or c.get("attention_chunk_size") or 0)
        return Layer("sliding", kv_heads, key, value, window, **kept)
    return Layer("encoder" if family in _ENCODERS else "full", kv_heads, key, value, **kept)


def attention(c: Config, kind: str) -> tuple[int, int, int]:
    """(key-value heads, length of a key, of a value) of an attention layer."""
    heads = int(c.get("num_attention_heads") or c["n_head"])
    kv_heads = int(c.get("num_key_value_heads") or heads)
    if c.get("multi_query"):
        kv_heads = 1
    each = int(c.get("head_dim") or _first(c, "hidden_size", "n_embd") // heads)
    if kind == "full_attention":  # gemma4: full layers have fewer and longer heads
        kv_heads = int(c.get("num_global_key_value_heads") or kv_heads)
        each = int(c.get("global_head_dim") or each)
    value = int(c.get("v_head_dim") or each)
    return kv_heads, each, value


def _state(c: Config, family: str, kind: str) -> dict[str, int]:
    """Numbers of the recurrent state and of the convolution's history, as transformers' caches have them."""
    if kind == "linear_attention":  # gated delta net: qwen3_next, qwen3_5
        keys = int(c["linear_num_key_heads"]) * int(c["linear_key_head_dim"])
        values = int(c["linear_num_value_heads"]) * int(c["linear_value_head_dim"])
        taps = int(c.get("linear_conv_kernel_dim") or 4) - 1
        return {"state": values * int(c["linear_key_head_dim"]), "history": taps * (2 * keys + values)}
    if kind == "conv":  # lfm2
        return {"state": 0, "history": (int(c.get("conv_L_cache") or 3) - 1) * int(c["hidden_size"])}
    if kind == "mamba" or family == "falcon_h1":
        inner, width, groups, taps = mamba(c, family)
        return {"state": inner * width, "history": (taps - 1) * (inner + 2 * groups * width)}
    return {}


def mamba(c: Config, family: str) -> tuple[int, int, int, int]:
    """(inner width, state width, groups, taps of the convolution); Mamba 1 has no groups in its convolution."""
    hidden = int(c["hidden_size"])
    taps = int(_maybe(c, "conv_kernel", "mamba_d_conv") or 4)
    width = int(_maybe(c, "ssm_state_size", "state_size", "mamba_d_state"))
    if family in _MAMBA1:
        return int(c.get("intermediate_size") or 2 * hidden), width, 0, taps
    heads = int(_maybe(c, "mamba_num_heads", "mamba_n_heads", "num_heads"))
    each = int(_maybe(c, "mamba_head_dim", "mamba_d_head", "head_dim"))
    groups = int(_maybe(c, "n_groups", "mamba_n_groups") or 1)
    return int(c.get("mamba_d_ssm") or heads * each), width, groups, taps


def _dense(c: Config, family: str, kinds: tuple[str, ...], wide: int, experts: int) -> tuple[int, ...]:
    """The width of each layer's dense feed-forward network, 0 where it has none."""
    if family in (*_MAMBA1, "mamba2"):
        return (0,) * len(kinds)
    if family == "nemotron_h":
        return tuple(wide if kind == "mlp" else 0 for kind in kinds)
    if family.startswith("gemma4") and c.get("enable_moe_block"):
        return (wide,) * len(kinds)
    moe = _moe(c, family, kinds, experts)
    return tuple(0 if moe[i] else wide for i in range(len(kinds)))


def _moe(c: Config, family: str, kinds: tuple[str, ...], experts: int) -> tuple[bool, ...]:
    if not experts:
        return (False,) * len(kinds)
    if family == "nemotron_h":
        return tuple(kind == "moe" for kind in kinds)
    if isinstance(listed := c.get("moe_layers"), list) and listed:
        return tuple(i in listed for i in range(len(kinds)))
    dense = set(c.get("mlp_only_layers") or ())
    first = int(c.get("first_k_dense_replace") or 0)
    step = int(
        c.get("interleave_moe_layer_step") or c.get("decoder_sparse_step") or c.get("moe_layer_freq") or 1
    )
    return tuple(i >= first and i not in dense and (i + 1) % step == 0 for i in range(len(kinds)))


def _shared(c: Config, family: str, expert: int) -> int:
    """The width of the experts that every token uses, together."""
    names = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")
    if wide := _maybe(c, *names):
        return int(wide)
    if family.startswith("llama4"):
        return int(c["intermediate_size"])
    return int(c.get("n_shared_experts") or c.get("num_shared_experts") or 0) * expert


def _first(c: Config, *names: str) -> int:
    for name in names:
        if c.get(name) is not None:
            return int(c[name])
    raise KeyError(names[0])


def _maybe(c: Config, *names: str) -> Any:
    return next((c[name] for name in names if c.get(name)), 0)
