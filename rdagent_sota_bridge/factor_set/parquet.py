"""One factor file: its layout, its digest, and the checks it has to pass."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PlainSerializer, PlainValidator

from rdagent_sota_bridge.errors import (
    Failure,
    Reason,
    SetChangedError,
    refused,
    shortened,
)
from rdagent_sota_bridge.factor_set import layout, time_zones
from rdagent_sota_bridge.factor_set.layout import Field, Layout
from rdagent_sota_bridge.factor_set.names import DATETIME, INSTRUMENT
from rdagent_sota_bridge.factor_set.parts import one_file, parts_of
from rdagent_sota_bridge.system import cache, files

_EXAMPLES = 2
_DROP = "drop those rows"
_EMPTY = "leave it out, or mine it again"
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
    """An open factor file, or a folder of parts in its place, read one column at a time.

    Attributes:
        path: The factor file, absolute.
        layout: What its fields are.
    """

    path: Path
    layout: Layout
    _files: tuple[BinaryIO, ...]
    _tables: tuple[pq.ParquetFile, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the factors, in the file's order, each once."""
        return tuple(self.layout.factors)

    @property
    def schema(self) -> pa.Schema:
        """The file's Arrow schema, with what pandas wrote of its index and columns."""
        return self._tables[0].schema_arrow

    @property
    def understood(self) -> str:
        """What is otherwise than RD-Agent writes it, in one line; empty for nothing."""
        parts = f"a folder of {len(self._files)} parts" if self.path.is_dir() else ""
        return ", ".join(filter(None, (parts, self.layout.understood)))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(table.metadata.num_rows for table in self._tables)

    @cached_property
    def digest(self) -> str:
        """What names the set, as `current_digest` returns it."""
        return _digest_of(self.path, self._files)

    @cached_property
    def keys(self) -> tuple[Index | None, tuple[Failure, ...]]:
        """The rows' keys, None where they have faults, and the faults."""
        dates_field, codes_field = self.layout.levels
        days = layout.as_dates(self._read(dates_field.name, DATETIME))
        codes = layout.as_text(self._read(codes_field.name, INSTRUMENT))
        if failures := (*_level_failures(days, codes, dates_field), *self._unequal_copies()):
            return None, failures
        with _damaged(self.path, INSTRUMENT):
            found, date_codes = _encoded(days)
            instruments, instrument_codes = _encoded(codes)
        try:
            dates = pd.DatetimeIndex(found).astype("datetime64[ns]")
        except pd.errors.OutOfBoundsDatetime as error:
            fix = "name a set with dates that pandas can hold, 1677 to 2262"
            return None, (Failure(Reason.NOT_DATES, fix, DATETIME, examples=(_text(error),)),)
        if dates.hasnans:  # numpy's NaT, which Arrow counts as a value
            count = int(np.count_nonzero(dates.isna()[date_codes]))
            return None, (Failure(Reason.NULL_INDEX, _DROP, DATETIME, count),)
        index = Index(dates, date_codes, tuple(instruments), instrument_codes)
        keys = date_codes.astype(np.int64) * len(instruments) + instrument_codes
        if (keys[1:] > keys[:-1]).all():  # sorted, as RD-Agent writes them
            return index, ()
        order = np.argsort(keys, kind="stable")
        repeated = order[1:][keys[order][1:] == keys[order][:-1]]
        if not len(repeated):
            return index, ()
        examples = tuple(index.label(row) for row in sorted(repeated)[:_EXAMPLES])
        fix = f"keep one row of each: {self.layout.each_row_once}"
        return index, (Failure(Reason.DUPLICATE_ROW, fix, None, len(repeated), examples),)

    def read(self, column: str) -> Any:
        """Return a factor's values, one a row in the file's order, NaN where there is none.

        Raises:
            FactorFileError: if they are not numbers, all NaN, infinite, or can't be read.
        """
        values = self._read(self.layout.factors[column], column)
        if values.null_count == len(values):  # of whatever type
            raise refused(self.path, Reason.ALL_NAN, _EMPTY, column, len(values))
        values = layout.as_numbers(values)
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            fix = "convert it to numbers, or leave it out"
            raise refused(self.path, Reason.NOT_NUMERIC, fix, column, len(values), _examples(values))
        numbers = values.to_numpy()
        if np.isnan(numbers).all():
            raise refused(self.path, Reason.ALL_NAN, _EMPTY, column, len(numbers))
        infinite = np.flatnonzero(np.isinf(numbers))
        if len(infinite):
            label = "row {}".format if self.keys[0] is None else self.keys[0].label
            examples = tuple(label(row) for row in infinite[:_EXAMPLES])
            fix = "replace them: df.replace([np.inf, -np.inf], np.nan)"
            raise refused(self.path, Reason.INFINITE, fix, column, len(infinite), examples)
        return numbers

    def _read(self, field: str, column: str) -> pa.ChunkedArray:
        with _damaged(self.path, column):
            found = [table.read(columns=[field], use_pandas_metadata=False) for table in self._tables]
            values = pa.concat_tables(found)[field]
            if len(values) != self.rows:
                raise ValueError(f"{len(values)} values for {self.rows} rows")
            return values

    def _unequal_copies(self) -> Iterator[Failure]:
        """Yield the failures of levels that stand there twice and are not the same."""
        for level, copy in self.layout.copies:
            pair = [layout.as_plain_text(self._read(field.name, field.label)) for field in (level, copy)]
            if pa.types.is_timestamp(pair[0].type) and pa.types.is_timestamp(pair[1].type):
                pair = [one.cast(pa.timestamp("ns", one.type.tz)) for one in pair]  # of whatever unit
            if not pair[0].equals(pair[1]):
                fix = f"take away the one that is not meant: df = df.droplevel({copy.position})"
                yield Failure(Reason.DOUBTFUL_LEVEL, fix, level.label, examples=("two levels that differ",))


