"""How a published model's weights are quantized, from `quantization_config`, and what that makes of its bytes."""

from __future__ import annotations

from typing import Any

from deployer.models.metadata.config import Config

# What transformers turns back into 16 bits when it answers first; vLLM computes with it as it is.
UNPACKED = "compressed-tensors"


def label(config: Config) -> str | None:
    """The scheme's name as people say it (`FP8`, `GPTQ 4 bit`, `NF4`), None for weights as they were trained."""
    q = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(q, dict):
        return None
    method = str(q.get("quant_method", "?"))
    if method == "bitsandbytes":
        return "NF4" if q.get("load_in_4bit") else "INT8"
    if method in ("gptq", "awq"):
        return f"{method.upper()} {q.get('bits', q.get('w_bit', 4))} bit"
    if method == UNPACKED:
        weights = _weights(q)
        return f"{'FP' if weights.get('type') == 'float' else 'INT'}{weights.get('num_bits', '?')} ({method})"
    if method == "modelopt":
        return str(q.get("quant_algo") or "modelopt").upper()
    return {"fp8": "FP8", "fbgemm_fp8": "FP8", "mxfp4": "MXFP4"}.get(method, method)


def packed(config: Config) -> int | None:
    """Bits of numbers of which several are kept in one integer; None where each has its own."""
    q = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(q, dict):
        return None
    method = q.get("quant_method")
    if method == "bitsandbytes":
        return 4 if q.get("load_in_4bit") else None
    if method in ("gptq", "awq"):
        return int(q.get("bits") or q.get("w_bit") or 4)
    if method == UNPACKED and "pack" in str(q.get("format")):
        return int(_weights(q).get("num_bits") or 4)
    return None


def _weights(q: dict[str, Any]) -> dict[str, Any]:
    """How compressed-tensors keeps the weights of its first group."""
    groups = q.get("config_groups") or {}
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    found = first.get("weights") if isinstance(first, dict) else None
    return found if isinstance(found, dict) else {}
