"""The service as its clients meet it: every answer, every status, doors, and an end in which everybody is answered."""

import html
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ride_duration
from served import Asker, Service, register

from ride_duration.model.bundle import load_bundle
from ride_duration.ops.prediction_log import open_log
from ride_duration.serve import experiment

RIDE = {"pickup": 7, "dropoff": "Harbour Airport", "at": "2023-03-01T08:30"}


@pytest.fixture(scope="module")
def ask(served: Service) -> Asker:
    return served.asker()


def code_of(found: tuple[int, dict]) -> tuple[int, str, str | None]:
    status, body = found
    assert set(body) == {"error", "request_id"} and set(body["error"]) == {"code", "message", "field"}
    assert "\n" not in body["error"]["message"] and body["request_id"]
    return status, body["error"]["code"], body["error"]["field"]


def test_a_ride_is_answered_and_in_the_log(served, ask):
    status, answer = ask("/predict", {**RIDE, "ride_id": "mine-1"})
    assert status == 200 and answer["low"] <= answer["minutes"] <= answer["high"]
    assert {**answer, "minutes": 0, "low": 0, "high": 0} == {
        "minutes": 0, "low": 0, "high": 0, "level": 0.8, "model": {"name": "ride-duration-demo", "version": "1"}, "variant": "champion",
        "regime": "booking", "ride_id": "mine-1", "flags": answer["flags"], "logged": True,
    }  # fmt: skip
    with sqlite3.connect(served.home / "predictions.sqlite") as log:
        assert log.execute("SELECT minutes, low, high, pickup FROM answer WHERE ride_id = 'mine-1'").fetchall() == [(answer["minutes"], answer["low"], answer["high"], 7)]


def test_asking_again_is_safe_and_asking_otherwise_is_refused(ask):
    first = ask("/predict", {**RIDE, "ride_id": "again"})
    assert ask("/predict", {**RIDE, "ride_id": "again"}) == first
    assert code_of(ask("/predict", {**RIDE, "pickup": 8, "ride_id": "again"})) == (409, "conflict", "ride_id")
    now = {"pickup": 7, "dropoff": 12, "ride_id": "now"}
    first = ask("/predict", now)
    assert ask("/predict", now) == first  # a moment later
    assert code_of(ask("/predict", {**now, "dropoff": 13})) == (409, "conflict", "ride_id")
    assert code_of(ask("/predict/batch", {"rides": [{**RIDE, "ride_id": "new"}, {**RIDE, "pickup": 9, "ride_id": "again"}]})) == (409, "conflict", "ride_id")


def test_a_thousand_rides_are_answered_as_by_the_library_to_the_last_bit(ask, served_bundles):
    random = np.random.default_rng(1)
    booking, metered = load_bundle(served_bundles["first"]), load_bundle(served_bundles["metered"])
    rides = [
        {"pickup": int(pickup), "dropoff": int(dropoff), "at": str(np.datetime64("2022-12-20T00:00") + int(minute))} | ({"miles": float(miles)} if miles < 8 else {})
        for pickup, dropoff, minute, miles in zip(*random.integers(1, 266, (2, 1000)), random.integers(0, 200_000, 1000), random.uniform(0.01, 20, 1000), strict=True)
    ]
    assert 200 < sum("miles" in ride for ride in rides) < 800

    def expected(ride: dict) -> dict:
        model = metered if "miles" in ride else booking
        return model.answer(ride["pickup"], ride["dropoff"], np.datetime64(ride["at"]), ride.get("miles"))

    one_by_one = [ask("/predict", ride)[1] for ride in rides[:300]]
    status, batch = ask("/predict/batch", {"rides": rides})
    assert status == 200
    for answers in (one_by_one, batch["answers"]):
        for ride, answer in zip(rides, answers, strict=False):
            assert {name: answer[name] for name in ("minutes", "low", "high", "flags")} == expected(ride)
            assert answer["regime"] == ("metered" if "miles" in ride else "booking")


def test_the_command_line_answers_the_same(ask, served):
    done = ride_duration("predict", "--from", "7", "--to", "72", "--at", "2023-03-01 08:30", "--fleet", "demo", "--json", env={**os.environ, "RIDE_DURATION_HOME": str(served.home)})
    told, answer = json.loads(done.stdout), ask("/predict", {"pickup": 7, "dropoff": 72, "at": "2023-03-01 08:30"})[1]
    assert [told[name] for name in ("minutes", "low", "high", "flags")] == [answer[name] for name in ("minutes", "low", "high", "flags")]


