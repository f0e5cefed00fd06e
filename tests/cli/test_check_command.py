"""`deployer check` as people and programs call it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deployer import profile
from deployer.checks import CHECKS
from deployer.host import to_json
from deployer.models import metadata
from deployer.sizing.memory import Use, memory
from tests import hosts
from tests.report.test_pages import strict
from tests.servers import Hub
from tests.sizing import ggufs
from tests.sizing.bed import MODELS

SHIPPED = {p.name: p for p in map(profile.load, profile.shipped())}
RANKED = sorted(SHIPPED, key=lambda name: -SHIPPED[name].rank)


def check(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DEPLOYER_HOME": str(home), "COLUMNS": "100", **environment}
    command = [sys.executable, "-m", "deployer", "check", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every named host as a file."""
    folder = tmp_path_factory.mktemp("hosts")
    for name, host in hosts.NAMED.items():
        (folder / f"{name}.json").write_text(json.dumps(to_json(host)))
    return {name: str(folder / f"{name}.json") for name in hosts.NAMED}


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> jsonschema.Draft202012Validator:
    """Of the schema that the command prints; closed, so that nothing unpublished is printed."""
    done = check("--schema", home=tmp_path_factory.mktemp("home"))
    assert done.returncode == 0 and done.stderr == ""
    return jsonschema.Draft202012Validator(strict(json.loads(done.stdout)))


def ids(report: dict[str, Any]) -> list[str]:
    return [f["id"] for f in report["findings"]]


def test_json_of_this_machine_meets_the_published_schema(
    validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    done = check("cpu-small", "--json", home=tmp_path)
    raw = json.loads(done.stdout)
    validator.validate(raw)
    assert raw["schema"] == 3
    assert ids(raw["report"]) == [c.id for c in CHECKS]
    assert done.returncode == (0 if raw["report"]["ok"] else 1)


@pytest.mark.parametrize("name", tuple(hosts.NAMED))
def test_a_saved_host_comes_back_as_it_was(
    name: str, saved: dict[str, str], validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    done = check("gpu-8gb", "--json", "--host", saved[name], home=tmp_path)
    raw = json.loads(done.stdout)
    validator.validate(raw)
    assert raw["host"] == json.loads(Path(saved[name]).read_text())
    again = tmp_path / "again.json"
    again.write_text(done.stdout)
    assert check("gpu-8gb", "--json", "--host", str(again), home=tmp_path).stdout == done.stdout


def test_all_json_holds_every_shipped_profile_and_serves_as_a_host(
    saved: dict[str, str], validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    done = check("--all", "--json", "--host", saved["rtx-4060"], home=tmp_path)
    raw = json.loads(done.stdout)
    validator.validate(raw)
    assert sorted(r["profile"] for r in raw["reports"]) == sorted(SHIPPED)
    again = tmp_path / "again.json"
    again.write_text(done.stdout)
    assert check("--all", "--json", "--host", str(again), home=tmp_path).stdout == done.stdout


def test_an_error_in_json_meets_the_schema_too(
    validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    done = check("--json", "--only", "gpuu", home=tmp_path)
    assert done.returncode == 2
    validator.validate(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["no-gpu", "rtx-4060", "h100", "nvml-silent"])
def test_all_ranks_what_surely_fits_before_what_may_before_what_does_not(
    name: str, saved: dict[str, str], tmp_path: Path
) -> None:
    done = check("--all", "--host", saved[name], home=tmp_path)
    lines = done.stdout.split("\n\n")[0].splitlines()
    order = [tuple(line.split()[:2]) for line in lines]
    reports = {
        r["profile"]: r
        for r in json.loads(check("--all", "--json", "--host", saved[name], home=tmp_path).stdout)["reports"]
    }
    word = {n: "yes" if r["sure"] else "?" if r["ok"] else "no" for n, r in reports.items()}
    assert order == [(w, n) for w in ("yes", "?", "no") for n in RANKED if word[n] == w]
    fit = [n for w, n in order if w == "yes"]
    assert done.returncode == (0 if fit else 1)
    for (_, n), line in zip(order, lines, strict=True):
        first = [f["id"] for f in reports[n]["findings"] if f["outcome"] == "fail" or f["unknown"]]
        assert len(line) <= 100 and (word[n] == "yes" or any(f"  {i}: " in line for i in first)), line
    if fit:  # what `check` without a name judges
        alone = json.loads(check("--json", "--host", saved[name], home=tmp_path).stdout)
        assert alone["report"]["profile"] == fit[0]


def test_all_says_no_where_nothing_fits(saved: dict[str, str], tmp_path: Path) -> None:
    raw = json.loads(Path(saved["no-gpu"]).read_text())
    raw["memory"] |= {"total": 10**6, "available": 10**6}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(raw))
    done = check("--all", "--host", str(path), home=tmp_path)
    assert done.returncode == 1
    assert f"0 of {len(SHIPPED)} profiles fit this host;" in done.stdout


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("--only", "gpu"), {i.id for i in CHECKS if i.group == "gpu"}),
        (("--only", "gpu.count,driver.version"), {"gpu.count", "driver.version"}),
        (
            ("--only", "gpu.count", "--only", "network"),
            {"gpu.count"} | {i.id for i in CHECKS if i.group == "network"},
        ),
        (("--only", "gpu", "--skip", "gpu.vram"), {i.id for i in CHECKS if i.group == "gpu"} - {"gpu.vram"}),
        (("--skip", "gpu, disk"), {i.id for i in CHECKS if i.group not in ("gpu", "disk")}),
    ],
    ids=["group", "ids", "repeated", "both", "skip"],
)
def test_only_and_skip_choose_checks_in_reading_order(
    words: tuple[str, ...], left: set[str], saved: dict[str, str], tmp_path: Path
) -> None:
    done = check("gpu-8gb", "--json", "--host", saved["rtx-4060"], *words, home=tmp_path)
    assert ids(json.loads(done.stdout)["report"]) == [c.id for c in CHECKS if c.id in left]


