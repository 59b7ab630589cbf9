"""How often the report's headline is wrong, and what it finds: python benchmarks/headline.py

Draws jobs of ten loops with and ten without the mined columns on 262 days: daily differences of the IC with a
spread of 0.06, of which a share of 0.3 is of the day and common to all loops. Prints the shares of jobs
called better and worse where nothing is there, those that find a planted difference of three and five
standard errors, and the time that the page's statistics take for 20 loops of 870 days.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.report import statistics

SPREAD, COMMON = 0.06, 0.3


def job(
    random: np.random.Generator, loops: int = 10, days: int = 262, memory: float = 0.0, luck: float = 0.0
) -> Any:
    """Return daily differences, (days, loops), of a job whose mined columns are worth nothing.

    Args:
        random: Where they are drawn from.
        loops: How many loops.
        days: How many days.
        memory: How each day correlates with the day before.
        luck: The spread of the loops' true differences.
    """
    steps = random.standard_normal((days, loops + 1))
    for day in range(1, days):
        steps[day] = memory * steps[day - 1] + (1 - memory**2) ** 0.5 * steps[day]
    of_day, of_loop = steps[:, :1], steps[:, 1:]
    found = SPREAD * (COMMON**0.5 * of_day + (1 - COMMON) ** 0.5 * of_loop)
    return found + luck * random.standard_normal(loops)


def main() -> None:
    """Print the shares, and the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2000)
    jobs = parser.parse_args().jobs
    random = np.random.default_rng(15)
    one_error = SPREAD * ((COMMON + (1 - COMMON) / 10) / 262) ** 0.5
    cases: dict[str, tuple[float, dict[str, Any]]] = {
        "nothing there": (0, {}),
        "nothing there, days that correlate by 0.2": (0, {"memory": 0.2}),
        "nothing there, 25 such days": (0, {"memory": 0.2, "days": 25}),
        "nothing there, trainings that differ by 0.006": (0, {"luck": 0.006}),
        "nothing there, one loop": (0, {"loops": 1}),
        "three standard errors": (3, {}),
        "five standard errors": (5, {}),
    }
    for name, (errors, how) in cases.items():
        drawn = [pd.DataFrame(job(random, **how) + errors * one_error) for _ in range(jobs)]
        answers = [statistics.estimate(one).answer for one in drawn]
        better, worse = (answers.count(side) / jobs for side in ("better", "worse"))
        print(f"{name}: better {better:.1%}, worse {worse:.1%}", flush=True)
    models = pd.DataFrame(job(random, loops=20, days=870))
    began = time.process_time()
    for series in (models, models):  # IC and rank IC, or the differences of IC and of return
        statistics.estimate(series)
        for number in models:
            statistics.estimate(series[[number]])
    print(f"the statistics of 20 loops of 870 days: {time.process_time() - began:.2f} s of a processor")


if __name__ == "__main__":
    main()
