"""Factors that say the same: which are dropped, against plain pandas."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.factor_set import panel, selection
from rdagent_sota_bridge.factor_set.selection import Dropped, sampled_dates, to_drop
from tests.frames import factor_frame, write

DAYS = pd.bdate_range("2020-01-01", periods=20)
CODES = [f"SH6{number:05d}" for number in range(12)]


def dropped(
    frame: pd.DataFrame, folder: Path, threshold: float, sample: Sequence[int] | None = None
) -> list[Dropped]:
    """Return what is dropped of a frame that was written to a file.

    Args:
        frame: The factors.
        folder: Where to write them.
        threshold: The least |correlation| that drops.
        sample: Positions of the sampled dates; those that the package would take if None.
    """
    with panel.opened([write(frame, folder)]) as factors:
        dates = sampled_dates(factors) if sample is None else sample
        parts = [np.flatnonzero(factors.date_codes == date) for date in dates]
        rows = np.concatenate(parts)
        values = np.array([factors.read(column)[rows] for column in factors.columns], dtype=np.float32)
        ends = np.cumsum([0, *map(len, parts)])
        slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        return to_drop(factors, values, slices, threshold)


def mean_correlation(one: pd.Series, other: pd.Series) -> float:
    """Return the mean daily |correlation| of two factors, day by day with pandas."""
    pair = pd.DataFrame({"x": one, "y": other}).dropna()
    days = [day for _, day in pair.groupby(level="datetime") if len(day) > 2]
    found = [
        abs(day["x"].corr(day["y"])) for day in days if day["x"].nunique() > 1 and day["y"].nunique() > 1
    ]
    return float(np.mean(found)) if found else float("nan")


def expected(figures: dict[tuple[str, str], float], threshold: float) -> list[tuple[str, str, float]]:
    """Return what has to be dropped: each factor that is as alike as that to an earlier one that is kept."""
    kept: list[str] = []
    gone = []
    for column in dict.fromkeys(name for pair in figures for name in pair):
        values = ((earlier, figures[earlier, column]) for earlier in kept)
        alike = next((pair for pair in values if pair[1] >= threshold), None)
        if alike is None:
            kept.append(column)
        else:
            gone.append((column, *alike))
    return gone


def names(found: list[Dropped]) -> list[tuple[str, str]]:
    """Return which factor was dropped for which."""
    return [(drop.column, drop.kept) for drop in found]


@pytest.mark.parametrize("seed", range(5))
def test_against_pandas(tmp_path: Path, seed: int) -> None:
    """Mixed, flipped, sparse, tied and partly constant factors are dropped as pandas' own figures say."""
    random = np.random.default_rng(seed)
    base = factor_frame(["p", "q", "r"], days=DAYS, instruments=CODES, seed=seed)
    noise = factor_frame([f"n{number}" for number in range(6)], days=DAYS, instruments=CODES, seed=seed + 100)
    frame = pd.DataFrame(index=base.index)
    for number, weight in enumerate(random.uniform(0.05, 2, size=6)):
        frame[f"f{number}"] = (
            random.choice([-1, 1]) * base.iloc[:, number % 3] + weight * noise.iloc[:, number]
        )
    frame["tied"] = (frame["f0"] / 100).round()
    frame = frame.mask(random.random(frame.shape) < 0.2)
    frame.loc[DAYS[3:7], "f1"] = 0.1
    frame.loc[DAYS[5], "f2"] = np.nan
    frame = frame.sample(frac=0.9, random_state=seed)
    pairs = itertools.combinations(frame, 2)
    figures = {pair: mean_correlation(frame[pair[0]], frame[pair[1]]) for pair in pairs}
    some = False
    for threshold in (0.2, 0.5, 0.8, 0.95):
        found = dropped(frame, tmp_path, threshold)
        wanted = expected(figures, threshold)
        assert names(found) == [drop[:2] for drop in wanted]
        assert [drop.correlation for drop in found] == pytest.approx([drop[2] for drop in wanted], abs=1e-9)
        some = some or bool(found)
    assert some


