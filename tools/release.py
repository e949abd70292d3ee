"""A release, from a clean tree to a tagged commit and files that were tried: `make release VERSION=x.y.z`, and `GO=1` to keep it.

Everything is done in a clone: version and changelog written, tests run, sdist and wheel built, the wheel installed into an empty environment for each
Python that is found, and a report made there. Without --go nothing in this tree changes; with it, the very commit that was tried becomes this branch's
newest, with its tag, and the files lie in dist/. Nothing is pushed or uploaded: the tag, once pushed, lets CI publish.
"""

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.version import InvalidVersion, Version

PYTHONS = ("3.11", "3.12", "3.13")


def say(text: str) -> None:
    print(f"release: {text}", flush=True)


def ran(*words: object, cwd: Path) -> str:
    "What a command printed; its own words and an end where it failed."
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"release: {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


# -- before anything is done


def present_version(tree: Path) -> Version:
    return Version(re.search(r"^version = (\S+)$", (tree / "settings.ini").read_text(), re.MULTILINE)[1])


def refuse_unless_ready(tree: Path, version: str) -> None:
    "A clean tree, a version that comes after the present one, and a changelog that waits for it."
    try:
        asked = Version(version)
    except InvalidVersion:
        sys.exit(f"release: {version} is no version: write it as 0.2.0")
    present, unreleased = present_version(tree), f"## {present_version(tree)}, unreleased" in (tree / "CHANGELOG.md").read_text()
    if asked < present or (asked == present and not unreleased):
        sys.exit(f"release: {version} does not come after {present}")
    if not re.search(r"^## \S+, unreleased$", (tree / "CHANGELOG.md").read_text(), re.MULTILINE):
        sys.exit("release: CHANGELOG.md has nothing unreleased: begin it with '## x.y.z, unreleased'")
    if changed := ran("git", "status", "--porcelain", cwd=tree):
        sys.exit(f"release: the tree is not clean, commit or remove:\n{changed}")
    if ran("git", "tag", "--list", f"v{version}", cwd=tree):
        sys.exit(f"release: there is a tag v{version} already")


# -- in a clone


@contextmanager
def clone_of(tree: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        ran("git", "clone", "--quiet", tree, Path(folder) / "clone", cwd=tree)
        for name in ("user.name", "user.email"):
            value = subprocess.run(["git", "config", name], cwd=tree, capture_output=True, text=True).stdout.strip()
            ran("git", "config", name, value or "release@example.org", cwd=Path(folder) / "clone")
        yield Path(folder) / "clone"


def _replace(file: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, file.read_text(), count=1, flags=re.MULTILINE)
    if not count:
        sys.exit(f"release: {file.name} has no line like {pattern}")
    file.write_text(text)


def write_version(clone: Path, version: str, today: datetime.date) -> None:
    "The version wherever it stands."
    _replace(clone / "settings.ini", r"^version = \S+$", f"version = {version}")
    _replace(clone / "ride_duration" / "__init__.py", r'^__version__ = "[^"]+"$', f'__version__ = "{version}"')
    _replace(clone / "Dockerfile", r"^ARG VERSION=\S+$", f"ARG VERSION={version}")
    _replace(clone / "CHANGELOG.md", r"^## \S+, unreleased$", f"## {version}, {today.isoformat()}")


def commit(clone: Path, version: str) -> None:
    ran("git", "commit", "--quiet", "--allow-empty", "--all", "--message", f"Release {version}", cwd=clone)
    ran("git", "tag", "--annotate", f"v{version}", "--message", f"ride_duration {version}", cwd=clone)


def run_tests(clone: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=clone)  # its own words are wanted as they come
    if done.returncode:
        sys.exit("release: the tests fail")


def build(clone: Path) -> tuple[Path, Path]:
    "The sdist, and the wheel that is made from it."
    ran(sys.executable, "-m", "build", "--outdir", clone / "dist", clone, cwd=clone)
    [sdist], [wheel] = (clone / "dist").glob("*.tar.gz"), (clone / "dist").glob("*.whl")
    return sdist, wheel


def pythons() -> dict[str, str | None]:
    "Where each supported Python is; None where it is not on this machine."
    here = ".".join(map(str, sys.version_info[:2]))
    return {version: sys.executable if version == here else shutil.which(f"python{version}") for version in PYTHONS}


def try_wheel(wheel: Path, python: str, constraints: Path) -> None:
    "An empty environment, the wheel, and a report on the demo city from an empty folder."
    with tempfile.TemporaryDirectory(prefix="release-try-") as folder:
        ran(python, "-m", "venv", "environment", cwd=Path(folder))
        tools = Path(folder) / "environment" / "bin"
        ran(tools / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", constraints, f"{wheel}[reports]", cwd=Path(folder))
        ran(tools / "ride-duration", "report", "2023-02", "--fleet", "demo", "--no-track", cwd=Path(folder))
        if not (Path(folder) / "reports" / "demo" / "2023-02" / "train.html").exists():
            sys.exit(f"release: {python} made no report")


def try_all(wheel: Path, constraints: Path) -> None:
    found = pythons()
    for version, python in found.items():
        if python:
            try_wheel(wheel, python, constraints)
        say(f"Python {version}: " + ("the wheel makes a report" if python else "not on this machine, NOT TRIED"))
    if not any(found.values()):
        sys.exit("release: no supported Python was found, so nothing was tried")


# -- to keep it


def keep(clone: Path, tree: Path, version: str) -> None:
    "The commit that was tried becomes this branch's newest; its files go to dist/."
    ran("git", "fetch", "--quiet", "--no-tags", clone, f"refs/tags/v{version}:refs/tags/v{version}", cwd=tree)
    ran("git", "merge", "--quiet", "--ff-only", f"v{version}", cwd=tree)
    shutil.copytree(clone / "dist", tree / "dist", dirs_exist_ok=True)


def release(tree: Path, version: str, go: bool, tests: bool, tries: bool) -> None:
    if go and not (tests and tries):
        sys.exit("release: what is not tried is not released: leave out --without-tests and --without-tries, or --go")
    refuse_unless_ready(tree, version)
    with clone_of(tree) as clone:
        write_version(clone, version, datetime.date.today())
        commit(clone, version)
        if tests:
            run_tests(clone)
        sdist, wheel = build(clone)
        say(f"built {sdist.name} and {wheel.name}")
        if tries:
            try_all(wheel, clone / "constraints.txt")
        if go:
            keep(clone, tree, version)
            say(f"done: git push --follow-tags lets CI publish v{version}")
        else:
            say(f"dry: nothing here has changed. make release VERSION={version} GO=1 does it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="as 0.2.0")
    parser.add_argument("--go", action="store_true", help="keep commit, tag and files; without it, dry")
    parser.add_argument("--without-tests", action="store_true", help="dry only: leave the tests out")
    parser.add_argument("--without-tries", action="store_true", help="dry only: install the wheel nowhere")
    asked = parser.parse_args()
    release(Path(__file__).resolve().parent.parent, asked.version, asked.go, not asked.without_tests, not asked.without_tries)
