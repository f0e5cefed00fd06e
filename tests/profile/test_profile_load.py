"""Profiles: every mistake at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer import profile
from deployer.cli.pull import address
from deployer.errors import ProfileError, QuestionError
from deployer.profile import schema

GOOD = """\
# a comment
description: for tests
rank: 1
requirements:
  gpu: {count: 2, vram: 24 GB, free_vram: 20 GB, compute_capability: 8.0}
  driver: 580.65.06
  memory: 8 GB
  disk: {images: 1 GB}
  python: 3.10
model:
  source: hf://owner/name
  revision: 9216db5781bf21249d130ec9da846c4624c16137
  files:
    - path: a.gguf
      size: 100 MB
engine: llamacpp
variant: cpu
limits: {first_token: 500 ms}
"""
WHEEL = GOOD.replace(
    "hf://owner/name\n  revision: 9216db5781bf21249d130ec9da846c4624c16137", "pypi://name==1.0"
)
REVISION = "\n  revision: 9216db5781bf21249d130ec9da846c4624c16137"
LINK = GOOD.replace(f"hf://owner/name{REVISION}", "https://models.example/a.gguf")
SHIPPED = [pytest.param(path, id=path.stem) for path in profile.shipped()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def problems(path: Path, text: str) -> list[str]:
    """The messages that loading `text` gives, less the path in front, which must be there."""
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        profile.load(path)
    assert all(problem.startswith(f"{path}:") for problem in caught.value.problems)
    assert caught.value.exit_code == 2
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def test_a_profile_becomes_values(path: Path) -> None:
    path.write_text(GOOD)
    found = profile.load(path)
    assert found.name == "mine"
    assert found.requirements.gpu == profile.GpuNeed(2, 24 * 10**9, 20 * 10**9, "8.0")
    assert found.requirements.python == "3.10"  # not the number 3.1
    assert found.requirements.driver == "580.65.06"
    assert found.requirements.disk == profile.DiskNeed(images=10**9)
    assert found.model.files == (profile.ModelFile("a.gguf", size=10**8),)
    assert (found.engine, found.image, found.runtime) == ("llamacpp", "llamacpp", None)
    assert found.serving == profile.Serving()
    assert found.limits == profile.Limits(first_token=0.5)


DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("modelscope://owner/name", ("modelscope://owner/name", None)),
        ("oci://ghcr.io/owner/name", ("oci://ghcr.io/owner/name", None)),
        ("oci://localhost:5000/name:v1", ("oci://localhost:5000/name", "v1")),
        (f"oci://localhost:5000/name@{DIGEST}", ("oci://localhost:5000/name", DIGEST)),
        (f"oci://ghcr.io/name:v1@{DIGEST}", ("oci://ghcr.io/name", DIGEST)),
        (f"https://a.example/b#sha256={'b' * 64}", (f"https://a.example/b#sha256={'b' * 64}", None)),
    ],
)
def test_sources_of_models(path: Path, source: str, expected: tuple[str, str | None]) -> None:
    path.write_text(GOOD.replace(f"hf://owner/name{REVISION}", source))
    found = profile.load(path).model
    assert (found.source, found.revision) == expected
    jsonschema.validate(yaml.safe_load(path.read_text()), profile.json_schema())
    typed = address(source)
    assert (typed.source, typed.revision) == expected, "the command line has the same addresses"


def test_a_link_may_have_its_hash_in_files(path: Path) -> None:
    path.write_text(LINK.replace("size: 100 MB", f"sha256: {'b' * 64}"))
    assert profile.load(path).model.files == (profile.ModelFile("a.gguf", "b" * 64),)


def test_what_may_be_taken(path: Path) -> None:
    path.write_text(GOOD.replace("  files:", "  allow: [remote-code, pickle]\n  files:"))
    assert profile.load(path).model.allow == ("remote-code", "pickle")
    jsonschema.validate(yaml.safe_load(path.read_text()), profile.json_schema())
    assert profile.load(profile.find("gpt2")).model.allow == ()


def test_five_mistakes_give_five_messages(path: Path) -> None:
    text = """\
