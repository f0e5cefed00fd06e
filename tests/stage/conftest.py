"""One build of the fake libraries for all tests, and described hosts that are looked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deployer.host import Host
from tests.stage.describe import Description
from tests.stage.stage import Stage, build, described, missing


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake libraries."""
    if why := missing():
        pytest.skip(why)
    return build(tmp_path_factory.mktemp("libraries"))


@pytest.fixture
def stage(built: Path, tmp_path: Path) -> Iterator[Callable[[str | Description], Stage]]:
    """Enters the stage of a described host."""
    with ExitStack() as stack:
        yield lambda said: stack.enter_context(Stage(said, tmp_path / f"stage-{id(said)}", built))


@pytest.fixture(scope="session")
def seen(built: Path) -> Callable[[str], Host]:
    """What the real probe says of a described host; each is looked at once."""
    known: dict[str, Host] = {}

    def see(name: str) -> Host:
        if name not in known:
            known[name] = described(name, built)
        return known[name]

    return see
