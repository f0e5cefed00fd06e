"""What must hold for every model: more of anything never takes less, and parts add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.models.metadata import Description, compact
from deployer.sizing import cache, catalogue, formats, memory
from deployer.sizing.memory import ENGINES, Use

ENTRIES = catalogue.entries()
MODELS = st.sampled_from(ENTRIES).map(lambda e: e.compact(e.native))
ENGINE = st.sampled_from(ENGINES)
TOKENS = st.integers(1, 1 << 20)


@given(MODELS, ENGINE, TOKENS, TOKENS, st.integers(1, 64), st.sampled_from([0, 1, 2, 4, 8]))
def test_more_context_never_takes_less(
    model: Description, engine: str, one: int, other: int, users: int, gpus: int
) -> None:
    few, many = sorted((one, other))
    less = memory.memory(model, engine, Use(few, users, gpus))
    more = memory.memory(model, engine, Use(many, users, gpus))
    assert less.total <= more.total
    assert all(a.bytes <= b.bytes for a, b in zip(less.parts, more.parts, strict=True))


@given(MODELS, ENGINE, TOKENS, st.integers(1, 500), st.integers(1, 500))
def test_more_users_never_take_less(
    model: Description, engine: str, tokens: int, one: int, other: int
) -> None:
    few, many = sorted((one, other))
    less = memory.memory(model, engine, Use(tokens, few)).total
    assert less <= memory.memory(model, engine, Use(tokens, many)).total


@given(MODELS, ENGINE, TOKENS, st.data())
def test_more_layers_never_take_less(
    model: Description, engine: str, tokens: int, data: st.DataObject
) -> None:
    fewer = replace(model, layers=model.layers[: data.draw(st.integers(1, len(model.layers)))])
    assert cache.request(fewer, tokens, engine) <= cache.request(model, tokens, engine)


@given(MODELS, ENGINE, TOKENS)
def test_fewer_bits_never_take_more(model: Description, engine: str, tokens: int) -> None:
    sizes = [cache.request(model, tokens, engine, number=n) for n in ("f32", "f16", "q8_0", "fp8", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)


@given(MODELS, st.sampled_from([1, 2, 4, 8]), TOKENS)
def test_tensor_parallel_parts_add_up(model: Description, gpus: int, tokens: int) -> None:
    """All GPUs together hold the model once, and once more for each further GPU what is not split."""
    whole = memory.split(model, 1)
    copies = (gpus - 1) * memory.replicated(model)
    assert 0 <= gpus * memory.split(model, gpus) - whole - copies < gpus
    split = cache.shared(model, tokens, "vllm", gpus=gpus)
    assert gpus * split >= cache.shared(model, tokens, "vllm", gpus=1)  # heads are never thrown away
    if all(layer.kv_heads % gpus == 0 and layer.kind != "mla" for layer in model.layers):
        assert gpus * split - cache.shared(model, tokens, "vllm", gpus=1) <= gpus


@given(MODELS, ENGINE, TOKENS, st.integers(1, 64), st.sampled_from([0, 1, 2]))
def test_a_total_is_its_parts_and_none_is_negative(
    model: Description, engine: str, tokens: int, users: int, gpus: int
) -> None:
    need = memory.memory(model, engine, Use(tokens, users, gpus))
    assert need.total == sum(p.bytes for p in need.parts)
    assert all(p.bytes >= 0 and p.about for p in (*need.parts, *need.host))


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_a_catalogue_row_is_whole(entry: catalogue.Entry) -> None:
    made = entry.description()
    assert "/" in entry.hub and len(entry.source) > 20
    assert made.context >= 4096 and made.vocabulary > 30_000 and made.layers
    assert made.hidden % 64 == 0 and sum(made.groups.values()) == made.weights
    assert bool(made.experts) == any(t.group == "experts" for t in made.tensors)
    merged = compact(made)
    assert (merged.weights, merged.parameters, merged.groups) == (made.weights, made.parameters, made.groups)
    for engine in ENGINES:
        use = Use(8192, 3, 2)
        assert memory.memory(merged, engine, use) == memory.memory(made, engine, use)


@given(MODELS)
def test_every_format_of_gguf_can_be_made_of_every_model(model: Description) -> None:
    for name in formats.GGUF:
        assert 0 < formats.quantized(model, name).weights <= 2.01 * model.parameters
