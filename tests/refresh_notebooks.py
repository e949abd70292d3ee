"""Run every notebook in place and keep what it shows: `make notebooks`.

The exploration runs on real months where RIDE_DURATION_SOURCE names a mirror of TLC's files, everything else on the demo
fleet. Outputs are cleaned, so that only what people see differs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parent.parent


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    skipped = {cell.id: cell for cell in notebook.cells if cell.source.startswith("#| tlc")}
    kept = [cell for cell in notebook.cells if cell.id not in skipped]
    shown = nbformat.v4.new_notebook(cells=kept, metadata=notebook.metadata)
    NotebookClient(shown, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    nbformat.write(notebook, path)
    print(path.relative_to(REPOSITORY))


def main(paths: list[str]) -> None:
    source = os.environ.pop("RIDE_DURATION_SOURCE", None)
    everything = sorted((REPOSITORY / "nbs").rglob("[!.]*.ipynb"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["RIDE_DURATION_HOME"] = home
        for path in [Path(path).absolute() for path in paths] or [path for path in everything if "runs" not in path.parts]:
            if source and "explore" in path.parts:
                os.environ["RIDE_DURATION_SOURCE"] = source
            refresh(path)
    subprocess.run([Path(sys.executable).parent / "nbdev_clean"], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
