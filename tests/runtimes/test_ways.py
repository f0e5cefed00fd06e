"""Which ways for a GPU into a container are tried; trying them is in tests/stage/test_stage_deep.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import BuildError
from deployer.host import ContainerRuntime, Toolkit, Unknown
from deployer.progress import Silent
from deployer.runtimes import ways
from tests import hosts

HOOK = Toolkit(hook=True, runtime=True)


@pytest.mark.parametrize(
    ("engine", "toolkit", "names"),
    [
        (hosts.DOCKER, None, ()),
        (hosts.CDI, None, ("cdi",)),
        (hosts.CDI, HOOK, ("cdi", "hook")),
        (replace(hosts.CDI, nvidia_runtime=True), HOOK, ("cdi", "runtime", "hook")),
        (replace(hosts.DOCKER, nvidia_runtime=True), Toolkit(hook=False, runtime=True), ("runtime",)),
        (replace(hosts.CDI, kind="podman"), HOOK, ("cdi",)),
    ],
)
def test_what_is_configured_is_tried(
    engine: ContainerRuntime, toolkit: Toolkit | None, names: tuple[str, ...]
) -> None:
    assert ways.configured(engine, toolkit) == names


def never() -> str:
    raise AssertionError("nothing needs an image")


def test_without_a_gpu_no_image_is_made(tmp_path: Path) -> None:
    here = replace(
        hosts.NO_GPU, models_disk=replace(hosts.DISK, path=str(tmp_path)), images_disk=Unknown("elsewhere")
    )
    found = ways.tried(here, "unix:///nowhere", ("deployer/gateway:cpu-x",), never, Silent())
    assert found.ways == found.gpus == found.peers == Unknown("there is no usable GPU")
    assert found.disks["images"] == Unknown("elsewhere") and not isinstance(found.disks["models"], Unknown)
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_made_is_unknown_and_says_why(tmp_path: Path) -> None:
    def fail() -> str:
        raise BuildError("no base can be had")

    here = replace(hosts.RTX, models_disk=Unknown("-"), images_disk=Unknown("-"))
    found = ways.tried(here, "unix:///nowhere", (), fail, Silent())
    assert found.ways == Unknown("no base can be had")
