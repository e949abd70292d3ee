"""Where the service lives: the image's steps done by hand, the composition read by Docker's own client, and Prometheus scraping the real service."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from served import Service, register

pytest_plugins = ["postgres_server"]
DEPLOY = REPOSITORY / "deploy"
RIDE = {"pickup": 7, "dropoff": "Harbour Airport", "at": "2023-03-01T08:30"}


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine: {package}")
    return found


def ran(*words: object, **options: object) -> str:
    done = subprocess.run([*map(str, words)], **{"capture_output": True, "text": True, "timeout": 120, **options})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- the image -------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    "The Dockerfile, an instruction a pair."
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [tuple(line.split(maxsplit=1)) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, words in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, words))
    return found


def context() -> list[str]:
    "The files that reach the builder."
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def reaches(path: str) -> bool:
        kept = True
        for rule in rules:  # the last one that fits decides
            pattern = rule.removeprefix("!")
            if fnmatch(path, pattern) or path.startswith(f"{pattern}/") or (pattern.startswith("**/") and any(fnmatch(part, pattern[3:]) for part in path.split("/"))):
                kept = rule.startswith("!")
        return kept

    return [path for path in ran("git", "ls-files", "--cached", "--others", cwd=REPOSITORY).splitlines() if reaches(path)]


def test_the_builder_gets_what_is_copied_and_nothing_else():
    files, copied = context(), [word for name, words in instructions() if name == "COPY" and not words.startswith("--from") for word in words.split()[:-1]]
    for source in copied:
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
    assert all(any(file == source or file.startswith(f"{source}/") for source in copied) for file in files if file != "README.md"), files
    assert not [file for file in files if re.search(r"secret|\.env|\.sqlite|\.parquet|__pycache__|\.ride-duration|^tests|^\.git", file)]


def test_the_last_stage_has_no_tools_to_build_and_no_root():
    build, last = stages()
    run = " ".join(words for name, words in last if name == "RUN")
    assert "gcc" not in run and "curl" not in run and "pip uninstall" in run and "pip" not in " ".join(words for name, words in last if name == "COPY")
    assert dict(last)["USER"] == "10001:10001" and [name for name, _ in last].index("USER") > [name for name, _ in last].index("RUN")
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["enter"] and json.loads(dict(last)["CMD"])[0] == "serve"
    assert build[0][1] == "${PYTHON} AS build" and last[0][1] == "${PYTHON}" and instructions()[0] == ("ARG", "PYTHON=python:3.11-slim-bookworm")


def test_every_library_of_the_image_is_pinned_as_tested():
    asked = ran(sys.executable, DEPLOY / "image" / "requirements.py", REPOSITORY / "settings.ini", "serve,monitor,postgres").split()
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)}
    assert {"fastapi", "lightgbm", "psycopg", "alembic"} <= {Requirement(one).name for one in asked}
    for one in map(Requirement, asked):
        assert pinned[canonicalize_name(one.name)] in one.specifier, one


def settings_of(stage: list[tuple[str, str]]) -> dict[str, str]:
    "What ARG and ENV of a stage say, for its RUNs."
    known: dict[str, str] = {}
    for name, words in stage:
        for word in words.split() if name in ("ARG", "ENV") else ():
            key, _, value = word.partition("=")
            known[key] = re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], ""), value)
    return known


def libraries_for(python: str) -> str | None:
    "Where the libraries are that the image would install, if another user may read them with this Python."
    folder = Path(__import__("fastapi").__file__).parent.parent
    user = {"user": "nobody"} if os.getuid() == 0 else {}
    trial = "import sys; sys.path.append(sys.argv[1]); import fastapi, lightgbm, sqlalchemy, uvloop; sys.exit(sys.version.split('.')[1] != sys.argv[2])"
    with contextlib.suppress(PermissionError):
        done = subprocess.run([python, "-c", trial, folder, str(sys.version_info.minor)], capture_output=True, cwd="/", env={"PATH": os.environ["PATH"]}, **user)
        return str(folder) if done.returncode == 0 else None
    return None


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """What the Dockerfile's first stage leaves in /opt/ride-duration, made by its own words in another place; the libraries are those of this environment."""
    found = ((python, folder) for python in (os.path.realpath(sys.executable), "/usr/bin/python3") if Path(python).exists() and (folder := libraries_for(python)))
    python, libraries = next(found, (None, None))
    if python is None:
        pytest.skip("another user cannot run this Python and its libraries here, as he would in the image")
    place = Path(subprocess.run(["mktemp", "-d", "/tmp/image-XXXXXX"], capture_output=True, text=True, check=True).stdout.strip())  # where others may enter
    try:
        place.chmod(0o755)
        yield built(place, python, libraries)
    finally:
        shutil.rmtree(place)


