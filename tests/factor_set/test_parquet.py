"""One factor file: in which layouts it is accepted, that exactly its values are loaded, and its digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Reason, SetChangedError
from rdagent_sota_bridge.factor_set import panel, parquet
from tests.frames import (
    INSTRUMENTS,
    assert_survives_pickling,
    examine,
    factor_frame,
    nested,
    with_level,
    write,
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
    "many columns": lambda: factor_frame([f"factor_{number}" for number in range(60)]),
    "types mixed": with_types,
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