description: five mistakes
rank: 1
requirements:
  memroy: 8 GB
  memory: 8
  driver: v580
model:
  kind: chat
engine: llamacp
variant: cpu
"""
    expected = [
        "4: requirements.memroy: unknown key (did you mean `memory`?)",
        "5: requirements.memory: `8` is not right (a size with its unit, for example 8 GB or 512 MiB)",
        "6: requirements.driver: `v580` is not right (a version made of numbers and dots, for example 580.65.06)",
        "8: model.source: missing (where it comes from)",
        "9: engine: `llamacp` is not right (one of llamacpp, transformers, vllm)",
    ]
    assert problems(path, text) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rank: 1\n", "rank: 1\nrank: 2\n"), "4: rank: given twice (once)"),
        (("rank: 1", "rank: 1.5"), "3: rank: `1.5` is not right (a whole number from 0 to 1000)"),
        (("rank: 1", "rank: 1001"), "3: rank: `1001` is not right (a whole number from 0 to 1000)"),
        (("rank: 1", "rank:"), "3: rank: no value (which profile to prefer when several fit: the highest)"),
        (
            ("rank: 1", "rank: [1]"),
            "3: rank: no value (which profile to prefer when several fit: the highest)",
        ),
        (("for tests", "''"), "2: description: `` is not right (some text)"),
        (("variant: cpu\n", ""), "2: variant: missing (variant of the image)"),
        (
            ("disk: {images: 1 GB}", "disk: 1 GB"),
            "8: requirements.disk: not a mapping (size, images, models, kind)",
        ),
        (
            ("files:\n    - path: a.gguf\n      size: 100 MB", "files: a.gguf"),
            "13: model.files: not a list (one entry with `- ` for each)",
        ),
        (("- path: a.gguf\n     ", "-"), "14: model.files[0].path: missing (name inside the source)"),
        (
            ("size: 100 MB", "sha256: ABC"),
            "15: model.files[0].sha256: `ABC` is not right (64 hexadecimal digits",
        ),
        (("hf://owner/name", "s3://a/b"), "11: model.source: `s3://a/b` is not right (hf://owner/name"),
        (("500 ms", "0.5"), "18: limits.first_token: `0.5` is not right (a time with its unit"),
        (("limits", "port: 1\nlimits"), "18: port: unknown key ("),
        (("variant", "varaint"), "17: varaint: unknown key (did you mean `variant`?)"),
        (("limits", "xyzzy: 1\nlimits"), "18: xyzzy: unknown key (known here: description, rank"),
        (("free_vram: 20 GB", "free_vram: 25 GB"), "5: requirements.gpu.free_vram: more than vram"),
        (
            ("hf://owner/name", "file:///models"),
            "12: model.revision: only hf://, modelscope://, oci:// sources have one (leave it out)",
        ),
        (
            ("hf://owner/name", "oci://ghcr.io/owner/name:v1"),
            "12: model.revision: the source has a tag or a digest already (leave it out)",
        ),
        (("  files:", "  allow: pickle\n  files:"), "13: model.allow: not a list (one entry with `- ` for each)"),
        (("  files:", "  allow: []\n  files:"), "13: model.allow: not a list"),
        (("  files:", "  allow: [pickle, all]\n  files:"), "13: model.allow: `all` is not right (one of remote-"),
        (("  files:", "  allow: [[pickle]]\n  files:"), "13: model.allow: no value (what may be taken"),
    ],
    ids=lambda value: value.split(" (")[0].replace(" ", "-") if isinstance(value, str) else None,
)
def test_one_mistake(change: tuple[str, str], message: str, path: Path) -> None:
    assert change[0] in GOOD
    (found,) = problems(path, GOOD.replace(*change, 1))
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHEEL, "12: model.files: a wheel needs its one model file with path and sha256"),
        (
            WHEEL.replace("  files:\n    - path: a.gguf\n      size: 100 MB\n", ""),
            "10: model.files: a wheel needs its one model file with path and sha256",
        ),
        (LINK, "12: model.source: one file from anywhere needs its hash (#sha256="),
        ("", "1: the file is empty (a mapping with description, rank"),
        ("# only a comment\n", "1: the file is empty"),
        ("just a word", "1: the file: not a mapping (description, rank"),
        ("[a, list]", "1: the file: not a mapping"),
        ("a: b\nc: [1,\n", "3: not YAML: "),
        ("a:\tb\n\t- c", "2: not YAML: "),
        ("a: b\x00", "1: not YAML: cannot be read"),
        ("--- 1\n--- 2", "2: not YAML: but found another document"),
        ("[" * 100_000, "1: the file: nests deeper than any profile"),
    ],
    ids=[
        *("wheel without hash", "wheel without files", "link", "empty", "comment", "word", "list", "unclosed", "tab"),
        *("control character", "two documents", "deep"),
    ],
)
def test_files_that_are_no_profile(text: str, message: str, path: Path) -> None:
    (found,) = problems(path, text)
    assert found.startswith(message)


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_files_that_cannot_be_read(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    if kind == "not text":
        path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(QuestionError, match="cannot be read"):
        profile.load(path)


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_profile_loads_and_meets_the_schema(path: Path) -> None:
    found = profile.load(path)
    assert found.name == path.stem
    raw = yaml.safe_load(path.read_text())
    jsonschema.Draft202012Validator(profile.json_schema()).validate(raw)


def test_ranks_of_shipped_profiles_are_unique() -> None:
    ranks = {profile.load(path).rank for path in profile.shipped()}
    assert len(ranks) == len(profile.shipped()) >= 10


def test_the_schema_is_one_and_describes_every_key() -> None:
    found = profile.json_schema()
    jsonschema.Draft202012Validator.check_schema(found)

    def described(part: dict[str, Any]) -> bool:
        below = [*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])]
        return bool(part["description"]) and all(map(described, below))

    assert described(found)
    assert set(found["properties"]) == set(schema.PROFILE.keys)


@pytest.mark.parametrize(
    "change",
    [
        ("variant: cpu\n", ""),
        ("variant", "varaint"),
        ("memory: 8 GB", "memory: 8"),
        ("engine: llamacpp", "engine: other"),
        ("rank: 1", "rank: 1001"),
        ("driver: 580.65.06", "driver: v580"),
        ("hf://owner/name", "s3://a/b"),
        ("500 ms", "0.5"),
        ("for tests", "''"),
    ],
    ids=lambda change: change[1].split("\n")[0] or "missing",
)
def test_the_schema_refuses_what_loading_refuses(change: tuple[str, str], path: Path) -> None:
    validator = jsonschema.Draft202012Validator(profile.json_schema())
    assert validator.is_valid(yaml.safe_load(GOOD))
    assert problems(path, GOOD.replace(*change, 1))
    assert not validator.is_valid(yaml.safe_load(GOOD.replace(*change, 1)))


def test_find_knows_shipped_names_and_paths(path: Path) -> None:
    assert profile.find("cpu-small").name == "cpu-small.yaml"
    path.write_text(GOOD)
    assert profile.find(str(path)) == path


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cpu-smal", "did you mean `cpu-small`?"),
        ("h100", "did you mean `h100-80gb`?"),
        ("xyzzy", "profiles: a100-80gb, cpu-8gb, cpu-small"),
        ("", "profiles: a100-80gb"),
        ("../profiles", None),
        ("other.yaml", None),
    ],
)
def test_find_helps_with_unknown_names(name: str, hint: str | None) -> None:
    with pytest.raises(QuestionError) as caught:
        profile.find(name)
    assert (caught.value.hint or "").startswith(hint or "")
    assert bool(caught.value.hint) is bool(hint)


LINES = st.lists(
    st.sampled_from(
        [*GOOD.splitlines(), "  a: &x [*x]", "<<: {}", "? [a]", "- b", "rank: 0x1", "model: null"]
    )
    | st.text(max_size=12)
).map("\n".join)


@settings(max_examples=150)
@given(text=st.text() | LINES)
def test_any_text_loads_or_is_a_profile_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode())
    try:
        found = profile.load(path)
    except ProfileError as error:
        assert error.problems
        assert all(problem.startswith(f"{path}:") for problem in error.problems)
    else:
        assert found.name == "any"
