"""Models in container registries: pushed and pulled, by tag and digest, with and without a name; what is refused."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployer.cli.pull import address
from deployer.errors import HashMismatch, ModelError, QuestionError, SourceUnreachable
from deployer.fetch import Web
from deployer.fetch.registry import MANIFEST, Reference, parse
from deployer.home import Home
from deployer.models import Model, Store, metadata
from deployer.models.metadata import remote
from deployer.models.pull import pull
from deployer.models.push import push
from deployer.models.sources.oci import FILEPATH, TITLE, files_of
from deployer.profile import ModelChoice, ModelFile
from deployer.progress import Silent
from tests import registries
from tests.models.headers import CONFIG, llama
from tests.models.test_pull import content, leftovers
from tests.servers import FileServer, Handler, Manner, Server, unused_port
from tests.sizing import ggufs
from tests.sizing.bed import MODELS

PATTERNS = ("*.gguf", "*.safetensors", "*.json", "*.txt")
WEIGHTS = llama() + random.Random(5).randbytes(500_000)
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
    "vocab.txt": b"",
}


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("open")) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model of another home, which a registry can be filled with."""
    folder = tmp_path / "origin"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    made = get(Home(tmp_path / "there"), f"file://{folder}")
    return replace(made, licence="apache-2.0")


def get(home: Home, text: str, web: Web | None = None, *, files: Sequence[str] = ()) -> Model:
    choice = replace(address(text), files=tuple(ModelFile(name) for name in files))
    return pull(choice, PATTERNS, home=home, web=web or Web(), progress=Silent())


def put(registry: registries.Registry, name: str, layers: Sequence[dict[str, Any]], **more: Any) -> str:
    """A manifest under the tag `v1`, whose layers are there as far as `blob` put them there; its digest."""
    blob(registry, name, b"{}")
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers), **more}
    return index(registry, name, "v1", value)


def index(registry: registries.Registry, name: str, tag: str, value: dict[str, Any]) -> str:
    body = json.dumps(value).encode()
    answer = httpx.put(
        f"http://{registry.address}/v2/{name}/manifests/{tag}", content=body,
        headers={"Content-Type": value["mediaType"]},
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    return digest(body)


def blob(registry: registries.Registry, name: str, data: bytes) -> None:
    begun = httpx.post(f"http://{registry.address}/v2/{name}/blobs/uploads/")
    answer = httpx.put(begun.headers["location"], params={**httpx.URL(begun.headers["location"]).params,
                                                          "digest": digest(data)}, content=data)  # fmt: skip
    assert answer.status_code == 201, answer.text


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(data: bytes, kind: str = "application/octet-stream", **notes: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data), "annotations": notes}


# there and back


def test_what_was_pushed_is_pulled_by_tag_and_by_digest(
    registry: registries.Registry, home: Home, model: Model, tmp_path: Path
) -> None:
    to, told = parse(f"oci://{registry.address}/team/a-model:v1"), Told()
    made = push(model, to, web=Web(), progress=told)
    assert told.said == []
    assert push(model, replace(to, version="v2"), web=Web(), progress=told) == made, "the same bytes under another tag"
    assert told.said == [f"{file.path}: the registry has it already" for file in model.files]

    by_tag = get(home, f"oci://{registry.address}/team/a-model:v1")
    assert content(by_tag) == FILES
    assert (by_tag.revision, by_tag.licence, by_tag.format) == (made, "apache-2.0", "safetensors")
    by_digest = get(Home(tmp_path / "other"), to.at(made))
    assert content(by_digest) == FILES and by_digest.revision == made
    assert leftovers(home) == []


def test_what_is_pushed_is_a_modelpack_that_oras_can_read_too(registry: registries.Registry, model: Model) -> None:
    to = parse(f"oci://{registry.address}/team/shape:v1")
    made = push(model, to, web=Web(), progress=Silent())
    raw = httpx.get(f"{to.base}/manifests/{made}", headers={"Accept": MANIFEST}).json()
    assert raw["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert [(one["mediaType"], one["annotations"]) for one in raw["layers"]] == [
        (f"application/vnd.cncf.model.{kind}.v1.raw", {TITLE: name, FILEPATH: name})
        for kind, name in (
            ("weight.config", "config.json"), ("weight", "model-1.safetensors"), ("weight", "model-2.safetensors"),
            ("weight.config", "vocab.txt"),
        )
    ]  # fmt: skip
    assert "file://" not in json.dumps(raw), "nobody need know the folders of this machine"
    config = httpx.get(f"{to.base}/blobs/{raw['config']['digest']}").json()
    assert config["modelfs"] == {"type": "layers", "diffIds": [one["digest"] for one in raw["layers"]]}
    assert config["descriptor"]["licenses"] == ["apache-2.0"]


