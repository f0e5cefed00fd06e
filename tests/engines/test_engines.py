from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.engines import ENGINES, Job, engine
from deployer.errors import QuestionError

JOB = Job(
    program="/opt/engine",
    model="/models/m",
    alias="m",
    host="127.0.0.1",
    port="8080",
    context=4096,
    concurrency=2,
    threads=8,
    key_file=None,
)
LLAMACPP = (
    *("/opt/engine", "--model", "/models/m", "--alias", "m", "--host", "127.0.0.1", "--port", "8080"),
    *(
        "--ctx-size",
        "8192",
        "--parallel",
        "2",
        "--threads",
        "8",
        "--cache-ram",
        "256",
        "--no-ui",
        "--offline",
        "--fit",
        "off",
        "--no-warmup",
    ),
)
TRANSFORMERS = ("/opt/engine", "serve", "/models/m", "--host", "127.0.0.1", "--port", "8080")
VLLM = (
    *(*TRANSFORMERS[:3], "--served-model-name", JOB.alias, *TRANSFORMERS[3:]),
    *("--tensor-parallel-size", "2", "--max-model-len", "4096", "--max-num-seqs", "16"),
    *("--max-num-batched-tokens", "2048", "--gpu-memory-utilization", "0.92"),
)
QUIET = "--disable-uvicorn-access-log"


@pytest.mark.parametrize(
    ("name", "job", "arguments"),
    [
        pytest.param("llamacpp", JOB, LLAMACPP, id="llamacpp"),
        pytest.param(
            "llamacpp",
            replace(JOB, key_file="/k"),
            (*LLAMACPP, "--api-key-file", "/k"),
            id="llamacpp with a key",
        ),
        pytest.param(
            "llamacpp", replace(JOB, gpus=1), (*LLAMACPP, "--n-gpu-layers", "999"), id="llamacpp on a GPU"
        ),
        pytest.param(
            "transformers", JOB, (*TRANSFORMERS, "--device", "cpu", "--dtype", "auto"), id="transformers"
        ),
        pytest.param(
            "transformers",
            replace(JOB, gpus=2),
            (*TRANSFORMERS, "--device", "auto", "--dtype", "auto"),
            id="transformers on GPUs",
        ),
        pytest.param(
            "transformers",
            replace(JOB, gpus=1, half=True),
            (*TRANSFORMERS, "--device", "auto", "--dtype", "float16"),
            id="transformers on an old GPU",
        ),
        pytest.param(
            "llamacpp",
            replace(JOB, cache="8-bit"),
            (*LLAMACPP, "--flash-attn", "on", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"),
            id="llamacpp with a cache in 8 bits",
        ),
        pytest.param(
            "llamacpp",
            replace(JOB, kind="embedding", whole=True),
            (*(word if word != "256" else "0" for word in LLAMACPP), "--embeddings", "--batch-size", "4096",
             "--ubatch-size", "4096"),
            id="llamacpp with an encoder",
        ),
        pytest.param(
            "llamacpp",
            replace(JOB, kind="embedding"),
            (*(word if word != "256" else "0" for word in LLAMACPP), "--embeddings"),
            id="llamacpp with a model that writes, for vectors",
        ),
        pytest.param(
            "vllm",
            replace(JOB, gpus=2, share=0.92, kind="embedding", whole=True),
            (*("4096" if word == "2048" else word for word in VLLM), "--dtype", "auto", "--runner", "pooling", QUIET),
            id="vllm with an encoder",
        ),
        pytest.param("vllm", replace(JOB, gpus=2, share=0.92), (*VLLM, "--dtype", "auto", QUIET), id="vllm"),
        pytest.param(
            "vllm",
            replace(JOB, gpus=2, share=0.92, half=True, cache="8-bit"),
            (*VLLM, "--dtype", "float16", "--kv-cache-dtype", "fp8", QUIET),
            id="vllm with a cache in 8 bits on old GPUs",
        ),
    ],
)
def test_arguments(name: str, job: Job, arguments: tuple[str, ...]) -> None:
    assert engine(name).arguments(job) == arguments


def test_what_an_engine_serves_follows_from_the_kind_of_the_model() -> None:
    assert engine("llamacpp").serves("embedding") == engine("vllm").serves("embedding") == ("/v1/embeddings",)
    assert engine("transformers").serves("embedding") == ()
    for found in ENGINES:
        assert found.serves("chat") == found.serves("completion") == found.paths
        assert "/v1/embeddings" not in found.paths


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(QuestionError) as caught:
        engine("tgi")
    assert caught.value.hint == "engines: llamacpp, transformers, vllm"


@pytest.mark.parametrize("name", [e.name for e in ENGINES])
def test_what_an_engine_converts_to_is_what_it_loads(name: str) -> None:
    found = engine(name)
    assert set(found.convert.values()) <= set(found.formats)
    assert not set(found.convert) & set(found.formats)
    assert any(pattern.endswith(f".{found.formats[0]}") for pattern in found.files)
