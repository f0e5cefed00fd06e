"""The definition of a build: what BuildKit is told, and what it is never told."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.fetch import Web
from deployer.images import bake, context
from deployer.images.bake import BuildSettings
from tests.images.conftest import Checkout

DIGEST = "sha256:" + "0" * 64
REGISTRY = f"nvidia/cuda:13.0.2-base-ubuntu24.04@{DIGEST}"
TARGETS = [images.target(name, v.name) for name in images.names() for v in images.load(name).variants]
VLLM = images.target("vllm", "cu130")
TRANSFORMERS = images.target("transformers", "cu130")


def definition(
    *targets: images.Target, settings: BuildSettings | None = None, secret: str = "/home/secret", **more: Any
) -> dict[str, Any]:
    made = {t.key: t for wanted in targets for t in wanted.needed}
    contexts = {key: {"tools": Path("/views/tools"), "order": Path(f"/views/{key}")} for key in made}
    contexts["debian-12"] = {"recipe": Path("/views/root")}
    secrets = {key: {"outside": Path(f"{secret}/{key}")} for key in made}
    return bake.definition(
        targets, settings or BuildSettings(), contexts=contexts, secrets=secrets, epoch=17, **more
    )


def test_the_same_question_gives_the_same_json() -> None:
    first = definition(*TARGETS)
    assert json.loads(json.dumps(first)) == first == definition(*TARGETS)
    assert first["group"] == {"default": {"targets": sorted(t.key for t in TARGETS)}}
    assert set(first["target"]) == {t.key for wanted in TARGETS for t in wanted.needed}
    assert not any("." in key or ":" in key for key in first["target"]), "bake takes no dots in names"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_what_a_target_stands_on_and_uses_is_linked(target: images.Target) -> None:
    found = definition(target)["target"]
    for one in target.needed:
        told = found[one.key]
        linked = {name: where for name, where in told["contexts"].items() if not where.startswith("/")}
        below = {"parent": f"target:{one.parent.key}"} if isinstance(one.parent, images.Target) else {}
        assert linked == below | {used.recipe.name: f"target:{used.key}" for used in one.uses}
        assert {where.removeprefix("target:") for where in linked.values()} <= found.keys()
        assert told["dockerfile"] == str(one.recipe.folder / "Dockerfile")
        assert told["args"]["SOURCE_DATE_EPOCH"] == "17"
        assert told["secret"] == [f"id=outside,src=/home/secret/{one.key}"]
    assert found["debian-12"]["context"] == "/views/root"
    assert found[target.key]["context"] == str(target.recipe.folder) or target.recipe.name == "debian"


def test_a_base_from_a_registry_is_pulled() -> None:
    found = definition(images.target("llamacpp", "cpu", REGISTRY))["target"]
    assert set(found) == {"python-3_11", "llamacpp-cpu"}
    assert found["llamacpp-cpu"]["contexts"]["parent"] == f"docker-image://{REGISTRY}"
    assert found["python-3_11"]["contexts"]["parent"] == f"docker-image://{REGISTRY}"
    labels = found["llamacpp-cpu"]["labels"]
    assert labels["org.opencontainers.image.base.name"] == REGISTRY
    assert labels["org.opencontainers.image.base.digest"] == DIGEST


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_cuda_is_demanded_as_nvidia_documents_it(target: images.Target) -> None:
    """The CUDA of the least driver: 580.65 speaks 13.0, 525.60 speaks 12.0; an image for CPUs demands nothing."""
    arguments = definition(target)["target"][target.key]["args"]
    wanted = {"13.0": "cuda>=13.0", "12.8": "cuda>=12.0"}
    if "cuda" in target.pins:
        cuda = target.pins["cuda"]
        assert arguments | {"REQUIRE": wanted[cuda], "CUDA_VERSION": cuda, "KIND": "cuda"} == arguments
        assert bake.require(target) == wanted[cuda]
    else:
        assert arguments == {"SOURCE_DATE_EPOCH": "17", "KIND": "cpu"}


def test_an_image_without_a_least_driver_demands_its_own_cuda() -> None:
    variant = replace(VLLM.variant, min_driver=None)
    assert bake.require(replace(VLLM, variant=variant)) == "cuda>=13.0"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_labels_say_what_is_inside(target: images.Target) -> None:
    recipe, variant = target.recipe, target.variant
    found = definition(target)["target"][target.key]["labels"]
    assert all(isinstance(value, str) and value for value in found.values())
    oci = {key.removeprefix("org.opencontainers.image.") for key in found if key.startswith("org.")}
    assert oci >= {"title", "description", "version", "base.name"}
    ours = {key.removeprefix("io.deployer."): value for key, value in found.items() if key.startswith("io.deployer.")}
    assert ours["image"] == recipe.name and ours["variant"] == variant.name
    assert ours["content"].startswith(target.reference.rsplit("-", 1)[1])
    assert {k.removeprefix("pin."): v for k, v in ours.items() if k.startswith("pin.")} == target.pins
    assert ours.get("engine") == recipe.engine
    assert ours.get("compute-capability", "") == " ".join(variant.compute_capability)
    assert ours["lock"] == bake.lock_hash(target)
    version = found["org.opencontainers.image.version"]
    assert version == target.pins.get(recipe.name, recipe.version), "torch:cu128 is not the torch of the others"


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("debian/packages-amd64.tsv", True), ("python/packages-arm64.tsv", True),
        ("torch/requirements-cu130.txt", True), ("vllm/requirements-cu130.txt", True),
        ("torch/requirements-cpu.txt", False), ("llamacpp/packages-amd64.tsv", False), ("vllm/Dockerfile", False),
    ],
)  # fmt: skip
def test_the_lock_hash_covers_every_lock_of_the_line(name: str, covered: bool, checkout: Checkout) -> None:
    before = bake.lock_hash(images.target("vllm", "cu130"))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", before)
    checkout.add(f"images/{name}")
    assert (bake.lock_hash(images.target("vllm", "cu130")) != before) == covered


# -------------------------------------------------------------------------------------------------------- naming


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ("OWN",)),
        ({"tags": ("1.0", "latest")}, ("OWN", "deployer/vllm:1.0", "deployer/vllm:latest")),
        ({"registry": "reg.example/ai/"}, ("OWN", "reg.example/ai/OWN")),
        ({"registry": "localhost:5000", "tags": ("1",)},
         ("OWN", "localhost:5000/OWN", "localhost:5000/deployer/vllm:1")),
        ({"registry": "reg.example/ai", "push": True}, ("reg.example/ai/OWN",)),
        ({"registry": "reg.example/ai", "push": True, "tags": ("1", "other.example/x:2")},
         ("reg.example/ai/OWN", "reg.example/ai/deployer/vllm:1", "other.example/x:2")),
        ({"tags": ("mine:1",)}, ("OWN", "mine:1")),
        ({"push": True, "tags": ("ghcr.io/me/x:1",)}, ("ghcr.io/me/x:1",)),
        ({"push": True, "tags": ("1", "localhost:5000/me/x")}, ("localhost:5000/me/x", "localhost:5000/me/x:1")),
    ],
)  # fmt: skip
def test_the_names_of_an_image(settings: dict[str, Any], wanted: tuple[str, ...]) -> None:
    names = tuple(name.replace("OWN", VLLM.reference) for name in wanted)
    asked = BuildSettings(**settings)
    assert bake.references(VLLM, asked) == names
    told = definition(VLLM, settings=asked)["target"]
    assert told["vllm-cu130"]["tags"] == list(names)
    assert told["vllm-cu130"]["output"] == ["type=registry" if asked.push else "type=docker"]
    assert "tags" not in told["torch-cu130"] and told["torch-cu130"]["output"] == ["type=cacheonly"]


def test_what_is_below_is_taken_from_the_stock() -> None:
    found = definition(VLLM, TRANSFORMERS, stock=True)["target"]
    assert found.keys() == {"vllm-cu130", "transformers-cu130"}
    torch = images.target("torch", "cu130").reference
    assert {told["contexts"]["parent"] for told in found.values()} == {f"docker-image://{torch}"}


def test_cache_words() -> None:
    words = ("reg.example/cache:{image}-{variant}", "type=gha,scope={image}", "type=local,src=/c")
    told = definition(VLLM, settings=BuildSettings(cache_from=words, cache_to=words[:1]))["target"]
    assert told["torch-cu130"]["cache-from"] == [
        "type=registry,ref=reg.example/cache:torch-cu130", "type=gha,scope=torch", "type=local,src=/c",
    ]  # fmt: skip
    assert told["vllm-cu130"]["cache-to"] == ["type=registry,ref=reg.example/cache:vllm-cu130"]
    assert not {"cache-from", "cache-to"} & definition(VLLM)["target"]["vllm-cu130"].keys()


def test_further_settings() -> None:
    plain = definition(VLLM)["target"].values()
    assert not any("no-cache" in told for told in plain)
    asked = BuildSettings(no_cache=True, platform="linux/arm64")
    for told in definition(VLLM, settings=asked)["target"].values():
        assert told["no-cache"] is True and told["platforms"] == ["linux/arm64"]


def test_provenance_only_when_it_is_asked_for() -> None:
    """BuildKit attaches it by default where it can; it holds times, and no two builds would have one digest."""
    assert {told["attest"][0] for told in definition(VLLM)["target"].values()} == {"type=provenance,disabled=true"}
    told = definition(VLLM, settings=BuildSettings(provenance="max"))["target"]
    assert told["vllm-cu130"]["attest"] == ["type=provenance,mode=max"]
    assert told["torch-cu130"]["attest"] == ["type=provenance,disabled=true"]


# -------------------------------------------------------------------------------------------------------- secret


def test_how_the_outside_is_reached_is_in_files_and_not_in_the_definition(tmp_path: Path) -> None:
    ca = tmp_path / "company.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nQ09NUEFOWQ==\n")
    web = Web(index="https://user:hunter2@pypi.corp.example/simple", ca=ca)
    settings = BuildSettings(
        proxy="http://me:pa55@proxy.corp.example:3128", no_proxy="inside.corp.example",
        apt_mirror="http://debian.corp.example",
    )  # fmt: skip
    secrets = {t.key: context.secrets(settings, web, t, tmp_path) for t in VLLM.needed}
    contexts: dict[str, dict[str, Path]] = {key: {} for key in secrets}
    told = bake.definition((VLLM,), settings, contexts=contexts, secrets=secrets, epoch=17)
    for word in ("hunter2", "pypi.corp", "pa55", "proxy.corp", "inside.corp", "debian.corp", "Q09N"):
        assert word not in json.dumps(told)
    assert "pa55" not in repr(settings)
    assert f"id=ca,src={ca}" in told["target"]["vllm-cu130"]["secret"]
    outside = secrets["vllm-cu130"]["outside"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    for word in ("hunter2", "pa55", "inside.corp.example", "APT_MIRROR=http://debian.corp.example"):
        assert word in outside.read_text()
    assert not {"proxy", "index", "ca"} & told["target"]["vllm-cu130"]["args"].keys()


def test_a_way_out_changes_no_cache_key() -> None:
    """What steps are cached by: their commands, arguments and folders; none knows of a proxy or a mirror."""
    private = BuildSettings(proxy="http://proxy:1", no_proxy="x", apt_mirror="http://mirror")
    assert definition(VLLM, settings=private) == definition(VLLM)
    assert {field.name for field in fields(private) if not field.repr} >= {"proxy"}


def test_the_expectation_is_what_the_recipe_says() -> None:
    found = json.loads(bake.expectation(VLLM))
    assert found["pins"] == VLLM.pins and found["budget"] == VLLM.variant.budget
    assert found["compute_capability"] == list(VLLM.variant.compute_capability)
    assert found["server"] == list(VLLM.recipe.server) and found["user"] == 10001 and found["torch"] is True
    assert found["baseline"] == [bake.PROOF_PATH], "torch below is proven already"
    assert json.loads(bake.expectation(images.target("gateway", "cpu")))["baseline"] == []
    assert json.loads(bake.expectation(images.target("llamacpp", "cpu")))["torch"] is False
