"""Starts an accepted deployment again, as it was: after a reboot, without a network, a profile or an audit."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from deployer import profile
from deployer.engines import engine
from deployer.errors import DeployerError, LaunchError, QuestionError
from deployer.plan import failed
from deployer.plan.acceptance import healthy
from deployer.plan.apply import World, await_port, wait
from deployer.plan.record import Record
from deployer.plan.remedies import Situation
from deployer.plan.steps import Ready


def again(record: Record, world: World) -> float | None:
    """Seconds until the deployment of `record` was ready; None when it answered already.

    Raises LaunchError when it does not come up; then nothing of it runs.
    """
    if record.engine is None:
        raise QuestionError(
            f"{record.name} was accepted by an older version, which did not note its engine",
            hint=f"deployer up {record.profile}",
        )
    runtime, begin = world.runtime, time.monotonic()
    unit = runtime.find(record.name)
    here = unit is not None and unit.state == "running" and unit.fingerprint == record.launch.fingerprint
    if here and healthy(record.url, record.certificate):
        return None
    try:
        if not here:
            if unit is not None:
                runtime.stop(record.name)
            await_port(record.launch.port)
            try:
                runtime.start(record.launch)
            except LaunchError as error:
                raise failed.unstarted(error, _situation(record, world)) from error
        certificate = Path(record.certificate) if record.certificate else None
        ready = Ready(record.name, record.url.removesuffix("/v1"), certificate)
        wait(ready, engine(record.engine), world, partial(_situation, record, world))
    except (DeployerError, KeyboardInterrupt):
        runtime.stop(record.name)
        raise
    return time.monotonic() - begin


def _situation(record: Record, world: World) -> Situation:
    """What explains the failure; only for that is the profile read, which may be gone."""
    try:
        return failed.of_record(record, world.facts, profile.load(Path(record.profile)))
    except DeployerError as error:
        said = tuple(world.runtime.logs(record.name, lines=20))
        raise LaunchError(f"{record.name} did not come up", evidence=said, hint=error.message) from error
