"""The service as a process of its own, for tests and benchmarks: started, asked, killed."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.model.bundle import keep_lesson, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.ops import history
from ride_duration.ops.tracking import registered_name

PROGRAM = "import json, sys; from pathlib import Path; from ride_duration.serve.server import Settings, serve; serve(Settings(**json.loads(sys.argv[1])), lambda address: print(address, flush=True))"


def make_bundles(folder: Path, rides: int = 6000) -> dict[str, Path]:
    "Small models of the demo city: two of bookings that differ, and a metered one."
    month = Month(2023, 1)
    write_demo_month(folder / "month.parquet", month, rides)
    trips, _ = read_trips(folder / "month.parquet", "demo", month)
    about = {"fleet": "demo", "synthetic": True, "train": ["2023-01"], "val": "2023-02", "metrics": {"rmse_val": 3.1}}
    made = {}
    for name, regime, trees in (("first", "booking", 20), ("second", "booking", 30), ("metered", "metered", 20)):
        model = RangedBoosted(zone_table("demo"), regime, trees=trees, threads=1).fit(trips, trips["duration"])
        made[name] = save_bundle(model, folder / name, keep_lesson(trips), about)
    return made


def register(home: Path, version: int, bundle: Path, regime: str = "booking") -> None:
    "Put a model where the registry keeps what it has fetched, and make it champion."
    name = registered_name("demo", regime)
    shelf = home / "champions" / name / str(version)
    if not shelf.exists():
        shelf.parent.mkdir(parents=True, exist_ok=True)
        shelf.symlink_to(bundle)
    before, os.environ["RIDE_DURATION_HOME"] = os.environ.get("RIDE_DURATION_HOME"), str(home)
    try:
        history.promote(name, version, "for a test")
    finally:
        os.environ.pop("RIDE_DURATION_HOME") if before is None else os.environ.update(RIDE_DURATION_HOME=before)


class Asker:
    "One connection that stays open."

    def __init__(self, address: str, timeout: float = 20):
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=timeout)

    def __call__(self, path: str, body: object = None, headers: Mapping[str, str] | None = None, method: str | None = None) -> tuple[int, object]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})}
        self.connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
        self.answer = self.connection.getresponse()
        content = self.answer.read()
        return self.answer.status, json.loads(content) if "json" in self.answer.headers.get("content-type", "") else content.decode()

    def close(self) -> None:
        self.connection.close()


class Service:
    "A running service; its words on stderr are in `said`."

    def __init__(self, home: Path, *words: str, environment: Mapping[str, str] | None = None, **settings: object):
        command = ["-c", PROGRAM, json.dumps(settings)] if settings else ["-m", "ride_duration", "serve", *map(str, words)]
        environment = {**os.environ, "RIDE_DURATION_HOME": str(home), **(environment or {})}
        self.process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=lambda: self.said.extend(iter(self.process.stderr.readline, "")), daemon=True)
        self._reader.start()
        first = self.process.stdout.readline()
        assert first, f"the service did not begin: {self._ended()}"
        self.address = first.split()[0]

    def _ended(self) -> str:
        self.process.wait(60)
        self._reader.join(5)
        return "".join(self.said)

    def asker(self) -> Asker:
        return Asker(self.address)

    def ask(self, path: str, body: object = None, **options: object) -> tuple[int, object]:
        asker = self.asker()
        try:
            return asker(path, body, **options)
        finally:
            asker.close()

    def metric(self, line: str) -> float:  # the name with its labels, as Prometheus writes it
        told = self.ask("/metrics")[1].splitlines()
        return sum(float(found.rpartition(" ")[2]) for found in told if found.rpartition(" ")[0] == line)

    def resident(self) -> int:  # bytes
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, how: int = signal.SIGTERM) -> int:  # the exit code
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(60)
        self._reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
