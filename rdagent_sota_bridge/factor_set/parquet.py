"""One factor file: its layout, its digest, and the checks it has to pass."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PlainSerializer, PlainValidator

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, SetChangedError
from rdagent_sota_bridge.factor_set.names import RESULT_FILE
from rdagent_sota_bridge.system import cache

DATETIME = "datetime"
INSTRUMENT = "instrument"
FEATURE = "feature"
"""The column group under which RD-Agent nests factors (`scenarios/qlib/developer/factor_runner.py`)."""

_PARQUET_MAGIC = b"PAR1"
_BLOCK = 1 << 22
_EXAMPLES = 2
# What pyarrow raises on damaged bytes: its own errors, and Python's for text and metadata that it decodes.
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


Days = Annotated[
    pd.DatetimeIndex,
    PlainValidator(pd.DatetimeIndex),
    PlainSerializer(lambda days: days.as_unit("ns").asi8.tolist()),
]
"""Days that pydantic writes as their nanoseconds, and reads."""


@dataclass(frozen=True, eq=False)
class FactorSet:
    """What a factor set holds, without its values.

    Attributes:
        path: The factor file, absolute; of a joined set the first.
        digest: What names the set.
        rows: Number of (datetime, instrument) rows.
        columns: Names of the factors, in order, each once.
        dates: The days (or times) that have a row, each once, ascending.
        instruments: The instruments that have a row, each once, sorted.
    """

    path: Path
    digest: str
    rows: int
    columns: tuple[str, ...]
    dates: Days
    instruments: tuple[str, ...]


@dataclass(frozen=True)
class Footer:
    """What a factor file's footer tells of it, without a look at the data.

    Attributes:
        rows: Number of (datetime, instrument) rows.
        columns: Names of the factors, in the file's order, each once.
        start: The first day (or time); None where the footer has no statistics of it.
        end: The last one; likewise.
    """

    rows: int
    columns: tuple[str, ...]
    start: pd.Timestamp | None
    end: pd.Timestamp | None


@dataclass(frozen=True)
class _Layout:
    """Parquet's names of the two levels, and the factors' names with parquet's for each."""

    datetime_field: str
    instrument_field: str
    fields: dict[str, str]


@dataclass(frozen=True, eq=False)
class Index:
    """The rows' keys: codes into `dates` and `instruments`, one pair a row.

    Attributes:
        dates: The days (or times) that have a row, each once, ascending.
        date_codes: int32, (rows,): position in `dates`.
        instruments: The instruments that have a row, each once, sorted.
        instrument_codes: int32, (rows,): position in `instruments`.
    """

    dates: pd.DatetimeIndex
    date_codes: Any
    instruments: tuple[str, ...]
    instrument_codes: Any

    def label(self, row: int) -> str:
        """Name one row for a message."""
        return f"({self.dates[self.date_codes[row]]}, {self.instruments[self.instrument_codes[row]]})"


@dataclass(frozen=True, eq=False)
class FactorFile:
    """An open factor file, read one column at a time.

    Attributes:
        path: The factor file, absolute.
        digest: `sha256:` and the digest of the file's bytes; it names the set.
        columns: Names of the factors, in the file's order, each once.
        index: The rows' keys; None where they have faults.
        failures: The faults of the rows' keys.
    """

    path: Path
    digest: str
    columns: tuple[str, ...]
    index: Index | None
    failures: tuple[Failure, ...]
    _parquet: pq.ParquetFile
    _fields: dict[str, str]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._parquet.metadata.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """The file's Arrow schema, with what pandas wrote of its index and columns."""
        return self._parquet.schema_arrow

    def read(self, column: str) -> Any:
        """Return a factor's values, one a row in the file's order, NaN where there is none.

        Raises:
            FactorFileError: if they are not numbers, all NaN, infinite, or can't be read.
        """
        values = _read_field(self.path, self._parquet, self._fields[column], column)
        if failures := _column_failures(column, values, self.index):
            raise FactorFileError(str(self.path), tuple(failures))
        return values.to_numpy()


@contextmanager
def opened(path: Path) -> Iterator[FactorFile]:
    """Open a factor file, so that digest and values are of the same bytes even if it is replaced meanwhile.

    Raises:
        FactorFileError: if it can't be read, or is no table of factors; faults of its rows stand in
            `FactorFile.failures`. At the end, if it was changed while it was open.
    """
    with _opened(path) as file:
        digest = _digest_of(file)
        parquet = _parquet(path, file)
        layout = _layout(path, parquet)
        index, failures = _read_index(path, parquet, layout)
        columns = tuple(layout.fields)
        yield FactorFile(path, digest, columns, index, tuple(failures), parquet, layout.fields)