def test_the_weights_of_a_wheel_lose_its_folder(registry: registries.Registry, home: Home, tmp_path: Path) -> None:
    (tmp_path / "o/deep").mkdir(parents=True)
    (tmp_path / "o/deep/tiny.gguf").write_bytes(WEIGHTS)
    nested = get(Home(tmp_path / "there"), f"file://{tmp_path}/o", files=["deep/tiny.gguf"])
    push(nested, parse(f"oci://{registry.address}/team/wheel"), web=Web(), progress=Silent())
    assert content(get(home, f"oci://{registry.address}/team/wheel")) == {"tiny.gguf": WEIGHTS}


def test_what_is_in_the_store_is_not_fetched_again(registry: registries.Registry, home: Home, model: Model) -> None:
    push(model, parse(f"oci://{registry.address}/team/shared:v1"), web=Web(), progress=Silent())
    there = Home(model.folder.parent.parent)
    for file in model.files:
        registry.blob(file.sha256).rename(registry.blob(file.sha256).with_name("away"))
    try:
        assert content(get(there, f"oci://{registry.address}/team/shared:v1")) == FILES
    finally:
        for file in model.files:
            registry.blob(file.sha256).with_name("away").rename(registry.blob(file.sha256))


def test_verify_and_pull_mend_a_model_of_a_registry(registry: registries.Registry, home: Home, model: Model) -> None:
    where = f"oci://{registry.address}/team/mend:v1"
    push(model, parse(where), web=Web(), progress=Silent())
    pulled = get(home, where)
    bad = pulled.folder / "model-1.safetensors"
    bad.chmod(0o644)
    bad.write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(HashMismatch, match="model-1"):
        Store(home).verify(pulled)
    assert content(get(home, where)) == FILES


def test_headers_are_read_by_range(registry: registries.Registry, home: Home, tmp_path: Path) -> None:
    ggufs.write(tmp_path / "tiny.Q4_K_M.gguf", *MODELS["llama"]())
    there = get(Home(tmp_path / "there"), f"file://{tmp_path}/tiny.Q4_K_M.gguf")
    made = push(there, parse(f"oci://{registry.address}/team/fit:v1"), web=Web(), progress=Silent())
    found = remote.describe(address(f"oci://{registry.address}/team/fit:v1"), Web())
    assert found.description == metadata.describe(there.weights)
    assert (found.revision, found.download, found.file) == (made, there.size, "tiny.Q4_K_M.gguf")
    assert found.fetched < there.size / 3
    with pytest.raises(ModelError, match="before it is here"):
        remote.describe(ModelChoice("pypi://a==1"), Web())


@pytest.mark.parametrize("kind", ["application/vnd.ollama.image.model", "application/vnd.docker.ai.gguf.v3"])
def test_an_artifact_whose_files_have_no_names(registry: registries.Registry, home: Home, kind: str) -> None:
    name = f"team/{kind.split('.')[1]}"
    for data in (WEIGHTS, b"a template", b"MIT"):
        blob(registry, name, data)
    beside = [layer(b"a template", "application/vnd.ollama.image.template"),
              layer(b"MIT", "application/vnd.ollama.image.license")]  # fmt: skip
    put(registry, name, [layer(WEIGHTS, kind), *beside])
    assert content(get(home, f"oci://{registry.address}/{name}:v1")) == {"model.gguf": WEIGHTS}


# what is not there, or wrong


def test_a_tag_or_a_name_that_is_not_there(registry: registries.Registry, home: Home, model: Model) -> None:
    push(model, parse(f"oci://{registry.address}/team/tags:v1"), web=Web(), progress=Silent())
    with pytest.raises(ModelError, match=r"there is no oci://.*/team/tags:latest") as caught:
        get(home, f"oci://{registry.address}/team/tags")
    assert caught.value.hint == "it has the tags v1"
    with pytest.raises(ModelError, match="there is no"):
        get(home, f"oci://{registry.address}/team/tags@sha256:{'0' * 64}")
    with pytest.raises(ModelError, match="there is no"):
        get(home, f"oci://{registry.address}/nobody/here:v1")
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        get(home, f"oci://127.0.0.1:{unused_port()}/team/tags:v1")


