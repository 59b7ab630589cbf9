"""One factor file: what is refused, and why."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason
from tests.frames import (
    examine,
    factor_frame,
    failures_of,
    nested,
    only_failure,
    public_folder,
    with_level,
    without_privileges,
    write,
    write_table,
)

# --- files that can't be read ---


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("missing", "No such file or directory"),
        ("closed", "Permission denied"),
    ],
)
def test_unreadable_file(what: str, example: str) -> None:
    """A file that is not there, or is closed to the user is refused for the system's reason."""
    with public_folder() as folder:
        path = folder / "set.parquet"
        if what == "closed":
            write(factor_frame(), folder, "set.parquet").chmod(0o000)
        with without_privileges():
            failure = only_failure(path)
    assert (failure.reason, failure.examples) == (Reason.UNREADABLE, (example,))


@pytest.mark.parametrize(
    "content",
    [b"", b"datetime,instrument,a\n2020-01-02,SH600000,1\n", b"PK\x03\x04rest", b"\x80\x05.", b"par1" * 10],
    ids=["empty", "CSV", "zip", "pickle", "nearly"],
)
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    """Another format, and an empty file, are not parquet; the first bytes show what it is."""
    path = tmp_path / "combined_factors_df.parquet"
    path.write_bytes(content)
    failure = only_failure(path)
    assert failure.reason is Reason.NOT_PARQUET
    assert failure.examples == (f"its first bytes {content[:4]!r}",)


def test_a_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    """A copy that was cut off, after however many bytes, is damaged and nothing else."""
    whole = write(nested(factor_frame()), tmp_path).read_bytes()
    path = tmp_path / "cut.parquet"
    for length in [4, 5, 8, 12, *range(20, len(whole), 151), len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:length])
        failure = only_failure(path)
        assert failure.reason is Reason.DAMAGED, length
        assert failure.fix.startswith("copy the file anew"), length


@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("position", range(4), ids=["momentum", "turnover", "datetime", "instrument"])
def test_a_damaged_page_names_the_column(tmp_path: Path, position: int, is_nested: bool) -> None:
    """Bytes overwritten inside one column are found when it is read, and it is named as the user knows it."""
    path = write(nested(factor_frame()) if is_nested else factor_frame(), tmp_path)
    offset = pq.read_metadata(path).row_group(0).column(position).data_page_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    column = ("momentum", "turnover", "datetime", "instrument")[position]
    failure = only_failure(path)
    assert (failure.reason, failure.column, failure.fix) == (Reason.DAMAGED, column, "copy the file anew")


