"""Whose word counts in a log: the child's before its parent's, the root of a chain, the cause before its echoes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployer.plan.testimony import first_error, said

# Composed of what vLLM prints (vllm-project/vllm#25837 and #44411): the engine's process, then the server's.
CHILD = """
(APIServer pid=1) INFO 09-28 15:47:20 [api_server.py:1896] vLLM API server version 0.10.2
(EngineCore_DP0 pid=17) INFO 09-28 15:47:24 [core.py:654] Waiting for init message from front-end.
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] EngineCore failed to start.
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718]   File "/x/vllm/v1/engine/core.py", line 709, in run
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718]     raise ValueError(
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718]           ^^^^^^^^^^^
(EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] ValueError: Free memory on device (3.22/4.0 GiB)
(EngineCore_DP0 pid=17) Process EngineCore_DP0:
""".strip().splitlines()
PARENT = """
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/opt/venv/bin/vllm", line 10, in <module>
(APIServer pid=1)     sys.exit(main())
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
""".strip().splitlines()
FREE = CHILD[7]


def test_the_child_is_heard_before_its_parent_whatever_the_order_of_lines() -> None:
    assert first_error(CHILD + PARENT) == FREE
    assert first_error(PARENT + CHILD) == FREE
    mixed = [line for pair in zip(CHILD, PARENT + [""] * 9, strict=False) for line in pair]
    assert first_error(mixed) == FREE


def test_a_worker_is_heard_before_the_engine_that_started_it() -> None:
    worker = "(Worker_TP1 pid=99) ERROR 11-29 20:52:18 [multiproc_executor.py:597] RuntimeError: NCCL error: x"
    core = "(EngineCore_DP0 pid=17) ERROR 11-29 20:52:17 [core.py:842] ValueError: other"
    assert first_error([core, worker]) == worker


def test_the_parents_word_counts_where_the_child_said_nothing() -> None:
    assert first_error(PARENT) == PARENT[-1]


def test_the_engine_is_heard_before_the_gateway_and_the_supervisor() -> None:
    log = ["gateway | ConnectionError: no engine", "supervisor: engine ended with 1 after 0 s", "engine | fatal error"]
    assert first_error(log) == "engine | fatal error"
    assert [one.text for one in said(log)][-1] == "ConnectionError: no engine"


def test_of_exceptions_that_led_to_each_other_the_first_counts() -> None:
    code = "try:\n  open('/nowhere')\nexcept OSError as e:\n  raise RuntimeError('it does not load') from e"
    log = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()
    assert first_error(log) == "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'"
    assert log[-1] == "RuntimeError: it does not load"


def test_of_exceptions_in_a_child_of_multiprocessing_the_childs_counts(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import multiprocessing\n"
        "def work():\n    raise ValueError('what is really wrong')\n"
        "if __name__ == '__main__':\n"
        "    one = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    one.start(); one.join()\n"
        "    raise RuntimeError('a process ended; See root cause above')\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "child.py")], capture_output=True, text=True)
    assert first_error(done.stderr.splitlines()) == "ValueError: what is really wrong"


# As torch prints it (torch/multiprocessing/spawn.py, ProcessRaisedException).
SPAWNED = """
Traceback (most recent call last):
  File "serve.py", line 9, in <module>
    torch.multiprocessing.spawn(work, nprocs=2)
torch.multiprocessing.spawn.ProcessRaisedException:

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/x/torch/multiprocessing/spawn.py", line 95, in _wrap
    fn(i, *args)
RuntimeError: CUDA error: out of memory
""".strip().splitlines()


def test_of_torchs_spawned_processes_the_childs_error_counts() -> None:
    assert first_error(SPAWNED) == "RuntimeError: CUDA error: out of memory"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (["loading", "0.00.1 x", "0.00.057.442 E llama_model_load: wrong", "0.00.057.5 E srv: exiting due to it"],
         "0.00.057.442 E llama_model_load: wrong"),
        (["0.00.005.183 W srv  x: error in a warning", "error: invalid argument: --x"], "error: invalid argument: --x"),
        (["\x1b[31mERROR\x1b[0m: it failed"], "\x1b[31mERROR\x1b[0m: it failed"),
        (["Failed to import from x", "ERROR 06-30 13:53:19 [core.py:515] ValueError: no"],
         "ERROR 06-30 13:53:19 [core.py:515] ValueError: no"),
        (['{"time": "2026-11-22T18:13:39Z", "event": "request", "status": 401, "cause": "refused"}'], None),
        (["all is well", ""], None),
        ([], None),
        (["Traceback (most recent call last):", '  File "x"'], None),
    ],
    ids=["llama", "option", "colours", "a sure one first", "the gateway's news", "no error", "no log", "cut off"],
)  # fmt: skip
def test_the_first_error_of_a_log(log: list[str], line: str | None) -> None:
    assert first_error(log) == line