def test_only_changes_what_is_shown_and_not_which_profile_is_chosen(
    saved: dict[str, str], tmp_path: Path
) -> None:
    host = ("--json", "--host", saved["no-gpu"])
    every = json.loads(check(*host, home=tmp_path).stdout)["report"]
    some = json.loads(check(*host, "--only", "system", home=tmp_path).stdout)["report"]
    assert some["profile"] == every["profile"] and len(ids(some)) < len(ids(every))


def test_a_skipped_failure_does_not_count(saved: dict[str, str], tmp_path: Path) -> None:
    words = ("h100-80gb", "--host", saved["rtx-4060"])
    assert check(*words, home=tmp_path).returncode == 1
    assert check(*words, "--only", "system.os", home=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "gpuu"), "did you mean `gpu`"),
        (("--only", "vram"), "did you mean `gpu.vram`"),
        (("--skip", "gpu.cuont"), "did you mean `gpu.count`"),
        (("--only", ""), "there is no check or group ``"),
        (("--only", "gpu,"), "there is no check or group ``"),
        (("--only", "zzz"), "hint: groups: system, memory"),
        (("--only", "zzz", "--host", __file__), "there is no check or group `zzz`"),
        (("--only", "gpu", "--skip", "gpu"), "no check is left"),
        (("--json", "--markdown"), "exclude each other"),
        (("--all", "cpu-small"), "--all judges every shipped profile"),
        (("cpu-small", "--junit", "/proc/no/junit.xml"), "/proc/no/junit.xml cannot be written"),
        (("cpu-small", "--junit", "/tmp"), "is a directory"),
    ],
)
def test_a_wrong_question_ends_with_2_and_a_hint(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = check(*words, home=tmp_path)
    assert done.returncode == 2, done
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" or "--json" in words


@pytest.mark.parametrize(
    "words", [("gpu-8gb",), ("gpu-8gb", "--json"), ("gpu-8gb", "--markdown"), ("--all",)]
)
def test_junit_goes_with_any_output(words: tuple[str, ...], saved: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "junit.xml"
    host = ("--host", saved["no-gpu"])
    done = check(*words, *host, "--junit", str(file), home=tmp_path)
    assert done.stdout == check(*words, *host, home=tmp_path).stdout
    suites = ET.parse(file).getroot().findall("testsuite")
    assert len(suites) == (len(SHIPPED) if "--all" in words else 1)
    judged = json.loads(check("gpu-8gb", "--json", *host, home=tmp_path).stdout)["report"]
    [suite] = [s for s in suites if s.get("name") == "gpu-8gb"]
    assert [case.get("name") for case in suite] == ids(judged)
    assert int(suite.get("failures", "")) == judged["counts"]["fail"] > 0
    assert [path.name for path in file.parent.iterdir()] == ["junit.xml"], "nothing aside is left"


def test_junit_takes_the_place_of_an_older_file_and_of_nothing_else(
    saved: dict[str, str], tmp_path: Path
) -> None:
    real, link = tmp_path / "real.xml", tmp_path / "link.xml"
    real.write_text("old")
    link.symlink_to(real)
    words = ("cpu-small", "--host", saved["no-gpu"], "--junit")
    check(*words, str(link), home=tmp_path)
    assert link.is_symlink() and real.read_text().startswith("<?xml")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    check(*words, str(pipe), home=tmp_path)
    assert reader.communicate(timeout=30)[0] == real.read_text()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_markdown_names_the_program_and_the_moment(saved: dict[str, str], tmp_path: Path) -> None:
    done = check("gpu-8gb", "--markdown", "--host", saved["no-gpu"], home=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("**gpu-8gb: ") and "| fail | `gpu.count` |" in done.stdout
    assert done.stdout.endswith("\ndeployer 0, host of 2026-01-01T00:00:00Z\n")
    everyone = check("--all", "--markdown", "--host", saved["no-gpu"], home=tmp_path).stdout
    assert len(re.findall(r"^\| (?:yes|no|\\?\?) \| [\w-]+ \|", everyone, re.MULTILINE)) == len(SHIPPED)


def test_v_lists_every_check(saved: dict[str, str], tmp_path: Path) -> None:
    text = check("gpu-8gb", "-v", "--host", saved["rtx-4060"], home=tmp_path).stdout
    assert [c.id for c in CHECKS if f"  {c.id} " not in text] == []


@pytest.mark.parametrize("output", [(), ("-v",), ("--json",), ("--markdown",), ("--all",)])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_of_a_host_can_be_printed_anywhere(
    output: tuple[str, ...], encoding: str, saved: dict[str, str], tmp_path: Path
) -> None:
    raw = json.loads(Path(saved["rtx-4060"]).read_text())
    raw["gpus"][0]["name"] = raw["system"]["distribution"] = "\x1b[2J\ud800 κάρτα | 显卡"
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(raw))
    words = (*output, "--host", str(path), *(() if "--all" in output else ("gpu-8gb",)))
    env = {**os.environ, "DEPLOYER_HOME": str(tmp_path), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "deployer", "check", *words, "--junit", str(tmp_path / "j.xml")]
    done = subprocess.run(command, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode in (0, 1) and done.stderr == b"", done.stderr
    assert b"\x1b" not in done.stdout
    ET.parse(tmp_path / "j.xml")
    if "--json" in output:
        assert json.loads(done.stdout)["host"]["gpus"][0]["name"] == raw["gpus"][0]["name"]


def test_schema_and_formats_are_loaded_only_when_asked(saved: dict[str, str], tmp_path: Path) -> None:
    env = {**os.environ, "DEPLOYER_HOME": str(tmp_path)}
    words = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "deployer",
        "check",
        "cpu-small",
        "--host",
        saved["no-gpu"],
    ]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "deployer.report.text" in loaded
    assert not loaded & {"deployer.report.formats", "deployer.cli.schema", "xml.etree.ElementTree"}


def test_memory_is_judged_by_the_headers_of_the_model_before_it_is_fetched(tmp_path: Path) -> None:
    """On the Hub for the profile that is named; a saved host keeps what was read, and is judged by it elsewhere."""
    path = ggufs.write(tmp_path / "m-Q8_0.gguf", *MODELS["qwen3"]())
    text = SHIPPED["cpu-small"].path.read_text()
    model, rest = text.index("model:\n"), text.index("  kind: chat")
    wanted = tmp_path / "mine.yaml"
    wanted.write_text(text[:model] + "model:\n  source: hf://org/model\n  files: [{path: m-Q8_0.gguf}]\n" + text[rest:])
    with Hub("org/model", {"m-Q8_0.gguf": path.read_bytes()}) as hub:
        done = check(str(wanted), "--only", "memory.available", "--json", home=tmp_path, HF_ENDPOINT=hub.url)
        sent = sum(seen.sent for seen in hub.seen)
    (finding,) = json.loads(done.stdout)["report"]["findings"]
    described = metadata.describe(path)
    use = profile.load(wanted).serving
    assert use.context and use.concurrency
    assert finding["wanted"] == str(memory(described, "llamacpp", Use(use.context, use.concurrency)))
    assert sent < 5_000_000 < path.stat().st_size
    (tmp_path / "host.json").write_text(done.stdout)
    elsewhere = ("--host", str(tmp_path / "host.json"), "--only", "memory.available", "--json")
    again = check(str(wanted), *elsewhere, home=tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert json.loads(again.stdout)["report"]["findings"] == [finding]
