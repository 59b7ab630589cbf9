"""What the values of factors look like on a market: coverage, spread, extremes, and the rank IC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.factor_set.panel import Panel
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.manifest import LEAST_SPREAD
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
        spread: Median absolute deviation of the training values in the market, as Qlib's RobustZScoreNorm
            takes it; from the sample's, where it is known not to be under `LEAST_SPREAD`. None where there
            is no such value.
        share_of_median: The share of those values, or of the sample's, that equal their median.
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
    spread: float | None = None
    share_of_median: float = 0.0


class FigureGround:
    """What the figures of all factors of a panel are taken on.

    Attributes:
        sample: The panel's rows on sampled days.
        filled: By segment, the share of the market's cells that have a row (all of the set's rows without a
            market); None where the market has no day.
        missing_days: Days of the calendar inside the set's range that have no row.
    """

    def __init__(self, panel: Panel, market: Market | None, task: Task, sampled_dates: Any) -> None:
        """Prepare it.

        Args:
            panel: The factors.
            market: The market; None where Qlib's data is not there yet.
            task: The segments and the label.
            sampled_dates: Positions of the dates of the sample.
        """
        days, starts = panel.dates.normalize(), np.append(panel.starts, panel.rows)
        self._panel = panel
        self._rows = {}  # by segment, from the first to the last day
        for name, segment in task.segments.items():
            dates = np.flatnonzero(inside(days, segment))
            self._rows[name] = slice(*(starts[[dates[0], dates[-1] + 1]].tolist() if len(dates) else (0, 0)))
        self.sample = _rows_of(panel, sampled_dates)
        self._label: Any = None
        self._label_there: Any = None
        if market is None:
            # Of the market's cells only those with a row are known; a segment without one is not filled.
            self.missing_days = panel.dates[:0]
            self._member = np.ones(panel.rows, dtype=bool)
            self._cells = {name: max(1, rows.stop - rows.start) for name, rows in self._rows.items()}
        else:
            members, calendar = market.members(), market.calendar.normalize()
            # One more day and instrument than the market has, for those that it does not know.
            known = np.pad(members, ((0, 1), (0, 1)))
            positions = market.calendar.get_indexer(panel.dates)
            codes = pd.Index(market.instruments).get_indexer(list(panel.instruments))
            self.missing_days = calendar[(calendar >= days[0]) & (calendar <= days[-1])].difference(days)
            self._member = known[positions[panel.date_codes], codes[panel.instrument_codes]]
            self._cells = {
                name: int(members[inside(calendar, days)].sum()) for name, days in task.segments.items()
            }
            tested = inside(days, task.test) & ("test" in task.segments)
            dates = np.flatnonzero(tested & (positions >= 0))
            number = max(1, IC_CELLS // len(panel.instruments))
            if len(dates) > number:
                dates = dates[np.unique(np.linspace(0, len(dates) - 1, number).round().astype(int))]
            rows = _rows_of(panel, dates)
            self._ic_rows = rows[self._member[rows]]
            self._ic_places = np.searchsorted(dates, panel.date_codes[self._ic_rows]) * len(panel.instruments)
            self._ic_places += panel.instrument_codes[self._ic_rows]
            self._label = label.values(market.folder, task.label, positions[dates], panel.instruments)
        self.filled = self._shares(self._member)
        self._train = self._rows.get("train", slice(0, 0))  # a fork may say it at the training alone
        trained = slice(*np.searchsorted(self.sample, [self._train.start, self._train.stop]))
        self._train_sample = self.sample[trained][self._member[self.sample[trained]]]

    def _shares(self, marked: Any) -> dict[str, float | None]:
        """Return by segment which share of the market's cells is marked; None without a cell."""
        return {
            name: int(np.count_nonzero(marked[rows])) / self._cells[name] if self._cells[name] else None
            for name, rows in self._rows.items()
        }

    def take(self, values: Any) -> FactorFigures:
        """Return the figures of one factor's values: float64, (rows,), at least one of them a number."""
        there, starts = ~np.isnan(values), self._panel.starts
        used = there & self._member
        number = int(np.count_nonzero(there))
        sample = values[self.sample]
        sample = sample[~np.isnan(sample)]
        middle = float(np.median(sample)) if len(sample) else 0.0
        deviation = float(np.median(np.abs(sample - middle))) / _MAD_OF_NORMAL if len(sample) else 0.0
        lows, highs = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        low, high = float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs))
        counted = np.add.reduceat(there, starts, dtype=np.int64) > 1
        as_good_as_none = _NO_SPREAD * (deviation or high - low)
        with np.errstate(invalid="ignore"):
            beyond = np.count_nonzero(values > middle + EXTREME * deviation)
            beyond += np.count_nonzero(values < middle - EXTREME * deviation)
        rank_ic, rank_ic_days = self._rank_ic(values)
        return FactorFigures(
            coverage=self._shares(used),
            missing=1 - number / len(values),
            constant_days=int(np.count_nonzero(counted & (highs - lows <= as_good_as_none))),
            days=int(np.count_nonzero(counted)),
            extreme=beyond / number if deviation else None,
            low=low,
            high=high,
            rank_ic=rank_ic,
            rank_ic_days=rank_ic_days,
            **self._training_spread(values, used),
        )

    def _training_spread(self, values: Any, used: Any) -> dict[str, Any]:
        trained, used = values[self._train], used[self._train]
        found = values[self._train_sample]
        found = found[~np.isnan(found)]
        if not len(found) or not _is_wide(trained, used, *np.quantile(found, [1 / 3, 2 / 3])):
            found = trained[used]
        if not len(found):
            return {}
        distances = np.abs(found - np.median(found))
        share = np.count_nonzero(distances == 0) / len(found)
        return {"spread": float(np.median(distances)), "share_of_median": share}

    def _rank_ic(self, values: Any) -> tuple[float | None, int]:
        """Return the mean daily rank correlation of factor and label (Qlib's Rank IC), and its days."""
        if self._label is None or not len(self._ic_rows):
            return None, 0
        factor = np.full(self._label.shape, np.nan)
        factor.reshape(-1)[self._ic_places] = values[self._ic_rows]
        there = ~(np.isnan(factor) | np.isnan(self._label))
        if self._label_there is None or not np.array_equal(there, self._label_there):
            # Most factors have the same cells, and the ranks of the label cost as much as those of a factor.
            self._label_there, self._label_ranks = there, _ranks(self._label, there)
        daily = (_ranks(factor, there) * self._label_ranks).sum(axis=1).clip(-1.0, 1.0)
        daily = daily[(there.sum(axis=1) >= _LEAST_INSTRUMENTS) & ~np.isnan(daily)]
        return (float(daily.mean()), len(daily)) if len(daily) else (None, 0)


