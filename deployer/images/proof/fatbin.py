"""For which GPUs a library holds code, read from the headers of its fat binary; payloads are not touched.

The section is a row of containers: magic, version, size of this header (16), and of what follows. There lie entries:
kind (1 is PTX, 2 is SASS, machine code), version, size of header and of payload, and at offset 28 the architecture.
The counts are those of NVIDIA's `cuobjdump --list-elf` and `--list-ptx` for all libraries that torch 2.13.0 needs.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from pathlib import Path

MAGIC = b"\x50\xed\x55\xba"  # 0xBA55ED50
KINDS = {1: "ptx", 2: "sass"}
ARCHITECTURE, FLAGS, HEADER = 28, 40, 48  # offsets in an entry, and the bytes of it that are read
SPECIFIC = 1 << 20  # sm_90a and the like: this chip alone, no later one


def name(number: int) -> str:
    """Compute capability, 7.5 for 75 and 12.0 for 120."""
    return f"{number // 10}.{number % 10}"


def architectures(path: Path, section: tuple[int, int]) -> dict[str, dict[str, int]]:
    """How many pieces of SASS and PTX for each compute capability are in the section (offset, bytes) of a file."""
    counts: dict[str, Counter[tuple[int, str]]] = {kind: Counter() for kind in KINDS.values()}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = min(sum(section), len(data))
        place = data.find(MAGIC, section[0], end)
        while 0 <= place <= end - 16:
            header, size = struct.unpack_from("<6xHQ", data, place)
            entry, place = place + header, min(place + max(header + size, len(MAGIC)), end)
            while entry + HEADER <= place:
                kind, length, payload = struct.unpack_from("<H2xIQ", data, entry)
                if kind in KINDS:
                    number, flags = struct.unpack_from("<I8xQ", data, entry + ARCHITECTURE)
                    counts[KINDS[kind]][number, "a" if flags & SPECIFIC else ""] += 1
                entry += max(length + payload, HEADER)
            place = data.find(MAGIC, place, end)
    return {
        kind: {name(number) + letter: count for (number, letter), count in sorted(counts[kind].items())}
        for kind in counts
    }
