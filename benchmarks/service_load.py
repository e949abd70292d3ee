"""How much the service can take, one worker, every answer in the log before it is given; beside a FastAPI that does nothing, and the usual way to serve such a model.

    python benchmarks/service_load.py [--rounds 5] [--seconds 6] [--connections 128] [--source FOLDER] [--months 2023-01]

The booking model (500 trees) learns from green taxis' months where --source names a mirror of TLC's files, from the demo city otherwise. Requests come from
wrk as a process of its own, each another ride; the servers are asked in turn, and medians of the rounds are compared.

- the limit: a FastAPI endpoint that returns an empty object, under the same uvicorn with the same settings (uvloop, httptools, one worker, no access log)
- the peer: what tutorials show for this task, Flask under gunicorn with one worker, a pickled DictVectorizer and LinearRegression, no log
- p99: rides sent on a clock at half of the service's own peak, whether or not earlier ones were answered; latency counts from when a ride was due to be
  sent, so that a stall is felt by all who would have asked meanwhile. The sender is a third process. What the disk alone takes is printed beside it: no answer is
  given sooner than that.
- batches: 10,000 rides in a request, from the first byte sent to the last one read, against LightGBM's bare predict on the ready matrix of the same rides
"""

import argparse
import asyncio
import gc
import http.client
import json
import os
import pickle
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

OF_NOTHING, OF_USUAL, P99, OF_BARE = 0.4, 1.5, 15.0, 0.3  # what is claimed: shares of the peers' throughput, milliseconds
HERE = Path(__file__).resolve()

NOTHING = """
from fastapi import FastAPI
app = FastAPI()
@app.post("/predict")
async def nothing() -> dict:
    return {}
"""
USUAL = """
import pickle
from flask import Flask, jsonify, request
with open("model.bin", "rb") as file:
    dv, model = pickle.load(file)
app = Flask("duration-prediction")
def prepare_features(ride):
    return {"PULocationID": str(ride["pickup"]), "DOLocationID": str(ride["dropoff"])}
def predict(features):
    X = dv.transform(features)
    preds = model.predict(X)
    return float(preds[0])
@app.route("/predict", methods=["POST"])
def predict_endpoint():
    ride = request.get_json()
    return jsonify({"duration": predict(prepare_features(ride))})
"""
RIDES = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
math.randomseed(os.time())
request = function()
  local ride = string.format('{"pickup":%d,"dropoff":%d,"at":"2023-03-%02dT%02d:%02d"}', math.random(1, 263), math.random(1, 263), math.random(1, 28), math.random(0, 23), math.random(0, 59))
  return wrk.format(nil, nil, nil, ride)
