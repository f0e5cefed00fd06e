// The chat page: puts conversations, thread, sidebar and message box together, and holds the keys of the keyboard.

import { answer } from "./answer.js";
import { models, onKeyWanted } from "./api.js";
import { add, choose, create, path } from "./conversation.js";
import { askKey, askSettings, showShortcuts } from "./dialogs.js";
import { h, icon, iconButton, say, toast } from "./dom.js";
import { forgetButton, languageButton, themeButton } from "./foot.js";
import { kept, relabel, t } from "./language.js";
import { loadHighlighter } from "./markdown.js";
import { Sidebar } from "./sidebar.js";
import { defaults, openStore } from "./store.js";
import { Thread } from "./thread.js";

const at = (id) => document.getElementById(id);
const box = at("message");
const scroll = at("scroll");
const narrow = matchMedia("(max-width: 760px)");

const runs = new Map(); // conversation id -> {stop}
let conversations = [];
let current = null;
let names = []; // the models that the server has
let failed = null; // why they are not known
let sticks = true; // the end of the answer is kept in sight
let store;

const running = (conversation) => runs.has(conversation?.id);
const thread = new Thread(at("thread"), { edit, again, turn, retry: again, hurry }, running);
const sidebar = new Sidebar(at("list"), at("search"), { open, rename, remove }, running);

// what is shown

function show() {
  thread.show(current);
  sidebar.show(conversations, current);
  sticks = true;
  frame();
  toEnd();
}

/** All around the thread: title, model, send or stop. */
function frame() {
  const started = current.messages.length > 0;
  document.title = started && current.title ? `${current.title} · deployer` : "deployer";
  document.body.classList.toggle("fresh", !started);
  at("empty").firstElementChild.textContent = t("empty.title");
  at("empty").lastElementChild.textContent = names.length
    ? t("empty.text", { model: current.model }) : failed ? t(`error.${failed.kind}`) : t("empty.loading");
  box.placeholder = names.length ? t("message.to", { model: current.model }) : t("message");
  const busy = running(current);
  at("send").replaceChildren(icon(busy ? "stop" : "send"));
  at("send").classList.toggle("stops", busy);
  at("send").setAttribute("aria-label", t(busy ? "stop" : "send"));
  at("send").title = t(busy ? "stop" : "send");
  at("send").disabled = !busy && !box.value.trim();
  at("which").replaceChildren(names.length > 1 ? picker() : h("span", {}, current.model ?? ""));
  if (failed && !names.length) {
    at("which").replaceChildren(h("button.plain", { type: "button", onclick: findModels }, t("retry")));
  }
}

function picker() {
  const select = h("select", { label: "model", disabled: running(current) },
    ...names.map((name) => h("option", { value: name, selected: name === current.model }, name)));
  select.addEventListener("change", () => {
    current.model = select.value;
    kept.set("model", select.value);
    if (current.messages.length) keep(current);
    frame();
  });
  return select;
}

function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
}

const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;

// conversations

const keep = (conversation) => store.put(conversation).catch(() => (sidebar.lasting = false));

function fresh() {
  const model = names.includes(kept.get("model")) ? kept.get("model") : (names[0] ?? null);
  current = create(defaults.get(), model);
  open(current);
}

function open(conversation) {
  current = conversation;
  if (names.length && !names.includes(current.model)) current.model = names[0];
  closeDrawer();
  show();
  if (!narrow.matches) box.focus();
}

function rename(conversation, title) {
  Object.assign(conversation, { title, named: true });
  keep(conversation);
  sidebar.show();
  frame();
}

async function remove(conversation) {
  runs.get(conversation.id)?.stop();
  conversations = conversations.filter((one) => one !== conversation);
  await store.remove(conversation.id);
  if (conversation === current) fresh();
  else sidebar.show(conversations);
  at("new").focus();
  toast(t("deleted", { title: conversation.title }), t("undo"), () => {
    conversations.push(conversation);
    keep(conversation);
    open(conversation);
  });
}

/** Another tab has changed a conversation. */
async function reload(id) {
  if (runs.has(id)) return;
  const now = await store.get(id);
  const index = conversations.findIndex((one) => one.id === id);
  if (index >= 0) conversations.splice(index, 1, ...(now ? [now] : []));
  else if (now) conversations.push(now);
  if (current.id !== id) sidebar.show(conversations);
  else if (!now) fresh();
  else if (!thread.place.querySelector(".editing")) {
    current = now;
    show();
  }
}

// asking and answering

async function send() {
  if (!store) return; // in the first moments: what was typed stays
  if (!current.model) await findModels();
  const text = box.value.trim();
  if (!text || !current.model || running(current)) return;
  box.value = "";
  fit();
  if (!conversations.includes(current)) conversations.push(current);
  ask(path(current).at(-1)?.id ?? "", text);
}

function ask(parent, text) {
  const question = add(current, parent, { role: "user", content: text });
  begin(current, question);
}

function edit(message, text) {
  if (text !== message.content) ask(message.parent, text);
}

/** Another answer to the same question; one that failed is replaced. */
function again(message) {
  if (running(current)) return;
  if (message.state === "failed" && !message.content) {
    current.messages = current.messages.filter((one) => one !== message);
  }
  begin(current, { id: message.parent });
}

function turn(message, other) {
  choose(current, other);
  keep(current);
  const top = scroll.scrollTop;
  thread.show(current);
  scroll.scrollTop = top;
}

function hurry(message) {
  message.retryAt = Date.now();
}

