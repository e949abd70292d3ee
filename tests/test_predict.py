"""Answers by the command line: one ride and a month, from models that training has kept."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from ride_duration.model.bundle import load_bundle
from ride_duration.ops.kept import keep_model
from ride_duration.ops.training import train

QUICK = ("--fleet", "demo")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    "A home folder in which both boosted models of the demo city are kept."
    home = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIDE_DURATION_HOME", str(home))
        candidate = train("2023-01", "2023-02", "demo", models="boosted,boosted_metered", settings={"trees": 20})
        for name in candidate.models:
            keep_model(candidate, name)
    return home


@pytest.fixture
def ask(run, home):
    return lambda *words: run(*words, env={**os.environ, "RIDE_DURATION_HOME": str(home)})


def folder(home: Path, regime: str) -> Path:
    shelf = home / "bundles" / "demo" / regime
    return shelf / (shelf / "newest").read_text().strip()


def bundle(home: Path, regime: str):
    return load_bundle(folder(home, regime))


@pytest.mark.parametrize("miles", [None, 3.5])
def test_a_ride_is_answered_as_in_a_frame(ask, home, miles):
    words = ("predict", "--from", "7", "--to", "12", "--at", "2023-02-01 08:30", *QUICK, "--json")
    found = json.loads(ask(*words, *(["--miles", str(miles)] if miles else [])).stdout)
    trips = pd.DataFrame({"pickup_at": [pd.Timestamp("2023-02-01 08:30")], "PULocationID": [7], "DOLocationID": [12], "trip_distance": [miles]})
    model = bundle(home, "metered" if miles else "booking")
    assert found["minutes"] == model.predict(trips)[0]
    assert [found["low"], found["high"]] == model.predict_interval(trips)[0].tolist()


def test_a_ride_in_words(ask, home):
    name = bundle(home, "booking").zones.Zone[7]
    done = ask("predict", "--from", name.upper(), "--to", "264", "--at", "2023-07-04 08:30", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "minutes; four such rides in five" in done.stdout and "holiday" in done.stdout and "guess" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--from", "Atlantis", "--to", "12"), 14, "no zone is called"),
        (("--from", "7", "--to", "900"), 14, "there is no zone 900"),
        (("--from", "7", "--to", "12", "--at", "soon"), 13, "is not a time"),
        (("--from", "7", "--to", "12", "--fleet", "green"), 26, "ride-duration train"),
        (("--from", "7", "--to", "12", "--bundle", "nowhere"), 26, "holds no model"),
        (("--from", "7", "--to", "12", "--miles", "-1"), 2, "--miles"),
    ],
)
def test_mistakes_are_one_line(ask, words, code, says):
    done = ask("predict", *(() if "--fleet" in words else QUICK), *words)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
    assert code == 2 or len(done.stderr.strip().splitlines()) == 1


def test_a_month_is_scored_and_scored_again(ask, tmp_path):
    words = ("score", "2023-02", "--out", str(tmp_path / "deep" / "scored.parquet"), *QUICK, "--json")
    first = json.loads(ask(*words).stdout)
    content = Path(first["file"]).read_bytes()
    assert len(pd.read_parquet(first["file"])) == first["clean_rows"]
    assert json.loads(ask(*words).stdout) == first and Path(first["file"]).read_bytes() == content
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scored.parquet"]


def test_a_month_that_is_not_there_leaves_the_old_file(ask, tmp_path):
    (tmp_path / "scored.parquet").write_text("good")
    done = ask("score", "2023-13", "--out", "scored.parquet", *QUICK)
    assert done.returncode == 11 and (tmp_path / "scored.parquet").read_text() == "good"


@pytest.mark.parametrize("words", [(), (*QUICK, "--metered")])
def test_a_model_of_other_taxis_or_of_the_other_kind_scores_no_month(ask, home, words):
    done = ask("score", "2023-02", "--out", "scored.parquet", "--bundle", folder(home, "booking"), *words)
    assert (done.returncode, done.stderr.count("\n")) == (13, 1) and "is a booking model of demo taxis: say --fleet demo" in done.stderr, done.stderr


def test_settings_searched_on_the_month_to_be_judged_on_are_refused(run, tmp_path):
    (tmp_path / "tuned.json").write_text(json.dumps({"parameters": {"trees": 20}, "found": {"train": ["2023-02"]}}))
    words = ("train", "--train", "2023-01", *QUICK, "--models", "boosted", "--parameters", "tuned.json", "--json")
    done = run(*words, "--val", "2023-02")
    assert done.returncode == 12 and "2023-02 is not before" in done.stderr
    done = run(*words, "--val", "2023-03")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(tmp_path / found["bundles"]["boosted"] / "manifest.json").is_file()
