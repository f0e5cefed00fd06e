"""Turns a GGUF file into a folder that `transformers` can serve: `python gguf_to_safetensors.py IN OUT`.

Runs where torch, transformers and gguf are installed: in the transformers image or the engine's own
environment, never in `deployer` itself. Quantized tensors are unpacked to bfloat16, so the result is
larger and not better than its source.
"""

import json
import pathlib
import sys


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # `transformers serve` chooses the class by this name, which GGUF metadata does not carry
    model.config.architectures = [type(model).__name__]
    for leftover in ("quantization_config",):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    print(json.dumps({"architecture": type(model).__name__, "parameters": model.num_parameters()}))


if __name__ == "__main__":
    main()
