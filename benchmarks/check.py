"""How long, and with how much memory, a factor set of a whole market is checked: python benchmarks/check.py

Writes 5.4 million rows of 30 factors (5,200 instruments on 1,046 days, 1.4 GB) and a Qlib data folder for
them into a temporary folder (`--folder` keeps it), then measures in processes of their own:

- `pandas.read_parquet` of the file,
- the first look at it (`quality.look`: everything that `rdagent-sota check` says of the set),
- the whole of a run's own check once the set is known.

They are repeated alternately; what counts is the ratio of the medians, for machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_bridge.locate import FACTOR_FILE

DAYS, INSTRUMENTS, FACTORS = 1046, 5200, 30
FIRST_DAY = "2016-01-04"
SEGMENTS = {
    "QLIB_MODEL_TRAIN_START": "2016-01-04",
    "QLIB_MODEL_TRAIN_END": "2017-12-29",
    "QLIB_MODEL_VALID_START": "2018-01-01",
    "QLIB_MODEL_VALID_END": "2018-12-31",
    "QLIB_MODEL_TEST_START": "2019-01-01",
    "QLIB_MODEL_TEST_END": "2020-01-06",
}

READ = "import pandas, sys; pandas.read_parquet(sys.argv[1])"
LOOK = """
from rdagent_sota_bridge import inspection, settings
inspection.inspect(settings.read_settings())
"""
TIMED = """
import json, resource, sys, time
{before}
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([seconds, peak]))
"""


def main() -> None:
    """Write the data, measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keep the data in this folder, or use what is there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--write", action="store_true", help="write the data into the folder, and measure nothing"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
        folder = asked.folder or Path(temporary)
        file = folder / FACTOR_FILE
        if asked.write:
            write_market(folder / "home" / ".qlib" / "qlib_data" / "cn_data")
            write_factors(file)
            return
        if not file.is_file():
            # In a process of its own: on Linux, a process's peak of memory counts for its later children too.
            subprocess.run([sys.executable, __file__, "--write", "--folder", str(folder)], check=True)
        size = file.stat().st_size / 1e9
        print(f"{FACTOR_FILE}: {size:.2f} GB, {DAYS * INSTRUMENTS:,} rows, {FACTORS} factors")
        reads, looks, known = [], [], []
        for repeat in range(asked.repeats):
            cache = Path(temporary) / f"cache{repeat}"
            reads.append(measured(READ, file, cache, folder))
            looks.append(measured(LOOK, file, cache, folder))
            known.append(measured(LOOK, file, cache, folder, warm=True))
        report("pandas.read_parquet", reads)
        report("check, first look", looks)
        report("check, known set", known)
        ratio = statistics.median(seconds for seconds, _ in looks) / statistics.median(s for s, _ in reads)
        print(f"first look / read_parquet: {ratio:.2f} (limit 3)")
        print(f"memory of the first look: {max(peak for _, peak in looks) / 1e9:.2f} GB (limit 1)")
        print(f"known set: {1000 * statistics.median(s for s, _ in known):.0f} ms (limit 50)")


def measured(code: str, file: Path, cache: Path, folder: Path, *, warm: bool = False) -> tuple[float, float]:
    """Return seconds and peak bytes of a code in a process of its own, imports not counted.

    Args:
        code: What is timed.
        file: The factor file.
        cache: The folder of the memory; a new one for a first look.
        folder: Where the data is.
        warm: Run the code once before it is timed, as a run does whose loop is resumed.
    """
    before = "import pandas, pyarrow.parquet\nfrom rdagent_sota_bridge import inspection, settings"
    if warm:
        before += "\n" + LOOK
    environment = {
        **os.environ,
        **SEGMENTS,
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(cache),
        "SOTA_WORKSPACE_PATH": str(file.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(before=before, code=code), str(file)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def report(name: str, figures: list[tuple[float, float]]) -> None:
    """Print one line of figures."""
    seconds = ", ".join(f"{seconds:.3g} s" for seconds, _ in figures)
    print(f"{name:22} {seconds}; peak {max(peak for _, peak in figures) / 1e9:.2f} GB")


def write_factors(file: Path) -> None:
    """Write a factor file as RD-Agent does: a third of the factors much alike, some values missing."""
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([days(), instruments()], names=["datetime", "instrument"])
    values = random.standard_normal((len(index), FACTORS))
    # Mean daily correlations of 0.96, as variants of one idea have: alike, and too little so to be dropped.
    values[:, : FACTORS // 3] = (
        0.98 * random.standard_normal((len(index), 1)) + 0.2 * values[:, : FACTORS // 3]
    )
    values[random.random(len(index)) < 0.02, 3] = np.nan
    columns = pd.MultiIndex.from_product([["feature"], [f"factor_{number}" for number in range(FACTORS)]])
    pd.DataFrame(values, index=index, columns=columns).to_parquet(file, engine="pyarrow")


def write_market(folder: Path) -> None:
    """Write calendar, instruments and closing prices in Qlib's format."""
    random = np.random.default_rng(1)
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day:%Y-%m-%d}\n" for day in days()))
    (folder / "instruments").mkdir()
    lines = "".join(f"{code}\t{FIRST_DAY}\t2020-12-31\n" for code in instruments())
    (folder / "instruments" / "csi300.txt").write_text(lines)
    for code in instruments():
        place = folder / "features" / code.lower()
        place.mkdir(parents=True)
        closes = 10 * np.cumprod(1 + 0.01 * random.standard_normal(DAYS))
        np.concatenate([[0.0], closes]).astype("<f4").tofile(place / "close.day.bin")


def days() -> pd.DatetimeIndex:
    """Return the trading days."""
    return pd.bdate_range(FIRST_DAY, periods=DAYS)


def instruments() -> list[str]:
    """Return the instruments' codes."""
    return [f"SH{600000 + number}" for number in range(INSTRUMENTS)]


if __name__ == "__main__":
    main()