def test_wrong_bytes_in_the_registry_leave_nothing(registry: registries.Registry, home: Home, model: Model) -> None:
    wrong = WEIGHTS[::-1][:-1] + b"?"
    blob(registry, "team/wrong", wrong)
    put(registry, "team/wrong", [layer(wrong, **{TITLE: "model.gguf"})])
    registry.blob(hashlib.sha256(wrong).hexdigest()).write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(HashMismatch, match=r"model\.gguf: wanted sha256"):
        get(home, f"oci://{registry.address}/team/wrong:v1")
    assert Store(home).all() == () and leftovers(home) == []


def test_a_manifest_that_is_not_what_its_digest_says(home: Home) -> None:
    manifest = b'{"schemaVersion": 2, "layers": []}'
    with FileServer({"/v2/": b"{}", f"/v2/a/manifests/sha256:{'0' * 64}": manifest}) as server:
        with pytest.raises(HashMismatch, match=r"the manifest of .* hashes to"):
            get(home, f"oci://127.0.0.1:{server.port}/a@sha256:{'0' * 64}")
        server.files["/v2/a/manifests/v1"] = b"<html>sign in</html>"
        with pytest.raises(SourceUnreachable, match="has no manifest that can be read"):
            get(home, f"oci://127.0.0.1:{server.port}/a:v1")
        server.manner = Manner(status=503)
        with pytest.raises(SourceUnreachable, match="HTTP 503"):
            get(home, f"oci://127.0.0.1:{server.port}/a:v1")


def test_a_file_that_changed_is_not_pushed(registry: registries.Registry, model: Model) -> None:
    bad = model.folder / "model-2.safetensors"
    bad.chmod(0o644)
    for data in (bytes(len(WEIGHTS)), WEIGHTS[:1000]):
        bad.write_bytes(data)
        with pytest.raises(HashMismatch, match=r"model-2\.safetensors of .* changed on this disk"):
            push(model, parse(f"oci://{registry.address}/team/bad:v1"), web=Web(), progress=Silent())
    assert httpx.get(f"http://{registry.address}/v2/team/bad/tags/list").status_code == 404, "no manifest was written"


def test_a_file_whose_upload_breaks_off_is_sent_again(model: Model) -> None:
    cuts = [1, 1]

    def reply(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.whole(404, b"")
        elif handler.command == "POST":
            handler.whole(202, b"", Location=f"{handler.path}one?state=1")
        elif handler.command == "PUT" and "/blobs/" in handler.path and len(handler.seen.body) > 1000 and cuts:
            cuts.pop()
            handler.hang_up()
        else:
            handler.whole(201 if handler.command == "PUT" else 200, b"")

    told = Told()
    with Server(reply) as server:
        made = push(model, parse(f"oci://127.0.0.1:{server.port}/a:v1"), web=Web(), progress=told)
        sent = [digest(seen.body) for seen in server.seen if seen.method == "PUT"]
        assert len(told.said) == 2 and all(said.endswith("; sent again") for said in told.said)
        large = digest(FILES["model-1.safetensors"])
        assert sent.count(large) == 3 and sent[-1] == made
        assert all(httpx.URL(seen.path).params.get("digest") in (digest(seen.body), None) for seen in server.seen
                   if seen.method == "PUT")  # fmt: skip
        cuts.extend([1] * 9)
        with pytest.raises(SourceUnreachable, match="cannot be reached"):
            push(model, parse(f"oci://127.0.0.1:{server.port}/a:v1"), web=Web(), progress=told)


@pytest.mark.parametrize("many", [False, True], ids=["one-and-an-attestation", "two"])
def test_an_index(registry: registries.Registry, home: Home, many: bool) -> None:
    name = f"team/index-{many}".lower()
    blob(registry, name, WEIGHTS)
    one = put(registry, name, [layer(WEIGHTS, **{TITLE: "model.gguf"})])
    entry = {"mediaType": MANIFEST, "digest": one, "size": 1}
    other = entry if many else {**entry, "platform": {"architecture": "unknown", "os": "unknown"}}
    value = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry, other]}
    index(registry, name, "all", value)
    if many:
        with pytest.raises(ModelError, match="is an index of 2 artifacts") as caught:
            get(home, f"oci://{registry.address}/{name}:all")
        assert one in caught.value.evidence[0]
    else:
        assert get(home, f"oci://{registry.address}/{name}:all").revision == one


# who may


