"""The forms in which users have factor sets: each is the same set as the plain one, or is refused."""

from __future__ import annotations

import datetime
import decimal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from rdagent_sota_bridge.errors import Reason
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests.factor_set.test_normal_form import REPEATABLE
from tests.frames import examine, factor_frame, failures_of, nested, with_level, write, write_table
from tests.normal import KEYS, kept, numbers

# --- the property ---

DATES: dict[str, Callable[[pd.Series], Any]] = {
    "timestamps": lambda days: days,
    "microseconds": lambda days: days.astype("datetime64[us]"),
    "days": lambda days: days.dt.date,
    "text of days": lambda days: days.dt.strftime("%Y-%m-%d"),
    "text": lambda days: days.dt.strftime("%Y-%m-%d %H:%M:%S"),
    "text with a T": lambda days: days.dt.strftime("%Y-%m-%dT%H:%M"),
    "categories of text": lambda days: days.dt.strftime("%Y-%m-%d").astype("category"),
    "bytes": lambda days: days.dt.strftime("%Y-%m-%d").str.encode("ascii"),
}
WITH_TIMES = ("timestamps", "microseconds", "text", "text with a T")
CODES: dict[str, Callable[[pd.Series], Any]] = {
    "text": lambda codes: codes,
    "categories": lambda codes: codes.astype("category"),
    "bytes": lambda codes: codes.str.encode("utf-8"),
}
NAMES = (("datetime", "Datetime", "DATETIME", "date", "Date"), ("instrument", "Instrument", "code", "CODE"))
VIEWS = {"none": pa.string(), "string_view": pa.string_view(), "large_string": pa.large_string()}


@dataclass(frozen=True)
class Form:
    """A set as a plain flat frame, and the table of it in another form, as files of one schema."""

    plain: pd.DataFrame
    tables: list[pa.Table]

    def written(self, folder: Path) -> Path:
        """Write the form, and return its path: a file, or a folder where it is in parts."""
        path = folder / FACTOR_FILE
        if len(self.tables) == 1:
            pq.write_table(self.tables[0], path)
            return path
        path.mkdir()
        for number, table in enumerate(self.tables):
            pq.write_table(table, path / f"part-{number:05}.parquet")
        (path / "_SUCCESS").touch()
        return path


def values_of(draw: st.DrawFn, rows: int) -> tuple[np.ndarray[Any, Any], Any]:
    """Draw a factor's values as numbers, and in the type that they are written in."""
    kind = draw(st.sampled_from(["float64", "float32", "int64", "bool", "boolean", "decimal"]))
    if kind == "decimal":
        digits = draw(st.lists(st.integers(-(10**22), 10**22), min_size=rows, max_size=rows))
        places = -draw(st.integers(0, 12))
        exact = [decimal.Decimal(number).scaleb(places, decimal.Context(prec=40)) for number in digits]
        return np.array([float(number) for number in exact]), pd.array(exact, dtype=object)
    if kind == "bool":
        drawn = draw(numpy_strategies.arrays(bool, rows))
        return drawn.astype("float64"), drawn
    if kind == "boolean":
        listed = draw(st.lists(st.sampled_from([True, False, None]), min_size=rows, max_size=rows))
        listed[0] = True
        return np.array([np.nan if one is None else float(one) for one in listed]), pd.array(
            listed, "boolean"
        )
    drawn = draw(numpy_strategies.arrays(kind, rows, elements=numbers(kind)))
    drawn[0] = 2
    return drawn, drawn


