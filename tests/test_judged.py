"""Judging models: a page about any of them, alone if need be; intervals that mean what they say; answers that depend on the ride alone."""

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from ride_duration.data.trips import load_trips
from ride_duration.model.baselines import MAKERS, PairTime
from ride_duration.model.metrics import paired_difference


@pytest.fixture
def cells(monkeypatch):
    "The code of the monthly page, to be run here."
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(REPOSITORY / "nbs" / "runs" / "train.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("model", ["mean", "pair_time"])
def test_a_page_about_a_model_trained_alone(cells, monkeypatch, model):
    "No seed to compare with, no ranges, no other lines: each cell still has something to show."
    monkeypatch.setattr("ride_duration.data.zones.zone_shapes", lambda fleet: {})
    names = {}
    exec(cells[0], names)
    names |= {"model": model, "models": model}
    for source in cells[1:]:
        exec(source, names)
    assert list(names["candidate"].models) == [model]


def test_an_interval_holds_the_truth_as_often_as_it_says():
    "Two models that differ by chance alone, over many months whose days have jams of their own."
    random, held = np.random.default_rng(7), 0
    days, each = 28, 40
    pickup_at = pd.Timestamp("2023-02-01") + pd.to_timedelta(np.repeat(np.arange(days), each), "D")
    for _ in range(200):
        jam = np.repeat(random.normal(0, 3, days), each)
        month = pd.DataFrame({"pickup_at": pickup_at, "duration": 20 + jam + random.normal(0, 3, days * each), "one": 19.0, "other": 21.0})
        held += not paired_difference(month, "one", "other", draws=400).is_certain
    assert 0.86 < held / 200 < 0.99, "95 % are promised, and a little less is kept with four weeks of days"


def test_a_difference_seen_from_the_other_side_is_its_mirror_image():
    random = np.random.default_rng(3)
    month = pd.DataFrame(random.gamma(4, 5, (2000, 3)), columns=["duration", "one", "other"])
    month["pickup_at"] = pd.Timestamp("2023-02-01") + pd.to_timedelta(random.integers(0, 28, 2000), "D")
    forth, back = paired_difference(month, "one", "other"), paired_difference(month, "other", "one")
    assert np.allclose([forth.difference, forth.low, forth.high], [-back.difference, -back.high, -back.low])
    shuffled = paired_difference(month.sample(frac=1, random_state=1), "one", "other")
    assert np.allclose([shuffled.low, shuffled.high], [forth.low, forth.high]), "the order of the trips does not matter"


def test_the_pair_at_its_time_answers_a_ride_alone_as_it_does_among_others():
    train, val = (load_trips("demo", month).frame for month in ("2023-01", "2023-02"))
    model = MAKERS["pair_time"]().fit(train, train["duration"])
    few = val.sample(50, random_state=1)
    assert [model.predict(few.iloc[[row]])[0] for row in range(50)] == model.predict(few).tolist()
    shuffled = train.sample(frac=1, random_state=1)
    again = PairTime().fit(shuffled, shuffled["duration"])
    assert np.allclose(again.predict(few), model.predict(few)), "the order of the training rides does not matter"
    assert np.isfinite(model.minutes_).all() and (model.minutes_ > 0).all(), "an answer for every pair at every time"
