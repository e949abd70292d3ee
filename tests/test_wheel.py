"""The wheel alone, in an empty environment and another folder, makes a report."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from conftest import REPOSITORY


def test_the_wheel_makes_a_report_from_anywhere(tmp_path: Path):
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
    install = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", REPOSITORY / "constraints.txt", wheel]
    subprocess.run(install, check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tool = [tmp_path / "empty" / "bin" / "ride-duration", "report", "2023-02", "--fleet", "demo"]
    done = subprocess.run(tool, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "reports" / "demo" / "2023-02" / "train.html").exists()
