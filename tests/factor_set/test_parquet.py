"""One factor file: what is accepted, what is refused and why, and that `load` gives exactly its values."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def make_old(path: Path) -> None:
    """Set a file's time back by an hour: a digest of a file so old is remembered."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))


def loaded_whole(path: Path) -> pd.DataFrame:
    """Return all factors of a file, each loaded by itself."""
    found = examine(path)
    return pd.concat({column: panel.load(path, found.digest, column) for column in found.columns}, axis=1)


def assert_loads_exactly(path: Path, flat: pd.DataFrame) -> None:
    """Fail unless `examine` describes, and `load` gives, exactly the rows and values of the flat frame."""
    found = examine(path)
    assert found.path == path
    assert found.digest == sha256(path)
    assert found.rows == len(flat)
    assert found.columns == tuple(str(name) for name in flat.columns)
    assert found.instruments == tuple(sorted(set(flat.index.get_level_values("instrument"))))
    days = pd.DatetimeIndex(sorted(set(flat.index.get_level_values("datetime"))))
    pd.testing.assert_index_equal(found.dates, days.as_unit("ns"), check_names=False)
    loaded = loaded_whole(path)
    pd.testing.assert_frame_equal(
        loaded, flat.set_axis([str(name) for name in flat], axis=1), check_exact=True, check_freq=False
    )
    assert loaded.index.names == ["datetime", "instrument"]
    assert loaded.index.levels[0].dtype == np.dtype("datetime64[ns]")


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without some rows and with some values missing."""
    frame = frame.drop(frame.index[[1, 7]])
    frame.iloc[3, 0] = np.nan
    frame.iloc[5:, 1] = np.nan
    return frame


def with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a column of each numeric type."""
    types = ("float32", "float64", "int8", "int32", "int64", "uint16")
    return pd.concat([frame.iloc[:, 0].abs().astype(name).rename(name) for name in types], axis=1)


GOOD_FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    "plain": factor_frame,
    "one column": lambda: factor_frame(["only"]),
    "one row": lambda: factor_frame().iloc[[4]],
    "many columns": lambda: factor_frame([f"factor_{number}" for number in range(60)]),
    "float32": lambda: factor_frame(dtype="float32"),
    "int64": lambda: factor_frame(dtype="int64"),
    "types mixed": lambda: with_types(factor_frame()),
    "unsorted": lambda: factor_frame().sample(frac=1, random_state=3),
    "by instrument": lambda: factor_frame().sort_values("instrument", kind="stable"),
    "gaps": lambda: with_gaps(factor_frame()),
    "non-ASCII names": lambda: factor_frame(["动量_5日", "Volatilität", "α", "😀", "with blank", "'\"\\"]),
    "names with dots": lambda: factor_frame(["ret_0.5", "a", "a.b", "a.b.c", "."]),
    "names of the levels": lambda: factor_frame(["datetime", "instrument", "feature"]),
    "times of day": lambda: factor_frame(days=DAYS + pd.Timedelta(hours=15)),
    "before 1970": lambda: factor_frame(days=["1969-12-30", "1969-12-31"]),
    "non-ASCII instruments": lambda: factor_frame(instruments=["上海", "深圳"]),
}


@pytest.mark.parametrize("kind", GOOD_FRAMES)
def test_flat_layout_loads_exactly(tmp_path: Path, kind: str) -> None:
    """Flat columns come back with every value, type and row as written."""
    frame = GOOD_FRAMES[kind]()
    assert_loads_exactly(write(frame, tmp_path), frame)


@pytest.mark.parametrize("kind", GOOD_FRAMES)
def test_nested_layout_loads_exactly(tmp_path: Path, kind: str) -> None:
    """Columns nested under `feature`, as RD-Agent writes them, come back flat with every value."""
    frame = GOOD_FRAMES[kind]()
    assert_loads_exactly(write(nested(frame), tmp_path), frame)


@pytest.mark.parametrize("kind", GOOD_FRAMES)
def test_swapped_levels_load_exactly(tmp_path: Path, kind: str) -> None:
    """Levels written as (instrument, datetime) come back the other way round, the rows in their order."""
    frame = GOOD_FRAMES[kind]()
    assert_loads_exactly(write(nested(frame.swaplevel()), tmp_path), frame)


