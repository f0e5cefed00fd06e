"""`deployer build` up to the build itself: what there is, what would be done, what CI is told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from deployer import images
from deployer.cli import app
from deployer.errors import QuestionError, RuntimeUnavailable
from deployer.images import bake, matrix
from deployer.images.bake import BuildSettings
from deployer.quantity import format_size
from tests.stage import engine

NAMES = [f"{n}:{v.name}" for n in images.names() for v in images.load(n).variants]
REGISTRY = f"nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:{'0' * 64}"
TORCH = images.target("torch", "cu130")
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`deployer build` with these words: what it prints. There is no engine, no configuration, and no network."""
    (tmp_path / "config.yaml").touch()
    monkeypatch.setenv("DEPLOYER_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def call(*words: str) -> str:
        app.main(["--home", str(tmp_path / "home"), "build", *words], standalone_mode=False)
        return capsys.readouterr().out

    return call


@pytest.fixture
def there(run: Run, tmp_path: Path) -> Iterator[list[str]]:
    """The images on an engine that answers as the real one does."""
    said = json.loads((Path(engine.__file__).parent / "hosts/base.json").read_text())["engine"]
    with engine.engine(said, tmp_path / "engine.sock"):
        yield said["images"]


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["images"]
    return found


# ---------------------------------------------------------------------------------------------------------- list


def test_the_list_names_every_variant(run: Run) -> None:
    lines = run("--list").splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert run() == run("--list") == "\n".join(lines) + "\n", "nothing asked is a question too"
    listed = rows(run("--list", "--json"))
    assert [row["image"] for row in listed] == NAMES
    for row, line in zip(listed, lines, strict=True):
        assert row["tag"] == images.target(*row["image"].split(":")).reference
        assert line.endswith(row["description"])


def test_the_list_is_of_the_base_that_was_named(run: Run) -> None:
    tags = {row["image"]: row["tag"] for row in rows(run("--list", "--json", "--base", REGISTRY))}
    assert tags["vllm:cu130"] == images.target("vllm", "cu130", REGISTRY).reference


# ------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_says_what_is_there_and_what_would_be_built(run: Run, there: list[str], tmp_path: Path) -> None:
    there.append(TORCH.reference)
    lines = run("torch:cu130", "vllm", "--dry-run").splitlines()
    vllm = images.target("vllm", "cu130")
    assert lines[0] == f"torch:cu130: {TORCH.reference} is there"
    need = format_size(vllm.variant.build_disk)
    assert f"vllm:cu130: {vllm.reference} would be built, needs {need} of disk" in lines
    assert lines[-1] == f"  on {TORCH.reference}", "the one right below comes last"
    assert not list(tmp_path.glob("home/**/*")), "nothing was made"


def test_a_dry_run_for_programs(run: Run, there: list[str]) -> None:
    [row] = rows(run("torch:cu130", "--dry-run", "--json", "--registry", "reg.example/ai", "--tag", "1.0"))
    assert row == {
        "image": "torch:cu130",
        "references": [
            TORCH.reference, f"reg.example/ai/{TORCH.reference}", "reg.example/ai/deployer/torch:1.0",
        ],
        "there": False,
        "stands_on": [target.reference for target in TORCH.needed[:-1]],
        "base": "archive",
        "disk": TORCH.variant.build_disk,
        "labels": bake.labels(TORCH),
    }  # fmt: skip


def test_without_a_variant_all_are_meant_and_none_twice(run: Run, there: list[str]) -> None:
    asked = rows(run("torch:cpu", "transformers", "torch", "--dry-run", "--json"))
    wanted = [name for image in ("transformers", "torch") for name in NAMES if name.startswith(f"{image}:")]
    assert sorted(row["image"] for row in asked) == sorted(wanted)
    assert asked[0]["image"] == "torch:cpu"
    assert [row["image"] for row in rows(run("--all", "--dry-run", "--json"))] == NAMES


@pytest.mark.parametrize("word", ["--no-cache", "--push"])
def test_what_is_built_in_any_case_needs_no_engine_to_be_told(word: str, run: Run) -> None:
    [row] = rows(run("torch:cu130", "--dry-run", "--json", "--registry", "reg.example", word))
    assert row["there"] is False
    assert row["references"][0].startswith("reg.example/" if word == "--push" else "deployer/")


def test_a_dry_run_without_an_engine(run: Run, tmp_path: Path) -> None:
    [row] = rows(run("torch:cu130", "--dry-run", "--json"))
    assert row["there"] is False, "where no engine is, nothing is there"
    with engine.engine({"state": "refuse"}, tmp_path / "engine.sock"):
        with pytest.raises(RuntimeUnavailable, match=r"no container engine answers at .*engine\.sock") as caught:
            run("torch:cu130", "--dry-run")
        assert caught.value.hint


# ---------------------------------------------------------------------------------------------------------- plan


def test_the_plan_is_the_matrix(run: Run) -> None:
    targets = tuple(images.target(n, v.name) for n in images.names() for v in images.load(n).variants)
    assert rows(run("--plan", "--json")) == rows(run("--all", "--plan", "--json")) == matrix.plan(
        targets, BuildSettings()
    )
    asked = rows(run("torch:cu130", "--plan", "--json", "--push", "--registry", "reg.example"))
    assert asked == matrix.plan((TORCH,), BuildSettings(push=True, registry="reg.example"))
    assert run("torch:cu130", "--plan") == matrix.as_text(matrix.plan((TORCH,), BuildSettings())) + "\n"


def test_a_plan_since_a_revision_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QuestionError, match="--since asks git"):
        run("--plan", "--since", "nothing")  # no git on this PATH
    monkeypatch.undo()
    with pytest.raises(QuestionError, match="git cannot tell"):
        run("--plan", "--since", "no-such-revision")


