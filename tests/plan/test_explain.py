"""The catalogue of failures against real texts, on every described host; and that it keeps quiet where it should."""

from __future__ import annotations

import re
import runpy
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployer import checks, profile
from deployer.checks.base import NO_GPU, has_gpu
from deployer.engines import ENGINES
from deployer.host import Host, Unknown
from deployer.plan.explain import Signature, catalogue, explain, recognise
from deployer.plan.remedies import ACTS, FACTS, Situation
from tests import hosts

CATALOGUE = catalogue()
TEXTS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "failures.yaml").read_text())
NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
HOSTS = {**hosts.NAMED, **{f"bare-{name}": hosts.bare(host) for name, host in hosts.NAMED.items()}}
WHO = {*(engine.name for engine in ENGINES), "driver", "runtime", "download", "system"}
by_name = pytest.mark.parametrize("signature", CATALOGUE, ids=lambda one: one.name)
# Programs that a fix may tell people to run, beside deployer's own.
TOOLS = (*("nvidia-ctk", "nvidia-smi", "nvidia-modprobe", "modprobe", "systemctl", "docker", "sudo", "apt-get"),)


def engine_of(text: dict[str, Any], signature: Signature) -> str:
    return str(text.get("engine") or signature.who[0])


def at(host: Host, wanted: str = "cpu-small", **more: Any) -> Situation:
    engine = NAMED[wanted].engine
    values = {
        "host": host, "profile": NAMED[wanted], "engine": engine, "name": "small", "runtime": "docker",
        "program": "deployer/x:cpu-1", "model": "small-1", "context": 8192, "concurrency": 4, "port": 8000,
        "shipped": True,
    }  # fmt: skip
    return Situation(**{**values, **more})


def test_it_is_large_and_of_every_kind() -> None:
    assert len(CATALOGUE) >= 80
    assert {kind for one in CATALOGUE for kind in one.who} == WHO
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


@by_name
def test_every_signature_has_a_real_text_from_the_source_it_names(signature: Signature) -> None:
    mine = [text for text in TEXTS if text["name"] == signature.name]
    assert signature.source in {text["source"] for text in mine}
    assert all(id in {check.id for check in checks.CHECKS} for id in signature.checks)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text['name']}-{text['source'].rsplit('/', 3)[-1][:24]}")
def test_real_texts_are_known_for_what_they_are(text: dict[str, Any]) -> None:
    signature = next(one for one in CATALOGUE if one.name == text["name"])
    found = recognise(text["text"].splitlines(), engine_of(text, signature))
    assert found and found[0].name == text["name"]
    assert found[2].line in text["text"]


@by_name
def test_its_texts_name_only_what_there_is(signature: Signature) -> None:
    groups = set(signature.says.groupindex)
    named = {field for _, field, _, _ in string.Formatter().parse(signature.cause + signature.fix) if field}
    assert named <= groups | set(FACTS) | set(ACTS)


@pytest.mark.parametrize("name", HOSTS)
def test_a_fix_names_no_program_that_is_missing_and_no_toolkit_without_a_gpu(name: str) -> None:
    host = HOSTS[name]
    there = () if isinstance(host.system, Unknown) else host.system.tools
    for text in TEXTS:
        signature = next(one for one in CATALOGUE if one.name == text["name"])
        for wanted in ("cpu-small", "gpu-24gb"):
            engine = engine_of(text, signature)
            found = explain(text["text"].splitlines(), at(host, wanted, engine=engine))
            assert found and found.cause and found.fix and "{" not in found.cause
            commands = re.sub(r"https?://\S+|daemon\.json|install the NVIDIA Container Toolkit.*", "", found.fix)
            for tool in TOOLS:
                if re.search(rf"(?:^|[ :`]){re.escape(tool)} [a-z-]", commands):
                    assert tool in there or host.system == Unknown, f"{text['name']}: {found.fix}"
            if has_gpu(host) is False:
                assert "oolkit" not in found.fix and "nvidia-ctk" not in found.fix
                if signature.gpu:
                    assert found.fix.startswith(NO_GPU)


