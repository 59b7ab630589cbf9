"""The market that Qlib trains on: its calendar and instruments, and whether a factor set fits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason
from rdagent_sota_bridge.factors import DATETIME, INSTRUMENT, Cells, FactorSet


@dataclass(frozen=True, eq=False)
class Market:
    """A market of a Qlib data folder.

    Attributes:
        folder: The Qlib data folder.
        name: The market's name, such as csi300.
        calendar: The trading days (with times of day, where the calendar has them), ascending.
        instruments: The instruments that were ever in the market, sorted.
    """

    folder: Path
    name: str
    calendar: pd.DatetimeIndex
    instruments: tuple[str, ...]


def read_market(provider_uri: str, name: str) -> Market | None:
    """Read a market from a Qlib data folder, or return None if the folder does not have it whole (yet).

    The format is Qlib's file storage (`qlib/data/storage/file_storage.py`, pyqlib 0.9.7):
    `calendars/day.txt` has one day a line, `instruments/<market>.txt` has code, start and end, tabs between.
    """
    folder = Path(provider_uri).expanduser()
    calendar = folder / "calendars" / "day.txt"
    instruments = folder / "instruments" / f"{name.lower()}.txt"
    try:
        codes = {line.split("\t")[0].strip() for line in instruments.read_text(encoding="utf-8").splitlines()}
        lines = calendar.read_text(encoding="utf-8").splitlines()
        days = pd.DatetimeIndex(pd.to_datetime([line.strip() for line in lines if line.strip()]))
    except (
        OSError,
        ValueError,
    ):  # nothing there to be read, or half of a download: text or days that are none
        return None
    codes.discard("")
    return Market(folder, name, days, tuple(sorted(codes))) if codes and len(days) else None


def training_cells(market: Market | None, train: tuple[pd.Timestamp, pd.Timestamp]) -> Cells:
    """Return what tells which dates and instruments a model of this market is trained on.

    Args:
        market: The market, or None where it is not known; then all instruments count.
        train: First and last day of the training segment, both inclusive.
    """

    def cells(dates: pd.DatetimeIndex, instruments: tuple[str, ...]) -> tuple[Any, Any]:
        days = dates.normalize()
        counting = (days >= train[0]) & (days <= train[1])
        if market is None:
            return counting, np.ones(len(instruments), dtype=bool)
        return counting & days.isin(market.calendar.normalize()), np.isin(instruments, market.instruments)

    return cells


def check_fit(factors: FactorSet, market: Market | None, train: tuple[pd.Timestamp, pd.Timestamp]) -> None:
    """Check that a factor set has something to give to a model of this market.

    Qlib checks nothing of it: what does not match becomes NaN, `Fillna` makes zeros of that, and the model
    trains on them.

    Args:
        factors: The set.
        market: The market, or None where Qlib's data is not there yet; then only the dates are compared.
        train: First and last day of the training segment, both inclusive.

    Raises:
        FactorFileError: if no instrument or no training day of the set is in the market.
    """
    failures = [_training_dates(factors, market, train)]
    if market is not None:
        failures += [_times_of_day(factors, market), _instruments(factors, market)]
    found = tuple(failure for failure in failures if failure is not None)
    if not found and len(factors.columns_without_training_values) == len(factors.columns):
        mend = "mine the factors over the training segment too, or set the segment to where they have values"
        examples = (f"{train[0].date()} to {train[1].date()} as training segment",)
        found = (Failure(Reason.NO_TRAINING_VALUE, mend, None, len(factors.columns), examples),)
    if found:
        raise FactorFileError(str(factors.path), found)


def _times_of_day(factors: FactorSet, market: Market) -> Failure | None:
    times = pd.Index(factors.dates.time)
    unknown = ~times.isin(set(market.calendar.time))
    if not unknown.any():
        return None
    return Failure(
        Reason.TIME_OF_DAY,
        "take them off: index.normalize(), or name a set of the calendar's frequency",
        DATETIME,
        int(unknown.sum()),
        (str(factors.dates[unknown][0]), f"{market.calendar[0]} in the calendar"),
    )


def _instruments(factors: FactorSet, market: Market) -> Failure | None:
    if not set(factors.instruments).isdisjoint(market.instruments):
        return None
    theirs = ", ".join(market.instruments[:2]) or "no instrument at all"
    return Failure(
        Reason.NO_INSTRUMENT,
        f"write the codes as the market {market.name} in {market.folder} does",
        INSTRUMENT,
        len(factors.instruments),
        (f"{', '.join(factors.instruments[:2])} in the file", f"{theirs} in the market"),
    )


def _training_dates(
    factors: FactorSet, market: Market | None, train: tuple[pd.Timestamp, pd.Timestamp]
) -> Failure | None:
    start, end = train
    days = factors.dates.normalize()
    inside = factors.dates[(days >= start) & (days <= end)]
    if market is not None:
        inside = inside[inside.normalize().isin(market.calendar.normalize())]
    if len(inside):
        return None
    return Failure(
        Reason.NO_TRAINING_DATE,
        "mine the factors over the training segment too, or set the segment to the dates of the file",
        DATETIME,
        len(factors.dates),
        (
            f"{factors.dates[0].date()} to {factors.dates[-1].date()} in the file",
            f"{start.date()} to {end.date()} as training segment",
        ),
    )
