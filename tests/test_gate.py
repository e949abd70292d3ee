"""The gate: rules that are understood or refused, and decisions about months in which it is known who is better."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_names, zone_table
from ride_duration.errors import BadParameter, BrokenBundle, NoModel
from ride_duration.model.bundle import MANIFEST, keep_lesson, load_bundle, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.ladder import BOOKING, METERED
from ride_duration.ops import history
from ride_duration.ops.decision import Decision, Rules, Ruling, read_rules
from ride_duration.ops.gate import _why_not, against_champion, answers_in_fresh_process, decide

# --- rules in a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "says"), [
    ("minimal_gain = 0.1", "there is no rule 'minimal_gain': did you mean minimum_gain?"),
    ("COVERAGE_LOW = 0.7", "did you mean coverage_low?"),
    ("xyz = 1", "choose from minimum_gain, slice_margin"),
    ("[gate]\nminimum_gain = 0.1", "there is no rule 'gate'"),
    ('minimum_gain = "0.1"', "minimum_gain must be a number from -60 to 60, not '0.1'"),
    ("minimum_gain = true", "minimum_gain must be a number"),
    ("minimum_gain = nan", "minimum_gain must be a number from -60 to 60, not nan"),
    ("coverage_high = inf", "coverage_high must be a number from 0 to 1, not inf"),
    ("slice_margin = -0.1", "slice_margin must be a number from 0 to 60"),
    ("slice_rides = 300.0", "slice_rides must be a whole number from 1 to 1,000,000,000, not 300.0"),
    ("slice_rides = 0", "slice_rides must be a whole number"),
    ("golden_trips = 1", "golden_trips must be true or false, not 1"),
    ("coverage_low = [0.7]", "coverage_low must be a number"),
    ("coverage_low = 0.9", r"coverage_low \(0.9\) must be below coverage_high \(0.85\)"),
    ("coverage_low = 0.8\ncoverage_high = 0.8", "must be below coverage_high"),
    ("minimum_gain 0.1", "is not TOML"),
    ("minimum_gain = 0.1\nminimum_gain = 0.2", "is not TOML"),
    ("a = " + "[" * 100_000, "is not TOML"),
])  # fmt: skip
def test_a_rule_that_is_not_understood_is_refused_in_one_line(tmp_path: Path, text: str, says: str):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(BadParameter, match=says) as refused:
        read_rules(path)
    assert str(refused.value).startswith(str(path)) and str(refused.value).isprintable() and len(str(refused.value)) < 400


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path, says in ((tmp_path / "absent.toml", "no such file"), (tmp_path, "is a directory"), (tmp_path / "binary.toml", "is not TOML")):
        with pytest.raises(BadParameter, match=says):
            read_rules(path)


def test_what_a_file_does_not_name_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "rules.toml"
    path.write_bytes(b"\xef\xbb\xbf# as some editors begin a file\nslice_rides = 100\ncoverage_high = 1\n")
    assert read_rules(path) == Rules(slice_rides=100, coverage_high=1.0)
    path.write_text("")
    assert read_rules(path) == read_rules() == Rules()


# --- months in which the truth is known ------------------------------------------------------------------------------

NAMES = zone_names("demo")
ZONES = [1, 2, 3, 4, 15]  # the last is in another borough


def made_month(seed: int = 1, days: int = 28, each: int = 200) -> pd.DataFrame:
    "Rides whose length nobody can know better than to three minutes or so, with a jam of its own on each day."
    chance, rides = np.random.default_rng(seed), days * each
    day = np.repeat(np.arange(days), each)
    pickup_at = pd.Timestamp("2023-02-01") + pd.to_timedelta(day, "D") + pd.to_timedelta(chance.integers(0, 86400, rides), "s")
    month = pd.DataFrame({"pickup_at": pickup_at, "PULocationID": chance.choice(ZONES, rides), "DOLocationID": chance.choice(ZONES, rides)})
    usual = 10 + month["PULocationID"] + chance.normal(0, 1.5, days)[day]
    month["duration"] = (usual + chance.normal(0, 3, rides)).clip(1, 60)
    month["seed"] = usual + chance.normal(0, 2, rides)
    month["boosted"] = usual
    month["boosted_low"], month["boosted_high"] = usual - 1.2816 * 3, usual + 1.2816 * 3  # four in five of a normal distribution
    return month


def judge(month: pd.DataFrame, rules: Rules | None = None, candidate: str = "boosted", reference: str = "seed", **said: object) -> Decision:
    about = {"fleet": "demo", "regime": BOOKING, "month": "2023-02", "bundle": None} | said
    return decide(month, candidate, reference, rules or Rules(golden_trips=False), NAMES, **about)


def failed(decision: Decision) -> list[str]:
    return [ruling.rule for ruling in decision.rulings if not ruling.passed]


def ruling(decision: Decision, rule: str) -> Ruling:
    return next(ruling for ruling in decision.rulings if ruling.rule == rule)


def test_a_better_candidate_passes_and_the_figures_are_those_of_the_month():
    decision = judge(made_month())
    assert decision.passed and failed(decision) == []
    gain = ruling(decision, "gain")
    assert 0.4 < gain.figure < 13**0.5 - 3, "the sure gain is below the true one, which is known"
    assert "over 5,600 rides on 28 days" in gain.sentence and "surely gains between" in gain.sentence
    assert ruling(decision, "coverage").figure == pytest.approx(0.8, abs=0.02)
    assert decision.headline.endswith("it passes all 3 rules") and "may replace the seed" in decision.headline


def test_a_worse_candidate_does_not():
    decision = judge(made_month().assign(boosted=lambda month: month["boosted"] + 6))
    assert {"gain", "slices"} <= set(failed(decision)) and not decision.passed
    assert "surely loses between" in ruling(decision, "gain").sentence
    assert "may not replace the seed" in decision.headline and "does not pass: gain, slices" in decision.headline


def test_the_gain_that_is_asked_for_must_be_sure():
    month = made_month()
    sure = ruling(judge(month), "gain").figure
    assert failed(judge(month, Rules(minimum_gain=sure - 0.01, golden_trips=False))) == []
    assert failed(judge(month, Rules(minimum_gain=sure + 0.01, golden_trips=False))) == ["gain"]


def test_the_same_model_again_is_no_gain():
    decision = judge(made_month().assign(seed=lambda month: month["boosted"]))
    assert failed(decision) == ["gain"] and ruling(decision, "gain").figure == 0
    assert "it may be luck" in ruling(decision, "gain").sentence and "-0.00" not in ruling(decision, "gain").sentence


def test_luck_rarely_passes_and_never_looks_like_harm():
    "Two models that err alike, over many months: 2.5 % may pass as better, a little more with four weeks of days; no slice is called surely worse."
    passed, months = 0, 60
    for seed in range(months):
        chance, month = np.random.default_rng([9, seed]), made_month(100 + seed)
        month["boosted"], month["seed"] = (month["duration"] + chance.normal(0, 3, len(month)) for _ in range(2))
        decision = judge(month)
        passed += ruling(decision, "gain").passed
        assert ruling(decision, "slices").passed, str(decision)
    assert passed <= 6


def test_a_slice_that_pays_for_the_others_is_named():
    "Better on the whole, and worse for those who start in the other borough."
    month = made_month()
    month["seed"] += np.where(month["PULocationID"] != 15, 5, 0)
    month["boosted"] += np.where((month["PULocationID"] == 15) & (month["DOLocationID"] != 15), 6, 0)
    decision = judge(month)
    assert failed(decision) == ["slices"], str(decision)
    assert "boroughs Centre → Southbank" in ruling(decision, "slices").sentence
    assert ruling(decision, "slices").figure > 0.5
    assert judge(month, Rules(slice_margin=10, golden_trips=False)).passed
    assert judge(month, Rules(slice_rides=5000, golden_trips=False)).passed, "a slice of too few rides does not count"
    assert "no group has 6,000 rides" in ruling(judge(month, Rules(slice_rides=6000)), "slices").sentence


@pytest.mark.parametrize(("half", "right"), [(1.0, False), (1.2816 * 3, True), (9.0, False)], ids=["narrow", "right", "wide"])
def test_ranges_hold_as_often_as_they_say(half: float, right: bool):
    month = made_month()
    decision = judge(month.assign(boosted_low=month["boosted"] - half, boosted_high=month["boosted"] + half))
    assert failed(decision) == ([] if right else ["coverage"])
    assert f"{ruling(decision, 'coverage').figure:.1%} of rides" in ruling(decision, "coverage").sentence


def test_a_candidate_without_ranges_or_of_a_single_day_is_not_let_through():
    month = made_month()
    assert failed(judge(month.drop(columns="boosted_low"))) == ["coverage"]
    one_day = judge(month.head(200))
    assert failed(one_day) == ["gain"] and "cannot be told" in ruling(one_day, "gain").sentence


def test_predictions_that_are_no_numbers_are_not_let_through():
    broken = made_month()
    broken.loc[17, ["boosted", "boosted_low", "boosted_high"]] = np.nan
    decision = judge(broken)
    assert "gain" in failed(decision)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict(), allow_nan=False))) == decision


def test_what_was_not_predicted_cannot_be_judged():
    with pytest.raises(BadParameter, match="nothing was predicted by champion"):
        judge(made_month(), reference="champion")
    with pytest.raises(BadParameter, match="nothing was predicted by course"):
        judge(made_month(), candidate="course")


def test_the_same_month_gives_the_same_decision():
    assert judge(made_month()) == judge(made_month().sample(frac=1, random_state=2))


# --- a decision on paper ---------------------------------------------------------------------------------------------


def test_a_decision_survives_json_and_the_history():
    decision = judge(made_month(), bundle=Path("somewhere") / "2023-01-on-2023-02-0a1b2c3d", against="champion (version 3)", note="a word")
    assert (decision.candidate, decision.reference) == ("2023-01-on-2023-02-0a1b2c3d", "champion (version 3)")
    history.record_decision("ride-duration-demo", decision, version=4)
    (kept,) = history.events()
    assert Decision.from_dict(kept.evidence) == decision and kept.why == decision.headline
    assert kept.evidence["passed"] is True
    assert decision.note in str(decision) and decision.headline in str(decision) and len(str(decision).splitlines()) == 5


class Tags(HTMLParser):
    "The tags and the text of a piece of HTML."

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list):
        self.tags |= {tag, *(name for name, _ in attributes)}

    def handle_data(self, data: str):
        self.text += data


def test_names_are_shown_and_not_obeyed():
    hostile = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;"
    words = [f"{hostile}{number}" for number in range(9)]
    decision = Decision(*words[:5], (Ruling(words[5], 1.0, words[6], True, words[7]),), words[8])
    shown = Tags(decision._repr_html_())
    assert shown.tags == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "class"}
    assert all(word in shown.text for word in words if word != words[2]) and words[2] in shown.text


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trips(tmp_path_factory) -> pd.DataFrame:
    path, month = tmp_path_factory.mktemp("demo") / "month.parquet", Month(2023, 1)
    write_demo_month(path, month, 3000)
    return read_trips(path, "demo", month)[0]


@pytest.fixture(scope="module")
def kept(trips, tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for regime in (BOOKING, METERED):
        model = RangedBoosted(zone_table("demo"), regime, trees=20, threads=1).fit(trips, trips["duration"])
        about = {"fleet": "demo", "synthetic": True, "train": ["2022-12", "2023-01"]}
        folders[regime] = save_bundle(model, tmp_path_factory.mktemp("bundles") / regime, keep_lesson(trips), about)
    return folders


@pytest.fixture
def bundle(kept, tmp_path) -> Path:
    "A copy to be damaged."
    return Path(shutil.copytree(kept[BOOKING], tmp_path / "candidate"))


def test_a_sound_bundle_answers_elsewhere_and_passes(bundle: Path):
    assert answers_in_fresh_process(bundle) is None
    decision = judge(made_month(), Rules(), bundle=bundle)
    assert decision.passed and [found.rule for found in decision.rulings] == ["gain", "slices", "coverage", "golden trips"]


def _flip(bundle: Path) -> None:
    content = bytearray((bundle / "trees.txt").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "trees.txt").write_bytes(content)


def _answer_otherwise(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["golden"][4]["answer"][0] += 0.001
    (bundle / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(("damage", "says"), [
    (_flip, "trees.txt was changed or damaged"),
    (_answer_otherwise, "is answered otherwise here"),
    (lambda bundle: (bundle / "low.txt").unlink(), "has no readable low.txt"),
    (lambda bundle: (bundle / MANIFEST).unlink(), "holds no model"),
    (shutil.rmtree, "holds no model"),
], ids=["flipped", "golden", "missing", "unsealed", "gone"])  # fmt: skip
def test_a_damaged_bundle_is_not_let_through_and_a_sentence_says_why(bundle: Path, damage, says: str):
    damage(bundle)
    decision = judge(made_month(), Rules(), bundle=bundle)
    assert failed(decision) == ["golden trips"]
    sentence = ruling(decision, "golden trips").sentence
    assert sentence.startswith("it cannot be served: ") and says in sentence and sentence.isprintable()
    assert str(bundle.parent) not in sentence, "a decision is the same wherever it is made"
    assert judge(made_month(), Rules(golden_trips=False), bundle=bundle).passed


def test_a_process_that_hangs_is_killed_or_lacks_the_library_is_an_answer_too(bundle: Path, tmp_path: Path, monkeypatch):
    assert answers_in_fresh_process(bundle, patience=0.01) == "it did not answer within 0.01 seconds"
    killed = subprocess.run(["sh", "-c", "kill -9 $$"], capture_output=True, text=True)
    assert _why_not(killed, bundle) == "the process that loaded it was ended (Killed)"
    (tmp_path / "pandas.py").write_text("raise ImportError('no pandas here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent.parent}")
    assert answers_in_fresh_process(bundle) == "ImportError: no pandas here"


def test_no_bundle_is_no_way_around_the_golden_trips():
    assert failed(judge(made_month(), Rules())) == ["golden trips"]


# --- the champion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", [BOOKING, METERED])
def test_the_champion_answers_the_month_with_what_it_may_know(kept, trips, regime: str):
    found = against_champion(trips.assign(seed=12.0), "2023-02", "demo", regime, kept[regime], version=3)
    assert (found.reference, found.text, found.note) == ("champion", "champion (version 3)", "")
    model = load_bundle(kept[regime])
    assert found.judged["champion"].tolist() == model.predict(trips).tolist()
    assert (found.judged[["champion_low", "champion_high"]].to_numpy() == model.predict_interval(trips)).all()
    assert "champion" not in trips, "the frame that was given stays as it is"


def test_a_booking_champion_is_not_shown_what_only_the_meter_knows(kept, trips):
    "Neither the distance nor the outcome is needed, and neither makes a difference."
    known = trips[["pickup_at", "PULocationID", "DOLocationID"]]
    bare = against_champion(known, "2023-02", "demo", BOOKING, kept[BOOKING]).judged["champion"]
    lied = against_champion(trips.assign(trip_distance="far", duration=np.nan), "2023-02", "demo", BOOKING, kept[BOOKING]).judged["champion"]
    assert bare.tolist() == lied.tolist()


@pytest.mark.parametrize(("month", "learnt"), [("2023-01", None), ("2022-12", None), ("2022-11", None), ("2023-02", ["2023-02"]), ("2023-02", ["2021-01", "2023-05"])])
def test_a_champion_that_has_learnt_the_judged_month_or_a_later_one_is_no_reference(kept, trips, month: str, learnt):
    found = against_champion(trips.assign(seed=12.0), month, "demo", BOOKING, kept[BOOKING], learnt, version=7)
    assert (found.reference, found.text) == ("seed", "seed") and "champion" not in found.judged
    assert "The champion (version 7) has learnt from" in found.note and f"{month} is no fair month" in found.note


def test_a_champion_of_unknown_lessons_is_no_reference(bundle: Path, trips):
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["train"]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    unknown = against_champion(trips, "2023-02", "demo", BOOKING, bundle)
    assert unknown.reference == "seed" and "does not say which months" in unknown.note
    assert against_champion(trips, "2023-02", "demo", BOOKING, bundle, ["2023-01"]).reference == "champion"


def test_without_a_champion_the_seed_is_the_reference(trips):
    assert against_champion(trips, "2023-02", "demo", BOOKING, None)[1:] == ("seed", "seed", "There is no champion yet, so it is compared with the seed.")


def test_another_fleets_or_regimes_champion_and_a_damaged_one_are_refused(kept, bundle, trips, tmp_path):
    for fleet, regime in (("green", BOOKING), ("demo", METERED)):
        with pytest.raises(BadParameter, match="name its own champion"):
            against_champion(trips, "2023-02", fleet, regime, kept[BOOKING])
    with pytest.raises(NoModel):
        against_champion(trips, "2023-02", "demo", BOOKING, tmp_path / "nowhere")
    _flip(bundle)
    with pytest.raises(BrokenBundle):
        against_champion(trips, "2023-02", "demo", BOOKING, bundle)


def test_from_the_champions_answers_to_a_decision(kept, trips):
    "Once through: a candidate that knows the outcome beats the champion of the demo city, and the champion does not beat itself."
    found = against_champion(trips, "2023-02", "demo", BOOKING, kept[BOOKING], version=3)
    month = found.judged.assign(boosted=lambda month: month["duration"] + 0.1, boosted_low=lambda month: month["champion_low"], boosted_high=lambda month: month["champion_high"])
    rules = Rules(coverage_low=0, coverage_high=1)
    said = {"bundle": kept[METERED], "against": found.text, "note": found.note}
    assert judge(month, rules, reference=found.reference, **said).passed
    assert "may replace the champion (version 3) for demo taxis" in judge(month, rules, reference=found.reference, **said).headline
    assert "gain" in failed(judge(month, rules, candidate="champion", reference="champion", **said))


def test_a_decision_is_made_where_the_library_is_not_the_current_folder(kept, tmp_path):
    program = "import sys; from ride_duration.ops.gate import answers_in_fresh_process; print(answers_in_fresh_process(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, str(kept[BOOKING])], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "None\n", done.stderr
