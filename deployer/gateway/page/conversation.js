// A conversation as data: a tree of messages, of which one path is shown. Editing a message or answering again adds a
// sibling, so nothing that was said is lost.

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID is not there over plain HTTP
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function create(settings, model) {
  const now = Date.now();
  return { id: newId(), title: "", named: false, created: now, updated: now, model, settings, messages: [], chosen: {} };
}

const children = (conversation, parent) => conversation.messages.filter((message) => message.parent === parent);

/** Adds a message below `parent` ("" at the start) and shows it. */
export function add(conversation, parent, fields) {
  const message = { id: newId(), parent, created: Date.now(), ...fields };
  conversation.messages.push(message);
  conversation.chosen[parent] = message.id;
  conversation.updated = Date.now();
  if (!conversation.named && message.role === "user" && parent === "") conversation.title = titleOf(message.content);
  return message;
}

/** The messages that are shown, first to last. */
export function path(conversation) {
  const shown = [];
  for (let parent = ""; ; ) {
    const here = children(conversation, parent);
    if (!here.length) return shown;
    const message = here.find((one) => one.id === conversation.chosen[parent]) ?? here.at(-1);
    shown.push(message);
    parent = message.id;
  }
}

/** The versions of a message, itself among them. */
export const versions = (conversation, message) => children(conversation, message.parent);

export function choose(conversation, message) {
  conversation.chosen[message.parent] = message.id;
}

function titleOf(text) {
  const line = text.split("\n").map((one) => one.trim()).find(Boolean) ?? "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

export function holds(conversation, words) {
  const wanted = words.toLowerCase();
  return [conversation.title, ...conversation.messages.map((message) => message.content)].some((text) =>
    text.toLowerCase().includes(wanted));
}

/** What is asked of the server for the answer `message`; what failed or said nothing is left out. */
export function request(conversation, message) {
  const { system, temperature, maxTokens } = conversation.settings;
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const one of path(conversation)) {
    if (one.id === message.id) break;
    const { content } = divided(one);
    const last = messages.at(-1);
    if (one.role !== "user" && !content.trim()) continue;
    if (last?.role === one.role) last.content += `\n\n${content}`; // many chat templates want turns to alternate
    else messages.push({ role: one.role, content });
  }
  const body = { model: conversation.model, messages, stream: true, stream_options: { include_usage: true } };
  body.prompt_cache_key = conversation.id; // one conversation stays with the replica that has read it
  if (temperature !== null) body.temperature = temperature;
  if (maxTokens !== null) body.max_tokens = maxTokens;
  return body;
}

/** Reasoning and answer; some engines leave the reasoning in the text, between <think> and </think>. */
export function divided(message) {
  const reasoning = message.reasoning ?? "";
  const { content } = message;
  const start = /^\s*<think>/.exec(content);
  if (message.role !== "assistant" || reasoning || !start) return { reasoning, content };
  const end = content.indexOf("</think>");
  if (end < 0) return { reasoning: content.slice(start[0].length), content: "" };
  return { reasoning: content.slice(start[0].length, end), content: content.slice(end + 8).trimStart() };
}
