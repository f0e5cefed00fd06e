"""A headless Chromium on the pages; every visit is held to: nothing leaves the origin, the policy is never broken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Playwright, Request

from tests.e2e.page.server import KEY, PageServer
from tests.servers import wait_until

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


def launch(playwright: Playwright) -> Browser:
    """Debian's Chromium, without its window."""
    return playwright.chromium.launch(executable_path=shutil.which("chromium"))


class Visit:
    """One tab. `errors` are what the page threw or wrote to the console as an error, `away` requests elsewhere."""

    def __init__(self, page: Page, server: PageServer) -> None:
        self.page, self.server = page, server
        self.away: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(15_000)
        page.on("request", self._requested)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(self.server.url):
            self.away.append(request.url)

    def open(self, path: str = "/", key: str | None = KEY, wait: str = "#which span, #which select") -> Visit:
        """Opens a page; with `key` the tab has it already, and `wait` is there when this returns."""
        if key:
            self.page.add_init_script(f"sessionStorage['deployer.key'] ??= '{key}'")
        self.page.goto(self.server.url + path)
        if key and path == "/":
            self.page.wait_for_selector(wait)
        return self

    def send(self, text: str) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def ask(self, text: str) -> Locator:
        """The answer, when it is whole."""
        self.send(text)
        return self.answered()

    def answered(self) -> Locator:
        answer = self.page.locator(".answered").last
        answer.locator(".tools button").first.wait_for()
        return answer

    def texts(self) -> list[str]:
        return [found.strip() for found in self.page.locator(".bubble, .answered > .prose").all_inner_texts()]

    def titles(self) -> list[str]:
        return self.page.locator("#list .open").all_inner_texts()

    def until(self, expression: str) -> None:
        """Waits for it; the page's policy forbids the evaluation in it that `wait_for_function` would use."""
        wait_until(lambda: self.page.evaluate(expression))

    def violations(self) -> list[str]:
        found: list[str] = self.page.evaluate("violations")
        return found


@contextmanager
def visit(browser: Browser, server: PageServer, **context: Any) -> Iterator[Visit]:
    """A tab of its own, in a browser that keeps nothing of others; what it must never do is looked for at the end."""
    settings = {"locale": "en-GB", "viewport": {"width": 1200, "height": 800}, **context}
    made = browser.new_context(**settings)
    try:
        made.add_init_script(WATCH)
        tab = Visit(made.new_page(), server)
        yield tab
        assert tab.violations() == []
        assert tab.away == []
        refusals = (
            "Failed to load resource: the server responded",
            "net::ERR_",
        )  # the answers that tests play
        assert [error for error in tab.errors if not any(known in error for known in refusals)] == []
    finally:
        made.close()
