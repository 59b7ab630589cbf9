"""How long a report takes, and with how much memory: python benchmarks/report.py

Writes a market of CSI300's scale (300 of 330 instruments at a time, on the business days of 2008 to 2020), a
set of 30 factors, and the logs and workspaces of a factor run and of a model run of 10 loops each into a
temporary folder (`--folder` keeps them). Then it measures, in processes of their own:

- `factor_analysis.analyse` alone: the figures of the 30 factors, and their correlations with each other,
- the whole of `rdagent-sota report` on both logs,
- alphalens-reloaded on `--alphalens` of the factors, where it is installed.

The memory is that of the process and its children together, looked at ten times a second; pages that they
share count once. It is read from /proc, so on Linux alone.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import base_sets, manifest, model_yaml

DAYS = pd.bdate_range("2008-01-01", "2020-12-31")
TEST = (pd.Timestamp("2017-01-01"), pd.Timestamp("2020-08-01"))
SLOTS, INSTRUMENTS, FACTORS, LOOPS = 300, 330, 30, 10
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "factor", "change")
ACCEPTED = {4: 15, 9: FACTORS}
"""Factor loops that are accepted, with the factors of their sets."""

MARKET = Path("home") / ".qlib" / "qlib_data" / "cn_data"
ROOT = Path("project") / "git_ignore_folder" / "RD-Agent_workspace"
FACTOR_LOG, MODEL_LOG = Path("project") / "log" / "factors", Path("project") / "log" / "models"

ANALYSE = """
import json, sys
from pathlib import Path
from rdagent_sota_bridge.report import factor_analysis
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.check.quality import Source
workspace = Path(sys.argv[1])
told = json.loads((workspace / "sota_manifest.json").read_text())
listed = told["factor_set"]["sources"]
sources = [Source(Path(at["path"]), at["digest"], tuple(at["columns"])) for at in listed]
task = training_record.read(workspace).task
found = factor_analysis.analyse(told["factor_set"]["digest"], sources, task)
assert len(found.sheets) == 30 and len(found.names) == 30 and not found.notes, found.notes
"""
ALPHALENS = """
import contextlib, io, sys, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
from alphalens import performance, utils
from rdagent_sota_bridge import label, market
folder, file, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
there = market.read_market(str(folder), "csi300")
days = np.flatnonzero((there.calendar >= "2017-01-01") & (there.calendar <= "2020-08-01"))
names = ["date", "asset"]
index = pd.MultiIndex.from_product([there.calendar[days], there.instruments], names=names)
returns = label.values(folder, "Ref($close, -2)/Ref($close, -1) - 1", days, there.instruments).astype(float)
forward = pd.DataFrame({"1D": returns.ravel()}, index=index)[there.members()[days].ravel()]
start = time.perf_counter()
for position in range(number):
    factor = pd.read_parquet(file, columns=[str(("feature", f"factor_{position}"))]).iloc[:, 0]
    factor.index.names = names
    factor = factor.reindex(forward.index)
    with contextlib.redirect_stdout(io.StringIO()):
        rows = utils.get_clean_factor(factor, forward, max_loss=1.0)
    performance.factor_information_coefficient(rows)
    performance.mean_information_coefficient(rows, by_time="ME")
    performance.mean_return_by_quantile(rows)
    performance.factor_rank_autocorrelation(rows)
