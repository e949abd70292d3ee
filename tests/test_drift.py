"""A month held against what its model has learnt from: stable months are quiet, each fault is named in the first month it appears, and errors are foretold or doubted."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import (
    CLOSED,
    FAULTS,
    clock_shift,
    closed_zone,
    collapse,
    doubled_days,
    kilometres,
    longer,
    shock_month,
    swapped_zones,
    write,
)

from ride_duration.data.demo import SHOCK_MONTH, demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import NoCleanTrips
from ride_duration.model.bundle import keep_lesson, load_bundle, save_bundle
from ride_duration.model.features import SEASON
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.profile import Profile, profile_trips
from ride_duration.model.promise import judge_trips
from ride_duration.model.ride_model import RideModel
from ride_duration.ops.diagnosis import Diagnosis, diagnose
from ride_duration.ops.drift import measure_drift
from ride_duration.ops.expected_error import Kept, Record, doubts_about, estimate_error
from ride_duration.ops.limits import Limits
from ride_duration.ops.performance import CHAMPION, add_seed, judge_month, measure_performance, performance_findings
from ride_duration.ops.survey import Survey, survey_month
from ride_duration.ops.volume import measure_volume

TRIPS, MAY = 20_000, Month(2023, 5)
Look = Callable[..., Diagnosis]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("months")


def surveyed(folder: Path, table: pa.Table, month: Month, reference: Profile | None = None) -> Survey:
    return survey_month(write(table, folder / "month.parquet"), "demo", month, reference)


@pytest.fixture(scope="session")
def april(folder: Path) -> Survey:
    return surveyed(folder, demo_month(Month(2023, 4), TRIPS), Month(2023, 4))


@pytest.fixture(scope="session")
def may() -> pa.Table:
    return demo_month(MAY, TRIPS)


@pytest.fixture
def look(folder: Path, april: Survey) -> Look:
    def looked_at(table: pa.Table, month: Month = MAY, reference: Profile = april.profile) -> Diagnosis:
        return diagnose(reference, surveyed(folder, table, month, reference), zone_table("demo"), None, april.columns)

    return looked_at


def alarms(diagnosis: Diagnosis) -> list[str]:
    return [one.kind for one in diagnosis.findings if one.severity != "ignore"]


# Stable months


@pytest.mark.parametrize("month", [Month(2023, 5), Month(2023, 6), Month(2023, 9), Month(2023, 12), Month(2024, 2)], ids=str)
def test_a_stable_month_is_quiet(look, month):
    "Also one of 28 days, or eight months later, when streets are a little slower."
    assert alarms(look(demo_month(month, TRIPS), month)) == []


@pytest.mark.parametrize("trips", [1_500, 5_000, 60_000])
def test_small_samples_are_given_the_leeway_they_need(folder, trips):
    reference = surveyed(folder, demo_month(Month(2023, 4), trips), Month(2023, 4)).profile
    survey = surveyed(folder, demo_month(MAY, trips), MAY, reference)
    assert alarms(diagnose(reference, survey, zone_table("demo"))) == []


def test_a_sample_of_the_same_month_is_as_usual(look, may):
    "But for its volume: nothing in the sample itself is unlike."
    found = look(may.take(np.sort(np.random.default_rng(1).permutation(len(may))[:2_000])))
    assert set(alarms(found)) <= {"half_file", "volume_collapse"}
    assert all(one.level() == "as usual" for one in found.drifted)


def test_several_training_months(look, folder):
    months = [Month(2023, 2), Month(2023, 3), Month(2023, 4)]
    reference = reduce(add, (surveyed(folder, demo_month(month, TRIPS), month).profile for month in months))
    assert len(reference.days) == 89
    assert alarms(look(demo_month(MAY, TRIPS), reference=reference)) == []


# Faults


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_in_its_first_month(look, may, name):
    fault = FAULTS[name]
    diagnosis = look(fault.damage(may))
    assert alarms(diagnosis) == [fault.kind], diagnosis


def test_the_shock_is_named_and_placed(look):
    (shock, *others) = (one for one in look(shock_month(TRIPS), SHOCK_MONTH).findings if one.severity != "ignore")
    assert (shock.kind, shock.action, shock.since) == ("traffic_shock", "retrain", "2023-10")
    assert "Northside" in shock.says and "Southbank" in shock.says, "the bridge between them is closed"
    assert shock.size > 4 and shock.unit == "minutes a ride"
    assert {one.kind for one in others} <= {"volume_change"}


@pytest.mark.parametrize(
    ("damage", "since"),
    [
        (lambda table: collapse(table, first=18), "2023-05-18"),
        (lambda table: _from(table, 12, longer), "2023-05-12"),
        (lambda table: _from(table, 20, kilometres), "2023-05-20"),
        (lambda table: _from(table, 15, clock_shift), "2023-05-15"),
        (lambda table: _from(table, 10, closed_zone), "2023-05-10"),
        (doubled_days, "2023-05-08"),
    ],
    ids=["collapse", "longer", "kilometres", "clock", "zone", "doubled"],
)
def test_it_is_said_since_when(look, may, damage, since):
    found = [one for one in look(damage(may)).findings if one.severity != "ignore"]
    assert len(found) == 1
    assert abs(np.datetime64(found[0].since) - np.datetime64(since)) <= np.timedelta64(3, "D"), found


def _from(table: pa.Table, day: int, fault: Callable[[pa.Table], pa.Table]) -> pa.Table:
    "A fault that begins on a day of May."
    early = table["lpep_pickup_datetime"].to_numpy() < np.datetime64(f"2023-05-{day:02}")
    return pa.concat_tables([table.filter(pa.array(early)), fault(table.filter(pa.array(~early)))])


@pytest.mark.parametrize("hours", [-5, -1, 2, 4])
def test_clocks_that_are_off_by_other_amounts(look, may, hours):
    (found,) = (one for one in look(clock_shift(may, hours)).findings if one.severity != "ignore")
    assert (found.kind, found.evidence["hours"]) == ("clock_shift", hours)


def test_shorter_rides_are_no_shock(look, may):
    (found,) = look(longer(may, 0.9)).findings
    assert (found.kind, found.severity) == ("duration_shift", "watch") and found.size < 0


def test_two_faults_at_once_are_both_told(look, may):
    assert set(alarms(look(kilometres(closed_zone(may))))) == {"unit_change", "zone_closed"}
    assert set(alarms(look(FAULTS["missing day"].damage(swapped_zones(may))))) == {"swapped_zones", "missing_day"}


def test_what_follows_is_set_aside(look, may):
    diagnosis = look(kilometres(may))
    assert [(one.kind, one.subject) for one in diagnosis.follows] == [("feature_shift", "distance")]


def test_the_closed_zone_has_a_name(look, may):
    (found,) = look(closed_zone(may)).findings
    assert found.subject == f"zone {CLOSED}" and zone_table("demo")["Zone"][CLOSED] in found.says


# The survey


def test_a_survey_does_not_depend_on_its_batches(folder, april, may, monkeypatch):
    whole = surveyed(folder, may, MAY, april.profile)
    monkeypatch.setattr("ride_duration.ops.survey._AT_ONCE", 3_000)
    pq.write_table(may, folder / "month.parquet", row_group_size=1_000)
    parts = survey_month(folder / "month.parquet", "demo", MAY, april.profile)
    for name, values in vars(whole.profile).items():
        np.testing.assert_allclose(getattr(parts.profile, name), values, rtol=1e-9)
    np.testing.assert_allclose(parts.moved.by_day, whole.moved.by_day, rtol=1e-9, atol=1e-9)
    assert parts.repeated == whole.repeated


def test_a_survey_counts_what_training_counts(folder, may):
    survey, (trips, account) = surveyed(folder, may, MAY), read_trips(folder / "month.parquet", "demo", MAY)
    assert survey.account == account
    of_trips = profile_trips(trips)
    for name in ("by_zone", "by_block", "by_pair", "minutes", "miles"):
        np.testing.assert_allclose(getattr(survey.profile, name), getattr(of_trips, name))


def test_odd_months_do_not_break_it(folder, april, may):
    zones = zone_table("demo")
    one_day = may.filter(pa.array(may["lpep_pickup_datetime"].to_numpy().astype("datetime64[D]") == np.datetime64("2023-05-03")))
    assert "cut_off" in alarms(diagnose(april.profile, surveyed(folder, one_day, MAY, april.profile), zones))
    learnt_from_a_day = surveyed(folder, one_day, MAY).profile
    diagnose(learnt_from_a_day, surveyed(folder, may, MAY, learnt_from_a_day), zones)
    few = surveyed(folder, may.slice(0, 30), MAY, april.profile)
    diagnose(april.profile, few, zones)
    nothing = zones.assign(Borough="Unknown", Zone=[f"zone {number}" for number in zones.index])
    assert alarms(diagnose(april.profile, surveyed(folder, may, MAY, april.profile), nothing)) == []
    with pytest.raises(NoCleanTrips):
        surveyed(folder, longer(may, 0.0), MAY)


def test_drift_needs_no_durations(april, may, folder):
    "A window of the prediction log, whose rides are not over."
    trips, _ = read_trips(write(may, folder / "month.parquet"), "demo", MAY)
    found = measure_drift(april.profile, profile_trips(trips[["pickup_at", "PULocationID", "DOLocationID"]]))
    assert [one.feature for one in found] == ["hour of pickup", "pickup zone", "drop-off zone", "pair of zones"]
    assert all(one.level() == "as usual" for one in found)


# The champion on a new month


@pytest.fixture(scope="session")
def champion(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RideModel:
    "Trained on April, judged on May, with few trees."
    paths = [write(demo_month(month, TRIPS), folder / f"{month}.parquet") for month in (Month(2023, 4), MAY)]
    (april, _), (may, _) = (read_trips(path, "demo", month) for path, month in zip(paths, (Month(2023, 4), MAY), strict=True))
    model = RangedBoosted(zone_table("demo"), trees=60, learning_rate=0.1, threads=1).fit(april, april["duration"])
    judged = may.assign(**dict(zip(("boosted", "boosted_low", "boosted_high"), model.predict_with_interval(may), strict=True)))
    lesson = keep_lesson(april, survey_month(paths[0], "demo", Month(2023, 4)).profile, judge_trips(judged, "boosted"))
    about = {"fleet": "demo", "synthetic": True, "train": ["2023-04"], "val": "2023-05"}
    return load_bundle(save_bundle(model, tmp_path_factory.mktemp("bundle") / "champion", lesson, about))


class Fetched:
    "Where a month is, as far as anybody asks."

    def __init__(self, path: Path, rows: int = 0):
        self.path, self.rows, self.is_synthetic = path, rows, True


@pytest.fixture
def fetch(folder: Path):
    def fetched(fleet: str, month: Month, source: object) -> Fetched:
        table = demo_month(month, TRIPS)
        return Fetched(write(table, folder / f"fetched-{month}.parquet"), len(table))

    return fetched


def judged_on(champion: RideModel, month: Month, fetch) -> pd.DataFrame:
    return add_seed(champion, judge_month(champion, month, fetch=fetch), fetch=fetch)


@pytest.mark.parametrize("month", [Month(2023, 6), Month(2023, 8)], ids=str)
def test_a_promise_is_kept_on_a_stable_month(champion, fetch, month):
    performance = measure_performance(champion, judged_on(champion, month, fetch), month)
    assert performance_findings(performance) == []
    ratio, low, high = performance.growth
    assert low < 1 < high and 0.9 < ratio < 1.1
    assert performance.against_seed.is_better


def test_the_shock_breaks_every_promise(champion, fetch):
    performance = measure_performance(champion, judged_on(champion, SHOCK_MONTH, fetch), SHOCK_MONTH)
    found = {one.kind: one for one in performance_findings(performance)}
    assert {"error_growth", "coverage_loss", "bias"} <= set(found)
    assert found["error_growth"].action == "retrain" and found["error_growth"].unit == "minutes" and found["error_growth"].size > 3
    assert "too short" in found["bias"].says


def test_a_champion_that_is_worse_than_the_seed_is_rolled_back(champion, fetch):
    judged = judged_on(champion, Month(2023, 6), fetch)
    lost = judged.assign(**{CHAMPION: judged[CHAMPION].mean()})
    assert "worse_than_seed" in [one.kind for one in performance_findings(measure_performance(champion, lost, Month(2023, 6)))]


def test_a_broken_slice_is_found_among_good_ones(champion, fetch):
    judged = judged_on(champion, Month(2023, 6), fetch)
    airports = judged["PULocationID"].isin([71, 72])
    worse = judged.assign(**{CHAMPION: judged[CHAMPION] + np.where(airports, 9.0, 0.0)})
    found = {one.kind: one for one in performance_findings(measure_performance(champion, worse, Month(2023, 6)))}
    assert found["slice_error"].subject == "from Airports" and "zone 7" in found["bias"].says


def test_rides_are_sampled_evenly(champion, fetch):
    judged = judge_month(champion, Month(2023, 6), fetch=fetch, most=5_000)
    assert 3_000 < len(judged) < 5_200 and judged["pickup_at"].dt.day.nunique() == 30


def test_the_error_is_foretold_or_doubted(champion, fetch):
    record = []
    for month in (Month(2023, 6), Month(2023, 7), Month(2023, 8), Month(2024, 1), SHOCK_MONTH):
        judged = judge_month(champion, month, fetch=fetch)
        survey = survey_month(fetch("demo", month, None).path, "demo", month, champion.profile)
        doubts = doubts_about(champion.profile, survey.profile, measure_volume(champion.profile, survey), Record(tuple(record)))
        estimate = estimate_error(champion.promise, (judged[f"{CHAMPION}_high"] - judged[f"{CHAMPION}_low"]).to_numpy(), doubts, Record(tuple(record)))
        record.append(estimate.kept(str(month), float(np.sqrt(((judged[CHAMPION] - judged["duration"]) ** 2).mean()))))
    assert [one.believed for one in record] == [True] * 4 + [False]
    assert max(abs(one.off) for one in record[:4]) < 0.1 < abs(record[4].off)
    assert Record(tuple(record)).within == 4 and Record(tuple(record)).is_good


def test_a_collapse_is_doubted(champion, folder):
    survey = surveyed(folder, collapse(demo_month(Month(2023, 6), TRIPS)), Month(2023, 6), champion.profile)
    assert any("times as many rides" in doubt for doubt in doubts_about(champion.profile, survey.profile, measure_volume(champion.profile, survey)))


def test_estimates_that_were_wrong_are_held_against_the_next(champion):
    bad = Record(tuple(Kept(f"2023-0{month}", 4.0, 6.0) for month in range(1, 5)))
    estimate = estimate_error(champion.promise, np.full(100, 10.0), doubts_about(champion.profile, champion.profile, record=bad), bad)
    assert not estimate.is_believed and "earlier estimates were wrong" in str(estimate)


def test_a_model_that_was_never_judged_promises_nothing(champion):
    nothing = replace(champion.promise, **{name: values * 0 for name, values in vars(champion.promise).items()})
    estimate = estimate_error(nothing, np.full(100, 10.0))
    assert not estimate.is_believed and np.isnan(estimate.rmse)


def test_a_promise_made_on_the_shock_is_doubted(champion, fetch):
    shaken = judge_trips(judge_month(champion, SHOCK_MONTH, fetch=fetch), CHAMPION)
    assert not estimate_error(champion.promise, np.full(100, 10.0)).doubts
    estimate = estimate_error(shaken, np.full(100, 10.0))
    assert len(estimate.doubts) == 1 and f"{shaken.inside:.1%} of its rides ended inside their 80% ranges" in str(estimate)
    assert not estimate_error(shaken, np.full(100, 10.0), limits=Limits(promised_coverage=0.5)).doubts
    few = replace(shaken, by_day=shaken.by_day * 10 / shaken.rides)
    assert few.rides == 10 and not estimate_error(few, np.full(100, 10.0)).doubts, "of ten rides four is chance"


# Real months


@pytest.fixture
def green(mirror) -> Callable[[str], Path]:
    return lambda month: mirror / "trip-data" / f"green_tripdata_{month}.parquet"


def real(green, month: str, before: str, mirror: Path, damage: Callable[[pa.Table], pa.Table] | None = None, folder: Path | None = None) -> Diagnosis:
    reference = survey_month(green(before), "green", Month(*map(int, before.split("-"))))
    path = write(damage(pq.read_table(green(month))), folder / "real.parquet") if damage else green(month)
    survey = survey_month(path, "green", Month(*map(int, month.split("-"))), reference.profile)
    return diagnose(reference.profile, survey, zone_table("green", mirror), SEASON, reference.columns)


def test_real_months_are_as_usual(green, mirror):
    assert {month: alarms(real(green, f"2023-{month:02}", f"2023-{month - 1:02}", mirror)) for month in (2, 3, 6, 9, 12)} == {month: [] for month in (2, 3, 6, 9, 12)}


def test_the_blizzard_and_the_end_of_the_open(green, mirror):
    blizzard = real(green, "2021-02", "2021-01", mirror)
    assert alarms(blizzard) == [] and "2021-02-01 to 2021-02-02" in [one.subject for one in blizzard.findings]
    (tennis,) = real(green, "2023-10", "2023-09", mirror).findings
    assert (tennis.severity, tennis.subject) == ("watch", "pickup zone") and "Flushing Meadows" in tennis.says


def test_faults_in_a_real_month(green, mirror, tmp_path):
    for name in ("kilometres", "swapped zones", "clock shift", "longer rides", "doubled file", "half file", "missing day"):
        assert alarms(real(green, "2023-04", "2023-03", mirror, FAULTS[name].damage, tmp_path)) == [FAULTS[name].kind], name


@pytest.mark.parametrize("first", [1, 16])
def test_a_sudden_collapse_of_real_traffic(green, mirror, tmp_path, first):
    "Nine trips in ten are gone, and streets are empty."
    found = [one for one in real(green, "2023-04", "2023-03", mirror, lambda table: collapse(table, first=first), tmp_path).findings if one.severity == "act"]
    assert [one.kind for one in found] == ["volume_collapse"] and "collapsed" in found[0].says and "less long" in found[0].says
    assert found[0].since in ("2023-04", "2023-04-16", "2023-04-17")


@pytest.mark.parametrize(("month", "before"), [("2023-04", "2023-02"), ("2023-06", "2023-02")])
def test_a_real_month_that_lost_most_of_its_trips_on_a_day_is_one_clear_finding(green, mirror, tmp_path, month, before):
    "Six trips in seven are gone since the sixteenth, and the others are as they were."
    def thinned(table: pa.Table) -> pa.Table:
        after = table["lpep_pickup_datetime"].to_numpy() >= np.datetime64(f"{month}-16")
        return table.filter(pa.array(~after | (np.random.default_rng(0).random(len(table)) < 0.15)))

    (found,) = [one for one in real(green, month, before, mirror, thinned, tmp_path).findings if one.severity == "act"]
    assert (found.kind, found.since, found.action) == ("half_file", f"{month}-16", "repair data")
    assert "have collapsed" in found.says and "part of the file is missing" in found.says
