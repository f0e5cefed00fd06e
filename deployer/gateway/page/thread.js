// The conversation as it is shown: one view for each message, kept while the message changes.

import { rate } from "./answer.js";
import { divided, path, versions } from "./conversation.js";
import { copyButton, h, icon, iconButton } from "./dom.js";
import { number, seconds, short, t } from "./language.js";
import { Markdown } from "./markdown.js";

/**
 * Shows a conversation in `place`. `actions`: edit(message, text), again(message), turn(message, step), retry(message),
 * hurry(message); `running(conversation)` says whether an answer is being written.
 */
export class Thread {
  constructor(place, actions, running) {
    Object.assign(this, { place, actions, running, views: new Map() });
  }

  show(conversation) {
    this.conversation = conversation;
    this.views.clear();
    this.place.replaceChildren(...path(conversation).map((message) => this.view(message).element));
  }

  view(message) {
    const made = message.role === "user" ? new Said(this, message) : new Answered(this, message);
    this.views.set(message.id, made);
    made.update();
    return made;
  }

  update(message) {
    this.views.get(message.id)?.update();
  }

  /** All again, in place: another language, or an answer has begun or ended. */
  refresh() {
    for (const view of this.views.values()) view.update(true);
  }

  editLast() {
    [...this.views.values()].findLast((view) => view instanceof Said)?.edit();
  }

  /** The buttons that step through the versions of a message, where there are several. */
  turner(message) {
    const all = versions(this.conversation, message);
    if (all.length < 2) return null;
    const here = all.indexOf(message);
    const busy = this.running(this.conversation);
    const step = (by) => () => this.actions.turn(message, all[here + by]);
    return h("span.versions", {},
      iconButton("left", "version.before", step(-1), { disabled: busy || here === 0 }),
      h("span", { "aria-label": t("version.of", { number: here + 1, count: all.length }), role: "img" },
        `${here + 1}/${all.length}`),
      iconButton("right", "version.after", step(1), { disabled: busy || here === all.length - 1 }));
  }
}

class Said {
  constructor(thread, message) {
    Object.assign(this, { thread, message });
    this.text = h("div.bubble", { textContent: message.content, dir: "auto" });
    this.tools = h("div.tools");
    this.element = h("article.said", { label: "you" }, this.text, this.tools);
  }

  update() {
    const busy = this.thread.running(this.thread.conversation);
    this.tools.replaceChildren(
      ...[
        this.thread.turner(this.message),
        copyButton("copy", () => this.message.content),
        iconButton("edit", "edit", () => this.edit(), { disabled: busy }),
      ].filter(Boolean));
  }

  edit() {
    if (this.thread.running(this.thread.conversation)) return;
    const { message } = this;
    const area = h("textarea", { label: "edit.text", value: message.content, rows: 1, dir: "auto" });
    const close = () => {
      this.element.classList.remove("editing");
      this.element.replaceChildren(this.text, this.tools);
    };
    const save = () => {
      if (!area.value.trim()) return;
      close();
      this.thread.actions.edit(message, area.value);
    };
    const fit = () => {
      area.style.height = "auto";
      area.style.height = `${area.scrollHeight}px`;
    };
    area.addEventListener("input", fit);
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
        this.tools.querySelector("button:last-child").focus();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        save();
      }
    });
    this.element.classList.add("editing");
    this.element.replaceChildren(area, h("div.row", {},
      h("button.plain", { type: "button", t: "cancel", onclick: close }),
      h("button.primary", { type: "button", t: "send", onclick: save })));
    fit();
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

class Answered {
  constructor(thread, message) {
    Object.assign(this, { thread, message });
    this.prose = new Markdown();
    this.thoughts = null;
    this.pulse = h("div.pulse", { role: "img", label: "writing" }, h("span"), h("span"), h("span"));
    this.notes = h("div");
    this.tools = h("div.tools");
    this.element = h("article.answered", { label: "answer" }, this.prose.element, this.pulse, this.notes, this.tools);
  }

