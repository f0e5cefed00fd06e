"""`vllm serve`: safetensors on GPUs, many requests at once."""

from __future__ import annotations

from deployer.engines.base import Engine, Job
from deployer.sizing.memory import sequences, step


def _arguments(job: Job) -> tuple[str, ...]:
    return (
        job.program,
        "serve",
        job.model,
        *("--served-model-name", job.alias),
        *("--host", job.host),
        *("--port", job.port),
        *("--tensor-parallel-size", str(max(1, job.gpus))),
        *("--max-model-len", str(job.context)),
        *("--max-num-seqs", str(sequences(job.concurrency))),
        *("--max-num-batched-tokens", str(step(job.context, whole=job.whole))),
        *("--gpu-memory-utilization", f"{job.share:.2f}"),
        *("--dtype", "float16" if job.half else "auto"),
        *(("--kv-cache-dtype", "fp8") if job.cache == "8-bit" else ()),
        *(("--runner", "pooling") if job.kind == "embedding" else ()),
        "--disable-uvicorn-access-log",
    )


ENGINE = Engine(
    name="vllm",
    formats=("safetensors",),
    own_key=False,  # its key would stand in its arguments, and guards /v1 alone
    files=(
        *("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"),
        # how vectors are made of tokens: without these it pools as it thinks best
        *("*_Pooling/*.json", "*_Dense/*.json", "*_Dense/*.safetensors"),
    ),
    folder="/opt/venv/bin",
    arguments=_arguments,
    # FlashInfer's sampler would be compiled at every start, for minutes, because nothing that is written stays.
    environment={"VLLM_USE_FLASHINFER_SAMPLER": "0"},
    compiles=True,
)
