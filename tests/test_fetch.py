"""`ride-duration fetch` as its users meet it: plain lines and bars, exit codes, two at once, one killed."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_mirror import (
    ABSENT,
    GREEN,
    JANUARY,
    TRIES,
    YELLOW,
    Mirror,
    contents,
    cut,
    dripping,
    meeting,
    serving,
    silent,
    stalled,
    status,
    truncated,
)

from ride_duration import errors
from ride_duration.data.source import fetch_month

COMMAND = [sys.executable, "-m", "ride_duration"]
IMPATIENT = [
    sys.executable,
    "-c",
    "from ride_duration.data import source\n"
    f"source.FIRST_PAUSE, source.SILENCE, source.TRIES = 0.01, 0.5, {TRIES}\n"
    "from ride_duration.cli import main\n"
    "main()",
]  # the same command with the patience of these tests


def _run(*arguments: str, command: list[str] = COMMAND) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)


def _complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("ride-duration: ")]


def test_without_a_terminal_fetch_prints_plain_lines(server: Mirror, files: Path) -> None:
    done = _run("fetch", "2023-01", "--source", server.address)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    rows, size = pq.read_metadata(files / GREEN).num_rows, f"{(files / GREEN).stat().st_size / 1e6:.1f} MB"
    assert done.stdout == f"green_tripdata_2023-01.parquet: {rows:,} rows, {size}, from {server.address}/{GREEN}\n"
    assert done.stderr == f"green 2023-01: fetching {size}\n"


def _on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code and everything a terminal would have been sent."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:  # a container may have none
        pytest.skip(f"no terminal can be opened here: {error}")
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # what Linux says when the last writer has gone
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    return process.wait(60), seen.decode()


def test_on_a_terminal_fetch_draws_a_bar_with_bytes(server: Mirror) -> None:
    server.misbehave(GREEN, dripping)
    code, seen = _on_a_terminal("fetch", "2023-01", "--source", server.address)
    assert code == 0
    amounts = {match[1] for match in re.finditer(r"([\d.]+)/[\d.]+ [kM]B", seen)}
    assert len(amounts) >= 3, seen
    assert "\x1b[" in seen
    assert "━" in seen
    assert "green 2023-01" in seen
    assert "green_tripdata_2023-01.parquet: " in seen.splitlines()[-1]


def _without_a_column(files: Path) -> bytes:
    table = pq.read_table(files / GREEN).drop_columns("trip_distance")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


KINDS = {
    "absent": errors.MonthNotPublished,
    "forbidden": errors.MonthNotPublished,
    "failing": errors.SourceUnreachable,
    "cut": errors.SourceUnreachable,
    "silent": errors.SourceUnreachable,
    "truncated": errors.UnreadableFile,
    "without a column": errors.BrokenContract,
    "of another fleet": errors.WrongFleet,
}


@pytest.mark.parametrize("trouble", KINDS)
def test_the_exit_code_tells_what_went_wrong(trouble: str, server: Mirror, files: Path, home: Path) -> None:
    faults = {
        "absent": status(404),
        "forbidden": status(403),
        "failing": status(500),
        "cut": cut,
        "silent": silent,
        "truncated": truncated,
        "without a column": serving(_without_a_column(files)),
        "of another fleet": serving((files / YELLOW).read_bytes()),
    }
    server.misbehave(GREEN, faults[trouble])
    done = _run("fetch", "2023-01", "--source", server.address, command=IMPATIENT)
    assert done.returncode == KINDS[trouble].exit_code
    assert done.stdout == ""
    assert len(_complaints(done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert contents(home) == {}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["2023-13"], errors.NotAMonth), (["2023-01", "--fleet", "gren"], errors.UnknownFleet)],
    ids=["month", "fleet"],
)
def test_a_misspelt_request_asks_nobody(arguments: list[str], kind: type[Exception], server: Mirror) -> None:
    done = _run("fetch", *arguments, "--source", server.address)
    assert done.returncode == kind.exit_code
    assert done.stderr.splitlines() == _complaints(done.stderr)
    assert not server.asked


@pytest.mark.parametrize("closed", ["", "mirror", "mirror/trip-data", f"mirror/{GREEN}"])
def test_a_month_that_may_not_be_read_is_not_called_absent(
    closed: str, unprivileged: list[str], files: Path, home: Path, tmp_path: Path
) -> None:
    source, place = tmp_path / "above" / "mirror", tmp_path / "above" / closed
    shutil.copytree(files, source)
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        done = _run("fetch", "2023-01", "--source", str(source), command=[*unprivileged, *COMMAND])
    finally:
        place.chmod(mode)
    assert (done.returncode, len(_complaints(done.stderr))) == (errors.SourceUnreachable.exit_code, 1), done.stderr
    assert f"{source / GREEN} may not be read (permission denied)" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(home) == {}


def test_one_absent_month_does_not_keep_the_others_away(server: Mirror) -> None:
    done = _run("fetch", "2023-01..2023-03", "--source", server.address)
    assert done.returncode == errors.MonthNotPublished.exit_code == 20
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "green_tripdata_2023-01.parquet",
        "green_tripdata_2023-03.parquet",
    ]
    complaints = _complaints(done.stderr)
    assert len(complaints) == 1
    assert f"{server.address}/{ABSENT} is not published" in complaints[0]
    assert "Traceback" not in done.stderr
    assert server.asked[ABSENT] == 1


def test_an_absent_month_is_not_announced_as_a_download(server: Mirror) -> None:
    """The size of the page that says "not found" is not the size of the month."""
    done = _run("fetch", "2023-01..2023-03", "--source", server.address)
    assert done.stderr.count("2023-02") == len(_complaints(done.stderr)) == 1


def test_a_download_is_announced_once_however_often_it_is_tried(server: Mirror) -> None:
    server.misbehave(GREEN, cut, requests=TRIES - 1)
    done = _run("fetch", "2023-01", "--source", server.address, command=IMPATIENT)
    assert done.returncode == 0
    assert done.stderr.count("fetching") == len(done.stderr.splitlines()) == 1


def test_json_has_what_could_be_fetched(server: Mirror) -> None:
    done = _run("fetch", "2023-01..2023-03", "--json", "--source", server.address)
    assert done.returncode == 20
    assert [file["file"] for file in json.loads(done.stdout)["files"]] == [
        "green_tripdata_2023-01.parquet",
        "green_tripdata_2023-03.parquet",
    ]


def test_two_processes_may_fetch_the_same_month_at_once(server: Mirror, files: Path, home: Path) -> None:
    server.misbehave(GREEN, meeting(2))
    command = [*COMMAND, "fetch", "2023-01", "--source", server.address]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for *_, code in outcomes] == [0, 0], outcomes
    assert server.asked[GREEN] == 2
    assert fetch_month("green", JANUARY, server.address).path.read_bytes() == (files / GREEN).read_bytes()
    assert server.asked[GREEN] == 2
    assert len(contents(home)) == 2


def _wait_for(something: Callable[[], object], seconds: float = 30) -> object:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = something()
        if found:
            return found
        time.sleep(0.01)
    raise TimeoutError("what the test waits for did not happen")


def test_a_killed_download_leaves_nothing_trusted_and_is_swept(server: Mirror, files: Path, home: Path) -> None:
    server.misbehave(GREEN, stalled, requests=1)
    process = subprocess.Popen([*COMMAND, "fetch", "2023-01", "--source", server.address], stderr=subprocess.DEVNULL)
    part = _wait_for(lambda: next((path for path in home.rglob("*.part") if path.stat().st_size), None))
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert list(contents(home)) == [str(part.relative_to(home))]

    file = fetch_month("green", JANUARY, server.address)
    assert file.path.read_bytes() == (files / GREEN).read_bytes()
    assert not part.exists()
    assert len(contents(home)) == 2


@pytest.fixture
def listening() -> Iterator[None]:
    """What runs in the background of a shell script ignores Ctrl-C, and so would whatever it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_download_at_once(polite: int, server: Mirror, home: Path, listening: None) -> None:
    """It is not one more fault to be outlasted by another try."""
    server.misbehave(GREEN, dripping)
    command = [*COMMAND, "fetch", "2023-01", "--source", server.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list(home.rglob("*.part")))
    process.send_signal(polite)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said.strip().splitlines()[-1:]) == (130, [STOPPED]), said
    assert server.asked[GREEN] == 1
    assert contents(home) == {}


STOPPED = "ride-duration: stopped before it was done; nothing was replaced"
