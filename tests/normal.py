"""Factor files of every form, and what RD-Agent's own statements make of pandas' frame of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from rdagent_sota_bridge.factor_set import panel, parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests.frames import nested, with_level

DAYS = pd.bdate_range("2020-01-01", periods=8)
CODES = ("SH600000", "SH600004", "SZ000001", "SZ000002", "万科", "a b")
KEYS = [(day, code) for day in DAYS for code in CODES]
NAMES = (
    "momentum",
    "动量 (20日)",
    "a b",
    'quo"ted',
    "it's",
    "('feature', 'x')",
    "('feature', 'momentum')",
    "(1, 2)",
    "a, b",
    "a.b",
    "feature",
    "2020-01-01",
    "2020-01-01 00:00:00",
    "datetime",
    "instrument",
    "__index_level_0__",
    "123",
    "1.5",
    "-0",
    "nan",
    "None",
    "True",
    "back\\slash",
    "line\nbreak",
    "é",
    "e\u0301",
    "RESI5",
    " ",
)
PAIRS = {"('feature', 'x')", "('feature', 'momentum')"}
"""Names that pandas writes of two levels, and are read so where all are: tests/factor_set/test_layout.py."""
TYPES = ("float64", "float32", "float16", "int64", "int32", "int8", "uint64")


# --- what pandas makes of a file ---


def merge_path(frame: pd.DataFrame, target: Path) -> None:
    """Write a frame as `QlibModelRunner.develop` does, which is asked itself below."""
    nested(frame.sort_index()).to_parquet(target, engine="pyarrow")


def normalised(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what pandas reads of a file, in the one form that a set is handed over in.

    Flat names, which are text; levels (datetime, instrument): nanoseconds and plain text; numpy's types,
    float64 where an integer is missing.
    """
    if frame.columns.nlevels == 2:
        frame = frame.droplevel(0, axis=1)
    columns = []
    for number in range(frame.shape[1]):
        values = frame.iloc[:, number]
        if pd.api.types.is_extension_array_dtype(values.dtype):
            kind = (
                values.dtype.numpy_dtype if not values.isna().any() or values.dtype.kind == "f" else "float64"
            )
            values = values.to_numpy(kind, na_value=np.nan) if values.isna().any() else values.to_numpy(kind)
        columns.append(np.asarray(values))
    index = pd.MultiIndex.from_arrays(
        [
            pd.DatetimeIndex(frame.index.get_level_values("datetime")).as_unit("ns"),
            pd.Index(frame.index.get_level_values("instrument").astype(object), dtype=object),
        ],
        names=["datetime", "instrument"],
    )
    names = [str(name) for name in frame.columns]
    return pd.DataFrame(dict(enumerate(columns)), index=index).set_axis(pd.Index(names, dtype=object), axis=1)


