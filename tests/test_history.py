"""Who was champion when: asked by another process, written by two at once, killed in the middle, and never rewritten."""

import json
import os
import pwd
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ride_duration.errors import BadParameter, BrokenDatabase, CannotWrite, FolderBusy, Refused
from ride_duration.ops.history import champion, champion_on, events, promote, record_decision, rollback
from ride_duration.ops.hold import held, hold

MODEL, OTHER = "ride-duration-green", "ride-duration-green-metered"
CITY = ZoneInfo("America/New_York")


def fresh(program: str, *words: object) -> str:
    "What another process prints."
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- who was champion on that day ------------------------------------------------------------------------------------

WHO_WAS = """
import sys, json
from datetime import date
from ride_duration.ops.history import champion_on
found = [champion_on(sys.argv[1], date.fromisoformat(day)) for day in sys.argv[2:]]
print(json.dumps([event and [event.version, event.by] for event in found]))
"""


def test_a_fresh_process_knows_the_champion_of_every_day():
    "30 promotions and 5 rollbacks over four months, against a table of days reckoned here by hand: a list that is cut by one at a rollback."
    chance, start = random.Random(11), date(2023, 1, 10)
    steps = ["rollback"] * 5 + ["promote"] * 25
    chance.shuffle(steps)
    steps = ["promote"] * 5 + steps  # so that each rollback has somewhere to go
    at, thread, by_day, version = datetime(2023, 1, 10, 9, tzinfo=CITY), [], {}, 0
    for number, step in enumerate(steps):
        who, moment = f"person {number}", at
        if step == "promote":
            version += 1
            thread = [*thread, version]
            promote(MODEL, version, "better", by=who, clock=lambda moment=moment: moment)
        else:
            thread = thread[:-1]
            rollback(MODEL, "worse", by=who, clock=lambda moment=moment: moment)
        promote(OTHER, 1000 + number, "another model's own story", clock=lambda moment=moment: moment)
        by_day[at.astimezone(CITY).date()] = [thread[-1], who]
        at += timedelta(hours=chance.choice([2, 14, 15, 40, 120, 200]))
    days = [start + timedelta(days=n) for n in range(-3, (at.date() - start).days + 3)]
    expected, now = [], None
    for day in days:
        now = by_day.get(day, now)
        expected.append(now)
    assert len(events(MODEL)) == 35 and len(days) > 60
    assert json.loads(fresh(WHO_WAS, MODEL, *days)) == expected
    assert champion(MODEL).version == thread[-1]


@pytest.mark.parametrize(("moment", "day"), [
    ((2023, 7, 1, 23, 59, 59, 999999), date(2023, 7, 1)),  # summer: the day ends at four in the morning in UTC
    ((2023, 1, 1, 23, 59, 59, 999999), date(2023, 1, 1)),  # winter: at five
    ((2023, 3, 12, 23, 30), date(2023, 3, 12)),            # the day that has 23 hours
    ((2023, 11, 5, 23, 30), date(2023, 11, 5)),            # and the one that has 25
])  # fmt: skip
def test_a_day_ends_at_midnight_in_new_york(moment, day):
    promote(MODEL, 1, "first", clock=lambda: datetime(*moment, tzinfo=CITY))
    assert champion_on(MODEL, day).version == 1
    assert champion_on(MODEL, day - timedelta(days=1)) is None
    assert champion_on(MODEL, datetime(*moment)).version == 1, "an instant counts from itself on"
    assert champion_on(MODEL, datetime(*moment) - timedelta(microseconds=1)) is None


def test_two_rollbacks_go_back_two_steps_and_a_promotion_lies_on_what_they_left():
    for version in (1, 2, 3):
        promote(MODEL, version, "better")
    assert [rollback(MODEL, "worse").version, rollback(MODEL, "worse").version] == [2, 1]
    with pytest.raises(Refused, match="no champion before version 1 to go back to"):
        rollback(MODEL, "worse")
    promote(MODEL, 4, "better")
    promote(MODEL, 2, "the second was not so bad")
    assert [rollback(MODEL, "worse").version, rollback(MODEL, "worse").version] == [4, 1]
    with pytest.raises(Refused, match="at all"):
        rollback(OTHER, "nothing was ever promoted")


class Judged:
    headline = "the candidate may replace the seed"

    def to_dict(self) -> dict:
        return {"headline": self.headline, "figures": [1.5, None]}


def test_a_decision_is_kept_and_crowns_nobody():
    assert record_decision(MODEL, Judged(), by="gate").previous is None
    promote(MODEL, 1, "first", decision=Judged())
    kept = record_decision(MODEL, Judged(), version=2, by="gate")
    assert (kept.version, kept.previous, champion(MODEL).version) == (2, 1, 1)
    assert [event.evidence for event in events(MODEL)] == [Judged().to_dict()] * 3
    assert events(MODEL)[-1] == kept
    with pytest.raises(Refused, match="before version 1"):
        rollback(MODEL, "a decision is no promotion")


