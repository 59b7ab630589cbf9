"""What Qlib recorded of a back-test: mlflow's files in a model's or a factor's workspace."""

from __future__ import annotations

import ast
import datetime
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rdagent_sota_bridge import pickled
from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_config import Segment, Task

_FINISHED = "3"  # mlflow's RunStatus.FINISHED, as its file store writes it
_HANDLER = "dataset.kwargs.handler.kwargs"
_WIDTH = "model.kwargs.pt_model_kwargs.num_features"
_DATE = re.compile(r"datetime\.date\((\d{1,4}), (\d{1,2}), (\d{1,2})\)")
_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_STATEMENT = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_CUT = 1000
"""Qlib has mlflow cut parameters at so many characters (`qlib/workflow/recorder.py`, pyqlib 0.9.7)."""


@dataclass(frozen=True)
class Record:
    """What one finished back-test recorded.

    Attributes:
        num_features: The input width of the network (`model.kwargs.pt_model_kwargs.num_features`); None for a
            model that has none, such as the LightGBM that judges factors.
        task: The data folder, market, segments and label; None where the record does not tell them all.
        has_factor_file: True where a loader read `combined_factors_df.parquet`.
        base_features: How many base features the first loader had; None where the record does not tell.
        base_names: Their names, in order; likewise.
        base_expressions: Their expressions in Qlib's language, in the same order; likewise.
        config_file: Name of the YAML that qrun was started with; empty where the record does not tell.
        recorder: mlflow's id of the run.
        doubts: What of the record can't be read, or contradicts itself; each is one sentence.
    """

    num_features: int | None
    task: Task | None
    has_factor_file: bool
    base_features: int | None
    base_names: tuple[str, ...] | None = None
    config_file: str = ""
    recorder: str = ""
    doubts: tuple[str, ...] = ()
    base_expressions: tuple[str, ...] | None = None


