// The page: what is chosen, what it asks of the service, and what it says. The choice also stands in the address.

import { ask, Trouble, useKey } from "./api.js";
import { ZoneField } from "./combobox.js";
import { between, Curve, pointsOf } from "./curve.js";
import { ZoneMap } from "./map.js";
import { dots } from "./shapes.js";
import { clockMinute, clockTime, count, dayName, flagSays, isTime, known, later, minuteOfDay, modelSays, now, rangeSays, timeOfDay } from "./words.js";

const $ = (id) => document.getElementById(id);
const TITLE = document.title;
const HOUR = 60; // minutes, where the range of every model ends
const PATIENCE = 700; // milliseconds for which the answer to another ride may stand, dimmed
const SETTLE = 280; // milliseconds after which a moving slider is taken at its word
const FLEETS = { yellow: "New York’s yellow taxis", green: "New York’s green taxis", demo: "The demo city’s taxis" };

const ride = { from: null, to: null, at: now(), miles: null };
let [fleet, zones, model, curve, answer] = ["", [], null, null, null];
let next = "from"; // which end a click on the map sets
let [asking, settling, healing, waiting] = [null, 0, 0, 0];
let invitation = $("prompt").textContent;

const fields = { from: new ZoneField("from", (zone) => set("from", zone, true)), to: new ZoneField("to", (zone) => set("to", zone, true)) };
const plot = new Curve($("curve"));
const chart = new ZoneMap($("chart"), { onpick: pick, onhover: hover });

// --- choices

function set(end, zone, reveal = false) {
  ride[end] = zone;
  fields[end].show(zone);
  if (zone) turn(ride.from ? "to" : "from"); // once both are known, clicks try other drop-offs
  chart.choose({ from: ride.from?.id, to: ride.to?.id }, { reveal });
  changed();
}

function pick(zone) { // on the map
  const end = next;
  set(end, zone);
  $("chart-says").textContent = `${end === "from" ? "Pickup" : "Drop-off"}: ${zone.name}, ${zone.borough}.`;
}

function turn(end) {
  next = end;
  document.querySelector(`[name=next][value=${end}]`).checked = true;
}

function setTime(at, wait = 0) {
  ride.at = at;
  showTime();
  changed(wait);
}

function showTime() {
  if (!isTime(ride.at)) return;
  $("day").value = ride.at.slice(0, 10);
  $("time").value = ride.at.slice(11);
  $("clock").value = minuteOfDay(ride.at);
  $("clock").setAttribute("aria-valuetext", clockTime(ride.at));
}

function changed(wait = 0) {
  clearTimeout(settling);
  clearTimeout(healing);
  asking?.abort();
  preview();
  settling = setTimeout(() => (write(), answerRide()), wait);
}

// --- the address keeps the choice

function write() {
  const words = new URLSearchParams();
  for (const end of ["from", "to"]) if (ride[end]) words.set(end, ride[end].id);
  if (isTime(ride.at)) words.set("at", ride.at);
  if (ride.miles) words.set("miles", ride.miles);
  history.replaceState(null, "", `#${words.toString().replaceAll("%3A", ":")}`);
}

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  const missing = [];
  for (const end of ["from", "to"]) {
    const asked = words.get(end);
    ride[end] = zones.find(({ id }) => String(id) === asked) ?? null;
    if (asked && !ride[end] && zones.length) missing.push(asked);
    fields[end].show(ride[end]);
  }
  if (isTime(words.get("at"))) ride.at = words.get("at");
  ride.miles = Number(words.get("miles")) || null;
  $("miles").value = ride.miles ?? "";
  if (ride.miles) $("miles-field").hidden = false;
  turn(ride.from ? "to" : "from");
  showTime();
  chart.choose({ from: ride.from?.id, to: ride.to?.id }, { reveal: true });
  if (zones.length) answerRide();
  if (missing.length) complain(new Trouble(`this link names zone ${missing.join(" and ").slice(0, 40)}, which is not here: choose another`, { status: 404 }));
}

// --- questions and answers

const asked = () => ({ pickup: ride.from.id, dropoff: ride.to.id, at: ride.at, ...(ride.miles ? { miles: ride.miles } : {}) });
const curveKey = () => JSON.stringify({ ...asked(), at: ride.at.slice(0, 10) });

