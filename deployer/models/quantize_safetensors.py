"""Keeps the weights of a folder of safetensors in 8 or 4 bits: `python quantize_safetensors.py IN OUT BITS`.

Runs where torch, transformers and compressed-tensors are. Weights of linear layers are rounded to the nearest step,
with one step size for each row (8 bits) or each 32 weights of a row (4 bits), and kept as compressed-tensors'
`pack-quantized`; embeddings and the output layer stay as they are. Nothing is calibrated.
"""

import json
import sys

GROUP = 32


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
        scale, _ = calculate_qparams(rows.amin(-1), rows.amax(-1), how)
        with torch.no_grad():
            layer.weight_scale.copy_(scale.reshape(layer.weight_scale.shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    print(json.dumps({"layers": len(layers), "bits": bits}))


if __name__ == "__main__":
    main()
