"""The chat page when something is wrong: in plain words, and with a way on."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.page.server import KEY, Answer, PageServer
from tests.e2e.page.visit import Visit, visit
from tests.servers import wait_until

pytestmark = pytest.mark.e2e


def test_too_many_requests_counts_down_and_tries_again(chat: Visit) -> None:
    chat.server.answers += [
        Answer(status=429, message="2 per minute", headers={"Retry-After": "3"}),
        Answer(),
    ]
    begun = time.monotonic()
    chat.send("Hello")
    trouble = chat.page.locator(".trouble")
    expect(trouble).to_contain_text("Too many requests at the moment. Next try in 3 s.")
    expect(trouble).to_contain_text("2 per minute")
    expect(trouble).to_contain_text("in 2 s.")
    assert chat.answered().locator(".prose").inner_text() == "Paris is the capital."
    assert 2.9 < time.monotonic() - begun < 8
    assert not trouble.count()
    assert len(chat.server.asked) == 2


def test_a_model_that_is_being_loaded_is_waited_for(chat: Visit) -> None:
    chat.server.answers += [Answer(status=503, headers={"Retry-After": "600"}), Answer()]
    chat.send("Hello")
    expect(chat.page.locator(".trouble")).to_contain_text("The model is not ready yet: it is being loaded.")
    chat.page.get_by_role("button", name="Try now").click()
    chat.answered()
    assert chat.texts() == ["Hello", "Paris is the capital."]


def test_a_part_that_does_not_answer_is_not_called_a_model_that_loads(chat: Visit) -> None:
    chat.server.answers += [
        Answer(status=503, code="safety_unavailable", headers={"Retry-After": "1"}),
        Answer(),
    ]
    chat.send("Hello")
    expect(chat.page.locator(".trouble")).to_contain_text(
        "A part of this service does not answer at the moment."
    )
    chat.answered()
    assert chat.texts() == ["Hello", "Paris is the capital."]


def test_what_the_gateway_did_on_the_way_is_said(chat: Visit) -> None:
    headers = {"X-Deployer-Remote": "api.example.org; full", "X-Deployer-Dropped-Messages": "4"}
    chat.server.answers += [Answer(headers=headers), Answer()]
    assert chat.ask("Hello").locator(".note").all_inner_texts() == [
        "Answered by api.example.org, outside this deployment.",
        "Oldest messages that were left out, because the model cannot read so much: 4.",
    ]
    assert not chat.ask("Hello").locator(".note").count()


def test_waiting_can_be_stopped(chat: Visit) -> None:
    chat.server.answers.append(Answer(status=503, headers={"Retry-After": "600"}))
    chat.send("Hello")
    chat.page.locator(".trouble").wait_for()
    chat.page.keyboard.press("Escape")
    expect(chat.page.locator(".note")).to_have_text("You stopped this answer.")
    assert len(chat.server.asked) == 1


def test_a_page_that_is_opened_before_the_model_is_there(chat: Visit) -> None:
    chat.server.models_status = 503
    chat.page.reload()
    expect(chat.page.locator("#empty")).to_contain_text("The model is not ready yet")
    chat.server.models_status = 200
    expect(chat.page.locator("#which")).to_have_text("SmolLM2-135M")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(status=400, message="too long", code="context_length_exceeded"),
            "longer than the model can read",
        ),
        (Answer(status=400, message="top_k is unknown"), "did not accept the request. top_k is unknown"),
        (
            Answer(status=400, message="blocked", code="content_filter"),
            "The content filter of this server refused",
        ),
        (Answer(status=403, message="not this model"), "This key may not do that."),
        (Answer(status=404, message="gone"), "The server does not have this."),
        (Answer(status=413), "too large"),
        (Answer(status=500, message="<b>boom</b>"), "The server had a problem. <b>boom</b>"),
        (Answer(status=502), "The engine behind the server does not answer."),
        (Answer(pieces=["Half"], late="out of memory"), "The server had a problem. out of memory"),
        (Answer(pieces=["Half"], cut=True), "The connection was lost in the middle of the answer."),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_trouble_in_plain_words_and_another_try(chat: Visit, answer: Answer, words: str) -> None:
    chat.server.answers.append(answer)
    chat.send("Hello")
    trouble = chat.page.get_by_role("alert")
    trouble.wait_for()
    assert words in " ".join(trouble.locator("p").inner_text().split())
    trouble.get_by_role("button", name="Try again").click()
    expect(chat.page.locator(".answered .prose")).to_have_text("Paris is the capital.")
    # nothing is kept of a try that gave nothing; what gave something is an earlier version
    assert chat.page.locator(".versions").count() == (1 if answer.status == 200 else 0)


def test_no_network(chat: Visit) -> None:
    chat.page.context.set_offline(True)
    chat.send("Hello")
    expect(chat.page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    chat.page.context.set_offline(False)
    chat.page.get_by_role("button", name="Try again").click()
    chat.answered()
    assert chat.texts() == ["Hello", "Paris is the capital."]


@pytest.mark.parametrize("file", ["store.js", "chat.css", "marked.esm.js"])
def test_a_file_that_did_not_arrive_is_asked_for_again(chat: Visit, file: str) -> None:
    chat.page.context.route(f"**/{file}", lambda route: route.abort("internetdisconnected"), times=1)
    chat.page.reload()
    expect(chat.page.locator("#which span")).to_have_text("SmolLM2-135M")
    expect(chat.page.locator("body")).to_have_css("display", "grid")


def test_a_file_that_never_arrives_is_not_asked_for_in_a_loop(chat: Visit) -> None:
    chat.page.context.route("**/store.js", lambda route: route.abort("internetdisconnected"))
    loads: list[str] = []
    chat.page.on("domcontentloaded", lambda page: loads.append(page.url))
    chat.page.reload()
    wait_until(lambda: chat.page.wait_for_timeout(50) or len(loads) == 5)
    chat.page.wait_for_timeout(3000)
    assert len(loads) == 5


def test_one_lost_request_is_made_again(chat: Visit) -> None:
    chat.page.context.route("**/v1/chat/completions", lambda route: route.abort("connectionreset"), times=1)
    chat.ask("Hello")
    assert chat.texts() == ["Hello", "Paris is the capital."]


def test_after_trouble_the_next_message_still_goes_out_in_turns(chat: Visit) -> None:
    chat.server.answers.append(Answer(status=500))
    chat.send("First")
    chat.page.get_by_role("alert").wait_for()
    chat.ask("Second")
    assert chat.server.asked[1]["messages"] == [{"role": "user", "content": "First\n\nSecond"}]


def test_an_answer_with_nothing_in_it_and_one_that_was_filtered(chat: Visit) -> None:
    chat.server.answers += [Answer(pieces=[]), Answer(pieces=["Well, "], finish="content_filter")]
    expect(chat.ask("Hello").locator(".note")).to_have_text("The model gave an empty answer.")
    expect(chat.ask("Hello").locator(".note")).to_have_text("This answer was ended by the content filter.")


def test_a_browser_that_keeps_nothing(browser: Browser, server: PageServer) -> None:
    with visit(browser, server) as tab:
        for name in ("indexedDB", "localStorage", "sessionStorage"):
            tab.page.add_init_script(
                f"Object.defineProperty(window, '{name}', {{get() {{ throw Error('off'); }}}})"
            )
        tab.open(key=None)
        tab.page.get_by_label("API key").fill(KEY)
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("#list")).to_contain_text("This browser keeps nothing for this page")
        tab.ask("Hello")
        assert tab.titles() == ["Hello"]
        tab.page.get_by_role("button", name="Theme: system").click()
        expect(tab.page.locator("html")).to_have_attribute("data-theme", "light")


# keyboard and language


def test_the_keyboard_is_enough(chat: Visit) -> None:
    page = chat.page
    box = page.locator("#message")
    box.press_sequentially("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    box.press("Enter")
    chat.answered()
    assert chat.texts()[0] == "one\ntwo"
    page.keyboard.press("Control+K")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.press("Control+Shift+S")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.keyboard.press("Control+K")  # shows them again
    expect(page.get_by_label("Search")).to_be_focused()
    page.locator(".answered").click()
    page.keyboard.press("/")
    expect(box).to_be_focused()
    assert box.input_value() == ""
    page.locator(".answered").click()
    page.keyboard.press("?")
    help = page.get_by_role("dialog", name="Keyboard")
    expect(help.locator("dt")).to_have_count(9)
    page.keyboard.press("Escape")
    expect(help).to_have_count(0)
    page.keyboard.press("Control+Shift+O")
    expect(box).to_be_focused()
    page.get_by_role("link", name="Go to the message box").focus()
    page.keyboard.press("Enter")
    expect(box).to_be_focused()


def test_enter_that_chooses_a_word_of_an_input_method_sends_nothing(chat: Visit) -> None:
    client = chat.page.context.new_cdp_session(chat.page)
    chat.page.focus("#message")
    client.send("Input.imeSetComposition", {"text": "你好", "selectionStart": 2, "selectionEnd": 2})
    chat.page.evaluate(
        "document.getElementById('message').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    client.send("Input.insertText", {"text": "你好"})
    assert chat.page.input_value("#message") == "你好"
    assert chat.server.asked == []
    chat.page.press("#message", "Enter")
    chat.answered()
    assert chat.texts()[0] == "你好"


def test_the_reader_is_not_pulled_away(chat: Visit) -> None:
    chat.page.set_viewport_size({"width": 1000, "height": 500})
    chat.server.answers.append(Answer(pieces=[f"Line {number}.\n\n" for number in range(60)], pause=0.05))
    chat.send("Many lines")
    where = "document.getElementById('scroll')"
    chat.until(f"{where}.scrollTop > 200")
    chat.page.locator("#scroll").hover()
    chat.page.mouse.wheel(0, -150)
    chat.page.wait_for_timeout(150)
    before = chat.page.evaluate(f"{where}.scrollTop")
    chat.page.wait_for_timeout(500)
    assert chat.page.evaluate(f"{where}.scrollTop") == before
    chat.page.get_by_role("button", name="Go to the end").click()
    chat.answered()
    assert chat.page.evaluate(f"{where}.scrollHeight - {where}.scrollTop - {where}.clientHeight") < 2


def test_chinese_by_the_browser_and_by_the_switch(chat: Visit, chinese: Visit) -> None:
    expect(chinese.page.locator("#empty h2")).to_have_text("想聊点什么？")
    assert chinese.page.evaluate("document.documentElement.lang") == "zh-CN"
    chat.server.answers += [Answer(status=500)]
    chat.send("Hello")
    chat.page.get_by_role("alert").wait_for()
    chat.page.get_by_role("button", name="Show this page in Chinese").click()
    expect(chat.page.get_by_role("alert")).to_contain_text("服务器出现问题。")
    expect(chat.page.locator("#new")).to_have_text("新对话")
    chat.page.reload()
    expect(chat.page.locator("#new")).to_have_text("新对话")
    chat.page.get_by_role("button", name="以英文显示本页").click()
    expect(chat.page.locator("#new")).to_have_text("New chat")


def test_both_languages_have_the_same_words(chat: Visit) -> None:
    words = chat.page.evaluate("""async () => {
        const base = document.querySelector("script[type=module]").src;
        return (await import(new URL("words.js", base))).WORDS;
    }""")
    english, chinese = words["en"], words["zh-CN"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", chinese[key])), key


def test_the_theme_follows_the_system_or_the_choice(chat: Visit) -> None:
    page = chat.page
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.get_by_role("button", name="Theme: system").click()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Theme: dark").click()
    assert page.evaluate(ground) == light
