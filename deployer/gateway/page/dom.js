// Making elements, icons and the few pieces of interface that both pages use.

import { t } from "./language.js";

/**
 * An element: `h("button.icon", {label: "copy", onclick}, ...children)`. `t` names the words of its text, `label`
 * those of its name, `hint` those of its placeholder; they follow when the language changes.
 */
export function h(kind, given = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  const { t: words, label, hint, ...rest } = given;
  for (const [name, value] of Object.entries(rest)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && name !== "role") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  if (words) {
    node.dataset.t = words;
    node.textContent = t(words);
  }
  if (label) {
    node.dataset.label = label;
    node.setAttribute("aria-label", t(label));
    if (tag === "button" || tag === "a") node.title = t(label);
  }
  if (hint) {
    node.dataset.hint = hint;
    node.placeholder = t(hint);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// On a grid of 24, drawn with a stroke.
const ICONS = {
  sidebar: "M4.5 5h15a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1h-15a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1zM9.5 5v14",
  new: "M11 5H5.5a1.5 1.5 0 0 0-1.5 1.5v12A1.5 1.5 0 0 0 5.5 20h12a1.5 1.5 0 0 0 1.5-1.5V13M10 14v-2.7L18.3 3l2.7 2.7L12.7 14z",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.3 15.3 20 20",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.8a2.2 2.2 0 1 0 0 4.4 2.2 2.2 0 0 0 0-4.4zM9 14.8a2.2 2.2 0 1 0 0 4.4 2.2 2.2 0 0 0 0-4.4z",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1V10a1 1 0 0 1 1-1zM16 5.5V5a1 1 0 0 0-1-1H5a1 1 0 0 0-1 1v10a1 1 0 0 0 1 1h.5",
  check: "M5 12.5 10 17.5 19.5 7",
  edit: "M4 20l.8-4L16 4.8a1.5 1.5 0 0 1 2.1 0l1.1 1.1a1.5 1.5 0 0 1 0 2.1L8 19.2zM14 7l3 3",
  again: "M19.5 5v5h-5M19 10a7.5 7.5 0 1 0 .5 4",
  trash: "M4.5 7h15M9 7V4.5h6V7M6.5 7l.8 13h9.4l.8-13M10 11v5.5M14 11v5.5",
  left: "M14.5 6 8.5 12l6 6",
  right: "M9.5 6l6 6-6 6",
  down: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  close: "M6 6l12 12M18 6 6 18",
  theme: "M12 20a8 8 0 1 0 0-16zM12 4a8 8 0 0 0 0 16",
  language: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM3.5 12h17M12 3.5c2.5 2.5 3.5 5.5 3.5 8.5s-1 6-3.5 8.5c-2.5-2.5-3.5-5.5-3.5-8.5s1-6 3.5-8.5z",
  keyboard: "M4 6.5h16a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1zM7 10h.01M11 10h.01M15 10h.01M8 14h8M18 10h.01",
  status: "M3.5 12.5h4l2.5-7 4 13 2.5-6h4",
  key: "M8.5 18.5a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM11.5 11.7 19.5 3.7M16 7.2l3 3",
  back: "M19 12H5M11.5 5.5 5 12l6.5 6.5",
};

export function icon(name) {
  const drawn = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" });
  drawn.append(svg("path", { d: ICONS[name] }));
  return drawn;
}

export const iconButton = (name, label, onclick, more = {}) =>
  h("button.quiet", { type: "button", label, onclick, ...more }, icon(name));

/** Copies, with or without a secure context: over plain HTTP there is no navigator.clipboard. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea.offstage", { value: text, readOnly: true, "aria-hidden": "true" });
    const before = document.activeElement;
    (before?.closest("dialog") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus();
  }
}

export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    await copy(text());
    button.replaceChildren(icon("check"));
    say(t("copied"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return button;
}

/** Tells a screen reader, and nobody else. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

let leaving = 0;

/** A line at the bottom for some seconds, with one thing to do about it. */
export function toast(text, action, act) {
  const place = document.getElementById("toast");
  clearTimeout(leaving);
  const hide = () => place.replaceChildren();
  const button = h("button.link", { type: "button", onclick: () => (hide(), act()) }, action);
  place.replaceChildren(h("span", {}, text), button);
  leaving = setTimeout(hide, 8000);
}
