"""A month of yellow's size held against what a model has learnt from: seconds over decoding, and memory, beside the plain way with pandas and scipy.

    python benchmarks/drift.py [--sample FOLDER] [--runs 3]

3,066,766 rows (as yellow's January 2023) are made by resampling: from real sample trips where --sample names a mirror that has yellow_tripdata_2019-02 and -03, from the
demo city otherwise. Each in a process of its own:

- decode: the file's needed columns are decoded, batch by batch, and thrown away. That is the limit
- library: survey_month and diagnose against the profile of the month before, as `ride-duration monitor` does it
- plain: the file read into pandas, cleaned, and for each of seven features scipy's Wasserstein distance or an index over value counts against the month before, whole as well

Seconds are wall time inside the process without imports; memory is the operating system's account of the whole process (wait4). The machine's load is printed.
The claim: the library takes at most 2 seconds over decoding, and stays below 500 MB.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month

ROWS = 3_066_766  # yellow's January 2023
BEFORE, MONTH = Month(2019, 2), Month(2019, 3)
DECODE = """
import json, sys, time
from pathlib import Path
from ride_duration.data.schema import decode_month, open_month
began = time.perf_counter()
file, spelling = open_month(Path(sys.argv[1]), "yellow")
rows = sum(len(batch) for batch in decode_month(file, spelling.values(), "month"))
print(json.dumps({"seconds": time.perf_counter() - began, "rows": rows}))
"""
LIBRARY = """
import json, pickle, sys, time
from pathlib import Path
from ride_duration.data.month import Month
from ride_duration.data.zones import zone_table
from ride_duration.ops.diagnosis import diagnose
from ride_duration.ops.survey import survey_month
reference, zones = pickle.load(open(sys.argv[2], "rb")), zone_table("demo")
began, spent = time.perf_counter(), time.process_time()
survey = survey_month(Path(sys.argv[1]), "yellow", Month(2019, 3), reference)
surveyed = time.perf_counter()
diagnosis = diagnose(reference, survey, zones)
over = time.perf_counter()
print(json.dumps({"seconds": over - began, "survey": surveyed - began, "diagnosis": over - surveyed, "cpu": time.process_time() - spent, "rows": survey.account.rows, "findings": len(diagnosis.findings)}))
"""
PLAIN = """
import json, sys, time
import numpy as np, pandas as pd
from scipy.stats import wasserstein_distance
began = time.perf_counter()
columns = ["tpep_pickup_datetime", "tpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance"]
def read(path):
    trips = pd.read_parquet(path, columns=columns)
    trips["duration"] = (trips.tpep_dropoff_datetime - trips.tpep_pickup_datetime).dt.total_seconds() / 60
    trips = trips[(trips.duration >= 1) & (trips.duration <= 60)]
    pickup = trips.tpep_pickup_datetime.dt
    return trips.assign(hour=pickup.hour, weekday=pickup.day_of_week, pair=trips.PULocationID * 266 + trips.DOLocationID)
def index(new, old):
    one, other = (values.value_counts(normalize=True) for values in (new, old))
    one, other = one.align(other, fill_value=1e-6)
    return float(((one - other) * np.log(one / other)).sum())
old, new = read(sys.argv[2]), read(sys.argv[1])
found = {name: wasserstein_distance(new[name], old[name]) for name in ("duration", "trip_distance")}
found |= {name: index(new[name], old[name]) for name in ("hour", "weekday", "PULocationID", "DOLocationID", "pair")}
print(json.dumps({"seconds": time.perf_counter() - began, "rows": len(new)}))
"""


def small_month(month: Month, sample: Path | None) -> pa.Table:
    "A month to resample, in yellow's columns."
    if sample:
        return pq.read_table(sample / "trip-data" / f"yellow_tripdata_{month}.parquet")
    table = demo_month(month).replace_schema_metadata(None)
    return table.rename_columns([name.replace("lpep", "tpep") for name in table.column_names])


def make(folder: Path, sample: Path | None) -> None:
    "Two months of yellow's size, and the profile of the first."
    import pickle

    from ride_duration.ops.survey import survey_month

    for seed, month in enumerate((BEFORE, MONTH)):
        table = small_month(month, sample)
        pq.write_table(table.take(np.sort(np.random.default_rng(seed).integers(0, len(table), ROWS))), folder / f"{month}.parquet", row_group_size=1 << 20)
    (folder / "profile.pickle").write_bytes(pickle.dumps(survey_month(folder / f"{BEFORE}.parquet", "yellow", BEFORE).profile))


def measure(program: str, *words: object) -> dict[str, float]:
    "What a process prints, with its peak memory in MB."
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("a process failed")
    return {"memory": usage.ru_maxrss / 1024, "load": os.getloadavg()[0]} | json.loads(output)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sample", type=Path, help="a mirror with yellow sample months of 2019")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--no-plain", action="store_true", help="leave the plain way out, which takes a while and much memory")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        maker = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; import drift; drift.make(Path({str(folder)!r}), {f'Path({str(given.sample)!r})' if given.sample else None})"]
        subprocess.run(maker, check=True)  # apart: a child's peak memory counts from its parent's size when it was started
        new, old, profile = folder / f"{MONTH}.parquet", folder / f"{BEFORE}.parquet", folder / "profile.pickle"
        programs = {"decode": (DECODE, new), "library": (LIBRARY, new, profile), **({} if given.no_plain else {"plain": (PLAIN, new, old)})}
        runs = {name: [] for name in programs}
        for _ in range(given.runs):
            for name, command in programs.items():
                runs[name].append(measure(*command))
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {ROWS:,} rows: {'real sample trips, resampled' if given.sample else 'the demo city, resampled (synthetic)'}")
        median = {name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in runs.items()}
        for name, found in median.items():
            print(f"{name:<10}{found['seconds']:7.2f} s {found['memory']:7.0f} MB peak   (median of {given.runs}, load {found['load']:.1f})")
        over = median["library"]["seconds"] - median["decode"]["seconds"]
        print(f"library: {over:.2f} s over decoding, of which the diagnosis takes {median['library']['diagnosis']:.2f} s; {median['library']['cpu']:.2f} s of one core" + (f"; the plain way takes {median['plain']['seconds'] / median['library']['seconds']:.1f} times as long and {median['plain']['memory'] / median['library']['memory']:.1f} times the memory" if "plain" in median else ""))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    broken = ["at most 2 seconds over decoding"] * (over > 2) + ["below 500 MB"] * (median["library"]["memory"] >= 500)
    if broken:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
