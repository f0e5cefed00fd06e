"""Recipes: everything that is shipped fits together, and a wrong file is told."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from deployer import images, resources
from deployer.errors import QuestionError
from deployer.images import debian
from deployer.images import recipe as recipes
from deployer.images.bake import PLATFORMS
from tests.images.conftest import Checkout

FOLDER = resources.folder("images")
TARGETS = [images.target(name, v.name) for name in images.names() for v in images.load(name).variants]
LOCKED = [target for target in TARGETS if target.lock]
DOCKERFILES = sorted(FOLDER.glob("*/Dockerfile"))
TOOLS = sorted((FOLDER / "tools").iterdir())
PACKAGES = sorted({path.parent for path in FOLDER.glob("*/packages-*.tsv")})
_PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==(\S+)(?: ; (.+?))? \\")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
# Of one architecture alone: its name is in the package's, or there is no such library for the other.
OF_ONE = {"libquadmath0", "libhwasan0", "libitm1", "libmvec1", "libmvec"}


def pins(path: Path) -> list[str]:
    """The names in a lock of wheels, with their markers, when every line is a pin or one of its hashes."""
    found, open_ = [], False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if hashed := _HASH.fullmatch(line):
            assert open_, f"{path}:{number}: a hash of nothing"
            open_ = bool(hashed[1])
        else:
            pinned = _PIN.fullmatch(line)
            assert pinned and not open_, f"{path}:{number}: {line}"
            found.append(pinned[1] + (f" ; {pinned[3]}" if pinned[3] else ""))
            open_ = True
    assert not open_, f"{path}: the last pin has no hash"
    return found


# ------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("name", images.names())
def test_every_shipped_recipe_is_read(name: str) -> None:
    recipe = images.load(name)
    assert recipe.name == name and recipe.folder == FOLDER / name
    assert (recipe.folder / "Dockerfile").is_file()
    assert recipe.description and recipe.version and recipe.variants
    assert recipe.user == (0 if name == "debian" else 10001)
    for variant in recipe.variants:
        assert variant.description
        assert variant.build_disk > variant.budget > 50e6, "a build needs more room than the image"
        assert bool(variant.compute_capability) == ("cuda" in images.target(name, variant.name).pins)
        assert bool(variant.min_driver) == bool(variant.compute_capability)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_what_stands_on_torch_promises_what_torch_does(target: images.Target) -> None:
    for below in target.line[:-1]:
        if "torch" in below.variant.pins:
            assert target.variant.compute_capability == below.variant.compute_capability
            assert target.variant.min_driver == below.variant.min_driver
            assert target.variant.budget >= below.variant.budget


@pytest.mark.parametrize("target", LOCKED, ids=lambda t: t.name)
def test_a_lock_of_wheels_has_a_hash_for_every_pin_and_no_pin_twice(target: images.Target) -> None:
    assert target.lock and target.asked.exists()
    found = pins(target.lock)
    assert found == sorted(found) and len(found) == len(set(found))


@pytest.mark.parametrize("target", LOCKED, ids=lambda t: t.name)
def test_a_layer_holds_nothing_that_one_below_has(target: images.Target) -> None:
    seen: dict[str, str] = {}
    for layer in target.line:
        for name in {pin.split(" ; ")[0] for pin in pins(layer.lock)} if layer.lock else ():
            assert name not in seen, f"{name} is in {seen[name]} and in {layer.name}"
            seen[name] = layer.name


@pytest.mark.parametrize("target", LOCKED, ids=lambda t: t.name)
def test_a_pin_of_a_wheel_is_in_the_lock_too(target: images.Target) -> None:
    text = "\n".join(layer.lock.read_text() for layer in target.line if layer.lock)
    for package in {"torch", "transformers", "vllm"} & target.pins.keys():
        assert f"\n{package}=={target.pins[package]} \\" in f"\n{text}"
    if "cudnn" in target.pins:
        family = target.pins["cuda"].split(".")[0]
        assert f"\nnvidia-cudnn-cu{family}=={target.pins['cudnn']} \\" in text


def test_every_lock_belongs_to_a_variant() -> None:
    named = {target.lock for target in LOCKED}
    assert named == set(FOLDER.glob("*/requirements*.txt"))


def test_uv_is_the_same_everywhere() -> None:
    assert len({source.package for source in recipes.uv()}) == 1
    assert len({source.platform for source in recipes.uv()}) == len(recipes.uv()), "one file for each platform"
    for target in LOCKED:
        assert {*recipes.uv()} <= {*target.sources}, target.name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_a_dockerfile_names_what_there_is(path: Path) -> None:
    text = path.read_text()
    for tool in set(re.findall(r"/tools/([\w.-]+)", text)):
        assert os.access(FOLDER / "tools" / tool, os.X_OK), tool
    recipe = images.load(path.parent.name)
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.MULTILINE)) | {"scratch"}
    given = {"tools", "prover", "packages", "sources", "package", "order", "wheelhouse"}
    given |= {word.partition(":")[0] for word in recipe.uses} | ({"parent"} if recipe.parent else set())
    asked = set(re.findall(r"from=(\w+)", text)) | set(re.findall(r"^FROM (\w+)", text, re.MULTILINE))
    assert asked <= stages | given
    steps = {s for packages in (recipe.packages, *(v.packages for v in recipe.variants)) for s in packages}
    assert set(re.findall(r"from=packages,source=([\w-]+)", text)) == steps
    assert bool(recipe.server) == ("/tools/prove" in text), "what serves is proven"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_what_is_left_out_or_stripped_is_named_as_sh_reads_it(target: images.Target) -> None:
    trim, strip = target.variant.trim, target.variant.strip
    for glob in (*trim, *strip):
        assert "**" not in glob and not glob.startswith(("/", ".")) and glob == glob.strip()
    assert len({*trim, *strip}) == len(trim) + len(strip)
    text = (target.recipe.folder / "Dockerfile").read_text()
    assert "/order/trim" in text or not (trim or strip)
    assert "target=/binutils" in text or not strip, "the image itself has no strip"


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.name)
def test_a_tool_is_a_shell_program_that_somebody_uses(path: Path) -> None:
    assert os.access(path, os.X_OK)
    done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    users = [*DOCKERFILES, *(other for other in TOOLS if other != path), Path(resources.PACKAGE / "images/solve.py")]
    assert any(f"/tools/{path.name}" in user.read_text() for user in users)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda p: p.name)
def test_debian_packages_are_locked_for_both_architectures_alike(folder: Path) -> None:
    locks = {name: debian.read(debian.lock_file(folder, name)) for name in PLATFORMS.values()}
    names = {}
    for architecture, lock in locks.items():
        gnu = {"amd64": "x86-64-linux-gnu", "arm64": "aarch64-linux-gnu"}[architecture]
        names[architecture] = {(p.step, p.name.replace(gnu, "GNU")) for p in lock.packages} - {
            (p.step, p.name) for p in lock.packages if p.name in OF_ONE
        }
        assert len({(p.step, p.name) for p in lock.packages}) == len(lock.packages), "no package twice in a step"
        for package in lock.packages:
            assert re.fullmatch(r"[0-9a-f]{64}", package.sha256) and package.size > 0
            assert package.file.endswith((f"_{architecture}.deb", "_all.deb"))
    assert names["amd64"] == names["arm64"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_debian_packages_that_are_asked_for_are_locked(target: images.Target) -> None:
    for architecture in PLATFORMS.values():
        there = {"essential"}
        for layer in target.line:
            path = debian.lock_file(layer.recipe.folder, architecture)
            found = debian.read(path).packages if path.exists() else ()
            for packages in (layer.recipe.packages, layer.variant.packages):
                for step, wanted in packages.items():
                    assert set(wanted) <= there | {p.name for p in found if p.step == step}, (layer.name, step)
            there |= {p.name for p in found if p.step == "image"}


def test_debian_packages_are_all_of_one_time() -> None:
    assert len({debian.read(path).snapshot for path in FOLDER.glob("*/packages-*.tsv")}) == 1


# --------------------------------------------------------------------------------------------------------- wrong

GOOD = """\
description: something
version: "1.0"
user: 10001
packages: {image: [libgomp1]}
sources:
  - {package: uv==1, file: uv.whl, sha256: "00", size: 1}
