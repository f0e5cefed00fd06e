"""What `deployer fit` says against what is: `make bench-sizing`.

    python benchmarks/sizing.py memory      # the small models of tests/sizing on the real llama.cpp, part by part
    python benchmarks/sizing.py torch       # small models on the real transformers, part by part
    python benchmarks/sizing.py published   # famous models against logs and figures of engines and makers
    python benchmarks/sizing.py speed       # six models of 76 MB to 1.3 GB: tokens per second as told and as measured
    python benchmarks/sizing.py --save      # all of it, into benchmarks/data/sizing.json and the tables of docs/fit.md
    python benchmarks/sizing.py --docs      # only the tables again

Beside it hf-mem and llmfit are asked about the same models, where they know them (benchmarks/estimators.py).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import estimators
import speed
from run import ROOT, host

sys.path.insert(0, str(ROOT))
from deployer.models.metadata import Description, describe, shapes
from deployer.sizing import buffers, cache
from deployer.sizing import memory as memories
from deployer.sizing.memory import Use
from tests.sizing import configs, ggufs, llamacpp, test_published
from tests.sizing.bed import MODELS

SAVED = ROOT / "benchmarks/data/sizing.json"
PAGE = ROOT / "docs/fit.md"
MIB = 1 << 20
USES = ((4096, 2), (1000, 1))
PROMPTS = (300, 1000)  # tokens of the prompts that transformers reads
CONTEXT = 32768  # tokens at which caches of famous models are compared
PARTS_OF = ("weights", "cache", "compute", "process")
TORCH_PARTS = PARTS_OF[:3]
# What the server keeps of earlier prompts is a part of its own with a limit of its own; here it keeps nothing.
BARE = ("--cache-ram", "0", "--ctx-checkpoints", "0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/ and docs/fit.md")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/fit.md from the saved results")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(SAVED.read_text()) if SAVED.exists() else {}
    if not options.docs:
        work = Path(tempfile.mkdtemp(prefix="deployer-bench-"))
        try:
            for name in options.parts or PARTS:
                rows = list(PARTS[name](work))
                kept[name] = {"date": time.strftime("%Y-%m-%d", time.gmtime()), **host(), "rows": rows}
                print(f"\n{name}\n{TABLES[name](kept[name])}", flush=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if options.save:
            SAVED.write_text(json.dumps(kept, indent=1) + "\n")
    if options.save or options.docs:
        PAGE.write_text(documented(PAGE.read_text(), kept))
    return 0


# the small models on the real engine


def memory(work: Path) -> Iterator[dict[str, Any]]:
    """One row for each model and use: bytes told and measured of each part, and what hf-mem says."""
    paths = {name: ggufs.write(work / f"{name}.gguf", *make()) for name, make in MODELS.items()}
    asked = [(name, context, slots) for name in MODELS for context, slots in USES]
    beside = estimators.hf_mem([(paths[name], context, slots) for name, context, slots in asked])
    for (name, context, slots), theirs in zip(asked, beside, strict=True):
        found = compared(paths[name], context, slots, work)
        told = "  ".join(f"{part} {error(*found[part]):+.1f} %" for part in PARTS_OF)
        print(f"{name:18}{context:6} x {slots}  {told}", flush=True)
        yield {"model": name, "context": context, "slots": slots, **found, "hf-mem": theirs}


def compared(path: Path, context: int, slots: int, work: Path) -> dict[str, list[float]]:
    """Bytes told and measured, of each part and of the whole process after a prompt in every slot."""
    made = describe(path)
    with llamacpp.served(path, context, slots, work / "log", more=BARE) as (text, pid):
        if "compute buffer size" not in text:
            raise SystemExit(f"{path.name}: {text[-1000:]}")
        for slot in range(slots):
            speed.complete({"prompt": [1 + n % 900 for n in range(520)], "n_predict": 2, "id_slot": slot})
        resident = speed.resident(pid)
    need = memories.memory(made, "llamacpp", Use(context, slots))
    report = llamacpp.reported
    weights = 0.0 if "CPU_REPACK model" in text else report(text, "model") * MIB  # else some are counted twice
    resident -= speed.twice(text, made.weights)
    return {
        "weights": [made.weights, weights],
        "cache": [need.part("cache"), (report(text, "KV") + report(text, "RS")) * MIB],
        "compute": [buffers.llamacpp(made, context, slots), report(text, "compute") * MIB],
        "process": [need.total - need.part("prompts"), resident],
    }


def torch(_work: Path) -> Iterator[dict[str, Any]]:
    """One row for each model and prompt in transformers: bytes told and measured of each part."""
    for tokens in PROMPTS:
        for found in configs.measured(configs.CONFIGS, tokens):
            made = shapes.describe(configs.CONFIGS[found["model"]])
            need = memories.memory(made, "transformers", Use(tokens + 1))  # the last token is never read
            row = {part: [need.part(part), found[part]] for part in TORCH_PARTS}
            told = "  ".join(f"{part} {error(*row[part]):+.1f} %" for part in TORCH_PARTS)
            print(f"{found['model']:18}{tokens:6}  {told}", flush=True)
            yield {"model": found["model"], "tokens": tokens, **row}


# famous models


def published(work: Path) -> Iterator[dict[str, Any]]:
    """One row for each published figure: what it is of, told, published, its source; and what others say."""
    told = test_published
    for name, billions in told.SIZES:
        yield row(name, "numbers", 1e9, told.entry(name).billions, billions, "card, or keras-hub's presets")
    llama = told.entry("Llama-3.1-8B-Instruct")
    for kind, _, gib in told.MIXES:
        made = llama.description(kind)
        theirs = {"hf-mem": hf_mem(made, 8192, work)["weights"]}
        if (found := estimators.llmfit(llama.hub, 8192, kind, work)) is not None:
            theirs["llmfit"] = found["weights"]
        yield row("Llama-3.1-8B-Instruct", f"weights {kind}", 1, made.weights, gib * 2**30,
                  "llama.cpp, tools/quantize/README.md", **theirs)  # fmt: skip
    for name, size in told.TOKENS:
        entry = told.entry(name)
        made = entry.description()
        theirs = {"hf-mem": hf_mem(made, CONTEXT, work)["cache"] / CONTEXT}
        few, many = (estimators.llmfit(entry.hub, tokens, "Q4_K_M", work) for tokens in (CONTEXT // 2, CONTEXT))
        if few and many:  # its cache is in GiB, though it adds it to GB
            theirs["llmfit"] = (many["all"] - few["all"]) / 1e9 * 2**30 / (CONTEXT // 2)
        yield row(name, "cache of a token", 1, cache.per_token(made), size, "vLLM's log, or config.json", **theirs)
    for name, kind, gpus, weights, activation in told.VLLM:
        need = memories.memory(
            told.entry(name).description(kind), "vllm", Use(4096, 1, gpus, sequences=1024, batch=8192)
        )
        source = "llm-d-planner, vLLM 0.11 on H100"
        yield row(name, f"vLLM's weights, {gpus} GPU", 1, need.part("weights"), weights * 2**30, source)
        activation = activation or 2.12  # of the one run that does not follow the rule
        yield row(name, f"vLLM's activations, {gpus} GPU", 1, need.part("compute"), activation * 2**30, source)
    for vocabulary, hidden, mib in told.LOGITS:
        yield row(f"vocabulary {vocabulary}, width {hidden}", "llama.cpp's logits before 2026", 1,
                  buffers.logits(vocabulary, hidden, 512), mib * MIB, "public logs, or their rule")  # fmt: skip


def row(
    model: str, what: str, unit: float, told: float, published: float, source: str, **others: float
) -> dict[str, Any]:
    said = {"told": told * unit, "published": published * unit}
    return {"model": model, "what": what, **said, "source": source, **others}


def hf_mem(made: Description, context: int, work: Path) -> dict[str, float]:
    """What hf-mem says of a GGUF header with these shapes."""
    widest = max(made.layers, key=lambda layer: layer.kv_heads)
    keys = {
        "general.architecture": "x", "x.block_count": len(made.layers), "x.context_length": made.context,
        "x.embedding_length": made.hidden, "x.attention.head_count": made.heads,
        "x.attention.head_count_kv": widest.kv_heads or 1,  # latent attention: one head, as llama.cpp writes it
        "x.attention.key_length": widest.key,
    }  # fmt: skip
    tensors = {f"{t.layer}.{t.role}.{n}": ((t.numbers,), t.kind) for n, t in enumerate(made.tensors)
               if t.kind in ggufs.NUMBERS}  # fmt: skip
    path = work / "header.gguf"
    path.write_bytes(ggufs.header(keys, tensors))
    (found,) = estimators.hf_mem([(path, context, 1)])
    return found


# tables


def error(told: float, real: float) -> float:
    """Per cent that was told too much; not a number where nothing was measured."""
    return 100 * (told / real - 1) if real else math.nan


def span(errors: Sequence[float]) -> str:
    """The least and the most, as a table says it."""
    known = [e for e in errors if not math.isnan(e)]
    if not known:
        return "not told"
    low, high = min(known), max(known)
    return "none" if max(abs(low), abs(high)) < 0.05 else f"{low:+.1f} to {high:+.1f} %"


def memory_table(part: dict[str, Any]) -> str:
    rows = [f"| Model | {' | '.join(('weights', 'cache', 'compute', 'process'))} | hf-mem: weights, cache |",
            "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    names = dict.fromkeys(r["model"] for r in part["rows"])
    for name in names:
        alike = [r for r in part["rows"] if r["model"] == name]
        cells = [span([error(*r[p]) for r in alike]) for p in PARTS_OF]
        theirs = [r["hf-mem"] for r in alike]
        if any("error" in t for t in theirs):
            beside = "ends with an error"
        else:
            caches = [error(t["cache"], r["cache"][1]) for t, r in zip(theirs, alike, strict=True)]
            weights = [error(t["weights"], r["weights"][1]) for t, r in zip(theirs, alike, strict=True)]
            beside = f"{span(weights)}, {span(caches)}"
        rows.append(f"| {name} | {' | '.join(cells)} | {beside} |")
    cells = []
    for p in PARTS_OF:
        errors = [e for r in part["rows"] if not math.isnan(e := error(*r[p]))]
        cells.append(f"median {statistics.median(errors):+.1f} %")
    rows.append(f"| all | {' | '.join(cells)} | |")
    return "\n".join(rows)


def torch_table(part: dict[str, Any]) -> str:
    """The largest prompt's compute in bytes too: what is over by half may be little."""
    most = max(r["tokens"] for r in part["rows"])
    rows = [f"| Model | {' | '.join(TORCH_PARTS)} | compute of {most} tokens, told and measured |",
            "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in dict.fromkeys(r["model"] for r in part["rows"]):
        alike = [r for r in part["rows"] if r["model"] == name]
        cells = [span([error(*r[p]) for r in alike]) for p in TORCH_PARTS]
        told, real = next(r["compute"] for r in alike if r["tokens"] == most)
        rows.append(f"| {name} | {' | '.join(cells)} | {told / MIB:.1f} and {real / MIB:.1f} MiB |")
    cells = [f"median {statistics.median(error(*r[p]) for r in part['rows']):+.1f} %" for p in TORCH_PARTS]
    rows.append(f"| all | {' | '.join(cells)} | |")
    return "\n".join(rows)


def published_table(part: dict[str, Any]) -> str:
    rows = ["| Model | Of | Published | Told | Error | hf-mem | llmfit | Source |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    numbers = [r for r in part["rows"] if r["what"] == "numbers"]
    models = ", ".join(r["model"].removesuffix("-Instruct") for r in numbers)
    rows.append(f"| {len(numbers)} models | numbers | | | {span([error(r['told'], r['published']) for r in numbers])} "
                f"| | | {numbers[0]['source']} |")  # fmt: skip
    for r in part["rows"][len(numbers):]:
        others = [f"{error(r[o], r['published']):+.0f} %" if o in r else "" for o in ("hf-mem", "llmfit")]
        rows.append(f"| {r['model']} | {r['what']} | {shown(r, 'published')} | {shown(r, 'told')} | "
                    f"{error(r['told'], r['published']):+.2f} % | {' | '.join(others)} | {r['source']} |")  # fmt: skip
    return "\n".join(rows) + f"\n\nThe {len(numbers)} models: {models}."


def shown(found: dict[str, Any], key: str) -> str:
    value = found[key]
    if found["what"] == "cache of a token":
        return f"{value:,.0f} B"
    return f"{value / 2**30:.2f} GiB" if value > 2**30 else f"{value / MIB:.1f} MiB"


def documented(page: str, kept: dict[str, Any]) -> str:
    """The page with each part's table between its marks."""
    for name, table in TABLES.items():
        if name in kept:
            text = f"<!-- {name} -->\n\n{table(kept[name])}\n\n<!-- end -->"
            page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, text=text: text, page, flags=re.DOTALL)
    return page


PARTS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "memory": memory, "torch": torch, "published": published, "speed": speed.speed,
}  # fmt: skip
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "memory": memory_table, "torch": torch_table, "published": published_table, "speed": speed.table,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
