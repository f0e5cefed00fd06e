"""Our images on an engine: which of them are what the recipes make now, and the removal of the others."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deployer import images
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.images.inspect import OURS
from deployer.images.look import engine


@dataclass(frozen=True)
class Kept:
    """One image: `size` in bytes, with the layers that it shares; `present` is whether today's recipe makes it.

    `references` are those that `deployer build` gave it; `more` is whether it has other names, too.
    """

    name: str
    references: tuple[str, ...]
    more: bool
    identity: str
    size: int
    created: str
    present: bool


def kept(address: str) -> tuple[Kept, ...]:
    """All images on the engine at `address` that `deployer build` named, by name, those of the present recipes first.

    An image that somebody made of one of ours has its labels, too, but not its name. Raises RuntimeUnavailable when
    the engine does not answer.
    """
    found = []
    for image in engine(address).images.list(filters={"label": OURS}):
        labels = image.labels
        name = f"{labels[OURS]}:{labels.get('io.deployer.variant', '')}"
        ours = sorted(tag for tag in image.tags if re.search(rf"(^|/){re.escape(name)}-[0-9a-f]{{12}}$", tag))
        if ours:
            about = image.attrs
            more, present = len(ours) < len(image.tags), _present(labels)
            found.append(
                Kept(name, tuple(ours), more, str(image.id), about["Size"], str(about["Created"]), present)
            )
    return tuple(sorted(found, key=lambda one: (one.name, not one.present, one.references)))


def _present(labels: Mapping[str, str]) -> bool:
    """By content, so that the name under which it is here does not matter; on the base that it was built on."""
    base = labels.get("org.opencontainers.image.base.name", images.ARCHIVE)
    try:
        target = images.target(labels[OURS], labels.get("io.deployer.variant", ""), base)
    except QuestionError:
        return False
    return labels.get("io.deployer.content") == target.digest


def remove(one: Kept, address: str) -> str | None:
    """Takes the names of `one` from the engine, and with the last its layers; returns why not, as when it is used."""
    import docker.errors

    client = engine(address)
    try:
        for reference in one.references:
            client.images.remove(reference)
    except docker.errors.NotFound:
        return None
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    return None


def layers_size(address: str) -> int:
    """Bytes of all layers on the engine, each once."""
    return int(engine(address).df()["LayersSize"])
