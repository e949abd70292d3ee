"""A real Dask cluster for tests: a scheduler and workers, each a process of its own, that end with the test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

WORKER = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--death-timeout", "20")


def wait_until(found: Callable[[], object], seconds: float = 40) -> object:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := found():
            return answer
        time.sleep(0.05)
    raise AssertionError("it never came")


@contextmanager
def process(*command: str, cwd: Path, said: Path, **environment: str) -> Iterator[subprocess.Popen]:
    "A process that ends with the block."
    cwd.mkdir(exist_ok=True)
    with open(said, "w") as log:
        started = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def scheduler(folder: Path, port: int):
    command = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    return process(*command, cwd=folder, said=folder / "scheduler.log")


def worker(folder: Path, address: str, name: str, *options: str, **environment: str):
    command = (sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", name, *WORKER, *(options or ["--no-nanny"]))
    return process(*command, cwd=folder / name, said=folder / f"{name}.log", **environment)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def offspring(*pids: int) -> list[psutil.Process]:
    return [child for pid in pids if psutil.pid_exists(pid) for child in psutil.Process(pid).children(recursive=True)]


class Cluster:
    def __init__(self, folder: Path, address: str, leader: subprocess.Popen, stack: ExitStack):
        self.folder, self.address, self.leader, self.stack, self.workers = folder, address, leader, stack, {}  # leader: the scheduler

    def add(self, name: str, *options: str, **environment: str) -> subprocess.Popen:
        "A worker; its home is its own unless said otherwise."
        self.workers[name] = self.stack.enter_context(worker(self.folder, self.address, name, *options, **{"RIDE_DURATION_HOME": ".ride-duration"} | environment))
        wait_until(lambda: "Registered to" in (self.folder / f"{name}.log").read_text())
        return self.workers[name]


@contextmanager
def a_cluster(folder: Path) -> Iterator[Cluster]:
    "A scheduler without workers."
    port = free_port()
    with ExitStack() as stack:
        leader = stack.enter_context(scheduler(folder, port))
        wait_until(lambda: "Scheduler at" in (folder / "scheduler.log").read_text())
        yield Cluster(folder, f"tcp://127.0.0.1:{port}", leader, stack)
