"""The monitor, by real processes: months and hours judged, pages and exit codes, and who is told."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from test_delivery import Chat
from watched import make_home, small_month

from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.model.bundle import load_bundle
from ride_duration.ops.answers import Answered, Completion
from ride_duration.ops.channels import WEBHOOK
from ride_duration.ops.delivery import tell
from ride_duration.ops.kept import kept_model
from ride_duration.ops.live import live_status, live_windows
from ride_duration.ops.persistence import LIVE
from ride_duration.ops.prediction_log import PredictionLog, open_log


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("city"))


@pytest.fixture
def here(city: Path, home: Path) -> Path:
    "The small city in a home folder of this test's own."
    shutil.copytree(city, home)
    return home


# --- the last hours --------------------------------------------------------------------------------------------------


def drive(log: PredictionLog, now: datetime, hours: int, rides: int = 250, slower: float = 1.0, name: str = "ride") -> None:
    "A service's hours until now: rides as they were in February, answered by the kept model, and told when they have ended."
    trips = read_trips(small_month(Month(2023, 2)).path, "demo", Month(2023, 2))[0].sample(hours * rides, random_state=7)
    minutes, low, high = load_bundle(kept_model("demo")).ranged.predict_with_interval(trips)
    at = [now - timedelta(hours=hours) + timedelta(seconds=3600 * number / rides) for number in range(hours * rides)]
    places = zip(trips["PULocationID"], trips["DOLocationID"], trips["pickup_at"].dt.to_pydatetime(), strict=True)
    log.write([
        Answered(f"{name}-{number}", when, "demo", "booking", "7", "champion", int(pickup), int(dropoff), local, None, *map(float, said), latency_ms=2.0)
        for number, (when, (pickup, dropoff, local), *said) in enumerate(zip(at, places, minutes, low, high, strict=True))
    ])  # fmt: skip
    took = np.clip(trips["duration"].to_numpy() * slower, 1, 60)
    ends = [Completion(f"{name}-{number}", float(minutes), when + timedelta(minutes=float(minutes))) for number, (when, minutes) in enumerate(zip(at, took, strict=True))]
    log._store([], [end for end in ends if end.at < now])


NOW = datetime(2023, 3, 1, 18, tzinfo=UTC)


def test_errors_are_those_of_rides_that_ended_for_those_of_rides_just_answered_are_too_good(here):
    with open_log() as log:
        drive(log, NOW, 2, 600, slower=1.4)
        fair = live_windows(log, "demo", now=NOW, windows=1)[0].whole
        frame = next(log.read(NOW - timedelta(minutes=20), NOW))
    ended = frame.dropna(subset="completed_minutes")
    tempting = float(((ended["minutes"] - ended["completed_minutes"]) ** 2).mean() ** 0.5)
    assert fair.completed > 400 and tempting < 0.6 * fair.rmse, "only short rides have ended so soon"


def test_hours_are_told_once_when_three_of_five_have_it_and_once_when_it_is_over(here):
    model, heard = load_bundle(kept_model("demo")), []
    with open_log() as log, Chat() as chat, pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEBHOOK, chat.environment[WEBHOOK])
        drive(log, NOW - timedelta(hours=6), 3, name="before")
        drive(log, NOW - timedelta(hours=2), 4, slower=1.4, name="slow")
        drive(log, NOW + timedelta(hours=4), 6, name="after")
        for hour in range(-6, 5):
            status = live_status(log, model, NOW + timedelta(hours=hour))
            news = tell("live booking 1h", "demo", status.windows[-1].name, status.findings[status.windows[-1].name], status.verdict, LIVE).observed.news
            heard += [(hour, one.finding.kind, word) for word in ("reported", "ended") for one in getattr(news, word, ())]
        told = [hour for hour, kind, word in heard if (kind, word) == ("error_growth", "reported")], [hour for hour, kind, word in heard if (kind, word) == ("error_growth", "ended")]
    assert len(told[0]) == len(told[1]) == 1 and -4 <= told[0][0] <= -2 < told[1][0] <= 3, heard
    assert "error_growth" in json.dumps(chat.heard[0]) and len(chat.heard) == len({hour for hour, *_ in heard})


def test_the_command_reads_the_log_and_ends_with_50_where_somebody_should_act(here, run):
    quiet = run("monitor", "--live", "--fleet", "demo")
    assert quiet.returncode == 34 and "log" in quiet.stderr, "nothing was logged yet"
    now = datetime.now(UTC)
    with open_log() as log:
        drive(log, now, 7, 300, slower=1.5)
    with Chat() as chat:
        environment = {**os.environ, **chat.environment}
        done = run("monitor", "--live", "--fleet", "demo", "--json", env=environment)
        again = run("monitor", "--live", "--fleet", "demo", env=environment)
    assert done.returncode == again.returncode == 50, done.stderr
    assert "retrain" in done.stderr.splitlines()[-1] and "--explain error_growth" in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()[:-1]]
    assert {(line["event"], line["kind"]) for line in lines} >= {("reported", "error_growth")} and len(again.stderr.splitlines()) == 1
    data = json.loads(done.stdout)
    assert len(data["windows"]) == 5 and data["windows"][-1]["rides"] > 250 and data["arrived"] == 1 and len(chat.heard) == 1
    assert "RMSE" in again.stdout and "missed by" in again.stdout
    listed = run("findings")
    assert "error_growth" in listed.stdout and listed.returncode == 0
    assert json.loads(run("findings", "--json", "--fleet", "demo").stdout)["findings"][0]["open"]
