"""Tokens per second of six models on this processor, as `deployer fit` tells them and as llama-server gives them.

The models have the shapes of real ones and random weights of a normal size, so that nothing is quicker than it would
be. The memory's bandwidth is measured between the answers, in the same minute. Both are measured in the processor's own
time, with one thread: what other programs take of the machine counts for neither.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run import ROOT

sys.path.insert(0, str(ROOT))
from deployer import host
from deployer.models.metadata import describe
from deployer.models.metadata.ggml import size
from deployer.sizing import memory as memories
from deployer.sizing import speed as rates
from deployer.sizing.memory import Use
from tests.sizing import ggufs, llamacpp

QWEN = {"key": 128, "norms_": {"attn_q_norm": 128, "attn_k_norm": 128}}
SIX: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M Q4_0": ("llama", {
        "layers": 30, "h": 576, "heads": 9, "kv": 3, "wide": 1536, "vocab": 49152, "kind": "Q4_0"}),
    "Qwen3-0.6B Q4_0": ("qwen3", {
        "layers": 28, "h": 1024, "heads": 16, "kv": 8, "wide": 3072, "vocab": 151936, "kind": "Q4_0", **QWEN}),
    "SmolLM2-360M Q8_0": ("llama", {
        "layers": 32, "h": 960, "heads": 15, "kv": 5, "wide": 2560, "vocab": 49152, "kind": "Q8_0"}),
    "SmolLM2-360M F16": ("llama", {
        "layers": 32, "h": 960, "heads": 15, "kv": 5, "wide": 2560, "vocab": 49152, "kind": "F16"}),
    "Llama-3.2-1B Q4_0": ("llama", {
        "layers": 16, "h": 2048, "heads": 32, "kv": 8, "wide": 8192, "vocab": 128256, "kind": "Q4_0"}),
    "Llama-3.2-1B Q8_0": ("llama", {
        "layers": 16, "h": 2048, "heads": 32, "kv": 8, "wide": 8192, "vocab": 128256, "kind": "Q8_0"}),
}  # fmt: skip
CONTEXT, PROMPT, TOKENS, ROUNDS = 1024, 32, 20, 4


def speed(work: Path) -> Iterator[dict[str, Any]]:
    """One row for each model: tokens per second told and measured, the bandwidth, and bytes of the process."""
    for name, (arch, values) in SIX.items():
        path = work / "model.gguf"
        write(path, *ggufs.plain(arch, **values))
        made = describe(path)
        with llamacpp.served(path, CONTEXT, 1, work / "log") as (text, pid):
            if "n_slots" not in text:
                raise SystemExit(f"{name}: {text[-1000:]}")
            answered(pid)  # not counted: the file is read
            taken, moved = [], []
            for _ in range(ROUNDS):
                moved.append(host.bandwidth())
                taken.append(answered(pid))
            held = resident(pid) - twice(text, made.weights)
        bandwidth = statistics.median(moved)
        told = rates.speed(made, "llamacpp", bandwidth=bandwidth, memory="ddr", context=PROMPT + TOKENS // 2).one
        need = memories.memory(made, "llamacpp", Use(CONTEXT))
        row = {
            "model": name, "bytes": made.weights, "told": told, "measured": 1 / statistics.median(taken),
            "bandwidth": bandwidth, "load": os.getloadavg()[0], "seconds": taken, "moved": moved,
            "process": [need.total - need.part("prompts"), held],
        }  # fmt: skip
        print(row, flush=True)
        yield row
        path.unlink()


def table(part: dict[str, Any]) -> str:
    rows = ["| Model | Weights | Bandwidth | Told | Measured | Error | Process |", "| --- " * 7 + "|"]
    for r in part["rows"]:
        told, held = r["process"]
        rows.append(
            f"| {r['model']} | {r['bytes'] / 1e6:.0f} MB | {r['bandwidth'] / 1e9:.1f} GB/s | "
            f"{r['told']:.1f} | {r['measured']:.1f} | {100 * (r['told'] / r['measured'] - 1):+.0f} % | "
            f"{100 * (told / held - 1):+.1f} % |"
        )
    return "\n".join(rows)


def answered(pid: int) -> float:
    """Seconds of the processor for one more token of an answer: a long answer less a short one."""
    spent = []
    for tokens in (1, 1 + TOKENS):
        dice, before = random.Random(tokens), worked(pid)
        said = complete({"prompt": [dice.randrange(1, 8000) for _ in range(PROMPT)], "n_predict": tokens,
                         "ignore_eos": True, "temperature": 0, "cache_prompt": False})  # fmt: skip
        assert said["tokens_predicted"] == tokens, said
        spent.append(worked(pid) - before)
    return (spent[1] - spent[0]) / TOKENS


def worked(pid: int) -> float:
    """Seconds that the threads of a process were on a processor."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def twice(text: str, weights: int) -> float:
    """Bytes of tensors that are in memory twice: mapped from the file, and arranged anew for this processor.

    The file's pages are the system's to drop.
    """
    return llamacpp.reported(text, "model") * (1 << 20) - weights if "CPU_REPACK model" in text else 0.0


def write(path: Path, keys: dict[str, Any], tensors: ggufs.Tensors) -> None:
    """A GGUF file with random weights of about 0.01."""
    ggufs.write(path, keys, tensors)
    start = path.stat().st_size - sum(_room(shape, kind) for shape, kind in tensors.values())
    blocks = {"Q4_0": (struct.pack("<e", 0.002), 16), "Q8_0": (struct.pack("<e", 0.0001), 32)}
    tiles = {"F32": struct.pack("<f", 1.0) * 65536}
    dice = random.Random(4)
    tiles["F16"] = struct.pack("<65536e", *(dice.uniform(-0.02, 0.02) for _ in range(65536)))
    for kind, (scale, count) in blocks.items():
        tiles[kind] = b"".join(scale + dice.randbytes(count) for _ in range(65536))
    with path.open("r+b") as file:
        file.seek(start)
        for shape, kind in tensors.values():
            left = _room(shape, kind)
            while left:
                left -= file.write(tiles[kind][:left])


def _room(shape: tuple[int, ...], kind: str) -> int:
    count = 1
    for length in shape:
        count *= length
    return -(-size(kind, count) // ggufs.ALIGN) * ggufs.ALIGN


def complete(body: dict[str, Any]) -> dict[str, Any]:
    """One answer of the server, which may still be loading."""
    url, kind = f"http://127.0.0.1:{llamacpp.PORT}/completion", {"Content-Type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 120
    while True:
        try:
            with opener.open(urllib.request.Request(url, json.dumps(body).encode(), kind), timeout=600) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise
            time.sleep(0.1)


def resident(pid: int) -> int:
    """Bytes that the process has in memory."""
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in told if line.startswith("VmRSS"))
