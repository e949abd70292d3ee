"""The service under load while models are swapped, processes are killed, and guests do not behave."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ride_duration
from served import Service, register

from ride_duration.model.bundle import load_bundle
from ride_duration.ops.prediction_log import open_log

pytest_plugins = ["postgres_server"]

SWAPS = int(os.environ.get("RIDE_DURATION_SWAPS", 25))      # 1000 for the long run
KILLS = int(os.environ.get("RIDE_DURATION_KILLS", 2))       # 50
HOSTILE = int(os.environ.get("RIDE_DURATION_HOSTILE", 1500))  # 10000
EXAMPLES = int(os.environ.get("RIDE_DURATION_EXAMPLES", 10))  # 200
SOAK = float(os.environ.get("RIDE_DURATION_SOAK", 4))       # seconds; 120


class Load:
    "Clients that ask without pause, each on its own connection, and remember every 200."

    def __init__(self, address: str, clients: int = 4, mark: str = ""):
        self.address, self.mark, self.over = address, mark, threading.Event()
        self.answers: list[dict] = []
        self.refused: Counter = Counter()
        self.threads = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(clients)]

    def _client(self, number: int) -> None:
        count = 0
        while not self.over.is_set():
            connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=30)
            with contextlib.suppress(OSError, http.client.HTTPException):  # killed, or not begun yet
                while not self.over.is_set():
                    count += 1
                    ride = {"pickup": count % 70 + 1, "dropoff": (count * 7) % 70 + 1, "at": "2023-03-01T08:30", "ride_id": f"{self.mark}{number}-{count}"}
                    connection.request("POST", "/predict", json.dumps(ride), {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    body = json.loads(answer.read())
                    if answer.status == 200:
                        self.answers.append({**body, "asked": ride})
                    else:
                        self.refused[answer.status] += 1
            connection.close()
            time.sleep(0.02)

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, answers: int, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while len(self.answers) < answers:
            assert time.monotonic() < until, f"{len(self.answers)} answers, refused: {self.refused}"
            time.sleep(0.01)


def test_models_are_swapped_between_two_requests(served_bundles, home):
    "No request fails while models change, and the minutes are always those of the version that the answer names."
    register(home, 1, served_bundles["first"])
    models = {version: load_bundle(served_bundles[name]) for version, name in (("1", "first"), ("2", "second"))}
    with Service(home, fleet="demo", port=0, every=0.01) as service, Load(service.address) as load:
        load.wait_for(50)
        for swap in range(SWAPS):
            version = 2 - swap % 2
            register(home, version, served_bundles["first" if version == 1 else "second"])
            until = time.monotonic() + 20
            while load.answers[-1]["model"]["version"] != str(version):
                assert time.monotonic() < until, service.said
                time.sleep(0.005)
        load.over.set()
        assert service.metric("ride_duration_model_swaps_total") >= SWAPS - 1
        assert service.metric("ride_duration_watch_failures_total") == 0
    expected = {
        (version, pickup, dropoff): model.answer(pickup, dropoff, np.datetime64("2023-03-01T08:30"))["minutes"]
        for version, model in models.items()
        for pickup, dropoff in {(answer["asked"]["pickup"], answer["asked"]["dropoff"]) for answer in load.answers}
    }
    assert not load.refused and len({answer["model"]["version"] for answer in load.answers}) == 2
    assert not [answer for answer in load.answers if answer["minutes"] != expected[answer["model"]["version"], answer["asked"]["pickup"], answer["asked"]["dropoff"]]]


def in_the_log(rows: list[tuple], load: Load) -> None:
    "Every 200 is there, once, as it was told."
    found = Counter(ride_id for ride_id, _ in rows)
    assert max(found.values()) == 1
    minutes = dict(rows)
    assert not [answer for answer in load.answers if minutes.get(answer["ride_id"]) != answer["minutes"]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_what_was_answered_is_in_the_log_whatever_kills_the_service(served_bundles, home):
    port = free_port()
    words = ("--bundle", served_bundles["first"], "--port", port)
    service = Service(home, *words)
    with Load(service.address) as load:
        for _ in range(KILLS):
            load.wait_for(len(load.answers) + 60 + random.randrange(60))
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL
            service = Service(home, *words)
        load.wait_for(len(load.answers) + 50)
    assert service.stop() == 0 and not load.refused
    with sqlite3.connect(home / "predictions.sqlite") as log:
        in_the_log(log.execute("SELECT ride_id, minutes FROM answer").fetchall(), load)


def test_what_was_answered_is_in_postgres_whatever_is_killed(postgres, served_bundles, home):
    "The service and the database server are killed in turn; while the database is away the answer is a 503, and nobody starts anything again but the database."
    log, port = postgres.database(), free_port()
    words = ("--bundle", served_bundles["first"], "--port", port, "--log", log)
    service = Service(home, *words)
    with Load(service.address) as load:
        for number in range(KILLS):
            load.wait_for(len(load.answers) + 40 + random.randrange(40))
            if number % 2:
                assert service.stop(signal.SIGKILL) == -signal.SIGKILL
                service = Service(home, *words)
            else:
                postgres.kill()
                postgres.start()
        load.wait_for(len(load.answers) + 40)
        postgres.kill_backends()
        load.wait_for(len(load.answers) + 40)
    assert service.stop() == 0 and set(load.refused) <= {503}
    with open_log(log) as found:
        rows = [row for frame in found.read(columns=["ride_id", "minutes"]) for row in zip(frame["ride_id"], frame["minutes"], strict=True)]
    in_the_log(rows, load)


# What guests send who do not behave. None of it is answered with a fault of ours.
NUMBERS = ("NaN", "Infinity", "-1", "0", "999", "1e400", "-1e400", "1e-400", "9" * 400, "0.1", "1.0", "true", "null", "[]", "{}", '"\\u0000"', '"\\ud800"', '"🚕"', '"1' + "0" * 50 + '"', '"' + "a" * 3000 + '"')
BODIES = (b"", b"\x00", b"\xff\xfe{", "{}".encode("utf-16"), b'{"pickup":' + b"[" * 5000, b"{" * 8000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b'{"pickup":1,"pickup":2,"dropoff":3}', b"null", b'"x"', b'{"rides":' + b"[" * 100)
PATHS = ("/predict", "/curve", "/predict/batch", "/rides/a/completed", "/rides/%00/completed", "/rides/..%2f/completed", "/predict/", "/%ff", "//", "/rides/" + "x" * 2000 + "/completed")


def hostile(number: int) -> tuple[str, bytes, dict[str, str]]:
    "A request that is wrong in one way or another; the same for the same number."
    chance = random.Random(number)
    path, kind = chance.choice(PATHS[:4] if chance.random() < 0.8 else PATHS), chance.random()
    headers = {"Content-Type": "application/json"} if chance.random() < 0.9 else {"Content-Type": chance.choice(["text/plain", "application/json; charset=latin-1", "x" * 500])}
    if kind < 0.2:
        return path, chance.choice(BODIES), headers
    if kind < 0.3:
        return path, bytes(chance.randrange(256) for _ in range(chance.randrange(200))), headers
    fields = {"pickup": "7", "dropoff": "12", "at": '"2023-03-01T08:30"'}
    fields[chance.choice(["pickup", "dropoff", "at", "miles", "ride_id", "minutes", "rides", "__proto__"])] = chance.choice(NUMBERS)
    ride = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    return path, (f'{{"rides":[{ride}]}}' if path.endswith("batch") and chance.random() < 0.7 else ride).encode("utf-8", "surrogatepass"), headers


def test_guests_who_do_not_behave(served_bundles, home):
    "Thousands of hostile requests: no fault of ours, an answer in our shape, and no growing memory."
    with Service(home, "--bundle", served_bundles["first"], "--port", 0) as service:
        ask, statuses, sizes = service.asker(), Counter(), []
        for number in range(HOSTILE):
            path, body, headers = hostile(number)
            status, said = ask(path, body, headers=headers, method="POST")
            statuses[status] += 1
            assert status < 500, (path, body[:200], said)
            if status != 200:
                assert set(said) == {"error", "request_id"}, (path, body[:200], said)
            if number in (HOSTILE // 2, HOSTILE - 1):
                sizes.append(service.resident())
        assert {200, 404, 413, 415, 422} <= set(statuses) and statuses[422] > HOSTILE / 4, statuses
        assert sizes[1] - sizes[0] < 8_000_000, sizes
        assert not [line for line in service.said if json.loads(line)["level"] == "error"]


def test_slow_and_endless_guests(served_bundles, home):
    "Heads and bodies that never end are cut off by their size, and others are answered meanwhile."
    with Service(home, "--bundle", served_bundles["first"], "--port", 0) as service:
        host, port = service.address.removeprefix("http://").split(":")
        line = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        for connection in slow:
            connection.sendall(line + b"Content-Length: 100\r\n\r\n{")
        assert service.ask("/predict", {"pickup": 7, "dropoff": 12})[0] == 200
        for head, status in ((line + b"X-Y: " + b"z" * 30_000, b"431"), (line + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n" + b"4000\r\n" + b" " * 16384, b"413"), (b"GARBAGE\r\n\r\n", b"400")):
            with socket.create_connection((host, int(port))) as guest:
                guest.sendall(head)
                assert guest.recv(1000).split()[1] == status
        before = service.resident()
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as guest:
            for _ in range(400):  # 26 MB of a head
                guest.sendall(b"GET /" + b"a" * 65_536)
        assert service.resident() - before < 8_000_000
        for connection in slow:
            connection.close()


def test_memory_is_flat(served_bundles, home):
    "Work of many kinds, and as much memory at the end as before."
    with Service(home, "--bundle", served_bundles["first"], "--port", 0) as service:
        ask, began, sizes, count = service.asker(), time.monotonic(), [], 0
        batch = {"rides": [{"pickup": 7, "dropoff": 12, "at": "2023-03-01T08:30"}] * 2000}
        while time.monotonic() < began + SOAK:
            count += 1
            assert ask("/predict", {"pickup": 7, "dropoff": 12, "ride_id": f"soak-{count}"})[0] == 200
            if count % 4 == 0:
                assert ask(f"/rides/soak-{count}/completed", {"minutes": 9})[0] == 200
            if count % 50 == 0:
                assert ask("/predict/batch", batch)[0] == ask("/curve", batch["rides"][0])[0] == ask("/metrics")[0] == ask("/zones")[0] == 200
                sizes.append(service.resident())
        third = len(sizes) // 3
        assert np.median(sizes[-third:]) - np.median(sizes[third : 2 * third]) < max(6_000_000, 0.02 * sizes[0]), [size // 1000 for size in sizes]


def test_the_contract_holds_for_whatever_it_allows(served_bundles, home, tmp_path):
    "schemathesis asks everything the OpenAPI allows, and much that it does not, and checks all it knows to check."
    pytest.importorskip("schemathesis", reason="no schemathesis: pip install schemathesis")
    key = json.loads(ride_duration("keys", "add", "schemathesis", "--json").stdout)["key"]
    with Service(home, "--bundle", served_bundles["first"], "--metered-bundle", served_bundles["metered"], "--host", "0.0.0.0", "--port", 0) as service:
        address = service.address.replace("0.0.0.0", "127.0.0.1")
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{address}/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES), "--header", f"X-API-Key: {key}", "--no-color", "--seed", "1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 0, done.stdout[-6000:]
        assert "10 selected / 10 total" in done.stdout and "failures" not in done.stdout
        assert not [line for line in service.said if json.loads(line)["level"] == "error"]
