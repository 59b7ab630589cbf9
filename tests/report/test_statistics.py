"""The figures of the headline: intervals that hold their level, the paper's example, false discoveries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.report import statistics


def noise(seed: int, loops: int = 1, days: int = 262, shift: float = 0.0) -> pd.DataFrame:
    """Return daily figures of some loops around a mean, with a part that the day gives to all loops."""
    random = np.random.default_rng(seed)
    of_day = random.normal(0, 0.03, (days, 1))
    return pd.DataFrame(of_day + random.normal(shift, 0.05, (days, loops)))


@pytest.mark.parametrize("loops", [1, 10])
def test_the_interval_is_that_of_the_days(loops: int) -> None:
    """Of independent days it is near mean ± t · sd / √n of the means over loops, and the same twice."""
    daily = noise(1, loops)
    found = statistics.estimate(daily)
    means = daily.mean(axis=1)
    assert found.mean == pytest.approx(means.mean())
    assert found.error == pytest.approx(1.97 * means.std() / len(means) ** 0.5, rel=0.25)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean)
    assert (found.days, found.loops) == (262, loops)
    assert statistics.estimate(daily) == found


@pytest.mark.parametrize(
    ("shift", "days", "answer"),
    [
        (0.02, 262, "better"),
        (-0.02, 262, "worse"),
        (0.0, 262, "open"),
        (0.5, 19, "open"),
        (0.5, 20, "better"),
    ],
)
def test_the_answer_is_the_side_of_zero_that_the_interval_is_on(shift: float, days: int, answer: str) -> None:
    """Of fewer than 20 days there is no interval, so nothing is claimed, however great the mean."""
    found = statistics.estimate(noise(3, 10, days, shift))
    assert found.answer == answer
    assert math.isnan(found.error) == (days < statistics.LEAST_DAYS)


def test_noise_is_seldom_called_a_difference() -> None:
    """Of worthless factors about one job in twenty is called better or worse; three errors are found."""
    answers = [statistics.estimate(noise(seed, 10)).answer for seed in range(200)]
    assert 2 <= 200 - answers.count("open") <= 20
    three = 3 * ((0.03**2 + 0.05**2 / 10) / 262) ** 0.5
    found = [statistics.estimate(noise(seed, 10, shift=three)).answer for seed in range(200)]
    assert found.count("better") >= 160


def test_days_that_follow_each_other_and_trainings_that_differ_widen_the_interval() -> None:
    """Days that are alike say less than independent ones, and so do loops that differ for good."""
    daily = noise(5, 10)
    plain = statistics.estimate(daily).error
    assert statistics.estimate(daily.rolling(5, min_periods=1).mean() * 5**0.5).error > 1.4 * plain
    luck = np.linspace(-0.03, 0.03, 10)
    assert statistics.estimate(daily + luck).error > 2 * plain


def test_missing_days_and_loops_are_left_out() -> None:
    """A day that no loop has is none; a loop that has fewer days counts on those that it has."""
    daily = noise(6, 3)
    daily.iloc[:10] = np.nan
    daily.iloc[10:20, 0] = np.inf
    found = statistics.estimate(daily)
    assert found.days == 252
    assert found.mean == pytest.approx(daily.replace(np.inf, np.nan).mean(axis=1).mean())
    assert statistics.estimate(pd.DataFrame()).answer == "open"


@pytest.mark.parametrize(
    ("skew", "kurtosis", "trials", "expected"),
    [(-3, 10, 100, 0.9004), (-3, 10, 46, 0.9505), (0, 3, 88, 0.9505)],
)
def test_the_deflated_sharpe_ratio_is_the_papers(
    skew: float, kurtosis: float, trials: int, expected: float
) -> None:
    """The worked example of Bailey and López de Prado (2014): 2.5 a year, 1,250 days, variance 1/2."""
    found = statistics.deflated_sharpe_ratio(2.5 / 250**0.5, 1250, skew, kurtosis, trials, 0.5 / 250)
    assert found == pytest.approx(expected, abs=5e-5)


def test_the_deflated_sharpe_ratio_of_returns() -> None:
    """More trials leave less of it; of returns that are none, few or all alike there is none."""
    returns = np.random.default_rng(1).normal(0.001, 0.01, 500)
    one, many = (statistics.deflated_sharpe_ratio_of(returns, trials, 0.003) for trials in (1, 50))
    assert 0.9 < one < 1 and many < 0.9 * one
    for none in (np.full(500, np.nan), np.zeros(500), returns[:10]):
        assert math.isnan(statistics.deflated_sharpe_ratio_of(none, 5, 0.003))


def test_false_discovery_rates() -> None:
    """|t| of 2 among thirty says nothing, of 5 it does; a factor without t has no rate and is not counted."""
    t = np.random.default_rng(2).standard_normal(28)
    rates = statistics.false_discovery_rates([2.1, -5.0, math.nan, *t], [870] * 31)
    assert rates[0] > 0.2 and rates[1] < 0.01 and math.isnan(rates[2])
    assert statistics.false_discovery_rates([math.nan, 2.0], [0, 870])[1] == pytest.approx(0.0458, abs=1e-3)
    assert statistics.false_discovery_rates([], []) == []