def _is_wide(values: Any, used: Any, low: float, high: float) -> bool:
    """Return True only where the median absolute deviation of the used values is not under `LEAST_SPREAD`.

    Counts them, in a fraction of a median's time. Where fewer than half are up to `low` and a bit, and fewer
    than half from `high` less a bit on, what is within a bit of the median lies between `low` and `high`; and
    where that is fewer than half, the half that is farther away is farther than the bit.
    """
    bit = 2 * LEAST_SPREAD  # twice, for what rounding takes of it
    half = np.count_nonzero(used) / 2
    with np.errstate(invalid="ignore"):
        parts = (values <= low + bit, values >= high - bit, (values > low) & (values < high))
        return all(np.count_nonzero(part & used) < half for part in parts)


def _ranks(values: Any, there: Any) -> Any:
    """Return the ranks of each day (row), with mean 0 and length 1, so that a product is a correlation.

    0 where a value is not there; NaN on a day without spread.
    """
    # Not `DataFrame.where`, which looks at each of thousands of columns.
    ranks = pd.DataFrame(np.where(there, values, np.nan)).rank(axis=1).to_numpy()
    ranks = np.where(there, ranks - (there.sum(axis=1, keepdims=True) + 1) / 2, 0.0)
    with np.errstate(invalid="ignore"):
        return ranks / np.sqrt((ranks * ranks).sum(axis=1, keepdims=True))


def _rows_of(panel: Panel, dates: Any) -> Any:
    """Return the panel's rows on some dates."""
    wanted = np.zeros(len(panel.dates), dtype=bool)
    wanted[dates] = True
    return np.flatnonzero(wanted[panel.date_codes])
