"""The page of what was measured is made from its table, and says of each claim which script can be run."""

import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

MEASURED = tomllib.loads((REPOSITORY / "benchmarks" / "measured.toml").read_text())


def test_the_page_is_what_the_table_says():
    done = subprocess.run([sys.executable, REPOSITORY / "benchmarks" / "page.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("claim", MEASURED["claim"], ids=lambda claim: claim["name"])
def test_each_claim_can_be_run_and_is_whole(claim):
    assert (REPOSITORY / "benchmarks" / f"{claim['script']}.py").exists()
    assert claim["better"] in ("less", "more") and claim["unit"] and claim["data"] and claim["measured"]
    assert {one["machine"] for one in claim["measured"]} <= set(MEASURED["machine"])
    assert all(one["against"] and one["ours"] > 0 and one["peer"] > 0 for one in claim["measured"])


def test_what_falls_short_is_said():
    import page

    claim = {"name": "n", "script": "s", "data": "d", "unit": "seconds", "better": "less", "asked": 2.0, "measured": [{"machine": "m", "ours": 4, "peer": 6, "against": "others"}]}
    assert "| others | 4 | 6 | 1.50 (not as asked) | one |" in page.page({"claim": [claim], "machine": {"m": {"says": "one"}}})
    assert page.ratio(10, 5, "more") == 2 and page.ratio(10, 5, "less") == 0.5
