"""llama.cpp's `llama-server`: GGUF files, on CPUs and GPUs."""

from __future__ import annotations

from deployer.engines.base import PATIENT, Engine, Job
from deployer.sizing.memory import PROMPT_CACHE


def _arguments(job: Job) -> tuple[str, ...]:
    found = [
        job.program,
        *("--model", job.model),
        *("--alias", job.alias),
        *("--host", job.host),
        *("--port", job.port),
        *("--ctx-size", str(job.context * job.concurrency)),
        *("--parallel", str(job.concurrency)),
        *("--threads", str(job.threads)),
        *("--cache-ram", "0" if job.kind == "embedding" else str(PROMPT_CACHE >> 20)),
        "--no-ui",
        "--offline",
        *("--fit", "off"),  # memory is decided before the start; its own search loads every header twice
        "--no-warmup",  # the acceptance is the first request
    ]
    if job.key_file:
        found += ["--api-key-file", job.key_file]
    if job.cache == "8-bit":  # values in 8 bits are for flash attention alone
        found += ["--flash-attn", "on", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]
    if job.kind == "embedding":
        found += ["--embeddings"]
        if job.whole:  # what is longer than the physical batch is refused
            found += ["--batch-size", str(job.context), "--ubatch-size", str(job.context)]
    if job.gpus:
        found += ["--n-gpu-layers", "999"]
    return tuple(found)


ENGINE = Engine(
    name="llamacpp",
    formats=("gguf",),
    own_key=True,
    files=("*.gguf",),
    folder="/opt/llamacpp",
    arguments=_arguments,
    environment=PATIENT,
)
