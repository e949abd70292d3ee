"""A ride that was answered is in the log, once: after kill -9 of the service or the database, on full disks, behind locks, and among several processes."""

import asyncio
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from log_children import RIDE, answer_the_same, open_at_once, ride, write_until_killed
from warm import FORKED, begin

from ride_duration.errors import LogUnavailable
from ride_duration.ops.answers import Answered
from ride_duration.ops.log_writer import LogWriter
from ride_duration.ops.prediction_log import PredictionLog, open_log

pytest_plugins = ["postgres_server"]


@pytest.fixture(scope="module", autouse=True)
def everything_imported() -> None:
    begin()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a log that is not there yet."""
    return str(tmp_path / "log.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres").database()


@pytest.fixture
def log(url: str):
    with open_log(url) as log:
        yield log


def logged(log: PredictionLog) -> pd.DataFrame:
    return pd.concat(log.read(columns=["ride_id", "minutes", "completed_minutes"]), ignore_index=True)


def wait_for(ready: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def test_kill_9_of_the_service_loses_no_answer_that_was_told(log: PredictionLog, url: str, tmp_path: Path) -> None:
    told, draw = tmp_path / "told", random.Random(1)
    told.touch()
    for _ in range(8):
        before = told.stat().st_size
        child = FORKED.Process(target=write_until_killed, args=(url, str(told)))
        child.start()
        wait_for(lambda before=before, child=child: told.stat().st_size > before + 2_000 or not child.is_alive())
        time.sleep(draw.uniform(0, 0.03))
        child.kill()
        child.join()
        assert child.exitcode == -9
    found = logged(log)
    assert not found["ride_id"].duplicated().any()
    minutes = dict(zip(found["ride_id"], found["minutes"], strict=True))
    ended = dict(zip(found["ride_id"], found["completed_minutes"], strict=True))
    lines = [line.split() for line in told.read_text().splitlines()]
    assert len(lines) > 250, "each turn has told 2 kB or more"
    assert [line for line in lines if minutes.get(line[0]) != float(line[1]) or (len(line) == 3 and ended[line[0]] != float(line[2]))] == []
    if log.database.sqlite:
        with sqlite3.connect(url) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_kill_9_of_postgres_loses_no_answer_that_was_told(postgres: object) -> None:
    told: list[Answered] = []
    over = threading.Event()

    def disturb() -> None:
        for round_ in range(4):
            begun = len(told)
            wait_for(lambda begun=begun: len(told) > begun + 100)
            if round_ % 2:
                postgres.kill()
                postgres.start()
            else:
                postgres.kill_backends()
        begun = len(told)
        wait_for(lambda: len(told) > begun + 100)

    async def client(writer: LogWriter) -> None:
        number = 0
        while not over.is_set():
            number += 1
            with suppress(LogUnavailable):
                told.extend(await writer.write([ride(number)]))

    async def main() -> None:
        async with LogWriter(log, patience=10) as writer:
            clients = asyncio.gather(*(client(writer) for _ in range(12)))
            try:
                await asyncio.to_thread(disturb)
            finally:
                over.set()
                await clients
            assert writer.state.trouble is None

    with open_log(postgres.database()) as log:
        asyncio.run(main())
    with open_log(log.database.url.render_as_string(hide_password=False)) as log:
        found = logged(log)
    assert not found["ride_id"].duplicated().any()
    minutes = dict(zip(found["ride_id"], found["minutes"], strict=True))
    assert [answer for answer in told if minutes.get(answer.ride_id) != answer.minutes] == []


class Between:
    """A stretch of network between the log and PostgreSQL that breaks when a transaction is committed: before the word arrives, or before the answer is heard."""

    def __init__(self, port: int, arrives: bool) -> None:
        self.target, self.arrives, self.breaks = port, arrives, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                ends = threading.Event()
                threading.Thread(target=self.forth, args=(near, far, ends), daemon=True).start()
                threading.Thread(target=self.back, args=(near, far, ends), daemon=True).start()

    def forth(self, near: socket.socket, far: socket.socket, ends: threading.Event) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                if b"COMMIT" in data and self.breaks:
                    self.breaks -= 1
                    ends.set()
                    if self.arrives:
                        far.sendall(data)
                        time.sleep(0.1)
                    for end in (near, far):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                far.sendall(data)

    def back(self, near: socket.socket, far: socket.socket, ends: threading.Event) -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                if not ends.is_set():
                    near.sendall(data)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_commit_whose_end_was_not_heard_is_looked_up(postgres: object, arrives: bool) -> None:
    between = Between(postgres.port, arrives)
    url = postgres.database().replace(f":{postgres.port}/", f":{between.port}/")

    async def main(log: PredictionLog) -> None:
        async with LogWriter(log) as writer:
            await writer.write([RIDE._replace(ride_id="first")])
            between.breaks = 2
            batch = [RIDE._replace(ride_id=f"ride {number}") for number in range(300)]
            assert await asyncio.gather(writer.write(batch), writer.write([RIDE._replace(ride_id="alone")])) == [batch, [RIDE._replace(ride_id="alone")]]
            between.breaks = 1
            assert (await writer.complete("alone", 40.0, RIDE.answered_at)).minutes == 40.0
            assert between.breaks == 0

    with open_log(url) as log:
        asyncio.run(main(log))
        found = logged(log)
        assert len(found) == found["ride_id"].nunique() == 302 and found["completed_minutes"].count() == 1
    between.server.close()


# --- when it cannot be written ---------------------------------------------------------------------------------------


def _refusal() -> str | None:
    if not shutil.which("unshare"):
        return "there is no unshare command"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder], capture_output=True, text=True)
    return f"no user and mount namespace here: {done.stderr.strip()}" if done.returncode else None


REFUSAL = _refusal()
needs_mounts = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))


@needs_mounts
def test_a_full_disk_is_told_at_once_and_written_again_when_there_is_room(tmp_path: Path) -> None:
    script = """
        mount -t tmpfs -o size=1500k none "$disk"
        "$python" "$children" "$disk"
        mount -o remount,ro "$disk"
        "$python" -m ride_duration log prune --keep 1d --log "$disk/log.sqlite"
    """
    names = {"python": sys.executable, "children": str(Path(__file__).with_name("log_children.py")), "disk": str(tmp_path)}
    done = subprocess.run(["unshare", "-rm", "sh", "-ec", script], env={**os.environ, **names}, capture_output=True, text=True, timeout=60)
    assert done.returncode == LogUnavailable.exit_code, done.stderr
    said = json.loads(done.stdout)
    assert re.fullmatch(r"the prediction log cannot be used: no space left while writing .*/log.sqlite: free some, nothing was changed", said["full"])
    assert set(said["refused"]) == {"LogUnavailable"} and said["seconds"] < 5
    assert said["written again"] and said["in the log"] and said["told"] > 200
    assert "no space left while writing" in said["export"]
    assert said["files"] == ["filler"]
    assert done.stderr == f"ride-duration: the prediction log cannot be used: cannot write {tmp_path}/log.sqlite: make it and its folder writable, or choose another home with RIDE_DURATION_HOME\n"


class Locked:
    """Somebody else has the log for himself."""

    def __init__(self, log: PredictionLog) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.connection = self.log.database.engine.connect().execution_options(writes=True)
        self.connection.begin()
        if not self.log.database.sqlite:
            self.connection.exec_driver_sql("LOCK TABLE answer IN ACCESS EXCLUSIVE MODE")

    def __exit__(self, *_: object) -> None:
        self.connection.rollback()
        self.connection.close()


def test_behind_a_lock_everyone_is_told_in_time_and_it_goes_on_afterwards(log: PredictionLog) -> None:
    async def main() -> None:
        async with LogWriter(log, patience=2, room=50) as writer:
            await writer.write([RIDE])
            with Locked(log):
                began = time.monotonic()
                waiting = [asyncio.create_task(writer.write([ride(number)])) for number in range(80)]
                done, pending = await asyncio.wait(waiting, timeout=0.5)
                assert {str(task.exception()) for task in done} == {"the prediction log cannot keep up: 50 rows wait for it, ask again later"}
                assert len(done) == 30 and writer.state.queued == 50
                said = {str(found) for found in await asyncio.gather(*pending, return_exceptions=True)}
                assert 1.9 < time.monotonic() - began < 5
                assert all("the prediction log cannot be used" in why for why in said), said
                took = []
                for number in range(30):
                    again = time.monotonic()
                    with pytest.raises(LogUnavailable):
                        await writer.write([ride(number)])
                    took.append(time.monotonic() - again)
                assert sorted(took)[15] < 0.5, "most are refused at once"
                assert writer.state.trouble
            wait_until = time.monotonic() + 20
            while True:
                with suppress(LogUnavailable):
                    await writer.write([RIDE._replace(ride_id="afterwards")])
                    break
                assert time.monotonic() < wait_until
                await asyncio.sleep(0.02)
            assert writer.state.queued <= 50 and writer.state.refused >= 110

    asyncio.run(main())
    found = logged(log)
    assert {"ride", "afterwards"} <= set(found["ride_id"]) and not found["ride_id"].duplicated().any()


def test_a_server_that_falls_silent_is_given_up_in_time(postgres: object) -> None:
    async def main(log: PredictionLog) -> None:
        async with LogWriter(log, patience=0.5) as writer:
            await writer.write([RIDE])
            backends = postgres.backends()
            for backend in backends:
                backend.suspend()
            began = time.monotonic()
            try:
                with pytest.raises(LogUnavailable, match=r"nothing was written within 0\.5 seconds"):
                    await writer.write([ride(1)])
                assert time.monotonic() - began < 5
                with pytest.raises(LogUnavailable):
                    await writer.write([ride(2)])
            finally:
                for backend in backends:
                    backend.resume()
            await asyncio.sleep(0.6)
            assert await writer.write([RIDE._replace(ride_id="afterwards")])

    with open_log(postgres.database()) as log:
        asyncio.run(main(log))


@pytest.mark.parametrize("fate", ["removed", "replaced", "its -wal removed"])
def test_a_file_that_is_taken_away_is_noticed_before_anybody_is_told(tmp_path: Path, fate: str) -> None:
    path, aside = tmp_path / "log.sqlite", tmp_path / "aside"

    async def main() -> list:
        async with LogWriter(log, patience=0.3) as writer:
            told = await writer.write([RIDE])
            victim = path.with_name("log.sqlite-wal") if "wal" in fate else path
            victim.rename(aside)
            if fate == "replaced":
                with open_log(str(tmp_path / "other.sqlite")):
                    pass
                (tmp_path / "other.sqlite").rename(path)
            with pytest.raises(LogUnavailable, match=r"moved.* or removed while it was open: put it back, or start again"):
                await writer.write([RIDE._replace(ride_id="during")])
            await asyncio.sleep(0.3)
            aside.rename(victim)
            return told + await writer.write([RIDE._replace(ride_id="afterwards")])

    with open_log(str(path)) as log:
        told = asyncio.run(main())
    with open_log(str(path)) as log:
        assert {answer.ride_id for answer in told} <= set(logged(log)["ride_id"])


# --- several processes -----------------------------------------------------------------------------------------------


def together(target: Callable, number: int, *words: object) -> list:
    barrier, results = FORKED.Barrier(number), FORKED.Queue()
    processes = [FORKED.Process(target=target, args=(*[word(index) if callable(word) else word for word in words], barrier, results)) for index in range(number)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


def test_processes_that_open_a_new_log_in_the_same_moment_all_succeed(url: str) -> None:
    assert together(open_at_once, 6, url) == [0] * 6


def test_processes_that_answer_the_same_rides_agree(log: PredictionLog, url: str) -> None:
    answers = together(answer_the_same, 3, url, lambda index: index)
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 200
    found = logged(log)
    assert len(found) == found["ride_id"].nunique() == 200
    assert sorted(found["minutes"]) == sorted(answers[0])
