"""What a command asks of its surroundings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployer import images, profile
from deployer.cli.place import MIRROR, Place
from deployer.home import Home
from deployer.images import debian

SMALL = profile.load(profile.find("cpu-small"))
CHAT = profile.load(profile.find("cpu-8gb"))
FOREIGN = replace(SMALL, image="of-somebody-else")
DIGEST = "@sha256:" + "0" * 64
IN_RELEASE = "debian/dists/bookworm/InRelease"


def place(home: Path, base: str = images.ARCHIVE, mirror: str | None = None) -> Place:
    return Place(Home(home), "unix:///nowhere.sock", base=base, apt_mirror=mirror)


def test_the_mirror_is_the_one_that_builds_take() -> None:
    assert MIRROR == debian.MIRROR


@pytest.mark.parametrize(
    ("base", "mirror", "url"),
    [
        (images.ARCHIVE, None, f"http://deb.debian.org/{IN_RELEASE}"),
        (images.ARCHIVE, "https://mirror.example/", f"https://mirror.example/{IN_RELEASE}"),
        (f"debian{DIGEST}", None, "https://registry-1.docker.io/v2/"),
        (f"nvidia/cuda:12.9.1-base{DIGEST}", None, "https://registry-1.docker.io/v2/"),
        (f"docker.io/library/debian{DIGEST}", None, "https://registry-1.docker.io/v2/"),
        (f"ghcr.io/someone/base{DIGEST}", "https://mirror.example", "https://ghcr.io/v2/"),
        (f"registry.corp:5000/base{DIGEST}", None, "https://registry.corp:5000/v2/"),
        (f"localhost:5000/base{DIGEST}", None, "http://localhost:5000/v2/"),
        (f"localhost/base{DIGEST}", None, "http://localhost/v2/"),
    ],
)
def test_the_place_of_the_base_is_a_mirror_or_a_registry(
    base: str, mirror: str | None, url: str, tmp_path: Path
) -> None:
    assert place(tmp_path, base, mirror).questions((SMALL,), ports=()).base == url


def test_the_engine_is_asked_for_the_images_of_the_profiles(tmp_path: Path) -> None:
    wanted = (SMALL, CHAT, SMALL, FOREIGN)
    found = place(tmp_path).questions(wanted, ports=()).images
    pairs = {(p.image, p.variant) for p in (SMALL, CHAT)}
    assert found == {f"{name}:{variant}": images.tag(name, variant) for name, variant in pairs}
    other = place(tmp_path, f"debian{DIGEST}").questions(wanted, ports=()).images
    assert other.keys() == found.keys()
    assert not set(other.values()) & set(found.values())


@pytest.mark.parametrize(
    ("source", "urls"),
    [
        ("hf://a/b", ("https://huggingface.co",)),
        ("modelscope://a/b", ("https://modelscope.cn",)),
        ("oci://r.example/a/b", ("https://r.example/v2/",)),
        ("oci://localhost:5000/a", ("http://localhost:5000/v2/",)),
        (f"https://r.example/a.gguf#sha256={'0' * 64}", ("https://r.example/a.gguf",)),
        ("pypi://a==1", ()),
        ("file:///a", ()),
    ],
)
def test_what_serves_the_model_is_asked(
    source: str, urls: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    wanted = replace(SMALL, model=replace(SMALL.model, source=source, files=()))
    assert place(tmp_path).questions((wanted,), ports=()).urls == urls


def test_the_way_out_is_what_each_places_own_client_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "www.modelscope.ai")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-1")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    web = place(tmp_path).web
    assert (web.modelscope, web.modelscope_token) == ("https://www.modelscope.ai", "ms-1")
    assert web.docker == tmp_path / "config.json"
    assert "ms-1" not in repr(web)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://mirror.example/")
    monkeypatch.delenv("DOCKER_CONFIG")
    assert place(tmp_path).web.modelscope == "http://mirror.example/"
    assert place(tmp_path).web.docker == Path.home() / ".docker/config.json"
