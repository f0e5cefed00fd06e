"""Takes the pictures of the pages: docs/chat-light.png, chat-dark.png, chat-phone.png, status.png.

`make screenshots` brings up `cpu-small` in a home of its own, talks to it in headless Chromium, and takes it down.
`--url` and `--key-file` take another deployment. What the model writes is what it wrote; temperature 0 and fixed
questions keep the pictures alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "List three things that one needs for a picnic.",
    "Write a Python function that adds up a list of numbers, and say in two sentences how it works.",
    "Now write one that finds the largest number of a list.",
)
WARM = (
    60  # seconds of questions before the picture of the status page, so that its plots have something to show
)
SIZE = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 780}


@contextmanager
def deployment() -> Iterator[tuple[str, str]]:
    """The address and the key of one that is brought up for this."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shared = Path(os.environ.get("DEPLOYER_TEST_CACHE", Path.home() / ".cache/deployer-tests"))
        for name in ("engines", "sources"):
            if (shared / name).is_dir():
                (home / name).symlink_to(shared / name)
        env = {**os.environ, "DEPLOYER_HOME": folder}
        command = [sys.executable, "-m", "deployer"]
        try:
            done = subprocess.run(
                [*command, "up", "cpu-small", "--json"], env=env, stdout=subprocess.PIPE, check=True
            )
            made = json.loads(done.stdout)
            yield made["url"].removesuffix("/v1"), Path(made["key_file"]).read_text().strip()
        finally:
            subprocess.run([*command, "down", "--all"], env=env)


def ask(page: Page, question: str) -> None:
    page.fill("#message", question)
    page.get_by_role("button", name="Send").click()
    page.locator(".answered").last.locator(".stats").wait_for(timeout=180_000)


def take(page: Page, name: str) -> None:
    page.mouse.move(1, 1)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / name)


def pictures(url: str, key: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))

        def tab(**settings: Any) -> Page:
            context = browser.new_context(**{"viewport": SIZE, "locale": "en-GB", **settings})
            context.add_init_script(f"sessionStorage['deployer.key'] ??= '{key}'")
            settings_of_chats = json.dumps({"system": "", "temperature": 0, "maxTokens": 220})
            context.add_init_script(f"localStorage.settings ??= '{settings_of_chats}'")
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#which span, #which select")
            return page

        page = tab(color_scheme="light")
        for question in QUESTIONS:
            if question != QUESTIONS[-1]:
                page.keyboard.press("Control+Shift+O")
            ask(page, question)
        take(page, "chat-light.png")
        until = time.monotonic() + WARM
        while time.monotonic() < until:
            page.keyboard.press("Control+Shift+O")
            ask(page, QUESTIONS[1])
        page.set_viewport_size({"width": 1200, "height": 1000})
        page.goto(f"{url}/status")
        page.wait_for_selector(".plot .line", state="attached")
        take(page, "status.png")
        page = tab(color_scheme="dark")
        ask(page, QUESTIONS[2])
        take(page, "chat-dark.png")
        page = tab(
            color_scheme="light", viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True
        )
        ask(page, QUESTIONS[0])
        take(page, "chat-phone.png")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the address of a deployment, without /v1")
    parser.add_argument("--key-file", type=Path)
    given = parser.parse_args()
    if given.url:
        pictures(given.url.rstrip("/"), given.key_file.read_text().strip() if given.key_file else "")
    else:
        with deployment() as (url, key):
            pictures(url, key)


if __name__ == "__main__":
    main()