def built(place: Path, python: str, libraries: str) -> Path:
    source, target, tools = place / "source", place / "opt", place / "tools"
    tools.mkdir(parents=True)
    source.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\n[ "$2" = pip ] && exec {sys.executable} "$@"\nexec {python} "$@"\n')  # pip of this environment, Python of the image
    (tools / "python").chmod(0o755)
    stage, files = stages()[0], context()
    environment = {**os.environ, **settings_of(stage), "PATH": f"{tools}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for name, words in stage:
        if name == "COPY":
            *copied, to = words.split()
            for one in copied:
                for file in (file for file in files if file == one or file.startswith(f"{one}/")):
                    inside = Path(file).name if file == one else os.path.relpath(file, one)
                    goal = source / to / inside
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(REPOSITORY / file, goal)
        elif name == "RUN":
            words = words.replace("/opt/ride-duration", str(target))
            words = re.sub(r"&& python -m pip \S+ \S+ install \S+ --constraint.*", "", words)  # the libraries: the test above, and test_wheel
            ran("sh", "-ec", words, cwd=source, env=environment)
            for folder in target.glob("lib/python*/site-packages"):
                (folder / "libraries.pth").write_text(libraries)
    for tool in ("enter", "healthy", "prepare"):
        text = (DEPLOY / "image" / tool).read_text().replace("/opt/ride-duration", str(target))
        (target / "bin" / tool).write_text(text)
        (target / "bin" / tool).chmod(0o755)
    shutil.rmtree(source)
    return target


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def eventually(holds: Callable[[], object], seconds: float = 30) -> object:
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def test_the_image_serves_as_another_user_from_what_he_cannot_change(image: Path, served_bundles, tmp_path: Path):
    "Installed by the Dockerfile's words; prepared, served, found healthy and ended by the container's own commands."
    assert not list(image.rglob("tests")) and (image / "bin" / "ride-duration").exists()
    compiled = next(image.rglob("__pycache__/cli_serve.*.pyc")).read_bytes()
    assert compiled[4:8] == b"\x01\0\0\0"  # by hash and unchecked: the same bits whenever it is built
    home = Path(subprocess.run(["mktemp", "-d", "/tmp/home-XXXXXX"], capture_output=True, text=True, check=True).stdout.strip())
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    try:
        shutil.copytree(served_bundles["first"], home / "bundle")
        if other:
            ran("chown", "-R", "nobody:nogroup", home)
        port = free_port()
        environment = {"PATH": f"{image}/bin:/usr/bin:/bin", "HOME": "/nonexistent", "RIDE_DURATION_HOME": str(home), "RIDE_DURATION_PORT": str(port), "GOMP_SPINCOUNT": "1000", "PYTHONDONTWRITEBYTECODE": "1"}
        options = {"env": environment, "cwd": home, **other}
        if other:
            assert subprocess.run(["touch", image / "bin" / "x"], capture_output=True, **options).returncode != 0
        assert subprocess.run(["healthy"], capture_output=True, text=True, **options).returncode == 1
        key = ran("enter", "keys", "add", "me", **options).strip()
        serving = subprocess.Popen(["enter", "serve", "--host", "0.0.0.0", "--port", str(port), "--bundle", home / "bundle"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)
        try:
            assert serving.stdout.readline().startswith("http://0.0.0.0")
            assert eventually(lambda: subprocess.run(["enter", "healthy"], capture_output=True, **options).returncode == 0)
            assert ran("healthy", **options) == '200 {"status":"ready"}\n'
            request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps(RIDE).encode(), {"X-API-Key": key, "Content-Type": "application/json"})
            assert json.load(urllib.request.urlopen(request))["logged"] is True
            (home / "predictions.sqlite").unlink()  # live, and not ready
            assert eventually(lambda: subprocess.run(["healthy"], capture_output=True, text=True, **options).stdout.startswith("503"))
        finally:
            serving.terminate()
            assert serving.wait(30) == 0
            serving.stdout.close()
    finally:
        shutil.rmtree(home)


def test_what_enters_a_container_finds_its_secret(tmp_path: Path):
    (tmp_path / "password").write_text("a b'c\n")
    (tmp_path / "ride-duration").write_text('#!/bin/sh\nprintf "%s|%s" "$PGPASSWORD" "$*"\n')
    (tmp_path / "ride-duration").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PGPASSWORD_FILE": str(tmp_path / "password")}
    assert ran(DEPLOY / "image" / "enter", "serve", "--host", "0.0.0.0", env=environment) == "a b'c|serve --host 0.0.0.0"
    done = subprocess.run([DEPLOY / "image" / "enter", "serve"], env={**environment, "PGPASSWORD_FILE": "/nowhere"}, capture_output=True, text=True)
    assert done.returncode != 0 and "/nowhere" in done.stderr


def test_what_cannot_be_prepared_says_why(home: Path, run):
    done = subprocess.run([sys.executable, DEPLOY / "image" / "prepare"], env={**os.environ, "RIDE_DURATION_TRAIN": "2023-13", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, capture_output=True, text=True)
    assert done.returncode == 11 and "no model of the demo fleet yet" in done.stdout and "2023-13" in done.stderr and "Traceback" not in done.stderr


def test_scripts_and_dockerfile_are_clean():
    for name, files in (("shellcheck", [DEPLOY / "image" / "enter", DEPLOY / "secrets.sh"]), ("hadolint", [REPOSITORY / "Dockerfile"])):
        if shutil.which(name):
            assert ran(name, *files) == ""
    for file in ("image/enter", "image/healthy", "image/prepare", "secrets.sh"):
        assert os.access(DEPLOY / file, os.X_OK), file


def test_secrets_are_made_up_once(tmp_path: Path):
    environment = {**os.environ, "SECRETS_FOLDER": str(tmp_path / "secrets")}
    ran("sh", DEPLOY / "secrets.sh", env=environment)
    first = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    ran("sh", DEPLOY / "secrets.sh", env=environment)
    assert first == {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(first) == {"postgres_password", "grafana_password"} and all(re.fullmatch("[0-9a-f]{48}", secret) for secret in first.values()) and len({*first.values()}) == 2
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    for ignored in ("deploy/secrets/postgres_password", ".env"):
        ran("git", "check-ignore", "-q", ignored, cwd=REPOSITORY)


# --- the composition -------------------------------------------------------------------------------------------------


def compose_command() -> tuple[list[str], bool]:  # and whether it is of the old kind
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            done = subprocess.run([*words, "version", "--short"], capture_output=True, text=True)
            if done.returncode == 0:
                return words, done.stdout.startswith("1.")
    pytest.skip("neither docker compose nor docker-compose is on this machine: apt-get install docker-compose")


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Mapping:
    """As Docker's client reads it, variables filled in; it needs no engine for that."""
    words, old = compose_command()
    text = (REPOSITORY / "compose.yaml").read_text()
    folder = tmp_path_factory.mktemp("compose")
    for secret in ("postgres_password", "grafana_password"):
        (folder / secret).write_text("x")
    shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    (folder / "compose.yaml").write_text(re.sub("^name:.*$", "", text, flags=re.MULTILINE) if old else text)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SECRETS_FOLDER": str(folder), "RIDE_DURATION_WORKERS": "2", "RIDE_DURATION_HOME_FOLDER": "/srv/home"}
    return yaml.safe_load(ran(*words, "-f", folder / "compose.yaml", "config", cwd=folder, env=environment))


def test_the_composition_is_what_docker_takes(composition: Mapping):
    services = composition["services"]
    assert set(services) == {"prepare", "service", "postgres", "prometheus", "grafana"}
    assert services["service"]["command"][-4:] == ["--fleet", "demo", "--workers", "2"]
    homes = [next(volume for volume in services[name]["volumes"] if "/var/lib/ride-duration" in str(volume).replace("keys", "")) for name in ("prepare", "service")]
    assert homes[0] == homes[1] and "/srv/home" in str(homes[0])


def test_everything_waits_for_what_it_needs(composition: Mapping):
    services = composition["services"]
    waits = {name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()} for name, service in services.items()}
    assert waits["service"] == {"prepare": "service_completed_successfully", "postgres": "service_healthy"}
    assert waits["grafana"] == {"prometheus": "service_healthy"} and waits["prometheus"] == {"prepare": "service_completed_successfully"}
    assert all(services[name]["healthcheck"]["test"] for name in ("postgres", "prometheus", "grafana"))


def test_nothing_is_open_writable_or_secret_that_need_not_be(composition: Mapping):
    text = (REPOSITORY / "compose.yaml").read_text()
    assert re.findall(r"^ +- (\S+):\d+$", text, re.MULTILINE) and all(port.startswith("127.0.0.1:") for port in re.findall(r"^ +- (\S+):\d+$", text, re.MULTILINE))
    for name, service in composition["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged") and "/var/run/docker.sock" not in str(service)
        assert all(":" in service["image"] and not service["image"].endswith(":latest") for _ in "1"), name
        for variable, value in (service.get("environment") or {}).items():
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), variable
            assert "@" not in str(value) or re.fullmatch(r"postgresql\+psycopg://ride_duration@postgres:5432/ride_duration", value)
    assert composition["networks"]["database"]["internal"] is True and list(composition["services"]["postgres"]["networks"]) == ["database"]
    assert "ports" not in composition["services"]["postgres"]


# --- Prometheus and the alerts ---------------------------------------------------------------------------------------


class Prometheus:
    "Debian's own, asked over HTTP."

    def __init__(self, folder: Path, config: Path):
        self.address, self.folder = f"http://127.0.0.1:{free_port()}", folder
        words = [program("prometheus", "apt-get install prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address[7:]}"]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log)

    def is_ready(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.address}/-/ready", timeout=10).status == 200
        except OSError:  # it does not listen yet, or says that it is not ready
            return False

    def get(self, path: str, **query: str) -> dict:
        with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> list[dict]:
        return self.get("query", query=query)["result"]

    def value(self, query: str) -> float | None:
        found = self.ask(query)
        return float(found[0]["value"][1]) if found else None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="module")
