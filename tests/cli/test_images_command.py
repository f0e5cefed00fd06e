"""`deployer images` where no engine answers; what real engines and registries do is in tests/e2e/test_images.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployer.cli.images import _drawn, _printable
from deployer.images.inspect import OURS
from deployer.images.stock import _present

NOWHERE = "unix:///nonexistent/docker.sock"


def run(*words: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DEPLOYER_HOME": str(home), "COLUMNS": "100", "DOCKER_HOST": NOWHERE, **more}
    command = [sys.executable, "-m", "deployer", "images", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


def test_help_lists_the_group_and_its_commands(tmp_path: Path) -> None:
    done = run("--help", home=tmp_path)
    assert done.returncode == 0
    assert [word for word in ("inspect", "sbom", "list", "prune") if f"\n  {word} " not in done.stdout] == []
    assert "--remote" in run("inspect", "--help", home=tmp_path).stdout


def test_without_engine_and_docker_command_both_are_told(tmp_path: Path) -> None:
    done = run("inspect", "nvidia/cuda:12.9.1-base-ubuntu24.04", home=tmp_path, PATH="/nonexistent")
    assert done.returncode == 1 and done.stdout == ""
    assert f"no container engine answers at {NOWHERE}, and registries are asked with" in done.stderr
    assert "hint: install it" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "RTX 4O90"), "which GPU is `RTX 4O90`?"),
        (("--driver", "new"), "--driver new: not a version"),
        (("--toolkit", "x"), "--toolkit x: not a version"),
    ],
)
def test_a_wrong_question_is_told_before_anything_is_asked(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = run("inspect", "nvidia/cuda:x", *words, home=tmp_path, PATH="/nonexistent")
    assert done.returncode == 2 and said in done.stderr


def test_an_error_is_json_for_programs(tmp_path: Path) -> None:
    done = run("list", "--json", home=tmp_path)
    assert done.returncode == 1
    assert NOWHERE in json.loads(done.stdout)["error"]["message"]
    assert run("prune", home=tmp_path).returncode == 1


def test_a_terminal_is_not_moved_by_what_an_image_says() -> None:
    assert _printable("a\x1b[31mb\r\n\u202ec") == "a?[31mb???c"
    assert [*_drawn([("title", "one\ttwo"), ("title", "x" * 120)])] == [
        "title      one?two",
        f"           {'x' * 120}",
    ]


def test_an_image_of_no_recipe_is_old() -> None:
    assert not _present({OURS: "nothing", "io.deployer.variant": "cpu"})
    assert not _present({OURS: "gateway", "io.deployer.variant": "gpu"})
    assert not _present({OURS: "gateway", "io.deployer.variant": "cpu"})
