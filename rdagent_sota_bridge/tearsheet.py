"""What a factor is worth: the figures of alphalens' tear sheet, on the run's label and test segment.

The definitions are those of alphalens-reloaded 0.5.1, computed for all days at once: `performance.py`
(`factor_information_coefficient`, `mean_information_coefficient`, `mean_return_by_quantile` with its default
`demeaned=True`, `factor_rank_autocorrelation`), `utils.quantize_factor` with `quantiles=5`, and `plotting.py`
(`plot_information_table`, `plot_ic_ts`), on an index that has the trading calendar as its frequency. There is
one difference: `utils.get_clean_factor` takes a day that can't be cut into quantiles, for too many of its
values are the same, out of every figure (and raises where more than 35 % of the rows are lost so); here it is
missing from `quantile_returns` alone, and counted in `uncut_days`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

QUANTILES = 5
"""Each day's instruments are cut into so many groups by the factor's value (alphalens' default)."""

ROLLING_DAYS = 22
"""The rolling mean of the IC is over so many days (alphalens' `plot_ic_ts`: one month of trading days)."""

_ROUNDING = 1e-12
"""A standard deviation that is no larger beside the mean is what rounding left of none."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """One factor's figures. A figure that can't be told is NaN, or an empty array.

    Attributes:
        name: The factor.
        coverage: Share of the market's (day, instrument) cells of the test segment that it fills.
        days: The days that have an IC, ascending.
        ic: float64, (days,): the daily rank IC.
        rolling_ic: float64, (days,): its mean over the last `ROLLING_DAYS` trading days; NaN where not all of
            them have an IC.
        mean_ic: Mean of `ic`.
        icir: Mean over standard deviation (alphalens' risk-adjusted IC).
        t_statistic: Of the hypothesis that the mean IC is 0.
        months: The months that have an IC, ascending, as `2017-01`.
        monthly_ic: float64, (months,): mean IC of each.
        quantile_returns: float64, (QUANTILES,): mean return a day beyond the day's mean, lowest values first.
        autocorrelation_days: The days that have a rank autocorrelation.
        autocorrelation: float64: correlation of the day's ranks with those of the day before.
        mean_autocorrelation: Their mean: 1 where nothing is traded, near 0 where all is.
        uncut_days: Days with values that can't be cut into `QUANTILES` groups, for too many are the same;
            they are not in `quantile_returns`.
    """

    name: str
    coverage: float
    days: pd.DatetimeIndex
    ic: Any
    rolling_ic: Any
    mean_ic: float
    icir: float
    t_statistic: float
    months: tuple[str, ...]
    monthly_ic: Any
    quantile_returns: Any
    autocorrelation_days: pd.DatetimeIndex
    autocorrelation: Any
    mean_autocorrelation: float
    uncut_days: int = 0


def sheet(name: str, values: Any, returns: Any, members: Any, days: pd.DatetimeIndex) -> Sheet:
    """Return a factor's figures.

    What they are taken on are the cells of the market that have a value and a return; alphalens too drops the
    others before anything else.

    Args:
        name: The factor.
        values: float64, (days, instruments): the factor; NaN (or infinite) where there is none.
        returns: float64, (days, instruments): the return that follows; NaN where there is none.
        members: bool, (days, instruments): the market's cells.
        days: Consecutive days of the trading calendar, ascending.
    """
    filled = members & np.isfinite(values)
    cells = np.count_nonzero(members)
    used = filled & ~np.isnan(returns)
    factor, after = np.where(used, values, np.nan), np.where(used, returns, np.nan)
    ranks = _ranks(factor)
    ic = _correlation(ranks, _ranks(after))
    there = np.isfinite(ic)
    quantile_returns, uncut = _quantile_returns(factor, after)
    autocorrelation = np.full(len(days), np.nan)
    autocorrelation[1:] = _correlation(ranks[1:], ranks[:-1])
    traded = np.isfinite(autocorrelation)
    months, monthly_ic = _by_month(days[there], ic[there])
    mean_ic, icir, t_statistic = _moments(ic[there])
    return Sheet(
        name=name,
        coverage=float(np.count_nonzero(filled) / cells) if cells else float("nan"),
        days=days[there],
        ic=ic[there],
        rolling_ic=pd.Series(ic).rolling(ROLLING_DAYS).mean().to_numpy()[there],
        mean_ic=mean_ic,
        icir=icir,
        t_statistic=t_statistic,
        months=months,
        monthly_ic=monthly_ic,
        quantile_returns=quantile_returns,
        autocorrelation_days=days[traded],
        autocorrelation=autocorrelation[traded],
        mean_autocorrelation=_mean(autocorrelation[traded]),
        uncut_days=uncut,
    )


def _ranks(values: Any) -> Any:
    """Return each day's ranks from 1 on, equal values sharing their mean; NaN stays."""
    return pd.DataFrame(values).rank(axis=1).to_numpy()


def _correlation(one: Any, other: Any) -> Any:
    """Return the correlation of each row where both have a number; NaN where one of them has no spread."""
    shared = ~(np.isnan(one) | np.isnan(other))
    count = shared.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (np.where(shared, part, 0.0) for part in (one, other))
        # The sums of ranks, and the mean of equal ones, are exact: what has no spread comes out as 0.
        x, y = (np.where(shared, part - part.sum(axis=1, keepdims=True) / count, 0.0) for part in (x, y))
        spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        found = (x * y).sum(axis=1) / spread
    return np.clip(found, -1.0, 1.0)


def _quantile_returns(factor: Any, returns: Any) -> tuple[Any, int]:
    """Return the mean over days of the groups' mean returns beyond the day's, and the days left out."""
    groups = _groups(factor)
    there = ~np.isnan(factor)
    cut = groups.any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.where(there, returns, 0.0).sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
        beyond = np.where(there, returns - middle, 0.0)
    found = np.full(QUANTILES, np.nan)
    for number in range(QUANTILES):
        inside = groups == number + 1
        count = inside.sum(axis=1)
        filled = count > 0
        if filled.any():
            sums = np.where(inside, beyond, 0.0).sum(axis=1)
            found[number] = (sums[filled] / count[filled]).mean()
    return found, int(np.count_nonzero(there.any(axis=1) & ~cut))


def _groups(factor: Any) -> Any:
    """Return each value's group, 1 to `QUANTILES`; 0 where it has none.

    As `pandas.qcut` does it day by day (`core/reshape/tile.py`, pandas 2.3): the edges are numpy's
    percentiles, a value on an edge belongs to the lower group, and a day on which two edges are the same
    can't be cut.
    """
    found = np.zeros(factor.shape, dtype=np.int8)
    count = np.count_nonzero(~np.isnan(factor), axis=1)
    in_order = np.sort(factor, axis=1)  # NaN last
    edges = np.full((len(factor), QUANTILES + 1), np.nan)
    percents = np.linspace(0, 1, QUANTILES + 1) * 100.0
    for number in np.unique(count[count > 0]):  # a market has a few, not one a day
        days = count == number
        edges[days] = np.percentile(in_order[days, :number], percents, axis=1).T
    cut = (np.diff(edges, axis=1) != 0).all(axis=1) & (count > 0)
    for edge in range(QUANTILES):
        # The lowest value is on the first edge, and is in the first group.
        found += factor > edges[:, [edge]] if edge else ~np.isnan(factor)
    found[~cut] = 0
    return found


def _by_month(days: pd.DatetimeIndex, ic: Any) -> tuple[tuple[str, ...], Any]:
    if not len(days):
        return (), np.empty(0)
    means = pd.Series(ic, index=days).groupby(days.strftime("%Y-%m")).mean()
    return tuple(means.index), means.to_numpy()


def _moments(ic: Any) -> tuple[float, float, float]:
    """Return mean, mean over standard deviation, and t-statistic; NaN where there is no spread."""
    mean = _mean(ic)
    deviation = float(np.std(ic, ddof=1)) if len(ic) > 1 else float("nan")
    if not deviation > _ROUNDING * abs(mean):
        return mean, float("nan"), float("nan")
    return mean, mean / deviation, mean / deviation * float(np.sqrt(len(ic)))


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else float("nan")
