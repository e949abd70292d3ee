// Plain geometry of outlines: rings of [x, y].

export function ringsBox(rings) {
  const [xs, ys] = [0, 1].map((axis) => rings.flatMap((ring) => ring.map((corner) => corner[axis])));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

const doubled = (ring) => ring.reduce((sum, [x, y], place) => {
  const [nextX, nextY] = ring[(place + 1) % ring.length];
  return sum + x * nextY - nextX * y;
}, 0); // prettier-ignore

const largest = (rings) => rings.reduce((best, each) => (Math.abs(doubled(each)) > Math.abs(doubled(best)) ? each : best));

export const areaOf = (rings) => Math.abs(rings.reduce((sum, ring) => sum + doubled(ring), 0)) / 2; // holes run the other way

export function roomAt([x, y], ring) { // distance to the nearest edge; negative outside
  let [inside, nearest] = [false, Infinity];
  for (let place = 0, before = ring.length - 1; place < ring.length; before = place++) {
    const [[x1, y1], [x2, y2]] = [ring[before], ring[place]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
    const length = (x2 - x1) ** 2 + (y2 - y1) ** 2;
    const along = length ? Math.min(1, Math.max(0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length)) : 0;
    nearest = Math.min(nearest, Math.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1)));
  }
  return inside ? nearest : -nearest;
}

const SEA = 0.03; // miles off an edge where its neighbour would be, whose outline was thinned on its own

export function coastOf(zones) { // edges that are nobody else's: zone → lines
  const within = ([x, y], [left, top, right, bottom]) => x > left && x < right && y > top && y < bottom;
  return zones.map((zone) => {
    const way = Math.sign(doubled(largest(zone.rings))) * SEA;
    const lines = [];
    for (const ring of zone.rings) {
      let line = null;
      ring.slice(1).forEach((to, place) => {
        const from = ring[place];
        const [east, south] = [to[0] - from[0], to[1] - from[1]];
        const length = Math.hypot(east, south) || 1;
        const beyond = [(from[0] + to[0]) / 2 + (way * south) / length, (from[1] + to[1]) / 2 - (way * east) / length];
        if (zones.some((other) => other !== zone && within(beyond, other.box) && other.rings.some((each) => roomAt(beyond, each) > 0))) line = null;
        else if (line) line.push(to);
        else lines.push((line = [from, to]));
      });
    }
    return lines;
  });
}

export function poleOf(rings, cells = 9) { // → [where a label or a pin has most room, how much]
  const ring = largest(rings);
  const [left, top, right, bottom] = ringsBox([ring]);
  let best = [[(left + right) / 2, (top + bottom) / 2], -Infinity];
  for (let row = 0.5; row < cells; row++) {
    for (let column = 0.5; column < cells; column++) {
      const spot = [left + ((right - left) * column) / cells, top + ((bottom - top) * row) / cells];
      const room = roomAt(spot, ring);
      if (room > best[1]) best = [spot, room];
    }
  }
  return best;
}

export function dots(zones) { // where there are no outlines: a dot in the middle of each zone
  const known = zones.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  return Object.fromEntries(known.map(({ id, x, y }) => {
    const nearest = Math.min(2, ...known.filter((other) => other.id !== id).map((other) => Math.hypot(other.x - x, other.y - y)));
    const radius = Math.max(0.05, nearest * 0.42);
    const ring = Array.from({ length: 17 }, (_, turn) => [x + radius * Math.cos((turn * Math.PI) / 8), y + radius * Math.sin((turn * Math.PI) / 8)]);
    return [id, [ring]];
  })); // prettier-ignore
}
