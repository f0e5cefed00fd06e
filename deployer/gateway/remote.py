"""When somebody else is asked: local first, remote only by the rules that the profile names."""

from __future__ import annotations

from .config import Config, Model
from .dialects import EMBEDDINGS
from .replicas import Replicas


def instead(config: Config, replicas: Replicas, model: Model, path: str) -> str | None:
    """Why the remote upstream is asked at once; None when an engine of this deployment is."""
    if not model.replicas and takes(config, "named"):
        return "named"
    if takes(config, "full", path) and not any(place.free for place in replicas.places(model)):
        return "full"
    return None


def takes(config: Config, why: str, path: str = "/v1/chat/completions") -> bool:
    """Whether there is a remote upstream for this reason; never for embeddings: two models' vectors do not compare."""
    return config.remote is not None and why in config.remote.when and path not in ("/v1/responses", EMBEDDINGS)
