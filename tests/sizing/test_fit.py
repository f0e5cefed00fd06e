"""What `fit` answers: the best use of a device, and changes that are verified to fit where the use does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer import compat, profile
from deployer.errors import ProfileError
from deployer.profile.schema import ENGINES as LAUNCHED
from deployer.sizing import catalogue, devices, ranking
from deployer.sizing import wanted as wanted_of
from deployer.sizing.devices import Device
from deployer.sizing.fit import answer, answers, holds
from deployer.sizing.lines import Source, lines
from deployer.sizing.lines import profile as written
from deployer.sizing.memory import ENGINES, Use
from tests import hosts

GIB = 1 << 30
NAMES = [e.name for e in catalogue.entries()]


def card(name: str, count: int = 1) -> Device:
    found = compat.find(name)
    assert found
    return devices.named(found, count, 256 * GIB)


CPU = Device("cpu", "processor", 1, 32 * GIB, 32 * GIB, 20e9, "ddr")


@given(
    st.sampled_from(NAMES), st.sampled_from(ENGINES), st.sampled_from(["RTX 4090", "L40S", "H100 80GB HBM3", "T4"]),
    st.integers(1, 8), st.sampled_from([None, 2048, 32768]), st.sampled_from([None, 1, 8]),
)  # fmt: skip
def test_what_is_said_to_fit_fits_and_nothing_larger_does(
    name: str, engine: str, gpu: str, count: int, context: int | None, users: int | None
) -> None:
    entry = catalogue.find(name)
    assert entry
    model, device = entry.compact("Q4_K_M" if engine == "llamacpp" else entry.native), card(gpu, count)
    found = answer(model, engine, device, context=context, users=users)
    if found.fits:
        assert found.memory.total <= found.available and found.short == 0
        assert holds(model, engine, device, found.use)
        if users is None and found.users < 1024:
            assert not holds(model, engine, device, replace(found.use, users=found.users + 1))
        alone = Use(found.context + 512, 1, found.gpus)
        assert found.context + 512 > model.context or users or not holds(model, engine, device, alone)
    else:
        assert found.short > 0 or found.memory.host_total > device.host
        for near in found.nearest:
            assert near.memory.total <= found.available
            assert lines(near)


@pytest.mark.parametrize(
    ("name", "format_", "gpu", "count", "fits"),
    [
        ("Llama-3.1-8B-Instruct", "BF16", "RTX 4090", 1, True),
        ("Llama-3.3-70B-Instruct", "BF16", "H100 80GB HBM3", 1, False),
        ("Llama-3.3-70B-Instruct", "BF16", "H100 80GB HBM3", 2, True),
        ("Qwen3-32B", "BF16", "H100 80GB HBM3", 1, True),  # llm-d-planner: 4.45 GiB of cache are left
        ("gpt-oss-120b", "MXFP4", "H100 80GB HBM3", 1, True),  # 3.33 GiB
        ("DeepSeek-V3", "FP8", "H200", 8, True),
        ("DeepSeek-V3", "FP8", "H100 80GB HBM3", 8, False),
    ],
)
def test_models_that_people_run(name: str, format_: str, gpu: str, count: int, fits: bool) -> None:
    entry = catalogue.find(name)
    assert entry
    assert answer(entry.description(format_), "vllm", card(gpu, count), context=4096, users=1).fits is fits


def test_the_nearest_things_that_fit() -> None:
    entry = catalogue.find("Llama-3.3-70B-Instruct")
    assert entry
    found = answer(entry.description("Q4_K_M"), "llamacpp", card("L40S"), context=65536, users=1)
    assert not found.fits
    assert [n.change.split()[0] for n in found.nearest] == ["context", "IQ4_XS", "2"]
    shorter, smaller, more = found.nearest
    assert 4096 < shorter.use.context < 65536
    assert smaller.label == "IQ4_XS" and smaller.use.context >= shorter.use.context
    assert (more.gpus, more.use.context) == (2, 65536)
    eight = answer(entry.description("Q4_K_M"), "llamacpp", card("L40S"), context=14000, users=1)
    assert "cache in 8 bits" in [n.change for n in eight.nearest] and not eight.fits


def test_gguf_on_transformers_is_taken_in_16_bits() -> None:
    entry = catalogue.find("Qwen3-0.6B")
    assert entry
    found = {a.engine: a for a in answers(entry.description("Q8_0"), [CPU])}
    assert set(found) == {"llamacpp", "transformers"}
    assert found["llamacpp"].label == "Q8_0" and found["transformers"].label == "BF16"
    assert found["llamacpp"].speed and found["transformers"].speed is None


def test_a_host_becomes_devices() -> None:
    cards = tuple(
        hosts.gpu(i, name="NVIDIA GeForce RTX 4090", vram=24564, free=free, capability="8.9")
        for i, free in enumerate((24000, 20000))
    )
    found = devices.of_host(replace(hosts.RTX, gpus=cards), 10e9)
    assert [(d.kind, d.count, d.type) for d in found] == [("gpu", 2, "gddr"), ("cpu", 1, "ddr")]
    assert found[0].memory == 20000 << 20  # what the fuller one has left
    assert found[0].speed == 1008e9 and found[1].speed and found[1].speed >= 10e9
    assert [d.kind for d in devices.of_host(hosts.NVML_SILENT, None)] == ["cpu"]


def test_the_catalogue_is_ranked() -> None:
    found = ranking.rank([card("RTX 4090")], ("llamacpp", "transformers"))
    assert len(found) > 30
    assert all(r.answer.fits and r.answer.memory.total <= r.answer.available for r in found)
    sizes = [r.entry.billions for r in found if r.quick]
    assert sizes == sorted(sizes, reverse=True)
    assert {r.entry.name for r in found} >= {"Qwen3-8B", "gpt-oss-20b", "Qwen3-32B"}
    assert "DeepSeek-V3" not in {r.entry.name for r in found}


@pytest.mark.parametrize("device", [CPU, card("L40S"), card("RTX 4090", 2)], ids=["cpu", "l40s", "2x4090"])
@pytest.mark.parametrize("engine", LAUNCHED)
def test_a_written_profile_is_one(tmp_path: Path, device: Device, engine: str) -> None:
    if engine == "vllm" and device.kind == "cpu":
        return  # it has no answer there: `loadable`
    entry = catalogue.find("Qwen3-4B")
    assert entry
    found = answer(
        entry.description("Q8_0" if engine == "llamacpp" else "BF16"), engine, device, context=8192
    )
    files = ("q.gguf",) if engine == "llamacpp" else ()
    (tmp_path / "p.yaml").write_text(
        written(found, Source("hf://Qwen/Qwen3-4B", None, files), name="Qwen3-4B")
    )
    try:
        made = profile.load(tmp_path / "p.yaml")
    except ProfileError as error:
        raise AssertionError(error.evidence) from error
    assert made.serving.context == 8192 and made.engine == engine
    assert (made.requirements.gpu is None) == (device.kind == "cpu")


def test_a_written_profile_says_how_wide_its_cache_is(tmp_path: Path) -> None:
    entry = catalogue.find("Qwen3-4B")
    assert entry
    eight = answer(entry.description(), "vllm", card("L40S"), number="fp8")
    (tmp_path / "p.yaml").write_text(written(eight, Source("hf://Qwen/Qwen3-4B"), name="x"))
    made = profile.load(tmp_path / "p.yaml")
    assert made.serving.cache == "8-bit" and wanted_of.number(made) == "fp8"
    four = answer(entry.description("Q8_0"), "llamacpp", card("L40S"), number="q4_0")
    with pytest.raises(ValueError, match="not for q4_0"):
        written(four, Source("hf://x/y", None, ("q.gguf",)), name="x")


@pytest.mark.parametrize("path", profile.shipped(), ids=lambda path: path.stem)
def test_shipped_profiles_fit_the_cards_they_ask_for(path: Path) -> None:
    wanted = profile.load(path)
    gpu = wanted.requirements.gpu
    if gpu is None or gpu.vram is None:
        pytest.skip("it asks for no card")
    need = wanted_of.need(wanted)
    assert need and gpu.free_vram and need.part("cache")
    assert need.total <= gpu.free_vram <= gpu.vram, str(need)
