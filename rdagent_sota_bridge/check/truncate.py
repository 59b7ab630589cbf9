"""Copies of the data files that factors are made from, without what comes after a time.

RD-Agent's folder of such data holds `daily_pv.h5` and a README (`scenarios/qlib/experiment/utils.py`, 0.8.0
and 1.0.0).
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.factor_set.names import DATETIME

UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, EOFError, RuntimeError),
    pickle.UnpicklingError,
)
"""What pandas and PyTables raise on a file of another form than its name says, or a damaged one."""


class NotCheckedError(Exception):
    """Why nothing can be said about a factor, and the fix; the check makes it a line for the user."""

    def __init__(self, fact: str, fix: str) -> None:
        super().__init__(fact, fix)
        self.fact = fact
        self.fix = fix


def data_files(folder: Path) -> list[Path]:
    """Return the files of a data folder, sorted.

    Raises:
        NotCheckedError: if it can't be read, or something else is among them, which may hold anything.
    """
    with _naming(folder):
        found = sorted(folder.iterdir())
    for path in found:
        if not path.is_file():
            fact = f"{path} is a folder, or no file at all, and what it holds can't be cut"
            raise NotCheckedError(fact, "lay its files beside it")
    return found


def copy_file(source: Path, target: Path) -> None:
    """Copy a file of a data folder whole: a factor's code can write into what it reads.

    Raises:
        NotCheckedError: if it can't be read, or there is no room for it.
    """
    with _naming(source):
        shutil.copyfile(source, target)


def times_in(file: Path) -> list[pd.DatetimeIndex]:
    """Return the times of the rows of each table in a data file; no table for a document.

    Raises:
        NotCheckedError: as `cut_data` does.
    """
    if _is_document(file):
        return []
    with _naming(file), pd.HDFStore(file, "r") as store:
        return [_times(store[key]) for key in _keys(store)]


def last_time(file: Path) -> pd.Timestamp | None:
    """Return the last time in an HDF5 file of pandas, without reading its values; None where it has none.

    In the fixed format, as RD-Agent writes it, a level of the index is an array of its own, each time once.

    Raises:
        NotCheckedError: if it can't be read.
    """
    found = []
    with _naming(file, "read"), pd.HDFStore(file, "r") as store:
        for storer in map(store.get_storer, store.keys()):
            for node in storer.group._f_iter_nodes() if not storer.is_table else ():
                if str(getattr(node._v_attrs, "kind", "")).startswith("datetime64"):
                    found.append(storer.read_index_node(node).max())
    return max(found, default=None)


def cut_data(source: Path, target: Path, last: pd.Timestamp) -> None:
    """Write a copy of an HDF5 file of pandas that ends at a time, with the same keys and formats.

    The time stands in an index level named datetime or date (or the only one of a time's type), or else in a
    column of such a name. Documents (.md, .rst, .py, hidden files) are copied as they are.

    Args:
        source: The file.
        target: The copy; must not be there.
        last: Rows up to and with this time stay.

    Raises:
        NotCheckedError: if the file is data and it is not clear which rows have which time.
    """
    if _is_document(source):
        copy_file(source, target)
        return
    with _naming(source), warnings.catch_warnings(), pd.HDFStore(source, "r") as store:
        # PyTables dislikes names such as $close, pandas text in the fixed format: both are as they were.
        warnings.filterwarnings("ignore", "object name is not a valid Python identifier")
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        with pd.HDFStore(target, "w") as copy:
            for key in _keys(store):
                storer, table = store.get_storer(key), store[key]
                kept = table[_times(table) <= last]
                if isinstance(kept.index, pd.MultiIndex):  # whose levels list what went, too
                    kept = kept.set_axis(kept.index.remove_unused_levels(), axis=0)
                queried = storer.data_columns if storer.is_table and isinstance(kept, pd.DataFrame) else None
                copy.put(key, kept, format=storer.format_type, data_columns=queried)


def _is_document(file: Path) -> bool:
    if file.name.startswith(".") or file.suffix.lower() in (".md", ".rst", ".py"):
        return True
    if file.suffix.lower() not in (".h5", ".hdf5", ".hdf"):
        fix = "convert it to HDF5, or take it away if no factor is made from it"
        raise NotCheckedError(f"{file} can't be cut: only HDF5 files can", fix)
    return False


@contextmanager
def _naming(file: Path, what: str = "cut") -> Iterator[None]:
    """Say which file can't be read, cut or copied, and why."""
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = f"name its times {DATETIME}, as a level or column, or take it away if no factor is made from it"
        if isinstance(error, OSError) and error.strerror:  # the system's own, not a format's
            reason = error.strerror
            fix = "make it readable, or point TMPDIR at a place with room for the data"
        raise NotCheckedError(f"{file} can't be {what}: {reason}", fix) from None


def _keys(store: pd.HDFStore) -> list[str]:
    keys: list[str] = store.keys()
    # What h5py or PyTables wrote is data as well, and pandas says nothing about it.
    for leaf in store.root._v_file.walk_nodes("/", "Leaf"):
        if not any(leaf._v_pathname.startswith(f"{key}/") for key in keys):
            raise ValueError(f"{leaf._v_pathname} is no table of pandas")
    return keys


def _times(table: pd.DataFrame | pd.Series) -> pd.DatetimeIndex:
    """Return the time of each row, also from text or numbers such as 20200102; never a guess."""
    levels = [table.index.get_level_values(number) for number in range(table.index.nlevels)]
    columns = (
        [] if isinstance(table, pd.Series) else [pd.Index(table[name]) for name in table if _is_time(name)]
    )
    found = [level for level in levels if _is_time(level.name)]
    if len(found) != 1:
        found = [level for level in levels if isinstance(level, pd.DatetimeIndex)]
    if len(found) != 1:
        found = columns
    if len(found) != 1:
        raise ValueError(f"{len(found)} of its index levels and columns hold times, not one")
    times = found[0]
    if not isinstance(times, pd.DatetimeIndex):
        times = pd.DatetimeIndex(pd.to_datetime(times.astype(str), format="ISO8601"))
    if times.tz is not None or times.hasnans:
        raise ValueError("its times have a time zone, or are missing in rows")
    return times.as_unit("ns")


def _is_time(name: object) -> bool:
    return str(name).lower() in (DATETIME, "date")
