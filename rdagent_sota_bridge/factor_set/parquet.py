"""One factor file: its layout, its digest, and the checks it has to pass."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PlainSerializer, PlainValidator

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, SetChangedError
from rdagent_sota_bridge.system import cache, files

DATETIME = "datetime"
INSTRUMENT = "instrument"
FEATURE = "feature"
"""The column group under which RD-Agent nests factors (`scenarios/qlib/developer/factor_runner.py`)."""

_EXAMPLES = 2
# What pyarrow raises on damaged bytes: its own errors, and Python's for text and metadata that it decodes.
_DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError)

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
        dates: As in `Index`.
        instruments: As in `Index`.
    """

    path: Path
    digest: str
    rows: int
    columns: tuple[str, ...]
    dates: Days
    instruments: tuple[str, ...]


class Footer(NamedTuple):
    """What a factor file's footer says of it: rows, factors, first and last day (None without statistics)."""

    rows: int
    columns: tuple[str, ...]
    start: pd.Timestamp | None
    end: pd.Timestamp | None


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
        """Name one row."""
        return f"({self.dates[self.date_codes[row]]}, {self.instruments[self.instrument_codes[row]]})"


@dataclass(frozen=True, eq=False)
class FactorFile:
    """An open factor file, read one column at a time.

    Attributes:
        path: The factor file, absolute.
        fields: The factors, in the file's order, each once, with parquet's name of it.
        levels: Parquet's names of the levels datetime and instrument.
    """

    path: Path
    fields: dict[str, str]
    levels: tuple[str, str]
    _file: BinaryIO
    _parquet: pq.ParquetFile

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the factors, in the file's order, each once."""
        return tuple(self.fields)

    @property
    def schema(self) -> pa.Schema:
        """The file's Arrow schema, with what pandas wrote of its index and columns."""
        return self._parquet.schema_arrow

    @cached_property
    def digest(self) -> str:
        """`sha256:` and the digest of the file's bytes; it names the set."""
        return _digest_of(self._file)

    @cached_property
    def keys(self) -> tuple[Index | None, tuple[Failure, ...]]:
        """The rows' keys, None where they have faults, and the faults."""
        days, codes = (self._read(*level) for level in zip(self.levels, (DATETIME, INSTRUMENT), strict=True))
        if failures := tuple(_level_failures(days, codes)):
            return None, failures
        with _damaged(self.path, INSTRUMENT):
            found, date_codes = _encoded(days)
            instruments, instrument_codes = _encoded(codes)
        try:
            dates = pd.DatetimeIndex(found).astype("datetime64[ns]")
        except pd.errors.OutOfBoundsDatetime as error:
            fix = "name a set with dates that pandas can hold, 1677 to 2262"
            return None, (Failure(Reason.NOT_DATES, fix, DATETIME, examples=(_text(error),)),)
        index = Index(dates, date_codes, tuple(instruments), instrument_codes)
        keys = date_codes.astype(np.int64) * len(instruments) + instrument_codes
        if (keys[1:] > keys[:-1]).all():  # sorted, as RD-Agent writes them
            return index, ()
        order = np.argsort(keys, kind="stable")
        repeated = order[1:][keys[order][1:] == keys[order][:-1]]
        if not len(repeated):
            return index, ()
        examples = tuple(index.label(row) for row in sorted(repeated)[:_EXAMPLES])
        fix = "keep one row of each: df[~df.index.duplicated()]"
        return index, (Failure(Reason.DUPLICATE_ROW, fix, None, len(repeated), examples),)

    def read(self, column: str) -> Any:
        """Return a factor's values, one a row in the file's order, NaN where there is none.

        Raises:
            FactorFileError: if they are not numbers, all NaN, infinite, or can't be read.
        """
        values = self._read(self.fields[column], column)
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            fix = "convert it to numbers, or leave it out"
            raise _refused(self.path, Reason.NOT_NUMERIC, fix, column, len(values), _examples(values))
        numbers = values.to_numpy()
        if np.isnan(numbers).all():
            fix = "leave it out, or mine it again"
            raise _refused(self.path, Reason.ALL_NAN, fix, column, len(numbers))
        infinite = np.flatnonzero(np.isinf(numbers))
        if len(infinite):
            label = "row {}".format if self.keys[0] is None else self.keys[0].label
            examples = tuple(label(row) for row in infinite[:_EXAMPLES])
            fix = "replace them: df.replace([np.inf, -np.inf], np.nan)"
            raise _refused(self.path, Reason.INFINITE, fix, column, len(infinite), examples)
        return numbers

    def _read(self, field: str, column: str) -> pa.ChunkedArray:
        with _damaged(self.path, column):
            values = self._parquet.read(columns=[field], use_pandas_metadata=False)[field]
            if len(values) != (rows := self._parquet.metadata.num_rows):
                raise ValueError(f"{len(values)} values for {rows} rows")
            return values