async function answerRide() {
  clearTimeout(settling);
  clearTimeout(healing);
  asking?.abort();
  if (!ride.from || !ride.to || !isTime(ride.at)) return;
  const { signal } = (asking = new AbortController());
  busy(true, curve?.key !== curveKey());
  const day = curve?.key === curveKey() ? null : overDay(signal).catch((error) => signal.aborted || (curve = null, showCurve()));
  try {
    answer = { ...(await ask("predict", asked(), signal)), at: ride.at };
    settled();
    showAnswer(answer, false);
    if (model && !known(model, answer.model)) loadModel(); // it was swapped
    await day;
  } catch (error) {
    if (!signal.aborted) complain(error, answerRide);
  }
}

async function overDay(signal) {
  const key = curveKey();
  const found = await ask("curve", asked(), signal);
  curve = { key, points: pointsOf(found.curve) };
  showCurve();
}

function complain(error, retry = null) { // one line, with the repair in it
  const unknown = !(error instanceof Trouble);
  if (unknown) console.error(error);
  const heals = retry && !unknown && error.passes;
  $("trouble-says").textContent = sentence(unknown ? "something on this page went wrong: load it again" : error.message);
  $("trouble").hidden = false;
  $("again").hidden = !retry;
  $("again").onclick = retry;
  $("door").hidden = error.status !== 401;
  if (error.field === "miles") $("miles-field").hidden = false;
  for (const [end, name] of [["from", "pickup"], ["to", "dropoff"]]) if (error.field === name) fields[end].say("Choose another zone here.");
  if (retry === answerRide) blank();
  if (heals) healing = setTimeout(retry, 1000 * Math.min(60, Math.max(2, error.after || 5))); // it may be back by then
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function settled() {
  $("trouble").hidden = true;
  $("door").hidden = true;
}

// --- what is shown

function busy(on, stale = false) { // nothing is read aloud until it is over
  clearTimeout(waiting);
  $("result").setAttribute("aria-busy", String(on));
  if (stale) waiting = setTimeout(() => (hideAnswer(), invite("Asking the service…")), PATIENCE);
}

function hideAnswer() {
  $("minutes-block").hidden = $("flags").hidden = true;
}

function invite(text) {
  $("prompt").textContent = text;
  $("prompt").hidden = !text;
}

function blank() {
  answer = null;
  hideAnswer();
  invite(ride.from && ride.to ? "" : invitation);
  $("share").hidden = !(ride.from && ride.to);
  busy(false);
  $("model").textContent = modelSays(model, null);
  document.title = TITLE;
}

function preview() { // until the service has answered: the day's curve, where it holds for this ride
  settled();
  if (!ride.from || !ride.to || !isTime(ride.at)) return blank(), (curve = null), showCurve();
  if (curve?.key !== curveKey()) busy(true, true);
  else showAnswer({ ...between(curve.points, minuteOfDay(ride.at)), level: answer?.level, flags: answer?.flags, at: ride.at }, true);
  plot.mark(minuteOfDay(ride.at));
}

function showAnswer(said, guess) {
  const { number, unit } = count(said.minutes);
  invite("");
  $("minutes-block").hidden = $("share").hidden = false;
  $("minutes").value = said.minutes;
  $("minutes").textContent = number;
  $("unit").textContent = unit;
  $("range").textContent = rangeSays(said);
  $("arrival").textContent = `Leave at ${clockTime(said.at)}, arrive about ${later(said.at, said.minutes)}.`;
  const lines = (said.flags ?? []).map((flag) => flagSays(flag, { ...ride, at: said.at }));
  if (said.high > HOUR - 0.5) lines.push("The model learnt from rides of at most an hour: this one may take longer.");
  if (said.logged === false) lines.push("This answer could not be written to the service’s log.");
  $("flags").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  $("flags").hidden = !lines.length;
  busy(guess);
  $("copied").textContent = "";
  document.title = `${number} ${unit}: ${ride.from.name} to ${ride.to.name}`;
  plot.mark(minuteOfDay(said.at), guess ? null : said);
  if (!guess) $("model").textContent = modelSays(model, said);
}

function showCurve() {
  $("day-curve").hidden = !curve;
  if (!curve) return;
  plot.show(curve.points);
  plot.mark(minuteOfDay(ride.at), answer?.at === ride.at ? answer : null);
  const by = [...curve.points].sort((one, other) => one.minutes - other.minutes);
  const says = (point) => `${clockMinute(point.minute)} (${Math.round(point.minutes)} min)`;
  $("curve-says").textContent = `${dayName(ride.at)}: quickest at ${says(by[0])}, slowest at ${says(by.at(-1))}.`;
}

function hover(zone, spot, aloud = false) {
  const tip = $("tip");
  tip.hidden = !zone;
  if (aloud) $("chart-says").textContent = zone ? `${zone.name}, ${zone.borough}. Enter sets the ${next === "from" ? "pickup" : "drop-off"}.` : "No zone in the middle.";
  if (!zone) return;
  tip.textContent = `${zone.name} · ${zone.borough}`;
  const { offsetWidth, parentElement } = tip;
  const left = Math.min(Math.max(8, spot[0] + 14), parentElement.clientWidth - offsetWidth - 8);
  tip.style.transform = `translate(${left}px, ${Math.max(8, spot[1] - 34)}px)`;
}

function showBoroughs() {
  const buttons = chart.boroughs.map(({ name, hue, box }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `b${hue}`;
    button.textContent = name;
    button.addEventListener("click", () => chart.fit(box));
    return button;
  });
  $("boroughs").replaceChildren(...buttons);
  $("boroughs").hidden = $("zoom").hidden = $("next").hidden = false;
}

// --- loading: fields work as soon as the zones are here; the map follows when it can

async function loadZones() {
  try {
    const found = await ask("zones");
    [fleet, zones] = [found.fleet, found.zones];
    zones.sort((one, other) => (one.borough === "Unknown") - (other.borough === "Unknown") || one.borough.localeCompare(other.borough) || one.name.localeCompare(other.name));
    $("fleet").textContent = FLEETS[fleet] ?? fleet;
    $("synthetic").hidden = fleet !== "demo";
    $("clock-of").textContent = fleet === "demo" ? "" : " in New York";
    $("source").textContent = fleet === "demo" ? "" : "Zones and trips: New York City Taxi and Limousine Commission.";
    fields.from.zones = fields.to.zones = zones;
    settled();
    read();
    loadShapes();
    loadModel();
  } catch (error) {
    complain(error, loadZones);
  }
}

async function loadShapes() {
  const found = await ask("shapes").catch(() => null);
  const outlines = Object.keys(found?.zones ?? {}).length ? found.zones : dots(zones);
  if (!Object.keys(outlines).length) {
    invitation = "Choose where the ride begins and ends.";
    if (!ride.from || !ride.to) invite(invitation);
    return document.body.classList.add("no-map");
  }
  $("map").classList.toggle("dotted", outlines !== found?.zones);
  chart.draw(zones, outlines);
  chart.choose({ from: ride.from?.id, to: ride.to?.id }, { reveal: true });
  $("chart-note").hidden = true;
  showBoroughs();
}

async function loadModel() {
  model = await ask("model").catch(() => null);
  if (model?.metered || ride.miles) $("miles-field").hidden = false; // where a model reads it
  $("model").textContent = modelSays(model, answer);
}

// --- what a person does

$("swap").addEventListener("click", () => {
  [ride.from, ride.to] = [ride.to, ride.from];
  set("from", ride.from);
  set("to", ride.to);
});
for (const id of ["day", "time"]) $(id).addEventListener("input", () => {
  if ($("day").value && $("time").value) setTime(`${$("day").value}T${$("time").value.slice(0, 5)}`, 500);
});
$("clock").addEventListener("input", () => setTime(`${ride.at.slice(0, 10)}T${timeOfDay(Number($("clock").value))}`, SETTLE));
$("now").addEventListener("click", () => setTime(now()));
$("miles").addEventListener("input", () => {
  ride.miles = $("miles").validity.valid ? Number($("miles").value) || null : null;
  changed(500);
});
for (const end of ["from", "to"]) fields[end].input.addEventListener("focus", () => turn(end));
for (const choice of document.getElementsByName("next")) choice.addEventListener("change", () => turn(choice.value));
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => {
  if (button.dataset.zoom === "all") chart.fit(chart.whole);
  else chart.zoom(button.dataset.zoom === "in" ? 1.7 : 1 / 1.7);
});
$("ride").addEventListener("submit", (event) => event.preventDefault());
$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  zones.length ? answerRide() : loadZones();
});
$("copy").hidden = !navigator.clipboard;
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href).then(() => ($("copied").textContent = "Copied."), () => ($("copied").textContent = "The browser did not allow it: copy the address instead."));
});
window.addEventListener("hashchange", read);

showTime();
loadZones();