@contextmanager
def opened(path: Path) -> Iterator[FactorFile]:
    """Open a factor file, so that digest and values are of the same bytes even if it is replaced meanwhile.

    Raises:
        FactorFileError: if it can't be read, or is no table of factors. At the end, if it was changed while
            it was open.
    """
    with _open_all(path) as files:
        yield _factor_file(path, files)


def read_footer(path: Path) -> Footer:
    """Return what the footer of a factor file says; raises as `opened` does."""
    with opened(path) as file:
        start = end = None
        place = file.schema.get_field_index(file.layout.levels[0].name)
        with _damaged(path):
            metadata = [table.metadata for table in file._tables]
            groups = [one.row_group(number) for one in metadata for number in range(one.num_row_groups)]
            found = [group.column(place).statistics for group in groups if group.num_rows]
            # The bounds of a time that Python can't hold are not known.
            with suppress(OverflowError):
                if all(one is not None and one.has_min_max for one in found):
                    start = layout.day_of(min(one.min for one in found))
                    end = layout.day_of(max(one.max for one in found))
        return Footer(file.rows, file.columns, start, end)


def count_instruments(path: Path) -> int:
    """Return how many instruments have a row; reads that one column, and raises as `opened` does."""
    with opened(path) as file:
        codes = file._read(file.layout.levels[1].name, INSTRUMENT)
        with _damaged(path, INSTRUMENT):
            return len(layout.as_text(codes).unique().drop_null())


def read_whole(path: Path) -> pd.DataFrame:
    """Return a factor file as pandas reads it; raises as `opened` does."""
    with _damaged(path):
        return pd.read_parquet(path)


def current_digest(path: Path) -> str:
    """Return a set's digest as it is now; a file whose size, times and inode are known is not read.

    That is `sha256:` and the digest of the file's bytes; for a folder that of its parts' names and digests.

    Raises:
        FactorFileError: if a file can't be read.
    """
    with _open_all(path) as files:
        return _digest_of(path, files)


