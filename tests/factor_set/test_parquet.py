"""One factor file: what is accepted, what is refused and why, and that exactly its values are loaded."""

from __future__ import annotations

import datetime
import hashlib
import os
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

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, SetChangedError
from rdagent_sota_bridge.factor_set import panel, parquet
from tests.frames import (
    INSTRUMENTS,
    assert_survives_pickling,
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

DAYS = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"])


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes, by another way than the package's."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def make_old(path: Path) -> os.stat_result:
    """Set a file's time back by an hour: a digest of a file so old is kept. Return its state."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))
    return path.stat()


def assert_loads_exactly(path: Path, flat: pd.DataFrame) -> None:
    """Fail unless `examine` describes, and `load` gives, exactly the rows and values of the flat frame."""
    found = examine(path)
    assert (found.path, found.digest, found.rows) == (path, sha256(path), len(flat))
    assert found.columns == tuple(str(name) for name in flat.columns)
    assert found.instruments == tuple(sorted(set(flat.index.get_level_values("instrument"))))
    days = pd.DatetimeIndex(sorted(set(flat.index.get_level_values("datetime"))))
    pd.testing.assert_index_equal(found.dates, days.as_unit("ns"), check_names=False)
    loaded = pd.concat({name: panel.load(path, found.digest, name) for name in found.columns}, axis=1)
    expected = flat.set_axis([str(name) for name in flat], axis=1).sort_index()
    pd.testing.assert_frame_equal(loaded, expected, check_exact=True, check_freq=False)
    assert loaded.index.names == ["datetime", "instrument"]
    assert loaded.index.levels[0].dtype == np.dtype("datetime64[ns]")


def with_gaps() -> pd.DataFrame:
    """Return a frame without some rows and with some values missing."""
    frame = factor_frame()
    frame = frame.drop(frame.index[[1, 7]])
    frame.iloc[3, 0] = np.nan
    frame.iloc[5:, 1] = np.nan
    return frame


def one_value() -> pd.DataFrame:
    """Return a frame with a column of a single value: how many are needed is the researcher's question."""
    frame = factor_frame()
    frame.iloc[1:, 0] = np.nan
    return frame


def with_types() -> pd.DataFrame:
    """Return a frame with a column of each numeric type."""
    column = factor_frame().iloc[:, 0].abs()
    types = ("float32", "float64", "int8", "int32", "int64", "uint16")
    return pd.concat([column.astype(name).rename(name) for name in types], axis=1)


GOOD: dict[str, Callable[[], pd.DataFrame]] = {
    "plain": factor_frame,
    "names not sorted": lambda: factor_frame(["z", "a", "m"]),
    "one column": lambda: factor_frame(["only"]),
    "one row": lambda: factor_frame().iloc[[4]],
    "many columns": lambda: factor_frame([f"factor_{number}" for number in range(60)]),
    "float32": lambda: factor_frame(dtype="float32"),
    "int64": lambda: factor_frame(dtype="int64"),
    "types mixed": with_types,
    "unsorted": lambda: factor_frame().sample(frac=1, random_state=3),
    "by instrument": lambda: factor_frame().sort_values("instrument", kind="stable"),
    "gaps": with_gaps,
    "one value": one_value,
    "non-ASCII names": lambda: factor_frame(["动量_5日", "Volatilität", "α", "😀", "with blank", "'\"\\"]),
    "names with dots": lambda: factor_frame(["ret_0.5", "a", "a.b", "a.b.c", "."]),
    "names of the levels": lambda: factor_frame(["datetime", "instrument", "feature"]),
    "times of day": lambda: factor_frame(days=DAYS + pd.Timedelta(hours=15)),
    "before 1970": lambda: factor_frame(days=["1969-12-30", "1969-12-31"]),
    "non-ASCII instruments": lambda: factor_frame(instruments=["上海", "深圳"]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_layouts_load_exactly(tmp_path: Path, kind: str) -> None:
    """Flat columns, columns nested under `feature`, and swapped levels give every value, type and row."""
    frame = GOOD[kind]()
    for written in (frame, nested(frame), nested(frame.swaplevel())):
        assert_loads_exactly(write(written, tmp_path), frame)


def instruments(values: Callable[[pd.Index], Any]) -> Callable[[Path], Path]:
    """Return a writer of a file whose instrument level is made otherwise."""

    def writer(folder: Path) -> Path:
        frame = factor_frame()
        return write(with_level(frame, "instrument", values(frame.index.get_level_values(1))), folder)

    return writer


def categories(*names: str) -> Callable[[Path], Path]:
    """Return a writer of a file whose instruments are categories in that order."""
    return instruments(lambda codes: pd.Categorical(codes, categories=list(names)))


def dates(unit: str) -> Callable[[Path], Path]:
    """Return a writer of a file whose dates have another unit."""
    frame = factor_frame()
    days = pd.DatetimeIndex(frame.index.get_level_values(0)).as_unit(unit)
    return lambda folder: write(with_level(frame, "datetime", days), folder)


def column_levels(*names: str | None) -> Callable[[Path], Path]:
    """Return a writer of a file whose column levels have names."""
    return lambda folder: write(nested(factor_frame()).rename_axis(columns=names), folder)


def by_pandas(**options: Any) -> Callable[[Path], Path]:
    """Return a writer with options of pandas'."""

    def writer(folder: Path) -> Path:
        factor_frame().to_parquet(folder / "set.parquet", **options)
        return folder / "set.parquet"

    return writer


def row_groups(folder: Path) -> Path:
    """Write row groups that have a dictionary of their own each."""
    path = categories(*INSTRUMENTS)(folder)
    pd.read_parquet(path).sort_values("instrument", kind="stable").to_parquet(path, row_group_size=2)
    assert pq.read_metadata(path).num_row_groups == 6
    return path


WAYS = {
    "categories": instruments(lambda codes: codes.astype("category")),
    "strings": instruments(lambda codes: codes.astype("string")),
    "categories in another order": categories(*INSTRUMENTS[::-1]),
    "a category without a row": categories("AA000000", *INSTRUMENTS),
    **{f"dates in {unit}": dates(unit) for unit in ("s", "ms", "us")},
    "named column levels": column_levels("group", "factor"),
    "a named column level": column_levels(None, "factor"),
    "column levels named like the rows'": column_levels("datetime", "instrument"),
    **{f"compression {name}": by_pandas(compression=name) for name in (None, "gzip", "zstd", "brotli")},
    "row groups": by_pandas(row_group_size=2),
    "row groups of categories": row_groups,
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_one_set(tmp_path: Path, way: str) -> None:
    """However pandas stores levels, names and pages, it is the same set."""
    assert_loads_exactly(WAYS[way](tmp_path), factor_frame())


def test_numbers_as_names_become_text(tmp_path: Path) -> None:
    """Columns named by numbers get the text of the numbers as names."""
    frame = factor_frame([1, 2])  # type: ignore[list-item]
    assert_loads_exactly(write(frame, tmp_path), frame.set_axis(["1", "2"], axis=1))


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "float64[pyarrow]"])
def test_nullable_columns_load_as_plain_numbers(tmp_path: Path, dtype: str) -> None:
    """Columns of pandas' extension types come back as NumPy's, with NaN for what is missing."""
    frame = factor_frame(dtype="int64" if dtype == "Int64" else "float64").astype(dtype)
    frame.iloc[2, 1] = pd.NA
    path = write(frame, tmp_path)
    for name in frame:
        loaded = panel.load(path, sha256(path), name)
        assert isinstance(loaded.dtype, np.dtype)
        np.testing.assert_array_equal(loaded, frame[name].astype("float64"))


# --- digest ---


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The digest is SHA-256 of all bytes, whatever the file's name and size."""
    one, two = (write(factor_frame(), tmp_path, f"{name}.parquet") for name in ("one", "two"))
    assert examine(one).digest == sha256(one) == parquet.current_digest(one) == parquet.current_digest(two)
    one.write_bytes(np.random.default_rng(5).bytes((1 << 22) * 2 + 17))  # several blocks
    assert parquet.current_digest(one) == sha256(one)


@pytest.mark.parametrize("how", ["just written", "old", "same time", "replaced, same time"])
def test_a_rewrite_of_the_same_size_is_seen(tmp_path: Path, how: str) -> None:
    """Other bytes of one length change the digest at once, even under the old time, as `cp -p` leaves it."""
    path, other = tmp_path / "set.bin", tmp_path / "other.bin"
    path.write_bytes(b"a" * 1000)
    status = path.stat() if how == "just written" else make_old(path)
    assert parquet.current_digest(path) == sha256(path)
    for letter in (b"b", b"c"):
        target = other if how.startswith("replaced") else path
        target.write_bytes(letter * 1000)
        if how.endswith("same time"):
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        target.replace(path)
        assert parquet.current_digest(path) == "sha256:" + hashlib.sha256(letter * 1000).hexdigest()


def test_touch_keeps_the_digest(tmp_path: Path) -> None:
    """A new time without new content keeps the digest, and the set loads."""
    path = write(factor_frame(), tmp_path)
    make_old(path)
    digest = examine(path).digest
    path.touch()
    assert parquet.current_digest(path) == digest
    assert len(panel.load(path, digest, "momentum")) == 12


def test_an_unchanged_old_file_is_not_read_again(tmp_path: Path) -> None:
    """A loop that asks for the digest of a known file moves no gigabytes: the process reads nothing."""
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 5_000_000)
    make_old(path)

    def bytes_read() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    counts = [bytes_read()]
    for _ in range(2):
        assert parquet.current_digest(path).startswith("sha256:")
        counts.append(bytes_read())
    assert counts[1] - counts[0] >= 5_000_000 > 100_000 > counts[2] - counts[1]


def test_a_set_that_changed_is_not_loaded(tmp_path: Path) -> None:
    """A set with other values than it was examined with is not loaded; the error has both digests."""
    path = write(factor_frame(), tmp_path)
    began = examine(path).digest
    write(factor_frame(seed=8), tmp_path)
    with pytest.raises(SetChangedError) as caught:
        panel.load(path, began, "momentum")
    assert caught.value.fact == (
        "The factor set is not the one that this run began with: "
        f"it began with {began}, the file now has {sha256(path)}"
    )
    assert caught.value.place == str(path)
    assert_survives_pickling(caught.value)
    path.unlink()
    for ask in (lambda: panel.load(path, began, "momentum"), lambda: parquet.current_digest(path)):
        with pytest.raises(FactorFileError, match="the file can't be read"):
            ask()


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """Columns read from before and after a write would be mixed: the file is refused."""
    path = write(factor_frame(), tmp_path)
    with pytest.raises(FactorFileError) as caught, parquet.opened(path):
        path.write_bytes(path.read_bytes() + b"more")
    assert [failure.reason for failure in caught.value.failures] == [Reason.CHANGED]


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
ZONE_FIX = "take the zone off: index.tz_localize(None), in the market's local time"
EMPTY_FIX = "leave it out, or mine it again"
FAR = pd.DatetimeIndex(np.array(["2719-01-02", "2719-01-03"], "datetime64[s]"))

REFUSED: dict[str, tuple[Callable[[], pd.DataFrame], list[Failure | tuple[Any, ...]]]] = {
    "no rows": (lambda: nested(factor_frame().iloc[:0]), [(Reason.NO_ROWS, None, 0)]),
    "no columns": (lambda: factor_frame([]), [(Reason.NO_COLUMNS, None, 0)]),
    "datetime is nowhere": (
        lambda: factor_frame().droplevel("datetime"),
        no_level(NAME_LEVEL, "levels ['instrument']", "datetime"),
    ),
    "levels without names": (
        lambda: factor_frame().rename_axis([None, None]),
        no_level(NAME_LEVEL, "levels [None, None]", "datetime", "instrument"),
    ),
    "no levels": (
        lambda: factor_frame().reset_index(drop=True),
        no_level(NAME_COLUMN, "no named levels", "datetime", "instrument"),
    ),
    "a third level": (
        lambda: factor_frame().assign(horizon=list("abcdefghijkl")).set_index("horizon", append=True),
        [(Reason.LAYOUT, None, None, ("horizon",))],
    ),
    "dates as digits": (
        lambda: days_as(lambda days: days.strftime("%Y%m%d")),
        not_dates(".astype(str), format='%Y%m%d'", "'20200102'", "'20200103'"),
    ),
    "one text that is no date": (
        lambda: days_as(lambda days: ["2020-01-32", *days.strftime("%Y-%m-%d")[1:]]),
        not_dates("", "'2020-01-32'"),
    ),
    "dates as numbers": (
        lambda: days_as(lambda days: [int(day.strftime("%Y%m%d")) for day in days]),
        not_dates(".astype(str), format='%Y%m%d'", "20200102", "20200102"),
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
    "rows twice": (
        lambda: repeated(5, 1, 5),
        [Failure(Reason.DUPLICATE_ROW, ONE_ROW, None, 3, (ROW(3, "SZ000001"), ROW(2, "SH600004")))],
    ),
    "rows twice, swapped levels": (
        lambda: repeated(5, 1, 5).swaplevel(),
        [(Reason.DUPLICATE_ROW, None, 3, (ROW(3, "SZ000001"), ROW(2, "SH600004")))],
    ),
    **{
        f"a column of {name}": (
            lambda values=values: nested(factor_frame().assign(label=values)),  # type: ignore[misc]
            [Failure(Reason.NOT_NUMERIC, NUMBERS_FIX, "label", 12, examples)],
        )
        for name, values, examples in (
            ("text", ["low", "high"] * 6, ("'low'", "'high'")),
            ("None", [None] * 12, ("None", "None")),
            ("dates", [datetime.date(2020, 1, 2)] * 12, (DATE, DATE)),
            ("lists", [["a"], ["b"]] * 6, ("['a']", "['b']")),
        )
    },
    "a column of NaN": (
        lambda: nested(factor_frame().assign(空=np.nan)),
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
