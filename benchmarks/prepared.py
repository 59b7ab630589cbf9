"""How long Qlib makes the data of a training, and what prepared data saves: python benchmarks/prepared.py

Writes a market of CSI300's scale (300 instruments on the business days of 2008-01-01 to 2020-08-01) in Qlib's
format, and factor sets of 10 and of 30 columns beside Alpha22, into a temporary folder (`--folder` keeps it).
Then it makes the dataset that RD-Agent's YAML names, as qrun does, in processes of their own, alternately:

- without prepared data,
- in a first loop with it (key, building, writing),
- in a later loop (key, checking, loading),
- in a later loop whose prepared file is not in memory any more, and is read from the disk.

Imports are not counted. What counts is what later loops gain in seconds; machines differ and are noisy. Qlib
computes base features in as many processes as there are processors, whose memory is not in the peaks.
`--instruments 2000` is a large part of the whole Chinese market.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from rdagent_sota_bridge import alpha, prepared, qlib_config
from rdagent_sota_bridge.names import FACTOR_FILE

DAYS = pd.bdate_range("2008-01-01", "2020-08-01")
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "factor", "change")

PLAIN, PREPARED = "plain.yaml", "prepared.yaml"
MEASURED = """
import json, resource, sys, time
import qlib, yaml
from qlib.utils import init_instance_by_config
import qlib.contrib.data.handler, qlib.contrib.data.loader, numpy, pandas, pyarrow.parquet
with open(sys.argv[1]) as file:
    config = yaml.safe_load(file)
qlib.init(**config["qlib_init"])
start = time.perf_counter()
dataset = init_instance_by_config(config["task"]["dataset"])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
key = 0.0
if "sota_prepared" in sys.modules:
    import sota_prepared
    start = time.perf_counter()
    sota_prepared.ingredients_of(config["task"]["dataset"]["kwargs"]["handler"]["kwargs"], "x")
    key = time.perf_counter() - start
