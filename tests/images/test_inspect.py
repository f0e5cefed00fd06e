"""What is concluded from configurations and facts; the facts are of files made here, read by the real proof."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import compat
from deployer.compat import Demand, Device, Injection, Kind
from deployer.compat.requirement import official
from deployer.images import inside, summary
from deployer.images.inspect import Image, compiled, demands, engines, for_devices, lies, reached, repository
from tests.images.test_proof_look import CUDA, CUDNN, SITE, cudnn, fat, installed, look, made
from tests.images.test_proof_look import compiled as library

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
RTX_4090 = Device.of("NVIDIA GeForce RTX 4090")
H100, T4 = Device.of("NVIDIA H100 80GB HBM3"), Device.of("Tesla T4")
PINS = {"torch": "2.13.0", "cuda": "13.0", "cudnn": "9.20.0.48"}
# As the base image of nvidia/cuda sets it, from its Dockerfile.
NVIDIA = {
    "NVARCH": "x86_64",
    "NVIDIA_REQUIRE_CUDA": official("12.9.1") or "",
    "NV_CUDA_CUDART_VERSION": "12.9.79-1",
    "CUDA_VERSION": "12.9.1",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}


def image(**changes: Any) -> Image:
    plain = Image(
        reference="x/y:1",
        place="engine",
        identity=f"sha256:{'a' * 64}",
        platform="linux/amd64",
        created="2026-11-22T04:30:00.123456789Z",
        size=1,
        environment={},
        labels={},
        user="10001:10001",
    )
    return replace(plain, **changes)


def ours(pins: dict[str, str], *capability: str) -> Image:
    labels = {"io.deployer.image": "transformers", "io.deployer.variant": "cu130"}
    labels |= {f"io.deployer.pin.{name}": version for name, version in pins.items()}
    return image(
        labels=labels | ({"io.deployer.compute-capability": " ".join(capability)} if capability else {})
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image as our recipes make it: torch, CUDA and cuDNN from wheels; torch has code for 7.5, 8.0, 9.0a, 12.0."""
    copy = Path(shutil.copytree(made(), tmp_path / "image", symlinks=True))
    thrice = [(2, number, flags, 8) for number, flags in ((75, 0), (80, 0), (90, 1 << 20), (120, 0))] * 3
    code(copy, thrice, [(2, 89, 0, 8), (1, 120, 0, 8)])
    return copy


def code(root: Path, *containers: list[tuple[int, int, int, int]]) -> None:
    """Another libtorch_cuda.so, which holds this code for GPUs."""
    path = root.parent / "code"
    path.write_bytes(fat(*containers))
    needs = (root / CUDNN / "libcudnn.so.9", root / CUDA / "libcudart.so.13")
    rpath = "$ORIGIN/../../nvidia/cudnn/lib:$ORIGIN/../../nvidia/cu13/lib"
    torch = root / SITE / "torch/lib/libtorch_cuda.so"
    library(torch, f'FATBIN="{path}"', soname="libtorch_cuda.so", rpath=rpath, old=True, needs=needs)
    installed(root, "torch", "2.13.0", "torch/lib/libtorch_cuda.so")


def facts(root: Path, *words: str) -> dict[str, Any]:
    return look(root, *words) | {"uid": 10001, "licences": {"python": {}, "debian": {}}}


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("debian", "debian"),
        ("nvidia/cuda:12.9.1-base", "nvidia/cuda"),
        ("localhost:5000/x/y", "localhost:5000/x/y"),
        ("localhost:5000/x:1", "localhost:5000/x"),
        (f"localhost:5000/x:1@sha256:{'b' * 64}", "localhost:5000/x"),
        (f"x@sha256:{'b' * 64}", "x"),
    ],
)
def test_a_repository_is_a_reference_without_tag_and_digest(reference: str, name: str) -> None:
    assert repository(reference) == name


