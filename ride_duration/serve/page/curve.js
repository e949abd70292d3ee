// The minutes over the day: a line in its band, the chosen time marked, and a slider laid over it.

import { make } from "./svg.js";
import { clockMinute, minuteOfDay } from "./words.js";

const HEIGHT = 156;
const EDGE = { left: 30, right: 12, top: 26, bottom: 24 };
const DAY = 1440;

export function between(points, minute) { // what the curve says at a time between its half-hours
  if (!points?.length) return null;
  const after = points.findIndex((point) => point.minute > minute);
  if (after <= 0) return after ? points.at(-1) : points[0];
  const [one, other] = [points[after - 1], points[after]];
  const part = (minute - one.minute) / (other.minute - one.minute);
  const mix = (name) => one[name] + (other[name] - one[name]) * part;
  return { minute, minutes: mix("minutes"), low: mix("low"), high: mix("high") };
}

export const pointsOf = (curve) => curve.map(({ at, minutes, low, high }) => ({ minute: minuteOfDay(at), minutes, low, high }));

function steps(highest) { // round minutes for the grid, three or four of them
  const step = [2, 5, 10, 15, 20, 30, 60].find((size) => highest / size <= 4) ?? 120;
  return Array.from({ length: Math.ceil(highest / step) }, (_, place) => (place + 1) * step);
}

export class Curve {
  constructor(svg) {
    Object.assign(this, { svg, points: [], at: null });
    new ResizeObserver(() => this.#draw()).observe(svg);
  }

  show(points) { this.points = points; this.#draw(); }

  mark(minute, answer) { this.at = { minute, answer }; this.#mark(); }

  #draw() {
    const wide = this.svg.getBoundingClientRect().width;
    if (!wide || !this.points.length) return;
    this.svg.setAttribute("viewBox", `0 0 ${wide} ${HEIGHT}`);
    const highest = Math.max(...this.points.map(({ high }) => high));
    const grid = steps(highest);
    const top = Math.max(grid.at(-1), highest);
    this.x = (minute) => EDGE.left + ((wide - EDGE.left - EDGE.right) * minute) / DAY;
    this.y = (minutes) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * minutes) / top;
    this.svg.replaceChildren();
    for (const minutes of [0, ...grid]) {
      make("line", { class: minutes ? "grid" : "axis", x1: EDGE.left, x2: wide - EDGE.right, y1: this.y(minutes), y2: this.y(minutes) }, this.svg);
      if (minutes) this.#text("tick", EDGE.left - 7, this.y(minutes) + 4, String(minutes), "end");
    }
    for (const hour of [0, 6, 12, 18, 24]) {
      make("line", { class: "axis", x1: this.x(hour * 60), x2: this.x(hour * 60), y1: this.y(0), y2: this.y(0) + 4 }, this.svg);
      this.#text("tick", this.x(hour * 60), HEIGHT - 6, clockMinute((hour % 24) * 60).replace(":00", ""), hour === 24 ? "end" : hour ? "middle" : "start");
    }
    const last = { ...this.points.at(-1), minute: DAY }; // the last half-hour ends with the day
    const line = (name, points = [...this.points, last]) => points.map((point) => `${this.x(point.minute).toFixed(1)} ${this.y(point[name]).toFixed(1)}`).join("L");
    make("path", { class: "band", d: `M${line("high")}L${line("low", [last, ...this.points.slice().reverse()])}Z` }, this.svg);
    make("path", { class: "line", d: `M${line("minutes")}` }, this.svg);
    this.marker = make("g", {}, this.svg);
    this.#mark();
  }

  #mark() {
    if (!this.marker || !this.at) return;
    const { minute, answer } = this.at;
    const here = answer ?? between(this.points, minute);
    const x = this.x(minute);
    this.marker.replaceChildren();
    make("line", { class: "here", x1: x, x2: x, y1: EDGE.top - 8, y2: this.y(0) }, this.marker);
    make("line", { class: "reach", x1: x, x2: x, y1: this.y(here.low), y2: this.y(here.high) }, this.marker);
    make("circle", { class: "dot", cx: x, cy: this.y(here.minutes), r: 4.5 }, this.marker);
    const side = minute < DAY / 5 ? "start" : minute > (DAY * 4) / 5 ? "end" : "middle";
    this.#text("now", x, EDGE.top - 13, `${clockMinute(minute)} · ${Math.max(1, Math.round(here.minutes))} min`, side, this.marker);
  }

  #text(kind, x, y, says, anchor, parent = this.svg) {
    make("text", { class: kind, x, y, "text-anchor": anchor }, parent).textContent = says;
  }
}
