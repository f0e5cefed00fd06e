"""Writes the lists of `failures.md` anew: `python docs/failures.py docs`, or `make docs`.

What stands before them stays; everything else comes from `deployer/plan/data/failures.yaml`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from deployer.plan.explain import Signature, catalogue

MARK = "## What is known\n"
# What the acts of deployer/plan/remedies.py come to, in words.
ACTS = {
    "less": "less context or fewer requests at once, as a line for the profile",
    "smaller_model": "a smaller model or fewer bits: deployer fit says which run here",
    "whole_again": "deployer models verify, which finds what is damaged; of a local file: copy it again",
    "engine_again": "make the image again (deployer build), or the engine",
    "newer_driver": "the command that installs a newer driver here",
    "memory_look": "look whether the kernel ended it, then less context or fewer requests at once",
    "fabric": "start the fabric manager, or install it",
    "uvm": "load the nvidia_uvm module",
    "shared_mode": "end what uses the GPU, or let programs share it",
    "shared_memory": "a larger /dev/shm",
    "reset": "reset the GPU",
    "reboot": "reboot",
    "toolkit": "install the NVIDIA Container Toolkit, or register it with the engine",
    "cdi": "write the CDI specification anew",
    "restart_docker": "restart the engine",
    "other_port": "another port: --port",
    "own": "give it to the user that runs deployer, or another home",
    "room": "see what can go: docker system df, deployer models gc",
}
KINDS = (
    (("llamacpp",), "llama.cpp"),
    (("vllm",), "vLLM"),
    (("torch", "transformers"), "torch and transformers, also below vLLM"),
    (("driver",), "The driver and CUDA"),
    (("runtime",), "The container engine"),
    (("download",), "Downloads"),
    (("system",), "The system"),
)


def page(text: str, known: tuple[Signature, ...]) -> str:
    """`text` with the lists of what is known behind its mark."""
    count = f"{len(known)} causes, each tested with real texts of it (`tests/plan/failures.yaml`)."
    lines = [text[: text.index(MARK)] + MARK, count, ""]
    for kinds, title in KINDS:
        lines += [f"### {title}", "", "| Name | Why | What to do | Seen |", "| --- | --- | --- | --- |"]
        lines += [row(one) for one in known if one.name.split(".")[0] in kinds]
        lines.append("")
    return "\n".join(lines)


def row(one: Signature) -> str:
    seen = ", ".join(f"[{id}](checks.md#{id.replace('.', '')})" for id in one.checks)
    fix = prose(one.fix) + (f"; or what these say: {seen}" if seen else "")
    return f"| `{one.name}` | {prose(one.cause)} | {fix} | {link(one.source)} |"


def link(source: str) -> str:
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/(?:issues|pull)/(\d+)", source)
    return f"[{found[1]}#{found[2]}]({source})" if found else prose(source)


def prose(text: str) -> str:
    """As it is in the catalogue; what is filled in on the host stands in pointed brackets."""
    for name, act in ACTS.items():
        text = text.replace(f"{{{name}}}", act)
    text = re.sub(r"(?<!\{)\{(\w+)\}", r"‹\1›", text).replace("{{", "{").replace("}}", "}")
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


if __name__ == "__main__":
    path = Path(sys.argv[1], "failures.md")
    path.write_text(page(path.read_text(), catalogue()))
