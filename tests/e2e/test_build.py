"""Real builds: what is proven, what is refused, what is pushed, and that the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer import images, resources
from deployer.errors import BuildError
from deployer.fetch import Web
from deployer.home import Home
from deployer.images import bake, builder, debian
from deployer.images.bake import BuildSettings
from deployer.images.target import Target
from deployer.progress import Silent
from tests.e2e.conftest import Box

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
PROOF = "/usr/share/deployer/proof.json"


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def proof(reference: str) -> dict[str, object]:
    """What the proof found in the image, which holds it."""
    found: dict[str, object] = json.loads(docker("run", "--rm", "--entrypoint", "cat", reference, PROOF))
    return found


def build(target: Target, box: Box, **settings: object) -> None:
    """A build as `deployer build` does it, of a target that is not one of the shipped recipes."""
    ca = os.environ.get("SSL_CERT_FILE")
    wheels = os.environ.get("PIP_FIND_LINKS")
    web = Web(ca=Path(ca) if ca else None, wheelhouse=Path(wheels) if wheels else None)
    wanted = BuildSettings(**settings)  # type: ignore[arg-type]
    builder.build((target,), wanted, home=Home(box.home), web=web, progress=Silent())


def contents(reference: str) -> list[dict[str, tuple[object, ...]]]:
    """What is in each layer: every entry with its bytes' hash, owner, mode and time, whatever their order is."""
    with tempfile.TemporaryDirectory() as folder:
        docker("save", "-o", f"{folder}/image.tar", reference)
        with tarfile.open(f"{folder}/image.tar") as archive:
            listed = archive.extractfile("manifest.json")
            assert listed
            return [inside(archive, name) for name in json.load(listed)[0]["Layers"]]


def inside(archive: tarfile.TarFile, name: str) -> dict[str, tuple[object, ...]]:
    with tarfile.open(fileobj=archive.extractfile(name)) as layer:
        return {one.name: entry(layer, one) for one in layer}


def entry(layer: tarfile.TarFile, one: tarfile.TarInfo) -> tuple[object, ...]:
    content = layer.extractfile(one) if one.isreg() else None
    told = hashlib.sha256(content.read()).hexdigest() if content else ""
    return one.type, one.mode, one.uid, one.gid, one.mtime, one.linkname, told


def test_a_second_build_from_nothing_gives_the_same(box: Box) -> None:
    first = box.json("build", "gateway:cpu")["images"][0]["reference"]
    image, before = docker("image", "inspect", "--format", "{{.Id}}", first), contents(first)
    row = box.json("build", "gateway:cpu", "--no-cache")["images"][0]
    assert row["built"] and row["reference"] == first
    assert docker("image", "inspect", "--format", "{{.Id}}", first) == image, "the same digest"
    after = contents(first)
    assert len(after) == len(before) >= 4
    for old, new in zip(before, after, strict=True):
        assert old == new
    newest = max(time for layer in after for *_, time, _, _ in layer.values() if isinstance(time, int))
    assert newest <= debian.read(debian.lock_file(resources.folder("images") / "debian", "amd64")).epoch


def test_what_is_built_says_what_is_inside(box: Box) -> None:
    reference = box.json("build", "transformers:cu130", timeout=3600)["images"][0]["reference"]
    target = images.target("transformers", "cu130")
    config = json.loads(docker("image", "inspect", reference))[0]["Config"]
    assert config["User"] == "10001:10001"
    environment = dict(word.split("=", 1) for word in config["Env"])
    assert environment["NVIDIA_REQUIRE_CUDA"] == "cuda>=13.0" and environment["CUDA_VERSION"] == "13.0"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert config["Labels"] == bake.labels(target)
    found = proof(reference)
    mapped = [path for path in found["process"]["mapped"] if "libcudnn" in path]  # type: ignore[index]
    assert len(mapped) >= 8 and all("/site-packages/nvidia/cudnn/lib/" in path for path in mapped)
    libraries = [one for one in found["libraries"] if one["family"] == "cudnn"]  # type: ignore[attr-defined]
    assert {one["version"] for one in libraries} == {"9.20.0.48"}
    assert found["sizes"]["bytes"] <= 4.9e9  # type: ignore[index]
    assert found["problems"] == []


