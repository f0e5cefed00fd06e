"""What a model writes is text: no script of it runs, nothing of it is fetched, and it cannot dress up as the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.page.server import Answer, PageServer
from tests.e2e.page.visit import Visit, visit
from tests.servers import wait_until

pytestmark = pytest.mark.e2e

RUN = "document.title='owned';alert(1)"
AWAY = "http://203.0.113.9/x"  # an address for documentation: a request there would be seen, and answered by nobody
HOSTILE = {
    "script": f"<script>{RUN}</script>",
    "script-broken": f"</script><script>{RUN}//",
    "script-module": f'<script type="module" src="data:text/javascript,{RUN}"></script>',
    "in-code": f"```html\n</code></pre><img src=x onerror=\"{RUN}\">\n```",
    "in-language": f'```"><img/src=x/onerror={RUN}>\ncode\n```',
    "in-inline-code": f"`</code><img src=x onerror=\"{RUN}\">`",
    "img-onerror": f'<img src=x onerror="{RUN}">',
    "img-away": f'<img src="{AWAY}"><img srcset="{AWAY} 1x">',
    "markdown-image": f"![picture]({AWAY})",
    "markdown-image-break-out": f'![x"onerror="{RUN}]({AWAY}"onerror="{RUN})',
    "markdown-image-title": f"![x]({AWAY} '\"onload=\"{RUN}')",
    "javascript-link": f"[click](javascript:{RUN}) [b](JaVaScRiPt:{RUN}) [c](java\tscript:{RUN}) <javascript:{RUN}>",
    "javascript-entities": f"[click](&#106;avascript:{RUN}) [d](javascript&colon;{RUN}) [e](\x01javascript:{RUN})",
    "javascript-reference": f"[click][1]\n\n[1]: javascript:{RUN}",
    "vbscript-data-blob": f"[a](vbscript:x) [b](data:text/html,<script>{RUN}</script>) [c](blob:x) [d](file:///etc/passwd)",
    "data-html-base64": "[a](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "link-title": f"[a](https://e.org '\" onmouseover=\"{RUN}')",
    "svg": f'<svg onload="{RUN}"><script>{RUN}</script><animate onbegin="{RUN}" attributeName=x dur=1s></svg>',
    "svg-use": f'<svg><use href="data:image/svg+xml,<svg id=x onload={RUN}>#x"></use></svg>',
    "mathml": f'<math><mtext><table><mglyph><style><img src=x onerror="{RUN}">',
    "mathml-link": f'<math href="javascript:{RUN}">click</math><maction xlink:href="javascript:{RUN}">x</maction>',
    "iframe": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe><iframe src="{AWAY}"></iframe>',
    "object-embed": f'<object data="{AWAY}"></object><embed src="{AWAY}"><applet code="x"></applet>',
    "style": f"<style>@import '{AWAY}'; body {{ background: url({AWAY}) }}</style>",
    "style-attribute": f'<b style="background:url({AWAY});position:fixed;inset:0">x</b>',
    "link-and-meta": f'<link rel=stylesheet href="{AWAY}">'
    f'<meta http-equiv=refresh content="0;url={AWAY}"><base href="{AWAY}">',
    "prefetch": f'<link rel="dns-prefetch" href="{AWAY}"><link rel="preconnect" href="{AWAY}">',
    "form": f'<form action="{AWAY}"><input name=key>'
    f'<button formaction="javascript:{RUN}">Your key, please</button></form>',
    "media": f'<video src="{AWAY}" onerror="{RUN}"></video><audio src="{AWAY}"></audio><video poster="{AWAY}"></video>',
    "details-toggle": f'<details open ontoggle="{RUN}"><summary onclick="{RUN}">x</summary></details>',
    "clobbering": '<b id="said">x</b><img name="body"><form id="thread"><input name="firstChild"></form>',
    "class-of-the-page": '<div class="trouble" role="alert">The key was not accepted</div><b class="primary">x</b>',
    "mutation": f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    "mutation-comment": f'<!--<img title="--><img src=x onerror={RUN}>">',
    "template": f'<template><script>{RUN}</script></template><xmp><script>{RUN}</script></xmp>',
    "unclosed": f'<b <script>{RUN}</script> <img src="x" onerror="{RUN}"',
    "table-cell": f'| a |\n| --- |\n| <img src=x onerror="{RUN}"> |',
    "nested-lists": "> " * 200 + f'<img src=x onerror="{RUN}">',
    "autolink": f'https://e.org/"onmouseover="{RUN}" www.e.org/<script>{RUN}</script>',
}  # fmt: skip
ALLOWED = """A B BLOCKQUOTE BR CODE DEL DETAILS EM H1 H2 H3 H4 H5 H6 HR I INPUT KBD LI MARK OL P PRE S SMALL SPAN STRONG
SUB SUMMARY SUP TABLE TBODY TD TH THEAD TR U UL"""
# what is in the answer but was not put there by the page itself: code's frame and the tables' have tools in them
LOOK = """() => {
  const found = [];
  for (const node of document.querySelectorAll(".answered .prose *")) {
    if (node.closest(".codehead") || node.matches(".prose > div, .codeblock, .wide")) continue;
    found.push([node.nodeName, Object.fromEntries([...node.attributes].map((one) => [one.name, one.value]))]);
  }
  return found;
}"""
ATTRIBUTES = {"href", "title", "class", "align", "start", "type", "checked", "disabled", "target", "rel", "tabindex",
              "role", "aria-label", "data-label"}  # fmt: skip


def check(chat: Visit) -> None:
    for name, attributes in chat.page.evaluate(LOOK):
        assert name in ALLOWED.split()
        assert set(attributes) <= ATTRIBUTES, (name, attributes)
        assert attributes.get("href", "https://").startswith(("https://", "http://", "mailto:"))
        assert attributes.get("class", "hljs-").startswith(("hljs-", "language-"))
        assert name != "INPUT" or attributes["type"] == "checkbox"


@pytest.fixture(scope="module")
def tab(browser: Browser, running: PageServer) -> Iterator[Visit]:
    """One tab for all of them: each in a new conversation."""
    running.reset()
    with visit(browser, running) as made:
        yield made.open()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_output_does_nothing(tab: Visit, name: str) -> None:
    chat, text = tab, HOSTILE[name]
    chat.page.keyboard.press("Control+Shift+O")
    chat.server.answers.append(Answer(pieces=["Before\n\n", *text, "\n\nafter"], thoughts=[text]))
    answer = chat.ask("Be hostile.")
    check(chat)
    answer.locator("summary").first.click()  # the reasoning is no safer
    check(chat)
    for link in answer.locator(".prose a").all():
        link.hover(force=True)
    chat.page.wait_for_timeout(100)
    assert chat.page.title() == "Be hostile. · deployer"
    assert chat.page.url == f"{chat.server.url}/"
    expect(answer.locator(".prose").last).to_contain_text("after")
    assert (chat.violations(), chat.away, chat.errors) == (
        [],
        [],
        [],
    )  # errors: thrown, logged, or a dialog shown


def test_html_is_shown_as_the_text_it_is(chat: Visit) -> None:
    source = '<div class="x">\n<script>alert(1)</script>\n</div>\n\nand <em onclick="x">this</em>'
    chat.server.answers.append(Answer(pieces=[source]))
    shown = chat.ask("Write HTML.").locator(".prose").inner_text()
    for part in ('<div class="x">', "<script>alert(1)</script>", '<em onclick="x">this</em>'):
        assert part in shown


def test_what_a_person_and_a_server_write_is_text_too(chat: Visit) -> None:
    hostile = f'<img src=x onerror="{RUN}">'
    chat.server.models = [hostile, "other"]
    chat.server.answers.append(Answer(status=400, message=hostile))
    chat.page.reload()
    chat.page.wait_for_selector("#which select")
    chat.send(hostile)
    expect(chat.page.get_by_role("alert")).to_contain_text(hostile)
    assert chat.texts()[0] == hostile
    assert chat.titles() == [hostile]
    assert not chat.page.locator("img").count()


def test_the_policy_itself_stops_what_would_get_past_the_page(chat: Visit) -> None:
    """The second wall: with the sanitiser out of the way, the browser still runs and fetches nothing."""
    failures: list[str | None] = []
    chat.page.on("requestfailed", lambda request: failures.append(request.failure))
    chat.page.evaluate(
        """(away) => {
      const attempts = {
        html: () => (document.getElementById("thread").innerHTML = "<img src=x onerror=alert(1)>"),
        made: () => document.body.append(Object.assign(document.createElement("script"), {text: "alert(1)"})),
      };
      window.stopped = Object.keys(attempts).filter((name) => {
        try { attempts[name](); return false; } catch { return true; }
      });
      const inline = document.createElement("b");
      inline.setAttribute("style", "position: fixed");
      const frame = Object.assign(document.createElement("iframe"), {src: away});
      document.body.append(inline, Object.assign(new Image(), {src: away}), frame);
      setTimeout(() => { // what a debugger evaluates is exempt, what it leaves behind is not
        try { eval("alert(1)"); } catch { stopped.push("eval"); }
        fetch(away).catch(() => stopped.push("fetch"));
      });
    }""",
        AWAY,
    )
    chat.until("stopped.includes('fetch')")
    assert chat.page.evaluate("stopped") == ["html", "made", "eval", "fetch"]
    chat.until("new Set(violations.map((one) => one.split(' ')[0])).size >= 5")
    kinds = {one.split(" ")[0] for one in chat.violations()}
    assert {"require-trusted-types-for", "img-src", "frame-src", "connect-src", "style-src-attr"} <= kinds
    wait_until(lambda: len(failures) == len(chat.away))
    assert set(failures) == {"csp"}  # each attempt was stopped before it reached the network
    chat.page.evaluate("violations.length = 0")
    chat.errors.clear()
    chat.away.clear()
