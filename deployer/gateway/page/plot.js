// One small plot: a line over the last minutes, with what it was under the pointer.

import { h, svg } from "./dom.js";
import { language, short, span, t } from "./language.js";

const HEIGHT = 116;
const TOP = 8;
const BOTTOM = 6;

/** A plot of `name` (a key of the words) whose values are written with `unit(text)`. */
export class Plot {
  constructor(name, unit) {
    Object.assign(this, { name, unit });
    this.value = h("output.value");
    this.when = h("span.when");
    this.canvas = svg("svg", { role: "img", height: HEIGHT });
    this.element = h("section.plot", {},
      h("div.plothead", {}, h("h2", { t: name }), this.when), this.value, this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** `values` are numbers or null, `step` seconds apart; the last one is of `end`, in seconds since 1970. */
  update(values, step, end) {
    Object.assign(this, { values, step, end });
    this.draw();
  }

  draw() {
    const width = this.canvas.clientWidth;
    if (!this.values || !width) return;
    const { values } = this;
    const high = Math.max(...values.filter((value) => value !== null), 0);
    const ceiling = nice(high);
    const across = (index) => 1 + (index / Math.max(1, values.length - 1)) * (width - 4);
    const down = (value) => TOP + (1 - value / ceiling) * (HEIGHT - TOP - BOTTOM);
    const lines = [0, 0.5, 1].map((share) =>
      svg("line", { x1: 0, x2: width, y1: down(share * ceiling), y2: down(share * ceiling), class: "grid" }));
    const top = svg("text", { x: 0, y: down(ceiling) + 12, class: "scale" }, short(ceiling));
    let line = "";
    let area = "";
    for (let from = 0; from < values.length; from++) {
      if (values[from] === null) continue;
      let to = from;
      while (values[to + 1] !== null && to + 1 < values.length) to++;
      const points = values.slice(from, to + 1).map((value, at) => `${across(from + at).toFixed(1)} ${down(value).toFixed(1)}`);
      line += `M${points.join("L")}${from === to ? "h.01" : ""}`;
      area += `M${across(from).toFixed(1)} ${down(0)}L${points.join("L")}L${across(to).toFixed(1)} ${down(0)}Z`;
      from = to;
    }
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.mark = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "mark", visibility: "hidden" });
    this.canvas.replaceChildren(
      ...lines, svg("path", { d: area, class: "area" }), svg("path", { d: line, class: "line" }), top, this.mark);
    const time = span(values.length * this.step);
    const last = values.at(-1) ?? null;
    const words = (value) => (value === null ? t("status.quiet") : this.unit(short(value)));
    this.canvas.setAttribute("aria-label",
      t("status.plot", { name: t(this.name), last: words(last), high: words(high), time }));
    this.tell(last, t("status.last", { time }));
    this.across = across;
  }

  tell(value, when) {
    this.value.replaceChildren(...(value === null ? [h("span.none", {}, t("status.quiet"))] : this.split(short(value))));
    this.when.textContent = when;
  }

  /** The number large, its unit small. */
  split(text) {
    const [before, after] = this.unit("\u0000").split("\u0000");
    return [before, h("b", {}, text), h("small", {}, after)];
  }

  point(event) {
    if (!this.across || !this.values) return;
    this.mark.setAttribute("visibility", event ? "visible" : "hidden");
    if (!event) return this.draw();
    const width = this.canvas.clientWidth;
    const share = event.offsetX / width;
    const index = Math.min(this.values.length - 1, Math.max(0, Math.round(share * (this.values.length - 1))));
    this.mark.setAttribute("x1", this.across(index));
    this.mark.setAttribute("x2", this.across(index));
    const time = new Date((this.end - (this.values.length - 1 - index) * this.step) * 1000);
    this.tell(this.values[index], time.toLocaleTimeString(language()));
  }
}

/** The next figure that is easy to read: 37 -> 40. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
