// What is asked in a window of its own: the key, the settings of a chat, the list of shortcuts.

import { h, iconButton } from "./dom.js";
import { t } from "./language.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const MOD = isMac ? "⌘" : "Ctrl";

/** Shows a modal dialog; gives what it was closed with. Escape closes it, and focus goes back to where it was. */
function ask(title, ...children) {
  const heading = h("h2", { id: "dialog-title", t: title });
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("div.dialoghead", {}, heading, iconButton("close", "close", () => dialog.close())),
    ...children);
  document.body.append(dialog);
  return {
    dialog,
    answer: new Promise((resolve) => {
      dialog.addEventListener("close", () => {
        dialog.remove();
        resolve(dialog.returnValue);
      });
      dialog.showModal();
    }),
  };
}

/** The key that was typed, or null when the dialog was closed without one. */
export async function askKey(refused) {
  const wrong = h("p.wrong", { id: "key-wrong", role: "alert" }, refused ? t("key.wrong") : "");
  const field = h("input", {
    type: "password", id: "key", autocomplete: "off", spellcheck: false, required: true,
    "aria-describedby": "key-wrong", "aria-invalid": refused ? "true" : undefined,
  });
  const form = h("form", {},
    h("p", { t: "key.text" }),
    h("label", { htmlFor: "key", t: "key.label" }),
    field, wrong,
    h("div.row", {}, h("button.primary", { type: "submit", t: "key.use" })));
  const asked = ask("key.title", form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = field.value.trim();
    if (/^[!-~]+$/.test(typed)) asked.dialog.close(typed);
    else if (typed) wrong.textContent = t("key.wrong"); // no header can carry it
  });
  field.focus();
  return (await asked.answer) || null;
}

const RANGES = { temperature: [0, 2], maxTokens: [1, 1_000_000] };

/** The settings that were chosen, with `keep` for new chats too, or null. */
export async function askSettings(settings) {
  const system = h("textarea", { id: "system", rows: 5, value: settings.system, hint: "settings.system.hint" });
  const fields = {
    temperature: h("input", { id: "temperature", inputMode: "decimal", value: settings.temperature ?? "" }),
    maxTokens: h("input", { id: "max-tokens", inputMode: "numeric", value: settings.maxTokens ?? "" }),
  };
  const keep = h("input", { type: "checkbox", id: "keep" });
  const wrongs = {};
  const entry = (name, label, hint) => {
    const field = fields[name];
    wrongs[name] = h("p.wrong", { id: `${field.id}-wrong`, role: "alert" });
    field.setAttribute("aria-describedby", `${field.id}-hint ${field.id}-wrong`);
    field.autocomplete = "off";
    const hinted = h("p.hint", { id: `${field.id}-hint`, t: hint });
    return h("div", {}, h("label", { htmlFor: field.id, t: label }), field, hinted, wrongs[name]);
  };
  const form = h("form", { noValidate: true },
    h("label", { htmlFor: "system", t: "settings.system" }), system,
    h("div.pair", {},
      entry("temperature", "settings.temperature", "settings.temperature.hint"),
      entry("maxTokens", "settings.max", "settings.max.hint")),
    h("label.check", {}, keep, h("span", { t: "settings.keep" })),
    h("div.row", {},
      h("button.plain", { type: "button", t: "cancel", onclick: () => asked.dialog.close() }),
      h("button.primary", { type: "submit", t: "save" })));
  const asked = ask("settings", form);
  let chosen = null;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const read = {};
    for (const [name, field] of Object.entries(fields)) {
      const text = field.value.trim().replace(",", ".");
      const value = text === "" ? null : Number(text);
      const [low, high] = RANGES[name];
      const right = value === null || (value >= low && value <= high && (name !== "maxTokens" || Number.isInteger(value)));
      wrongs[name].textContent = right ? "" : t("settings.number", { low, high });
      field.setAttribute("aria-invalid", !right);
      if (!right) return field.focus();
      read[name] = value;
    }
    chosen = { settings: { system: system.value, ...read }, keep: keep.checked };
    asked.dialog.close();
  });
  system.focus();
  await asked.answer;
  return chosen;
}

export function showShortcuts() {
  const rows = [
    ["shortcuts.send", "Enter"],
    ["shortcuts.line", "Shift", "Enter"],
    ["shortcuts.stop", "Esc"],
    ["shortcuts.new", MOD, "Shift", "O"],
    ["shortcuts.search", MOD, "K"],
    ["shortcuts.sidebar", MOD, "Shift", "S"],
    ["shortcuts.focus", "/"],
    ["shortcuts.edit", "↑"],
    ["shortcuts.help", "?"],
  ].map(([words, ...keys]) =>
    h("div", {}, h("dt", { t: words }), h("dd", {}, ...keys.map((name) => h("kbd", { textContent: name })))));
  return ask("shortcuts", h("dl.shortcuts", {}, ...rows)).answer;
}
