"""MLflow for real: a database and a server, killed writers, damage, absence, and models without a pickle."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from test_disk import needs_mounts

from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.errors import BadParameter, BrokenBundle, BrokenDatabase, CannotWrite, NoModel, TrackingUnreachable
from ride_duration.model.bundle import keep_lesson, load_bundle, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.ladder import BOOKING, METERED
from ride_duration.ops import mlflow_client, outbox, tracking

MONTHS = ["2023-01"]
COMMIT = "c0ffee" * 6 + "c0ff"


def write_record(folder: Path, key: str, bundle: Path | None, regime: str = BOOKING, **more: object) -> Path:
    "A record as training leaves it."
    (folder / "figures").mkdir(parents=True)
    model = "boosted" if regime == BOOKING else "boosted_metered"
    record = {
        "key": key, "fleet": "demo", "regime": regime, "train": MONTHS, "val": "2023-02", "model": model, "parameters": {"trees": 40, "all_pickups": False},
        "scores": {name: {"regime": regime, "rmse_train": 4.0, "rmse_val": value} for name, value in (("mean", 9.0), ("seed", 7.0), (model, 5.0))},
        "inputs": [{"file": f"demo_tripdata_{month}.parquet", "rows": 6000, "sha256": digit * 64} for month, digit in (("2023-01", "a"), ("2023-02", "b"))],
        "versions": {"lightgbm": "4.7.0"}, "commit": COMMIT, "synthetic": True, "decision": None,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record | more))
    for name in ("train.html", "train.ipynb", "report.json", "figures/errors.png"):
        (folder / name).write_text(name)
    if bundle:
        shutil.copytree(bundle, folder / "bundle")
    return folder


@pytest.fixture(scope="session")
def trips(tmp_path_factory) -> pd.DataFrame:
    path, month = tmp_path_factory.mktemp("demo") / "month.parquet", Month(2023, 1)
    write_demo_month(path, month, 6000)
    return read_trips(path, "demo", month)[0]


@pytest.fixture(scope="session")
def bundles(trips, tmp_path_factory) -> dict[str, Path]:
    "A real bundle of each regime."
    folders = {}
    for regime in (BOOKING, METERED):
        model = RangedBoosted(zone_table("demo"), regime, trees=40, threads=1).fit(trips, trips["duration"])
        folders[regime] = save_bundle(model, tmp_path_factory.mktemp("bundles") / regime, keep_lesson(trips), {"fleet": "demo", "synthetic": True})
    return folders


@pytest.fixture(scope="session")
def empty(tmp_path_factory) -> Path:
    "A database as first use makes it, once for all tests."
    path = tmp_path_factory.mktemp("empty") / "home" / "mlflow.sqlite"
    path.parent.mkdir()
    mlflow_client._client_class()
    with mlflow_client._quietly():
        mlflow_client._make_database(path)
    return path


@pytest.fixture(autouse=True)
def settings(monkeypatch) -> None:
    "Nothing of the developer's own MLflow."
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def local(home, empty) -> Path:
    "A home with a database in it."
    home.mkdir(parents=True)
    shutil.copy(empty, home / "mlflow.sqlite")
    return home


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    "A real MLflow server on loopback, with its own database and files."

    def __init__(self, folder: Path, database: Path):
        self.folder, self.uri, self.process = folder, "", None
        folder.mkdir()
        shutil.copy(database, folder / "server.sqlite")
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/server.sqlite", "--artifacts-destination", str(self.folder / "files"),
            "--serve-artifacts", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        environment = os.environ | mlflow_client._NOTHING_SENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(self.uri, self.process)
        return self

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group: the server and its worker
            self.process.wait()
            self.process = None


def wait_for(uri: str, process: subprocess.Popen) -> None:
    "Until it answers, or is dead."
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not answer within a minute")


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow") / "server", empty)
    yield server.start()
    server.stop()


@pytest.fixture
def remote(server, home, monkeypatch) -> Server:
    "MLFLOW_TRACKING_URI names the server."
    if server.process is None:
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return server


def runs_of(key: str) -> list:
    with mlflow_client._mlflow() as client:
        found = client.get_experiment_by_name(mlflow_client.EXPERIMENT)
        return client.search_runs([found.experiment_id], f"tags.`key` = '{key}'") if found else []


def python(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    "A plain process."
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | mlflow_client._NOTHING_SENT | environment)


LOAD = """
import pickle, sys
import cloudpickle, joblib, mlflow, pandas as pd
def refuse(*_, **__): raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = cloudpickle.load = cloudpickle.loads = joblib.load = refuse
model = mlflow.pyfunc.load_model(sys.argv[1])
rides = pd.read_json(sys.argv[2], dtype={"PULocationID": "int16", "DOLocationID": "int32"}, convert_dates=["pickup_at"])
assert "ride_duration.cli" not in sys.modules
print(model.predict(rides).to_json(orient="split", double_precision=15))
"""


@pytest.mark.parametrize("regime", [BOOKING, METERED])
def test_anyone_with_mlflow_loads_the_champion_by_its_alias(remote, bundles, trips, tmp_path, regime):
    key = f"{'a1' if regime == BOOKING else 'b2'}{'0' * 14}"
    tracked = outbox.log_record(write_record(tmp_path / "record", key, bundles[regime], regime))
    tracking.set_alias("demo", regime, "champion", tracked.version)
    columns = ["pickup_at", "PULocationID", "DOLocationID"] + (["trip_distance"] if regime == METERED else [])
    rides = trips[columns].head(20)
    rides.to_json(tmp_path / "rides.json", date_format="iso", date_unit="us")
    done = python(LOAD, f"models:/{tracking.registered_name('demo', regime)}@champion", tmp_path / "rides.json")
    assert done.returncode == 0, done.stderr
    answers = pd.DataFrame(**json.loads(done.stdout.splitlines()[-1]))
    minutes, low, high = load_bundle(bundles[regime]).ranged.predict_with_interval(rides)
    pd.testing.assert_frame_equal(answers, pd.DataFrame({"minutes": minutes, "low": low, "high": high}), check_index_type=False, rtol=1e-12)


def test_people_find_where_a_run_comes_from(remote, bundles, tmp_path):
    decision = {"promote": False, "because": "no gain"}
    tracked = outbox.log_record(write_record(tmp_path / "record", "c3" * 8, bundles[BOOKING], decision=decision))
    (run,) = runs_of("c3" * 8)
    assert (run.info.run_id, run.info.status) == (tracked.run_id, "FINISHED")
    assert run.data.metrics == {f"{name}.{measure}": value for name, best in (("mean", 9.0), ("seed", 7.0), ("boosted", 5.0)) for measure, value in (("rmse_train", 4.0), ("rmse_val", best))}
    assert run.data.params == {"fleet": "demo", "regime": "booking", "train": "2023-01", "val": "2023-02", "model": "boosted", "trees": "40", "all_pickups": "false"}
    assert run.data.tags["mlflow.source.git.commit"] == COMMIT and run.data.tags["version.lightgbm"] == "4.7.0"
    inputs = {one.dataset.name: (one.tags[0].value, json.loads(one.dataset.source)["sha256"]) for one in run.inputs.dataset_inputs}
    assert inputs == {"demo_tripdata_2023-01.parquet": ("training", "a" * 64), "demo_tripdata_2023-02.parquet": ("validation", "b" * 64)}
    with mlflow_client._mlflow() as client:
        files = {file.path for place in (None, "report", "figures") for file in client.list_artifacts(run.info.run_id, place)}
        found = client.get_model_version(tracking.registered_name("demo"), str(tracked.version))
    assert files == {"record.json", "decision.json", "model", "report", "figures", "report/train.html", "report/train.ipynb", "report/report.json", "figures/errors.png"}
    assert (found.run_id, found.tags["key"], found.tags["train"], found.tags["val"], found.tags["rmse"]) == (tracked.run_id, "c3" * 8, "2023-01", "2023-02", "5.0")


def test_a_decision_taken_later_is_added_to_the_same_run(local, tmp_path):
    first = outbox.log_record(write_record(tmp_path / "first", "c4" * 8, None))
    again = outbox.log_record(write_record(tmp_path / "again", "c4" * 8, None, decision={"promote": True}))
    assert first == again and len(runs_of("c4" * 8)) == 1
    with mlflow_client._mlflow() as client:
        assert "decision.json" in {file.path for file in client.list_artifacts(first.run_id)}


def test_a_model_that_comes_later_is_added_to_the_same_run(local, bundles, tmp_path):
    first = outbox.log_record(write_record(tmp_path / "first", "c5" * 8, None))
    again = outbox.log_record(write_record(tmp_path / "again", "c5" * 8, bundles[BOOKING]))
    assert (first.version, again) == (None, (first.run_id, 1))


def test_nothing_stored_is_a_pickle_or_names_this_machine(local, bundles, tmp_path):
    outbox.log_record(write_record(tmp_path / "record", "d4" * 8, bundles[BOOKING]))
    stored = [path for path in (local / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "ride_duration_model.py", "input_example.json", "requirements.txt", "manifest.json"} <= {path.name for path in stored}
    for path in stored:
        content = path.read_bytes()
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and path.suffix not in (".pkl", ".pickle", ".joblib", ".skops"), path
        assert path.suffix == ".npz" or (str(tmp_path).encode() not in content and b"/tmp/" not in content), path
    (requirements,) = (path.read_text() for path in stored if path.name == "requirements.txt")
    assert "ride-duration[mlops]==" in requirements


def test_nothing_is_said_and_nothing_sent(local, bundles, tmp_path):
    "Nor does a folder appear where it was run."
    (tmp_path / "here").mkdir()
    folder = write_record(tmp_path / "record", "d5" * 8, bundles[BOOKING])
    program = """
