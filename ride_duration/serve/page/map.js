// The map: zones as an SVG that can be dragged, pinched, zoomed and steered by keys. Outlines are in miles.

import { areaOf, coastOf, poleOf, ringsBox, roomAt } from "./shapes.js";
import { Labels } from "./labels.js";
import { make } from "./svg.js";

const CLOSEST = 700; // pixels a mile, at most
const STILL = 6; // pixels a pointer may move and still be a click
const BARS = 36; // pixels above and below where buttons lie on the map
const NEAR = 14; // pixels a finger may miss by
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const lineOf = (ring) => `M${ring.map(([x, y]) => `${x.toFixed(3)} ${y.toFixed(3)}`).join("L")}`;
const pathOf = (rings) => rings.map((ring) => `${lineOf(ring)}Z`).join("");

const union = (boxes) => [
  Math.min(...boxes.map((box) => box[0])), Math.min(...boxes.map((box) => box[1])),
  Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3])),
]; // prettier-ignore

export class ZoneMap {
  #view = { k: 1, x: 0, y: 0 }; // screen = k * mile + (x, y)
  #pointers = new Map();
  #frame = 0;
  #flight = 0;

  constructor(svg, { onpick, onhover }) {
    Object.assign(this, { svg, onpick, onhover, places: new Map(), chosen: {}, size: [0, 0] });
    this.ground = make("g", { class: "ground" }, svg);
    this.marks = make("g", { class: "marks" }, svg);
    this.ways = ["way under", "way"].map((name) => make("path", { class: name }, this.marks));
    this.words = make("g", {}, this.marks);
    this.pins = { from: make("g", { class: "pin from" }, this.marks), to: make("g", { class: "pin to" }, this.marks) };
    for (const r of [9, 5]) make("circle", { r }, this.pins.from);
    make("path", { d: "M0 0-6.5-9.5a7.8 7.8 0 1 1 13 0Z" }, this.pins.to);
    make("circle", { cy: -14, r: 2.8 }, this.pins.to);
    make("path", { class: "cross", d: "M-14 0h10m8 0h10M0-14v10m0 8v10" }, this.marks);
    this.labels = new Labels(this.words);
    this.#listen();
    new ResizeObserver(() => this.#resize()).observe(svg);
  }

  draw(zones, shapes) { // shapes: zone number → rings of [x, y], y to the north
    const west = Math.min(...Object.values(shapes).flatMap((rings) => rings.flatMap((ring) => ring.map(([x]) => x))));
    const north = Math.max(...Object.values(shapes).flatMap((rings) => rings.flatMap((ring) => ring.map(([, y]) => y))));
    const boroughs = [...new Set(zones.filter(({ id }) => shapes[id]).map(({ borough }) => borough))].sort();
    this.places.clear();
    for (const zone of zones) {
      if (!shapes[zone.id]) continue;
      const rings = shapes[zone.id].map((ring) => ring.map(([x, y]) => [x - west, north - y]));
      const [pole, room] = poleOf(rings);
      const path = make("path", { class: `zone b${boroughs.indexOf(zone.borough) % 8}`, d: pathOf(rings), "data-zone": zone.id });
      this.places.set(zone.id, { zone, path, rings, pole, room, box: ringsBox(rings), area: areaOf(rings) });
    }
    this.ground.replaceChildren(...[...this.places.values()].map(({ path }) => path));
    setTimeout(() => this.#shore()); // an ornament: after the first picture
    this.boroughs = boroughs.map((name, hue) => {
      const own = [...this.places.values()].filter(({ zone }) => zone.borough === name);
      const total = own.reduce((sum, { area }) => sum + area, 0) || 1;
      let middle = [0, 1].map((axis) => own.reduce((sum, { pole, area }) => sum + pole[axis] * area, 0) / total);
      const off = ({ pole }) => Math.hypot(pole[0] - middle[0], pole[1] - middle[1]);
      if (!own.some(({ rings }) => rings.some((ring) => roomAt(middle, ring) > 0))) middle = own.reduce((best, each) => (off(each) < off(best) ? each : best)).pole;
      return { name, hue: hue % 8, box: union(own.map(({ box }) => box)), middle };
    });
    this.whole = union([...this.places.values()].map(({ box }) => box));
    this.labels.set([...this.places.values()], this.boroughs);
    this.#resize();
    this.fit(this.whole, { animate: false });
    this.choose(this.chosen);
  }

  #shore() {
    const lines = coastOf([...this.places.values()]).flat();
    this.ground.prepend(...lines.map((line) => make("path", { class: "coast", d: lineOf(line) })));
  }

  choose(chosen, { reveal = false } = {}) { // zone numbers of the two ends
    this.chosen = chosen;
    for (const { path } of this.places.values()) path.classList.remove("from", "to");
    for (const end of ["from", "to"]) {
      const place = this.places.get(chosen[end]);
      if (place) this.ground.append(place.path); // above its neighbours' borders
      place?.path.classList.add(end);
    }
    if (reveal) this.#reveal();
    this.#paint();
  }

  fit([left, top, right, bottom], { animate = true, margin = 20, closest = CLOSEST } = {}) {
    const [width, height] = this.size;
    if (!width) return;
    const side = width > 600 ? 44 : 0; // the zoom buttons' column
    const k = Math.min((width - 2 * margin - side) / Math.max(right - left, 1e-3), (height - 2 * margin - 2 * BARS) / Math.max(bottom - top, 1e-3), closest);
    this.#fly({ k, x: (width - side) / 2 - (k * (left + right)) / 2, y: height / 2 - (k * (top + bottom)) / 2 }, animate);
  }

  zoom(factor, at = this.size.map((side) => side / 2), animate = true) {
    const [least, most] = [this.#least() * 0.8, CLOSEST];
    const { k, x, y } = this.#view;
    const grown = Math.min(most, Math.max(least, k * factor));
    const ratio = grown / k;
    this.#fly({ k: grown, x: at[0] - ratio * (at[0] - x), y: at[1] - ratio * (at[1] - y) }, animate);
  }

  #least() { // pixels a mile when all of it shows
    const [left, top, right, bottom] = this.whole ?? [0, 0, 1, 1];
    return Math.min(this.size[0] / (right - left), (this.size[1] - 2 * BARS) / (bottom - top)) || 1;
  }

  #reveal() { // both ends where they can be told apart
    const boxes = ["from", "to"].map((end) => this.places.get(this.chosen[end])?.box).filter(Boolean);
    if (!boxes.length) return;
    const { k, x, y } = this.#view;
    const [left, top, right, bottom] = union(boxes);
    const seen = k * left + x > 0 && k * top + y > BARS && k * right + x < this.size[0] && k * bottom + y < this.size[1] - BARS;
    const told = k * Math.max(right - left, bottom - top) > Math.min(...this.size) / 5;
    if (!seen || !told) this.fit([left, top, right, bottom], { margin: Math.min(...this.size) / 8, closest: this.#least() * 9 });
  }

  #fly(goal, animate) {
    cancelAnimationFrame(this.#flight);
    goal = this.#held(goal);
    if (!animate || calm.matches || document.hidden) return this.#go(goal);
    const [start, from, [width, height]] = [performance.now(), this.#view, this.size];
    const middle = ({ k, x, y }) => [(width / 2 - x) / k, (height / 2 - y) / k];
    const [here, there] = [middle(from), middle(goal)];
    const step = (at) => {
      const part = Math.min(1, Math.max(0, (at - start) / 320));
      const eased = 1 - (1 - part) ** 3;
      const k = from.k * (goal.k / from.k) ** eased;
      const done = goal.k === from.k ? eased : (1 / from.k - 1 / k) / (1 / from.k - 1 / goal.k); // keeps the fixed point of a zoom fixed
      const [cx, cy] = [0, 1].map((axis) => here[axis] + (there[axis] - here[axis]) * done);
      this.#go({ k, x: width / 2 - k * cx, y: height / 2 - k * cy });
      if (part < 1) this.#flight = requestAnimationFrame(step);
    };
    this.#flight = requestAnimationFrame(step);
  }

  #held(view) { // the middle of the screen stays on the map
    if (!this.whole) return view;
    const [width, height] = this.size;
    const within = (value, low, high) => Math.min(Math.max(value, low), high);
    const { k } = view;
    return { k, x: within(view.x, width / 2 - k * this.whole[2], width / 2 - k * this.whole[0]), y: within(view.y, height / 2 - k * this.whole[3], height / 2 - k * this.whole[1]) };
  }

  #go(view) {
    this.#view = view;
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  #resize() {
    const { width, height } = this.svg.getBoundingClientRect();
    const [before, now] = [this.size, [width, height]];
    this.size = now;
    if (!width || !this.whole) return;
    if (!before[0]) return this.fit(this.whole, { animate: false });
    const { k, x, y } = this.#view;
    this.#go(this.#held({ k, x: x + (now[0] - before[0]) / 2, y: y + (now[1] - before[1]) / 2 }));
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.places.size || !this.size[0]) return;
    const { k, x, y } = this.#view;
    const screen = ([east, south]) => [k * east + x, k * south + y];
    this.ground.setAttribute("transform", `matrix(${k} 0 0 ${k} ${x} ${y})`);
    const ends = ["from", "to"].map((end) => this.places.get(this.chosen[end]));
    ["from", "to"].forEach((end, place) => {
      const pin = this.pins[end];
      pin.classList.toggle("gone", !ends[place]);
      if (ends[place]) pin.setAttribute("transform", `translate(${screen(ends[place].pole)})`);
    });
    const way = ends[0] && ends[1] && ends[0] !== ends[1] ? arc(screen(ends[0].pole), screen(ends[1].pole)) : "";
    for (const path of this.ways) path.setAttribute("d", way);
    this.labels.place({ k, screen, size: this.size, least: this.#least(), chosen: ends.filter(Boolean) });
    this.svg.querySelector(".cross").setAttribute("transform", `translate(${this.size[0] / 2} ${this.size[1] / 2})`);
  }

  #zoneAt(x, y, reach = 0) { // the zone at a place of the window, or near it
    const spots = [[0, 0], ...(reach ? [0, 1, 2, 3, 4, 5, 6, 7].flatMap((turn) => [0.5, 1].map((far) => [far * reach * Math.cos((turn * Math.PI) / 4), far * reach * Math.sin((turn * Math.PI) / 4)])) : [])];
    for (const [right, down] of spots) {
      const id = document.elementFromPoint(x + right, y + down)?.dataset?.zone;
      if (id) return this.places.get(Number(id))?.zone ?? null;
    }
    return null;
  }

  #listen() {
    const { svg } = this;
    const spot = (event) => {
      const { left, top } = svg.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    let travelled = 0;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0022)), spot(event), false);
    }, { passive: false }); // prettier-ignore
    svg.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      cancelAnimationFrame(this.#flight);
      if (!this.#pointers.size) travelled = 0;
      this.#pointers.set(event.pointerId, spot(event));
      if (this.#pointers.size > 1) travelled = Infinity;
    });
    svg.addEventListener("pointermove", (event) => {
      if (!this.#pointers.has(event.pointerId)) return event.pointerType === "mouse" && this.onhover(this.#zoneAt(event.clientX, event.clientY), spot(event));
      const before = [...this.#pointers.values()];
      const [old, now] = [this.#pointers.get(event.pointerId), spot(event)];
      travelled += Math.hypot(now[0] - old[0], now[1] - old[1]);
      if (travelled <= STILL) return;
      if (!svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
      svg.classList.add("moving");
      this.onhover(null);
      this.#pointers.set(event.pointerId, now);
      this.#drag(before, [...this.#pointers.values()]);
    });
    const end = (event) => {
      if (!this.#pointers.delete(event.pointerId) || this.#pointers.size) return;
      svg.classList.remove("moving");
      if (event.type !== "pointerup" || travelled > STILL) return;
      const zone = this.#zoneAt(event.clientX, event.clientY, event.pointerType === "mouse" ? 4 : NEAR);
      if (zone) this.onpick(zone);
    };
    for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, end);
    svg.addEventListener("pointerleave", () => this.onhover(null));
    svg.addEventListener("keydown", (event) => this.#key(event));
  }

  #drag(before, now) { // what was under each finger stays under it
    const middle = (spots) => [0, 1].map((axis) => spots.reduce((sum, each) => sum + each[axis], 0) / spots.length);
    const [was, is] = [middle(before), middle(now)];
    const { k, x, y } = this.#view;
    this.#go(this.#held({ k, x: x + is[0] - was[0], y: y + is[1] - was[1] }));
    const apart = ([one, other]) => Math.hypot(one[0] - other[0], one[1] - other[1]);
    if (now.length === 2 && apart(before)) this.zoom(apart(now) / apart(before), is, false);
  }

  #key(event) {
    const step = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] }[event.key];
    const { left, top } = this.svg.getBoundingClientRect();
    const middle = () => this.#zoneAt(left + this.size[0] / 2, top + this.size[1] / 2);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step) this.#go(this.#held({ ...this.#view, x: this.#view.x + step[0], y: this.#view.y + step[1] }));
    else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0" || event.key === "Home") this.fit(this.whole);
    else if ((event.key === "Enter" || event.key === " ") && middle()) this.onpick(middle());
    else return;
    event.preventDefault();
    clearTimeout(this.saying);
    this.saying = setTimeout(() => this.onhover(middle(), this.size.map((side) => side / 2), true), 350);
  }
}

function arc([x1, y1], [x2, y2]) { // bends to the left of the way, so that back is not there
  const [east, south] = [x2 - x1, y2 - y1];
  return `M${x1} ${y1}Q${(x1 + x2) / 2 + south * 0.18} ${(y1 + y2) / 2 - east * 0.18} ${x2} ${y2}`;
}
