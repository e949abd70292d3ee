"""How the service does, told while it runs: on both databases, by several workers, to people, programs and browsers without a key."""

import base64
import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from served import Asker, Service, register

from ride_duration.ops.answers import Answered, Completion
from ride_duration.ops.live_windows import LiveWindow, Tally, live_windows
from ride_duration.ops.prediction_log import open_log, store
from ride_duration.ops.pulse import Pulse, by_hour, last_day, last_hour, places_of
from ride_duration.serve.keys import add_key

pytest_plugins = ["postgres_server"]
RIDE = {"pickup": 7, "dropoff": "Harbour Airport", "at": "2023-03-01T08:30"}
JSON = {"Accept": "application/json"}


def fill(log, now: datetime, rides: int, hours: float, version: str = "1", late: float = 0.0, name: str = "ride") -> list[Answered]:
    "Rides spread over some hours until now, most of which have ended."
    random = np.random.default_rng(rides)
    answers = []
    for number, (ago, minutes) in enumerate(zip(np.sort(random.uniform(0, hours * 3600, rides))[::-1], random.uniform(5, 40, rides), strict=True)):
        flags = ("unseen_pair", "holiday")[: int(random.integers(0, 3))] if number % 10 == 0 else ()
        answers.append(
            Answered(
                f"{name}-{number}", now - timedelta(seconds=float(ago)), "demo", "booking", version, "challenger" if number % 4 == 0 else "champion", int(random.integers(1, 72)), int(random.integers(1, 72)),
                datetime(2023, 3, 1 + number % 20, number % 24, 30), None, float(minutes), float(minutes) - 5, float(minutes) + 5, flags, latency_ms=float(random.lognormal(1, 1)) if number % 7 else None,
            )
        )
    log.write(answers)
    ended = []
    for answer in answers:
        took = float(np.clip(answer.minutes + late + random.normal(0, 4), 0.5, 70))
        if answer.answered_at + timedelta(minutes=took) <= now and random.random() < 0.9:
            ended.append(Completion(answer.ride_id, took, answer.answered_at + timedelta(minutes=took)))
    with log.database.connected() as connection:
        store(log.database, connection, [], ended)  # all at once
    return answers


# --- the pulse -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, home: Path):
    with open_log(request.getfixturevalue("postgres").database() if request.param == "postgresql" else None) as opened:
        yield opened


def assert_alike(kept: Tally, read: Tally) -> None:
    for name in ("rides", "unseen_pair", "unknown_zone", "completed", "odd", "inside"):
        assert getattr(kept, name) == getattr(read, name), name
    assert [kept.error, kept.squared, kept.fourth] == pytest.approx([read.error, read.squared, read.fourth])
    assert kept.latency.sum() == read.latency.sum()
    if read.rides:
        assert kept.quantile(0.5) == pytest.approx(read.quantile(0.5), rel=0.12)
        assert kept.quantile(0.99) == pytest.approx(read.quantile(0.99), rel=0.12)


def test_both_databases_count_as_reading_everything_does(log):
    "Sums made by the database, a piece at a time, against `live_windows`, which reads every row."
    now = datetime(2026, 3, 1, 14, 17, 41, tzinfo=UTC)
    answers = fill(log, now, 1500, 26)
    pulse = Pulse(log, "demo")
    for minutes in (65, 64, 40, 7, 1, 0):  # as if somebody had looked now and then
        pulse.refresh(now - timedelta(minutes=minutes))
    read = live_windows(log, "demo", now=now, windows=24)
    for kept, window in zip(by_hour(pulse, "booking")[:-1], read, strict=True):
        assert_alike(kept, window.whole)
    hour: LiveWindow = last_hour(pulse, "booking")
    assert hour.whole.rides == sum(hour.start <= one.answered_at < pulse.until for one in answers)
    for arm, tally in last_day(pulse, "booking").arms.items():
        inside = [one for one in answers if last_day(pulse, "booking").start <= one.answered_at < pulse.until and one.variant == arm.variant]
        assert (tally.rides, tally.unseen_pair) == (len(inside), sum("unseen_pair" in one.flags for one in inside))
    day = last_day(pulse, "booking")
    places, inside = places_of(pulse, "booking"), [one for one in answers if day.start <= one.answered_at < pulse.until]
    assert places["pickup"].tolist() == np.bincount([one.pickup for one in inside], minlength=266).tolist()
    assert places["hour"].tolist() == np.bincount([one.pickup_at.hour for one in inside], minlength=24).tolist()
    others = Pulse(log, "green")
    others.refresh(now)
    assert last_hour(others, "booking").arms == {}


def test_what_is_counted_is_only_what_is_new(home):
    "A look at a long log reads the last seconds of it: nothing that was counted is asked for again."
    now = datetime.now(UTC)
    with open_log() as log:
        fill(log, now, 3000, 25)
        pulse = Pulse(log, "demo")
        pulse.refresh(now)
        with sqlite3.connect(home / "predictions.sqlite") as raw:
            raw.execute("DELETE FROM completion")
            raw.execute("DELETE FROM answer")  # a look that read them again would miss them
        before = last_day(pulse, "booking").whole
        fill(log, now + timedelta(seconds=30), 20, 0.005, name="new")
        pulse.refresh(now + timedelta(seconds=45))
        assert last_day(pulse, "booking").whole.rides in range(before.rides + 20, before.rides + 40)  # those of the first look's last seconds went, too
        assert len(pulse.minutes) < 500 and len(pulse.hours) < 70


