"""Builds small factor frames and writes them as the parquet files that the tests examine."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Failure
from rdagent_sota_bridge.factor_set import locate, panel
from rdagent_sota_bridge.factor_set.parquet import FactorSet

INSTRUMENTS = ("SH600000", "SH600004", "SZ000001")
NOBODY = 65534


def factor_frame(
    columns: Sequence[str] = ("momentum", "turnover"),
    *,
    days: Sequence[str] | pd.DatetimeIndex = ("2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"),
    instruments: Sequence[str] = INSTRUMENTS,
    dtype: str = "float64",
    seed: int = 7,
) -> pd.DataFrame:
    """Return a flat frame with one row a (day, instrument), sorted, and different values in every cell."""
    index = pd.MultiIndex.from_product(
        [pd.DatetimeIndex(days), list(instruments)], names=["datetime", "instrument"]
    )
    values = np.random.default_rng(seed).normal(scale=100, size=(len(index), len(columns)))
    return pd.DataFrame(values, index=index, columns=list(columns)).astype(dtype)


def nested(frame: pd.DataFrame, group: str = "feature") -> pd.DataFrame:
    """Return the frame with its columns under one group, as RD-Agent writes them."""
    return frame.set_axis(pd.MultiIndex.from_product([[group], frame.columns]), axis=1)


def with_level(frame: pd.DataFrame, name: str, values: object) -> pd.DataFrame:
    """Return the frame with the values of one index level replaced."""
    levels = {level: frame.index.get_level_values(level) for level in frame.index.names}
    levels[name] = values
    return frame.set_axis(pd.MultiIndex.from_arrays(list(levels.values()), names=list(levels)))


def write(frame: pd.DataFrame, folder: Path, name: str = "combined_factors_df.parquet") -> Path:
    """Write a frame as RD-Agent does and return the path of the file."""
    path = folder / name
    frame.to_parquet(path, engine="pyarrow")
    return path


def write_table(table: pa.Table, folder: Path, name: str = "combined_factors_df.parquet") -> Path:
    """Write an Arrow table and return the path of the file."""
    path = folder / name
    pq.write_table(table, path)
    return path


def write_prices(folder: Path, instrument: str, field: str, start: int, values: Sequence[float]) -> Path:
    """Write a field of an instrument into a Qlib data folder, from a day's position on; return the file."""
    file = folder / "features" / instrument.lower() / f"{field}.day.bin"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.array([start, *values], dtype="<f4").tofile(file)
    return file


def factor_file(workspace_path: str | None) -> Path:
    """Return the factor file that one entry of SOTA_WORKSPACE_PATH names; None where it is not set."""
    return locate.factor_sets(() if workspace_path is None else (workspace_path,), ())[0].path


def examine(path: Path) -> FactorSet:
    """Check one factor file whole, and return what it holds."""
    return panel.examine((path,))


def failures_of(path: Path) -> tuple[Failure, ...]:
    """Return the failures that `examine` reports for a file; fail where it reports none."""
    with pytest.raises(FactorFileError) as caught:
        examine(path)
    assert caught.value.path == str(path)
    assert_survives_pickling(caught.value)
    return caught.value.failures


def only_failure(path: Path) -> Failure:
    """Return the one failure that `examine` reports for a file; fail where there are more."""
    (failure,) = failures_of(path)
    return failure


def assert_survives_pickling(error: Exception) -> None:
    """Fail unless a pickled copy of the error has the same type, arguments and text."""
    # Dask, once a test has imported it, pickles what an error came from too.
    error.__cause__ = error.__context__ = None
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert str(copy) == str(error)


def factor_set(
    days: Sequence[str] | pd.DatetimeIndex,
    instruments: Sequence[str] = INSTRUMENTS,
    path: str = "/sets/a.parquet",
) -> FactorSet:
    """Return the description of a set with one row a (day, instrument), without a file."""
    dates = pd.DatetimeIndex(days)
    return FactorSet(
        path=Path(path),
        digest="sha256:00",
        rows=len(dates) * len(instruments),
        columns=("momentum",),
        dates=dates,
        instruments=tuple(instruments),
    )


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that every user may enter (pytest's own are closed to others), and remove it after."""
    with tempfile.TemporaryDirectory(prefix="sota-bridge-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user whom file modes bind, for root may read everything; idle for any other user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
