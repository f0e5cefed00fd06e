"""What is known of the deployment's GPUs, from `gpus.json`, which `deployer watch` writes beside the configuration.

The gateway has no GPU and asks none. What is older than half a minute is not shown: then nobody looks at the GPUs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRESH_S = 30.0
GPU_LABELS = ("gpu", "UUID", "modelName")
_MIB = 1 << 20
_NUMBERS = ("memory_used", "memory_total", "utilization", "temperature", "power_w", "xid")
Read = Callable[[dict[str, Any]], float | None]


def _mib(one: dict[str, Any], left: bool) -> float | None:
    used, total = one["memory_used"], one["memory_total"]
    if used is None or (left and total is None):
        return None
    return float((total - used if left else used) // _MIB)


# Names, units and labels as in NVIDIA's dcgm-exporter up to 4.8 (etc/default-counters.csv), which dashboards know;
# 4.9 renames them and counts in bytes and shares of 1.
GPU_GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", lambda one: one["utilization"]),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", lambda one: _mib(one, False)),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", lambda one: _mib(one, True)),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda one: one["temperature"]),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", lambda one: one["power_w"]),
    ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", lambda one: one["xid"]),
)


class Gpus:
    """The facts of one file, read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gpus.json"
        self._stamp: tuple[int, int] | None = None
        self._at, self._gpus = 0.0, list[dict[str, Any]]()

    def now(self) -> list[dict[str, Any]]:
        """Facts by GPU: index, uuid, name, and numbers or None: bytes, %, °C, W, the last Xid or 0."""
        try:
            about = self._path.stat()
            if (stamp := (about.st_mtime_ns, about.st_ino)) != self._stamp:
                self._stamp = stamp
                self._at, self._gpus = _read(self._path)
        except OSError:
            return []
        except (KeyError, TypeError, ValueError):
            self._gpus = []
        return self._gpus if abs(time.time() - self._at) <= FRESH_S else []


def _read(path: Path) -> tuple[float, list[dict[str, Any]]]:
    """Raises OSError, or KeyError, TypeError and ValueError for what is not of the agreed shape."""
    raw = json.loads(path.read_bytes(), parse_constant=_no_number)
    return float(raw["at"]), [
        {
            "index": int(one["index"]), "uuid": str(one["uuid"]), "name": str(one["name"]),
            **{key: None if one[key] is None else float(one[key]) for key in _NUMBERS},
        }
        for one in raw["gpus"]
    ]  # fmt: skip


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
