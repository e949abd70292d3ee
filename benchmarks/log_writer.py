"""How many answers a second the log takes durably, against a bare sqlite3 executemany; and how quick the last hour of a long log is.

    python benchmarks/log_writer.py [--rows 40000] [--clients 64 512] [--rounds 3] [--log URL] [--long 2000000]

- bare: tuples that are ready, `executemany` of one INSERT into the log's own tables, the same durability (write-ahead, full synchronisation), in
  groups as large as the writer's were on average, so that both wait for the disk equally often
- writer: so many clients, each of which asks `LogWriter.write` for one answer, waits until it is in the log, and asks again: checks, queue, thread,
  commit and wake-up are in its time. What it costs in CPU is told apart from what the disk takes
- one write after another (bare and writer): what a request that is alone waits
- a log of --long rows, a minute's traffic a minute: how long `read` takes for the last hour, beside the same for a log a hundredth as long

--log postgresql+psycopg://… measures the writer there as well; there is no bare peer for it.
"""

import argparse
import asyncio
import os
import platform
import random
import sqlite3
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from ride_duration.ops.answers import Answered, fresh_ride_id
from ride_duration.ops.log_rows import COLUMNS, answer_row
from ride_duration.ops.log_writer import LogWriter
from ride_duration.ops.prediction_log import PredictionLog, open_log

SHARE = 0.2        # of the bare peer's rows a second; all of it where the disk is what both wait for
CPU = 30           # microseconds for an answer, its client included
LAST_HOUR = 2.0    # seconds, where an hour holds 50,000 answers or fewer


def answers(count: int) -> list[Answered]:
    draw, now = random.Random(1), datetime.now(UTC)
    return [
        Answered(
            fresh_ride_id(), now + timedelta(microseconds=number), "green", "booking", "7", "champion", draw.randrange(1, 264), draw.randrange(1, 264), datetime(2026, 11, 24, 8),
            None, draw.uniform(3, 60), draw.uniform(1, 30), draw.uniform(30, 90), (), latency_ms=draw.uniform(0.5, 3),
        )
        for number in range(count)
    ]  # fmt: skip


def bare(path: Path, rows: list[tuple], group: int) -> float:  # rows a second
    with open_log(str(path)):
        pass
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = full")
    statement = f"INSERT INTO answer ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
    began = time.perf_counter()
    for start in range(0, len(rows), group):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, rows[start : start + group])
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return len(rows) / took


async def grouped(log: PredictionLog, rides: list[Answered], clients: int) -> dict:
    waits, todo = [], iter(rides)

    async def client(writer: LogWriter) -> None:
        for ride in todo:
            began = time.perf_counter()
            await writer.write([ride])
            waits.append(time.perf_counter() - began)

    async with LogWriter(log) as writer:
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client(writer) for _ in range(clients)))
        took, cpu, state = time.perf_counter() - began, time.process_time() - cpu, writer.state
    return {"rate": len(rides) / took, "group": len(rides) / state.commits, "cpu": cpu / len(rides) * 1e6, "waits": np.percentile(waits, [50, 99]) * 1e3}


def measure(place: str, rides: list[Answered], clients: int) -> dict:
    with open_log(place) as log:
        return asyncio.run(grouped(log, rides, clients))


def last_hour(folder: Path, rows: int) -> tuple[float, int]:  # seconds, and answers in it
    draw, per_hour = random.Random(2), min(50_000, max(1, rows // 20))
    first, [template] = datetime(2026, 1, 1, tzinfo=UTC), answers(1)
    place = folder / f"long-{rows}.sqlite"
    with open_log(str(place)) as log:
        connection = sqlite3.connect(place, isolation_level=None)
        connection.execute("PRAGMA synchronous = off")  # only to fill it
        connection.execute("PRAGMA cache_size = -400000")
        statement = f"INSERT INTO answer ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
        connection.execute("BEGIN IMMEDIATE")
        step = timedelta(hours=1) / per_hour
        connection.executemany(statement, (answer_row(template._replace(ride_id=f"{draw.getrandbits(64):016x}{number:x}", answered_at=first + number * step), sqlite=True) for number in range(rows)))
        connection.execute("COMMIT")
        connection.close()
        end = first + rows * step
        times, count = [], 0
        for _ in range(3):
            began = time.perf_counter()
            count = sum(len(frame) for frame in log.read(end - timedelta(hours=1)))
            times.append(time.perf_counter() - began)
    return statistics.median(times), count


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=40_000)
    options.add_argument("--clients", type=int, nargs="*", default=[64, 512])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--log", help="a PostgreSQL to be measured, too; it keeps the rows")
    options.add_argument("--long", type=int, default=2_000_000, help="rows of the long log; 0: none")
    options.add_argument("--folder", type=Path, help="where the databases go: on the disk that is to be measured")
    given, broken = options.parse_args(), []
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; made-up rides; load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for clients in given.clients:
            shares, costs = [], []
            for number in range(given.rounds):
                rides = answers(given.rows)
                found = measure(str(folder / f"writer-{clients}-{number}.sqlite"), rides, clients)
                peer = bare(folder / f"bare-{clients}-{number}.sqlite", [answer_row(ride, sqlite=True) for ride in rides], max(1, round(found["group"])))
                shares.append(found["rate"] / peer)
                costs.append(found["cpu"])
                print(
                    f"{clients} clients: {found['rate']:,.0f} answers/s in groups of {found['group']:.0f}, {found['cpu']:.0f} µs of CPU each, waits p50 {found['waits'][0]:.1f} ms, p99 {found['waits'][1]:.1f} ms; "
                    f"bare executemany {peer:,.0f} rows/s: {shares[-1]:.2f} of it; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
            if statistics.median(shares) < SHARE:
                broken.append(f"{clients} clients at {SHARE} of the bare executemany or better")
            if statistics.median(costs) > CPU:
                broken.append(f"{clients} clients at {CPU} µs of CPU an answer or less")
        rides = answers(300)
        alone, peer = measure(str(folder / "alone.sqlite"), rides, 1), bare(folder / "alone-bare.sqlite", [answer_row(ride, sqlite=True) for ride in rides], 1)
        print(f"one after another: a write returns after {1e3 / alone['rate']:.2f} ms, a bare commit of one row takes {1e3 / peer:.2f} ms", flush=True)
        if given.log:
            for clients in given.clients:
                found = measure(given.log, answers(given.rows), clients)
                print(f"PostgreSQL, {clients} clients: {found['rate']:,.0f} answers/s in groups of {found['group']:.0f}, {found['cpu']:.0f} µs of CPU each, waits p50 {found['waits'][0]:.1f} ms, p99 {found['waits'][1]:.1f} ms", flush=True)
        if given.long:
            (short, _), (took, count) = last_hour(folder, given.long // 100), last_hour(folder, given.long)
            print(f"the last hour of {given.long:,} answers: {took:.2f} s for {count:,} of them ({took / count * 1e6:.1f} µs each); of {given.long // 100:,} answers {short:.2f} s", flush=True)
            if took > LAST_HOUR:
                broken.append(f"the last hour in {LAST_HOUR} seconds")
    if broken:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
