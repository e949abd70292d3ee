"""How long until a kernel has all that the training notebook imports: begun from nothing, and forked from one that has it.

    python benchmarks/warm_kernel.py [--runs 3]

The ordinary start is `python -m ipykernel_launcher` and the notebook's own cell of imports; the forked kernel runs the same
cell. The first forked one is left out, and told beside: it pays for the process that all are forked from.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from ride_duration.ops.warm_kernel import WarmKernel

IMPORTS = """
from ride_duration.data.zones import zone_names
from ride_duration.model import figures, metrics, place_figures, slices, tables
from ride_duration.model.page import Published
from ride_duration.ops import handover, learning, training
import lightgbm, sklearn.linear_model
"""


def from_nothing(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ipykernel_launcher", *arguments], stdin=subprocess.PIPE, env=os.environ | {"JPY_PARENT_PID": str(os.getpid())})


def forked(arguments: list[str]) -> WarmKernel:
    return WarmKernel(arguments, dict(os.environ))


def seconds(start: object, folder: Path, number: int) -> float:
    "From the asking to the last import."
    began = time.perf_counter()
    file, _ = write_connection_file(str(folder / f"{number}.json"), transport="ipc", ip=str(folder / str(number)), key=b"secret")
    kernel, client = start(["-f", file]), BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    answer = client.execute_interactive(IMPORTS)
    took = time.perf_counter() - began
    client.stop_channels()
    kernel.kill()
    kernel.wait()
    if answer["content"]["status"] != "ok":
        raise SystemExit(f"the imports failed: {answer['content']}")
    return took


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="k") as name:
        folder = Path(name)
        seconds(from_nothing, folder, 0)  # brings the files into memory
        first = seconds(forked, folder, 1)
        pairs = [(seconds(from_nothing, folder, 2 + 2 * run), seconds(forked, folder, 3 + 2 * run)) for run in range(given.runs)]
    usual, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}; until all is imported, medians of {given.runs}")
    print(f"from nothing {usual:.2f} s, forked {ours:.2f} s, the first forked one {first:.2f} s: {usual / ours:.1f} times sooner")
    if ours > usual:
        raise SystemExit("the claim does not hold: a forked kernel is ready sooner")


if __name__ == "__main__":
    main()
