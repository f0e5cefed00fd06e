"""How a published model's weights are quantized, from `quantization_config`, and what that makes of its bytes."""

from __future__ import annotations

from deployer.models.metadata.config import Config


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
    if method == "modelopt":
        return str(q.get("quant_algo") or "modelopt").upper()
    return {"fp8": "FP8", "fbgemm_fp8": "FP8", "mxfp4": "MXFP4"}.get(method, method)
