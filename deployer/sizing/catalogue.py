"""Open chat models to choose from, as data: shapes from each one's config.json, with the place where that was read.

`data/catalogue.json` holds what shapes follow from, not sizes: bytes are computed, so that every quantization of
every model follows from one row. `layer_types` that repeat are kept as one period.
"""

from __future__ import annotations

import json
from functools import cache as once
from typing import Any

from deployer.description import Description, compact
from deployer.frozen import dataclass
from deployer.models.manifest import quantization_in
from deployer.models.metadata import shapes
from deployer.profile import ModelChoice
from deployer.resources import PACKAGE
from deployer.sizing import formats


@dataclass(frozen=True)
class Entry:
    """A model. `native` is the format that it was published in: BF16, FP8 or MXFP4."""

    name: str
    hub: str
    source: str
    config: dict[str, Any]
    native: str

    def description(self, format_: str | None = None) -> Description:
        """The model in a format, by default in the one it was published in."""
        return _description(self.name, format_ or self.native)

    def compact(self, format_: str) -> Description:
        """The same with layers merged: for sums, not for quantizing further."""
        return _compact(self.name, format_)

    @property
    def billions(self) -> float:
        """Numbers in the model, a rough measure of what it knows."""
        return _compact(self.name, "BF16").parameters / 1e9


@once
def entries() -> tuple[Entry, ...]:
    """All models, sorted by name."""
    raw = json.loads((PACKAGE / "sizing/data/catalogue.json").read_text())
    return tuple(
        Entry(r["name"], r["hub"], r["source"], _repeated(r["config"]), r.get("native", "BF16")) for r in raw
    )


@once
def _compact(name: str, format_: str) -> Description:
    return compact(_description(name, format_))


@once
def _description(name: str, format_: str) -> Description:
    if format_ == "BF16":
        return shapes.describe(next(e.config for e in entries() if e.name == name))
    return formats.quantized(_description(name, "BF16"), format_)


def find(name: str) -> Entry | None:
    """The model that a person means: its name, its place on the Hub, or the beginning of one name alone."""
    wanted = name.lower()
    for entry in entries():
        if wanted in (entry.name.lower(), entry.hub.lower()):
            return entry
    started = [e for e in entries() if e.name.lower().startswith(wanted)]
    return started[0] if len(started) == 1 else None


def of(choice: ModelChoice) -> Description | None:
    """The model that a profile chose, if it is here: by its place on the Hub, and by what a GGUF file's name says."""
    hub = choice.source.removeprefix("hf://").lower()
    if hub == choice.source.lower():
        return None
    named = next((f.path for f in choice.files if f.path.endswith(".gguf")), None)
    entry = next((e for e in entries() if e.hub.lower() == (hub.removesuffix("-gguf") if named else hub)), None)
    if entry is None or named is None:
        return entry.description() if entry else None
    said = quantization_in(named)
    try:
        return entry.description(said) if said else None
    except KeyError:
        return None


def near(name: str) -> tuple[str, ...]:
    """Up to five names that may have been meant."""
    import difflib

    names = {e.name.lower(): e.name for e in entries()}
    within = [real for low, real in names.items() if name.lower() in low]
    return tuple((within or [names[n] for n in difflib.get_close_matches(name.lower(), names, 5, 0.5)])[:5])


def _repeated(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {k: _repeated(v) if isinstance(v, dict) else v for k, v in config.items()}
    if found.pop("layer_types_repeat", False):
        period, count = found["layer_types"], found["num_hidden_layers"]
        found["layer_types"] = [period[i % len(period)] for i in range(count)]
    return found