def content_digest(file: BinaryIO) -> str:
    """Return `sha256:` and the digest of an open file's bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
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
        raise refused(path, Reason.UNREADABLE, fix, examples=(_text(error),)) from None
    with file:
        before = os.fstat(file.fileno())
        yield file
        now = os.fstat(file.fileno())
        # Without the time of a change of the file's own record: a chmod or a new link spoils nothing.
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            fix = "wait until whatever writes the file has ended, then start again"
            raise refused(path, Reason.CHANGED, fix)


@contextmanager
def _open_all(path: Path) -> Iterator[tuple[BinaryIO, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_open(part)) for part in parts_of(path))


@contextmanager
def _damaged(path: Path, column: str | None = None) -> Iterator[None]:
    """Make one failure of whatever pyarrow and pandas raise on damaged bytes."""
    try:
        yield
    except _DAMAGE as error:
        raise refused(path, Reason.DAMAGED, "copy the file anew", column, examples=(_text(error),)) from None


def _digest_of(path: Path, files: tuple[BinaryIO, ...]) -> str:
    digests = [(Path(file.name).name, _digest_of_file(file)) for file in files]
    if [Path(file.name) for file in files] == [path]:
        return digests[0][1]
    return f"sha256:{hashlib.sha256(json.dumps(digests).encode()).hexdigest()}"


def _digest_of_file(file: BinaryIO) -> str:
    key = [str(Path(file.name).absolute()), cache.identity(os.fstat(file.fileno()))]
    return str(cache.find_once("digests-1", key, lambda: content_digest(file)))


def _factor_file(path: Path, files: tuple[BinaryIO, ...]) -> FactorFile:
    found = [(Path(file.name), _table(Path(file.name), file)) for file in files]
    # A part without rows may have other types: pandas knows none of no text.
    found = [(part, table) for part, table in found if table.metadata.num_rows]
    if not found:
        raise refused(path, Reason.NO_ROWS, "name the set of a loop that produced factor values", count=0)
    schema = found[0][1].schema_arrow
    if others := [part.name for part, table in found if not table.schema_arrow.equals(schema)]:
        example = f"other columns or types in {others[0]} than in {found[0][0].name}"
        raise refused(path, Reason.PARTS, one_file(path), examples=(example,))
    return FactorFile(path, layout.understand(path, schema), files, tuple(table for _, table in found))


def _table(path: Path, file: BinaryIO) -> pq.ParquetFile:
    head = file.read(4)
    file.seek(0)
    try:
        return pq.ParquetFile(file)
    except _DAMAGE as error:
        reason, example = Reason.NOT_PARQUET, f"its first bytes {head!r}"
        fix = "name a parquet file, such as pandas' DataFrame.to_parquet writes"
        if head == b"PAR1":
            reason, example = Reason.DAMAGED, _text(error)
            fix = "copy the file anew: it begins as parquet and does not end as parquet"
        raise refused(path, reason, fix, examples=(example,)) from None


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


def _level_failures(days: pa.ChunkedArray, codes: pa.ChunkedArray, field: Field) -> Iterator[Failure]:
    if not (pa.types.is_timestamp(days.type) or pa.types.is_null(days.type)):
        yield layout.date_failure(field, days)
    elif getattr(days.type, "tz", None) is not None:
        moments = pd.DatetimeIndex(days.unique().to_numpy(zero_copy_only=False)).dropna()
        fix = time_zones.zone_fix(moments, days.type.tz, field.key, is_level=field.position is not None)
        yield Failure(Reason.TIME_ZONE, fix, DATETIME, len(days), (f"zone {days.type.tz}",))
    text = codes.type.value_type if pa.types.is_dictionary(codes.type) else codes.type
    if not (pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_null(text)):
        fix = "write codes as the market does, such as SH600000"
        yield Failure(Reason.NOT_TEXT, fix, INSTRUMENT, len(codes), _examples(codes))
    for name, level in ((DATETIME, days), (INSTRUMENT, codes)):
        if level.null_count:
            fix = _DROP if level.null_count < len(level) else "write the level anew, for no row has one"
            yield Failure(Reason.NULL_INDEX, fix, name, level.null_count)


def _examples(values: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(repr(value) for value in values.slice(0, _EXAMPLES).to_pylist())


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shortened(text)
