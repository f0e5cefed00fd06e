// Markdown as elements that can do nothing: marked makes HTML, DOMPurify keeps a short list of elements, and the
// page's policy (trusted types, no inline script) lets nothing else become HTML.

import { Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";
import { copyButton, h } from "./dom.js";
import { t } from "./language.js";

const TAGS = `a b blockquote br code dd del details dl dt em h1 h2 h3 h4 h5 h6 hr i input kbd li mark ol p pre s small
span strong sub summary sup table tbody td th thead tr u ul`.split(/\s+/);
const SAFE = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "class", "align", "start", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["align", "start", "type", "checked", "disabled"], // these hold no address
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
};
const SPANS = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], ALLOW_DATA_ATTR: false, RETURN_TRUSTED_TYPE: true };
// HTML in an answer is shown as the text it is, but for these, which models use inside Markdown.
const PLAIN = /^<\/?(?:br|sub|sup|kbd|mark|u|b|i|s|small|details|summary)\s*\/?>$/i;

const purify = globalThis.DOMPurify;

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  if (node.nodeName === "INPUT" && (node.type !== "checkbox" || !node.disabled)) node.remove();
  const styled = node.getAttribute?.("class");
  if (styled && !/^(?:language-[\w+#.-]+|hljs-[\w-]+( [\w-]+_?)*)$/.test(styled)) node.removeAttribute("class");
});

const escape = (text) =>
  text.replace(/[&<>"']/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[sign]);

const marked = new Marked({
  gfm: true,
  renderer: {
    html({ text }) {
      return text.replace(/<[^<>]*>|[^<]+|</g, (part) => (PLAIN.test(part) ? part : escape(part)));
    },
    image({ href, text }) {
      const words = escape(t("image", { text: text || href }));
      return `<a href="${escape(href)}">${words}</a>`; // a picture from elsewhere would be a request
    },
  },
});

let highlighter = null;

/** Loads the highlighter; code that is shown before it is there stays plain. */
export async function loadHighlighter() {
  highlighter ??= (await import("./vendor/highlight.min.js")).default;
}

/** What shows `source`; call `show` with more of it and only the blocks that changed are made again. */
export class Markdown {
  constructor() {
    this.element = h("div.prose");
    this.blocks = []; // [{raw, element}]
    this.source = null;
  }

  show(source) {
    if (source === this.source) return;
    this.source = source;
    const tokens = marked.lexer(source);
    const links = JSON.stringify(tokens.links);
    if (links !== this.links) this.blocks.splice(0).forEach((block) => block.element.remove());
    this.links = links;
    const shown = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    shown.forEach((token, index) => {
      const before = this.blocks[index];
      if (before?.raw === token.raw) return;
      const element = this.block(token, tokens.links);
      if (before) before.element.replaceWith(element);
      else this.element.append(element);
      this.blocks[index] = { raw: token.raw, element };
    });
    this.blocks.splice(shown.length).forEach((block) => block.element.remove());
  }

  block(token, links) {
    const element = h(`div.${token.type}`, { dir: "auto" });
    element.innerHTML = purify.sanitize(marked.parser(Object.assign([token], { links })), SAFE);
    for (const pre of element.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
    for (const table of element.querySelectorAll("table")) {
      const frame = h("div.wide", { tabIndex: 0, role: "group", label: "table" });
      table.replaceWith(frame);
      frame.append(table);
    }
    for (const box of element.querySelectorAll("input")) box.setAttribute("aria-label", box.closest("li")?.textContent ?? "");
    return element;
  }
}

function codeBlock(pre) {
  const text = pre.textContent.replace(/\n$/, "");
  const named = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
  const code = h("code", { textContent: text });
  if (named && highlighter?.getLanguage(named)) {
    const coloured = highlighter.highlight(text, { language: named, ignoreIllegals: true }).value;
    code.innerHTML = purify.sanitize(coloured, SPANS);
  }
  return h("div.codeblock", {},
    h("div.codehead", {}, h("span", {}, named || t("code")), copyButton("copy.code", () => text)),
    h("pre", { tabIndex: 0, role: "group", label: "code" }, code));
}
