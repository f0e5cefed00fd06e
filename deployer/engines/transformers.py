"""`transformers serve`: safetensors of any architecture that transformers knows, on torch."""

from __future__ import annotations

from deployer.engines.base import PATIENT, Engine, Job


def _arguments(job: Job) -> tuple[str, ...]:
    # --device auto spreads a model over all GPUs it is given; context and concurrency have no flags here
    return (
        job.program,
        "serve",
        job.model,
        *("--host", job.host),
        *("--port", job.port),
        *("--device", "auto" if job.gpus else "cpu"),
        *("--dtype", "float16" if job.half else "auto"),
    )


ENGINE = Engine(
    name="transformers",
    formats=("safetensors",),
    own_key=False,
    aliases=False,
    vectors=(),  # 5.23 has chat, completions and responses (cli/serving/server.py)
    files=("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"),
    folder="/opt/venv/bin",
    arguments=_arguments,
    convert={"gguf": "safetensors"},
    environment={
        **PATIENT,
        "TRANSFORMERS_VERBOSITY": "warning",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    },
)
