"""The chat page, driven as a person drives it."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.page.server import KEY, Answer, PageServer
from tests.e2e.page.visit import Visit, visit
from tests.servers import wait_until

pytestmark = pytest.mark.e2e


# the key


def test_the_key_is_asked_for_once_and_kept_for_the_session(browser: Browser, server: PageServer) -> None:
    with visit(browser, server) as tab:
        tab.open(key=None)
        dialog = tab.page.get_by_role("dialog", name="Your key")
        expect(dialog.get_by_label("API key")).to_be_focused()
        tab.page.keyboard.type("sk-…")
        tab.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This key was not accepted.")
        dialog.get_by_label("API key").fill("sk-wrong")
        tab.page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This key was not accepted.")
        dialog.get_by_label("API key").fill(f"  {KEY} ")
        dialog.get_by_role("button", name="Continue").click()
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")
        tab.page.reload()
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")
        kept = tab.page.evaluate(
            "[Object.values(sessionStorage), JSON.stringify({...localStorage}), document.cookie]"
        )
        assert kept[0] == [KEY]
        assert KEY not in kept[1] + kept[2]

        other = tab.page.context.new_page()  # a second tab gets it from the first
        other.goto(server.url)
        expect(other.locator("#which")).to_have_text("SmolLM2-135M")
        other.close()

        server.key = "sk-new"  # the old one was taken away: the message waits for the new one
        tab.send("Where?")
        expect(dialog.get_by_role("alert")).to_have_text("This key was not accepted.")
        dialog.get_by_label("API key").fill("sk-new")
        tab.page.keyboard.press("Enter")
        assert tab.answered().inner_text().startswith("Paris is the capital.")
        tab.page.get_by_role("button", name="Forget the key").click()
        expect(dialog.get_by_label("API key")).to_be_focused()
        assert tab.page.evaluate("sessionStorage.length") == 0


def test_who_gives_no_key_is_told_so(browser: Browser, server: PageServer) -> None:
    with visit(browser, server) as tab:
        tab.open(key=None)
        tab.page.get_by_label("API key").wait_for()
        tab.page.keyboard.press("Escape")
        expect(tab.page.locator("#empty")).to_contain_text("No key was given")
        tab.page.locator("#which").get_by_role("button", name="Try again").click()
        tab.page.get_by_label("API key").fill(KEY)
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")


def test_a_server_without_keys_asks_for_none(browser: Browser, server: PageServer) -> None:
    server.key = None
    with visit(browser, server) as tab:
        tab.open(key=None)
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")
        assert not tab.page.locator("dialog").count()


def test_a_server_without_a_chat_model_says_what_is_there(browser: Browser, server: PageServer) -> None:
    server.more = {"paths": ["/v1/embeddings"]}
    with visit(browser, server) as tab:
        tab.open(wait="#which button")
        expect(tab.page.locator("#empty")).to_contain_text("does not chat. Programs ask it at /v1/embeddings")
        server.more = {"paths": ["/v1/chat/completions", "/v1/completions"]}
        tab.page.locator("#which").get_by_role("button", name="Try again").click()
        expect(tab.page.locator("#which")).to_have_text("SmolLM2-135M")


# asking and answering


def test_an_answer_is_shown_as_it_comes_with_its_speed(chat: Visit) -> None:
    chat.server.answers.append(Answer(pieces=["One", " two", " three"], pause=0.4))
    chat.page.evaluate("""window.seen = []; new MutationObserver(() =>
        seen.push(document.querySelector(".answered .prose")?.textContent.trim())
    ).observe(document.getElementById("thread"), {subtree: true, childList: true, characterData: true})""")
    chat.ask("Count.")
    seen = [text for text, _ in itertools.groupby(chat.page.evaluate("seen.filter(Boolean)"))]
    assert seen == ["One", "One two", "One two three"]
    assert chat.texts() == ["Count.", "One two three"]
    speed, first, tokens = chat.page.locator(".stats span").all_inner_texts()
    assert 1.5 < float(re.match(r"([\d.]+) tokens/s", speed)[1]) < 2.6  # two tokens in 0.8 s
    assert 0.35 < float(re.search(r"after ([\d.]+) s", first)[1]) < 1.5
    assert tokens == "3 tokens"
    assert len(chat.server.asked[0].pop("prompt_cache_key")) == 24
    assert chat.server.asked[0] == {
        "model": "SmolLM2-135M", "messages": [{"role": "user", "content": "Count."}],
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    expect(chat.page.locator("#said")).to_have_text("The answer is complete.")
    chat.ask("Again.")
    assert [one["role"] for one in chat.server.asked[1]["messages"]] == ["user", "assistant", "user"]


def test_an_engine_that_counts_no_tokens(chat: Visit) -> None:
    chat.server.answers.append(Answer(usage=False, pause=0.05))
    assert "≈ 5 tokens" in chat.ask("Where?").inner_text()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop(chat: Visit, how: str) -> None:
    chat.server.answers.append(Answer(pieces=["Once upon"], hold=True))
    chat.send("A long story.")
    expect(chat.page.locator(".answered .prose")).to_have_text("Once upon")
    if how == "button":
        chat.page.get_by_role("button", name="Stop").click()
    else:
        chat.page.keyboard.press("Escape")
    expect(chat.page.locator(".note")).to_have_text("You stopped this answer.")
    wait_until(lambda: chat.server.left == 1)  # the engine is let go
    assert chat.texts()[-1] == "Once upon"
    expect(chat.page.get_by_role("button", name="Send")).to_be_visible()


def test_markdown_code_and_copying(chat: Visit) -> None:
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code = 'def f(n: int) -> str:\n    return f"{n}"'
    source = (
        f"# Title\n\nSome *words* and `code`.\n\n```python\n{code}\n```\n\n- [x] done\n\n| a | b |\n| --- | ---: |\n"
        "| 1 | 2 |\n\nH<sub>2</sub>O<br>[link](https://example.org/x)\n\n1. one\n   ```sh\n   ls\n   ```\n"
    )
    chat.server.answers.append(Answer(pieces=[source[at : at + 3] for at in range(0, len(source), 3)]))
    answer = chat.ask("Show.")
    expect(answer.locator("h1")).to_have_text("Title")
    expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    assert answer.locator("td").last.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    assert answer.locator("input[type=checkbox][disabled]").is_checked()
    assert answer.locator("sub").inner_text() == "2"
    link = answer.get_by_role("link", name="link")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert answer.locator("li .codeblock pre").inner_text() == "ls"
    answer.get_by_role("button", name="Copy code").first.click()
    assert chat.page.evaluate("navigator.clipboard.readText()") == code
    answer.get_by_role("button", name="Copy", exact=True).click()
    assert chat.page.evaluate("navigator.clipboard.readText()") == source
    # over plain HTTP from another machine there is no clipboard interface
    chat.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    chat.page.evaluate("document.addEventListener('copy', () => (window.copied = getSelection().toString()))")
    answer.get_by_role("button", name="Copy code").last.click()
    chat.until("window.copied === 'ls'")


def test_long_markdown_is_drawn_block_by_block(chat: Visit) -> None:
    chat.server.answers.append(
        Answer(
            pieces=["First.\n\n", "Second", " goes", " on.\n\n", "[x][1]\n\n", "[1]: https://e.org\n"],
            pause=0.3,
        )
    )
    chat.send("Go.")
    expect(chat.page.locator(".prose > div")).to_have_count(2)
    chat.page.locator(".prose > div").first.evaluate("node => (node.mark = 'the same')")
    expect(chat.page.locator(".prose > div").nth(1)).to_have_text("Second goes on.")
    assert chat.page.locator(".prose > div").first.evaluate("node => node.mark") == "the same"
    answer = chat.answered()
    assert answer.get_by_role("link", name="x").get_attribute("href") == "https://e.org"


@pytest.mark.parametrize("inline", [False, True])
def test_reasoning_is_folded(chat: Visit, inline: bool) -> None:
    if inline:
        chat.server.answers.append(
            Answer(pieces=["<think>", "Hmm, **let me** see.", "</think>", "\n\nYes."], pause=0.1)
        )
    else:
        chat.server.answers.append(Answer(thoughts=["Hmm, ", "**let me** see."], pieces=["Yes."], pause=0.1))
    answer = chat.ask("Well?")
    summary = answer.locator("summary")
    expect(summary).to_have_text(re.compile(r"Thought for 0\.\d+ s"))
    assert answer.locator(".thoughts").get_attribute("open") is None
    assert chat.texts()[-1] == "Yes."
    summary.click()
    expect(answer.locator(".thoughts strong")).to_have_text("let me")
    chat.ask("And?")
    assert chat.server.asked[1]["messages"][1] == {"role": "assistant", "content": "Yes."}


# editing, versions


def test_answer_again_and_edit_keep_the_earlier_versions(chat: Visit) -> None:
    chat.server.answers += [Answer(pieces=["Red"]), Answer(pieces=["Blue"]), Answer(pieces=["Round"])]
    chat.ask("Which colour?")
    chat.page.get_by_role("button", name="Answer again").click()
    expect(chat.page.locator(".versions")).to_have_text("2/2")
    assert chat.texts() == ["Which colour?", "Blue"]
    chat.page.get_by_role("button", name="Earlier version").click()
    assert chat.texts() == ["Which colour?", "Red"]

    chat.page.locator(".said").hover()
    chat.page.get_by_role("button", name="Edit", exact=True).click()
    chat.page.get_by_label("Edit the message").fill("Which shape?")
    chat.page.keyboard.press("Enter")
    chat.answered()
    assert chat.texts() == ["Which shape?", "Round"]
    assert chat.server.asked[2]["messages"] == [{"role": "user", "content": "Which shape?"}]
    chat.page.get_by_role("button", name="Earlier version").click()
    assert chat.texts() == ["Which colour?", "Red"]
    chat.page.reload()
    chat.page.locator("#list .open").click()
    assert chat.texts() == ["Which colour?", "Red"]


def test_an_edit_that_is_given_up_changes_nothing(chat: Visit) -> None:
    chat.ask("Which colour?")
    chat.page.press("#message", "ArrowUp")
    field = chat.page.get_by_label("Edit the message")
    expect(field).to_be_focused()
    field.fill("Something else")
    chat.page.keyboard.press("Escape")
    assert chat.texts()[0] == "Which colour?"
    assert len(chat.server.asked) == 1


# conversations


def test_conversations_are_kept_found_renamed_and_deleted(chat: Visit) -> None:
    chat.server.answers += [Answer(pieces=["About cats"]), Answer(pieces=["About dogs"])]
    chat.ask("First question\nwith a second line")
    chat.page.get_by_role("button", name="New chat").first.click()
    expect(chat.page.locator("#message")).to_be_focused()
    chat.ask("Second question")
    assert chat.titles() == ["Second question", "First question"]
    assert chat.page.title() == "Second question · deployer"

    chat.page.reload()
    expect(chat.page.locator("#list .open")).to_have_count(2)
    chat.page.get_by_label("Search").fill("CATS")
    assert chat.titles() == ["First question"]
    chat.page.get_by_label("Search").fill("horses")
    expect(chat.page.locator("#list")).to_have_text("No conversation has these words.")
    chat.page.get_by_label("Search").fill("")
    chat.page.locator("#list .open", has_text="First").click()
    assert chat.texts() == ["First question\nwith a second line", "About cats"]

    chat.page.get_by_role("button", name="Rename “First question”").click()
    chat.page.get_by_label("Rename", exact=True).fill("Cats")
    chat.page.keyboard.press("Enter")
    assert sorted(chat.titles()) == ["Cats", "Second question"]
    chat.page.get_by_role("button", name="Delete “Cats”").click()
    assert chat.titles() == ["Second question"]
    chat.page.get_by_role("button", name="Undo").click()
    assert sorted(chat.titles()) == ["Cats", "Second question"]
    chat.page.get_by_role("button", name="Delete “Cats”").click()
    chat.page.reload()
    expect(chat.page.locator("#list .open")).to_have_text(["Second question"])


def test_an_answer_goes_on_while_another_conversation_is_read(chat: Visit) -> None:
    chat.server.answers += [Answer(pieces=["Quick"]), Answer(pieces=["Slow", " but", " sure"], pause=0.6)]
    chat.ask("Short one")
    chat.page.keyboard.press("Control+Shift+O")
    chat.send("Long one")
    chat.page.locator("#list .open", has_text="Short").click()
    assert chat.texts() == ["Short one", "Quick"]
    expect(chat.page.locator("#list .busy")).to_have_count(1)
    chat.page.get_by_role("button", name="Rename “Short one”").click()
    chat.page.get_by_label("Rename", exact=True).fill("Sho")
    chat.page.wait_for_timeout(2500)  # the other answer ends meanwhile
    chat.page.keyboard.type("es")
    chat.page.keyboard.press("Enter")
    assert sorted(chat.titles()) == ["Long one", "Shoes"]
    expect(chat.page.locator("#list .busy")).to_have_count(0)
    chat.page.locator("#list .open", has_text="Long").click()
    assert chat.texts() == ["Long one", "Slow but sure"]


def test_an_answer_that_was_cut_by_closing_the_page_is_kept(chat: Visit) -> None:
    chat.server.answers.append(Answer(pieces=["Half"], hold=True))
    chat.send("Question")
    expect(chat.page.locator(".answered .prose")).to_have_text("Half")
    time.sleep(2.2)  # what has come is saved every two seconds
    chat.server.answers.append(Answer())
    chat.page.reload()
    chat.page.locator("#list .open").click()
    assert chat.texts() == ["Question", "Half"]
    expect(chat.page.locator(".note")).to_have_text("This answer was cut off when the page was closed.")


def test_two_tabs_show_the_same_conversations(chat: Visit) -> None:
    other = chat.page.context.new_page()
    other.goto(chat.server.url)
    other.wait_for_selector("#which span")
    chat.ask("From the first tab")
    expect(other.locator("#list .open")).to_have_text("From the first tab")


# settings and models


def test_settings_go_with_the_conversation(chat: Visit) -> None:
    chat.page.get_by_role("button", name="Settings of this chat").click()
    dialog = chat.page.get_by_role("dialog", name="Settings of this chat")
    dialog.get_by_label("System prompt").fill("Answer in rhymes.")
    dialog.get_by_label("Temperature").fill("3")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert").first).to_have_text("A number between 0 and 2, or nothing.")
    dialog.get_by_label("Temperature").fill("0.3")
    dialog.get_by_label("Longest answer").fill("50")
    dialog.get_by_role("button", name="Save").click()
    chat.server.answers.append(Answer(finish="length"))
    answer = chat.ask("Hello")
    asked = chat.server.asked[0]
    assert (asked["temperature"], asked["max_tokens"]) == (0.3, 50)
    assert asked["messages"][0] == {"role": "system", "content": "Answer in rhymes."}
    expect(answer.locator(".note")).to_have_text("The answer reached the token limit and ends here.")

    chat.page.keyboard.press("Control+Shift+O")
    chat.ask("Hello")
    assert "temperature" not in chat.server.asked[1]
    chat.page.get_by_role("button", name="Settings of this chat").click()
    dialog.get_by_label("Temperature").fill("0,5")
    dialog.get_by_label("Also use this for new chats").check()
    dialog.get_by_role("button", name="Save").click()
    chat.page.keyboard.press("Control+Shift+O")
    chat.ask("Hello")
    assert chat.server.asked[2]["temperature"] == 0.5


def test_the_model_is_chosen_where_there_are_several(browser: Browser, server: PageServer) -> None:
    server.models = ["small", "large"]
    with visit(browser, server) as tab:
        tab.open()
        select = tab.page.get_by_label("Model", exact=True)
        assert select.input_value() == "small"
        select.select_option("large")
        tab.ask("Hello")
        assert server.asked[0]["model"] == "large"
        server.models = ["small", "new"]
        tab.page.reload()
        expect(select).to_have_value("small")  # the one that was chosen is gone
