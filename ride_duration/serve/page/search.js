// Which zones somebody means: by number, by the beginnings of words in any order, or nearly so.

const SHORT = { sq: "square", st: "saint", hts: "heights", pk: "park", ft: "fort", mt: "mount", ctr: "center", n: "north", s: "south", e: "east", w: "west" };

const LOOSE = 4; // the score of a match inside a word

const fold = (text) => text.normalize("NFD").replace(/[\u0300-\u036f'’`]/g, "").toLowerCase();
const wordsOf = (text) => fold(text).match(/[a-z0-9]+/g) ?? [];

export function index(zones) {
  const told = zones.some(({ borough }) => borough !== "Unknown"); // a mirror of trips alone has numbers and no names
  return zones.map((zone) => {
    const words = wordsOf(zone.name);
    const all = [...words, ...words.map((word) => SHORT[word]).filter(Boolean)];
    const borough = wordsOf(zone.borough);
    const endings = words.map((_, place) => words.slice(place).join(""));
    return { zone, words, all, borough, endings, named: !told || zone.borough !== "Unknown" };
  });
}

function score(entry, asked) { // lower is better; Infinity where a word is missing
  let total = 0;
  for (const word of asked) {
    if (entry.words[0]?.startsWith(word)) total += 0;
    else if (entry.all.some((own) => own.startsWith(word) || own === SHORT[word])) total += 1;
    else if (entry.borough.some((own) => own.startsWith(word))) total += 3;
    else if (word.length > 2 && entry.endings[0]?.includes(word)) total += LOOSE;
    else return Infinity;
  }
  return total + (entry.named ? 0 : 20);
}

function apart(asked, text) { // edits to make one of the other; a swap of neighbours counts once
  let [before, last] = [[], Array.from({ length: text.length + 1 }, (_, place) => place)];
  for (let row = 1; row <= asked.length; row++) {
    const next = [row];
    for (let column = 1; column <= text.length; column++) {
      const same = asked[row - 1] === text[column - 1];
      next[column] = Math.min(last[column] + 1, next[column - 1] + 1, last[column - 1] + (same ? 0 : 1));
      if (row > 1 && column > 1 && asked[row - 1] === text[column - 2] && asked[row - 2] === text[column - 1]) {
        next[column] = Math.min(next[column], before[column - 2] + 1);
      }
    }
    [before, last] = [last, next];
  }
  return last[text.length];
}

function near(entries, asked) {
  const joined = asked.join("");
  const most = Math.floor(joined.length / 3);
  if (!most) return [];
  const off = ({ endings }) => Math.min(...endings.flatMap((ending, place) => [-1, 0, 1].map((more) => apart(joined, ending.slice(0, joined.length + more)) + (place ? 0.3 : 0))));
  return entries
    .filter((entry) => entry.named)
    .map((entry) => ({ entry, off: off(entry) }))
    .filter(({ off }) => off < most + 1)
    .sort((one, other) => one.off - other.off)
    .slice(0, 5)
    .map(({ entry }) => entry.zone);
}

export function search(entries, text) { // → zones, the best first; `nearly` where none has what was typed
  const asked = wordsOf(text);
  if (!asked.length) return { zones: entries.filter((entry) => entry.named).map((entry) => entry.zone), nearly: false };
  const number = asked.length === 1 && /^\d+$/.test(asked[0]) ? Number(asked[0]) : null;
  const found = entries
    .map((entry) => ({ zone: entry.zone, score: entry.zone.id === number ? -1 : score(entry, asked) }))
    .filter(({ score }) => score < Infinity)
    .sort((one, other) => one.score - other.score);
  const good = found.filter(({ score }) => score < LOOSE || found[0].score >= LOOSE); // "harl" is Harlem, not Charleston
  return found.length ? { zones: good.slice(0, 40).map(({ zone }) => zone), nearly: false } : { zones: near(entries, asked), nearly: true };
}
