"""Many months: killed, interrupted, started twice; and how each run ended, as the ledger tells it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from ride_duration.ops import ledger, report_worker

CHEAP = ("-p", "models=mean,seed", "-p", "model=seed")
COMMAND = [sys.executable, "-m", "ride_duration"]
MONTHS = ("report", "2023-02..2023-04", "--fleet", "demo", "-j", "2", *CHEAP)
KILLS = 20


def start(*words: str, cwd: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *words], cwd=cwd, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "reports").rglob("*")) if path.is_file()}


def family(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(processes: list[psutil.Process], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(processes), [process.cmdline() for process in alive(processes)]


def finished(home: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:  # key -> how often it ended well
    monkeypatch.setenv("RIDE_DURATION_HOME", str(home))
    return Counter(run.key for run in ledger.runs() if run.outcome == "ok")


def test_killed_twenty_times(tmp_path, home, monkeypatch):
    "At any moment: the back-fill alone, whose workers must notice, or a worker or a kernel with it."
    seed = random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    for folder in (disturbed, calm):
        folder.mkdir()
    for _ in range(KILLS):
        process = start(*MONTHS, cwd=disturbed)
        time.sleep(moments.uniform(0.2, 2.5))
        others = family(process)
        also = moments.sample(others, min(len(others), moments.choice([0, 0, 1, 2])))
        for one in also:
            one.kill()
        process.kill()
        process.communicate()
        wait_until_gone(others)
    done = start(*MONTHS, cwd=disturbed)
    assert (done.communicate(timeout=120)[1].count("failed"), done.returncode) == (0, 0)
    undisturbed = start(*MONTHS, cwd=calm, RIDE_DURATION_HOME=str(tmp_path / "calm-home"))
    assert (undisturbed.communicate(timeout=120), undisturbed.returncode)[1] == 0
    assert contents(disturbed) == contents(calm)
    assert set(finished(home, monkeypatch).values()) == {1}, "no month is trained again after it succeeded"
    assert len(finished(home, monkeypatch)) == 3


def test_two_at_once_do_each_month_once(tmp_path, home, monkeypatch):
    both = [start(*MONTHS[:1], "2023-02..2023-03", *MONTHS[2:], cwd=tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert list(finished(home, monkeypatch).values()) == [1, 1]
    assert sorted(path.name for path in (tmp_path / "reports" / "demo").iterdir()) == ["2023-02", "2023-03"]


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_all_and_keeps_what_is_finished(tmp_path, home, monkeypatch, polite):
    process = start(*MONTHS, "--no-track", cwd=tmp_path)
    while not (home / "runs.sqlite").exists() or not any(run.outcome == "ok" for run in ledger.runs()):
        time.sleep(0.1)
        assert process.poll() is None
    others = family(process)
    process.send_signal(polite)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on" in complaint and "Traceback" not in complaint
    wait_until_gone(others)
    outcomes = {run.outcome for run in ledger.runs()}
    assert outcomes <= {"ok", "interrupted"} and "ok" in outcomes
    done = start(*MONTHS, "--no-track", cwd=tmp_path)
    done.communicate(timeout=120)
    assert done.returncode == 0 and set(finished(home, monkeypatch).values()) == {1}


@pytest.mark.parametrize(("months", "moment"), [(["2023-02"], 0), (["2023-02"], 0.7), (["2023-02"], 1.4), (["2023-02..2023-03", "-j", "2"], 1)])
def test_ctrl_c_in_a_terminal_reaches_everybody_and_is_one_line(tmp_path, home, months, moment):
    "The process that kernels are forked from hears it, too, while it imports; a kernel that has just begun is taken along."
    process = subprocess.Popen([*COMMAND, "report", *months, "--fleet", "demo", "--no-track", *CHEAP], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)
    while not (others := family(process)):
        assert process.poll() is None
    time.sleep(moment)
    others += family(process)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint.count("\n")) == (130, 1) and complaint.startswith("ride-duration: "), complaint
    wait_until_gone(others)


def test_an_interrupt_that_python_loses_is_heard_all_the_same(home, tmp_path):
    "An exception raised in a destructor goes nowhere, and Python prints it."
    program = """
import signal
from ride_duration.data.month import parse_month
from ride_duration.errors import RunInterrupted
from ride_duration.ops.backfill import backfill
from ride_duration.ops.report_worker import Work

class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def ended(done):
    Dropped()

work = Work("demo", parameters={"models": "mean,seed", "model": "seed"}, track=False)
try:
    backfill([parse_month(month) for month in ("2023-02", "2023-03", "2023-04")], work, ended=ended)
except RunInterrupted as stopped:
    print(stopped)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert not done.stderr and "1 of 3 months are finished" in done.stdout, done.stderr


def test_an_interrupt_just_after_a_run_was_written_down_ends_it(home, monkeypatch):
    begin = ledger._begin

    def interrupted(key: ledger.RunKey) -> None:
        begin(key)
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "_begin", interrupted)
    with pytest.raises(KeyboardInterrupt), ledger.recorded(ledger.RunKey("train", {}, {}, "c0de")):
        pass
    assert [run.outcome for run in ledger.runs()] == ["interrupted"]


