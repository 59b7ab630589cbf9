"""The factor part of a report: every factor of one set, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, MarketError
from rdagent_sota_bridge.factor_set import panel as panels
from rdagent_sota_bridge.factor_set.panel import Panel
from rdagent_sota_bridge.qlib_files import docker, label
from rdagent_sota_bridge.qlib_files.market import Market, read_market
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
    """The cells that the figures are taken on.

    Attributes:
        days: The days, ascending.
        instruments: The instruments, sorted.
        members: bool, (days, instruments): the market's cells; without a market, all.
        returns: float64, (days, instruments): the label; None where it is not known.
        notes: What is missing, and why.
    """

    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    members: Any
    returns: Any
    notes: tuple[str, ...]


def analyse(digest: str, sources: Sequence[Source], task: Task | None) -> FactorAnalysis:
    """Return the figures of a set's factors; what is missing is said in the notes.

    One factor's values are in memory at a time, and those that the matrix needs (`CELLS`).

    Args:
        digest: The set's digest.
        sources: Its files, each with the digest that it had and the factors taken from it.
        task: The market, test segment and label; None where nothing says them.
    """
    columns = panels.union([source.columns for source in sources])
    missing = [
        f"The file {one.path} is not there any more, so its factors can't be shown."
        for one in sources
        if not one.path.is_file()
    ]
    if not columns:
        missing.append("Nothing says which factors the set has, and in which file.")
    if missing:
        return _without_figures(digest, task, columns, missing)
    try:
        with panels.opened([source.path for source in sources], lambda _: columns) as panel:
            missing = _changes(panel, sources)
            if missing:
                return _without_figures(digest, task, columns, missing)
            return _analysed(digest, panel, task)
    except BridgeError as error:  # a file that is damaged, or was replaced while it was read
        return _without_figures(digest, task, columns, [_sentence(error)])


def _analysed(digest: str, panel: Panel, task: Task | None) -> FactorAnalysis:
    ground = _ground(panel, task)
    notes = list(ground.notes)
    cells = max(1, len(ground.instruments) * len(panel.columns))
    days = _spread(len(ground.days), max(1, CELLS // cells))
    if len(days) < len(ground.days):
        notes.append(f"The correlations are means over {len(days)} evenly spread days of {len(ground.days)}.")
    block = np.full((len(days), len(panel.columns), len(ground.instruments)), np.nan)
    rows, places = _places(panel, ground)
    values = np.empty(ground.members.shape)
    sheets = []
    failed = set()
    for number, column in enumerate(panel.columns):
        values.fill(np.nan)
        try:
            values.reshape(-1)[places] = panel.read(column)[rows]
        except FactorFileError as error:  # one that can't be trained on; the others can be looked at
            notes.append(f"No figures of {column}: {_sentence(error)}")
            failed.add(column)
        if ground.returns is not None:
            sheets.append(tearsheet.sheet(column, values, ground.returns, ground.members, ground.days))
        block[:, number] = np.where(ground.members, values, np.nan)[days]
    return FactorAnalysis(
        digest=digest,
        task=task,
        columns=panel.columns,
        sheets=tuple(sheets),
        names=panel.columns,
        correlation=mean_correlation(block),
        notes=(*notes, *_odd_sheets([sheet for sheet in sheets if sheet.name not in failed])),
    )


# --- the ground ---


def _ground(panel: Panel, task: Task | None) -> _Ground:
    if task is None:
        return _own_rows(panel, None, "Neither market nor test segment is known: no IC, no returns.")
    market = read_market(task.provider_uri, task.market)
    if market is None:
        place = docker.shown(task.provider_uri)
        why = f"Qlib's data of the market {task.market} is not in {place}: no IC, no returns."
        return _own_rows(panel, task, why)
    days = np.flatnonzero(inside(market.calendar.normalize(), task.test))
    if not len(days):
        why = f"The calendar in {market.folder} has no day in the test segment: no IC, no returns."
        return _own_rows(panel, task, why)
    members = market.members()[days]
    instruments = np.flatnonzero(members.any(axis=0))
    codes = tuple(market.instruments[number] for number in instruments)
    returns, notes = _returns(market, task, days, codes)
    return _Ground(market.calendar[days], codes, members[:, instruments], returns, notes)


def _returns(market: Market, task: Task, days: Any, codes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    try:
        returns = label.values(market.folder, task.label, days, codes)
    except MarketError as error:
        return None, (_sentence(error),)
    if returns is None:
        return None, (f"The label {task.label} is no plain return between two days: no IC, no returns.",)
    if np.isnan(returns).all():
        return None, (f"{market.folder} has no prices for the label in the test segment: no IC, no returns.",)
    return returns.astype(np.float64), ()


def _own_rows(panel: Panel, task: Task | None, why: str) -> _Ground:
    """Return the set's own rows as ground; those of the test segment, if there are some."""
    tested = None if task is None else inside(panel.dates.normalize(), task.test)
    days = panel.dates if tested is None or not tested.any() else panel.dates[tested]
    members = np.ones((len(days), len(panel.instruments)), dtype=bool)
    return _Ground(days, panel.instruments, members, None, (why,))


def _places(panel: Panel, ground: _Ground) -> tuple[Any, Any]:
    """Return the panel's rows that are on the ground, and where each stands there, flat."""
    days = ground.days.get_indexer(panel.dates)[panel.date_codes]
    codes = pd.Index(ground.instruments).get_indexer(list(panel.instruments))[panel.instrument_codes]
    rows = np.flatnonzero((days >= 0) & (codes >= 0))
    return rows, days[rows].astype(np.int64) * len(ground.instruments) + codes[rows]


def _spread(number: int, wanted: int) -> Any:
    """Return positions of so many evenly spread days, or of all."""
    return np.unique(np.linspace(0, number - 1, min(number, wanted)).round().astype(int))


# --- the matrix ---


def mean_correlation(block: Any) -> Any:
    """Return the mean daily cross-sectional correlation of each pair.

    `correlation.py` drops factors by the same, without its sign.

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


# --- notes ---


def _changes(panel: Panel, sources: Sequence[Source]) -> list[str]:
    """Return what the files have otherwise than when the set was used, by the bytes that are read."""
    digests = {file.path: file.digest for file in panel.files}
    there = panels.union([file.columns for file in panel.files])
    return [
        f"The file {one.path} was changed since, so the factors can't be shown as they were: it "
        f"had the digest {one.digest}, and has {digests[one.path]}."
        for one in sources
        if digests[one.path] != one.digest
    ] + [f"The set's files have no factor {name}." for name in panel.columns if name not in there]


def _without_figures(
    digest: str, task: Task | None, columns: tuple[str, ...], notes: Sequence[str]
) -> FactorAnalysis:
    return FactorAnalysis(digest, task, columns, (), (), np.empty((0, 0)), tuple(notes))


def _odd_sheets(sheets: Sequence[Sheet]) -> list[str]:
    notes = [
        f"{sheet.name} has no IC: on no day of the test segment have two instruments different values of it, "
        "and returns."
        for sheet in sheets
        if not len(sheet.ic)
    ]
    notes += [
        f"On {sheet.uncut_days} days the values of {sheet.name} can't be cut into {tearsheet.QUANTILES} "
        "groups, for too many are the same: those days are not in its returns by group."
        for sheet in sheets
        if sheet.uncut_days and len(sheet.ic)
    ]
    return notes


def _sentence(error: BridgeError) -> str:
    if isinstance(error, FactorFileError):
        return f"{error.path}: {'; '.join(failure.fact for failure in error.failures)}."
    return f"{error.fact} ({error.place})."
