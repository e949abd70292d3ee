"""The page of what was measured: benchmarks/measured.toml becomes docs/benchmarks.md.

    python benchmarks/page.py           # writes it
    python benchmarks/page.py --check   # says whether it is as it should be; exit code 1 where not
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
HEAD = """# What was measured

Each claim has a script in `benchmarks/`, which measures ours and the peer, or the limit nobody can beat, in the same run and fails when the claim no longer holds. Ratios are how many times better ours is;
below 1 it is worse, which against a limit it always is. Made by `benchmarks/page.py` from `benchmarks/measured.toml`: a new measurement is added there, and those before it stay. CI runs what needs no real months every week.
"""


def ratio(ours: float, peer: float, better: str) -> float:
    "How many times better ours is."
    return peer / ours if better == "less" else ours / peer


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")


def claim_lines(claim: Mapping, machines: Mapping[str, Mapping]) -> Iterator[str]:
    "A claim with all that was measured for it, in the order of the file."
    yield f"## {claim['name']}\n"
    asked = f" At least {claim['asked']} is asked for." if "asked" in claim else ""
    yield f"`python benchmarks/{claim['script']}.py`, {claim['data']}.{asked}{' ' + claim['note'] if 'note' in claim else ''}\n"
    yield f"| against | ours, {claim['unit']} | theirs | ratio | machine |\n|---|---:|---:|---:|---|"
    for one in claim["measured"]:
        times = ratio(one["ours"], one["peer"], claim["better"])
        short = " (not as asked)" if "asked" in claim and not one["against"].startswith("limit") and times < claim["asked"] else ""
        yield f"| {one['against']} | {number(one['ours'])} | {number(one['peer'])} | {times:.2f}{short} | {machines[one['machine']]['says']} |"
    yield ""


def page(measured: Mapping) -> str:
    return "\n".join([HEAD, *(line for claim in measured["claim"] for line in claim_lines(claim, measured["machine"]))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    text = page(tomllib.loads((HERE / "measured.toml").read_text()))
    if not asked.check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/benchmarks.md is not what benchmarks/measured.toml says: python benchmarks/page.py")
