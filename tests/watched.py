"""A small demo city for tests of the monitor: months of 20,000 trips, whole or damaged, in a home folder of their own, and a model that has learnt the first. Synthetic."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ride_duration.data import source
from ride_duration.data.address import source_address
from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month

TRIPS = 20_000
QUICK = {"trees": 50, "learning_rate": 0.1, "num_leaves": 15}


def put_in_cache(month: Month, table: pa.Table) -> source.CachedFile:
    "A demo month as the cache of this home folder holds it from then on."
    path = source._cache_folder("demo", source_address(None)) / source.month_file("demo", month)

    def make(part: Path) -> int:
        pq.write_table(table, part, compression="zstd")
        return source._check_month(part, "demo", path.name)

    return source._store(path, f"demo:{month}", make)


def small_month(month: Month, fault: Callable[[pa.Table], pa.Table] = lambda table: table) -> source.CachedFile:
    "A month of the demo city, perhaps damaged."
    return put_in_cache(month, fault(demo_month(month, TRIPS)))


def make_home(folder: Path) -> Path:
    "A home folder with two months, and a booking model that has learnt the first and was judged on the second."
    from ride_duration.ops.kept import keep_model
    from ride_duration.ops.training import train

    before = os.environ.get("RIDE_DURATION_HOME")
    os.environ["RIDE_DURATION_HOME"] = str(folder)
    try:
        for month in (Month(2023, 1), Month(2023, 2)):
            small_month(month)
        keep_model(train("2023-01", "2023-02", "demo", models="boosted", settings=QUICK), "boosted")
    finally:
        os.environ.pop("RIDE_DURATION_HOME") if before is None else os.environ.update(RIDE_DURATION_HOME=before)
    return folder