def test_an_image_of_nvidias_is_judged_by_its_environment_alone() -> None:
    (demand,) = demands(image(reference="nvidia/cuda:12.9.1-base-ubuntu24.04", environment=NVIDIA))
    assert demand.cuda == "12.9.1" and demand.compat and demand.compat.cuda == "12.9"
    assert demand.conditions[0].startswith("cuda>=12.9 brand=unknown,driver>=535,driver<536 ")
    refused = compat.judge("550.54.14", (RTX_4090,), demand, Injection.HOOK)
    assert refused.kind is Kind.CANNOT and "requirement error: unsatisfied condition" in (refused.error or "")
    assert compat.judge("550.54.14", (H100,), demand, Injection.CDI).kind is Kind.COMPAT
    assert compat.judge("580.65.06", (RTX_4090,), demand).runs
    assert compat.judge(compat.NO_DRIVER, (), demand).reason == "there is no NVIDIA GPU"


def test_an_environment_that_cannot_be_read_is_no_yes() -> None:
    with pytest.raises(ValueError, match="a version"):
        compat.judge("580.65.06", (T4,), demands(image(environment={"CUDA_VERSION": "new"}))[0])


def test_before_a_pull_the_labels_of_ours_are_believed() -> None:
    (demand,) = demands(ours(PINS, "7.5", "8.0"))
    assert (demand.cuda, demand.cudnn, demand.sass) == ("13.0", "9.20.0.48", ("7.5", "8.0"))
    assert demands(ours({"torch": "2.13.0+cpu"}))[0].gpu is False


@needs_gcc
def test_what_is_inside_decides_over_what_the_environment_says(root: Path) -> None:
    found = facts(root)
    (demand,) = demands(image(environment=NVIDIA), found)
    assert (demand.cuda, demand.cudnn, demand.compat) == ("13.0.96", "9.20.0.48", None)
    assert demand.sass == ("7.5", "8.0", "8.9", "9.0a", "12.0") and demand.ptx == ("12.0",)
    verdicts = {
        device.short: compat.judge("580.65.06", (device,), for_devices(demand, [device.compute_capability]))
        for device in (RTX_4090, H100, T4)
    }
    assert all(verdict.runs for verdict in verdicts.values()), verdicts
    old = compat.judge("550.54.14", (RTX_4090,), for_devices(demand, ["8.9"]))
    assert old.code == 35 and "580.65.06" in old.reason


def test_code_for_one_chip_alone_counts_for_that_chip() -> None:
    demand = Demand("x", sass=("7.5", "9.0a", "10.0a"), ptx=("9.0a", "12.0"))
    assert for_devices(demand, ["9.0"]).sass == ("7.5", "9.0")
    assert for_devices(demand, ["10.3", None]) == replace(demand, sass=("7.5",), ptx=("12.0",))


@needs_gcc
def test_compat_libraries_are_found_where_they_lie(root: Path) -> None:
    compat_folder = root / "usr/local/cuda-12.9/compat"
    library(compat_folder / "libcuda.so.575.57.08", soname="libcuda.so.1")
    (demand,) = demands(image(), facts(root))
    assert demand.compat == compat.Compat("12.9", "575.57.08", first=False)
    (root / "etc/ld.so.conf").write_text("/usr/local/cuda-12.9/compat\n")
    assert demands(image(), facts(root))[0].compat == compat.Compat("12.9", "575.57.08", first=True)


@needs_gcc
def test_labels_that_are_true_are_no_lies(root: Path) -> None:
    found = facts(root)
    assert [*lies(ours(PINS, "7.5", "8.0", "9.0", "12.0"), found)] == []
    assert [*lies(ours({}), found)] == []


