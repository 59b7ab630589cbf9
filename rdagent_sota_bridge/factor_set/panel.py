"""The rows of one factor file, or of several joined on (datetime, instrument); one factor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.errors import FactorFileError, UnequalFactorError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.parquet import FactorFile, FactorSet

RELATIVE_TOLERANCE = 1e-6
"""Values of one factor in two files are equal up to this share of the larger: float32's precision."""

_OF_MEAN = 1e-9  # and of the mean value: what rounding leaves beside a zero is no difference

Choose = Callable[[Sequence[tuple[str, ...]]], tuple[str, ...]]
"""From the factors of each file to those that are wanted."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Factors on common rows, sorted by date and instrument.

    Attributes:
        files: The open files.
        columns: The factors, each once.
        dates: The days (or times) that have a row, each once, ascending.
        date_codes: int32, (rows,): position in `dates`, ascending.
        instruments: The instruments that have a row, each once, sorted.
        instrument_codes: int32, (rows,): position in `instruments`.
        starts: int64, (dates,): the first row of each date.
    """

    files: tuple[FactorFile, ...]
    columns: tuple[str, ...]
    dates: pd.DatetimeIndex
    date_codes: Any
    instruments: tuple[str, ...]
    instrument_codes: Any
    starts: Any
    _places: tuple[Any, ...]  # the row of each row of a file; None where they are the same

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.date_codes)

    def read(self, column: str) -> Any:
        """Return a factor's values, float64, (rows,), NaN where there is none.

        Raises:
            FactorFileError: if a file's values can't be trained on.
            UnequalFactorError: if two files have different values of it, or none in common.
        """
        return self.read_as_stored(column).astype(np.float64, copy=False)

    def read_as_stored(self, column: str) -> Any:
        """Return a factor's values in the type that they are stored in, (rows,).

        Integers become float64 where a row has none. A factor that is in several files has their values
        together, in a type that holds both.

        Raises:
            FactorFileError: if a file's values can't be trained on.
            UnequalFactorError: if two files have different values of it, or none in common.
        """
        found: Any = None
        for position, file in enumerate(self.files):
            if column in file.columns:
                values = self._spread(position, column)
                if found is not None:
                    self._check_equal(column, found.astype(np.float64), position, values.astype(np.float64))
                    values = np.where(np.isnan(found), values, found)
                found = values
        return found

    @property
    def in_file_order(self) -> bool:
        """True where the rows are those of the one file, in its order: it is sorted."""
        return self._places[0] is None

    def day(self, row: int) -> str:
        """Name one row for a message."""
        return f"({self.dates[self.date_codes[row]]}, {self.instruments[self.instrument_codes[row]]})"

    def _spread(self, position: int, column: str) -> Any:
        """Return a factor's values in one file, on the panel's rows."""
        values = self.files[position].read(column)
        places = self._places[position]
        if places is None:
            return values
        if len(places) == self.rows:
            spread = np.empty_like(values)
        else:
            kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
            spread = np.full(self.rows, np.nan, dtype=kind)
        spread[places] = values
        return spread

    def _check_equal(self, column: str, before: Any, position: int, values: Any) -> None:
        """Compare a factor in a file with what the files before it have of it together."""
        earlier = [file for file in self.files[:position] if column in file.columns]
        shared = ~(np.isnan(before) | np.isnan(values))
        fix = "rename one of them, name one set alone, or leave both out: SOTA_FACTORS_EXCLUDE"
        if not shared.any():
            raise UnequalFactorError(
                f"The factor {column} is in two sets that share no row with a value of it, so nothing shows "
                "that it is the same",
                f"{earlier[0].path} and {self.files[position].path}, column {column}",
                fix,
            )
        larger = np.maximum(np.abs(before), np.abs(values))
        tolerance = RELATIVE_TOLERANCE * larger + _OF_MEAN * larger[shared].mean()
        differing = np.flatnonzero(shared & (np.abs(before - values) > tolerance))
        if not len(differing):
            return
        row = differing[0]
        first = next(
            number
            for number, file in enumerate(self.files)
            if file in earlier and not np.isnan(self._spread(number, column)[row])
        )
        raise UnequalFactorError(
            f"The factor {column} has other values in two sets: at {self.day(row)}, the first of "
            f"{len(differing):,} rows, {before[row]:.6g} and {values[row]:.6g}",
            f"{self.files[first].path} and {self.files[position].path}, column {column}",
            fix,
        )


