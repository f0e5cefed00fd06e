"""The golden reports are those of today."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deployer.host import Host
from tests.stage import describe, golden


@pytest.mark.parametrize("name", describe.names())
def test_the_golden_report_is_that_of_today(name: str, seen: Callable[[str], Host]) -> None:
    """`make golden` writes them anew; what differs is then reviewed as text and committed."""
    made = golden.report(golden.title(name), seen(name), golden.profiles())
    path = golden.GOLDEN / f"{name}.txt"
    assert path.is_file() and made == path.read_text(), (
        f"run `make golden` and review tests/golden/{name}.txt"
    )


def test_every_golden_report_has_its_host() -> None:
    saved = {path.stem for path in golden.SAVED.glob("*.json")}
    assert {path.stem for path in golden.GOLDEN.glob("*.txt")} == {*describe.names(), *saved}
