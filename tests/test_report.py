"""The monthly report, by real processes: what it leaves on disk, and how its four bad ends are told apart."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from warm import command, run_forked

from ride_duration.data.month import Month
from ride_duration.ops import reports
from ride_duration.ops.decision import Rules

LADDER = "mean,pair_median,seed,course"  # quick to train: what is shown here does not depend on the model
REPORT = ("report", "2023-02", "--fleet", "demo", "--force", "--no-track", "-p", f"models={LADDER}", "-p", "model=seed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Where a report was made."
    folder = tmp_path_factory.mktemp("made")
    done = run_forked(command, *REPORT, cwd=folder, env={**os.environ, "RIDE_DURATION_HOME": str(folder / "home")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "reports/demo/2023-02/train.html"
    return folder


@pytest.fixture
def good(made: Path, tmp_path: Path) -> dict[str, bytes]:
    "A finished report, and what its files hold."
    shutil.copytree(made / "reports", tmp_path / "reports")
    return contents(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "reports").rglob("*")) if path.is_file()}


def test_what_it_leaves_behind(good, run, tmp_path):
    assert [name.removeprefix("reports/") for name in good] == [
        "demo/2023-02/decision.json", "demo/2023-02/report.json", "demo/2023-02/train.html", "demo/2023-02/train.ipynb", "index.html",
    ]  # fmt: skip
    data = json.loads(good["reports/demo/2023-02/report.json"])
    direct = run("train", "--train", "2023-01", "--val", "2023-02", "--fleet", "demo", "--models", LADDER, "--json")
    assert data | json.loads(direct.stdout) == data, "the report says what training says"
    page = good["reports/demo/2023-02/train.html"].decode()
    assert len(page) < 1_000_000 and "Synthetic" in page and "course (metered)" in page
    assert "training.train(" not in page, "code is hidden"
    assert not [word for word in ("<script", "http://", "https://", str(tmp_path)) if word in page]
    assert "demo/2023-02/train.html" in good["reports/index.html"].decode()
    again = run(*REPORT)
    assert again.returncode == 0 and contents(tmp_path) == good, "a rerun is byte for byte the same"


def test_a_report_without_an_index_imports_nothing_to_draw_one_with(tmp_path):
    "As each worker of a back-fill makes them, from a process of its own start."
    program = """
