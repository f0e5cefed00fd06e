"""Keeps the weights of a folder of safetensors in 8 or 4 bits: `python quantize_safetensors.py IN OUT BITS`.

Runs where torch, transformers and compressed-tensors are. Weights of linear layers are rounded to the nearest step,
with one step size for each row (8 bits) or each 32 weights of a row (4 bits): of several the one with the least squared
error. They are kept as compressed-tensors' `pack-quantized`; embeddings and the output layer stay as they are. Nothing
is calibrated.
"""

import json
import sys

GROUP = 32
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of the largest weight, that the largest step count stands for


def main() -> None:
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, target, bits = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    grouped = {"strategy": "group", "group_size": GROUP} if bits == 4 else {"strategy": "channel"}
    how = QuantizationArgs(num_bits=bits, type="int", symmetric=True, **grouped)
    scheme = QuantizationScheme(targets=["Linear"], weights=how)
    config = QuantizationConfig(config_groups={"weights": scheme}, ignore=["lm_head"], format="pack-quantized")
    apply_quantization_config(model, config)
    layers = [one for one in model.modules() if getattr(one, "quantization_scheme", None)]
    for layer in layers:
        rows = layer.weight.detach().float().unflatten(1, (-1, GROUP if bits == 4 else layer.weight.shape[1]))
        best, least = torch.ones_like(rows[..., 0]), torch.full_like(rows[..., 0], torch.inf)
        for share in SHARES:
            scale, _ = calculate_qparams(rows.amin(-1) * share, rows.amax(-1) * share, how)
            step = scale.float().unsqueeze(-1)
            kept = (rows / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
            error = (rows - kept).square().sum(-1)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        with torch.no_grad():
            layer.weight_scale.copy_(best.reshape(layer.weight_scale.shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    print(json.dumps({"layers": len(layers), "bits": bits}))


if __name__ == "__main__":
    main()