def load(path: Path, digest: str, column: str) -> pd.Series:
    """Load one factor of a file that was checked before.

    Args:
        path: The factor file.
        digest: The digest that it had then.
        column: The factor.

    Returns:
        Its values, with index levels (datetime, instrument), in the file's row order.

    Raises:
        SetChangedError: if the content has another digest by now.
        FactorFileError: if the file can't be read any more.
    """
    with opened(path) as file:
        if file.digest != digest:
            raise changed_set(path, digest, file.digest)
        if file.index is None:
            raise FactorFileError(str(path), file.failures)
        instruments = pd.Index(file.index.instruments, dtype=object).take(file.index.instrument_codes)
        levels = [file.index.dates.take(file.index.date_codes), instruments]
        index = pd.MultiIndex.from_arrays(levels, names=[DATETIME, INSTRUMENT])
        return pd.Series(file.read(column), index=index, name=column)


def read_footer(path: Path) -> Footer:
    """Return what the footer of a factor file says; values are neither read nor checked.

    Raises:
        FactorFileError: if the file can't be read, or has a layout that is not known.
    """
    with _opened(path) as file:
        parquet = _parquet(path, file)
        layout = _layout(path, parquet)
        start, end = _date_range(path, parquet, layout.datetime_field)
        return Footer(int(parquet.metadata.num_rows), tuple(layout.fields), start, end)


def count_instruments(path: Path) -> int:
    """Return how many instruments have a row; reads that one column.

    Raises:
        FactorFileError: if the file can't be read, or has a layout that is not known.
    """
    with _opened(path) as file:
        parquet = _parquet(path, file)
        values = _read_field(path, parquet, _layout(path, parquet).instrument_field, INSTRUMENT)
        return len(values.unique().drop_null())


def current_digest(path: Path) -> str:
    """Return the digest of a factor file as it is now. One whose size, times and inode are known is not read.

    Raises:
        FactorFileError: if the file can't be read.
    """
    with _opened(path) as file:
        return _digest_of(file)


def content_digest(file: BinaryIO) -> str:
    """Return `sha256:` and the digest of an open file's bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    return f"sha256:{digest.hexdigest()}"


def changed_set(path: Path, began: str, now: str) -> SetChangedError:
    """Return the error for a set that is not what the run began with."""
    return SetChangedError(
        "The factor set is not the one that this run began with: "
        f"it began with {began}, the file now has {now}",
        str(path),
        "put the file of the first digest back and resume, or start a new run with the new set",
    )


def metrics_beside(path: Path) -> dict[str, float]:
    """Return the metrics that the factor run left beside its factor file, or {} where it left none.

    A metric that is no number is NaN.

    Raises:
        OSError, ValueError: if the file of the metrics can't be read; the text names it.
    """
    file = path.parent / RESULT_FILE
    if not file.is_file():
        return {}
    try:
        table = pd.read_csv(file, index_col=0, float_precision="round_trip")
    except ValueError as error:  # pandas on what is no table, Python on what is no text
        raise ValueError(f"{file} can't be read: {error}") from None
    values = pd.to_numeric(table.iloc[:, 0], errors="coerce").astype(float)
    return dict(zip(table.index.astype(str), values, strict=True))


@contextmanager
def _damaged(path: Path, column: str | None = None) -> Iterator[None]:
    """Make one failure of whatever pyarrow and pandas raise on damaged bytes."""
    try:
        yield
    except _DAMAGE as error:
        fix = "copy the file anew"
        raise _one_failure(path, Reason.DAMAGED, fix, column, examples=(_text(error),)) from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file once, so that digest and values are of the same bytes even if it is replaced."""
    try:
        file = path.open("rb")
    except OSError as error:
        fix = "make it a file that you may read (ls -l tells), or name another one"
        raise _one_failure(path, Reason.UNREADABLE, fix, examples=(_text(error),)) from None
    with file:
        before = _signature(file)
        yield file
        # Without the time of a change of the file's own record: a chmod or a new link spoils nothing.
        if _signature(file)[:-1] != before[:-1]:
            fix = "wait until whatever writes the file has ended, then start again"
            raise _one_failure(path, Reason.CHANGED, fix)


