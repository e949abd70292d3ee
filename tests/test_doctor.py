"""The doctor on installations that are really ill: each fault is found, named, and left as it is."""

import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import ride_duration
from served import Service, register
from test_disk import FUNCTIONS, needs_mounts

from ride_duration.model.bundle import MANIFEST
from ride_duration.ops import history, ledger, outbox, tracking
from ride_duration.ops.prediction_log import open_log
from ride_duration.serve import machine, state, supplies
from ride_duration.serve.checkup import BROKEN, OK, SKIPPED, WARNING, Seen
from ride_duration.serve.doctor import diagnosis, examined

pytest_plugins = ["postgres_server"]
NAME = "ride-duration-demo"


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def snapshot(folder: Path) -> dict:
    "All that can be seen of a folder: names, times, contents."
    return {path: (path.lstat().st_mtime_ns, path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()) for path in [folder, *folder.rglob("*")]}


def found(name: str, fleet: str = "demo", **asked) -> list[Seen]:
    "What one look says, as a state and a sentence with its repair."
    return [Seen(check.state, check.says, check.repair) for check in examined(fleet, port=asked.pop("port", 0) or free_port(), **asked) if check.name == name]


def only(seen: list[Seen], wanted: str) -> Seen:
    [one] = [one for one in seen if one.state == wanted]
    assert one.repair and "\n" not in one.says + one.repair
    return one