import sys
from ride_duration.data.month import parse_month
from ride_duration.ops.report_worker import Work
done = Work("demo", parameters={"models": "mean,seed", "model": "seed"}, track=False).make(parse_month("2023-02"), index=sys.argv[1] == "index")
print(done["is_new"], "seaborn" in sys.modules)
"""
    for words, says in ((["alone"], "True False"), (["index"], "False True")):
        done = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.stdout.strip(), done.returncode) == (says, 0), done.stderr


def test_a_failing_cell(good, run_cold, tmp_path):
    done = run_cold(*REPORT, env={**os.environ, "MPLBACKEND": "nonsense"})
    assert done.returncode == 40 and "cell 4 (from ride_duration" in done.stderr and "nonsense" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert_kept(good, tmp_path)


def test_a_time_out(good, run, tmp_path):
    done = run(*REPORT, "--timeout", "1")
    assert done.returncode == 42 and "--timeout" in done.stderr
    assert_kept(good, tmp_path)


@pytest.mark.parametrize("seconds", [0, 1.5], ids=["while it starts", "in a cell"])
def test_a_dead_kernel(good, tmp_path, seconds):
    process, kernel = start_and_wait_for_kernel(tmp_path, seconds)
    os.kill(kernel, signal.SIGKILL)
    assert (process.wait(30), "kernel died" in process.stderr.read()) == (41, True)
    assert_kept(good, tmp_path)


def test_the_process_that_kernels_are_forked_from_dies_while_a_kernel_is_asked_of_it(good, tmp_path):
    process, server = start_and_wait_for_fork_server(tmp_path)
    server.suspend()
    wait_until((tmp_path / "home" / "runs.sqlite").exists)
    time.sleep(3)  # it has been asked by now
    server.kill()
    assert (process.wait(30), "kernel died" in process.stderr.read()) == (41, True)
    now = contents(tmp_path)
    assert {name: now[name] for name in good} == good, "nothing good is lost"


def test_the_process_that_kernels_are_forked_from_dies_before_and_another_takes_its_place(good, tmp_path):
    process, server = start_and_wait_for_fork_server(tmp_path)
    server.kill()
    assert (process.wait(60), process.stderr.read()) == (0, "")
    assert contents(tmp_path) == good


def start_and_wait_for_fork_server(folder: Path) -> tuple[subprocess.Popen, psutil.Process]:
    process = subprocess.Popen([sys.executable, "-m", "ride_duration", *REPORT], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    servers = wait_until(lambda: [child for child in psutil.Process(process.pid).children() if "forkserver" in " ".join(child.cmdline())])
    return process, servers[0]


def wait_until(found: Callable[[], object], seconds: float = 30) -> object:
    until = time.monotonic() + seconds
    while not (there := found()) and time.monotonic() < until:
        time.sleep(0.02)
    assert there, "it never came"
    return there


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt(good, tmp_path, polite):
    process, kernel = start_and_wait_for_kernel(tmp_path)
    process.send_signal(polite)
    assert (process.wait(30), "stopped" in process.stderr.read()) == (130, True)
    until = time.monotonic() + 5
    while psutil.pid_exists(kernel) and time.monotonic() < until:  # its grave may be dug a moment later
        time.sleep(0.05)
    assert not psutil.pid_exists(kernel), "no kernel is left behind"
    assert_kept(good, tmp_path)


def start_and_wait_for_kernel(folder: Path, seconds: float = 1.5) -> tuple[subprocess.Popen, int]:
    "A report under way, and the process number of its kernel; after 1.5 seconds it is past its start, and inside a cell."
    command = [sys.executable, "-m", "ride_duration", *REPORT]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        kernels = [kernel.pid for child in psutil.Process(process.pid).children() for kernel in child.children()]  # forked from one that has imported what it needs
        if kernels and (folder / "home").exists():
            time.sleep(seconds)
            return process, kernels[0]
        time.sleep(0.05)
    raise AssertionError("the kernel never started")


def assert_kept(good: dict[str, bytes], folder: Path) -> None:
    "The last good report is untouched, and the run's notebook is kept beside it as far as it came."
    now = contents(folder)
    partial = now.pop("reports/demo/2023-02/train.failed.ipynb")
    assert now == good
    assert json.loads(partial)["cells"]


def test_other_rules_are_another_report(home):
    keys = {reports.plan_report(Month(2023, 2), "demo", rules=rules).key.text for rules in (None, Rules(), Rules(minimum_gain=9.0))}
    assert len(keys) == 2, "one is judged anew where a rule is another, and only there"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_nothing_is_printed_as_json_where_the_only_month_is_absent(run, tmp_path, jobs):
    (tmp_path / "trip-data").mkdir()
    done = run("report", "2023-02", "--source", str(tmp_path), "-j", jobs, "--json")
    assert (done.returncode, done.stdout) == (20, "")


def test_a_window_of_months(run, tmp_path):
    done = run("report", "2023-04", *REPORT[2:], "--window", "3", "--json")
    found = json.loads(done.stdout)
    assert found["train"] == ["2023-01", "2023-02", "2023-03"] and (tmp_path / found["page"]).exists()


def test_real_months(run, mirror, tmp_path):
    done = run("report", "2023-02", "--fleet", "green", "--source", mirror, "-p", "trees=20")
    page = (tmp_path / "reports" / "green" / "2023-02" / "train.html").read_text()
    assert done.returncode == 0 and "Manhattan → Manhattan" in page and "Synthetic" not in page
    assert str(mirror) not in page


@pytest.mark.parametrize("parameter", ["val=2023-05", "fleet=green", "train=2023-02"])
def test_what_the_folder_says_cannot_be_changed_from_inside(run, tmp_path, parameter):
    done = run(*REPORT, "-p", parameter)
    assert done.returncode == 13 and "is set by the month" in done.stderr
    assert not (tmp_path / "reports").exists()


def test_the_pages_of_both_regimes_stand_side_by_side(home):
    from ride_duration import Month
    from ride_duration.ops.reports import plan_report

    def folder(**parameters: str) -> str:
        return plan_report(Month(2023, 2), "demo", parameters=parameters).folder.as_posix()

    assert [folder(), folder(model="seed"), folder(model="boosted_metered")] == ["reports/demo/2023-02", "reports/demo/2023-02", "reports/demo/2023-02-metered"]


ODD = {  # month -> what somebody wrote there
    "2022-08": '{"fleet": "demo", "synthetic": true, "train": ["2022-07"], "val": "2022-08", "clean_rows": {}, "models": {}, "model": "seed"}',
    "2022-07": '{"fleet": "demo", "synthetic": true, "train": ["2022-06"], "val": "not", "clean_rows": {"val": 1}, "models": {"seed": {"rmse_val": 1.5}}, "model": "seed"}',
    "2022-06": '{"fleet": "demo", "synthetic": true, "train": ["2022-05"], "val": "2022-06", "clean_rows": {"val": 1}, "models": {"seed": {"rmse_val": 1.5}, "mean": {}}, "model": "seed"}',
    "2022-05": "[]",
    "2022-04": '{"fleet": "demo", "synthetic": true, "train": ["2022-03"], "val": "2022-04", "clean_rows": {"val": 1}, "models": {"seed": {"rmse_val": 1.5}, "mean": {"rmse_val": 2, "coverage_val": "most"}}, "model": "seed"}',
}


def test_old_and_damaged_reports_do_not_break_the_index(good, run, tmp_path):
    old = json.loads(good["reports/demo/2023-02/report.json"])
    old["models"]["retired"] = old["models"]["seed"]
    for month, text in {"2022-11": json.dumps(old | {"val": "2022-11"}), "2022-10": "{}", "2022-09": "half of", **ODD}.items():
        folder = tmp_path / "reports" / "demo" / month
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text)
    (tmp_path / "reports" / "demo" / "2022-11" / "decision.json").write_text('{"reference": "seed", "rulings": [1], "passed": true}')
    (tmp_path / "reports" / "demo" / "2022-01" / "report.json").mkdir(parents=True)
    done = run(*REPORT)
    index = (tmp_path / "reports" / "index.html").read_text()
    assert done.returncode == 0 and done.stderr.count("damaged and left out") == 3 + len(ODD)
    assert "demo/2022-11/train.html" in index and "demo/2022-10" not in index
