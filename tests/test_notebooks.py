"""Every notebook runs, and the library is exactly what the notebooks export."""

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MIRROR, REPOSITORY
from warm import nbdev_test, run_forked

NOTEBOOKS = sorted((REPOSITORY / "nbs").rglob("[!.]*.ipynb"))
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: str(path.relative_to(REPOSITORY / "nbs")))
def test_runs_offline_on_the_demo_fleet(notebook: Path):
    done = run_notebook(notebook)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "notebook",
    [path for path in NOTEBOOKS if "#| tlc" in path.read_text() or "explore" in path.parts],
    ids=lambda path: str(path.relative_to(REPOSITORY / "nbs")),
)
def test_runs_on_real_months(notebook: Path, mirror: Path):
    done = run_notebook(notebook, "tlc", RIDE_DURATION_SOURCE=str(mirror))
    assert done.returncode == 0, done.stderr[-3000:]


def run_notebook(notebook: Path, flags: str = "", **environment: str) -> subprocess.CompletedProcess:
    return run_forked(nbdev_test, str(notebook), flags, cwd=REPOSITORY, env={**os.environ, **environment}, timeout=600)


def test_one_notebook_as_people_do():
    "The command of CONTRIBUTING, from its very start."
    command = [TOOLS / "nbdev_test", "--path", REPOSITORY / "nbs" / "data" / "00_month.ipynb"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Success.\n"), done.stderr


def test_cleaning_and_exporting_change_nothing(tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("nbs", "ride_duration"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, copy)
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([TOOLS / tool], cwd=copy, check=True, capture_output=True)
    files = [path.relative_to(copy) for path in copy.rglob("*") if path.suffix in (".py", ".ipynb")]
    assert len(files) > 20
    _, changed, missing = filecmp.cmpfiles(copy, REPOSITORY, files, shallow=False)
    assert not changed and not missing, f"run nbdev_export and nbdev_clean: {changed + missing}"


def test_papermill_notebooks_keep_their_parameters_cell():
    for notebook in (REPOSITORY / "nbs" / "runs").glob("*.ipynb"):
        assert '"parameters"' in notebook.read_text(), f"{notebook.name} lost the tag: papermill would run its defaults"


def test_real_months_were_looked_for():
    "Where CI has a mirror, a silent skip of everything real would be a lie."
    assert MIRROR is not None or not (REPOSITORY.parent / "shared" / "tlc").exists()
