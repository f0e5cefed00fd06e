"""NVIDIA's Container Toolkit: its settings, and the CDI specifications that say how a GPU gets into a container."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from deployer.frozen import dataclass
from deployer.host.base import Questions

FOLDERS = (
    "/etc/cdi",
    "/var/run/cdi",
)  # where engines look that are not told otherwise: the CDI specification
KIND = "nvidia.com/gpu"


@dataclass(frozen=True)
class Specification:
    """One CDI file of kind `nvidia.com/gpu`.

    `version` is the format's, `driver` the driver version in the names of the files it mounts, `missing` the
    files on this host that it names and that are not there. `unreadable` says why nothing else is known.
    """

    path: str
    version: str
    devices: tuple[str, ...]
    driver: str | None
    missing: tuple[str, ...]
    unreadable: str | None = None


@dataclass(frozen=True)
class Toolkit:
    """`hook` and `runtime` are whether its programs are there; `settings` are those of config.toml, dotted."""

    hook: bool
    runtime: bool
    settings: Mapping[str, str] = field(default_factory=dict)


def toolkit(ask: Questions) -> Toolkit | None:
    """None when it is not installed. Raises OSError when its settings are there and cannot be read."""
    folders = [ask.root / place for place in ("usr/bin", "usr/local/bin", "usr/local/nvidia/toolkit")]
    hook = any((folder / "nvidia-container-runtime-hook").exists() for folder in folders)
    runtime = any((folder / "nvidia-container-runtime").exists() for folder in folders)
    tool = any((folder / "nvidia-ctk").exists() for folder in folders)
    if not (hook or runtime or tool):
        return None
    return Toolkit(hook, runtime, _settings(ask.etc / "nvidia-container-runtime/config.toml"))


def cdi(ask: Questions) -> tuple[Specification, ...]:
    """Every specification of NVIDIA GPUs in the usual folders, whatever the engine reads."""
    return tuple(specifications(FOLDERS, ask))


def specifications(folders: tuple[str, ...], ask: Questions) -> Iterator[Specification]:
    """Those of `folders`, in the order in which engines read them; what cannot be parsed says so."""
    seen = set()
    for folder in folders:
        place = ask.root / folder.lstrip("/")
        if place.resolve() in seen:  # /var/run is a link to /run on most machines
            continue
        seen.add(place.resolve())
        try:
            paths = sorted(place.iterdir())
        except OSError:
            continue
        for path in paths:
            if path.suffix in (".json", ".yaml", ".yml"):
                name = f"{folder.rstrip('/')}/{path.name}"
                try:
                    text = path.read_text()
                    if KIND in text and (found := _specification(name, text, ask)):
                        yield found
                except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                    yield Specification(name, "", (), None, (), f"{type(error).__name__}: {error}"[:200])


def _specification(name: str, text: str, ask: Questions) -> Specification | None:
    """None for another kind, such as management.nvidia.com/gpu."""
    raw = _parse(name, text)
    if raw["kind"] != KIND:
        return None
    edits = [raw.get("containerEdits") or {}] + [d.get("containerEdits") or {} for d in raw["devices"]]
    files = {str(mount["hostPath"]) for edit in edits for mount in edit.get("mounts") or ()}
    files |= {
        str(node.get("hostPath") or node["path"]) for edit in edits for node in edit.get("deviceNodes") or ()
    }
    versions = {m[1] for f in files if (m := re.search(r"lib(?:cuda|nvidia-ml)\.so\.(\d+(?:\.\d+)+)$", f))}
    return Specification(
        path=name,
        version=str(raw["cdiVersion"]),
        devices=tuple(str(device["name"]) for device in raw["devices"]),
        driver=max(versions) if versions else None,
        missing=tuple(sorted(f for f in files if not _there(ask.root / f.lstrip("/")))),
    )


def _there(path: Path) -> bool:
    """A file that this user may not see counts as there: nothing is known against it."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _parse(name: str, text: str) -> Any:
    if name.endswith(".json"):
        return json.loads(text)
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _settings(path: Path) -> dict[str, str]:
    """`section.key` to text of the file's plain values; Python 3.10 has no TOML of its own."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    section = ""
    found = {}
    for line in lines:
        if match := re.match(r"\s*\[([\w.\"-]+)\]", line):
            section = match[1].replace('"', "") + "."
        elif match := re.match(r"\s*([\w-]+)\s*=\s*(?:\"([^\"]*)\"|([\w.-]+))", line):
            found[section + match[1]] = match[2] if match[2] is not None else match[3]
    return found