@contextmanager
def opened(paths: Sequence[Path], choose: Choose | None = None) -> Iterator[Panel]:
    """Open factor files and join their rows.

    Args:
        paths: The files.
        choose: Chooses factors; all if None.

    Raises:
        FactorFileError: if a file is no table of factors, or has faults in its rows; the faults of its chosen
            columns are told with them.
    """
    with ExitStack() as stack:
        files = tuple(stack.enter_context(parquet.opened(path)) for path in paths)
        all_columns = [file.columns for file in files]
        columns = union(all_columns) if choose is None else choose(all_columns)
        files = tuple(file for file in files if not set(columns).isdisjoint(file.columns))
        for file in files:
            if file.failures:
                raise FactorFileError(str(file.path), (*file.failures, *column_failures(file, columns)))
        yield _joined(files, columns)


def union(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the factors of several files, each once, in order."""
    return tuple(dict.fromkeys(name for names in columns for name in names))


def column_failures(file: FactorFile, columns: tuple[str, ...]) -> list[Any]:
    """Return the faults of a file's columns."""
    failures: list[Any] = []
    for column in columns:
        if column in file.columns:
            try:
                file.read(column)
            except FactorFileError as error:
                failures += error.failures
    return failures


def examine(paths: Sequence[Path]) -> FactorSet:
    """Check factor files and return what their join holds.

    Raises:
        FactorFileError: if one can't be trained on; it lists every reason.
        UnequalFactorError: if a factor has different values in two files.
    """
    with opened(paths) as panel:
        for _ in values(panel):
            pass
        return FactorSet(
            path=paths[0],
            digest=panel.files[0].digest,
            rows=panel.rows,
            columns=panel.columns,
            dates=panel.dates,
            instruments=panel.instruments,
        )


def values(panel: Panel) -> Iterator[tuple[str, Any]]:
    """Yield each factor and its values.

    Raises:
        FactorFileError: at the end, if values of a file can't be trained on; it lists every reason.
        UnequalFactorError: if a factor has different values in two files.
    """
    failed: dict[str, list[Any]] = {}
    for column in panel.columns:
        try:
            found = panel.read(column)
        except FactorFileError as error:
            failed.setdefault(error.path, []).extend(error.failures)
            continue
        yield column, found
    for path, failures in failed.items():
        raise FactorFileError(path, tuple(failures))


def _joined(files: tuple[FactorFile, ...], columns: tuple[str, ...]) -> Panel:
    indexes = [file.index for file in files if file.index is not None]
    dates = indexes[0].dates
    names = np.array(indexes[0].instruments, dtype=object)
    for index in indexes[1:]:
        dates = dates.union(index.dates)
        names = np.union1d(names, np.array(index.instruments, dtype=object))
    keys = []
    for index in indexes:
        date_codes = dates.get_indexer(index.dates).astype(np.int64)[index.date_codes]
        instrument_codes = np.searchsorted(names, np.array(index.instruments, dtype=object))
        keys.append(date_codes * len(names) + instrument_codes[index.instrument_codes])
    places: list[Any]
    if len(keys) == 1 and (keys[0][1:] > keys[0][:-1]).all():
        rows, places = keys[0], [None]
    elif len(keys) == 1:
        # No key stands there twice: a search for each of millions would take ten times as long.
        order = np.argsort(keys[0], kind="stable")
        rows, place = keys[0][order], np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        places = [place]
    else:
        rows = np.unique(np.concatenate(keys))
        places = [np.searchsorted(rows, key) for key in keys]
    date_codes = (rows // len(names)).astype(np.int32)
    return Panel(
        files=files,
        columns=columns,
        dates=dates,
        date_codes=date_codes,
        instruments=tuple(names),
        instrument_codes=(rows % len(names)).astype(np.int32),
        starts=np.searchsorted(date_codes, np.arange(len(dates))),
        _places=tuple(places),
    )
