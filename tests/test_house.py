"""The house: imports go down the floors, nothing happens at import, and the code is clean."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import ride_duration

PACKAGE = REPOSITORY / "ride_duration"
MODULES = {
    path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if not any(part.startswith("_") for part in path.relative_to(PACKAGE).parts)  # Alembic's scripts are data: see ops/_migrations
}
FLOORS = ["data", "model", "ops", "serve"]


def place(path: Path) -> tuple[int, int]:
    "Floor and number of a module, from the notebook it was exported from; the cellar is below all, the roof above."
    notebook = re.search(r"File to edit: .*?nbs/(?:(\w+)/)?(\d+)_\w+\.ipynb", path.read_text())
    assert notebook, f"{path} was not exported from a numbered notebook"
    folder, number = notebook[1], int(notebook[2])
    floor = FLOORS.index(folder) if folder else (-1 if number < 10 else len(FLOORS))
    return floor, number


def imported(path: Path) -> set[str]:
    "Absolute names of everything a module imports, also inside its functions."
    parts, names = MODULES[path].split("."), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=MODULES.get)
def test_imports_only_go_down(path: Path):
    places = {name: place(module) for module, name in MODULES.items()}
    upwards = [name for name in imported(path) if name in places and places[name] >= place(path)]
    assert not upwards, f"{MODULES[path]} imports upwards: {upwards}"


@pytest.mark.parametrize(
    ("library", "importer"),
    [
        ("papermill", "ride_duration.ops.runner"),
        ("optuna", "ride_duration.ops.tuning"),
        ("mlflow.MlflowClient", "ride_duration.ops.mlflow_client"),
        ("distributed", "ride_duration.ops.cluster"),
        ("dask", "ride_duration.ops.cluster"),
        ("sqlalchemy", "ride_duration.ops.log_database"),
        ("alembic", "ride_duration.ops.log_database"),
        ("lightgbm.dask", "ride_duration.ops.cluster_guard"),
    ],
)
def test_one_door_for_each_heavy_library(library: str, importer: str):
    assert {name for path, name in MODULES.items() if library in imported(path)} == {importer}


def test_few_modules_know_mlflow_and_only_once_it_is_quiet():
    "They import it inside functions, which are given a client or open one: only with the client comes what keeps MLflow from sending anything."
    known = {path: name for path, name in MODULES.items() if any(target.partition(".")[0] == "mlflow" for target in imported(path))}
    assert set(known.values()) == {f"ride_duration.ops.{name}" for name in ("mlflow_client", "mlflow_model", "mlflow_run", "tracking")}
    outermost = [node for path in known for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [name for node in outermost for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])]
    assert not [name for name in names if name.partition(".")[0] == "mlflow"]


def test_no_star_imports():
    assert not [name for path, name in MODULES.items() if any(target.endswith(".*") for target in imported(path))]


def test_importing_leaves_no_trace(tmp_path: Path):
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = subprocess.run([sys.executable, "-c", program, *MODULES.values()], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr, list(tmp_path.iterdir())) == (0, "", "", [])


@pytest.mark.parametrize("name", ride_duration.__all__)
def test_what_is_public_stands_at_the_front_door_and_says_what_it_is(name: str):
    found = getattr(ride_duration, name)
    assert found.__name__ == name and found.__doc__ and not found.__doc__.startswith(f"{name}("), "a dataclass without words of its own documents itself by its signature"


def test_ruff_is_content():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_papermill_notebooks_only_call_and_show():
    "Logic belongs into the library, where it has a test."
    import nbformat

    for notebook in (REPOSITORY / "nbs" / "runs").glob("*.ipynb"):
        for cell in nbformat.read(notebook, as_version=4).cells:
            nodes = list(ast.walk(ast.parse(cell.source))) if cell.cell_type == "code" else []
            assert not [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.For, ast.Lambda, ast.If))]