LIES = {
    "torch": (
        {"torch": "2.14.0"},
        f"torch: 2.14.0 is pinned, and there is 2.13.0 in /{SITE}/torch-2.13.0.dist-info",
    ),
    "cuda": ({"cuda": "13.2"}, f"cuda: 13.2 is pinned, and /{CUDA}/libcudart.so.13 is 13.0.96"),
    "cudnn": (
        {"cudnn": "9.24.0.43"},
        f"cudnn: 9.24.0.43 is pinned, and in /{CUDNN} there is 9.20.0.48: libcudnn.so.9,",
    ),
    "python": ({"python": "3.11.2"}, "python: 3.11.2 is pinned, and none runs"),
    "absent": ({"vllm": "0.32.0"}, "vllm: 0.32.0 is pinned, and there is none"),
}


@needs_gcc
@pytest.mark.parametrize(("pins", "line"), LIES.values(), ids=LIES)
def test_a_pin_that_lies_is_named(root: Path, pins: dict[str, str], line: str) -> None:
    found = [*lies(ours(PINS | pins), facts(root))]
    assert len(found) == 1 and found[0].startswith(line), found


@needs_gcc
@pytest.mark.parametrize("label", [("7.5", "8.0", "10.0", "12.0"), ("7.5", "8.0")], ids=["lacks", "more"])
def test_a_label_of_code_that_lies_is_named_and_single_kernels_do_not_count(
    root: Path, label: tuple[str, ...]
) -> None:
    assert [*lies(ours(PINS, *label), facts(root))] == [
        f"architectures: the label says {' '.join(label)}, and /{SITE}/torch/lib/libtorch_cuda.so has code for "
        "7.5 8.0 8.9 9.0 12.0"
    ]


@needs_gcc
def test_the_recipe_names_further_libraries_that_the_label_speaks_of(root: Path) -> None:
    path = root.parent / "other"
    path.write_bytes(fat([(2, 75, 0, 8)]))
    library(root / "opt/engine/libtorch_cuda_linalg.so", f'FATBIN="{path}"')
    label = ours(PINS, "7.5", "8.0", "9.0", "12.0")
    assert [*lies(label, facts(root))] == []
    (lie,) = lies(label, facts(root), ["/opt/*/libtorch_cuda_linalg.so"])
    assert lie.endswith("/opt/engine/libtorch_cuda_linalg.so has code for 7.5")


@needs_gcc
def test_pins_of_libraries_that_are_not_reached_are_lies(root: Path) -> None:
    (root / SITE / "torch/lib/libtorch_cuda.so").unlink()
    assert [*lies(ours({"cuda": "13.0", "cudnn": "9.20.0.48"}), facts(root))] == [
        "cudnn: 9.20.0.48 is pinned, and the loader reaches none",
        "cuda: 13.0 is pinned, and the loader reaches no libcudart",
    ]


@needs_gcc
def test_a_second_cudnn_is_a_lie_of_ours_and_shown_of_others(root: Path) -> None:
    cudnn(root / "usr/local/cuda/lib64", 91002)
    found = facts(root, "--library-path", "/usr/local/cuda/lib64")
    problems = [*lies(ours(PINS), found)]
    assert problems[0].startswith("cudnn: the loader reaches 2 files for libcudnn.so.9: "), problems
    assert any("in /usr/local/cuda/lib64 there is" in problem for problem in problems)
    (first,) = reached(found, "cudnn")
    assert first["path"] == f"/{CUDNN}/libcudnn.so.9" and first["version"] == "9.20.0.48"
    rows = [*summary.inside(image(), found)]
    assert ("", "also reachable: /usr/local/cuda/lib64/libcudnn.so.9") in rows
    twice = [text for title, text in rows if title == "twice"]
    assert twice[0].startswith(f"libcudnn.so.9 is /{CUDNN}/libcudnn.so.9 (")