# --- the service -----------------------------------------------------------------------------------------------------


def eventually(holds, seconds: float = 30) -> object:
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def watched(served_bundles, tmp_path_factory: pytest.TempPathFactory):
    """A service with a day behind it, in which rides took four minutes longer than was said."""
    home = tmp_path_factory.mktemp("watched") / "home"
    register(home, 1, served_bundles["first"])
    with open_log(str(home / "predictions.sqlite")) as log:
        fill(log, datetime.now(UTC) - timedelta(seconds=20), 4000, 24, late=4)
    with Service(home, "--fleet", "demo", "--port", 0) as service:
        yield service


def test_status_says_what_is_wrong_first(watched: Service):
    assert eventually(lambda: watched.ask("/status", headers=JSON)[1]["regimes"])
    status, told = watched.ask("/status", headers=JSON)
    assert (status, told["colour"], told["ready"], told["fleet"]) == (200, "red", True, "demo")
    assert told["says"].startswith("Rides are missed by") and told["says"].endswith("Do: retrain.")
    assert {"error_growth", "bias"} <= {finding["kind"] for finding in told["findings"]}
    hour = told["regimes"]["booking"]["windows"]["hour"]["arms"]
    assert {arm["variant"] for arm in hour} == {"champion", "challenger"} and 100 < sum(arm["rides"] for arm in hour) < 230
    assert all(-6 < arm["bias"] < -2 and 0 < arm["standard_errors"]["rmse"] < 1.5 for arm in hour)
    assert told["models"][0]["promise"]["rmse"] == 3.1


def test_the_page_is_short_plain_and_without_scripts(watched: Service):
    asker = watched.asker()
    status, page = asker("/status", headers={"Accept": "text/html,application/xhtml+xml"})
    assert status == 200 and asker.answer.headers["content-type"].startswith("text/html") and asker.answer.headers["cache-control"] == "no-store"
    assert "<script" not in page and " style=" not in page and page.index("<h1 class=red>") < page.index("<table>") and len(page) < 30_000
    assert watched.ask("/page/status.css")[0] == 200
    asker.close()


def test_gauges_say_the_same(watched: Service):
    labels = 'regime="booking",variant="champion",version="1",window="hour"'
    told = watched.ask("/status", headers=JSON)[1]
    [arm] = [arm for arm in told["regimes"]["booking"]["windows"]["hour"]["arms"] if arm["variant"] == "champion"]
    text = watched.ask("/metrics")[1]
    assert watched.metric(f"ride_duration_live_rmse_minutes{{{labels}}}") == pytest.approx(arm["rmse"], rel=0.1)
    assert watched.metric("ride_duration_ready") == 1 and watched.metric("ride_duration_promised_rmse_minutes" + '{regime="booking",variant="champion",version="1"}') == 3.1
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))  # counted and looked up, side by side


def test_a_log_that_cannot_be_written_turns_the_status_red(served_bundles, home):
    with Service(home, "--bundle", served_bundles["first"], "--port", 0) as service:
        assert eventually(lambda: service.ask("/status", headers=JSON)[1]["colour"] == "green")
        for name in ("predictions.sqlite", "predictions.sqlite-wal"):
            (home / name).unlink(missing_ok=True)
        assert eventually(lambda: service.ask("/status", headers=JSON)[1]["colour"] == "red")
        told = service.ask("/status", headers=JSON)[1]
        assert told["says"] == "Not ready: the prediction log cannot be written." and service.metric("ride_duration_ready") == 0
        assert eventually(lambda: service.metric("ride_duration_live_readable") == 0)
    assert sum("log_unread" in line for line in service.said) == 1  # said once, however often somebody looks


def test_a_browser_asks_for_the_key(served_bundles, home, monkeypatch):
    key = add_key("somebody with a browser")
    with Service(home, "--bundle", served_bundles["first"], "--host", "0.0.0.0", "--port", 0, "--workers", 2) as service:
        service.address = service.address.replace("0.0.0.0", "127.0.0.1")
        asker = Asker(service.address, timeout=90)  # two workers begin
        assert asker("/health/ready")[0] == 200
        assert asker("/status")[0] == 401 and asker.answer.headers["www-authenticate"].startswith("Basic realm=")
        assert asker("/metrics")[0] == 401 and asker.answer.headers["www-authenticate"] == "Bearer"
        basic = {"Authorization": f"Basic {base64.b64encode(f'ada:{key}'.encode()).decode()}"}
        assert all(service.ask("/status", headers=basic)[0] == 200 for _ in range(4))  # whichever worker is asked
        assert service.ask("/status", headers={"Authorization": f"Basic {base64.b64encode(f'ada:{key}x'.encode()).decode()}"})[0] == 401
        assert "ride_duration_ready 1.0" in service.ask("/metrics", headers=basic)[1]
        operation = json.loads(json.dumps(service.ask("/openapi.json")[1]))["paths"]["/status"]["get"]
        assert set(operation["responses"]["200"]["content"]) == {"text/html", "application/json"} and "401" in operation["responses"]