@pytest.mark.parametrize("names", [["group", "factor"], [None, "factor"], ["datetime", "instrument"]])
def test_names_of_column_levels_mean_nothing(tmp_path: Path, names: list[str | None]) -> None:
    """Whatever the two column levels are called, the factors are found."""
    frame = factor_frame()
    named = nested(frame)
    named.columns.names = names
    assert_loads_exactly(write(named, tmp_path), frame)


def test_numbers_as_names_become_text(tmp_path: Path) -> None:
    """Columns named by numbers get the text of the numbers as names."""
    frame = factor_frame([1, 2])  # type: ignore[list-item]
    assert_loads_exactly(write(frame, tmp_path), frame.set_axis(["1", "2"], axis=1))


@pytest.mark.parametrize("dtype", ["category", "string"])
def test_instrument_level_of_another_text_type(tmp_path: Path, dtype: str) -> None:
    """Instruments stored as categories or strings come back as plain text."""
    frame = factor_frame()
    stored = with_level(frame, "instrument", frame.index.get_level_values("instrument").astype(dtype))
    assert_loads_exactly(write(stored, tmp_path), frame)


def test_unsorted_categories_load_exactly(tmp_path: Path) -> None:
    """The order of the categories does not mix up the instruments."""
    frame = factor_frame()
    categories = pd.Categorical(frame.index.get_level_values("instrument"), categories=INSTRUMENTS[::-1])
    assert_loads_exactly(write(with_level(frame, "instrument", categories), tmp_path), frame)


def test_unused_category_is_no_instrument(tmp_path: Path) -> None:
    """A category without a row, such as a slice leaves behind, is not among the set's instruments."""
    frame = factor_frame()
    categories = pd.Categorical(
        frame.index.get_level_values("instrument"), categories=["AA000000", *INSTRUMENTS]
    )
    path = write(with_level(frame, "instrument", categories), tmp_path)
    assert examine(path).instruments == INSTRUMENTS


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_coarser_dates_become_nanoseconds(tmp_path: Path, unit: str) -> None:
    """Dates in a coarser unit come back in nanoseconds, the only unit that Qlib's data has."""
    frame = factor_frame()
    days = pd.DatetimeIndex(frame.index.get_level_values("datetime")).as_unit(unit)
    assert_loads_exactly(write(with_level(frame, "datetime", days), tmp_path), frame)


def test_dates_beyond_nanoseconds_are_refused(tmp_path: Path) -> None:
    """Dates that nanoseconds can't hold are refused rather than read as other dates."""
    frame = factor_frame(days=pd.DatetimeIndex(np.array(["2719-01-02", "2719-01-03"], "datetime64[s]")))
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column) == (Reason.NOT_DATES, "datetime")


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "float64[pyarrow]"])
def test_nullable_columns_load_as_plain_numbers(tmp_path: Path, dtype: str) -> None:
    """Columns of pandas' extension types come back as NumPy's, with NaN for what is missing."""
    frame = factor_frame(dtype="int64" if dtype == "Int64" else "float64").astype(dtype)
    frame.iloc[2, 1] = pd.NA
    path = write(frame, tmp_path)
    loaded = loaded_whole(path)
    assert all(isinstance(dtype, np.dtype) for dtype in loaded.dtypes)
    np.testing.assert_array_equal(loaded, frame.astype("float64"))


def test_sets_of_several_row_groups_load_exactly(tmp_path: Path) -> None:
    """A file in several row groups, each with a dictionary of its own, gives every row."""
    frame = factor_frame().sort_values("instrument", kind="stable")
    path = tmp_path / "groups.parquet"
    frame.to_parquet(path, row_group_size=2)
    assert pq.read_metadata(path).num_row_groups == 6
    assert_loads_exactly(path, frame)
    stored = with_level(
        frame, "instrument", pd.CategoricalIndex(frame.index.get_level_values("instrument"), INSTRUMENTS)
    )
    stored.to_parquet(path, row_group_size=2)
    assert_loads_exactly(path, frame)


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "brotli"])
def test_every_compression_loads_exactly(tmp_path: Path, compression: str | None) -> None:
    """How the file is compressed does not matter."""
    frame = with_gaps(factor_frame())
    path = tmp_path / "set.parquet"
    frame.to_parquet(path, compression=compression)
    assert_loads_exactly(path, frame)


