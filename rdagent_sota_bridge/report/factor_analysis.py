"""The factor part of a report: every factor of one set, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, MarketError
from rdagent_sota_bridge.factor_set.panel import Panel, opened, union
from rdagent_sota_bridge.qlib_files import docker, label
from rdagent_sota_bridge.qlib_files.market import read_market
from rdagent_sota_bridge.qlib_files.model_yaml import Task, inside
from rdagent_sota_bridge.report import tearsheet
from rdagent_sota_bridge.report.tearsheet import Sheet

CELLS = 60_000_000
"""The matrix is a mean over all days, or over so many evenly spread ones that no more values than this, of
all factors together, are in memory: 480 MB."""

_LEAST_INSTRUMENTS = 3  # of a day whose correlation counts


@dataclass(frozen=True, eq=False)
class FactorAnalysis:
    """One factor set on the market that its models were tested on.

    Attributes:
        digest: The set's digest.
        task: The market, test segment and label that the figures are taken on.
        columns: The factors, in the set's order.
        sheets: By factor, in that order; empty where there is no Qlib data (`notes` say so).
        names: The factors, in the order of the matrix; empty where there is none.
        correlation: float64, (names, names): mean daily cross-sectional correlation (Pearson's, with its
            sign) in the test segment; NaN where no day has three instruments with both.
        notes: What is missing, and why: each is one sentence for the reader.
    """

    digest: str
    task: Task | None
    columns: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    names: tuple[str, ...]
    correlation: Any
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Ground:
    """The cells that the figures are taken on: days ascending, instruments sorted.

    `members`, bool, and `returns` (the label), float64, are (days, instruments); `returns` is None and `note`
    says why where there are none.
    """

    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    members: Any
    returns: Any = None
    note: str = ""


def analyse(digest: str, sources: Sequence[Source], task: Task | None) -> FactorAnalysis:
    """Return the figures of a set's factors; what is missing is said in the notes.

    One factor's values are in memory at a time, and those that the matrix needs (`CELLS`).

    Args:
        digest: The set's digest.
        sources: Its files, each with the digest that it had and the factors taken from it.
        task: The market, test segment and label; None where nothing says them.
    """
    columns = union([source.columns for source in sources])
    nothing = FactorAnalysis(digest, task, columns, (), (), np.empty((0, 0)), ())
    notes = [
        f"The file {one.path} is not there any more, so its factors can't be shown."
        for one in sources
        if not one.path.exists()
    ]
    if not columns:
        notes.append("Nothing says which factors the set has, and in which file.")
    if notes:
        return replace(nothing, notes=tuple(notes))
    try:
        # All columns: a file that was replaced by one without them is to be seen here.
        with opened([source.path for source in sources]) as everything:
            panel = replace(everything, columns=columns)
            notes = _changes(panel, sources)
            return replace(nothing, notes=tuple(notes)) if notes else _with_figures(nothing, panel)
    except BridgeError as error:  # a file that is damaged, or was replaced while it was read
        return replace(nothing, notes=(_sentence(error),))


def _changes(panel: Panel, sources: Sequence[Source]) -> list[str]:
    """Return what the files have otherwise than when the set was used, by the bytes that are read."""
    digests = {file.path: file.digest for file in panel.files}
    there = union([file.columns for file in panel.files])
    changed = [
        f"The file {one.path} was changed since, so the factors can't be shown as they were: it "
        f"had the digest {one.digest}, and has {digests[one.path]}."
        for one in sources
        if digests[one.path] != one.digest
    ]
    return changed or [
        f"The set's files have no factor {name}." for name in panel.columns if name not in there
    ]


def _with_figures(nothing: FactorAnalysis, panel: Panel) -> FactorAnalysis:
    ground = _ground(panel, nothing.task)
    notes = [ground.note] if ground.note else []
    count = len(ground.days)
    wanted = max(1, CELLS // max(1, len(ground.instruments) * len(panel.columns)))
    spread = np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))
    if len(spread) < count:
        notes.append(f"The correlations are means over {len(spread)} evenly spread days of {count}.")
    block = np.full((len(spread), len(panel.columns), len(ground.instruments)), np.nan)
    # The panel's rows that are on the ground, and where each stands there.
    days = ground.days.get_indexer(panel.dates)[panel.date_codes]
    codes = pd.Index(ground.instruments).get_indexer(list(panel.instruments))[panel.instrument_codes]
    rows = np.flatnonzero((days >= 0) & (codes >= 0))
    places = days[rows], codes[rows]
    values = np.empty(ground.members.shape)
    sheets = []
    for number, column in enumerate(panel.columns):
        values.fill(np.nan)
        failure = ""
        try:
            values[places] = panel.read(column)[rows]
        except FactorFileError as error:  # one that can't be trained on; the others can be looked at
            failure = f"No figures of {column}: {_sentence(error)}"
        if ground.returns is not None:
            sheets.append(tearsheet.sheet(column, values, ground.returns, ground.members, ground.days))
            failure = failure or _odd(sheets[-1])
        notes += [failure] if failure else []
        block[:, number] = np.where(ground.members, values, np.nan)[spread]
    return replace(
        nothing,
        sheets=tuple(sheets),
        names=panel.columns,
        correlation=mean_correlation(block),
        notes=tuple(notes),
    )


def _ground(panel: Panel, task: Task | None) -> _Ground:
    """Return the market's cells in the test segment; without a market the set's own rows, and why."""
    note = "Neither market nor test segment is known: no IC, no returns."
    days = panel.dates
    if task is not None:
        market = read_market(task.provider_uri, task.market)
        tested = inside(panel.dates.normalize(), task.test)
        days = panel.dates[tested] if tested.any() else panel.dates
        if market is None:
            place = docker.shown(task.provider_uri)
            note = f"Qlib's data of the market {task.market} is not in {place}: no IC, no returns."
        else:
            positions = np.flatnonzero(inside(market.calendar.normalize(), task.test))
            if len(positions):
                members = market.members()[positions]
                there = np.flatnonzero(members.any(axis=0))
                codes = tuple(market.instruments[number] for number in there)
                returns, note = _returns(market.folder, task.label, positions, codes)
                return _Ground(market.calendar[positions], codes, members[:, there], returns, note)
            note = f"The calendar in {market.folder} has no day in the test segment: no IC, no returns."
    return _Ground(
        days, panel.instruments, np.ones((len(days), len(panel.instruments)), dtype=bool), None, note
    )


def _returns(folder: Any, expression: str, days: Any, instruments: Sequence[str]) -> tuple[Any, str]:
    """Return the label on a market's cells, or None and why there is none."""
    try:
        returns = label.values(folder, expression, days, instruments)
    except MarketError as error:
        return None, _sentence(error)
    if returns is None:
        return None, f"The label {expression} is no plain return between two days: no IC, no returns."
    if np.isnan(returns).all():
        return None, f"{folder} has no prices for the label in the test segment: no IC, no returns."
    return returns.astype(np.float64), ""


