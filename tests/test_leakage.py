"""Nothing of the ride itself that is known too late, and nothing of the month it is judged on, reaches a model that answers when booking."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import LeakyFeature
from ride_duration.model.boosted import Boosted, held_out_places
from ride_duration.model.features import FEATURES, METERED, read_rides
from ride_duration.model.histories import day_folds, sum_pairs
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.ladder import LADDER
from ride_duration.ops.training import train

BOTH = ("booking", "metered")
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def month(folder, number: int) -> pd.DataFrame:
    path = folder / f"{number}.parquet"
    write_demo_month(path, Month(2023, number), 4000)
    return read_trips(path, "demo", Month(2023, number))[0]


@pytest.fixture(scope="module")
def trips(tmp_path_factory) -> pd.DataFrame:
    return month(tmp_path_factory.mktemp("train"), 1)


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> pd.DataFrame:
    return month(tmp_path_factory.mktemp("val"), 2)


@pytest.fixture(scope="module")
def fitted(trips) -> dict[str, RangedBoosted]:
    zones = zone_table("demo")
    return {regime: RangedBoosted(zones, regime, trees=30, threads=1).fit(trips, trips["duration"].to_numpy()) for regime in BOTH}


def learnt(model: RangedBoosted) -> tuple:
    return (model.places_.tobytes(), model.booster_.model_to_string(), model.margin_, *(bound.model_to_string() for bound in model.bounds_))


@QUICK
@given(seed=st.integers(0, 2**32 - 1), regime=st.sampled_from(BOTH))
def test_no_validation_row_changes_what_was_learnt(fitted, val, seed, regime):
    before, random = learnt(fitted[regime]), np.random.default_rng(seed)
    changed = val.assign(
        PULocationID=random.integers(1, 266, len(val)).astype("int16"),
        DOLocationID=random.integers(1, 266, len(val)).astype("int16"),
        trip_distance=random.exponential(30, len(val)),
        duration=random.uniform(1, 60, len(val)),
    )
    fitted[regime].predict_interval(changed)
    assert learnt(fitted[regime]) == before


def test_training_is_the_same_whatever_the_validation_month_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("RIDE_DURATION_HOME", str(tmp_path))
    rungs, quick = [name for name in LADDER if name.startswith(("boosted", "pair_time"))], {"trees": 20}
    first, second = (train("2023-01", val, "demo", models=rungs, settings=quick) for val in ("2023-02", "2023-10"))
    assert first.models["pair_time"].minutes_.tolist() == second.models["pair_time"].minutes_.tolist()
    for name in ("boosted", "boosted_metered"):
        assert learnt(first.models[name]) == learnt(second.models[name])


@QUICK
@given(value=st.one_of(st.floats(allow_nan=True), st.integers(-5, 500)), column=st.sampled_from(["trip_distance", "passenger_count", "duration"]))
def test_a_booking_answer_depends_on_nothing_known_later(fitted, val, value, column):
    few = val.head(50)
    expected = fitted["booking"].predict_interval(few)
    assert (fitted["booking"].predict_interval(few.assign(**{column: value})) == expected).all()
    assert (fitted["booking"].predict_interval(few[["pickup_at", "PULocationID", "DOLocationID"]]) == expected).all()


@pytest.mark.parametrize("late", [feature for feature in FEATURES.values() if feature.known == METERED], ids=lambda feature: feature.name)
def test_a_booking_model_made_from_what_is_known_later_is_refused(trips, late):
    model = Boosted(zone_table("demo"), features=["usual_minutes", late.name], trees=2)
    with pytest.raises(LeakyFeature, match="trip_distance"):
        model.fit(trips, trips["duration"].to_numpy())


def test_a_training_ride_does_not_see_itself(trips):
    rides, zones = read_rides(trips, "metered"), zone_table("demo")
    folds, duration = day_folds(rides.pickup_at), trips["duration"].to_numpy()
    changed, ride = duration.copy(), len(trips) // 2
    changed[ride] += 30
    own = folds[ride]
    before, after = (held_out_places(sum_pairs(rides.pairs, folds, minutes, rides.miles), zones) for minutes in (duration, changed))
    assert np.allclose(before[own], after[own], rtol=0, atol=1e-4, equal_nan=True), "its own group of days looks into the others alone"
    others = [fold for fold in range(len(before)) if fold != own]
    assert all(np.nanmax(np.abs(before[fold] - after[fold])) > 0.01 for fold in others), "the others do see it"


@pytest.mark.parametrize("regime", BOTH)
def test_the_same_bits_alone_in_a_frame_and_in_any_order(fitted, val, regime):
    together = fitted[regime].predict_interval(val)
    order = np.random.default_rng(0).permutation(len(val))
    assert (fitted[regime].predict_interval(val.iloc[order]) == together[order]).all()
    for row in range(0, len(val), 97):
        assert fitted[regime].predict_interval(val.iloc[[row]])[0].tolist() == together[row].tolist()