def scraped(served_bundles, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Prometheus, Service, str]]:
    """The composition by hand: prepared, on PostgreSQL where there is one, scraped by the repository's own configuration."""
    program("prometheus", "apt-get install prometheus")
    folder = tmp_path_factory.mktemp("composition")
    home = folder / "home"
    register(home, 1, served_bundles["first"])
    (folder / "keys").mkdir()
    environment = {"RIDE_DURATION_HOME": str(home), "RIDE_DURATION_KEYS": str(folder / "keys")}
    for expected in ("has a new key", "version 1, answers the demo fleet"):  # the second time there is nothing to do
        said = ran(sys.executable, DEPLOY / "image" / "prepare", env={**os.environ, **environment})
        assert expected in said
    assert "new key" not in said and (folder / "keys" / "prometheus").stat().st_mode & 0o777 == 0o644
    import postgres_server

    if not postgres_server.refusal():
        environment["RIDE_DURATION_LOG"] = request.getfixturevalue("postgres").database()
    shutil.copytree(DEPLOY / "prometheus", folder / "prometheus")
    with Service(home, "--fleet", "demo", "--host", "0.0.0.0", "--port", 0, environment=environment) as service, contextlib.ExitStack() as last:
        service.address = service.address.replace("0.0.0.0", "127.0.0.1")
        config = folder / "prometheus" / "prometheus.yml"
        text = config.read_text()
        assert text.count("service:8000") == 1 and text.count("scrape_interval: 15s") == 1
        config.write_text(text.replace("service:8000", service.address[7:]).replace("_interval: 15s", "_interval: 1s"))  # the port, and no patience
        ran(program("promtool", "apt-get install prometheus"), "check", "config", config)
        prometheus = Prometheus(folder, config)
        last.callback(prometheus.stop)
        assert eventually(prometheus.is_ready), (folder / "log").read_text()
        key = (folder / "keys" / "prometheus").read_text().strip()
        ask = service.asker()
        for number in range(30):
            if number == 1:  # what began at nought is seen to rise
                assert eventually(lambda: prometheus.value('ride_duration_requests_total{path="/predict"}') == 1), (folder / "log").read_text()
            assert ask("/predict", {**RIDE, "ride_id": f"ride-{number}", "dropoff": 8 + number}, headers={"X-API-Key": key})[0] == 200
        for number in range(5):
            assert ask(f"/rides/ride-{number}/completed", {"minutes": 20 + number}, headers={"X-API-Key": key})[0] == 200
        assert ask("/predict", {"pickup": 7}, headers={"X-API-Key": key})[0] == 422
        assert eventually(lambda: (prometheus.value("ride_duration_rides_completed_total") or 0) == 5), (folder / "log").read_text()
        yield prometheus, service, key