def test_the_words_are_those_of_the_check_that_sees_the_cause_on_this_host() -> None:
    said = ['Error response from daemon: could not select device driver "" with capabilities: [[gpu]].']
    gpu = {"wanted": "gpu-8gb", "engine": "llamacpp"}
    no_toolkit = explain(said, at(hosts.NO_TOOLKIT, **gpu))
    unconfigured = explain(said, at(hosts.UNCONFIGURED, **gpu))
    no_driver = explain(said, at(hosts.NO_DRIVER, **gpu))
    assert no_toolkit and "install the NVIDIA Container Toolkit" in no_toolkit.fix
    assert unconfigured and unconfigured.fix.startswith("sudo nvidia-ctk runtime configure --runtime=docker")
    assert no_driver and "nvidia-driver-" in no_driver.fix and "toolkit" not in no_driver.fix.lower()
    assert "runtime.gpu: " in no_toolkit.fix and "driver.loaded: " in no_driver.fix


def test_facts_of_this_host_stand_in_cause_and_fix() -> None:
    old = ["RuntimeError: The NVIDIA driver on your system is too old (found version 12040). Please update"]
    found = explain(old, at(hosts.OLD_DRIVER, "gpu-24gb", engine="transformers"))
    assert found and "550.54.14" in found.cause and "nvidia-driver-580" in found.fix
    root = replace(hosts.OLD_DRIVER, system=replace(hosts.SYSTEM, user=0))
    as_root = explain(old, at(root, "gpu-24gb", engine="transformers"))
    assert as_root and "sudo" not in as_root.fix


def test_the_next_smaller_setting_is_told_in_the_profiles_own_words() -> None:
    said = ["E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache"]
    two = explain(said, at(hosts.NO_GPU))
    assert two and "serving: {context: 8192, concurrency: 2}" in two.fix and str(NAMED["cpu-small"].path) in two.fix
    one = explain(said, at(hosts.NO_GPU, concurrency=1))
    assert one and "serving: {context: 4096, concurrency: 1}" in one.fix
    least = explain(said, at(hosts.NO_GPU, context=512, concurrency=1))
    assert least and "context: 512," in least.fix


QUIET = """
0.00.001.795 I srv  llama_server: initializing ...
0.00.005.183 W srv  llama_server: security: no API key is set and CORS allows all origins (see https://github.com/x)
0.00.218.100 W llama_context: n_ctx_seq (131072) > n_ctx_train (8192) -- possible training context overflow
main: server is listening on http://127.0.0.1:8080 - starting the main loop
srv  log_server_request: request: GET /health 127.0.0.1 200
INFO 01-11 15:51:18 llm_engine.py:275] # GPU blocks: 229, # CPU blocks: 512
INFO 05-26 07:50:26 [cuda.py:221] Using Flash Attention backend on V1 engine.
WARNING 05-26 07:50:26 [topk_topp_sampler.py:69] FlashInfer is not available. Falling back to the PyTorch-native
(EngineCore_DP0 pid=563) INFO 12-23 23:34:23 [gpu_worker.py:298] Available KV cache memory: 12.77 GiB
INFO 03-27 10:29:03 [model_runner.py:1442] If out-of-memory error occurs during cudagraph capture, consider decreasing
INFO:     127.0.0.1:38284 - "GET /health HTTP/1.1" 200 OK
INFO:     10.0.135.38:48284 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request
[transformers] You are using a model of type `llama` to instantiate a model of type ``.
1.06.520.077 W sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism
NCCL version 2.26.2+cuda12.2
gpu2-ru7:2144:2556 [2] NCCL INFO Ring 00 : 2[3d000] -> 3[3e000] via direct shared memory
Loading safetensors checkpoint shards: 100% Completed | 4/4 [00:03<00:00,  1.22it/s]
supervisor: engine ended with 0 after 40 s
supervisor: engine ended with 1 after 0 s
Exited (1) 4 seconds ago
an answer about errors: the model said that disks fail, and that a failure to plan is a plan to fail
""".strip().splitlines()


@pytest.mark.parametrize("engine", [engine.name for engine in ENGINES])
@pytest.mark.parametrize("line", QUIET)
def test_what_is_no_error_or_says_no_cause_matches_nothing(line: str, engine: str) -> None:
    assert recognise([line], engine) is None
    assert recognise(QUIET, engine) is None


def test_one_engines_words_are_not_anothers() -> None:
    said = ["llama_model_load: error loading model: unknown model architecture: 'llama4'"]
    assert recognise(said, "llamacpp") and not recognise(said, "vllm")


def test_the_page_on_failures_is_made_of_the_catalogue() -> None:
    root = Path(__file__).resolve().parents[2]
    made = runpy.run_path(str(root / "docs/failures.py"))
    page = (root / "docs/failures.md").read_text()
    assert page == made["page"](page, CATALOGUE), "make docs"
    assert set(made["ACTS"]) == set(ACTS)
