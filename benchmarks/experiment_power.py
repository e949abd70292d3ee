"""What looking at an experiment every day costs: false alarms, power, and rides needed, against t-tests done daily.

    python benchmarks/experiment_power.py [--experiments 2000] [--days 90] [--rides 100] [--source FOLDER]

Many experiments at once, made up ride by ride, each looked at on every day. Without a true difference, a method gives a false alarm when it ever tells the
models apart. The t-tests are the usual ones, at 5 %: over all rides (paired in shadow, Welch's in a split), and over the means of days. Then, with a true
difference, how many experiments are told in four weeks, and after how many days and rides half of them are.

With --source, the scatter of days of two models is measured on real green taxis too: it is what the made-up days are like.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ride_duration.model.sequences import block_difference

CLIP = 60.0  # minutes, as in `serve.tally`


@dataclass(frozen=True)
class World:
    "What rides and days are like, and how they are shared between the models."

    says: str
    share: float | None = None  # of the challenger; None: shadow
    tail: float = 0.0           # of the rides' difficulty: 0 for Laplace's tails, else Pareto's index
    hard: float = 0.0           # how much harder a day can be for both models, as the standard deviation of a logarithm
    moved: float = 0.0          # minutes that one day differs from the other in what the challenger gains (standard deviation)
    alike: float = 0.0          # correlation of that with the day before
    weekend: float = 1.0        # rides of a Saturday or Sunday, as a part of a weekday's
    promised: bool = True       # whether the false alarms are to stay below 5 %

    @property
    def kind(self) -> str:
        return "shadow" if self.share is None else f"split {self.share:.0%}"


@dataclass(frozen=True)
class Sums:
    "Per experiment and day, for champion and challenger (experiments, days, 2): rides, errors and their squares; and of pairs, the squared differences."

    count: np.ndarray
    total: np.ndarray
    square: np.ndarray
    paired: np.ndarray | None  # (experiments, days); None in a split

    def until(self, day: int) -> "Sums":
        return Sums(self.count[:, :day], self.total[:, :day], self.square[:, :day], None if self.paired is None else self.paired[:, :day])


def day_effects(random: np.random.Generator, world: World, shape: tuple[int, int]) -> np.ndarray:  # minutes
    "What each day adds to the difference: as alike to the day before as the world says."
    fresh = random.normal(0, world.moved, shape)
    effects = fresh.copy()
    for day in range(1, shape[1]):
        effects[:, day] = world.alike * effects[:, day - 1] + np.sqrt(1 - world.alike**2) * fresh[:, day]
    return effects


def draw(random: np.random.Generator, world: World, experiments: int, days: int, rides: int, gain: float = 0.0) -> Sums:
    "Rides of many experiments, added up by day; without a gain both models are equally good."
    shape = (experiments, days, rides)
    difficulty = np.exp(random.normal(0, world.hard, shape[:2]))[..., None] * (np.minimum(random.pareto(world.tail, shape), 40) if world.tail else 1.0)
    common = random.laplace(0, 3, shape)  # what neither model can know
    champion, challenger = (np.minimum(np.abs(difficulty * (common + random.normal(0, 1, shape))), CLIP) for _ in range(2))
    challenger += day_effects(random, world, shape[:2])[..., None] - gain
    taken = np.ones(shape, bool)
    taken[:, np.arange(days) % 7 >= 5, int(rides * world.weekend) :] = False
    if world.share is None:
        arms, paired = (taken, taken), ((challenger - champion) ** 2 * taken).sum(-1)
    else:
        other = random.random(shape) < world.share
        arms, paired = (taken & ~other, taken & other), None
    stacked = lambda power: np.stack([(error**power * arm).sum(-1) for error, arm in zip((champion, challenger), arms, strict=True)], -1)  # noqa: E731
    return Sums(stacked(0), stacked(1), stacked(2), paired)


def by_sequence(sums: Sums) -> np.ndarray:  # (experiments,) of bool
    "Told apart by the confidence sequence, on the last day."
    low, high = block_difference((sums.count[..., 0], sums.count[..., 1]), (sums.total[..., 0], sums.total[..., 1])).interval()
    return (low > 0) | (high < 0)


def by_rides(sums: Sums) -> np.ndarray:
    "Told apart by a t-test over all rides: of pairs in shadow, else Welch's."
    count, total, square = sums.count.sum(1), sums.total.sum(1), sums.square.sum(1)
    mean = total / count
    if sums.paired is None:
        spread = ((square / count - mean**2) / (count - 1)).sum(-1)
    else:
        spread = (sums.paired.sum(1) / count[:, 0] - (mean[:, 1] - mean[:, 0]) ** 2) / (count[:, 0] - 1)
    return np.abs(mean[:, 1] - mean[:, 0]) > stats.norm.ppf(0.975) * np.sqrt(spread)


def by_days(sums: Sums) -> np.ndarray:
    "Told apart by a t-test over the differences of days."
    with np.errstate(invalid="ignore"):  # a day on which an arm has no ride is left out
        days = sums.total[..., 1] / sums.count[..., 1] - sums.total[..., 0] / sums.count[..., 0]
    n = np.isfinite(days).sum(1)
    return np.abs(np.nanmean(days, 1)) > stats.t.ppf(0.975, n - 1) * np.nanstd(days, 1, ddof=1) / np.sqrt(n)


METHODS = {"sequence": by_sequence, "t-test, rides": by_rides, "t-test, days": by_days}


def first_told(sums: Sums, method: str) -> np.ndarray:  # (experiments,), days; infinite where never
    "The first day on which a daily look tells the models apart."
    first = np.full(len(sums.count), np.inf)
    for day in range(2, sums.count.shape[1] + 1):
        told = METHODS[method](sums.until(day))
        first[told & np.isinf(first)] = day
    return first


WORLDS = [
    World("independent rides"),
    World("independent rides", share=0.2),
    World("heavy tails (Pareto, index 1.5)", tail=1.5),
    World("heavy tails (Pareto, index 1.5)", share=0.2, tail=1.5),
    World("harder days for both", share=0.2, hard=0.4),
    World("days gain or lose together", moved=0.25),
    World("days gain or lose together", share=0.2, moved=0.25),
    World("and half the rides at weekends", moved=0.25, weekend=0.5),
    World("and like the day before (0.35)", moved=0.25, alike=0.35),
    World("and like the day before (0.35)", share=0.2, moved=0.25, alike=0.35),
    World("and like the day before (0.5)", moved=0.25, alike=0.5, promised=False),
    World("and like the day before (0.7)", moved=0.25, alike=0.7, promised=False),
]


def upper(alarms: int, experiments: int) -> float:
    "What the true rate of false alarms is below, at 99 % (Clopper and Pearson)."
    return float(stats.beta.ppf(0.99, alarms + 1, experiments - alarms)) if alarms < experiments else 1.0


def in_batches(world: World, experiments: int, days: int, rides: int, gain: float, seed: int, methods: list[str]) -> dict[str, np.ndarray]:
    "First days by method, of many experiments in little memory."
    random, found = np.random.default_rng(seed), {method: [] for method in methods}
    for start in range(0, experiments, 200):
        sums = draw(random, world, min(200, experiments - start), days, rides, gain)
        for method in methods:
            found[method].append(first_told(sums, method))
    return {method: np.concatenate(parts) for method, parts in found.items()}


def show_false_alarms(experiments: int, days: int, rides: int) -> list[str]:  # broken promises
    print(f"False alarms of {experiments:,} experiments without a difference, {rides} rides a day, looked at on each of {days} days")
    print(f"{'':>32} {'':>9} {'sequence':>9} {'below':>7}   {'t-test, rides':>13} {'t-test, days':>13}")
    broken = []
    for seed, world in enumerate(WORLDS):
        first = in_batches(world, experiments, days, rides, 0.0, seed, list(METHODS))
        alarms = {method: int(np.isfinite(found).sum()) for method, found in first.items()}
        limit = upper(alarms["sequence"], experiments)
        rates = {method: count / experiments for method, count in alarms.items()}
        note = "" if world.promised else "  (not promised)"
        print(f"{world.says:>32} {world.kind:>9} {rates['sequence']:9.2%} {limit:7.2%}   {rates['t-test, rides']:13.1%} {rates['t-test, days']:13.1%}{note}", flush=True)
        broken += [f"{world.says} ({world.kind})"] if world.promised and limit > 0.05 else []
    return broken


def show_power(experiments: int, days: int, rides: int) -> None:
    print(f"\nPower with a true difference, {rides} rides a day (half of {experiments:,} experiments are told after so many days)")
    print(f"{'':>32} {'':>9} {'minutes':>8} {'told in 28 days':>16} {'days':>6} {'rides':>8}")
    for world, gains in ((WORLDS[0], (0.05, 0.1, 0.2)), (WORLDS[8], (0.1, 0.2, 0.4)), (WORLDS[2], (0.1, 0.2, 0.4)), (WORLDS[1], (0.25, 0.5, 1.0))):
        for gain in gains:
            first = in_batches(world, experiments, days, rides, gain, 100, ["sequence"])["sequence"]
            half = np.median(first)
            reached = f"{half:6.0f} {half * rides:8,.0f}" if np.isfinite(half) else f"{'> ' + str(days):>6} {'':>8}"
            print(f"{world.says:>32} {world.kind:>9} {gain:8.2f} {(first <= 28).mean():16.1%} {reached}", flush=True)


def show_real_days(source: str) -> None:
    "How days of two models differ on real months after those they learnt from."
    from ride_duration import train
    from ride_duration.data.month import parse_months
    from ride_duration.data.source import fetch_month
    from ride_duration.data.trips import read_trips

    one, other = (train(month, month + 1, "green", source, "boosted", settings={"trees": 100}).models["boosted"] for month in parse_months("2023-01..2023-02"))
    days = []
    for month in parse_months("2023-04..2023-12"):
        trips, _ = read_trips(fetch_month("green", month, source).path, "green", month)
        errors = (np.minimum(np.abs(model.predict(trips) - trips["duration"]), CLIP) for model in (one, other))
        moved = next(errors).rsub(next(errors))
        days.append(moved.groupby(trips["pickup_at"].dt.floor("D")).agg(["mean", "size", "var"]))
    mean, size, var = (np.concatenate([month[name] for month in days]) for name in ("mean", "size", "var"))
    off = mean - mean.mean()
    alike = [float((off[lag:] * off[:-lag]).sum() / (off**2).sum()) for lag in (1, 2, 7)]
    print(f"\nGreen taxis, April to December 2023, learnt from February less learnt from January: {mean.mean():+.3f} minutes, {size.mean():,.0f} rides a day")
    print(f"a day's mean scatters by {mean.std(ddof=1):.3f} minutes, {mean.std(ddof=1) / np.sqrt((var / size).mean()):.1f} times as much as with independent rides;")
    print("correlation with the day before {:.2f}, two days before {:.2f}, a week before {:.2f}".format(*alike))
    counts, totals = (np.stack([values[start : start + 60] for start in range(len(mean) - 60)]) for values in (size.astype(float), off * size))
    windows = Sums(np.stack([counts, counts], -1), np.stack([np.zeros_like(totals), totals], -1), None, None)
    for method in ("sequence", "t-test, days"):
        told = np.isfinite(first_told(Sums(windows.count, windows.total, np.zeros_like(windows.count), None), method)).mean()
        print(f"60 days from each day on, the mean of all months taken off: {method} tells a difference in {told:.1%} of {len(counts)} overlapping windows")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--experiments", type=int, default=2000)
    options.add_argument("--days", type=int, default=90)
    options.add_argument("--rides", type=int, default=100, help="a day")
    options.add_argument("--source", help="a folder laid out like TLC's site")
    given, began = options.parse_args(), time.perf_counter()
    broken = show_false_alarms(given.experiments, given.days, given.rides)
    show_power(max(given.experiments // 5, 100), given.days, given.rides)
    if given.source:
        show_real_days(given.source)
    print(f"\n{time.perf_counter() - began:.0f} seconds")
    if broken:
        raise SystemExit("not shown: 5 % false alarms at most, at 99 % confidence, in " + ", ".join(broken))


if __name__ == "__main__":
    main()