def test_prometheus_reads_the_service_with_its_key(scraped):
    prometheus, service, _ = scraped
    [target] = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"], target["labels"]["job"]) == ("up", "", "ride_duration")
    assert prometheus.value('up{job="ride_duration"}') == 1 and prometheus.value("ride_duration_ready") == 1
    assert prometheus.value('ride_duration_requests_total{method="POST",path="/predict",status="200"}') == 30
    assert prometheus.value('ride_duration_answers_total{regime="booking",variant="champion",version="1"}') == 30
    assert eventually(lambda: prometheus.value("ride_duration_log_rows_total") >= 35)  # trials of the log count, too
    assert prometheus.value("ride_duration_promised_rmse_minutes") == 3.1
    assert service.ask("/metrics")[0] == 401


def test_the_rules_are_loaded_and_quiet(scraped):
    prometheus, _, _ = scraped
    [group] = prometheus.get("rules")["groups"]
    names = {rule["alert"] for rule in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]}
    assert {rule["name"] for rule in group["rules"]} == names and len(names) == 19
    assert eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.get("rules")["groups"][0]["rules"]))
    assert prometheus.get("alerts")["alerts"] == []


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:ride_duration|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


def exported(prometheus: Prometheus) -> set[str]:  # of services with a promise, an experiment or a damaged candidate, too
    conditional = {
        "ride_duration_promised_coverage_share", "ride_duration_model_refused", "ride_duration_live_findings", "ride_duration_live_moved_share", "ride_duration_live_rmse_minutes",
        "ride_duration_live_bias_minutes", "ride_duration_live_coverage_share", "ride_duration_live_rmse_standard_error_minutes", "ride_duration_live_bias_standard_error_minutes",
        "ride_duration_live_coverage_standard_error_share", "ride_duration_live_completed_rides", "ride_duration_live_rides", "ride_duration_live_unseen_pair_share", "ride_duration_live_latency_seconds",
    }  # fmt: skip
    declared = set(prometheus.get("metadata")) | {f"{name}_bucket" for name in prometheus.get("metadata")} | {f"{name}_count" for name in prometheus.get("metadata")}
    assert conditional <= declared  # they have a name and a help, also where there is nothing to say yet
    return declared


