"""What people and rides have decided, the loop does not decide again: an experiment stopped by hand, a promotion by hand, a predecessor that cannot be asked."""

import json
import shutil
import socket
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faulty_mirror import relabelled
from served import make_bundles
from typer.testing import CliRunner

from ride_duration.cli import app
from ride_duration.data import demo
from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import AttentionNeeded, MonthNotPublished
from ride_duration.model.bundle import keep_lesson, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.promise import judge_trips
from ride_duration.ops import cycle, history, journal, watch
from ride_duration.ops.findings_file import findings_file
from ride_duration.ops.incidents import told
from ride_duration.ops.index import read_monitors
from ride_duration.ops.loop import Loop
from ride_duration.ops.prediction_log import open_log
from ride_duration.serve import experiment
from ride_duration.serve.trial import RideTrial, wait_until_it_answers

NAME = "ride-duration-demo"
TRIAL = RideTrial("demo", "booking", None)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    made = make_bundles(tmp_path_factory.mktemp("made"), 3000)
    return {1: made["first"], 2: made["second"]}


@pytest.fixture
def shelf(home: Path, bundles: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    "Two versions where promotions leave them; version 1 is champion."
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for version, folder in bundles.items():
        shutil.copytree(folder, home / "champions" / NAME / str(version))
    history.promote(NAME, 1, "the first", by="ada")
    return home / "champions" / NAME


def test_a_trial_that_somebody_has_stopped_ends_also_where_nobody_has_asked_for_a_ride(shelf: Path):
    TRIAL.start(2)
    assert TRIAL.judge(2)[0] == "go on"
    experiment.stop("demo", why="people complain", by="ada")
    action, says = TRIAL.judge(2)
    assert action == "stop"
    assert "by ada (people complain)" in says


def test_a_challenger_that_somebody_has_promoted_is_not_called_unpromoted(shelf: Path):
    TRIAL.start(2)
    history.promote(NAME, 2, "good enough", by="ada")
    assert TRIAL.judge(2) == ("promote", "it is champion already")


def test_a_trial_that_is_forgotten_promotes_nothing(shelf: Path, home: Path):
    TRIAL.start(2)
    (home / "experiments.sqlite").unlink()
    assert TRIAL.judge(2) == ("stop", "its trial has ended: nothing is known of it any more")


def test_a_predecessor_that_is_damaged_does_not_keep_the_next_month_waiting(shelf: Path):
    """The undo cannot compare, and says so; the loop looks for its month all the same."""
    history.promote(NAME, 2, "better", by="ada")
    with open_log(None):
        (shelf / "1" / "manifest.json").write_text("x")
    looked = []

    def fetch(fleet: str, month: Month, source: object) -> None:
        looked.append(month)
        raise MonthNotPublished(f"{month} is not there")

    watch.journal.finish(watch.journal.begin(NAME, "2023-03", {}), "no new model")
    state = watch.State(NAME)
    assert watch._round(Loop("demo", fetch=fetch), state, None, watch.UNDO) == "failed"
    assert looked == [Month(2023, 4)]
    assert "is not a sound bundle" in state.error


def test_a_scheduler_hears_of_a_damaged_predecessor_after_the_month_was_looked_for(shelf: Path, tmp_path: Path):
    history.promote(NAME.replace("demo", "green"), 1, "the first", by="ada")
    history.promote(NAME.replace("demo", "green"), 2, "better", by="ada")
    shutil.copytree(shelf, shelf.with_name("ride-duration-green"))
    (shelf.with_name("ride-duration-green") / "1" / "manifest.json").write_text("x")
    with open_log(None):
        pass
    watch.journal.finish(watch.journal.begin("ride-duration-green", "2023-03", {}), "no new model")
    (tmp_path / "mirror" / "trip-data").mkdir(parents=True)
    done = CliRunner().invoke(app, ["cycle", "--source", str(tmp_path / "mirror"), "--reports", str(tmp_path / "reports")])
    assert "2023-04" in done.stdout
    assert "is not a sound bundle" in str(done.exception)


def test_a_month_that_was_to_be_repaired_is_fetched_once_more(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cycle, "_monitor", lambda *_: {"action": "repair data", "verdict": "Repair data: half of it is missing."})
    path, table, rows = tmp_path / "mirror" / "trip-data" / "green_tripdata_2023-02.parquet", relabelled(Month(2023, 2), "green"), []
    path.parent.mkdir(parents=True)
    for there in (table.slice(0, 1000), table):
        pq.write_table(there, path)
        rows.append(cycle.run_cycle(Loop("green", source=str(tmp_path / "mirror")), Month(2023, 2)).steps["fetch"]["rows"])
    assert rows == [1000, len(table)]


@pytest.fixture
def promoting(monkeypatch: pytest.MonkeyPatch) -> None:
    "Every cycle has trained a version 1 that is promoted."

    def turn(loop: Loop, begun: journal.Cycle) -> str:
        journal.step(begun, "train", lambda: {"key": "a training"})
        return cycle._deploy(loop, begun, 1)

    monkeypatch.setattr(cycle, "require_published", lambda *_: None)
    monkeypatch.setattr(cycle, "_turn", turn)
    monkeypatch.setattr(cycle, "_promote", lambda loop, version: {"champion": version})


def said() -> list[str]:
    "What was to be told to somebody."
    with sqlite3.connect(findings_file()) as memory:
        found = [json.loads(body)["says"] for (body,) in memory.execute("SELECT body FROM message ORDER BY number")]
    memory.close()
    return found


def test_two_loops_of_a_fleet_both_tell_whose_model_answers(home: Path, promoting: None):
    for metered in (False, True):
        cycle.run_cycle(Loop("demo", metered), Month(2023, 2))
    assert said() == [f"{name}: version 1 answers from now on" for name in (NAME, f"{NAME}-metered")]


def test_a_service_that_was_late_is_not_said_to_answer(home: Path, promoting: None):
    def answer() -> None:
        with stranger.accept()[0] as asked:
            asked.recv(4096)
            asked.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as stranger:  # no service of ours, and no HTTP
        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        done = cycle.run_cycle(Loop("demo", swapped=lambda version: wait_until_it_answers(url, "booking", version, patience=0.1)), Month(2023, 2))
    assert done.outcome.startswith(f"version 1 is champion; {url} did not answer with version 1 within 0.1 seconds, but with nothing we understand (SSH-2.0"), done.outcome
    assert said() == [f"{NAME}: {done.outcome}"]


def watched_bundle(folder: Path, regime: str) -> Path:
    "A small model of the demo city with its promise, as training leaves one."
    write_demo_month(folder / "month.parquet", Month(2023, 1), 3000)
    trips, _ = read_trips(folder / "month.parquet", "demo", Month(2023, 1))
    model = RangedBoosted(zone_table("demo"), regime, trees=20, threads=1).fit(trips, trips["duration"])
    answers = dict(zip(("own", "own_low", "own_high"), model.predict_with_interval(trips), strict=True))
    lesson = replace(keep_lesson(trips), promise=judge_trips(trips.assign(**answers), "own"))
    return save_bundle(model, folder / regime, lesson, {"fleet": "demo", "synthetic": True, "train": ["2023-01"], "val": "2023-02"})


def test_a_metered_model_has_pages_and_findings_of_its_own(home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """Both are watched in one home and one folder of reports: neither writes over the other's page, or ends what the other has found."""
    folder, reports = tmp_path_factory.mktemp("both"), tmp_path / "reports"
    for regime, words in (("booking", []), ("metered", ["--metered"])):
        done = CliRunner().invoke(app, ["monitor", str(demo.SHOCK_MONTH), "--fleet", "demo", "--bundle", str(watched_bundle(folder, regime)), "--reports", str(reports), *words])
        assert done.exception is None or isinstance(done.exception, AttentionNeeded), done.output
    pages = {folder.name: data["model"]["regime"] for folder, data in read_monitors(reports)}
    assert pages == {f"{demo.SHOCK_MONTH}": "booking", f"{demo.SHOCK_MONTH}-metered": "metered"}
    assert f"{demo.SHOCK_MONTH}, metered</a>" in (reports / "index.html").read_text()
    found = told("demo")
    assert {one.scope for one in found} == {"month", "month metered"}
    assert all(one.ended is None for one in found)
