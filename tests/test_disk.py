"""Disks that are full, read-only or shared, as real file systems: what was good stays, and one line says what to do."""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ride_duration import errors
from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.source import fetch_month, trusted_file
from ride_duration.files import alone_in, replacing, write_file

COMMAND = [sys.executable, "-m", "ride_duration"]
JANUARY, FEBRUARY = Month(2023, 1), Month(2023, 2)
REPORT_FILES = ["demo/2023-02/decision.json", "demo/2023-02/report.json", "demo/2023-02/train.html", "demo/2023-02/train.ipynb", "index.html"]


# --- real file systems, mounted where only the test sees them --------------------------------------------------------


def _refusal() -> str | None:
    """Why this machine lets nobody mount a file system of their own, or None where it does."""
    if not shutil.which("unshare"):
        return "there is no unshare command"
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    return f"no user and mount namespace here: {done.stderr.strip()}" if done.returncode else None


REFUSAL = _refusal()
needs_mounts = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))

FUNCTIONS = """
python="$1" disk="$2" notes="$3"
ride_duration() { "$python" -m ride_duration "$@"; }
listing() { (cd "$disk" && find . -type f ! -name filler -exec sha256sum {} + | sort -k 2) > "$notes/$1"; }
fill_but() {  # all but so many bytes
    cat /dev/zero > "$disk/filler" 2> "$notes/filling" || true
    truncate -s "-$1" "$disk/filler"
}
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder outside the mounted disk, for what is to be known when the disk is gone."""
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def on_disk(disk: Path, notes: Path) -> Callable[[str], subprocess.CompletedProcess]:
    """Runs a script in which `$disk` can be mounted; the mount ends with it."""

    def run(script: str) -> subprocess.CompletedProcess:
        arguments = [sys.executable, str(disk), str(notes)]
        command = ["unshare", "-rm", "sh", "-c", "set -e\n" + FUNCTIONS + script, "sh", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def _listed(notes: Path, name: str) -> dict[str, str]:
    """The files a script has listed, and their fingerprints."""
    pairs = (line.split("  ./", 1) for line in (notes / name).read_text().splitlines())
    return {path: fingerprint for fingerprint, path in pairs}


def _one_line(stderr: str) -> str:
    """The only line on stderr, which must be a sentence of ours."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("ride-duration: ")
    return lines[0]


# --- a full disk under the cache -------------------------------------------------------------------------------------


@needs_mounts
def test_a_full_disk_stops_the_demo_fleet_in_one_line(
    on_disk: Callable, disk: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDE_DURATION_HOME", str(disk / "home"))
    monkeypatch.setenv("RIDE_DURATION_DEMO_TRIPS", "60000")
    done = on_disk("""
        mount -t tmpfs -o size=200k none "$disk"
        code=0; ride_duration fetch 2023-01 --fleet demo || code=$?
        listing after
        exit $code
    """)
    assert done.returncode == errors.DiskFull.exit_code == 31
    assert "no space left while writing" in _one_line(done.stderr)
    assert done.stdout == ""
    assert _listed(notes, "after") == {}


@needs_mounts
def test_a_disk_that_fills_up_keeps_the_months_that_fitted(
    on_disk: Callable, disk: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDE_DURATION_HOME", str(disk / "home"))
    monkeypatch.setenv("RIDE_DURATION_DEMO_TRIPS", "60000")
    write_demo_month(notes / "january", JANUARY)
    done = on_disk("""
        mount -t tmpfs -o "size=$(($(stat -c %s "$notes/january") * 3 / 2))" none "$disk"
        code=0; ride_duration fetch 2023-01..2023-02 --fleet demo || code=$?
        listing after
        ride_duration fetch 2023-01 --fleet demo
        listing again
        exit $code
    """)
    assert done.returncode == errors.DiskFull.exit_code
    assert "demo_tripdata_2023-02.parquet" in _one_line(done.stderr)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["demo_tripdata_2023-01.parquet"] * 2
    names = [Path(path).name for path in _listed(notes, "after")]
    assert names == ["demo_tripdata_2023-01.parquet", "demo_tripdata_2023-01.parquet.manifest.json"]
    assert _listed(notes, "again") == _listed(notes, "after")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder laid out as TLC's site, which is not asked for its fleet because it is never read whole."""
    path = tmp_path / "site" / "trip-data" / "green_tripdata_2023-01.parquet"
    path.parent.mkdir(parents=True)
    write_demo_month(path, JANUARY)
    return tmp_path / "site"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads the log of a server that lives for a second."""

    def copyfile(self, *files: object) -> None:
        """A client whose disk is full goes away in the middle, which is no trouble of the server's."""
        try:
            super().copyfile(*files)
        except ConnectionError:
            self.close_connection = True


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_mounts
@pytest.mark.parametrize("kind", ["folder", "server"])
def test_a_full_disk_stops_a_download_without_another_try(
    kind: str, on_disk: Callable, disk: Path, notes: Path, site: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDE_DURATION_HOME", str(disk / "home"))
    monkeypatch.setenv("RIDE_DURATION_SOURCE", str(site) if kind == "folder" else address)
    done = on_disk("""
        mount -t tmpfs -o size=200k none "$disk"
        code=0; ride_duration fetch 2023-01 || code=$?
        listing after
        exit $code
    """)
    assert done.returncode == errors.DiskFull.exit_code, done.stderr
    announced = [line for line in done.stderr.splitlines() if not line.startswith("ride-duration: ")]
    size = (site / "trip-data" / "green_tripdata_2023-01.parquet").stat().st_size
    assert announced == ([] if kind == "folder" else [f"green 2023-01: fetching {size / 1e6:.1f} MB"])
    assert "no space left while writing" in done.stderr
    assert _listed(notes, "after") == {}


def test_a_limit_on_file_size_is_a_full_disk(home: Path) -> None:
    """A quota of the shell's stands for the disk's where nobody may mount one."""
    script = 'ulimit -f 100; exec "$1" -m ride_duration fetch 2023-01 --fleet demo'
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == errors.DiskFull.exit_code
    assert "no space left while writing" in _one_line(done.stderr)
    assert not [path for path in home.rglob("*") if path.is_file()]


# --- read-only disks -------------------------------------------------------------------------------------------------


@needs_mounts
def test_a_read_only_disk_cannot_take_a_cache(on_disk: Callable, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIDE_DURATION_HOME", str(disk / "home"))
    done = on_disk("""
        mount -t tmpfs -o ro none "$disk"
        ride_duration fetch 2023-01 --fleet demo
    """)
    assert done.returncode == errors.CannotWrite.exit_code == 30
    assert "read-only file system" in _one_line(done.stderr)


@needs_mounts
def test_a_read_only_cache_serves_what_it_has(
    on_disk: Callable, disk: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDE_DURATION_HOME", str(disk / "home"))
    done = on_disk("""
        mount -t tmpfs none "$disk"
        ride_duration fetch 2023-01 --fleet demo
        mount -o remount,ro "$disk"
        ride_duration fetch 2023-01 --fleet demo
        code=0; ride_duration fetch 2023-02 --fleet demo || code=$?
        listing after
        exit $code
    """)
    assert len(done.stdout.splitlines()) == 2
    assert done.returncode == errors.CannotWrite.exit_code, done.stderr
    assert "read-only file system" in _one_line(done.stderr)
    assert len(_listed(notes, "after")) == 2


@needs_mounts
def test_a_read_only_disk_cannot_take_a_report(on_disk: Callable) -> None:
    started = time.monotonic()
    done = on_disk("""
        mount -t tmpfs -o ro none "$disk"
        ride_duration report 2023-02 --fleet demo --force --no-track -p models=mean,seed -p model=seed --reports "$disk"
    """)
    assert done.returncode == errors.CannotWrite.exit_code, done.stderr
    assert "read-only file system" in _one_line(done.stderr)
    assert done.stdout == ""
    assert time.monotonic() - started < 60


@needs_mounts
def test_a_report_on_a_disk_made_read_only_stays(on_disk: Callable, notes: Path) -> None:
    """Its folder is there and can be opened, so that the refusal comes later than where there is none."""
    done = on_disk("""
        mount -t tmpfs none "$disk"
        mkdir -p "$disk/demo/2023-02"
        echo old > "$disk/demo/2023-02/train.html"
        mount -o remount,ro "$disk"
        listing before
        code=0; ride_duration report 2023-02 --fleet demo --force --no-track -p models=mean,seed -p model=seed --reports "$disk" || code=$?
        listing after
        exit $code
    """)
    assert done.returncode == errors.CannotWrite.exit_code, done.stderr
    assert "read-only file system" in _one_line(done.stderr)
    assert done.stdout == ""
    assert _listed(notes, "after") == _listed(notes, "before") != {}


WRITE = """
import sys
from pathlib import Path
from ride_duration.errors import CannotWrite
from ride_duration.files import write_file
try:
    write_file(Path(sys.argv[1]), "new")
except CannotWrite as error:
    print(error)
"""


@needs_mounts
def test_a_file_on_a_read_only_disk_stays(on_disk: Callable, disk: Path, notes: Path) -> None:
    """Where a report stands already its folder can be made, and only the write itself is refused."""
    (notes / "write.py").write_text(WRITE)
    done = on_disk("""
        mount -t tmpfs none "$disk"
        echo old > "$disk/page.html"
        mount -o remount,ro "$disk"
        listing before
        "$python" "$notes/write.py" "$disk/page.html"
        listing after
    """)
    assert done.returncode == 0, done.stderr
    assert f"cannot write {disk / 'page.html'} (read-only file system)" in done.stdout
    assert _listed(notes, "after") == _listed(notes, "before") != {}


# --- reports on a full disk, and two at once -------------------------------------------------------------------------


@needs_mounts
def test_a_disk_filled_since_the_last_report_leaves_that_report(on_disk: Callable, notes: Path) -> None:
    """There is room for the first of the new files, so that a report of old and new parts would be possible."""
    done = on_disk("""
        mount -t tmpfs -o size=2m none "$disk"
        ride_duration report 2023-02 --fleet demo --force --no-track -p models=mean,seed -p model=seed --reports "$disk" > "$notes/first"
        listing before
        fill_but 32768
        code=0; ride_duration report 2023-02 --fleet demo --force --no-track -p models=mean,seed -p model=seed --reports "$disk" || code=$?
        listing after
        exit $code
    """)
    assert done.returncode == errors.DiskFull.exit_code, done.stderr
    assert "no space left while writing" in _one_line(done.stderr)
    assert done.stdout == ""
    assert list(_listed(notes, "before")) == REPORT_FILES
    assert _listed(notes, "after") == _listed(notes, "before")


def _report(reports: Path) -> subprocess.Popen:
    command = [*COMMAND, "report", "2023-02", "--fleet", "demo", "--force", "--no-track", "--reports", str(reports), "-p", "models=mean,seed", "-p", "model=seed"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_reports_at_once_do_not_mix(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    first = _report(reports)
    while not (reports / "demo" / "2023-02").exists():  # made just before the folder is taken, long before it is done
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    second = _report(reports)
    output, complaint = second.communicate(timeout=120)
    assert first.poll() is None, "the first was done before the second began: nothing was shown"
    assert second.returncode == errors.FolderBusy.exit_code == 32
    assert "another run is writing" in _one_line(complaint)
    assert output == ""
    output, complaint = first.communicate(timeout=120)
    assert first.returncode == 0, complaint
    assert output.splitlines()[-1] == str(reports / "demo" / "2023-02" / "train.html")
    assert sorted(str(path.relative_to(reports)) for path in reports.rglob("*") if path.is_file()) == REPORT_FILES


# --- one file at a time ----------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "pages" / "page.html"
    path.parent.mkdir()
    path.write_text("old")
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _leftover(page: Path, process: int | str) -> Path:
    """What a writer of `page` that was killed has left beside it."""
    path = page.with_name(f".{page.name}.{process}.part")
    path.write_text("half")
    return path


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def living() -> Iterator[int]:
    """The number of a process that runs on."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_block_that_succeeds_replaces_the_file(page: Path) -> None:
    with replacing(page) as part:
        part.write_text("new")
        assert part.parent == page.parent  # on the same disk, or the rename would be a copy
        assert page.read_text() == "old"
    assert page.read_text() == "new"
    assert _names(page.parent) == ["page.html"]


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert write_file(tmp_path / "a" / "b" / "page.html", "Grüße").read_bytes() == "Grüße".encode()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, errors.UnreadableFile])
def test_a_block_that_fails_changes_nothing(kind: type[BaseException], page: Path) -> None:
    with pytest.raises(kind, match="in the middle"), replacing(page) as part:
        part.write_text("half of the n")
        raise kind("in the middle")
    assert page.read_text() == "old"
    assert _names(page.parent) == ["page.html"]


def test_a_block_that_writes_nothing_changes_nothing(page: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(page):
        pass
    assert page.read_text() == "old"
    assert _names(page.parent) == ["page.html"]


def test_leftovers_of_dead_processes_are_swept(page: Path, dead: int) -> None:
    _leftover(page, dead)
    write_file(page, "new")
    assert _names(page.parent) == ["page.html"]


def test_leftovers_of_living_processes_are_kept(page: Path, living: int) -> None:
    leftover = _leftover(page, living)
    write_file(page, "new")
    assert page.read_text() == "new"
    assert leftover.read_text() == "half"


def test_leftovers_of_the_first_process_are_kept(page: Path) -> None:
    """Process 1 lives as long as the machine, and most people may not even ask it."""
    leftover = _leftover(page, 1)
    write_file(page, "new")
    assert leftover.exists()


def test_leftovers_of_another_file_are_left_alone(page: Path, dead: int) -> None:
    leftover = _leftover(page.with_name("other.html"), dead)
    write_file(page, "new")
    assert leftover.exists()


@pytest.mark.parametrize("name", ["backup", "12a", ""])
def test_a_file_that_only_looks_like_a_leftover_is_left_alone(name: str, page: Path) -> None:
    leftover = _leftover(page, name)
    write_file(page, "new")
    assert page.read_text() == "new"
    assert leftover.exists()


def test_a_killed_writer_leaves_the_old_file(page: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ride_duration.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(page)], timeout=60)
    assert page.read_text() == "old"
    assert len(_names(page.parent)) == 2
    write_file(page, "new")
    assert page.read_text() == "new"
    assert _names(page.parent) == ["page.html"]


def test_a_file_in_place_of_a_folder_is_named(page: Path) -> None:
    with pytest.raises(errors.CannotWrite, match=r"page\.html.*choose another folder"):
        write_file(page / "below.html", "new")
    assert page.read_text() == "old"


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(errors.CannotWrite, match=r"page\.html"):
        write_file(tmp_path / "page.html", "new")
    assert _names(tmp_path / "page.html") == []
    assert [name for name in _names(tmp_path) if name.endswith(".part")] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_folder_is_named(page: Path) -> None:
    page.parent.chmod(0o555)
    with pytest.raises(errors.CannotWrite, match="permission denied"):
        write_file(page, "new")
    page.parent.chmod(0o755)
    assert page.read_text() == "old"


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ride_duration.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(errors.FolderBusy, match="another run is writing"), alone_in(tmp_path):
            pass
        holder.kill()  # a lock of a killed process ends with it: nothing is left to be removed by hand
    with alone_in(tmp_path):
        pass
    assert _names(tmp_path) == []


def test_an_entry_that_cannot_be_written_makes_no_trusted_file(home: Path) -> None:
    """The file is there before its entry, so a fault between the two must not let it pass for checked."""
    path = fetch_month("demo", JANUARY).path
    entry = path.with_name(path.name + ".manifest.json")
    entry.unlink()
    entry.mkdir()
    with pytest.raises(errors.CannotWrite, match=r"manifest\.json"):
        fetch_month("demo", JANUARY)
    assert trusted_file(path) is None
    entry.rmdir()
    assert trusted_file(fetch_month("demo", JANUARY).path) is not None


@pytest.mark.parametrize("mode", [0o555, 0o333, 0o000], ids=oct)
def test_a_forbidden_folder_is_told_before_the_work(unprivileged: list[str], tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "reports" / "demo" / "2023-02"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    try:
        command = [*unprivileged, sys.executable, "-m", "ride_duration", "report", "2023-02", "--fleet", "demo", "-p", "trees=20000"]  # which would take minutes
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    finally:
        folder.chmod(0o755)
    assert done.returncode == errors.CannotWrite.exit_code, done.stderr
    assert f"cannot write {folder.relative_to(tmp_path)} (permission denied)" in _one_line(done.stderr)
    assert not [*folder.iterdir()]
