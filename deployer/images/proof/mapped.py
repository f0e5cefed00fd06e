"""A program of its own: what a process that imports torch really maps, and which versions that gives itself.

It is run by the image's own Python, so that its crash is a told problem. It prints one JSON object a line, flushed.

    mapped.py torch          imports torch
    mapped.py LIBRARY…       loads libraries by their paths
"""

from __future__ import annotations

import ctypes
import json
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import Any

# Each loads its part of cuDNN from where the library itself looks, and compares versions, though only loosely: all
# are content with a 9.20 that loads the parts of a 9.24. SubquadraticOps is there since 9.24 or before.
CHECKS = [f"cudnn{part}VersionCheck" for part in ("Graph", "Ops", "Cnn", "Adv", "SubquadraticOps")]
# What cuDNN calls before it first runs something: it loads heuristics and engines, and needs no GPU either.
ENGINES = "_ZN5cudnn5graph13LibraryLoader13loadLibrariesEv"
QUESTIONS = {
    "libcudnn.so": "cudnnGetVersion",
    "libcudart.so": "cudaRuntimeGetVersion",
    "libcublasLt.so": "cublasLtGetVersion",
    "libnccl.so": "ncclGetVersion",
}
BY_ADDRESS = {"cudaRuntimeGetVersion", "ncclGetVersion"}  # the others return it


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def maps() -> list[str]:
    """All shared libraries of this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if re.search(r"\.so(\.|$)", path))


def ask(path: str, name: str) -> int:
    function = getattr(ctypes.CDLL(path), name)
    if name in BY_ADDRESS:
        value = ctypes.c_int()
        code = function(ctypes.byref(value))
        return value.value if code == 0 else -code
    function.restype = ctypes.c_size_t
    return int(function())


def complete(path: str) -> None:
    """Has cuDNN map all its parts; codes other than 0 are its own."""
    for name in CHECKS:
        function = getattr(ctypes.CDLL(path), name, None)
        if function is not None:
            say(check=name, code=function())
    for graph in maps():
        if "/libcudnn_graph.so" in graph:
            function = getattr(ctypes.CDLL(graph), ENGINES, None)
            if function is not None:
                function()


def main(words: list[str]) -> None:
    say(python=platform.python_version())
    if words == ["torch"]:
        folder = Path(__file__).resolve().parent
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != folder]
        warnings.simplefilter("ignore")
        import torch

        core: Any = torch._C
        # torch.cuda.get_arch_list() is empty where there is no GPU; this is what it reads elsewhere.
        flags = core._cuda_getArchFlags() if torch.version.cuda else ""
        say(torch=torch.__version__, cuda=torch.version.cuda, architectures=(flags or "").split())
    for path in words if words != ["torch"] else ():
        ctypes.CDLL(path)
    say(mapped=maps())
    for path in maps():
        for start, name in QUESTIONS.items():
            if path.rpartition("/")[2].startswith(start):
                say(library=path, version=ask(path, name))
                if start == "libcudnn.so":
                    complete(path)
    say(mapped=maps())


if __name__ == "__main__":
    main(sys.argv[1:])
