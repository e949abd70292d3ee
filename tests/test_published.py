"""The published figures, from real months: by the command line where it offers the model, else by the library."""

import json

import pytest

from ride_duration.data.trips import load_trips
from ride_duration.model.baselines import OneHotLinear
from ride_duration.model.metrics import root_mean_squared_error

BY_COMMAND = [  # green: training and validation month, model and RMSE in minutes on each
    ("2021-01", "2021-02", {"seed": (9.7756, 10.4737), "course": (5.6996, 7.7587)}),
    ("2023-01", "2023-02", {"seed": (7.0399, 7.3562), "course": (4.7935, 6.0345)}),
]
ROWS = {"2021-01": (76_518, 73_908), "2021-02": (64_572, 61_921), "2023-01": (68_211, 65_946), "2023-02": (64_809, 62_574)}


@pytest.mark.parametrize(("train", "val", "published"), BY_COMMAND, ids=lambda value: value if isinstance(value, str) else "")
def test_by_the_command_line(run, mirror, train, val, published):
    done = run("train", "--train", train, "--val", val, "--fleet", "green", "--source", mirror, "--models", ",".join(published), "--all-pickups", "--json")
    found = json.loads(done.stdout)
    assert {name: (round(score["rmse_train"], 4), round(score["rmse_val"], 4)) for name, score in found["models"].items()} == published
    assert [(found["rows"][side], found["clean_rows"][side]) for side in ("train", "val")] == [ROWS[train], ROWS[val]]
    assert found["synthetic"] is False


def test_by_the_library(mirror):
    train, val = (load_trips("green", month, mirror, all_pickups=True).frame for month in ("2021-01", "2021-02"))
    model = OneHotLinear(("PULocationID", "DOLocationID", "trip_distance")).fit(train, train["duration"])
    found = [round(root_mean_squared_error(trips["duration"], model.predict(trips)), 4) for trips in (train, val)]
    assert found == [9.8388, 10.4991]
