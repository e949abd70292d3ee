"""What all tests share: a home of their own, and real months where a mirror of TLC's files is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def find_mirror() -> Path | None:
    "A folder laid out like TLC's site: named by RIDE_DURATION_SOURCE, or beside the checkout."
    asked = os.environ.get("RIDE_DURATION_SOURCE")
    places = [Path(asked)] if asked else [REPOSITORY.parent / "shared" / "tlc"]
    return next((place.absolute() for place in places if (place / "trip-data").is_dir()), None)


MIRROR = find_mirror()


@pytest.fixture
def mirror() -> Path:
    if MIRROR is None:
        pytest.skip("no mirror of TLC's files: set RIDE_DURATION_SOURCE to one to test on real months")
    return MIRROR


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "State goes into the test's own folder, and nothing is read from the developer's environment."
    monkeypatch.setenv("RIDE_DURATION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("RIDE_DURATION_SOURCE", raising=False)
    return tmp_path / "home"


def ride_duration(*words: str, cwd: Path | None = None, **options) -> subprocess.CompletedProcess:
    "The command line as a process of its own, as its users run it."
    command = [sys.executable, "-m", "ride_duration", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, **options)


@pytest.fixture
def run(tmp_path: Path):
    return lambda *words, **options: ride_duration(*words, cwd=tmp_path, **options)
