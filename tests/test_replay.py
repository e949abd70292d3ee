"""The past, played by real processes on a small demo city (synthetic): what is found and learnt, what it is worth, and that it is the same when it was killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_delivery import Chat

from ride_duration.data.month import Month
from ride_duration.data.source import fetch_month
from ride_duration.data.trips import load_trips
from ride_duration.errors import MonthNotPublished, UnreadableFile
from ride_duration.model.bundle import load_bundle
from ride_duration.ops import history, journal
from ride_duration.ops.decision import Rules
from ride_duration.ops.policy import Policy
from ride_duration.ops.replay import loop_to_play, months_to_play, replay
from ride_duration.ops.tracking import registered_name

EASY = {"minimum_gain": -60.0, "slice_margin": 60.0, "coverage_low": 0.4, "coverage_high": 1.0}
MONTHS = "2023-07..2023-11"


def begin(folder: Path, *words: str, environment: dict[str, str]) -> subprocess.Popen:
    rules, policy = folder / "rules.toml", folder / "policy.toml"
    rules.write_text("\n".join(f"{name} = {value}" for name, value in EASY.items()))
    policy.write_text("window = 2")
    command = [sys.executable, "-m", "ride_duration", "replay", MONTHS, "--fleet", "demo", "--trees", "40", "--policy", policy, "--rules", rules, "--json", *words]
    with open(folder / "said", "w") as said, open(folder / "printed", "w") as printed:
        return subprocess.Popen(command, stdout=printed, stderr=said, cwd=folder, env=environment)


def kill_when(process: subprocess.Popen, folder: Path, there: str, seconds: float) -> None:
    "kill -9, some time after a file has appeared in the folder it plays in."
    until = time.monotonic() + 300
    while not list((folder / "home" / "replays").glob(f"*/{there}")):
        assert process.poll() is None and time.monotonic() < until, (folder / "said").read_text()
        time.sleep(0.02)
    time.sleep(seconds)
    assert process.poll() is None, "it was to be killed in the middle"
    process.kill()
    process.wait()


KILLED = (  # what is there by then, and how many seconds later
    ("reports/demo/2023-08/train.html", 0.3),   # the model is on its way to MLflow
    ("reports/demo/2023-10/monitor.html", 2),   # the month of the shock is learnt from
    ("models/2023-09/manifest.json", 0.1),      # models are trained for comparison
)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict:
    "Two plays at once: one that nobody disturbs, in a folder of its own, and one that is killed again and again."
    calm, killed, name = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("killed"), registered_name("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIDE_DURATION_HOME", str(calm / "home"))  # somebody's real one: a champion, and a cycle that is not done
        history.promote(name, 7, "by hand", history.ANY)
        journal.begin(name, "2023-03", {})
    before = {path.name: path.read_bytes() for path in (calm / "home").glob("*.sqlite")}
    with Chat() as chat:
        homes = [{**os.environ, **chat.environment, "RIDE_DURATION_HOME": str(folder / "home")} for folder in (calm, killed)]
        undisturbed = begin(calm, "--home", str(calm / "play"), environment=homes[0])
        try:
            for there, seconds in KILLED:
                kill_when(begin(killed, environment=homes[1]), killed, there, seconds)
            last = begin(killed, environment=homes[1])
            assert (last.wait(300), undisturbed.wait(300)) == (0, 0), (killed / "said").read_text() + (calm / "said").read_text()
        finally:
            undisturbed.kill()
    return {"calm": calm, "killed": killed, "heard": chat.heard, "before": before}


def told(folder: Path) -> dict:
    return json.loads((folder / "printed").read_text())


def test_the_shock_is_found_and_learnt_from_and_quiet_months_train_nothing(played):
    data = told(played["calm"])
    july, august, september, october, november = data["rows"]
    assert july["outcome"].startswith("no new model: none of the 2 months before 2023-07") and not july["trained"]
    assert (august["trained"], august["promoted"]) == (["2023-07"], True)
    assert september["trained"] is november["trained"] is None, "nothing asks for a model"
    assert october["action"] == "retrain" and october["findings"][0]["kind"] == "traffic_shock"
    assert october["trained"] == ["2023-08", "2023-09"] and october["promoted"] and "the monitor asks for it" in october["why"]
    assert [row["scores"].get("loop", {}).get("model") for row in data["rows"]] == [None, None, "2023-08", "2023-08", "2023-10"]
    assert data["trainings"] == {"loop": 2, "always": 4, "never": 1} and data["kept"]["trainings"]
    assert data["verdict"].startswith("From 2023-09 to 2023-11 the loop was off by ")


def test_figures_are_those_of_the_bundles_judged_directly(played, home, monkeypatch):
    data, squared, trips = told(played["calm"]), 0.0, 0
    monkeypatch.setenv("RIDE_DURATION_HOME", str(played["calm"] / "home"))
    for row, version in zip(data["rows"][2:], (1, 1, 2), strict=True):  # the champion when the month came in
        model, month = load_bundle(played["calm"] / "play" / "champions" / registered_name("demo") / str(version)), load_trips("demo", row["month"]).frame
        error, (low, high) = model.predict(month) - month["duration"], model.predict_interval(month).T
        found = row["scores"]["loop"]
        assert found["rides"] == len(month) and found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
        assert (found["mae"], found["coverage"]) == (pytest.approx(error.abs().mean(), abs=1e-4), pytest.approx(month["duration"].between(low, high).mean(), abs=1e-4))
        assert row["scores"]["best"]["rmse"] == min(score["rmse"] for score in row["scores"].values())
        assert found["regret"] == pytest.approx(found["rmse"] / row["scores"]["best"]["rmse"] - 1, abs=1e-4)
        squared, trips = squared + float((error**2).sum()), trips + len(month)
    assert data["overall"]["loop"]["rmse"] == pytest.approx(np.sqrt(squared / trips), abs=1e-4)


def test_killed_in_the_middle_it_ends_the_same(played):
    calm, killed = told(played["calm"]), told(played["killed"])
    assert calm == killed
    pages = [(folder / "reports" / "demo" / f"replay-{MONTHS}" / "replay.html").read_bytes() for folder in (played["calm"], played["killed"])]
    assert pages[0] == pages[1] and str(played["calm"]).encode() not in pages[0]
    assert not list((played["killed"] / "home" / "replays").iterdir()), "what it was played in is gone"


def test_the_home_one_works_with_is_left_alone_and_nobody_is_told(played):
    home = played["calm"] / "home"
    assert {name: (home / name).read_bytes() for name in played["before"]} == played["before"]
    assert {path.name for path in home.iterdir()} - played["before"].keys() <= {"cache", "runs.sqlite", "runs.sqlite-shm", "runs.sqlite-wal"}
    assert played["heard"] == []
    assert all(line.startswith("2023-") for line in (played["calm"] / "said").read_text().splitlines()), "news are not on the terminal either"


def test_a_month_that_cannot_be_read_and_one_that_is_not_there(tmp_path):
    def fetch(fleet: str, month: Month, source: object = None) -> object:
        if month == Month(2023, 3):
            raise UnreadableFile("demo_tripdata_2023-03.parquet is not a whole parquet file: fetch it again")
        if month == Month(2023, 4):
            raise MonthNotPublished("2023-04 is not published")
        return fetch_month(fleet, month, source)

    loop = loop_to_play("demo", policy=Policy(every=0), rules=Rules(**EASY), trees=40, fetch=fetch)
    data = replay(loop, months_to_play("2023-01..2023-05"), tmp_path / "play")
    _, february, march, may = data["rows"]
    assert february["promoted"] and march["action"] == "repair data" and march["outcome"].startswith("2023-03 was refused: ")
    assert march["scores"] == {} and set(may["scores"]) == {"loop", "never", "always", "seed", "best"}
    assert data["models"] == {"2023-02": ["2023-01"], "2023-05": ["2023-01", "2023-02"]}, "nobody learns from a month that is to be repaired"
    assert may["scores"]["loop"]["regret"] == 0 == data["overall"]["loop"]["regret"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["2023-01..2023-02"], 13, "three months or more"),
        (["2023-01..2023-03", "2023-07"], 13, "one after another"),
        (["2023-13"], 11, "is not a month"),
        (["2023-01..2023-03", "--fleet", "demmo"], 10, "did you mean demo"),
        (["2023-01..2023-03", "--policy", "no.toml"], 13, "cannot read no.toml"),
        (["2023-01..2023-03", "--home", "."], 13, "is not a replay's folder"),
        (["2023-01..2023-03", "--fleet", "green", "--source", "no/such/folder"], 21, "does not exist"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[:40],
)
def test_what_is_wrong_is_one_line(run, tmp_path, words, code, says):
    (tmp_path / "mine.txt").write_text("not a replay's")
    done = run("replay", *words, *([] if "--fleet" in words else ["--fleet", "demo"]))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1) and says in done.stderr, done.stderr