@needs_gcc
def test_engines_and_compiled_code_are_told_the_deciding_ones_first(root: Path) -> None:
    path = root.parent / "other"
    path.write_bytes(fat([(2, 75, 0, 8)]))
    library(root / "a/libcublas.so.13", f'FATBIN="{path}"', soname="libcublas.so.13")
    installed(root, "vllm", "0.32.0")
    found = facts(root)
    assert engines(found) == {"torch": "2.13.0", "vllm": "0.32.0"}
    assert [one["path"].rpartition("/")[2] for one in compiled(found)] == [
        "libtorch_cuda.so",
        "libcublas.so.13",
    ]
    rows = [*summary.inside(image(), found)]
    assert ("GPU code", f"7.5 8.0 8.9 9.0a 12.0, PTX 12.0: /{SITE}/torch/lib/libtorch_cuda.so") in rows
    assert any(
        title == "CUDA" and text.startswith(f"13.0.96: /{CUDA}/libcudart.so.13, by RPATH")
        for title, text in rows
    )
    assert rows[0][1].startswith("Debian GNU/Linux 12, ")


@needs_gcc
def test_rights_are_told_in_words(root: Path) -> None:
    good = facts(root, "--uid", "10001")
    (row,) = [text for title, text in summary.inside(image(), good) if title == "rights"]
    assert row == "not root, nothing setuid, nothing writable but folders for temporary files"
    (root / "usr/lib/os-release").chmod(0o666)
    (root / SITE / "torch/__init__.py").chmod(0o4755)
    bad = facts(root) | {"uid": 0}
    rows = [text for title, text in summary.inside(image(user=""), bad) if title == "rights"]
    assert rows == [
        "its user is root",
        f"setuid: /{SITE}/torch/__init__.py",
        "writable by everyone: /usr/lib/os-release",
    ]


def test_what_nvidias_variables_leave_out_is_told() -> None:
    environment = {"NVIDIA_REQUIRE_CUDA": "cuda>=12.0", "NVIDIA_DRIVER_CAPABILITIES": "graphics,display"}
    (demand,) = demands(image(environment=environment))
    rows = [text for _, text in summary.demands(image(environment=environment), demand.conditions)]
    assert (
        rows[0] == "cuda>=12.0" and "leaves out compute" in rows[-1] and "NVIDIA_VISIBLE_DEVICES" in rows[-2]
    )
    whole = [
        text
        for _, text in summary.demands(
            image(environment=NVIDIA), demands(image(environment=NVIDIA))[0].conditions
        )
    ]
    assert whole[0] == "cuda>=12.9, or one of 60 pairs of brand and driver branch" and len(whole) == 2


def test_a_configuration_is_told_with_its_layers_and_promises() -> None:
    there = replace(
        ours({"cuda": "13.0"}, "7.5"),
        place="registry",
        layers=(10, 2000),
        size=2010,
        platforms=("linux/amd64", "linux/arm64"),
    )
    rows = dict([*summary.configuration(replace(there, user=""))][::-1])
    assert rows["size"] == "2.01 kB compressed, in layers of 10 B, 2 kB"
    assert rows[""] == "also for linux/arm64"
    assert rows["labels"] == "deployer transformers:cu130: cuda 13.0, compute capability 7.5"
    assert rows["starts"] == "nothing: it has no command, as root"


def test_licences_are_read_where_they_are_one_line() -> None:
    head = "Metadata-Version: 2.4\nName: x\nLicense-Expression: MIT OR Apache-2.0\nLicense: {}\n"
    body = "Classifier: License :: OSI Approved :: MIT License\n\nLicense: none\n"
    assert inside.of_python(head.format("MIT") + body) == {
        "License-Expression": "MIT OR Apache-2.0",
        "License": "MIT",
        "classifiers": ["MIT License"],
    }
    long = inside.of_python(head.format("Permission is hereby granted\n    to all") + "\n")
    assert long == {"License-Expression": "MIT OR Apache-2.0"}
    assert inside.of_python("Name: x\n") == {}
    dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: {}\n"
    assert inside.of_debian(dep5.format("GPL-2+") + "\nLicense: GPL-2+\n Text\n") == "GPL-2+"
    assert inside.of_debian(dep5.format("GPL-2+") + "\nFiles: a\nLicense: Expat\n") is None
    assert inside.of_debian("This package was debianized by hand.\nLicense: GPL\n") is None
