"""An answer as a profile: the lines that differ, or a complete file that `deployer check` and `up` take."""

from __future__ import annotations

import math

from deployer.frozen import dataclass
from deployer.sizing.fit import Answer, Nearest
from deployer.sizing.memory import Memory, Use

_GB = 10**9
_EIGHT = ("q8_0", "fp8")


@dataclass(frozen=True)
class Source:
    """Where a profile gets the model: `files` are names in the source, `download` bytes that will be fetched."""

    address: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    download: int | None = None
    kind: str = "chat"


def lines(nearest: Nearest) -> tuple[str, ...]:
    """The lines of a profile that make this change."""
    found = [f"serving: {{context: {nearest.use.context}, concurrency: {nearest.use.users}{_cache(nearest.use)}}}"]
    if nearest.gpus:
        found.insert(0, f"requirements: {{gpu: {{count: {nearest.gpus}}}}}")
    if "weights" in nearest.change:
        found.append(f"# model: the same in {nearest.label}")
    return tuple(found)


def profile(answer: Answer, source: Source, *, name: str) -> str:
    """A complete profile. Raises ValueError for a cache in a format that profiles cannot ask for."""
    if answer.use.number not in ("f16", *_EIGHT):
        raise ValueError(f"profiles ask for a cache in 16 or 8 bits, not for {answer.use.number}")
    use, need = answer.use, answer.memory
    gpu = answer.device.kind == "gpu"
    made = [
        f"description: {name} ({answer.label}) on {answer.device.label}",
        "rank: 50",
        "requirements:",
        *_requirements(answer, need, use),
        "  os: linux",
        '  python: "3.10"',
        "model:",
        f"  source: {source.address}",
    ]
    if source.revision:
        made.append(f"  revision: {source.revision}")
    if source.files:
        made += ["  files:", *(f"    - path: {path}" for path in source.files)]
    made.append(f"  kind: {source.kind}")
    if source.download:
        made.append(f"  download: {source.download} B")
    users = min(use.users, 16)
    return "\n".join([
        *made,
        f"engine: {answer.engine}",
        f"variant: {_variant(answer.engine, gpu)}",
        f"serving: {{context: {use.context}, concurrency: {users}{_cache(use)}, port: 8000, api_key: required}}",
        "limits: {first_token: 10 s, per_token: 500 ms}",
        "",
    ])  # fmt: skip


def _requirements(answer: Answer, need: Memory, use: Use) -> list[str]:
    host = math.ceil((need.host_total or need.total) / _GB * 1.1)
    if answer.device.kind != "gpu":
        return [f"  memory: {max(1, host)} GB"]
    card = answer.device.memory >> 20
    capability = f', compute_capability: "{answer.device.capability}"' if answer.device.capability else ""
    vram = f"vram: {card} MiB, free_vram: {math.ceil(need.total / 2**20)} MiB"
    return [
        f"  gpu: {{count: {max(1, use.gpus)}, {vram}{capability}}}",
        f"  memory: {max(2, host)} GB",
    ]


def _cache(use: Use) -> str:
    return ", cache: 8-bit" if use.number in _EIGHT else ""


def _variant(engine: str, gpu: bool) -> str:
    if not gpu:
        return "cpu"
    return "cuda" if engine == "llamacpp" else "cu130"
