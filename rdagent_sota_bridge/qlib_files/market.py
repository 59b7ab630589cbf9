"""The market that Qlib trains on: its calendar and instruments, and whether a factor set fits it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason
from rdagent_sota_bridge.factor_set.parquet import DATETIME, INSTRUMENT, FactorSet
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.system.files import read_text


@dataclass(frozen=True, eq=False)
class Market:
    """A market of a Qlib data folder.

    Attributes:
        folder: The Qlib data folder.
        name: The market's name, such as csi300.
        calendar: The trading days (with times of day, where the calendar has them), ascending.
        instruments: The instruments that were ever in the market, sorted.
        memberships: When an instrument was in it: position in `instruments`, first and last day; one that has
            none was in it always.
        digest: SHA-256 of the two files that it was read from.
    """

    folder: Path
    name: str
    calendar: pd.DatetimeIndex
    instruments: tuple[str, ...]
    memberships: tuple[tuple[int, str, str], ...] = ()
    digest: str = ""

    def members(self) -> Any:
        """Return which instruments were in the market when: bool, (days of the calendar, instruments)."""
        change = np.zeros((len(self.calendar) + 1, len(self.instruments)), dtype=np.int8)
        if self.memberships:
            positions, starts, ends = (np.array(part) for part in zip(*self.memberships, strict=True))
            days = self.calendar.normalize()
            first = days.searchsorted(_dates(starts).normalize(), side="left")
            after = days.searchsorted(_dates(ends), side="right")
            np.add.at(change, (first, positions), 1)
            # One that ends before it begins is none, as in Qlib (`qlib/data/data.py`, pyqlib 0.9.7).
            np.add.at(change, (np.maximum(first, after), positions), -1)
        always = np.setdiff1d(np.arange(len(self.instruments)), [found[0] for found in self.memberships])
        change[0, always] = 1
        return np.cumsum(change[:-1], axis=0, dtype=np.int8) > 0


def read_market(provider_uri: str, name: str) -> Market | None:
    """Read a market from a Qlib data folder, or return None if the folder does not have it whole (yet).

    The format is Qlib's file storage (`qlib/data/storage/file_storage.py`, pyqlib 0.9.7):
    `calendars/day.txt` has one day a line, `instruments/<market>.txt` has code, start and end, tabs between.

    Raises:
        SettingsError: if RD-Agent's setting of what is mounted into Qlib's container means nothing.
    """
    folder = docker.on_host(provider_uri)
    if folder is None:
        return None
    try:
        names = (f"instruments/{name.lower()}.txt", "calendars/day.txt")
        listed, calendar = (read_text(folder / file) for file in names)
        rows = [[part.strip() for part in line.split("\t")] for line in listed.splitlines()]
        codes = sorted({row[0] for row in rows} - {""})
        positions = {code: position for position, code in enumerate(codes)}
        memberships = tuple((positions[row[0]], row[1], row[2]) for row in rows if row[0] and len(row) > 2)
        _dates([day for _, *span in memberships for day in span])  # what is no date is no market
        days = _dates([line.strip() for line in calendar.splitlines() if line.strip()])
    except (OSError, ValueError):  # nothing to be read, or half of a download: text or days that are none
        return None
    if not codes or not len(days) or not days.is_monotonic_increasing or not days.is_unique:
        return None
    digest = hashlib.sha256(f"{listed}\0{calendar}".encode()).hexdigest()
    return Market(folder, name, days, tuple(codes), memberships, digest)


def _dates(texts: Any) -> pd.DatetimeIndex:
    # Each by itself, as Qlib reads them: days and times of day may stand in one file.
    return pd.DatetimeIndex(pd.to_datetime(texts, format="mixed"))


def check_fit(factors: FactorSet, market: Market | None, train: tuple[pd.Timestamp, pd.Timestamp]) -> None:
    """Check that a factor set has values for a model of this market.

    Qlib checks nothing of it: what does not match becomes NaN, `Fillna` makes zeros of that, and the model
    trains on them.

    Args:
        factors: The set.
        market: The market, or None where Qlib's data is not there yet; then only the dates are compared.
        train: First and last day of the training segment, both inclusive.

    Raises:
        FactorFileError: if no instrument or no training day of the set is in the market.
    """
    start, end = train
    days = factors.dates.normalize()
    usable = (days >= start) & (days <= end)
    usable &= True if market is None else days.isin(market.calendar.normalize())
    found = []
    if not usable.any():
        fix = "mine the factors over the training segment too, or set the segment to the dates of the file"
        examples = (
            f"{factors.dates[0].date()} to {factors.dates[-1].date()} in the file",
            f"{start.date()} to {end.date()} as training segment",
        )
        found.append(Failure(Reason.NO_TRAINING_DATE, fix, DATETIME, len(days), examples))
    if market is not None:
        unknown = ~pd.Index(factors.dates.time).isin(set(market.calendar.time))
        if unknown.any():
            fix = "take them off: index.normalize(), or name a set of the calendar's frequency"
            examples = (str(factors.dates[unknown][0]), f"{market.calendar[0]} in the calendar")
            found.append(Failure(Reason.TIME_OF_DAY, fix, DATETIME, int(unknown.sum()), examples))
        if set(factors.instruments).isdisjoint(market.instruments):
            fix = f"write the codes as the market {market.name} in {market.folder} does"
            theirs = ", ".join(market.instruments[:2]) or "no instrument at all"
            examples = (f"{', '.join(factors.instruments[:2])} in the file", f"{theirs} in the market")
            count = len(factors.instruments)
            found.append(Failure(Reason.NO_INSTRUMENT, fix, INSTRUMENT, count, examples))
    if found:
        raise FactorFileError(str(factors.path), tuple(found))