def _signature(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _digest_of(file: BinaryIO) -> str:
    key = [str(Path(file.name).absolute()), cache.identity(os.fstat(file.fileno()))]
    name: str = cache.find_once("digests-1", key, lambda: content_digest(file))
    return name


def _parquet(path: Path, file: BinaryIO) -> pq.ParquetFile:
    file.seek(0)
    head = file.read(len(_PARQUET_MAGIC))
    file.seek(0)
    try:
        return pq.ParquetFile(file)
    except _DAMAGE as error:
        if head == _PARQUET_MAGIC:
            fix = "copy the file anew: it begins as parquet and does not end as parquet"
            raise _one_failure(path, Reason.DAMAGED, fix, examples=(_text(error),)) from None
        fix = "name a parquet file, such as pandas' DataFrame.to_parquet writes"
        raise _one_failure(path, Reason.NOT_PARQUET, fix, examples=(f"its first bytes {head!r}",)) from None


def _layout(path: Path, parquet: pq.ParquetFile) -> _Layout:
    if parquet.metadata.num_rows == 0:
        raise _one_failure(
            path, Reason.NO_ROWS, "name the set of a loop that produced factor values", count=0
        )
    schema = parquet.schema_arrow
    with _damaged(path):
        described = (schema.pandas_metadata or {}).get("index_columns", [])
        header = schema.empty_table().to_pandas()
    index_fields = [name for name in described if isinstance(name, str)]
    levels = list(header.index.names) if index_fields else []
    missing = [name for name in (DATETIME, INSTRUMENT) if levels.count(name) != 1]
    if missing:
        raise FactorFileError(
            str(path), tuple(_missing_level(name, levels, schema.names) for name in missing)
        )
    if len(levels) > 2:
        others = tuple(str(name) for name in levels if name not in (DATETIME, INSTRUMENT))
        fix = "keep the levels datetime and instrument alone: df.reset_index([...], drop=True)"
        raise _one_failure(path, Reason.LAYOUT, fix, examples=others[:_EXAMPLES])
    fields = tuple(name for name in schema.names if name not in index_fields)
    if not fields:
        raise _one_failure(path, Reason.NO_COLUMNS, "name a file with at least one factor column", count=0)
    columns = _column_names(path, header.columns)
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        fix = "rename one, or keep one: df.loc[:, ~df.columns.duplicated()]"
        raise FactorFileError(
            str(path),
            tuple(Failure(Reason.DUPLICATE_NAME, fix, name, columns.count(name)) for name in twice),
        )
    return _Layout(
        index_fields[levels.index(DATETIME)],
        index_fields[levels.index(INSTRUMENT)],
        dict(zip(columns, fields, strict=True)),
    )


def _date_range(path: Path, parquet: pq.ParquetFile, field: str) -> tuple[Any, Any]:
    """Return the first and the last date by the statistics of the row groups, or (None, None)."""
    with _damaged(path):
        groups = [parquet.metadata.row_group(group) for group in range(parquet.metadata.num_row_groups)]
        chunks = [
            group.column(parquet.schema_arrow.get_field_index(field)) for group in groups if group.num_rows
        ]
        statistics = [chunk.statistics for chunk in chunks]
        if not all(found is not None and found.has_min_max for found in statistics):
            return None, None
        return (
            pd.Timestamp(min(found.min for found in statistics)),
            pd.Timestamp(max(found.max for found in statistics)),
        )


def _missing_level(name: str, levels: list[Any], names: list[str]) -> Failure:
    if name in names:
        fix = f"make the column {name} a level: df.set_index(['datetime', 'instrument'])"
    elif levels.count(name) > 1:
        fix = f"keep one of the levels named {name}"
    else:
        fix = f"name a level of the index {name}: df.index.names = ['datetime', 'instrument']"
    has = f"levels {levels}" if levels else "no named levels"
    return Failure(Reason.NO_LEVEL, fix, name, examples=(f"an index with {has}",))


def _column_names(path: Path, columns: pd.Index) -> tuple[str, ...]:
    """Return the factors' names of the two layouts: flat, or nested under `feature`."""
    if columns.nlevels == 1:
        return tuple(str(name) for name in columns)
    groups = sorted({str(group) for group in columns.get_level_values(0)})
    if columns.nlevels == 2 and groups == [FEATURE]:
        return tuple(str(name) for name in columns.get_level_values(1))
    found = f"{columns.nlevels} column levels, the first with {', '.join(groups[:3])}"
    fix = f"keep flat columns, or two levels of which the first is {FEATURE!r} throughout"
    raise _one_failure(path, Reason.LAYOUT, fix, examples=(found,))


def _read_field(path: Path, parquet: pq.ParquetFile, field: str, column: str) -> pa.ChunkedArray:
    with _damaged(path, column):
        values = parquet.read(columns=[field], use_pandas_metadata=False)[field]
        if len(values) != parquet.metadata.num_rows:
            raise ValueError(f"{len(values)} values for {parquet.metadata.num_rows} rows")
        return values


def _read_index(path: Path, parquet: pq.ParquetFile, layout: _Layout) -> tuple[Index | None, list[Failure]]:
    days = _read_field(path, parquet, layout.datetime_field, DATETIME)
    codes = _read_field(path, parquet, layout.instrument_field, INSTRUMENT)
    failures = _level_failures(days, codes)
    if failures:
        return None, failures
    with _damaged(path, INSTRUMENT):
        # Hashed, not sorted: five million rows have a thousand days.
        day_codes, found_days = _encoded(days)
        instrument_codes, found_instruments = _encoded(codes)
        days_there, names = found_days.to_numpy(zero_copy_only=False), found_instruments.to_pylist()
    days_there, day_codes = _in_order(days_there, day_codes)
    try:
        dates = pd.DatetimeIndex(days_there).astype("datetime64[ns]")
    except pd.errors.OutOfBoundsDatetime as error:
        fix = "name a set with dates that pandas can hold, 1677 to 2262"
        return None, [Failure(Reason.NOT_DATES, fix, DATETIME, examples=(_text(error),))]
    instruments, instrument_codes = _in_order(np.array(names, dtype=object), instrument_codes)
    index = Index(dates, day_codes, tuple(instruments), instrument_codes)
    return index, _duplicate_rows(index)


def _encoded(values: pa.ChunkedArray) -> tuple[Any, pa.Array]:
    """Return a level as codes, one a row, and what they stand for."""
    encoded = values.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _in_order(values: Any, codes: Any) -> tuple[Any, Any]:
    """Return the values that have a code, each once and sorted, and the codes into them (int32)."""
    # Only what has a row: a categorical level may name instruments that the file does not have, or one twice.
    there = np.flatnonzero(np.bincount(codes, minlength=len(values)))
    found, order = np.unique(values[there], return_inverse=True)
    new_codes = np.zeros(len(values), dtype=np.int32)
    new_codes[there] = order
    return found, new_codes[codes]


def _level_failures(days: pa.ChunkedArray, codes: pa.ChunkedArray) -> list[Failure]:
    failures = []
    if not pa.types.is_timestamp(days.type):
        fix = "convert the level: pd.to_datetime(...)"
        failures.append(Failure(Reason.NOT_DATES, fix, DATETIME, len(days), _values(days)))
    elif days.type.tz is not None:
        fix = "take the zone off: index.tz_localize(None), in the market's local time"
        failures.append(Failure(Reason.TIME_ZONE, fix, DATETIME, len(days), (f"zone {days.type.tz}",)))
    text = codes.type.value_type if pa.types.is_dictionary(codes.type) else codes.type
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        fix = "write codes as the market does, such as SH600000"
        failures.append(Failure(Reason.NOT_TEXT, fix, INSTRUMENT, len(codes), _values(codes)))
    for name, level in ((DATETIME, days), (INSTRUMENT, codes)):
        if level.null_count:
            failures.append(Failure(Reason.NULL_INDEX, "drop those rows", name, level.null_count))
    return failures


def _duplicate_rows(index: Index) -> list[Failure]:
    keys = index.date_codes.astype(np.int64) * len(index.instruments) + index.instrument_codes
    if (keys[1:] > keys[:-1]).all():  # sorted, as RD-Agent writes them
        return []
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order][1:] == keys[order][:-1]]
    if not len(repeated):
        return []
    examples = tuple(index.label(row) for row in sorted(repeated)[:_EXAMPLES])
    fix = "keep one row of each: df[~df.index.duplicated()]"
    return [Failure(Reason.DUPLICATE_ROW, fix, None, len(repeated), examples)]


def _column_failures(column: str, values: pa.ChunkedArray, index: Index | None) -> list[Failure]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        fix = "convert it to numbers, or leave it out"
        return [Failure(Reason.NOT_NUMERIC, fix, column, len(values), _values(values))]
    numbers = values.to_numpy()
    if np.isnan(numbers).all():
        return [Failure(Reason.ALL_NAN, "leave it out, or mine it again", column, len(numbers))]
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        rows = infinite[:_EXAMPLES]
        examples = tuple(index.label(row) if index is not None else f"row {row}" for row in rows)
        fix = "replace them: df.replace([np.inf, -np.inf], np.nan)"
        return [Failure(Reason.INFINITE, fix, column, len(infinite), examples)]
    return []


def _values(values: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(repr(value) for value in values.slice(0, _EXAMPLES).to_pylist())


def _one_failure(
    path: Path,
    reason: Reason,
    fix: str,
    column: str | None = None,
    count: int | None = None,
    examples: tuple[str, ...] = (),
) -> FactorFileError:
    return FactorFileError(str(path), (Failure(reason, fix, column, count, examples),))


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