@st.composite
def forms(draw: st.DrawFn) -> Form:
    """Draw a set of 1 to 30 rows and 1 to 4 factors, and one of the forms that it may be written in."""
    rows = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=30, unique=True))
    names = draw(st.lists(st.sampled_from(["a", "动量", "x.y", "RESI5", "it's"]), min_size=1, unique=True))
    dates, codes = draw(st.sampled_from(sorted(DATES))), draw(st.sampled_from(sorted(CODES)))
    days = pd.Series([day for day, _ in rows])
    if dates in WITH_TIMES and draw(st.booleans()):
        days += pd.Timedelta(hours=15)
    instruments = pd.Series([code for _, code in rows])
    drawn = {name: values_of(draw, len(rows)) for name in names}
    index = pd.MultiIndex.from_arrays([days, instruments], names=["datetime", "instrument"])
    plain = pd.DataFrame({name: values for name, (values, _) in drawn.items()}, index=index)

    day, code = (draw(st.sampled_from(some)) for some in NAMES)
    frame = pd.DataFrame({name: values for name, (_, values) in drawn.items()})
    columns = draw(st.sampled_from(["flat", "nested", "pairs"]))
    if columns == "nested":
        frame = nested(frame)
    elif columns == "pairs":
        frame = frame.set_axis([str(("feature", name)) for name in names], axis=1)
    levels = {day: DATES[dates](days), code: CODES[codes](instruments)}
    placed = draw(st.sampled_from(["columns", day, code, "index", "swapped", "twice"]))
    order = [day, code] if placed != "swapped" else [code, day]
    doubled = [*order, draw(st.sampled_from(order))] if placed == "twice" else order
    frame.index = pd.MultiIndex.from_arrays([levels[name] for name in doubled], names=doubled)
    if placed in ("columns", day, code):
        frame = frame.reset_index([day, code] if placed == "columns" else [day if placed == code else code])
    table = pa.Table.from_pandas(frame)
    if placed != "twice" and draw(st.booleans()):
        table = table.replace_schema_metadata(None)
        place = next((at for at, name in enumerate(table.column_names) if name == code), None)
        if place is not None and codes == "text":
            kind = VIEWS[draw(st.sampled_from(sorted(VIEWS)))]
            table = table.set_column(place, code, table.column(place).cast(kind))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=2)))
    ends = [*cuts, len(rows)]
    return Form(plain, [table.slice(a, b - a) for a, b in zip([0, *cuts], ends, strict=True)])


