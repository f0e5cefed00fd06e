// The language of the page, numbers and times in it, and the choice of the theme; both are kept in localStorage.

import { WORDS } from "./words.js";

export const kept = {
  get(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null; // storage is switched off
    }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch {
      // the choice holds until the page is closed
    }
  },
};

export const language = () => document.documentElement.lang;

/** The words of `key`, with `{places}` filled from `values`. */
export function t(key, values = {}) {
  const text = WORDS[language()][key];
  if (text === undefined) throw new Error(`no words for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Writes the words of everything below `root` that names them in data-t or data-label. */
export function relabel(root = document) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.matches("button, a")) node.title = t(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
}

export function switchLanguage() {
  document.documentElement.lang = language() === "en" ? "zh-CN" : "en";
  kept.set("language", language());
}

const THEMES = ["auto", "light", "dark"];

export const theme = () => document.documentElement.dataset.theme ?? "auto";

export function switchTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  kept.set("theme", next === "auto" ? null : next);
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);
}

/** Three figures are enough: 0.31, 2.4, 118. */
export function short(value) {
  return number(value, value < 1 ? 2 : value < 100 ? 1 : 0);
}

export function seconds(value) {
  return t("seconds", { number: short(value) });
}

/** 93784 -> "1 d 2 h". */
export function span(value) {
  const parts = [];
  for (const [unit, size] of [["unit.days", 86400], ["unit.hours", 3600], ["unit.minutes", 60]]) {
    const count = Math.floor(value / size);
    value -= count * size;
    if (count) parts.push(t(unit, { number: count }));
  }
  return parts.slice(0, 2).join(" ") || t("seconds", { number: Math.floor(value) });
}
