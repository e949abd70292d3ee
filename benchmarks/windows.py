"""What longer windows bring, and whether the ranges hold: the boosted models on every month of a year.

    python benchmarks/windows.py --source FOLDER [--fleet green] [--val 2023-02..2023-12] [--windows 1,3,6,11] [--models boosted,boosted_metered]

For each validation month and window, a model is trained on the months just before it with default settings, and judged on the month: RMSE in minutes
and the share of rides inside their 80 % ranges. A window for which the source has not all months is left out.
"""

import argparse

from ride_duration import train
from ride_duration.data.month import parse_months
from ride_duration.errors import MonthNotPublished


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--source", required=True, help="a folder laid out like TLC's site")
    options.add_argument("--fleet", default="green")
    options.add_argument("--val", default="2023-02..2023-12")
    options.add_argument("--windows", default="1,3,6,11")
    options.add_argument("--models", default="boosted,boosted_metered")
    given = options.parse_args()
    print("validation  window  model             RMSE    bias  inside  minutes wide", flush=True)
    for month in parse_months(given.val):
        for window in map(int, given.windows.split(",")):
            try:
                candidate = train([month - back for back in range(window, 0, -1)], month, given.fleet, given.source, given.models)
            except MonthNotPublished:
                continue
            for name, score in candidate.scores.items():
                print(
                    f"{month}     {window:>6}  {name:<16}{score['rmse_val']:6.3f} {score['bias_val']:+7.3f} {score['coverage_val']:7.1%} {score['width_val']:13.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
