"""The wheel alone, in an empty environment and another folder: the core fetches, trains and answers; with its extras it reports, sees to months and serves."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from served import Service

QUICK = ("-p", "models=seed,boosted", "-p", "trees=60")


def test_the_wheel_does_everything_from_anywhere(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "reports")
    shutil.copytree(REPOSITORY, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ride_duration/runs/train.ipynb" in names and "ride_duration/cli.py" in names
    page = {f"ride_duration/serve/page/{file.name}" for file in (REPOSITORY / "ride_duration" / "serve" / "page").iterdir()}
    assert page and page <= set(names)
    assert {"ride_duration/ops/_migrations/env.py", "ride_duration/ops/_migrations/versions/0001.py"} <= {*names}

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    install = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", REPOSITORY / "constraints.txt"]
    subprocess.run([*install, wheel], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert installed_megabytes(tmp_path / "empty") < CORE_MEGABYTES
    assert import_seconds(python) < 1
    fetched = run(python, elsewhere, "fetch", "2023-01", "--fleet", "green", "--source", files)
    assert fetched.returncode == 0 and "green_tripdata_2023-01.parquet" in fetched.stdout, fetched
    trained = run(python, elsewhere, "train", "--train", "2023-01", "--val", "2023-02", "--models", "seed,boosted", "--fleet", "demo")
    assert trained.returncode == 0, trained.stderr
    answered = run(python, elsewhere, "predict", "--from", "7", "--to", "12", "--fleet", "demo")
    assert answered.returncode == 0 and "minutes" in answered.stdout, answered.stderr
    refused = run(python, elsewhere, "report", "2023-02", "--fleet", "demo")
    assert refused.returncode == 16 and "pip install 'ride-duration[reports]'" in refused.stderr

    subprocess.run([*install, "--no-compile", f"{wheel}[reports]"], check=True)  # Python compiles what is imported
    done = run(python, elsewhere, "report", "2023-02", "--fleet", "demo")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "reports" / "demo" / "2023-02" / "train.html").exists()

    subprocess.run([*install, "--no-compile", f"{wheel}[mlops,monitor,serve]"], check=True)
    rules = elsewhere / "gate.toml"
    rules.write_text("coverage_low = 0.5\ncoverage_high = 0.95\n")  # ranges of few trees and few rides are what they can be
    turned = run(python, elsewhere, "cycle", "--month", "2023-03", "--fleet", "demo", "--rules", rules, *QUICK)
    assert turned.returncode == 0 and "version 3 answers from now on" in turned.stdout, turned  # what was trained and reported before has been registered, too
    watched = run(python, elsewhere, "monitor", "2023-04", "--fleet", "demo")
    assert watched.returncode in (0, 50) and (elsewhere / "reports" / "demo" / "2023-04" / "monitor.html").exists(), watched.stderr
    monkeypatch.setattr(sys, "executable", str(python))
    with Service(tmp_path / "home", "--fleet", "demo", "--port", "0") as service:
        status, answer = service.ask("/predict", {"pickup": 7, "dropoff": 12})
        assert (status, answer["model"]["version"]) == (200, "3") and answer["low"] < answer["minutes"] < answer["high"]


# NumPy, pandas, PyArrow, SciPy, scikit-learn and LightGBM take 560 MB of it, compiled by pip: a core that trains cannot be smaller than they are.
CORE_MEGABYTES = 640


def installed_megabytes(environment: Path) -> float:
    "What pip has put there, without pip itself."
    [packages] = (environment / "lib").glob("python3*/site-packages")
    tools = {"pip", "setuptools", "pkg_resources"}
    return sum(file.stat().st_size for file in packages.rglob("*") if file.is_file() and file.relative_to(packages).parts[0] not in tools) / 2**20


def import_seconds(python: Path) -> float:
    "Of the processor, for the whole process; on an idle machine it is the time a person waits."
    def once() -> float:
        process = subprocess.Popen([python, "-c", "import ride_duration"])
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    return min(once() for _ in range(3))


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([python.parent / "ride-duration", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
