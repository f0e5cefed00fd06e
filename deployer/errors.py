"""Every error that `deployer` raises on purpose, as one tree.

DeployerError               the answer is no (exit code 1)
├─ QuestionError            the question was wrong (exit code 2)
│  └─ ProfileError          a profile file has mistakes: all of them, with file and line
├─ Refused                  the host cannot run what was asked; nothing was changed
├─ Busy                     another `deployer` works on the same thing
├─ RuntimeUnavailable       no container runtime answers, or it may not be used
├─ BuildError               an image or an engine could not be built
├─ ModelError               a model cannot be had whole
│  ├─ SourceUnreachable     the place it comes from does not answer
│  ├─ HashMismatch          the bytes are not the bytes that were asked for
│  └─ NoSpace               the file system is too small for it
└─ LaunchError              the deployment did not come up
   ├─ EngineDied            the engine ended while it was being waited for
   ├─ EngineStuck           the engine made no progress for too long
   └─ AcceptanceFailed      it answers, but wrongly or far too slowly

Each carries a `hint`: the next command or step, for a person. A foreign exception that
reaches the command line is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DeployerError(Exception):
    """Something that a person can act on: `message`, `hint`, lines of `evidence`, and where all that was said is."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, evidence: Sequence[str] = (), log: Path | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = tuple(evidence)
        self.log = log


class QuestionError(DeployerError):
    """What was asked makes no sense as it stands."""

    exit_code = 2


class ProfileError(QuestionError):
    """A profile has mistakes; `problems` holds one line for each."""

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the profile has {count}", hint=hint, evidence=problems)
        self.problems = tuple(problems)


class Refused(DeployerError):
    """The host does not meet the profile."""


class Busy(DeployerError):
    """Another process holds the lock."""


class RuntimeUnavailable(DeployerError):
    """The container runtime does not answer or may not be used."""


class BuildError(DeployerError):
    """A build failed."""


class ModelError(DeployerError):
    """A model cannot be had whole."""


class SourceUnreachable(ModelError):
    """The source of a model does not answer."""


class HashMismatch(ModelError):
    """Wrong bytes."""


class NoSpace(ModelError):
    """Too little room on the file system."""


class LaunchError(DeployerError):
    """A deployment did not come up."""


class EngineDied(LaunchError):
    """The engine ended before it was ready."""


class EngineStuck(LaunchError):
    """The engine is alive and does not move."""


class AcceptanceFailed(LaunchError):
    """The engine answers, and the answer is not acceptable."""