import os, sys
os.chdir(sys.argv[2])
from ride_duration.ops.outbox import log_record
from ride_duration.ops.tracking import versions
log_record(sys.argv[1]), versions("demo")
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
assert not [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"]
"""
    environment = {name: value for name, value in os.environ.items() if name not in (*mlflow_client._NOTHING_SENT, "CI", "PYTEST_CURRENT_TEST")}
    done = subprocess.run([sys.executable, "-c", program, folder, tmp_path / "here"], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "here").iterdir())


KILLED = """
import os, signal, sys, time
from ride_duration.ops import mlflow_client, outbox
client = mlflow_client._client_class()
import mlflow.artifacts, mlflow.pyfunc, mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
changes = ("create_experiment", "create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated", "create_registered_model", "log_artifacts", "create_model_version")
left = 0
def counted(change):
    def call(*given, **named):
        global left
        done = change(*given, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return call
for name in changes:
    setattr(client, name, counted(getattr(client, name)))
for line in sys.stdin:  # a record, after how many changes it ends, or after how many seconds
    folder, steps, seconds = line.split()
    child = os.fork()
    if child == 0:
        left = int(steps)
        outbox.log_record(folder)
        os._exit(0)
    if float(seconds):
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def log_and_die(home):
    "Logs a record in a process that is killed after some changes of MLflow's state, or some seconds; how it ended."
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def log(folder: Path, steps: int = 0, seconds: float = 0) -> int:
        process.stdin.write(f"{folder} {steps} {seconds}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield log
    process.stdin.close()
    process.wait()


def assert_one(key: str, tracked: outbox.Tracked) -> None:
    "MLflow has this run and this version of a key, and nothing else."
    assert [(run.info.run_id, run.info.status) for run in runs_of(key)] == [(tracked.run_id, "FINISHED")]
    assert [(version.version, version.run_id) for version in tracking.versions("demo") if version.key == key] == [tracked[::-1]]


def test_killed_at_any_moment_and_again_it_is_one_run_and_one_version(local, bundles, tmp_path, log_and_die):
    for key in ("aa" * 8, "bb" * 8):  # the second says how long one takes on this machine now; the first makes the database, too
        undisturbed, began = write_record(tmp_path / key, key, bundles[BOOKING]), time.monotonic()
        assert log_and_die(undisturbed) == 0
        took = time.monotonic() - began
    states = set()
    for turn in range(10):
        key = f"{turn:016x}"
        folder = write_record(tmp_path / key, key, bundles[BOOKING])
        log_and_die(folder, seconds=took * (turn + 0.5) / 10)
        states.add((tuple(run.info.status for run in runs_of(key)), any(version.key == key for version in tracking.versions("demo"))))
        assert_one(key, outbox.log_record(folder))
    assert len(states) > 1, f"all were killed in the same state: {states}"


def test_killed_after_any_change_and_again_it_is_one_run_and_one_version(local, bundles, tmp_path, log_and_die):
    ends = []
    for step in range(1, 20):
        key = f"{step:016x}"
        folder = write_record(tmp_path / key, key, bundles[BOOKING])
        ends.append(log_and_die(folder, steps=step))
        tracked = outbox.log_record(folder)
        assert_one(key, tracked)
        if ends[-1] == 0:
            break
    assert ends == [*[-signal.SIGKILL] * (len(ends) - 1), 0] and len(ends) > 11
    load_bundle(tracking.download_bundle("demo", BOOKING, tracked.version, tmp_path / "bundle"))


def test_a_home_killed_while_its_database_is_made_works_afterwards(home, tmp_path):
    folder = write_record(tmp_path / "record", "e1" * 8, None)
    process = subprocess.Popen([sys.executable, "-c", "import sys\nfrom ride_duration.ops.outbox import log_record\nlog_record(sys.argv[1])", folder])
    for _ in range(20_000):
        if list(home.glob(".mlflow.sqlite.*.part")):
            break
        time.sleep(0.001)
    time.sleep(0.2)  # it takes a second
    process.kill()
    process.wait()
    assert list(home.glob(".mlflow.sqlite.*.part")) and not (home / "mlflow.sqlite").exists()
    assert outbox.log_record(folder).run_id
    assert not list(home.glob(".mlflow.sqlite.*"))


def test_without_a_server_the_record_waits_and_is_logged_once_it_is_back(remote, bundles, tmp_path, capfd):
    remote.stop()
    outbox.put_in_outbox(write_record(tmp_path / "one", "f1" * 8, bundles[BOOKING]))
    outbox.put_in_outbox(write_record(tmp_path / "two", "f2" * 8, None))
    begin = time.monotonic()
    results = outbox.sync()
    assert time.monotonic() - begin < 10
    assert [type(error) for _, error in results] == [TrackingUnreachable] * 2 and f"MLflow at {remote.uri}" in str(results[0][1])
    assert [path.name for path in outbox.waiting()] == ["f1" * 8, "f2" * 8]
    with pytest.raises(TrackingUnreachable, match="connection refused"):
        tracking.versions("demo")
    assert capfd.readouterr().err == ""
    remote.start()
    told = []
    with ThreadPoolExecutor(2) as pool:  # two at once share the work
        other = pool.submit(outbox.sync)
        found = outbox.sync(lambda *said: told.append(said)) + other.result()
    assert sorted(key for key, _ in found) == ["f1" * 8, "f2" * 8] and all(isinstance(where, outbox.Tracked) for _, where in found)
    assert told[-1][:2] == (len(told), len(told))
    assert (outbox.waiting(), list((outbox._outbox()).iterdir())) == ([], [])
    assert len(runs_of("f1" * 8)) == len(runs_of("f2" * 8)) == 1


def test_a_server_that_never_answers_is_given_up_soon(home, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(TrackingUnreachable, match="no answer in time") as caught:
            tracking.versions("demo")
        assert time.monotonic() - begin < 10 and "secret" not in str(caught.value)


def test_something_else_at_that_address_is_said_so(home, monkeypatch, tmp_path):
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as found:
                if found.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingUnreachable):
            outbox.log_record(write_record(tmp_path / "record", "ab" * 8, None))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("damage", ["text", "cut", "other"])
def test_a_damaged_database_is_named_and_left_alone(local, tmp_path, damage):
    path = local / "mlflow.sqlite"
    if damage == "text":
        path.write_bytes(b"not a database" * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:20_000])
    else:
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE mine (minutes REAL)")
    before = path.read_bytes()
    with pytest.raises(BrokenDatabase, match=r"mlflow\.sqlite is damaged or not ours"):
        outbox.log_record(write_record(tmp_path / "record", "ab" * 8, None))
    assert path.read_bytes() == before


def test_a_database_of_another_mlflow_is_said_so(local, tmp_path):
    with sqlite3.connect(local / "mlflow.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    database.close()
    with pytest.raises(BrokenDatabase, match="another version of MLflow"):
        tracking.versions("demo")


def test_no_place_for_files_is_named(local, bundles, tmp_path):
    (local / "mlflow-artifacts").write_text("a file where a folder belongs")
    with pytest.raises(CannotWrite):
        outbox.log_record(write_record(tmp_path / "record", "ab" * 8, bundles[BOOKING]))
    (local / "mlflow-artifacts").unlink()
    tracked = outbox.log_record(tmp_path / "record")
    assert (len(runs_of("ab" * 8)), tracked.version) == (1, 1)


def test_a_record_that_mlflow_does_not_accept_holds_up_no_other(local, tmp_path):
    outbox.put_in_outbox(write_record(tmp_path / "odd", "aa" * 8, None, scores={"bo:osted!": {"rmse_val": 5.0}}))
    outbox.put_in_outbox(write_record(tmp_path / "sound", "bb" * 8, None))
    results = dict(outbox.sync())
    assert isinstance(results["aa" * 8], BadParameter) and "bo:osted!" in str(results["aa" * 8]) and results["bb" * 8].run_id


SMALL_DISK = """
set -e
mount -t tmpfs -o size=$1 none "$RIDE_DURATION_HOME"
cp "$2" "$RIDE_DURATION_HOME/mlflow.sqlite"
if [ "$5" = ro ]; then mount -o remount,ro "$RIDE_DURATION_HOME"; fi
"$3" -c "
import sys
from ride_duration.errors import RideDurationError
from ride_duration.ops import outbox
try:
    outbox.log_record(sys.argv[1])
except RideDurationError as error:
    print(type(error).__name__, error)
" "$4"
"""


@needs_mounts
@pytest.mark.parametrize(("room", "access", "said"), [("1000k", "rw", "DiskFull"), ("1400k", "rw", "DiskFull"), ("9m", "ro", "CannotWrite")])
def test_a_full_or_read_only_disk_is_named(home, empty, bundles, tmp_path, room, access, said):
    home.mkdir(parents=True)
    folder = write_record(tmp_path / "record", "ab" * 8, bundles[BOOKING])
    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", room, empty, sys.executable, folder, access]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(said) and len(done.stdout.splitlines()) == 1, done


def test_aliases(local, bundles, tmp_path):
    for number in (1, 2):
        outbox.log_record(write_record(tmp_path / str(number), f"{number}" * 8, bundles[BOOKING]))
    tracking.set_alias("demo", BOOKING, "champion", 1)
    tracking.set_alias("demo", BOOKING, "champion", 2)
    tracking.set_alias("demo", BOOKING, "challenger", 2)
    assert [version.aliases for version in tracking.versions("demo")] == [(), ("challenger", "champion")]
    tracking.remove_alias("demo", BOOKING, "challenger")
    assert (tracking.alias_version("demo", BOOKING, "champion"), tracking.alias_version("demo", BOOKING, "challenger"), tracking.alias_version("demo", METERED, "champion")) == (2, None, None)
    with pytest.raises(NoModel, match="version 3 of ride-duration-demo"):
        tracking.set_alias("demo", BOOKING, "champion", 3)
    with pytest.raises(BadParameter, match="latest"):
        tracking.set_alias("demo", BOOKING, "latest", 1)


def test_a_bundle_comes_back_whole_or_not_at_all(local, bundles, tmp_path):
    tracked = outbox.log_record(write_record(tmp_path / "record", "ab" * 8, bundles[BOOKING]))
    folder = tracking.download_bundle("demo", BOOKING, tracked.version, tmp_path / "shelf" / "bundle")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {path.name: path.read_bytes() for path in bundles[BOOKING].iterdir()}
    assert list(folder.parent.iterdir()) == [folder]
    with pytest.raises(CannotWrite, match="something else"):
        tracking.download_bundle("demo", BOOKING, tracked.version, tmp_path / "record")
    with pytest.raises(NoModel):
        tracking.download_bundle("demo", BOOKING, 9, tmp_path / "nine")
    (manifest,) = (local / "mlflow-artifacts").rglob("bundle/manifest.json")
    manifest.write_text("{}")
    with pytest.raises(BrokenBundle, match="version 1"):
        tracking.download_bundle("demo", BOOKING, 1, tmp_path / "shelf" / "damaged")
    shutil.rmtree(manifest.parent)
    with pytest.raises(BrokenBundle, match="version 1"):
        tracking.download_bundle("demo", BOOKING, 1, tmp_path / "shelf" / "gone")
    assert list(folder.parent.iterdir()) == [folder]


def test_a_broken_record_stays_in_the_outbox_and_the_others_go(local, tmp_path):
    broken = outbox.put_in_outbox(write_record(tmp_path / "broken", "aa" * 8, None))
    outbox.put_in_outbox(write_record(tmp_path / "sound", "bb" * 8, None))
    (broken / "record.json").write_text("{")
    results = dict(outbox.sync())
    assert isinstance(results["aa" * 8], BadParameter) and results["bb" * 8].run_id
    assert outbox.waiting() == [broken]


def test_a_record_killed_on_its_way_into_the_outbox_leaves_nothing(home, tmp_path):
    folder = write_record(tmp_path / "record", "aa" * 8, None)
    (folder / "train.html").write_bytes(b"x" * 30_000_000)
    program = "import sys\nfrom ride_duration.ops.outbox import put_in_outbox\nprint(1, flush=True)\nput_in_outbox(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE)
    process.stdout.readline()
    for _ in range(2000):
        if list(outbox._outbox().glob(".*.part")):
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not [path for path in outbox.waiting() if not (path / "record.json").exists()]
    whole = outbox.put_in_outbox(folder)
    assert (whole / "train.html").stat().st_size == 30_000_000 and list(whole.parent.iterdir()) == [whole]


def test_the_pages_open(local, tmp_path):
    outbox.log_record(write_record(tmp_path / "record", "ab" * 8, None))
    port = free_port()
    process = subprocess.Popen(mlflow_client.ui_command(port=port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
        telemetry = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/ajax-api/3.0/mlflow/ui-telemetry", timeout=10))
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name={mlflow_client.EXPERIMENT}")
        found = json.load(urllib.request.urlopen(asked, timeout=10))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert b"MLflow" in page and found["experiment"]["name"] == mlflow_client.EXPERIMENT
    assert telemetry["disable_ui_telemetry"] is True
