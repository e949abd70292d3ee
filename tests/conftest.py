"""What all tests share: a home of their own, and real months where a mirror of TLC's files is found."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dask_cluster import Cluster, a_cluster
from faulty_mirror import JANUARY, MARCH, TRIES, Mirror, relabelled
from served import Service, make_bundles, register
from warm import command, run_forked

REPOSITORY = Path(__file__).parent.parent
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever begins the suite in the background has interrupts ignored, and so would have what it starts
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one who does so with nohup, a closed terminal
os.environ.setdefault("RIDE_DURATION_DEMO_TRIPS", "6000")  # how things go together can be seen in a tenth of the demo city
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run two at a time: more threads would wait for each other
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")  # as the command line sets it: figures depend on it in the third decimal


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
def run_cold(tmp_path: Path):
    "The command line from its very start, for what is read or imported there."
    return lambda *words, **options: ride_duration(*words, cwd=tmp_path, **options)


@pytest.fixture
def run(tmp_path: Path):
    "The command line as a process of its own, forked from one that has imported what it needs."
    return lambda *words, **options: run_forked(command, *map(str, words), cwd=tmp_path, **options)


@pytest.fixture
def unprivileged() -> list[str]:
    """What makes a command heed permissions also where root runs the tests."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid():
        return []
    if not shutil.which("setpriv") or subprocess.run([*drop, "true"], capture_output=True).returncode:
        pytest.skip("root may do everything, and its rights cannot be dropped here")
    return drop


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as TLC's site: green January and March, yellow January; February is absent."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "trip-data").mkdir()
    for fleet, month in (("green", JANUARY), ("green", MARCH), ("yellow", JANUARY)):
        path = folder / "trip-data" / f"{fleet}_tripdata_{month}.parquet"
        pq.write_table(relabelled(month, fleet), path, compression="zstd")
    return folder


@pytest.fixture
def server(files: Path) -> Iterator[Mirror]:
    with Mirror(files) as mirror:
        thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirror
        mirror.over.set()
        mirror.shutdown()
        thread.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of fractions of a second, so that a test of its end is short."""
    from ride_duration.data import source

    monkeypatch.setattr(source, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(source, "SILENCE", 0.5)
    monkeypatch.setattr(source, "TRIES", TRIES)


@pytest.fixture(scope="session")
def served_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models of the demo city: `first` and `second` of bookings, and `metered`."""
    return make_bundles(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def served(served_bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on the demo city, with a registry: a booking and a metered champion."""
    home = tmp_path_factory.mktemp("service") / "home"
    register(home, 1, served_bundles["first"])
    register(home, 1, served_bundles["metered"], "metered")
    with Service(home, "--fleet", "demo", "--port", "0") as running:
        running.home = home
        yield running


@pytest.fixture(scope="session")
def service(served: Service) -> str:
    """Where to ask a running service on the demo city."""
    return served.address


@pytest.fixture
def cluster(tmp_path: Path, home: Path) -> Iterator[Cluster]:
    "A Dask scheduler without workers."
    with a_cluster(tmp_path) as found:
        yield found


@pytest.fixture
def two(cluster: Cluster) -> Cluster:
    "A Dask cluster of two workers."
    cluster.add("one")
    cluster.add("two")
    return cluster


def pytest_terminal_summary(terminalreporter) -> None:
    "What went wrong at the first try of a test that had a second one (see `.ci/run`): otherwise nobody would learn it."
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_sep("_", f"first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
