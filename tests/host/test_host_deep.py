"""What is known by trying: disks that are written, programs that are ended, answers that stop half way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.host import DiskRate, GpuRate, Peer, Unknown
from deployer.host.deep import PROGRAM, answers, disk_rate, gpu_rates, parse, read_rates
from tests.host.conftest import as_nobody

MIB = 2**20


def test_a_disk_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    found = disk_rate(tmp_path, 8 * MIB)
    assert isinstance(found, DiskRate)
    assert (found.path, found.size) == (str(tmp_path), 8 * MIB)
    for rate in (found.write, found.read):
        assert isinstance(rate, float)
        assert 1e4 < rate < 1e12
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_measured_at_its_parent(tmp_path: Path) -> None:
    found = disk_rate(tmp_path / "models/not/yet", 4 * MIB)
    assert isinstance(found, DiskRate)
    assert found.path == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_left_in_time(tmp_path: Path) -> None:
    found = disk_rate(tmp_path, 64 * MIB, limit=0)
    assert isinstance(found, DiskRate)
    assert found.size == 0


def test_a_full_disk_is_not_written(tmp_path: Path) -> None:
    found = disk_rate(tmp_path, 1 << 60)
    assert found == Unknown(f"there is no room for a file of {1 << 40} MiB in {tmp_path}")


LIMITED = """
resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))
print(deep.disk_rate(Path(sys.argv[1]), 16 << 20).reason)
"""


def test_a_write_that_fails_is_unknown_and_leaves_nothing(open_folder: Path) -> None:
    (open_folder / "all").mkdir()
    (open_folder / "all").chmod(0o777)
    assert as_nobody(LIMITED, open_folder / "all") == f"{open_folder / 'all'}: File too large"
    assert list((open_folder / "all").iterdir()) == []


def test_a_folder_that_this_user_may_not_write_is_unknown(open_folder: Path) -> None:
    (open_folder / "theirs").mkdir(mode=0o555)
    said = as_nobody("print(deep.disk_rate(Path(sys.argv[1]), 4 << 20).reason)", open_folder / "theirs")
    assert said == f"{open_folder / 'theirs'}: Permission denied"


def test_what_another_program_left_there_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / f".deployer-speed-{os.getpid()}"
    other.write_text("mine")
    assert disk_rate(tmp_path, 4 * MIB) == Unknown(f"{tmp_path}: File exists")
    assert other.read_text() == "mine"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\nsay = lambda t: print(t, flush=True)\n{code}"]


def test_all_answers_of_a_program_that_ends() -> None:
    code = "say('{\"a\": 1}'); say('a banner'); say('{\"b\": 2}')"
    assert answers(python(code), 20, 20) == ([{"a": 1}, {"b": 2}], None)


def test_a_program_that_says_nothing_more_is_ended(tmp_path: Path) -> None:
    code = (
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); say('{{\"a\": 1}}'); time.sleep(60)"
    )
    begin = time.monotonic()
    assert answers(python(code), 30, 1) == ([{"a": 1}], "no answer in 1 s")
    assert time.monotonic() - begin < 10
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("while True: say('{\"a\": 1}'); time.sleep(0.05)", id="answers now and then"),
        pytest.param("while True: print('{\"a\": 1}')", id="answers all the time"),
        pytest.param("time.sleep(60)", id="silence"),
    ],
)
def test_a_program_that_never_ends_is_ended(code: str) -> None:
    begin = time.monotonic()
    found, ended = answers(python(code), 1, 30)
    assert time.monotonic() - begin < 10
    assert ended == "no end in 1 s"
    assert all(answer == {"a": 1} for answer in found)


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        pytest.param("say('{\"a\": 1}'); os.abort()", "it ended with code -6", id="a crash"),
        pytest.param("say('{\"a\": 1}'); sys.exit(3)", "it ended with code 3", id="a code"),
        pytest.param(
            "say('{\"a\": 1}'); sys.stdout.flush(); os.close(1); time.sleep(60)",
            "it closed its output and does not end",
            id="an output that is closed",
        ),
    ],
)
def test_a_program_that_ends_badly(code: str, ended: str) -> None:
    assert answers(python(code), 20, 20) == ([{"a": 1}], ended)


def test_bytes_that_are_no_text_do_no_harm() -> None:
    code = "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); say('{\"a\": 1}')"
    assert answers(python(code), 20, 20) == ([{"a": 1}], None)


GPU = {"index": 0, "uuid": "GPU-0", "memory": 3e12, "to_gpu": 5e10, "from_gpu": 4e10}
OTHER = {"index": 1, "uuid": "GPU-1", "error": "cuMemAlloc_v2: out of memory (2)"}
RATE = GpuRate("GPU-0", 3e12, 5e10, 4e10)
BROKEN = GpuRate("GPU-1", *[Unknown("cuMemAlloc_v2: out of memory (2)")] * 3)  # type: ignore[arg-type]


def pair(one: int, other: int, **facts: Any) -> dict[str, Any]:
    return {"peer": {"from": f"GPU-{one}", "to": f"GPU-{other}", **facts}}


@pytest.mark.parametrize(
    ("lines", "ended", "gpus", "peers"),
    [
        pytest.param([{"gpu": GPU}], None, (RATE,), (), id="one GPU"),
        pytest.param([{"gpu": GPU}, {"gpu": OTHER}], None, (RATE, BROKEN), (), id="one that fails"),
        pytest.param([], None, (), (), id="no GPU"),
        pytest.param(
            [{"error": "libcuda.so.1: cannot open"}], "it ended with code 1",
            Unknown("libcuda.so.1: cannot open"), Unknown("libcuda.so.1: cannot open"), id="no library",
        ),
        pytest.param(
            [], "no answer in 20 s", Unknown("no answer in 20 s"), Unknown("no answer in 20 s"), id="silence",
        ),
        pytest.param(
            [], "it ended with code -11", Unknown("it ended with code -11"), Unknown("it ended with code -11"),
            id="a crash",
        ),
        pytest.param(
            [{"gpu": GPU}], "no answer in 20 s", (RATE,), Unknown("no answer in 20 s"), id="hung after one GPU",
        ),
        pytest.param(
            [{"gpu": GPU}, pair(0, 1, began=True), pair(0, 1, allowed=True, rate=2e11)], None,
            (RATE,), (Peer("GPU-0", "GPU-1", 2e11),), id="a pair",
        ),
        pytest.param(
            [{"gpu": GPU}, pair(0, 1, began=True), pair(0, 1, allowed=False)], None,
            (RATE,), (Peer("GPU-0", "GPU-1", None),), id="a pair that may not",
        ),
        pytest.param(
            [{"gpu": GPU}, pair(0, 1, began=True), pair(0, 1, allowed=True, error="cuMemcpyPeer: no (1)")], None,
            (RATE,), (Peer("GPU-0", "GPU-1", Unknown("cuMemcpyPeer: no (1)")),), id="a pair that fails",
        ),
        pytest.param(
            [
                {"gpu": GPU},
                *(pair(0, 1, began=True), pair(0, 1, allowed=True, rate=2e11), pair(1, 0, began=True)),
            ],
            "no answer in 20 s",
            (RATE,),
            (
                Peer("GPU-0", "GPU-1", 2e11),
                Peer("GPU-1", "GPU-0", Unknown("a copy between them does not end (no answer in 20 s)")),
            ),
            id="a pair that began and did not end",
        ),
        pytest.param(
            [{"gpu": GPU}, pair(0, 1, began=True), {"error": "cuDeviceCanAccessPeer: lost (999)"}],
            "it ended with code 1",
            (RATE,),
            (
                Peer(
                    "GPU-0",
                    "GPU-1",
                    Unknown("a copy between them does not end (cuDeviceCanAccessPeer: lost (999))"),
                ),
            ),
            id="a pair that broke off",
        ),
        pytest.param(
            [{"gpu": {"uuid": "GPU-1"}}], None,
            (GpuRate("GPU-1", *[Unknown("not measured")] * 3),), (), id="a GPU without rates",  # type: ignore[arg-type]
        ),
    ],
)  # fmt: skip
def test_answers_of_the_measurement(
    lines: list[dict[str, Any]], ended: str | None, gpus: object, peers: object
) -> None:
    assert read_rates(lines, ended) == (gpus, peers)


def test_a_banner_around_the_answers_is_ignored() -> None:
    text = (
        "==========\n== CUDA ==\n==========\n\n"
        'CUDA Version 13.0.1\n{"nvml": {"count": 1}}\r\n[1, 2]\n7\n"text"\nnull\n{broken}\n{"cuda": {}}\nbye'
    )
    assert parse(text) == [{"nvml": {"count": 1}}, {"cuda": {}}]


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    assert all(isinstance(found, dict) for found in parse(text))
    assert parse(f'{text}\n{{"a": 1}}\n')[-1] == {"a": 1}


def inside(*words: str) -> tuple[int, list[dict[str, Any]], str]:
    """The program, run as in a container: from a string, by a Python that has nothing but itself."""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM.read_text(), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr


def has(library: str) -> bool:
    code = f"import ctypes; ctypes.CDLL({library!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_program_answers_one_object_for_each_library() -> None:
    code, lines, errors = inside("ask")
    assert (code, errors) == (0, "")
    assert [list(line) for line in lines] == [["nvml"], ["cuda"]]
    assert all("error" in facts or "count" in facts for line in lines for facts in line.values())


@pytest.mark.skipif(has("libcuda.so.1") or has("libnvidia-ml.so.1"), reason="the driver's libraries are here")
def test_the_program_says_what_is_missing_on_a_machine_without_a_gpu() -> None:
    _, (nvml, cuda), _ = inside("ask")
    assert "libnvidia-ml.so.1" in nvml["nvml"]["error"]
    assert "libcuda.so.1" in cuda["cuda"]["error"]
    code, lines, errors = inside("measure", "1")
    assert (code, errors, len(lines)) == (1, "", 1)
    assert "libcuda.so.1" in lines[0]["error"]
    gpus, peers = gpu_rates()
    assert isinstance(gpus, Unknown)
    assert "libcuda.so.1" in gpus.reason
    assert peers == gpus


def test_the_program_says_that_torch_is_missing() -> None:
    code, lines, errors = inside("matrix", "cpu", "8")
    assert (code, errors) == (1, "")
    assert lines == [{"error": "No module named 'torch'"}]
