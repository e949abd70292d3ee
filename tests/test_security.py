"""No path leads out of its folder, nothing leaves the machine, and no secret is in the repository."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from conftest import REPOSITORY
from warm import command, run_forked

OUT = ["../escaped", "../../escaped", "/etc/passwd", "..", "2023-01/../../escaped", "..\\escaped", "%2e%2e%2fescaped", "2023-01\x00", "~/escaped", "file:///etc/passwd"]
DEMO = ("--fleet", "demo")


def run_deep(folder: Path, *words: str) -> subprocess.CompletedProcess:
    "The command line in a folder two levels below, so that ways out of it end in a folder of the test's own, and there they leave nothing."
    deep = folder / "deep" / "down"
    deep.mkdir(parents=True, exist_ok=True)
    before = {*folder.rglob("*"), *folder.parent.glob("*")}
    done = run_forked(command, *map(str, words), cwd=deep)
    assert {*folder.rglob("*"), *folder.parent.glob("*")} == before
    return done


# -- the command line


@pytest.mark.parametrize("path", [path for path in OUT if "\x00" not in path])
@pytest.mark.parametrize("words", [("fetch", "{}", *DEMO), ("report", "{}", *DEMO), ("fetch", "2023-01", "--fleet", "{}"), ("train", "--train", "{}", "--val", "2023-02", *DEMO), ("monitor", "{}", *DEMO)], ids=lambda words: " ".join(words[:3]))
def test_a_month_or_a_fleet_is_no_path(tmp_path, words, path):
    done = run_deep(tmp_path, *(word.replace("{}", path) for word in words))
    assert done.returncode in (10, 11) and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("path", [path for path in OUT if "\x00" not in path])
def test_a_month_to_score_is_no_path(tmp_path, served_bundles, path):
    for words in ((path, *DEMO), ("2023-02", "--fleet", path)):
        done = run_deep(tmp_path, "score", *words, "--out", "scored.parquet", "--bundle", served_bundles["first"])
        assert done.returncode in (10, 11) and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("path", ["../escaped", "/etc/passwd"])
def test_a_parameter_of_the_notebook_is_no_path(run, tmp_path, path):
    for name in ("model", "models", "fleet", "train", "val"):
        done = run("report", "2023-02", *DEMO, "-p", f"{name}={path}", "--no-track")
        assert done.returncode in (10, 11, 13), (name, done.stderr)
    assert not (tmp_path.parent / "escaped").exists()


def test_a_link_in_the_reports_folder_does_not_lead_the_report_away(run, tmp_path):
    "Who can put a link there could write there themselves; what lies beside the report's own files is left alone."
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "train.txt").write_text("mine")
    (tmp_path / "reports" / "demo").mkdir(parents=True)
    (tmp_path / "reports" / "demo" / "2023-02").symlink_to(kept)
    done = run("report", "2023-02", *DEMO, "-p", "models=seed", "-p", "model=seed", "--no-track")
    assert (kept / "train.txt").read_text() == "mine", done.stderr


@pytest.mark.parametrize("name", ["../../escaped.npz", "/etc/passwd", "trees/../../../etc/passwd"])
def test_a_models_manifest_names_no_file_outside_its_folder(served_bundles, tmp_path, name):
    import shutil

    from ride_duration.errors import BrokenBundle
    from ride_duration.model.bundle import load_bundle

    folder = tmp_path / "bundle"
    shutil.copytree(served_bundles["first"], folder)
    [manifest] = [file for file in folder.iterdir() if file.suffix == ".json" and "files" in json.loads(file.read_text())]
    content = json.loads(manifest.read_text())
    files = content["files"]
    first = next(iter(files))
    content["files"] = {name: files[first], **{key: value for key, value in files.items() if key != first}}
    manifest.write_text(json.dumps(content))
    with pytest.raises(BrokenBundle):
        load_bundle(folder)


# -- HTTP


def answer(address: str, path: str) -> tuple[int, bytes]:
    "What the service says to this very path: a socket, because libraries would tidy the path up first."
    host = urllib.parse.urlparse(address)
    with socket.create_connection((host.hostname, host.port), timeout=20) as line:
        line.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        said = b"".join(iter(lambda: line.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


WAYS = ["../" * 6 + "etc/passwd", "..%2f" * 6 + "etc%2fpasswd", "%2e%2e/" * 6 + "etc/passwd", "....//" * 6 + "etc/passwd", "/etc/passwd", "..%5c..%5cetc%5cpasswd", "%00", "..;/server.py", "server.py", "../service.py"]


@pytest.mark.parametrize("way", WAYS)
def test_no_address_of_the_service_leads_to_a_file(served, way):
    for start in ("/", "/page/", "/rides/", "/page/../", "/docs/"):
        code, body = answer(served.address, start + way)
        assert code in (307, 400, 404, 405, 421, 422), (start + way, code)
        assert b"root:" not in body and b"import " not in body


# -- nothing leaves the machine

CLOSED = """
import socket, sys
def closed(self, address, *rest):
    place = address[0] if isinstance(address, tuple) else "local"
    if self.family not in (socket.AF_UNIX,) and place not in ("127.0.0.1", "::1", "localhost"):
        sys.stderr.write(f"TRIED {address}\\n")
        raise OSError(101, f"closed: {address}")
    return old(self, address, *rest)
