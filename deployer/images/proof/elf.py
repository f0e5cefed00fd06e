"""ELF files, read without running them: what a library is called, what it needs and where it looks for that."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

LOAD, DYNAMIC = 1, 2  # p_type
NULL, NEEDED, STRTAB, SONAME, RPATH, RUNPATH = 0, 1, 5, 14, 15, 29  # d_tag
# Code for GPUs, and relocatable code that the device linker has used up: what `cuobjdump` shows with -all only.
FATBINS = (b".nv_fatbin", b"__nv_relfatbin")


class Elf(NamedTuple):
    """One shared library; `fatbin` is the offset and size in bytes of its section with code for GPUs."""

    machine: int
    soname: str | None
    needed: list[str]
    rpath: list[str]
    runpath: list[str]
    fatbin: tuple[int, int] | None


def read(path: Path) -> Elf | None:
    """The library at `path`; None when it is no 64-bit little-endian ELF file, broken, or not ours to read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse(data) if data[:6] == b"\x7fELF\x02\x01" else None
    except (OSError, ValueError, OverflowError, struct.error, StopIteration):
        return None


def parse(data: mmap.mmap) -> Elf:
    machine, program, section, size, count, size_s, count_s, names = struct.unpack_from(
        "<18xH12xQQ6xHHHHH", data
    )
    found: dict[int, list[int]] = {}
    segments = [struct.unpack_from("<I4xQQ8xQ", data, program + size * index) for index in range(count)]
    for kind, offset, _, length in segments:
        if kind == DYNAMIC:
            for tag, value in struct.iter_unpack("<qQ", data[offset : offset + length // 16 * 16]):
                if tag == NULL:
                    break
                found.setdefault(tag, []).append(value)

    def texts(tag: int) -> list[str]:
        return [text(data, base + place) for place in found.get(tag, ())]

    base = 0
    if STRTAB in found:
        place = found[STRTAB][0]
        base = next(
            offset + place - address
            for kind, offset, address, length in segments
            if kind == LOAD and address <= place < address + length
        )
    return Elf(
        machine,
        next(iter(texts(SONAME)), None),
        texts(NEEDED),
        ":".join(texts(RPATH)).split(":") if RPATH in found else [],
        ":".join(texts(RUNPATH)).split(":") if RUNPATH in found else [],
        fatbin(data, section, size_s, count_s, names),
    )


def text(data: mmap.mmap, place: int) -> str:
    return data[place : data.find(b"\0", place)].decode("utf-8", "replace")


def fatbin(data: mmap.mmap, start: int, size: int, count: int, names: int) -> tuple[int, int] | None:
    def header(index: int) -> tuple[int, int, int]:
        return struct.unpack_from("<I20xQQ", data, start + size * index)

    if count:
        _, offset, length = header(names)
        table = data[offset : offset + length]
        for name in FATBINS:
            place = table.find(name + b"\0")
            for index in range(count) if place >= 0 else ():
                found, offset, length = header(index)
                if found == place and offset + length <= len(data):
                    return offset, length
    return None
