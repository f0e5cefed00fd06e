"""Starts an accepted deployment again, as it was: after a reboot, without a network, a profile or an audit."""

from __future__ import annotations

import time
from functools import partial

from deployer.errors import DeployerError, LaunchError
from deployer.plan import failed
from deployer.plan.acceptance import healthy
from deployer.plan.apply import World
from deployer.plan.generations import situation
from deployer.plan.record import Record
from deployer.plan.standing import settle, stands


def again(record: Record, world: World) -> float | None:
    """Seconds until the deployment of `record` was ready; None when it answered already.

    Raises LaunchError when it does not come up; then nothing of it runs.
    """
    begin = time.monotonic()
    if stands(record, world.runtime) and healthy(record.url, record.certificate):
        return None
    try:
        mend(record, world)
    except (DeployerError, KeyboardInterrupt):
        world.runtime.stop(record.name)
        raise
    return time.monotonic() - begin


def mend(record: Record, world: World) -> None:
    """Starts what does not run of the deployment of `record`, and returns when all of it is ready; else LaunchError."""
    try:
        settle(record, world, partial(situation, record, world))
    except LaunchError as error:
        raise failed.unstarted(error, situation(record, world)) from error