print((time.perf_counter() - start) / number)
"""


def main() -> None:
    """Write the data, measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keep the data in this folder, or use what is there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alphalens", type=int, default=2, help="how many factors alphalens is timed on")
    parser.add_argument(
        "--write", action="store_true", help="write the data into the folder, and measure nothing"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
        folder = (asked.folder or Path(temporary)).absolute()
        if asked.write:
            write(folder)
            return
        if not (folder / MODEL_LOG).is_dir():
            # In a process of its own: it imports RD-Agent, which leaves folders where it is imported.
            command = [sys.executable, str(Path(__file__).absolute()), "--write", "--folder", str(folder)]
            (folder / "project").mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                command, cwd=folder / "project", env=environment(folder), stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                sys.exit(done.stdout)
        measure(folder, asked.repeats, asked.alphalens)


def measure(folder: Path, repeats: int, with_alphalens: int) -> None:
    """Measure, and print the figures."""
    page = folder / "report.html"
    command = Path(sys.executable).parent / "rdagent-sota"
    analyse = [sys.executable, "-c", ANALYSE, str(folder / ROOT / "model0")]
    report = [str(command), "report", str(folder / FACTOR_LOG), str(folder / MODEL_LOG), "-o", str(page)]
    for name, arguments in (("analyse", analyse), ("report", report)):
        for repeat in range(repeats):
            # Nothing is remembered of earlier ones.
            shutil.rmtree(folder / "home" / "cache", ignore_errors=True)
            page.unlink(missing_ok=True)
            seconds, busy, peak = measured(arguments, folder)
            figures = f"{seconds:.1f} s, processors {busy:.1f} s, {peak / 1e9:.2f} GB"
            print(f"{name:10} {repeat + 1}: {figures}", flush=True)
    print(f"page: {page.stat().st_size / 1e6:.1f} MB")
    if with_alphalens and importlib.util.find_spec("alphalens") is not None:
        file = folder / ROOT / f"factor{LOOPS - 1}" / FACTOR_FILE
        given = [str(folder / MARKET), str(file), str(with_alphalens)]
        done = subprocess.run(
            [sys.executable, "-c", ALPHALENS, *given], stdout=subprocess.PIPE, text=True, check=True
        )
        print(f"alphalens: {float(done.stdout):.1f} s a factor")


def measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Return the seconds that a command takes, those that processors work for it, and its bytes of memory.

    Both are of the command and its children together; the memory is the most at a time.
    """
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peaks = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peaks.append(sum(map(memory, family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(output.decode(errors="replace"))
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, busy, max(peaks)


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(place.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def memory(pid: int) -> int:
    """Return the bytes of memory of a process; what it shares with others counts in part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that works on the data."""
    home = folder / "home"
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "ARTIFACT_SIGNING_KEY_PATH": str(home / "artifact_signing.key"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


# --- the data ---


def write(folder: Path) -> None:
    """Write market, factors, workspaces and logs."""
    random = np.random.default_rng(3)
    codes = write_market(folder / MARKET, random)
    for loop, number in ACCEPTED.items():
        write_factors(folder / ROOT / f"factor{loop}" / FACTOR_FILE, codes, number)
    for loop in range(LOOPS):
        write_result(folder / ROOT / f"factor{loop}", random)
        write_model(folder / ROOT, loop, random)
    write_logs(folder)


def write_market(folder: Path, random: np.random.Generator) -> list[str]:
    """Write a market in Qlib's format, of which a tenth leaves for others half-way, and return the codes."""
    codes = [f"SH{600000 + number}" for number in range(INSTRUMENTS)]
    lines = []
    for number, code in enumerate(codes):
        left, joined = DAYS[len(DAYS) * 4 // 5 + number % 30], DAYS[len(DAYS) * 4 // 5 + 1 + number % 30]
        start = joined if number >= SLOTS else DAYS[0]
        end = left if number < INSTRUMENTS - SLOTS else DAYS[-1]
        lines.append(f"{code}\t{start:%Y-%m-%d}\t{end:%Y-%m-%d}\n")
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day:%Y-%m-%d}\n" for day in DAYS))
    (folder / "instruments").mkdir()
    for name in ("all", "csi300"):
        (folder / "instruments" / f"{name}.txt").write_text("".join(lines))
    for code in codes:
        change = 0.02 * random.standard_normal(len(DAYS))
        close = 10 * np.cumprod(1 + change)
        opening = close * (1 + 0.01 * random.standard_normal(len(DAYS)))
        around = 1 + 0.01 * random.random((2, len(DAYS)))
        series = {
            "open": opening,
            "high": np.maximum(opening, close) * around[0],
            "low": np.minimum(opening, close) / around[1],
            "close": close,
            "volume": np.exp(14 + 0.5 * random.standard_normal(len(DAYS))),
            "vwap": (opening + close) / 2,
            "factor": np.ones(len(DAYS)),
            "change": change,
        }
        place = folder / "features" / code.lower()
        place.mkdir(parents=True)
        for field in FIELDS:
            np.concatenate([[0.0], series[field]]).astype("<f4").tofile(place / f"{field}.day.bin")
    return codes


def write_factors(file: Path, codes: list[str], number: int) -> None:
    """Write a set of factors of one size as RD-Agent does; some values are missing, some factors alike."""
    random = np.random.default_rng(4)
    index = pd.MultiIndex.from_product([DAYS, codes], names=["datetime", "instrument"])
    columns = pd.MultiIndex.from_product([["feature"], [f"factor_{position}" for position in range(number)]])
    common = random.standard_normal(len(index))
    values = np.empty((len(index), number))
    for position in range(number):
        values[:, position] = random.standard_normal(len(index))
        if position < number // 3:
            values[:, position] += common
        values[random.random(len(index)) < 0.02, position] = np.nan
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(values, index=index, columns=columns)), file)


def write_result(workspace: Path, random: np.random.Generator) -> None:
    """Write what RD-Agent leaves of a back-test: metrics and daily returns."""
    workspace.mkdir(parents=True, exist_ok=True)
    ic, annual = random.normal(0.03, 0.01), random.normal(0.1, 0.05)
    names = ("IC", "ICIR", "Rank IC", "Rank ICIR", *(f"1day.excess_return_with_cost.{name}" for name in LATE))
    values = (ic, 8 * ic, 1.1 * ic, 9 * ic, annual, 10 * annual, -0.1)
    pd.Series(values, index=names).to_csv(workspace / RESULT_FILE)
    days = DAYS[DAYS.slice_indexer(*TEST)]
    table = pd.DataFrame(
        {
            "account": 1e8,
            "return": random.normal(annual / 250, 0.01, len(days)),
            "total_turnover": 0.0,
            "turnover": 0.2,
            "total_cost": 0.0,
            "cost": 0.0002,
            "value": 1e8,
            "cash": 1e6,
            "bench": random.normal(0, 0.01, len(days)).astype(np.float32),
        },
        index=days.rename("datetime"),
    )
    table.to_parquet(workspace / "ret.parquet")


