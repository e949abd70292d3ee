"""Eleven reports at two at a time against one after another, and what a report costs over its training; whole processes.

    python benchmarks/backfill.py [--source FOLDER] [--fleet demo] [--months 2023-02..2023-12]

Each way starts with an empty home whose months are in the cache, tracks in MLflow (a local database), and uses the cores as
it sees fit: one after another, LightGBM has all of them; two at a time, each has half. The bare training is `train(...)` of
the same months, one after another in one process that has everything imported already, with all cores. Beside it stands
the bare training in two such processes at once, each with half of the cores and all of the months, so half of their time:
what the machine lets anyone gain by two at a time.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ride_duration.data.month import parse_months
from ride_duration.data.source import fetch_month
from ride_duration.ops.training import train

FASTER, OVERHEAD = 1.4, 6.0  # times, seconds a month
EXTRA = ["pickup_at", "trip_distance", "PULocationID", "DOLocationID"]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def backfill(folder: Path, jobs: int, given: argparse.Namespace) -> float:
    "Wall time of the command, with months in the cache and nothing else in the home."
    home = folder / f"home-{jobs}"
    shutil.copytree(folder / "home", home)
    command = [sys.executable, "-m", "ride_duration", "report", given.months, "--fleet", given.fleet, "-j", str(jobs), "--reports", str(folder / f"reports-{jobs}")]
    command += ["--source", given.source] if given.source else []
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "RIDE_DURATION_HOME": str(home)}))


def one_of_two(months: list[str], given: argparse.Namespace) -> subprocess.Popen:
    "A process that trains on these months once it is told to, with half of the cores."
    program = f"""
import sys
from ride_duration.ops.training import train
def learn(month):
    train(str(month - 1), str(month), {given.fleet!r}, {given.source!r}, extra={EXTRA!r})
from ride_duration.data.month import parse_month
months = [parse_month(month) for month in {months!r}]
learn(months[0])
print(flush=True)
sys.stdin.read()
for month in months:
    learn(month)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def bare_by_two(months: list, given: argparse.Namespace) -> float:
    "Half of the time in which two processes train on every month twice; both have trained once before the clock starts."
    both = [one_of_two([str(month) for month in months], given) for _ in range(2)]
    for process in both:
        process.stdout.readline()
    return seconds(lambda: ([process.stdin.close() for process in both], [process.wait() for process in both])) / 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--source", help="a folder laid out like TLC's site")
    options.add_argument("--fleet", default="demo")
    options.add_argument("--months", default="2023-02..2023-12")
    given = options.parse_args()
    months = parse_months(given.months)
    os.environ["GOMP_SPINCOUNT"] = "1000"  # as the command line sets it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RIDE_DURATION_HOME"] = str(folder / "home")
        for month in (months[0] - 1, *months):
            fetch_month(given.fleet, month, given.source)
        train(str(months[0] - 1), str(months[0]), given.fleet, given.source)  # imports, and the zones
        two, one = backfill(folder, 2, given), backfill(folder, 1, given)
        halved = bare_by_two(months, given)
        bare = sum(seconds(lambda month=month: train(str(month - 1), str(month), given.fleet, given.source, extra=EXTRA)) for month in months)
    note = " (synthetic)" if given.fleet == "demo" else ""
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {given.fleet} {given.months}{note}, {len(months)} reports, MLflow included; load {os.getloadavg()[0]:.1f}")
    for label, took in (("one after another", one), ("two at a time", two), ("bare training", bare), ("the same by two", halved)):
        print(f"{label:20}{took:8.1f} s {took / len(months):7.2f} s a month")
    over = {"one after another": (one - bare) / len(months), "two at a time": (two - bare) / len(months)}
    print(f"two at a time: {one / two:.2f} times faster; over the bare training, a month: " + ", ".join(f"{label} {value:.2f} s" for label, value in over.items()))
    print(f"the bare training by two processes: {bare / halved:.2f} times faster, the most these cores let anyone gain on training")
    broken = [f"two at a time at least {FASTER} times faster"] * (one < FASTER * two) + [f"at most {OVERHEAD:g} s a month over the training"] * (over["one after another"] > OVERHEAD)
    if broken:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