def read(workspace: Path) -> Record | None:
    """Return what Qlib recorded of the newest finished back-test in a workspace, or None without one.

    Qlib records twice (`qlib/model/trainer.py` and `qlib/cli/run.py`, pyqlib 0.9.7): parameters as text,
    each cut at 1,000 characters, and the whole configuration as a pickle, which is read without running
    anything that it names. The width is taken from the text; all else from the whole configuration, or where
    that is missing from the texts that are not cut, and the YAML that qrun was started with.

    Args:
        workspace: The folder that holds `mlruns`.

    Raises:
        ResultError: if the record of the run can't be read.
    """
    try:
        run = _newest_finished(workspace)
        return None if run is None else _read(workspace, run)
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(
            f"What Qlib recorded can't be read: {error}",
            str(workspace / "mlruns"),
            "make the files ones that you may read (ls -l tells), or leave the run out",
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


def _read(workspace: Path, run: Path) -> Record:
    texts = {
        file.name: file.read_text(encoding="utf-8") for file in (run / "params").glob("*") if file.is_file()
    }
    config_file = texts.get("cmd-sys.argv", "").rpartition(" ")[2].rpartition("/")[2]
    record = Record(_whole_number(texts.get(_WIDTH)), None, False, None, None, config_file, run.name)
    config, doubts = _configuration(run)
    if config is None:
        return replace(_from_texts(record, texts, _yaml(workspace, config_file)), doubts=doubts)
    try:
        handler = config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        segments = config["task"]["dataset"]["kwargs"]["segments"]
        width = config["task"]["model"].get("kwargs", {}).get("pt_model_kwargs", {}).get("num_features")
        provider = config.get("qlib_init", {}).get("provider_uri")
    except (AttributeError, KeyError, TypeError) as error:
        doubts += (f"the recorded configuration has a form that is not known ({type(error).__name__})",)
        return replace(_from_texts(record, texts, _yaml(workspace, config_file)), doubts=doubts)
    if _whole_number(width) != record.num_features:
        doubts += (
            f"Qlib recorded two input widths: {record.num_features} as parameter, {width} as configuration",
        )
    record = _with_loaders(record, handler)
    if provider is None:
        provider = _provider(_yaml(workspace, config_file))
    market, label = handler.get("instruments"), _label(handler)
    return replace(record, task=_task(provider, market, label, segments), doubts=doubts)


def _configuration(run: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the whole configuration, or its task alone below `task`; and why it could not be read."""
    doubts: tuple[str, ...] = ()
    for name in ("config", "task"):
        file = run / "artifacts" / name
        if not file.is_file():
            continue
        try:
            content = pickled.load(io.BytesIO(file.read_bytes()))
        except pickled.DAMAGE as error:
            doubts += (f"artifacts/{name} of Qlib's record can't be read ({type(error).__name__})",)
            continue
        return (content if name == "config" else {"task": content}), doubts
    return None, doubts


def _yaml(workspace: Path, config_file: str) -> Any:
    """Return the YAML that qrun was started with, or None where it is not there, or is none.

    It is a template, and rendering one runs what it says: here its expressions are put out of it instead.
    """
    file = workspace / config_file
    if not config_file or not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        plain = _EXPRESSION.sub("0", _STATEMENT.sub("", text))
        return yaml.safe_load(plain)  # the parser written in C crashes on lists in lists in lists
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _from_texts(record: Record, texts: dict[str, str], document: Any) -> Record:
    """Return the record with what the parameters tell that are not cut."""
    loaders = _literal(texts.get(f"{_HANDLER}.data_loader.kwargs.dataloader_l"))
    label = _literal(texts.get(f"{_HANDLER}.label"))
    handler: dict[str, Any] = {
        "infer_processors": _literal(texts.get(f"{_HANDLER}.infer_processors")),
        "label": label,
    }
    if loaders is not None:
        handler["data_loader"] = {"kwargs": {"dataloader_l": loaders}}
    names = ("train", "valid", "test")
    segments = {name: _literal(texts.get(f"dataset.kwargs.segments.{name}")) for name in names}
    market = texts.get(f"{_HANDLER}.instruments")
    return replace(
        _with_loaders(record, handler), task=_task(_provider(document), market, _label(handler), segments)
    )


def _literal(text: str | None) -> Any:
    """Return the value that a parameter's text is of; None where it is cut, or of another form.

    Dates become tuples of numbers first, so that nothing but literals is read, by `ast`.
    """
    if text is None or len(text) >= _CUT:
        return None
    try:
        return ast.literal_eval(_DATE.sub(r"('date', \1, \2, \3)", text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _with_loaders(record: Record, handler: Any) -> Record:
    """Return the record with what its data loaders read: base features, and the factor file."""
    loaders = _at(handler, "data_loader", "kwargs", "dataloader_l")
    expressions = None
    if isinstance(loaders, list) and loaders:
        expressions = _at(loaders[0], "kwargs", "config", "feature", 0)
        names = _at(loaders[0], "kwargs", "config", "feature", 1)
        if (
            "config" in (_at(loaders[0], "kwargs") or {})
            and _at(loaders[0], "kwargs", "config", "feature") is None
        ):
            names = expressions = []  # a model on mined factors alone
        has_file = any(_at(loader, "kwargs", "config") == FACTOR_FILE for loader in loaders[1:])
        record = replace(record, has_factor_file=has_file)
    else:  # a handler of Qlib's own, of whose features RD-Agent 0.8.0 keeps some
        processors = _at(handler, "infer_processors")
        chosen = [
            _at(one, "kwargs", "col_list") for one in processors or [] if _at(one, "class") == "FilterCol"
        ]
        names = chosen[0] if chosen else None
    if not isinstance(names, list):
        return record
    if isinstance(expressions, list):
        record = replace(record, base_expressions=tuple(str(expression) for expression in expressions))
    return replace(record, base_features=len(names), base_names=tuple(str(name) for name in names))


def _at(value: Any, *path: str | int) -> Any:
    """Return what is at a path of keys and positions, or None."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _label(handler: Any) -> str | None:
    told = _at(handler, "data_loader", "kwargs", "dataloader_l", 0, "kwargs", "config", "label", 0)
    if told is None:
        told = _at(handler, "label")
    first = told if isinstance(told, str) else _at(told, 0)  # expressions before names, or an expression
    return first if isinstance(first, str) else None


def _provider(document: Any) -> Any:
    return _at(document, "qlib_init", "provider_uri")


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
        if isinstance(day, tuple) and day[:1] == ("date",):
            day = datetime.date(*day[1:])
        return pd.Timestamp(day) if day is None or isinstance(day, (str, datetime.date)) else None
    except (TypeError, ValueError):
        return None


def _whole_number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdecimal() else None
