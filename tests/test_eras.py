"""One frame for every era: what the plain rules give, and a refusal that names file, column and expectation for the rest."""

import re
from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_mirror import GREEN, JANUARY, Mirror, relabelled, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from ride_duration import errors
from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month
from ride_duration.data.schema import CAUSES, COLUMNS, SIGNATURE
from ride_duration.data.source import fetch_month
from ride_duration.data.trips import read_trips

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ZONES = [1, 42, 132, 264, 265, 0, 266, -1, 40_000, 65_537, None]  # 65,537 is 1 where only 16 bits are looked at
DOUBLES = [1.0, 42.0, 264.0, 265.0, 264.5, 0.5, float("nan"), float("inf"), -1.0, None]
LENGTHS = [0, 59, 60, 61, 600, 1800, 3599, 3600, 3601, -60, 86_400, -300_000]  # seconds a ride may take
EPOCH = datetime(1970, 1, 1)


def _seconds(when: datetime) -> int:
    return (when - EPOCH) // timedelta(seconds=1)


@st.composite
def _times(draw: st.DrawFn, rows: int) -> tuple[pa.Array, pa.Array]:
    """Pickups in and around January, and drop-offs at and beside every limit of the rules."""
    unit = draw(st.sampled_from(list(PER_SECOND)))
    per_second, pickups, dropoffs = PER_SECOND[unit], [], []
    limits = [_seconds(JANUARY.start), _seconds(JANUARY.end), _seconds(JANUARY.end) - 1, _seconds(datetime(2009, 1, 1))]
    inside = st.integers(_seconds(JANUARY.start), _seconds(JANUARY.end) - 1)
    for _ in range(rows):
        start = draw(inside | st.sampled_from(limits)) * per_second + draw(st.integers(0, per_second - 1))
        nudge = draw(st.sampled_from([0, 0, 1, -1, per_second // 2]))
        stop = start + draw(st.sampled_from(LENGTHS) | st.integers(60, 3600)) * per_second + nudge
        pickups.append(draw(st.sampled_from([start] * 9 + [None])))
        dropoffs.append(draw(st.sampled_from([stop] * 9 + [None])))
    return pa.array(pickups, pa.timestamp(unit)), pa.array(dropoffs, pa.timestamp(unit))


@st.composite
def _zones(draw: st.DrawFn, rows: int) -> pa.Array:
    """Zones as the years have written them: whole numbers of two widths, or doubles."""
    kind = draw(st.sampled_from([pa.int64(), pa.int32(), pa.float64()]))
    usual = st.integers(1, 265) if kind != pa.float64() else st.integers(1, 265).map(float)
    odd = st.sampled_from(DOUBLES if kind == pa.float64() else ZONES)
    return pa.array(draw(st.lists(usual | usual | odd, min_size=rows, max_size=rows)), kind)


@st.composite
def _numbers(draw: st.DrawFn, rows: int) -> pa.Array:
    """Passengers or miles: entered, partly entered, or a column of nothing at all."""
    kind = draw(st.sampled_from([pa.null(), pa.int64(), pa.float64()]))
    if kind == pa.null():
        return pa.nulls(rows)
    value = st.none() | (st.integers(0, 9) if kind == pa.int64() else st.floats(0, 500, width=32))
    return pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind)


@st.composite
def _tables(draw: st.DrawFn) -> tuple[str, pa.Table]:
    """A fleet and a month of it as some era may have written it."""
    fleet, rows = draw(st.sampled_from(["green", "yellow", "demo"])), draw(st.integers(1, 25))
    prefix = "tpep" if fleet == "yellow" else "lpep"
    pickup, dropoff = draw(_times(rows))
    columns = {
        f"{prefix}_pickup_datetime": pickup,
        f"{prefix}_dropoff_datetime": dropoff,
        "PULocationID": draw(_zones(rows)),
        "DOLocationID": draw(_zones(rows)),
        "passenger_count": draw(_numbers(rows)),
        "trip_distance": draw(_numbers(rows)),
        "store_and_fwd_flag": pa.array(["N"] * rows, draw(st.sampled_from([pa.string(), pa.large_string()]))),
    }
    if draw(st.booleans()):
        columns["cbd_congestion_fee"] = pa.array([0.75] * rows)
    names = draw(st.permutations(list(columns)))
    spell = draw(st.sampled_from([str, str.lower, str.upper, str.swapcase]))
    table = pa.table({spell(name): columns[name] for name in names})
    return fleet, table.replace_schema_metadata(SIGNATURE if fleet == "demo" else None)


def _plain(table: pa.Table) -> pd.DataFrame:
    """The six columns as plain Python objects, so that no arithmetic of the library is repeated here."""
    rows = {
        name.lower().replace("tpep_", "").replace("lpep_", ""): table[name].to_pylist() for name in table.schema.names
    }
    raw = ("pickup_datetime", "dropoff_datetime", "pulocationid", "dolocationid", "passenger_count", "trip_distance")
    frame = pd.DataFrame(
        {name: pd.Series(rows[column], dtype=object) for name, column in zip(COLUMNS, raw, strict=True)}
    )
    for name in ("pickup_at", "dropoff_at"):
        frame[name] = [None if value is None else pd.Timestamp(value).floor("us") for value in frame[name]]
        frame[name] = frame[name].astype(object)
    return frame


def _is_zone(value: object) -> bool:
    return value is not None and value in set(range(1, 266))


def _verdict(row: pd.Series, month: Month | None) -> str:
    """The first rule a ride breaks, or `kept`."""
    if pd.isna(row.pickup_at) or pd.isna(row.dropoff_at):
        return "missing times"
    length = row.dropoff_at - row.pickup_at
    if length < pd.Timedelta(minutes=1):
        return "too short"
    if length > pd.Timedelta(minutes=60):
        return "too long"
    if month and (row.pickup_at.year, row.pickup_at.month) != (month.year, month.month):
        return "outside the month"
    return "kept" if _is_zone(row.PULocationID) and _is_zone(row.DOLocationID) else "zone out of range"


def _slowly(table: pa.Table, month: Month | None) -> tuple[pd.DataFrame, Counter]:
    """The cleaning rules a row at a time: the clean rows, and how many met each verdict."""
    frame = _plain(table)
    verdicts = [_verdict(row, month) for row in frame.itertuples(index=False)]
    clean = frame[[verdict == "kept" for verdict in verdicts]].reset_index(drop=True)
    lengths = [(row.dropoff_at - row.pickup_at).total_seconds() / 60 for row in clean.itertuples(index=False)]
    return clean.astype(COLUMNS).assign(duration=np.array(lengths, "float64")), Counter(verdicts)


OPTIONS = [{}, {"store_schema": False}, {"use_deprecated_int96_timestamps": True}, {"compression": "gzip"}]


@st.composite
def _eras(draw: st.DrawFn) -> tuple[str, pa.Table, dict]:
    """A fleet, a month of it, and how it is written; the demo fleet's signature needs the schema stored."""
    fleet, table = draw(_tables())
    options = draw(st.sampled_from(OPTIONS))
    return fleet, table, {} if fleet == "demo" else options


@settings(deadline=None, max_examples=150, derandomize=True)
@given(era=_eras(), month=st.sampled_from([JANUARY, None]), group=st.integers(1, 25))
def test_every_era_gives_the_frame_the_plain_rules_give(
    tmp_path_factory: pytest.TempPathFactory, era: tuple[str, pa.Table, dict], month: Month | None, group: int
) -> None:
    fleet, table, options = era
    path = tmp_path_factory.getbasetemp() / "any_era.parquet"
    pq.write_table(table, path, row_group_size=group, **options)
    frame, account = read_trips(path, fleet, month)
    expected, verdicts = _slowly(table, month)
    pd.testing.assert_frame_equal(frame, expected, check_exact=False, rtol=0, atol=1e-9)
    assert dict(frame.dtypes.astype(str)) == COLUMNS | {"duration": "float64"}
    assert account.rows == table.num_rows == account.kept + sum(account.dropped.values())
    assert account.kept == len(frame) == verdicts["kept"]
    assert dict(account.dropped) == {cause: verdicts[cause] for cause in CAUSES}


@pytest.mark.parametrize("month", [Month(2015, 6), Month(2019, 1), JANUARY, Month(2023, 10), Month(2025, 1)], ids=str)
def test_every_demo_era_gives_the_frame_the_plain_rules_give(month: Month, tmp_path: Path) -> None:
    table = demo_month(month, trips=1500)
    pq.write_table(table, tmp_path / "month.parquet")
    frame, account = read_trips(tmp_path / "month.parquet", "demo", month)
    expected, verdicts = _slowly(table, month)
    pd.testing.assert_frame_equal(frame, expected, check_exact=False, rtol=0, atol=1e-9)
    assert account.rows == table.num_rows == account.kept + sum(account.dropped.values())
    assert dict(account.dropped) == {cause: verdicts[cause] for cause in CAUSES}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return relabelled(JANUARY, "green")


RAW = [
    "lpep_pickup_datetime",
    "lpep_dropoff_datetime",
    "PULocationID",
    "DOLocationID",
    "passenger_count",
    "trip_distance",
]
WRONG = [
    ("lpep_pickup_datetime", pa.string(), "a timestamp without time zone"),
    ("lpep_dropoff_datetime", pa.timestamp("us", "America/New_York"), "a timestamp without time zone"),
    ("lpep_pickup_datetime", pa.int64(), "a timestamp without time zone"),
    ("PULocationID", pa.string(), "a whole number"),
    ("DOLocationID", pa.bool_(), "a whole number"),
    ("PULocationID", pa.null(), "a whole number"),
    ("passenger_count", pa.string(), "a number, or no value at all"),
    ("trip_distance", pa.large_string(), "a number, or no value at all"),
]


@pytest.mark.parametrize("column", ["passenger_count", "trip_distance"])
def test_an_infinite_number_is_a_missing_one(column: str, table: pa.Table, tmp_path: Path) -> None:
    """A model that learnt from one answered NaN, and its figures were NaN, with exit code 0."""
    path, place = tmp_path / "month.parquet", table.schema.get_field_index(column)
    values = np.tile([1.5, np.inf, -np.inf], table.num_rows // 3 + 1)[: table.num_rows]
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    frame, account = read_trips(path, "green", JANUARY)
    assert set(frame[column].dropna()) == {1.5}
    assert frame[column].isna().sum() > account.kept / 2
    assert str(frame[column].dtype) == COLUMNS[column]


@pytest.mark.parametrize("column", RAW)
def test_a_missing_column_is_named(column: str, table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(table.drop_columns(column), path)
    with pytest.raises(errors.BrokenContract, match=rf"month\.parquet has no column {column} \(expected: a "):
        read_trips(path, "green")


def _with(table: pa.Table, column: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.append_column(column, pa.nulls(table.num_rows, pa.int64())), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("column", RAW)
def test_a_column_that_stands_twice_is_named_at_once(column: str, table: pa.Table, server: Mirror, quick: None) -> None:
    server.misbehave(GREEN, serving(_with(table, column)))
    with pytest.raises(errors.BrokenContract, match=rf"2023-01\.parquet has the column {column} 2 times"):
        fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 1


@pytest.mark.parametrize("column", RAW)
def test_the_exact_spelling_counts(column: str, table: pa.Table, tmp_path: Path) -> None:
    """An empty column of the same name in another case took its place, and all of its values were missing."""
    for name, content in (("both", _with(table, column.upper())), ("one", _with(table, "another"))):
        (tmp_path / name).write_bytes(content)
    both, one = (read_trips(tmp_path / name, "green", JANUARY)[0] for name in ("both", "one"))
    pd.testing.assert_frame_equal(both, one)


@pytest.mark.parametrize(("column", "kind", "expected"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_type_is_named(column: str, kind: pa.DataType, expected: str, table: pa.Table, tmp_path: Path) -> None:
    path, place = tmp_path / "month.parquet", table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.nulls(table.num_rows, kind)), path)
    message = re.escape(f"month.parquet, column {column}: expected {expected}, found {kind}")
    with pytest.raises(errors.BrokenContract, match=message):
        read_trips(path, "green")


def test_a_file_without_rows_is_refused(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(errors.BrokenContract, match=r"month\.parquet holds no rows \(expected: at least one trip\)"):
        read_trips(path, "green")


@pytest.mark.parametrize("spoil", ["truncated", "a byte short", "empty", "text", "absent"])
def test_what_is_no_parquet_file_is_refused(spoil: str, table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(table, path)
    content = path.read_bytes()
    path.unlink()
    contents = {
        "truncated": content[: len(content) // 2],
        "a byte short": content[:-1],
        "empty": b"",
        "text": b"a,b\n" * 99,
    }
    if spoil in contents:
        path.write_bytes(contents[spoil])
    with pytest.raises(errors.UnreadableFile, match=r"month\.parquet is not a whole parquet file \(expected: "):
        read_trips(path, "green")


@pytest.mark.parametrize("column", RAW)
def test_damage_inside_any_column_is_noticed(column: str, table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    pq.write_table(table, path)
    chunk = pq.read_metadata(path).row_group(0).column(table.schema.get_field_index(column))
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(errors.UnreadableFile, match=r"month\.parquet is damaged inside"):
        read_trips(path, "green")


def _with_a_wrong_page_size(table: pa.Table, column: str) -> bytes:
    """One byte changed: a page says it unpacks to a little less than it does, which Arrow does not call an OSError."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy")
    content = bytearray(sink.getvalue())
    chunk = pq.read_metadata(pa.BufferReader(content)).row_group(0).column(table.schema.get_field_index(column))
    size = chunk.data_page_offset + 3
    assert content[size] > 0x80, "the low bits of a size of more than one byte were expected here"
    content[size] = 0x80
    return bytes(content)


@pytest.mark.parametrize("column", RAW)
def test_a_damaged_page_size_is_a_damaged_file(column: str, table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "month.parquet"
    path.write_bytes(_with_a_wrong_page_size(table, column))
    with pytest.raises(errors.UnreadableFile, match=r"month\.parquet is damaged inside"):
        read_trips(path, "green")


def test_a_damaged_page_size_is_noticed_and_fetched_again(
    table: pa.Table, server: Mirror, files: Path, quick: None
) -> None:
    server.misbehave(GREEN, serving(_with_a_wrong_page_size(table, "trip_distance")), requests=1)
    file = fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 2
    assert file.path.read_bytes() == (files / GREEN).read_bytes()


def test_a_damaged_column_name_is_a_damaged_file(table: pa.Table, tmp_path: Path) -> None:
    """The footer's names are bytes like any others, and damage can make them no text at all."""
    path = tmp_path / "month.parquet"
    pq.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"ehail_fee", b"\xff\xfbail_fee"))
    with pytest.raises(errors.UnreadableFile, match=r"month\.parquet"):
        read_trips(path, "green")


def _zigzag(number: int) -> bytes:
    """A number of four decimal digits as a parquet footer writes it, in two bytes."""
    folded = 2 * number if number >= 0 else -2 * number - 1
    return bytes([folded & 0x7F | 0x80, folded >> 7])


@pytest.mark.parametrize("change", ["one less", "one more", "negative"])
def test_a_footer_that_miscounts_is_a_damaged_file(change: str, table: pa.Table, tmp_path: Path) -> None:
    """The footer's count of rows is one number among its bytes; the account must not rest on it alone."""
    path, rows = tmp_path / "month.parquet", table.num_rows
    claimed = {"one less": rows - 1, "one more": rows + 1, "negative": -rows}[change]
    pq.write_table(table, path)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    changed = content[footer:].replace(b"\x16" + _zigzag(rows), b"\x16" + _zigzag(claimed), 1)
    path.write_bytes(content[:footer] + changed)
    assert pq.read_metadata(path).num_rows == claimed
    with pytest.raises(errors.UnreadableFile, match=r"month\.parquet"):
        read_trips(path, "green")
    assert path.stat().st_size == len(content)


@cache
def _undamaged() -> bytes:
    """Five hundred rows of the six columns; no fixture, because hypothesis would print it whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(relabelled(JANUARY, "green").select(RAW).slice(0, 500), sink)
    return sink.getvalue().to_pybytes()


@settings(deadline=None, max_examples=200, derandomize=True)
@given(where=st.floats(0, 1), damage=st.binary(min_size=1, max_size=64), in_footer=st.booleans())
def test_random_damage_is_refused_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, where: float, damage: bytes, in_footer: bool
) -> None:
    """Whatever the damage, a person is told about the file, or gets an account that adds up."""
    content = _undamaged()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    first, last = (footer, len(content) - len(damage)) if in_footer else (0, footer - len(damage))
    place = round(first + where * (last - first))
    path = tmp_path_factory.getbasetemp() / "random_damage.parquet"
    path.write_bytes(content[:place] + damage + content[place + len(damage) :])
    try:
        frame, account = read_trips(path, "green", JANUARY)
    except (errors.UnreadableFile, errors.BrokenContract, errors.WrongFleet) as error:
        assert path.name in str(error)
    else:
        assert account.rows == 500 == account.kept + sum(account.dropped.values())
        assert len(frame) == account.kept