  update(again = false) {
    const { message } = this;
    const { reasoning, content } = divided(message);
    if (reasoning) this.think(reasoning, content);
    else this.thoughts?.element.remove();
    if (!reasoning) this.thoughts = null;
    this.prose.show(content);
    const busy = message.state === "waiting" || message.state === "streaming";
    this.pulse.hidden = !busy || Boolean(content) || message.retryAt !== null;
    this.element.setAttribute("aria-busy", busy);
    const now = `${message.state} ${message.retryAt} ${Math.ceil((message.retryAt - Date.now()) / 1000)}`;
    if (now === this.drawn && !again) return;
    this.drawn = now;
    this.notes.replaceChildren(...this.noted(content), ...this.told());
    this.tools.replaceChildren(...(busy ? [] : this.finished()));
  }

  think(reasoning, content) {
    if (!this.thoughts) {
      const prose = new Markdown();
      const words = h("span");
      const element = h("details.thoughts", {}, h("summary", {}, icon("right"), words), prose.element);
      this.thoughts = { element, words, prose, source: "" };
      element.addEventListener("toggle", () => element.open && prose.show(this.thoughts.source));
      this.prose.element.before(element);
    }
    const { element, words, prose } = this.thoughts;
    this.thoughts.source = reasoning;
    if (element.open) prose.show(reasoning);
    const { state, stats } = this.message;
    const still = state === "streaming" && !content;
    element.classList.toggle("still", still);
    const time = stats?.thought ?? null;
    if (still) words.textContent = t("thinking");
    else words.textContent = time === null ? t("thoughts") : t("thought", { time: seconds(time / 1000) });
  }

  noted(content) {
    const { state, error, retryAt, finish } = this.message;
    if (error) return [this.trouble(error, retryAt)];
    const note = (key) => [h("p.note", {}, t(key))];
    if (state === "stopped") return note("note.stopped");
    if (state === "cut") return note("note.cut");
    if (finish === "length") return note("note.length");
    if (finish === "content_filter") return note("note.filter");
    if (state === "done" && !content.trim()) return note("note.empty");
    return [];
  }

  /** What the gateway said of this answer. */
  told() {
    const { remote, dropped } = this.message;
    const said = [];
    if (remote) said.push(t("note.remote", { host: remote }));
    if (dropped) said.push(t("note.dropped", { number: number(dropped) }));
    return said.map((text) => h("p.note", {}, text));
  }

  trouble({ kind, detail }, retryAt) {
    const words = [h("strong", {}, t(`error.${kind}`))];
    const waits = retryAt !== null;
    if (waits) words.push(" ", t("error.again", { seconds: Math.max(1, Math.ceil((retryAt - Date.now()) / 1000)) }));
    if (detail && !["network", "lost", "key"].includes(kind)) words.push(h("span.detail", {}, detail));
    const act = waits ? () => this.thread.actions.hurry(this.message) : () => this.thread.actions.retry(this.message);
    return h(waits ? "div.trouble.waits" : "div.trouble", waits ? {} : { role: "alert" },
      h("p", {}, ...words),
      h("button.plain", { type: "button", onclick: act }, t(waits ? "retry.now" : "retry")));
  }

  finished() {
    const { message, thread } = this;
    const busy = thread.running(thread.conversation);
    const text = divided(message).content;
    return [
      thread.turner(message),
      text ? copyButton("copy", () => text) : null,
      iconButton("again", "again", () => thread.actions.again(message), { disabled: busy }),
      this.measured(),
    ].filter(Boolean);
  }

  measured() {
    const { stats } = this.message;
    if (!stats || stats.first === null) return null;
    const about = stats.tokens === null ? "≈ " : "";
    const parts = [h("span", {}, t("first", { time: seconds(stats.first / 1000) }))];
    const speed = rate(stats);
    if (speed !== null) {
      parts.unshift(h("span", { title: t("rate.title") }, about + t("rate", { number: short(speed) })));
    }
    const prompt = stats.prompt === null ? undefined : t("prompt.title", { number: number(stats.prompt) });
    parts.push(h("span", { title: prompt }, about + t("tokens", { number: number(stats.tokens ?? stats.pieces) })));
    return h("span.stats", {}, ...parts);
  }
}
