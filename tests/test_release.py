"""A release is dry unless told otherwise, refuses what is not ready, and keeps exactly the commit that was tried."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY


def git(*words: str, cwd: Path) -> str:
    return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    "This repository as it stands, committed, with a changelog that waits for 9.1.0."
    copy = tmp_path / "tree"
    ignore = shutil.ignore_patterns(".git", ".venv", ".ride-duration", "*.egg-info", "__pycache__", ".pytest_cache", ".ruff_cache", "_docs", "_proc", "build", "dist", "reports", ".*_checkpoints")
    shutil.copytree(REPOSITORY, copy, ignore=ignore)
    changelog = copy / "CHANGELOG.md"
    changelog.write_text(re.sub(r"^## .*", "## 9.0.0, unreleased", changelog.read_text(), count=1, flags=re.MULTILINE))
    git("init", "--quiet", "--initial-branch", "main", cwd=copy)
    git("config", "user.name", "somebody", cwd=copy)
    git("config", "user.email", "somebody@example.org", cwd=copy)
    git("add", "--all", cwd=copy)
    git("commit", "--quiet", "--message", "as it stands", cwd=copy)
    return copy


def run(tree: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, tree / "tools" / "release.py", *words], cwd=tree, capture_output=True, text=True, timeout=600)


def test_a_dry_release_builds_and_changes_nothing(tree: Path):
    before = git("rev-parse", "HEAD", cwd=tree)
    done = run(tree, "9.1.0", "--without-tests", "--without-tries")
    assert done.returncode == 0, done.stderr
    assert "built ride_duration-9.1.0.tar.gz and ride_duration-9.1.0-py3-none-any.whl" in done.stdout and "GO=1" in done.stdout
    assert (git("rev-parse", "HEAD", cwd=tree), git("tag", cwd=tree), git("status", "--porcelain", cwd=tree)) == (before, "", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0.0.1", "--without-tests"), "does not come after"),
        (("next",), "is no version"),
        (("9.1.0", "--go", "--without-tests"), "what is not tried is not released"),
        (("9.1.0", "--go", "--without-tries"), "what is not tried is not released"),
    ],
)
def test_what_is_not_ready_is_refused(tree: Path, words, says):
    done = run(tree, *words)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_a_dirty_tree_a_taken_tag_and_an_empty_changelog_are_refused(tree: Path):
    git("tag", "v9.1.0", cwd=tree)
    assert "there is a tag v9.1.0 already" in run(tree, "9.1.0").stderr
    (tree / "stray.txt").write_text("?")
    assert "not clean" in run(tree, "9.1.0").stderr
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace(", unreleased", ", 2026-01-01"))
    assert "nothing unreleased" in run(tree, "9.1.0").stderr


def test_what_was_tried_is_what_is_kept(tree: Path, monkeypatch: pytest.MonkeyPatch):
    "The whole way, but for the tests of the clone (this is one) and the wheel's report (test_wheel.py makes it)."
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import release

    done: list[str] = []
    monkeypatch.setattr(release, "run_tests", lambda clone: done.append(git("log", "-1", "--format=%s", cwd=clone).strip()))
    monkeypatch.setattr(release, "try_wheel", lambda wheel, python, constraints: done.append(wheel.name))
    release.release(tree, "9.1.0", go=True, tests=True, tries=True)
    assert done[0] == "Release 9.1.0" and done[1] == "ride_duration-9.1.0-py3-none-any.whl"
    assert git("describe", "--exact-match", cwd=tree).strip() == "v9.1.0" and git("status", "--porcelain", cwd=tree) == ""
    assert "version = 9.1.0\n" in (tree / "settings.ini").read_text() and re.search(r"^## 9\.1\.0, 20\d\d-", (tree / "CHANGELOG.md").read_text(), re.MULTILINE)
    [wheel], [sdist] = (tree / "dist").glob("*.whl"), (tree / "dist").glob("*.tar.gz")
    assert '__version__ = "9.1.0"' in zipfile.ZipFile(wheel).read("ride_duration/__init__.py").decode()
    with tarfile.open(sdist) as archive:  # a wheel can be made from it anywhere
        assert {"ride_duration-9.1.0/settings.ini", "ride_duration-9.1.0/docs/runbook.md", "ride_duration-9.1.0/nbs/runs/train.ipynb"} <= set(archive.getnames())