def test_a_worker_that_gets_other_threads_is_a_new_process():
    worker = report_worker.ReportProcess("1")
    pids = []
    try:
        for threads in ("1", "1", "2"):
            worker.allow(threads)
            worker.process = worker.process if worker.process and worker.process.poll() is None else worker._start()
            pids.append(worker.process.pid)
            assert psutil.Process(pids[-1]).environ()["OMP_NUM_THREADS"] == threads
    finally:
        worker.stop()
    assert pids[0] == pids[1] != pids[2]



def test_a_month_that_is_not_there_does_not_stop_the_others(run, tmp_path, mirror):
    done = run("report", "2023-12..2024-02", "--source", mirror, "--no-track", *CHEAP)
    assert done.returncode == 20 and "2024-01" in done.stderr, done.stderr
    assert [path.name for path in (tmp_path / "reports" / "green").iterdir()] == ["2023-12"]
    assert "2023-12" in done.stdout and done.stdout.count("failed") == 2


def test_finished_months_are_not_made_again_unless_something_changed(run, tmp_path):
    one = ("report", "2023-02", "--fleet", "demo", "--no-track", *CHEAP)
    first, again, forced, other = run(*one), run(*one), run(*one, "--force"), run(*one, "--all-pickups")
    assert [done.returncode for done in (first, again, forced, other)] == [0, 0, 0, 0], other.stderr
    assert [run.outcome for run in ledger.runs()] == ["ok", "skipped", "ok", "ok"]
    assert "finished before" in again.stdout and "finished before" not in first.stdout + forced.stdout + other.stdout
    (tmp_path / "reports" / "demo" / "2023-02" / "train.html").write_text("spoilt")
    assert run(*one, "--all-pickups").returncode == 0
    assert "spoilt" not in (tmp_path / "reports" / "demo" / "2023-02" / "train.html").read_text()


@pytest.mark.parametrize(
    ("words", "environment", "code", "outcome", "said"),
    [
        ((), {"MPLBACKEND": "nonsense"}, 40, "failed cell", "nonsense"),
        (("--timeout", "1"), {}, 42, "timed out", "--timeout"),
        (("--memory", "100M"), {}, 43, "out of memory", "100 MB it was allowed"),
    ],
)
def test_the_ledger_tells_how_it_ended(run, words, environment, code, outcome, said):
    done = run("report", "2023-02", "--fleet", "demo", *CHEAP, *words, env={**os.environ, **environment})
    assert done.returncode == code and said in done.stderr, done.stderr
    (row,) = ledger.runs()
    assert (row.outcome, said in row.error, row.peak_mb > 20) == (outcome, True, True)
    assert row.parameters == {"train": "2023-01", "val": "2023-02", "fleet": "demo", "models": "mean,seed", "model": "seed"}
    assert len(row.inputs) == 2 and all(len(value) == 64 for value in row.inputs.values())
    shown = run("runs")
    assert outcome.split()[0] in shown.stdout
    assert json.loads(run("runs", "--json").stdout)[0]["outcome"] == outcome


def test_a_run_that_was_killed_reads_killed(tmp_path):
    process = start("report", "2023-02", "--fleet", "demo", *CHEAP, cwd=tmp_path)
    while not (found := ledger.runs()):
        time.sleep(0.05)
    assert found[0].outcome == "running"
    others = family(process)
    process.kill()
    process.communicate()
    assert ledger.runs()[0].outcome == "killed"
    wait_until_gone(others)


def test_mlflow_may_be_away(run, home):
    away = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = run("report", "2023-02", "--fleet", "demo", *CHEAP, env=away)
    assert done.returncode == 0 and "waits for MLflow" in done.stderr and "Traceback" not in done.stderr
    refused = run("sync", env=away)
    assert refused.returncode == 28 and "1 still waiting" in refused.stdout and len(refused.stderr.splitlines()) == 1
    assert json.loads(run("sync", "--json").stdout)["logged"][0]["version"] is None
    assert json.loads(run("sync", "--json").stdout) == {"logged": [], "waiting": 0}


def test_a_damaged_ledger_is_named_and_left(run, home):
    home.mkdir(parents=True, exist_ok=True)
    (home / "runs.sqlite").write_bytes(b"spoilt" * 1000)
    for words in (("runs",), ("report", "2023-02", "--fleet", "demo", *CHEAP)):
        done = run(*words)
        assert done.returncode == 33 and len(done.stderr.splitlines()) == 1 and "runs.sqlite is damaged" in done.stderr
    assert (home / "runs.sqlite").read_bytes()[:6] == b"spoilt"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("report", "2023-02", "--fleet", "demo", "--rules", "rules.toml"), 13, "did you mean minimum_gain?"),
        (("report", "2023-02", "--fleet", "demo", "--memory", "much"), 13, "write it as 800M or 6G"),
        (("report", "2023-02", "--fleet", "demo", "-j", "0"), 13, "-j must be 1 or more"),
        (("promote", "1", "--fleet", "demo"), 29, "the gate has decided nothing"),
        (("rollback", "--fleet", "demo", "--why", "it is bad"), 29, "no champion"),
        (("champion", "--fleet", "demo"), 26, "has no champion yet"),
        (("champion", "--fleet", "demo", "--on", "yesterday"), 13, "is not a day"),
        (("champion", "--fleet", "demo", "--on", "9999-12-31"), 13, "name a day in the years 2 to 9998"),
        (("models", "--fleet", "blue"), 10, "blue"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, words, code, said):
    (tmp_path / "rules.toml").write_text("minimum_gan = 0.1\n")
    done = run(*words)
    assert done.returncode == code and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