def test_words_of_people_stay_on_one_line():
    promote(MODEL, 1, "two\nlines \x1b[2J'); DROP TABLE event; --", by="eve\r\nroot")
    with pytest.raises(Refused) as refused:
        promote(MODEL, 1, "again", expected=7)
    assert str(refused.value).isprintable() and "eve root" in str(refused.value)
    assert len(events()) == 1


def test_a_user_without_a_name_can_promote_and_stop_promotions(monkeypatch):
    "As in a container whose user no file knows."
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert promote(MODEL, 1, "first").by == "unknown"
    assert hold("green", "a parade") == held("green") and held("green").by == "unknown"


def test_a_version_as_mlflow_writes_it_is_not_taken_for_another_champion():
    promote(MODEL, 1, "first")
    for wrong in ({"version": "2"}, {"version": 2, "expected": "1"}, {"version": True}):
        with pytest.raises(BadParameter, match="whole number"):
            promote(MODEL, why="better", **wrong)
    assert champion(MODEL).version == 1


# --- several at once -------------------------------------------------------------------------------------------------

RACER = """
import sys
from ride_duration.errors import Refused
from ride_duration.ops.history import promote
model, name = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    expected, version = (int(word) or None for word in line.split())
    try:
        promote(model, version, "better", expected=expected, by=name)
        print("won", flush=True)
    except Refused as error:
        print(error, flush=True)
"""


def test_of_two_promoters_at_once_exactly_one_wins():
    "Two processes that have both compared with the same champion, told to begin at the same time, forty times over."
    words = [[sys.executable, "-c", RACER, MODEL, name] for name in ("ada", "bob")]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in words]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
        winners, now = [], 0
        for turn in range(40):
            versions = (2 * turn + 1, 2 * turn + 2)
            for side in (0, 1) if turn % 2 else (1, 0):  # neither is always told first
                racers[side].stdin.write(f"{now} {versions[side]}\n")
                racers[side].stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers]
            assert answers.count("won") == 1, answers
            winner = answers.index("won")
            believed = f"version {now} was expected" if now else "no champion was expected"
            assert f"{believed}, but {('ada', 'bob')[winner]} made version {versions[winner]} champion" in answers[1 - winner]
            now = versions[winner]
            winners.append(now)
    finally:
        for racer in racers:
            racer.stdin.close()
            racer.wait(timeout=30)
            racer.stdout.close()
    assert [event.version for event in events(MODEL)] == winners
    assert [event.previous for event in events(MODEL)] == [None, *winners[:-1]]


def test_many_processes_may_begin_the_history_at_once(home: Path):
    "The file is made by whoever comes first, and nobody stumbles over the others."
    program = (
        "import sys, time; from ride_duration.ops.history import promote\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); promote(sys.argv[1], 1, 'first')"
    )
    for turn in range(3):
        shutil.rmtree(home, ignore_errors=True)
        begin = time.time() + 1.5
        crowd = [subprocess.Popen([sys.executable, "-c", program, f"model-{turn}-{n}", str(begin)], stderr=subprocess.PIPE, text=True) for n in range(4)]
        troubles = [racer.communicate(timeout=60)[1] for racer in crowd]
        assert troubles == [""] * 4
        assert len(events()) == 4


def test_times_only_go_forward_even_if_the_clock_does_not():
    now = datetime(2023, 5, 1, tzinfo=CITY)
    for version, hours in enumerate((5, 3, 3, -90, 6), start=1):
        promote(MODEL, version, "better", clock=lambda hours=hours: now + timedelta(hours=hours))
    times = [event.at for event in events()]
    assert times == sorted(set(times)) and all(len(at) == len("2023-05-01T09:00:00.000000+00:00") for at in times)
    assert champion(MODEL).version == 5


# --- killed, damaged, rewritten --------------------------------------------------------------------------------------

PROMOTER = """
import sys
from ride_duration.ops.history import champion, promote, rollback
now = champion(sys.argv[1])
version = int(sys.argv[2])
while True:
    version += 1
    print(promote(sys.argv[1], version, "better", by="killed").version, flush=True)
    if version % 5 == 0:
        rollback(sys.argv[1], "worse", by="killed")
"""


