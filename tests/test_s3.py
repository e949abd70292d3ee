"""Months from a bucket and reports into one, over HTTP: a real server that speaks S3, and what can be wrong with it."""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_cluster import Cluster, free_port

from ride_duration.data.month import Month
from ride_duration.data.source import fetch_misc, fetch_month
from ride_duration.errors import CannotWrite, MonthNotPublished, SourceUnreachable
from ride_duration.ops.cluster_storage import Storage

pytest.importorskip("moto.server", reason="moto is not installed: pip install 'ride-duration[dev]'")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'ride-duration[s3]'")

JANUARY, FEBRUARY = Month(2023, 1), Month(2023, 2)
SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""


class Bucket:
    "The server's address, and ways to change what it allows."

    def __init__(self, port: int):
        self.port = port
        self.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

    def ask_for_keys(self, after: str) -> None:
        "Refuse whoever has none of the server's own keys (nobody has) from so many questions on."
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/moto-api/reset-auth", after)
        assert connection.getresponse().status == 200

    def system(self) -> "s3fs.S3FileSystem":
        s3fs.S3FileSystem.clear_instance_cache()  # it does not look at the environment again
        return s3fs.S3FileSystem()


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[Bucket]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        lines = iter(started.stdout.readline, "")
        yield Bucket(int(next(line for line in lines if line.strip().isdecimal())))
        started.terminate()


@pytest.fixture
def bucket(server: Bucket, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    system = server.system()
    for name in ("mirror", "ours"):
        if not system.exists(name):
            system.mkdir(name)
    system.put(str(files / "trip-data" / "green_tripdata_2023-01.parquet"), "mirror/trip-data/green_tripdata_2023-01.parquet")
    yield server
    server.ask_for_keys("inf")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_month_from_a_bucket(bucket: Bucket, files: Path, run, cluster: Cluster):
    done = run("fetch", "2023-01..2023-02", "--source", "s3://mirror")
    assert done.returncode == 20 and "from s3://mirror/trip-data/green_tripdata_2023-01.parquet" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1].startswith("ride-duration: s3://mirror/trip-data/green_tripdata_2023-02.parquet is not published")
    distributed = pytest.importorskip("distributed")
    from ride_duration.ops.cluster_parts import read_part

    cluster.add("one")
    with distributed.Client(cluster.address, set_as_default=False) as client:
        part = client.submit(read_part, "green", JANUARY, "s3://mirror", False).result(60)
    assert part.file.url == "s3://mirror/trip-data/green_tripdata_2023-01.parquet" and len(part.frame) == part.account.kept > 0, "a worker reads it, too"


def test_what_can_be_wrong_with_a_source(bucket: Bucket, quick: None, monkeypatch: pytest.MonkeyPatch):
    def attempt(source: str, **environment: str) -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        with monkeypatch.context() as changed, pytest.raises((SourceUnreachable, MonthNotPublished)) as caught:
            for name, value in environment.items():
                changed.setenv(name, value)
            fetch_month("green", FEBRUARY, source)
        assert "\n" not in str(caught.value)
        return f"{caught.value.exit_code} {caught.value}"

    assert attempt("s3://mirror").startswith("20 s3://mirror/trip-data/green_tripdata_2023-02.parquet is not published")
    assert attempt("s3://nowhere") == "21 there is no bucket s3://nowhere: check --source or RIDE_DURATION_SOURCE"
    with pytest.raises(SourceUnreachable, match="there is no bucket s3://nowhere"):
        fetch_misc("taxi_zones.zip", "s3://nowhere", lambda path: None)
    began = time.monotonic()
    assert "Could not connect" in (said := attempt("s3://mirror", AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")) and said.startswith("21 "), said
    assert "check the keys" in (said := attempt("s3://mirror", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_SHARED_CREDENTIALS_FILE=os.devnull, AWS_CONFIG_FILE=os.devnull)), said
    bucket.ask_for_keys("0")
    assert "check the keys" in (said := attempt("s3://mirror")) and "does not exist in our records" in said, said
    assert time.monotonic() - began < 15, "what will not pass is not tried again"


def test_what_can_be_wrong_with_an_address(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    s3fs.S3FileSystem.clear_instance_cache()
    Storage("s3://ours/reports").put("demo/2023-02/report.json", b"{}")
    assert Storage("s3://ours/reports").reports_there() == ["demo/2023-02"] and Storage("s3://ours/elsewhere").reports_there() == []
    with pytest.raises(CannotWrite, match="no place such as s3://nowhere/reports: make the bucket"):
        Storage("s3://nowhere/reports").put("index.html", b"")
    assert not bucket.system().exists("nowhere"), "a bucket is not made because its name was misspelt"
    bucket.ask_for_keys("0")
    for attempt in (lambda storage: storage.put("index.html", b""), lambda storage: storage.get("index.html"), lambda storage: storage.reports_there()):
        with pytest.raises(CannotWrite, match=r"cannot use s3://ours/reports .*: correct --reports, or allow"):
            attempt(Storage("s3://ours/reports"))


def test_reports_into_a_bucket(bucket: Bucket, cluster: Cluster, run, home: Path):
    cluster.add("one")
    asked = ("report", "2023-02", "--fleet", "demo", "-p", "models=mean,seed", "-p", "model=seed", "--cluster", cluster.address, "--no-track", "--reports")
    done = run(*asked, "s3://nowhere/reports")
    assert (done.returncode, len(done.stderr.splitlines())) == (30, 1) and "make the bucket" in done.stderr, done.stderr
    done = run(*asked, "s3://ours/reports", env={**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"})
    assert (done.returncode, len(done.stderr.splitlines())) == (30, 1) and "Could not connect" in done.stderr, done.stderr
    done = run(*asked, "s3://ours/reports")
    assert done.returncode == 0 and "s3://ours/reports/demo/2023-02/train.html" in done.stdout, done.stderr
    system = bucket.system()
    assert sorted(system.find("ours/reports")) == [f"ours/reports/{name}" for name in ("demo/2023-02/decision.json", "demo/2023-02/report.json", "demo/2023-02/train.html", "demo/2023-02/train.ipynb", "index.html")]
    assert b"demo/2023-02/train.html" in system.cat_file("ours/reports/index.html")
    assert "finished before" in run(*asked, "s3://ours/reports").stdout, "what is in the bucket is recognised"
