"""From parquet to the seed's validation RMSE at yellow's size: the library against the plain script, whole processes.

    python benchmarks/seed_speed.py [--sample FOLDER] [--runs 2]

Two months of yellow's size (3,066,766 and 2,913,955 rows, TLC's nineteen columns) are made by resampling: from real sample
trips where --sample names a mirror that has yellow_tripdata_2019-01 and 2019-02, from the demo city otherwise. Then, in turn:

- plain: benchmarks/plain_seed.py, the script as it is widely taught
- vectorised: the same with the duration in one vectorised line, as a careful reader would write it
- library: `ride-duration train --models seed --all-pickups --json`, months already in the cache
- limit: pyarrow decoding the four needed columns of both files, and nothing else
- imports: Python importing pandas, pyarrow and scikit-learn, and nothing else

Each is a process of its own; wall seconds and peak memory are the operating system's account of it (wait4). The short
ones run once to warm up, which is not counted, and four times as often; medians are compared.
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

HERE = Path(__file__).parent
ROWS = {"2019-01": 3_066_766, "2019-02": 2_913_955}  # yellow's January and February 2023
LIMIT = """
import sys, pyarrow.parquet as pq
columns = ["tpep_pickup_datetime", "tpep_dropoff_datetime", "PULocationID", "DOLocationID"]
for path in sys.argv[1:]:
    for _ in pq.ParquetFile(path).iter_batches(1 << 18, columns=columns):
        pass
"""

IMPORTS = "import pandas, pyarrow.parquet, sklearn.feature_extraction, sklearn.linear_model"


def small_month(month: str, sample: Path | None) -> pa.Table:
    "A month to resample, in yellow's columns."
    if sample:
        return pq.read_table(sample / "trip-data" / f"yellow_tripdata_{month}.parquet")
    table = demo_month(Month(*map(int, month.split("-")))).replace_schema_metadata(None)
    return table.rename_columns([name.replace("lpep", "tpep") for name in table.column_names])


def make_months(folder: Path, sample: Path | None) -> None:
    "Both months, resampled, laid out as TLC's site."
    (folder / "trip-data").mkdir()
    for seed, (month, rows) in enumerate(ROWS.items()):
        table = small_month(month, sample)
        chosen = table.take(np.random.default_rng(seed).integers(0, len(table), rows))
        pq.write_table(chosen, folder / "trip-data" / f"yellow_tripdata_{month}.parquet", row_group_size=1 << 20)


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    "Wall seconds, peak memory in MB and output of one process."
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command[0]} failed")
    return seconds, usage.ru_maxrss / 1024, output


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sample", type=Path, help="a mirror with yellow sample months")
    options.add_argument("--runs", type=int, default=2)
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    environment = {**os.environ, "RIDE_DURATION_HOME": str(folder / "home"), "RIDE_DURATION_SOURCE": str(folder)}
    try:
        # In a process of its own: a child's peak memory counts from its parent's size when it was started.
        maker = multiprocessing.get_context("spawn").Process(target=make_months, args=(folder, given.sample))
        maker.start()
        maker.join()
        paths = [str(folder / "trip-data" / f"yellow_tripdata_{month}.parquet") for month in ROWS]
        tool = [sys.executable, "-m", "ride_duration"]
        subprocess.run([*tool, "fetch", *ROWS, "--fleet", "yellow"], env=environment, check=True, stdout=subprocess.DEVNULL)
        months = ["--train", "2019-01", "--val", "2019-02", "--fleet", "yellow"]
        commands = {
            "plain": [sys.executable, str(HERE / "plain_seed.py"), *paths],
            "vectorised": [sys.executable, str(HERE / "plain_seed.py"), *paths, "--vectorised"],
            "library": [*tool, "train", *months, "--models", "seed", "--all-pickups", "--json"],
            "limit": [sys.executable, "-c", LIMIT, *paths],
            "imports": [sys.executable, "-c", IMPORTS],
        }
        found = {name: [] for name in commands}
        short = ["library", "limit", "imports"]
        for name in short:
            measure(commands[name], environment)
        for name in ["plain", *short * 2, "vectorised", *short * 2] * given.runs:
            found[name].append(measure(commands[name], environment))
        report(found, "real sample trips, resampled" if given.sample else "the demo city, resampled (synthetic)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(found: dict[str, list[tuple[float, float, str]]], trips: str) -> None:
    median = {name: (statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)) for name, runs in found.items()}
    plain = float(found["plain"][0][2].split()[1])
    library = json.loads(found["library"][0][2])["models"]["seed"]["rmse_val"]
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {sum(ROWS.values()):,} rows: {trips}")
    for name, (seconds, memory) in median.items():
        print(f"{name:<11}{seconds:8.2f} s {memory:8.0f} MB peak   (median of {len(found[name])}, {min(run[0] for run in found[name]):.2f} to {max(run[0] for run in found[name]):.2f} s)")
    (faster, leaner), (against, _) = ([median[peer][n] / median["library"][n] for n in (0, 1)] for peer in ("plain", "vectorised"))
    print(f"library against plain: {faster:.1f} times faster, {leaner:.1f} times less memory; against vectorised: {against:.1f} times faster")
    print(f"library against the limit: {median['library'][0] / median['limit'][0]:.1f} times its time")
    print(f"validation RMSE: plain {plain:.6f}, library {library:.6f}")
    if faster < 20 or leaner < 8 or abs(plain - library) > 1e-4:
        raise SystemExit("the claim does not hold: at least 20 times faster, at most an eighth of the memory, RMSE equal to 1e-4")


if __name__ == "__main__":
    main()
