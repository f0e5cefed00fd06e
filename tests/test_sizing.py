"""What `check` and `up` ask of sizing: the need of a model, and the floor under its speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployer import sizing
from deployer.models import metadata
from deployer.profile import schema
from deployer.sizing.memory import ENGINES, Use, memory
from deployer.sizing.wanted import PROGRAM
from tests.sizing import ggufs


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> metadata.Description:
    """The shape of SmolLM2-135M."""
    made = ggufs.plain("llama", layers=30, h=576, heads=9, kv=3, wide=1536, vocab=49152, context=8192)
    return metadata.describe(ggufs.write(Path(tmp_path_factory.mktemp("model")) / "m.gguf", *made))


@pytest.mark.parametrize(("context", "concurrency"), [(256, 1), (4096, 1), (4096, 2), (8192, 4)])
def test_the_cache_holds_every_token_of_every_request(
    smollm2: metadata.Description, context: int, concurrency: int
) -> None:
    need = memory(smollm2, "llamacpp", Use(context, concurrency))
    assert need.part("cache") == 23_040 * context * concurrency


def test_the_parts_add_up_and_are_told_apart(smollm2: metadata.Description) -> None:
    need = memory(smollm2, "llamacpp", Use(4096, 2))
    assert need.part("weights") == smollm2.weights
    assert need.part("cache") == 188_743_680
    assert need.total == sum(part.bytes for part in need.parts)
    assert str(need).endswith(
        "(weights 143 MB, cache 189 MB, compute 18.5 MB, prompts 268 MB, process 34.9 MB)"
    )


def test_every_engine_has_its_size() -> None:
    assert set(PROGRAM) == set(schema.ENGINES) <= set(ENGINES)


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
