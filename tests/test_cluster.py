"""Reports on a real cluster: a scheduler and two workers, each a process of its own, one of which dies at its work."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from dask_cluster import Cluster, free_port, offspring, process, scheduler, wait_until, worker

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'ride-duration[dask]'")
from ride_duration.data.month import parse_month
from ride_duration.errors import ClusterUnreachable
from ride_duration.ops.cluster import connected, workers_of
from ride_duration.ops.cluster_reports import _Months, _report_makers
from ride_duration.ops.report_worker import Work

CHEAP = ("--fleet", "demo", "-p", "models=mean,seed", "-p", "model=seed")


def asked(cluster: Cluster) -> tuple[str, ...]:
    return (*CHEAP, "--cluster", cluster.address)


def contents(reports: Path) -> dict[str, bytes]:
    return {str(path.relative_to(reports)): path.read_bytes() for path in sorted(reports.rglob("*")) if path.is_file() and not path.name.startswith(".")}


def busy(*workers: subprocess.Popen) -> subprocess.Popen | None:
    "A worker with a kernel at work."
    for found in workers:
        if any("ipykernel" in " ".join(child.cmdline()) for child in offspring(found.pid) if child.is_running()):
            return found
    return None


def test_a_killed_worker_has_its_month_done_elsewhere(two: Cluster, run, tmp_path: Path):
    command = [sys.executable, "-m", "ride_duration", "report", "2023-02,2023-03", *asked(two)]
    with process(*command, cwd=tmp_path, said=tmp_path / "client.log") as client:
        killed = wait_until(lambda: busy(*two.workers.values()))
        its = offspring(killed.pid)
        killed.kill()
        assert client.wait(60) == 0, (tmp_path / "client.log").read_text()
    wait_until(lambda: not any(child.is_running() for child in its), 10)
    assert (tmp_path / "client.log").read_text().count(": done") == 2
    assert not offspring(*(found.pid for found in two.workers.values())), "makers end with the back-fill"
    here = run("report", "2023-02,2023-03", *CHEAP, "--reports", "here")
    assert here.returncode == 0, here.stderr
    assert contents(tmp_path / "reports") == contents(tmp_path / "here"), "byte for byte what one machine makes"


def test_a_month_that_fails_does_not_stop_the_others(two: Cluster, run, tmp_path: Path):
    (tmp_path / "reports" / "demo").mkdir(parents=True)
    (tmp_path / "reports" / "demo" / "2023-02").write_text("a file where a folder should be")
    done = run("report", "2023-02,2023-03", *asked(two), "--json")
    assert done.returncode == 30 and "2023-03: done" in done.stderr, done.stderr
    assert [found["val"] for found in json.loads(done.stdout)] == ["2023-03"]


def test_reports_at_an_address_and_records_from_homes_that_are_not_shared(two: Cluster, run, home: Path, tmp_path: Path):
    place = f"file://{tmp_path}/away/reports"
    command = ("report", "2023-04", *asked(two), "--reports", place, "--no-track")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "away" / "reports")
    assert [name.rpartition("/")[2] for name in made] == ["decision.json", "report.json", "train.html", "train.ipynb", "index.html"]
    assert b"demo/2023-04/train.html" in made["index.html"]


def test_records_come_back_from_homes_that_are_not_shared(cluster: Cluster, home: Path, tmp_path: Path):
    from ride_duration.data.month import Month
    from ride_duration.ops.cluster_reports import backfill_on_cluster
    from ride_duration.ops.report_worker import Work

    cluster.add("one")
    work = Work("demo", reports=str(tmp_path / "reports"), parameters={"models": "mean,seed", "model": "seed"})
    done = backfill_on_cluster([Month(2023, 2)], work, cluster.address)
    assert [one.outcome for one in done] == ["done"]
    assert [json.loads(path.read_text())["val"] for path in (home / "outbox").glob("*/record.json")] == ["2023-02"]
    assert not list((tmp_path / "one" / ".ride-duration" / "outbox").glob("*/record.json")), "and the worker may forget them"
    assert [one.outcome for one in backfill_on_cluster([Month(2023, 2)], work, cluster.address)] == ["unchanged"]


@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGKILL])
def test_nothing_goes_on_when_whoever_asked_is_gone(cluster: Cluster, tmp_path: Path, polite: int):
    found = cluster.add("one")
    command = [sys.executable, "-m", "ride_duration", "report", "2023-02..2023-04", *asked(cluster)]
    with process(*command, cwd=tmp_path, said=tmp_path / "client.log") as client:
        wait_until(lambda: busy(found))
        time.sleep(1.5)  # its kernel is past its start, and inside a cell
        client.send_signal(polite)
        assert client.wait(20) == (130 if polite == signal.SIGINT else -signal.SIGKILL)
    wait_until(lambda: not offspring(found.pid), 15)
    assert found.poll() is None, "the worker stays for others"
    if polite == signal.SIGINT:
        said = (tmp_path / "client.log").read_text().strip().splitlines()
        assert len(said) == 1 and "stopped; 0 of 3" in said[0], said


def test_a_worker_told_to_close_hands_its_month_back(two: Cluster, tmp_path: Path):
    command = [sys.executable, "-m", "ride_duration", "report", "2023-02,2023-03", *asked(two)]
    with process(*command, cwd=tmp_path, said=tmp_path / "client.log") as client:
        wait_until(lambda: busy(*two.workers.values())).terminate()
        assert client.wait(60) == 0, (tmp_path / "client.log").read_text()


@pytest.mark.parametrize("listening", [False, True], ids=["nobody", "something else"])
def test_a_scheduler_that_does_not_answer(run, listening: bool):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        began = time.monotonic()
        done = run("report", "2023-02", *CHEAP, "--cluster", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (44, 1), done.stderr
    assert "no Dask scheduler answers" in done.stderr and time.monotonic() - began < 60


def test_a_cluster_that_cannot_be_used(cluster: Cluster, run, tmp_path: Path):
    done = run("report", "2023-02", *CHEAP, "--cluster", cluster.address)
    assert (done.returncode, "has no workers" in done.stderr) == (44, True), done.stderr
    other = shutil.copytree(REPOSITORY / "ride_duration", tmp_path / "other" / "ride_duration")
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    cluster.add("odd", PYTHONPATH=str(other.parent))
    done = run("report", "2023-02", *CHEAP, "--cluster", cluster.address)
    assert done.returncode == 44 and "ride-duration is 0.0.1 on worker tcp://" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "reports" / "demo").exists()


def test_a_client_that_has_dropped_its_scheduler_leaves_without_a_traceback(two: Cluster):
    "As Dask's does when it notices that the scheduler is gone, at whatever moment that is."
    with connected(two.address) as client, _report_makers(client):
        client.scheduler = None
        assert workers_of(client) is None


def test_months_whose_scheduler_is_gone_are_not_called_dead_before_dask_has_cancelled_them(two: Cluster):
    with connected(two.address) as client:
        months = _Months(client, Work("demo"), "none", "none", "reports", lambda month: None, lambda done: None)
        months.running[client.submit(time.sleep, 1)] = parse_month("2023-02")
        client.scheduler = None
        months.run([parse_month("2023-03")], results := {})
    assert sorted(map(str, results)) == ["2023-02", "2023-03"]
    assert all("the scheduler is gone" in str(done.error) and isinstance(done.error, ClusterUnreachable) for done in results.values())


def test_a_scheduler_that_takes_nothing_is_not_asked_for_ever(two: Cluster, monkeypatch: pytest.MonkeyPatch):
    told, asked = [], []

    def refuse(*_: object, **__: object):
        asked.append(time.monotonic())
        raise RuntimeError("closed")

    monkeypatch.setattr("ride_duration.ops.cluster_reports._ALONE", 1)
    with connected(two.address) as client, monkeypatch.context() as patch:
        patch.setattr(client, "submit", refuse)
        _Months(client, Work("demo"), "none", "none", "reports", told.append, lambda done: None).run([parse_month("2023-03")], results := {})
    assert len(asked) > 3 and told == [] and ["the scheduler takes no months" in str(done.error) for done in results.values()] == [True]


def test_the_scheduler_dies(tmp_path: Path, home: Path):
    port = free_port()
    with scheduler(tmp_path, port) as leader:
        address = f"tcp://127.0.0.1:{port}"
        wait_until(lambda: "Scheduler at" in (tmp_path / "scheduler.log").read_text())
        with worker(tmp_path, address, "one") as one:
            command = [sys.executable, "-m", "ride_duration", "report", "2023-02,2023-03", *CHEAP, "--cluster", address]
            with process(*command, cwd=tmp_path, said=tmp_path / "client.log") as client:
                wait_until(lambda: busy(one))
                leader.kill()
                assert client.wait(40) == 44, (tmp_path / "client.log").read_text()
    assert "scheduler is gone" in (tmp_path / "client.log").read_text()
