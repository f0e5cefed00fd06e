// The status page: what is deployed and how it fares, asked for again every five seconds while it is looked at.

import { get, onKeyWanted } from "./api.js";
import { askKey } from "./dialogs.js";
import { h, icon } from "./dom.js";
import { forgetButton, languageButton, themeButton } from "./foot.js";
import { language, number, relabel, short, span, t } from "./language.js";
import { Plot } from "./plot.js";

const EVERY = 5000; // ms
const GIB = 2 ** 30;

const plots = {
  tokens_per_s: new Plot("status.speed", (text) => t("rate", { number: text })),
  first_token_s: new Plot("status.first", (text) => t("seconds", { number: text })),
  running: new Plot("status.streams", (text) => text),
  waiting: new Plot("status.queue", (text) => text),
};
const name = h("h1");
const state = h("span.state");
const news = h("p.hint", { role: "status" });
const retry = h("button.plain", { type: "button", t: "retry", hidden: true });
const facts = h("dl.facts");
const models = h("div");
const gpus = h("div.cards");

let last = null;
let heard = null; // when
let failure = null;

function build() {
  document.getElementById("head").append(
    h("a.plain", { href: "./" }, icon("back"), h("span", { t: "back" })),
    h("span.tools", {}, themeButton(), languageButton(words), forgetButton()));
  const main = document.getElementById("main");
  main.append(
    h("div.title", {}, name, state, news, retry), facts,
    h("div.plots", {}, ...Object.values(plots).map((plot) => plot.element)),
    h("h2", { t: "status.models" }), models,
    h("h2", { t: "status.gpus" }), gpus);
  main.hidden = true;
}

function words() {
  relabel();
  show();
}

function show() {
  document.title = `${last?.deployment ?? t("status")} · deployer`;
  const main = document.getElementById("main");
  main.hidden = !last && !failure;
  main.classList.toggle("blind", !last);
  main.setAttribute("aria-busy", !last && !failure);
  const stale = failure ? `${t(`error.${failure.kind}`)} ${heard ? t("status.stale", { time: heard.toLocaleTimeString(language()) }) : ""}` : "";
  const line = stale || t("status.live");
  if (news.textContent !== line) news.textContent = line; // or it would be read out every five seconds
  news.classList.toggle("wrong", Boolean(failure));
  if (!last) return name.replaceChildren(t("status"));
  const conditions = last.models.flatMap((model) => model.replicas).map(condition);
  const replicas = conditions.filter((one) => one === "ready" || one === "down");
  const ready = replicas.filter((one) => one === "ready").length;
  const key = replicas.length && ready === replicas.length ? "ready" : ready ? "part" : "down";
  name.replaceChildren(last.deployment);
  state.className = `state ${failure ? "unknown" : key}`;
  state.textContent = t(`status.${key}`);
  facts.replaceChildren(...[
    ["status.running", last.running, typeof last.limit !== "number" ? null : t("status.limit", { number: last.limit })],
    ["status.waiting", last.waiting],
    ["status.requests", last.requests],
    ["status.errors", last.errors],
    ["status.prompt", last.prompt_tokens],
    ["status.completion", last.completion_tokens],
    ["status.uptime", span(last.uptime_s)],
    ["status.generation", last.generation, last.version ? `${t("status.version")} ${last.version}` : null],
  ].map(([label, value, more]) => fact(label, value, more)));
  const { step_s, end, ...series } = last.series;
  for (const [name, plot] of Object.entries(plots)) plot.update(series[name] ?? [], step_s, end);
  models.replaceChildren(...last.models.map(model));
  gpus.replaceChildren(...(last.gpus.length ? last.gpus.map(gpu) : [h("p.hint", {}, t("status.nogpu"))]));
}

const shown = (value) => (typeof value === "number" ? number(value) : (value ?? "–"));

function fact(label, value, more) {
  return h("div", {}, h("dt", {}, t(label)), h("dd", {}, h("b", {}, shown(value)), more ? h("small", {}, more) : null));
}

function model(one) {
  return h("section.card", {},
    h("h3", {}, one.id),
    h("dl.pairs", {},
      pair("status.engine", one.engine),
      pair("status.context", one.context === null ? "–" : t("tokens", { number: number(one.context) }))),
    h("ul", { "aria-label": t("status.replicas") }, ...one.replicas.map((replica) =>
      h("li", {},
        h(`span.state.${condition(replica)}`, {}, t(`status.${condition(replica)}`)),
        h("span", {}, work(replica))))));
}

/** A replica that comes or goes during an upgrade is neither ready nor broken. */
const condition = (replica) =>
  ["candidate", "draining"].includes(replica.state) ? replica.state : replica.ready ? "ready" : "down";

function work(replica) {
  const waiting = replica.waiting ?? null;
  const values = { name: replica.name, running: shown(replica.running), waiting: shown(waiting) };
  return t(waiting === null ? "status.replica" : "status.replica.waiting", values);
}

const pair = (label, value) => h("div", {}, h("dt", {}, t(label)), h("dd", {}, value));

function gpu(one) {
  const share = one.memory_total && one.memory_used !== null ? one.memory_used / one.memory_total : null;
  const size = (bytes) => (bytes === null ? "–" : `${short(bytes / GIB)} GiB`);
  const unit = (value, text) => (value === null ? "–" : `${short(value)} ${text}`);
  return h("section.card", {},
    h("h3", {}, one.name, " ", h("small", {}, one.uuid)),
    meter("status.memory", share, `${size(one.memory_used)} / ${size(one.memory_total)}`),
    meter("status.utilization", one.utilization === null ? null : one.utilization / 100, unit(one.utilization, "%")),
    h("dl.pairs", {}, pair("status.temperature", unit(one.temperature, "°C")), pair("status.power", unit(one.power_w, "W")),
      one.xid ? pair("status.xid", String(one.xid)) : null));
}

function meter(label, share, text) {
  const bar = h("progress", { max: 1, value: share ?? 0, "aria-label": `${t(label)}: ${text}` });
  return h("div.meter", {}, h("span", {}, t(label)), h("span", {}, text), bar);
}

async function refresh() {
  try {
    last = await get("v1/status");
    heard = new Date();
    failure = null;
  } catch (error) {
    failure = error;
  }
  show();
}

/** Every five seconds; not while nobody looks, and never two at once. */
async function live() {
  for (;;) {
    if (document.visibilityState === "visible") await refresh();
    while (failure?.kind === "key") await wanted(); // who closed the window is not asked again every five seconds
    await new Promise((resolve) => {
      const waiting = setTimeout(done, EVERY);
      function done() {
        clearTimeout(waiting);
        document.removeEventListener("visibilitychange", done);
        resolve();
      }
      document.addEventListener("visibilitychange", done);
    });
  }
}

async function wanted() {
  retry.hidden = false;
  await new Promise((resolve) => retry.addEventListener("click", resolve, { once: true }));
  retry.hidden = true;
  await refresh();
}

onKeyWanted(askKey);
build();
live();
