"""The loop with everything real: a service under traffic, months that arrive, a webhook that listens; and cycles that are killed anywhere."""

import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served import Service
from warm import command, run_forked

from ride_duration.data import demo
from ride_duration.data.demo import demo_month
from ride_duration.data.month import Month
from ride_duration.ops import history, journal, registry
from ride_duration.ops.incidents import told

TRIPS = 6_000
QUICK = ("-p", "models=seed,boosted", "-p", "trees=60")
POLICY = "window = 2\nevery = 0\n"
GATE = "minimum_gain = 0.3\ncoverage_low = 0.5\ncoverage_high = 0.95\n"  # few trees and few rides: ranges are what they can be, and a little better is luck


def month_of(number: int, shock: bool = False) -> pa.Table:
    "A month of 2023 of the demo city, with its bridge closed or open."
    before, demo.SHOCK_MONTH = demo.SHOCK_MONTH, Month(2023, number) if shock else None
    try:
        return demo_month(Month(2023, number), TRIPS).replace_schema_metadata(None)  # which says whose trips they are
    finally:
        demo.SHOCK_MONTH = before


class World:
    "A mirror into which months arrive, a home folder, and the command line."

    def __init__(self, folder: Path):
        self.folder, self.home, self.mirror = folder, folder / "home", folder / "mirror"
        (self.mirror / "trip-data").mkdir(parents=True)
        (folder / "policy.toml").write_text(POLICY)
        (folder / "gate.toml").write_text(GATE)
        self.environment = {**os.environ, "RIDE_DURATION_HOME": str(self.home), "RIDE_DURATION_SOURCE": str(self.mirror)}
        self.loop = ("--policy", folder / "policy.toml", "--rules", folder / "gate.toml", "--reports", folder / "reports", *QUICK)

    def arrives(self, number: int, content: pa.Table | bytes) -> None:
        path = self.mirror / "trip-data" / f"green_tripdata_2023-{number:02}.parquet"
        part = self.folder / "part"
        part.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, part, compression="zstd")
        part.rename(path)

    def start(self, *words: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "ride_duration", *map(str, words)]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: object) -> tuple[int, str, str]:
        done = run_forked(command, *map(str, words), cwd=self.folder, env=self.environment)
        return done.returncode, done.stdout, done.stderr

    def past(self) -> list[history.Event]:
        return history.events("ride-duration-green")


@pytest.fixture
def world(tmp_path: Path, home: Path) -> World:
    made = World(tmp_path)
    assert made.home == home, "what is read here and what processes write is the same"
    return made


def until(holds: Callable[[], object], what: str, patience: float = 120) -> object:
    end = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.1)
    return found


# --- the story -------------------------------------------------------------------------------------------------------


class Traffic(threading.Thread):
    "Rides that are asked for, and told how long they took, as fast as one customer can."

    def __init__(self, service: Service, table: pa.Table):
        super().__init__(daemon=True)
        self.service, self.over, self.failures, self.completed = service, threading.Event(), [], 0
        rides = table.select(["lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID"]).to_pylist()
        self.rides = [ride for ride in rides if 1 <= (ride["lpep_dropoff_datetime"] - ride["lpep_pickup_datetime"]).total_seconds() / 60 <= 60]

    def _ask(self, asker: object, path: str, body: dict) -> object:
        status, said = asker(path, body)
        if status != 200:
            self.failures.append((status, path, said))
        return said

    def run(self) -> None:
        asker = self.service.asker()
        while not self.over.is_set():
            for number, ride in enumerate(self.rides):
                if self.over.is_set():
                    break
                name, took = f"{self.completed}-{number}", (ride["lpep_dropoff_datetime"] - ride["lpep_pickup_datetime"]).total_seconds() / 60
                self._ask(asker, "/predict", {"ride_id": name, "pickup": ride["PULocationID"], "dropoff": ride["DOLocationID"], "at": ride["lpep_pickup_datetime"].isoformat()})
                self._ask(asker, f"/rides/{name}/completed", {"minutes": round(took, 3)})
                self.completed += 1
                time.sleep(0.003)
        asker.close()