def test_a_registry_with_names_and_passwords(home: Home, model: Model, tmp_path: Path) -> None:
    with registries.registry(tmp_path, **registries.htpasswd(tmp_path)) as registry:
        to = parse(f"oci://{registry.address}/team/secret:v1")
        with pytest.raises(ModelError, match=r"may not be written to \(HTTP 401\)") as caught:
            push(model, to, web=Web(), progress=Silent())
        assert caught.value.hint == f"docker login {registry.address}"
        web = Web(docker=registries.config(tmp_path / "docker", registry.address))
        made = push(model, to, web=web, progress=Silent())
        with pytest.raises(ModelError, match=r"may not be read \(HTTP 401\)"):
            get(home, to.at("v1"))
        old = Web(docker=registries.config(tmp_path / "old", registry.address, word="old"))
        with pytest.raises(ModelError, match="HTTP 401") as caught:
            get(home, to.at("v1"), old)
        assert "alice may not, or the password is old" in (caught.value.hint or "")
        assert content(get(home, to.at(made), web)) == FILES


def test_a_registry_with_tokens(home: Home, model: Model, tmp_path: Path) -> None:
    with (
        registries.Tokens(tmp_path, lasts=1e-9) as tokens,
        registries.registry(tmp_path, **tokens.settings) as registry,
    ):
        to = parse(f"oci://{registry.address}/open/a-model:v1")
        with pytest.raises(ModelError, match="may not be written to"):
            push(model, to, web=Web(), progress=Silent())
        web = Web(docker=registries.config(tmp_path / "docker", registry.address))
        push(model, to, web=web, progress=Silent())
        push(model, replace(to, name="closed/a-model"), web=web, progress=Silent())
        assert ("repository:open/a-model:pull,push", "alice") in tokens.given
        tokens.given.clear()
        tokens.ill = 2  # while blobs are fetched: it is asked again
        assert content(get(home, to.at("v1"))) == FILES, "everybody may pull this one"
        assert tokens.ill == 0
        assert set(tokens.given) == {("repository:open/a-model:pull", "")}
        assert len(tokens.given) >= 4, "a token that has ended is not used again"
        with pytest.raises(ModelError, match="may not be read"):
            get(home, f"oci://{registry.address}/closed/a-model:v1")
        wrong = Web(docker=registries.config(tmp_path / "old", registry.address, word="old"))
        with pytest.raises(ModelError, match="may not be read"):
            get(home, f"oci://{registry.address}/closed/a-model:v1", wrong)
        assert content(get(home, f"oci://{registry.address}/closed/a-model:v1", web)) == FILES


def test_a_password_stays_with_the_registry(home: Home, tmp_path: Path) -> None:
    """Large registries send to a storage of their own; it is in the address there who may read."""
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer(WEIGHTS, **{TITLE: "a.gguf"})]})
    answers = {"/v2/": b"", "/v2/a/manifests/v1": body.encode()}
    with FileServer({"/there": WEIGHTS}) as storage, FileServer(answers) as origin:
        origin.redirects[f"/v2/a/blobs/{digest(WEIGHTS)}"] = f"{storage.url}/there?signature=1"
        origin.challenge = 'Basic realm="here"'
        web = Web(docker=registries.config(tmp_path / "docker", f"127.0.0.1:{origin.port}"))
        assert content(get(home, f"oci://127.0.0.1:{origin.port}/a:v1", web)) == {"a.gguf": WEIGHTS}
        asked = [seen for seen in origin.seen if "/blobs/" in seen.path]
        assert asked and all("authorization" in seen.headers for seen in asked)
        assert storage.seen and not any("authorization" in seen.headers for seen in storage.seen)


