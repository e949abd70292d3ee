"""What a report costs over the training it reports: kernel, imports, notebook, figures, HTML, index.

    python benchmarks/report_overhead.py [--fleet demo] [--source FOLDER] [--runs 5]

`ride-duration report 2023-02` as a whole process, against `train(...)` of the same months in a process that has everything
imported already: the harshest reading of "the training itself". Months are in the cache for both; medians are compared.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ride_duration.ops.training import train

LIMIT = 6.0  # seconds
EXTRA = ["pickup_at", "trip_distance", "PULocationID", "DOLocationID"]  # what the report keeps of each trip, too


def seconds(*works: Callable[[], object], runs: int) -> list[tuple[float, ...]]:
    "Wall times of each work's runs, after one that is not counted. They take turns, so a machine that changes its pace does so to all."
    rounds = [[timed(work) for work in works] for _ in range(runs + 1)]
    return [*zip(*rounds[1:], strict=True)]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--fleet", default="demo")
    options.add_argument("--source", help="a folder laid out like TLC's site")
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RIDE_DURATION_HOME"] = str(Path(folder) / "home")
        command = [sys.executable, "-m", "ride_duration", "report", "2023-02", "--fleet", given.fleet, "--reports", f"{folder}/reports", "--force", "--no-track"]
        command += ["--source", given.source] if given.source else []
        report, training = seconds(
            lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL),
            lambda: train("2023-01", "2023-02", given.fleet, given.source, extra=EXTRA),
            runs=given.runs,
        )
    over = statistics.median(report) - statistics.median(training)
    note = " (synthetic)" if given.fleet == "demo" else ""
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {given.fleet} 2023-01 → 2023-02{note}, median of {given.runs}")
    print(f"report {statistics.median(report):.2f} s ({min(report):.2f} to {max(report):.2f}), training alone {statistics.median(training):.2f} s")
    print(f"over the training itself: {over:.2f} s")
    if over > LIMIT:
        raise SystemExit(f"the claim does not hold: at most {LIMIT:g} s")


if __name__ == "__main__":
    main()
