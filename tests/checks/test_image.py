"""The image that a profile names, against driver, GPUs and machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployer import compat
from deployer.checks import audit, image
from deployer.host import Driver, Host, Unknown
from deployer.images import Recipe, Source, Target, Variant
from deployer.profile import Profile
from deployer.report import Outcome
from tests import hosts
from tests.checks.machines import A100, CARD, OTHER, WSL, card, cards, docker
from tests.checks.rows import CHAT, CPU, GPT2, GPU, LOST, NO_GPU, PROFILES, RTX, TWO, check, system

OLD, NO_DRIVER = hosts.OLD_DRIVER, hosts.NO_DRIVER
LENIENT = replace(GPU, requirements=replace(GPU.requirements, driver=None, cuda=None))
NO_FLOOR = replace(
    GPU, requirements=replace(GPU.requirements, gpu=replace(PROFILES["gpu-8gb"].requirements.gpu,  # type: ignore[type-var]
                                                            compute_capability=None)),
)  # fmt: skip
PASCAL = {"name": "NVIDIA GeForce GTX 1080", "compute_capability": "6.1"}
FOREIGN = replace(GPU, image="mine")
OTHER_PROFILE = "another profile: deployer check --all"
OPEN = "sudo apt-get install nvidia-driver-580-open, then reboot"
NO_CARDS = [
    (RTX, TWO, "skip", "too few GPUs", None),
    (NO_GPU, GPU, "skip", "gpu.count says why", None),
    (hosts.NVML_SILENT, GPU, "unknown", "timeout", None),
    (RTX, FOREIGN, "skip", "there is no recipe mine:cu130", None),
    (RTX, CPU, "skip", "does not ask for a GPU", None),
]


def on(version: str, host: Host = RTX) -> Host:
    return replace(host, driver=Driver(version, True))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "driver 580.65.06 speaks CUDA 13.0", None),
        (cards(CARD, replace(OTHER, **PASCAL)), GPU, "pass", "speaks CUDA 13.0", None),
        (OLD, LENIENT, "fail", "driver 550.54.14 is too old for CUDA 13.0, which needs 580.65.06",
         "sudo apt-get install nvidia-driver-580, then reboot"),
        (on("570.133.20", cards(A100)), LENIENT, "fail", "is too old for CUDA 13.0", OPEN),
        (on("590.44.01", card(**PASCAL)), NO_FLOOR, "skip", "another finding has said no", None),
        (OLD, GPU, "skip", "driver.version", None),
        (on("abc"), GPU, "unknown", "`abc`", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (WSL, GPU, "unknown", "not asked", None),
        (replace(WSL, nvml_driver="581.57"), GPU, "pass", "driver 581.57 speaks CUDA 13.0", None),
        (card(name=LOST, compute_capability=LOST), GPU, "unknown", "compute capability", None),
        (replace(RTX, driver=None), GPU, "skip", "driver.loaded says why", None),
        *NO_CARDS,
    ],
)  # fmt: skip
def test_driver(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.driver", host, wanted, outcome, found, hint)


HOOK = replace(OLD, runtime=replace(hosts.DOCKER, nvidia_runtime=True))
OFFICIAL = compat.demand_of_official("12.9.1-base-ubuntu24.04")
HIDES = compat.Demand("x", cuda="12.8", compat=compat.Compat("12.8", "570.26", first=True))
FORWARD = compat.Demand("x", cuda="13.0", compat=compat.Compat("13.0", "580.65.06"))


@pytest.mark.parametrize(
    ("host", "needs", "outcome", "found", "hint"),
    [
        pytest.param(
            HOOK, OFFICIAL, Outcome.FAIL, "unsatisfied condition: cuda>=12.9",
            "sudo apt-get install nvidia-driver-575, then reboot", id="pain 12: a condition that is not met",
        ),
        pytest.param(
            RTX, HIDES, Outcome.FAIL, "hide its own (system has unsupported display driver", OTHER_PROFILE,
            id="pain 13: compat libraries that are older than the driver and hide it",
        ),
        pytest.param(
            OLD, FORWARD, Outcome.FAIL, "forward compatibility was attempted on non supported HW",
            "sudo apt-get install nvidia-driver-580, then reboot", id="pain 14: a GeForce has none",
        ),
        pytest.param(
            cards(A100, host=on("570.133.20")), FORWARD, Outcome.WARN, "compat libraries", None,
            id="pain 14: a data-centre card has it",
        ),
    ],
)  # fmt: skip
def test_pains_12_to_14_with_images_of_others(
    host: Host, needs: compat.Demand, outcome: Outcome, found: str, hint: str | None
) -> None:
    assert not isinstance(host.gpus, Unknown)
    finding = image.against(host, LENIENT, "it runs", needs, host.gpus)
    assert finding.outcome is outcome
    assert found in finding.found
    assert finding.hint == hint


def test_a_variant_without_cuda_has_nothing_to_judge() -> None:
    plain = replace(GPU, variant="cpu")
    check("image.driver", RTX, plain, "pass", "it needs no GPU")
    check("image.kernels", RTX, plain, "skip", "lists no architectures")
    check("image.cudnn", RTX, plain, "skip", "pins no cuDNN")


LISTED = "the image has 7.5, 8.0, 8.6, 9.0, 10.0, 12.0"
WHICH = "deployer compat says which image runs here"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", f"8.9; {LISTED}", None),
        (card(compute_capability="12.1"), GPU, "pass", "12.1", None),
        (cards(CARD, replace(OTHER, compute_capability="6.1")), GPU, "pass", "8.9", None),
        (cards(CARD, replace(OTHER, compute_capability=LOST)), GPU, "pass", "8.9", None),
        (card(compute_capability="11.0"), GPU, "fail", f"these GPUs are 11.0; {LISTED}", WHICH),
        (card(**PASCAL), NO_FLOOR, "fail", "these GPUs are 6.1", WHICH),
        (card(**PASCAL), GPU, "skip", "gpu.compute_capability", None),
        (card(compute_capability=LOST), GPU, "unknown", "cannot be read", None),
        (card(compute_capability="abc"), GPU, "unknown", "cannot be read", None),
        *NO_CARDS,
    ],
)  # fmt: skip
def test_kernels(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.kernels", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "cuDNN 9.20.0.48", None),
        (cards(CARD, replace(OTHER, compute_capability="6.1")), GPU, "pass", "cuDNN 9.20.0.48", None),
        (card(compute_capability="11.0"), GPU, "warn", "these GPUs are 11.0", None),
        (card(**PASCAL), NO_FLOOR, "fail", "these GPUs are 6.1", WHICH),
        (card(**PASCAL), GPU, "skip", "gpu.compute_capability", None),
        (card(compute_capability=LOST), GPU, "unknown", "cannot be read", None),
        *NO_CARDS,
    ],
)  # fmt: skip
def test_cudnn(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.cudnn", host, wanted, outcome, found, hint)


def test_pain_16_a_card_that_the_image_has_no_kernels_for_is_one_failure() -> None:
    failed = {f.id for f in audit(card(**PASCAL), GPU).findings if f.outcome is Outcome.FAIL}
    assert failed == {"gpu.compute_capability"}
    check("image.kernels", card(compute_capability="11.0"), GPU, "fail", "these GPUs are 11.0", WHICH)


ARM = system(RTX, architecture="aarch64")
HERE = {"transformers:cu130": True}
LLAMA = "choose a llamacpp profile: deployer profiles list"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "linux/amd64", None),
        (ARM, CHAT, "pass", "linux/arm64", None),
        (replace(ARM, images=HERE), GPU, "pass", "it is here", None),
        (ARM, GPT2, "warn", "uv==0.13.9 is pinned for other architectures only", LLAMA),
        (ARM, GPU, "fail", "uv==0.13.9 is pinned for other architectures only", LLAMA),
        (system(RTX, architecture="riscv64"), GPU, "fail", "riscv64", "deployer serves x86_64 and aarch64"),
        (system(RTX, architecture="riscv64"), CPU, "warn", "riscv64", "deployer serves x86_64 and aarch64"),
        (replace(RTX, system=LOST), GPU, "unknown", "lost", None),
        (RTX, FOREIGN, "skip", "there is no image `mine`", None),
        (hosts.without_runtime(RTX), CPU, "skip", "will not run in containers", None),
    ],
)  # fmt: skip
def test_platform(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.platform", host, wanted, outcome, found, hint)


def pinned(
    folder: Path, below: Target | None = None, *platforms: str | None, **packages: tuple[str, ...]
) -> Target:
    """An image with a file for each of these platforms, and Debian packages."""
    files = tuple(
        Source("tool==1", f"tool-{n}", "0" * 64, 1, platform) for n, platform in enumerate(platforms)
    )
    variant = Variant("cpu", "", 1, 1, packages=packages)
    folder.mkdir(exist_ok=True)
    return Target(Recipe(folder.name, folder, "", "1", 1, (variant,), sources=files), variant, below)


FILES = ("tool==1 is pinned for other architectures only", LLAMA)


@pytest.mark.parametrize(
    ("platforms", "amd64", "arm64"),
    [
        ((), None, None),
        ((None,), None, None),
        (("linux/amd64",), None, FILES),
        (("linux/arm64",), FILES, None),
        (("linux/amd64", "linux/arm64"), None, None),
        (("linux/amd64", None), None, None),
    ],
)
def test_a_file_that_is_pinned_for_another_architecture_is_lacking(
    platforms: tuple[str | None, ...],
    amd64: tuple[str, str] | None,
    arm64: tuple[str, str] | None,
    tmp_path: Path,
) -> None:
    alone = pinned(tmp_path / "alone", None, *platforms)
    for target in (
        alone,
        pinned(tmp_path / "above", alone),
        pinned(tmp_path / "above", pinned(tmp_path / "x", alone)),
    ):
        assert (image.lacking(target, "amd64"), image.lacking(target, "arm64")) == (amd64, arm64)


def test_debian_packages_that_are_not_locked_for_this_architecture_are_lacking(tmp_path: Path) -> None:
    system = pinned(tmp_path / "system", image=("apt",))
    plain = pinned(tmp_path / "plain", system)
    python = pinned(tmp_path / "python", plain, "linux/amd64", image=("python3",))
    text = "the Debian packages of {} are locked for other architectures only"
    assert image.lacking(plain, "amd64") == (text.format("system"), "deployer build --lock system")
    (tmp_path / "system/packages-amd64.tsv").touch()
    assert image.lacking(plain, "amd64") is None
    assert image.lacking(python, "amd64") == (text.format("python"), "deployer build --lock python")
    (tmp_path / "python/packages-amd64.tsv").touch()
    assert image.lacking(python, "amd64") is None
    assert image.lacking(plain, "arm64") == (text.format("system"), "deployer build --lock system")
    assert image.lacking(python, "arm64") == FILES  # locks alone would not mend it


def test_an_image_demands_what_all_that_it_stands_on_pins(tmp_path: Path) -> None:
    below = Variant("cu130", "", 1, 1, pins={"cuda": "13.0", "cudnn": "9.20", "torch": "2.13.0"})
    above = Variant(
        "cu130", "", 1, 1, pins={"cudnn": "9.24", "x": "1"}, min_driver="580", compute_capability=("9.0",)
    )
    layers = [Recipe(name, tmp_path, "", "1", 1, (v,)) for name, v in (("torch", below), ("x", above))]
    found = image.demand_of(Target(layers[1], above, Target(layers[0], below, None)))
    assert found == compat.Demand("x:cu130", "13.0", cudnn="9.24", sass=("9.0",), driver="580")


def built(fact: bool | Unknown) -> Host:
    return replace(docker(), images={"llamacpp:cpu": fact, "transformers:cpu": True})


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (built(True), CPU, "pass", "it is here", None),
        (built(LOST), CPU, "unknown", "lost", None),
        (built(False), CPU, "skip", "it will be built", None),
        (RTX, CPU, "skip", "saved without it", None),
        (hosts.without_runtime(built(True)), CPU, "skip", "will not run in containers", None),
    ],
)  # fmt: skip
def test_here(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.here", host, wanted, outcome, found, hint)


BEHIND = replace(GPU, requirements=replace(GPU.requirements, driver="570.26"))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "580.65.06", None),
        (RTX, BEHIND, "warn", "570.26", "set `driver: 580.65.06` in gpu-8gb.yaml"),
        (RTX, LENIENT, "skip", "names no driver", None),
        (RTX, FOREIGN, "skip", "names no driver", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_floors(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("image.floors", host, wanted, outcome, found, hint)
