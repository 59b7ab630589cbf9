"""What the days of a test segment allow to say: intervals of means, and what luck does among many tries.

The interval is Newey and West's over days (statsmodels), and adds the luck of trainings where there are
several. The stationary bootstrap (Politis and Romano; block length by Politis and White) holds its level less
well, and takes 150 times as long. Of null jobs of 10 loops and 262 days whose daily differences correlate by
0.3, these shares were called better or worse, where 5 % is right (500 jobs a row, `benchmarks/headline.py`
for more of them):

| | bootstrap | Newey-West | and luck |
|---|---|---|---|
| independent days | 5.4 % | 5.4 % | 5.4 % |
| days that correlate by 0.2 with the day before | 11.0 % | 8.6 % | 8.4 % |
| 25 such days | 13.0 % | 9.6 % | 10.0 % |
| trainings whose true ICs differ (sd 0.006) | 15.0 % | 14.0 % | 6.0 % |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

LEAST_DAYS = 20
"""Of fewer days there is no interval."""

_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over days and loops, and its 95 % interval: NaN and NaN where there are too few days."""

    mean: float
    low: float
    high: float
    days: int
    loops: int

    @property
    def error(self) -> float:
        """Half of the interval; NaN without one."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.mean:.4f}{interval(self.low, self.high)}"

    @property
    def answer(self) -> Literal["better", "worse", "open"]:
        """Which side of zero the interval is on; `open` where it is on both, or there is none."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"


def estimate(daily: pd.DataFrame) -> Estimate:
    """Return the mean over loops of a daily figure, and its interval.

    Args:
        daily: A row a day in the order of time, a column a loop; NaN where a loop has no figure.
    """
    from scipy import stats  # late, as statsmodels below: start-up cost

    known = daily.replace([math.inf, -math.inf], math.nan).dropna(how="all")
    means, loops = known.mean(axis=1), known.shape[1]
    days, mean = len(known), float(means.mean())
    if days < LEAST_DAYS:
        return Estimate(mean, math.nan, math.nan, days, loops)
    of_days, of_luck, freedom = _variance(means), 0.0, days - 1.0
    if loops > 1:
        # How much more the loops' means differ than days of that many would make them differ.
        own = known.sub(means, axis=0)
        noise = sum(_variance(own[name].dropna()) for name in own) / (loops - 1)
        of_luck = max(0.0, float(known.mean().var()) - noise) / loops
        if of_luck:  # Welch and Satterthwaite: few loops say little of how far they differ
            parts = of_days**2 / freedom + of_luck**2 / (loops - 1)
            freedom = (of_days + of_luck) ** 2 / parts
    error = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * math.sqrt(of_days + of_luck)
    return Estimate(mean, mean - error, mean + error, days, loops)


def interval(low: float, high: float) -> str:
    """Return the text of an interval, after a blank; empty where there is none."""
    return "" if math.isnan(low) else f" [{low:.4f}, {high:.4f}]"


def _variance(series: Any) -> float:
    """Return the variance of the mean of a daily series: Newey and West's, by their own number of lags."""
    from statsmodels.regression.linear_model import OLS  # late: start-up cost

    values = np.asarray(series, dtype=float)
    lags = {"maxlags": int(4 * (len(values) / 100) ** (2 / 9)), "use_correction": True}
    return float(OLS(values, np.ones(len(values))).fit(cov_type="HAC", cov_kwds=lags).bse[0] ** 2)


def deflated_sharpe_ratio(
    sharpe: float, days: int, skew: float, kurtosis: float, trials: int, variance: float
) -> float:
    """Return how likely a Sharpe ratio is above what the best of so many worthless trials has by luck.

    By Bailey and López de Prado, "The Deflated Sharpe Ratio" (2014), all of daily returns, not annualized.

    Args:
        sharpe: Mean over standard deviation.
        days: How many returns that is of.
        skew: Of the returns.
        kurtosis: Of the returns; 3 for normal ones.
        trials: How many were tried, this one too.
        variance: Of the trials' Sharpe ratios.
    """
    from scipy import stats

    luck = 0.0
    if trials > 1:
        high, higher = stats.norm.ppf([1 - 1 / trials, 1 - 1 / (trials * math.e)])
        luck = math.sqrt(variance) * ((1 - np.euler_gamma) * high + np.euler_gamma * higher)
    spread = math.sqrt(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    return float(stats.norm.cdf((sharpe - luck) * math.sqrt(days - 1) / spread))


def deflated_sharpe_ratio_of(returns: Any, trials: int, variance: float) -> float:
    """Return that of daily returns; NaN where they do not vary."""
    from scipy import stats

    known = np.asarray(returns, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < LEAST_DAYS or not known.std():
        return math.nan
    moments = float(stats.skew(known)), float(stats.kurtosis(known, fisher=False))
    return deflated_sharpe_ratio(known.mean() / known.std(ddof=1), len(known), *moments, trials, variance)


def false_discovery_rates(t_statistics: Sequence[float], days: Sequence[int]) -> list[float]:
    """Return the false-discovery rate (Benjamini and Hochberg) of each t; NaN where t is not known.

    Whoever takes the factors up to a rate for real finds that share of them worthless.
    """
    from scipy import stats

    values = np.asarray(t_statistics, dtype=float)
    known, rates = np.isfinite(values), np.full(len(values), math.nan)
    if known.any():
        freedom = np.asarray(days, dtype=float)[known] - 1
        chances = 2 * stats.t.sf(np.abs(values[known]), freedom)
        rates[known] = stats.false_discovery_control(chances)
    return [float(rate) for rate in rates]
