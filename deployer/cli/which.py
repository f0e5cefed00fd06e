"""Which deployment a command means when it is given a name, or none."""

from __future__ import annotations

from deployer import plan
from deployer.cli.place import Place
from deployer.errors import QuestionError
from deployer.plan import Record


def which(here: Place, name: str | None) -> Record:
    """The record of `name`; without a name, of the only deployment. Raises QuestionError otherwise."""
    known = plan.records(here.home)
    if name:
        for record in known:
            if record.name == name:
                return record
        names = ", ".join(r.name for r in known) or "none"
        raise QuestionError(f"there is no deployment `{name}`", hint=f"deployments: {names}")
    if not known:
        raise QuestionError("there is no deployment", hint="start one: deployer up")
    if len(known) > 1:
        raise QuestionError(
            f"there are {len(known)} deployments: {', '.join(r.name for r in known)}", hint="name one of them"
        )
    return known[0]
