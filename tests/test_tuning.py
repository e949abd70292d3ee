"""The search for parameters: it sees the training months alone, never worsens the defaults, keeps its limits, and leaves a file that is read strictly."""

import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ride_duration.data.source import fetch_month
from ride_duration.data.trips import load_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import BadParameter, MissingExtra, RideDurationError
from ride_duration.model.boosted import Boosted
from ride_duration.model.ladder import KNOWN
from ride_duration.ops import tuning
from ride_duration.ops.folds import fold_errors, rolling_folds
from ride_duration.ops.parameters import SPACE, default_parameters, read_parameters
from ride_duration.ops.tuning import tune

FEW = {"fleet": "demo", "most_rides": 2000}
SECONDS_A_FOLD = 10


@pytest.fixture
def made_up(monkeypatch):
    "Errors that are said rather than fitted, and a clock that each fold moves on."
    clock = [0.0]

    def errors_of(say):
        def fold_errors(model, trips, folds):
            for _ in folds:
                clock[0] += SECONDS_A_FOLD
                yield np.full(100, float(say(model)))

        monkeypatch.setattr(tuning, "fold_errors", fold_errors)
        monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        return clock

    return errors_of


def are_default(model: Boosted) -> bool:
    return all(getattr(model, name) == value for name, value in default_parameters().items())


def test_the_same_seed_finds_the_same():
    "Fitted twice, to the last digit."
    once, again = (tune("2023-01", trials=3, threads=threads, **FEW) for threads in (1, 2))
    assert once.summary() == again.summary()
    assert repr(once) == repr(again) and once.train.is_synthetic and "(synthetic)" in repr(once)


def test_another_seed_tries_others(made_up):
    tried = []
    made_up(lambda model: tried.append(model.num_leaves) or 5)
    for seed in (1, 1, 2):
        tune("2023-01", trials=8, seed=seed, **FEW)
    first, same, other = np.array_split(tried, 3)
    assert list(first) == list(same) != list(other)


def test_defaults_come_first_and_stay_where_nothing_beats_them(made_up):
    for worse in (5, 6):  # a tie is not better
        tried = []
        made_up(lambda model, tried=tried, worse=worse: tried.append(are_default(model)) or (5 if are_default(model) else worse))
        tuned = tune("2023-01", trials=12, **FEW)
        assert tried[0] and not all(tried)
        assert tuned.parameters == default_parameters() and tuned.rmse_best == tuned.rmse_default == 5
        assert "nothing beat the defaults" in tuned._repr_markdown_()


def test_the_best_is_found_and_its_figure_is_its_own(made_up):
    made_up(lambda model: 4 + abs(model.num_leaves - 30) / 100)
    tuned = tune("2023-01", trials=40, **FEW)
    assert tuned.rmse_best == pytest.approx(4 + abs(tuned.parameters["num_leaves"] - 30) / 100)
    assert tuned.rmse_best < tuned.rmse_default and tuned.rmse_best == pytest.approx(tuned.folds[-1].best)
    assert 0 < tuned.given_up < tuned.trials == 40, "trials that lag behind are given up"
    assert all(SPACE[name].low <= value <= SPACE[name].high for name, value in tuned.parameters.items())


@pytest.mark.parametrize(("budget", "trials", "seconds"), [(1, 1, 30), (30, 1, 30), (31, 1, 40), (65, 2, 70), (10_000, 4, 120)])
def test_the_budget_ends_the_search_within_a_fold(made_up, budget, trials, seconds):
    "Three folds of ten seconds a trial; the defaults are judged in any case, a trial that is not finished counts for nothing."
    clock, told = made_up(lambda model: 5 if are_default(model) else 4), []
    tuned = tune("2023-01", trials=4, budget=budget, progress=lambda *said: told.append(said), **FEW)
    assert (tuned.trials, clock[0]) == (trials, seconds)
    assert told == [(done, 4, 5 if done == 1 else 4) for done in range(1, trials + 1)]
    assert tuned.rmse_best == told[-1][2]


def test_only_the_training_month_is_ever_opened(files: Path, tmp_path: Path):
    "A source that holds it alone is enough; a later month that nobody can read is not noticed."
    folder, asked = tmp_path / "source" / "trip-data", []
    folder.mkdir(parents=True)
    shutil.copy(files / "trip-data" / "green_tripdata_2023-01.parquet", folder)

    def fetch(fleet, month, source):
        asked.append((fleet, str(month)))
        return fetch_month(fleet, month, source)

    alone = tune("2023-01", "green", source=tmp_path / "source", trials=2, fetch=fetch)
    (folder / "green_tripdata_2023-02.parquet").write_bytes(b"not to be opened")
    beside = tune("2023-01", "green", source=tmp_path / "source", trials=2, fetch=fetch)
    assert alone.summary() == beside.summary() and set(asked) == {("green", "2023-01")}
    assert {path.name for path in tmp_path.rglob("*2023-02*")} == {"green_tripdata_2023-02.parquet"}, "nothing of it came into the cache"


