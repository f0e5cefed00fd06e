"""Proofs that hold and proofs that fail: each lie and each plant is told in a line of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployer.images.proof import command, verdict
from deployer.images.proof.tree import Tree
from tests.images.test_proof_look import CUDA, CUDNN, SITE, compiled, cudnn, fat, installed, made

USER = 54321
PINS = {"torch": "2.13.0", "cuda": "13.0", "cudnn": "9.20.0.48", "nvidia_cuda.runtime": "13.0.96"}
PINS["python"] = "{}.{}".format(*sys.version_info)
GOOD = {"pins": PINS, "compute_capability": ["7.5", "8.0", "12.0"], "torch": True, "user": USER}

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(made(), tmp_path / "image", symlinks=True))
    monkeypatch.setenv("PYTHONPATH", str(copy / SITE))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return copy


def prove(root: Path, paths: list[str] | None = None, uid: int = USER, **changes: Any) -> list[str]:
    expect = verdict.Expect(**{**GOOD, **changes})
    return command.prove(expect, Tree(root), paths or [], uid)[1]


def test_an_image_that_is_as_pinned_has_no_problems(root: Path) -> None:
    facts, problems = command.prove(verdict.Expect(**GOOD), Tree(root), [], USER)  # type: ignore[arg-type]
    assert problems == []
    parts = ["libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn_heuristic.so.9", "libcudnn_ops.so.9"]
    mapped = [path for path in facts["process"]["mapped"] if "cudnn" in path]
    assert mapped == [f"/{CUDNN}/{part}" for part in parts]
    assert facts["process"]["checks"] == {"cudnnGraphVersionCheck": 0, "cudnnOpsVersionCheck": 0}
    assert facts["process"]["versions"][f"/{CUDA}/libcudart.so.13"] == 13000


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "python": ({"python": "3.1"}, "python: 3.1 is pinned, and "),
    "torch": ({"torch": "2.14.0"}, "torch: 2.14.0 is pinned, and 2.13.0+cu130 is imported"),
    "local": ({"torch": "2.13.0+cu126"}, "torch: 2.13.0+cu126 is pinned, and 2.13.0+cu130 is imported"),
    "cuda": ({"cuda": "13.2"}, "cuda: 13.2 is pinned, and torch is made for 13.0"),
    "cudnn": (
        {"cudnn": "9.24.0.43"},
        f"cudnn: 9.24.0.43 is pinned, and /{CUDNN}/libcudnn.so.9 says that it is 9.20.0",
    ),
    "patch": (
        {"cudnn": "9.20.0.49"},
        f"cudnn: 9.20.0.49 is pinned, and from /{CUDNN} the process maps 9.20.0.48: libcudnn.so.9, lib",
    ),
    "version": (
        {"nvidia-cuda-runtime": "13.0.1"},
        "nvidia-cuda-runtime: 13.0.1 is pinned, and there is 13.0.96 in /",
    ),
    "absent": ({"vllm": "0.32.0"}, "vllm: 0.32.0 is pinned, and there is none"),
}


@pytest.mark.parametrize(("pins", "line"), LIES.values(), ids=LIES)
def test_a_pin_that_lies_is_told(root: Path, pins: dict[str, str], line: str) -> None:
    found = prove(root, pins={**PINS, **pins})
    assert any(problem.startswith(line) for problem in found), found
    assert {problem.partition(":")[0] for problem in found} == {line.partition(":")[0]}


def test_a_label_that_lies_is_told(root: Path) -> None:
    line = "architectures: the label says 7.5 8.0 9.0, and torch has 7.5 8.0 12.0"
    assert prove(root, compute_capability=["7.5", "8.0", "9.0"]) == [line]
    assert prove(root, compute_capability=[])[0].startswith("architectures: the label says none, and torch")


def test_a_second_cudnn_that_the_loader_reaches_is_told_even_if_it_is_the_same(root: Path) -> None:
    for part in (root / CUDNN).iterdir():
        shutil.copy(part, root / "usr/lib64")
    two, wrong = prove(root)
    assert wrong == (
        "cudnn: 9.20.0.48 is pinned, and in /usr/lib64 there is a version that nobody tells: "
        "libcudnn.so.9, libcudnn_graph.so.9, libcudnn_heuristic.so.9, libcudnn_ops.so.9"
    )
    assert two == (
        f"cudnn: the loader reaches 2 files for libcudnn.so.9: /{CUDNN}/libcudnn.so.9 (RPATH of "
        f"/{SITE}/torch/lib/libtorch_cuda.so) and /usr/lib64/libcudnn.so.9 (default folders); "
        "so it is with libcudnn_graph.so.9, libcudnn_heuristic.so.9, libcudnn_ops.so.9"
    )
    assert prove(root, torch=False, pins={}) == [two]


def test_a_second_cudnn_that_no_loader_reaches_is_there_twice(root: Path) -> None:
    shutil.copytree(root / CUDNN, root / "opt/second")
    wrong, two = prove(root)
    assert wrong.startswith("cudnn: 9.20.0.48 is pinned, and in /opt/second there is a version that nobody")
    assert two.startswith("twice: libcudnn.so.9 is /opt/second/libcudnn.so.9 (")
    assert two.endswith("so it is with libcudnn_graph.so.9, libcudnn_heuristic.so.9, libcudnn_ops.so.9")


def test_parts_of_another_cudnn_that_really_are_mapped_are_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn(root / "opt/planted", 92000, part=1002)
    (root / "opt/planted/libcudnn.so.9").unlink()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(root / "opt/planted"))
    found = prove(root, ["/opt/planted"])
    assert "cudnn: cudnnOpsVersionCheck answers 1002, so its parts do not fit together" in found
    parts = "libcudnn_graph.so.9, libcudnn_heuristic.so.9, libcudnn_ops.so.9"
    wrong = "from /opt/planted the process maps a version that nobody tells"
    assert f"cudnn: 9.20.0.48 is pinned, and {wrong}: {parts}" in found
    assert any(
        "the loader reaches 2 files for libcudnn_graph.so.9: /opt/planted/" in problem for problem in found
    )


def test_a_cudnn_that_was_exchanged_in_its_place_is_told(root: Path) -> None:
    with (root / CUDNN / "libcudnn_ops.so.9").open("ab") as file:
        file.write(b"x")
    (problem,) = prove(root)
    assert problem == (
        f"cudnn: 9.20.0.48 is pinned, and from /{CUDNN} the process maps 9.20.0.48 (but not the file "
        "that its distribution brought): libcudnn_ops.so.9"
    )


def test_a_cudnn_from_outside_of_the_image_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn(tmp_path / "outside")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "outside"))
    found = prove(root)
    assert f"cudnn: the process maps {tmp_path}/outside/libcudnn_ops.so.9, which is not in the image" in found


def test_a_torch_that_crashes_is_told_once_and_so_is_one_that_is_not_there(root: Path) -> None:
    (root / SITE / "torch/__init__.py").write_text("import ctypes\nctypes.string_at(0)\n")
    assert prove(root) == ["torch: a process that imports it is ended by SIGSEGV"]
    (root / SITE / "torch/__init__.py").write_text("import time\ntime.sleep(60)\n")
    assert prove(root, seconds=0.5) == ["torch: a process that imports it is not done after 0.5 s"]
    (root / SITE / "torch/__init__.py").write_text("raise ImportError('libcublas.so.13: cannot open')\n")
    (problem,) = prove(root)
    assert problem.startswith("torch: a process that imports it exits 1: ")
    assert problem.endswith("ImportError: libcublas.so.13: cannot open")


def test_without_torch_the_libraries_themselves_are_asked(root: Path) -> None:
    assert prove(root, torch=False) == []
    found = prove(root, torch=False, pins={"cuda": "12.8", "cudnn": "9.10.2.21"})
    assert [problem.partition(" says")[0] for problem in found[1:]] == [
        f"cudnn: 9.10.2.21 is pinned, and /{CUDNN}/libcudnn.so.9",
        f"cuda: 12.8 is pinned, and /{CUDA}/libcudart.so.13",
    ]
    shutil.rmtree(root / SITE / "nvidia")
    assert prove(root, torch=False, pins={"cuda": "13.0", "cudnn": "9.20.0.48"}) == [
        "cudnn: 9.20.0.48 is pinned, and the process maps none",
        "cuda: 13.0 is pinned, and the process maps no libcudart",
    ]


def test_fat_binaries_of_libraries_and_of_programs_are_what_the_label_says(root: Path) -> None:
    code = root.parent / "code"
    code.write_bytes(fat([(2, 75, 0, 8), (2, 80, 0, 8), (2, 120, 1 << 20, 8), (1, 90, 0, 8)]))
    compiled(root / "opt/llama/libggml-cuda.so.0.9", f'FATBIN="{code}"', soname="libggml-cuda.so.0")
    (root / "opt/llama/libggml-cuda.so").symlink_to("libggml-cuda.so.0.9")
    shutil.copy(root / "opt/llama/libggml-cuda.so.0.9", root / "opt/llama/llama-server")
    paths = ["/opt/llama/libggml-cuda.so", "/opt/*/llama-server"]
    assert prove(root, fatbins=paths) == []
    code.write_bytes(fat([(2, 75, 0, 8), (2, 86, 0, 8)]))
    compiled(root / "opt/llama/libggml-cuda.so.0.9", f'FATBIN="{code}"', soname="libggml-cuda.so.0")
    assert prove(root, fatbins=[*paths, "/opt/libnone.so"]) == [
        "architectures: the label says 7.5 8.0 12.0, and /opt/llama/libggml-cuda.so.0.9 has 7.5 8.6",
        "architectures: no library with code for GPUs is /opt/libnone.so",
    ]


def test_a_library_of_cuda_that_is_there_twice_is_told_unless_it_may(root: Path) -> None:
    (root / "opt/other").mkdir()
    shutil.copy(root / CUDA / "libcudart.so.13", root / "opt/other/libcudart.so.13.0.96")
    (problem,) = prove(root)
    assert problem.startswith("twice: libcudart.so.13 is /opt/other/libcudart.so.13.0.96 (0.0 MB), ")
    assert problem.endswith(", all the same")
    assert prove(root, allowed_twice=["libcudart.so.*"]) == []


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


SERVERS: dict[str, tuple[list[str], str]] = {
    "absent": (["/nowhere/llama-server"], "does not start: No such file or directory"),
    "exits": (script("import sys; sys.exit('no libgomp\\n')"), "exits 1: no libgomp"),
    "slow": (script("print(flush=True); import time; time.sleep(60)"), "is not done after 1 s"),
    "killed": (script("import os; os.kill(os.getpid(), 9)"), "is ended by SIGKILL"),
}


@pytest.mark.parametrize(("words", "end"), SERVERS.values(), ids=SERVERS)
def test_a_server_that_does_not_start_is_told(root: Path, words: list[str], end: str) -> None:
    (problem,) = prove(root, torch=False, server=words, seconds=1 if "is not done" in end else 60)
    assert problem.startswith(f"server: `{words[0]}")
    assert problem.endswith(end)


def test_a_server_says_its_version(root: Path) -> None:
    words = script("import sys; sys.stderr.write('version: 6543\\n')")
    assert prove(root, torch=False, server=words, server_says="version: 6543") == []
    (problem,) = prove(root, torch=False, server=words, server_says="version: 7000")
    assert problem.endswith("does not say version: 7000, but: version: 6543")


def test_rights_and_users_that_should_not_be_are_told(root: Path) -> None:
    for name, mode in {"usr/su": 0o4755, "usr/open": 0o666, "tmp/left": 0o666}.items():
        (root / name).write_text("x")
        (root / name).chmod(mode)
    (root / "opt/cache").mkdir()
    (root / "opt/cache").chmod(0o1777)
    told = ["setuid: /usr/su", "writable: /opt/cache, /usr/open"]
    assert prove(root, torch=False) == told
    assert prove(root, torch=False, allowed_writable=["/tmp", "/opt/cache", "/usr/open/"]) == told[:1]
    assert prove(root, 0 or None, 0, torch=False)[0] == "user: the process is root"
    assert prove(root, torch=False, user=10001)[0] == f"user: the process is user {USER}, and 10001 is pinned"


def test_a_size_over_the_budget_names_what_is_new_and_what_is_twice(root: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent.json"
    assert command.main(["look", "--root", str(root), "--out", str(parent)]) == 0
    size = json.loads(parent.read_text())["sizes"]["bytes"]
    assert prove(root, torch=False, budget=size) == []
    (root / "opt/model").mkdir()
    (root / "opt/model/weights").write_bytes(bytes(2_000_000))
    for folder in ("opt/a", "opt/b"):
        compiled(root / folder / "libextra.so.1", soname="libextra.so.1")
    installed(root, "transformers", "5.20.0")
    (problem,) = prove(root, torch=False, budget=size, baseline=[str(parent)])
    assert problem.startswith(
        "size: 2.1 MB is 2.0 MB over the budget of 0.1 MB; new and largest are /opt/model 2.0 MB, /opt/"
    )
    assert f"/{SITE}/transformers-5.20.0.dist-info 0.0 MB" in problem
    assert f"/{SITE}/torch " not in problem
    assert "; twice there: libextra.so.1 is /opt/a/libextra.so.1 (" in problem


@pytest.fixture
def run(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], Path]]:
    def call(**words: Any) -> tuple[int, list[str], Path]:
        expect, out = tmp_path / "expect.json", root / "proof.json"
        expect.write_text(json.dumps(words))
        code = command.main(["prove", str(expect), "--root", str(root), "--out", str(out)])
        return code, capfd.readouterr().err.splitlines(), out

    return call


def test_the_proof_is_the_same_each_time_and_tells_all_problems_in_one_run(run: Callable[..., Any]) -> None:
    wrong = {**GOOD, "pins": {**PINS, "cudnn": "9.1.0.70", "torch": "2"}, "server": ["/nowhere"], "budget": 1}
    code, told, out = run(**wrong)
    first = out.read_bytes()
    assert code == 1
    assert json.loads(first)["problems"] == told
    assert [line.partition(":")[0] for line in told[:2]] == ["server", "user"]
    assert {line.partition(":")[0] for line in told} >= {"cudnn", "torch", "size"}
    run(**wrong)
    assert out.read_bytes() == first
    if os.getuid():
        assert run(pins={}, user=os.getuid(), allowed_writable=["/"])[:2] == (0, [])


def test_what_is_wrong_with_the_expectations_is_told(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run(budgett=5)[:2] == (2, [f"proof: {tmp_path}/expect.json has no use for budgett"])
    code, told, _ = run(baseline=f"{tmp_path}/none.json")
    assert code == 2
    assert "No such file" in told[0]


def test_a_python_that_a_loader_started_starts_others_in_the_same_way(tmp_path: Path) -> None:
    """As in an image without Python, where another's is at hand with its libraries, and none of them is in place."""
    loader = next((path for path in Path("/lib64").glob("ld-linux-*.so.*")), None) or next(
        Path("/lib").glob("ld-linux-*.so.*")
    )
    code = "from deployer.images.proof.process import interpreter; print(*interpreter())"
    words = [str(loader), "--library-path", str(tmp_path), sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[3])}
    for way in (words, [sys.executable]):
        done = subprocess.run([*way, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == way