# names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/a/b", Reference("ghcr.io", "a/b")),
        ("oci://localhost:5000/a:v1.2-x", Reference("localhost:5000", "a", "v1.2-x")),
        (f"oci://r.example/a/b/c:v1@sha256:{'a' * 64}", Reference("r.example", "a/b/c", f"sha256:{'a' * 64}")),
        ("oci://[::1]:5000/a", Reference("[::1]:5000", "a")),
    ],
)  # fmt: skip
def test_addresses_of_artifacts(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert address(text) == ModelChoice(expected.place, revision=expected.version)


@pytest.mark.parametrize(
    "text", ["oci://a/b", "oci://ghcr.io", "oci://ghcr.io/", "oci://ghcr.io/A/b", "oci://ghcr.io/a@sha256:12",
             "oci://ghcr.io/a:", "oci://ghcr.io/../b", "oci://me:word@ghcr.io/a", "oci://ghcr.io//a"],
)  # fmt: skip
def test_addresses_that_name_nothing(text: str) -> None:
    with pytest.raises(QuestionError, match="names no artifact"):
        address(text)


@pytest.mark.parametrize(
    ("host", "origin"),
    [("localhost:5000", "http://localhost:5000"), ("127.0.0.2", "http://127.0.0.2"), ("[::1]:80", "http://[::1]:80"),
     ("ghcr.io", "https://ghcr.io"), ("docker.io", "https://registry-1.docker.io"), ("localhost.evil.io", "https://localhost.evil.io"),
     ("127.0.0.1.evil.io", "https://127.0.0.1.evil.io")],
)  # fmt: skip
def test_plain_http_is_for_this_machine_alone(host: str, origin: str) -> None:
    assert Reference(host, "a").origin == origin


def ollama(*kinds: str) -> list[dict[str, Any]]:
    return [layer(kind.encode(), f"application/vnd.ollama.image.{kind}") for kind in kinds]


GGUF_V3 = "application/vnd.docker.ai.gguf.v3"
CNCF = "application/vnd.cncf.model"
MAKERS = {
    "ollama": (ollama("model", "template", "license", "params", "projector"), ["model.gguf", "LICENSE", "mmproj.gguf"]),
    "docker": ([layer(b"a", GGUF_V3), layer(b"b", "application/vnd.docker.ai.license")], ["model.gguf", "LICENSE"]),
    "docker-parts": (
        [layer(b"a", GGUF_V3), layer(b"b", GGUF_V3)],
        ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"],
    ),
    "docker-names": ([layer(b"a", GGUF_V3, **{FILEPATH: "a.gguf"})], ["a.gguf"]),
    "modelpack": (
        [layer(b"a", f"{CNCF}.weight.v1.raw", **{FILEPATH: "a.safetensors"}),
         layer(b"c", f"{CNCF}.weight.config.v1.raw", **{FILEPATH: "./config.json"}),
         layer(b"d", f"{CNCF}.doc.v1.tar", **{FILEPATH: "README.md"})],
        ["a.safetensors", "config.json"],
    ),
    "modelpack-first": ([layer(b"a", **{"org.cnai.model.filepath": "a.gguf"})], ["a.gguf"]),
    "oras": (
        [layer(b"a", "application/vnd.oci.image.layer.v1.tar", **{TITLE: "a.safetensors"}),
         layer(b"b", "text/plain", **{TITLE: "vocab.txt"})],
        ["a.safetensors", "vocab.txt"],
    ),
    "gguf-beside-a-tar": ([layer(b"a", **{TITLE: "a.gguf"}), layer(b"b", "application/vnd.docker.ai.vllm.config.tar")],
                          ["a.gguf"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_layers_of_all_makers(name: str) -> None:
    layers, expected = MAKERS[name]
    found = files_of(layers, "oci://r.example/a:v1")
    assert [file.path for file in found] == expected
    known = {one["digest"].removeprefix("sha256:"): one["size"] for one in layers}
    assert all(known[str(file.sha256)] == file.size for file in found)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([layer(b"a", "application/vnd.oci.image.layer.v1.tar+gzip")], "no single files"),
        ([layer(b"a", "application/vnd.docker.image.rootfs.diff.tar.gzip")], "no single files"),
        ([layer(b"a", "application/vnd.oci.image.layer.v1.tar", **{TITLE: "d", "io.deis.oras.content.unpack": "true"})],
         "no single files"),
        ([layer(b"a", "application/vnd.oci.image.layer.v1.tar", **{FILEPATH: "a.safetensors"})], "no single files"),
        ([layer(b"a", f"{CNCF}.weight.v1.tar", **{FILEPATH: "a.safetensors"})], "no single files"),
        ([layer(b"a", "application/vnd.docker.ai.safetensors"),
          layer(b"b", "application/vnd.docker.ai.vllm.config.tar")],
         "no single files"),
        ([layer(b"a", f"{CNCF}.weight.v1.raw")], "no single files"),
        (ollama("model", "adapter"), "is an adapter"),
        ([layer(b"a", **{TITLE: "a.gguf"}), layer(b"b", **{TITLE: "a.gguf"})], "two files a.gguf"),
    ],
)  # fmt: skip
def test_layers_that_are_refused(layers: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        files_of(layers, "oci://r.example/a:v1")
    assert caught.value.hint
