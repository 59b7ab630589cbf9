"""A synthetic market in Qlib's binary format, with one alpha that RD-Agent's stock features cannot see.

The alpha is the overnight gap, `open / previous close - 1`. It is drawn independently of every close,
volume, KLEN and KLOW, and moves the close two days later: the return that Qlib's label
`Ref($close, -2)/Ref($close, -1) - 1` covers. A model that is given the gap scores a daily IC of about 0.8;
one that is not scores about 0. Nothing else tells "the factor was loaded" from "the factor was used" as
sharply.

The calendar is sparse (every seventh weekday from 2008 to 2020): RD-Agent 0.8.0 has its train, valid and test
dates written into its YAML templates, and 1.0.0 has the same ones as defaults, so a short dense calendar
would leave two of the three empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

Prices = npt.NDArray[np.float32]

BENCHMARK = "SH000300"
GAP_FACTOR = "overnight_gap"
FIELDS = ("open", "high", "low", "close", "volume", "vwap", "factor", "change")

FIRST_DAY = "2008-01-02"
LAST_DAY = "2020-09-30"
WEEKDAYS_PER_TRADING_DAY = 7
# The strategy in RD-Agent's templates holds 50 names; with fewer than that there is nothing to choose.
INSTRUMENTS = 60

# With normal draws cut at three deviations, a day moves by at most 3 * (0.012 + 0.009) = 6.3 %, below the
# 9.5 % at which the backtest of RD-Agent's templates refuses to trade. 0.012 against 0.009 of noise is a
# correlation of 0.8.
GAP_SIZE = 0.004
EFFECT_OF_GAP = 0.012
NOISE = 0.009
LONGEST_DRAW = 3.0

SOURCE_DATA_README = """\
# How to read the file

    import pandas as pd
    df = pd.read_hdf("daily_pv.h5", key="data")

