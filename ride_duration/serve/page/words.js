// Times and findings as a person says them. A ride's time is local to its city, whatever clock the reader lives by.

const CITY = "America/New_York";
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", timeZone: "UTC" });
const longDay = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const longMonth = new Intl.DateTimeFormat("en-GB", { month: "long", year: "numeric", timeZone: "UTC" });

const instant = (at) => Date.parse(`${at}Z`); // a local time is reckoned as if it were UTC, so that no summer time interferes
export const minuteOfDay = (at) => Number(at.slice(11, 13)) * 60 + Number(at.slice(14, 16));
export const timeOfDay = (minute) => `${String(Math.floor(minute / 60)).padStart(2, "0")}:${String(minute % 60).padStart(2, "0")}`;
export const clockTime = (at) => clock.format(instant(at));
export const clockMinute = (minute) => clock.format(minute * 60_000);
export const dayName = (at) => longDay.format(instant(at)).replace(",", "");

export function now() { // "2023-03-01T08:30" on the city's clock
  const parts = new Intl.DateTimeFormat("en-US", {
    timeZone: CITY, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
  }).formatToParts(new Date()); // prettier-ignore
  const { year, month, day, hour, minute } = Object.fromEntries(parts.map(({ type, value }) => [type, value]));
  return `${year}-${month}-${day}T${hour}:${minute}`;
}

export function isTime(at) {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d$/.test(at ?? "") && !Number.isNaN(instant(at));
}

export function later(at, minutes) { // a clock time, and the day where it is another
  const then = new Date(instant(at) + Math.round(minutes) * 60_000);
  return clock.format(then) + (then.toISOString().slice(0, 10) === at.slice(0, 10) ? "" : " the next day");
}

const whole = (minutes) => Math.max(1, Math.round(minutes));
export const count = (minutes) => ({ number: String(whole(minutes)), unit: whole(minutes) === 1 ? "minute" : "minutes" });

const SHARES = { 0.5: "One such ride in two takes", 0.8: "Four such rides in five take", 0.9: "Nine such rides in ten take" };
const often = (level) => SHARES[level] ?? `${Math.round(level * 100)} % of such rides take`;
export const rangeSays = ({ low, high, level = 0.8 }) => `${often(level)} ${whole(low)} to ${whole(high)}.`;

const FLAGS = {
  unseen_pair: (ride) => `The model has never seen a ride from ${ride.from.name} to ${ride.to.name}. It goes by rides nearby.`,
  unknown_zone: () => "The model has never seen one of these zones, or it is no place on the map. Take this as a rough guess.",
  holiday: (ride) => `${dayName(ride.at)} is a public holiday, and is reckoned as a Sunday.`,
  miles_unused: () => "The length of the way was not used: the model that answers does without.",
};
export const flagSays = (flag, ride) => (Object.hasOwn(FLAGS, flag) ? FLAGS[flag](ride) : `Note: ${String(flag).replaceAll("_", " ")}.`);

const month = (text) => (/^\d{4}-\d\d$/.test(text ?? "") ? longMonth.format(Date.parse(`${text}-01T00:00Z`)) : null);

function months(list) {
  const named = list.map(month).filter(Boolean);
  return named.length > 1 ? `${named[0]} to ${named.at(-1)}` : named[0];
}

export function known(about, { name, version }) { // what /model tells of a model
  const told = [about, about?.metered, about?.challenger, about?.metered?.challenger];
  return told.find((each) => each?.name === name && String(each.version) === String(version)) ?? null;
}

export function modelSays(about, answer) {
  const named = answer?.model ?? about;
  if (!named?.name) return "";
  const own = known(about, named);
  const trial = answer?.variant === "challenger" ? ", a challenger on trial" : "";
  const learnt = Array.isArray(own?.train) ? months(own.train) : null;
  const off = own?.metrics?.mae_val;
  const judged = typeof off === "number" ? `, and was off by ${off.toFixed(1)} minutes on average${month(own.val) ? ` in ${month(own.val)}` : ""}` : "";
  return `${answer ? "Answered by" : "Answers come from"} ${named.name}, version ${named.version}${trial}.${learnt ? ` It learnt from ${learnt}${judged}.` : ""}`;
}
