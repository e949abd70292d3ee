"""Processes of their own that need not import everything first: forked from one that has imported it and done nothing else.

Most tests of the command line and of notebooks want a process for its exit code, its output and its own state, and not for
how it starts. Those that are about starting, signals or the environment at the start use `subprocess`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path

IMPORTED = ["ride_duration.cli", *(f"ride_duration.ops.{name}" for name in ("backfill", "cycle", "live", "log_export", "log_writer", "monitor_report", "prediction_log", "registry", "runner", "scoring", "tuning"))]
IMPORTED += [f"ride_duration.model.{name}" for name in ("baselines", "bundle", "figures", "page", "place_figures", "tables", "trend_figures")]
IMPORTED += ["alembic.command", "holidays.countries", "ipykernel.kernelapp", "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store", "nbconvert", "nbdev.test"]
AT_IMPORT = {"MPLBACKEND": "agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # read when a library is imported
READ_AT_IMPORT = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "GOMP_SPINCOUNT")
FORKED = multiprocessing.get_context("forkserver")


def _fork_like_a_new_one(_: str, arguments: Sequence[str], passed: Sequence[int]) -> int:  # in place of `util.spawnv_passfds`; the process id
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        kept = [2, *sorted(passed), os.sysconf("SC_OPEN_MAX")]
        for last, following in pairwise(kept):
            os.closerange(last + 1, following)
        forkserver._forkserver._lock = threading.Lock()  # ours is held by whoever forks here
        resource_tracker._resource_tracker._fd = None
        sys.modules.pop("matplotlib_inline.backend_inline", None)  # it looks for a kernel when it is imported
        exec(arguments[-1], {})  # what a new interpreter would be told
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        os._exit(code)


def _begin_a_fork_server() -> None:
    "Kernels of whoever this process becomes are forked as elsewhere, from a child of its own; that has imported all the libraries, too, and need not do so again."
    from ride_duration.ops.warm_kernel import fork_soon

    spawn, util.spawnv_passfds = util.spawnv_passfds, _fork_like_a_new_one
    try:
        fork_soon()
    finally:
        util.spawnv_passfds = spawn


def _become(work: Callable, given: tuple, cwd: str, environment: Mapping[str, str], said: str) -> None:  # in the child
    os.chdir(cwd)
    imported_with = [os.environ.get(name) for name in READ_AT_IMPORT]
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT), stream)
    if imported_with == [os.environ.get(name) for name in READ_AT_IMPORT]:
        _begin_a_fork_server()
    work(*given)


def run_forked(work: Callable, *given: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    "What `subprocess.run` tells of a process that does this work; `work` is a function of a module."
    with tempfile.TemporaryDirectory() as said:
        process = FORKED.Process(target=_become, args=(work, given, str(cwd), dict(os.environ if env is None else env), said))
        begin()
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(given, timeout)
        return subprocess.CompletedProcess(given, process.exitcode, *((Path(said) / name).read_text() for name in ("out", "err")))


def begin() -> None:
    "Start the process all are forked from, unless it runs. Whoever forks from it calls this first: it imports what it was told to when it started, and nothing later."
    before = {name: os.environ.get(name) for name in AT_IMPORT}
    FORKED.set_forkserver_preload(IMPORTED)
    os.environ.update(AT_IMPORT)
    try:
        forkserver.ensure_running()
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