def test_a_completed_ride_is_told_once(ask):
    ask("/predict", {**RIDE, "ride_id": "done"})
    status, told = ask("/rides/done/completed", {"minutes": 23.5})
    assert (status, told["ride_id"], told["minutes"]) == (200, "done", 23.5)
    assert ask("/rides/done/completed", {"minutes": 23.5}) == (200, told)
    assert code_of(ask("/rides/done/completed", {"minutes": 24})) == (409, "conflict", "ride_id")
    assert code_of(ask("/rides/nobody/completed", {"minutes": 24})) == (404, "unknown_ride", "ride_id")
    assert code_of(ask("/rides/done/completed", {"minutes": -1})) == (422, "wrong_value", "minutes")
    for wrong in ("$$", "done%0A"):
        assert code_of(ask(f"/rides/{wrong}/completed", {"minutes": 5})) == (422, "wrong_value", "ride_id")


@pytest.mark.parametrize(
    ("body", "expected", "says"),
    [
        ({"pickup": "Garden", "dropoff": 7}, (422, "unknown_zone", "pickup"), "7 (Garden Market, Southbank)"),
        ({"pickup": "Atlantis", "dropoff": 7}, (422, "unknown_zone", "pickup"), "no zone is called"),
        ({"pickup": 7, "dropoff": 0}, (422, "wrong_value", "dropoff"), "1 to 265"),
        ({"pickup": 7, "dropoff": 999}, (422, "wrong_value", "dropoff"), "1 to 265"),
        ({"pickup": 7}, (422, "missing_field", "dropoff"), "missing"),
        ({**RIDE, "at": "soon"}, (422, "wrong_value", "at"), "2023-03-01T08:30"),
        ({**RIDE, "at": "2023-02-30T08:30"}, (422, "wrong_value", "at"), "2023-03-01T08:30"),
        ({**RIDE, "miles": 0}, (422, "wrong_value", "miles"), "0.01"),
        ({**RIDE, "milse": 2}, (422, "unknown_field", "milse"), "leave it out"),
        ({**RIDE, "ride_id": "two words"}, (422, "wrong_value", "ride_id"), "letters"),
        (b"{", (422, "not_json", None), "not JSON"),
        (b"[]", (422, "wrong_body", None), "/docs"),
        (b'{"pickup": 1, "dropoff": 2' + b" " * 20_000 + b"}", (413, "too_large", None), "16,384"),
    ],
)
def test_mistakes_are_one_line_with_the_repair(ask, body, expected, says):
    found = ask("/predict", body)
    assert code_of(found) == expected and says in found[1]["error"]["message"]


def test_a_mistake_in_a_batch_is_found(ask):
    assert code_of(ask("/predict/batch", {"rides": [RIDE, {**RIDE, "pickup": "Atlantis"}]})) == (422, "unknown_zone", "rides.1.pickup")
    assert code_of(ask("/predict/batch", {"rides": [RIDE] * 10_001}))[:2] == (422, "wrong_value")
    assert code_of(ask("/predict/batch", {"rides": []}))[:2] == (422, "wrong_value")


def test_what_is_not_asked_properly(ask):
    assert code_of(ask("/predict", RIDE, headers={"Content-Type": "text/plain"})) == (415, "wrong_type", None)
    assert code_of(ask("/predict")) == (405, "wrong_method", None)
    assert ask.answer.headers["allow"] == "POST"
    assert code_of(ask("/nowhere")) == (404, "not_found", None)
    assert code_of(ask("/predict", RIDE, headers={"Host": "evil.example"})) == (421, "wrong_host", None)


def test_every_answer_carries_its_number_and_safe_headers(ask):
    for path, body in (("/predict", RIDE), ("/model", None), ("/docs", None), ("/nowhere", None), ("/predict", b"{")):
        ask(path, body, headers={"X-Request-ID": "mine-7"})
        heads = ask.answer.headers
        assert heads["x-request-id"] == "mine-7" and heads["x-content-type-options"] == "nosniff" and "default-src 'self'" in heads["content-security-policy"]
        assert "server" not in heads
    ask("/model", headers={"X-Request-ID": "<script>"})
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]+", ask.answer.headers["x-request-id"])


