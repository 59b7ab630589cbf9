"""What Qlib recorded of a back-test: mlflow's files in a model's or a factor's workspace."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import Segment, Task

_FINISHED = "3"  # mlflow's RunStatus.FINISHED, as its file store writes it
_WIDTH = "model.kwargs.pt_model_kwargs.num_features"


@dataclass(frozen=True)
class QlibRecord:
    """What one finished back-test recorded.

    Attributes:
        num_features: The input width of the network (`model.kwargs.pt_model_kwargs.num_features`); None for a
            model that has none, such as the LightGBM that judges factors.
        task: The data folder, market, segments and label; None where the record does not say them all.
        has_factor_file: True where a loader read `combined_factors_df.parquet`; None where the configuration
            can't be read.
        base_names: The names of the base features of the first loader, in order; None where the record does
            not say.
        config_file: Name of the YAML that qrun was started with; empty where the record does not say.
        recorder: mlflow's id of the run.
        doubts: What of the record can't be read, or contradicts itself; each is one sentence.
    """

    num_features: int | None
    task: Task | None
    has_factor_file: bool | None
    base_names: tuple[str, ...] | None = None
    config_file: str = ""
    recorder: str = ""
    doubts: tuple[str, ...] = ()


def read(workspace: Path) -> QlibRecord | None:
    """Return what Qlib recorded of the newest finished back-test in a workspace, or None without one.

    Qlib records twice (`qlib/model/trainer.py` and `qlib/cli/run.py`, pyqlib 0.9.7): parameters as text, of
    which the width and qrun's command line are read here, and the whole configuration as a pickle, which is
    read without running anything that it names.

    Args:
        workspace: The folder that holds `mlruns`.

    Raises:
        ResultError: if the record of the run can't be read.
    """
    try:
        run = _newest_finished(workspace)
        return None if run is None else _read(run)
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(
            f"What Qlib recorded can't be read: {error}",
            str(workspace / "mlruns"),
            "make the files readable for you (see `ls -l`), or leave the run out",
        ) from None


def _newest_finished(workspace: Path) -> Path | None:
    """Return mlflow's folder of the run that ended last, of those that went to their end."""
    found = []
    for meta in workspace.glob("mlruns/*/*/meta.yaml"):
        # mlflow writes one entry a line; a parser of YAML would take a date in a name for one.
        entries = dict(line.partition(": ")[::2] for line in meta.read_text(encoding="utf-8").splitlines())
        if entries.get("status") == _FINISHED and entries.get("lifecycle_stage", "active") == "active":
            end = entries.get("end_time", "")
            found.append((int(end) if end.isdecimal() else 0, meta.parent))
    return max(found)[1] if found else None


def _read(run: Path) -> QlibRecord:
    width = _whole_number(_parameter(run, _WIDTH))
    config_file = _parameter(run, "cmd-sys.argv").rpartition(" ")[2].rpartition("/")[2]
    try:
        config = safe_pickle.load(io.BytesIO((run / "artifacts" / "config").read_bytes()))
        handler = config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        segments = config["task"]["dataset"]["kwargs"]["segments"]
        configured = config["task"]["model"].get("kwargs", {}).get("pt_model_kwargs", {}).get("num_features")
    except (FileNotFoundError, *safe_pickle.DAMAGE) as error:
        doubt = f"the configuration that Qlib recorded can't be read ({type(error).__name__})"
        return QlibRecord(width, None, None, None, config_file, run.name, (doubt,))
    doubts: tuple[str, ...] = ()
    if _whole_number(configured) != width:
        doubts = (f"Qlib recorded two input widths: {width} as parameter, {configured} as configuration",)
    loaders = _at(handler, "data_loader", "kwargs", "dataloader_l")
    loaders = loaders if isinstance(loaders, list) else []
    return QlibRecord(
        num_features=width,
        task=_task(
            _at(config, "qlib_init", "provider_uri"), _at(handler, "instruments"), _label(handler), segments
        ),
        has_factor_file=any(_at(loader, "kwargs", "config") == FACTOR_FILE for loader in loaders[1:]),
        base_names=_base_names(handler, loaders),
        config_file=config_file,
        recorder=run.name,
        doubts=doubts,
    )


def _parameter(run: Path, name: str) -> str:
    file = run / "params" / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _base_names(handler: Any, loaders: list[Any]) -> tuple[str, ...] | None:
    """Return the names of the base features that the data loaders had."""
    if loaders:
        config = _at(loaders[0], "kwargs", "config")
        # A model on mined factors alone has a first loader without features.
        has_none = isinstance(config, dict) and config.get("feature") is None
        names = [] if has_none else _at(config, "feature", 1)
    else:  # a handler of Qlib's own, of whose features RD-Agent 0.8.0 keeps some
        processors = _at(handler, "infer_processors") or []
        chosen = [_at(one, "kwargs", "col_list") for one in processors if _at(one, "class") == "FilterCol"]
        names = chosen[0] if chosen else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _at(value: Any, *path: str | int) -> Any:
    """Return what is at a path of keys and positions, or None."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _label(handler: Any) -> str | None:
    label = _at(handler, "data_loader", "kwargs", "dataloader_l", 0, "kwargs", "config", "label", 0)
    if label is None:
        label = _at(handler, "label")
    first = label if isinstance(label, str) else _at(label, 0)  # expressions before names, or an expression
    return first if isinstance(first, str) else None


def _task(provider: Any, market: Any, label: str | None, segments: Any) -> Task | None:
    train, valid, test = (_segment(_at(segments, name)) for name in ("train", "valid", "test"))
    if not (isinstance(provider, str) and isinstance(market, str) and label and train and valid and test):
        return None
    return Task(provider, market, train, valid, test, label)


def _segment(days: Any) -> Segment | None:
    if not isinstance(days, (list, tuple)) or len(days) != 2:
        return None
    start, end = (_day(day) for day in days)
    return None if start is None or pd.isna(start) or end is None else (start, end)


def _day(day: Any) -> Any:
    """Return a day of the record as a timestamp: NaT for an open end, None for what is none."""
    try:
        return pd.Timestamp(day) if day is None or isinstance(day, (str, datetime.date)) else None
    except (TypeError, ValueError):
        return None


def _whole_number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdecimal() else None
