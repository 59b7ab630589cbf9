"""A factor's figures: those of alphalens-reloaded itself on the same data, and what alphalens fails on."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from examples.demo.market import Market as DemoMarket
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.market import read_market
from rdagent_sota_bridge.report.tearsheet import QUANTILES, ROLLING_DAYS, Sheet, sheet

# One worker imports alphalens, inside the tests: its plots take a second.
pytestmark = pytest.mark.xdist_group("alphalens")

NAN = float("nan")
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
CALENDAR = pd.bdate_range("2017-01-02", periods=80).delete([17, 18, 19, 40])  # with holidays
EQUAL = {"rtol": 0, "atol": 1e-9}


def cleaned(values: Any, returns: Any, members: Any, days: pd.DatetimeIndex, *, cut: bool = True) -> Any:
    """Return what alphalens makes of the data, on an index whose frequency is the trading calendar's.

    `cut` takes out the days that it can't cut into quantiles, as alphalens leaves it.
    """
    from alphalens import utils

    index = pd.MultiIndex.from_product(
        [days, [f"SH6{number:05d}" for number in range(values.shape[1])]], names=["date", "asset"]
    )
    trading = utils.infer_trading_calendar(days, days)
    index = index.set_levels(pd.DatetimeIndex(days, freq=trading), level=0)
    inside = np.asarray(members).ravel()
    factor = pd.Series(values.ravel(), index=index)[inside]
    forward = pd.DataFrame({"1D": returns.ravel()}, index=index)[inside]
    if not cut:
        return forward.assign(factor=factor[np.isfinite(factor)]).dropna()
    with contextlib.redirect_stdout(io.StringIO()):
        return utils.get_clean_factor(factor, forward, quantiles=QUANTILES, max_loss=1.0)


def assert_as_alphalens(values: Any, returns: Any, members: Any, days: pd.DatetimeIndex) -> Sheet:
    """Fail unless every figure is that of alphalens; return the figures."""
    from alphalens import performance, plotting

    found = sheet("momentum", values, returns, members, days)
    rows = cleaned(values, returns, members, days, cut=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, about constant days
        ic = performance.factor_information_coefficient(rows)["1D"]
        monthly = performance.mean_information_coefficient(rows, by_time="ME")["1D"].dropna()
        table = plotting.plot_information_table(ic.to_frame(), return_df=True).loc["1D"]
        autocorrelation = performance.factor_rank_autocorrelation(rows).dropna()
    rolling = ic.rolling(ROLLING_DAYS).mean()[ic.notna()]
    ic = ic.dropna()
    pd.testing.assert_index_equal(found.days, ic.index, check_names=False, exact="equiv")
    np.testing.assert_allclose(found.ic, ic, **EQUAL)
    np.testing.assert_allclose(found.rolling_ic, rolling, **EQUAL)
    assert list(found.months) == list(monthly.index.strftime("%Y-%m"))
    np.testing.assert_allclose(found.monthly_ic, monthly, **EQUAL)
    np.testing.assert_allclose(found.mean_ic, table["IC Mean"], **EQUAL)
    if not np.isnan(found.icir):  # else there is no spread
        np.testing.assert_allclose(found.icir, table["Risk-Adjusted IC"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.t_statistic, table["t-stat(IC)"], rtol=1e-9, atol=1e-9)
    pd.testing.assert_index_equal(
        found.autocorrelation_days, autocorrelation.index, check_names=False, exact="equiv"
    )
    np.testing.assert_allclose(found.autocorrelation, autocorrelation, **EQUAL)
    np.testing.assert_allclose(found.mean_autocorrelation, autocorrelation.mean(), **EQUAL)
    number, expected = len(rows.index.unique("date")), pd.Series(NAN, index=range(1, QUANTILES + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rows = cleaned(values, returns, members, days)
        except (ValueError, TypeError):  # alphalens itself fails where no day is left
            rows = rows[:0]
        if len(rows):
            expected.update(performance.mean_return_by_quantile(rows)[0]["1D"])
    np.testing.assert_allclose(found.quantile_returns, expected, **EQUAL)
    assert found.uncut_days == number - len(rows.index.unique("date"))
    return found


def panel(seed: int, days: int = 76, instruments: int = 30) -> tuple[Any, Any, Any]:
    """Return random values, returns that follow them a little, and a market that some join and leave."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((days, instruments)).cumsum(axis=0)
    returns = 0.01 * random.standard_normal((days, instruments)) + 0.001 * values
    members = np.ones((days, instruments), dtype=bool)
    for number in range(0, instruments, 3):
        start, end = np.sort(random.integers(0, days, 2))
        members[:start, number] = members[end:, number] = False
    return values, returns.astype(np.float32).astype(np.float64), members