def test_an_unknown_zone_between_1_and_265_is_answered_and_flagged(ask):
    assert "unknown_zone" in ask("/predict", {**RIDE, "pickup": 264})[1]["flags"]
    assert "holiday" in ask("/predict", {**RIDE, "at": "2023-07-04T08:30"})[1]["flags"]


def test_a_time_with_an_offset_is_an_instant(ask):
    there, here = ask("/predict", {**RIDE, "at": "2023-03-01T13:30:00Z"})[1], ask("/predict", RIDE)[1]
    assert there["minutes"] == here["minutes"]


def test_the_curve_of_a_day(ask):
    status, body = ask("/curve", RIDE)
    assert (status, len(body["curve"]), body["curve"][17]["at"]) == (200, 48, "2023-03-01T08:30")
    assert body["curve"][17]["minutes"] == ask("/predict", RIDE)[1]["minutes"]


def test_facts(ask):
    status, model = ask("/model")
    assert (status, model["version"], model["fleet"], model["train"], model["metered"]["regime"], model["experiment"]) == (200, "1", "demo", ["2023-01"], "metered", None)
    assert ask("/zones")[1]["zones"][6]["name"] == "Garden Market" and "7" in ask("/shapes")[1]["zones"]
    assert ask("/health/live") == (200, {"status": "live"}) and ask("/health/ready") == (200, {"status": "ready"})
    assert 'ride_duration_requests_total{method="GET",path="/model",status="200"}' in ask("/metrics")[1]


def test_examples_in_the_docs_run_as_they_stand(served, ask):
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine: apt-get install curl")
    page = ask("/docs")[1]
    examples = [html.unescape(found) for found in re.findall("<pre>(.*?)</pre>", page, re.DOTALL)]
    assert len(examples) == 11
    for example in examples:
        assert served.address in example
        done = subprocess.run([*("bash", "-c"), example.replace("curl ", "curl --fail ", 1)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (example, done.stderr, done.stdout)


def test_every_operation_documents_its_statuses(ask):
    for path, methods in ask("/openapi.json")[1]["paths"].items():
        for operation in methods.values():
            assert {"200", "400", "408", "421", "431", "500", "503"} <= set(operation["responses"]), path
            shapes = {status: answer["content"]["application/json"]["schema"] for status, answer in operation["responses"].items() if status != "200"}
            assert set(map(str, shapes.values())) == {"{'$ref': '#/components/schemas/Problem'}"}


def test_the_page_is_there(ask):
    status, page = ask("/")
    assert status == 200 and "page/app.js" in page
    assert ask("/page/app.js")[0] == 200 and ask.answer.headers["content-type"].startswith("text/javascript")
    assert ask("/page/../server.py")[0] == 404


def test_others_need_a_key(served_bundles, tmp_path, home):
    for words, says in ((("--host", "0.0.0.0"), "keys are needed"), (("--metered-bundle", tmp_path), "goes with --bundle")):
        done = ride_duration("serve", "--fleet", "demo", *words)
        assert done.returncode == 13 and says in done.stderr and len(done.stderr.splitlines()) == 1
    key = json.loads(ride_duration("keys", "add", "the app", "--json").stdout)["key"]
    with Service(home, "--host", "0.0.0.0", "--port", 0, "--bundle", served_bundles["first"]) as service:
        service.address = service.address.replace("0.0.0.0", "127.0.0.1")
        ask = service.asker()
        assert code_of(ask("/predict", RIDE)) == (401, "no_key", None) and ask.answer.headers["www-authenticate"] == "Bearer"
        assert code_of(ask("/metrics"))[0] == 401 and code_of(ask("/model", headers={"X-API-Key": key[:-1]}))[0] == 401
        assert ask("/predict", RIDE, headers={"X-API-Key": key})[0] == 200
        assert ask("/model", headers={"Authorization": f"Bearer {key}"})[0] == 200
        assert [ask(path)[0] for path in ("/", "/docs", "/health/ready", "/openapi.json", "/page/page.css")] == [200] * 5
        operation = ask("/openapi.json")[1]["paths"]["/predict"]["post"]
        assert operation["security"] and "401" in operation["responses"] and "421" not in operation["responses"]
        ride_duration("keys", "revoke", "the app")
        time.sleep(1.1)
        assert code_of(ask("/model", headers={"X-API-Key": key}))[0] == 401


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "uvloop", "prometheus_client", "sqlalchemy"])
def test_a_missing_package_is_one_line(package):
    program = f"import sys; sys.modules[{package!r}] = None; from ride_duration.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "serve", "--fleet", "demo"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 16 and "pip install 'ride-duration[serve]'" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_port_that_is_taken(served, served_bundles):
    port = served.address.rpartition(":")[2]
    done = ride_duration("serve", "--bundle", str(served_bundles["first"]), "--port", port)
    assert done.returncode == 35 and "choose another --port" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_is_damaged_from_the_start(served_bundles, tmp_path, workers):
    damaged = Path(shutil.copytree(served_bundles["first"], tmp_path / "damaged"))
    (damaged / "trees.txt").write_text("trees")
    done = ride_duration("serve", "--bundle", str(damaged), "--port", "0", "--workers", workers)
    assert done.returncode == 27 and not done.stdout, "it never says that it answers"
    assert "trees.txt was changed or damaged" in done.stderr and "Traceback" not in done.stderr


