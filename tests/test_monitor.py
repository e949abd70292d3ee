"""The monitor, by real processes: months and hours judged, pages and exit codes, and who is told."""

import html
import json
import os
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from faults import FAULTS
from faulty_mirror import relabelled
from test_delivery import Chat
from watched import QUICK, make_home, small_month

from ride_duration.data.address import home_folder
from ride_duration.data.demo import SHOCK_MONTH
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.model.bundle import load_bundle
from ride_duration.ops.answers import Answered, Completion
from ride_duration.ops.channels import WEBHOOK
from ride_duration.ops.delivery import tell
from ride_duration.ops.findings import Finding
from ride_duration.ops.kept import kept_model
from ride_duration.ops.limits import LIMITS
from ride_duration.ops.live import live_status
from ride_duration.ops.live_windows import live_windows
from ride_duration.ops.monitoring import monitor_month
from ride_duration.ops.persistence import LIVE
from ride_duration.ops.prediction_log import PredictionLog, open_log, store
from ride_duration.ops.training import train
from ride_duration.ops.verdict import ERRORS


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("city"))


@pytest.fixture
def here(city: Path, home: Path) -> Path:
    "The small city in a home folder of this test's own."
    shutil.copytree(city, home)
    return home


# --- months ----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_month_as_usual_and_the_month_of_the_shock(here, run, tmp_path):
    small_month(Month(2023, 3)), small_month(SHOCK_MONTH)
    with Chat() as chat:
        environment = {**os.environ, **chat.environment}
        usual = run("monitor", "2023-03", "--fleet", "demo", env=environment)
        assert (usual.returncode, usual.stderr, chat.heard) == (0, "", []), "nobody is woken by a month that is as usual"
        assert usual.stdout.startswith("All is well: ") and usual.stdout.splitlines()[-1] == "reports/demo/2023-03/monitor.html"
        shock = run("monitor", "2023-10", "--fleet", "demo", "--json", env=environment)
        made = contents(tmp_path / "reports")
        again = run("monitor", "2023-10", "--fleet", "demo", "--force", env=environment)
        assert contents(tmp_path / "reports") == made, "a rerun is byte for byte the same"
        assert again.returncode == shock.returncode == 50 and len(chat.heard) == 1, "it is told once"
    data = json.loads(shock.stdout)
    assert data["verdict"].startswith("Retrain: ") and data["findings"][0]["kind"] == "traffic_shock" and data["arrived"] == 1
    assert not data["figures"]["believed"] and data["figures"]["rmse"] > 1.5 * data["figures"]["expected_rmse"], "the estimate is not to be believed, and says so"
    assert shock.stderr.splitlines()[-1].startswith("ride-duration: demo 2023-10: Retrain: ") and {json.loads(line)["kind"] for line in shock.stderr.splitlines()[:-1]} >= {"traffic_shock", "error_growth"}
    assert "retrain" in chat.heard[0][1]["text"]
    look_at((tmp_path / "reports" / "demo" / "2023-10" / "monitor.html").read_text(), data, tmp_path)
    index = (tmp_path / "reports" / "index.html").read_text()
    assert "demo/2023-10/monitor.html" in index and "▲ act" in index
    assert json.loads(run("runs", "--json").stdout)[-1]["notebook"] == "monitor"


def look_at(page: str, data: dict, folder: Path) -> None:
    "As somebody who opens it: the verdict first, then why, and what to do, in one small file."
    body = page.partition("<body>")[2]
    assert len(page) < 400_000 and body.index("class='verdict act'".replace("'", '"')) < body.index("<h2") and body.count("<img") >= 7
    assert html.escape(data["verdict"], quote=False) in body and "Synthetic" in body and "demo/2023-03" not in body
    anchors = set(re.findall(r'href="#([^"]+)"', body))
    assert anchors and anchors <= set(re.findall(r'id="([^"]+)"', body)), "every link into the runbook leads somewhere"
    assert not [word for word in ("<script", "http://", "https://", "monitor_page.", str(folder)) if word in page]
    assert "Not to be believed" in body