@pytest.fixture
def alive(home: Path, served_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    "A home with a champion that MLflow knows, a log with nothing in it, and runs."
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = {"fleet": "demo", "regime": "booking", "train": ["2023-01"], "val": "2023-02", "model": "boosted", "parameters": {}, "scores": {"boosted": {"rmse_val": 3.1}}, "inputs": [], "versions": {}}
    for place in ("first", "second"):
        folder = home.parent / f"record-{place}"
        shutil.copytree(served_bundles[place], folder / "bundle")
        (folder / "record.json").write_text(json.dumps(record | {"key": hashlib.sha256(place.encode()).hexdigest()[:16]}))
        outbox.log_record(folder)
    shutil.copytree(served_bundles["first"], home / "champions" / NAME / "1")
    history.promote(NAME, 1, "the first", by="ada")
    tracking.set_alias("demo", "booking", "champion", 1)
    with open_log():
        pass
    ledger.record_skipped(ledger.RunKey("train", {"fleet": "demo"}, {}, "code"), "for a test")
    return home


# --- a healthy one, and no trace ---------------------------------------------------------------------------------------


def test_a_sound_installation_is_well_and_stays_as_it_is(alive: Path, tmp_path: Path):
    before = snapshot(tmp_path)
    began = time.monotonic()
    done = ride_duration("doctor", "--fleet", "demo", "--json", "--port", str(free_port()), cwd=tmp_path)
    assert time.monotonic() - began < 60, "a few seconds on a quiet machine"
    said = json.loads(done.stdout)
    assert (done.returncode, said["state"]) == (0, "ok"), done.stdout
    told = {check["name"]: check["state"] for check in said["checks"]}
    assert told | {"databases": OK, "registry": OK, "models": OK, "prediction log": OK, "home folder": OK} == told
    assert snapshot(tmp_path) == before


def test_an_empty_home_is_well_and_stays_empty(home: Path, tmp_path: Path, run):
    done = run("doctor", "--fleet", "demo", "--port", str(free_port()))
    assert done.returncode == 0 and "All is well" not in done.stderr
    assert not home.exists()


def test_nothing_is_touched_while_a_killed_process_has_left_its_log(alive: Path, tmp_path: Path):
    program = "import os, sys; from ride_duration.ops import hold; from ride_duration.database import database; import sqlite3; opened = sqlite3.connect(sys.argv[1], isolation_level=None); opened.execute('CREATE TABLE IF NOT EXISTS extra (x)'); os._exit(1)"
    subprocess.run([sys.executable, "-c", program, alive / "history.sqlite"], check=False)
    assert (alive / "history.sqlite-wal").stat().st_size
    before = snapshot(tmp_path)
    assert [check for check in examined("demo", port=free_port()) if check.state == BROKEN] == []
    assert snapshot(tmp_path) == before


def test_it_looks_beside_a_running_writer(alive: Path):
    with sqlite3.connect(alive / "history.sqlite", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("CREATE TABLE held (x)")
        assert {seen.state for seen in found("databases")} == {OK}
        writer.execute("ROLLBACK")


# --- home and databases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["history", "runs"])
def test_a_damaged_database_is_named_with_its_repair(alive: Path, name: str):
    path = alive / f"{name}.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 2] = os.urandom(4096)  # the page after the head, where the first table lies
    path.write_bytes(content)
    broken = only(found("databases"), BROKEN)
    assert f"{name}.sqlite" in broken.says and "damaged" in broken.says and "restore" in broken.repair
    assert path.read_bytes() == content


def test_the_database_of_another_program_and_one_of_another_version(home: Path):
    home.mkdir()
    for name, made in {"keys": "CREATE TABLE recipe (name TEXT)", "switch": "CREATE TABLE switch (id INTEGER, at TEXT)"}.items():
        with sqlite3.connect(home / f"{name}.sqlite") as opened:
            opened.execute(made)
    broken = {seen.says.split()[0]: seen.says for seen in found("databases") if seen.state == BROKEN}
    assert "another program" in broken["keys.sqlite"] and "lacks switch.by" in broken["switch.sqlite"]


def test_a_database_that_was_taken_away_from_its_log(alive: Path):
    keeper = sqlite3.connect(alive / "history.sqlite", isolation_level=None)
    keeper.execute("CREATE TABLE extra (x)")
    (alive / "history.sqlite").rename(alive / "elsewhere")
    assert "put" in only(found("databases"), BROKEN).repair
    keeper.close()


def test_a_home_that_is_no_folder(home: Path):
    home.write_text("a file")
    assert "something else" in only(found("home folder"), BROKEN).says
    done = ride_duration("doctor", "--fleet", "demo", "--port", str(free_port()))
    assert (done.returncode, len(done.stderr.splitlines())) == (51, 1), done.stderr
    assert "RIDE_DURATION_HOME" in done.stdout


@needs_mounts
def test_a_read_only_home_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("RIDE_DURATION_HOME", str(tmp_path / "disk" / "home"))
    script = """
        mount -t tmpfs -o size=2m none "$disk"
        mkdir "$disk/home"
        code=0; ride_duration doctor --fleet demo --port "$4" --json > "$notes/full" || code=$?
        mount -o remount,ro "$disk"
        ride_duration doctor --fleet demo --port "$4" --json > "$notes/readonly" || test $? = $code
        exit $code
    """
    arguments = [sys.executable, str(tmp_path / "disk"), str(tmp_path), str(free_port())]
    done = subprocess.run(["unshare", "-rm", "sh", "-c", "set -e\n" + FUNCTIONS + script, "sh", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 51, done.stderr
    full, readonly = (json.loads((tmp_path / name).read_text())["checks"] for name in ("full", "readonly"))
    assert [(check["name"], "too little" in check["says"]) for check in full if check["state"] == BROKEN] == [("disk", True)]
    assert ("home folder", BROKEN) in [(check["name"], check["state"]) for check in readonly]


def test_what_a_killed_process_left_is_told(alive: Path):
    half = alive / "bundles" / ".manifest.json.999999999-3.part"
    half.parent.mkdir()
    half.write_text("half")
    program = "from ride_duration.ops.ledger import RunKey, _begin; _begin(RunKey('train', {'fleet': 'demo', 'val': '2023-02'}, {}, 'code'))"
    subprocess.run([sys.executable, "-c", program], check=True)
    (alive / "outbox" / "0123456789abcdef").mkdir(parents=True)
    seen = found("leftovers")
    assert [one.state for one in seen] == [WARNING] * 3
    assert ".part" in seen[0].says and seen[1].says.endswith("train demo 2023-02") and seen[2].repair == "ride-duration sync"
    assert half.exists()


# --- models ------------------------------------------------------------------------------------------------------------


def test_an_alias_that_says_otherwise_than_the_history(alive: Path):
    tracking.set_alias("demo", "booking", "champion", 2)
    broken = only(found("registry"), BROKEN)
    assert "version 2" in broken.says and "version 1" in broken.says and broken.repair.startswith("ride-duration sync")
    done = ride_duration("sync")
    assert done.returncode == 0 and [seen.state for seen in found("registry")] == [OK], "the repair that is named mends it"


def test_a_registry_that_does_not_answer(alive: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert "MLFLOW_TRACKING_URI" in " ".join(only(found("registry"), BROKEN))


def test_a_champion_without_mlflows_database(alive: Path):
    (alive / "mlflow.sqlite").unlink()
    assert "is not there" in only(found("registry"), BROKEN).says
    assert not (alive / "mlflow.sqlite").exists()


def test_a_damaged_bundle_and_a_golden_trip_that_is_answered_otherwise(alive: Path):
    bundle = alive / "champions" / NAME / "1"
    whole = (bundle / "low.txt").read_bytes()
    (bundle / "low.txt").write_bytes(whole[:-1])
    assert "low.txt was changed or damaged" in only(found("models"), BROKEN).says
    (bundle / "low.txt").write_bytes(whole)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["golden"][0]["answer"][0] += 1
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    assert "answered otherwise" in only(found("models"), BROKEN).says


def test_a_champion_that_is_not_here_yet(alive: Path):
    shutil.rmtree(alive / "champions")
    assert "fetches it" in only(found("models"), WARNING).repair


# --- the log -----------------------------------------------------------------------------------------------------------


def test_logs_that_cannot_be_used(alive: Path, tmp_path: Path):
    with sqlite3.connect(alive / "predictions.sqlite") as log:
        log.execute("UPDATE ride_duration_log SET version_num = '9999'")
    assert "newer version" in only(found("prediction log"), BROKEN).says
    (alive / "predictions.sqlite").write_bytes(b"no database" * 1000)
    assert "damaged" in only(found("prediction log"), BROKEN).says
    assert "another program" in only(found("prediction log", log=str(alive / "history.sqlite")), BROKEN).says
    (alive / "predictions.sqlite").rename(tmp_path / "gone")
    (alive / "predictions.sqlite-wal").write_bytes(b"answers")
    assert "still lie in predictions.sqlite-wal" in only(found("prediction log"), BROKEN).says


def test_a_log_in_postgresql_is_asked_and_not_touched(home: Path, postgres):
    place = postgres.database()
    assert [(seen.state, "to come" in seen.says) for seen in found("prediction log", log=place)] == [(OK, True)]
    with open_log(place):
        pass
    assert [(seen.state, "version 0001" in seen.says) for seen in found("prediction log", log=place)] == [(OK, True)]
    nowhere = f"postgresql+psycopg://ada:secret@127.0.0.1:{free_port()}/log"
    broken = only(found("prediction log", log=nowhere), BROKEN)
    assert "secret" not in broken.says + broken.repair


# --- the world outside -------------------------------------------------------------------------------------------------


def test_sources(home: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert [(seen.state, seen.says.endswith("2023-03")) for seen in found("source", "green", source=str(files))] == [(OK, True)]
    assert "does not exist" in only(found("source", "green", source=str(tmp_path / "nowhere")), BROKEN).says
    assert "no folder trip-data" in only(found("source", "green", source=str(tmp_path)), BROKEN).says
    monkeypatch.setenv("RIDE_DURATION_SOURCE", f"http://127.0.0.1:{free_port()}")
    assert "all else works" in only(found("source", "green"), WARNING).repair


def test_a_site_is_asked_for_its_newest_month(home: Path, tmp_path: Path):
    now = datetime.now(UTC)
    month = f"{(now.year * 12 + now.month - 1 - 3) // 12}-{(now.year * 12 + now.month - 1 - 3) % 12 + 1:02}"
    (tmp_path / "trip-data").mkdir()
    (tmp_path / "trip-data" / f"green_tripdata_{month}.parquet").write_bytes(b"a month")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words, **options):
            super().__init__(*words, directory=str(tmp_path), **options)

        def log_message(self, *_: object) -> None:
            "Nobody reads it."

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        [seen] = found("source", "green", source=f"http://127.0.0.1:{site.server_port}")
        site.shutdown()
    assert seen.state == OK and seen.says.endswith(month)


def test_a_sources_password_is_used_and_not_shown(home: Path):
    class OnlyBob(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.headers["Authorization"] == "Basic Ym9iOnMzY3JldA==" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            "Nobody reads it."

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OnlyBob) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{site.server_port}"
        [right] = found("source", "green", source=f"http://bob:s3cret@{place}")
        [wrong] = found("source", "green", source=f"http://bob:s3cr3t@{place}")
        site.shutdown()
    assert right.state == OK and right.says.startswith(f"http://***@{place} answers, and has green months up to 20")
    assert wrong.state == WARNING and wrong.says.startswith(f"http://***@{place} does not answer (Unauthorized)")
    assert "s3cret" not in only(found("source", "green", source="gopher://bob:s3cret@old"), BROKEN).says


def test_a_source_that_never_answers_does_not_keep_the_others_waiting(home: Path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        checks = list(examined("green", source=f"http://127.0.0.1:{silent.getsockname()[1]}", port=free_port()))
    assert time.monotonic() - began < 30
    assert [check.state for check in checks if check.name == "source"] == [WARNING]
    assert checks[-1].name == "tools"


def test_a_port_taken_by_a_stranger(home: Path):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        seen = only(found("port", port=stranger.getsockname()[1]), WARNING)
    assert "something else listens" in seen.says and "--port" in seen.repair


def test_our_own_service_is_known_and_one_that_cannot_log_is_broken(tmp_path: Path, served_bundles: dict[str, Path]):
    home = tmp_path / "served"
    register(home, 1, served_bundles["first"])
    with Service(home, "--fleet", "demo", "--port", "0") as running:
        port = int(running.address.rpartition(":")[2])
        assert [(seen.state, seen.says.startswith("our service")) for seen in found("port", port=port)] == [(OK, True)]
        (home / "predictions.sqlite").rename(home / "elsewhere.sqlite")
        until = time.monotonic() + 20
        while not (broken := [seen for seen in found("port", port=port) if seen.state == BROKEN]) and time.monotonic() < until:
            time.sleep(0.2)
        assert "the prediction log cannot be written" in broken[0].says


@pytest.mark.parametrize(("name", "value", "says"), [
    ("RIDE_DURATION_DEMO_TRIPS", "plenty", "RIDE_DURATION_DEMO_TRIPS"),
    ("RIDE_DURATION_LOG", "mysql://db/log", "mysql"),
    ("RIDE_DURATION_WEBHOOK", "hooks", "RIDE_DURATION_WEBHOOK"),
    ("RIDE_DURATION_SMTP_URL", "smtp://mail.example.org", "RIDE_DURATION_MAIL_TO"),
])  # fmt: skip
def test_a_malformed_variable(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str):
    monkeypatch.setenv(name, value)
    assert says in " ".join(only(list(machine.look_at_environment()), BROKEN))


def test_a_misspelt_variable(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RIDE_DURATION_SORUCE", "/data")
    assert only(found("environment"), WARNING).repair == "did you mean RIDE_DURATION_SOURCE?"


def test_a_clock_before_what_was_written(alive: Path):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    history.promote(NAME, 2, "by a clock that was ahead", clock=lambda: tomorrow)
    seen = only(found("clock"), WARNING)
    assert "who was champion" in seen.says and "set the clock" in seen.repair


# --- whatever else -----------------------------------------------------------------------------------------------------


def test_a_check_that_crashes_is_a_line_and_ends_nothing(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state, "look_at_leftovers", lambda: (_ for _ in ()).throw(RecursionError("round and round")))
    monkeypatch.setattr(supplies, "look_at_models", lambda fleet: signal.pause())  # whoever waits for ever
    checks = list(examined("demo", port=free_port(), seconds=5))
    told = {check.name: check for check in checks}
    assert told["leftovers"].state == BROKEN and "RecursionError: round and round" in told["leftovers"].says
    assert told["models"].state == BROKEN
    assert checks[-1].name == "tools" and diagnosis(checks)[0] == BROKEN


def test_a_missing_library_and_an_old_one():
    versions = {"numpy": "1.26.4"}
    seen = list(machine.library_troubles(["numpy>=2.0", "pandas>=3.0", 'mlflow>=3.17; extra == "mlops"'], ["mlops"], versions.get))
    assert [(one.state, one.repair) for one in seen] == [(BROKEN, "pip install 'numpy>=2.0'"), (BROKEN, "pip install 'pandas>=3.0'"), (SKIPPED, "only where wanted: pip install 'ride-duration[mlops]'")]
