"""Both pages by axe, in both themes, wide and on a phone; and on a phone by hand."""

from __future__ import annotations

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, expect

from tests.e2e.page.server import Answer, PageServer
from tests.e2e.page.visit import Visit, visit

pytestmark = pytest.mark.e2e

WIDE = {"width": 1200, "height": 800}
PHONE = {"width": 360, "height": 740}
RICH = (
    "# Title\n\nText with `code`, a [link](https://e.org) and ~~more~~.\n\n"
    "```python\ndef f(x: int) -> str:  # a comment\n"
    '    return f"{x}" + "y" * 200\n```\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n\n> quoted\n\n- [x] done\n- item\n\n'
    "```diff\n+ added\n- removed\n```\n\n```js\nclass A { b = /x/g; c = null }\n```\n\n```yaml\na: 1\n```"
)


def axe(tab: Visit) -> list[str]:
    """What axe finds; its own script comes in through the debugger, which the page's policy does not hold."""
    if not tab.page.evaluate("'axe' in window"):
        tab.page.evaluate(AXE_FILE_PATH.read_text())
    found = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 10
    return [
        f"{one['impact']} {one['id']}: {node['html'][:150]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_chat_has_no_barrier(browser: Browser, server: PageServer, scheme: str, size: dict[str, int]) -> None:
    with visit(browser, server, color_scheme=scheme, viewport=size, reduced_motion="reduce") as tab:
        tab.open(key=None).page.get_by_label("API key").wait_for()
        assert axe(tab) == []
        tab.page.keyboard.type("sk-right")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("#which span")
        assert axe(tab) == []
        server.answers += [
            Answer(pieces=[RICH], thoughts=["Hm"]), Answer(pieces=["Other"]), Answer(status=500, message="why"),
        ]  # fmt: skip
        tab.ask("Show me all of it, please")
        tab.page.locator(".answered summary").click()
        assert axe(tab) == []
        tab.page.get_by_role("button", name="Answer again").click()
        tab.page.locator(".versions").wait_for()
        tab.send("And more")
        tab.page.locator(".trouble").wait_for()
        assert axe(tab) == []
        server.answers += [Answer(status=503, headers={"Retry-After": "100"})]
        tab.page.get_by_role("button", name="Try again").click()
        tab.page.locator(".trouble.waits").wait_for()
        assert axe(tab) == []
        tab.page.keyboard.press("Escape")
        if size is PHONE:
            tab.page.get_by_role("button", name="Show or hide conversations").click()
            tab.page.wait_for_timeout(300)
            assert axe(tab) == []
            tab.page.keyboard.press("Escape")
            expect(tab.page.get_by_role("button", name="Show or hide conversations")).to_be_focused()
        tab.page.get_by_role("button", name="Settings of this chat").click()
        assert axe(tab) == []
        tab.page.keyboard.press("Escape")
        tab.page.locator(".answered").first.click()
        tab.page.keyboard.press("?")
        assert axe(tab) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_status_has_no_barrier(
    browser: Browser, server: PageServer, scheme: str, size: dict[str, int]
) -> None:
    with visit(browser, server, color_scheme=scheme, viewport=size) as tab:
        tab.open("/status").page.wait_for_selector(".plot .line")
        assert axe(tab) == []


def overflow(tab: Visit) -> int:
    found: int = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found


def test_on_a_phone(browser: Browser, server: PageServer) -> None:
    with visit(browser, server, viewport=PHONE, has_touch=True, is_mobile=True) as tab:
        tab.open()
        page = tab.page
        server.answers.append(Answer(pieces=[RICH]))
        page.locator("#message").tap()
        page.keyboard.type("first line")
        page.keyboard.press("Enter")  # a keyboard on glass has no Shift + Enter
        page.keyboard.type("second line")
        page.get_by_role("button", name="Send").tap()
        tab.answered()
        assert tab.texts()[0] == "first line\nsecond line"
        assert overflow(tab) <= 0
        for wide in page.locator(".codeblock, .wide").all():
            assert wide.bounding_box()["width"] <= PHONE["width"]
        expect(page.locator("#sidebar")).to_be_hidden()
        page.get_by_role("button", name="Show or hide conversations").tap()
        expect(page.locator("#list .open")).to_be_visible()
        page.touchscreen.tap(PHONE["width"] - 10, 300)  # beside it
        expect(page.locator("#sidebar")).to_be_hidden()
        page.get_by_role("button", name="Show or hide conversations").tap()
        page.locator("#new").tap()
        expect(page.locator("#empty")).to_be_visible()
        page.goto(f"{server.url}/status")
        page.wait_for_selector(".plot .line")
        assert overflow(tab) <= 0
        for button in page.locator("button:visible, a:visible").all():
            box = button.bounding_box()
            assert min(box["width"], box["height"]) >= 32