@contextmanager
def opened(path: Path) -> Iterator[FactorFile]:
    """Open a factor file, so that digest and values are of the same bytes even if it is replaced meanwhile.

    Raises:
        FactorFileError: if it can't be read, or is no table of factors. At the end, if it was changed while
            it was open.
    """
    with _open(path) as file:
        yield _factor_file(path, file)


def read_footer(path: Path) -> Footer:
    """Return what the footer of a factor file says; raises as `opened` does."""
    with opened(path) as file:
        metadata, start, end = file._parquet.metadata, None, None
        place = file.schema.get_field_index(file.levels[0])
        with _damaged(path):
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            found = [group.column(place).statistics for group in groups if group.num_rows]
            if all(one is not None and one.has_min_max for one in found):
                start = pd.Timestamp(min(one.min for one in found))
                end = pd.Timestamp(max(one.max for one in found))
        return Footer(metadata.num_rows, file.columns, start, end)


def count_instruments(path: Path) -> int:
    """Return how many instruments have a row; reads that one column, and raises as `opened` does."""
    with opened(path) as file:
        return len(file._read(file.levels[1], INSTRUMENT).unique().drop_null())


def current_digest(path: Path) -> str:
    """Return a file's digest as it is now; one whose size, times and inode are known is not read.

    Raises:
        FactorFileError: if the file can't be read.
    """
    with _open(path) as file:
        return _digest_of(file)


