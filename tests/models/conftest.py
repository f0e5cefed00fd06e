"""What all tests of models share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, the servers of the tests are reached directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
