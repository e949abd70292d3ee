"""What runs on GitHub: valid, pinned to commits, with no more rights than it needs, and about files that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def jobs(path: Path) -> dict:
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path: Path) -> list[dict]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def test_each_keeps_to_githubs_schema():
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed: pip install 'ride-duration[dev]'")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit(path: Path):
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    assert len(lines) >= 3
    wrong = [line for line in lines if not re.search(r"uses: ([\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\w+\.yml)$", line)]
    assert not wrong


def test_one_commit_for_each_action():
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, pin in re.findall(r"uses: ([\w./-]+)@(\S+ # \S+)", path.read_text()):
            pins.setdefault(action, set()).add(pin)
    assert pins and all(len(pin) == 1 for pin in pins.values()), pins


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_is_allowed_that_is_not_needed(path: Path):
    whole = yaml.safe_load(path.read_text())
    assert whole["permissions"] == {"contents": "read"}
    assert all("write-all" not in str(job.get("permissions")) and "secrets" not in str(job) for job in whole["jobs"].values())
    assert all(job.get("timeout-minutes") for job in whole["jobs"].values() if "steps" in job)
    for step in steps(path):
        assert "${{" not in step.get("run", ""), f"what somebody else wrote reaches the shell as a variable, not as text: {step['run']}"
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_what_publishes_waits_for_what_tests():
    release = jobs(REPOSITORY / ".github" / "workflows" / "release.yml")
    assert {"ci", "try"} <= set(release["publish"]["needs"]) and {"ci", "try"} <= set(release["image"]["needs"])
    assert release["publish"]["permissions"] == {"id-token": "write"} and release["publish"]["environment"] == "pypi"


def test_python_versions_are_those_that_are_supported():
    sys.path.insert(0, str(REPOSITORY / "tools"))
    from release import PYTHONS

    assert tuple(jobs(REPOSITORY / ".github" / "workflows" / "ci.yml")["tests"]["strategy"]["matrix"]["python"]) == PYTHONS
    assert tuple(jobs(REPOSITORY / ".github" / "workflows" / "release.yml")["try"]["strategy"]["matrix"]["python"]) == PYTHONS


def test_every_benchmark_that_needs_no_real_months_is_run_weekly():
    weekly = set(jobs(REPOSITORY / ".github" / "workflows" / "benchmarks.yml")["benchmark"]["strategy"]["matrix"]["script"])
    there = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    assert weekly <= there
    asks_for_more = {"plain_seed", "verdicts", "windows", "page"}  # months of a mirror, or nothing to measure
    assert there - weekly - asks_for_more == set(), "name it in benchmarks.yml, or here"


def test_scripts_in_shell_are_correct():
    for path in WORKFLOWS:
        for step in steps(path):
            if "run" in step:
                done = subprocess.run(["bash", "-n", "-c", step["run"]], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