def test_whoever_has_asked_is_answered_when_it_ends(served_bundles, home):
    service = Service(home, "--bundle", served_bundles["first"], "--port", 0)
    askers, rides = [service.asker() for _ in range(8)], {"rides": [RIDE] * 4000}
    assert all(asker("/predict", RIDE)[0] == 200 for asker in askers)
    idle = socket.create_connection(service.address.removeprefix("http://").split(":"))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(asker, "/predict/batch", rides) for asker in askers[:3]]
        time.sleep(0.3)
        assert [service.ask("/health/live")[0] for _ in range(3)] == [200] * 3  # whatever was sent before these has arrived
        service.process.send_signal(signal.SIGTERM)
        answers = [found.result() for found in asked]
    assert [(status, len(body["answers"])) for status, body in answers] == [(200, 4000)] * 3
    assert service.process.wait(60) == 0 and service.stop() == 0 and idle.recv(100) == b""
    with sqlite3.connect(home / "predictions.sqlite") as log:
        assert log.execute("SELECT count(*) FROM answer").fetchone() == (3 * 4000 + 8,)


def test_ready_only_with_a_log_that_can_be_written(served_bundles, home):
    "Another program holds the log's lock: rides wait for a while and are then refused, and nothing piles up."
    with Service(home, "--bundle", served_bundles["first"], "--port", 0) as service:
        assert service.ask("/health/ready")[0] == 200 and service.ask("/predict", RIDE)[0] == 200
        with sqlite3.connect(home / "predictions.sqlite", isolation_level=None) as log:
            log.execute("BEGIN EXCLUSIVE")
            with ThreadPoolExecutor(10) as pool:
                found = list(pool.map(lambda _: service.ask("/predict", RIDE), range(10)))
            assert {code_of(one)[:2] for one in found} == {(503, "log_unavailable")}
            asker = service.asker()
            assert code_of(asker("/health/ready"))[:2] == (503, "not_ready") and asker.answer.headers["retry-after"] == "5"
            before = service.resident()
            with ThreadPoolExecutor(20) as pool:
                assert set(pool.map(lambda _: service.ask("/predict", RIDE)[0], range(300))) == {503}
            assert service.resident() - before < 5_000_000
            assert service.ask("/health/live")[0] == 200 and service.ask("/curve", RIDE)[0] == 200
            log.execute("ROLLBACK")
        assert eventually(lambda: service.ask("/predict", RIDE)[0] == 200) and eventually(lambda: service.ask("/health/ready")[0] == 200)


def test_answers_without_a_log_say_so(served_bundles, home):
    with Service(home, "--bundle", served_bundles["first"], "--port", 0, "--unlogged", "allow") as service:
        assert service.ask("/predict", RIDE)[1]["logged"] is True
        (home / "predictions.sqlite").unlink()  # somebody has cleaned up
        (home / "predictions.sqlite-wal").unlink(missing_ok=True)
        status, answer = service.ask("/predict", RIDE)
        assert (status, answer["logged"]) == (200, False)
        assert service.ask("/predict/batch", {"rides": [RIDE] * 3})[1]["answers"][2]["logged"] is False
        assert service.metric("ride_duration_answers_unlogged_total") == 4
        assert service.ask("/health/ready")[0] == 503


def eventually(holds, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.1)
    return bool(found)


