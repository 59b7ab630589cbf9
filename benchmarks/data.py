"""Made-up factor sets and markets for the benchmarks, of any size: one row group in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FACTORS = 30
FIRST_DAY = "2016-01-04"
SEGMENTS = {
    "QLIB_MODEL_TRAIN_START": "2016-01-04",
    "QLIB_MODEL_TRAIN_END": "2017-12-29",
    "QLIB_MODEL_VALID_START": "2018-01-01",
    "QLIB_MODEL_VALID_END": "2018-12-31",
    "QLIB_MODEL_TEST_START": "2019-01-01",
    "QLIB_MODEL_TEST_END": "2020-01-06",
}
"""RD-Agent's settings of the segments; all data of the benchmarks covers them."""

_DAYS, _INSTRUMENTS = 1046, 5200  # the days of the segments, and about all instruments of China's market
_GROUP_ROWS = 1 << 20  # of one row group, as pandas and pyarrow write them


@dataclass(frozen=True)
class Panel:
    """The rows of a made-up factor set: every instrument on every day."""

    days: int = _DAYS
    instruments: int = _INSTRUMENTS

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.days * self.instruments

    def calendar(self) -> pd.DatetimeIndex:
        """Return the trading days."""
        return pd.bdate_range(FIRST_DAY, periods=self.days)

    def codes(self) -> list[str]:
        """Return the instruments' codes."""
        return [f"SH{600000 + number}" for number in range(self.instruments)]


def panel_of(rows: int) -> Panel:
    """Return a panel of about so many rows: of fewer instruments than a whole market, or of more days."""
    if rows <= _DAYS * _INSTRUMENTS:
        return Panel(instruments=max(1, round(rows / _DAYS)))
    return Panel(days=round(rows / _INSTRUMENTS))


def write_factors(file: Path, panel: Panel, *, shuffled: bool = False) -> None:
    """Write a factor file as RD-Agent does: a third of the factors much alike, some values missing.

    Args:
        file: The file.
        panel: Its rows.
        shuffled: Write the rows in no order; else sorted by day and instrument.
    """
    random = np.random.default_rng(0)
    calendar, codes = panel.calendar(), panel.codes()
    step = max(1, _GROUP_ROWS // panel.instruments)
    pieces = [calendar[start : start + step] for start in range(0, panel.days, step)]
    if shuffled:
        pieces = [pieces[number] for number in random.permutation(len(pieces))]
    columns = pd.MultiIndex.from_product([["feature"], [f"factor_{number}" for number in range(FACTORS)]])
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for days in pieces:
        index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
        values = random.standard_normal((len(index), FACTORS))
        # Mean daily correlations of 0.96, as variants of one idea have: alike, but too little to be dropped.
        values[:, : FACTORS // 3] = (
            0.98 * random.standard_normal((len(index), 1)) + 0.2 * values[:, : FACTORS // 3]
        )
        values[random.random(len(index)) < 0.02, 3] = np.nan
        if shuffled:
            index = index.take(random.permutation(len(index)))
        # What pandas' to_parquet makes of a frame, with its schema.
        table = pa.Table.from_pandas(pd.DataFrame(values, index=index, columns=columns))
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table, row_group_size=_GROUP_ROWS)
    writer.close()


def write_market(folder: Path, panel: Panel) -> None:
    """Write calendar, instruments and closing prices in Qlib's format."""
    random = np.random.default_rng(1)
    # A day more than the factors have: Qlib's back-test reads the one after its last.
    calendar = pd.bdate_range(FIRST_DAY, periods=panel.days + 1)
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day:%Y-%m-%d}\n" for day in calendar))
    (folder / "instruments").mkdir()
    lines = "".join(f"{code}\t{FIRST_DAY}\t{calendar[-1]:%Y-%m-%d}\n" for code in panel.codes())
    (folder / "instruments" / "csi300.txt").write_text(lines)
    for code in panel.codes():
        place = folder / "features" / code.lower()
        place.mkdir(parents=True)
        closes = 10 * np.cumprod(1 + 0.01 * random.standard_normal(len(calendar)))
        np.concatenate([[0.0], closes]).astype("<f4").tofile(place / "close.day.bin")
