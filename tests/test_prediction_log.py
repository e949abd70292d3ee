"""The prediction log, in SQLite and in a real PostgreSQL: what goes in comes out, once, in order, and each mistake is one line."""

import asyncio
import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ride_duration.cli_log import app
from ride_duration.errors import BadParameter, CannotWrite, LogUnavailable
from ride_duration.ops import log_database
from ride_duration.ops.answers import Answered, Completion, Conflict, check_answer, fresh_ride_id
from ride_duration.ops.log_export import day_file, export_log
from ride_duration.ops.log_retention import prune
from ride_duration.ops.log_rows import READ_COLUMNS
from ride_duration.ops.log_writer import LogWriter
from ride_duration.ops.prediction_log import PredictionLog, _query, open_log

pytest_plugins = ["postgres_server"]
PASSWORD = "secret"  # of its servers
NOW = datetime(2026, 11, 24, 8, 30, 0, 123456, tzinfo=UTC)
RIDE = Answered("ride", NOW, "green", "booking", "7", "champion", 132, 161, datetime(2026, 11, 24, 3, 30), None, 41.5, 33.0, 52.25)
several_databases = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a log that is not there yet."""
    return str(tmp_path / "log.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres").database()


@pytest.fixture
def log(url: str):
    with open_log(url) as log:
        yield log


def rides(count: int, **changes: object) -> list[Answered]:
    return [RIDE._replace(ride_id=f"ride {number}", answered_at=NOW + timedelta(seconds=number), **changes) for number in range(count)]


# --- what goes in comes out ------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0,"), max_size=12)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(fold=0))
maybe = st.none() | numbers
answered = st.builds(
    Answered, st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=200) | st.text(max_size=210), moments.map(lambda moment: moment.replace(tzinfo=UTC)), words, words, words, words,
    st.integers(0, 2**15 - 1), st.integers(0, 2**15 - 1), moments, maybe, numbers, numbers, numbers, st.lists(words.filter(bool), max_size=3).map(tuple),
    st.none() | words, maybe, maybe, maybe, maybe, st.none() | st.integers(0, 2**31 - 1),
)  # fmt: skip


def test_every_answer_comes_back_as_it_was_or_is_refused_before_it_is_written(log: PredictionLog) -> None:
    numbered, written = iter(range(10**9)), []

    @several_databases
    @given(answered)
    def check(answer: Answered) -> None:
        answer = answer._replace(ride_id=f"{answer.ride_id}{next(numbered)}")
        try:
            check_answer(answer)
        except BadParameter:
            assert log.find(answer.ride_id) is None
            return
        assert log.write([answer]) == [answer]
        assert log.find(answer.ride_id).answer == answer
        written.append(answer.ride_id)

    check()
    assert sum(map(len, log.read())) == len(written) > 10


def test_numpy_and_pandas_values_are_taken_as_numbers_and_moments(log: PredictionLog) -> None:
    ride = RIDE._replace(pickup=np.int16(4), minutes=np.float64(0.1), low=np.float32(0.5), answered_at=pd.Timestamp(NOW), pickup_at=pd.Timestamp("2026-11-24 03:30"))
    log.write([ride])
    found = log.find("ride").answer
    assert found == RIDE._replace(pickup=4, minutes=0.1, low=0.5)
    assert type(found.minutes) is float and type(found.pickup_at) is datetime


@pytest.mark.parametrize("change", [{"minutes": math.nan}, {"high": math.inf}, {"miles": math.nan}, {"pickup": -1}, {"pickup": 40_000}, {"ride_id": ""}, {"ride_id": "a\0b"}, {"pickup_at": NOW}])
def test_what_no_database_holds_is_refused(log: PredictionLog, change: dict) -> None:
    with pytest.raises(BadParameter):
        log.write([RIDE._replace(ride_id="good"), RIDE._replace(**change)])
    assert log.newest() == []


# --- once ------------------------------------------------------------------------------------------------------------


def test_a_batch_is_written_wholly_or_not_at_all(log: PredictionLog) -> None:
    batch = rides(1200)
    log.write(batch[:3])
    assert log.write([ride._replace(minutes=1.0, version="8") for ride in batch]) == batch[:3] + [ride._replace(minutes=1.0, version="8") for ride in batch[3:]]
    with pytest.raises(Conflict, match="ride 1199 is in the log with another question"):
        log.write([*rides(3, version="9"), RIDE._replace(ride_id="new"), batch[-1]._replace(dropoff=1)])
    assert log.find("new") is None
    assert sum(map(len, log.read())) == 1200


orders = st.lists(
    st.tuples(st.just("write"), st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 2)), min_size=1, max_size=3)) | st.tuples(st.just("complete"), st.sampled_from("abcd"), st.integers(1, 2)),
    min_size=1, max_size=14,
)  # fmt: skip


def test_whatever_is_asked_at_once_ends_as_if_it_had_been_asked_in_turn(log: PredictionLog) -> None:
    """The writer's groups against a dictionary that is told one thing after another."""
    examples = iter(range(10**9))

    def expected(order: list) -> list:
        asked, ended, results = {}, {}, []
        for what, *words in order:
            if what == "write":
                [pairs] = words
                questions = {}
                fine = all(questions.setdefault(ride, pickup) == pickup == asked.get(ride, pickup) for ride, pickup in pairs)
                asked |= questions if fine else {}
                results.append([pickup for _, pickup in pairs] if fine else Conflict)
            elif words[0] not in asked:
                results.append(None)
            else:
                told = ended.setdefault(words[0], words[1])
                results.append(float(told) if told == words[1] else Conflict)
        return results

    async def found(order: list, prefix: str) -> list:
        async with LogWriter(log) as writer:
            calls = [
                writer.write([RIDE._replace(ride_id=prefix + ride, pickup=pickup, minutes=float(number)) for ride, pickup in words[0]]) if what == "write"
                else writer.complete(prefix + words[0], float(words[1]), NOW)
                for number, (what, *words) in enumerate(order)
            ]  # fmt: skip
            results = await asyncio.gather(*calls, return_exceptions=True)
        return [type(result) if isinstance(result, Exception) else [answer.pickup for answer in result] if isinstance(result, list) else result and result.minutes for result in results]

    @several_databases
    @given(orders)
    def check(order: list) -> None:
        assert asyncio.run(found(order, f"{next(examples)}-")) == expected(order)

    check()


