"""Whether a model is what its profile takes it for, by its headers."""

from __future__ import annotations

from pathlib import Path

from deployer.errors import ModelError, Refused
from deployer.models import metadata
from deployer.profile import Profile


def agree(profile: Profile, weights: Path, chat_template: bool) -> None:
    """Raises Refused when the model of `profile` is of another kind, or does not say how it makes vectors."""
    kind = profile.model.kind
    try:
        found = metadata.describe(weights)
    except ModelError:  # a design that is not known here; the engine may know it
        found = None
    if found and kind != "embedding" and found.kind == "embedding":
        raise Refused("the model gives embeddings", hint=f"set model.kind to embedding in {profile.path}")
    if kind == "chat" and not chat_template:
        raise Refused(
            "the model has no chat template", hint="set model.kind to completion, or take an instruct model"
        )
    if not found or kind != "embedding" or profile.engine != "llamacpp":
        return
    if found.pooling == "rank":
        raise Refused("the model scores texts, it gives no embeddings", hint="take an embedding model")
    if not found.pooling:
        raise Refused(
            "the file does not say how the tokens of a text become one vector (pooling_type)",
            hint="take an embedding model; if it is one, convert it again with its modules.json beside it",
        )