def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str, step: str, **variant: str) -> Target:
    """A recipe on `parent` whose only layer runs `step` as root, with the proof at its end."""
    folder = tmp_path / "images"
    shutil.copytree(resources.folder("images"), folder)
    mine = folder / "planted"
    mine.mkdir()
    values = {"budget": "9 GB", "build_disk": "10 GB", **variant}
    lines = "".join(f"    {key}: {value}\n" for key, value in values.items())
    (mine / "image.yaml").write_text(
        f'description: x\nversion: "1"\nuser: 10001\nparent: {parent}\nserver: [python3, --version]\n'
        f"variants:\n  cu130:\n    description: x\n{lines}"
    )
    (mine / "Dockerfile").write_text(
        f"FROM parent AS image\nARG SOURCE_DATE_EPOCH\nUSER 0:0\nRUN {step}\nUSER 10001:10001\n"
        "FROM image AS proof\nARG SOURCE_DATE_EPOCH\n"
        "RUN --mount=type=bind,from=tools,target=/tools --mount=type=bind,from=prover,target=/prover /tools/prove\n"
        "FROM image\nCOPY --from=proof --chown=0:0 /tmp/proof/ /\n"
    )
    of_package = resources.folder
    monkeypatch.setattr(resources, "folder", lambda name: folder if name == "images" else of_package(name))
    images.load.cache_clear()
    return images.target("planted", "cu130")


@pytest.fixture(autouse=True)
def shipped_recipes() -> Iterator[None]:
    yield
    images.load.cache_clear()


SITE = "/opt/venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("parent", "step", "variant", "said"),
    [
        (
            "torch:cu130",
            f"cp {SITE}/nvidia/cudnn/lib/libcudnn.so.9 /usr/lib/x86_64-linux-gnu/ && ldconfig",
            {},
            "cudnn: the loader reaches 2 files for libcudnn.so.9",
        ),
        ("torch:cu130", "true", {"pins": "{cudnn: 9.20.0.49}"}, "cudnn: 9.20.0.49 is pinned"),
        ("torch:cu130", "true", {"pins": '{cuda: "12.9"}'}, "cuda: 12.9 is pinned"),
        ("torch:cu130", "true", {"compute_capability": '["7.5", "8.0"]'}, "the label says 7.5 8.0"),
        ("python:3.11", "true", {"pins": "{python: 3.11.3}"}, "python: 3.11.3 is pinned"),
        ("python:3.11", "cp /usr/bin/true /usr/bin/x && chmod u+s /usr/bin/x", {}, "setuid: /usr/bin/x"),
        ("python:3.11", "mkdir /srv/open && chmod 777 /srv/open", {}, "writable: /srv/open"),
        ("python:3.11", "true", {"budget": "50 MB"}, "over the budget of 50.0 MB"),
        ("python:3.11", "mv /usr/bin/python3.11 /usr/bin/gone", {}, "not found"),
    ],
    ids=["cudnn twice", "cudnn", "cuda", "label", "python", "setuid", "writable", "budget", "server"],
)
def test_the_proof_fails_the_build(
    box: Box,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parent: str,
    step: str,
    variant: dict[str, str],
    said: str,
) -> None:
    capability = '["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"]' if "torch" in parent else "[]"
    target = planted(tmp_path, monkeypatch, parent, step, **{"compute_capability": capability, **variant})
    with pytest.raises(BuildError) as told:
        build(target, box)
    assert said in "\n".join(told.value.evidence), told.value.evidence