def test_order_of_the_columns_is_kept(tmp_path: Path) -> None:
    """The factors are named in the file's order, not sorted."""
    assert examine(write(factor_frame(["z", "a", "m"]), tmp_path)).columns == ("z", "a", "m")


# --- digest ---


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The digest is SHA-256 of the file's bytes, and the same from `examine` and `current_digest`."""
    path = write(factor_frame(), tmp_path)
    assert examine(path).digest == sha256(path)
    assert parquet.current_digest(path) == sha256(path)


def test_digest_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    """A file that is read in several blocks has the digest of all of them."""
    path = tmp_path / "large.bin"
    path.write_bytes(np.random.default_rng(5).bytes((1 << 22) * 2 + 17))
    assert parquet.current_digest(path) == sha256(path)


def test_equal_files_have_one_digest(tmp_path: Path) -> None:
    """The name and place of a file are no part of its digest; its content is."""
    one = write(factor_frame(), tmp_path, "one.parquet")
    two = write(factor_frame(), tmp_path, "two.parquet")
    other = write(factor_frame(seed=8), tmp_path, "other.parquet")
    assert parquet.current_digest(one) == parquet.current_digest(two)
    assert parquet.current_digest(one) != parquet.current_digest(other)


@pytest.mark.parametrize("old", [True, False])
def test_rewrite_of_the_same_size_is_seen(tmp_path: Path, old: bool) -> None:
    """Other bytes of the same length change the digest, right after the first look as well as later."""
    path = tmp_path / "set.bin"
    path.write_bytes(b"a" * 1000)
    if old:
        make_old(path)
    assert parquet.current_digest(path) == sha256(path)
    for letter in (b"b", b"c", b"d"):
        path.write_bytes(letter * 1000)
        assert parquet.current_digest(path) == "sha256:" + hashlib.sha256(letter * 1000).hexdigest()


def test_replaced_file_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """Another file moved to the path, of the same size and time, changes the digest."""
    path, other = tmp_path / "set.bin", tmp_path / "other.bin"
    path.write_bytes(b"a" * 1000)
    make_old(path)
    assert parquet.current_digest(path) == sha256(path)
    other.write_bytes(b"b" * 1000)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert parquet.current_digest(path) == "sha256:" + hashlib.sha256(b"b" * 1000).hexdigest()


def test_rewrite_with_the_old_time_is_seen(tmp_path: Path) -> None:
    """Other bytes of the same length under the old time, as `cp -p` leaves them, change the digest."""
    path = tmp_path / "set.bin"
    path.write_bytes(b"a" * 1000)
    make_old(path)
    status = path.stat()
    assert parquet.current_digest(path) == sha256(path)
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert parquet.current_digest(path) == "sha256:" + hashlib.sha256(b"b" * 1000).hexdigest()


def test_touch_keeps_the_digest(tmp_path: Path) -> None:
    """A new time without new content keeps the digest, and the set loads."""
    path = write(factor_frame(), tmp_path)
    make_old(path)
    digest = examine(path).digest
    path.touch()
    assert parquet.current_digest(path) == digest
    pd.testing.assert_frame_equal(loaded_whole(path), factor_frame(), check_freq=False)


def test_unchanged_old_file_is_not_read_again(tmp_path: Path) -> None:
    """A loop that asks for the digest of a known file moves no gigabytes: the process reads nothing."""
    if sys.platform != "linux":
        pytest.skip("the kernel's count of bytes read is Linux's")
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 5_000_000)
    make_old(path)

    def bytes_read() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    before = bytes_read()
    first = parquet.current_digest(path)
    between = bytes_read()
    second = parquet.current_digest(path)
    assert first == second == sha256(path)
    assert between - before >= 5_000_000
    assert bytes_read() - between - 5_000_000 < 100_000  # sha256() above has read it once


