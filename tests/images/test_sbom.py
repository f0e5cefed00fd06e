"""The bill of materials, checked against the schema by the library's own validator."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.errors import QuestionError
from deployer.images import debian, sbom
from deployer.images.inspect import Image
from deployer.images.target import Target

pytest.importorskip("cyclonedx")
PackageURL = pytest.importorskip("packageurl").PackageURL
SITE = "/opt/venv/lib/python3.11/site-packages"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
IMAGE = Image(
    reference="localhost:5000/team/deployer/llamacpp:cpu-0123456789ab",
    place="engine",
    identity=DIGEST,
    platform="linux/amd64",
    created="2026-11-22T04:30:00.123456789Z",
    size=1,
    environment={},
    labels={
        "io.deployer.image": "llamacpp",
        "io.deployer.engine": "llamacpp",
        "org.opencontainers.image.version": "0.3.36",
        "maintainer": "x",
    },
    user="10001:10001",
    digests=(f"localhost:5000/team/deployer/llamacpp@sha256:{'f' * 64}", f"elsewhere/x@sha256:{'e' * 64}"),
)
FACTS: dict[str, Any] = {
    "system": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)"},
    "rpm": False,
    "distributions": [
        {"name": "Jinja2", "version": "3.1.6", "path": f"{SITE}/jinja2-3.1.6.dist-info"},
        {"name": "typing_extensions", "version": "4.16.0", "path": f"{SITE}/typing_extensions-4.16.0.dist-info"},
        {"name": "torch", "version": "2.13.0+cpu", "path": f"{SITE}/torch-2.13.0.dist-info"},
        {"name": "Jinja2", "version": "3.1.6", "path": "/srv/site-packages/jinja2-3.1.6.dist-info"},
    ],
    "debian": [
        {"name": "libstdc++6", "version": "12.2.0-14+deb12u1", "architecture": "amd64"},
        {"name": "bsdutils", "version": "1:2.38.1-5+deb12u3", "architecture": "amd64"},
        {"name": "adduser", "version": "3.134", "architecture": "all"},
    ],
    "libraries": [
        {"path": "/opt/x/libcudart.so.13", "soname": "libcudart.so.13", "version": "13.0.96", "owner": None},
        {"path": "/usr/lib/libstdc++.so.6", "soname": "libstdc++.so.6", "version": "12.2.0", "owner": "libstdc++6"},
    ],
    "licences": {
        "python": {
            f"{SITE}/jinja2-3.1.6.dist-info": {"License": "UNKNOWN", "classifiers": ["BSD License"]},
            f"{SITE}/typing_extensions-4.16.0.dist-info": {"License": "PSF-2.0", "License-Expression": "PSF-2.0"},
            f"{SITE}/torch-2.13.0.dist-info": {"License-Expression": f"BSD-3-Clause AND MIT{' AND Zlib' * 20}"},
        },
        "debian": {"adduser": "GPL-2+", "bsdutils": "ad-hoc", "libstdc++6": "Expat"},
    },
}  # fmt: skip


def components(text: str) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in json.loads(text)["components"]}


def deb(name: str, version: str, architecture: str) -> str:
    """How the library writes it: versions of it differ in whether a colon is escaped."""
    purl = PackageURL("deb", "debian", name, version, {"arch": architecture, "distro": "debian-12"})
    return str(purl.to_string())


def valid(text: str) -> bool:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert wrong is None, wrong
    return True


def test_it_keeps_the_schema_and_names_every_package() -> None:
    text = sbom.document(IMAGE, FACTS)
    assert valid(text)
    whole = json.loads(text)
    assert (whole["bomFormat"], whole["specVersion"], whole["version"]) == ("CycloneDX", "1.6", 1)
    root = whole["metadata"]["component"]
    assert (root["type"], root["name"], root["version"]) == (
        "container",
        "localhost:5000/team/deployer/llamacpp",
        DIGEST,
    )
    assert root["hashes"] == [{"alg": "SHA-256", "content": DIGEST.removeprefix("sha256:")}]
    purl = PackageURL.from_string(root["purl"])
    assert (purl.type, purl.name, purl.version) == ("oci", "llamacpp", f"sha256:{'f' * 64}")
    assert purl.qualifiers == {"arch": "amd64", "repository_url": "localhost:5000/team/deployer/llamacpp"}
    assert [one["name"] for one in root["properties"]] == ["io.deployer.engine", "io.deployer.image"]
    found = components(text)
    assert {*found} == {
        "system:debian",
        "engine:llamacpp",
        "file:/opt/x/libcudart.so.13",
        deb("adduser", "3.134", "all"),
        deb("bsdutils", "1:2.38.1-5+deb12u3", "amd64"),
        deb("libstdc++6", "12.2.0-14+deb12u1", "amd64"),
        "pkg:pypi/jinja2@3.1.6",
        "pkg:pypi/jinja2@3.1.6#/srv/site-packages/jinja2-3.1.6.dist-info",
        "pkg:pypi/torch@2.13.0%2Bcpu",
        "pkg:pypi/typing-extensions@4.16.0",
    }
    assert found["engine:llamacpp"]["version"] == "0.3.36"
    (above,) = [one for one in whole["dependencies"] if one["ref"] == DIGEST]
    assert {*above["dependsOn"]} == {*found}


def test_licences_are_told_where_they_are_sure() -> None:
    found = components(sbom.document(IMAGE, FACTS))

    def licence(start: str) -> Any:
        return next(one.get("licenses") for key, one in found.items() if key.startswith(start))

    assert licence("pkg:pypi/jinja2@3.1.6") == [{"license": {"name": "BSD License"}}]
    assert licence("pkg:pypi/typing") == [{"license": {"id": "PSF-2.0"}}]
    assert licence("pkg:pypi/torch")[0]["expression"].startswith("BSD-3-Clause AND MIT AND Zlib")
    assert licence("pkg:deb/debian/adduser") == [{"license": {"id": "GPL-2.0-or-later"}}]
    assert licence("pkg:deb/debian/libstdc") == [{"license": {"id": "MIT"}}]
    assert licence("pkg:deb/debian/bsdutils") is None


def test_the_same_image_gives_the_same_text_and_another_one_another_serial_number() -> None:
    text = sbom.document(IMAGE, FACTS)
    again = FACTS | {key: FACTS[key][::-1] for key in ("debian", "libraries")}
    assert sbom.document(IMAGE, again) == text == sbom.document(IMAGE, FACTS)
    other = json.loads(sbom.document(replace(IMAGE, identity=f"sha256:{'1' * 64}", created=None), FACTS))
    assert other["serialNumber"] != json.loads(text)["serialNumber"]
    assert json.loads(text)["metadata"]["timestamp"] == "2026-11-22T04:30:00+00:00"
    assert other["metadata"]["timestamp"] == "1970-01-01T00:00:00+00:00"


def test_hashes_are_those_of_the_locks() -> None:
    target = images.target("llamacpp", "cpu")
    below = target.line[0]
    package = debian.read(debian.lock_file(below.recipe.folder, "amd64")).packages[0]
    architecture = "all" if package.file.endswith("_all.deb") else "amd64"
    one = {"name": package.name, "version": package.version, "architecture": architecture}
    newer = one | {"name": "newer"}
    found = components(sbom.document(IMAGE, FACTS | {"debian": [one, newer]}, target))
    (known,) = [one for one in found.values() if one["name"] == package.name]
    assert known["hashes"] == [{"alg": "SHA-256", "content": package.sha256}]
    (unknown,) = [one for one in found.values() if one["name"] == "newer"]
    assert "hashes" not in unknown


def test_a_wheel_has_a_hash_where_the_lock_names_one_file(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        f"torch==2.13.0+cpu --hash=sha256:{'a' * 64}\njinja2==3.1.6 --hash=sha256:{'b' * 64} --hash=sha256:{'c' * 64}\n"
    )
    plain = images.target("torch", "cpu")
    target = Target(plain.recipe, replace(plain.variant, requirements=str(lock)), None)
    found = components(sbom.document(IMAGE, FACTS, target))
    assert found["pkg:pypi/torch@2.13.0%2Bcpu"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert "hashes" not in found["pkg:pypi/jinja2@3.1.6"]


def test_what_is_not_listed_is_said_and_an_empty_image_is_one() -> None:
    empty = {**FACTS, **{key: [] for key in ("distributions", "debian", "libraries")}}
    empty |= {"rpm": True, "system": {"id": "", "version": "", "name": ""}}
    text = sbom.document(replace(IMAGE, labels={}, digests=()), empty)
    assert valid(text)
    root = json.loads(text)["metadata"]["component"]
    assert root["properties"] == [{"name": "deployer:incomplete", "value": "rpm packages are not listed"}]
    assert "purl" not in root and "components" not in json.loads(text)


def test_an_image_is_what_it_was_built_from_only_by_its_content() -> None:
    target = images.target("gateway", "cpu")
    labels = {
        "io.deployer.image": "gateway",
        "io.deployer.variant": "cpu",
        "io.deployer.content": target.digest,
    }
    assert sbom.built_from(replace(IMAGE, labels=labels)) == target
    assert sbom.built_from(replace(IMAGE, labels={**labels, "io.deployer.content": "older"})) is None
    assert sbom.built_from(replace(IMAGE, labels={})) is None


def test_without_the_library_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)  # what Python itself does to forbid an import
    with pytest.raises(QuestionError, match="not installed") as told:
        sbom.document(IMAGE, FACTS)
    assert told.value.hint == "pip install 'deployer[sbom]'"
