"""The core stands alone, and whatever needs more says in one line which extra brings it."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions

import pytest
from conftest import REPOSITORY

from ride_duration.errors import MissingExtra
from ride_duration.extras import EXTRAS, extra_of

WITHOUT = "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(','))); from ride_duration.cli import main; main()"
DEMO = ("--fleet", "demo")


def settings():
    config = ConfigParser(delimiters=["="])
    config.read(REPOSITORY / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def listed(extra: str) -> set[str]:
    names = settings()[f"{extra}_requirements" if extra else "requirements"].split()
    return {re.split(r"[<>=\[]", name)[0].lower().replace("_", "-") for name in names}


def run_without(libraries: str, *words: str, cwd) -> subprocess.CompletedProcess:
    "The command line where these libraries are not installed, for all that Python can tell."
    return subprocess.run([sys.executable, "-c", WITHOUT, libraries, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


NEEDS = [
    ("papermill", ("report", "2023-02", *DEMO), "reports"),
    ("mlflow", ("models", *DEMO), "mlops"),
    ("optuna", ("tune", "--train", "2023-01", *DEMO), "tune"),
    ("fastapi", ("serve", *DEMO), "serve"),
    ("uvloop", ("serve", *DEMO), "serve"),
    ("sqlalchemy", ("log", "show"), "serve"),
    ("psycopg", ("log", "show", "--log", "postgresql://nobody@127.0.0.1:9/log"), "postgres"),
    ("distributed", ("report", "2023-02", *DEMO, "--cluster", "tcp://127.0.0.1:9"), "dask"),
]


@pytest.mark.parametrize(("library", "words", "extra"), NEEDS, ids=lambda value: value if isinstance(value, str) else None)
def test_a_missing_extra_is_one_line_that_names_it(tmp_path, library, words, extra):
    done = run_without(library, *words, cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (MissingExtra.exit_code, 1), done.stderr
    assert library in lines[0] and f"pip install 'ride-duration[{extra}]'" in lines[0]


def test_the_core_trains_answers_and_scores_without_any_extra(tmp_path):
    blocked = ",".join(name for names in EXTRAS.values() for name in names if not name.startswith(("pydantic", "typing")))  # libraries of the core bring these
    (tmp_path / "few.json").write_text('{"parameters": {"trees": 20}}')
    for words in (
        ("train", "--train", "2023-01", "--val", "2023-02", "--models", "seed,boosted", "--parameters", "few.json"),
        ("predict", "--from", "7", "--to", "12", "--at", "2023-03-01 08:30"),
        ("score", "2023-03", "--out", "march.parquet"),
    ):
        done = run_without(blocked, *words, *DEMO, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    done = run_without("ride_duration.ops.scoring", "score", "2023-03", "--out", "march.parquet", *DEMO, "--bundle", ".", cwd=tmp_path)
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_each_library_stands_in_the_extra_that_is_named():
    "What the package imports, what settings.ini installs and what the lines say are the same."
    brings = {name: {project.lower().replace("_", "-") for project in projects} for name, projects in packages_distributions().items()}
    for extra, names in EXTRAS.items():
        indirect = {"starlette", "pydantic", "pydantic_core", "typing_extensions", "IPython"}  # FastAPI's own, and the kernel's
        assert not [name for name in names if name not in indirect and not brings.get(name, set()) & listed(extra)], extra
    imported = {
        name.partition(".")[0]
        for path in (REPOSITORY / "ride_duration").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module
            else []
        )
    } - set(sys.stdlib_module_names) - {"ride_duration"}  # fmt: skip
    strays = {name for name in imported if not brings.get(name, set()) & listed("") and extra_of(name) is None}
    assert not strays, f"neither in the core nor in an extra: {strays}"
