"""Configuration files: what they may say, how mistakes are told, and that options win over them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from deployer.cli import COMMANDS, app, settings
from deployer.errors import QuestionError

Parsed = Callable[..., dict[str, Any]]


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's own file, which is not there yet; the machine's is elsewhere in this test."""
    monkeypatch.delenv("DEPLOYER_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config/deployer/config.yaml"
    own.parent.mkdir(parents=True)
    machine = Path("/etc/deployer/config.yaml")
    assert settings.files() == (machine, own)
    monkeypatch.setattr(settings, "files", lambda: (tmp_path / "etc.yaml", own))
    return own


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that $DEPLOYER_CONFIG names, which is not there yet."""
    path = tmp_path / "named.yaml"
    monkeypatch.setenv("DEPLOYER_CONFIG", str(path))
    return path


def problems(path: Path, text: str) -> list[str]:
    """What is wrong with a configuration `text`, a line each, without the file's name."""
    path.write_text(text)
    with pytest.raises(QuestionError) as caught:
        settings.defaults()
    error = caught.value
    assert error.hint and "docs/images.md" in error.hint
    if not error.evidence:
        assert str(path) in error.message
        return [error.message.partition(str(path))[2]]
    count = len(error.evidence)
    assert error.message == f"the configuration has {count} problem{'s' if count > 1 else ''}"
    assert all(line.startswith(f"{path}:") for line in error.evidence)
    return [line.removeprefix(f"{path}:") for line in error.evidence]


# --------------------------------------------------------------------------------------------------------- files


def test_without_files_there_are_no_defaults(person: Path) -> None:
    assert settings.defaults() == {}


def test_where_a_person_keeps_it_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPLOYER_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.files()[1] == tmp_path / ".config/deployer/config.yaml"


def test_the_person_wins_over_the_machine_key_by_key(person: Path, tmp_path: Path) -> None:
    (tmp_path / "etc.yaml").write_text("build:\n  proxy: http://machine\n  registry: reg.machine\n")
    person.write_text("build:\n  proxy: http://person\n")
    assert settings.defaults()["build"] == {"proxy": "http://person", "registry": "reg.machine"}


def test_one_file_can_be_named_and_then_it_is_the_only_one(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(named.parent))
    (named.parent / "deployer").mkdir()
    (named.parent / "deployer/config.yaml").write_text("build: {proxy: http://person}\n")
    named.write_text("build: {registry: reg.named}\n")
    assert settings.files() == (named,)
    assert settings.defaults()["build"] == {"registry": "reg.named"}


def test_a_named_file_must_be_there(named: Path) -> None:
    with pytest.raises(QuestionError, match=r"named\.yaml cannot be read") as caught:
        settings.defaults()
    assert caught.value.exit_code == 2
    named.mkdir()
    with pytest.raises(QuestionError, match=r"named\.yaml cannot be read"):
        settings.defaults()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "build:\n", "build:\n  # proxy: x\n", "build: {}\n", "---\n"])
def test_a_file_may_say_nothing(text: str, named: Path) -> None:
    named.write_text(text)
    assert settings.defaults() == {}


# -------------------------------------------------------------------------------------------------------- values


def test_paths_are_relative_to_the_file(named: Path) -> None:
    folder = named.parent
    (folder / "company.pem").touch()
    (folder / "wheels").mkdir()
    named.write_text(f"build:\n  ca_cert: company.pem\n  wheelhouse: {folder}/wheels\n")
    paths = {"ca_cert": str(folder / "company.pem"), "wheelhouse": str(folder / "wheels")}
    assert settings.defaults() == {"build": paths, "up": paths, "pull": {"ca_cert": paths["ca_cert"]}}


def test_a_path_that_is_not_there(named: Path) -> None:
    told = problems(named, "build:\n  proxy: http://x\n  ca_cert: no.pem\n")
    assert told == [f"3: build.ca_cert: {named.parent}/no.pem does not exist"]


def test_caches_are_one_or_many(named: Path) -> None:
    named.write_text("build:\n  cache_from: a\n  cache_to: [b, 'type=gha']\n")
    assert settings.defaults()["build"] == {"cache_from": ["a"], "cache_to": ["b", "type=gha"]}


