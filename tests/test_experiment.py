"""Experiments: real models and a real log from start to verdict, two starters at once, and what looking every day does to chance."""

import importlib.util
import json
import multiprocessing
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats
from typer.testing import CliRunner

from ride_duration.cli import app
from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import BadParameter, BrokenBundle, BrokenDatabase, LogUnavailable, NoModel, Refused
from ride_duration.model.bundle import keep_lesson, load_bundle, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.sequences import block_difference, block_mean, share_p_value
from ride_duration.ops import history
from ride_duration.ops.answers import Answered
from ride_duration.ops.prediction_log import open_log
from ride_duration.serve import experiment
from ride_duration.serve.experiment import Experiment, assigned, running, start, stop, why_over
from ride_duration.serve.tally import COLUMNS, tally
from ride_duration.serve.verdict import verdict

NAME = "ride-duration-demo"
SPLIT = Experiment(1, "demo", "booking", "split", 1, 1, 2, 0.2, "00" * 16, datetime(2023, 5, 1, tzinfo=UTC), "ada", "")


def load_benchmark():
    "The script that claims the rates, so that what is tested is what is claimed."
    spec = importlib.util.spec_from_file_location("experiment_power", REPOSITORY / "benchmarks" / "experiment_power.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


power = load_benchmark()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> dict[int, Path]:
    "Three models of the demo city, as their versions: a coarse one, a finer one, and a metered one."
    folder = tmp_path_factory.mktemp("versions")
    write_demo_month(folder / "month.parquet", Month(2023, 1), 3000)
    trips, _ = read_trips(folder / "month.parquet", "demo", Month(2023, 1))
    made = {}
    for version, regime, trees in ((1, "booking", 2), (2, "booking", 30), (3, "metered", 5)):
        model = RangedBoosted(zone_table("demo"), regime, trees=trees, threads=1).fit(trips, trips["duration"])
        made[version] = save_bundle(model, folder / str(version), keep_lesson(trips), {"fleet": "demo", "synthetic": True})
    return made


@pytest.fixture
def shelf(home: Path, bundles: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    "The versions where promotions leave them; version 1 is champion."
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for version, folder in bundles.items():
        shutil.copytree(folder, home / "champions" / NAME / str(version))
    history.promote(NAME, 1, "the first", by="ada")
    return home / "champions" / NAME


# --- starting and stopping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "error", "says"), [
    ({"challenger": 2}, BadParameter, "a number between 0 and 1 such as 0.2, or shadow for none"),
    ({"challenger": 2, "share": 1.0}, BadParameter, "between 0 and 1 such as 0.2, not 1.0"),
    ({"challenger": 2, "share": 0}, BadParameter, "not 0"),
    ({"challenger": 2, "share": float("nan")}, BadParameter, "not nan"),
    ({"challenger": 2, "share": 0.2, "shadow": True}, BadParameter, "either a share or shadow"),
    ({"challenger": 0, "shadow": True}, BadParameter, "whole number from 1"),
    ({"challenger": "2", "shadow": True}, BadParameter, "whole number from 1"),
    ({"challenger": 1, "shadow": True}, Refused, "version 1 is the champion"),
    ({"challenger": 2, "shadow": True, "regime": "metered"}, Refused, "ride-duration-demo-metered has no champion"),
    ({"challenger": 2, "shadow": True, "regime": "both"}, BadParameter, "there is no regime 'both'"),
    ({"challenger": 3, "shadow": True}, BadParameter, "is a metered model of demo taxis"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_one_line(shelf: Path, asked: dict, error: type, says: str):
    with pytest.raises(error) as refused:
        start("demo", **asked)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert experiment.experiments() == []


def test_a_challenger_that_does_not_load_never_begins(shelf: Path):
    (shelf / "2" / "low.txt").write_text("tree\n")
    with pytest.raises(BrokenBundle, match=r"low\.txt was changed or damaged"):
        start("demo", 2, 0.2)
    assert running("demo") is None


def test_a_version_that_the_registry_does_not_have_is_no_challenger(shelf: Path):
    with pytest.raises(NoModel, match="MLflow has no version 9 of ride-duration-demo"):
        start("demo", 9, 0.2)


def test_words_of_people_become_one_line(shelf: Path):
    begun = start("demo", 2, 0.2, why=" is it\nbetter?\x1b ", by="ada\n")
    assert (begun.why, begun.by) == ("is it better?", "ada")
    assert stop("demo", why="\n").stopped_why == "stopped by hand"


def test_an_experiment_ends_with_its_champion_and_stays_ended(shelf: Path):
    first = start("demo", 2, shadow=True)
    assert running("demo") == first and why_over(first) is None
    history.promote(NAME, 2, "better", by="bob")
    assert running("demo") is None
    assert "version 1 was replaced: version 2 is champion since" in why_over(first)
    with pytest.raises(Refused, match="version 2 is the champion"):
        start("demo", 2, 0.5)
    history.rollback(NAME, "slower", by="bob")
    assert running("demo") is None and "version 1 is champion since" in why_over(first)
    second = start("demo", 2, 0.5)
    assert running("demo") == second and second.salt != first.salt
    assert "version 1 was replaced" in experiment.experiments("demo")[0].stopped_why


def test_the_same_fleet_in_the_other_regime_is_its_own_affair(shelf: Path):
    history.promote(f"{NAME}-metered", 4, "the first")
    shutil.copytree(shelf / "3", shelf.parent / f"{NAME}-metered" / "3")
    booking, metered = start("demo", 2, 0.2), start("demo", 3, 0.2, regime="metered")
    assert (running("demo"), running("demo", "metered")) == (booking, metered)
    stop("demo")
    assert (running("demo"), running("demo", "metered")) == (None, metered)


def _start_or_why_not(number: int) -> str:
    try:
        return f"started {start('demo', 2, 0.2, by=f'starter {number}').by}"
    except Refused as error:
        return str(error)


def test_of_starters_at_once_one_wins_and_the_others_are_told_who(shelf: Path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        told = pool.map(_start_or_why_not, range(4), chunksize=1)
    won = [text for text in told if text.startswith("started")]
    assert len(won) == 1 and len(experiment.experiments()) == 1
    assert sum(won[0].removeprefix("started ") in text and "one experiment at a time" in text for text in told) == 3


def test_a_rival_that_looked_before_the_winner_wrote_is_refused_by_the_file(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    load = experiment.load_bundle

    def overtaken(folder: Path):
        monkeypatch.setattr(experiment, "load_bundle", load)
        start("demo", 2, shadow=True, by="bob")
        return load(folder)

    monkeypatch.setattr(experiment, "load_bundle", overtaken)
    with pytest.raises(Refused, match="bob"):
        start("demo", 2, 0.2, by="ada")
    assert [begun.by for begun in experiment.experiments()] == ["bob"]


def test_the_database_itself_keeps_a_second_experiment_and_a_rewrite_out(shelf: Path):
    start("demo", 2, 0.2)
    copy = "SELECT fleet, regime, kind, champion, crowned, challenger, share, 'other salt', started_at, by, why FROM experiment"
    names = "fleet, regime, kind, champion, crowned, challenger, share, salt, started_at, by, why"
    with sqlite3.connect(experiment._file()) as raw:
        for statement, says in (
            (f"INSERT INTO experiment ({names}) {copy}", "one experiment at a time"),
            ("UPDATE experiment SET share = 0.9", "not rewritten"),
            ("DELETE FROM experiment", "not rewritten"),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=says):
                raw.execute(statement)
    raw.close()


def test_looks_while_others_write_always_see_a_whole_experiment(shelf: Path):
    def look(_: int) -> set:
        return {known and known.challenger for known in (running("demo") for _ in range(30))}

    with ThreadPoolExecutor(3) as pool:
        looks = pool.map(look, range(3))
        for _ in range(4):
            start("demo", 2, 0.2)
            stop("demo")
        assert set().union(*looks) <= {None, 2}


def test_a_damaged_file_is_one_clear_line(home: Path):
    home.mkdir()
    (home / "experiments.sqlite").write_bytes(b"something else" * 500)
    with pytest.raises(BrokenDatabase, match=r"experiments\.sqlite is damaged"):
        running("demo")


# --- assignment ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(share=some.floats(0.01, 0.99), salt=some.binary(min_size=16, max_size=16), prefix=some.text(max_size=8))
def test_the_share_is_met_whatever_the_ids_look_like(share: float, salt: bytes, prefix: str):
    drawn = replace(SPLIT, share=share, salt=salt.hex())
    hits = sum(assigned(drawn, f"{prefix}{number}") == "challenger" for number in range(2000))
    assert stats.binomtest(hits, 2000, share).pvalue > 1e-6  # one in 40,000 runs would fail by chance


@settings(max_examples=15, deadline=None)
@given(shares=some.tuples(some.floats(0.2, 0.8), some.floats(0.2, 0.8)), salts=some.lists(some.binary(min_size=16, max_size=16), min_size=2, max_size=2, unique=True))
def test_another_salt_draws_independently(shares: tuple, salts: list):
    one, other = (replace(SPLIT, share=share, salt=salt.hex()) for share, salt in zip(shares, salts, strict=True))
    table = np.zeros((2, 2))
    for number in range(2000):
        table[assigned(one, f"ride-{number}") == "challenger", assigned(other, f"ride-{number}") == "challenger"] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-6


@given(ride=some.text(), share=some.floats(0.01, 0.98))
def test_a_ride_stays_where_it_is_and_a_larger_share_only_adds(ride: str, share: float):
    small, large = replace(SPLIT, share=share), replace(SPLIT, share=share + 0.01)
    assert assigned(small, ride) == assigned(small, ride)
    assert assigned(small, ride) == "champion" or assigned(large, ride) == "challenger"


def test_hashes_are_even_over_the_whole_range():
    shares = np.linspace(0.05, 0.95, 19)
    hits = [sum(assigned(replace(SPLIT, share=share), f"{n:08x}") == "challenger" for n in range(4000)) for share in shares]
    assert stats.chisquare(np.diff([0, *hits, 4000])).pvalue > 1e-4


# --- what looking every day does to chance ---------------------------------------------------------------------------


@pytest.mark.parametrize("world", [world for world in power.WORLDS if world.promised], ids=lambda world: f"{world.says}-{world.kind}")
def test_false_alarms_stay_below_five_percent_however_often_one_looks(world):
    first = power.in_batches(world, 400, 75, 40, 0.0, 7, ["sequence", "t-test, days"])
    alarms = {method: int(np.isfinite(days).sum()) for method, days in first.items()}
    assert power.upper(alarms["sequence"], 400) < 0.05, alarms
    assert alarms["t-test, days"] > 0.2 * 400, alarms  # what the same looks do to who does not mind them


def test_rides_of_a_day_are_not_independent_and_a_test_that_thinks_so_is_always_sure():
    first = power.in_batches(power.WORLDS[5], 200, 60, 40, 0.0, 8, ["t-test, rides"])["t-test, rides"]
    assert np.isfinite(first).mean() > 0.7


def test_a_difference_is_found():
    shadow, split = power.WORLDS[0], power.WORLDS[1]
    found = power.in_batches(shadow, 200, 28, 60, 0.25, 9, ["sequence"])["sequence"]
    assert np.isfinite(found).mean() > 0.9
    assert np.isfinite(power.in_batches(split, 200, 28, 60, 1.25, 9, ["sequence"])["sequence"]).mean() > 0.9
    assert np.isfinite(power.in_batches(split, 200, 28, 60, 0.25, 9, ["sequence"])["sequence"]).mean() < 0.2  # shadow sees finer


def test_the_first_hours_stop_no_challenger_that_only_had_a_bad_day():
    random, stopped = np.random.default_rng(5), np.zeros(400, bool)
    sums = power.draw(random, power.World("hours", tail=1.5), 400, 72, 30)
    bad_days = np.repeat(random.normal(0, 0.25, (400, 3)), 24, axis=1) * sums.count[..., 1]
    for hour in range(2, 73):
        totals = sums.total[:, :hour, 0], (sums.total[..., 1] + bad_days)[:, :hour]
        stopped |= block_difference(tuple(sums.count[:, :hour, arm] for arm in (0, 1)), totals).interval(0.99)[0] > 0.5
    assert power.upper(int(stopped.sum()), 400) < 0.02


def test_what_is_found_lies_where_it_should():
    sums = power.draw(np.random.default_rng(3), power.WORLDS[8], 300, 60, 40, gain=0.3)
    ever_outside = np.zeros(300, bool)
    for day in range(2, 61):
        low, high = block_difference(tuple(sums.count[:, :day, arm] for arm in (0, 1)), tuple(sums.total[:, :day, arm] for arm in (0, 1))).interval()
        ever_outside |= (low > -0.3) | (high < -0.3)
    assert power.upper(int(ever_outside.sum()), 300) < 0.05


def test_shares_that_are_right_seldom_alarm_and_wrong_ones_do():
    random = np.random.default_rng(4)
    drawn = np.cumsum(random.random((400, 3000)) < 0.2, axis=1)
    looks = range(100, 3000, 100)
    alarms = sum(any(share_p_value(int(row[look - 1]), look, 0.2) < 0.01 for look in looks) for row in drawn)
    assert power.upper(alarms, 400) < 0.03
    lost = np.cumsum(random.random((50, 20_000)) < 0.19, axis=1)[:, -1]  # one in twenty of the challenger's rides
    assert np.mean([share_p_value(int(count), 20_000, 0.2) < 0.01 for count in lost]) > 0.3


def test_a_single_enormous_day_does_not_pass_for_many():
    many = block_mean(np.full(40, 100.0), np.full(40, 100.0) + np.arange(40) % 2)
    one = block_mean(np.append(np.full(39, 1.0), 1e6), np.append(np.full(39, 1.0), 1e6))
    assert many.blocks > 15 and one.blocks < 1.1 and not np.isfinite(one.interval()).any()


# --- from the log to the verdict -------------------------------------------------------------------------------------


def _logged(begun: Experiment, bundles: dict[int, Path], days: int, a_day: int) -> Iterator[tuple[Answered, float]]:
    "What a service would have logged: real answers of real models, and how long the rides took (made up)."
    models = {version: load_bundle(bundles[version]) for version in (begun.champion, begun.challenger)}
    for number in range(days * a_day):
        at = begun.started_at + timedelta(days=number // a_day, seconds=86_000 * (number % a_day) / a_day)
        ride, when = f"ride-{number}", at.replace(tzinfo=None) - timedelta(hours=4)
        pickup, dropoff = 1 + number % 20, 1 + (7 * number) % 20
        arm = assigned(begun, ride)
        said = {version: model.answer(pickup, dropoff, np.datetime64(when)) for version, model in models.items()}
        version = begun.challenger if arm == "challenger" else begun.champion
        own, other = said[version], said[begun.challenger]
        shadow = (str(begun.challenger), other["minutes"], other["low"], other["high"]) if begun.kind == "shadow" else (None,) * 4
        truth = min(max(said[2]["minutes"] + (number * 37 % 11 - 5) * 0.3, 1.5), 59)  # version 2 is right on average
        yield Answered(ride, at, "demo", "booking", str(version), arm, pickup, dropoff, when, None, own["minutes"], own["low"], own["high"], (), *shadow, 1.0, begun.id), truth


@pytest.fixture
def answered(shelf: Path, bundles: dict[int, Path]) -> Experiment:
    "An experiment in shadow of forty days ago, with its rides in the log."
    begun = start("demo", 2, shadow=True, by="ada", clock=lambda: datetime.now(UTC) - timedelta(days=40))
    rows = list(_logged(begun, bundles, 30, 20))
    with open_log() as log:
        log.write([answer for answer, _ in rows])
        for answer, minutes in rows:
            log.complete(answer.ride_id, minutes, answer.answered_at + timedelta(minutes=minutes))
    return begun


def test_status_reads_the_log_and_says_what_to_do(answered: Experiment, run):
    told = run("experiment", "status", "--fleet", "demo")
    assert told.returncode == 0, told.stderr
    assert "version 2 is in the shadow of version 1" in told.stdout
    assert "Version 2 is better than version 1: it is off by" in told.stdout
    assert "What to do: promote it, with ride-duration promote 2 --fleet demo" in told.stdout
    found = json.loads(CliRunner().invoke(app, ["experiment", "status", "--fleet", "demo", "--json", "--rmse"]).stdout)
    assert (found["over"], found["verdict"]["found"], found["verdict"]["champion"]["counted"]) == (None, "better", 600)
    assert found["verdict"]["measure"] == "squared" and found["verdict"]["high"] < 0


def test_the_verdict_is_that_of_the_rides_themselves(answered: Experiment):
    with open_log() as log:
        found = verdict(answered, log.read(columns=COLUMNS, experiment=answered.id, rows=37))
        frame = pd.concat(log.read())
    off = [(np.abs(frame[name] - frame["completed_minutes"])).mean() for name in ("minutes", "shadow_minutes")]
    assert (found.champion.error, found.challenger.error, found.difference) == pytest.approx((*off, off[1] - off[0]))
    assert found.challenger.coverage == pytest.approx(frame["completed_minutes"].between(frame["shadow_low"], frame["shadow_high"]).mean())
    assert found.challenger.version == 2 and found.unfair == ()


def test_status_tells_the_state_where_there_is_no_log(shelf: Path):
    for words, error, says in (
        (("status",), None, "never had an experiment"),
        (("start", "--challenger", "2"), BadParameter, "a number between 0 and 1"),
        (("start", "--challenger", "2", "--share", "0.2", "--why", "a trial"), None, "version 2 answers 0.2 of the rides beside version 1"),
        (("start", "--challenger", "2", "--shadow"), Refused, "one experiment at a time"),
        (("status",), LogUnavailable, "version 2 answers 0.2 of the rides"),
        (("stop", "--why", "enough"), None, "(enough)"),
        (("stop",), Refused, "the last one was stopped"),
        (("status", "--number", "4"), BadParameter, "had no experiment 4"),
    ):
        told = CliRunner().invoke(app, ["experiment", *words, "--fleet", "demo"])
        assert type(told.exception) is (error or type(None)), (words, told.exception)
        assert says in f"{told.stdout}{told.exception}", (words, told.stdout, told.exception)


def test_a_refusal_is_one_line_and_an_exit_code(shelf: Path, run):
    told = run("experiment", "start", "--challenger", "1", "--shadow", "--fleet", "demo")
    assert (told.returncode, told.stdout) == (29, "")
    assert told.stderr == "ride-duration: ride-duration-demo: version 1 is the champion: compare another version with it\n"


# --- many rides, and rides that are missing --------------------------------------------------------------------------


def _frame(random: np.random.Generator, rides: int, day: int, days: int = 1) -> pd.DataFrame:
    at = pd.Timestamp("2023-05-01 05:00", tz="UTC") + pd.to_timedelta(day * 86_400 + random.integers(0, 80_000, rides) + 86_400 * random.integers(0, days, rides), unit="s")
    actual, challenger = random.uniform(5, 40, rides), random.random(rides) < SPLIT.share
    return pd.DataFrame({
        "experiment": pd.array([1] * rides, "Int64"), "version": np.where(challenger, "2", "1"), "variant": np.where(challenger, "challenger", "champion"),
        "answered_at": at, "pickup_at": (at - pd.Timedelta(hours=4)).tz_localize(None), "minutes": actual + random.laplace(0, 3, rides), "low": actual - 5, "high": actual + 5,
        "shadow_version": pd.array([None] * rides, "str"), "shadow_minutes": np.nan, "shadow_low": np.nan, "shadow_high": np.nan,
        "completed_minutes": actual, "completed_at": at + pd.to_timedelta(actual, unit="min"),
    })  # fmt: skip


def test_a_million_rides_take_the_memory_of_a_few():
    frame = _frame(np.random.default_rng(5), 50_000, 0, days=120)
    tally(SPLIT, [frame])  # whatever is imported or cached on first use
    peaks = []
    for pieces in (2, 20):
        tracemalloc.start()
        found = tally(SPLIT, (frame for _ in range(pieces)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.total("champion", "rides") + found.total("challenger", "rides") == pieces * 50_000
    assert peaks[1] < 1.2 * peaks[0] < 100e6


def test_missing_rides_do_not_favour_an_arm_unseen():
    random = np.random.default_rng(6)
    frames = [_frame(random, 1500, day) for day in range(40)]
    fair = verdict(SPLIT, frames)
    assert (fair.found, fair.unfair) == ("open", ())
    for frame in frames:  # the challenger's worst third is never told of
        bad = (frame["variant"] == "challenger") & ((frame["minutes"] - frame["completed_minutes"]).abs() > 3.3)
        frame["completed_at"] = frame["completed_at"].mask(bad)
    favoured = verdict(SPLIT, frames)
    assert favoured.found == "better" and favoured.action == "stop"
    assert any("change which rides are completed" in reason for reason in favoured.unfair)


def test_what_is_told_late_does_not_count_and_what_is_not_due_waits():
    frame = _frame(np.random.default_rng(7), 1000, 0)
    late = frame.assign(completed_at=frame["completed_at"] + pd.Timedelta(days=2))
    assert tally(SPLIT, [late]).total("champion", "counted") == 0
    soon = tally(SPLIT, [frame], now=frame["completed_at"].max().ceil("s").to_pydatetime())
    assert (soon.total("champion", "due"), soon.total("champion", "rides") > 0) == (0, True)


def test_a_challenger_that_is_far_off_is_stopped_on_its_first_day_and_a_luckless_one_is_not():
    random = np.random.default_rng(8)
    frame = _frame(random, 3000, 0)
    far = frame.assign(minutes=frame["minutes"] + np.where(frame["variant"] == "challenger", 6, 0))
    assert (verdict(SPLIT, [far]).found, verdict(SPLIT, [far]).early) == ("worse", True)
    much_better = frame.assign(minutes=frame["minutes"] + np.where(frame["variant"] == "champion", 6, 0))
    assert verdict(SPLIT, [much_better]).found == "open"  # a day is not enough for a promotion
    assert not any(verdict(SPLIT, [_frame(random, 600, 0)]).early for _ in range(30))
