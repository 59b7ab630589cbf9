"""The rows of one factor file, or of several joined on (datetime, instrument); and their normal form.

The normal form is what RD-Agent's merge path would write into a model's workspace: columns nested under
`feature`; index levels datetime (nanoseconds) and instrument (text), stored as columns after the factors;
rows sorted by both; every factor in the type that it has in its file; what pandas says of it all in the
schema. In `QlibModelRunner.develop` (RD-Agent 0.8.0, 1.0.0) that is what `sort_index`, the nesting of the
columns and `to_parquet` lead to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge.errors import FactorFileError, Failure, UnequalFactorError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import DATETIME, FEATURE, INSTRUMENT
from rdagent_sota_bridge.factor_set.parquet import FactorFile, FactorSet, Index

RELATIVE_TOLERANCE = 1e-6
"""Values of one factor in two files are equal up to this share of the larger: float32's precision."""

_OF_MEAN = 1e-9  # and of the mean value: what rounding leaves beside a zero is no difference
_GROUP_ROWS = 1 << 18  # of one row group: what is in memory of all columns at once while a set is written

Choose = Callable[[Sequence[tuple[str, ...]]], tuple[str, ...]]
"""From the factors of each file to those that are wanted."""


@dataclass(frozen=True, eq=False)
class Panel(Index):
    """Factors on common rows, sorted by date and instrument.

    Attributes:
        files: The open files.
        columns: The factors, each once.
        starts: int64, (dates,): the first row of each date.
    """

    files: tuple[FactorFile, ...]
    columns: tuple[str, ...]
    starts: Any
    _places: tuple[Any, ...]  # the row of each row of a file; None where they are the same

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.date_codes)

    @property
    def factor_set(self) -> FactorSet:
        """What the set holds, under path and digest of the first file."""
        first = self.files[0]
        return FactorSet(first.path, first.digest, self.rows, self.columns, self.dates, self.instruments)

    def read(self, column: str) -> Any:
        """Return a factor's values, float64, (rows,), NaN where there is none; errors as `read_as_stored`."""
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

    def _spread(self, position: int, column: str) -> Any:
        """Return a factor's values in one file, on the panel's rows."""
        values, places = self.files[position].read(column), self._places[position]
        if places is None:
            return values
        kind = values.dtype
        if len(places) < self.rows and kind.kind != "f":
            kind = np.dtype(np.float64)
        spread = np.full(self.rows, np.nan if kind.kind == "f" else 0, dtype=kind)
        spread[places] = values
        return spread

    def _check_equal(self, column: str, before: Any, position: int, values: Any) -> None:
        """Compare a factor in a file with what the files before it have of it together."""
        earlier = [number for number in range(position) if column in self.files[number].columns]
        shared = ~(np.isnan(before) | np.isnan(values))
        larger = np.maximum(np.abs(before), np.abs(values))
        if not shared.any():
            first = earlier[0]
            fact = f"The factor {column} is in two sets that share no row with a value of it, so nothing "
            fact += "shows that it is the same"
        else:
            tolerance = RELATIVE_TOLERANCE * larger + _OF_MEAN * larger[shared].mean()
            differing = np.flatnonzero(shared & (np.abs(before - values) > tolerance))
            if not len(differing):
                return
            row = differing[0]
            first = next(number for number in earlier if not np.isnan(self._spread(number, column)[row]))
            fact = f"The factor {column} has other values in two sets: at {self.label(row)}, the first of "
            fact += f"{len(differing):,} rows, {before[row]:.6g} and {values[row]:.6g}"
        raise UnequalFactorError(
            fact,
            f"{self.files[first].path} and {self.files[position].path}, column {column}",
            "rename one of them, name one set alone, or leave both out: SOTA_FACTORS_EXCLUDE",
        )


@contextmanager
def opened(paths: Sequence[Path], choose: Choose | None = None) -> Iterator[Panel]:
    """Open factor files and join their rows.

    Args:
        paths: The files.
        choose: Chooses factors; all if None. A file without one of them is no part of the panel.

    Raises:
        FactorFileError: if a file is no table of factors, or has faults in its rows; then the faults of its
            chosen columns are in the error, too.
    """
    with ExitStack() as stack:
        files = tuple(stack.enter_context(parquet.opened(path)) for path in paths)
        all_columns = [file.columns for file in files]
        columns = union(all_columns) if choose is None else choose(all_columns)
        files = tuple(file for file in files if not set(columns).isdisjoint(file.columns))
        for file in files:
            if failures := file.keys[1]:
                raise FactorFileError(str(file.path), (*failures, *_column_failures(file, columns)))
        yield _joined(files, columns)