def test_load_after_a_change_names_both_digests(tmp_path: Path) -> None:
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


def test_load_of_a_file_that_is_gone(tmp_path: Path) -> None:
    """A set that was deleted since it was examined can't be read."""
    path = write(factor_frame(), tmp_path)
    digest = examine(path).digest
    path.unlink()
    with pytest.raises(FactorFileError) as caught:
        panel.load(path, digest, "momentum")
    assert [failure.reason for failure in caught.value.failures] == [Reason.UNREADABLE]
    with pytest.raises(FactorFileError):
        parquet.current_digest(path)


def test_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """Columns read from before and after a write can't be told apart: the file is refused."""
    path = write(factor_frame(), tmp_path)
    with pytest.raises(FactorFileError) as caught, parquet._open(path):
        path.write_bytes(path.read_bytes() + b"more")
    (failure,) = caught.value.failures
    assert (failure.reason, failure.column, failure.count) == (Reason.CHANGED, None, None)


# --- files that can't be read ---


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is unreadable, for the system's reason."""
    failure = only_failure(tmp_path / "absent.parquet")
    assert failure.reason is Reason.UNREADABLE
    assert failure.examples == ("No such file or directory",)


def test_directory(tmp_path: Path) -> None:
    """A folder in place of the file is unreadable, for the system's reason."""
    failure = only_failure(tmp_path)
    assert failure.reason is Reason.UNREADABLE
    assert failure.examples == ("Is a directory",)


def test_unreadable_file() -> None:
    """A file that the user may not read is unreadable, for the system's reason; once allowed it is read."""
    with public_folder() as folder:
        path = write(factor_frame(), folder)
        path.chmod(0o000)
        with without_privileges():
            failure = only_failure(path)
        path.chmod(0o644)
        with without_privileges():
            assert examine(path).rows == 12
    assert failure.reason is Reason.UNREADABLE
    assert failure.examples == ("Permission denied",)


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (b"", "b''"),
        (b"datetime,instrument,a\n2020-01-02,SH600000,1\n", "b'date'"),
        (b"PK\x03\x04rest", "b'PK\\x03\\x04'"),
        (b"\x80\x05.", "b'\\x80\\x05.'"),
        (b"par1" * 10, "b'par1'"),
    ],
)
def test_not_parquet(tmp_path: Path, content: bytes, head: str) -> None:
    """Another format, and an empty file, are not parquet; the first bytes show what it is."""
    path = tmp_path / "combined_factors_df.parquet"
    path.write_bytes(content)
    failure = only_failure(path)
    assert failure.reason is Reason.NOT_PARQUET
    assert failure.examples == (f"its first bytes {head}",)


def test_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    """A copy that was cut off, after however many bytes, is damaged and nothing else."""
    whole = write(nested(factor_frame()), tmp_path).read_bytes()
    path = tmp_path / "cut.parquet"
    for length in [4, 5, 8, 12, *range(20, len(whole), 61), len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:length])
        failure = only_failure(path)
        assert failure.reason is Reason.DAMAGED, length
        assert failure.fix.startswith("copy the file anew"), length


@pytest.mark.parametrize("column", ["momentum", "turnover", "datetime", "instrument"])
def test_corrupted_page_is_damaged(tmp_path: Path, column: str) -> None:
    """Bytes overwritten inside one column's page are found when it is read, and the column is named."""
    path = write(factor_frame(), tmp_path)
    chunks = pq.read_metadata(path).row_group(0)
    chunk = next(
        chunks.column(number)
        for number in range(chunks.num_columns)
        if chunks.column(number).path_in_schema == column
    )
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    failure = only_failure(path)
    assert (failure.reason, failure.column, failure.fix) == (Reason.DAMAGED, column, "copy the file anew")
    with pytest.raises(FactorFileError) as caught:
        wanted = "momentum" if column in ("datetime", "instrument") else column
        panel.load(path, parquet.current_digest(path), wanted)
    assert [failure.reason for failure in caught.value.failures] == [Reason.DAMAGED]


