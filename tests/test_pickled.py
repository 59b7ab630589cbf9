"""Pickles are read without foreign code, and what pandas wrote becomes the numbers that it held."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytz

from rdagent_sota_bridge import pickled


def read(content: object, protocol: int = pickle.HIGHEST_PROTOCOL) -> Any:
    """Return an object as it is read back from its pickle."""
    return pickled.load(io.BytesIO(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "series",
    [
        pd.Series({"IC": 0.1, "Rank IC": np.nan, "ffr": -np.inf}, name="0"),
        pd.Series({"a": 1, "b": -2}),
        pd.Series({"a": 1.5, "b": 2}, dtype="float32"),
        pd.Series({"a": 1.5, "b": 2}, dtype=object),
        pd.Series({"a": 1.5}, dtype=">f8"),
        pd.Series([], index=pd.Index([], dtype=object), dtype=float),
        pd.Series({1: 2.0}),
    ],
    ids=["float", "whole", "narrow", "objects", "byte order", "empty", "numbers as names"],
)
def test_series(series: pd.Series, protocol: int) -> None:
    """Every number stands at its name, in whatever form the pickle has it."""
    expected = {str(name): float(value) for name, value in series.items()}
    assert pickled.metrics(read(series, protocol)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_frames(unit: str, protocol: int) -> None:
    """Columns of several types, in rows of any day, are what they were, in both orders of memory."""
    index = pd.DatetimeIndex(["2017-01-03", "2017-01-04", "2020-02-29"]).as_unit(unit)
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0], "n": [1, 2, 3], "b": [0.5, 0.25, -1]}, index=index)
    frame["c"] = np.array([1, 2, 3], dtype="float32")
    for one in (frame, frame.copy(), frame.T.copy().T, frame[["b", "a"]]):
        found = pickled.table(read(one, protocol))
        np.testing.assert_array_equal(found.index, one.index.to_numpy())
        assert list(found.columns) == list(one.columns) or set(found.columns) == set(one.columns)
        for name, values in one.items():
            np.testing.assert_array_equal(found.columns[str(name)], values.to_numpy(dtype=float))


def test_moments() -> None:
    """A moment in Python's own zones is what it was; one in a foreign zone does not stop the reading."""
    plain = datetime(2026, 1, 5, 9, 30, 1, 7)
    for moment in (
        plain,
        plain.replace(tzinfo=timezone.utc),
        plain.replace(tzinfo=timezone(timedelta(hours=8))),
    ):
        assert read({"at": moment}) == {"at": moment}
    found = read({"at": pytz.timezone("Asia/Shanghai").localize(plain), "resp": "yes"})
    assert found["resp"] == "yes"
    assert not isinstance(found["at"], datetime)


@pytest.mark.parametrize(
    "content",
    [
        7,
        {"a": 1},
        np.arange(3.0),
        pd.Index(["a"]),
        pd.Series(["text"]),
        pd.Series([1.0 + 2j]),
        pd.Series(pd.Categorical(["a"])),
        pd.Series(pd.array([1, None])),
        pd.Series([[1.0]]),
    ],
    ids=lambda content: type(content).__name__,
)
def test_what_is_no_series_of_numbers(content: object) -> None:
    """Anything else is one of the errors that callers expect."""
    with pytest.raises(pickled.DAMAGE):
        pickled.metrics(read(content))


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": ["text"]}, index=["x"]),
        pd.DataFrame({"a": [1.0]}, index=pd.MultiIndex.from_tuples([("x", "y")])),
        pd.DataFrame([[1.0, 2.0]], columns=["a", "a"], index=["x"]),
        pd.DataFrame({"a": pd.DatetimeIndex(["2017-01-03"], tz="UTC")}, index=["x"]),
    ],
    ids=["texts", "two levels", "a name twice", "time zone"],
)
def test_what_is_no_frame_of_numbers(frame: pd.DataFrame) -> None:
    """A frame that is not read whole is not read at all."""
    with pytest.raises(pickled.DAMAGE):
        pickled.table(read(frame))


class _Hostile:
    """Asks the unpickler to make a folder."""

    def __init__(self, folder: Path, call: Any = os.mkdir) -> None:
        self.folder, self.call = folder, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_is_run(protocol: int, tmp_path: Path) -> None:
    """What a pickle asks for is neither called nor imported, wherever it stands."""
    for content in (
        _Hostile(tmp_path / "a"),
        [_Hostile(tmp_path / "a")],
        {"x": _Hostile(tmp_path / "a")},
        pd.Series([_Hostile(tmp_path / "a")], index=["IC"]),
    ):
        read(content, protocol)
    assert list(tmp_path.iterdir()) == []


def test_a_call_under_a_kept_name_is_not_made(tmp_path: Path) -> None:
    """A name that is kept is kept as a text: no function behind it is called."""
    mark = tmp_path / "made"
    source = f"cbuiltins\nslice\n(cos\nmkdir\n(V{mark}\ntRtR."
    found = pickled.load(io.BytesIO(source.encode()))
    assert not isinstance(found, slice)
    assert not mark.exists()


def test_neither_pandas_nor_numpy_is_imported() -> None:
    """Reading a session that holds pandas' data imports neither: a listing stays fast."""
    content = pickle.dumps(pd.Series({"IC": 1.0}))
    code = (
        "import io, sys\nfrom rdagent_sota_bridge import pickled\n"
        f"pickled.load(io.BytesIO({content!r}))\n"
        "print([name for name in ('pandas', 'numpy') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