def union(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the factors of several files, each once, in order."""
    return tuple(dict.fromkeys(name for names in columns for name in names))


def values(panel: Panel) -> Iterator[tuple[str, Any]]:
    """Yield each factor and its values.

    Raises:
        FactorFileError: at the end, if values of a file can't be trained on; it lists every reason.
        UnequalFactorError: if a factor has different values in two files.
    """
    failed: dict[str, tuple[Failure, ...]] = {}
    for column in panel.columns:
        try:
            found = panel.read(column)
        except FactorFileError as error:
            failed[error.path] = (*failed.get(error.path, ()), *error.failures)
            continue
        yield column, found
    for path, failures in failed.items():
        raise FactorFileError(path, failures)


def examine(paths: Sequence[Path]) -> FactorSet:
    """Check factor files and return what their join holds; raises as `values` does."""
    with opened(paths) as panel:
        for _ in values(panel):
            pass
        return panel.factor_set


def described(held: FactorSet) -> dict[str, Any]:
    """Return a set as JSON can hold it, without the path: days as text, and how many instruments."""
    return {
        "digest": held.digest,
        "rows": held.rows,
        "columns": list(held.columns),
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "instruments": len(held.instruments),
    }


def load(path: Path, digest: str, column: str) -> pd.Series:
    """Return a factor of a file that was checked before, with sorted levels (datetime, instrument).

    Raises:
        SetChangedError: if the content has another digest by now.
        FactorFileError: if the file can't be read any more.
    """
    with opened([path], lambda _: (column,)) as panel:
        if panel.files[0].digest != digest:
            raise parquet.changed_set(path, digest, panel.files[0].digest)
        names = pd.Index(panel.instruments, dtype=object).take(panel.instrument_codes)
        rows = [panel.dates.take(panel.date_codes), names]
        index = pd.MultiIndex.from_arrays(rows, names=[DATETIME, INSTRUMENT])
        return pd.Series(panel.read_as_stored(column), index=index, name=column)


def _column_failures(file: FactorFile, columns: tuple[str, ...]) -> Iterator[Failure]:
    for column in columns:
        if column in file.columns:
            try:
                file.read(column)
            except FactorFileError as error:
                yield from error.failures


def _joined(files: tuple[FactorFile, ...], columns: tuple[str, ...]) -> Panel:
    indexes = [index for file in files if (index := file.keys[0]) is not None]
    dates, names = indexes[0].dates, np.array(indexes[0].instruments, dtype=object)
    for index in indexes[1:]:
        dates = dates.union(index.dates)
        names = np.union1d(names, np.array(index.instruments, dtype=object))
    keys = []
    for index in indexes:
        date_codes = dates.get_indexer(index.dates).astype(np.int64)[index.date_codes]
        instrument_codes = np.searchsorted(names, np.array(index.instruments, dtype=object))
        keys.append(date_codes * len(names) + instrument_codes[index.instrument_codes])
    places: list[Any] = [None]
    rows = keys[0]
    if len(keys) > 1:
        rows = np.unique(np.concatenate(keys))
        places = [np.searchsorted(rows, key) for key in keys]
    elif not (rows[1:] > rows[:-1]).all():
        # No key stands there twice: a search for each of millions would take ten times as long.
        order = np.argsort(rows, kind="stable")
        rows, places = rows[order], [np.empty(len(order), dtype=np.int64)]
        places[0][order] = np.arange(len(order))
    date_codes = (rows // len(names)).astype(np.int32)
    return Panel(
        dates=dates,
        date_codes=date_codes,
        instruments=tuple(names),
        instrument_codes=(rows % len(names)).astype(np.int32),
        files=files,
        columns=columns,
        starts=np.searchsorted(date_codes, np.arange(len(dates))),
        _places=tuple(places),
    )


# --- the normal form ---


def nested_columns(columns: Sequence[str]) -> pd.MultiIndex:
    """Return the factors' names as RD-Agent nests them."""
    return pd.MultiIndex.from_product([[FEATURE], columns])


def days_of(file: Path) -> pd.DatetimeIndex:
    """Return the day of each row of a file in normal form."""
    return pd.DatetimeIndex(pq.ParquetFile(file).read(columns=[DATETIME]).column(0).to_pandas()).normalize()


def complete_rows(file: Path) -> Any:
    """Return which rows of a file in normal form have a value of every factor; bool, (rows,).

    Reads one factor at a time.
    """
    opened = pq.ParquetFile(file)
    complete = np.ones(opened.metadata.num_rows, dtype=bool)
    for name in opened.schema_arrow.names:
        if name not in (DATETIME, INSTRUMENT):
            values = opened.read(columns=[name]).column(0)
            complete &= ~np.isnan(values.to_numpy().astype(np.float64, copy=False))
    return complete


def is_normal(panel: Panel) -> bool:
    """Return True for a set that is one file taken whole, and stands in that file in normal form already.

    Looks at the schema and at the order of the rows. A file that another pandas described in other words
    counts as not normal: it is written anew, which is slower and as right.
    """
    first = panel.files[0]
    if panel._places[0] is not None or first.columns != panel.columns or first.path.is_dir():
        return False
    found = panel.files[0].schema
    factors = [found.field(number).type for number in range(len(panel.columns))]
    if not all(pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in factors):
        return False
    kinds = [np.dtype(kind.to_pandas_dtype()) for kind in factors]
    normal = _schema(dict(zip(panel.columns, kinds, strict=True)), panel)
    described = [schema.pandas_metadata or {} for schema in (found, normal)]
    return (found.names, found.types) == (normal.names, normal.types) and all(
        described[0].get(part) == described[1].get(part)
        for part in ("index_columns", "column_indexes", "columns")
    )


def write_normal(panel: Panel, target: BinaryIO, folder: Path) -> None:
    """Write a set in normal form.

    One factor at a time is put into order and laid aside in a temporary file, since parquet takes all columns
    of a row group together; the memory needed is that of one factor and of one row group.

    Args:
        panel: The set.
        target: A file open for writing.
        folder: Where temporary files may lie: as many bytes as the factors have.

    Raises:
        FactorFileError, UnequalFactorError: as `Panel.read_as_stored`.
        OSError: if something can't be written.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=f"{Path(target.name).name}.") as aside:
        kinds: dict[str, np.dtype[Any]] = {}
        for column in panel.columns:
            values = panel.read_as_stored(column)
            kinds[column] = values.dtype
            aside.write(np.ascontiguousarray(values).data)
        schema = _schema(kinds, panel)
        names, days = pa.array(panel.instruments, pa.string()), panel.dates.to_numpy()
        # Version 2.6 keeps nanoseconds, whatever pyarrow's default is.
        with pq.ParquetWriter(target, schema, version="2.6") as writer:
            for start in range(0, panel.rows, _GROUP_ROWS):
                rows = slice(start, min(start + _GROUP_ROWS, panel.rows))
                arrays, begin = [], 0
                for kind in kinds.values():
                    aside.seek(begin + start * kind.itemsize)
                    # A missing value is null in the file, as pandas writes it.
                    arrays.append(pa.array(np.fromfile(aside, kind, rows.stop - start), from_pandas=True))
                    begin += panel.rows * kind.itemsize
                arrays.append(pa.array(days[panel.date_codes[rows]], pa.timestamp("ns")))
                arrays.append(names.take(pa.array(panel.instrument_codes[rows])))
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _schema(kinds: dict[str, np.dtype[Any]], panel: Panel) -> pa.Schema:
    """Return the schema that pandas gives such a frame, from a frame of one row."""
    row = pd.MultiIndex.from_arrays([panel.dates[:1], [panel.instruments[0]]], names=[DATETIME, INSTRUMENT])
    frame = pd.DataFrame({column: np.zeros(1, kind) for column, kind in kinds.items()}, index=row)
    return pa.Schema.from_pandas(frame.set_axis(nested_columns(tuple(kinds)), axis=1))
