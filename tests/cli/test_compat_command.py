"""`deployer compat` as people and programs use it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployer import host
from tests import hosts

OLD = ("--driver", "550.54", "--gpu", "RTX 4090")


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DEPLOYER_HOME": str(home), "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "deployer", "compat", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


def saved(found: host.Host, home: Path) -> tuple[str, str]:
    path = home / "host.json"
    path.write_text(json.dumps({"host": host.to_json(found)}))
    return "--host", str(path)


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_host_that_is_not_here_is_answered_with_images_and_a_matrix(tmp_path: Path) -> None:
    done = run(*OLD, home=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(
        "driver 550.54.14 (CUDA 12.4), NVIDIA GeForce RTX 4090 (8.9), given through CDI\n"
    )
    assert "cannot  transformers:cu130: driver 550.54.14 is too old for CUDA 13.0" in done.stdout
    assert "→ driver 580.65.06 or later" in done.stdout
    assert "runs    llamacpp:cpu: it needs no GPU" in done.stdout
    assert "minor   transformers:cu128: driver 550.54.14 is older than CUDA 12.8" in done.stdout
    assert not [line for line in done.stdout.splitlines() if re.search(r"\b(debian|python|torch):", line)]
    cells = dict(
        line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("CUDA", "torch"))
    )
    assert {cells[f"CUDA {v}"] for v in ("13.0", "13.4")} == {"cannot"}
    assert {cells[f"CUDA {v}"] for v in ("12.5", "12.9")} == {"minor"}
    assert {cells[f"CUDA {v}"] for v in ("11.8", "12.4")} == {"runs"}
    assert cells["torch 2.15.0+cu126"] == "minor" and cells["torch 2.15.0+cu132"] == "cannot"
    assert "minor: by minor-version compatibility" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((*OLD, "--cuda", "12.9"), 0, "minor   CUDA 12.9: "),
        ((*OLD, "--cuda", "12.9", "--inject", "hook"), 0, "minor   CUDA 12.9: "),
        (
            (*OLD, "--requires", "cuda>=12.9"),
            1,
            "unsatisfied condition: cuda>=12.9, please update your driver",
        ),
        ((*OLD, "--requires", "cuda>=12.9", "--inject", "cdi"), 0, "nothing enforces it with CDI"),
        ((*OLD, "--image", "nvidia/cuda:12.9.1-base-ubuntu24.04"), 1, "error 804: forward compatibility"),
        (
            (*OLD, "--image", "nvidia/cuda:12.9.1-base", "--toolkit", "1.17.4"),
            0,
            "minor   nvidia/cuda:12.9.1-base: ",
        ),
        ((*OLD, "--image", "transformers:cu130"), 1, "error 35: CUDA driver version is insufficient"),
        ((*OLD, "--image", "transformers:cpu"), 0, "runs    transformers:cpu: it needs no GPU"),
        (("--gpu", "5090", "--cuda", "12.8"), 1, "unknown CUDA 12.8: the version of the driver is not known"),
        (("--gpu", "5090", "--cuda", "12.8"), 1, "→ driver 570.26 or later"),
        (
            ("--driver", "580", "--gpu", "P40", "--image", "transformers:cu130"),
            1,
            "error 209: no kernel image",
        ),
        (
            ("--driver", "none", "--gpu", "T4", "--cuda", "13.0"),
            1,
            "cannot  CUDA 13.0: no NVIDIA driver is loaded",
        ),
    ],
)
def test_a_question_has_an_answer_and_only_a_sure_yes_ends_with_0(
    words: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    done = run(*words, home=tmp_path)
    assert done.returncode == code, done
    assert said in " ".join(done.stdout.split("\n        ")), done.stdout
    assert "matrix" not in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--driver", "5x", "--gpu", "T4"), "--driver 5x: not a version"),
        (("--toolkit", "new"), "--toolkit new: not a version"),
        (("--driver", "580", "--gpu", "RTX 4091"), "did you mean `NVIDIA GeForce RTX 4090`"),
        (("--driver", "580", "--gpu", "RTX 5000"), "`Quadro RTX 5000`, `NVIDIA RTX 5000 Ada Generation`"),
        ((*OLD, "--image", "nothing"), "there is no image `nothing`"),
        ((*OLD, "--image", "transformers:cu1"), "has no variant `cu1`"),
        ((*OLD, "--image", "nvidia/cuda:9.0-base"), "is not in the tables"),
        ((*OLD, "--requires", "cuda=>12"), "`cuda=>12` is no condition"),
        ((*OLD, "--inject", "magic"), "'magic' is not one of"),
        (("--host", __file__), "is not a saved host"),
    ],
)
def test_a_wrong_question_ends_with_2_and_a_hint(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = run(*words, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_without_a_driver_the_matrix_is_the_driver_that_each_takes(tmp_path: Path) -> None:
    done = run("--gpu", "5090", "--gpu", "P40", home=tmp_path)
    cells = {
        line[:20].strip(): line[20:].split() for line in done.stdout.splitlines() if line.startswith("CUDA")
    }
    assert done.returncode == 0 and "the first driver with which each runs" in done.stdout
    assert cells["CUDA 12.8"] == ["570.26", "525.60.13"]
    assert cells["CUDA 13.0"] == ["580.65.06", "-"]
    assert cells["CUDA 12.6"] == ["-", "525.60.13"]


def test_json_has_all_of_it(tmp_path: Path) -> None:
    found = answers(run(*OLD, "--json", home=tmp_path))
    assert (found["schema"], found["driver"], found["cuda"]) == (1, "550.54.14", "12.4")
    assert found["gpus"][0]["compute_capability"] == "8.9"
    ours = {image["name"]: image for image in found["images"]}
    assert (
        ours["transformers:cu130"]["least_driver"] == "580.65.06" and not ours["transformers:cu130"]["runs"]
    )
    assert {row["name"] for row in found["matrix"]} >= {"CUDA 12.9", "torch 2.6.0+cu124"}
    one = answers(run(*OLD, "--cuda", "13.0", "--json", home=tmp_path))
    assert [a["code"] for a in one["answers"]] == [35] and "matrix" not in one
    wrong = run(*OLD, "--requires", "x", "--json", home=tmp_path)
    assert "is no condition" in answers(wrong)["error"]["message"]


def test_a_saved_host_and_what_would_be_if_its_driver_were_another(tmp_path: Path) -> None:
    place = saved(hosts.OLD_DRIVER, tmp_path)
    now = run(*place, "--image", "transformers:cu130", home=tmp_path)
    assert now.returncode == 1 and "NVIDIA GeForce RTX 4060 (8.9), given through CDI" in now.stdout
    then = run(*place, "--driver", "580.65.06", "--image", "transformers:cu130", home=tmp_path)
    assert (
        then.returncode == 0
        and "runs    transformers:cu130: driver 580.65.06 speaks CUDA 13.0" in then.stdout
    )


@pytest.mark.parametrize(
    ("found", "said", "verdict"),
    [
        (hosts.NO_GPU, "there is no NVIDIA GPU: only images for CPUs run", "cannot"),
        (hosts.NO_DRIVER, "no NVIDIA driver loaded, ", "cannot"),
        (hosts.NVML_SILENT, "driver 580.65.06 (CUDA 13.0), ", "unknown"),
        (hosts.RTX, "driver 580.65.06 (CUDA 13.0), NVIDIA GeForce RTX 4060 (8.9)", "runs"),
    ],
    ids=["no-gpu", "no-driver", "nvml-silent", "rtx"],
)
def test_hosts_of_every_kind(found: host.Host, said: str, verdict: str, tmp_path: Path) -> None:
    done = run(*saved(found, tmp_path), home=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(said), done.stdout
    assert f"\n{verdict:8}transformers:cu130: " in done.stdout


def test_this_machine_is_asked_without_options(tmp_path: Path) -> None:
    done = run(home=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    if not Path("/proc/driver/nvidia/version").exists():
        assert done.stdout.startswith("there is no NVIDIA GPU") or "no NVIDIA driver loaded" in done.stdout


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom deployer.cli import app\n"
        f"app.main({['compat', *OLD]!r}, standalone_mode=False)\n"
        "print([m for m in ('docker', 'httpx', 'torch', 'pynvml', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_the_documented_output_is_the_real_one(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/compat.md").read_text()
    blocks = re.split(r"^\$ deployer compat ", text.split("```")[1], flags=re.MULTILINE)[1:]
    assert len(blocks) >= 4
    for block in blocks:
        words, _, shown = block.partition("\n")
        done = run(*shlex.split(words), home=tmp_path)
        assert done.stdout.startswith(shown.strip().removesuffix("…").strip()), words
        assert shown.strip().endswith("…") or done.stdout.strip() == shown.strip(), words
