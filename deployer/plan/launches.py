"""A choice as units: the engines that serve it, the gateway before them, and what that is told."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployer.engines import Job
from deployer.home import Home
from deployer.plan import door
from deployer.plan.resolve import Choice
from deployer.runtimes import Launch, Part, Runtime
from deployer.sizing import wanted


def where(choice: Choice) -> str:
    """The address at which this host itself reaches the gateway."""
    address = choice.profile.serving.address
    scheme = "https" if any(door.certificates(choice.profile)) else "http"
    return f"{scheme}://{'127.0.0.1' if address == '0.0.0.0' else address}:{choice.port}"


def launches(
    choice: Choice, *, home: Home, runtime: Runtime, generation: int
) -> tuple[tuple[Launch, ...], Launch, Mapping[str, Any]]:
    """The engines that serve `choice`, the gateway before them, as the runtime starts them, and what that is told."""
    inside = runtime.inside(choice.name, choice.weights, choice.folder, choice.port)
    containers = choice.runtime == "docker"
    # an engine that every program of this host can reach asks for a key of its own, if it can
    key = door.engine_key(choice, home) if choice.engine.own_key and not containers else None
    job = Job(
        program=choice.program,
        model=inside.model,
        alias=choice.alias,
        host=inside.listen,
        port=inside.engine_port,
        context=choice.context,
        concurrency=choice.concurrency,
        threads=max(1, choice.threads // choice.profile.serving.replicas),
        key_file=str(key) if key else None,
        gpus=wanted.each(choice.profile) if choice.gpus else 0,
        half=choice.half,
        cache=choice.profile.serving.cache,
        share=choice.share,
        kind=choice.profile.model.kind,
        whole=choice.whole,
    )
    engine_part = Part(
        role="engine",
        arguments=choice.engine.arguments(job),
        image=choice.program if containers else None,
        environment=choice.engine.environment,
        mounts=runtime.mounts(choice.name, choice.folder, "engine"),
        gpu_injection=choice.gpu_injection,
        compiles=choice.engine.compiles,
    )
    gateway = (
        *(("gateway",) if containers else (sys.executable, "-m", "deployer.gateway")),
        *("--config", inside.config),
        *("--state", inside.state),
        *("--host", inside.listen if containers else choice.profile.serving.address),
        *("--port", inside.public_port),
    )
    if any(door.certificates(choice.profile)):
        gateway += ("--certificate", f"{inside.config}/{door.CERTIFICATE}")
        gateway += ("--certificate-key", f"{inside.config}/{door.CERTIFICATE_KEY}")
    gateway_part = Part(
        role="gateway",
        arguments=gateway,
        image=choice.gateway if containers else None,
        mounts=runtime.mounts(choice.name, choice.folder, "gateway"),
    )
    told = door.told(choice, inside, generation, key)
    outside = any((told[name] or {}).get("url") for name in ("safety", "remote"))
    address = choice.profile.serving.address
    engines = tuple(
        Launch(f"{choice.name}/g{generation}/{number}", generation, None, (replace(engine_part, gpus=gpus),))
        for number, gpus in enumerate(_shares(choice), 1)
    )
    return engines, Launch(choice.name, generation, choice.port, (gateway_part,), address, outside), told


def _shares(choice: Choice) -> tuple[tuple[str, ...], ...]:
    """The GPUs of each engine, neighbours together."""
    replicas = choice.profile.serving.replicas
    each = len(choice.gpus) // replicas
    return tuple(choice.gpus[at * each : (at + 1) * each] for at in range(replicas))


def key_file(choice: Choice, home: Home) -> Path | None:
    """Where the deployment's key is, None when the profile says that none is asked for."""
    if choice.profile.serving.api_key == "none":
        return None
    return home.deployment(choice.name) / "key"


def example(url: str, model: str, kind: str, key: Path | None, certificate: Path | None = None) -> str:
    """One curl line that a person can paste."""
    if certificate:  # it is for another name than this host's own address
        url = f"--insecure {url}"
    header = f' -H "Authorization: Bearer $(cat {shlex.quote(str(key))})"' if key else ""
    if kind == "chat":
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
        return f"curl {url}/v1/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'"
    if kind == "embedding":
        body = f'{{"model": "{model}", "input": "The capital of France is Paris."}}'
        return f"curl {url}/v1/embeddings{header} -H 'Content-Type: application/json' -d '{body}'"
    body = f'{{"model": "{model}", "prompt": "The capital of France is", "max_tokens": 16}}'
    return f"curl {url}/v1/completions{header} -H 'Content-Type: application/json' -d '{body}'"