def test_later_days_do_not_reach_earlier_folds():
    trips = load_trips("demo", "2023-01").frame.iloc[::40].reset_index(drop=True)
    folds = rolling_folds(trips["pickup_at"].to_numpy())
    model = Boosted(zone_table("demo"), trees=30)
    before = list(fold_errors(model, trips, folds))
    late = trips["pickup_at"].to_numpy().astype("datetime64[D]") >= folds[-1].first
    trips.loc[late, "duration"] += 7
    after = list(fold_errors(model, trips, folds))
    assert [np.array_equal(one, other) for one, other in zip(before, after, strict=True)] == [True, True, False]
    assert np.allclose(before[-1] - after[-1], 7), "the last block is judged and not learnt from"
    judged = [set(fold.split(trips)[1].index) for fold in folds]
    assert sum(map(len, judged)) == len(set.union(*judged)), "no ride is judged twice"


def test_only_a_metered_search_reads_the_meter(monkeypatch):
    seen = []
    predict = Boosted.predict
    monkeypatch.setattr(Boosted, "predict", lambda self, trips: seen.append((self.regime, self.features_)) or predict(self, trips))
    scores = {regime: tune("2023-01", regime=regime, trials=1, **FEW).rmse_default for regime in ("booking", "metered")}
    assert scores["metered"] < scores["booking"]
    assert {regime for regime, features in seen if "route_miles" in features} == {"metered"}
    assert KNOWN["trip_distance"] == "metered"


def test_ctrl_c_ends_it_as_ever_and_optuna_says_nothing(monkeypatch, capfd):
    import optuna

    before, fits, fit = optuna.logging.INFO, [], Boosted.fit
    optuna.logging.set_verbosity(before)  # what it begins with

    def interrupted(self, *given):
        fits.append(self)
        if len(fits) == 5:  # in the second trial
            raise KeyboardInterrupt
        return fit(self, *given)

    monkeypatch.setattr(Boosted, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune("2023-01", trials=4, **FEW)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before, "others who use it hear it again"


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"^[^\n]*pip install 'ride-duration\[tune\]'$"):
        tune("2023-01", "demo", fetch=None)  # said before anything is fetched


@pytest.mark.parametrize(
    "wrong", [{"regime": "both"}, {"trials": 0}, {"budget": 0}, {"budget": math.nan}, {"most_rides": 0}, {"fleet": "blue"}, {"train": "January"}, {"most_rides": 3}]
)
def test_what_cannot_be_searched_is_one_line(wrong):
    with pytest.raises(RideDurationError, match=r"^[^\n]+$"):
        tune(**{"train": "2023-01", "fleet": "demo"} | wrong)


def test_a_file_is_read_as_it_was_written(made_up, tmp_path: Path):
    made_up(lambda model: model.learning_rate)
    tuned = tune("2023-01", trials=5, **FEW)
    path = tuned.to_file(tmp_path / "new" / "tuned.json")
    read = read_parameters(path)
    assert read == tuned.parameters and {name: type(value) for name, value in read.items()} == {name: SPACE[name].kind for name in SPACE}
    assert path.read_bytes() == tuned.to_file(str(tmp_path / "again.json")).read_bytes()
    assert Boosted(zone_table("demo"), **read).learning_rate == tuned.parameters["learning_rate"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"parameters": {"leaves": 31}}', "no parameter is called 'leaves': choose from trees"),
        ('{"parameters": {"threads": 1}}', "no parameter is called 'threads'"),
        ('{"parameters": {"zones": 1, "trees": 5}}', "no parameter is called 'zones'"),
        ('{"parameters": {"num_leaves": 31.0}}', "num_leaves must be a whole number from 2 to 4,096, not 31.0"),
        ('{"parameters": {"num_leaves": true}}', "not True"),
        ('{"parameters": {"num_leaves": "31"}}', "not '31'"),
        ('{"parameters": {"num_leaves": 1}}', "not 1"),
        ('{"parameters": {"trees": null}}', "not None"),
        ('{"parameters": {"trees": 1e9}}', "trees must be"),
        ('{"parameters": {"learning_rate": NaN}}', "not nan"),
        ('{"parameters": {"learning_rate": -0.1}}', "learning_rate must be a number"),
        ('{"parameters": {"feature_fraction": Infinity}}', "not inf"),
        ('{"parameters": {"bagging_fraction": "\\n%s"}}' % ("x" * 500), "bagging_fraction must be"),
        ('{"parameters": {"trees": %s}}' % ("9" * 5000), "is not JSON"),
        ('{"parameters": [31]}', "not as [31]"),
        ('{"trees": 31}', "holds no parameters"),
        ('{"parameters": {}, "paramters": {}}', "'paramters' is not understood"),
        ('{"parameters": {}, "found": null}', '"found" is not understood'),
        ('{"parameters": {}, "found": {"train": 5}}', '"found" is not understood'),
        ("[]", "holds no parameters"),
        ("trees = 31", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, content: str, says: str):
    path = tmp_path / "tuned.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadParameter) as caught:
        read_parameters(path)
    line = str(caught.value)
    assert says in line and "\n" not in line and len(line) < len(str(path)) + 250 and str(path) in line


def test_a_file_that_is_not_there(tmp_path: Path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(BadParameter, match=r"^cannot read [^\n]+$"):
            read_parameters(path)


def test_real_rides_of_one_month(mirror: Path):
    tuned = tune("2023-01", "green", source=mirror, trials=1, most_rides=8000)
    assert tuned.train.account.kept == 65_943 and tuned.rides <= 8000 and not tuned.train.is_synthetic
    assert 4 < tuned.rmse_default < 8 and "evenly thinned" in repr(tuned)