variants:
  cpu:
    description: any
    budget: 90 MB
    build_disk: 1 GB
    pins: {cuda: "13.0"}
    compute_capability: ["7.5"]
"""


def test_a_folder_is_an_image(bare: Checkout) -> None:
    bare.write("images/mine/image.yaml", GOOD)
    recipe = images.load("mine")
    assert images.names() == ("mine",)
    assert recipe.variant("cpu").budget == 90_000_000
    assert recipe.variant("cpu").compute_capability == ("7.5",)
    assert recipe.packages == {"image": ("libgomp1",)} and recipe.sources[0].platform is None
    with pytest.raises(QuestionError, match="image `mine` has no variant `cu130`") as caught:
        recipe.variant("cu130")
    assert caught.value.hint == "variants: cpu"


@pytest.mark.parametrize("name", ["nothing", "", "../images/torch", "tools"])
def test_what_is_no_image_is_told_with_those_there_are(name: str) -> None:
    with pytest.raises(QuestionError, match="there is no image") as caught:
        images.load(name)
    assert caught.value.hint and "torch" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param(GOOD, "", "keys with values are expected", id="empty"),
        pytest.param(GOOD, "- a list\n", "keys with values are expected", id="a list"),
        pytest.param(GOOD, "a: [\n", "line 2, column 1", id="no YAML"),
        pytest.param("user:", "parnet: debian\nuser:", "no place for `parnet`", id="unknown key"),
        pytest.param("version", "# version", "needs a value for `version`", id="no version"),
        pytest.param("    build_disk", "    disk", "there is no `build_disk`", id="missing key"),
        pytest.param("variants:", "others:", "there is no `variants`", id="no variants"),
        pytest.param('"1.0"', "1.0", "`version` is 1.0", id="a version that is a number"),
        pytest.param('"13.0"', "13.0", "`cuda` is 13.0", id="a pin that is a number"),
        pytest.param('["7.5"]', "[7.5]", "`compute_capability` is [7.5]", id="an architecture that is a number"),
        pytest.param("[libgomp1]", "libgomp1", "`image` is 'libgomp1'", id="letters for packages"),
        pytest.param("user: 10001", "user: engine", "`user` is 'engine'", id="a user by name"),
        pytest.param("size: 1}", "size: big}", "`size` is 'big'", id="a source's size"),
        pytest.param("90 MB", "90", "a size with its unit", id="a size without unit"),
        pytest.param("size: 1}", "size: 1, bytes: 1}", "no place for `bytes`", id="unknown key of a source"),
    ],
)
def test_a_wrong_file_is_told(bare: Checkout, old: str, new: str, said: str) -> None:
    bare.write("images/mine/image.yaml", GOOD.replace(old, new))
    with pytest.raises(QuestionError) as caught:
        images.load("mine")
    assert str(bare.root / "images/mine/image.yaml") in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint == "see docs/images.md"
