// A field in which a zone is found by typing: the combobox pattern with a list, driven by keys alone or by pointer.

import { index, search } from "./search.js";

export class ZoneField {
  #entries = [];
  #shown = [];
  #active = -1;

  constructor(name, onchoose) {
    this.input = document.getElementById(name);
    this.list = document.getElementById(`${name}-list`);
    this.hint = document.getElementById(`${name}-hint`);
    this.onchoose = onchoose;
    this.zone = null;
    this.input.addEventListener("input", () => this.#open(this.input.value));
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("click", () => this.isOpen || this.#open(this.zone ? "" : this.input.value));
    this.input.addEventListener("focus", () => this.input.select());
    this.input.addEventListener("blur", () => this.#leave());
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#choose(this.#shown[Number(option.dataset.place)]);
    });
  }

  get isOpen() { return !this.list.hidden; }

  set zones(zones) {
    this.#entries = index(zones);
    if (this.isOpen || (document.activeElement === this.input && this.input.value)) this.#open(this.input.value); // typed while the zones were on their way
  }

  show(zone) { // a choice made elsewhere
    this.zone = zone;
    this.input.value = zone?.name ?? "";
    if (document.activeElement === this.input) this.input.select(); // what is typed next replaces it
    this.say("");
    this.#close();
  }

  say(text) {
    this.hint.textContent = text;
    if (text) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }

  #open(text) {
    if (!this.#entries.length) return this.say(text ? "The zones are still on their way." : "");
    const { zones, nearly } = search(this.#entries, text);
    this.#shown = zones;
    this.list.replaceChildren(...(nearly && zones.length ? [head("Did you mean")] : []), ...this.#options(zones, !text.trim()));
    this.list.hidden = !zones.length;
    this.input.setAttribute("aria-expanded", String(this.isOpen));
    this.say(zones.length ? "" : `No zone is called “${text.trim()}”: try a part of its name, its borough or its number.`);
    const own = text.trim() ? -1 : zones.indexOf(this.zone);
    this.#move(text.trim() && zones.length ? 0 : own);
  }

  #options(zones, grouped) {
    const nodes = [];
    zones.forEach((zone, place) => {
      if (grouped && zone.borough !== zones[place - 1]?.borough) nodes.push(head(zone.borough));
      const option = document.createElement("li");
      option.id = `${this.list.id}-${place}`;
      option.role = "option";
      option.dataset.place = place;
      option.setAttribute("aria-selected", "false");
      option.append(part("name", zone.name), part("borough", `${zone.borough} · ${zone.id}`));
      nodes.push(option);
    });
    return nodes;
  }

  #move(place) {
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    this.#active = place;
    const option = document.getElementById(`${this.list.id}-${place}`);
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.#active = -1;
  }

  #choose(zone) {
    this.show(zone);
    this.onchoose(zone);
  }

  #key(event) {
    const last = this.#shown.length - 1;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step && !this.isOpen) this.#open(this.zone ? "" : this.input.value);
    else if (step) this.#move(Math.abs(step) > 1 ? Math.max(0, Math.min(last, this.#active + step)) : (this.#active + step + last + 1) % (last + 1));
    else if (event.key === "Enter" && this.isOpen && this.#active >= 0) this.#choose(this.#shown[this.#active]);
    else if (event.key === "Enter" && !this.input.value.trim() && this.zone) this.#choose(null);
    else if (event.key === "Enter" && !this.isOpen && this.input.value !== this.zone?.name) this.#open(this.input.value);
    else if (event.key === "Escape" && this.isOpen) this.#close();
    else if (event.key === "Escape") this.input.value ? this.#choose(null) : null;
    else {
      if (event.key === "Tab" && this.isOpen && this.#active >= 0 && this.input.value.trim()) this.#choose(this.#shown[this.#active]);
      return;
    }
    event.preventDefault();
  }

  #leave() { // what was typed but not chosen
    const typed = this.input.value.trim();
    this.#close();
    if (!typed && this.zone) return this.#choose(null);
    if (!typed || typed === this.zone?.name) return this.say("");
    if (this.zone) return this.show(this.zone);
    const { zones, nearly } = search(this.#entries, typed);
    if (zones.length === 1 && !nearly) return this.#choose(zones[0]);
    this.say(`“${typed}” could be several zones, or none: choose one from the list.`);
  }
}

function head(text) {
  const node = document.createElement("li");
  node.role = "presentation";
  node.className = "head";
  node.textContent = text;
  return node;
}

function part(kind, text) {
  const node = document.createElement("span");
  node.className = kind;
  node.textContent = text;
  return node;
}