def expressions() -> dict[str, str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "ride_duration.json").read_text())
    found = {f"panel {panel['title']} {target['refId']}": target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())}
    found |= {f"annotation {one['name']}": one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one}
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    return found | {f"alert {rule['alert']}": rule["expr"] for rule in rules}


def test_every_expression_of_dashboard_and_rules_can_be_asked_and_asks_for_what_there_is(scraped):
    prometheus, _, _ = scraped
    known, asked = exported(prometheus), expressions()
    assert len(asked) > 50
    for name, expression in asked.items():
        for window in ("hour", "day"):
            ready = expression.replace("$__rate_interval", "1m").replace("$window", window)
            assert "$" not in ready, name
            prometheus.ask(ready)  # an HTTP 400 where it does not parse
        assert metrics_in(expression) <= known, (name, metrics_in(expression) - known)


def test_panels_show_what_the_service_did(scraped):
    prometheus, _, _ = scraped
    asked = {name: expression.replace("$__rate_interval", "1m").replace("$window", "hour") for name, expression in expressions().items()}
    assert eventually(lambda: (prometheus.value(asked["panel p99 A"]) or 0) > 0)
    assert prometheus.value(asked["panel Ready A"]) == 1 and prometheus.value(asked["panel Errors A"]) == 0
    assert [one["metric"] for one in prometheus.ask(asked["panel Who answers A"])] == [{"regime": "booking", "variant": "champion", "version": "1"}]
    assert eventually(lambda: {one["metric"]["status"] for one in prometheus.ask(asked["panel Answers that are no 200 A"])} == {"422"})
    assert prometheus.value(asked["panel Since the newest month it has learnt from A"]) > 3 * 365 * 86400  # the demo fleet's January 2023


def test_the_service_gone_is_an_alert(scraped):
    "The last of these tests: it ends the service."
    prometheus, service, _ = scraped
    assert service.stop() == 0
    assert eventually(lambda: [(alert["labels"]["alertname"], alert["state"]) for alert in prometheus.get("alerts")["alerts"]] == [("RideDurationDown", "pending")])
    assert "does not answer" in prometheus.get("alerts")["alerts"][0]["annotations"]["summary"]