def test_several_workers_agree_and_count_together(served_bundles, home):
    register(home, 1, served_bundles["first"])
    with Service(home, "--fleet", "demo", "--port", 0, "--workers", 2) as service:
        version = 'ride_duration_model_workers{name="ride-duration-demo",regime="booking",variant="champion",version="%d"}'
        assert eventually(lambda: service.metric(version % 1) == 2, 40)
        assert all(service.ask("/predict", RIDE)[0] == 200 for _ in range(20))
        assert eventually(lambda: service.metric('ride_duration_requests_total{method="POST",path="/predict",status="200"}') == 20)
        register(home, 2, served_bundles["second"])
        assert eventually(lambda: service.metric(version % 2) == 2 and service.metric(version % 1) == 0)
        assert {service.ask("/predict", RIDE)[1]["model"]["version"] for _ in range(20)} == {"2"}
        assert {service.ask("/health/ready")[0] for _ in range(5)} == {200}
        assert service.stop() == 0


def test_a_damaged_candidate_leaves_the_champion_answering(served_bundles, home, tmp_path):
    register(home, 1, served_bundles["first"])
    damaged = Path(shutil.copytree(served_bundles["second"], tmp_path / "damaged"))
    (damaged / "low.txt").write_text((damaged / "low.txt").read_text().replace("leaf_value=", "leaf_value=9", 1))
    with Service(home, fleet="demo", port=0, every=0.05) as service:
        assert service.ask("/health/ready")[0] == 200
        register(home, 2, damaged)
        assert eventually(lambda: service.metric('ride_duration_model_refused{regime="booking",variant="champion"}') == 1)
        assert service.ask("/predict", RIDE)[1]["model"]["version"] == "1" and service.ask("/health/ready")[0] == 200
        assert service.ask("/model")[1]["troubles"] == [{"regime": "booking", "variant": "champion", "reason": "cannot be loaded: see the service's log"}]
        register(home, 3, served_bundles["second"])
        assert eventually(lambda: service.ask("/predict", RIDE)[1]["model"]["version"] == "3")
        assert eventually(lambda: service.metric('ride_duration_model_refused{regime="booking",variant="champion"}') == 0)
    told = [json.loads(line) for line in service.said]
    assert sum(line["event"] == "model_refused" and "low.txt" in line["reason"] for line in told) == 1
    assert not any(str(value) in line for line in service.said for value in RIDE.values() if isinstance(value, str))


def test_an_experiment_is_followed(served_bundles, home):
    "Half of the rides go to the challenger, the same ones each time; in shadow all go to the champion, and both answers are logged; it ends when it is won."
    register(home, 1, served_bundles["first"])
    (home / "champions" / "ride-duration-demo" / "2").symlink_to(served_bundles["second"])
    first, second = load_bundle(served_bundles["first"]), load_bundle(served_bundles["second"])
    at = np.datetime64("2023-03-01T08:30")
    with Service(home, fleet="demo", port=0, every=0.05) as service:
        split = experiment.start("demo", 2, share=0.5)
        ask = service.asker()
        assert eventually(lambda: ask("/model")[1]["experiment"])
        answers = [ask("/predict", {"pickup": 7, "dropoff": 12, "at": str(at), "ride_id": f"ride-{number}"})[1] for number in range(60)]
        assert [answer["variant"] for answer in answers] == [experiment.assigned(split, answer["ride_id"]) for answer in answers]
        assert {(answer["variant"], answer["model"]["version"], answer["minutes"]) for answer in answers} == {
            ("champion", "1", first.answer(7, 12, at)["minutes"]), ("challenger", "2", second.answer(7, 12, at)["minutes"]),
        }  # fmt: skip
        experiment.stop("demo")
        shadow = experiment.start("demo", 2, shadow=True)
        assert eventually(lambda: (ask("/model")[1]["experiment"] or {}).get("id") == shadow.id)
        assert ask("/predict", {"pickup": 7, "dropoff": 12, "at": str(at), "ride_id": "shaded"})[1]["minutes"] == first.answer(7, 12, at)["minutes"]
        register(home, 2, served_bundles["second"])
        assert eventually(lambda: ask("/model")[1]["version"] == "2") and ask("/model")[1]["experiment"] is None
    with open_log() as log:
        logged = log.find("shaded").answer
        assert (logged.version, logged.experiment, logged.shadow_version, logged.shadow_minutes) == ("1", shadow.id, "2", second.answer(7, 12, at)["minutes"])
        assert {log.find(answer["ride_id"]).answer.experiment for answer in answers} == {split.id}