@pytest.fixture
def chat() -> Iterator[tuple[str, list[str]]]:
    "A webhook's address, and what it has heard."
    heard: list[str] = []

    class Chat(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    server.server_close()


class Watcher:
    "A `ride-duration watch` that runs; its lines are in `events`."

    def __init__(self, world: World, *words: object):
        self.process = world.start("watch", *words)
        self.events: list[dict] = []
        first = self.process.stderr.readline()
        assert first.startswith("metrics: "), first
        self.metrics = first.removeprefix("metrics: ").strip()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr:
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def heard(self, event: str, words: str) -> bool:
        return any(one["event"] == event and words in one["says"] for one in list(self.events))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def champion() -> int | None:
    crowned = history.champion("ride-duration-green")
    return crowned and crowned.version


def test_the_whole_story(world: World, chat: tuple[str, list[str]]):
    """Three months arrive: one as usual, one in which the bridge is closed, one whose file is broken and then repaired. Then somebody insists on a bad model."""
    url, heard = chat
    world.environment["RIDE_DURATION_WEBHOOK"] = url
    for number in (7, 8):
        world.arrives(number, month_of(number))
    code, _, error = world.run("cycle", "--month", "2023-08", *world.loop)
    assert code == 0, error
    assert champion() == 1
    with Service(world.home, "--fleet", "green", "--port", "0", environment={"RIDE_DURATION_SOURCE": str(world.mirror)}) as service:
        traffic = Traffic(service, month_of(11, shock=True))
        traffic.start()
        watcher = Watcher(world, "--every", "2s", "--undo-every", "1s", "--metrics-port", "0", "--service", service.address, "--until", "2024-01", *world.loop)
        try:
            world.arrives(9, month_of(9))
            until(lambda: watcher.heard("done", "no new model: nothing asks for"), "a month as usual asked for nothing")
            world.arrives(10, month_of(10, shock=True))
            until(lambda: watcher.heard("done", "version 2"), "the shock asked for a new model")
            assert champion() == 1, "what has not seen the closed bridge is no better: the gate holds it back"
            whole = world.folder / "whole.parquet"
            pq.write_table(month_of(11, shock=True), whole)
            world.arrives(11, whole.read_bytes()[:20_000])
            until(lambda: watcher.heard("done", "2023-11 was refused"), "the broken file was refused")
            world.arrives(11, whole.read_bytes())
            code, out, error = world.run("cycle", "--month", "2023-11", "--wait", "60", "--service", service.address, *world.loop)
            assert code == 0, error
            assert "version 3 answers from now on" in out
            assert champion() == 3
            assert service.ask("/model")[1]["version"] == "3", "the cycle has waited for it"
            _force_a_bad_one(world)
            until(lambda: service.ask("/model")[1]["version"] == "4", "the bad model answers")
            until(lambda: watcher.heard("undone", "version 4 was rolled back, version 3 answers again"), "it was undone")
            until(lambda: service.ask("/model")[1]["version"] == "3", "the good model answers again")
            _look_at_metrics(watcher)
            assert world.run("hold", "--why", "enough for today")[0] == 0
            until(lambda: "enough for today" in (service.ask("/status", headers={"Accept": "application/json"})[1]["held"] or ""), "the status says who holds it")
        finally:
            assert watcher.stop() == 0
            traffic.over.set()
            traffic.join(30)
        assert traffic.failures == []
        assert traffic.completed > 1_000
    past = [(event.kind, event.version, event.by) for event in world.past() if event.kind != history.DECISION]
    assert [one[:2] for one in past] == [("promote", 1), ("promote", 3), ("promote", 4), ("rollback", 3)]
    assert [one[2] for one in past if one[1] != 4] == ["the loop"] * 3
    _everybody_was_told(heard)


def _force_a_bad_one(world: World) -> None:
    "A model of one tree, which hardly knows more than the mean."
    code, _, error = world.run("report", "2023-09", "--reports", world.folder / "elsewhere", "-p", "models=seed,boosted", "-p", "trees=1")
    assert code == 0, error
    code, _, error = world.run("promote", "4", "--force", "--why", "somebody insists")
    assert code == 0, error


def _look_at_metrics(watcher: Watcher) -> None:
    import urllib.request

    with urllib.request.urlopen(watcher.metrics) as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    assert lines['ride_duration_loop_undone{loop="ride-duration-green"}'] == "1.0"
    assert lines['ride_duration_loop_champion_version{loop="ride-duration-green"}'] == "3.0"
    assert float(lines['ride_duration_loop_rounds_total{loop="ride-duration-green",outcome="failed"}']) == 0


def _everybody_was_told(heard: list[str]) -> None:
    for words in ("version 1 answers from now on", "version 3 answers from now on", "Repair data: the month cannot be judged", "version 4 was rolled back"):
        assert sum(words in text for text in heard) == 1, (words, heard)
    assert any(text.startswith("green 2023-10: retrain") for text in heard), heard


# --- killed ----------------------------------------------------------------------------------------------------------


def fingerprints(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def _facts(thing: object, *names: str) -> dict:
    return {name: getattr(thing, name) for name in names}


def left(world: World) -> dict:
    "Everything a cycle leaves behind, without the moments."
    return {
        "history": [_facts(event, "kind", "version", "previous", "by", "why", "evidence") for event in world.past()],
        "versions": [_facts(known.version, "version", "key", "aliases", "train", "val", "scores") for known in registry.registered("green")],
        "cycles": [_facts(one, "number", "month", "outcome", "steps") for one in journal.cycles()],
        "findings": [_facts(one, "window", "ended", "incident") for one in told("green")],
        "reports": fingerprints(world.folder / "reports"),
    }


def differences(one: object, other: object, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for name in {**one, **other} for found in differences(one.get(name), other.get(name), f"{where}/{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for number, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{where}/{number}")]
    return [] if one == other else [f"{where}: {one} instead of {other}"]


def test_killed_anywhere_and_begun_again_it_ends_as_if_nothing_had_been(world: World, chat: tuple[str, list[str]]):
    """RIDE_DURATION_KILLS=20 for the whole of it. The home folder stands at the same place each time, for MLflow knows where its files are."""
    url, heard = chat
    world.environment["RIDE_DURATION_WEBHOOK"] = url
    for number, shock in ((7, False), (8, False), (9, False), (10, True), (11, True)):
        world.arrives(number, month_of(number, shock))
    for month in ("2023-08", "2023-10"):
        code, _, error = world.run("cycle", "--month", month, *world.loop)
        assert code == 0, error
    before = world.folder / "before"
    shutil.copytree(world.home, before / "home")
    shutil.copytree(world.folder / "reports", before / "reports")
    before_that, began = len(heard), time.monotonic()
    process = world.start("cycle", *world.loop)  # as those that will be killed: from its very start
    assert (process.communicate(timeout=300), process.returncode)[1] == 0
    took, undisturbed, news = time.monotonic() - began, left(world), sorted(heard[before_that:])
    assert undisturbed["cycles"][-1]["outcome"] == "version 3 answers from now on"
    chance = random.Random(7)
    for _ in range(int(os.environ.get("RIDE_DURATION_KILLS", "2"))):
        for name in ("home", "reports"):
            shutil.rmtree(world.folder / name)
            shutil.copytree(before / name, world.folder / name)
        heard.clear()
        process = world.start("cycle", *world.loop)
        moment = chance.uniform(0.2, 1.0) * took
        time.sleep(moment)
        process.kill()
        process.communicate()
        if not [done for done in journal.cycles() if done.month == "2023-11" and done.ended]:  # it may have been quicker than the first; asked for again by name, the month would be judged anew
            code, _, error = world.run("cycle", "--month", "2023-11", "--wait", "60", *world.loop)
            assert code == 0, error
        assert differences(left(world), undisturbed) == [], f"killed after {moment:.2f} of {took:.2f} seconds"
        assert sorted(set(heard)) == news, "told, perhaps once more where nobody could know"


def test_a_second_cycle_leaves_or_waits(world: World):
    for number in (7, 8):
        world.arrives(number, month_of(number))
    first = world.start("cycle", "--month", "2023-08", *world.loop)
    until(lambda: (world.home / "cycles.sqlite").exists(), "the first cycle has begun")
    code, _, error = world.run("cycle", "--month", "2023-08", *world.loop)
    waiting = world.start("cycle", "--month", "2023-08", "--wait", "100", *world.loop)
    assert (code, error.count("\n")) == (32, 1)
    assert "another cycle of ride-duration-green is at work" in error
    assert first.wait(120) == 0
    assert waiting.wait(120) == 0
    assert [(one.kind, one.version) for one in world.past()] == [("decision", 1), ("promote", 1)]
    for process in (first, waiting):
        process.communicate()


def test_held_the_loop_promotes_nothing_and_says_so_everywhere(world: World):
    for number in (7, 8):
        world.arrives(number, month_of(number))
    assert world.run("hold", "--why", "the film festival")[0] == 0
    code, out, error = world.run("cycle", "--month", "2023-08", *world.loop)
    assert code == 0, error
    assert "version 1 has passed the gate and was not promoted" in out
    assert "the film festival" in out
    assert champion() is None
    assert "the film festival" in world.run("cycles")[1]
    assert "but " in world.run("cycle", "--month", "2023-08", "--dry-run", *world.loop)[1]
    assert world.run("promote", "1")[0] == 29
    assert world.run("release", "--why", "it is over")[0] == 0
    assert world.run("promote", "1")[0] == 0
    assert champion() == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the first one with --month"),
        (["--month", "2023-13"], "is not a month"),
        (["--month", "2023-08", "--policy", "none.toml"], "cannot read none.toml"),
        (["--month", "2023-08"], "2023-08"),  # it is not there
        (["--month", "2023-08", "-p", "trees"], "NAME=VALUE"),
        (["--month", "2023-08", "--fleet", "blue"], "blue"),
    ],
)
def test_what_cannot_be_done_is_one_line(world: World, words: list[str], says: str):
    code, _, error = world.run("cycle", *words)
    assert 10 <= code < 40, error
    assert error.count("\n") == 1, error
    assert says in error
    assert not (world.home / "cycles.sqlite").exists()