old = socket.socket.connect
socket.socket.connect = closed
socket.socket.connect_ex = lambda self, address: (closed(self, address), 0)[1]
names = socket.getaddrinfo
def looked_up(host, *rest, **more):
    if host not in (None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", "0.0.0.0"):
        sys.stderr.write(f"TRIED {host}\\n")
        raise socket.gaierror(f"closed: {host}")
    return names(host, *rest, **more)
socket.getaddrinfo = looked_up
"""


def closed_environment(folder: Path) -> dict[str, str]:
    "Every Python that is started, kernels too, finds the ways out closed."
    (folder / "closed").mkdir()
    (folder / "closed" / "sitecustomize.py").write_text(CLOSED)
    return {**os.environ, "PYTHONPATH": f"{folder / 'closed'}:{REPOSITORY}"}


def test_the_ways_out_are_closed_in_such_an_environment(tmp_path):
    "A test that could not fail would prove nothing."
    done = subprocess.run([sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"], env=closed_environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and "TRIED" in done.stderr


def test_a_whole_report_asks_nobody(tmp_path):
    "Demo city, every model of the ladder, the gate, the page and MLflow."
    command = [sys.executable, "-m", "ride_duration", "report", "2023-02", *DEMO, "-p", "trees=30"]
    done = subprocess.run(command, cwd=tmp_path, env=closed_environment(tmp_path), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "TRIED" not in done.stderr, done.stderr
    assert (tmp_path / "reports" / "demo" / "2023-02" / "train.html").exists()


def test_a_real_month_is_asked_of_its_source_and_of_nobody_else(tmp_path):
    done = subprocess.run([sys.executable, "-m", "ride_duration", "fetch", "2023-01", "--fleet", "green"], cwd=tmp_path, env=closed_environment(tmp_path), capture_output=True, text=True, timeout=300)
    tried = set(re.findall(r"TRIED (?:\(')?([\w.-]+)", done.stderr))
    assert done.returncode == 21 and tried == {"d37ci6vzurychx.cloudfront.net"}, done.stderr


# -- secrets

SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "a cloud's key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of a forge": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{60,}|glpat-[\w-]{20,})\b",
    "a token of an index": r"\bpypi-AgE[\w-]{50,}",
    "a chat's address": r"hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/\w{20,}",
    "a signed token": r"\beyJ[\w-]{20,}\.eyJ[\w-]{20,}\.[\w-]{20,}",
    "a password in an address": r"\b[a-z][a-z+]*://[^/\s:@'\"{}<>$…]+:(?!(?:password|secret|s3cret|PASSWORD|\*+|…|x|p|pw|wrong|hunter2)@)[^/\s@'\"{}<>$…]{12,}@[\w.-]+\.(?:com|net|io|dev)\b",
}


def kept_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True)
    if listed.returncode:
        pytest.skip("not a clone: nobody says which files are kept")
    return [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name and (REPOSITORY / name).is_file()]


def found_in(text: str) -> list[str]:
    return [what for what, pattern in SECRETS.items() if re.search(pattern, text)]


def test_no_secret_is_in_the_repository():
    found = {path.relative_to(REPOSITORY).as_posix(): found_in(path.read_text(errors="ignore")) for path in kept_files() if path.stat().st_size < 20_000_000}
    assert len(found) > 200 and not {name: what for name, what in found.items() if what}


def test_a_secret_would_be_seen():
    made_up = ["AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "-----BEGIN " + "PRIVATE KEY-----", "postgresql://ada:" + "correcthorsebattery" + "@db.example.com/log"]
    assert all(found_in(text) for text in made_up)
