"""What the dynamic loader finds, and in which order: RPATH, LD_LIBRARY_PATH, RUNPATH, its cache, its own folders."""

from __future__ import annotations

import struct
from fnmatch import fnmatch

from .libraries import CUDA, Library
from .tree import Tree

MAGIC = b"glibc-ld.so.cache1.1"
HEADER, ENTRY = 48, 24
TRIPLETS = {62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu"}  # by e_machine


def cache(data: bytes) -> list[tuple[str, str]]:
    """Pairs of SONAME and path in an ld.so.cache, in order; an old format may stand before the one that is read.

    Raises ValueError when it is broken.
    """
    start = data.find(MAGIC)
    if start < 0:
        return []

    def text(place: int) -> str:
        return data[start + place : data.index(b"\0", start + place)].decode("utf-8", "replace")

    count = int.from_bytes(data[start + len(MAGIC) :][:4], "little")
    entries = data[start + HEADER : start + HEADER + ENTRY * count]
    if len(entries) != ENTRY * count:
        raise ValueError("ld.so.cache ends too early")
    return [(text(key), text(value)) for key, value in struct.iter_unpack("<4xII12x", entries)]


def configured(tree: Tree, path: str = "/etc/ld.so.conf") -> list[str]:
    """The folders of ld.so.conf and of what it includes, from which `ldconfig` makes the cache."""
    found = []
    for line in tree.text(path).splitlines():
        word = line.partition("#")[0].strip()
        if word.startswith("include"):
            pattern = word.split(maxsplit=1)[1]
            pattern = pattern if pattern.startswith("/") else f"/etc/{pattern}"
            names = [name for name in tree.nodes if name.startswith("/etc/") and fnmatch(name, pattern)]
            found += [folder for name in names for folder in configured(tree, name)]
        elif word:
            found.append(word)
    return found


def folders(tree: Tree, machine: int) -> list[str]:
    triplet = TRIPLETS.get(machine, "")
    names = (f"/lib/{triplet}", f"/usr/lib/{triplet}", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    return [name for name in names if triplet and tree.real(name) in tree.nodes]


def own(library: Library) -> tuple[str, list[str]]:
    """RUNPATH, or RPATH where there is none, and its folders."""
    origin = library.path.rpartition("/")[0]
    words = library.elf.runpath or library.elf.rpath
    named = [word.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for word in words if word]
    return ("RUNPATH" if library.elf.runpath else "RPATH"), named


def look(tree: Tree, libraries: list[Library], paths: list[str]) -> dict[str, object]:
    """`reach` has, for each library of CUDA, the files that a process may get, the first first, and by what.

    `paths` is LD_LIBRARY_PATH. A library is searched by those that need it and, as cuDNN opens its parts by name,
    by those of its family; a library of CUDA searches only if it can be reached itself.
    """
    data = tree.at("/etc/ld.so.cache").read_bytes() if tree.file("/etc/ld.so.cache") else b""
    cached: dict[str, list[str]] = {}
    for soname, path in cache(data):
        cached.setdefault(soname, []).append(path)
    default = folders(tree, libraries[0].elf.machine if libraries else 0)
    wanted = {one.elf.soname: one.family for one in libraries if one.elf.soname and one.family in CUDA}
    searching = {
        soname: [one for one in libraries if soname in one.elf.needed or one.family == family]
        for soname, family in sorted(wanted.items())
    }

    def files(soname: str, active: set[str]) -> dict[str, str]:
        ways: dict[str, list[tuple[str, str]]] = {"RPATH": [], "RUNPATH": []}
        for one in searching[soname]:
            if one.path in active and one.elf.soname != soname:
                kind, named = own(one)
                ways[kind] += [(f"{folder}/{soname}", f"{kind} of {one.path}") for folder in named]
        tries = ways["RPATH"] + [(f"{folder}/{soname}", "LD_LIBRARY_PATH") for folder in paths if folder]
        tries += ways["RUNPATH"] + [(path, "ld.so.cache") for path in cached.get(soname, ())]
        tries += [(f"{folder}/{soname}", "default folders") for folder in default]
        found: dict[str, str] = {}
        for path, way in tries:
            if tree.file(path):
                found.setdefault(tree.real(path), first.setdefault((soname, tree.real(path)), way))
        return found

    first: dict[tuple[str, str], str] = {}
    active = {one.path for one in libraries if one.family not in CUDA}
    while True:
        reach = {soname: files(soname, active) for soname in searching}
        more = {path for found in reach.values() for path in found} - active
        if not more:
            break
        active |= more
    named = {
        soname: [{"path": path, "by": way} for path, way in found.items()] for soname, found in reach.items()
    }
    return {"library_path": paths, "configured": configured(tree), "default": default, "reach": named}
