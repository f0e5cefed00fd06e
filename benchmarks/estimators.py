"""Other programs that say how much memory a model takes, from their packages, asked about the same files.

hf-mem reads headers, so it is given the very files (its own function; its command reads from huggingface.co alone).
llmfit knows models by name, so it is asked about those that it has. gguf-parser is a program in Go, of which the
registries of Python have no package; accelerate's estimate-memory counts weights alone, as the sum of the shapes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run import ROOT

PACKAGES = ("hf-mem==0.5.6", "llmfit==1.1.17")
_HF_MEM = """
import json, sys
from hf_mem.gguf.metadata import parse_gguf_metadata
found = []
for path, context, users in json.load(sys.stdin):
    raw = open(path, "rb").read(64 << 20)
    try:
        made = parse_gguf_metadata(raw, experimental=True, max_model_len=context, batch_size=users)
        found.append({"weights": made.bytes_count, "cache": made.kv_cache.cache_size})
    except Exception as error:
        found.append({"error": f"{type(error).__name__}: {error}"})
print(json.dumps(found))
"""


def tools() -> Path:
    """The programs' folder, in an environment of their own."""
    folder = ROOT / ".cache/estimators"
    if not (folder / "bin/llmfit").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "-q", *PACKAGES], check=True)
    return folder / "bin"


def hf_mem(asked: Sequence[tuple[Path, int, int]]) -> list[dict[str, Any]]:
    """What hf-mem says of GGUF files: (path, tokens, users) each; bytes of `weights` and `cache`, or an `error`."""
    done = subprocess.run(
        [str(tools() / "python"), "-c", _HF_MEM], input=json.dumps([(str(p), c, u) for p, c, u in asked]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return list(json.loads(done.stdout))


def llmfit(hub: str, context: int, quantization: str, home: Path) -> Mapping[str, float] | None:
    """What llmfit says of a model that it has: bytes of `weights` and of `all`; None when it has not."""
    done = subprocess.run(
        [str(tools() / "llmfit"), "--json", "plan", hub, "--context", str(context), "--quant", quantization],
        capture_output=True, text=True, env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    try:
        said = json.loads(done.stdout)
        if done.returncode or said["model_name"].lower() != hub.lower():
            return None
        return {"weights": said["disk_size_gb"] * 1e9, "all": said["minimum"]["vram_gb"] * 1e9}
    except (ValueError, KeyError, TypeError):
        return None
