"""The command line as people and programs use it: help, exit codes, JSON, and what it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deployer.cli import COMMANDS
from deployer.host import to_json
from tests import hosts

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DEPLOYER_HOME": str(home), "COLUMNS": "100", **environment}
    command = [sys.executable, "-m", "deployer", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("command", tuple(COMMANDS))
def test_every_command_has_help_for_a_person(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: python -m deployer {command}")
    assert len(done.stdout.split("\n\n")[1].strip()) > 20, "a sentence that says what it is for"


def test_help_lists_the_commands_in_reading_order(tmp_path: Path) -> None:
    text = run("--help", home=tmp_path).stdout
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("upp",), 2, "did you mean `up`?", id="misspelt command"),
        pytest.param(("up", "gpu-8g"), 2, "did you mean `gpu-8gb`?", id="misspelt profile"),
        pytest.param(("check", "./no.yaml"), 2, "there is no profile file ./no.yaml", id="no such file"),
        pytest.param(("check", "--host", __file__), 2, "is not a saved host", id="not a host"),
        pytest.param(("up", "--port", "0", "cpu-small"), 2, "not in the range", id="impossible port"),
        pytest.param(("down", "nobody"), 2, "nothing runs as `nobody`", id="unknown deployment"),
        pytest.param(("logs",), 2, "there is no deployment", id="no deployment"),
        pytest.param(("build", "nothing:cpu"), 2, "there is no image `nothing`", id="no such image"),
        pytest.param(("build", "llamacpp:cu1"), 2, "has no variant `cu1`", id="no such variant"),
    ],
)
def test_a_wrong_question_ends_with_2_and_a_hint(
    words: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    done = run(*words, home=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_errors_are_json_too_when_asked(tmp_path: Path) -> None:
    done = run("up", "nothing", "--json", home=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"] == "there is no profile `nothing`"


def test_a_host_without_the_hardware_answers_no(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    done = run("check", "h100-80gb", home=tmp_path)
    assert done.returncode == 1
    assert "fail  gpu.count" in done.stdout
    assert done.stdout.index("fail ") < done.stdout.index("pass "), "problems first"


def test_a_saved_host_is_judged_elsewhere(tmp_path: Path) -> None:
    saved = tmp_path / "host.json"
    first = run("check", "cpu-small", "--json", home=tmp_path)
    saved.write_text(first.stdout)
    second = run("check", "cpu-small", "--json", "--host", str(saved), home=tmp_path)

    def outcomes(text: str) -> dict[str, str]:
        return {f["id"]: f["outcome"] for f in json.loads(text)["report"]["findings"]}

    assert json.loads(first.stdout)["schema"] == 3
    assert outcomes(second.stdout) == outcomes(first.stdout)
    assert json.loads(second.stdout)["host"] == json.loads(first.stdout)["host"]


def test_a_saved_host_with_a_gpu_is_judged_on_a_machine_without(tmp_path: Path) -> None:
    saved = tmp_path / "gpu.json"
    saved.write_text(json.dumps(to_json(hosts.RTX)))
    judged = json.loads(run("check", "gpu-8gb", "--json", "--host", str(saved), home=tmp_path).stdout)["report"]
    outcomes = {f["id"]: f["outcome"] for f in judged["findings"]}
    assert {outcomes[i] for i in outcomes if i.startswith(("gpu.", "driver."))} == {"pass", "skip"}
    assert outcomes["gpu.vram"] == outcomes["driver.version"] == "pass"


@pytest.mark.parametrize(
    ("words", "never"),
    [
        pytest.param(("--help",), "docker yaml pynvml httpx rich dataclasses json", id="help"),
        pytest.param(
            ("check", "cpu-small"), "docker torch transformers huggingface_hub httpx rich http.client", id="check"
        ),
    ],
)
def test_nothing_heavy_is_loaded(words: tuple[str, ...], never: str, tmp_path: Path) -> None:
    env = {**os.environ, "DEPLOYER_HOME": str(tmp_path)}
    command = [sys.executable, "-X", "importtime", "-m", "deployer", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert loaded & set(never.split()) == set()


def test_colour_only_on_a_terminal_and_never_with_no_color(tmp_path: Path) -> None:
    import pty

    def seen(**more: str) -> bytes:
        parent, child = pty.openpty()
        env = {**os.environ, "DEPLOYER_HOME": str(tmp_path), "TERM": "xterm", **more}
        words = [sys.executable, "-m", "deployer", "check", "cpu-small"]
        process = subprocess.Popen(words, env=env, stdin=child, stdout=child, stderr=child)
        os.close(child)
        text = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
        process.wait()
        os.close(parent)
        return text

    assert b"\x1b[" not in run("check", "cpu-small", home=tmp_path).stdout.encode()
    assert b"\x1b[32m" in seen(NO_COLOR="")
    assert b"\x1b[" not in seen(NO_COLOR="1")


@pytest.mark.parametrize("columns", ["40", "60", "100"])
def test_narrow_terminals_are_respected(columns: str, tmp_path: Path) -> None:
    done = run("check", "cpu-small", home=tmp_path, COLUMNS=columns)
    assert "pass  system" in done.stdout
    for line in done.stdout.splitlines():
        assert len(line) <= int(columns) or " " not in line.strip(), line  # a path is not broken


def test_the_wheel_carries_profiles_and_images(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site), "DEPLOYER_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "deployer", "profiles", "list", "--json"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    names = {p["name"]: p["path"] for p in json.loads(done.stdout)["profiles"]}
    assert set(names) == {p.stem for p in (ROOT / "profiles").glob("*.yaml")}
    assert names["cpu-small"].startswith(str(site))
    words = [sys.executable, "-m", "deployer", "build", "--list", "--json"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert {row["image"] for row in json.loads(done.stdout)["images"]} >= {"llamacpp:cpu", "transformers:cu130"}
