// The list of conversations: by day, searched, renamed and deleted in place.

import { holds } from "./conversation.js";
import { h, icon } from "./dom.js";
import { t } from "./language.js";

const DAY = 86_400_000;

/** `actions`: open(conversation), rename(conversation, title), remove(conversation); `running` as in the thread. */
export class Sidebar {
  constructor(place, search, actions, running) {
    Object.assign(this, { place, search, actions, running, all: [], current: null, lasting: true });
    search.addEventListener("input", () => this.show());
  }

  show(all = this.all, current = this.current) {
    Object.assign(this, { all, current });
    if (this.place.querySelector("input")) return; // a title is being written: it is shown again after that
    const words = this.search.value.trim();
    const wanted = all.filter((one) => one.messages.length && (!words || holds(one, words)));
    wanted.sort((a, b) => b.updated - a.updated);
    const groups = new Map();
    for (const one of wanted) {
      const day = dayOf(one.updated);
      groups.set(day, [...(groups.get(day) ?? []), one]);
    }
    const empty = words ? "search.none" : "list.empty";
    this.place.replaceChildren(
      ...(this.lasting ? [] : [h("p.hint", {}, t("list.lost"))]),
      ...(wanted.length ? [] : [h("p.hint", {}, t(empty))]),
      ...[...groups].map(([day, ones]) =>
        h("section", {}, h("h2", {}, t(day)), h("ul", {}, ...ones.map((one) => this.entry(one))))));
  }

  entry(one) {
    const title = one.title || t("untitled");
    const open = h("button.open", { type: "button", title, onclick: () => this.actions.open(one) }, title);
    if (one === this.current) open.setAttribute("aria-current", "true");
    const tool = (name, key, act) => {
      const named = t(`${key}.named`, { title });
      return h("button.quiet", { type: "button", "aria-label": named, title: t(key), onclick: act }, icon(name));
    };
    const item = h("li", {}, open,
      this.running(one) ? h("span.busy", { role: "img", "aria-label": t("writing") }) : null,
      h("span.tools", {},
        tool("edit", "rename", () => this.rename(one, item)),
        tool("trash", "delete", () => this.actions.remove(one))));
    return item;
  }

  rename(one, item) {
    const field = h("input", { type: "text", label: "rename", value: one.title, maxLength: 120 });
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      const title = field.value.trim();
      field.remove();
      if (keep && title && title !== one.title) this.actions.rename(one, title);
      else this.show();
      this.place.querySelector("[aria-current] ~ .tools button")?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter") {
        event.preventDefault(); // or it would press the button that gets the focus
        end(true);
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }
}

function dayOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "day.today";
  if (time >= today - DAY) return "day.yesterday";
  return time >= today - 6 * DAY ? "day.week" : "day.older";
}