def test_corrupted_page_of_a_nested_column_names_the_factor(tmp_path: Path) -> None:
    """In the nested layout too, the damaged column is named as the user knows it."""
    path = write(nested(factor_frame()), tmp_path)
    offset = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    assert only_failure(path).column == "momentum"


@pytest.mark.parametrize("compression", ["snappy", None])
def test_no_flipped_byte_breaks_the_contract(tmp_path: Path, compression: str | None) -> None:
    """Whatever byte is wrong, `examine` and `load` give a set or a FactorFileError, and no other error.

    In a process of its own, with one thread: it calls Arrow thousands of times on broken files.
    """
    factor_frame().to_parquet(tmp_path / "good.parquet", compression=compression)
    code = (
        "import pathlib, sys, warnings; warnings.simplefilter('ignore')\n"
        "from rdagent_sota_bridge import errors\n"
        "from rdagent_sota_bridge.factor_set import panel, parquet as factors\n"
        "folder = pathlib.Path(sys.argv[1]); good = (folder / 'good.parquet').read_bytes()\n"
        "path = folder / 'bad.parquet'; escaped = {}\n"
        "for place in range(0, len(good), 7):\n"
        "    bad = bytearray(good); bad[place] = 255 if good[place] != 255 else 0; path.write_bytes(bad)\n"
        "    try:\n"
        "        found = panel.examine((path,)); factors.load(path, found.digest, found.columns[0])\n"
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


def test_no_rows(tmp_path: Path) -> None:
    """A set without rows is refused."""
    failure = only_failure(write(nested(factor_frame().iloc[:0]), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NO_ROWS, None, 0)


def test_no_columns(tmp_path: Path) -> None:
    """A set without factors is refused."""
    failure = only_failure(write(factor_frame([]), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NO_COLUMNS, None, 0)


@pytest.mark.parametrize(
    ("missing", "left"), [("datetime", "['instrument']"), ("instrument", "['datetime']")]
)
def test_missing_level_that_is_a_column(tmp_path: Path, missing: str, left: str) -> None:
    """A level that stands among the columns is missing, and the fix is to make it a level."""
    failure = only_failure(write(factor_frame().reset_index(missing), tmp_path))
    assert (failure.reason, failure.column) == (Reason.NO_LEVEL, missing)
    assert failure.examples == (f"an index with levels {left}",)
    assert failure.fix == f"make the column {missing} a level: df.set_index(['datetime', 'instrument'])"


@pytest.mark.parametrize("missing", ["datetime", "instrument"])
def test_missing_level_that_is_nowhere(tmp_path: Path, missing: str) -> None:
    """A level that is nowhere is missing, and the fix is to name a level so."""
    failure = only_failure(write(factor_frame().droplevel(missing), tmp_path))
    assert (failure.reason, failure.column) == (Reason.NO_LEVEL, missing)
    assert failure.fix == f"name a level of the index {missing}: df.index.names = ['datetime', 'instrument']"


@pytest.mark.parametrize(
    ("names", "missing"), [(["date", "instrument"], "datetime"), (["datetime", "code"], "instrument")]
)
def test_level_of_another_name(tmp_path: Path, names: list[str], missing: str) -> None:
    """A level of another name is not guessed to be the one that is missing."""
    failure = only_failure(write(factor_frame().rename_axis(names), tmp_path))
    assert (failure.reason, failure.column) == (Reason.NO_LEVEL, missing)
    assert failure.examples == (f"an index with levels {names}",)


def both_levels(fix: str, has: str) -> list[Failure]:
    """Return the failures of a file that has neither level."""
    return [
        Failure(Reason.NO_LEVEL, fix.format(name), name, examples=(has,))
        for name in ("datetime", "instrument")
    ]


def test_both_levels_among_the_columns(tmp_path: Path) -> None:
    """A frame whose index was reset misses both levels, each named with its fix."""
    assert list(failures_of(write(factor_frame().reset_index(), tmp_path))) == both_levels(
        "make the column {} a level: df.set_index(['datetime', 'instrument'])",
        "an index with no named levels",
    )


def test_both_levels_without_names(tmp_path: Path) -> None:
    """Levels without names are not guessed."""
    assert list(failures_of(write(factor_frame().rename_axis([None, None]), tmp_path))) == both_levels(
        "name a level of the index {}: df.index.names = ['datetime', 'instrument']",
        "an index with levels [None, None]",
    )


def test_both_levels_nowhere(tmp_path: Path) -> None:
    """A frame of factors alone misses both levels."""
    assert list(failures_of(write(factor_frame().reset_index(drop=True), tmp_path))) == both_levels(
        "name a level of the index {}: df.index.names = ['datetime', 'instrument']",
        "an index with no named levels",
    )


def test_no_pandas_metadata(tmp_path: Path) -> None:
    """A file that pandas did not write has columns and no levels."""
    table = pa.Table.from_pandas(factor_frame()).replace_schema_metadata(None)
    assert list(failures_of(write_table(table, tmp_path))) == both_levels(
        "make the column {} a level: df.set_index(['datetime', 'instrument'])",
        "an index with no named levels",
    )


def test_dates_as_text(tmp_path: Path) -> None:
    """Dates written as text are refused, with examples."""
    frame = factor_frame()
    texts = frame.index.get_level_values("datetime").strftime("%Y%m%d")
    failure = only_failure(write(with_level(frame, "datetime", texts), tmp_path))
    assert failure == Failure(
        Reason.NOT_DATES,
        "convert the level: pd.to_datetime(...)",
        "datetime",
        12,
        ("'20200102'", "'20200102'"),
    )


def test_dates_as_date_objects(tmp_path: Path) -> None:
    """Python's date objects are refused: pandas compares them with no timestamp."""
    frame = factor_frame()
    days = [day.date() for day in frame.index.get_level_values("datetime")]
    failure = only_failure(write(with_level(frame, "datetime", days), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NOT_DATES, "datetime", 12)
    assert failure.examples == (repr(datetime.date(2020, 1, 2)),) * 2


def test_dates_as_numbers(tmp_path: Path) -> None:
    """Numbers such as 20200102 are refused, not read as nanoseconds."""
    frame = factor_frame()
    numbers = [int(day.strftime("%Y%m%d")) for day in frame.index.get_level_values("datetime")]
    failure = only_failure(write(with_level(frame, "datetime", numbers), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NOT_DATES, "datetime", 12)
    assert failure.examples == ("20200102", "20200102")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_dates_with_a_time_zone(tmp_path: Path, zone: str) -> None:
    """Dates with a time zone are refused, the zone is named."""
    frame = factor_frame()
    days = pd.DatetimeIndex(frame.index.get_level_values("datetime")).tz_localize(zone)
    failure = only_failure(write(with_level(frame, "datetime", days), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.TIME_ZONE, "datetime", 12)
    assert failure.examples == (f"zone {zone}",)


def test_instruments_as_numbers(tmp_path: Path) -> None:
    """Codes written as numbers, which lose their zeros, are refused with examples."""
    failure = only_failure(write(factor_frame(instruments=[600000, 1]), tmp_path))  # type: ignore[list-item]
    assert (failure.reason, failure.column, failure.count) == (Reason.NOT_TEXT, "instrument", 8)
    assert failure.examples == ("600000", "1")


def test_instruments_as_categories_of_numbers(tmp_path: Path) -> None:
    """Categories hide no numbers."""
    frame = factor_frame()
    numbers = pd.Categorical([600000, 600004, 1] * 4)
    failure = only_failure(write(with_level(frame, "instrument", numbers), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NOT_TEXT, "instrument", 12)


@pytest.mark.parametrize("categorical", [False, True])
def test_null_in_the_instrument_level(tmp_path: Path, categorical: bool) -> None:
    """Rows without an instrument are refused and counted."""
    frame = factor_frame()
    codes: object = [None, None, *frame.index.get_level_values("instrument")[2:]]
    if categorical:
        codes = pd.Categorical(codes)
    failure = only_failure(write(with_level(frame, "instrument", codes), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NULL_INDEX, "instrument", 2)


def test_null_in_the_datetime_level(tmp_path: Path) -> None:
    """Rows without a date are refused and counted."""
    frame = factor_frame()
    days = pd.DatetimeIndex([pd.NaT, *frame.index.get_level_values("datetime")[1:]])
    failure = only_failure(write(with_level(frame, "datetime", days), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NULL_INDEX, "datetime", 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_duplicate_rows(tmp_path: Path, swapped: bool) -> None:
    """Rows that stand there again are counted, whatever their values, and the first two are named."""
    frame = factor_frame()
    frame = pd.concat([frame, frame.iloc[[5, 1, 5]] + 1])
    failure = only_failure(write(frame.swaplevel() if swapped else frame, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.DUPLICATE_ROW, None, 3)
    assert failure.examples == ("(2020-01-03 00:00:00, SZ000001)", "(2020-01-02 00:00:00, SH600004)")


@pytest.mark.parametrize(
    ("values", "examples"),
    [
        (["low", "high"] * 6, ("'low'", "'high'")),
        ([True, False] * 6, ("True", "False")),
        ([None] * 12, ("None", "None")),
        ([datetime.date(2020, 1, 2)] * 12, (repr(datetime.date(2020, 1, 2)),) * 2),
        ([["a"], ["b"]] * 6, ("['a']", "['b']")),
    ],
)
def test_column_that_is_not_numeric(tmp_path: Path, values: object, examples: tuple[str, ...]) -> None:
    """A column without numbers is refused, named, with examples; the other columns are not."""
    frame = nested(factor_frame().assign(label=values))
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.NOT_NUMERIC, "label", 12)
    assert failure.examples == examples


def test_column_of_nan(tmp_path: Path) -> None:
    """A column without a single value is refused and named."""
    failure = only_failure(write(nested(factor_frame().assign(空=np.nan)), tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.ALL_NAN, "空", 12)


def test_column_with_one_value_passes(tmp_path: Path) -> None:
    """A single value is enough: how many are needed is the researcher's question."""
    frame = factor_frame()
    frame.iloc[1:, 0] = np.nan
    assert_loads_exactly(write(frame, tmp_path), frame)


def test_infinite_values(tmp_path: Path) -> None:
    """Infinite values of either sign are counted, and the rows of the first two are named."""
    frame = factor_frame()
    frame.iloc[[4, 9], 1] = np.inf
    frame.iloc[7, 1] = -np.inf
    failure = only_failure(write(frame, tmp_path))
    assert failure == Failure(
        Reason.INFINITE,
        "replace them: df.replace([np.inf, -np.inf], np.nan)",
        "turnover",
        3,
        ("(2020-01-03 00:00:00, SH600004)", "(2020-01-06 00:00:00, SH600004)"),
    )


def test_infinite_values_among_nan(tmp_path: Path) -> None:
    """A column of NaN and one infinite value has an infinite value."""
    frame = factor_frame()
    frame["turnover"] = np.nan
    frame.iloc[3, 1] = -np.inf
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.INFINITE, "turnover", 1)


def test_infinite_values_of_float32(tmp_path: Path) -> None:
    """Overflow in the smaller type is found as well."""
    frame = factor_frame(dtype="float32")
    frame.iloc[0, 0] = np.float32(np.inf)
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.INFINITE, "momentum", 1)
    assert failure.examples == ("(2020-01-02 00:00:00, SH600000)",)


@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_column_name_twice(tmp_path: Path, kind: str) -> None:
    """A name that stands there twice is refused; which column was meant can't be told."""
    frame = factor_frame(["a", "b", "c"])
    table = pa.Table.from_pandas(frame if kind == "flat" else nested(frame))
    first, _, *rest = table.column_names
    metadata = table.schema.metadata
    table = table.rename_columns([first, first, *rest]).replace_schema_metadata(metadata)
    failure = only_failure(write_table(table, tmp_path))
    assert (failure.reason, failure.column, failure.count) == (Reason.DUPLICATE_NAME, "a", 2)


@pytest.mark.filterwarnings("ignore:The DataFrame has column names of mixed type")
def test_names_that_are_one_as_text(tmp_path: Path) -> None:
    """The names 1 and "1" are one name for Qlib, and refused."""
    failure = only_failure(write(factor_frame([1, "1"]), tmp_path))  # type: ignore[list-item]
    assert (failure.reason, failure.column, failure.count) == (Reason.DUPLICATE_NAME, "1", 2)


def test_extra_index_level(tmp_path: Path) -> None:
    """A third index level is refused and named."""
    frame = factor_frame().assign(horizon=list("abcdefghijkl")).set_index("horizon", append=True)
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column) == (Reason.LAYOUT, None)
    assert failure.examples == ("horizon",)
    assert failure.fix.startswith("keep the levels datetime and instrument alone")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ([("label", "a"), ("label", "b")], "2 column levels, the first with label"),
        ([("feature", "a"), ("label", "b")], "2 column levels, the first with feature, label"),
        ([("feature", "a", "x"), ("feature", "b", "x")], "3 column levels, the first with feature"),
        ([("Feature", "a"), ("Feature", "b")], "2 column levels, the first with Feature"),
    ],
)
def test_unknown_column_layout(tmp_path: Path, columns: list[tuple[str, ...]], found: str) -> None:
    """Columns under another group, under several, or on three levels are refused with what was found."""
    frame = factor_frame().set_axis(pd.MultiIndex.from_tuples(columns), axis=1)
    failure = only_failure(write(frame, tmp_path))
    assert (failure.reason, failure.column) == (Reason.LAYOUT, None)
    assert failure.examples == (found,)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """All failures of the rows and of the columns stand in one error, in the file's order."""
    frame = factor_frame(["good", "infinite", "empty"]).assign(text="x", flag=True)
    frame.iloc[2, 1] = np.inf
    frame["empty"] = np.nan
    frame = pd.concat([frame, frame.iloc[[0]]])
    path = write(nested(frame), tmp_path)
    found = failures_of(path)
    assert [(failure.reason, failure.column, failure.count) for failure in found] == [
        (Reason.DUPLICATE_ROW, None, 1),
        (Reason.INFINITE, "infinite", 1),
        (Reason.ALL_NAN, "empty", 13),
        (Reason.NOT_NUMERIC, "text", 13),
        (Reason.NOT_NUMERIC, "flag", 13),
    ]
    with pytest.raises(FactorFileError) as caught:
        examine(path)
    assert str(caught.value).splitlines() == [
        f"The factor file can't be used for training: {path}",
        *(f"  - {failure}" for failure in found),
    ]


def test_bad_levels_do_not_hide_bad_columns(tmp_path: Path) -> None:
    """Where the rows have no usable keys, the columns are checked all the same, and rows go by number."""
    frame = factor_frame(["infinite", "empty"])
    frame.iloc[[3, 8], 0] = np.inf
    frame["empty"] = np.nan
    frame = with_level(frame, "datetime", ["2020-01-02"] * 12)
    frame = with_level(frame, "instrument", list(range(12)))
    found = failures_of(write(frame, tmp_path))
    assert [(failure.reason, failure.column) for failure in found] == [
        (Reason.NOT_DATES, "datetime"),
        (Reason.NOT_TEXT, "instrument"),
        (Reason.INFINITE, "infinite"),
        (Reason.ALL_NAN, "empty"),
    ]
    assert found[2].examples == ("row 3", "row 8")


def test_both_levels_can_have_nulls(tmp_path: Path) -> None:
    """A zone and nulls in one level, and nulls in the other, are three failures."""
    frame = factor_frame()
    days = pd.DatetimeIndex([pd.NaT, *frame.index.get_level_values("datetime")[1:]]).tz_localize("UTC")
    frame = with_level(frame, "datetime", days)
    frame = with_level(frame, "instrument", [*frame.index.get_level_values("instrument")[:-2], None, None])
    assert [
        (failure.reason, failure.column, failure.count) for failure in failures_of(write(frame, tmp_path))
    ] == [
        (Reason.TIME_ZONE, "datetime", 12),
        (Reason.NULL_INDEX, "datetime", 1),
        (Reason.NULL_INDEX, "instrument", 2),
    ]
