"""A PostgreSQL server of the tests' own: on a Unix socket and on loopback, made in a moment, killed as a power cut would."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PASSWORD = "secret"


def binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`, which Debian does not put on the PATH."""
    found = [Path(shutil.which("initdb") or "/nowhere/initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    return next((path.parent for path in found if (path.parent / "pg_ctl").exists()), None)


def refusal() -> str | None:
    """Why there is no server to be had here, or None."""
    if binaries() is None:
        return "there is no PostgreSQL server: on Debian, apt-get install postgresql"
    if os.getuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True).returncode:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


class Postgres:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", "-D", self.folder / "data", "-U", "ada", "-A", "scram-sha-256", f"--pwfile={password}", "-N", "-E", "UTF8", "--locale=C")
        self.places = 0
        self.start()
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE log")

    def _run(self, name: str, *words: object) -> None:
        command = [binaries() / name, *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **self.user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        # A killed process leaves what it has written to the system, which is all that these tests need; fsync is for power cuts. What a server that
        # acknowledges too early would lose is lost here: it is for the log to ask for more.
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder} -c max_connections=60 -c fsync=off -c synchronous_commit=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", self.folder / "log", "-w", "start")

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def backends(self) -> list[psutil.Process]:
        """Those who serve connections to the log."""
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child] * ("ada log" in " ".join(child.cmdline()))
        return found

    def kill_backends(self) -> None:
        """kill -9: the server throws everyone out, and recovers by itself."""
        for backend in self.backends():
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()

    def kill(self) -> None:
        """kill -9 of the postmaster and all of its children; it is started again by `start`."""
        postmaster = psutil.Process(self.pid)
        everyone = [postmaster, *postmaster.children()]
        for process in everyone:
            process.kill()
        psutil.wait_procs(everyone, timeout=10)

    def database(self) -> str:
        """The URL of a place for a log: a schema of its own, for a whole database takes the disk a while to make and to remove."""
        self.places += 1
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA place{self.places}")
        return f"postgresql+psycopg://ada:{PASSWORD}@127.0.0.1:{self.port}/log?options=-csearch_path%3Dplace{self.places}"

    def connect(self, database: str = "log") -> "psycopg.Connection":  # noqa: F821 - imported where it is there
        import psycopg

        return psycopg.connect(host=str(self.folder), port=self.port, user="ada", password=PASSWORD, dbname=database, autocommit=True)

    def stop(self) -> None:
        with contextlib.suppress(AssertionError, FileNotFoundError):  # it may lie dead already
            self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """For test modules that say `pytest_plugins = ["postgres_server"]`."""
    if why := refusal():
        pytest.skip(why)
    server = Postgres()
    yield server
    server.stop()
