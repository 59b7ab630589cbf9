"""The frame that RD-Agent's merge path gets: a stored factor set that is not read while it need not be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge import files, normal
from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.store import Stored, hand_out


class StoredFrame(pd.DataFrame):  # type: ignore[misc] # pandas ships no types
    """A factor set, (rows, factors), sorted by datetime and instrument, of which only the names are read.

    What `QlibModelRunner.develop` asks of it (RD-Agent 0.8.0, 1.0.0) is answered from the names: `empty`,
    `len`, `columns` read and set, `sort_index()`, `loc[:, mask]` with a mask that leaves nothing out, and
    `to_parquet(path)`, which places the stored file. Anything else reads the values, and from then on this is
    a frame like others; what comes of it (`loc`, arithmetic, a pickle) is a plain `pandas.DataFrame`.

    All that pandas does with a frame goes through its `_mgr` (2.0 to 2.3): here that is read when it is first
    asked for.
    """

    # pandas' own way to declare attributes that are no columns (its documentation, "Extending pandas").
    _internal_names = [*pd.DataFrame._internal_names, "_stored", "_link", "_placed", "_names", "_values_read"]  # noqa: RUF012
    _internal_names_set = set(_internal_names)  # noqa: RUF012

    def __init__(self, stored: Stored, link: bool, placed: Callable[[files.How], None]) -> None:
        """Stand for a stored set.

        Args:
            stored: The set.
            link: True if a hard link in the workspace will do.
            placed: Is told how the stored file was placed, once it is.
        """
        super().__init__()
        self._stored = stored
        self._link = link
        self._placed = placed
        self._names = pd.Index(stored.columns, dtype=object)
        self._values_read = None

    # --- what is answered from the names ---

    @property
    def empty(self) -> bool:
        """True for a set without rows or factors; the store holds none."""
        return bool(self._stored.rows == 0 or not len(self._names)) if self._is_lazy() else super().empty

    def __len__(self) -> int:
        return self._stored.rows if self._is_lazy() else super().__len__()

    @property
    def columns(self) -> pd.Index:
        """The factors' names, flat or as they were set."""
        return self._names if self._is_lazy() else pd.DataFrame.columns.__get__(self)

    @columns.setter
    def columns(self, names: Any) -> None:
        if self._is_lazy():
            without_rows = pd.DataFrame(np.empty((0, len(self._names))))
            without_rows.columns = names  # so that pandas says what they are, or refuses them
            self._names = without_rows.columns
        else:
            pd.DataFrame.columns.__set__(self, names)

    def sort_index(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return a frame with the same rows, which are sorted; with arguments, as pandas does."""
        if self._is_lazy() and not args and not kwargs:
            return self._again()
        return super().sort_index(*args, **kwargs)

    @property
    def loc(self) -> Any:
        """The accessor by label; all rows of all columns are this frame again."""
        return _Loc(self, super().loc) if self._is_lazy() else super().loc

    def to_parquet(self, path: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Place the stored file at `path` if this is what would be written there; else write, as pandas does.

        Raises:
            StoreError: if the stored file can't be placed.
        """
        plain = not args and set(kwargs) <= {"engine"} and kwargs.get("engine", "auto") in ("auto", "pyarrow")
        if not isinstance(path, (str, os.PathLike)) or "://" in os.fspath(path):
            return super().to_parquet(path, *args, **kwargs)
        target = Path(path).expanduser()  # as pandas does
        if plain and self._is_lazy() and not self.attrs and self._has_merged_names():
            self._placed(hand_out(self._stored, target, link=self._link))
            return None
        files.detach(target)
        return super().to_parquet(path, *args, **kwargs)

    # --- what reads the values ---

    @property
    def _mgr(self) -> Any:
        if self._values_read is None:
            try:
                frame = pd.read_parquet(self._stored.path)
            except OSError as error:  # pruned, or its disk is gone
                raise StoreError(
                    f"The stored factor set can't be read any more: {error.strerror or error}",
                    str(self._stored.path),
                    "resume the run; it writes the set's copy anew",
                ) from None
            frame.columns = self._names
            self._values_read = frame._mgr
        return self._values_read

    @_mgr.setter
    def _mgr(self, values: Any) -> None:
        object.__setattr__(self, "_values_read", values)

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def __reduce__(self) -> Any:
        return self.copy(deep=False).__reduce__()

    def _is_lazy(self) -> bool:
        return self._values_read is None

    def _again(self) -> StoredFrame:
        again = StoredFrame(self._stored, self._link, self._placed)
        again._names = self._names.view()  # so that names given to one are not the other's
        again.__finalize__(self)
        return again

    def _has_merged_names(self) -> bool:
        # With the names of the levels, which pandas writes too.
        return bool(self._names.identical(normal.nested_columns(self._stored.columns)))


class _Loc:
    """The accessor by label of a frame that is not read yet."""

    def __init__(self, frame: StoredFrame, accessor: Any) -> None:
        self._frame = frame
        self._accessor = accessor

    def __getitem__(self, key: Any) -> Any:
        # It may have been asked for before a value was changed.
        pair = isinstance(key, tuple) and len(key) == 2 and self._frame._is_lazy()
        if pair and _is_all(key[0], key[1], len(self._frame.columns)):
            return self._frame._again()
        return self._accessor[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._accessor[key] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._accessor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accessor, name)


def _is_all(rows: Any, mask: Any, columns: int) -> bool:
    """Return True for the slice of all rows and a mask of all columns."""
    if not (isinstance(rows, slice) and rows == slice(None) and isinstance(mask, np.ndarray)):
        return False
    return bool(mask.dtype == bool and mask.shape == (columns,) and mask.all())
