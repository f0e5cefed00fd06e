"""Tags: each follows from everything that the content follows from, and from nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import images
from deployer.errors import QuestionError
from tests.images.conftest import Checkout, forget

Every = Callable[[], dict[str, images.Target]]
NAMES = tuple(f"{n}:{v.name}" for n in images.names() for v in images.load(n).variants)
DIGEST = "sha256:" + "0" * 64
REGISTRY = f"nvidia/cuda:13.0.2-base-ubuntu24.04@{DIGEST}"


def of(name: str, base: str = images.ARCHIVE) -> images.Target:
    """The target `image:variant`."""
    image, variant = name.split(":")
    return images.target(image, variant, base)


def on(*names: str) -> set[str]:
    """The targets `names` (`image` for all variants) and all that stand on them or use them."""
    found: set[str] = set()
    for name in NAMES:
        target = of(name)
        about = {word for t in target.needed for word in (t.name, t.recipe.name)}
        found |= {name} if about & set(names) else set()
    return found


ALL = set(NAMES)
SHIPPED = {name: of(name).reference for name in NAMES}
WHEELS = on("torch", "gateway", "llamacpp")
PROVEN = {name for name in NAMES if images.load(name.split(":")[0]).server}
CU130 = on("torch:cu130")
YAML = "images/torch/image.yaml"


def edit(name: str, pattern: str, new: str) -> Callable[[Checkout], None]:
    """The rest of the line after what the pattern finds first becomes `new`."""

    def change(files: Checkout) -> None:
        text = (files.root / name).read_text()
        files.write(name, re.sub(f"(?s)({pattern})[^\\n]+", rf"\g<1>{new}", text, count=1))

    return change


def add(*names: str) -> Callable[[Checkout], None]:
    def change(files: Checkout) -> None:
        for name in names:
            files.add(name)

    return change


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        pytest.param(add("images/transformers/Dockerfile"), on("transformers"), id="Dockerfile"),
        pytest.param(add("images/torch/Dockerfile"), on("torch"), id="Dockerfile of a parent"),
        pytest.param(add("images/debian/Dockerfile"), ALL, id="Dockerfile of the base"),
        pytest.param(add("images/python/Dockerfile"), ALL - {"debian:12"}, id="Dockerfile of what others use"),
        pytest.param(add("images/vllm/patch.diff"), on("vllm"), id="a new file"),
        pytest.param(add("images/vllm/sub/patch.diff"), on("vllm"), id="a new file in a folder"),
        pytest.param(add("images/torch/requirements-cu130.txt"), CU130, id="lock of a variant"),
        pytest.param(add("images/torch/requirements-cu128.txt"), on("torch:cu128"), id="lock of another"),
        pytest.param(add("images/transformers/requirements.txt"), on("transformers"), id="lock of all variants"),
        pytest.param(add("images/torch/requirements.in", "images/torch/requirements-cu128.in"), set(),
                     id="what locks are made from"),
        pytest.param(add("images/debian/packages-amd64.tsv"), ALL, id="Debian lock of the base"),
        pytest.param(add("images/llamacpp/packages-arm64.tsv"), on("llamacpp"), id="Debian lock, other platform"),
        pytest.param(add("images/tools/layer"), ALL, id="tool of all"),
        pytest.param(add("images/tools/wheels"), WHEELS, id="tool of some"),
        pytest.param(edit("images/uv.yaml", "sha256: ", "a" * 64), WHEELS - {"llamacpp:cpu"}, id="uv"),
        pytest.param(add("images/tools/prove"), PROVEN, id="tool that proves"),
        pytest.param(add("images/tools/solve"), set(), id="tool of no build"),
        pytest.param(add("images/.hadolint.yaml", "images/notes.txt"), set(), id="beside the recipes"),
        pytest.param(add("deployer/gateway/app.py"), on("gateway"), id="package folder"),
        pytest.param(add("deployer/images/proof/verdict.py"), PROVEN, id="proof"),
        pytest.param(add("deployer/images/builder.py", "deployer/new.py"), set(), id="rest of the package"),
        pytest.param(add("deployer/gateway/__pycache__/app.pyc", "images/torch/__pycache__/x.pyc",
                         "deployer/images/proof/__pycache__/x.pyc"), set(), id="byte code"),
        pytest.param(edit(YAML, "cu130:.*?pins: ", "{torch: 2.13.0, cuda: '13.0', cudnn: 9.9.9.9}"), CU130, id="pin"),
        pytest.param(edit(YAML, "cu130:.*?budget: ", "99 MB"), CU130, id="budget, which is proven"),
        pytest.param(edit(YAML, "cu130:.*?min_driver: ", "999.9.9"), CU130, id="driver"),
        pytest.param(edit(YAML, "user: ", "10002"), on("torch"), id="user"),
        pytest.param(edit(YAML, "parent: ", "debian:12"), on("torch"), id="parent"),
        pytest.param(edit("images/llamacpp/image.yaml", "uses: ", "[]"), on("llamacpp"),
                     id="what is used"),
        pytest.param(edit(YAML, "description: ", "Torch"), on("torch"), id="description, which is a label"),
        pytest.param(edit(YAML, "cpu:.*?description: ", "CPUs"), {"torch:cpu", "transformers:cpu"},
                     id="description of a variant"),
        pytest.param(add(YAML), set(), id="comment"),
    ],
)  # fmt: skip
def test_a_change_gives_new_tags_to_what_holds_it(
    checkout: Checkout, every: Every, change: Callable[[Checkout], None], changed: set[str]
) -> None:
    change(checkout)
    after = {name: target.reference for name, target in every().items()}
    assert {name for name in SHIPPED if SHIPPED[name] != after[name]} == changed


def test_sets_that_the_table_above_computes_are_not_empty() -> None:
    assert {"torch:cu130", "transformers:cu130", "vllm:cu130"} == CU130
    assert {"gateway:cpu", "llamacpp:cpu", "torch:cpu", "vllm:cu130"} <= PROVEN
    assert not PROVEN & {"debian:12", "python:3.11"}
    assert {"llamacpp:cpu", "gateway:cpu", "torch:cpu"} <= on("python"), "it is used, not stood on, by llamacpp"


def test_the_place_and_the_time_of_the_files_do_not_count(checkout: Checkout, every: Every) -> None:
    for path in checkout.root.rglob("*"):
        os.utime(path, (1, 1))
    forget()
    assert {name: target.reference for name, target in every().items()} == SHIPPED
    assert len(set(SHIPPED.values())) == len(ALL)


def test_a_file_that_moves_or_parts_changes_the_tag(checkout: Checkout) -> None:
    def tag() -> str:
        forget()
        return images.target("vllm", "cu130").digest

    folder = checkout.root / "images/vllm"
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    tags = [tag()]
    (folder / "b").rename(folder / "c")
    tags.append(tag())
    (folder / "a").write_text("onet")
    (folder / "c").write_text("wo")
    tags.append(tag())
    (folder / "c").unlink()
    tags.append(tag())
    assert len(set(tags)) == 4


def test_a_name_is_an_image_a_variant_and_the_content() -> None:
    target = images.target("torch", "cu130")
    assert target.name == "torch:cu130" and target.key == "torch-cu130"
    assert target.reference == f"deployer/torch:cu130-{target.digest[:12]}"
    assert images.target("python", "3.11").key == "python-3_11", "a bake definition has no dots in names"
    assert images.tag("torch", "cu130") == target.reference
    assert images.tag("torch", "cu1") is None and images.tag("nothing", "cpu") is None


# --------------------------------------------------------------------------------------------------------- order


def test_the_line_is_what_the_layers_stand_on() -> None:
    assert [t.name for t in images.target("vllm", "cu130").line] == [
        "debian:12", "python:3.11", "torch:cu130", "vllm:cu130",
    ]  # fmt: skip
    llamacpp = images.target("llamacpp", "cpu")
    assert [t.name for t in llamacpp.line] == ["debian:12", "llamacpp:cpu"]
    assert [t.name for t in llamacpp.needed] == ["debian:12", "python:3.11", "llamacpp:cpu"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_comes_before_what_needs_it(name: str) -> None:
    target = of(name)
    needed = [t.key for t in target.needed]
    assert len(needed) == len(set(needed)) and needed[-1] == target.key
    for other in target.needed:
        below = [other.parent] if isinstance(other.parent, images.Target) else []
        assert all(needed.index(t.key) < needed.index(other.key) for t in (*below, *other.uses))


def test_pins_are_those_of_the_whole_line() -> None:
    pins = images.target("transformers", "cu130").pins
    assert pins.keys() >= {"python", "torch", "cuda", "cudnn", "transformers"}
    assert pins["cuda"] == images.target("torch", "cu130").variant.pins["cuda"]


# ---------------------------------------------------------------------------------------------------------- base


def test_a_base_from_a_registry_stands_where_debian_did() -> None:
    target = images.target("vllm", "cu130", REGISTRY)
    assert [t.name for t in target.line] == ["python:3.11", "torch:cu130", "vllm:cu130"]
    assert target.line[0].parent == REGISTRY == target.base
    assert "debian:12" not in [t.name for t in images.target("llamacpp", "cpu", REGISTRY).needed]
    assert images.target("vllm", "cu130").base == images.ARCHIVE


def test_the_base_is_in_the_tag_of_all_but_debian() -> None:
    other = REGISTRY.replace("0" * 64, "1" * 64)
    for name in NAMES:
        tags = {of(name, base).reference for base in (images.ARCHIVE, REGISTRY, other)}
        assert len(tags) == (1 if name == "debian:12" else 3)
    assert images.tag("vllm", "cu130", other) == images.target("vllm", "cu130", other).reference


# ------------------------------------------------------------------------------------------------------- instead


def test_another_variant_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    torch = images.target("torch", "cu130")
    assert torch.lock
    path = tmp_path / "elsewhere.txt"
    shutil.copy(torch.lock, path)
    same = replace(torch.variant, requirements=str(path))
    changed = replace(same, pins={**same.pins, "cudnn": "9.24.0.43"})
    vllm = images.target("vllm", "cu130", instead={"torch:cu130": changed})
    assert vllm.pins["cudnn"] == "9.24.0.43" and vllm.line[-2].lock == path
    assert vllm.reference != images.target("vllm", "cu130").reference
    assert images.target("transformers", "cpu", instead={"torch:cu130": changed}) == images.target(
        "transformers", "cpu"
    )
    # A lock that lies elsewhere and says the same makes the same image.
    assert images.target("torch", "cu130", instead={"torch:cu130": same}).reference == torch.reference
    path.write_text(path.read_text() + "# other\n")
    assert images.target("torch", "cu130", instead={"torch:cu130": same}).reference != torch.reference


@pytest.mark.parametrize(("name", "variant"), [("nothing", "cpu"), ("vllm", "cpu"), ("debian", "13")])
def test_names_that_there_are_not(name: str, variant: str) -> None:
    with pytest.raises(QuestionError) as caught:
        images.target(name, variant)
    assert caught.value.hint
