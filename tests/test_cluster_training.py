"""Training on a real cluster: as good as on one machine, begun again where a worker dies, and nobody left waiting."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import psutil
import pytest
from dask_cluster import Cluster, a_cluster, process, wait_until

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'ride-duration[dask]'")

import distributed

from ride_duration.model import intervals
from ride_duration.model.bundle import load_bundle
from ride_duration.ops.cluster_guard import TrainingGuard, guards, is_learning
from ride_duration.ops.cluster_training import train_on_cluster
from ride_duration.ops.training import train

FEW = {"trees": 40, "learning_rate": 0.1}


def command(cluster: Cluster, *more: str, trees: int = 40) -> list[str]:
    "The command line, with settings from a file."
    settings = cluster.folder / "few.json"
    settings.write_text(json.dumps({"parameters": {"trees": trees, "learning_rate": 0.1}}))
    asked = ["--train", "2023-01", "--val", "2023-02", "--fleet", "demo", "--models", "boosted", "--parameters", str(settings), "--cluster", cluster.address]
    return [sys.executable, "-m", "ride_duration", "train", *asked, *more]


def at_work(cluster: Cluster, client: distributed.Client) -> subprocess.Popen | None:
    "A worker on which LightGBM learns, once it has found the others."
    learning = client.run(is_learning, on_error="ignore")
    one, *others = cluster.workers.values()
    dask = {urlparse(address).port for address in (cluster.address, *learning)}
    talks = any(end.status == "ESTABLISHED" and not {end.laddr.port, end.raddr.port} & dask for end in psutil.Process(one.pid).net_connections("tcp4"))
    return one if len(learning) == len(cluster.workers) and all(learning.values()) and (talks or not others) else None


def bundles(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("bundles/demo/*/*/manifest.json"))


def test_nearly_the_model_of_one_machine(two: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(intervals, "ENOUGH", 20_000)  # as if there were ten times as many rides
    told = []
    spread = train_on_cluster("2023-01..2023-02", "2023-03", "demo", settings=FEW, address=two.address, told=told.append)
    alone = train("2023-01..2023-02", "2023-03", "demo", models=list(spread.models), settings=FEW)
    assert told == [f"{name} learns from {alone.train.account.kept:,} rides of 2 months on 2 workers" for name in ("boosted", "boosted_metered")]
    assert spread.train.account == alone.train.account and [file.sha256 for file in spread.train.files] == [file.sha256 for file in alone.train.files]
    for name, theirs in alone.models.items():
        ours = spread.models[name]
        assert np.array_equal(ours.places_, theirs.places_, equal_nan=True), "histories are the same, to the last bit"
        assert ours.margin_ == theirs.margin_ and [bound.model_to_string() for bound in ours.bounds_] == [bound.model_to_string() for bound in theirs.bounds_]
        assert spread.rmse[name] == pytest.approx(alone.rmse[name], abs=0.02), "minutes"
        assert spread.scores[name]["rmse_train"] == pytest.approx(alone.scores[name]["rmse_train"], rel=0.02)
        assert spread.scores[name]["coverage_val"] == pytest.approx(alone.scores[name]["coverage_val"], abs=0.01)
    assert all((spread.lesson.profile[name] == values).all() for name, values in alone.lesson.profile.items())
    folder = spread.save("boosted", tmp_path / "bundle")
    assert b"127.0.0.1" not in (folder / "trees.txt").read_bytes(), "no machine of the cluster is named in a bundle"


def test_a_worker_dies_and_training_begins_again(two: Cluster, home: Path, run, tmp_path: Path):
    with distributed.Client(two.address, set_as_default=False) as client, process(*command(two, "--json", trees=200), cwd=tmp_path, said=tmp_path / "client.log") as training:
        wait_until(lambda: at_work(two, client)).kill()
        assert training.wait(150) == 0, (tmp_path / "client.log").read_text()
    lines = (tmp_path / "client.log").read_text().splitlines()
    assert [line.partition(" on ")[2] for line in lines if "learns from" in line] == ["2 workers", "1 workers"], lines
    assert sum("died while LightGBM learnt: the training begins again" in line for line in lines) == 1, lines
    said = json.loads("\n".join(lines[lines.index("{") :]))
    assert bundles(home) == ["manifest.json"]
    assert load_bundle(Path(said["bundles"]["boosted"])).manifest["train"] == ["2023-01"]
    without = "import sys; sys.modules['dask'] = sys.modules['distributed'] = None; from ride_duration.cli import main; main()"
    answer = subprocess.run([sys.executable, "-c", without, "predict", "--from", "1", "--to", "2", "--fleet", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0 and "minutes" in answer.stdout, answer.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_are_free_when_whoever_asked_is_gone(two: Cluster, home: Path, tmp_path: Path, how: int):
    with distributed.Client(two.address, set_as_default=False) as client, process(*command(two, trees=20_000), cwd=tmp_path, said=tmp_path / "client.log") as training:
        wait_until(lambda: at_work(two, client))
        training.send_signal(how)
        assert training.wait(20) == (130 if how == signal.SIGINT else -signal.SIGKILL), (tmp_path / "client.log").read_text()
        wait_until(lambda: not any(client.run(is_learning).values()), 15)
        assert len(client.nthreads()) == 2, "the workers stay for others"
    assert not bundles(home)
    if how == signal.SIGINT:
        assert (tmp_path / "client.log").read_text().splitlines()[1:] == ["ride-duration: stopped before it was done; nothing was replaced"]


def test_a_task_that_cannot_be_freed_ends_its_worker(cluster: Cluster):
    "LightGBM waits for ever where another machine dies before it has connected."
    cluster.add("one", "--nanny")

    def stuck() -> None:
        worker = distributed.get_worker()
        with guards(worker)[0].watch(worker.get_current_task()):
            time.sleep(1000)

    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.register_plugin(TrainingGuard("a-training", set(), patience=0.5), "a-training")
        waiting, (before,) = client.submit(stuck), client.nthreads()
        wait_until(lambda: any(client.run(is_learning, on_error="ignore").values()))
        waiting.release()
        wait_until(lambda: list(client.nthreads()) not in ([], [before]))
        assert client.submit(sum, [1, 2]).result(30) == 3, "its nanny has started another"


@pytest.mark.parametrize("listening", [False, True], ids=["nobody", "something else"])
def test_a_scheduler_that_does_not_answer(run, listening: bool):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        asked = ("--train", "2023-01", "--val", "2023-02", "--fleet", "demo", "--cluster", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        done = run("train", *asked)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (44, 1), done.stderr
    assert "no Dask scheduler answers" in done.stderr and time.monotonic() - began < 30


def test_what_cannot_be_trained(cluster: Cluster, run, home: Path, tmp_path: Path):
    asked = ("train", "--train", "2023-01", "--val", "2023-02", "--fleet", "demo", "--cluster", cluster.address)
    done = run(*asked)
    assert (done.returncode, "has no workers: start one" in done.stderr, len(done.stderr.splitlines())) == (44, True, 1), done.stderr
    cluster.add("one")
    done = run(*asked, "--models", "seed")
    assert (done.returncode, "leave --cluster out" in done.stderr) == (13, True), done.stderr
    source = tmp_path / "mirror"
    (source / "trip-data").mkdir(parents=True)
    from ride_duration.data.demo import write_demo_month
    from ride_duration.data.month import Month

    write_demo_month(source / "trip-data" / "green_tripdata_2023-02.parquet", Month(2023, 2))
    done = run("train", "--train", "2023-01", "--val", "2023-02", "--fleet", "green", "--source", str(source), "--cluster", cluster.address)
    assert done.returncode == 24 and len(done.stderr.splitlines()) == 1, done.stderr
    done = run("report", "2023-02", "--fleet", "demo", "-p", f"cluster={cluster.address}", "--cluster", cluster.address)
    assert (done.returncode, "leave one out" in done.stderr) == (13, True), done.stderr
    assert not bundles(home)


def test_the_scheduler_dies(tmp_path: Path, home: Path):
    with a_cluster(tmp_path) as cluster:
        cluster.add("one")
        with distributed.Client(cluster.address, set_as_default=False) as client, process(*command(cluster, trees=20_000), cwd=tmp_path, said=tmp_path / "client.log") as training:
            wait_until(lambda: at_work(cluster, client))
            cluster.leader.kill()
            assert training.wait(40) == 44, (tmp_path / "client.log").read_text()
    assert "the scheduler is gone" in (tmp_path / "client.log").read_text() and not bundles(home)
