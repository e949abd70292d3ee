"""From months in the cache to a saved bundle, at yellow's size: the library against LightGBM's bare fit, whole processes.

    python benchmarks/model_cost.py [--sample FOLDER] [--zones FOLDER] [--months 1,3,6,12] [--runs 1]

Months of yellow's size (3,066,766 rows each, as January 2023) are made by resampling: from real sample trips where --sample
names a mirror that has yellow_tripdata_2019-01 to 2019-12, from the demo city otherwise. --zones names a mirror with TLC's
zone shapes; where nothing is said, zones have no places. Then, each in a process of its own:

- library: load_trips + RangedBoosted.fit (the model, four held-out models, the bounds) + save_bundle (profile, golden trips)
- bare: LightGBM on the ready float32 matrix, same parameters and trees; its time is that of Dataset and train alone

Seconds are wall time inside the process for the bare fit and of the whole process for the library; peak memory is the
operating system's account of the process (wait4). The machine's load is printed: on a shared one, compare runs, not days.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month

ROWS = 3_066_766  # yellow's January 2023
MONTHS = [f"2019-{number:02}" for number in range(1, 13)]
LIBRARY = """
import json, sys, time
from pathlib import Path
marks = [time.perf_counter()]
from ride_duration.data.trips import load_trips
from ride_duration.data.zones import zone_table
from ride_duration.model.bundle import keep_lesson, save_bundle
from ride_duration.model.intervals import RangedBoosted
marks.append(time.perf_counter())
columns = ["pickup_at", "PULocationID", "DOLocationID", "trip_distance"]
trips = load_trips("yellow", sys.argv[1], columns=columns).frame
marks.append(time.perf_counter())
model = RangedBoosted(zone_table("yellow")).fit(trips, trips["duration"].to_numpy())
marks.append(time.perf_counter())
save_bundle(model, Path(sys.argv[2]), keep_lesson(trips), {"fleet": "yellow"})
marks.append(time.perf_counter())
parts = dict(zip(("import", "load", "fit", "save"), (after - before for before, after in zip(marks, marks[1:]))))
print(json.dumps(parts | {"rows": len(trips), "rmse": model.rmse_train_}))
"""
BARE = """
import json, sys, time
import lightgbm as lgb
import numpy as np
parameters, trees = json.loads(sys.argv[3]), int(sys.argv[4])
matrix, minutes = np.load(sys.argv[1]), np.load(sys.argv[2])
began = time.perf_counter()
data = lgb.Dataset(matrix, minutes, params=parameters)
booster = lgb.train(parameters, data, trees, keep_training_booster=True)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "rows": len(matrix), "rmse": booster.eval_train()[0][2] ** 0.5}))
"""


def small_month(month: str, sample: Path | None) -> pa.Table:
    "A month to resample, in yellow's columns."
    if sample:
        return pq.read_table(sample / "trip-data" / f"yellow_tripdata_{month}.parquet")
    table = demo_month(Month(*map(int, month.split("-")))).replace_schema_metadata(None)
    return table.rename_columns([name.replace("lpep", "tpep") for name in table.column_names])


def make_months(folder: Path, months: list[str], sample: Path | None, zones: Path | None) -> None:
    "Months of yellow's size, resampled, laid out as TLC's site."
    (folder / "trip-data").mkdir()
    if zones:
        shutil.copytree(zones / "misc", folder / "misc")
    for seed, month in enumerate(months):
        table = small_month(month, sample)
        chosen = table.take(np.random.default_rng(seed).integers(0, len(table), ROWS))
        pq.write_table(chosen, folder / "trip-data" / f"yellow_tripdata_{month}.parquet", row_group_size=1 << 20)


def make_matrix(folder: Path, month: str) -> None:
    "What LightGBM is given for that month, and its parameters, ready on the disk."
    from ride_duration.data.trips import load_trips
    from ride_duration.data.zones import zone_table
    from ride_duration.model.boosted import Boosted, held_out_places
    from ride_duration.model.features import feature_matrix, read_rides
    from ride_duration.model.histories import day_folds, sum_pairs

    trips, model = load_trips("yellow", month).frame, Boosted(zone_table("yellow"))
    history, minutes = read_rides(trips, "metered"), trips["duration"].to_numpy()
    folds = day_folds(history.pickup_at)
    places = held_out_places(sum_pairs(history.pairs, folds, minutes, history.miles), model.zones)
    np.save(folder / "matrix.npy", feature_matrix(history._replace(miles=None), places, folds))
    np.save(folder / "minutes.npy", minutes)
    (folder / "parameters.json").write_text(json.dumps([model._parameters(), model.trees]))


def apart(function: object, *words: object) -> None:
    "Run in a process of its own: a child's peak memory counts from its parent's size when it was started."
    maker = multiprocessing.get_context("spawn").Process(target=function, args=words)
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    "What a process prints, with its wall seconds (`whole`) and peak memory in MB (`memory`)."
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return {"whole": time.perf_counter() - began, "memory": usage.ru_maxrss / 1024, "busy": os.getloadavg()[0]} | json.loads(output)


def told(name: str, runs: list[dict[str, float]], seconds: str) -> dict[str, float]:
    "The medians of some runs, printed."
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    parts = ", ".join(f"{part} {median[part]:.1f} s" for part in ("import", "load", "fit", "save") if part in median)
    print(f"{name:<18}{median[seconds]:8.1f} s {median['memory']:8.0f} MB peak   (median of {len(runs)}; {parts or 'Dataset and train alone'}; load {median['busy']:.1f})", flush=True)
    return median


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sample", type=Path, help="a mirror with yellow sample months of 2019")
    options.add_argument("--zones", type=Path, help="a mirror with TLC's zones (misc/)")
    options.add_argument("--months", default="1", help="how many months to learn from, `1,3,6,12`")
    options.add_argument("--runs", type=int, default=1)
    given = options.parse_args()
    counts = [int(count) for count in given.months.split(",")]
    folder = Path(tempfile.mkdtemp())
    environment = {**os.environ, "RIDE_DURATION_HOME": str(folder / "home"), "RIDE_DURATION_SOURCE": str(folder)}
    os.environ.update(environment)  # for the process that makes the matrix
    try:
        apart(make_months, folder, MONTHS[: max(counts)], given.sample, given.zones)
        subprocess.run([sys.executable, "-m", "ride_duration", "fetch", *MONTHS[: max(counts)], "--fleet", "yellow"], check=True, stdout=subprocess.DEVNULL)
        apart(make_matrix, folder, MONTHS[0])
        trips = "real sample trips, resampled" if given.sample else "the demo city, resampled (synthetic)"
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {ROWS:,} rows a month: {trips}", flush=True)
        bare = [sys.executable, "-c", BARE, *(str(folder / name) for name in ("matrix.npy", "minutes.npy")), *map(json.dumps, json.loads((folder / "parameters.json").read_text()))]
        found = {count: [] for count in counts}
        peer = []
        for run in range(given.runs):
            peer.append(measure(bare, environment))
            for count in counts:
                months = f"{MONTHS[0]}..{MONTHS[count - 1]}"
                found[count].append(measure([sys.executable, "-c", LIBRARY, months, str(folder / f"bundle-{count}-{run}")], environment))
        report(told("bare, 1 month", peer, "seconds"), {count: told(f"library, {count} months", runs, "whole") for count, runs in found.items()})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(bare: dict[str, float], library: dict[int, dict[str, float]]) -> None:
    if len(library) > 1:
        fewest, most = library[min(library)], library[max(library)]
        print(f"each further month: {(most['whole'] - fewest['whole']) / (max(library) - min(library)):.1f} s, {(most['memory'] - fewest['memory']) / (max(library) - min(library)):.0f} MB")
    broken = []
    if 1 in library:
        matrix = bare["rows"] * 15 * 8 / 2**20  # the booking regime's fifteen features as float64
        time_ratio, memory_ratio = library[1]["whole"] / bare["seconds"], library[1]["memory"] / matrix
        print(f"matrix: {bare['rows']:,.0f} x 15, {matrix:.0f} MB as float64, {matrix / 2:.0f} MB as float32")
        print(f"1 month, library against the bare fit: {time_ratio:.2f} times its time; peak memory {memory_ratio:.2f} times the float64 matrix ({2 * memory_ratio:.2f} times float32), the bare process {bare['memory'] / matrix:.2f} times")
        print(f"train RMSE: library {library[1]['rmse']:.6f}, bare {bare['rmse']:.6f}")
        broken += ["at most 1.5 times the bare fit's time"] * (time_ratio > 1.5) + ["peak memory at most 3 times the float64 matrix"] * (memory_ratio > 3)
        broken += ["train RMSE equal to 0.02"] * (abs(library[1]["rmse"] - bare["rmse"]) > 0.02)  # the same rides, but bins from another sample of them
    broken += ["12 months below 10 GB"] * (12 in library and library[12]["memory"] > 10_000)
    if broken:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