end
"""


def prepare(folder: Path, source: Path | None, months: str) -> Path:  # the bundle; the peer's model lies in the folder
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LinearRegression

    from ride_duration.data.trips import load_trips
    from ride_duration.data.zones import zone_table
    from ride_duration.model.bundle import keep_lesson, save_bundle
    from ride_duration.model.intervals import RangedBoosted

    fleet = "green" if source else "demo"
    trips = load_trips(fleet, months, source).frame
    duration = trips["duration"].to_numpy()
    model = RangedBoosted(zone_table(fleet, source)).fit(trips, duration)
    few = trips.head(70_000)
    rows = few[["PULocationID", "DOLocationID"]].astype(str).to_dict("records")
    vectorizer = DictVectorizer()
    linear = LinearRegression().fit(vectorizer.fit_transform(rows), few["duration"])
    (folder / "model.bin").write_bytes(pickle.dumps((vectorizer, linear)))
    (folder / "nothing.py").write_text(NOTHING)
    (folder / "usual.py").write_text(USUAL)
    (folder / "rides.lua").write_text(RIDES)
    return save_bundle(model, folder / "bundle", keep_lesson(trips), {"fleet": fleet, "train": [months], "val": None, "metrics": None, "synthetic": fleet == "demo"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(folder: Path, *words: object) -> Iterator[str]:  # where it answers
    port = free_port()
    command = [sys.executable, *(str(word).replace("PORT", str(port)) for word in words)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "said").open("a"), env={**os.environ, "RIDE_DURATION_HOME": str(folder / "home"), "PYTHONPATH": str(HERE.parent.parent)})
    try:
        until = time.monotonic() + 60
        while True:
            try:
                ask(f"127.0.0.1:{port}", {"pickup": 7, "dropoff": 12})
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{words[:3]} did not begin: {(folder / 'said').read_text()[-2000:]}") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(host: str, body: object, path: str = "/predict") -> bytes:
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    connection.close()
    return content


def load(folder: Path, address: str, connections: int, seconds: float) -> float:  # requests a second
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s", "--script", str(folder / "rides.lua"), f"{address}/predict"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or not re.search(r"Requests/sec: +[1-9]", said):
        raise SystemExit(f"not all requests were answered: {said}")
    return float(re.search(r"Requests/sec: +([0-9.]+)", said)[1])


# The sender: rides on a clock.
class Line(asyncio.Protocol):
    "A connection with one request at a time."

    def __init__(self, answered: Callable):
        self.answered, self.heard = answered, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        head, found, body = self.heard.partition(b"\r\n\r\n")
        if found and len(body) >= int(re.search(rb"content-length: (\d+)", head)[1]):
            self.heard = b""
            self.answered(self, head.startswith(b"HTTP/1.1 200"))


async def send_on_a_clock(host: str, port: int, rate: float, seconds: float, connections: int) -> list[float]:  # milliseconds from when each was due
    loop, random = asyncio.get_running_loop(), np.random.default_rng(1)
    count = int(rate * seconds)
    due = np.cumsum(random.exponential(1 / rate, count)).tolist()  # as strangers come
    bodies = [b'{"pickup":%d,"dropoff":%d,"at":"2023-03-%02dT%02d:30"}' % tuple(row) for row in np.column_stack([*random.integers(1, 264, (2, count)), random.integers(1, 29, count), random.integers(0, 24, count)]).tolist()]
    requests = [b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body) for body in bodies]
    free: list[Line] = []
    waiting: list[int] = []
    took, over, failed = [], loop.create_future(), []

    def answered(line: Line, well: bool) -> None:
        took.append(1000 * (time.perf_counter() - began - line.due))
        failed.extend([1] * (not well))
        free.append(line)
        if waiting:
            send(waiting.pop(0))
        if len(took) == count:
            over.set_result(None)

    def send(number: int) -> None:
        line = free.pop()
        line.due = due[number]
        line.transport.write(requests[number])

    for _ in range(connections):
        free.append((await loop.create_connection(lambda: Line(answered), host, port))[1])
    gc.disable()
    began, number = time.perf_counter() + 0.1, 0
    while number < count:
        now = time.perf_counter() - began
        while number < count and due[number] <= now:
            if free:
                send(number)
            else:
                waiting.append(number)
            number += 1
        await asyncio.sleep(0.001)  # uvloop counts in whole milliseconds: less would be a race around the clock
    await over
    assert not failed, f"{len(failed)} were not answered"
    return took


def paced(address: str, rate: float, seconds: float, connections: int) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--sender", address.removeprefix("http://"), "--rate", str(rate), "--seconds", str(seconds), "--connections", str(connections)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def disk_alone(folder: Path, count: int = 1000) -> np.ndarray:  # milliseconds to bring 4 kB to the disk, and nothing else
    took, page = [], os.urandom(4096)
    with open(folder / "page", "ab", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(page)
            os.fdatasync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(0.001)
    return np.percentile(took, [50, 99])


def batches(address: str, bundle: Path, rounds: int) -> tuple[list[float], list[float]]:  # rides a second: the endpoint's, and LightGBM's alone
    from ride_duration.model.bundle import load_bundle
    from ride_duration.model.features import Rides
    from ride_duration.model.pairs import SIDE

    random, size = np.random.default_rng(2), 10_000
    pickup, dropoff, minutes = random.integers(1, 264, size), random.integers(1, 264, size), random.integers(0, 40_000, size)
    at = np.datetime64("2023-03-01T00:00") + minutes
    body = json.dumps({"rides": [{"pickup": int(a), "dropoff": int(b), "at": str(when)} for a, b, when in zip(pickup, dropoff, at, strict=True)]}).encode()
    model = load_bundle(bundle).ranged
    matrix = model.matrix(Rides(at.astype("datetime64[us]"), pickup * SIDE + dropoff, None))
    whole, bare = [], []
    for number in range(rounds + 1):
        for found, work in ((whole, lambda: ask(address.removeprefix("http://"), body, "/predict/batch")), (bare, lambda: model.booster_.predict(matrix, num_threads=0, validate_features=False))):
            began = time.perf_counter()
            work()
            if number:  # the first of each warms up
                found.append(size / (time.perf_counter() - began))
    return whole, bare


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    bundle = prepare(folder, given.source and given.source.absolute(), given.months)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {'green taxis' if given.source else 'the demo city (synthetic)'}; load {os.getloadavg()[0]:.1f}", flush=True)
    ours = ("-m", "ride_duration", "serve", "--bundle", bundle, "--port", "PORT")
    nothing = ("-m", "uvicorn", "nothing:app", "--port", "PORT", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    usual = ("-m", "gunicorn", "--workers", "1", "--bind", "127.0.0.1:PORT", "--log-level", "warning", "usual:app")
    found: dict[str, list[float]] = {"service": [], "nothing": [], "usual": []}
    with running(folder, *ours) as service, running(folder, *nothing) as limit, running(folder, *usual) as peer:
        for number in range(given.rounds + 1):
            for name, address in (("service", service), ("nothing", limit), ("usual", peer)):
                rate = load(folder, address, given.connections, given.seconds if number else 2)
                if number:
                    found[name].append(rate)
            if number:
                print("  ".join(f"{name} {rates[-1]:,.0f}/s" for name, rates in found.items()) + f"; load {os.getloadavg()[0]:.1f}", flush=True)
        peak = statistics.median(found["service"])
        calm = [paced(service, peak / 2, given.seconds, given.connections) for _ in range(given.rounds)]
        print("the disk alone, 4 kB at a time: p50 {:.2f} ms, p99 {:.2f} ms".format(*disk_alone(folder)), flush=True)
        for one in calm:
            print(f"at {peak / 2:,.0f} rides/s: " + ", ".join(f"{name} {value:.2f} ms" for name, value in one.items()), flush=True)
        whole, bare = batches(service, bundle, 2 * given.rounds)
    return {name: statistics.median(rates) for name, rates in found.items()} | {
        "p50": statistics.median(one["p50"] for one in calm), "p99": statistics.median(one["p99"] for one in calm), "batch": statistics.median(whole), "bare": statistics.median(bare),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=6)
    options.add_argument("--connections", type=int, default=128)
    options.add_argument("--source", type=Path, help="a mirror of TLC's files; the demo city where none is named")
    options.add_argument("--months", default="2023-01")
    options.add_argument("--sender", help=argparse.SUPPRESS)
    options.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.sender:
        import uvloop

        host, _, port = given.sender.partition(":")
        took = uvloop.run(send_on_a_clock(host, int(port), given.rate, given.seconds, given.connections))
        print(json.dumps({f"p{share}": float(np.percentile(took, share)) for share in (50, 90, 99)} | {"worst": max(took)}))
        return
    if not shutil.which("wrk"):
        raise SystemExit("no wrk on this machine: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given)
    of_nothing, of_usual, of_bare = found["service"] / found["nothing"], found["service"] / found["usual"], found["batch"] / found["bare"]
    print(f"one worker, every answer in SQLite before it is given: {found['service']:,.0f} rides/s, {of_nothing:.2f} of a FastAPI that does nothing ({found['nothing']:,.0f}/s), {of_usual:.2f} times the usual service ({found['usual']:,.0f}/s)")
    print(f"at half of that: p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f} ms")
    print(f"batches of 10,000: {found['batch']:,.0f} rides/s end to end, {of_bare:.2f} of LightGBM's bare predict ({found['bare']:,.0f}/s)")
    claims = {
        f"at least {OF_NOTHING} of a FastAPI that does nothing": of_nothing >= OF_NOTHING, f"at least {OF_USUAL} times the usual service": of_usual >= OF_USUAL,
        f"p99 under {P99} ms at half of the peak": found["p99"] < P99, f"batches at {OF_BARE} of the bare predict or better": of_bare >= OF_BARE,
    }  # fmt: skip
    if broken := [claim for claim, holds in claims.items() if not holds]:
        raise SystemExit(f"the claim does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
