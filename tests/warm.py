"""Processes of their own that need not import everything first: forked from one that has imported it and done nothing else.

Most tests of the command line and of notebooks want a process for its exit code, its output and its own state, and not for
how it starts. Those that are about starting, signals or the environment at the start use `subprocess`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

IMPORTED = ["ride_duration.cli", "ride_duration.ops.registry", "ride_duration.ops.runner", "ride_duration.ops.backfill", "ride_duration.ops.tuning"]
IMPORTED += ["ride_duration.model.figures", "ride_duration.model.place_figures", "ride_duration.model.tables", "ride_duration.model.page", "sklearn.linear_model", "nbconvert", "mlflow", "nbdev.test", "ipykernel.kernelapp"]
AT_IMPORT = {"MPLBACKEND": "agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # read when a library is imported
FORKED = multiprocessing.get_context("forkserver")


def _become(work: Callable, given: tuple, cwd: str, environment: Mapping[str, str], said: str) -> None:  # in the child
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT), stream)
    work(*given)


def run_forked(work: Callable, *given: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    "What `subprocess.run` tells of a process that does this work; `work` is a function of a module."
    with tempfile.TemporaryDirectory() as said:
        process = FORKED.Process(target=_become, args=(work, given, str(cwd), dict(os.environ if env is None else env), said))
        _start(process)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(given, timeout)
        return subprocess.CompletedProcess(given, process.exitcode, *((Path(said) / name).read_text() for name in ("out", "err")))


def _start(process: multiprocessing.Process) -> None:
    before = {name: os.environ.get(name) for name in AT_IMPORT}
    FORKED.set_forkserver_preload(IMPORTED)
    os.environ.update(AT_IMPORT)  # the first of them starts the process all are forked from
    try:
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def command(*words: str) -> None:
    "`ride-duration` with these words."
    from ride_duration.cli import main

    sys.argv = ["ride-duration", *words]
    main()


def nbdev_test(path: str, flags: str = "") -> None:
    "The command of that name, on one notebook."
    from nbdev import test

    test.nbdev_test(path=path, flags=flags, n_workers=0)
