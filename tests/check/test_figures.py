"""What the values of factors look like on a market, against plain loops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.check import figures
from rdagent_sota_bridge.check.figures import FactorFigures, FigureGround
from rdagent_sota_bridge.factor_set import panel
from rdagent_sota_bridge.qlib_files.manifest import LEAST_SPREAD
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from tests.frames import factor_frame, write, write_prices

CALENDAR = pd.bdate_range("2020-01-01", periods=30)
CODES = tuple(f"SH6{number:05d}" for number in range(10))
SEGMENTS = {
    "train": (CALENDAR[3], CALENDAR[14]),
    "valid": (CALENDAR[15], CALENDAR[19]),
    "test": (CALENDAR[20], CALENDAR[29]),
}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
SPANS = (  # the last three instruments have no membership: always
    (0, "2000-01-01", "2030-12-31"),
    (1, "2020-01-08", "2020-02-04"),
    (2, "2019-01-01", "2020-01-15"),
    (2, "2020-01-28", "2030-12-31"),
    (3, "2021-01-01", "2030-12-31"),
    *((place, "2000-01-01", "2030-12-31") for place in (4, 5, 6)),
)


def task(label: str = LABEL, **segments: Any) -> Task:
    """Return a task with other segments, or another label."""
    return Task("/qlib", "csi300", **{**SEGMENTS, **segments}, label=label)


def market(folder: Path, spans: Any = SPANS, hours: int = 0, seed: int = 1) -> Market:
    """Write random prices with gaps into a Qlib data folder, and return the market."""
    random = np.random.default_rng(seed)
    for number, code in enumerate(CODES[:-1]):  # the last has no prices
        start = number % 4
        prices = 10 * np.exp(np.cumsum(random.normal(scale=0.02, size=len(CALENDAR) - start - number % 3)))
        prices[random.random(len(prices)) < 0.05] = np.nan
        write_prices(folder, code, "close", start, list(prices.round(1)))  # rounded: labels that are equal
    return Market(folder, "csi300", CALENDAR + pd.Timedelta(hours=hours), CODES, spans)


def looked_at(
    frame: pd.DataFrame, folder: Path, at: Market | None, wanted: Task, dates: Sequence[int] | None = None
) -> tuple[FigureGround, dict[str, FactorFigures]]:
    """Write a frame, and return the ground and the figures of its factors; the sample is all days if None."""
    with panel.opened([write(frame, folder)]) as factors:
        sampled = np.arange(len(factors.dates)) if dates is None else np.array(dates)
        on = FigureGround(factors, at, wanted, sampled)
        return on, {name: on.take(values) for name, values in panel.values(factors)}


# --- the same in plain loops ---


def is_member(at: Market, day: pd.Timestamp, code: str) -> bool:
    """Return whether an instrument was in the market on a day of its calendar."""
    if code not in at.instruments or day not in at.calendar:
        return False
    spans = [span for span in at.memberships if at.instruments[span[0]] == code]
    day = day.normalize()
    return not spans or any(pd.Timestamp(start) <= day <= pd.Timestamp(end) for _, start, end in spans)


def is_inside(day: pd.Timestamp, segment: Any) -> bool:
    """Return whether a day belongs to a segment."""
    return bool(day.normalize() >= segment[0] and (pd.isna(segment[1]) or day.normalize() <= segment[1]))


def coverage(factor: pd.Series, at: Market | None, segment: Any) -> float | None:
    """Return the share of the market's cells that a factor fills; of the set's own rows without a market."""
    values = factor.dropna()
    if at is None:
        rows = [key for key in factor.index if is_inside(key[0], segment)]
        filled = [key for key in values.index if is_inside(key[0], segment)]
    else:
        days = [day for day in at.calendar if is_inside(day, segment)]
        rows = [(day, code) for day in days for code in at.instruments if is_member(at, day, code)]
        filled = [key for key in rows if key in values.index]
    return len(filled) / len(rows) if rows else None


def rank_ic(factor: pd.Series, at: Market, segment: Any) -> tuple[float | None, int]:
    """Return the mean rank correlation with the label, day by day with pandas, and the number of days."""
    prices = {}
    for code in at.instruments:
        file = at.folder / "features" / code.lower() / "close.day.bin"
        if file.is_file():
            start, *found = np.fromfile(file, dtype="<f4")
            prices[code] = pd.Series(found, index=range(int(start), int(start) + len(found)), dtype="float32")
    daily = []
    for day, values in factor.groupby(level="datetime"):
        if not is_inside(day, segment) or day not in at.calendar:
            continue
        position = at.calendar.get_loc(day)
        pairs = []
        for (_, code), value in values.items():
            series = prices.get(code, pd.Series(dtype="float32"))
            if position + 2 in series.index and position in series.index and is_member(at, day, code):
                pairs.append((value, series[position + 2] / series[position + 1] - np.float32(1)))
        both = pd.DataFrame(pairs, columns=["factor", "label"]).dropna()
        if len(both) >= 5 and both["factor"].nunique() > 1 and both["label"].nunique() > 1:
            daily.append(both["factor"].rank().corr(both["label"].rank()))
    return (float(np.mean(daily)), len(daily)) if daily else (None, 0)


def awkward(seed: int) -> pd.DataFrame:
    """Return factors with ties, gaps and constant days, on rows that are not quite the market's."""
    days = CALENDAR[2:26].append(pd.DatetimeIndex(["2020-02-08", "2020-02-10", "2020-02-11"]))
    frame = factor_frame(
        ["full", "holes", "ties", "late"], days=days, instruments=(*CODES, "XX000001"), seed=seed
    )
    random = np.random.default_rng(seed)
    frame["holes"] = frame["holes"].where(random.random(len(frame)) < 0.6)
    frame["ties"] = (frame["ties"] / 100).round()
    frame["late"] = frame["late"].where(frame.index.get_level_values(0) > CALENDAR[12])
    frame.loc[CALENDAR[5:8], "full"] = 0.1
    frame.loc[CALENDAR[22], "holes"] = 3.0
    return frame.sample(frac=0.9, random_state=seed)


