"""How long, and with how much memory, a factor set of a whole market is checked: python benchmarks/check.py

Writes 5.4 million rows (`--rows`) of 30 factors and a Qlib data folder for them into a temporary folder
(`--folder` keeps it), then measures in processes of their own, alternately:

- `pandas.read_parquet` of the file,
- the first look at it: everything that `rdagent-sota check` says of the set,
- the whole of a run's own check once the set is known.

What counts is the ratio of the medians, for machines differ and are noisy.

Measured, and left out: the check's arithmetic in polars or duckdb takes 5.3 seconds of processors where ours
takes 6, for twice the memory and a wheel of 55 MB.
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

from data import FACTORS, SEGMENTS, Panel, panel_of, write_factors, write_market

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE

READ = "import pandas, sys; pandas.read_parquet(sys.argv[1])"
BEFORE = """
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.check import inspect
dry_run.of_models()
"""
LOOK = """
from rdagent_sota_bridge import settings
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.factor_set import locate
asked = settings.read_settings()
inspect.inspect(asked, dry_run.of_models().start, locate.factor_sets(asked.workspace_paths, ()))
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
    parser.add_argument("--rows", type=int, default=Panel().rows)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--write", action="store_true", help="write the data into the folder, and measure nothing"
    )
    asked = parser.parse_args()
    rows = panel_of(asked.rows)
    with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
        folder = (asked.folder or Path(temporary)).absolute()
        file = folder / FACTOR_FILE
        if asked.write:
            write_market(folder / "home" / ".qlib" / "qlib_data" / "cn_data", rows)
            write_factors(file, rows)
            return
        if not file.is_file():
            # In a process of its own: on Linux, a process's peak of memory counts for its later children too.
            write = [sys.executable, __file__, "--write", "--folder", str(folder), "--rows", str(rows.rows)]
            subprocess.run(write, check=True)
        size = file.stat().st_size / 1e9
        print(f"{FACTOR_FILE}: {size:.2f} GB, {rows.rows:,} rows, {FACTORS} factors")
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

    A new `cache` folder makes it a first look; `warm` runs the code once before it is timed.
    """
    before = "import pandas, pyarrow.parquet" + BEFORE + (LOOK if warm else "")
    environment = {
        **os.environ,
        **SEGMENTS,
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(cache),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
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


if __name__ == "__main__":
    main()
