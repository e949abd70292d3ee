"""Where the twelve factors of the season, those of its spread, and the belief in them, come from: made again from the sample they were made from."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MIRROR, REPOSITORY

from ride_duration.data.month import parse_months
from ride_duration.data.trips import load_trips
from ride_duration.data.zones import zone_table
from ride_duration.model.boosted import Boosted
from ride_duration.model.features import BELIEF, SEASON, SPREAD, SPREAD_2019, YEAR_2019

SAMPLE = Path(os.environ.get("RIDE_DURATION_YELLOW_SAMPLE", REPOSITORY.parent / "shared" / "tlc-yellow-sample"))
FOLDS = 5
NO_STREET_HAIL = [1, 132, 138, 264, 265]  # airports, where green taxis may not pick up, and unknown places
UPPER_MANHATTAN = [41, 42, 74, 75, 116, 120, 127, 128, 151, 152, 153, 166, 194, 243, 244]  # where they may


@pytest.fixture(scope="module")
def judged() -> pd.DataFrame:
    "The sample, with what a model without a season says of each ride, which had not seen its day."
    if not (SAMPLE / "trip-data").is_dir():
        pytest.skip("no mirror of yellow sample months: set RIDE_DURATION_YELLOW_SAMPLE to one to make the season again")
    if MIRROR is None:
        pytest.skip("no mirror of TLC's files, where the zones are: set RIDE_DURATION_SOURCE to one")
    trips = load_trips("yellow", parse_months("2019-01..2019-12"), SAMPLE).frame
    zones, duration, predicted = zone_table("green", MIRROR), trips["duration"].to_numpy(), np.empty(len(trips))
    fold = trips["pickup_at"].dt.day_of_year.to_numpy() % FOLDS
    model = Boosted(zones, trees=300)
    for own in range(FOLDS):
        predicted[fold == own] = model.fit(trips[fold != own], duration[fold != own]).predict(trips[fold == own])
    borough = zones["Borough"].reindex(trips["PULocationID"]).to_numpy()
    street_hail = ((borough != "Manhattan") | trips["PULocationID"].isin(UPPER_MANHATTAN)) & ~trips["PULocationID"].isin(NO_STREET_HAIL)
    return trips.assign(predicted=predicted, month=trips["pickup_at"].dt.month - 1, street_hail=street_hail)


def factors(judged: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    "How much longer rides took in each month than the model says, and the minutes it says in all."
    said = np.bincount(judged["month"], judged["predicted"])
    return np.bincount(judged["month"], judged["duration"]) / said, said


def test_the_season_of_2019_is_made_again(judged: pd.DataFrame):
    assert len(judged) > 110_000
    assert np.abs(factors(judged)[0] - YEAR_2019).max() < 0.01


def test_the_belief_is_measured_where_green_taxis_pick_up(judged: pd.DataFrame):
    "The slope of those rides' own factors on everybody's, both as logarithms."
    found, weight = factors(judged[judged["street_hail"]])
    slope, _ = np.polyfit(np.log(YEAR_2019), np.log(found), 1, w=np.sqrt(weight))
    assert judged["street_hail"].sum() > 6_000
    assert abs(slope - BELIEF) < 0.05, slope


def test_the_spread_of_2019_is_made_again(judged: pd.DataFrame):
    error = judged["duration"] / (judged["predicted"] * np.array(YEAR_2019)[judged["month"]])
    tenths = error.groupby(judged["month"]).quantile([0.1, 0.9]).unstack()
    width = (tenths[0.9] - tenths[0.1]).to_numpy()
    assert np.abs(width / width.mean() - SPREAD_2019).max() < 0.01


@pytest.mark.parametrize(("believed", "year"), [(SEASON, YEAR_2019), (SPREAD, SPREAD_2019)], ids=["season", "spread"])
def test_that_much_of_the_season_is_believed(believed: tuple, year: tuple):
    assert np.abs(np.array(believed) ** (1 / BELIEF) - year).max() < 2e-4
    assert abs(np.mean(year) - 1) < 0.01
