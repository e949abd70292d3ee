"""Processes of their own that need not import everything first: forked from one that has imported it and done nothing else.

Most tests of the command line and of notebooks want a process for its exit code, its output and its own state, and not for
how it starts. Those that are about starting, signals or the environment at the start use `subprocess`.
"""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ride_duration.ops.nursery import Nursery

IMPORTED = ["warm", "ride_duration.cli", "ride_duration.ops.registry", "ride_duration.ops.runner", "ride_duration.ops.backfill", "ride_duration.ops.tuning"]
IMPORTED += ["ride_duration.model.figures", "ride_duration.model.tables", "ride_duration.model.page", "ride_duration.model.bundle", "ride_duration.model.baselines"]
IMPORTED += ["seaborn", "nbconvert", "mlflow", "nbdev.test", "ipykernel.kernelapp"]
AT_IMPORT = {"MPLBACKEND": "agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # read when a library is imported


@cache
def nursery() -> Nursery:
    here = str(Path(__file__).parent)
    started = Nursery(IMPORTED, os.environ | AT_IMPORT | {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))})
    atexit.register(started.close)
    return started


def run_forked(work: str, *given: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    "What `subprocess.run` tells of a process that does this work, a function of this module."
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = nursery().begin(f"warm:{work}", *given, environment=env, folder=cwd, streams=[out.fileno(), err.fileno()])
        try:
            child.wait(timeout)
        finally:
            child.kill()
        return subprocess.CompletedProcess((work, *given), child.returncode, *((stream.seek(0), stream.read())[1] for stream in (out, err)))


def command(*words: str) -> None:
    "`ride-duration` with these words."
    from ride_duration.cli import main

    sys.argv = ["ride-duration", *words]
    main()


def nbdev_test(path: str, flags: str = "") -> None:
    "The command of that name, on one notebook."
    from nbdev import test

    test.nbdev_test(path=path, flags=flags, n_workers=0)
