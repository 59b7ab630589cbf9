"""What a factor is worth: the figures of alphalens' tear sheet, on the run's label and test segment.

The definitions are those of alphalens-reloaded 0.5.1 (`performance.py`, `utils.quantize_factor` with
`quantiles=5`, `plotting.py`), computed for all days at once on the trading calendar, with one difference:
`utils.get_clean_factor` leaves a day that can't be cut into quantiles, for too many of its values are the
same, out of every figure; here it is missing from `quantile_returns` alone, and counted in `uncut_days`.
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
    """One factor's figures. A figure that is not known is NaN, or an empty array.

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
    factor, after = (pd.DataFrame(np.where(used, part, np.nan), days) for part in (values, returns))
    ranks = factor.rank(axis=1)
    daily = _daily_correlation(ranks, after.rank(axis=1))
    ic, autocorrelation = daily.dropna(), _daily_correlation(ranks, ranks.shift()).dropna()
    monthly = ic.groupby(ic.index.strftime("%Y-%m")).mean()
    mean, deviation = float(ic.mean()), float(ic.std())
    icir = mean / deviation if deviation > _ROUNDING * abs(mean) else float("nan")
    quantile_returns, uncut = _quantile_returns(factor, after)
    return Sheet(
        name=name,
        coverage=float(np.count_nonzero(filled) / cells) if cells else float("nan"),
        days=ic.index,
        ic=ic.to_numpy(),
        rolling_ic=daily.rolling(ROLLING_DAYS).mean()[ic.index].to_numpy(),
        mean_ic=mean,
        icir=icir,
        t_statistic=icir * len(ic) ** 0.5,
        months=tuple(monthly.index),
        monthly_ic=monthly.to_numpy(),
        quantile_returns=quantile_returns,
        autocorrelation_days=autocorrelation.index,
        autocorrelation=autocorrelation.to_numpy(),
        mean_autocorrelation=float(autocorrelation.mean()),
        uncut_days=uncut,
    )


def _quantile_returns(factor: pd.DataFrame, returns: pd.DataFrame) -> tuple[Any, int]:
    """Return the mean over days of the groups' mean returns beyond the day's, and the days left out.

    The groups are those of `pandas.qcut`, day by day (`core/reshape/tile.py`, pandas 2.3): a value on an edge
    belongs to the lower group, and a day on which two edges are the same can't be cut.
    """
    has_values = factor.notna().any(axis=1)
    factor, returns = factor[has_values], returns[has_values]
    if factor.empty:
        return np.full(QUANTILES, np.nan), 0
    edges = factor.quantile(np.linspace(0, 1, QUANTILES + 1), axis=1).to_numpy()
    cut = (np.diff(edges, axis=0) != 0).all(axis=0)
    groups = (factor.to_numpy() > edges[1:-1, :, np.newaxis]).sum(axis=0)
    beyond = returns.sub(returns.mean(axis=1), axis=0).to_numpy()  # NaN where there is no factor
    means = [
        pd.DataFrame(np.where(groups == number, beyond, np.nan)[cut]).mean(axis=1).mean()
        for number in range(QUANTILES)
    ]
    return np.array(means), int(np.count_nonzero(~cut))


def _daily_correlation(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Return the correlation of each day (row) where both have a number; NaN where one has no spread."""
    return one.corrwith(other, axis=1).clip(-1.0, 1.0)
