"""One Chromium and one server for all tests of the pages, a tab of its own for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.page.server import PageServer
from tests.e2e.page.visit import Visit, launch, visit

expect.set_options(timeout=15_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not shutil.which("chromium"):
        reason = "chromium is not installed: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        made = launch(playwright)
        yield made
        made.close()


@pytest.fixture(scope="package")
def running() -> Iterator[PageServer]:
    with PageServer() as server:
        yield server


@pytest.fixture
def server(running: PageServer) -> PageServer:
    running.reset()
    return running


@pytest.fixture
def chat(browser: Browser, server: PageServer) -> Iterator[Visit]:
    with visit(browser, server) as tab:
        yield tab.open()


@pytest.fixture
def chinese(browser: Browser, server: PageServer) -> Iterator[Visit]:
    with visit(browser, server, locale="zh-CN") as tab:
        yield tab.open()
