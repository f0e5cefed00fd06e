"""What all tests of fetching share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from deployer.fetch import Web


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, the servers of the tests are reached directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with Web().client() as made:
        yield made