def test_one_bad_row_is_not_its_neighbours_trouble(log: PredictionLog) -> None:
    with log.database.connected() as connection, log.database.transaction(connection):
        connection.exec_driver_sql(
            "CREATE TRIGGER picky BEFORE INSERT ON answer WHEN NEW.ride_id = 'ride 33' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            if log.database.sqlite
            else "ALTER TABLE answer ADD CHECK (ride_id <> 'ride 33')"
        )

    async def main() -> tuple:
        async with LogWriter(log) as writer:
            results = await asyncio.gather(*(writer.write([ride]) for ride in rides(100)), return_exceptions=True)
            return results, writer.state

    results, state = asyncio.run(main())
    assert isinstance(results.pop(33), BadParameter)
    assert [answer for [answer] in results] == [ride for ride in rides(100) if ride.ride_id != "ride 33"]
    assert state.commits < 20 and state.trouble is None
    assert sum(map(len, log.read())) == 99


def test_a_request_that_gave_up_does_not_keep_others_from_theirs(log: PredictionLog) -> None:
    async def main() -> list:
        async with LogWriter(log) as writer:
            tasks = [asyncio.create_task(writer.write([ride])) for ride in rides(200)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [result[0] for result in results[1::2]] == rides(200)[1::2]
            assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
            return await writer.write([RIDE])

    assert asyncio.run(main()) == [RIDE]


def test_closing_writes_what_waits_and_takes_nothing_more(log: PredictionLog) -> None:
    async def main() -> None:
        writer = LogWriter(log)
        waiting = [asyncio.create_task(writer.write([ride])) for ride in rides(500)]
        await asyncio.sleep(0)
        await writer.close()
        await asyncio.gather(*waiting)
        assert writer.state.queued == 0
        with pytest.raises(LogUnavailable, match="ending"):
            await writer.write([RIDE])

    asyncio.run(main())
    assert sum(map(len, log.read())) == 500


# --- reading ---------------------------------------------------------------------------------------------------------


def test_rides_are_read_in_order_filtered_and_joined(log: PredictionLog) -> None:
    same_moment = [RIDE._replace(ride_id=fresh_ride_id(), answered_at=NOW - timedelta(days=1)) for _ in range(50)]
    log.write(same_moment + [ride._replace(experiment=number % 3 or None, version=str(number % 2)) for number, ride in enumerate(rides(100))])
    for number in range(0, 100, 4):
        log.complete(f"ride {number}", number + 0.5, NOW + timedelta(hours=1))
    whole = pd.concat(log.read(rows=7), ignore_index=True)
    assert tuple(whole.columns) == READ_COLUMNS
    assert whole.equals(whole.sort_values(["answered_at", "ride_id"], ignore_index=True)) and len(whole) == 150
    ended = pd.concat(log.read(rows=7, completed_only=True), ignore_index=True)
    assert ended.equals(whole[whole["completed_minutes"].notna()].reset_index(drop=True)) and len(ended) == 25
    some = pd.concat(log.read(NOW + timedelta(seconds=10), NOW + timedelta(seconds=50), experiment=1, version="0", rows=2))
    assert some["ride_id"].tolist() == [f"ride {number}" for number in range(10, 50) if number % 3 == 1 and number % 2 == 0]
    assert some["experiment"].dtype == whole["experiment"].dtype == "Int64"
    assert next(log.read(experiment=99)).dtypes.equals(whole.dtypes)


def test_reading_takes_no_more_memory_for_a_longer_log(log: PredictionLog) -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        assert sum(len(frame) for frame in log.read(rows=500, columns=["minutes", "fleet"])) == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    log.write(rides(1_000))
    small = peak(1_000)
    log.write(rides(12_000)[1_000:])
    assert peak(12_000) < 1.5 * small


@pytest.mark.parametrize("completed_only", [False, True])
def test_the_last_hour_is_found_without_looking_at_the_rest(log: PredictionLog, completed_only: bool) -> None:
    log.write(rides(3_000))
    query = _query(READ_COLUMNS, ("fleet",), True, completed_only)
    at = NOW + timedelta(seconds=2_900)
    values = {"at": at, "until": at + timedelta(seconds=10), "ride": "", "size": 10, "fleet": "green"}
    if log.database.sqlite:
        values |= {"at": 1_790_000_000_000_000, "until": 1_790_000_010_000_000}
    with log.database.reading() as connection:
        if log.database.sqlite:
            plan = " ".join(row[3] for row in log.database.select(connection, f"EXPLAIN QUERY PLAN {query}", **values))
            assert plan.startswith(f"SEARCH {'completion' if completed_only else 'answer'} USING PRIMARY KEY (") and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan
        else:
            for way in ("seqscan", "bitmapscan", "sort", "hashjoin"):  # which a test's small table may be worth
                log.database.execute(connection, f"SET enable_{way} = off")
            plan = " ".join(row[0] for row in log.database.select(connection, f"EXPLAIN {query}", **values))
            assert "Seq Scan" not in plan and "Sort" not in plan, plan
            assert f"using {'completion' if completed_only else 'answer'}_pkey" in plan and "Index Cond: ((ROW(answered_at, ride_id) > ROW(" in plan, plan


# --- retention and export --------------------------------------------------------------------------------------------


def test_old_days_leave_while_others_write(log: PredictionLog) -> None:
    long_ago = NOW - timedelta(days=100)
    log.write([RIDE._replace(ride_id=f"old {number}", answered_at=long_ago + timedelta(seconds=number)) for number in range(10_000)])
    log.complete("old 7", 40.0, NOW)
    log.write([RIDE._replace(ride_id=f"batch {number}", answered_at=long_ago) for number in range(3_000)])  # all in one moment, more than go at once
    pruned, waits = [], []
    with open_log(log.database.url.render_as_string(hide_password=False)) as other:
        pruning = threading.Thread(target=lambda: pruned.append(prune(other, timedelta(days=90), NOW, rows=500)))

        async def main() -> None:
            async with LogWriter(log) as writer:
                await writer.write([RIDE])
                pruning.start()
                while pruning.is_alive() or len(waits) < 20:
                    began = time.monotonic()
                    await writer.write([RIDE._replace(ride_id=fresh_ride_id())])
                    waits.append(time.monotonic() - began)

        asyncio.run(main())
        pruning.join()
    assert (pruned[0].answers, pruned[0].completions) == (13_000, 1)
    assert max(waits) < 3, "far from the five seconds after which somebody is refused"
    assert sum(map(len, log.read())) == len(waits) + 1


def test_a_day_is_written_again_only_when_something_was_added(log: PredictionLog, tmp_path: Path) -> None:
    log.write([RIDE._replace(ride_id=f"ride {number}", answered_at=NOW + timedelta(days=number // 3)) for number in range(9)])

    def exported(**words: object) -> list:
        return [(day.day.day, day.answers, day.completed, day.written) for day in export_log(log, tmp_path / "out", **words)]

    assert exported() == [(24, 3, 0, True), (25, 3, 0, True), (26, 3, 0, True)]
    first = day_file(tmp_path / "out", date(2026, 11, 24))
    before = first.read_bytes()
    assert exported() == [(24, 3, 0, False), (25, 3, 0, False), (26, 3, 0, False)]
    log.complete("ride 4", 12.0, NOW + timedelta(days=9))  # told a week later
    log.write([RIDE._replace(ride_id="late", answered_at=NOW + timedelta(days=2, hours=1))])
    assert exported() == [(24, 3, 0, False), (25, 3, 1, True), (26, 4, 0, True)]
    first.write_bytes(before[:100])
    assert exported(until=date(2026, 11, 25)) == [(24, 3, 0, True)]
    assert first.read_bytes() == before
    assert prune(log, timedelta(days=1), NOW + timedelta(days=2)).answers == 3
    assert exported(since=date(2026, 11, 24)) == [(25, 3, 1, False), (26, 4, 0, False)]
    assert first.read_bytes() == before, "what has left the log stays in its file"
    whole = pd.read_parquet(tmp_path / "out")
    assert len(whole) == 10 and whole["completed_minutes"].count() == 1
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["answers.parquet"] * 3


def test_a_log_that_was_replaced_writes_over_no_day_of_the_one_before(tmp_path: Path) -> None:
    path, out = tmp_path / "log.sqlite", tmp_path / "out"
    with open_log(str(path)) as log:
        log.write(rides(10))
        assert [day.answers for day in export_log(log, out)] == [10]
    before = day_file(out, NOW.date()).read_bytes()
    path.rename(tmp_path / "damaged.sqlite")  # moved aside, and a new one begins empty
    with open_log(str(path)) as log:
        for count in (4, 14):
            log.write([ride._replace(ride_id=f"new {number}") for number, ride in enumerate(rides(count))])
            with pytest.raises(CannotWrite, match=r"choose another folder with --out$"):
                list(export_log(log, out))
        assert [day.answers for day in export_log(log, tmp_path / "new")] == [14]
    assert day_file(out, NOW.date()).read_bytes() == before


def test_a_day_that_is_pruned_in_part_keeps_its_file(log: PredictionLog, tmp_path: Path) -> None:
    log.write(rides(10))
    assert [day.answers for day in export_log(log, tmp_path)] == [10]
    with log.database.connected() as connection, log.database.transaction(connection):
        log.database.execute(connection, "DELETE FROM answer WHERE ride_id < 'ride 5'")
    assert [(day.answers, day.written) for day in export_log(log, tmp_path)] == [(10, False)]


# --- mistakes --------------------------------------------------------------------------------------------------------


def refused(place: object, **options: object) -> str:
    with pytest.raises((LogUnavailable, BadParameter)) as caught:
        open_log(None if place is None else str(place), **options)
    assert caught.value.__cause__ is None and PASSWORD not in str(caught.value)
    return str(caught.value)


def test_what_is_no_log_is_said_to_be_none_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.sqlite"
    assert "there is no prediction log at" in refused(path, create=False)
    assert not path.exists()
    path.write_bytes(b"not a database at all" * 100)
    assert "is damaged or not ours" in refused(path)
    assert path.read_bytes() == b"not a database at all" * 100
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE runs (id INTEGER)")
    assert "is the database of another program" in refused(path)
    assert f"cannot write {tmp_path}" in refused(tmp_path)
    assert "cannot make the folder /proc/nowhere" in refused("/proc/nowhere/log.sqlite")


def test_a_damaged_log_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with open_log(str(path)) as log:
        log.write(rides(2_000))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 8192 - 4096)
    path.write_bytes(content)
    with open_log(str(path)) as log, pytest.raises(LogUnavailable, match="is damaged or not ours: restore it"):
        list(log.read())


def test_a_log_of_a_newer_version_is_left_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(url) as log, log.database.connected() as connection, log.database.transaction(connection):
        connection.exec_driver_sql("UPDATE ride_duration_log SET version_num = '0999'")
    assert "was written by a newer version of ride_duration: upgrade this one" in refused(url)


def test_the_migrations_end_where_the_code_expects(log: PredictionLog) -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(log_database.__file__).parent / "_migrations"))
    assert scripts.get_current_head() == log_database.SCHEMA


def test_postgres_that_is_away_or_does_not_let_us_in(postgres: object) -> None:
    url = postgres.database()
    assert "PostgreSQL does not answer: start it, or check host and port" in refused(url.replace(str(postgres.port), "1"))
    wrong = url.replace(PASSWORD, "wr0ng")
    assert "check user and password" in (said := refused(wrong)) and "wr0ng" not in said
    assert "there is no such database: make it with createdb" in refused(url.replace("/log?", "/rides?"))
    with open_log(url) as log:
        assert PASSWORD not in repr(log) + repr(log.database) + log.place + str(vars(log.database))


def test_a_user_without_rights_is_told_which(postgres: object) -> None:
    url = postgres.database()
    with open_log(url) as log, log.database.connected() as connection, log.database.transaction(connection):
        connection.exec_driver_sql("CREATE ROLE bob LOGIN PASSWORD 'secret'")
    assert "there is no schema that the user may write" in refused(url.replace("ada", "bob"))


@pytest.mark.parametrize(
    ("missing", "url", "repair"),
    [("psycopg", "postgresql://ada@localhost/log", "ride-duration[postgres]"), ("sqlalchemy", "log.sqlite", "ride-duration[serve]"), ("alembic", "log.sqlite", "ride-duration[serve]")],
)
def test_a_package_that_is_not_installed_is_named(tmp_path: Path, missing: str, url: str, repair: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['ride-duration', 'log', 'prune', '--keep', '1d', '--log', {url!r}]; from ride_duration.cli import main; main()"
    (tmp_path / "log.sqlite").touch()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (16, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("ride-duration: ") and line.endswith(f"pip install '{repair}'")


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_commands(log: PredictionLog, url: str, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        done = CliRunner().invoke(app, list(map(str, words)), env={"RIDE_DURATION_LOG": url})
        if done.exception:
            raise done.exception
        return done.stdout

    log.write(rides(3))
    log.complete("ride 1", 40.0, NOW)
    assert said("show").count("132 → 161") == 3
    assert [ride["completed_minutes"] for ride in json.loads(said("show", "ride 1", "--json"))] == [40.0]
    assert said("export", "--since", "2026-11-01", "--out", tmp_path / "out") == f"{tmp_path}/out/day=2026-11-24/answers.parquet: 3 answers, 1 completed\n"
    assert json.loads(said("prune", "--keep", "36500d", "--json"))["answers"] == 0
    with pytest.raises(BadParameter, match="'ninety days' is no length of time: write it as 90d, 12h, 30m or 10s"):
        said("prune", "--keep", "ninety days")


def test_a_log_that_is_away_is_one_line_and_its_own_exit_code(run: Callable) -> None:
    done = run("log", "show", "--log", f"postgresql://ada:{PASSWORD}@127.0.0.1:1/log")
    assert (done.returncode, done.stdout) == (LogUnavailable.exit_code, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("ride-duration: the prediction log cannot be used: postgresql+psycopg://ada:***@127.0.0.1:1/log: PostgreSQL does not answer")


def test_a_completion_says_when_it_was_told(log: PredictionLog) -> None:
    log.write([RIDE])
    assert log.complete("ride", 40.0, NOW) == Completion("ride", 40.0, NOW)
    assert log.complete("ride", 40.0, NOW + timedelta(hours=1)).at == NOW
    with pytest.raises(Conflict, match=r"took 40\.0 minutes"):
        log.complete("ride", 40.1, NOW)
    assert log.find("ride").completion == Completion("ride", 40.0, NOW)