def test_alerts_do_as_they_say_and_lead_to_the_runbook():
    promtool = program("promtool", "apt-get install prometheus")
    ran(promtool, "check", "rules", DEPLOY / "prometheus" / "alerts.yml")
    ran(promtool, "test", "rules", DEPLOY / "prometheus" / "alerts_test.yml", cwd=DEPLOY / "prometheus")
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text()
    for rule in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket") and set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"].removeprefix("docs/runbook.md#") in anchors, rule["alert"]
        assert f'alertname="{rule["alert"]}"' in tested, rule["alert"]


def test_the_dashboard_is_one():
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "ride_duration.json").read_text())
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"] == {"type": source["type"], "uid": source["uid"]} and target["expr"], panel["title"]
    [provider] = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "dashboards" / "ride_duration.yml").read_text())["providers"]
    mounted = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounted


# --- the loop, by a scheduler ----------------------------------------------------------------------------------------


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    "Where the examples expect an installation."
    folder = tmp_path / "ride-duration"
    (folder / "home").mkdir(parents=True)
    (folder / "venv").symlink_to(Path(sys.prefix))
    return folder


def example(srv: Path, name: str) -> str:
    return (DEPLOY / "loop" / name).read_text().replace("/srv/ride-duration", str(srv))


def in_a_bare_environment(srv: Path, command: str, **more: str) -> subprocess.CompletedProcess:
    environment = {"PATH": f"{srv / 'venv' / 'bin'}:/usr/bin:/bin", "RIDE_DURATION_HOME": str(srv / "home"), "HOME": str(srv), **more}
    return subprocess.run(["/bin/sh", "-c", command], cwd=srv, env=environment, capture_output=True, text=True, timeout=120)


def test_cron_mails_what_went_wrong_and_nothing_else(srv: Path):
    lines = [line for line in example(srv, "crontab").splitlines() if line and line[0] in "0123456789*"]
    cycle, undo = (line.split(maxsplit=5)[5] for line in lines)
    assert "name the first one with --month" in in_a_bare_environment(srv, cycle).stdout
    assert in_a_bare_environment(srv, undo).stdout == "", "there is nothing to undo, and no rides were ever logged"
    assert "there is no earlier champion" in (srv / "undo.log").read_text()
    seen = in_a_bare_environment(srv, "ride-duration hold --why test && ride-duration cycles")
    assert (seen.returncode, seen.stderr) == (0, ""), "the same environment serves every command"


def test_systemd_understands_its_units(srv: Path, tmp_path: Path):
    analyze = program("systemd-analyze", "apt-get install systemd")
    for name in ("ride-duration-cycle.service", "ride-duration-cycle.timer", "ride-duration-watch.service"):
        (tmp_path / name).write_text(example(srv, name).replace("User=ride-duration", "User=root"))
    for name in ("ride-duration-cycle.timer", "ride-duration-watch.service"):
        done = subprocess.run([analyze, "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True)
        assert "ride-duration" not in done.stderr, done.stderr
    ran(analyze, "calendar", "*-*-* 06:17:00")
    wrong = tmp_path / "ride-duration-wrong.service"
    wrong.write_text("[Service]\nExecStart=ride-duration\nRestartSec=soon\n")
    assert "wrong" in subprocess.run([analyze, "verify", "--man=no", str(wrong)], capture_output=True, text=True).stderr, "it would have said so"


def test_a_runner_of_your_own_sees_to_the_month(srv: Path):
    workflow = yaml.safe_load(example(srv, "github-workflow.yml"))
    [step] = workflow["jobs"]["cycle"]["steps"]
    command = step["run"].replace("--wait 3600", "--wait 1")
    assert "name the first one with --month" in in_a_bare_environment(srv, command, MONTH="").stderr
    asked = in_a_bare_environment(srv, command, MONTH="2023-13; touch broken")
    assert asked.returncode == 11 and not (srv / "broken").exists(), "what is typed into a form is no command"


def test_airflow_runs_the_same_command(srv: Path):
    source = example(srv, "airflow_dag.py")
    compile(source, "airflow_dag.py", "exec")
    [command] = re.findall(r'bash_command="(.*)"', source)
    assert "name the first one with --month" in in_a_bare_environment(srv, command).stderr