@pytest.mark.parametrize(
    ("seed", "open_end", "hours"), [(0, False, 0), (1, True, 0), (0, True, 15), (1, False, 15)]
)
def test_against_loops(tmp_path: Path, seed: int, open_end: bool, hours: int) -> None:
    """Coverage, missing values, constant days, range and rank IC are what a loop over cells finds."""
    at = market(tmp_path, hours=hours, seed=seed)
    wanted = task(test=(CALENDAR[20], pd.NaT)) if open_end else task()
    frame = awkward(seed)
    levels = [frame.index.get_level_values(0) + pd.Timedelta(hours=hours), frame.index.get_level_values(1)]
    frame.index = pd.MultiIndex.from_arrays(levels, names=frame.index.names)
    on, found = looked_at(frame, tmp_path, at, wanted)
    for name, factor in frame.items():
        figure = found[str(name)]
        assert figure.coverage == shares(factor, at, wanted)
        assert figure.missing == pytest.approx(factor.isna().mean())
        days = factor.groupby(level="datetime")
        assert figure.days == (days.count() > 1).sum()
        assert figure.constant_days == ((days.count() > 1) & (days.nunique() == 1)).sum()
        assert (figure.low, figure.high) == (factor.min(), factor.max())
        mean, number = rank_ic(factor, at, wanted.test)
        assert (figure.rank_ic, figure.rank_ic_days) == (pytest.approx(mean, abs=1e-12), number)
    assert on.filled == shares(pd.Series(1.0, index=frame.index), at, wanted)
    there = frame.index.get_level_values(0).unique()
    missing = [day for day in CALENDAR if there.min().normalize() <= day <= there.max().normalize()]
    assert list(on.missing_days) == [day for day in missing if day not in there.normalize()]
    assert found["full"].rank_ic_days > 3
    assert found["full"].constant_days == 3


def shares(factor: pd.Series, at: Market | None, wanted: Task) -> dict[str, Any]:
    """Return the coverage by segment, to be compared with."""
    return {name: pytest.approx(coverage(factor, at, days)) for name, days in wanted.segments.items()}


