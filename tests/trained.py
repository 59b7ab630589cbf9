"""Workspaces as a training leaves them: Qlib's record in mlflow's files, the manifest, RD-Agent's results."""

from __future__ import annotations

import datetime
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.qlib_files import base_sets, manifest, model_yaml, yaml_edits
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from tests import frames

BASE = BaseSet("small", (("KLEN", "($high-$low)/$open"), ("ROC60", "Ref($close, 60)/$close")))
MINED = ("gap", "turn")
DIGEST = "sha256:" + "5" * 64
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
TRAINING = {
    "train": ["2008-01-01 00:00:00", "2014-12-31 00:00:00"],
    "valid": ["2015-01-01 00:00:00", "2016-12-31 00:00:00"],
    "test": ["2017-01-01 00:00:00", "2020-08-01 00:00:00"],
    "provider_uri": "~/.qlib/qlib_data/cn_data",
    "market": "csi300",
    "label": LABEL,
}
CODE = "model_cls = None\n"
RECORDER = "cb1854e417e347efb5b6cff0c850b0d2"
METRICS = {"IC": 0.0521, "Rank IC": float("nan"), "1day.excess_return_with_cost.max_drawdown": -0.25}

_BEGIN, _END = datetime.date(2008, 1, 1), datetime.date(2014, 12, 31)


def config(
    base: BaseSet = BASE,
    factor_file: bool = True,
    width: int | None = 4,
    test: tuple[str, str] = ("2017-01-01", "2020-08-01"),
) -> dict[str, Any]:
    """Return a configuration as qrun reads it from RD-Agent 1.0.0's YAML."""
    first: dict[str, Any] = {"label": [[LABEL], ["LABEL0"]]}
    if base.features:
        first["feature"] = [[expression for _, expression in base.features], list(base.names)]
    loaders = [{"class": "qlib.contrib.data.loader.Alpha158DL", "kwargs": {"config": first}}]
    if factor_file:
        static = "qlib.data.dataset.loader.StaticDataLoader"
        loaders.append({"class": static, "kwargs": {"config": "combined_factors_df.parquet"}})
    handler = {
        "start_time": _BEGIN,
        "instruments": "csi300",
        "data_loader": {"class": "NestedDataLoader", "kwargs": {"dataloader_l": loaders}},
    }
    model: dict[str, Any] = {"n_epochs": 2, "pt_model_uri": "model.model_cls"}
    if width is not None:
        model["pt_model_kwargs"] = {"num_features": width}
    segments = {
        "train": [_BEGIN, _END],
        "valid": [datetime.date(2015, 1, 1), datetime.date(2016, 12, 31)],
        "test": [datetime.date.fromisoformat(day) for day in test],
    }
    return {
        "qlib_init": {"provider_uri": "~/.qlib/qlib_data/cn_data", "region": "cn"},
        "task": {
            "model": {"class": "GeneralPTNN", "module_path": yaml_edits.NETWORK[1], "kwargs": model},
            "dataset": {
                "class": "DatasetH",
                "kwargs": {"handler": {"class": "DataHandlerLP", "kwargs": handler}, "segments": segments},
            },
            "record": [],
        },
    }