@pytest.mark.parametrize("factor", [1.0, -1.0, -2.5, 1e-9, 1e9])
def test_the_later_one_is_dropped_whatever_its_sign_and_scale(tmp_path: Path, factor: float) -> None:
    """A multiple of a factor says the same, whatever its sign; the order of the columns decides."""
    frame = factor_frame(["z", "a"], days=DAYS, instruments=CODES)
    frame["b"] = factor * (frame["z"] + 5)
    (drop,) = dropped(frame, tmp_path, 0.99)
    assert (drop.column, drop.kept) == ("b", "z")
    assert drop.correlation == pytest.approx(1)
    (drop,) = dropped(frame[["b", "a", "z"]], tmp_path, 0.99)
    assert (drop.column, drop.kept) == ("z", "b")


def test_opposite_signs_on_different_days_do_not_cancel(tmp_path: Path) -> None:
    """Alike on each day, with the sign changing from day to day, is alike: the mean is of |correlation|."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    frame["b"] = frame["a"] * np.where(frame.index.get_level_values(0) < DAYS[10], 1, -1)
    assert names(dropped(frame, tmp_path, 0.99)) == [("b", "a")]


def test_chain(tmp_path: Path) -> None:
    """Of a ~ b ~ c with a and c unlike, b goes for a, and c stays, for b is no longer there to be like."""
    frame = factor_frame(["a", "c"], days=DAYS, instruments=CODES)
    frame.insert(1, "b", frame["a"] + frame["c"])
    assert [mean_correlation(frame["b"], frame[other]) > 0.5 for other in "ac"] == [True, True]
    assert mean_correlation(frame["a"], frame["c"]) < 0.5
    assert names(dropped(frame, tmp_path, 0.5)) == [("b", "a")]
    assert names(dropped(frame[["b", "a", "c"]], tmp_path, 0.5)) == [("a", "b"), ("c", "b")]


def test_threshold_exactly_met(tmp_path: Path) -> None:
    """A correlation of just the threshold drops, one below it does not; 1 is met by an exact multiple."""
    index = pd.MultiIndex.from_product([DAYS[:4], CODES[:4]], names=["datetime", "instrument"])
    frame = pd.DataFrame(
        {"a": [1, 1, -1, -1] * 4, "b": [2, 1, -1, -2] * 4, "c": [3, 3, -3, -3] * 4}, index=index
    )
    exact = 3 / np.sqrt(10)
    assert names(dropped(frame, tmp_path, exact)) == [("b", "a"), ("c", "a")]
    assert names(dropped(frame, tmp_path, exact + 1e-6)) == [("c", "a")]
    assert names(dropped(frame, tmp_path, 1.0)) == [("c", "a")]


def test_off(tmp_path: Path) -> None:
    """An infinite threshold keeps even copies, and one factor alone is never dropped."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    assert dropped(frame, tmp_path, 1e-6) == []
    frame["b"] = frame["a"]
    assert dropped(frame, tmp_path, float("inf")) == []


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 123456.789])
def test_constant_factor_is_like_none(tmp_path: Path, constant: float) -> None:
    """A factor with the same value everywhere has no correlation, not even with a copy of itself."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    frame["b"] = constant
    frame["c"] = constant
    assert dropped(frame, tmp_path, 1e-6) == [*dropped(frame[["a"]], tmp_path, 1e-6)]


def test_values_in_no_common_row(tmp_path: Path) -> None:
    """Two factors that never have a value in one row, or in only two rows a day, are not alike."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    number = np.arange(len(frame)) % len(CODES)
    frame["b"] = frame["a"].where(number < 6)
    frame["c"] = frame["a"].where(number >= 4)
    frame["a"] = frame["a"].where(number >= 6)
    assert names(dropped(frame, tmp_path, 0.5)) == [("c", "a")]
    assert dropped(frame[["b", "c"]], tmp_path, 1e-6) == []
    assert dropped(frame[["a", "b"]], tmp_path, 1e-6) == []


