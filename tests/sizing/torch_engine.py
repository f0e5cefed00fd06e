"""What models hold in memory in the real torch and transformers; run by the engine's own Python, not by the tests'.

    python torch_engine.py TOKENS '{"llama": {"model_type": "llama", …}, …}'

One line of JSON for each model, with random weights: bytes of its parameters, of what its cache holds after a prompt
of TOKENS tokens and two more, and by how much resident memory rose above that while the prompt was read; and its
config.json as transformers writes it. The cache is the one that `transformers serve` uses: what `generate` makes.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM


def held(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a cache: keys, values, states, histories, wherever its layers keep them."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (dict, list, tuple)):
        inner = value.values() if isinstance(value, dict) else value
    else:
        inner = vars(value).values() if type(value).__module__.startswith("transformers") else ()
    return [tensor for each in inner for tensor in tensors(each)]


def measured(config: dict[str, Any], tokens: int) -> dict[str, Any]:
    made = CONFIG_MAPPING[config["model_type"]](**{k: v for k, v in config.items() if k != "model_type"})
    model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).eval()
    answer = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    prompt = torch.randint(3, 999, (1, tokens))
    model.generate(prompt, **answer)  # what oneDNN makes once for each shape is there from now on
    gc.collect()
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    cache = model.generate(prompt, return_dict_in_generate=True, **answer).past_key_values
    rose = held("VmHWM") - before
    # storages, because a view keeps all of what it was cut from
    kept = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors(cache))}
    size = sum(kept.values())
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "cache": size, "compute": rose - size, "config": json.loads(made.to_json_string()),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, config in json.loads(sys.argv[2]).items():
        sys.stdout.write(json.dumps({"model": name, **measured(config, int(sys.argv[1]))}) + "\n")