def write_record(
    workspace: Path,
    document: dict[str, Any],
    *,
    config_file: str = model_yaml.CONFIG_FILE,
    run: str = RECORDER,
    status: int = 3,
    ended: int = 1795379663256,
) -> Path:
    """Write what Qlib records through mlflow, parameters cut at 1,000 characters; return the run's folder."""
    folder = workspace / "mlruns" / "202467401526266377" / run
    (folder / "params").mkdir(parents=True)
    (folder / "artifacts").mkdir()
    (folder.parent / "meta.yaml").write_text("experiment_id: '202467401526266377'\nname: workflow\n")
    (folder / "meta.yaml").write_text(
        f"artifact_uri: file://{folder}/artifacts\nend_time: {ended}\nlifecycle_stage: active\n"
        f"run_id: {run}\nrun_name: mlflow_recorder\nstatus: {status}\ntags: []\nuser_id: root\n"
    )
    params = _flat(document["task"])
    params["cmd-sys.argv"] = f"/env/lib/python3.11/site-packages/qlib/cli/run.py {config_file}"
    for name, value in params.items():
        (folder / "params" / name).write_text(str(value)[:1000])
    (folder / "artifacts" / "config").write_bytes(pickle.dumps(document))
    (folder / "artifacts" / "task").write_bytes(pickle.dumps(document["task"]))
    return folder


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested dictionaries as Qlib makes parameters of them (`utils/__init__.py`, pyqlib 0.9.7)."""
    if not isinstance(value, dict):
        return {name: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{name}.{key}" if name else key)
    return found


def report(days: int = 4) -> pd.DataFrame:
    """Return daily returns as Qlib reports them; the greatest fall of the sums with cost is 0.035."""
    index = pd.DatetimeIndex(pd.date_range("2017-01-03", periods=days), name="datetime")
    columns = {"account": 1e8, "return": 0.01, "total_turnover": 1.0, "cost": 0.005, "bench": 0.002}
    frame = pd.DataFrame(columns, index=index)
    frame.iloc[1:3, frame.columns.get_loc("return")] = [-0.02, 0.015 - 0.0035 - 0.0045 - 0.008 - 0.0]
    return frame


def write_training(
    workspace: Path,
    *,
    mined: Sequence[str] = MINED,
    base: BaseSet = BASE,
    digest: str = DIGEST,
    stored: bool = True,
) -> Path:
    """Write what a training on a handed-over set leaves, and return the workspace."""
    workspace.mkdir(parents=True)
    file = frames.write(frames.nested(frames.factor_frame(mined)), workspace)
    beside = base.without(mined)
    width = len(beside.features) + len(mined)
    write_record(workspace, config(beside, width=width))
    write_results(workspace)
    note = f"# rdagent-sota-bridge: factor set {digest}, base set {base.name} sha256:{beside.digest}"
    (workspace / model_yaml.CONFIG_FILE).write_text(f"{note}\nqlib_init:\n")
    columns = sorted({*beside.names, *mined})
    loaded = {
        "recorder": RECORDER,
        "columns": columns,
        "columns_without_training_values": [],
        "num_features": width,
        "versions": {},
    }
    (workspace / manifest.LOADED_FILE).write_text(json.dumps(loaded))
    place = {"path": "/store/a", "digest": parquet.current_digest(file), "placed_as": "link"}
    write_manifest(workspace, mined=mined, base=base, digest=digest, stored=place if stored else None)
    return workspace


def write_manifest(
    workspace: Path,
    *,
    from_cache: bool = False,
    mined: Sequence[str] = MINED,
    base: BaseSet = BASE,
    digest: str = DIGEST,
    stored: dict[str, str] | None = None,
) -> Path:
    """Write a manifest as the hand-off does, and return its path."""
    workspace.mkdir(parents=True, exist_ok=True)
    columns = sorted({*base.names, *mined})
    loaded = {"columns": columns, "columns_without_training_values": [], "num_features": len(columns)}
    content = {
        "model": {"name": "SmallMLP", "type": "Tabular"},
        **({"from_cache": True} if from_cache else {}),
        "factor_set": {"path": "/a", "digest": digest, "columns": list(mined), "stored": stored},
        "mined_columns": list(mined),
        "base_set": {
            "name": base.name,
            "digest": f"sha256:{base.digest}",
            "features": dict(base.features),
            "replaced_by_mined": [name for name in base.names if name in mined],
        },
        "training": TRAINING,
        "qlib_loaded": None if from_cache else loaded,
    }
    return manifest.write_manifest(workspace, content)


def write_baseline(workspace: Path) -> Path:
    """Write what a training without factors leaves, and return the workspace."""
    workspace.mkdir(parents=True)
    write_record(
        workspace,
        config(BaseSet("alpha20", tuple(base_sets.ALPHA20.items())), factor_file=False, width=20),
        config_file="conf_baseline_factors_model.yaml",
    )
    write_results(workspace)
    return workspace


def write_results(workspace: Path, metrics: dict[str, float] = METRICS) -> None:
    """Write RD-Agent's files of a back-test, and the model's code."""
    pd.Series(metrics).to_csv(workspace / "qlib_res.csv")
    report().to_parquet(workspace / "ret.parquet")
    (workspace / "model.py").write_text(CODE)


def lose(name: str) -> Callable[[Path], object]:
    """Return what takes a file or a folder out of a workspace."""
    return lambda model: shutil.rmtree(model / name) if (model / name).is_dir() else (model / name).unlink()


def put(name: str, text: str) -> Callable[[Path], object]:
    """Return what puts a text into a workspace."""

    def write(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).write_text(text)

    return write


def with_pickles(model: Path) -> Path:
    """Put what stands for Qlib's pickles into a model's record, and return its workspace."""
    (artifacts,) = model.glob("mlruns/*/*/artifacts")
    for name in ("params.pkl", "dataset", "pred.pkl"):
        (artifacts / name).write_text(name)
    return model