def test_a_refused_month_is_a_finding_and_no_crash(here, run, tmp_path):
    mirror, bundle = tmp_path / "mirror", tmp_path / "bundle"
    shutil.copytree(kept_model("demo"), bundle)
    (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text().replace('"fleet": "demo"', '"fleet": "green"'))
    (mirror / "trip-data").mkdir(parents=True)
    table = relabelled(Month(2023, 5), "green").drop_columns(["PULocationID"])
    pq.write_table(table, mirror / "trip-data" / "green_tripdata_2023-05.parquet")
    with Chat() as chat:
        done = run("monitor", "2023-05", "2023-06", "--source", mirror, "--bundle", bundle, "--no-deliver", env={**os.environ, **chat.environment})
        assert done.returncode == 20 and "not published" in done.stderr, "a month that is not there is no finding"
        assert chat.asked == 0 and not (here / "findings.sqlite").exists(), "who only looks leaves no trace but the page"
    done = run("monitor", "2023-05", "--source", mirror, "--bundle", bundle, "--json")
    data, page = json.loads(done.stdout), (tmp_path / "reports" / "green" / "2023-05" / "monitor.html").read_text()
    assert done.returncode == 50 and data["action"] == "repair data" and data["findings"][0]["kind"] == "columns_changed"
    assert "has no column PULocationID" in page and "Is the model still as good?" not in page and 'id="at-columns_changed"' in page
    assert str(tmp_path) not in page and len(page) < 30_000


def test_mistakes_are_one_line_before_the_work(here, run):
    for words, code in ((("2023-13",), 11), (("2023-02", "--rules", "nowhere.toml"), 13), ((), 13), (("2023-02", "--bundle", "nowhere"), 26)):
        wrong = run("monitor", *words, "--fleet", "demo")
        assert (wrong.returncode, len(wrong.stderr.splitlines())) == (code, 1), wrong.stderr
    for words, code, says in (((), 13, "demo taxis: say --fleet demo"), (("--fleet", "demo", "--metered"), 13, "say --fleet demo without --metered"), (("--fleet", "dmo"), 10, "did you mean demo?")):
        wrong = run("monitor", "--live", "--bundle", kept_model("demo"), *words)
        assert (wrong.returncode, len(wrong.stderr.splitlines())) == (code, 1) and says in wrong.stderr, wrong.stderr
    wrong = run("monitor", "2023-02", "--fleet", "demo", env={**os.environ, WEBHOOK: "hooks.example.org/secret"})
    assert wrong.returncode == 13 and WEBHOOK in wrong.stderr and "secret" not in wrong.stderr.replace("may be secret", "")