print()
print(json.dumps([seconds, peak, key]))
"""


def main() -> None:
    """Write the data, measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keep the data in this folder, or use what is there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--instruments", type=int, default=300)
    parser.add_argument("--factors", type=int, nargs="+", default=[10, 30])
    parser.add_argument(
        "--write", action="store_true", help="write the data into the folder, and measure nothing"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
        folder = asked.folder or Path(temporary)
        if asked.write:
            write(folder, asked.instruments, asked.factors)
            return
        if not (folder / "home").is_dir():
            # In a process of its own: on Linux, a process's peak of memory counts for its later children too.
            given = ["--folder", str(folder), "--instruments", str(asked.instruments)]
            factors = ["--factors", *map(str, asked.factors)]
            subprocess.run([sys.executable, __file__, "--write", *given, *factors], check=True)
        for number in asked.factors:
            measure(folder, number, asked.repeats)


def measure(folder: Path, factors: int, repeats: int) -> None:
    """Measure one factor set, and print the figures."""
    workspace, store = folder / f"factors{factors}", folder / "prepared"
    names = ("without", "first loop", "later loop", "later loop, from disk")
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        shutil.rmtree(store, ignore_errors=True)
        figures["without"].append(measured(folder, workspace, PLAIN))
        figures["first loop"].append(measured(folder, workspace, PREPARED))
        figures["later loop"].append(measured(folder, workspace, PREPARED))
        (entry,) = prepared.entries(store)
        forget(entry.path)
        figures["later loop, from disk"].append(measured(folder, workspace, PREPARED))
    rows, columns = entry.rows or 0, entry.columns or 0
    print(f"\n{factors} factors: {rows:,} rows, {columns} columns, {os.cpu_count()} processors")
    medians = {name: statistics.median(seconds for seconds, _, _ in found) for name, found in figures.items()}
    for name, found in figures.items():
        seconds = ", ".join(f"{seconds:.3g} s" for seconds, _, _ in found)
        peak = max(peak for _, peak, _ in found) / 1e9
        print(f"{name:22} {seconds}; median {medians[name]:.3g} s; peak {peak:.2f} GB")
    key = statistics.median(key for _, _, key in figures["later loop"])
    for name in ("later loop", "later loop, from disk"):
        gain = medians["without"] - medians[name]
        print(f"{name}: {medians[name] / medians['without']:.2f} of the time, gains {gain:.1f} s")
    cost = medians["first loop"] - medians["without"]
    print(f"the first loop costs {cost:.1f} s more; the key takes {1000 * key:.0f} ms of each loop")
    print(f"disk: {entry.size / 1e6:.0f} MB, {entry.size / rows / columns:.1f} bytes a row and column")


def measured(folder: Path, workspace: Path, config: str) -> tuple[float, float, float]:
    """Return seconds and peak bytes of making the dataset, and seconds of the key, in an own process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, config],
        env={**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": "./"},
        cwd=workspace,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    seconds, peak, key = json.loads(done.stdout.splitlines()[-1])
    expected = None if config == PLAIN else prepared.outcome(workspace)
    assert expected is None or not expected.warning, expected
    return seconds, peak, key


def forget(file: Path) -> None:
    """Take a file out of the system's memory, where the system can."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(folder: Path, instruments: int, factors: list[int]) -> None:
    """Write the market and a workspace for each number of factors."""
    codes = [f"SH{600000 + number}" for number in range(instruments)]
    write_market(folder / "home" / ".qlib" / "qlib_data" / "cn_data", codes)
    for number in factors:
        write_workspace(folder, codes, number)


def write_market(folder: Path, codes: list[str]) -> None:
    """Write calendar, instruments and prices in Qlib's format."""
    random = np.random.default_rng(1)
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day:%Y-%m-%d}\n" for day in DAYS))
    (folder / "instruments").mkdir()
    lines = "".join(f"{code}\t{DAYS[0]:%Y-%m-%d}\t{DAYS[-1]:%Y-%m-%d}\n" for code in codes)
    (folder / "instruments" / "csi300.txt").write_text(lines)
    for code in codes:
        place = folder / "features" / code.lower()
        place.mkdir(parents=True)
        change = 0.02 * random.standard_normal(len(DAYS))
        close = 10 * np.cumprod(1 + change)
        opening = close * (1 + 0.01 * random.standard_normal(len(DAYS)))
        values = {
            "open": opening,
            "high": np.maximum(opening, close) * 1.01,
            "low": np.minimum(opening, close) * 0.99,
            "close": close,
            "volume": np.exp(14 + random.standard_normal(len(DAYS))),
            "vwap": (opening + close) / 2,
            "factor": np.ones(len(DAYS)),
            "change": change,
        }
        for field in FIELDS:
            np.concatenate([[0.0], values[field]]).astype("<f4").tofile(place / f"{field}.day.bin")


def write_workspace(folder: Path, codes: list[str], factors: int) -> None:
    """Write a factor file as RD-Agent does, and RD-Agent's YAML without and with prepared data."""
    workspace = folder / f"factors{factors}"
    workspace.mkdir()
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([DAYS, codes], names=["datetime", "instrument"])
    columns = pd.MultiIndex.from_product([["feature"], [f"factor_{number}" for number in range(factors)]])
    values = random.standard_normal((len(index), factors))
    values[random.random(values.shape) < 0.02] = np.nan
    pd.DataFrame(values, index=index, columns=columns).to_parquet(workspace / FACTOR_FILE, engine="pyarrow")

    base = alpha.base_set("alpha22")
    template = resources.files("rdagent.scenarios.qlib.experiment") / "model_template"
    text = (template / qlib_config.CONFIG_FILE).read_text(encoding="utf-8")
    variables = {
        **qlib_config.feature_variables(base),
        "test_end": f"{DAYS[-1]:%Y-%m-%d}",
        "num_features": "0",
    }
    adapted = qlib_config.adapt(text, base, "benchmark")
    for name, config in ((PLAIN, adapted), (PREPARED, prepared.with_prepared_handler(adapted))):
        (workspace / name).write_text(jinja2.Template(config).render(variables), encoding="utf-8")
    script = prepared.script(folder.absolute() / "prepared", "benchmark")
    (workspace / prepared.SCRIPT_FILE).write_text(script, encoding="utf-8")


if __name__ == "__main__":
    main()
