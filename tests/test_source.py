"""Months over a network that misbehaves, and from every kind of source: nothing half-fetched is ever trusted."""

import importlib.util
import json
import re
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from faulty_mirror import (
    FEBRUARY,
    GREEN,
    JANUARY,
    TRIES,
    YELLOW,
    Mirror,
    a_web_page,
    asking_bob,
    contents,
    cut,
    damaged,
    dripping,
    entry_path,
    serving,
    short,
    silent,
    stalled,
    status,
    truncated,
    unannounced,
)

from ride_duration import errors
from ride_duration.data import source
from ride_duration.data.source import fetch_month, trusted_file

PASSING = [cut, short, truncated, unannounced, damaged, a_web_page, silent, stalled, status(500), status(503)]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.__name__)
def test_a_fault_that_passes_is_outlasted(fault: Callable, server: Mirror, files: Path, quick: None) -> None:
    server.misbehave(GREEN, fault, requests=TRIES - 1)
    file = fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == TRIES
    assert file.path.read_bytes() == (files / GREEN).read_bytes()
    assert trusted_file(file.path) == file


LASTING = [
    (cut, errors.SourceUnreachable),
    (short, errors.SourceUnreachable),
    (silent, errors.SourceUnreachable),
    (stalled, errors.SourceUnreachable),
    (status(500), errors.SourceUnreachable),
    (status(503), errors.SourceUnreachable),
    (truncated, errors.UnreadableFile),
    (unannounced, errors.UnreadableFile),
    (damaged, errors.UnreadableFile),
    (a_web_page, errors.UnreadableFile),
]


@pytest.mark.parametrize(("fault", "kind"), LASTING, ids=lambda value: value.__name__)
def test_a_fault_that_stays_is_named_and_leaves_nothing(
    fault: Callable, kind: type[Exception], server: Mirror, home: Path, quick: None
) -> None:
    server.misbehave(GREEN, fault)
    with pytest.raises(kind) as caught:
        fetch_month("green", JANUARY, server.address)
    assert type(caught.value) is kind
    assert server.asked[GREEN] == TRIES
    assert "green_tripdata_2023-01.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(home) == {}


def test_an_unreachable_source_tells_address_and_tries(server: Mirror, quick: None) -> None:
    server.misbehave(GREEN, status(503))
    with pytest.raises(errors.SourceUnreachable, match=f"{server.address}/{GREEN} .* after {TRIES} tries .*503"):
        fetch_month("green", JANUARY, server.address)