def test_without_a_market(tmp_path: Path) -> None:
    """Qlib's data not there yet, coverage is of the set's rows; of IC and missing days nothing is said."""
    wanted = task(test=(CALENDAR[20], CALENDAR[24]))
    frame = awkward(4)
    on, found = looked_at(frame, tmp_path, None, wanted)
    for name, factor in frame.items():
        assert found[str(name)].coverage == shares(factor, None, wanted)
        assert (found[str(name)].rank_ic, found[str(name)].rank_ic_days) == (None, 0)
    assert on.filled == {"train": 1.0, "valid": 1.0, "test": 1.0}
    assert len(on.missing_days) == 0


@pytest.mark.parametrize("with_market", [True, False])
def test_segments_without_a_row(tmp_path: Path, with_market: bool) -> None:
    """A segment that the set does not reach is not filled, with a market and without."""
    at = market(tmp_path) if with_market else None
    frame = factor_frame(["a"], days=CALENDAR[3:10], instruments=CODES)
    nowhere = (pd.Timestamp("2030-01-01"), pd.Timestamp("2030-12-31"))
    on, found = looked_at(frame, tmp_path, at, task(valid=nowhere))
    no_day = None if with_market else 0.0
    assert (on.filled["valid"], on.filled["test"]) == (no_day, 0.0)
    assert (found["a"].coverage["valid"], found["a"].coverage["test"]) == (no_day, 0.0)
    assert (found["a"].rank_ic, found["a"].rank_ic_days) == (None, 0)


def test_instruments_that_the_market_does_not_have(tmp_path: Path) -> None:
    """Rows of foreign instruments, and of days that are no trading days, fill nothing."""
    at = market(tmp_path, spans=())
    foreign = factor_frame(["a"], days=CALENDAR, instruments=["AAPL", "600000.SH"])
    weekend = factor_frame(["a"], days=pd.DatetimeIndex(["2020-01-11", "2020-01-12"]), instruments=CODES)
    own = factor_frame(["a"], days=CALENDAR[3:9], instruments=CODES[:5])
    on, found = looked_at(pd.concat([foreign, weekend, own]), tmp_path, at, task())
    assert found["a"].coverage == on.filled == {"train": 30 / 120, "valid": 0.0, "test": 0.0}
    assert (found["a"].missing, found["a"].rank_ic) == (0, None)


# --- the rank IC ---


def label_frame(at: Market) -> pd.DataFrame:
    """Return the label itself as a factor, from the market's price files."""
    rows = {}
    for code in CODES[:-1]:
        start, *prices = np.fromfile(at.folder / "features" / code.lower() / "close.day.bin", dtype="<f4")
        for number, (one, two) in enumerate(itertools.pairwise(prices[1:]), int(start)):
            rows[CALENDAR[number], code] = float(two / one - np.float32(1))
    index = pd.MultiIndex.from_tuples(list(rows), names=["datetime", "instrument"])
    return pd.DataFrame({"a": list(rows.values())}, index=index)


@pytest.mark.parametrize("change", ["same", "negative", "cubed", "turned before the test segment"])
def test_factor_that_knows_the_label(tmp_path: Path, change: str) -> None:
    """A factor that orders the instruments of the test segment as the label does has a rank IC of one."""
    at = market(tmp_path, spans=())
    frame = label_frame(at)
    before = frame.index.get_level_values(0) < SEGMENTS["test"][0]
    frame["a"] = {
        "same": frame["a"],
        "negative": -frame["a"],
        "cubed": 1e6 * frame["a"] ** 3 + 5,
        "turned before the test segment": frame["a"] * np.where(before, -1, 1),
    }[change]
    _, found = looked_at(frame, tmp_path, at, task())
    assert found["a"].rank_ic == pytest.approx(-1.0 if change == "negative" else 1.0)
    assert found["a"].rank_ic_days >= 7


@pytest.mark.parametrize("label", ["$close", "Ref($open, -2)/Ref($open, -1) - 1"])
def test_label_that_is_not_known(tmp_path: Path, label: str) -> None:
    """With another form of label, or one without prices, there is no rank IC; the rest stays."""
    frame = awkward(1)
    at = market(tmp_path)
    _, found = looked_at(frame, tmp_path, at, task(label))
    _, with_it = looked_at(frame, tmp_path, at, task())
    for name in frame:
        assert with_it[name].rank_ic is not None
        assert found[name] == dataclasses.replace(with_it[name], rank_ic=None, rank_ic_days=0)


