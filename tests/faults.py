"""What can go wrong with a month, done to a demo month on purpose: each function takes the table and gives back a damaged one.

All numbers are synthetic. A table keeps its columns, types and signature unless the fault is about these; times stay in order unless it is about them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ride_duration.data.demo import SHOCK_MONTH, demo_month, demo_zones
from ride_duration.data.month import Month

PICKUP, DROPOFF = "lpep_pickup_datetime", "lpep_dropoff_datetime"
CLOSED = 25  # a zone of the demo city where one trip in seventy begins or ends


def _set(table: pa.Table, **columns: np.ndarray | pa.ChunkedArray | pa.Array) -> pa.Table:
    "The same table with other values in some columns, of the type they had; None stays None."
    for name, values in columns.items():
        old = table[name].combine_chunks()
        if isinstance(values, np.ndarray):
            values = pa.array(values, mask=old.is_null().to_numpy(zero_copy_only=False))
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values.cast(old.type))
    return table


def _times(table: pa.Table, name: str) -> np.ndarray:  # datetime64[us], NaT where missing
    return table[name].to_numpy()


def _share_of(table: pa.Table, share: float, seed: int = 1) -> np.ndarray:  # bool, one a row
    return np.random.default_rng(seed).random(len(table)) < share


def day_of(table: pa.Table, day: int) -> np.datetime64:
    "That day of the month most trips lie in."
    months, rides = np.unique(_times(table, PICKUP).astype("datetime64[M]"), return_counts=True)
    return months[rides.argmax()].astype("datetime64[D]") + day - 1


def missing_day(table: pa.Table, day: int = 11) -> pa.Table:
    "One day of the month is not in the file."
    return table.filter(pa.array(_times(table, PICKUP).astype("datetime64[D]") != day_of(table, day)))


def missing_hours(table: pa.Table, day: int = 11, first: int = 14, last: int = 19) -> pa.Table:
    "An afternoon without any trip: hours `first` to `last` of a day, both included."
    start = day_of(table, day)
    pickup = _times(table, PICKUP)
    inside = (pickup >= start + np.timedelta64(first, "h")) & (pickup < start + np.timedelta64(last + 1, "h"))
    return table.filter(pa.array(~inside))


def cut_off(table: pa.Table, day: int = 16) -> pa.Table:
    "The file ends before that day: half of it is missing."
    pickup = _times(table, PICKUP)
    return table.filter(pa.array(pickup < day_of(table, day)))


def half_file(table: pa.Table) -> pa.Table:
    "Every second row is missing, all over the month."
    return table.filter(pa.array(_share_of(table, 0.5)))


def doubled_file(table: pa.Table) -> pa.Table:
    "Every row twice."
    return pa.concat_tables([table, table])


def doubled_days(table: pa.Table, first: int = 8, last: int = 12) -> pa.Table:
    "Some days were delivered twice."
    pickup = _times(table, PICKUP)
    start, end = (day_of(table, day) for day in (first, last + 1))
    return pa.concat_tables([table, table.filter(pa.array((pickup >= start) & (pickup < end)))])


def kilometres(table: pa.Table) -> pa.Table:
    "The meter's distance in kilometres instead of miles."
    return _set(table, trip_distance=table["trip_distance"].to_numpy() * 1.609344)


def swapped_zones(table: pa.Table) -> pa.Table:
    "Pickup and drop-off zones in each other's column."
    return _set(table, PULocationID=table["DOLocationID"].combine_chunks(), DOLocationID=table["PULocationID"].combine_chunks())


def clock_shift(table: pa.Table, hours: int = 1) -> pa.Table:
    "Both times are so many hours late."
    step = np.timedelta64(hours, "h")
    return _set(table, **{name: _times(table, name) + step for name in (PICKUP, DROPOFF)})


def closed_zone(table: pa.Table, zone: int = CLOSED) -> pa.Table:
    "Nobody is picked up or set down in a zone."
    touches = pc.or_(pc.equal(table["PULocationID"], zone), pc.equal(table["DOLocationID"], zone))
    return table.filter(pc.invert(touches))


def longer(table: pa.Table, factor: float | np.ndarray = 1.2) -> pa.Table:  # one factor, or one a row
    "Every ride takes so many times as long."
    pickup, dropoff = _times(table, PICKUP), _times(table, DROPOFF)
    seconds = np.where(np.isnat(dropoff), 0, (dropoff - pickup) / np.timedelta64(1, "s")) * factor
    return _set(table, **{DROPOFF: pickup + (seconds * 1e6).round().astype("timedelta64[us]")})


def collapse(table: pa.Table, kept: float = 0.1, faster: float = 1.45, first: int = 1, seed: int = 1) -> pa.Table:
    "From a day on nearly everybody stays at home: a tenth of the trips, hardly any to an airport, and empty streets."
    random, pickup = np.random.default_rng(seed), _times(table, PICKUP)
    after = pickup >= day_of(table, first)
    hour = pickup.astype("datetime64[h]").astype("int64") % 24
    airport = pc.or_(pc.greater_equal(table["PULocationID"], 71), pc.greater_equal(table["DOLocationID"], 71)).to_numpy()
    stays = kept * np.where(airport, 0.3, 1.0) * np.where((hour >= 22) | (hour < 5), 0.4, 1.1)
    keep = ~after | (random.random(len(table)) < stays)
    busy = np.where((hour >= 7) & (hour < 20), faster, 1 + (faster - 1) / 3)  # streets that were slow have most to gain
    return longer(table, 1 / np.where(after, busy, 1.0)).filter(pa.array(keep))


def nulls(table: pa.Table, column: str = "trip_distance", share: float = 0.3) -> pa.Table:
    "A column that is empty in many rows."
    values = table[column].combine_chunks()
    emptied = pa.array(_share_of(table, share)).to_numpy(zero_copy_only=False) | values.is_null().to_numpy(zero_copy_only=False)
    return table.set_column(table.column_names.index(column), table.schema.field(column), pa.array(values.to_numpy(zero_copy_only=False), mask=emptied).cast(values.type))


def out_of_range(table: pa.Table, share: float = 0.08) -> pa.Table:
    "Meters that are left running: rides of twenty hours."
    pickup, dropoff = _times(table, PICKUP), _times(table, DROPOFF)
    return _set(table, **{DROPOFF: np.where(_share_of(table, share) & ~np.isnat(dropoff), pickup + np.timedelta64(20, "h"), dropoff)})


def strays(table: pa.Table, share: float = 0.1) -> pa.Table:
    "Trips of the month before."
    gone, step = _share_of(table, share), np.timedelta64(35, "D")
    return _set(table, **{name: np.where(gone, _times(table, name) - step, _times(table, name)) for name in (PICKUP, DROPOFF)})


def new_column(table: pa.Table) -> pa.Table:
    "A surcharge nobody has heard of."
    return table.append_column("airport_toll", pa.array(np.ones(len(table))))


def lost_column(table: pa.Table, column: str = "congestion_surcharge") -> pa.Table:
    "A column that models do not need is gone."
    return table.drop_columns([column])


def other_type(table: pa.Table, column: str = "PULocationID") -> pa.Table:
    "Whole numbers that come as text-free doubles, as in some of TLC's eras."
    place = table.column_names.index(column)
    return table.set_column(place, column, table[column].cast(pa.float64()))


class Fault(NamedTuple):
    "What is done to a month, and the kind of finding a monitor owes for it."

    damage: Callable[[pa.Table], pa.Table]
    kind: str  # of `findings.KINDS`


FAULTS = {
    "missing day": Fault(missing_day, "missing_day"),
    "missing hours": Fault(missing_hours, "missing_hours"),
    "cut off": Fault(cut_off, "cut_off"),
    "half file": Fault(half_file, "half_file"),
    "doubled file": Fault(doubled_file, "doubled_file"),
    "doubled days": Fault(doubled_days, "doubled_rows"),
    "kilometres": Fault(kilometres, "unit_change"),
    "swapped zones": Fault(swapped_zones, "swapped_zones"),
    "clock shift": Fault(clock_shift, "clock_shift"),
    "zone closed": Fault(closed_zone, "zone_closed"),
    "longer rides": Fault(longer, "duration_shift"),
    "collapse": Fault(collapse, "volume_collapse"),
    "nulls": Fault(nulls, "nulls"),
    "out of range": Fault(out_of_range, "out_of_range"),
    "strays": Fault(strays, "strays"),
    "lost column": Fault(lost_column, "columns_changed"),
}


def shock_month(trips: int = 60_000) -> pa.Table:
    "The demo city's own shock, which owes `traffic_shock`."
    return demo_month(SHOCK_MONTH, trips)


def write(table: pa.Table, path: Path) -> Path:
    "As a file the library reads as the demo fleet's."
    pq.write_table(table, path, compression="zstd")
    return path


def write_month(path: Path, month: Month, fault: Callable[[pa.Table], pa.Table] = lambda table: table, trips: int = 20_000) -> Path:
    "A demo month, damaged by a fault, as a file."
    return write(fault(demo_month(month, trips)), path)


def zone_name(zone: int = CLOSED) -> str:
    "What people call a zone of the demo city."
    return demo_zones().set_index("LocationID")["Zone"][zone]