def test_nobody_listening_is_an_unreachable_source(home: Path, quick: None) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(errors.SourceUnreachable, match="check the address and the network"):
            fetch_month("green", JANUARY, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert contents(home) == {}


@pytest.mark.parametrize("fault", [truncated, damaged], ids=lambda fault: fault.__name__)
def test_a_wrong_download_is_called_by_the_months_name(fault: Callable, server: Mirror, quick: None) -> None:
    """The temporary file is gone when the message is read, so its name would lead nowhere."""
    server.misbehave(GREEN, fault)
    with pytest.raises(errors.UnreadableFile) as caught:
        fetch_month("green", JANUARY, server.address)
    assert ".part" not in str(caught.value)


@pytest.mark.parametrize("code", [404, 403])
def test_an_absent_month_is_asked_for_once(code: int, server: Mirror, home: Path, quick: None) -> None:
    server.misbehave(GREEN, status(code))
    with pytest.raises(errors.MonthNotPublished, match="about two months late"):
        fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 1
    assert contents(home) == {}


@pytest.mark.parametrize("code", [400, 401])
def test_a_refused_request_is_not_repeated(code: int, server: Mirror, home: Path, quick: None) -> None:
    server.misbehave(GREEN, status(code))
    with pytest.raises(errors.SourceUnreachable, match=str(code)):
        fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 1
    assert contents(home) == {}


def test_another_fleets_file_is_refused_at_once(server: Mirror, files: Path, home: Path, quick: None) -> None:
    server.misbehave(GREEN, serving((files / YELLOW).read_bytes()))
    with pytest.raises(errors.WrongFleet, match="holds yellow trips, not green"):
        fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 1
    assert contents(home) == {}


def test_a_slow_download_is_not_given_up_while_bytes_come(
    server: Mirror, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SILENCE", 0.6)  # the download takes longer, each pause in it is far shorter
    server.misbehave(GREEN, dripping)
    fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 1


@pytest.mark.parametrize(("fleet", "path"), [("green", GREEN), ("yellow", YELLOW)])
def test_the_manifest_says_where_a_file_came_from(fleet: str, path: str, server: Mirror, files: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    file = fetch_month(fleet, JANUARY, server.address)
    content = (files / path).read_bytes()
    entry = json.loads(entry_path(file.path).read_text())
    assert before <= datetime.fromisoformat(entry.pop("fetched")) <= datetime.now(UTC)
    assert entry == {
        "path": file.path.name,
        "url": f"{server.address}/{path}",
        "size": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": pq.read_metadata(files / path).num_rows,
    }
    assert not file.is_synthetic


def test_a_cached_file_is_not_asked_for_again(server: Mirror) -> None:
    first = fetch_month("green", JANUARY, server.address)
    assert fetch_month("green", JANUARY, server.address) == first
    assert fetch_month("green", JANUARY, server.address + "/") == first
    assert server.asked[GREEN] == 1


def test_force_asks_again(server: Mirror) -> None:
    fetch_month("green", JANUARY, server.address)
    fetch_month("green", JANUARY, server.address, force=True)
    assert server.asked[GREEN] == 2


def test_two_sources_do_not_share_a_file(server: Mirror, files: Path) -> None:
    over_http, from_folder = fetch_month("green", JANUARY, server.address), fetch_month("green", JANUARY, files)
    assert over_http.path != from_folder.path
    assert server.asked[GREEN] == 1


def _forget(path: Path) -> None:
    entry_path(path).unlink()


def _damage_entry(path: Path) -> None:
    entry_path(path).write_text('{"path": "green')


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [_forget, _damage_entry, _shorten, _change_a_byte, _remove], ids=lambda f: f.__name__)
def test_a_file_the_manifest_does_not_vouch_for_is_fetched_again(
    spoil: Callable[[Path], None], server: Mirror, files: Path
) -> None:
    path = fetch_month("green", JANUARY, server.address).path
    spoil(path)
    assert trusted_file(path) is None
    file = fetch_month("green", JANUARY, server.address)
    assert server.asked[GREEN] == 2
    assert file.path.read_bytes() == (files / GREEN).read_bytes()
    assert trusted_file(path) == file


@pytest.mark.parametrize(
    "wrong", [{"url": 5}, {"rows": "x"}, {"rows": None}, {"fetched": []}, {"sha256": None}, {"size": "x"}], ids=str
)
def test_an_entry_of_a_wrong_kind_vouches_for_nothing(wrong: dict, files: Path) -> None:
    file = fetch_month("green", JANUARY, files)
    entry_path(file.path).write_text(json.dumps(json.loads(entry_path(file.path).read_text()) | wrong))
    assert trusted_file(file.path) is None
    assert fetch_month("green", JANUARY, files).rows == file.rows
    assert json.loads(entry_path(file.path).read_text())["url"] == file.url


@pytest.mark.parametrize("fault", [cut, truncated, damaged, status(404), status(500)], ids=lambda f: f.__name__)
def test_a_failing_refetch_leaves_the_good_file(fault: Callable, server: Mirror, home: Path, quick: None) -> None:
    good = fetch_month("green", JANUARY, server.address)
    before = contents(home)
    server.misbehave(GREEN, fault)
    with pytest.raises(errors.RideDurationError):
        fetch_month("green", JANUARY, server.address, force=True)
    assert contents(home) == before
    assert trusted_file(good.path) == good


@pytest.mark.parametrize("form", ["folder", "relative folder", "file address", "localhost", "variable"])
def test_a_folder_is_a_source(form: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.parent)
    asked = {
        "folder": files,
        "relative folder": files.name,
        "file address": files.as_uri(),
        "localhost": f"file://localhost{files}/",
        "variable": None,
    }[form]
    monkeypatch.setenv("RIDE_DURATION_SOURCE", str(files) if form == "variable" else "https://not.asked.invalid")
    file = fetch_month("green", JANUARY, asked)
    assert file.path.read_bytes() == (files / GREEN).read_bytes()
    assert file.url == f"{files.as_uri()}/{GREEN}"


UNSOUND = [
    ("{server}?x=1", "goes on with ?"),
    ("{server}/tlc#x", "goes on with #"),
    ("http://", "names no host"),
    ("https:///tlc", "names no host"),
    ("http://:80/tlc", "names no host"),
    ("s3://", "names no host"),
    ("file://", "write it as file:///folder"),
    ("file://otherhost{files}", "write it as file:///folder"),
    ("file://{files.name}", "write it as file:///folder"),
    ("file://{files}::x", "rename the folder"),
]


@pytest.mark.parametrize(("asked", "says"), UNSOUND, ids=lambda value: value)
def test_an_unsound_address_is_refused_and_nobody_asked(
    asked: str, says: str, server: Mirror, files: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them was taken for another place, where no month "is published"."""
    monkeypatch.chdir(files.parent)
    with pytest.raises(errors.BadParameter, match=re.escape(says)) as caught:
        fetch_month("green", JANUARY, asked.format(server=server.address, files=files))
    assert "\n" not in str(caught.value)
    assert not server.asked
    assert contents(home) == {}


@pytest.mark.parametrize("name", ["with space", "Größe", "50%", "a#b"])
def test_a_folder_may_have_any_name(name: str, files: Path, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(files)
    assert fetch_month("green", JANUARY, tmp_path / name).path.read_bytes() == (files / GREEN).read_bytes()


def test_an_absent_month_of_a_folder_is_not_published(files: Path, home: Path) -> None:
    with pytest.raises(errors.MonthNotPublished, match="about two months late"):
        fetch_month("green", FEBRUARY, files)
    assert contents(home) == {}


def test_an_absent_folder_is_an_unreachable_source(tmp_path: Path, home: Path) -> None:
    with pytest.raises(errors.SourceUnreachable, match="nowhere does not exist: check --source"):
        fetch_month("green", JANUARY, tmp_path / "nowhere")
    assert contents(home) == {}


def test_any_file_system_of_fsspec_is_a_source(files: Path, tmp_path: Path) -> None:
    memory, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    memory.pipe(f"{folder}/{GREEN}", (files / GREEN).read_bytes())
    file = fetch_month("green", JANUARY, f"memory:/{folder}")
    assert file.path.read_bytes() == (files / GREEN).read_bytes()
    with pytest.raises(errors.MonthNotPublished):
        fetch_month("green", FEBRUARY, f"memory:/{folder}")
    memory.rm(folder, recursive=True)


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed: nothing to be told")
def test_s3_without_its_extra_says_what_to_install(home: Path) -> None:
    with pytest.raises(errors.SourceUnreachable, match=re.escape("pip install 'ride-duration[s3]'")):
        fetch_month("green", JANUARY, "s3://nyc-tlc")
    assert contents(home) == {}


def test_an_unknown_kind_of_address_is_an_unreachable_source(home: Path) -> None:
    with pytest.raises(errors.SourceUnreachable, match="carrier-pigeon"):
        fetch_month("green", JANUARY, "carrier-pigeon://roof")
    assert contents(home) == {}


def test_a_home_that_no_shell_has_expanded(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd and compose hand `~` on as it stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("RIDE_DURATION_HOME", "~/rides")
    file = fetch_month("green", JANUARY, files)
    assert file.path.is_relative_to(tmp_path / "somebody" / "rides")
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(("home", "says"), [("~nobody-of-that-name/x", "write the path out"), ("s3://x/y", "an address")])
def test_a_home_that_is_no_folder_is_one_line(
    home: str, says: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDE_DURATION_HOME", home)
    before = set(tmp_path.iterdir())
    with pytest.raises(errors.BadParameter, match=says):
        fetch_month("green", JANUARY, files)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("relative", [False, True])
def test_a_cache_that_goes_away_is_no_absent_month(
    relative: bool, files: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(url: str, part: Path, progress: object) -> None:
        shutil.rmtree(home / "cache")
        download(url, part, progress)

    download = source._download
    monkeypatch.setattr(source, "_download", gone)
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("RIDE_DURATION_HOME", home.name if relative else str(home))
    with pytest.raises(errors.CannotWrite, match=r"green_tripdata_2023-01\.parquet: its folder has gone"):
        fetch_month("green", JANUARY, files)


def _with_password(address: str, password: str = "s3cret") -> str:
    return address.replace("http://", f"http://bob:{password}@")


def test_a_password_is_used_and_kept_nowhere(server: Mirror, home: Path, quick: None) -> None:
    server.misbehave(GREEN, asking_bob)
    file = fetch_month("green", JANUARY, _with_password(server.address))
    assert file.url == f"{server.address.replace('http://', 'http://***@')}/{GREEN}"
    assert fetch_month("green", JANUARY, _with_password(server.address, "another")) == file
    assert server.asked[GREEN] == 1
    kept = contents(home)
    assert not [name for name, content in kept.items() if "s3cret" in name or b"s3cret" in content]


def test_a_password_in_an_older_entry_is_not_shown(server: Mirror) -> None:
    file = fetch_month("green", JANUARY, _with_password(server.address))
    entry = json.loads(entry_path(file.path).read_text())
    entry_path(file.path).write_text(json.dumps(entry | {"url": f"{_with_password(server.address)}/{GREEN}"}))
    again = fetch_month("green", JANUARY, _with_password(server.address))
    assert "s3cret" not in again.url
    assert again == file
    assert server.asked[GREEN] == 1


@pytest.mark.parametrize("fault", [status(404), status(401), status(503), cut, silent], ids=lambda fault: fault.__name__)
def test_a_password_is_in_no_message(fault: Callable, server: Mirror, quick: None) -> None:
    server.misbehave(GREEN, fault)
    with pytest.raises(errors.RideDurationError, match=re.escape("http://***@127.0.0.1")) as caught:
        fetch_month("green", JANUARY, _with_password(server.address))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    ["http://bob:s3cret@", "http://bob:s3cret@host?x", "http://bob:s3#cret@host/tlc", "file://bob:s3cret@host/tlc"],
)
def test_a_password_is_in_no_refusal(asked: str) -> None:
    with pytest.raises(errors.BadParameter) as caught:
        fetch_month("green", JANUARY, asked)
    assert "cret" not in str(caught.value)
