"""Models from ModelScope, by its own protocol: commits, hashes, redirects, and all that its listing does not say."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.cli.pull import address
from deployer.errors import HashMismatch, ModelError, SourceUnreachable
from deployer.fetch import Web
from deployer.home import Home
from deployer.models import Model, Store, metadata
from deployer.models.metadata import remote
from deployer.models.pull import pull
from deployer.profile import ModelChoice, ModelFile
from deployer.progress import Silent
from tests.models.headers import CONFIG, llama
from tests.models.test_pull import content
from tests.servers import FileServer, ModelScope, unused_port
from tests.sizing import ggufs
from tests.sizing.bed import MODELS

PATTERNS = ("*.safetensors", "*.json", "*.txt")
WEIGHTS = llama() + random.Random(7).randbytes(400_000)
FILES = {
    "README.md": b"# a model",
    "config.json": json.dumps(CONFIG).encode(),
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
    "deep/weights 1.gguf": WEIGHTS,
}
CHOSEN = ("config.json", "model-1.safetensors", "model-2.safetensors")
CHOICE = ModelChoice("modelscope://someone/a-model")


@pytest.fixture
def storage() -> Iterator[FileServer]:
    with FileServer() as made:
        yield made


@pytest.fixture
def site(storage: FileServer) -> Iterator[ModelScope]:
    with ModelScope("someone/a-model", FILES, storage=storage) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def get(home: Home, site: ModelScope, choice: ModelChoice = CHOICE, **web: Any) -> Model:
    made = Web(modelscope=site.url, **web)
    return pull(choice, PATTERNS, home=home, web=made, progress=Silent())


def test_a_model_comes_whole_at_a_commit(home: Home, site: ModelScope, storage: FileServer) -> None:
    site.changed = {"model-2.safetensors"}  # the others are older; the commit is that of the newest change
    site.content["model-1.safetensors"] = WEIGHTS + bytes(20 << 20)
    model = get(home, site)
    assert content(model) == {name: site.content[name] for name in CHOSEN}
    assert (model.revision, model.licence, model.format) == (site.COMMIT, "Apache License 2.0", "safetensors")
    assert {f.path: f.sha256 for f in model.files}.keys() == set(CHOSEN)
    spans = {seen.range for seen in storage.seen}
    assert f"bytes=0-{len(site.content['model-1.safetensors']) - 1}" in spans, "large files come in ranges"
    assert all("Revision=" + site.COMMIT in seen.path for seen in site.seen if "FilePath" in seen.path)


def test_a_file_in_a_folder_is_named(home: Home, site: ModelScope) -> None:
    choice = address("modelscope://someone/a-model@v1:deep/weights 1.gguf")
    assert choice == replace(CHOICE, revision="v1", files=(ModelFile("deep/weights 1.gguf"),))
    assert content(get(home, site, choice)) == {"deep/weights 1.gguf": WEIGHTS}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"Id": "", "ShortId": ModelScope.COMMIT[:8]}, ModelScope.COMMIT),
        ({"Id": "a" * 40, "ShortId": "a" * 8}, "a" * 40),
        ({"Id": "", "ShortId": "deadbeef"}, "master"),  # a commit that only removed a file
        ({"Id": "", "ShortId": ""}, "master"),
        ({}, "master"),
        (None, "master"),
    ],
)
def test_what_a_listing_tells_of_its_commit(
    home: Home, site: ModelScope, head: dict[str, str] | None, expected: str
) -> None:
    site.head = head  # type: ignore[assignment]
    site._is = lambda revision: True  # type: ignore[method-assign]
    assert get(home, site).revision == expected


def test_a_commit_that_was_asked_for_is_kept(home: Home, site: ModelScope) -> None:
    site.head = {}
    assert get(home, site, replace(CHOICE, revision=site.COMMIT)).revision == site.COMMIT


def test_a_revision_that_is_not_there_is_no_empty_model(home: Home, site: ModelScope) -> None:
    with pytest.raises(ModelError, match="has no revision main") as caught:
        get(home, site, replace(CHOICE, revision="main"))
    assert caught.value.hint == "it has v1, master"


def test_a_model_that_is_not_there(home: Home, site: ModelScope) -> None:
    with pytest.raises(ModelError, match="or it is private: record not found") as caught:
        get(home, site, ModelChoice("modelscope://someone/else"))
    assert "MODELSCOPE_API_TOKEN" in (caught.value.hint or "")


def test_a_private_model_needs_a_token(home: Home, site: ModelScope, storage: FileServer) -> None:
    site.need = "ms-1"
    with pytest.raises(ModelError, match="private or gated; nothing was fetched") as caught:
        get(home, site)
    assert f"{site.url}/models/someone/a-model" in (caught.value.hint or "")
    with pytest.raises(ModelError, match="private or gated") as caught:
        get(home, site, modelscope_token="ms-2")
    assert "no access, or is old" in (caught.value.hint or "")
    assert content(get(home, site, modelscope_token="ms-1")).keys() == set(CHOSEN)
    assert storage.seen
    assert not any({"authorization", "cookie"} & seen.headers.keys() for seen in storage.seen)


def test_a_gated_model_is_recognised_before_anything_is_fetched(home: Home, site: ModelScope) -> None:
    site.gate = "ms-1"
    with pytest.raises(ModelError, match="private or gated; nothing was fetched"):
        get(home, site)
    assert site.asked("/api/v1/models/someone/a-model/repo")[0].range == "bytes=0-0"
    assert content(get(home, site, modelscope_token="ms-1")).keys() == set(CHOSEN)


def test_code_is_refused_before_the_weights(home: Home, site: ModelScope, storage: FileServer) -> None:
    config = json.dumps({**CONFIG, "auto_map": {"AutoModel": "modeling.M"}}).encode()
    site.content = {**FILES, "config.json": config, "modeling.py": b"class M: pass"}
    with pytest.raises(ModelError, match="trust_remote_code"):
        get(home, site)
    fetched = [seen for seen in storage.seen if seen.range != "bytes=0-0"]
    assert fetched == [], "no byte of the weights"
    model = get(home, site, replace(CHOICE, allow=("remote-code",)))
    assert content(model).keys() == {*CHOSEN, "modeling.py"}
    assert model.allowed == ("remote-code",)


def test_wrong_bytes_are_not_taken(home: Home, site: ModelScope, storage: FileServer) -> None:
    get(Home(home.root / "other"), site)
    for path in storage.files:
        storage.files[path] = bytes(len(storage.files[path]))
    with pytest.raises(HashMismatch):
        get(home, site)
    assert Store(home).all() == ()


def test_a_file_without_a_hash_needs_a_pin(home: Home, site: ModelScope) -> None:
    site.unhashed = {"config.json"}
    with pytest.raises(ModelError, match=r"config\.json: its hash is not listed") as caught:
        get(home, site)
    assert "model.files" in (caught.value.hint or "")


def test_a_listing_that_may_be_cut_is_not_believed(home: Home, site: ModelScope) -> None:
    site.content = {**FILES, **{f"more/{number}": b"" for number in range(3000)}}
    with pytest.raises(ModelError, match="3000 files or more"):
        get(home, site)


def test_a_site_that_is_ill_or_another(home: Home, site: ModelScope) -> None:
    site.manner.status = 503
    with pytest.raises(SourceUnreachable, match="HTTP 503"):
        get(home, site)
    with FileServer({"/api/v1/models/someone/a-model/repo/files": b"<html>"}) as other:
        with pytest.raises(SourceUnreachable, match="does not speak ModelScope's protocol") as caught:
            pull(CHOICE, PATTERNS, home=home, web=Web(modelscope=other.url), progress=Silent())
        assert "MODELSCOPE_ENDPOINT" in (caught.value.hint or "")
        other.files["/api/v1/models/someone/a-model/repo/files"] = b'{"Data": {"Files": [{"Path": 1}]}}'
        with pytest.raises(SourceUnreachable, match="does not speak ModelScope's protocol"):
            pull(CHOICE, PATTERNS, home=home, web=Web(modelscope=other.url), progress=Silent())
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        pull(
            CHOICE, PATTERNS, home=home, web=Web(modelscope=f"http://127.0.0.1:{unused_port()}"), progress=Silent()
        )  # fmt: skip


def test_verify_and_pull_mend_at_the_same_commit(home: Home, site: ModelScope) -> None:
    model = get(home, site)
    bad = model.folder / "model-1.safetensors"
    bad.chmod(0o644)
    bad.write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(HashMismatch, match="model-1"):
        Store(home).verify(model)
    before = len(site.seen)
    assert content(get(home, site)) == {name: FILES[name] for name in CHOSEN}
    assert len(site.seen) == before + 1, "the bad file, and no listing"


def test_headers_are_read_by_range(home: Home, tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "tiny.Q8_0.gguf", *MODELS["llama"]())
    with FileServer() as storage, ModelScope("someone/gguf", {path.name: path.read_bytes()}, storage=storage) as site:
        found = remote.describe(ModelChoice("modelscope://someone/gguf"), Web(modelscope=site.url))
    assert found.description == metadata.describe(path)
    assert (found.file, found.revision, found.download) == (path.name, site.COMMIT, path.stat().st_size)
    assert found.fetched < path.stat().st_size / 3
