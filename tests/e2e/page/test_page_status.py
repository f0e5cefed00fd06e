"""The status page, on answers of /v1/status that the test gives."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.page.server import KEY, PageServer
from tests.e2e.page.visit import Visit, visit

pytestmark = pytest.mark.e2e


@pytest.fixture
def status(browser: Browser, server: PageServer) -> Iterator[Visit]:
    with visit(browser, server) as tab:
        tab.open("/status").page.wait_for_selector(".plot .line")
        yield tab


def facts(tab: Visit) -> dict[str, str]:
    rows = tab.page.locator(".facts > div").all()
    return {row.locator("dt").inner_text(): " ".join(row.locator("dd").inner_text().split()) for row in rows}


def test_what_is_deployed_and_how_it_fares(status: Visit) -> None:
    page = status.page
    expect(page.locator("h1")).to_have_text("cpu-small")
    expect(page.locator(".title .state")).to_have_text("Partly ready")  # one replica of two
    assert facts(status) == {
        "Running": "2 4 at most", "Waiting": "1", "Requests": "1,204", "Errors": "3", "Tokens read": "345,210",
        "Tokens written": "678,120", "Up for": "1 d 2 h", "Generation": "3 Version 0.1.0",
    }  # fmt: skip
    model = page.locator(".card").first.inner_text()
    assert re.sub(r"\s+", " ", model) == (
        "SmolLM2-135M Engine llamacpp Context 4,096 tokens Ready engine-0: 2 running, 0 waiting "
        "Not ready engine-1: 0 running, 0 waiting"
    )
    first, second = (card.inner_text() for card in page.locator(".cards .card").all())
    assert "31 GiB / 45 GiB" in first and "87 %" in first and "61 °C" in first and "288 W" in first
    assert "Utilization\n–" in second and "Power\n–" in second
    assert page.get_by_role("progressbar").first.evaluate("bar => bar.value") == pytest.approx(31 / 45)


def test_an_error_of_the_driver_stands_on_its_card(browser: Browser, server: PageServer) -> None:
    server.status["gpus"][0]["xid"], server.status["gpus"][1]["xid"] = 0, 79
    with visit(browser, server) as tab:
        tab.open("/status").page.wait_for_selector(".plot .line")
        first, second = (card.inner_text() for card in tab.page.locator(".cards .card").all())
        assert "Xid" not in first
        assert "Last Xid of an hour\n79" in second


def test_plots_show_the_series_with_its_holes(status: Visit) -> None:
    plots = status.page.locator(".plot svg")
    expect(plots).to_have_count(4)
    label = plots.first.get_attribute("aria-label")
    assert label == "Throughput: 78.2 tokens/s now, 82.7 tokens/s at most in the last 10 min"
    line = plots.first.locator(".line").get_attribute("d")
    assert line.count("M") == 2  # fifteen values in the middle are not known
    assert line.count("L") == 120 - 15 - 2
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line)]
    assert all(8 <= y <= 110 for y in heights)
    box = plots.first.bounding_box()
    status.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 40)  # in the hole
    expect(status.page.locator(".plot").first.locator(".value")).to_have_text("nothing yet")
    expect(status.page.locator(".plot").first.locator(".when")).to_have_text(re.compile(r"\d+:\d+:\d+"))
    status.page.mouse.move(5, 5)
    expect(status.page.locator(".plot").first.locator(".value")).to_have_text("78.2 tokens/s")


def test_it_is_refreshed_and_says_when_it_cannot_be(status: Visit) -> None:
    status.server.status["requests"] = 1300
    status.server.status["models"][0]["replicas"][1]["ready"] = True
    expect(status.page.locator(".facts")).to_contain_text("1,300", timeout=8_000)
    expect(status.page.locator(".title .state")).to_have_text("Ready")
    status.page.context.set_offline(True)
    news = status.page.locator(".title .hint")
    expect(news).to_have_text(re.compile(r"The server cannot be reached.* No news since \d"), timeout=8_000)
    assert "1,300" in facts(status)["Requests"]
    status.page.context.set_offline(False)
    expect(news).to_have_text("Refreshed every 5 s", timeout=8_000)


def test_a_deployment_that_has_done_nothing_yet(browser: Browser, server: PageServer) -> None:
    nothing = dict.fromkeys(("tokens_per_s", "first_token_s"), [None] * 120)
    quiet = dict.fromkeys(("running", "waiting"), [None] * 119 + [0])
    server.status |= {"gpus": [], "models": [], "uptime_s": 4.2, "limit": None}
    server.status["series"] |= {**nothing, **quiet}
    with visit(browser, server) as tab:
        tab.open("/status")
        expect(tab.page.locator(".title .state")).to_have_text("Not ready")
        expect(tab.page.locator(".cards")).to_have_text("No GPU is used.")
        expect(tab.page.locator(".value").first).to_have_text("nothing yet")
        expect(tab.page.locator(".value").nth(2)).to_have_text("0")
        assert facts(tab)["Up for"] == "4 s"
        assert facts(tab)["Running"] == "2"


def test_replicas_that_come_and_go_in_an_upgrade(browser: Browser, server: PageServer) -> None:
    old, new = {"ready": True, "state": "draining"}, {"ready": False, "state": "candidate"}
    active = {"name": "engine-0", "ready": True, "state": "active", "running": 1, "slots": 2}
    server.status["models"][0]["replicas"] = [active, {**active, **old}, {**active, **new}]
    del server.status["version"]
    with visit(browser, server) as tab:
        tab.open("/status")
        expect(tab.page.locator(".title .state")).to_have_text("Ready")
        expect(tab.page.locator(".card li .state")).to_have_text(["Ready", "Finishing", "Starting"])
        expect(tab.page.locator(".card li").first).to_contain_text("engine-0: 1 running")
        assert facts(tab)["Generation"] == "3"


def test_it_asks_for_the_key_and_shares_it_with_the_chat(browser: Browser, server: PageServer) -> None:
    with visit(browser, server) as tab:
        tab.open("/status", key=None)
        tab.page.get_by_label("API key").wait_for()
        tab.page.keyboard.press("Escape")
        expect(tab.page.locator(".title .hint")).to_contain_text("No key was given")
        tab.page.get_by_role("button", name="Try again").click()
        tab.page.get_by_label("API key").fill(KEY)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".plot .line")
        tab.page.get_by_role("link", name="Back to the chat").click()
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")
        tab.page.get_by_role("link", name="Status").click()
        tab.page.wait_for_selector(".plot .line")


def test_in_chinese(browser: Browser, server: PageServer) -> None:
    with visit(browser, server, locale="zh-CN") as tab:
        tab.open("/status").page.wait_for_selector(".plot .line")
        expect(tab.page.locator(".title .state")).to_have_text("部分就绪")
        tab.page.get_by_role("button", name="以英文显示本页").click()
        expect(tab.page.locator(".title .state")).to_have_text("Partly ready")
        expect(tab.page.locator(".plot h2").first).to_have_text("Throughput")