def test_a_model_that_was_never_judged_is_one_line(here, run, served_bundles):
    done = run("monitor", "2023-03", "--fleet", "demo", "--bundle", served_bundles["first"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (13, "", 1), done.stderr
    assert "was never judged on a month" in done.stderr


@pytest.fixture
def judged(here: Path):
    "A damaged May, judged by the city's model."
    model = load_bundle(kept_model("demo"))
    return lambda damage=lambda table: table: monitor_month("2023-05", model, fetch=lambda fleet, month, source: small_month(month, damage if month == Month(2023, 5) else lambda table: table))


@pytest.mark.parametrize(("name", "action"), [("clock shift", "repair data"), ("missing day", "repair data"), ("longer rides", "retrain"), ("collapse", "retrain")])
def test_what_was_done_to_a_month_stands_first_and_its_consequences_ask_for_nothing(judged, name, action):
    monitored = judged(FAULTS[name].damage)
    done = next(finding for finding in monitored.findings if finding.kind == FAULTS[name].kind)
    assert done.severity == "act" and monitored.verdict.startswith(f"{action.capitalize()}: {done.says}")
    if action == "repair data":
        assert not [finding.kind for finding in monitored.findings if finding.severity == "act" and finding.kind in ERRORS]


def test_limits_of_a_file_reach_the_judgement(judged, here):
    model = load_bundle(kept_model("demo"))
    monitored = monitor_month("2023-05", model, fetch=lambda fleet, month, source: small_month(month), limits=replace(LIMITS, volume=0.0, sure=0.0, longer=0.0))
    assert {"volume_change", "duration_shift"} & {finding.kind for finding in monitored.findings if finding.severity == "watch"}
    assert judged().verdict.startswith("All is well")


def test_real_months_are_judged_as_a_new_yorker_would(mirror):
    "The flood of the last Friday of September 2023 is a day among others; the tennis of the US Open is worth a word, and no more."
    candidate = train("2023-07", "2023-08", "green", mirror, "boosted", settings=QUICK)
    model = load_bundle(candidate.save("boosted", home_folder() / "bundle"))
    september = monitor_month("2023-09", model, source=mirror)
    assert september.verdict.startswith(("All is well", "Nothing to do")) and not september.refused
    assert not [finding for finding in september.findings if finding.kind in ("missing_day", "half_file", "unit_change", "clock_shift")]
    assert september.figures["rmse"] < 1.25 * september.figures["promised_rmse"]


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
    with log.database.connected() as connection:  # all in one transaction
        store(log.database, connection, [], [end for end in ends if end.at < now])


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


def test_hours_in_which_nobody_asks_end_nothing(here):
    model, heard = load_bundle(kept_model("demo")), {}
    with open_log() as log:
        drive(log, NOW, 24, 150, slower=1.4, name="slow")
        drive(log, NOW + timedelta(hours=36), 6, 150, name="again")
        for hour in range(-2, 37):
            status = live_status(log, model, NOW + timedelta(hours=hour))
            last = status.windows[-1].name
            news = tell("live booking 1h", "demo", last, status.findings[last], status.verdict, LIVE, status.unknown[last]).observed.news
            heard |= {(one.finding.kind, word): hour for word in ("reported", "ended") for one in getattr(news, word, ())}
    assert heard["no_traffic", "reported"] == 3 and 30 < heard["no_traffic", "ended"] <= 36, heard
    assert heard["error_growth", "reported"] == 0 and 30 < heard["error_growth", "ended"] <= 36, heard


def test_hours_are_held_against_the_same_hours_of_the_day_before(here):
    with open_log() as log:
        for day in (26, 27):
            drive(log, datetime(2026, 11, day, 3, tzinfo=UTC), 3, 200, name=f"day {day}")
        status = live_status(log, load_bundle(kept_model("demo")), datetime(2026, 11, 27, 12, tzinfo=UTC), 1, timedelta(hours=7))
    assert status.windows[0].name.endswith("T04:00") and not any(status.findings.values()), status.verdict


def test_a_service_that_nobody_asks_any_more_has_mended_nothing(here, run):
    alarm = Finding("error_growth", "demo", "error", "act", "retrain", "rides are missed by 9 minutes", "2023-03-01", 5.0, "minutes")
    for hours in (9, 8, 7):
        tell("live booking 1h", "demo", f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:00}", [alarm], "", LIVE)
    with open_log():
        pass
    down = run("monitor", "--live", "--fleet", "demo")
    assert down.returncode == 50 and "--explain error_growth" in down.stderr, down
    assert json.loads(run("findings", "--json").stdout)["findings"][0]["open"]


def test_the_command_reads_the_log_and_ends_with_50_where_somebody_should_act(here, run):
    quiet = run("monitor", "--live", "--fleet", "demo")
    assert quiet.returncode == 34 and "log" in quiet.stderr, "nothing was logged yet"
    for words in (("--window", "0h"), ("--window", "5000d"), ("--window", "30d", "--windows", "200")):
        odd = run("monitor", "--live", "--fleet", "demo", *words)
        assert odd.returncode == 13 and odd.stderr.count("\n") == 1 and "cannot be judged" in odd.stderr
    for rule, says in (("[live_limits]\nlatency = 2", "did you mean latency_ms?"), ("[live_limits]\nleast = 0", "least must be a whole number from 1"), ("[limits]\nvolum = 1", "did you mean volume?")):
        (here / "rules.toml").write_text(rule)
        odd = run("monitor", "--live", "--fleet", "demo", "--rules", here / "rules.toml")
        assert odd.returncode == 13 and odd.stderr.count("\n") == 1 and says in odd.stderr, odd.stderr
    with open_log():  # a service has begun, and no window is over
        pass
    new = run("monitor", "--live", "--fleet", "demo")
    assert (new.returncode, new.stdout.count("\n")) == (0, 1) and "0 rides" in new.stdout and "is judged when it is over" in new.stdout, new
    now = datetime.now(UTC)
    with open_log() as log:
        drive(log, now, 7, 300, slower=1.5)
    with Chat() as chat:
        environment = {**os.environ, **chat.environment}
        done = run("monitor", "--live", "--fleet", "demo", "--json", env=environment)
        again = run("monitor", "--live", "--fleet", "demo", env=environment)
    (here / "rules.toml").write_text("[limits]\nindex = 0.2\n[live_limits]\nleast = 1000000")
    few = run("monitor", "--live", "--fleet", "demo", "--no-deliver", "--rules", here / "rules.toml")
    assert (few.returncode, "nothing to look at" in few.stdout) == (0, True), few
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
