"""What people and rides have decided, the loop does not decide again: an experiment stopped by hand, a promotion by hand, a predecessor that cannot be asked."""

import shutil
from pathlib import Path

import pytest
from served import make_bundles
from typer.testing import CliRunner

from ride_duration.cli import app
from ride_duration.data.month import Month
from ride_duration.errors import MonthNotPublished
from ride_duration.ops import history, watch
from ride_duration.ops.cycle import Loop
from ride_duration.ops.prediction_log import open_log
from ride_duration.serve import experiment
from ride_duration.serve.trial import RideTrial

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