@pytest.mark.parametrize("seed", range(3))
def test_plain(seed: int) -> None:
    """A full panel with unequal membership has the figures of alphalens, and every one of them."""
    values, returns, members = panel(seed)
    found = assert_as_alphalens(values, returns, members, CALENDAR)
    assert found.coverage == 1.0
    assert (found.name, found.uncut_days) == ("momentum", 0)
    assert len(found.ic) == len(CALENDAR)
    assert np.isfinite([found.mean_ic, found.icir, found.t_statistic]).all()
    assert np.isnan(found.rolling_ic[: ROLLING_DAYS - 1]).all()
    assert np.isfinite(found.rolling_ic[ROLLING_DAYS - 1 :]).all()
    assert len(found.autocorrelation) == len(CALENDAR) - 1
    assert np.isfinite(found.quantile_returns).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_gaps(share: float) -> None:
    """Values and returns that are missing here and there, whole days and the last label included."""
    values, returns, members = panel(3)
    random = np.random.default_rng(4)
    values[random.random(values.shape) < share] = np.nan
    returns[random.random(values.shape) < share / 2] = np.nan
    values[30], returns[50], returns[-2:] = np.nan, np.nan, np.nan
    members[60] = False
    values[5, 2] = np.inf
    found = assert_as_alphalens(values, returns, members, CALENDAR)
    assert found.coverage == pytest.approx(np.isfinite(values[members]).mean())
    assert set(CALENDAR[[30, 50, 60]]).isdisjoint(found.days)
    assert set(CALENDAR[[30, 31, 50, 51]]).isdisjoint(found.autocorrelation_days)


@pytest.mark.parametrize("steps", [2, 3, 5, 12, 40])
def test_ties(steps: int) -> None:
    """Values and returns of which many are the same: ranks share their mean, and some days can't be cut."""
    values, returns, members = panel(5)
    values = np.floor(steps * (values % 1)) / 10
    returns = np.round(returns, 2)
    found = assert_as_alphalens(values, returns, members, CALENDAR)
    assert (found.uncut_days > 0) == (steps < 40)
    assert len(found.ic) == len(CALENDAR), "a day that can't be cut has an IC all the same"


def test_values_on_the_edges() -> None:
    """Counts by which the edges of the groups fall on values, for all numbers of instruments from 0 to 40."""
    random = np.random.default_rng(6)
    values, returns = random.permuted(np.tile(np.arange(41) / 10, (41, 1)), axis=1), random.random((41, 41))
    members = np.arange(41)[None, :] < np.arange(41)[:, None]
    found = assert_as_alphalens(values, returns, members, CALENDAR[:41])
    assert found.uncut_days == 1, "a day of one instrument"


def test_few_names() -> None:
    """Days of one to four instruments: two have an IC of 1 or -1, and lie in the outer groups."""
    values = np.array([[1, 2, NAN, NAN], [1, NAN, NAN, NAN], [3, 1, 2, NAN], [4, 3, 2, 1], [1, 2, 3, 4]])
    returns = np.array([[0.1, 0.2, 9, 9], [0.1, 9, 9, 9], [0.3, 0.2, 0.1, 9], [4, 3, 2, 1], [4, 3, 2, 1]])
    found = assert_as_alphalens(values, returns, np.ones((5, 4), dtype=bool), CALENDAR[:5])
    np.testing.assert_allclose(found.ic, [1, 0.5, 1, -1])
    assert list(found.days) == list(CALENDAR[[0, 2, 3, 4]])
    assert np.isnan(found.rolling_ic).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e12, 1e200])
def test_scale(scale: float) -> None:
    """The size of a factor's values changes nothing."""
    values, returns, members = panel(7)
    found, other = (sheet("a", at * values, returns, members, CALENDAR) for at in (1.0, scale))
    np.testing.assert_array_equal(found.ic, other.ic)
    np.testing.assert_allclose(found.quantile_returns, other.quantile_returns, **EQUAL)


