"""The one answer: real cases with their real outcome, and what must hold for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deployer.compat import (
    NO_DRIVER,
    Compat,
    Demand,
    Device,
    Injection,
    Kind,
    Verdict,
    demand_of,
    demand_of_condition,
    demand_of_cuda,
    demand_of_environment,
    demand_of_official,
    demands_of_torch,
    judge,
    models,
    rows,
)
from deployer.quantity import at_least

HOOK, RUNTIME, CDI = Injection.HOOK, Injection.RUNTIME, Injection.CDI
RUNS, MINOR, COMPAT, UNKNOWN, CANNOT = Kind.RUNS, Kind.MINOR, Kind.COMPAT, Kind.UNKNOWN, Kind.CANNOT
CU130 = demand_of(
    "transformers:cu130",
    pins={"cuda": "13.0", "cudnn": "9.20.0.48"},
    compute_capability=("7.5", "8.0", "8.6", "9.0", "10.0", "12.0"),
    min_driver="580.65.06",
)
CPU = demand_of("llamacpp:cpu", pins={"torch": "2.13.0+cpu"})
H100, A100, V100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla V100-SXM2-16GB"


def unsatisfied(first: str) -> str:
    return (
        f"nvidia-container-cli: requirement error: unsatisfied condition: {first}, please update your driver to a "
        "newer version, or use an earlier cuda container"
    )


def torch(version: str) -> Demand:
    return next(demand for demand in demands_of_torch() if demand.name == f"torch {version}")


def official(tag: str) -> Demand:
    found = demand_of_official(tag)
    assert found
    return found


def vllm(*, first: bool) -> Demand:
    """vllm/vllm-openai of early 2026: CUDA 12.9, its compat libraries in ld.so.conf from 0.15 on."""
    return Demand("vllm", cuda="12.9", compat=Compat("12.9", "575.57.08", first=first))


def holding(cuda: str, driver: str) -> Demand:
    """An image with compat libraries and no condition of its own."""
    return Demand("x", cuda=cuda, compat=Compat(".".join(cuda.split(".")[:2]), driver))


def condition(text: str) -> Demand:
    return demand_of_condition(text)


# driver, GPU, demand, way, toolkit, kind, code of CUDA's error or the whole text, least driver
CASES = [
    # theroyallab/tabbyAPI#324: driver 550.144, image for 12.8; ggml-org/llama.cpp#9665: 12.6 (cards are assumed)
    ("550.144", "RTX 3090", official("12.8.1-runtime"), HOOK, None, CANNOT, unsatisfied("cuda>=12.8"), "570.26"),
    ("550.90.07", "RTX 3090", official("12.6.3-base"), HOOK, None, CANNOT, unsatisfied("cuda>=12.6"), "560.28.03"),
    # GeForce fell out of the lists with 12.5: with 12.4 the same kind of host passes, to fail with 804 later
    ("535.104.05", "RTX 4090", official("12.4.1-base"), HOOK, "1.17.8", CANNOT, 804, "550.54.14"),
    ("550.54.14", "RTX 4090", official("12.9.1-base"), HOOK, "1.17.8", CANNOT, unsatisfied("cuda>=12.9"), "575.51.03"),
    # the same program through CDI: nothing enforces the condition, minor-version compatibility runs it
    ("550.54.14", "RTX 4090", replace(official("12.9.1-base"), compat=None), CDI, None, MINOR, None, "525.60.13"),
    ("550.54.14", "RTX 4090", official("12.9.1-base"), CDI, "1.17.4", MINOR, None, "525.60.13"),
    # ... unless the toolkit puts the image's compat libraries first
    ("550.54.14", "RTX 4090", official("12.9.1-base"), CDI, "1.18.1", CANNOT, 804, "575.51.03"),
    ("550.54.14", "RTX 4090", official("12.9.1-base"), CDI, "1.18.0", UNKNOWN, None, "575.51.03"),
    # the nvidia runtime enforces it in legacy mode, before toolkit 1.18, and not in its CDI mode
    ("550.54.14", "L40S", condition("cuda>=12.9"), RUNTIME, "1.17.8", CANNOT, unsatisfied("cuda>=12.9"), "575.51.03"),
    ("550.54.14", "RTX 4090", condition("cuda>=12.9"), RUNTIME, "1.18.1", MINOR, None, "525.60.13"),
    ("550.54.14", "RTX 4090", condition("cuda>=12.9"), RUNTIME, None, UNKNOWN, None, "575.51.03"),
    # a host with 595.71.05 and an image of 13.3: "unsatisfied condition: cuda>=13.3"; with cuda>=13.2 it starts
    ("595.71.05", "RTX 5090", condition("cuda>=13.3"), HOOK, None, CANNOT, unsatisfied("cuda>=13.3"), "610.43.02"),
    ("595.71.05", "RTX 5090", condition("cuda>=13.2"), HOOK, None, RUNS, None, "595.45.04"),
    # gpustack/gpustack#4678: driver 580 and later, nvidia runtime or CDI; `--gpus all` is fine
    ("580.95.05", H100, vllm(first=True), CDI, None, CANNOT, 803, None),
    ("580.95.05", "RTX 4090", vllm(first=True), RUNTIME, "1.18.1", CANNOT, 803, None),
    ("580.95.05", H100, vllm(first=True), HOOK, None, RUNS, None, "560.28.03"),
    ("580.95.05", H100, vllm(first=False), CDI, "1.20.0", RUNS, None, "525.60.13"),
    # up to toolkit 1.17.3 older libraries of the image went over newer ones of the driver
    ("580.95.05", H100, vllm(first=False), HOOK, "1.17.3", CANNOT, 803, None),
    # NVIDIA/nvidia-container-toolkit#291: GTX 1650, 460.80, image of 11.3.1, toolkit 1.4.0
    ("460.80", "GTX 1650", holding("11.3.1", "465.19.01"), HOOK, "1.4.0", CANNOT, 804, None),
    # mistralai/mistral-inference#144: 525.147.05 with a 12 GB GeForce (the image's CUDA and the toolkit are assumed)
    ("525.147.05", "RTX 3060", holding("12.1", "530.30.02"), HOOK, "1.14.6", CANNOT, 804, None),
    # oobabooga/textgen#4407: GTX 1050 Ti, from 525.125 to 535.113 (the image's CUDA and the toolkit are assumed)
    ("535.113.01", "GTX 1050 Ti", holding("12.3", "545.23.08"), HOOK, "1.14.3", CANNOT, 804, None),
    # a data-centre card on an old LTS branch: compat libraries, if the toolkit puts them first
    ("535.104.05", A100, official("13.0.0-base"), HOOK, None, COMPAT, None, "565"),
    ("535.104.05", A100, official("13.0.0-base"), HOOK, "1.17.4", COMPAT, 35, "580.65.06"),
    ("535.104.05", A100, official("13.0.0-base"), CDI, "1.17.3", COMPAT, 35, "580.65.06"),
    ("535.104.05", A100, demand_of_cuda("13.0"), CDI, None, COMPAT, 35, "580.65.06"),
    ("470.256.02", A100, demand_of_cuda("13.0"), CDI, None, CANNOT, 35, "580.65.06"),
    ("560.35.03", A100, official("13.1.0-base"), CDI, "1.18.1", CANNOT, 803, "570"),
    # the project's own image
    ("580.65.06", "RTX 4060", CU130, CDI, None, RUNS, None, "580.65.06"),
    ("550.54.14", "RTX 4060", CU130, CDI, None, CANNOT, 35, "580.65.06"),
    ("580.65.06", "Tesla P40", CU130, CDI, None, CANNOT, 209, None),
    (NO_DRIVER, "RTX 4060", CU130, CDI, None, CANNOT, None, "580.65.06"),
    # vllm-project/vllm#18995: RTX 5090, driver 570.133, image with torch for sm_70 to sm_90
    ("570.133.20", "RTX 5090", torch("2.6.0+cu124"), CDI, None, CANNOT, 209, None),
    ("570.133.20", "RTX 5090", torch("2.8.0+cu128"), CDI, None, RUNS, None, "570.26"),
    # torch's default build from 2.11 on has nothing for Volta and Pascal, cu126 has
    ("580.65.06", V100, torch("2.11.0+cu130"), CDI, None, CANNOT, 209, None),
    ("580.65.06", "GTX 1080", torch("2.15.0+cu126"), CDI, None, RUNS, None, "525.60.13"),
    ("580.65.06", "RTX 4090", torch("2.13.0+cu130"), CDI, None, RUNS, None, "580.65.06"),  # 8.6 code on 8.9
    # Blackwell's own floor, whatever the toolkit; the last branch of Pascal
    ("565.57.01", "RTX 5090", demand_of_cuda("12.8"), CDI, None, CANNOT, None, "570.26"),
    ("590.44.01", "GTX 1080 Ti", demand_of_cuda("12.6"), CDI, None, CANNOT, None, "525.60.13"),
    # cuDNN 9.11 dropped everything below 7.5
    ("580.65.06", "GTX 1080 Ti", Demand("x", "12.6", cudnn="9.10.2.21"), CDI, None, RUNS, None, "525.60.13"),
    ("580.65.06", "GTX 1080 Ti", Demand("x", "12.6", cudnn="9.11.0.98"), CDI, None, CANNOT, None, None),
    # PTX: compiled by a driver of that CUDA, not under minor-version compatibility
    ("580.65.06", "RTX 5090", Demand("x", "12.8", sass=("9.0",), ptx=("9.0",)), CDI, None, RUNS, None, "570.26"),
    ("570.26", "RTX 5090", Demand("x", "12.9", sass=("9.0",), ptx=("9.0",)), CDI, None, CANNOT, 222, "575.51.03"),
    ("580.65.06", "RTX 5090", demand_of_cuda("12.6"), CDI, None, UNKNOWN, None, None),
    # not known: never a yes
    (None, "RTX 5090", demand_of_cuda("12.8"), CDI, None, UNKNOWN, None, "570.26"),
    ("620.10", "RTX 5090", demand_of_cuda("14.0"), CDI, None, UNKNOWN, None, None),
    ("620.10", "RTX 5090", condition("cuda>=13.5"), HOOK, None, UNKNOWN, None, None),
    (None, "RTX 5090", CPU, CDI, None, RUNS, None, None),
]  # fmt: skip


def device(name: str) -> Device:
    from deployer.compat import find

    found = find(name)
    assert found, name
    return Device.of(found.name)


@pytest.mark.parametrize(("driver", "gpu", "demand", "way", "toolkit", "kind", "error", "least"), CASES)
def test_real_cases_end_as_they_did(
    driver: str | None,
    gpu: str,
    demand: Demand,
    way: Injection,
    toolkit: str | None,
    kind: Kind,
    error: int | str | None,
    least: str | None,
) -> None:
    found = judge(driver, (device(gpu),), demand, way, toolkit)
    assert (found.kind, found.code if isinstance(error, int) else found.error) == (kind, error), found
    assert found.least_driver == least, found
    assert found.reason


def test_cdi_says_that_it_does_not_enforce_the_images_own_condition() -> None:
    card = (device("RTX 4090"),)
    found = judge("550.54.14", card, demand_of_condition("cuda>=12.9"), CDI)
    assert any("nothing enforces" in note for note in found.notes)
    held = judge("575.51.03", card, demand_of_condition("cuda>=12.9"), CDI)
    assert not any("nothing enforces" in note for note in held.notes)


def test_a_switched_off_condition_is_not_asked() -> None:
    demand = demand_of_environment(
        "x", {"CUDA_VERSION": "12.9.1", "NVIDIA_REQUIRE_CUDA": "cuda>=12.9", "NVIDIA_DISABLE_REQUIRE": "1"}
    )
    assert judge("550.54.14", (device("RTX 4090"),), demand, HOOK).kind is MINOR


def test_an_environment_tells_of_compat_libraries_and_who_puts_them_first() -> None:
    nvidia = {
        "CUDA_VERSION": "12.9.1",
        "NV_CUDA_CUDART_VERSION": "12.9.79-1",
        "NV_CUDNN_VERSION": "9.10.2.21-1",
    }
    demand = demand_of_environment("x", nvidia)
    assert demand.compat == Compat("12.9") and demand.cudnn == "9.10.2.21"
    first = demand_of_environment("x", {**nvidia, "LD_LIBRARY_PATH": "/usr/local/cuda/compat:/usr/lib"})
    assert first.compat and first.compat.first
    assert demand_of_environment("x", {"PATH": "/bin"}).gpu is False


def test_the_worst_gpu_decides_and_is_named() -> None:
    found = judge("580.65.06", (device("RTX 4090"), device("Tesla P40")), CU130)
    assert found.kind is CANNOT and found.reason.startswith(
        "Tesla P40: " if "Tesla" in found.reason else "P40: "
    )


def test_a_reason_that_no_driver_mends_is_said_beside_one_that_a_driver_would() -> None:
    found = judge("560.28.03", (device("Tesla V100-SXM2-16GB"),), CU130)
    assert found.code == 35 and "besides" in found.reason and found.least_driver is None


def test_no_gpu_is_a_no_and_a_cpu_image_needs_none() -> None:
    assert judge("580.65.06", (), CU130).kind is CANNOT
    assert judge(None, (), CPU) == Verdict(RUNS, "it needs no GPU")


def test_brands_that_differ_between_drivers_do_not_matter_where_the_list_has_both() -> None:
    card = (device("Tesla T4"),)
    assert (
        judge("535.54.03", card, demand_of_condition("cuda>=13 brand=tesla brand=nvidia"), HOOK).kind
        is not CANNOT
    )
    assert judge("580.65.06", card, demand_of_condition("brand=tesla"), HOOK).kind is UNKNOWN
    assert judge("580.65.06", card, demand_of_condition("brand=geforce"), HOOK).kind is CANNOT


RELEASES = [row[1] for row in rows("cuda.tsv")]
DRIVER = st.sampled_from(RELEASES) | st.builds("{}.{}".format, st.integers(300, 700), st.integers(0, 300))
DEVICE = st.sampled_from([Device.of(model.name) for model in models()])
CUDA = st.sampled_from([row[0] for row in rows("cuda.tsv")])
CAPABILITIES = st.lists(st.sampled_from([row[0] for row in rows("architectures.tsv")]), max_size=4).map(tuple)
DEMAND = st.builds(
    Demand,
    st.just("x"),
    st.none() | CUDA,
    st.just({})
    | CUDA.map(lambda cuda: {"NVIDIA_REQUIRE_CUDA": f"cuda>={cuda} brand=tesla,driver>=535,driver<536"}),
    st.none() | st.sampled_from(["9.1.0.70", "9.10.2.21", "9.11.0.98", "9.20.0.48"]),
    CAPABILITIES,
    CAPABILITIES,
    st.none() | DRIVER,
    st.none() | st.builds(Compat, CUDA, st.none(), st.just(()), st.booleans()),
)
WAY = st.sampled_from(list(Injection))
TOOLKIT = st.none() | st.sampled_from([row[0] for row in rows("toolkit.tsv")])


@given(DRIVER, st.lists(DEVICE, max_size=3).map(tuple), DEMAND, WAY, TOOLKIT)
def test_every_question_has_an_answer_with_a_reason(
    driver: str, devices: tuple[Device, ...], demand: Demand, way: Injection, toolkit: str | None
) -> None:
    found = judge(driver, devices, demand, way, toolkit)
    assert found.reason
    assert (found.code is None) or found.error
    assert not (found.kind in (RUNS, MINOR) and found.error)
    if demand.gpu and not devices:
        assert found.kind is CANNOT
    if found.least_driver and devices:
        assert judge(found.least_driver, devices, demand, way, toolkit).runs


@given(st.none() | DRIVER, DEVICE, DEMAND, WAY, TOOLKIT)
def test_what_is_not_known_never_makes_a_yes(
    driver: str | None, card: Device, demand: Demand, way: Injection, toolkit: str | None
) -> None:
    assume(demand.gpu)
    unknown = replace(card, compute_capability=None)
    assert not judge(None, (card,), demand, way, toolkit).runs
    assert not judge(driver, (unknown,), demand, way, toolkit).runs


@given(DRIVER, DEVICE, DEMAND, WAY, TOOLKIT)
def test_knowing_the_toolkit_never_turns_a_yes(
    driver: str, card: Device, demand: Demand, way: Injection, toolkit: str | None
) -> None:
    assume(toolkit is not None and at_least(toolkit, "1.17.7") and toolkit != "1.18.0")
    if judge(driver, (card,), demand, way, None).runs:
        assert judge(driver, (card,), demand, way, toolkit).runs


@given(DRIVER, DRIVER, DEVICE, DEMAND)
def test_a_newer_driver_never_takes_a_yes_away_while_it_knows_the_card(
    one: str, other: str, card: Device, demand: Demand
) -> None:
    """Without compat libraries and without conditions that name single branches."""
    older, newer = (one, other) if at_least(other, one) else (other, one)
    plain = replace(demand, compat=None, requires={})
    last = next((row[5] for row in rows("architectures.tsv") if row[0] == card.compute_capability), "-")
    assume(last == "-" or int(newer.split(".")[0]) <= int(last))
    if judge(older, (card,), plain).runs:
        assert judge(newer, (card,), plain).runs


@given(DRIVER, DEVICE, CUDA)
def test_minor_compatibility_stays_within_the_family_and_never_compiles(
    driver: str, card: Device, cuda: str
) -> None:
    found = judge(driver, (card,), demand_of_cuda(cuda))
    if found.kind is MINOR:
        least = {row[0]: row[1] for row in rows("families.tsv")}[cuda.split(".")[0]]
        assert at_least(driver, least)
        none = Demand("x", cuda, sass=("3.5",), ptx=("3.5",))
        assert judge(driver, (card,), none).kind is CANNOT


@given(st.text(max_size=12), DEVICE, DEMAND)
def test_a_driver_that_is_no_version_is_a_value_error(text: str, card: Device, demand: Demand) -> None:
    try:
        judge(text, (card,), demand)
    except ValueError as error:
        assert str(error)