def test_kill_9_leaves_a_log_that_adds_up(home: Path):
    "What was announced is there, what is there follows from what was before, and the next process goes on."
    chance, announced = random.Random(3), []
    for turn in range(8):
        with subprocess.Popen([sys.executable, "-c", PROMOTER, MODEL, str(turn * 100_000)], stdout=subprocess.PIPE, text=True) as promoter:
            first = promoter.stdout.readline()  # it is at work now
            time.sleep(chance.uniform(0, 0.08))
            os.kill(promoter.pid, signal.SIGKILL)
            announced += [int(line) for line in [first, *promoter.stdout.read().splitlines(keepends=True)] if line.endswith("\n")]
        found, stack = events(MODEL), []
        for event in found:
            before = stack[-1] if stack else None
            stack = [*stack, event.version] if event.kind == "promote" else stack[:-1]
            assert (event.previous, event.version) == (before, stack[-1])
        promoted = [event.version for event in found if event.kind == "promote"]
        assert [event.id for event in found] == list(range(1, len(found) + 1)), "nothing is missing in between"
        assert set(announced) <= set(promoted) and len(set(promoted) - set(announced)) <= turn + 1, "at most one a kill was kept and not announced"
        assert champion(MODEL).version == stack[-1]
    with sqlite3.connect(home / "history.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(announced) > 8


@pytest.mark.parametrize("statement", [
    "UPDATE event SET version = 9",
    "UPDATE event SET why = why",
    "DELETE FROM event WHERE id = 1",
    "DELETE FROM event",
    "INSERT OR REPLACE INTO event SELECT id, '2999-01-01', by, model, kind, 9, previous, why, evidence FROM event",
    "REPLACE INTO event SELECT NULL, at, by, model, kind, 9, previous, why, evidence FROM event",
    "INSERT INTO event VALUES (NULL, '1999-01-01', 'eve', 'ride-duration-green', 'promote', 9, 1, 'earlier than all', NULL)",
])  # fmt: skip
def test_history_is_not_rewritten(home: Path, statement: str):
    "By any program that opens the file, whatever it says."
    before = [promote(MODEL, version, "better") for version in (1, 2)]
    with sqlite3.connect(home / "history.sqlite") as connection, pytest.raises(sqlite3.IntegrityError, match="history is"):
        connection.execute(statement)
    assert events() == before


@pytest.mark.parametrize("damage", [
    lambda content: b"not a database" * 2000,
    lambda content: content[:100] + bytes(len(content) - 100),
    lambda content: content[: len(content) // 2],
], ids=["something else", "zeroed", "cut off"])  # fmt: skip
def test_a_damaged_history_is_said_to_be_damaged_and_left_alone(home: Path, damage):
    for version in range(1, 40):
        promote(MODEL, version, "better " * 40)
    path = home / "history.sqlite"
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    for ask in (lambda: champion(MODEL), lambda: promote(MODEL, 50, "better"), lambda: rollback(MODEL, "worse")):
        with pytest.raises(BrokenDatabase, match="damaged or not ours"):
            ask()
    assert path.read_bytes() == damaged


def test_another_programs_database_is_not_ours(home: Path):
    home.mkdir()
    with sqlite3.connect(home / "history.sqlite") as connection:
        connection.execute("CREATE TABLE event (name TEXT)")
    with pytest.raises(BrokenDatabase, match="damaged or not ours"):
        champion(MODEL)


def test_who_waits_too_long_for_another_writer_is_told_so(home: Path, monkeypatch):
    promote(MODEL, 1, "first")
    monkeypatch.setattr("ride_duration.database.PATIENCE", 0.1)
    with sqlite3.connect(home / "history.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FolderBusy, match=r"keeps .* locked"):
            promote(MODEL, 2, "better")
        assert champion(MODEL).version == 1, "reading goes on beside a writer"
        other.execute("ROLLBACK")
    assert promote(MODEL, 2, "better").previous == 1


def test_looking_makes_no_file(home: Path):
    assert (events(), champion(MODEL), champion_on(MODEL, date(2023, 1, 1))) == ([], None, None)
    assert not home.exists()


def _cannot_mount() -> bool:
    if not shutil.which("unshare"):
        return True
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder], capture_output=True).returncode != 0


READ_ONLY = """
set -e
mkdir -p "$2" && mount -t tmpfs none "$2"
export RIDE_DURATION_HOME="$2"
"$1" -c 'from ride_duration.ops.history import promote; promote("m", 1, "first")'
mount -o remount,ro "$2"
"$1" -c '
from ride_duration.errors import CannotWrite
from ride_duration.ops.history import promote
try:
    promote("m", 2, "better")
except CannotWrite as error:
    print(error)
'
mount -o remount,rw "$2"
"$1" -c 'from ride_duration.ops.history import champion; print(champion("m").version)'
"""


@pytest.mark.skipif(_cannot_mount(), reason="no user and mount namespace here")
def test_a_disk_that_became_read_only(tmp_path: Path):
    command = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", sys.executable, str(tmp_path / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    line, version = done.stdout.splitlines()
    assert line.startswith("cannot write ") and "history.sqlite" in line and version == "1"


def test_a_home_that_is_a_file(home: Path):
    home.write_text("not a folder")
    with pytest.raises(CannotWrite, match="cannot"):
        promote(MODEL, 1, "first")
