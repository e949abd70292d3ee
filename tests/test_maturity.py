"""Which level of maturity holds: the whole proof once, as its users run it, and what happens where a point is broken on purpose."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY, ride_duration

from ride_duration.serve import checkout_proofs, loop_proofs, proofs, stage
from ride_duration.serve.maturity import LEFT_OUT, LEVELS, MISSING, PROVEN, Point, maturity, prove_all, try_out
from ride_duration.serve.stage import Stage, Witness, surroundings


def processes_with(home: Path) -> list[psutil.Process]:
    "Whoever runs in a home folder."
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RIDE_DURATION_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_level_4_holds_and_every_point_has_its_evidence(tmp_path: Path):
    "Two minutes of processor time: everything this repository claims, in one story."
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "ride_duration", "maturity", "--json", "--keep", str(kept)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    said = json.loads(done.stdout)
    troubles = [point for point in said["points"] if point["state"] != PROVEN]
    assert (done.returncode, said["level"], troubles) == (0, 4, []), said["says"]
    assert [level for level in range(5) if not [point for point in said["points"] if point["level"] == level]] == []
    for point in said["points"]:
        assert point["evidence"] and all((kept / name).is_file() for name in point["evidence"]), point
    assert json.loads((kept / "maturity.json").read_text())["level"] == 4
    assert processes_with(kept / "home") == []


def the(*proofs_: object) -> list[Point]:
    "Points of these proofs, all of level 2."
    return [Point(2, prove.__name__, prove) for prove in proofs_]


def test_a_registry_that_is_broken_is_named_and_takes_its_level_away(tmp_path: Path):
    on = Stage(tmp_path / "stage")
    (on.home / "mlflow.sqlite").mkdir(parents=True)  # where MLflow wants its file
    found = maturity(prove_all(on, story=[Point(0, "by hand", proofs.by_hand), *the(proofs.training_pipeline, proofs.experiment_tracking)], build=[]))
    states = {point.title: point.state for point in found.points}
    assert states == {"by hand": PROVEN, "training_pipeline": PROVEN, "experiment_tracking": MISSING}, found.points
    assert (found.level, found.missing.title) == (1, "experiment_tracking")
    assert "mlflow.sqlite" in found.missing.says and "level 2 lacks experiment_tracking" in str(found)
    assert "ended with 28" in found.missing.says or "ended with 3" in found.missing.says
    assert (on.folder / found.missing.evidence[-1]).is_file()


def test_a_service_that_cannot_begin_is_named(tmp_path: Path):
    on = Stage(tmp_path / "stage")
    on.facts.update(first=1, weak=2)
    [found] = prove_all(on, story=the(proofs.deployment), build=[])
    assert found.state == MISSING and "the service did not begin: no booking model of demo taxis" in found.says
    assert on.service is None


@pytest.mark.parametrize("prove", [proofs.model_registry, proofs.operational_metrics, proofs.data_to_deployment, proofs.ab_test, loop_proofs.automatic_retraining, loop_proofs.automatic_undo])
def test_nothing_is_proven_in_an_empty_home(tmp_path: Path, prove):
    on = Stage(tmp_path / "stage")
    on.home.mkdir(parents=True)
    found = try_out(on, Point(3, "a point", prove))
    on.close()
    assert found.state == MISSING and found.says, found


def test_a_failed_request_is_no_proof(tmp_path: Path):
    "A stranger who refuses every second request stands for the service."
    program = """
import http.server, itertools, json
turn = itertools.count()
class Moody(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"model": {"version": "2"}}).encode()
        self.send_response(200 if next(turn) % 2 else 503)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as moody:
        try:
            on = Stage(tmp_path)
            on.service = object.__new__(stage.Served)
            on.service.address = moody.stdout.readline().strip()
            found = try_out(on, Point(2, "swap", lambda witness: str(proofs.swap(witness, 2, "models"))))
        finally:
            moody.kill()
    assert found.state == MISSING and "requests failed, the first with" in found.says and "503" in found.says


def test_a_wheel_says_what_it_cannot_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkout_proofs, "checkout", lambda: None)
    on = Stage(tmp_path / "stage")
    on.home.mkdir(parents=True)
    points = [Point(0, "by hand", proofs.by_hand), Point(1, "tests", checkout_proofs.tested), Point(1, "releases", checkout_proofs.releases)]
    found = maturity(try_out(on, point) for point in points)
    assert [point.state for point in found.points] == [PROVEN, PROVEN, LEFT_OUT]
    assert "an installed wheel has no tests" in found.points[1].says
    assert "left out: releases, which only a checkout can show" in str(found)


def test_evidence_kept_in_the_checkout_is_not_copied_into_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def far_enough(*_: object) -> None:
        raise stage.LeftOut("far enough")

    (tmp_path / "settings.ini").touch()
    monkeypatch.setattr(checkout_proofs, "checkout", lambda: tmp_path)
    monkeypatch.setattr(checkout_proofs, "_pip", far_enough)
    on = Stage(tmp_path / "evidence")
    on.home.mkdir(parents=True)
    found = try_out(on, Point(1, "releases", checkout_proofs.releases))
    assert found.says == "far enough" and os.listdir(on.folder / "release" / "source") == ["settings.ini"], found


def test_the_stage_sees_nothing_of_its_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RIDE_DURATION_LOG", "RIDE_DURATION_WEBHOOK", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "somewhere")
    assert not {"RIDE_DURATION_LOG", "RIDE_DURATION_WEBHOOK", "MLFLOW_TRACKING_URI"} & surroundings(tmp_path).keys()
    done = Witness(Stage(tmp_path), "1-where").process(sys.executable, "-c", "import ride_duration; print(ride_duration.__file__)")
    assert done.out.strip() == str(REPOSITORY / "ride_duration" / "__init__.py"), "a checkout that is not installed is found from elsewhere, too"


def test_only_the_demo_city_can_be_used_and_only_a_new_folder(tmp_path: Path):
    assert (done := ride_duration("maturity", "--fleet", "green", cwd=tmp_path)).returncode == 13 and "--fleet demo" in done.stderr
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    assert ride_duration("maturity", "--keep", "kept", cwd=tmp_path).returncode == 13
    assert os.listdir(tmp_path / "kept") == ["old"]


def test_the_page_names_every_level_and_point():
    from ride_duration.serve.maturity import _BUILD, _STORY

    page = (REPOSITORY / "docs" / "maturity.md").read_text()
    assert not [name for name in (*LEVELS, *(point.title for point in (*_BUILD, *_STORY))) if name not in page]