@pytest.mark.parametrize(("instruments", "days"), [(4, 0), (5, 8)])
def test_days_with_few_instruments_have_no_ic(tmp_path: Path, instruments: int, days: int) -> None:
    """From five instruments on a day has an IC."""
    at = market(tmp_path, spans=())
    for number, code in enumerate(CODES):
        write_prices(tmp_path, code, "close", 0, list(np.random.default_rng(number).uniform(5, 6, 30)))
    frame = factor_frame(["a"], days=CALENDAR, instruments=CODES[:instruments])
    _, found = looked_at(frame, tmp_path, at, task())
    assert found["a"].rank_ic_days == days


def test_ic_of_evenly_spread_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long test segment evenly spread days are taken, with both ends."""
    at = market(tmp_path, spans=())
    frame = awkward(2)
    segment = (CALENDAR[3], CALENDAR[13])
    monkeypatch.setattr(figures, "IC_CELLS", 3 * len(frame.index.unique(1)))
    _, found = looked_at(frame, tmp_path, at, task(test=segment))
    days = [CALENDAR[3], CALENDAR[8], CALENDAR[13]]
    mean, number = rank_ic(frame["ties"][frame.index.get_level_values(0).isin(days)], at, segment)
    assert (found["ties"].rank_ic, found["ties"].rank_ic_days) == (pytest.approx(mean), number)
    assert number == 3


# --- spread and extremes ---


def spread(frame: pd.DataFrame, folder: Path, dates: Sequence[int] | None = None) -> FactorFigures:
    """Return the figures of the one factor of a frame, without a market."""
    _, found = looked_at(frame, folder, None, task(), dates)
    return found["a"]


@pytest.mark.parametrize(("seed", "dates"), [(0, None), (1, [0, 7, 29]), (2, [5])])
def test_extremes(tmp_path: Path, seed: int, dates: list[int] | None) -> None:
    """Median and deviation are of the sample's values, the share is of all values, NaN left out."""
    random = np.random.default_rng(seed)
    frame = factor_frame(["a"], days=CALENDAR, instruments=CODES, seed=seed)
    frame["a"] = np.where(random.random(300) < 0.1, frame["a"] * 50, frame["a"]) + 7
    frame["a"] = frame["a"].mask(random.random(300) < 0.2)
    days = frame.index.get_level_values(0)
    sample = frame["a"][days.isin(CALENDAR if dates is None else CALENDAR[dates])].dropna()
    deviation = 1.482602218505602 * (sample - sample.median()).abs().median()
    held = frame["a"].dropna()
    figure = spread(frame.sample(frac=1, random_state=seed), tmp_path, dates)
    assert figure.extreme == pytest.approx(((held - sample.median()).abs() > 10 * deviation).mean())
    assert figure.extreme


@pytest.mark.parametrize("scale", [1.0, 1e-15])
def test_the_training_spread(tmp_path: Path, scale: float) -> None:
    """It is the median absolute deviation of the market's training values alone, NaN left out."""
    at, frame = market(tmp_path), awkward(3) * scale
    _, found = looked_at(frame, tmp_path, at, task())
    for name, factor in frame.items():
        held = [
            value
            for (day, code), value in factor.dropna().items()
            if is_inside(day, SEGMENTS["train"]) and is_member(at, day, code)
        ]
        middle = np.median(held)
        assert found[str(name)].spread == pytest.approx(np.median(np.abs(held - middle)), rel=1e-12, abs=0)
        assert found[str(name)].share_of_median == pytest.approx(np.mean(held == middle))
    nowhere = (pd.Timestamp("2030-01-01"), pd.Timestamp("2030-12-31"))
    _, found = looked_at(frame, tmp_path, at, task(train=nowhere))
    assert (found["full"].spread, found["full"].share_of_median) == (None, 0.0)