@given(form=forms())
@settings(REPEATABLE, max_examples=60)
def test_every_form_is_the_same_set(form: Form) -> None:
    """Whatever the form, the store's file is to the byte that of pandas' plain frame."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, plain = form.written(folder), write(form.plain, folder, "plain.parquet")
        stored, expected = (kept([one], folder / "store").path for one in (path, plain))
        assert stored.read_bytes() == expected.read_bytes()
        footers = [parquet.read_footer(one) for one in (path, plain)]
        assert footers[0] == footers[1]
        assert parquet.count_instruments(path) == parquet.count_instruments(plain)


# --- what is said ---


def columns(**changed: Any) -> pd.DataFrame:
    """Return a frame with datetime and instrument as columns, and some of its columns otherwise."""
    return factor_frame().reset_index().assign(**changed)


def bare(frame: pd.DataFrame) -> pa.Table:
    """Return a table of a frame as other tools write it."""
    return pa.Table.from_pandas(frame, preserve_index=None).replace_schema_metadata(None)


def twice(other: Callable[[pd.Index], pd.Index] = lambda codes: codes) -> pd.DataFrame:
    """Return a frame whose index has instrument twice, the second time changed."""
    frame = factor_frame()
    days, codes = (frame.index.get_level_values(number) for number in (0, 1))
    names = ["instrument", "datetime", "instrument"]
    return frame.set_axis(pd.MultiIndex.from_arrays([codes, days, other(codes)], names=names))


BOTH = "datetime and instrument are columns"
DAYS = factor_frame().index.get_level_values("datetime")
UNDERSTOOD: dict[str, tuple[Callable[[], pd.DataFrame | pa.Table], str]] = {
    "as RD-Agent writes it": (lambda: nested(factor_frame()), ""),
    "flat": (factor_frame, ""),
    "swapped": (lambda: factor_frame().swaplevel(), ""),
    "reset_index": (columns, BOTH),
    "polars": (lambda: bare(columns()), BOTH),
    "polars, of RD-Agent's file": (
        lambda: bare(nested(factor_frame())),
        f"{BOTH}, names of columns are written as ('feature', 'momentum')",
    ),
    "DuckDB, dates": (
        lambda: bare(columns(datetime=DAYS.date)),
        f"{BOTH}, dates are days (date32[day])",
    ),
    "CSV": (lambda: columns(datetime=DAYS.strftime("%Y-%m-%d")), f"{BOTH}, dates are text"),
    "bytes": (
        lambda: columns(datetime=DAYS.strftime("%Y-%m-%d").map(str.encode), instrument=[b"SH600000"] * 12)[
            ::3
        ],
        f"{BOTH}, dates are text as binary, instruments are text as binary",
    ),
    "one column": (lambda: factor_frame().reset_index("instrument"), "instrument is a column"),
    "row numbers": (lambda: columns().sample(frac=1, random_state=1), f"{BOTH}, the row number is left out"),
    "nested and reset": (lambda: nested(factor_frame()).reset_index(), BOTH),
    "all nested": (lambda: nested(columns()), BOTH),
    "capitals": (
        lambda: factor_frame().rename_axis(["Datetime", "INSTRUMENT"]),
        "datetime is named Datetime, instrument is named INSTRUMENT",
    ),
    "date and code": (
        lambda: columns().rename(columns={"datetime": "date", "instrument": "code"}),
        f"{BOTH}, datetime is named date, instrument is named code",
    ),
    "a factor of a level's name, of RD-Agent's file": (
        lambda: bare(nested(factor_frame(["datetime", "x"]))),
        f"{BOTH}, names of columns are written as ('feature', 'datetime')",
    ),
    "a factor of a level's name, reset": (lambda: nested(factor_frame(["code", "x"])).reset_index(), BOTH),
    "a level that pandas names, and a column code": (lambda: factor_frame(["code", "DateTime"]), ""),
    "twice": (twice, "the level instrument stands there twice"),
    "twice, by groupby and rolling": (
        lambda: factor_frame().groupby(level="instrument").rolling(2).mean(),
        "the level instrument stands there twice",
    ),
    "booleans": (
        lambda: factor_frame().assign(up=[True, False] * 6, b=pd.array([None, True] * 6, "boolean")),
        "booleans are 0 and 1 (up; b)",
    ),
    "decimals": (
        lambda: factor_frame().assign(**{name: [decimal.Decimal("0.10")] * 12 for name in "abcd"}),
        "decimals are floats (a; b; c; …)",
    ),
}


def put(made: pd.DataFrame | pa.Table, folder: Path) -> Path:
    """Write a frame as pandas does, or a table as it is."""
    return write(made, folder) if isinstance(made, pd.DataFrame) else write_table(made, folder)


@pytest.mark.parametrize("what", UNDERSTOOD)
def test_what_is_understood(tmp_path: Path, what: str) -> None:
    """One line says how a file is read, where it is not as RD-Agent writes it."""
    made, expected = UNDERSTOOD[what]
    path = put(made(), tmp_path)
    with parquet.opened(path) as file:
        assert file.understood == expected
    examine(path)


def test_names_that_only_look_like_pairs_stay(tmp_path: Path) -> None:
    """A text such as ('feature', 'x') is a name beside one that is none, under a group, and unfinished."""
    for names in (
        ["('feature', 'x')", "y"],
        ["('label', 'x')"],
        ["('feature', 'x'"],
        ["('feature', 'x', 1)"],
    ):
        assert examine(write(factor_frame(names), tmp_path)).columns == tuple(names)
        assert examine(write(nested(factor_frame(names)), tmp_path)).columns == tuple(names)
    deep = "('" + "(" * 100_000
    assert examine(write(factor_frame([deep]), tmp_path)).columns == (deep,)


# --- what is refused, and the line of code that mends it ---

REFUSED: dict[str, tuple[Callable[[], pd.DataFrame], list[tuple[Any, ...]]]] = {
    "two columns": (
        lambda: columns(date="2020-01-02"),
        [(Reason.DOUBTFUL_LEVEL, "datetime", ("the column datetime", "the column date"))],
    ),
    "a level and a column": (
        lambda: factor_frame(["code", "b"]).rename_axis(["datetime", "Instrument"]),
        [(Reason.DOUBTFUL_LEVEL, "instrument", ("the level Instrument", "the column code"))],
    ),
    "two levels": (
        lambda: (
            factor_frame()
            .assign(date=1)
            .set_index("date", append=True)
            .rename_axis(index={"datetime": "Date"})
        ),
        [(Reason.DOUBTFUL_LEVEL, "datetime", ("the level Date", "the level date"))],
    ),
    "two levels that differ": (
        lambda: twice(lambda codes: codes[::-1]),
        [(Reason.DOUBTFUL_LEVEL, "instrument", ("two levels that differ",))],
    ),
    "other names": (
        lambda: columns().rename(columns={"datetime": "trade_date", "instrument": "symbol"}),
        [(Reason.NO_LEVEL, "datetime", None), (Reason.NO_LEVEL, "instrument", None)],
    ),
    "other names of levels": (
        lambda: factor_frame().rename_axis(["day", "ticker"]),
        [(Reason.NO_LEVEL, "datetime", None), (Reason.NO_LEVEL, "instrument", None)],
    ),
    "no names": (
        lambda: factor_frame().rename_axis([None, None]),
        [(Reason.NO_LEVEL, "datetime", None), (Reason.NO_LEVEL, "instrument", None)],
    ),
    "integers": (
        lambda: columns(datetime=DAYS.strftime("%Y%m%d").astype(int)),
        [(Reason.NOT_DATES, "datetime", ("20200102", "20200102"))],
    ),
    "integers in a level named otherwise": (
        lambda: with_level(factor_frame(), "datetime", DAYS.strftime("%Y%m%d").astype(int)).rename_axis(
            index={"datetime": "Date"}
        ),
        [(Reason.NOT_DATES, "datetime", ("20200102", "20200102"))],
    ),
    "nanoseconds": (
        lambda: columns(datetime=DAYS.astype("int64")),
        [(Reason.NOT_DATES, "datetime", ("1577923200000000000",) * 2)],
    ),
    "days since 1970": (
        lambda: columns(datetime=DAYS.astype("int64") // 86_400_000_000_000),
        [(Reason.NOT_DATES, "datetime", ("18263", "18263"))],
    ),
    "digits": (
        lambda: columns(datetime=DAYS.strftime("%Y%m%d")),
        [(Reason.NOT_DATES, "datetime", ("'20200102'", "'20200103'"))],
    ),
    "slashes": (
        lambda: columns(datetime=DAYS.strftime("%Y/%m/%d")),
        [(Reason.NOT_DATES, "datetime", ("'2020/01/02'", "'2020/01/03'"))],
    ),
    "rows twice": (
        lambda: pd.concat([columns(), columns().iloc[:1]], ignore_index=True),
        [(Reason.DUPLICATE_ROW, None, None)],
    ),
    "rows twice, one level": (
        lambda: pd.concat([factor_frame(), factor_frame().iloc[:1]]).reset_index("instrument"),
        [(Reason.DUPLICATE_ROW, None, None)],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_line_of_code_mends_it(tmp_path: Path, what: str) -> None:
    """What is not clear is refused, and the code of the fix makes a set of it with all its rows."""
    frame, expected = REFUSED[what]
    path = write(frame(), tmp_path)
    failures = failures_of(path)
    for failure, (reason, column, examples) in zip(failures, expected, strict=True):
        assert (failure.reason, failure.column) == (reason, column)
        assert examples is None or failure.examples == examples
    names = {"df": pd.read_parquet(path), "pd": pd}
    for failure in failures:
        code = failure.fix[failure.fix.index("df") :]
        exec(code if " = " in code.partition("(")[0] else f"df = {code}", names)
    mended = write(names["df"], tmp_path, "mended.parquet")
    found = examine(mended)
    assert (found.rows, set(found.dates)) == (12, set(DAYS))


@pytest.mark.parametrize("value", [["a"], {"a": 1}, datetime.timedelta(1), b"\xff"], ids=str)
@pytest.mark.parametrize("level", ["datetime", "instrument"])
def test_columns_of_other_types(tmp_path: Path, level: str, value: object) -> None:
    """A column with a level's name and anything in it is one message."""
    path = write(columns(**{level: [value] * 12}), tmp_path)
    reason = Reason.NOT_DATES if level == "datetime" else Reason.NOT_TEXT
    assert [(one.reason, one.column) for one in failures_of(path)] == [(reason, level)]


