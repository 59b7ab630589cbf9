"""What the values of factors look like on a market: coverage, spread, extremes, and the rank IC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.factor_set.panel import Panel
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import Task, inside

IC_CELLS = 400_000
"""The rank IC is a mean over evenly spread days of the test segment with so many cells; all, if fewer."""

EXTREME = 10.0
"""From here on a value is extreme: robust standard deviations from the median."""

_NO_SPREAD = 1e-6  # of a robust standard deviation: a day's values are as good as equal
_MAD_OF_NORMAL = 0.6744897501960817
_LEAST_INSTRUMENTS = 5  # of a day that has an IC


@dataclass(frozen=True)
class FactorFigures:
    """One factor.

    Attributes:
        coverage: By segment, the share of the market's cells that it fills; None where the market has none.
        missing: Share of the set's rows without a value.
        constant_days: Days on which all its values are the same, or as good as.
        days: Days with at least two values.
        extreme: Share of the values beyond `EXTREME` robust standard deviations from the median, both from a
            sample of evenly spread days; None where half of the values are the same.
        low: The least value.
        high: The greatest value.
        rank_ic: Mean daily rank IC against Qlib's label in the test segment; None where it is not known.
        rank_ic_days: The days that mean is of.
    """

    coverage: dict[str, float | None]
    missing: float
    constant_days: int
    days: int
    extreme: float | None
    low: float
    high: float
    rank_ic: float | None
    rank_ic_days: int


@dataclass(frozen=True, eq=False)
class FigureGround:
    """What the figures of all factors of a panel are taken on.

    Attributes:
        cells: By segment, the (day, instrument) cells of the market; without a market, the set's rows there.
        rows: By segment, the panel's rows from the first to the last day.
        member: bool, (rows,): whether the instrument was in the market on that day; all without a market.
        filled: By segment, the share of the cells that have a row; None where the market has no day.
        sample: The panel's rows on sampled days.
        missing_days: Days of the calendar inside the set's range that have no row.
        ic_rows: Rows of the panel on the days of the IC.
        ic_places: Where each stands in `ic_label`, flat.
        ic_label: float32, (days, instruments of the panel): the label; None where it is not known.
    """

    cells: dict[str, int]
    rows: dict[str, slice]
    member: Any
    filled: dict[str, float | None]
    sample: Any
    missing_days: pd.DatetimeIndex
    ic_rows: Any
    ic_places: Any
    ic_label: Any


def ground(panel: Panel, market: Market | None, task: Task, sampled_dates: Any) -> FigureGround:
    """Prepare what the figures are taken on.

    Args:
        panel: The factors.
        market: The market; None where Qlib's data is not there yet.
        task: The segments and the label.
        sampled_dates: Positions of the dates of the sample.
    """
    days = panel.dates.normalize()
    starts = np.append(panel.starts, panel.rows)
    rows = {}
    for name, segment in task.segments.items():
        dates = np.flatnonzero(inside(days, segment))
        rows[name] = slice(*(starts[[dates[0], dates[-1] + 1]].tolist() if len(dates) else (0, 0)))
    sample = _rows_of(panel, sampled_dates)
    if market is None:
        # Of the market's cells only those with a row are known; a segment without one is not filled at all.
        cells = {name: max(1, found.stop - found.start) for name, found in rows.items()}
        filled: dict[str, float | None] = {name: float(at.stop > at.start) for name, at in rows.items()}
        nothing = np.empty(0, dtype=np.int64)
        member = np.ones(panel.rows, dtype=bool)
        return FigureGround(cells, rows, member, filled, sample, panel.dates[:0], nothing, nothing, None)
    members = market.members()
    calendar = market.calendar.normalize()
    # One more day and instrument than the market has, for those that it does not know.
    known = np.pad(members, ((0, 1), (0, 1)))
    positions = market.calendar.get_indexer(panel.dates)
    codes = pd.Index(market.instruments).get_indexer(list(panel.instruments))
    member = known[positions[panel.date_codes], codes[panel.instrument_codes]]
    cells = {name: int(members[inside(calendar, segment)].sum()) for name, segment in task.segments.items()}
    missing = calendar[(calendar >= days[0]) & (calendar <= days[-1])].difference(days)
    # The days of the IC.
    dates = np.flatnonzero(inside(days, task.test) & (positions >= 0))
    number = max(1, IC_CELLS // len(panel.instruments))
    if len(dates) > number:
        dates = dates[np.unique(np.linspace(0, len(dates) - 1, number).round().astype(int))]
    ic_rows = _rows_of(panel, dates)
    ic_rows = ic_rows[member[ic_rows]]
    places = np.searchsorted(dates, panel.date_codes[ic_rows]) * len(panel.instruments)
    places += panel.instrument_codes[ic_rows]
    found = label.values(market.folder, task.label, positions[dates], panel.instruments)
    return FigureGround(
        cells, rows, member, _shares(member, rows, cells), sample, missing, ic_rows, places, found
    )


def _rows_of(panel: Panel, dates: Any) -> Any:
    """Return the panel's rows on some dates."""
    wanted = np.zeros(len(panel.dates), dtype=bool)
    wanted[dates] = True
    return np.flatnonzero(wanted[panel.date_codes])