@pytest.mark.parametrize("width", [0.0, 3e-12, 1.0])
@pytest.mark.parametrize("middle", [-900.0, 0.0, 30.0, 900.0])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_training_values_that_the_sample_does_not_show(
    tmp_path: Path, share: float, middle: float, width: float
) -> None:
    """Too little spread is found on all training values, wherever they lie beside those of sampled days."""
    frame = factor_frame(["a"], days=CALENDAR, instruments=CODES)
    random, days = np.random.default_rng(5), frame.index.get_level_values(0)
    alike = (random.random(len(frame)) < share) & (days != CALENDAR[5])
    frame["a"] = np.where(alike, middle + width * random.standard_normal(len(frame)), frame["a"])
    held = frame["a"][(days >= SEGMENTS["train"][0]) & (days <= SEGMENTS["train"][1])]
    exact = (held - held.median()).abs().median()
    figure = spread(frame, tmp_path, [5])
    assert figure.spread is not None
    assert (figure.spread < LEAST_SPREAD) == (exact < LEAST_SPREAD)
    if exact < LEAST_SPREAD:
        assert figure.spread == pytest.approx(exact, rel=1e-9, abs=0)
        assert figure.share_of_median == pytest.approx((held == held.median()).mean())


@pytest.mark.parametrize("kind", ["constant", "mostly zero", "no sampled value", "mostly one value"])
def test_a_factor_without_a_deviation(tmp_path: Path, kind: str) -> None:
    """Where half of the values are the same, extremes are not known, and a day is constant by the range."""
    frame = factor_frame(["a"], days=CALENDAR, instruments=CODES)
    if kind == "constant":
        frame["a"] = 0.1
    elif kind == "mostly zero":
        frame["a"] = frame["a"].where(np.arange(300) % 5 == 0, 0.0)
    elif kind == "no sampled value":
        frame.loc[CALENDAR[0], "a"] = np.nan
    else:
        frame.loc[CALENDAR[10] :, "a"] = 5.0
        frame.loc[(CALENDAR[20], CODES[0]), "a"] = 5.0 + 1e-9
    figure = spread(frame, tmp_path, [0] if kind == "no sampled value" else None)
    assert figure.extreme is None
    assert figure.constant_days == {"constant": 30, "mostly one value": 20}.get(kind, 0)


@pytest.mark.parametrize("level", [0.0, 0.1, -1e12])
@pytest.mark.parametrize("whole", [False, True])
def test_constant_days(tmp_path: Path, level: float, whole: bool) -> None:
    """Days with the same value, or as good as, count; one with one value or none is of neither kind."""
    frame = factor_frame(["a"], days=CALENDAR, instruments=CODES)
    tiny = 1e-9 * np.arange(10) * (0 if whole else 1)
    for number in range(len(CALENDAR) if whole else 4):
        frame.loc[CALENDAR[number], "a"] = level + tiny
    frame.loc[CALENDAR[1], "a"] = np.nan
    frame.loc[(CALENDAR[2], CODES[1] if whole else CODES[0]) : (CALENDAR[2], CODES[9]), "a"] = np.nan
    frame.loc[(CALENDAR[2], CODES[0]), "a"] = level
    figure = spread(frame, tmp_path)
    assert (figure.constant_days, figure.days) == ((28, 28) if whole else (2, 28))


def test_one_value(tmp_path: Path) -> None:
    """A set of one row has figures."""
    frame = factor_frame(["a"], days=CALENDAR[5:6], instruments=CODES[:1])
    figure = spread(frame, tmp_path)
    assert (figure.days, figure.constant_days, figure.missing, figure.extreme) == (0, 0, 0, None)
    assert figure.low == figure.high == frame.iloc[0, 0]
    assert figure.coverage == {"train": 1.0, "valid": 0.0, "test": 0.0}


def test_a_training_segment_that_is_not_known(tmp_path: Path) -> None:
    """A fork may say its segments at the training alone: then nothing is known of a factor's spread there."""
    unknown = dict.fromkeys(SEGMENTS, (pd.NaT, pd.NaT))
    for at in (None, market(tmp_path)):
        _, found = looked_at(factor_frame(days=CALENDAR, instruments=CODES), tmp_path, at, task(**unknown))
        assert {figures.spread for figures in found.values()} == {None}
