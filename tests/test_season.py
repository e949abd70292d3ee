"""Where the twelve factors of the season come from: made again from the sample they were made from."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from ride_duration.data.month import parse_months
from ride_duration.data.trips import load_trips
from ride_duration.data.zones import zone_table
from ride_duration.model.boosted import Boosted
from ride_duration.model.features import SEASON, YEAR_2019

SAMPLE = Path(os.environ.get("RIDE_DURATION_YELLOW_SAMPLE", REPOSITORY.parent / "shared" / "tlc-yellow-sample"))
FOLDS = 5


@pytest.mark.skipif(not (SAMPLE / "trip-data").is_dir(), reason="no mirror of yellow sample months: set RIDE_DURATION_YELLOW_SAMPLE to one to make the season again")
def test_the_season_of_2019_is_made_again(mirror):
    "How much longer rides took in each month than a model without a season, which had not seen those days, says of them."
    trips = load_trips("yellow", parse_months("2019-01..2019-12"), SAMPLE).frame
    duration, predicted = trips["duration"].to_numpy(), np.empty(len(trips))
    fold = trips["pickup_at"].dt.dayofyear.to_numpy() % FOLDS
    model = Boosted(zone_table("green", mirror), trees=300)
    for own in range(FOLDS):
        predicted[fold == own] = model.fit(trips[fold != own], duration[fold != own]).predict(trips[fold == own])
    month = trips["pickup_at"].dt.month.to_numpy() - 1
    factors = np.bincount(month, duration) / np.bincount(month, predicted)
    assert len(trips) > 110_000
    assert np.abs(factors - YEAR_2019).max() < 0.01, factors.round(3).tolist()


def test_half_of_the_season_is_believed():
    assert np.abs(np.square(SEASON) - YEAR_2019).max() < 2e-4
    assert abs(np.mean(YEAR_2019) - 1) < 0.01