def content_digest(file: BinaryIO) -> str:
    """Return `sha256:` and the digest of an open file's bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 22):
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


# --- the file ---


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = files.open_file(path)
    except OSError as error:
        fix = "make it a file that you may read (ls -l shows the rights), or name another one"
        raise _refused(path, Reason.UNREADABLE, fix, examples=(_text(error),)) from None
    with file:
        before = os.fstat(file.fileno())
        yield file
        now = os.fstat(file.fileno())
        # Without the time of a change of the file's own record: a chmod or a new link spoils nothing.
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            fix = "wait until whatever writes the file has ended, then start again"
            raise _refused(path, Reason.CHANGED, fix)


@contextmanager
def _damaged(path: Path, column: str | None = None) -> Iterator[None]:
    """Make one failure of whatever pyarrow and pandas raise on damaged bytes."""
    try:
        yield
    except _DAMAGE as error:
        raise _refused(path, Reason.DAMAGED, "copy the file anew", column, examples=(_text(error),)) from None


def _digest_of(file: BinaryIO) -> str:
    key = [str(Path(file.name).absolute()), cache.identity(os.fstat(file.fileno()))]
    return str(cache.find_once("digests-1", key, lambda: content_digest(file)))


def _factor_file(path: Path, file: BinaryIO) -> FactorFile:
    head = file.read(4)
    file.seek(0)
    try:
        parquet = pq.ParquetFile(file)
    except _DAMAGE as error:
        reason, example = Reason.NOT_PARQUET, f"its first bytes {head!r}"
        fix = "name a parquet file, such as pandas' DataFrame.to_parquet writes"
        if head == b"PAR1":
            reason, example = Reason.DAMAGED, _text(error)
            fix = "copy the file anew: it begins as parquet and does not end as parquet"
        raise _refused(path, reason, fix, examples=(example,)) from None
    if parquet.metadata.num_rows == 0:
        raise _refused(path, Reason.NO_ROWS, "name the set of a loop that produced factor values", count=0)
    schema = parquet.schema_arrow
    with _damaged(path):
        described = (schema.pandas_metadata or {}).get("index_columns", [])
        header = schema.empty_table().to_pandas()
    index_fields = [name for name in described if isinstance(name, str)]
    levels = list(header.index.names) if index_fields else []
    if missing := [name for name in (DATETIME, INSTRUMENT) if levels.count(name) != 1]:
        raise FactorFileError(str(path), tuple(_missing(name, levels, schema.names) for name in missing))
    if len(levels) > 2:
        others = tuple(str(name) for name in levels if name not in (DATETIME, INSTRUMENT))
        fix = "keep the levels datetime and instrument alone: df.reset_index([...], drop=True)"
        raise _refused(path, Reason.LAYOUT, fix, examples=others[:_EXAMPLES])
    fields = tuple(name for name in schema.names if name not in index_fields)
    if not fields:
        raise _refused(path, Reason.NO_COLUMNS, "name a file with at least one factor column", count=0)
    columns = _column_names(path, header.columns)
    fix = "rename one, or keep one: df.loc[:, ~df.columns.duplicated()]"
    counts = Counter(columns).items()
    if twice := [Failure(Reason.DUPLICATE_NAME, fix, name, count) for name, count in counts if count > 1]:
        raise FactorFileError(str(path), tuple(twice))
    dates, instruments = (index_fields[levels.index(name)] for name in (DATETIME, INSTRUMENT))
    by_name = dict(zip(columns, fields, strict=True))
    return FactorFile(path, by_name, (dates, instruments), file, parquet)


def _missing(name: str, levels: list[Any], names: list[str]) -> Failure:
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
    groups = sorted(set(map(str, columns.get_level_values(0))))
    if columns.nlevels > 2 or (columns.nlevels == 2 and groups != [FEATURE]):
        found = f"{columns.nlevels} column levels, the first with {', '.join(groups[:3])}"
        fix = f"keep flat columns, or two levels of which the first is {FEATURE!r} throughout"
        raise _refused(path, Reason.LAYOUT, fix, examples=(found,))
    return tuple(str(name) for name in columns.get_level_values(-1))


def _encoded(level: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return the values that have a row, each once and sorted, and each row's position in them (int32)."""
    encoded = level.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()  # hashed, not sorted: five million rows have a thousand days
    codes, values = encoded.indices.to_numpy(), encoded.dictionary.to_numpy(zero_copy_only=False)
    # Only what has a row: a categorical level may name instruments that the file does not have, or one twice.
    there = np.flatnonzero(np.bincount(codes, minlength=len(values)))
    found, order = np.unique(values[there], return_inverse=True)
    positions = np.zeros(len(values), dtype=np.int32)
    positions[there] = order
    return found, positions[codes]


def _level_failures(days: pa.ChunkedArray, codes: pa.ChunkedArray) -> Iterator[Failure]:
    if not pa.types.is_timestamp(days.type):
        fix = "convert the level: pd.to_datetime(...)"
        yield Failure(Reason.NOT_DATES, fix, DATETIME, len(days), _examples(days))
    elif days.type.tz is not None:
        fix = "take the zone off: index.tz_localize(None), in the market's local time"
        yield Failure(Reason.TIME_ZONE, fix, DATETIME, len(days), (f"zone {days.type.tz}",))
    text = codes.type.value_type if pa.types.is_dictionary(codes.type) else codes.type
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        fix = "write codes as the market does, such as SH600000"
        yield Failure(Reason.NOT_TEXT, fix, INSTRUMENT, len(codes), _examples(codes))
    for name, level in ((DATETIME, days), (INSTRUMENT, codes)):
        if level.null_count:
            yield Failure(Reason.NULL_INDEX, "drop those rows", name, level.null_count)


def _examples(values: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(repr(value) for value in values.slice(0, _EXAMPLES).to_pylist())


def _refused(
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