@pytest.mark.parametrize("compression", ["snappy", None])
def test_no_flipped_byte_breaks_the_contract(tmp_path: Path, compression: str | None) -> None:
    """Whatever byte is wrong, `examine` and `load` give a set or a FactorFileError, and no other error.

    In a process of its own, with one thread: it calls Arrow thousands of times on broken files.
    """
    factor_frame().to_parquet(tmp_path / "good.parquet", compression=compression)
    code = (
        "import pathlib, sys, warnings; warnings.simplefilter('ignore')\n"
        "from rdagent_sota_bridge import errors\n"
        "from rdagent_sota_bridge.factor_set import panel\n"
        "folder = pathlib.Path(sys.argv[1]); good = (folder / 'good.parquet').read_bytes()\n"
        "path = folder / 'bad.parquet'; escaped = {}\n"
        "for place in range(0, len(good), 7):\n"
        "    bad = bytearray(good); bad[place] = 255 if good[place] != 255 else 0; path.write_bytes(bad)\n"
        "    try:\n"
        "        found = panel.examine((path,)); panel.load(path, found.digest, found.columns[0])\n"
        "    except errors.FactorFileError:\n"
        "        pass\n"
        "    except Exception as error:\n"
        "        escaped.setdefault(type(error).__name__, []).append(place)\n"
        "print(escaped)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stdout + done.stderr


# --- files with another content ---

NAME_COLUMN = "name it {0}: df = df.rename(columns={{'…': '{0}'}})"
NAME_LEVEL = "name a level of the index {}: df.index.names = ['datetime', 'instrument']"
ROW = "(2020-01-0{} 00:00:00, {})".format


def no_level(fix: str, has: str, *names: str) -> list[Failure]:
    """Return the failures of a file that lacks levels."""
    return [
        Failure(Reason.NO_LEVEL, fix.format(name), name, examples=(f"an index with {has}",)) for name in names
    ]


def days_as(change: Callable[[pd.DatetimeIndex], Any]) -> pd.DataFrame:
    """Return a frame whose dates are something else."""
    frame = factor_frame()
    return with_level(frame, "datetime", change(pd.DatetimeIndex(frame.index.get_level_values(0))))


def codes_as(change: Callable[[list[str]], Any]) -> pd.DataFrame:
    """Return a frame whose instruments are something else."""
    frame = factor_frame()
    return with_level(frame, "instrument", change(list(frame.index.get_level_values(1))))


def not_dates(code: str, *examples: str) -> list[Failure]:
    """Return the failure of a level that holds no dates."""
    fix = f"convert them: df = df.reset_index(); df['datetime'] = pd.to_datetime(df['datetime']{code})"
    return [Failure(Reason.NOT_DATES, fix, "datetime", 12, examples)]


def repeated(*rows: int) -> pd.DataFrame:
    """Return a frame in which rows stand again, with other values."""
    return pd.concat([factor_frame(), factor_frame().iloc[list(rows)] + 1])


def infinite(*cells: tuple[int, float], dtype: str = "float64") -> pd.DataFrame:
    """Return a frame with such values in its second column."""
    frame = factor_frame(dtype=dtype)
    for row, value in cells:
        frame.iloc[row, 1] = value
    return frame


def columns(*names: tuple[str, ...]) -> pd.DataFrame:
    """Return a frame with such column levels."""
    return factor_frame().set_axis(pd.MultiIndex.from_tuples(names), axis=1)


def everything_wrong() -> pd.DataFrame:
    """Return a frame with faults of rows and columns."""
    frame = factor_frame(["good", "infinite", "empty"]).assign(text="x")
    frame.iloc[2, 1] = np.inf
    frame["empty"] = np.nan
    return nested(pd.concat([frame, frame.iloc[[0]]]))


def bad_levels_and_columns() -> pd.DataFrame:
    """Return a frame without usable keys, and with faults in its columns."""
    frame = factor_frame(["infinite", "empty"])
    frame.iloc[[3, 8], 0] = np.inf
    frame["empty"] = np.nan
    return with_level(with_level(frame, "datetime", ["2020/01/02"] * 12), "instrument", list(range(12)))


INFINITE_FIX = "replace them: df.replace([np.inf, -np.inf], np.nan)"
DATE = repr(datetime.date(2020, 1, 2))
GROUPS = "keep flat columns, or two levels of which the first is 'feature' throughout"
CODES_FIX = "write codes as the market does, such as SH600000"
NUMBERS_FIX = "convert it to numbers, or leave it out"
ONE_ROW = "keep one row of each: df[~df.index.duplicated()]"
ZONE_FIX = (
    "df = (df.reset_index() if 'datetime' in df.index.names else df).assign(**{'datetime': lambda d: "
    "pd.to_datetime(d['datetime']).dt.tz_convert('Asia/Shanghai').dt.tz_localize(None)})"
)
EMPTY_FIX = "leave it out, or mine it again"
FAR = pd.DatetimeIndex(np.array(["2719-01-02", "2719-01-03"], "datetime64[s]"))

REFUSED: dict[str, tuple[Callable[[], pd.DataFrame], list[Failure | tuple[Any, ...]]]] = {
    "datetime is nowhere": (
        lambda: factor_frame().droplevel("datetime"),
        no_level(NAME_LEVEL, "levels ['instrument']", "datetime"),
    ),
    "no levels": (
        lambda: factor_frame().reset_index(drop=True),
        no_level(NAME_COLUMN, "no named levels", "datetime", "instrument"),
    ),
    "a third level": (
        lambda: factor_frame().assign(horizon=list("abcdefghijkl")).set_index("horizon", append=True),
        [(Reason.LAYOUT, None, None, ("horizon",))],
    ),
    "one text that is no date": (
        lambda: days_as(lambda days: ["2020-01-32", *days.strftime("%Y-%m-%d")[1:]]),
        not_dates("", "'2020-01-32'"),
    ),
    "dates as seconds": (
        lambda: days_as(lambda days: days.astype("int64") // 10**9),
        not_dates(", unit='s'", "1577923200", "1577923200"),
    ),
    "dates beyond nanoseconds": (lambda: factor_frame(days=FAR), [(Reason.NOT_DATES, "datetime")]),
    "a time zone": (
        lambda: days_as(lambda days: days.tz_localize("Asia/Shanghai")),
        [Failure(Reason.TIME_ZONE, ZONE_FIX, "datetime", 12, ("zone Asia/Shanghai",))],
    ),
    "instruments as numbers": (
        lambda: factor_frame(instruments=[600000, 1]),  # type: ignore[list-item]
        [Failure(Reason.NOT_TEXT, CODES_FIX, "instrument", 8, ("600000", "1"))],
    ),
    "categories of numbers": (
        lambda: codes_as(lambda codes: pd.Categorical([600000, 600004, 1] * 4)),
        [(Reason.NOT_TEXT, "instrument", 12)],
    ),
    "no instrument": (
        lambda: codes_as(lambda codes: [None, None, *codes[2:]]),
        [Failure(Reason.NULL_INDEX, "drop those rows", "instrument", 2)],
    ),
    "no category": (
        lambda: codes_as(lambda codes: pd.Categorical([None, None, *codes[2:]])),
        [(Reason.NULL_INDEX, "instrument", 2)],
    ),
    "no date": (
        lambda: days_as(lambda days: [pd.NaT, *days[1:]]),
        [Failure(Reason.NULL_INDEX, "drop those rows", "datetime", 1)],
    ),
    "a zone and no date": (
        lambda: days_as(lambda days: pd.DatetimeIndex([pd.NaT, *days[1:]]).tz_localize("UTC")),
        [(Reason.TIME_ZONE, "datetime", 12), (Reason.NULL_INDEX, "datetime", 1)],
    ),
    "rows twice, swapped levels": (
        lambda: repeated(5, 1, 5).swaplevel(),
        [Failure(Reason.DUPLICATE_ROW, ONE_ROW, None, 3, (ROW(3, "SZ000001"), ROW(2, "SH600004")))],
    ),
    **{
        f"a column of {name}": (
            lambda values=values: nested(factor_frame().assign(label=values)),  # type: ignore[misc]
            [Failure(Reason.NOT_NUMERIC, NUMBERS_FIX, "label", 12, examples)],
        )
        for name, values, examples in (
            ("text", ["low", "high"] * 6, ("'low'", "'high'")),
            ("dates", [datetime.date(2020, 1, 2)] * 12, (DATE, DATE)),
            ("lists", [["a"], ["b"]] * 6, ("['a']", "['b']")),
        )
    },
    "a column of None": (
        lambda: nested(factor_frame().assign(空=None)),
        [Failure(Reason.ALL_NAN, EMPTY_FIX, "空", 12)],
    ),
    "infinite values": (
        lambda: infinite((4, np.inf), (9, np.inf), (7, -np.inf)),
        [Failure(Reason.INFINITE, INFINITE_FIX, "turnover", 3, (ROW(3, "SH600004"), ROW(6, "SH600004")))],
    ),
    "one infinite value among NaN": (
        lambda: infinite(*((row, np.nan) for row in range(12)), (3, -np.inf)),
        [(Reason.INFINITE, "turnover", 1)],
    ),
    "infinite values of float32": (
        lambda: infinite((0, np.inf), dtype="float32"),
        [(Reason.INFINITE, "turnover", 1, (ROW(2, "SH600000"),))],
    ),
    "names that are one as text": (
        lambda: factor_frame([1, "1"]),  # type: ignore[list-item]
        [(Reason.DUPLICATE_NAME, "1", 2)],
    ),
    **{
        f"columns under {found}": (
            lambda names=names: columns(*names),  # type: ignore[misc]
            [Failure(Reason.LAYOUT, GROUPS, examples=(found,))],
        )
        for names, found in (
            ([("label", "a"), ("label", "b")], "2 column levels, the first with label"),
            ([("feature", "a"), ("label", "b")], "2 column levels, the first with feature, label"),
            ([("feature", "a", "x"), ("feature", "b", "x")], "3 column levels, the first with feature"),
            ([("Feature", "a"), ("Feature", "b")], "2 column levels, the first with Feature"),
        )
    },
    "everything": (
        everything_wrong,
        [
            (Reason.DUPLICATE_ROW, None, 1),
            (Reason.INFINITE, "infinite", 1),
            (Reason.ALL_NAN, "empty", 13),
            (Reason.NOT_NUMERIC, "text", 13),
        ],
    ),
    "bad levels do not hide bad columns": (
        bad_levels_and_columns,
        [
            (Reason.NOT_DATES, "datetime"),
            (Reason.NOT_TEXT, "instrument"),
            (Reason.INFINITE, "infinite", 2, ("row 3", "row 8")),
            (Reason.ALL_NAN, "empty"),
        ],
    ),
}


@pytest.mark.filterwarnings("ignore:The DataFrame has column names of mixed type")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path: Path, what: str) -> None:
    """All that is wrong stands in one error, in the file's order: reason, column, count, examples and fix."""
    frame, expected = REFUSED[what]
    path = write(frame(), tmp_path)
    found = failures_of(path)
    for failure, wanted in zip(found, expected, strict=True):
        fields = (failure.reason, failure.column, failure.count, failure.examples)
        assert failure == wanted if isinstance(wanted, Failure) else fields[: len(wanted)] == wanted
    with pytest.raises(FactorFileError) as caught:
        examine(path)
    assert str(caught.value).splitlines() == [
        f"The factor file can't be used for training: {path}",
        *(f"  - {failure}" for failure in found),
    ]


@pytest.mark.parametrize("is_nested", [False, True], ids=["flat", "nested"])
def test_a_column_name_twice(tmp_path: Path, is_nested: bool) -> None:
    """A name that stands there twice is refused; which column was meant is not known."""
    frame = factor_frame(["a", "b", "c"])
    table = pa.Table.from_pandas(nested(frame) if is_nested else frame)
    first, _, *rest = table.column_names
    metadata = table.schema.metadata
    table = table.rename_columns([first, first, *rest]).replace_schema_metadata(metadata)
    failure = only_failure(write_table(table, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.DUPLICATE_NAME, "a", 2)
