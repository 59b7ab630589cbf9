"""Copies of data files that end early."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.check.truncate import NotCheckedError, copy_file, cut_data, data_files, times_in
from tests.frames import assert_survives_pickling, factor_frame, public_folder, without_privileges

DAYS = pd.bdate_range("2020-02-20", periods=10)
LAST = pd.Timestamp("2020-02-27 23:00")


def prices() -> pd.DataFrame:
    """Return a small table such as RD-Agent gives to factors: rows sorted by (datetime, instrument)."""
    return factor_frame(("$close", "$volume"), days=DAYS)


def test_hdf_keeps_keys_forms_and_values(tmp_path: Path) -> None:
    """Each table of an HDF5 file ends with the last time, and is otherwise what it was, unused levels too."""
    source, target = tmp_path / "source.h5", tmp_path / "target.h5"
    frame = prices()
    frame.to_hdf(source, key="data")
    frame.rename(columns={"$volume": "volume"}).to_hdf(
        source, key="deep/second", format="table", data_columns=["volume"]
    )
    frame["$close"].swaplevel().to_hdf(source, key="series")
    frame["$close"].unstack().to_hdf(source, key="wide")
    frame.reset_index().to_hdf(source, key="columns")
    cut_data(source, target, LAST)
    with pd.HDFStore(source, "r") as whole, pd.HDFStore(target, "r") as cut:
        assert cut.keys() == whole.keys()
        for key in whole.keys():  # noqa: SIM118 - a store is no mapping
            assert cut.get_storer(key).format_type == whole.get_storer(key).format_type
        assert "volume" in cut.get_storer("deep/second").data_columns
        pd.testing.assert_frame_equal(cut["data"], frame.loc[:LAST])
        assert cut["data"].index.levels[0].max() == LAST.normalize()
        pd.testing.assert_series_equal(cut["series"], frame["$close"].loc[:LAST].swaplevel())
        assert cut["deep/second"].index.get_level_values("datetime").max() == LAST.normalize()
        assert cut["wide"].index[-1] == LAST.normalize()
        assert cut["columns"]["datetime"].max() == LAST.normalize()
    assert [times.max() for times in times_in(target)] == [LAST.normalize()] * 5


@pytest.mark.parametrize(
    "times",
    [
        ["20200227", "20200228"],
        [20200227, 20200228],
        ["2020-02-27 15:00:00", "2020-02-28 09:30:00"],
    ],
    ids=["digits", "numbers", "times of day"],
)
def test_times_as_text_or_numbers(tmp_path: Path, times: list[object]) -> None:
    """A column of times is read in each form that can be read one way alone, and kept as it is."""
    frame = pd.DataFrame({"instrument": ["A", "B"], "Date": times, "价格": [1.0, 2.0]})
    frame.to_hdf(tmp_path / "source.h5", key="data")
    cut_data(tmp_path / "source.h5", tmp_path / "target.h5", LAST)
    pd.testing.assert_frame_equal(pd.read_hdf(tmp_path / "target.h5"), frame.iloc[:1])


def table(times: object, **columns: object) -> pd.DataFrame:
    """Return a table with a column `date`."""
    return pd.DataFrame({"date": times, "x": 1.0, **columns})


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"x": [1.0]}, index=pd.DatetimeIndex(["2020-01-01"], tz="Asia/Shanghai", name="date")),
        pd.DataFrame({"x": [1.0, 2.0]}, index=pd.DatetimeIndex(["2020-01-01", None], name="date")),
        table([20200101.0]),
        table(["2020-01-01"], datetime=["2020-01-02"]),
        table(["01/02/2020"]),
        table([None]),
        pd.DataFrame({"instrument": ["A"], "industry": ["banks"]}),
    ],
    ids=["zone", "missing", "fraction", "two columns", "day or month", "no time", "no times"],
)
def test_tables_without_plain_times(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Times that are missing, in a zone, or that can be read two ways are no guess: the table is refused."""
    file = tmp_path / "table.h5"
    frame.to_hdf(file, key="data")
    for attempt in (times_in, lambda file: cut_data(file, tmp_path / "target.h5", LAST)):
        with pytest.raises(NotCheckedError, match=r"table\.h5 can't be cut: "):
            attempt(file)


@pytest.mark.parametrize("name", ["text.h5", "prices.csv", "prices.parquet", "other.feather", "listing.txt"])
def test_what_can_not_be_read(tmp_path: Path, name: str) -> None:
    """A damaged file, or one that is neither HDF5 nor a document, is named with a fix."""
    source = tmp_path / name
    source.write_text("what")
    with pytest.raises(NotCheckedError) as caught:
        cut_data(source, tmp_path / f"cut-{name}", LAST)
    assert f"{source} can't be cut: " in caught.value.fact
    assert caught.value.fix
    assert_survives_pickling(caught.value)
    with pytest.raises(NotCheckedError):
        times_in(source)


def test_arrays_that_pandas_did_not_write(tmp_path: Path) -> None:
    """An array beside the tables of an HDF5 file would be missing in the copy: the file is refused."""
    mixed = tmp_path / "mixed.h5"
    prices().to_hdf(mixed, key="data")
    with pd.HDFStore(mixed, "a") as store:
        store.root._v_file.create_array("/", "raw", np.arange(3))
    with pytest.raises(NotCheckedError, match="/raw is no table of pandas"):
        cut_data(mixed, tmp_path / "target.h5", LAST)


@pytest.mark.parametrize("name", ["README.md", "notes.rst", ".gitkeep", "tools.py"])
def test_documents_are_copied(tmp_path: Path, name: str) -> None:
    """A document is copied byte for byte, a hidden file too, and has no times."""
    (tmp_path / name).write_bytes(b"\xff2020")
    cut_data(tmp_path / name, tmp_path / f"copy of {name}", LAST)
    assert (tmp_path / f"copy of {name}").read_bytes() == b"\xff2020"
    assert times_in(tmp_path / name) == []


def test_the_source_stays_as_it_is(tmp_path: Path) -> None:
    """Cutting and copying change nothing of the user's file, not even its time."""
    source = tmp_path / "daily_pv.h5"
    prices().to_hdf(source, key="data")
    before = hashlib.sha256(source.read_bytes()).digest(), source.stat().st_mtime_ns
    cut_data(source, tmp_path / "cut.h5", LAST)
    copy_file(source, tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == source.read_bytes()
    assert (hashlib.sha256(source.read_bytes()).digest(), source.stat().st_mtime_ns) == before


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    """The files are sorted; a folder among them is refused, and so is a folder that is not there."""
    for name in ("b.csv", "a.h5"):
        (tmp_path / name).touch()
    assert [file.name for file in data_files(tmp_path)] == ["a.h5", "b.csv"]
    (tmp_path / "more").mkdir()
    with pytest.raises(NotCheckedError, match="more is a folder"):
        data_files(tmp_path)
    with pytest.raises(NotCheckedError, match="nowhere can't be cut: No such file"):
        data_files(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["closed.h5", "closed.md"])
def test_a_file_that_may_not_be_read(name: str) -> None:
    """A file that is closed to the user is named, in each form."""
    with public_folder() as folder:
        (folder / name).touch(mode=0o000)
        with (
            tempfile.TemporaryDirectory() as target,
            without_privileges(),
            pytest.raises(NotCheckedError) as caught,
        ):
            cut_data(folder / name, Path(target) / name, LAST)
    assert f"{folder / name} can't be cut: " in caught.value.fact