async function begin(conversation, question) {
  const control = new AbortController();
  const message = add(conversation, question.id, { role: "assistant", content: "", reasoning: "", state: "waiting" });
  message.retryAt = null;
  runs.set(conversation.id, { stop: () => control.abort() });
  keep(conversation);
  show();
  const saving = setInterval(() => keep(conversation), 2000);
  let drawing = 0;
  let pause = 33; // ms: thirty times a second, or less often where drawing takes longer
  let begun = false;
  const draw = () => {
    drawing = 0;
    if (conversation !== current) return;
    const since = performance.now();
    thread.update(message);
    if (sticks) toEnd();
    pause = Math.max(33, 4 * (performance.now() - since));
  };
  await answer(conversation, message, control.signal, () => {
    drawing ||= setTimeout(draw, pause);
    if (!begun && message.state === "streaming") {
      begun = true;
      say(t("said.start"));
    }
  });
  clearTimeout(drawing);
  clearInterval(saving);
  runs.delete(conversation.id);
  conversation.updated = Date.now();
  if (conversations.includes(conversation)) keep(conversation);
  say(t({ done: "said.end", stopped: "said.stopped" }[message.state] ?? `error.${message.error?.kind}`));
  if (message.error?.kind === "missing") findModels();
  sidebar.show();
  if (conversation !== current) return;
  thread.refresh();
  frame();
  if (sticks) toEnd();
}

async function findModels() {
  try {
    names = await models();
    failed = null;
  } catch (error) {
    failed = error;
    if (error.kind === "loading" || error.kind === "busy") setTimeout(findModels, (error.after ?? 3) * 1000);
  }
  if (names.length && !names.includes(current.model)) {
    const last = kept.get("model");
    current.model = names.includes(last) ? last : names[0];
  }
  frame();
}

async function settings() {
  const chosen = await askSettings(current.settings);
  if (!chosen) return;
  current.settings = chosen.settings;
  if (chosen.keep) defaults.set(chosen.settings);
  if (current.messages.length) keep(current);
}

// the page

function fit() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  if (!running(current)) at("send").disabled = !box.value.trim();
}

function toggleSidebar() {
  if (narrow.matches) {
    const opened = document.body.classList.toggle("drawer");
    at("shade").hidden = !opened;
    document.querySelector("main").inert = opened;
    if (opened) at("new").focus();
  } else {
    kept.set("sidebar", document.body.classList.toggle("alone") ? "no" : null);
  }
}

function closeDrawer() {
  document.body.classList.remove("drawer");
  at("shade").hidden = true;
  document.querySelector("main").inert = false;
}

function words() {
  relabel();
  thread.refresh();
  sidebar.show(conversations, current);
  frame();
}

function build() {
  at("new").append(icon("new"), h("span", { t: "new" }));
  at("new").addEventListener("click", fresh);
  at("left").append(iconButton("sidebar", "sidebar", toggleSidebar));
  at("right").append(iconButton("new", "new", fresh));
  at("tools").append(iconButton("settings", "settings", settings));
  at("foot").append(
    h("a.quiet", { href: "status", label: "status" }, icon("status")),
    themeButton(), languageButton(words), iconButton("keyboard", "shortcuts", showShortcuts), forgetButton());
  at("bottom").append(icon("down"));
  at("bottom").addEventListener("click", () => ((sticks = true), toEnd()));
  at("shade").addEventListener("click", closeDrawer);
  if (kept.get("sidebar") === "no") document.body.classList.add("alone");
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running(current)) runs.get(current.id).stop();
    else send();
  });
  box.addEventListener("input", fit);
  box.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // Enter chooses a word of the input method
    if (event.key === "Enter" && !event.shiftKey && !(narrow.matches && matchMedia("(pointer: coarse)").matches)) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !box.value) {
      event.preventDefault();
      thread.editLast();
    }
  });
  scroll.addEventListener("scroll", () => {
    sticks = atEnd();
    at("bottom").hidden = sticks;
  });
  new ResizeObserver(() => sticks && toEnd()).observe(scroll);
  document.addEventListener("keydown", shortcut);
  relabel();
}

function shortcut(event) {
  const typing = event.target.matches?.("input, textarea, select");
  const mod = event.ctrlKey || event.metaKey;
  const name = event.key.toLowerCase();
  const held = (act) => (event.preventDefault(), act());
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (document.body.classList.contains("drawer")) {
      closeDrawer();
      at("left").firstElementChild.focus();
    } else if (event.target !== at("search") && running(current)) runs.get(current.id).stop();
  } else if (mod && event.shiftKey && name === "o") held(fresh);
  else if (mod && event.shiftKey && name === "s") held(toggleSidebar);
  else if (mod && !event.shiftKey && name === "k") held(search);
  else if (!typing && !mod && event.key === "/") held(() => box.focus());
  else if (!typing && !mod && event.key === "?") held(showShortcuts);
}

function search() {
  const hidden = narrow.matches ? !document.body.classList.contains("drawer") : document.body.classList.contains("alone");
  if (hidden) toggleSidebar();
  at("search").focus();
  at("search").select();
}

async function start() {
  onKeyWanted(askKey);
  current = create(defaults.get(), null);
  build();
  frame();
  store = await openStore();
  store.onchange = reload;
  sidebar.lasting = store.lasting;
  conversations = await store.all();
  for (const message of conversations.flatMap((one) => one.messages)) {
    if (message.state === "waiting" || message.state === "streaming") Object.assign(message, { state: "cut", retryAt: null });
  }
  fresh();
  await findModels();
  box.focus();
  await loadHighlighter().catch(() => {}); // code stays plain
}

start();
