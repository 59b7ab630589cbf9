"""The normal form of a factor set: what RD-Agent's merge path would write into a model's workspace.

Columns nested under `feature`; index levels datetime (nanoseconds) and instrument (text), stored as columns
after the factors; rows sorted by both; every factor in the type that it has in its file; what pandas says of
it all in the schema. In `QlibModelRunner.develop` (RD-Agent 0.8.0, 1.0.0) that is what `sort_index`, the
nesting of the columns and `to_parquet` lead to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge.factor_set.panel import Panel
from rdagent_sota_bridge.factor_set.parquet import DATETIME, FEATURE, INSTRUMENT

_GROUP_ROWS = 1 << 18  # of one row group: what is in memory of all columns at once while a set is written


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


def days(file: Path) -> pd.DatetimeIndex:
    """Return the day of each row of a file that RD-Agent or the store wrote."""
    return pd.DatetimeIndex(pq.read_table(file, columns=[DATETIME]).column(0).to_pandas()).normalize()


def nested_columns(columns: tuple[str, ...]) -> pd.MultiIndex:
    """Return the factors' names as RD-Agent nests them."""
    return pd.MultiIndex.from_product([[FEATURE], columns])


def is_normal(panel: Panel) -> bool:
    """Return True for a set that is one file taken whole, and stands in that file in normal form already.

    Looks at the schema and at the order of the rows. A file that another pandas described in other words
    counts as not normal: it is written anew, which is slower and as right.
    """
    if not panel.in_file_order or panel.files[0].columns != panel.columns:
        return False
    found = panel.files[0].schema
    kinds = {}
    for field, column in zip(found, panel.columns, strict=False):
        if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            return False
        kinds[column] = np.dtype(field.type.to_pandas_dtype())
    normal = _schema(kinds, panel)
    return found.names == normal.names and found.types == normal.types and _told(found) == _told(normal)


def write(panel: Panel, target: BinaryIO, folder: Path) -> None:
    """Write a set in normal form.

    One factor at a time is put into order and laid aside in a temporary file, since parquet takes all columns
    of a row group together; the memory needed is that of one factor and of one row group.

    Args:
        panel: The set.
        target: A file open for writing.
        folder: Where temporary files may lie: as many bytes as the factors have.

    Raises:
        FactorFileError: if values of a file can't be trained on.
        UnequalFactorError: if a factor has different values in two files.
        OSError: if something can't be written.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=f"{Path(target.name).name}.") as aside:
        kinds = {}
        for column in panel.columns:
            values = panel.read_as_stored(column)
            kinds[column] = values.dtype
            aside.write(np.ascontiguousarray(values).data)
        schema = _schema(kinds, panel)
        # Version 2.6 keeps nanoseconds, whatever pyarrow's default is.
        with pq.ParquetWriter(target, schema, version="2.6") as writer:
            for rows in _groups(panel.rows):
                arrays = [*_values(aside, kinds, panel.rows, rows), *_keys(panel, rows)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _GROUP_ROWS):
        yield slice(start, min(start + _GROUP_ROWS, rows))


def _values(aside: BinaryIO, kinds: dict[str, np.dtype[Any]], total: int, rows: slice) -> Iterator[pa.Array]:
    """Yield each factor's values of some rows, from the file in which they were laid aside."""
    begin = 0
    for kind in kinds.values():
        aside.seek(begin + rows.start * kind.itemsize)
        # A missing value is null in the file, as pandas writes it.
        yield pa.array(np.fromfile(aside, kind, rows.stop - rows.start), from_pandas=True)
        begin += total * kind.itemsize


def _keys(panel: Panel, rows: slice) -> list[pa.Array]:
    days = panel.dates.to_numpy()[panel.date_codes[rows]]
    names = pa.array(panel.instruments, pa.string()).take(pa.array(panel.instrument_codes[rows]))
    return [pa.array(days, pa.timestamp("ns")), names]


def _schema(kinds: dict[str, np.dtype[Any]], panel: Panel) -> pa.Schema:
    """Return the schema that pandas gives such a frame, from a frame of one row."""
    row = pd.MultiIndex.from_arrays([panel.dates[:1], [panel.instruments[0]]], names=[DATETIME, INSTRUMENT])
    frame = pd.DataFrame({column: np.zeros(1, kind) for column, kind in kinds.items()}, index=row)
    frame.columns = nested_columns(tuple(kinds))
    return pa.Schema.from_pandas(frame)


def _told(schema: pa.Schema) -> dict[str, Any]:
    """Return what pandas says of columns and index in a schema, without versions of libraries."""
    told = schema.pandas_metadata or {}
    return {name: told.get(name) for name in ("index_columns", "column_indexes", "columns")}
