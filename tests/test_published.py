"""The published figures, from real months: by the command line where it offers the model, else by the library."""

import json

import pytest

from ride_duration.data.trips import load_trips
from ride_duration.model.baselines import OneHotLinear
from ride_duration.model.metrics import root_mean_squared_error

BY_COMMAND = [  # green: training and validation month, model, RMSE in minutes on each
    ("2021-01", "2021-02", "course", 5.6996, 7.7587),
    ("2021-01", "2021-02", "seed", 9.7756, 10.4737),
    ("2023-01", "2023-02", "seed", 7.0399, 7.3562),
    ("2023-01", "2023-02", "course", 4.7935, 6.0345),
]
ROWS = {"2021-01": (76_518, 73_908), "2021-02": (64_572, 61_921), "2023-01": (68_211, 65_946), "2023-02": (64_809, 62_574)}


@pytest.mark.parametrize(("train", "val", "model", "on_train", "on_val"), BY_COMMAND)
def test_by_the_command_line(run, mirror, train, val, model, on_train, on_val):
    done = run("train", "--train", train, "--val", val, "--fleet", "green", "--source", mirror, "--models", model, "--all-pickups", "--json")
    found = json.loads(done.stdout)
    score = found["models"][model]
    assert (round(score["rmse_train"], 4), round(score["rmse_val"], 4)) == (on_train, on_val)
    assert [(found["rows"][side], found["clean_rows"][side]) for side in ("train", "val")] == [ROWS[train], ROWS[val]]
    assert list(found["models"]) == [model] and found["synthetic"] is False


def test_by_the_library(mirror):
    train, val = (load_trips("green", month, mirror, all_pickups=True).frame for month in ("2021-01", "2021-02"))
    model = OneHotLinear(("PULocationID", "DOLocationID", "trip_distance")).fit(train, train["duration"])
    found = [round(root_mean_squared_error(trips["duration"], model.predict(trips)), 4) for trips in (train, val)]
    assert found == [9.8388, 10.4991]
