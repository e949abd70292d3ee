"""What the monitor says of every month of a year, as a table: the champion of that day watches the month it has neither learnt from nor been judged on.

    python benchmarks/verdicts.py --source FOLDER [--fleet green] [--months 2023-03..2023-12] [--trees 500] [--keep FOLDER]

For a month M a booking model is trained on M - 2, judged on M - 1 (its promise), and then M is held against both: volume, drift, faults of recording, streets, its error, and the error
that was to be expected from the inputs alone, with its doubts and the record of the months before. Prints one line of markdown a month, and what was found below it.
--keep keeps the models for another run.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from ride_duration import train
from ride_duration.data.month import Month, parse_months
from ride_duration.model.bundle import load_bundle
from ride_duration.model.ride_model import RideModel
from ride_duration.ops.diagnosis import diagnose_month
from ride_duration.ops.expected_error import Kept, Record, doubts_about, estimate_error, expected_findings
from ride_duration.ops.performance import CHAMPION, add_seed, judge_month, measure_performance, performance_findings


def champion_for(month: Month, fleet: str, source: str | None, trees: int, keep: Path) -> RideModel:
    "The model that would answer in that month: trained two months before, judged on the month before."
    folder = keep / f"{fleet}-{month}-{trees}"
    if not folder.exists():
        train(month - 2, month - 1, fleet, source, "boosted", settings={"trees": trees}).save("boosted", folder)
    return load_bundle(folder)


def watch(model: RideModel, month: Month, source: str | None, record: Record) -> Kept:
    "One line of the table, and what was found; what to keep for the record."
    diagnosis = diagnose_month(model, month, source)
    judged = add_seed(model, judge_month(model, month, source), source)
    performance = measure_performance(model, judged, month)
    width = (judged[f"{CHAMPION}_high"] - judged[f"{CHAMPION}_low"]).to_numpy()
    estimate = estimate_error(model.promise, width, doubts_about(model.profile, diagnosis.survey.profile, diagnosis.volume, record), record)
    found = [*diagnosis.findings, *performance_findings(performance), *expected_findings(estimate, diagnosis.survey.fleet, str(month))]
    kept, coverage = estimate.kept(str(month), performance.sums.rmse), performance.table.loc["coverage", "was"]
    loud = "; ".join(f"{one.kind} ({one.subject})" for one in found if one.severity != "ignore") or "as usual"
    print(
        f"| {month} | {diagnosis.volume.level - 1:+.0%} | {np.expm1(diagnosis.streets.longer):+.1%} | {performance.promise.rmse:.2f} | {performance.sums.rmse:.2f} "
        f"| {estimate.rmse:.2f} ({kept.off:+.0%}){'' if estimate.is_believed else ' doubted'} | {coverage:.1%} | {loud} |",
        flush=True,
    )
    print(*(f"    {one}" for one in found), sep="\n", flush=True)
    return kept


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--source", help="a folder laid out like TLC's site; the demo fleet needs none")
    options.add_argument("--fleet", default="green")
    options.add_argument("--months", default="2023-03..2023-12")
    options.add_argument("--trees", type=int, default=500)
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "verdicts")
    given = options.parse_args()
    record = Record()
    print("| month | trips a day | durations | promised | came | expected beforehand | in range | verdict |\n|---|---:|---:|---:|---:|---:|---:|---|", flush=True)
    for month in parse_months(given.months):
        model = champion_for(month, given.fleet, given.source, given.trees, given.keep)
        record = Record((*record.kept, watch(model, month, given.source, record)))
    print(f"the record: {record}")


if __name__ == "__main__":
    main()
