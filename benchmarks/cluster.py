"""A cluster against the same machine without one: what Dask costs for reports and for training; whole processes.

    python benchmarks/cluster.py [--source FOLDER] [--fleet demo] [--months 2023-02..2023-05] [--train 2023-01..2023-04 --val 2023-05]

A scheduler and two workers, one thread each, run on this machine, so nothing can be gained and what is lost is what Dask costs.
Reports: `report MONTHS -j 2` against `--cluster`. Training: `train` in one process with two threads against `--cluster`, the same
months and models; memory is the peak of the process, or of each worker. Every way has the months in its cache and is told not to
track, and the reports of both are compared byte for byte.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ride_duration.data.month import parse_months
from ride_duration.data.source import fetch_month
from ride_duration.data.zones import zone_table

OVERHEAD, FURTHER_OFF = 4.0, 0.02  # seconds a report; minutes of RMSE
THREADS = {"GOMP_SPINCOUNT": "1000"}


@contextmanager
def process(*command: str, home: Path, **environment: str) -> Iterator[subprocess.Popen]:
    began = subprocess.Popen([sys.executable, "-m", *command], cwd=home, env={**os.environ, **THREADS, **environment, "RIDE_DURATION_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield began
    finally:
        began.terminate()
        began.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[int]]]:
    "A scheduler's address, and its workers' processes."
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        stack.enter_context(process("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", home=folder / "home-0"))
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        workers = [stack.enter_context(process("distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *options, home=folder / f"home-{number}")) for number in (1, 2)]
        with Client(f"tcp://127.0.0.1:{port}", set_as_default=False, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        yield f"tcp://127.0.0.1:{port}", [worker.pid for worker in workers]


def command(home: Path, *words: str) -> tuple[float, float, str]:
    "Seconds it takes, megabytes it holds at most, and what it says."
    began = time.perf_counter()
    with open(home / "said", "w+") as said, subprocess.Popen([sys.executable, "-m", "ride_duration", *words, "--no-track", "--json"], env={**os.environ, **THREADS, "RIDE_DURATION_HOME": str(home)}, stdout=said) as started:
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if started.returncode:
            raise SystemExit(f"ride-duration {' '.join(words)} ended with {started.returncode}")
        return time.perf_counter() - began, used.ru_maxrss / 1024, said.read()


def peak(process: int) -> float:  # megabytes
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*/[!.]*")) if path.is_file()}


def reports(folder: Path, given: argparse.Namespace, source: list[str]) -> list[str]:
    asked = ["report", given.months, "--fleet", given.fleet, *source, "-p", f"models={given.models}"]
    with cluster(folder) as (address, _):
        there = command(folder / "home-0", *asked, "--cluster", address, "--reports", str(folder / "there"))[0]
    here = command(folder / "home-3", *asked, "-j", "2", "--reports", str(folder / "here"))[0]
    months = len(parse_months(given.months))
    same = contents(folder / "there") == contents(folder / "here")
    print(f"reports of {months} months, models {given.models}: -j 2 {here:.1f} s, cluster {there:.1f} s, {(there - here) / months:+.2f} s a report; {'the same' if same else 'other'} bytes")
    return [f"at most {OVERHEAD:g} s more a report"] * (there - here > OVERHEAD * months) + ["the same bytes"] * (not same)


def training(folder: Path, given: argparse.Namespace, source: list[str]) -> list[str]:
    asked = ["train", "--train", given.train, "--val", given.val, "--fleet", given.fleet, *source, "--models", "boosted"]
    with cluster(folder) as (address, workers):
        seconds, megabytes, said = command(folder / "home-0", *asked, "--cluster", address)
        largest = max(peak(worker) for worker in workers)
    alone, held, says = command(folder / "home-3", *asked)
    there, here = (json.loads(text)["models"]["boosted"]["rmse_val"] for text in (said, says))
    rides = json.loads(says)["clean_rows"]["train"]
    print(f"boosted from {rides:,} rides of {given.train}, judged on {given.val}:")
    print(f"  one process      {alone:7.1f} s {held:7.0f} MB                        RMSE {here:.4f}")
    print(f"  cluster          {seconds:7.1f} s {megabytes:7.0f} MB, a worker {largest:5.0f} MB   RMSE {there:.4f}")
    return [f"RMSE at most {FURTHER_OFF} minutes further off"] * (there - here > FURTHER_OFF)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--source", help="a folder laid out like TLC's site")
    options.add_argument("--fleet", default="demo")
    options.add_argument("--months", default="2023-02..2023-05", help="to be reported on")
    options.add_argument("--models", default="all", help="of the reports")
    options.add_argument("--train", default="2023-01..2023-04")
    options.add_argument("--val", default="2023-05")
    given = options.parse_args()
    months = parse_months(given.months)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RIDE_DURATION_HOME"] = str(folder / "home-0")
        for month in dict.fromkeys((months[0] - 1, *months, *parse_months(given.train), *parse_months(given.val))):
            fetch_month(given.fleet, month, given.source)
        zone_table(given.fleet, given.source)
        for number in (1, 2, 3):
            shutil.copytree(folder / "home-0", folder / f"home-{number}")
        source = ["--source", given.source] if given.source else []
        note = " (synthetic)" if given.fleet == "demo" else ""
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {given.fleet}{note}; load {os.getloadavg()[0]:.1f}")
        broken = reports(folder, given, source) + training(folder, given, source)
    if broken:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