# ------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("nothing",), "there is no image `nothing`", "torch"),
        (("torch:cu1",), "image `torch` has no variant `cu1`", "cu130"),
        (("torch:cu130", "vllm:cpu"), "image `vllm` has no variant `cpu`", "cu130"),
        (("", "--dry-run"), "there is no image ``", "torch"),
        (("nothing", "--plan"), "there is no image `nothing`", "torch"),
        (("torch:cu130", "--push"), "--push to where?", "--registry HOST/PATH"),
        (("torch:cu130", "--push", "--tag", "1.0"), "--push to where?", "--registry HOST/PATH"),
        (("gateway:cpu", "--set", "cudnn=9.24.0.43"), "gateway:cpu has no cuDNN", "CUDA"),
        (("llamacpp:cpu", "--set", "cudnn=9.24.0.43"), "llamacpp:cpu has no cuDNN", "torch"),
        (("transformers", "--set", "cudnn=9.24.0.43"), "transformers:cpu has no cuDNN", "CUDA"),
        (("torch:cu130", "--set", "torch=2.14"), "--set torch=2.14: what can be set is cudnn", "cudnn=9.24.0.43"),
        (("torch:cu130", "--set", "cudnn"), "--set cudnn=: what can be set is cudnn", "--set cudnn="),
        (("torch:cu130", "--set", "cudnn="), "--set cudnn=: what can be set is cudnn", "--set cudnn="),
        (("torch:cu130", "--set", "compute_capability=8.6"), "`cu130` is not compiled here", "llamacpp:cuda"),
        (("llamacpp:cuda", "--set", "compute_capability=6.1"), "13.0 does not compile for compute capability", "7.5"),
        (("llamacpp:cuda", "--set", "compute_capability=big"), "`big` is no compute capability", "8.6"),
        (("llamacpp:cuda", "--set", "compute_capability=,"), "of which GPU", "8.6"),
        (("torch:cu130", "--set", "cudnn=9", "--set", "cuda=13"), "--set cuda=13: what can be set is cudnn", "cudnn"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_fetched(
    words: tuple[str, ...], said: str, hint: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(QuestionError) as caught:
        run(*words)
    assert said in caught.value.message
    assert caught.value.hint and hint in caught.value.hint
    assert not list(tmp_path.glob("home/**/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--platform", "windows/amd64"), "windows/amd64"),
        (("--provenance", "some"), "some"),
        (("--ca-cert", "/no/such/file"), "/no/such/file"),
        (("--wheelhouse", "/no/such/folder"), "/no/such/folder"),
        (("--sbom", __file__), "is a file"),
    ],
)
def test_words_that_no_option_takes(words: tuple[str, ...], said: str, run: Run) -> None:
    with pytest.raises(click.UsageError, match=said):
        run("torch:cu130", *words)


def test_a_push_to_a_whole_reference_needs_no_registry(run: Run) -> None:
    [row] = rows(run("torch:cu130", "--dry-run", "--json", "--push", "--tag", "ghcr.io/me/x:1"))
    assert row["references"] == ["ghcr.io/me/x:1"], "nothing goes to a registry that was not named"