@pytest.mark.parametrize("exponent", [-60, 0, 80])
def test_scale_of_the_values(tmp_path: Path, exponent: int) -> None:
    """Neither tiny nor huge values get lost when they are squared."""
    frame = factor_frame(["a", "b"], days=DAYS, instruments=CODES) * 10.0**exponent
    frame["c"] = -frame["a"]
    with np.errstate(over="ignore"):  # float32 is of the sample alone
        found = dropped(frame, tmp_path, 0.99)
    assert names(found) == [("c", "a")]


def test_large_level_with_a_small_spread(tmp_path: Path) -> None:
    """A level that float32 can't tell from its neighbours is no reason to keep a copy, or to drop another."""
    frame = factor_frame(["a", "b"], days=DAYS, instruments=CODES) / 1e4 + 1e8
    frame["c"] = frame["a"]
    assert names(dropped(frame, tmp_path, 0.99)) == [("c", "a")]


@pytest.mark.parametrize("likely", [True, False])
def test_the_sample_alone_does_not_decide(tmp_path: Path, likely: bool) -> None:
    """Alike on the sampled days alone is kept; alike on all, and a little less on the sampled, is dropped."""
    frame = factor_frame(["a", "noise"], days=DAYS, instruments=CODES)
    sampled = frame.index.get_level_values(0).isin(DAYS[:5])
    noise = frame.pop("noise")
    weak, strong = (frame["a"] + weight * noise for weight in (0.45, 0.05))
    frame["b"] = np.where(sampled == likely, strong, weak)
    on_sample = mean_correlation(frame.loc[sampled, "a"], frame.loc[sampled, "b"])
    on_all = mean_correlation(frame["a"], frame["b"])
    threshold = (on_sample + on_all) / 2
    assert 0.01 < abs(on_sample - on_all) < 0.09
    assert (on_sample > threshold) is likely
    found = dropped(frame, tmp_path, threshold, sample=range(5))
    assert [drop.correlation for drop in found] == ([] if likely else [pytest.approx(on_all)])


def test_pair_without_a_sampled_value_is_computed(tmp_path: Path) -> None:
    """A factor without a value on the sampled days is still compared."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    frame["b"] = frame["a"].where(~frame.index.get_level_values(0).isin(DAYS[:5]))
    assert names(dropped(frame, tmp_path, 0.99, sample=range(5))) == [("b", "a")]


def test_day_that_is_constant_where_both_have_values(tmp_path: Path) -> None:
    """What rounding leaves of such a day counts as no day in the sample either; else it would hide a copy."""
    frame = factor_frame(["a", "b"], days=DAYS, instruments=CODES)
    half = frame.index.get_level_values(0) >= DAYS[10]
    few = frame.index.get_level_values(1).isin(CODES[:4])
    frame["b"] = frame["b"].where(half, 3.3 * frame["a"]).mask(half & few)
    frame["a"] = frame["a"].mask(half & ~few, 0.0)
    assert mean_correlation(frame["a"], frame["b"]) == pytest.approx(1)
    assert names(dropped(frame, tmp_path, 0.99)) == [("b", "a")]


@pytest.mark.parametrize(
    ("cells", "number"), [(10**6, 20), (240, 20), (239, 19), (60, 5), (24, 2), (12, 1), (1, 1)]
)
def test_sampled_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int, number: int) -> None:
    """About as many rows as asked for, on ascending days from the first on; all, where there are no more."""
    monkeypatch.setattr(selection, "SAMPLE_CELLS", cells)
    with panel.opened([write(factor_frame(days=DAYS, instruments=CODES), tmp_path)]) as factors:
        dates = list(sampled_dates(factors))
    assert len(dates) == number
    assert dates == sorted(set(dates))
    assert dates[0] == 0
    assert number == 1 or dates[-1] == len(DAYS) - 1
    assert max(np.diff(dates), default=0) - min(np.diff(dates), default=0) <= 1