def test_the_planted_alpha(market_home: tuple[Path, DemoMarket]) -> None:
    """On the demo's market, whose calendar is sparse, the overnight gap has the figures of alphalens."""
    demo = market_home[1]
    market = read_market(str(demo.provider), "csi300")
    assert market is not None
    test = np.flatnonzero((market.calendar >= "2017-01-01") & (market.calendar <= "2020-08-01"))
    returns = label.values(market.folder, LABEL, test, market.instruments).astype(np.float64)
    order = [demo.instruments.index(code) for code in market.instruments]
    opening, close = (demo.prices[field][:, order].astype(np.float64) for field in ("open", "close"))
    gap = opening[test] / close[test - 1] - 1
    found = assert_as_alphalens(gap, returns, market.members()[test], market.calendar[test])
    assert found.mean_ic == pytest.approx(0.78, abs=0.03)
    assert found.t_statistic > 50
    assert (np.diff(found.quantile_returns) > 0).all()
    assert abs(found.mean_autocorrelation) < 0.05
    assert len(found.ic) == len(test)


CELLS = some.sampled_from([NAN, 0.0, 1.0, -1.0, 2.0, 0.1, 0.2, 0.3, 1e-300])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=some.data())
def test_any_panel(data: some.DataObject) -> None:
    """Whatever the values, the returns and the membership, the figures are those of alphalens."""
    days, instruments = data.draw(some.integers(2, 6)), data.draw(some.integers(1, 9))

    def drawn(kind: some.SearchStrategy[Any], dtype: type) -> Any:
        size = days * instruments
        cells = data.draw(some.lists(kind, min_size=size, max_size=size))
        return np.array(cells, dtype=dtype).reshape(days, instruments)

    values, returns = drawn(CELLS, float), drawn(CELLS, float)
    members = drawn(some.sampled_from([True, True, True, False]), bool)
    if (members & np.isfinite(values) & np.isfinite(returns)).any():
        assert_as_alphalens(values, returns, members, CALENDAR[:days])


@pytest.mark.parametrize(
    ("case", "coverage", "uncut"),
    [
        ("no value", 0.0, 0),
        ("no return", 1.0, 0),
        ("no member", NAN, 0),
        ("no day", NAN, 0),
        ("no instrument", NAN, 0),
        ("constant", 1.0, 5),
    ],
)
def test_nothing_to_show(case: str, coverage: float, uncut: int) -> None:
    """Without a day that has an IC every figure is NaN or empty, and nothing warns."""
    values, returns, members = panel(8, days=5, instruments=4)
    days = CALENDAR[:5]
    if case in ("no value", "constant"):
        values[:] = np.nan if case == "no value" else 0.1
    elif case == "no return":
        returns[:] = np.nan
    elif case == "no member":
        members[:] = False
    elif case == "no day":
        values, returns, members, days = values[:0], returns[:0], members[:0], days[:0]
    else:
        values, returns, members = values[:, :0], returns[:, :0], members[:, :0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sheet("a", values, returns, members, days)
    assert (len(found.days), len(found.ic), len(found.rolling_ic), found.months) == (0, 0, 0, ())
    assert (len(found.monthly_ic), len(found.autocorrelation), len(found.autocorrelation_days)) == (0, 0, 0)
    unknown = [found.mean_ic, found.icir, found.t_statistic, found.mean_autocorrelation]
    assert np.isnan([*unknown, *found.quantile_returns]).all()
    assert found.quantile_returns.shape == (QUANTILES,)
    np.testing.assert_equal(found.coverage, coverage)
    assert found.uncut_days == uncut


@pytest.mark.parametrize("days", [1, 5])
def test_an_ic_without_spread(days: int) -> None:
    """One day, or the same IC on all days: there is a mean, and no t-statistic made up of rounding."""
    values = np.tile(np.arange(20.0), (days, 1))
    returns = np.tile(np.roll(np.arange(20.0), 7), (days, 1))
    found = sheet("a", values, returns, np.ones(values.shape, dtype=bool), CALENDAR[:days])
    assert len(found.ic) == days
    assert np.isfinite(found.mean_ic)
    assert np.isnan([found.icir, found.t_statistic]).all()
    assert found.mean_autocorrelation == pytest.approx(1.0) if days > 1 else len(found.autocorrelation) == 0
