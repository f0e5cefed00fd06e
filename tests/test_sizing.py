from __future__ import annotations

import pytest

from deployer import sizing
from deployer.models import Header
from deployer.profile import schema

SMOLLM2 = Header("llama", context=8192, layers=30, kv_heads=3, head_dim=64, chat_template=True)
QWEN3_8B = Header("qwen3", context=40960, layers=36, kv_heads=8, head_dim=128, chat_template=True)
GPT2 = Header("gpt2", context=1024, layers=12, kv_heads=12, head_dim=64, chat_template=False)


@pytest.mark.parametrize(
    ("header", "token"),
    [(SMOLLM2, 23_040), (QWEN3_8B, 147_456), (GPT2, 36_864)],
    ids=["smollm2", "qwen3-8b", "gpt2"],
)
@pytest.mark.parametrize(("context", "concurrency"), [(1, 1), (4096, 1), (4096, 2), (8192, 4)])
def test_the_cache_holds_every_token_of_every_request(
    header: Header, token: int, context: int, concurrency: int
) -> None:
    need = sizing.need(header, 0, context=context, concurrency=concurrency, engine="llamacpp")
    assert need.cache == token * context * concurrency


def test_the_parts_add_up_and_are_told_apart() -> None:
    need = sizing.need(SMOLLM2, 98_362_432, context=4096, concurrency=2, engine="llamacpp")
    assert need.total == 98_362_432 + 188_743_680 + (300 << 20)
    assert str(need) == "602 MB (weights 98.4 MB, cache 189 MB, program 315 MB)"


def test_every_engine_has_its_size() -> None:
    assert set(sizing.PROGRAM) == set(schema.ENGINES)


def test_a_token_reads_all_weights_once() -> None:
    assert sizing.rate_bound(16_400_000_000, 1008e9) == pytest.approx(61.46, abs=0.01)


@pytest.mark.parametrize(
    ("weights", "bandwidth", "gpu", "floor"),
    [
        pytest.param(16_400_000_000, 1008e9, True, 9.87, id="8B on an RTX 4090"),
        pytest.param(65_600_000_000, 3350e9, True, 8.48, id="32B on an H100"),
        pytest.param(98_362_432, 10e9, False, 1.89, id="135M on a CPU"),
        pytest.param(328_000, 10e9, False, 4.97, id="a toy is bound by its steps"),
    ],
)
def test_the_floor(weights: int, bandwidth: float, gpu: bool, floor: float) -> None:
    assert sizing.rate_floor(weights, bandwidth, gpu=gpu) == pytest.approx(floor, abs=0.01)
    assert floor < sizing.rate_bound(weights, bandwidth)
