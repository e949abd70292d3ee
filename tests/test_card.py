"""A card is made from the bundle alone, and what it says about making the model again is true to the bit."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

from ride_duration.files import sha256

DEMO = ("--fleet", "demo")


def test_a_card_says_how_to_make_the_model_again_bit_for_bit(run, tmp_path: Path):
    (tmp_path / "few.json").write_text('{"parameters": {"trees": 25, "num_leaves": 31}}')
    assert run("train", "--train", "2023-01", "--val", "2023-02", *DEMO, "--models", "boosted", "--parameters", "few.json", "--no-track").returncode == 0
    done = run("card", *DEMO, "--out", "cards")
    assert done.returncode == 0 and done.stdout.split() == [f"cards/{name}" for name in ("model-card.md", "data-card.md", "model-card.html", "data-card.html")], done.stderr
    card = (tmp_path / "cards" / "model-card.md").read_text()
    hashes = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", card, re.MULTILINE))
    assert {"trees.txt", "low.txt", "high.txt", "places.npz"} <= set(hashes)

    _, settings, command = re.search(r"```sh\n(.*?)```", card, re.DOTALL)[1].splitlines()  # what comes first installs the versions that are installed
    again = tmp_path / "again"
    again.mkdir()
    subprocess.run(["bash", "-c", settings], cwd=again, check=True)
    words = command.removeprefix("ride-duration ").split()
    made = subprocess.run([sys.executable, "-m", "ride_duration", *words], cwd=again, capture_output=True, text=True, env={**_environment(), "RIDE_DURATION_HOME": str(again / "home")}, timeout=300)
    assert made.returncode == 0, made.stderr
    folder = Path(re.search(r"boosted is kept in (.*)", made.stdout)[1])
    assert {name: sha256(folder / name) for name in hashes} == hashes


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def test_what_has_no_card_is_said_in_one_line(run):
    done = run("card", *DEMO)
    assert done.returncode == 26 and len(done.stderr.splitlines()) == 1
    done = run("card", "1", *DEMO, "--bundle", ".")
    assert done.returncode == 13 and "not both" in done.stderr
