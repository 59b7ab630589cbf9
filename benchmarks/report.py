"""How long a report takes, and with how much memory: python benchmarks/report.py

Writes a market of CSI300's scale (330 instruments, 13 years of days), a set of 30 factors, and the logs and
workspaces of a factor run and of a model run of 10 loops each into a temporary folder (`--folder` keeps
them). Then it measures `rdagent-sota report` on both logs, in a process of its own that remembers nothing of
earlier ones. The memory is that of the process and its children together, looked at ten times a second; pages
that they share count once.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import memory
import numpy as np
import pandas as pd
from data import FACTORS, Panel, write_factors, write_market

from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import base_sets, manifest, model_yaml

PANEL = Panel(days=3391, instruments=330)
DAYS = PANEL.calendar()
TEST = (pd.Timestamp("2017-01-01"), pd.Timestamp("2020-08-01"))
LOOPS = 10

MARKET = Path("home") / ".qlib" / "qlib_data" / "cn_data"
ROOT = Path("project") / "git_ignore_folder" / "RD-Agent_workspace"
FACTOR_LOG, MODEL_LOG = Path("project") / "log" / "factors", Path("project") / "log" / "models"


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
        measure(folder, asked.repeats)


def measure(folder: Path, repeats: int) -> None:
    """Measure, and print the figures."""
    page = folder / "report.html"
    command = [str(Path(sys.executable).parent / "rdagent-sota"), "report"]
    command += [str(folder / FACTOR_LOG), str(folder / MODEL_LOG), "-o", str(page)]
    for repeat in range(repeats):
        shutil.rmtree(folder / "home" / "cache", ignore_errors=True)
        page.unlink(missing_ok=True)
        seconds, busy, peak = measured(command, folder)
        figures = f"{seconds:.1f} s, processors {busy:.1f} s, {peak / 1e9:.2f} GB"
        print(f"report {repeat + 1}: {figures}", flush=True)
    print(f"page: {page.stat().st_size / 1e6:.1f} MB")


def measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Return the seconds that a command takes, those that processors work for it, and its bytes of memory.

    Both are of the command and its children together; the memory is the most at a time.
    """
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with memory.watched(process.pid) as peaks:
        output, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(output.decode(errors="replace"))
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, busy, max(peaks)


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
    write_market(folder / MARKET, PANEL)
    write_factors(folder / ROOT / f"factor{LOOPS - 1}" / FACTOR_FILE, PANEL)
    for loop in range(LOOPS):
        write_result(folder / ROOT / f"factor{loop}", random)
        write_model(folder / ROOT, loop, random)
    write_logs(folder)


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
                "rows": PANEL.rows,
                "instruments": PANEL.instruments,
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
    mined = [(f"factor{loop}", names[loop], loop == LOOPS - 1) for loop in range(LOOPS)]
    models: list[Any] = [(f"model{loop}", (), loop % 3 == 0) for loop in range(LOOPS)]
    logs.write_run(folder / FACTOR_LOG, root, *mined)
    logs.write_run(folder / MODEL_LOG, root, *models, kind="ModelRDLoop")


if __name__ == "__main__":
    main()