def test_a_description_of_other_columns(tmp_path: Path) -> None:
    """A program that took a level away, or doubled one, leaves what pandas wrote of it: one message each."""
    table = pa.Table.from_pandas(factor_frame())
    lacking = write_table(table.drop_columns(["instrument"]), tmp_path)
    assert [failure.reason for failure in failures_of(lacking)] == [Reason.NO_LEVEL]
    doubled = write_table(table.append_column("datetime", table["datetime"]), tmp_path)
    assert [failure.reason for failure in failures_of(doubled)] == [Reason.DOUBTFUL_LEVEL]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Dates in bytes that can't be decoded are no dates, and the file is whole."""
    path = write(columns(datetime=[b"\xff\xfe"] * 12), tmp_path)
    parquet.read_footer(path)
    assert [failure.reason for failure in failures_of(path)] == [Reason.NOT_DATES]


def test_a_doubled_level_of_another_unit(tmp_path: Path) -> None:
    """The same moments in another unit are the same level."""
    frame = factor_frame()
    days, codes = (frame.index.get_level_values(number) for number in (0, 1))
    names = ["datetime", "datetime", "instrument"]
    index = pd.MultiIndex.from_arrays([days, days.astype("datetime64[us]"), codes], names=names)
    assert examine(write(frame.set_axis(index), tmp_path)).rows == 12
