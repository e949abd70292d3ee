"""Findings are remembered, told once, and over once: whatever order windows come in, whoever watches at the same time, and whatever dies."""

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ride_duration.errors import BadParameter, BrokenDatabase
from ride_duration.ops.findings import ACTIONS, KINDS, Finding, findings_table
from ride_duration.ops.findings_file import findings_file
from ride_duration.ops.incidents import News, observe, seen_before, told
from ride_duration.ops.persistence import CERTAIN, LIVE, MONTHLY, Open, Rules, Span, open_after, read_rules
from ride_duration.ops.runbook import runbook, runbook_entry


def one(severity: str = "act", kind: str = "bias", subject: str = "error", **more: object) -> Finding:
    said = {"since": "2023-02", "size": 1.0, "unit": "minutes"} | more
    return Finding(kind, "demo", subject, severity, ACTIONS[severity][0], f"{kind} of {subject}", **said)


# --- the runbook -----------------------------------------------------------------------------------------------------


def test_every_kind_that_can_be_raised_has_an_entry_and_every_entry_a_kind():
    assert set(runbook()) == set(KINDS)
    for kind, text in runbook().items():
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Means", "Check", "Do", "Ends"], kind
    with pytest.raises(ValueError, match="an entry in docs/runbook"):
        one(kind="something_else")


def test_links_of_the_runbook_lead_somewhere():
    text = Path(__file__).parent.parent.joinpath("docs", "runbook.md").read_text()
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^##? (.+)$", text, re.MULTILINE)}  # as GitHub makes anchors of them
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings and set(KINDS) <= headings
    assert "](" not in runbook_entry("missing_hours")


# --- the rule --------------------------------------------------------------------------------------------------------

SPANS = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda pair: (max(pair), min(pair)))
STORIES = st.lists(st.sampled_from([None, "watch", "act"]), min_size=1, max_size=30)


@given(STORIES, SPANS, SPANS)
@settings(max_examples=300, deadline=None)
def test_nobody_is_told_before_k_of_n_and_the_latest_have_it_nor_of_what_is_over(story, watch, act):
    span, now = Span(*watch, *act), Open()
    for end in range(1, len(story) + 1):
        before, seen = now, story[:end]
        now = open_after(seen, span, before)
        if now.level and not before.level:
            acts, any_ = (sum(severity in kinds for severity in seen[-windows:]) for windows, kinds in ((act[0], ("act",)), (watch[0], ("watch", "act"))))
            assert seen[-1] and (any_ >= watch[1] or (acts >= act[1] and seen[-1] == "act")), "too early"
        if not now.level and any(seen[-n:].count(None) < n for n in (watch[0] - watch[1] + 1,) if before.watch):
            raise AssertionError("too soon over")
        if all(severity is None for severity in seen[-max(watch[0], act[0]):]) and len(seen) >= max(watch[0], act[0]):
            assert not now.level, "it is over, and nobody says so"


@given(STORIES)
@settings(max_examples=40, deadline=None)
def test_what_is_told_alternates_and_says_what_stands_open(tmp_path_factory, story):
    os.environ["RIDE_DURATION_HOME"] = str(tmp_path_factory.mktemp("home"))  # the autouse fixture puts it back
    was, heard = Open(), []
    for place, severity in enumerate(story):
        seen = observe("month", "demo", f"2023-{place:03}", [one(severity)] if severity else [])
        was = open_after(story[: place + 1], MONTHLY.span("bias"), was)
        assert [incident.level for incident in seen.incidents] == ([was.level] if was.level else [])
        heard += [(word, incident.level) for word in ("reported", "ended") for incident in getattr(seen.news, word, ())]
    for (before, level), (after, _) in itertools.pairwise(heard):
        assert after == "ended" if (before, level) == ("reported", "act") else (after, before) != ("ended", "ended"), heard
    entries = told()
    assert [entry.ended is None for entry in entries] == [False] * (len(entries) - bool(was.level)) + [True] * bool(was.level)
    assert sum(word == "ended" for word, _ in heard) == sum(entry.ended is not None for entry in entries)


def test_windows_in_any_order_end_in_the_same_state(tmp_path, monkeypatch):
    story, states = {"2023-02": "watch", "2023-03": None, "2023-04": "watch", "2023-05": "act"}, set()
    for number, order in enumerate(itertools.permutations(story)):
        monkeypatch.setenv("RIDE_DURATION_HOME", str(tmp_path / str(number)))
        for window in order:
            observe("month", "demo", window, [one(story[window])] if story[window] else [])
        last = observe("month", "demo", "2023-05", [one("act")])
        assert last.news is None, "all is known"
        states.add((last.incidents[0].level, last.incidents[0].first, last.incidents[0].windows))
    assert states == {("act", "2023-02", 3)}


def test_a_month_that_could_not_be_read_ends_nothing():
    unread = [replace(one("act", "unreadable_month"), subject="2023-03", action="repair data")]
    heard = [observe("month", "demo", f"2023-0{number}", found).news for number, found in ((2, [one("act")]), (3, unread), (4, [one("act")]), (5, []), (6, []))]
    told = [([incident.finding.kind for incident in news.reported], [incident.finding.kind for incident in news.ended]) for news in heard if news]
    assert told == [([one("act").kind], []), (["unreadable_month"], []), ([], ["unreadable_month"]), ([], [one("act").kind])]


