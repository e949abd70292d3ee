// Names on the map: as many as fit, none across another. Chosen zones first, then boroughs, then zones by size.

import { make } from "./svg.js";

const LINE = 13; // pixels from line to line
const ruler = document.createElement("canvas").getContext("2d");

function width(text, font = "500 11px") {
  ruler.font = `${font} system-ui, sans-serif`;
  return ruler.measureText(text).width + 4;
}

function wrappings(name) { // the name on one, two and three lines, as balanced as its words allow
  const words = name.split(/(?<=\/)|\s+/).filter(Boolean);
  const joined = (from, to) => words.slice(from, to).reduce((line, word) => line + (line && !line.endsWith("/") ? " " : "") + word, "");
  const options = [[name]];
  const best = (candidates) => candidates.map((lines) => [Math.max(...lines.map((line) => width(line))), lines]).sort((one, other) => one[0] - other[0])[0]?.[1];
  const two = best(words.slice(1).map((_, cut) => [joined(0, cut + 1), joined(cut + 1)]));
  const three = best(words.flatMap((_, one) => words.map((_, other) => [one + 1, other + 1])).filter(([one, other]) => one < other && other < words.length).map(([one, other]) => [joined(0, one), joined(one, other), joined(other)]));
  return [...options, ...(two ? [two] : []), ...(three ? [three] : [])].map((lines) => ({ lines, wide: Math.max(...lines.map((line) => width(line))), high: lines.length * LINE }));
}

export class Labels {
  #nodes = new Map();

  constructor(group) { this.group = group; }

  set(places, boroughs) {
    this.places = [...places].sort((one, other) => other.area - one.area);
    this.boroughs = boroughs;
    this.#nodes.clear();
    this.group.replaceChildren();
  }

  place({ k, screen, size, least, chosen }) {
    const taken = [[0, 0, 300, 50], [size[0] - 60, 0, size[0], 150], [0, size[1] - 50, size[0], size[1]]]; // buttons lie there
    const shown = new Set();
    const free = (box) => !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
    const boxOf = ([x, y], wide, high) => [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2];
    const put = (key, lines, kind, spot, wide, high) => {
      const box = boxOf(spot, wide, high);
      if (box[2] < 0 || box[3] < 0 || box[0] > size[0] || box[1] > size[1] || !free(box)) return;
      taken.push(box);
      shown.add(key);
      this.#show(key, lines, kind, spot, wide);
    };
    for (const { pole } of chosen) taken.push(boxOf([screen(pole)[0], screen(pole)[1] - 5], 20, 30));
    for (const place of chosen) { // on a plate, below its pin or wherever there is room beside it
      const [x, y] = screen(place.pole);
      const wide = width(place.zone.name, "600 12px") + 14;
      const inside = Math.min(Math.max(x, wide / 2 + 6), size[0] - wide / 2 - 6);
      const spots = [[inside, y + 22], [inside, y - 34], [x + wide / 2 + 14, y], [x - wide / 2 - 14, y]];
      put(place, [place.zone.name], "chosen", spots.find((spot) => free(boxOf(spot, wide, 20))) ?? spots[0], wide, 20);
    }
    if (k < least * 4.5) for (const borough of this.boroughs) put(borough, [borough.name], "borough", screen(borough.middle), width(borough.name, "600 14px") + borough.name.length, 18);
    if (k > least * 1.5) {
      for (const place of this.places) {
        if (chosen.includes(place)) continue;
        const [left, top, right, bottom] = place.box;
        if (k * (right - left) < 34 || k * place.room < 9) continue;
        if (k * right + screen([0, 0])[0] < 0 || k * left + screen([0, 0])[0] > size[0]) continue;
        place.wrappings ??= wrappings(place.zone.name);
        const fits = place.wrappings.find(({ wide, high }) => wide < k * (right - left) * 0.92 && high < k * Math.min(bottom - top, place.room * 2.4) && wide < k * place.room * 3.4);
        if (fits) put(place, fits.lines, "", screen(place.pole), fits.wide, fits.high);
      }
    }
    for (const [key, { node }] of this.#nodes) node.classList.toggle("gone", !shown.has(key));
  }

  #show(key, lines, kind, [x, y], wide) {
    const text = lines.join("\n");
    let own = this.#nodes.get(key);
    if (own?.text !== text || own.kind !== kind) {
      own?.node.remove();
      own = { text, kind, node: make("g", { class: `label ${kind}` }, this.group) };
      this.#nodes.set(key, own);
      if (kind === "chosen") make("rect", { x: -wide / 2, y: -10, width: wide, height: 20, rx: 6 }, own.node);
      lines.forEach((line, place) => (make("text", { y: (place - (lines.length - 1) / 2) * LINE }, own.node).textContent = line));
    }
    own.node.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  }
}
