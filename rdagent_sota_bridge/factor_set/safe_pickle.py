"""Pickles read without foreign code: plain data, and inert stand-ins for everything else.

Nothing that a pickle names is imported or called. What pandas and numpy wrote is kept as the bytes that it
is, and becomes numbers through code of ours alone (`metrics`, `table`), where they are asked
for: numpy itself takes whatever type a file gives to bytes, and so lets 136 of them crash the process.
"""

from __future__ import annotations

import collections
import datetime
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What reading raises on damaged or foreign bytes (the documentation of `pickle` names most of them)."""


def load(content: BinaryIO) -> Any:
    """Return what a pickle holds.

    Raises:
        DAMAGE: if it is damaged, or no pickle.
    """
    return _Unpickler(content).load()


# --- what stands for foreign objects ---


class _StandIn:
    """What stands for an object of a class that is not imported: its attributes, and nothing it can do."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # Two dictionaries where the class has slots; other forms belong to foreign data such as arrays.
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take what a list would hold."""

    def extend(self, values: Any) -> None:
        """Take what a list would hold."""

    def add(self, value: Any) -> None:
        """Take what a set would hold."""


class _Kept(_StandIn):
    """A call that a pickle asks for and that is not made: its name, its arguments, and the state given."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> _Kept:
        made = object.__new__(cls)
        made.arguments, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Mapping(dict[Any, Any]):
    """A dictionary without what makes its missing values."""

    def __init__(self, *args: Any) -> None:
        super().__init__()


def _moment(*state: Any) -> Any:
    """Return a moment; of one in a foreign zone (pytz, in what RD-Agent logs of an LLM) a stand-in."""
    return _StandIn() if isinstance(state[-1], _StandIn) else datetime.datetime(*state)


# Harmless: they hold what they are given, and call nothing. Paths lose their tie to this machine's files.
_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "defaultdict"): _Mapping,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "deque"): collections.deque,
    ("datetime", "datetime"): _moment,
    **{("datetime", name): getattr(datetime, name) for name in ("date", "timedelta", "timezone")},
}
_PATHS = {
    "PosixPath": pathlib.PurePosixPath,
    "PurePosixPath": pathlib.PurePosixPath,
    "WindowsPath": pathlib.PureWindowsPath,
    "PureWindowsPath": pathlib.PureWindowsPath,
}
# The names of which series and frames are made (pandas 1.5 to 3.0, numpy 1.24 to 2.5). None of them is
# called: what they would be given is kept.
_KEPT = {
    "_reconstruct",  # numpy: an array, of which the state follows
    "_frombuffer",  # numpy: an array of a buffer (pickle's protocol 5)
    "dtype",
    "_new_Index",
    "_new_DatetimeIndex",
    "__pyx_unpickle_NDArrayBacked",  # pandas: the days of an index
    "_unpickle_block",  # pandas: some columns of one type
    "BlockManager",  # pandas: the blocks of a frame
    "slice",
}


class _Unpickler(pickle.Unpickler):
    """Unpickles plain data, and stand-ins for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class for a name in the pickle, never by importing it."""
        if module in ("pathlib", "pathlib._local") and name in _PATHS:  # 3.13 has them in _local
            return _PATHS[name]
        plain = _PLAIN.get((module, name))
        if plain is not None:
            return plain
        if name in _KEPT and module.split(".")[0] in ("numpy", "pandas", "builtins"):
            return type(name, (_Kept,), {"__module__": module, "name": name})
        return type(name.rpartition(".")[2], (_StandIn,), {"__module__": module})


# --- numbers of series and frames ---


def metrics(series: Any) -> dict[str, float]:
    """Return the numbers of a pickled series by their names, as `load` left it.

    Raises:
        DAMAGE: if it is no series of numbers with names.
    """
    axes, blocks = _parts(series._mgr)
    ((values, _),) = blocks
    names, numbers = _index(axes[0]), _numbers(_array(values))
    return {str(name): float(number) for name, number in zip(names, numbers, strict=True)}


def table(frame: Any) -> Any:
    """Return the DataFrame of numbers that a pickled one is, as `load` left it.

    Raises:
        DAMAGE: if it is no frame of numbers.
    """
    import pandas as pd  # late, as numpy below: a listing of sessions starts fast without them

    axes, blocks = _parts(frame._mgr)
    names, index = _index(axes[0]), _index(axes[1])
    columns = {}
    for values, places in blocks:
        positions = range(len(names))[slice(*map(int, places.arguments))]
        for row, position in zip(_array(values), positions, strict=True):
            columns[str(names[position])] = _numbers(row)
    if len(columns) != len(names):
        raise ValueError("the frame's columns are not whole")
    return pd.DataFrame(columns, index=index)


def _numbers(values: Any) -> Any:
    if values.dtype == object and any(isinstance(value, str) for value in values):
        raise TypeError("texts in place of numbers")
    return values.astype(float)


def _parts(manager: Any) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Return axes and blocks (values, and the columns that they are of) of what manages a frame's data."""
    if isinstance(manager, _Kept):  # of a frame
        blocks, axes = manager.arguments
        return list(axes), [tuple(block.arguments[:2]) for block in blocks]
    state = getattr(manager, "0.14.1")  # pandas' own name of the form that series have until today
    return list(state["axes"]), [(block["values"], block["mgr_locs"]) for block in state["blocks"]]


def _index(kept: Any) -> Any:
    data = kept.arguments[1]["data"]
    if data.name == "__pyx_unpickle_NDArrayBacked":
        (data,) = (part for part in data.state if isinstance(part, _Kept) and part.name != "dtype")
    return _array(data)


def _array(kept: Any) -> Any:
    """Return an array of numbers, days or texts, from the bytes that it was pickled as."""
    import numpy as np

    shape: Any
    if kept.name == "_frombuffer":
        content, dtype, shape, order = kept.arguments
    else:
        _, shape, dtype, is_fortran, content = kept.state
        order = "F" if is_fortran else "C"
    shape = tuple(int(length) for length in shape)
    if isinstance(content, list):
        found = np.empty(len(content), dtype=object)
        found[:] = [_plain(item) for item in content]
    else:
        found = np.frombuffer(bytes(content), dtype=_dtype(dtype))
    return found.reshape(shape, order="F" if order == "F" else "C")


def _plain(item: Any) -> Any:
    if item is None or isinstance(item, (str, int, float)):
        return item
    raise TypeError(f"a {type(item).__name__} in place of a text or number")


def _dtype(kept: Any) -> str:
    """Return the name of a type of numbers or days; of any other there is no array."""
    kind, byte_order = str(kept.arguments[0]), kept.state[1]
    if kind == "M8":
        unit, count = kept.state[-1][1][:2]
        unit = unit.decode("ascii") if isinstance(unit, bytes) else str(unit)
        kind = f"M8[{unit}]" if unit in ("s", "ms", "us", "ns") and count == 1 else ""
    if kind[:2] in ("f4", "f8", "i4", "i8", "M8") and byte_order in ("<", ">"):
        return f"{byte_order}{kind}"
    raise ValueError(f"an array of type {kept.arguments[0]}")
