"""What Qlib recorded of a back-test: mlflow's files in a model's or a factor's workspace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import batches, seeds
from rdagent_sota_bridge.qlib_files.model_yaml import Task, task_of
from rdagent_sota_bridge.qlib_files.yaml_edits import NETWORK
from rdagent_sota_bridge.system.files import open_file, read_text

MODEL_FILE = "model.py"
"""The network, in a model's workspace."""

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
    with _readable(workspace):
        run = _newest_finished(workspace)
        return None if run is None else _read(run)


@contextmanager
def _readable(workspace: Path) -> Iterator[None]:
    """Make a ResultError of what the file system, or a text that is none, says of a record."""
    try:
        yield
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
        entries = dict(line.partition(": ")[::2] for line in read_text(meta).splitlines())
        if entries.get("status") == _FINISHED and entries.get("lifecycle_stage", "active") == "active":
            found.append((_whole_number(entries.get("end_time")) or 0, meta.parent))
    return max(found)[1] if found else None


def _read(run: Path) -> QlibRecord:
    files = [run / "params" / name for name in (_WIDTH, "cmd-sys.argv")]
    texts = [file.read_text(encoding="utf-8") if file.is_file() else "" for file in files]
    width, config_file = _whole_number(texts[0]), texts[1].rpartition(" ")[2].rpartition("/")[2]
    try:
        config = _unpickled(run / "artifacts" / "config")
        handler = config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        configured = config["task"]["model"].get("kwargs", {}).get("pt_model_kwargs", {}).get("num_features")
    except (FileNotFoundError, *safe_pickle.DAMAGE) as error:
        doubt = f"the configuration that Qlib recorded can't be read ({type(error).__name__})"
        return QlibRecord(width, None, None, None, config_file, run.name, (doubt,))
    try:
        task = task_of(config)
    except (KeyError, IndexError, TypeError, ValueError):
        task = None
    doubts: tuple[str, ...] = ()
    if _whole_number(configured) != width:
        doubts = (f"Qlib recorded two input widths: {width} as parameter, {configured} as configuration",)
    first, *others = _at(handler, "data_loader", "kwargs", "dataloader_l") or [None]
    return QlibRecord(
        num_features=width,
        task=task,
        has_factor_file=any(_at(loader, "kwargs", "config") == FACTOR_FILE for loader in others),
        base_names=_base_names(handler, first),
        config_file=config_file,
        recorder=run.name,
        doubts=doubts,
    )


def _base_names(handler: Any, first: Any) -> tuple[str, ...] | None:
    """Return the names of the base features that the data loaders had."""
    config = _at(first, "kwargs", "config")
    if isinstance(config, dict):
        # A model on mined factors alone has a first loader without features.
        names = [] if config.get("feature") is None else _at(config, "feature", 1)
    else:  # a handler of Qlib's own, of whose features RD-Agent 0.8.0 keeps some
        filters = [one for one in _at(handler, "infer_processors") or [] if _at(one, "class") == "FilterCol"]
        names = _at(filters, 0, "kwargs", "col_list")
    return tuple(map(str, names)) if isinstance(names, list) else None


def _at(value: Any, *path: str | int) -> Any:
    """Return what is at a path of keys and positions, or None."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _whole_number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdecimal() else None


# --- the training, for whoever repeats it ---


@dataclass(frozen=True)
class Training:
    """A finished training of a model, as it can be repeated.

    Attributes:
        run: mlflow's folder. Below `artifacts`, `params.pkl` is the model and `dataset` has the fitted
            processors.
        config: `qlib_init` and `task`: the rendered YAML as plain data, which needs no file of this package.
        has_factor_file: Whether a loader reads the factor file beside it.
    """

    run: Path
    config: dict[str, Any]
    has_factor_file: bool


def read_training(workspace: Path) -> Training:
    """Return the newest finished training in a model's workspace.

    Raises:
        ResultError: if the workspace, its code or its record is gone, it has no training, or that can't be
            read.
    """
    leave_out = "put it back, or leave the model out"
    if not workspace.is_dir():
        raise ResultError("The model's workspace is gone", str(workspace), leave_out)
    with _readable(workspace):
        run = _newest_finished(workspace)
        if run is None and (workspace / RESULT_FILE).is_file():
            raise ResultError("What Qlib recorded of the model is gone", str(workspace / "mlruns"), leave_out)
        if run is None:
            fact = "The model has no training of its own: it failed, or RD-Agent answered from its cache"
            raise ResultError(fact, str(workspace), "leave the model out")
        if not (workspace / MODEL_FILE).is_file():
            raise ResultError("The model's code is gone", str(workspace / MODEL_FILE), leave_out)
        artifacts = run / "artifacts"
        try:
            # `config` has the task too; there it holds the model itself and the data set.
            task, config = (_unpickled(artifacts / name) for name in ("task", "config"))
            _give_back_names(task["model"])
            handler = task["dataset"]["kwargs"]["handler"]["kwargs"]
            loaders = [one["kwargs"] for one in handler["data_loader"]["kwargs"]["dataloader_l"]]
            has_factor_file = FACTOR_FILE in [one["config"] for one in loaders]
            return Training(run, {"qlib_init": config["qlib_init"], "task": task}, has_factor_file)
        except (FileNotFoundError, *safe_pickle.DAMAGE) as error:
            fact = f"What Qlib recorded of the training can't be read ({type(error).__name__})"
            raise ResultError(fact, f"task and config in {artifacts}", "leave the model out") from None


def _unpickled(file: Path) -> Any:
    with open_file(file) as content:
        return safe_pickle.load(content)


def _give_back_names(model: dict[str, Any]) -> None:
    """Give the names of Qlib and RD-Agent back where a file of ours stands for them in a recorded model."""
    if model["module_path"] == batches.MODULE:
        model["module_path"] = NETWORK[1]
    if model["kwargs"].get("pt_model_uri") == seeds.SEEDED_NETWORK:
        model["kwargs"]["pt_model_uri"] = seeds.NETWORK


# --- RD-Agent's table of the metrics ---


def metrics_beside(path: Path) -> dict[str, float]:
    """Return the metrics that the factor run left beside its factor file (NaN for no number), {} for none.

    Args:
        path: The factor file, or its place, in the workspace.

    Raises:
        OSError, ValueError: if the file of the metrics can't be read; the text names it.
    """
    file = path.parent / RESULT_FILE
    if not file.is_file():
        return {}
    try:
        rows = pd.read_csv(file, header=None, usecols=[0, 1], dtype=str).dropna(subset=[0])
    except ValueError as error:  # pandas on what is no table, Python on what is no text
        raise ValueError(f"{file} can't be read: {error}") from None
    return {name: _number(value) for name, value in rows.itertuples(index=False)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
