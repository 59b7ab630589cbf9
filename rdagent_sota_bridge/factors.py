"""One factor file: its layout, its digest, the checks it has to pass, and the frame for the merge path."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, SetChangedError
from rdagent_sota_bridge.locate import RESULT_FILE

DATETIME = "datetime"
INSTRUMENT = "instrument"
FEATURE = "feature"
"""The column group under which RD-Agent nests factors (`scenarios/qlib/developer/factor_runner.py`)."""

_PARQUET_MAGIC = b"PAR1"
_BLOCK = 1 << 22
_EXAMPLES = 2
# What pyarrow raises on damaged bytes: its own errors, and Python's for text and metadata that it decodes.
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
_COARSE_CLOCK = 2_000_000_000  # nanoseconds; FAT keeps two seconds


@dataclass(frozen=True, eq=False)
class FactorSet:
    """What a factor file holds, without its values.

    Attributes:
        path: The factor file, absolute.
        digest: `sha256:` and the digest of the file's bytes; it names the set.
        rows: Number of (datetime, instrument) rows.
        columns: Names of the factors, in the file's order, each once.
        dates: The days (or times) that have a row, each once, ascending.
        instruments: The instruments that have a row, each once, sorted.
        columns_without_training_values: Factors without a single value where `examine` was told to look.
    """

    path: Path
    digest: str
    rows: int
    columns: tuple[str, ...]
    dates: pd.DatetimeIndex
    instruments: tuple[str, ...]
    columns_without_training_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """Where things stand in a file: fields are parquet's names, columns are the factors' names."""

    datetime_field: str
    instrument_field: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Index:
    """The rows' keys: codes into `dates` and `instruments`, one pair a row."""

    dates: pd.DatetimeIndex
    date_codes: Any
    instruments: tuple[str, ...]
    instrument_codes: Any

    def label(self, row: int) -> str:
        """Name one row for a message."""
        return f"({self.dates[self.date_codes[row]]}, {self.instruments[self.instrument_codes[row]]})"


Cells = Callable[[pd.DatetimeIndex, tuple[str, ...]], tuple[Any, Any]]
"""From dates and instruments to two boolean arrays of their lengths: which of them count."""


def examine(path: Path, training_cells: Cells | None = None) -> FactorSet:
    """Check a factor file and return what it holds.

    Reads one column at a time: memory grows with the rows, not with the columns.

    Args:
        path: The factor file.
        training_cells: Tells which dates and instruments a model is trained on; None for all.

    Raises:
        FactorFileError: if the file can't be trained on; it lists every reason.
    """
    with _opened(path) as file:
        digest = _digest_of(file)
        parquet = _parquet(path, file)
        layout = _layout(path, parquet)
        index, failures = _read_index(path, parquet, layout)
        counting = None if index is None else _counting_rows(index, training_cells)
        empty = []
        for field, column in zip(layout.fields, layout.columns, strict=True):
            values = _read_field(path, parquet, field, column)
            column_failures = _column_failures(column, values, index)
            if not column_failures and counting is not None and np.isnan(values.to_numpy()[counting]).all():
                empty.append(column)
            failures += column_failures
        if failures or index is None:
            raise FactorFileError(str(path), tuple(failures))
        return FactorSet(
            path=path,
            digest=digest,
            rows=parquet.metadata.num_rows,
            columns=layout.columns,
            dates=index.dates,
            instruments=tuple(sorted(index.instruments)),
            columns_without_training_values=tuple(empty),
        )


def load(path: Path, digest: str) -> pd.DataFrame:
    """Load a factor file that was examined before.

    Returns:
        One flat float or integer column a factor; index levels (datetime, instrument); the file's row order.

    Raises:
        SetChangedError: if the content has another digest by now.
        FactorFileError: if the file can't be read any more.
    """
    with _opened(path) as file:
        found = _digest_of(file)
        if found != digest:
            raise changed_set(path, digest, found)
        parquet = _parquet(path, file)
        layout = _layout(path, parquet)
        index, failures = _read_index(path, parquet, layout)
        if index is None:
            raise FactorFileError(str(path), tuple(failures))
        values = {
            column: _read_field(path, parquet, field, column).to_numpy()
            for field, column in zip(layout.fields, layout.columns, strict=True)
        }
    instruments = pd.Index(index.instruments, dtype=object)
    levels = [index.dates.take(index.date_codes), instruments.take(index.instrument_codes)]
    return pd.DataFrame(values, index=pd.MultiIndex.from_arrays(levels, names=[DATETIME, INSTRUMENT]))


_seen: dict[Path, tuple[tuple[int, ...], str]] = {}