LATE = ("annualized_return", "information_ratio", "max_drawdown")


def write_model(root: Path, loop: int, random: np.random.Generator) -> None:
    """Write the workspace of a model: the set, the results, what Qlib recorded, and the manifest."""
    workspace = root / f"model{loop}"
    write_result(workspace, random)
    source = root / f"factor{LOOPS - 1}" / FACTOR_FILE
    (workspace / FACTOR_FILE).hardlink_to(source)
    base = base_sets.base_set("alpha22")
    digest = parquet.current_digest(source)
    mined = [f"factor_{position}" for position in range(FACTORS)]
    width = len(base.features) + len(mined)
    template = resources.files("rdagent.scenarios.qlib.experiment") / "model_template"
    text = model_yaml.adapt((template / model_yaml.CONFIG_FILE).read_text(encoding="utf-8"), base, "a set")
    (workspace / model_yaml.CONFIG_FILE).write_text(text, encoding="utf-8")
    (workspace / "model.py").write_text("class Net:\n    pass\n" * 20, encoding="utf-8")
    variables = {"n_epochs": "2", "lr": "0.01", "early_stop": "2", "batch_size": "256", "weight_decay": "0"}
    variables |= {"test_end": "2020-08-01", "num_features": str(width), **model_yaml.feature_variables(base)}
    write_record(workspace, model_yaml.rendered(text, variables), width)
    described = {"path": str(source), "digest": digest, "columns": mined}
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    origin = {"metrics": {}, "log": str(root.parents[1] / "log" / "factors"), "loop": LOOPS - 1}
    stored = {"path": str(source), "digest": digest, "placed_as": "link"}
    loaded = {"columns": sorted([*base.names, *mined]), "columns_without_training_values": []}
    manifest.write_manifest(
        workspace,
        {
            "created": created,
            "model": {"name": f"Net{loop}", "type": "Tabular"},
            "factor_set": {
                **described,
                "rows": len(DAYS) * INSTRUMENTS,
                "instruments": INSTRUMENTS,
                "start": str(DAYS[0]),
                "end": str(DAYS[-1]),
                "metrics": {},
                "sources": [{**described, **origin, "workspace_id": source.parent.name}],
                "choice": {"factors": [], "exclude": [], "max_correlation": 0.99},
                "stored": stored,
            },
            "mined_columns": mined,
            "base_set": {
                "name": base.name,
                "digest": f"sha256:{base.digest}",
                "features": dict(base.features),
                "replaced_by_mined": [],
            },
            "qlib_loaded": {**loaded, "num_features": width},
            "versions": {"rd_agent_side": manifest.versions(), "qlib_side": {"qlib": "0.9.7"}},
        },
    )


def write_record(workspace: Path, config: Any, width: int) -> None:
    """Write what Qlib records of a back-test: mlflow's files, texts cut at 1,000 characters."""
    run = workspace / "mlruns" / "1" / "a1"
    (run / "params").mkdir(parents=True)
    (run / "artifacts").mkdir()
    (run / "meta.yaml").write_text("end_time: 1795379738756\nlifecycle_stage: active\nstatus: 3\n")
    dataset = config["task"]["dataset"]["kwargs"]
    loaders = dataset["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"]
    handler = "dataset.kwargs.handler.kwargs"
    parameters = {
        "cmd-sys.argv": f"qrun {model_yaml.CONFIG_FILE}",
        "model.kwargs.pt_model_kwargs.num_features": width,
        f"{handler}.instruments": config["market"],
        f"{handler}.data_loader.kwargs.dataloader_l": loaders,
        **{f"dataset.kwargs.segments.{name}": days for name, days in dataset["segments"].items()},
    }
    for name, value in parameters.items():
        (run / "params" / name).write_text(str(value)[:1000])
    with (run / "artifacts" / "config").open("wb") as file:
        pickle.dump(config, file)


def write_logs(folder: Path) -> None:
    """Write the logs of both runs, with RD-Agent's own classes."""
    sys.path.append(str(Path(__file__).parents[1]))
    from tests import logs

    root = folder / ROOT
    names = [tuple(f"factor_{3 * loop + number}" for number in range(3)) for loop in range(LOOPS)]
    mined = [(f"factor{loop}", names[loop], loop in ACCEPTED) for loop in range(LOOPS)]
    models: list[Any] = [(f"model{loop}", (), loop % 3 == 0) for loop in range(LOOPS)]
    logs.write_run(folder / FACTOR_LOG, root, *mined)
    logs.write_run(folder / MODEL_LOG, root, *models, kind="ModelRDLoop")


if __name__ == "__main__":
    main()