def _shares(marked: Any, rows: dict[str, slice], cells: dict[str, int]) -> dict[str, float | None]:
    """Return by segment which share of the cells is marked; None without a cell."""
    return {
        name: int(np.count_nonzero(marked[at])) / cells[name] if cells[name] else None
        for name, at in rows.items()
    }


def take(values: Any, panel: Panel, on: FigureGround) -> FactorFigures:
    """Return the figures of one factor.

    Args:
        values: float64, (rows,), at least one of them a number.
        panel: Its panel.
        on: What the figures are taken on.
    """
    there = ~np.isnan(values)
    number = int(np.count_nonzero(there))
    sample = values[on.sample]
    sample = sample[~np.isnan(sample)]
    middle = float(np.median(sample)) if len(sample) else 0.0
    deviation = float(np.median(np.abs(sample - middle))) / _MAD_OF_NORMAL if len(sample) else 0.0
    lows, highs = np.fmin.reduceat(values, panel.starts), np.fmax.reduceat(values, panel.starts)
    low, high = float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs))
    counted = np.add.reduceat(there, panel.starts, dtype=np.int64) > 1
    with np.errstate(invalid="ignore"):
        beyond = np.count_nonzero(np.abs(values - middle) > EXTREME * deviation)
    rank_ic, rank_ic_days = _rank_ic(values, on)
    return FactorFigures(
        coverage=_shares(there & on.member, on.rows, on.cells),
        missing=1 - number / panel.rows,
        constant_days=int(
            np.count_nonzero(counted & (highs - lows <= _NO_SPREAD * (deviation or high - low)))
        ),
        days=int(np.count_nonzero(counted)),
        extreme=beyond / number if deviation else None,
        low=low,
        high=high,
        rank_ic=rank_ic,
        rank_ic_days=rank_ic_days,
    )


def daily_correlation(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Return the correlation of each day (row) where both have a number; NaN where one has no spread."""
    return one.corrwith(other, axis=1).clip(-1.0, 1.0)


def _rank_ic(values: Any, on: FigureGround) -> tuple[float | None, int]:
    """Return the mean daily correlation of the ranks of factor and label (Qlib's Rank IC), and its days."""
    if on.ic_label is None or not len(on.ic_rows):
        return None, 0
    factor = np.full(on.ic_label.shape, np.nan)
    factor.reshape(-1)[on.ic_places] = values[on.ic_rows]
    there = ~(np.isnan(factor) | np.isnan(on.ic_label))
    ranks = [pd.DataFrame(part).where(there).rank(axis=1) for part in (factor, on.ic_label)]
    daily = daily_correlation(*ranks)[there.sum(axis=1) >= _LEAST_INSTRUMENTS].dropna()
    return (float(daily.mean()), len(daily)) if len(daily) else (None, 0)
