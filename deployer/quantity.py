"""Sizes, versions and durations: parsed and printed in one way everywhere."""

from __future__ import annotations

import re
from functools import lru_cache

# Decimal and binary units are both accepted and never mixed up: 1 GB = 10^9, 1 GiB = 2^30 bytes.
_SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATIONS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]+)\s*")


def parse_size(text: str) -> int:
    """`"8 GB"` → 8000000000 bytes. Raises ValueError with what would be right."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if not match or match[2].lower() not in _SIZES:
        raise ValueError("a size with its unit, for example 8 GB or 512 MiB")
    return round(float(match[1]) * _SIZES[match[2].lower()])


def format_size(count: float) -> str:
    """Bytes in decimal units with three figures: 98362432 → `"98.4 MB"`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def parse_duration(text: str) -> float:
    """`"500 ms"` → 0.5 seconds. Raises ValueError with what would be right."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if not match or match[2].lower() not in _DURATIONS:
        raise ValueError("a time with its unit, for example 500 ms or 2 s")
    return float(match[1]) * _DURATIONS[match[2].lower()]


def format_duration(seconds: float) -> str:
    """Seconds for people: 0.0423 → `"42 ms"`, 3.21 → `"3.2 s"`, 75 → `"1 min 15 s"`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


@lru_cache(1024)
def parse_version(text: str) -> tuple[int, ...]:
    """`"580.65.06"` → (580, 65, 6). Raises ValueError unless it is numbers with dots."""
    if not re.fullmatch(r"\d+(\.\d+)*", text.strip()):
        raise ValueError("a version made of numbers and dots, for example 580.65.06")
    return tuple(int(part) for part in text.strip().split("."))


def at_least(found: str, wanted: str) -> bool:
    """True when version `found` is `wanted` or later; missing parts count as 0."""
    a, b = parse_version(found), parse_version(wanted)
    width = max(len(a), len(b))
    return a + (0,) * (width - len(a)) >= b + (0,) * (width - len(b))
