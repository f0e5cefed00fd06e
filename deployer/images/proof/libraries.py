"""The shared libraries of an image: whose they are, of which version, for which GPUs, and which are there twice."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from . import elf, fatbin
from .packages import LIBRARY, Owner
from .tree import Tree

# Of two that would fit the longer one stands first: cublasLt is not cublas.
CUDA = ["cudnn", "cudart", "cublasLt", "cublas", "cufft", "curand", "cusolver", "cusparseLt", "cusparse"]
CUDA += ["nccl", "nvrtc", "nvJitLink", "cupti", "cufile", "nvshmem"]
OTHERS = ["cuda", "torch", "c10", "ggml", "llama", "stdc++", "gomp"]
FAMILY = re.compile(rf"lib({'|'.join(map(re.escape, CUDA + OTHERS))})(?:Mg|w)?(?![A-Za-z0-9+])")
NUMBER = re.compile(r"\.so\.(\d+\.\d[\d.]*)$")


class Library(NamedTuple):
    """One file, by its real path; `links` are its other names."""

    path: str
    links: list[str]
    size: int
    elf: elf.Elf
    family: str | None
    owner: Owner | None

    @property
    def version(self) -> str | None:
        """As its owner has it, else as its name has it."""
        number = NUMBER.search(self.path)
        return self.owner.version if self.owner else number and number[1]

    @property
    def altered(self) -> bool:
        """Whether it is not the file that its distribution brought, as far as sizes tell."""
        return bool(self.owner and self.owner.size not in (None, self.size))

    def facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"path": self.path, "bytes": self.size, "soname": self.elf.soname}
        facts |= {"family": self.family, "version": self.version, "owner": self.owner and self.owner.name}
        facts |= {"links": self.links} if self.links else {}
        return facts | ({"altered": True} if self.altered else {})


def read(tree: Tree, owners: dict[str, Owner], programs: Sequence[str] = ()) -> list[Library]:
    """All that are ELF files, one for each inode, in order of their paths; and programs by their patterns."""
    links: dict[str, list[str]] = {}
    first: dict[tuple[int, int], str] = {}
    for path, node in tree.nodes.items():
        if LIBRARY.search(path.rpartition("/")[2]) or any(fnmatch(path, pattern) for pattern in programs):
            if node.target is not None:
                links.setdefault(tree.real(path), []).append(path)
            elif stat.S_ISREG(node.mode):
                known = first.setdefault(node.inode, path)
                links.setdefault(known, []).extend([path] if known != path else [])
    found = []
    for path in first.values():
        if facts := elf.read(tree.at(path)):
            match = FAMILY.match(path.rpartition("/")[2])
            size = tree.nodes[path].size
            found.append(Library(path, links[path], size, facts, match and match[1], owners.get(path)))
    return found


def fatbins(tree: Tree, libraries: list[Library]) -> list[dict[str, object]]:
    """Of each library with code for GPUs: how many pieces of SASS and PTX for each compute capability."""
    return [
        {"path": one.path, "links": one.links, **fatbin.architectures(tree.at(one.path), one.elf.fatbin)}
        for one in libraries
        if one.elf.fatbin
    ]


def twice(tree: Tree, libraries: list[Library]) -> list[dict[str, object]]:
    """Every SONAME that two files have; stubs for the linker, which no program loads, do not count."""
    names: dict[tuple[str, int], list[Library]] = {}
    for one in libraries:
        if one.elf.soname and "/stubs/" not in one.path:
            names.setdefault((one.elf.soname, one.elf.machine), []).append(one)
    found: list[dict[str, object]] = []
    for (soname, _), same in sorted(names.items()):
        if len(same) > 1:
            alike = len({one.size for one in same}) < len(same)
            files: list[dict[str, object]] = [{"path": one.path, "bytes": one.size} for one in same]
            for one, file in zip(same, files, strict=True):
                file |= {"sha256": digest(tree.at(one.path))} if alike else {}
            identical = alike and len({file["sha256"] for file in files}) == 1
            found.append({"soname": soname, "identical": identical, "files": files})
    return found


def digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()
