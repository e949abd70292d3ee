"""The command line as its users meet it: processes, exit codes, one clear line."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from ride_duration.errors import error_kinds
from ride_duration.model.ladder import LADDER

DEMO = ("--fleet", "demo")


def test_help_comes_at_once():
    "Processor time, so that a busy machine does not fail it; on an idle one it is the time a person waits."

    def seconds() -> float:
        process = subprocess.Popen([sys.executable, "-m", "ride_duration", "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5


def test_help_imports_nothing_heavy():
    program = "import sys; from ride_duration import cli; print([n for n in ('pandas', 'numpy', 'sklearn', 'pyarrow') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_no_report_waits_for_a_grammar_to_be_compiled():
    pytest.importorskip("rfc3987_syntax", reason="JupyterLab's checker of formats is not installed")
    program = "import sys; from ride_duration.ops import reports, runner; print('jsonschema' in sys.modules, 'rfc3987_syntax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True False\n"


@pytest.mark.parametrize("verb", ["fetch", "train", "report"])
def test_every_verb_explains_itself(run, verb):
    assert "--source" in run(verb, "--help").stdout


def test_train_prints_one_object(run, tmp_path):
    (tmp_path / "few.json").write_text('{"parameters": {"trees": 20}}')  # all models, and the boosted ones small
    done = run("train", "--train", "2023-01", "--val", "2023-02", *DEMO, "--parameters", "few.json", "--json")
    found = json.loads(done.stdout)
    assert (found["fleet"], found["train"], found["val"], found["synthetic"]) == ("demo", ["2023-01"], "2023-02", True)
    assert list(found["models"]) == list(LADDER)
    assert (found["models"]["seed"]["regime"], found["models"]["course"]["regime"]) == ("booking", "metered")
    assert {"rmse_train", "rmse_val", "mae_val"} <= set(found["models"]["seed"])
    for side in ("train", "val"):
        assert found["rows"][side] == found["clean_rows"][side] + sum(found["dropped"][side].values())


def test_train_prints_a_table_for_people(run):
    shown = run("train", "--train", "2023-01", "--val", "2023-02", *DEMO, "--models", "seed,mean").stdout
    assert "seed" in shown and "synthetic" in shown and "\x1b" not in shown


MISTAKES = [
    (("fetch", "2023-01", "--fleet", "yelow"), 10, "did you mean yellow?"),
    (("fetch", "2023-13"), 11, "write it as 2023-01"),
    (("fetch", "2023-02..2023-01"), 11, "runs backwards"),
    (("report", "soon", *DEMO), 11, "is not a month"),
    (("train", "--train", "2023-02", "--val", "2023-02", *DEMO), 12, "--allow-overlap"),
    (("train", "--train", "2023-01..2023-03", "--val", "2023-02", *DEMO), 12, "not before validation month"),
    (("train", "--train", "2023-01", "--val", "2023-02", *DEMO, "--models", "sead"), 13, "choose from mean"),
    (("report", "2023-02", *DEMO, "-p", "modle=seed"), 13, "did you mean model?"),
    (("report", "2023-02", *DEMO, "-p", "all_pickups=perhaps"), 13, "must be of type bool"),
    (("report", "2023-02", *DEMO, "-p", "model"), 13, "NAME=VALUE"),
    (("report", "2023-02", *DEMO, "-p", "model=nobody"), 13, "choose from mean"),
    (("report", "2023-02", *DEMO, "--window", "300"), 11, "reaches back to 1998-02"),
    (("report", "2023-02", *DEMO, "-p", "trees=0"), 13, "from 1 to 20,000, not 0"),
    (("report", "2023-02", *DEMO, "-p", "trees=99999999"), 13, "from 1 to 20,000, not 99999999"),
    (("report", "2023-02", *DEMO, "--memory", "1K"), 13, "write it as 800M or 6G"),
    (("report", "2023-02", *DEMO, "--window", "0"), 13, "must be 1 or more"),
    (("fetch", "2023-01", "--source", "no/such/folder"), 21, "does not exist"),
    (("fetch", "2023-01", "--source", "gopher://old"), 21, "could not be read"),
]


@pytest.mark.parametrize(("words", "code", "says"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)
def test_a_mistake_is_one_clear_line(run, tmp_path, words, code, says):
    done = run(*words)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert says in lines[0] and lines[0].startswith("ride-duration: ")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("words", [("trian",), ("train", "--trian", "2023-01"), ("report",)])
def test_a_misspelt_command_is_usage(run, words):
    done = run(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_overlap_is_a_rehearsal_when_asked_for(run):
    done = run("train", "--train", "2023-02", "--val", "2023-02", *DEMO, "--models", "seed", "--allow-overlap", "--json")
    score = json.loads(done.stdout)["models"]["seed"]
    assert score["rmse_train"] == pytest.approx(score["rmse_val"])


def test_the_readme_lists_every_exit_code():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)}
    assert {kind.exit_code for kind in error_kinds()} <= listed


TRAIN = ("train", "--train", "2023-01", "--val", "2023-02", *DEMO, "--models", "seed")


def test_a_terminal_that_knows_no_arrow_is_served_too(run_cold):
    done = run_cold(*TRAIN, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "seed" in done.stdout and done.stderr == ""


def test_a_reader_that_has_read_enough_is_no_fault(tmp_path):
    command = f"{sys.executable} -m ride_duration {' '.join(TRAIN)} --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_fills_its_disk_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ride_duration", *TRAIN]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (31, 1)


def test_begun_in_a_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && exec "$2" -m ride_duration report 2023-02 --fleet demo -p models=mean,seed -p model=seed'
    done = subprocess.run(["sh", "-c", script, "sh", str(tmp_path / "gone"), sys.executable], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert (done.returncode, done.stderr) == (30, "ride-duration: the folder you are in is gone: change into one that is there\n")