def test_a_wheel_that_is_not_the_locked_one_is_refused(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(resources.folder("images"), folder)
    lock = folder / "gateway/requirements.txt"
    text = lock.read_text()
    start = text.index("sha256:", text.index("starlette==")) + len("sha256:")
    lines = text[start:].split("\n")
    lock.write_text(text[:start] + "0" * 64 + text[start + 64 :].replace(lines[1] + "\n", "", 1))
    monkeypatch.setattr(resources, "folder", lambda name: folder)
    images.load.cache_clear()
    with pytest.raises(BuildError) as told:
        build(images.target("gateway", "cpu"), box)
    assert "ash mismatch" in "\n".join(told.value.evidence)
    assert told.value.hint and "other bytes than were locked" in told.value.hint


def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The gateway's recipe, with a uv that finds nothing in its cache."""
    folder = tmp_path / "images"
    shutil.copytree(resources.folder("images"), folder)
    tool = folder / "tools/wheels"
    assert "UV_CACHE_DIR=/cache" in tool.read_text()
    tool.write_text(tool.read_text().replace("UV_CACHE_DIR=/cache", "UV_CACHE_DIR=/tmp/empty"))
    monkeypatch.setattr(resources, "folder", lambda name: folder)
    images.load.cache_clear()
    return images.target("gateway", "cpu")


def test_an_index_that_is_cut_off_is_named(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build's own way out is cut, not the host's: `sources` are here already."""
    box.run("build", "gateway:cpu")
    target = without_cache(tmp_path, monkeypatch)
    with pytest.raises(BuildError) as told:
        web = Web(index="http://127.0.0.1:9/simple")
        builder.build((target,), BuildSettings(), home=Home(box.home), web=web, progress=Silent())
    assert told.value.hint and "--index-url" in told.value.hint, told.value.evidence


def test_pushed_by_digest_and_inspected_from_afar(box: Box, registry: str) -> None:
    words = ("build", "gateway:cpu", "--registry", f"{registry}/team", "--tag", "stable")
    row = box.json(*words, "--push")["images"][0]
    assert row["reference"].startswith(f"{registry}/team/deployer/gateway:cpu-")
    repository = row["reference"].rsplit(":", 1)[0]
    for name in (row["reference"], f"{repository}:stable", f"{repository}@{row['digest']}"):
        found = json.loads(docker("buildx", "imagetools", "inspect", name, "--format", "{{json .Manifest}}"))
        assert found["digest"] == row["digest"]
    again = box.json(*words, "--push")["images"][0]
    assert again["digest"] == row["digest"], "the same content is the same manifest"


def test_a_build_with_no_index_at_all(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything comes from the wheelhouse: the index is dead, and uv's cache empty."""
    box.run("build", "gateway:cpu")  # fetches the Debian packages and the pinned uv
    target = without_cache(tmp_path, monkeypatch)
    assert target.lock
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-r", str(target.lock), "-d", str(wheels)], check=True)
    web = Web(index="http://127.0.0.1:9/simple", wheelhouse=wheels)
    builder.build((target,), BuildSettings(), home=Home(box.home), web=web, progress=Silent())
    assert contents(target.reference) == contents(box.json("build", "gateway:cpu")["images"][0]["reference"])


def test_a_full_disk_is_told_before_anything_is_fetched(box: Box, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        reason = "needs root and mkfs.ext4: a file system of 200 MB is mounted"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    disk, root = tmp_path / "disk", Path(f"/tmp/deployer-small-{os.getpid()}")
    root.mkdir()
    subprocess.run(["truncate", "-s", "200M", str(disk)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(root)], check=True)
    address = f"unix://{root}.sock"
    command = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    command += ["--data-root", str(root), "--exec-root", f"{root}.exec", "-p", f"{root}.pid", "-H", address]
    with (tmp_path / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(300):
            if subprocess.run(["docker", "-H", address, "version"], capture_output=True).returncode == 0:
                break
        child = box.start("build", "debian:12", env={**box.environment(), "DOCKER_HOST": address})
        out, err = child.communicate(timeout=120)
        assert child.returncode == 1 and out == "", err
        assert f"the build needs 500 MB and {root} has" in err and "docker system prune" in err
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
        subprocess.run(["umount", str(root)], check=True)
        root.rmdir()
        shutil.rmtree(f"{root}.exec", ignore_errors=True)


def test_an_os_base_of_ones_own(box: Box, tmp_path: Path) -> None:
    """Its packages come from its own archive; here it is our base with the archive's address."""
    plain = box.json("build", "debian:12")["images"][0]["reference"]
    mirror = "deb http://deb.debian.org/debian bookworm main"
    text = f"FROM {plain}\nRUN echo '{mirror}' > /etc/apt/sources.list && echo mine > /etc/mine\n"
    (tmp_path / "Dockerfile").write_text(text)
    docker("buildx", "build", "-q", "-t", "deployer-test/base:1", str(tmp_path))
    try:
        row = box.json("build", "gateway:cpu", "--base", "deployer-test/base:1")["images"][0]
        assert row["reference"] != images.target("gateway", "cpu").reference
        assert docker("run", "--rm", "--entrypoint", "cat", row["reference"], "/etc/mine") == "mine\n"
        config = json.loads(docker("image", "inspect", row["reference"]))[0]["Config"]
        assert config["Labels"]["org.opencontainers.image.base.name"] == "deployer-test/base:1"
        assert proof(row["reference"])["problems"] == []
        docker("rmi", row["reference"])
    finally:
        docker("rmi", "-f", "deployer-test/base:1")
