"""Digests that builds gave before: the same content must give the same layers again, on any machine, in any year."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from deployer import resources
from deployer.errors import BuildError, QuestionError
from deployer.home import write_whole
from deployer.images.target import ARCHIVE, Target

_HEAD = """\
# What builds gave: image, platform, tag (its content), SHA-256 over the digests of its uncompressed layers.
# Written by `deployer build … --record`.
"""


def file() -> Path:
    """Where they are kept."""
    return resources.folder("images") / "digests.tsv"


def recorded(target: Target, platform: str) -> str | None:
    """The digest that this very content gave before; None where none is recorded."""
    found = _read().get((target.name, platform))
    return found[1] if found and found[0] == target.reference.rsplit(":", 1)[1] else None


def record(target: Target, platform: str, digest: str) -> None:
    """Keeps the digest. Raises QuestionError for a base that is not made here, and where recipes cannot be written."""
    if target.base != ARCHIVE:
        raise QuestionError("only images on the base `archive` are recorded", hint="leave out --base")
    rows = _read() | {(target.name, platform): (target.reference.rsplit(":", 1)[1], digest)}
    lines = ("\t".join((*key, *value)) for key, value in sorted(rows.items()))
    try:
        write_whole(file(), (_HEAD + "".join(f"{line}\n" for line in lines)).encode())
    except OSError as error:
        raise QuestionError(f"{file()} cannot be written", hint="record in a checkout of the project") from error


def of(reference: str) -> str:
    """The digest of an image on this engine: SHA-256 over the digests of its layers, whatever store holds them."""
    command = ["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", reference]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise BuildError(f"{reference} is not on this engine", evidence=asked.stderr.splitlines()[-2:])
    layers = "\n".join(json.loads(asked.stdout))
    return f"sha256:{hashlib.sha256(layers.encode()).hexdigest()}"


def _read() -> dict[tuple[str, str], tuple[str, str]]:
    try:
        lines = file().read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {(image, platform): (tag, digest) for image, platform, tag, digest in rows}
