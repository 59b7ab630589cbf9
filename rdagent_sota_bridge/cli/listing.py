"""Every factor set under the workspace root and logs, with its verdict. Reads footers, not values.

What a file told is cached under the file's identity: a second listing opens no parquet file and imports
neither pandas nor pyarrow.
"""

from __future__ import annotations

import datetime
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from rdagent_sota_bridge.errors import FactorFileError, SessionError
from rdagent_sota_bridge.factor_set import sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.factor_set.sessions import Experiment, workspaces_of
from rdagent_sota_bridge.system import cache

_METRICS = {
    "ic": "IC",
    "rank_ic": "Rank IC",
    "annualized_return": "1day.excess_return_with_cost.annualized_return",
    "max_drawdown": "1day.excess_return_with_cost.max_drawdown",
}
"""Qlib's names of the metrics in `RESULT_FILE`."""

# Of the files that RD-Agent puts into a workspace when it makes one (`scenarios/qlib/experiment/*_template`,
# 0.8.0 and 1.0.0). A model.py alone tells nothing: fin_quant back-tests factors with its best model.
_FACTOR_TEMPLATE = "conf_combined_factors.yaml"
_MODEL_MARKS = ("conf_sota_factors_model.yaml", "model.py")


@dataclass(frozen=True)
class Row:
    """One factor set; None, NaN or empty where something is not known.

    Attributes:
        when: When its loop ended, by the log; without one, when the file was written. In UTC.
        run: Name of the log folder.
        loop: Number of the loop in that run.
        accepted: The verdict; None without a log that tells.
        factors: Names of the factors, in the file's order.
        rows: Number of (datetime, instrument) rows.
        start: First day, as 2008-01-02.
        end: Last day.
        instruments: How many instruments have a row.
        ic: Mean daily correlation of prediction and label in the back-test of its loop.
        rank_ic: The same of their ranks.
        annualized_return: Excess return with cost, a year.
        max_drawdown: Of that excess return; negative.
        size: Size of the file in bytes.
        id: Name of the workspace folder.
        path: The workspace folder, absolute.
        trouble: Why something of the file is not known.
    """

    when: datetime.datetime
    run: str
    loop: int | None
    accepted: bool | None
    factors: tuple[str, ...]
    rows: int | None
    start: str
    end: str
    instruments: int | None
    ic: float
    rank_ic: float
    annualized_return: float
    max_drawdown: float
    size: int
    id: str
    path: Path
    trouble: str

    def to_plain(self) -> dict[str, Any]:
        """Return the row as JSON can hold it; what is not known is None."""
        row = to_jsonable_python(self, inf_nan_mode="null")
        return {name: None if value == "" else value for name, value in row.items()}


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        rows: The factor sets, newest last.
        notes: What could not be read: logs that may know more of the sets.
    """

    rows: list[Row]
    notes: list[str]


SORT_FIELDS = tuple(field.name for field in fields(Row) if field.name not in ("path", "trouble"))
"""What `sort_rows` sorts by; `factors` by their number."""


def factor_set_rows(root: Path, logs: list[Path]) -> Listing:
    """Return every factor set in the workspaces below a root, and in those that the logs tell of.

    Args:
        root: The folder of all workspaces.
        logs: The log folders that tell of the sets.
    """
    runs: dict[str, tuple[Path, Experiment]] = {}  # by workspace, its log and its experiment
    notes = []
    for log in logs:
        try:
            runs |= {one.workspace_id: (log, one) for one in sessions.read_session(log).experiments}
        except SessionError as error:
            notes.append(f"{log.name} is left out: {error.fact} ({error.place}); fix: {error.fix}")
    folders = {folder.name: folder for folder in root.glob("*")}
    for name, (log, experiment) in runs.items():  # a run can have had its workspaces elsewhere
        if name in folders:
            continue
        for folder in workspaces_of(experiment, log):
            try:
                if folder.is_dir():
                    folders.setdefault(name, folder)
            except OSError as error:
                notes.append(f"{folder} is left out: {error.strerror}")
    rows = []
    for name, folder in folders.items():
        file = folder / FACTOR_FILE
        run = runs.get(name)
        # A link to nowhere is a row too.
        if os.path.lexists(file) and not _is_model(folder, None if run is None else run[1]):
            rows.append(_row(file, run))
    return Listing(sort_rows(rows, "when"), notes)


def sort_rows(rows: list[Row], name: str) -> list[Row]:
    """Return the rows in ascending order of one of `SORT_FIELDS`, those where it is not known first."""

    def key(row: Row) -> tuple[bool, Any]:
        value = len(row.factors) if name == "factors" else getattr(row, name)
        known = value is not None and not (isinstance(value, float) and math.isnan(value))
        return known, value if known else 0

    return sorted(sorted(rows, key=lambda row: (row.when, row.id)), key=key)


def _is_model(workspace: Path, experiment: Experiment | None) -> bool:
    """Return True for a model's workspace: the factors that the model was trained on have the same name."""
    if experiment is not None:
        return not experiment.is_factor
    if (workspace / _FACTOR_TEMPLATE).exists():
        return False
    return any((workspace / name).exists() for name in _MODEL_MARKS)


def _row(file: Path, run: tuple[Path, Experiment] | None) -> Row:
    try:
        status = file.stat()
    except OSError:  # such as a link to nowhere: the look at the target says why
        status = file.lstat()
    try:
        metrics = cache.identity((file.parent / RESULT_FILE).stat())
    except OSError:  # there is none
        metrics = []
    key = [str(file.absolute()), cache.identity(status), metrics]
    facts = cache.find_once("listing-2", key, lambda: _look(file))
    log, experiment = run or (None, None)
    ended = None if experiment is None else experiment.ended
    return Row(
        when=ended or datetime.datetime.fromtimestamp(status.st_mtime, datetime.timezone.utc),
        run="" if log is None else log.name,
        loop=None if experiment is None else experiment.loop,
        accepted=None if experiment is None else experiment.accepted,
        size=status.st_size,
        id=file.parent.name,
        path=file.parent.absolute(),
        **{**facts, "factors": tuple(facts["factors"])},
    )


def _look(file: Path) -> dict[str, Any]:
    """Open a factor file and the metrics beside, and return what they say by the fields of `Row`."""
    from rdagent_sota_bridge.factor_set import parquet  # late: pandas and pyarrow

    facts: dict[str, Any] = {"factors": (), "rows": None, "start": "", "end": "", "instruments": None}
    trouble, metrics = [], {}
    try:
        footer = parquet.read_footer(file)
        facts |= {"factors": footer.columns, "rows": footer.rows}
        for name, day in (("start", footer.start), ("end", footer.end)):
            facts[name] = "" if day is None else day.date().isoformat()
        facts["instruments"] = parquet.count_instruments(file)
    except FactorFileError as error:
        trouble += [str(failure) for failure in error.failures]
    try:
        metrics = parquet.metrics_beside(file)
    except (OSError, ValueError) as error:
        trouble.append(str(error))
    for name, metric in _METRICS.items():
        value = metrics.get(metric, math.nan)
        facts[name] = value if math.isfinite(value) else math.nan
    return {**facts, "trouble": "; ".join(trouble)}