The index is (datetime, instrument); the columns are $open, $close, $high, $low, $volume and $factor, one
row for each instrument and trading day. Prices are adjusted. This is a synthetic market.
"""


@dataclass(frozen=True)
class Market:
    """A market as it was written to Qlib's `provider_uri`.

    `prices` has field names without `$`, and arrays (days, instruments), the benchmark left out; prices in
    yuan, volume in shares.
    """

    provider: Path
    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    prices: dict[str, Prices]


def write_market(
    provider: Path, *, seed: int = 7, width: int = INSTRUMENTS, weekdays: int = WEEKDAYS_PER_TRADING_DAY
) -> Market:
    """Write the market to `provider`, over that of an earlier call. The same seed gives the same bytes.

    Args:
        provider: The folder.
        seed: Of the draws.
        width: Number of instruments.
        weekdays: Every so many weekdays is a trading day.
    """
    days = pd.bdate_range(FIRST_DAY, LAST_DAY)[::weekdays]
    instruments = tuple(f"SH{600000 + number}" for number in range(width))
    prices = _prices(len(days), len(instruments), np.random.default_rng(seed))

    for folder in ("calendars", "instruments"):
        (provider / folder).mkdir(parents=True, exist_ok=True)
    (provider / "calendars" / "day.txt").write_text("".join(f"{day:%Y-%m-%d}\n" for day in days))
    lines = "".join(f"{code}\t{days[0]:%Y-%m-%d}\t{days[-1]:%Y-%m-%d}\n" for code in instruments)
    for name in ("all", "csi300"):
        (provider / "instruments" / f"{name}.txt").write_text(lines)
    for column, code in enumerate(instruments):
        _write_features(provider, code, {field: prices[field][:, column] for field in FIELDS})
    _write_features(provider, BENCHMARK, _benchmark(prices))
    return Market(provider, days, instruments, prices)


def gap_factor(market: Market) -> pd.DataFrame:
    """The planted alpha as a factor table: index (datetime, instrument), one float column `overnight_gap`.

    The first day has no previous close and is left out, so there is no NaN in the table.
    """
    gap = market.prices["open"][1:] / market.prices["close"][:-1] - 1
    index = pd.MultiIndex.from_product(
        [market.days[1:], market.instruments], names=["datetime", "instrument"]
    )
    return pd.DataFrame({GAP_FACTOR: gap.astype(np.float64).ravel()}, index=index)


def write_source_data(market: Market, project: Path) -> None:
    """Write the price tables that RD-Agent's factor coder reads; `project` is where `rdagent` is started.

    Without the two folders RD-Agent starts Docker to make them (`generate_data_folder_from_qlib` in
    `rdagent/scenarios/qlib/experiment/utils.py`, 0.8.0 and 1.0.0). Shape, key and date ranges are those of
    its own `factor_data_template/generate.py`. Needs the `tables` package.
    """
    index = pd.MultiIndex.from_product([market.days, market.instruments], names=["datetime", "instrument"])
    fields = ("open", "close", "high", "low", "volume", "factor")
    table = pd.DataFrame({f"${field}": market.prices[field].ravel() for field in fields}, index=index)
    for name, first, last in (("", "2008-12-29", LAST_DAY), ("_debug", "2018-01-01", "2019-12-31")):
        folder = project / "git_ignore_folder" / f"factor_implementation_source_data{name}"
        folder.mkdir(parents=True, exist_ok=True)
        table.loc[first:last].to_hdf(folder / "daily_pv.h5", key="data", mode="w")
        (folder / "README.md").write_text(SOURCE_DATA_README)


def _prices(days: int, instruments: int, random: np.random.Generator) -> dict[str, Prices]:
    """Field name to (days, instruments). The gap enters the open of its day and the close two days later."""

    def draw() -> npt.NDArray[np.float64]:
        return np.clip(random.standard_normal((days, instruments)), -LONGEST_DRAW, LONGEST_DRAW)

    gap = draw()
    returns = NOISE * draw()
    returns[2:] += EFFECT_OF_GAP * gap[:-2]
    returns[0] = 0.0

    first_close = random.uniform(10.0, 60.0, size=instruments)
    close = first_close * np.cumprod(1 + returns, axis=0)
    previous_close = np.vstack([first_close, close[:-1]])
    opening = previous_close * (1 + GAP_SIZE * gap)
    opening[0] = close[0]

    # KLEN and KLOW of RD-Agent's base set come out as two plain draws. With shadows drawn around the body
    # instead, KLEN holds |return - gap|, and a network that knows the return from the closes gets the gap's
    # sign out of it (IC 0.15).
    lower_shadow = random.uniform(0.005, 0.03, size=(days, instruments))
    whole_range = random.uniform(0.12, 0.16, size=(days, instruments))
    low = np.minimum(opening, close) - lower_shadow * opening
    high = low + whole_range * opening
    # A real vwap lies near the open too. This one does not: Alpha158, which 0.8.0 loads, would see the gap
    # in VWAP0.
    vwap = np.clip(close * (1 + 0.004 * draw()), low, high)

    volume = np.round(1e6 * np.exp(0.5 * draw()))
    table = {
        "open": opening, "high": high, "low": low, "close": close, "volume": volume, "vwap": vwap,
        "factor": np.ones_like(close), "change": returns,
    }  # fmt: skip
    return {field: values.astype(np.float32) for field, values in table.items()}


def _benchmark(prices: dict[str, Prices]) -> dict[str, Prices]:
    """The equally weighted index, started at 3000 points: field name to (days,)."""
    change = prices["change"].mean(axis=1, dtype=np.float64)
    close = 3000 * np.cumprod(1 + change)
    values = dict.fromkeys(FIELDS, close) | {
        "volume": prices["volume"].sum(axis=1, dtype=np.float64),
        "factor": np.ones_like(close),
        "change": change,
    }
    return {field: value.astype(np.float32) for field, value in values.items()}


def _write_features(provider: Path, code: str, values: dict[str, Prices]) -> None:
    """One file per field, little-endian float32: the calendar index of the first day, then the values."""
    folder = provider / "features" / code.lower()
    folder.mkdir(parents=True, exist_ok=True)
    for field, series in values.items():
        np.concatenate([[0.0], series]).astype("<f4").tofile(folder / f"{field}.day.bin")