def current_digest(path: Path) -> str:
    """Return the digest of a factor file as it is now. One whose size, times and inode are known is not read.

    Raises:
        FactorFileError: if the file can't be read.
    """
    with _opened(path) as file:
        return _digest_of(file)


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
        OSError, ValueError: if the file of the metrics can't be read as text; the text names it.
    """
    file = path.parent / RESULT_FILE
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            return {row[0]: _number(row[1]) for row in csv.reader(rows) if len(row) == 2 and row[0]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} can't be read: {error}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file once, so that digest and values are of the same bytes even if it is replaced."""
    try:
        file = path.open("rb")
    except OSError as error:
        mend = "make it a file that you may read (ls -l tells), or name another one"
        raise _one_failure(path, Reason.UNREADABLE, mend, examples=(_text(error),)) from None
    with file:
        before = _signature(file)
        yield file
        # Without the time of a change of the file's own record: a chmod or a new link spoils nothing.
        if _signature(file)[:-1] != before[:-1]:
            mend = "wait until whatever writes the file has ended, then start again"
            raise _one_failure(path, Reason.CHANGED, mend)


def _signature(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _digest_of(file: BinaryIO) -> str:
    path = Path(file.name)
    signature = _signature(file)
    known = _seen.get(path)
    if known is not None and known[0] == signature:
        return known[1]
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    name = f"sha256:{digest.hexdigest()}"
    # A file written just now can change again without a new time, where the file system's clock is coarse.
    if time.time_ns() - signature[1] > _COARSE_CLOCK:
        _seen[path] = (signature, name)
    return name


def _parquet(path: Path, file: BinaryIO) -> pq.ParquetFile:
    file.seek(0)
    head = file.read(len(_PARQUET_MAGIC))
    file.seek(0)
    try:
        return pq.ParquetFile(file)
    except _DAMAGE as error:
        if head == _PARQUET_MAGIC:
            mend = "copy the file anew: it begins as parquet and does not end as parquet"
            raise _one_failure(path, Reason.DAMAGED, mend, examples=(_text(error),)) from None
        mend = "name a parquet file, such as pandas' DataFrame.to_parquet writes"
        raise _one_failure(path, Reason.NOT_PARQUET, mend, examples=(f"its first bytes {head!r}",)) from None


def _layout(path: Path, parquet: pq.ParquetFile) -> _Layout:
    if parquet.metadata.num_rows == 0:
        raise _one_failure(
            path, Reason.NO_ROWS, "name the set of a loop that produced factor values", count=0
        )
    schema = parquet.schema_arrow
    try:
        described = (schema.pandas_metadata or {}).get("index_columns", [])
        header = schema.empty_table().to_pandas()
    except _DAMAGE as error:
        raise _one_failure(path, Reason.DAMAGED, "copy the file anew", examples=(_text(error),)) from None
    index_fields = [name for name in described if isinstance(name, str)]
    levels = list(header.index.names) if index_fields else []
    missing = [name for name in (DATETIME, INSTRUMENT) if levels.count(name) != 1]
    if missing:
        raise FactorFileError(
            str(path), tuple(_missing_level(name, levels, schema.names) for name in missing)
        )
    if len(levels) > 2:
        others = tuple(str(name) for name in levels if name not in (DATETIME, INSTRUMENT))
        mend = "keep the levels datetime and instrument alone: df.reset_index([...], drop=True)"
        raise _one_failure(path, Reason.LAYOUT, mend, examples=others[:_EXAMPLES])
    fields = tuple(name for name in schema.names if name not in index_fields)
    if not fields:
        raise _one_failure(path, Reason.NO_COLUMNS, "name a file with at least one factor column", count=0)
    columns = _column_names(path, header.columns)
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        mend = "rename one, or keep one: df.loc[:, ~df.columns.duplicated()]"
        raise FactorFileError(
            str(path),
            tuple(Failure(Reason.DUPLICATE_NAME, mend, name, columns.count(name)) for name in twice),
        )
    return _Layout(
        index_fields[levels.index(DATETIME)], index_fields[levels.index(INSTRUMENT)], fields, columns
    )


def _missing_level(name: str, levels: list[Any], names: list[str]) -> Failure:
    if name in names:
        mend = f"make the column {name} a level: df.set_index(['datetime', 'instrument'])"
    elif levels.count(name) > 1:
        mend = f"keep one of the levels named {name}"
    else:
        mend = f"name a level of the index {name}: df.index.names = ['datetime', 'instrument']"
    has = f"levels {levels}" if levels else "no named levels"
    return Failure(Reason.NO_LEVEL, mend, name, examples=(f"an index with {has}",))


def _column_names(path: Path, columns: pd.Index) -> tuple[str, ...]:
    """Return the factors' names of the two layouts: flat, or nested under `feature`."""
    if columns.nlevels == 1:
        return tuple(str(name) for name in columns)
    groups = sorted({str(group) for group in columns.get_level_values(0)})
    if columns.nlevels == 2 and groups == [FEATURE]:
        return tuple(str(name) for name in columns.get_level_values(1))
    found = f"{columns.nlevels} column levels, the first with {', '.join(groups[:3])}"
    mend = f"keep flat columns, or two levels of which the first is {FEATURE!r} throughout"
    raise _one_failure(path, Reason.LAYOUT, mend, examples=(found,))


def _read_field(path: Path, parquet: pq.ParquetFile, field: str, column: str) -> pa.ChunkedArray:
    try:
        values = parquet.read(columns=[field], use_pandas_metadata=False)[field]
        if len(values) != parquet.metadata.num_rows:
            raise ValueError(f"{len(values)} values for {parquet.metadata.num_rows} rows")
    except _DAMAGE as error:
        examples = (_text(error),)
        raise _one_failure(path, Reason.DAMAGED, "copy the file anew", column, examples=examples) from None
    return values


def _read_index(path: Path, parquet: pq.ParquetFile, layout: _Layout) -> tuple[_Index | None, list[Failure]]:
    days = _read_field(path, parquet, layout.datetime_field, DATETIME)
    codes = _read_field(path, parquet, layout.instrument_field, INSTRUMENT)
    failures = _level_failures(days, codes)
    if failures:
        return None, failures
    found, date_codes = np.unique(days.to_numpy(), return_inverse=True)
    try:
        dates = pd.DatetimeIndex(found).astype("datetime64[ns]")
    except pd.errors.OutOfBoundsDatetime as error:
        mend = "name a set with dates that pandas can hold, 1677 to 2262"
        return None, [Failure(Reason.NOT_DATES, mend, DATETIME, examples=(_text(error),))]
    try:
        encoded = codes.combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        categories = encoded.dictionary.to_pylist()
    except _DAMAGE as error:
        examples = (_text(error),)
        raise _one_failure(
            path, Reason.DAMAGED, "copy the file anew", INSTRUMENT, examples=examples
        ) from None
    # Only what has a row: a categorical level may name instruments that the file does not have.
    present, instrument_codes = np.unique(encoded.indices.to_numpy(), return_inverse=True)
    index = _Index(dates, date_codes, tuple(categories[code] for code in present), instrument_codes)
    return index, _duplicate_rows(index)


def _counting_rows(index: _Index, cells: Cells | None) -> Any:
    """Return a boolean array over the rows: whether a model is trained on that day and instrument."""
    if cells is None:
        return np.ones(len(index.date_codes), dtype=bool)
    dates, instruments = cells(index.dates, index.instruments)
    return dates[index.date_codes] & instruments[index.instrument_codes]


def _level_failures(days: pa.ChunkedArray, codes: pa.ChunkedArray) -> list[Failure]:
    failures = []
    if not pa.types.is_timestamp(days.type):
        mend = "convert the level: pd.to_datetime(...)"
        failures.append(Failure(Reason.NOT_DATES, mend, DATETIME, len(days), _values(days)))
    elif days.type.tz is not None:
        mend = "take the zone off: index.tz_localize(None), in the market's local time"
        failures.append(Failure(Reason.TIME_ZONE, mend, DATETIME, len(days), (f"zone {days.type.tz}",)))
    text = codes.type.value_type if pa.types.is_dictionary(codes.type) else codes.type
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        mend = "write codes as the market does, such as SH600000"
        failures.append(Failure(Reason.NOT_TEXT, mend, INSTRUMENT, len(codes), _values(codes)))
    for name, level in ((DATETIME, days), (INSTRUMENT, codes)):
        if level.null_count:
            failures.append(Failure(Reason.NULL_INDEX, "drop those rows", name, level.null_count))
    return failures


def _duplicate_rows(index: _Index) -> list[Failure]:
    keys = index.date_codes.astype(np.int64) * len(index.instruments) + index.instrument_codes
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order][1:] == keys[order][:-1]]
    if not len(repeated):
        return []
    examples = tuple(index.label(row) for row in sorted(repeated)[:_EXAMPLES])
    mend = "keep one row of each: df[~df.index.duplicated()]"
    return [Failure(Reason.DUPLICATE_ROW, mend, None, len(repeated), examples)]


def _column_failures(column: str, values: pa.ChunkedArray, index: _Index | None) -> list[Failure]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        mend = "convert it to numbers, or leave it out"
        return [Failure(Reason.NOT_NUMERIC, mend, column, len(values), _values(values))]
    numbers = values.to_numpy()
    if np.isnan(numbers).all():
        return [Failure(Reason.ALL_NAN, "leave it out, or mine it again", column, len(numbers))]
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        rows = infinite[:_EXAMPLES]
        examples = tuple(index.label(row) if index is not None else f"row {row}" for row in rows)
        mend = "replace them: df.replace([np.inf, -np.inf], np.nan)"
        return [Failure(Reason.INFINITE, mend, column, len(infinite), examples)]
    return []


def _values(values: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(repr(value) for value in values.slice(0, _EXAMPLES).to_pylist())


def _one_failure(
    path: Path,
    reason: Reason,
    mend: str,
    column: str | None = None,
    count: int | None = None,
    examples: tuple[str, ...] = (),
) -> FactorFileError:
    return FactorFileError(str(path), (Failure(reason, mend, column, count, examples),))


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
