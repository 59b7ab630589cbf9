"""The market that Qlib trains on: its calendar and instruments, and whether a factor set fits it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, SettingsError
from rdagent_sota_bridge.factor_set import time_zones
from rdagent_sota_bridge.factor_set.names import DATETIME, INSTRUMENT
from rdagent_sota_bridge.factor_set.parquet import FactorSet
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart, Segment, Task, inside
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
        future: The trading days with those to come, which Qlib's back-tests go by; None where there is no
            `calendars/day_future.txt`; empty where that can't be read.
    """

    folder: Path
    name: str
    calendar: pd.DatetimeIndex
    instruments: tuple[str, ...]
    memberships: tuple[tuple[int, str, str], ...] = ()
    digest: str = ""
    future: pd.DatetimeIndex | None = None

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
    `calendars/day.txt` has one day a line, and so has `calendars/day_future.txt`, which need not be there;
    `instruments/<market>.txt` has code, start and end, tabs between.

    Raises:
        SettingsError: if RD-Agent's setting of what is mounted into Qlib's container means nothing.
    """
    folder = docker.on_host(provider_uri)
    if folder is None or not provider_uri or not name:  # not known: see `Task`
        return None
    try:
        names = (f"instruments/{name.lower()}.txt", "calendars/day.txt")
        listed, calendar = (read_text(folder / file) for file in names)
        rows = [[part.strip() for part in line.split("\t")] for line in listed.splitlines()]
        codes = sorted({row[0] for row in rows} - {""})
        positions = {code: position for position, code in enumerate(codes)}
        memberships = tuple((positions[row[0]], row[1], row[2]) for row in rows if row[0] and len(row) > 2)
        _dates([day for _, *span in memberships for day in span])  # what is no date is no market
        days = _days(calendar)
    except (OSError, ValueError):  # nothing to be read, or half of a download: text or days that are none
        return None
    if not codes or not _is_calendar(days):
        return None
    later = folder / "calendars/day_future.txt"
    try:
        future = _days(read_text(later)) if later.is_file() else None
    except (OSError, ValueError):
        future = days[:0]
    digest = hashlib.sha256(f"{listed}\0{calendar}".encode()).hexdigest()
    return Market(folder, name, days, tuple(codes), memberships, digest, future)


def content_digest(provider_uri: str) -> str:
    """Return the SHA-256 of all that Qlib's data folder holds of its market; of nothing where it is missing.

    Qlib's caches beside it are left out. Reads all of it: seconds for a gigabyte.

    Raises:
        SettingsError: if RD-Agent's setting of what is mounted into Qlib's container means nothing.
    """
    folder, found = docker.on_host(provider_uri) or Path("in the container"), hashlib.sha256()
    for name in ("calendars", "features", "instruments"):
        for file in sorted((folder / name).rglob("*")):
            if file.is_file():
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                found.update(f"{file.relative_to(folder)} {content}\n".encode())
    return found.hexdigest()


def _is_calendar(days: pd.DatetimeIndex) -> bool:
    return bool(len(days) and days.is_monotonic_increasing and days.is_unique)


def _days(text: str) -> pd.DatetimeIndex:
    return _dates([line.strip() for line in text.splitlines() if line.strip()])


def _dates(texts: Any) -> pd.DatetimeIndex:
    # Each by itself, as Qlib reads them: days and times of day may stand in one file.
    return pd.DatetimeIndex(pd.to_datetime(texts, format="mixed"))


def late_end(market: Market | None, start: QlibStart, task: Task) -> SettingsError | None:
    """Return what is wrong with a back-test that ends too late: it would fail once the model is trained.

    Qlib reads the trading day after the last (`get_step_time` in `qlib/backtest/utils.py`, pyqlib 0.9.7). An
    open end is the day after the last prediction, or the calendar's last (`PortAnaRecord` in
    `qlib/workflow/record_temp.py`).
    """
    end = task.backtest_end
    if market is None or end is None:
        return None
    days = market.calendar if market.future is None else market.future
    if not _is_calendar(days):
        return SettingsError(  # as below: RD-Agent without the factors would fail as well
            "Qlib's calendar with days to come can't be read, or is not in order, and its back-test reads it",
            str(market.folder / "calendars" / "day_future.txt"),
            "write it anew, or remove it: without it Qlib takes calendars/day.txt",
        )
    after = 1  # trading days that Qlib needs after the last of the test segment
    asked = f"ends on {end.date()}" if not pd.isna(end) else "has an open end"
    if pd.isna(end):
        end = market.calendar[-1]
        if not pd.isna(task.test[1]):
            asked, after = f"ends on {task.test[1].date()}", 2
            end = min(end, *market.calendar[market.calendar > task.test[1]][:1])
    if end < days[-1]:
        return None
    file = market.folder / "calendars" / ("day.txt" if market.future is None else "day_future.txt")
    last = days[-1 - after :][0].date()
    fix = f"set {start.variable('test_end')}={last} or earlier"
    if "test_end" not in start.run_env:
        fix = f"let the test segment and the back-test of {start.config_name} end on {last} or earlier"
    return SettingsError(
        f"The test segment {asked}, and Qlib's back-test needs a trading day after its last one",
        f"{file}, which ends on {days[-1].date()}",
        fix,
    )


def check_fit(factors: FactorSet, market: Market | None, train: Segment, region: str = "cn") -> None:
    """Check that a factor set has values for a model of this market.

    Qlib checks nothing of it: what does not match becomes NaN, `Fillna` makes zeros of that, and the model
    trains on them.

    Args:
        factors: The set.
        market: The market, or None where Qlib's data is not there yet; then only the dates are compared.
        train: The training segment.
        region: Qlib's region, for the market's time zone.

    Raises:
        FactorFileError: if no instrument or no training day of the set is in the market.
    """
    start, end = train
    days = factors.dates.normalize()
    usable = inside(days, train)
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
            fix = time_zones.time_fix(factors.dates, market.calendar, region)
            examples = (str(factors.dates[unknown][0]), f"{market.calendar[0]} in the calendar")
            # First: that no day is a training day may be its effect.
            found.insert(0, Failure(Reason.TIME_OF_DAY, fix, DATETIME, int(unknown.sum()), examples))
        if set(factors.instruments).isdisjoint(market.instruments):
            fix = f"write the codes as the market {market.name} in {market.folder} does"
            theirs = ", ".join(market.instruments[:2]) or "no instrument at all"
            examples = (f"{', '.join(factors.instruments[:2])} in the file", f"{theirs} in the market")
            count = len(factors.instruments)
            found.append(Failure(Reason.NO_INSTRUMENT, fix, INSTRUMENT, count, examples))
    if found:
        raise FactorFileError(str(factors.path), tuple(found))
