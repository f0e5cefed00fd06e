"""What a profile asks of memory, and what `up` serves where the profile leaves it open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer import compat, profile
from deployer.errors import QuestionError
from deployer.profile import ModelChoice, ModelFile, Profile, Serving
from deployer.sizing import catalogue, devices, fit, wanted
from deployer.sizing.devices import Device
from deployer.sizing.memory import Use, memory

GIB = 1 << 30
NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
CPU, GPU = NAMED["cpu-small"], NAMED["gpu-24gb"]
PROCESSOR = Device("cpu", "processor", 1, 8 * GIB, 8 * GIB, 20e9, "ddr")
QWEN = catalogue.find("Qwen3-8B")
SMALL = catalogue.find("SmolLM2-135M-Instruct")
OPEN = Serving()


def card(name: str = "RTX 4090", count: int = 1) -> Device:
    found = compat.find(name)
    assert found
    return devices.named(found, count, 64 * GIB)


def served(base: Profile, **changes: object) -> Profile:
    return replace(base, serving=replace(OPEN, **changes))  # type: ignore[arg-type]


def test_the_catalogue_knows_a_model_by_its_place_on_the_hub() -> None:
    assert QWEN
    assert catalogue.of(ModelChoice("hf://Qwen/Qwen3-8B")) == QWEN.description()
    assert catalogue.of(ModelChoice("hf://qwen/qwen3-8b")) == QWEN.description()
    gguf = ModelChoice("hf://Qwen/Qwen3-8B-GGUF", files=(ModelFile("Qwen3-8B-Q4_K_M.gguf"),))
    assert catalogue.of(gguf) == QWEN.description("Q4_K_M")
    for other in (
        ModelChoice("hf://somebody/Qwen3-8B"),
        ModelChoice("hf://Qwen/Qwen3-8B-GGUF"),  # which of its files?
        ModelChoice("hf://Qwen/Qwen3-8B-GGUF", files=(ModelFile("model.gguf"),)),
        ModelChoice("pypi://Qwen3-8B==1"),
    ):
        assert catalogue.of(other) is None


def test_the_need_of_a_profile_is_that_of_its_model_as_it_is_served() -> None:
    assert QWEN
    assert wanted.need(GPU) == memory(QWEN.compact("BF16"), "transformers", Use(8192, 2, 1))
    vllm = replace(served(GPU, context=4096, concurrency=8, cache="8-bit"), engine="vllm")
    assert wanted.need(vllm) == memory(QWEN.compact("BF16"), "vllm", Use(4096, 8, 1, "fp8"))
    # nothing is said: the least that is worth serving
    assert wanted.need(served(GPU)) == memory(QWEN.compact("BF16"), "transformers", Use(4096, 1, 1))


def test_headers_go_before_shapes_and_a_gguf_file_is_converted_first() -> None:
    assert QWEN and SMALL
    assert wanted.need(GPU, SMALL.compact("BF16")) == memory(SMALL.compact("BF16"), "transformers", Use(8192, 2, 1))
    four = SMALL.description("Q4_0")
    found, whole = wanted.described(GPU, four), wanted.described(CPU, four)
    assert found and found.weights == pytest.approx(SMALL.compact("BF16").weights, rel=0.001)
    assert whole and whole.weights == four.weights


def test_without_headers_and_shapes_the_size_counts_and_without_size_nothing() -> None:
    need = wanted.need(CPU)
    assert need and [p.name for p in need.parts] == ["weights", "process"]
    assert need.total == 98_362_432 + (300 << 20)
    two = replace(NAMED["gpu-2x24gb"], model=ModelChoice("hf://a/b", download=30_000_000_001))
    half = wanted.need(two)
    assert half and half.part("weights") == 15_000_000_001
    assert wanted.need(replace(CPU, model=ModelChoice("hf://a/b"))) is None


def test_what_the_profile_names_is_served() -> None:
    chosen = wanted.choose(GPU, None, card())
    assert (chosen.context, chosen.users) == (8192, 2)


def test_what_it_leaves_open_is_what_the_card_holds() -> None:
    assert QWEN
    chosen = wanted.choose(served(GPU), None, card())
    assert chosen.users >= 1 and 4096 <= chosen.context <= 32768
    use = Use(chosen.context, chosen.users, 1)
    assert fit.holds(QWEN.compact("BF16"), "transformers", card(), use)
    longer = chosen.context < 32768
    more = replace(use, context=use.context + 512) if longer else replace(use, users=use.users + 1)
    assert use.users == 16 or not fit.holds(QWEN.compact("BF16"), "transformers", card(), more)
    assert "4090" in chosen.reason


def test_one_of_both_may_be_named() -> None:
    four = wanted.choose(served(GPU, context=4096), None, card("L40S"))
    assert four.context == 4096 and 1 < four.users <= 16
    two = wanted.choose(served(GPU, concurrency=2), None, card("L40S"))
    assert two.users == 2 and two.context > 4096


def test_a_processor_keeps_half_of_its_memory_for_others() -> None:
    assert SMALL
    chosen = wanted.choose(served(CPU), SMALL.compact("Q4_0"), PROCESSOR)
    assert (chosen.context, chosen.users) == (8192, 4)  # all that is ever taken without being asked for
    small = replace(PROCESSOR, memory=1 * GIB, host=1 * GIB)
    less = wanted.choose(served(CPU), SMALL.compact("Q4_0"), small)
    assert memory(SMALL.compact("Q4_0"), "llamacpp", Use(less.context, less.users)).total <= GIB // 2
    assert "50% of what is free" in less.reason


def test_what_does_not_fit_at_all_is_refused() -> None:
    with pytest.raises(QuestionError, match=r"needed for \d+ tokens") as caught:
        wanted.choose(served(GPU), None, card("T4"))
    assert "smaller model" in (caught.value.hint or "")


@pytest.mark.parametrize("device", [None, PROCESSOR])
def test_without_headers_it_is_what_it_always_was(device: Device | None) -> None:
    chosen = wanted.choose(served(CPU), None, device)
    assert (chosen.context, chosen.users) == (4096, 1)
    assert "not known yet" in chosen.reason
