"""The store: contents kept once, models whole or absent, whatever happens to the files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import Busy, HashMismatch, ModelError, NoSpace
from deployer.fetch import Web
from deployer.home import Home
from deployer.models import Model, Store
from deployer.models.manifest import quantization_in, quantization_of
from deployer.models.pack import pack, unpack
from deployer.models.pull import pull
from deployer.profile import ModelChoice
from deployer.progress import Silent
from tests.models.headers import CONFIG, llama
from tests.servers import Hub, git_sha1

PATTERNS = ("*.safetensors", "*.json")
WEIGHTS = llama() + random.Random(3).randbytes(300_000)
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
}
OTHER = {**FILES, "config.json": json.dumps({**CONFIG, "dtype": "bfloat16"}).encode()}
A, B = ModelChoice("hf://someone/a-model"), ModelChoice("hf://someone/b-model")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub("someone/a-model", FILES) as made:
        yield made


@pytest.fixture
def other() -> Iterator[Hub]:
    with Hub("someone/b-model", OTHER) as made:
        yield made


def get(home: Home, choice: ModelChoice, hub: Hub | None = None, **more: object) -> Model:
    web = Web(hub=hub.url if hub else "http://127.0.0.1:1", **more)  # type: ignore[arg-type]
    return pull(choice, PATTERNS, home=home, web=web, progress=Silent())


def blobs(home: Home) -> set[str]:
    return {path.name for path in (home.models / "blobs/sha256").iterdir()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def damage(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1234)
        (byte,) = file.read(1)
        file.seek(1234)
        file.write(bytes([byte ^ 1]))


# contents


def test_every_content_is_kept_once(home: Home, store: Store, hub: Hub, other: Hub) -> None:
    first, second = get(home, A, hub), get(home, B, other)
    assert blobs(home) == {sha256(content) for content in (*FILES.values(), OTHER["config.json"])}
    for name in ("model-1.safetensors", "model-2.safetensors"):
        assert (first.folder / name).samefile(second.folder / name)
        assert not other.asked(other.where(name)), "what the store has is not fetched"
    assert store.shared(first) == store.shared(second) == 2 * len(WEIGHTS)
    assert second.quantization == "bfloat16"


def test_files_are_for_everybody_to_read_and_for_nobody_to_write(home: Home, hub: Hub) -> None:
    for path in get(home, A, hub).folder.glob("*.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o444
        assert not path.is_symlink(), "a container that sees this folder alone sees whole files"


def test_removing_one_keeps_what_the_other_shares(home: Home, store: Store, hub: Hub, other: Hub) -> None:
    first, second = get(home, A, hub), get(home, B, other)
    assert store.remove(first.id) == len(FILES["config.json"])
    assert store.all() == (second,)
    store.verify(second)
    assert store.remove(second.id) == second.size
    assert store.all() == ()
    assert blobs(home) == set()
    with pytest.raises(ModelError, match="no model is called"):
        store.remove(first.id)


def test_gc_removes_what_belongs_to_no_model(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    assert store.collect().contents == 0
    shutil.rmtree(model.folder)  # by hand
    (store.staging("some-model") / "parts/left").write_bytes(bytes(10_000))
    done = store.collect()
    assert (done.contents, done.downloads, done.bytes) == (3, 0, model.size)
    done = store.collect(now=True)
    assert (done.contents, done.downloads) == (0, 1)
    assert done.bytes >= 10_000
    assert not (home.models / ".staging/some-model").exists()


def test_gc_leaves_a_pull_that_works_alone(home: Home, store: Store, hub: Hub) -> None:
    part = store.staging("some-model") / "parts/left"
    part.write_bytes(b"x")
    with store.writing("some-model"):
        holder = subprocess.run(
            [sys.executable, "-c", COLLECT, str(home.root)], capture_output=True, text=True, check=True
        )
    assert holder.stdout.strip() == "0"
    assert part.exists()


COLLECT = """
import sys
from pathlib import Path
from deployer.home import Home
from deployer.models import Store
print(Store(Home(Path(sys.argv[1]))).collect(now=True).downloads)
"""


def test_one_writer_of_a_model_at_a_time(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    with store.writing(model.id), pytest.raises(Busy):
        Store(home).remove(model.id)
    assert store.get(model.id) == model


def test_a_file_system_without_links(home: Home, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    model = get(home, A, hub)
    store.verify(model)
    assert blobs(home) == set(), "not kept twice"
    with Hub("someone/b-model", OTHER) as other:
        second = get(home, B, other)
        assert not other.asked(other.where("model-1.safetensors")), "copied from the other model"
    store.verify(second)
    damage(model.folder / "model-1.safetensors")
    with pytest.raises(HashMismatch):
        store.verify(model)
    store.verify(second)


def test_a_store_of_an_older_deployer_is_read(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    raw = json.loads((model.folder / "manifest.json").read_text())
    header = {"architecture": "X", "context": 4096, "layers": 1, "kv_heads": 1, "head_dim": 1, "chat_template": True}
    old = {key: raw[key] for key in ("source", "revision", "format", "converted_from", "added", "files")}
    (model.folder / "manifest.json").write_text(json.dumps({**old, "header": header}))
    shutil.rmtree(home.models / "blobs")
    found = store.get(model.id)
    assert found is not None
    assert (found.context, found.chat_template, found.licence) == (4096, True, None)
    assert found.header.context == CONFIG["max_position_embeddings"]
    store.verify(found)
    with Hub("someone/b-model", OTHER) as other:
        second = get(home, B, other)
        assert not other.asked(other.where("model-1.safetensors"))
    assert (second.folder / "model-1.safetensors").samefile(found.folder / "model-1.safetensors")


# verify and mend


def test_verify_names_the_bad_file_and_pull_mends_just_that(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    damage(model.folder / "model-2.safetensors")
    with pytest.raises(HashMismatch, match=r"^model-2\.safetensors of a-model"):
        store.verify(model)
    assert store.get(model.id) is None
    assert not model.folder.exists(), "nothing is started with it"
    assert [one.id for one in store.damaged()] == [model.id]

    before = len(hub.seen)
    hub.offer("beef" * 10, {**FILES, "config.json": b"{}"})  # the branch moved on
    mended = get(home, A, hub)
    assert mended == model
    assert {seen.path.rsplit("/", 1)[-1] for seen in hub.seen[before:]} == {"model-2.safetensors"}
    store.verify(mended)
    assert store.damaged() == ()


def test_a_bad_file_is_bad_for_all_that_share_it(home: Home, store: Store, hub: Hub, other: Hub) -> None:
    first, second = get(home, A, hub), get(home, B, other)
    damage(second.folder / "model-1.safetensors")
    with pytest.raises(HashMismatch, match=f"and of {second.id}"):
        store.verify(first)
    assert store.all() == ()
    get(home, A, hub)
    before = len(other.seen)
    store.verify(get(home, B, other))
    assert len(other.seen) == before, "the first one's mending gave it back"


def test_a_missing_file_is_mended_too(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    (model.folder / "model-1.safetensors").unlink()
    before = len(hub.seen)
    assert get(home, A, hub) == model
    assert len(hub.seen) == before, "its content was still among the blobs"


def test_a_damaged_model_can_be_removed(home: Home, store: Store, hub: Hub) -> None:
    model = get(home, A, hub)
    damage(model.folder / "model-2.safetensors")
    with pytest.raises(HashMismatch):
        store.verify(model)
    store.remove(model.id)
    assert store.damaged() == ()
    assert blobs(home) == set()


# the user's own cache


def cache_of(folder: Path, files: dict[str, bytes], name: str = "models--someone--a-model") -> Path:
    """As huggingface_hub writes it."""
    for path, content in files.items():
        digest = sha256(content) if path.endswith(".safetensors") else git_sha1(content)
        blob = folder / name / "blobs" / digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = folder / name / "snapshots/abc" / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


def test_what_the_cache_has_is_linked(home: Home, store: Store, hub: Hub, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "hub", FILES)
    model = get(home, A, hub, cache=cache)
    assert len(hub.seen) == 1, "the listing, and no file"
    link = cache / "models--someone--a-model/snapshots/abc/model-1.safetensors"
    assert (model.folder / "model-1.safetensors").samefile(link)
    shutil.rmtree(cache)
    store.verify(model)


def test_wrong_bytes_of_the_cache_are_not_taken(home: Home, store: Store, hub: Hub, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "hub", FILES)
    damage(cache / "models--someone--a-model/blobs" / sha256(WEIGHTS))
    model = get(home, A, hub, cache=cache)
    store.verify(model)
    assert hub.asked(hub.where("model-1.safetensors"))
    assert not hub.asked(hub.where("model-2.safetensors"))


def test_a_file_of_the_cache_that_others_cannot_read_is_copied(home: Home, hub: Hub, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "hub", FILES)
    blob = cache / "models--someone--a-model/blobs" / sha256(WEIGHTS)
    blob.chmod(0o600)
    model = get(home, A, hub, cache=cache)
    path = model.folder / "model-1.safetensors"
    assert path.stat().st_mode & 0o777 == 0o444
    assert not path.samefile(blob)
    assert len(hub.seen) == 1


# what is said of a model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5-1.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("model-IQ2_XXS-00001-of-00003.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("tiny-bf16.gguf", "BF16"),
        ("tiny.gguf", None),
    ],
)
def test_the_quantization_is_in_the_name(name: str, expected: str | None) -> None:
    assert quantization_in(name) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq 4-bit"),
        ({"quantization_config": {"quant_method": "fp8"}, "dtype": "bfloat16"}, "fp8"),
        (
            {"quantization_config": {"quant_method": "c-t", "config_groups": {"a": {"weights": {"num_bits": 4}}}}},
            "c-t 4-bit",
        ),
        ({"quantization_config": {"quant_method": "c-t", "config_groups": {"a": 3, "b": {"weights": None}}}}, "c-t"),
        ({}, None),
        ([], None),
    ],
)
def test_the_quantization_is_in_the_config(tmp_path: Path, config: object, expected: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert quantization_of(tmp_path) == expected


# without a network


def test_models_travel_in_one_file(home: Home, store: Store, hub: Hub, other: Hub, tmp_path: Path) -> None:
    ours = get(home, A, hub), get(home, B, other)
    pack(store, ours, tmp_path / "models.tar", Silent())
    with tarfile.open(tmp_path / "models.tar") as tar:
        assert len([m for m in tar if m.name.startswith("blobs/")]) == 4, "each content once"
    there = Store(Home(tmp_path / "there"))
    theirs = unpack(there, tmp_path / "models.tar", Silent())
    assert [(m.id, m.files, m.revision) for m in theirs] == [(m.id, m.files, m.revision) for m in ours]
    for one in theirs:
        there.verify(one)
    assert unpack(there, tmp_path / "models.tar", Silent()) == theirs
    assert get(Home(tmp_path / "there"), A) == theirs[0], "a pull there asks nobody"


@pytest.mark.parametrize("how", ["cut", "flipped", "no-models", "no-tar"])
def test_a_damaged_export_is_not_taken(home: Home, store: Store, hub: Hub, tmp_path: Path, how: str) -> None:
    packed = tmp_path / "models.tar"
    pack(store, [get(home, A, hub)], packed, Silent())
    content = bytearray(packed.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "no-tar":
        content = bytearray(b"<html>" * 1000)
    packed.write_bytes(content)
    if how == "no-models":
        with tarfile.open(packed, "w"):
            pass
    there = Store(Home(tmp_path / "there"))
    with pytest.raises(ModelError):
        unpack(there, packed, Silent())
    assert there.all() == ()


def test_names_in_an_export_cannot_lead_out_of_the_store(
    home: Home, store: Store, hub: Hub, tmp_path: Path
) -> None:
    model = get(home, A, hub)
    raw = json.loads((model.folder / "manifest.json").read_text())
    raw["files"][0]["path"] = "../../evil.json"
    (model.folder / "manifest.json").write_text(json.dumps(raw))
    pack(store, [replace(model, files=model.files[1:])], tmp_path / "models.tar", Silent())
    with pytest.raises(ModelError, match="not one of ours"):
        unpack(Store(Home(tmp_path / "there")), tmp_path / "models.tar", Silent())
    assert not list(tmp_path.rglob("evil*"))


def test_a_changed_file_is_not_exported(home: Home, store: Store, hub: Hub, tmp_path: Path) -> None:
    model = get(home, A, hub)
    damage(model.folder / "model-1.safetensors")
    with pytest.raises(HashMismatch, match=r"model-1\.safetensors"):
        pack(store, [model], tmp_path / "models.tar", Silent())
    assert list(tmp_path.glob("*.tar*")) == []


def test_an_export_that_does_not_fit(home: Home, store: Store, hub: Hub, tmp_path: Path) -> None:
    model = get(home, A, hub)
    huge = replace(model, files=(replace(model.files[0], size=1 << 60),))
    with pytest.raises(NoSpace):
        pack(store, [huge], tmp_path / "models.tar", Silent())