def mean_correlation(block: Any) -> Any:
    """Return the mean daily cross-sectional correlation of each pair.

    `selection.py` drops factors by the same, without its sign.

    Args:
        block: float64, (days, names, instruments), NaN where there is no value.

    Returns:
        float64, (names, names), NaN where no day has three instruments with both.
    """
    names = block.shape[1]
    total, days = np.zeros((names, names)), np.zeros((names, names))
    for values in block:
        largest = np.fmax.reduce(np.abs(values), axis=1, initial=0.0)
        scaled = values / np.where(largest > 0, largest, 1.0)[:, None]  # so that no square overflows
        found = pd.DataFrame(scaled.T).corr(min_periods=_LEAST_INSTRUMENTS).to_numpy()
        total += np.nan_to_num(found)
        days += np.isfinite(found)
    with np.errstate(invalid="ignore"):
        return total / days


def _odd(sheet: Sheet) -> str:
    """Return what the reader has to know of a factor's figures; empty where they are as usual."""
    if not len(sheet.ic):
        why = "on no day of the test segment have two instruments different values of it, and returns"
        return f"{sheet.name} has no IC: {why}."
    if sheet.uncut_days:
        return (
            f"On {sheet.uncut_days} days the values of {sheet.name} can't be cut into {tearsheet.QUANTILES} "
            "groups, for too many are the same: those days are not in its returns by group."
        )
    return ""


def _sentence(error: BridgeError) -> str:
    if isinstance(error, FactorFileError):
        return f"{error.path}: {'; '.join(failure.fact for failure in error.failures)}."
    return f"{error.fact} ({error.place})."