def joined(frames: Sequence[pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
    """Return columns of frames on all their rows, sorted; a value is the first frame's that has one."""
    rows = functools.reduce(lambda one, other: one.union(other), [frame.index for frame in frames])
    rows = rows.unique().sort_values().set_names(["datetime", "instrument"])
    found: dict[str, pd.Series] = {}
    for name in columns:
        for frame in frames:
            if name not in frame:
                continue
            spread = frame[name].reindex(rows)
            if name not in found:
                found[name] = spread
                continue
            kind = np.result_type(found[name].dtype, spread.dtype)
            found[name] = found[name].astype(kind).where(found[name].notna(), spread.astype(kind))
    return pd.DataFrame(found, index=rows)


# --- what the store makes of it ---


def kept(paths: Sequence[Path], folder: Path, columns: Sequence[str] | None = None) -> store.Stored:
    """Put files' columns into a store, and return the set there."""
    with panel.opened(paths) as found:
        taken = found.columns if columns is None else tuple(columns)
    digests = tuple((path, parquet.current_digest(path)) for path in paths)
    return store.keep(store.Wanted(digests[0][1], taken, digests), folder)


def handed_over(stored: store.Stored, folder: Path) -> pd.DataFrame:
    """Return what pandas reads in a workspace in which the set was placed."""
    store.hand_out(stored, folder / FACTOR_FILE, link=True)
    return pd.read_parquet(folder / FACTOR_FILE)


def by_pandas(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return what pandas reads where the merge path had a frame of pandas'."""
    target = folder / "by pandas.parquet"
    merge_path(frame, target)
    return pd.read_parquet(target)


def assert_equal(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Fail unless two frames are the same in every value, its sign, type, name and level."""
    pd.testing.assert_frame_equal(
        found, expected, check_exact=True, check_column_type=True, check_index_type=True, check_flags=True
    )
    assert list(found.dtypes) == list(expected.dtypes)
    for one, other in ((found.index, expected.index), (found.columns, expected.columns)):
        assert one.names == other.names
        assert [level.dtype for level in one.levels] == [level.dtype for level in other.levels]
        assert all(a.equals(b) for a, b in zip(one.levels, other.levels, strict=True))
    for number in range(found.shape[1]):
        values = [frame.iloc[:, number].to_numpy() for frame in (found, expected)]
        there = ~np.isnan(values[1])
        assert values[0][there].tobytes() == values[1][there].tobytes()


def check_files(paths: Sequence[Path], folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Fail unless files arrive as the merge path would write pandas' join of them; return what arrives."""
    stored = kept(paths, folder / "store", columns)
    frames = [normalised(pd.read_parquet(path)) for path in paths]
    expected = frames[0][list(stored.columns)] if len(frames) == 1 else joined(frames, stored.columns)
    found = handed_over(stored, folder)
    assert_equal(found, by_pandas(expected, folder))
    assert stored.rows == len(expected)
    return found


# --- files of every form ---


@dataclass(frozen=True)
class Case:
    """A frame, and how it is written."""

    frame: pd.DataFrame
    is_nested: bool
    is_swapped: bool
    level: str
    unit: str
    writer: str

    def written(self, folder: Path) -> Path:
        """Write the file, and return its path."""
        frame = self.frame.swaplevel() if self.is_swapped else self.frame
        codes = frame.index.get_level_values("instrument")
        if self.level == "categories":
            order = [*sorted(set(codes), reverse=True), "not there"]
            frame = with_level(frame, "instrument", pd.Categorical(codes, categories=order))
        elif self.level == "string":
            frame = with_level(frame, "instrument", codes.astype("string[pyarrow]"))
        days = pd.DatetimeIndex(frame.index.get_level_values("datetime"))
        frame = with_level(frame, "datetime", days.as_unit(self.unit))
        frame = nested(frame) if self.is_nested else frame
        path = folder / "source.parquet"
        if self.writer == "pandas":
            frame.to_parquet(path, engine="pyarrow")
        elif self.writer == "row groups":
            size = max(7, len(frame) // 5)
            frame.to_parquet(path, engine="pyarrow", row_group_size=size, compression="zstd")
        elif self.writer == "plain":
            frame.to_parquet(path, engine="pyarrow", compression=None, use_dictionary=False)
        else:  # a NaN is a value there, and not null
            table = pa.Table.from_pandas(frame)
            for number in range(frame.shape[1]):
                values = pa.array(frame.iloc[:, number].to_numpy(), from_pandas=False)
                table = table.set_column(number, table.schema.field(number), values)
            pq.write_table(table, path, compression="gzip")
        return path


def numbers(kind: str) -> st.SearchStrategy[Any]:
    """Return values of a type: any finite number, missing ones, and the ends of what it can hold."""
    dtype = np.dtype(kind)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return st.integers(int(limits.min), int(limits.max))
    limits = np.finfo(dtype)
    ends = [0.0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_subnormal, np.nan]
    return st.one_of(
        st.floats(width=8 * dtype.itemsize, allow_nan=False, allow_infinity=False),
        st.sampled_from([float(end) for end in ends]),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a frame of 1 to 40 rows and 1 to 6 columns, each with a value, and how it is written."""
    rows = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=40, unique=True))
    if draw(st.booleans()):
        rows = sorted(rows)
    names = draw(
        st.lists(
            st.one_of(
                st.sampled_from([name for name in NAMES if name not in PAIRS]),
                st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    values = {}
    for name in names:
        kind = draw(st.sampled_from(TYPES))
        drawn = draw(numpy_strategies.arrays(kind, len(rows), elements=numbers(kind)))
        if np.isnan(drawn).all():
            drawn[draw(st.integers(0, len(rows) - 1))] = -1.5
        values[name] = drawn
    index = pd.MultiIndex.from_tuples(rows, names=["datetime", "instrument"])
    frame = pd.DataFrame(dict(enumerate(values.values())), index=index)
    return Case(
        frame.set_axis(pd.Index(names, dtype=object), axis=1),
        draw(st.booleans()),
        draw(st.sampled_from([False, False, True])),
        draw(st.sampled_from(["text", "text", "categories", "string"])),
        draw(st.sampled_from(["ns", "ns", "us", "ms"])),
        draw(st.sampled_from(["pandas", "row groups", "plain", "NaN kept"])),
    )


def plain_case(frame: pd.DataFrame) -> Case:
    """Return a frame that is written as RD-Agent writes it."""
    return Case(frame, True, False, "text", "ns", "pandas")