def test_up_and_pull_get_what_they_share(named: Path) -> None:
    named.write_text(
        "build:\n  base: debian@sha256:0\n  index_url: https://i\n  apt_mirror: http://m\n  proxy: http://p\n"
        "  registry: reg\n  provenance: max\n  builder: far\n  platform: linux/arm64\n"
    )
    found = settings.defaults()
    shared = {
        "base": "debian@sha256:0", "index_url": "https://i", "apt_mirror": "http://m", "proxy": "http://p",
    }  # fmt: skip
    assert found["up"] == shared and found["pull"] == {"index_url": "https://i"}
    assert found["build"].keys() == shared.keys() | {"registry", "provenance", "builder", "platform"}


def test_every_key_is_an_option_of_the_command() -> None:
    for name, keys in (("build", settings.BUILD), ("up", settings.SHARED), ("pull", ("index_url", "ca_cert"))):
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        assert set(keys) <= {option.name for option in command.params}


# ------------------------------------------------------------------------------------------------------ mistakes


def test_all_mistakes_are_told_with_their_lines(named: Path) -> None:
    text = """\
# company
buidl:
  registry: x
build:
  indexurl: https://x
  proxy: 3128
  registry: reg
  wheelhouse: [a]
  cache_from: {a: b}
  cache_to: [1, b]
7: x
"""
    told = problems(named, text)
    assert [int(line.partition(":")[0]) for line in told] == [2, 5, 6, 8, 9, 10, 11]
    assert told[0] == "2: `buidl` is not known; there is `build`"
    assert told[1].startswith("5: build.indexurl is not known; there are base, index_url, ")
    assert told[2] == "6: build.proxy: `3128` is not a text"
    assert "build.wheelhouse" in told[3] and "neither a text nor a list" in told[4]
    assert "build.cache_to" in told[5] and told[6].startswith("11: `7` is not known")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "a `build:` section is expected"),
        ("build\n", "a `build:` section is expected"),
        ("build: [a]\n", "a `build:` section is expected"),
        ("build: 1\n", "a `build:` section is expected"),
        ("build:\n  proxy: [\n", "is no YAML: "),
        ("a: 1\n---\nb: 2\n", "is no YAML: "),
        ("build: {proxy: !!python/object:os.system x}\n", "is no YAML: "),
        ("? [a]\n: b\n", "is no YAML: "),
        ("build:\n\tproxy: x\n", "is no YAML: "),
    ],
)
def test_what_is_no_configuration(text: str, said: str, named: Path) -> None:
    [told] = problems(named, text)
    assert said in told


def test_bytes_that_are_no_text(named: Path) -> None:
    named.write_bytes(b"build: \xff\xfe\n")
    with pytest.raises(QuestionError, match="cannot be read"):
        settings.defaults()


# ------------------------------------------------------------------------------------------------------- options


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a command gets when it is called with these words; it is not run."""

    def call(name: str, *words: str) -> dict[str, Any]:
        got: dict[str, Any] = {}
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        monkeypatch.setattr(command, "callback", lambda **values: got.update(values))
        app.main([name, *words], standalone_mode=False)
        return got

    return call


def test_options_win_over_the_file(named: Path, parsed: Parsed) -> None:
    named.write_text("build:\n  registry: reg.file\n  proxy: http://file\n  cache_from: [a, b]\n")
    plain = parsed("build", "vllm")
    assert plain["registry"] == "reg.file" and plain["proxy"] == "http://file" and plain["cache_from"] == ("a", "b")
    given = parsed("build", "vllm", "--registry", "reg.option", "--cache-from", "c")
    assert given["registry"] == "reg.option" and given["proxy"] == "http://file" and given["cache_from"] == ("c",)
    assert parsed("up", "--proxy", "http://option")["proxy"] == "http://option"
    assert parsed("up")["proxy"] == "http://file"


def test_a_build_takes_what_the_file_says(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named.write_text("build: {registry: reg.file/ai}\n")
    for words, registry in (((), "reg.file/ai"), (("--registry", "reg.option"), "reg.option")):
        app.main(["build", "debian", "--plan", "--push", "--json", *words], standalone_mode=False)
        rows = json.loads(capsys.readouterr().out)["images"]
        assert {row["reference"].partition("/deployer/")[0] for row in rows} == {registry}


def test_a_value_that_no_option_takes_is_refused(named: Path, parsed: Parsed) -> None:
    named.write_text("build: {platform: windows/amd64}\n")
    with pytest.raises(click.BadParameter, match="windows/amd64"):
        parsed("build", "vllm")


def test_other_commands_do_not_read_it(named: Path, parsed: Parsed) -> None:
    named.write_text("wrong")
    assert "as_json" in parsed("status")
    with pytest.raises(QuestionError):
        parsed("up")
