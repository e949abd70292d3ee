"""How often the monitor cries wolf, and whether it sees the wolf: stable pairs of months, planted faults, and real months.

    python benchmarks/alarm_rates.py [--trips 20000,60000] [--years 2016..2022] [--source FOLDER --fleet green --months 2023-01..2023-12]

1. Stable months of the demo city (synthetic; years of its own, so that no limit was set on them): each is held against the profile of a month 1, 2, 3 and 6 months
   before it. Printed: pairs, those with an alarm (a finding to watch or to act on), and the largest values that were measured beside their limits.
2. Faults planted in stable months, and the demo city's own shock: which kind was owed, what was found, and what stood beside it.
3. Where a source is given: the same table for its real months, each against the month before it. What rings there is for a person to judge.

The script fails where more than one stable month in twenty rings, or a fault is not found and named in the month it appears in. No model is trained: errors have a script of
their own.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import pandas as pd
import pyarrow as pa
from faults import FAULTS, shock_month, write

from ride_duration.data.demo import SHOCK_MONTH, demo_month
from ride_duration.data.month import Month
from ride_duration.data.zones import zone_table
from ride_duration.model.profile import Profile
from ride_duration.ops.calibration import count_alarms, measured_values
from ride_duration.ops.diagnosis import Diagnosis, diagnose
from ride_duration.ops.survey import Survey, survey_month

GAPS = (1, 2, 3, 6)
FOLDER = Path(tempfile.mkdtemp())


def surveyed(table: pa.Table, month: Month, reference: Profile | None = None) -> Survey:
    return survey_month(write(table, FOLDER / "month.parquet"), "demo", month, reference)


def demo_diagnosis(reference: Profile, table: pa.Table, month: Month) -> Diagnosis:
    return diagnose(reference, surveyed(table, month, reference), zone_table("demo"), None, REFERENCE_COLUMNS)


def alarms(diagnosis: Diagnosis) -> list[str]:
    return [f"{one.kind} ({one.subject})" for one in diagnosis.findings if one.severity != "ignore"]


def stable(years: list[int], trips: int) -> tuple[int, int]:
    "Pairs, and those that rang."
    months = [Month(year, number) for year in years for number in range(1, 13)]
    tables = {month: demo_month(month, trips) for month in months if month != SHOCK_MONTH}
    profiles = {month: surveyed(table, month).profile for month, table in tables.items()}
    rang, values, kinds, pairs = 0, [], Counter(), 0
    for month, table in tables.items():
        for gap in GAPS:
            if month - gap not in profiles:
                continue
            diagnosis = demo_diagnosis(profiles[month - gap], table, month)
            found, pairs = alarms(diagnosis), pairs + 1
            values.append(measured_values(diagnosis))
            kinds.update(found)
            rang += bool(found)
    print(f"\n{pairs} stable pairs of {trips:,} trips a month (synthetic): {rang} rang ({rang / pairs:.1%})", *(f"  {count} x {kind}" for kind, count in kinds.most_common()), sep="\n")
    print(pd.DataFrame(values).describe(percentiles=[0.5, 0.95]).loc[["50%", "95%", "max"]].T.round(4).to_string())
    return pairs, rang


def planted(trips: int, month: Month) -> list[str]:
    "Faults that were not found, or not named."
    reference, table, missed = surveyed(demo_month(month - 2, trips), month - 2).profile, demo_month(month, trips), []
    print(f"\nfaults planted in {month}, {trips:,} trips, held against {month - 2} (synthetic)")
    cases = {name: (fault.kind, lambda fault=fault: (fault.damage(table), month)) for name, fault in FAULTS.items()}
    cases["the city's shock"] = ("traffic_shock", lambda: (shock_month(trips), SHOCK_MONTH))
    for name, (owed, make) in cases.items():
        diagnosis = demo_diagnosis(reference, *make())
        found = [one for one in diagnosis.findings if one.severity != "ignore"]
        named = [one for one in found if one.kind == owed]
        others = [f"{one.kind} ({one.subject})" for one in found if one.kind != owed]
        print(f"  {name:<16} {'found' if named else 'MISSED':<7} {owed:<16} {named[0].since if named else '':<11} {'beside it: ' + ', '.join(others) if others else ''}")
        missed += [] if named else [f"{name} ({trips:,} trips)"]
    return missed


def real(source: str, fleet: str, months: str, gap: int) -> None:
    found = count_alarms(fleet, months, source, gap=gap)
    print(f"\n{found}")
    print(found.pairs.round(3).to_string())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--trips", default="20000,60000")
    options.add_argument("--years", default="2016..2022")
    options.add_argument("--source", help="a folder laid out like TLC's site")
    options.add_argument("--fleet", default="green")
    options.add_argument("--months", default="2023-01..2023-12")
    options.add_argument("--gap", type=int, default=1)
    given = options.parse_args()
    first, _, last = given.years.partition("..")
    broken = []
    for trips in map(int, filter(None, given.trips.split(","))):
        pairs, rang = stable(list(range(int(first), int(last or first) + 1)), trips)
        broken += [f"at most one alarm in twenty stable months ({rang} of {pairs}, {trips:,} trips)"] * (rang > pairs / 20)
        for month in (Month(2023, 3), Month(2024, 7)):
            broken += [f"every fault is found: {name}" for name in planted(trips, month)]
    if given.source:
        real(given.source, given.fleet, given.months, given.gap)
    if broken:
        raise SystemExit("the claim does not hold: " + "; ".join(broken))


REFERENCE_COLUMNS = {field.name: str(field.type) for field in demo_month(Month(2023, 1), 100).schema}

if __name__ == "__main__":
    main()
