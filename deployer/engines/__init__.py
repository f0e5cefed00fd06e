"""The programs that serve a model; ENGINES is the list."""

from __future__ import annotations

from deployer.engines import llamacpp, transformers, vllm
from deployer.engines.base import Engine as Engine
from deployer.engines.base import Job as Job
from deployer.errors import QuestionError

ENGINES: tuple[Engine, ...] = (llamacpp.ENGINE, transformers.ENGINE, vllm.ENGINE)


def engine(name: str) -> Engine:
    """The engine called `name`; raises QuestionError with the known ones."""
    for found in ENGINES:
        if found.name == name:
            return found
    raise QuestionError(f"there is no engine `{name}`", hint=f"engines: {', '.join(e.name for e in ENGINES)}")