def test_a_window_with_too_few_rides_ends_nothing_they_would_have_shown():
    for day in (2, 3, 4):
        observe("live", "demo", f"2023-02-0{day}", [one("act"), one("act", "no_traffic", "requests")], rules=LIVE)
    for day in (5, 6, 7):
        quiet = observe("live", "demo", f"2023-02-0{day}", [], rules=LIVE, unknown=["bias"])
    assert [incident.finding.kind for incident in quiet.incidents] == ["bias"] and [over.finding.kind for over in quiet.news.ended] == ["no_traffic"]
    assert observe("live", "demo", "2023-02-07", [], rules=LIVE, unknown=["bias"]).news is None
    for day in (7, 8, 9):  # the seventh once more: rides were told late
        busy = observe("live", "demo", f"2023-02-0{day}", [], rules=LIVE)
    assert [over.finding.kind for over in busy.news.ended] == ["bias"]


def test_scopes_and_fleets_do_not_mix():
    observe("month", "demo", "2023-02", [one("watch")])
    assert observe("live", "demo", "2023-02-28T10", [one("watch")]).news is None
    assert observe("month", "green", "2023-03", [replace(one("watch"), fleet="green")]).news is None
    assert observe("month", "demo", "2023-03", [one("watch")]).news is not None
    assert list(seen_before("live", "demo", "2024")) == ["demo/bias/error"]
    for fleet in ("demo", "green"):  # what one command once wrote of the wrong fleet stands there for ever
        observe("month", fleet, "2023-04", [one("act", "columns_changed")])
    for fleet in ("demo", "green"):
        observe("month", fleet, "2023-05", [])
    assert [entry.ended for entry in told() if entry.incident.finding.kind == "columns_changed"] == ["2023-05", "2023-05"]


# --- rules in a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "says"), [
    ("neded = 2", "there is no rule 'neded': did you mean needed?"),
    ("needed = 0", "needed must be a whole number from 1 to 1,000, not 0"),
    ("needed = 2.0", "needed must be a whole number"),
    ("act_needed = 2", "2 of 1 windows cannot be"),
    ("[missing_days]\nneeded = 1", "there is no rule 'missing_days': did you mean missing_day?"),
    ("[missing_day]\ntell = 'act'", "there is no rule 'tell'"),
    ("[live_limit]\nleast = 10", "there is no rule 'live_limit': did you mean live_limits?"),
    ("[[bias]]\nneeded = 1", "there is no rule 'bias'"),
    ("tell = 'all'", "tell must be watch or act"),
    ("kinds = 3", "there is no rule 'kinds'"),
    ("needed =", "is not TOML"),
])  # fmt: skip
def test_a_rule_that_is_not_understood_is_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(BadParameter, match="^" + str(path)) as refused:
        read_rules(path)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_rules_hold(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("windows = 1\nneeded = 1\ntell = 'act'\n[bias]\nact_windows = 2\nact_needed = 2\n")
    rules = read_rules(path)
    assert (rules.span("missing_day"), LIVE.span("bias")) == (CERTAIN, Span(5, 3, 5, 3))
    assert observe("month", "demo", "2023-02", [one("watch"), one("watch", "zone_closed")], rules=rules).news is None, "nobody wants to hear what is only to be watched"
    assert observe("month", "demo", "2023-03", [one("act")], rules=rules).news is None
    [incident] = observe("month", "demo", "2023-04", [one("act")], rules=rules).news.reported
    assert (incident.level, incident.windows) == ("act", 3)
    assert Rules(kinds={"bias": {"needed": 1}}).span("bias") == Span(3, 1, 1, 1)


# --- the file --------------------------------------------------------------------------------------------------------

WATCHER = """
import os, sys
sys.path[:0] = [{tests!r}]
from test_findings import *
for month in range(2, 12):
    observe("month", "demo", f"2023-{{month:02}}", [one("act", size=month)] if month % 2 else [])
"""


def watcher() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WATCHER.format(tests=str(Path(__file__).parent))], stderr=subprocess.PIPE, text=True)


def test_two_who_watch_at_once_tell_each_thing_once():
    both = [watcher() for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    entries = told("demo")
    windows = [entry.window for entry in entries]
    assert windows == sorted(set(windows)) and "2023-03" in windows
    with sqlite3.connect(findings_file()) as memory:
        names = [name for (name,) in memory.execute("SELECT id FROM message")]
        assert len(names) == len(set(names))
    memory.close()


def test_killed_while_it_writes_all_or_nothing_is_there():
    for tenths in range(5, 10):
        process = watcher()
        try:
            process.wait(tenths / 10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if findings_file().exists():
        with sqlite3.connect(findings_file()) as memory:
            reported = memory.execute("SELECT window FROM event WHERE what IN ('reported', 'ended') ORDER BY id").fetchall()
            said = [json.loads(body) for (body,) in memory.execute("SELECT body FROM message ORDER BY number")]
        memory.close()
        assert len(reported) == sum(len(News.from_dict(news).reported) + len(News.from_dict(news).ended) for news in said)
    process = watcher()
    assert process.communicate()[1] == "" and process.returncode == 0
    assert len({entry.window for entry in told()}) == len(told())


def test_a_damaged_memory_is_named():
    observe("month", "demo", "2023-02", [])
    findings_file().write_bytes(b"something else" * 1000)
    with pytest.raises(BrokenDatabase, match="damaged or not ours"):
        observe("month", "demo", "2023-03", [])


def test_strangers_words_stay_words():
    table = findings_table([one("watch", subject="<img src=x>", since="<b>")])
    assert "<b>" not in table and "<img" not in table
