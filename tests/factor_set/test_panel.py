"""The joined rows of factor files, against plain loops over plain frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Reason, UnequalFactorError
from rdagent_sota_bridge.factor_set import panel
from tests.frames import assert_survives_pickling, factor_frame, nested, with_level, write, write_table

DAYS = pd.bdate_range("2020-01-01", periods=8)
CODES = ("SH600000", "SH600004", "SH600006", "SZ000001", "SZ000002")


def written(folder: Path, *frames: pd.DataFrame) -> list[Path]:
    """Write frames as files of their own, and return the paths."""
    return [write(frame, folder, f"{number}.parquet") for number, frame in enumerate(frames)]


def plain(frames: Sequence[pd.DataFrame]) -> dict[tuple[pd.Timestamp, str], dict[str, float]]:
    """Return the join of frames as a table of tables: a factor's value is the first file's that has one."""
    table: dict[tuple[pd.Timestamp, str], dict[str, float]] = {}
    for frame in frames:
        frame = frame.reorder_levels(["datetime", "instrument"])
        for (day, code), row in zip(frame.index, frame.to_dict("records"), strict=True):
            cells = table.setdefault((day, str(code)), {})
            for name, value in row.items():
                if np.isnan(cells.get(str(name), np.nan)):
                    cells[str(name)] = np.nan if pd.isna(value) else float(value)
    return dict(sorted(table.items()))


def check_panel(paths: Sequence[Path], frames: Sequence[pd.DataFrame]) -> None:
    """Fail unless the files' panel has exactly the rows and values of the plain join of the frames."""
    table = plain(frames)
    with panel.opened(paths) as found:
        assert found.rows == len(table)
        assert list(found.dates) == sorted({day for day, _ in table})
        assert list(found.instruments) == sorted({code for _, code in table})
        rows = [
            (found.dates[day], found.instruments[code])
            for day, code in zip(found.date_codes, found.instrument_codes, strict=True)
        ]
        assert rows == list(table)
        first = {day: len(rows) - 1 - number for number, (day, _) in enumerate(reversed(rows))}
        assert list(found.starts) == [first[day] for day in found.dates]
        assert list(found.columns) == list(dict.fromkeys(name for frame in frames for name in frame))
        for name, values in panel.values(found):
            assert values.dtype == np.float64
            np.testing.assert_array_equal(values, [cells.get(name, np.nan) for cells in table.values()])
        assert found.label(0) == f"({rows[0][0]}, {rows[0][1]})"


def holes(frame: pd.DataFrame, share: float = 0.3, seed: int = 3) -> pd.DataFrame:
    """Return the frame with a share of its values gone."""
    return frame.mask(np.random.default_rng(seed).random(frame.shape) < share)


def shapes() -> dict[str, pd.DataFrame]:
    """Return frames of one file each, of every shape that a file may have."""
    frame = factor_frame(days=DAYS, instruments=CODES)
    codes = frame.index.get_level_values("instrument")
    return {
        "sorted": frame,
        "unsorted": frame.sample(frac=1, random_state=1),
        "sorted by instrument": frame.sort_index(level=["instrument", "datetime"]),
        "swapped levels": frame.swaplevel(),
        "swapped and unsorted": frame.swaplevel().sample(frac=1, random_state=2),
        "NaN": holes(frame),
        "rows missing": frame.sample(frac=0.5, random_state=3),
        "float32": frame.astype("float32"),
        "int64": frame.astype("int64"),
        "int with nulls": holes(frame.round()).astype("Int32"),
        "categories": with_level(frame, "instrument", codes.astype("category")),
        "categories in another order": with_level(
            frame, "instrument", pd.Categorical(codes, categories=["XX", *reversed(CODES), "AA"])
        ),
        "times of day": with_level(
            frame, "datetime", frame.index.get_level_values("datetime") + pd.Timedelta(hours=15)
        ),
        "one row": frame.iloc[:1],
        "one instrument": frame.xs(CODES[2], level="instrument", drop_level=False),
        "one day": frame.xs(DAYS[2], level="datetime", drop_level=False),
    }


@pytest.mark.parametrize("shape", shapes())
def test_one_file_alone_and_joined(tmp_path: Path, shape: str) -> None:
    """A file of any shape, alone or joined, gives sorted rows, and float64 values with NaN for none."""
    frame = shapes()[shape]
    check_panel(written(tmp_path, frame), [frame])
    days = DAYS[3:].union(DAYS[-1:] + pd.Timedelta(days=5))
    other = factor_frame(["reversal"], days=days, instruments=CODES[2:])
    check_panel(written(tmp_path, frame, other), [frame, other])
    check_panel(written(tmp_path, other, nested(frame)), [other, frame])


def test_three_files(tmp_path: Path) -> None:
    """Files that share days, instruments or nothing at all are joined."""
    frames = [
        factor_frame(["a", "b"], days=DAYS[:3], instruments=CODES[:2]).sample(frac=1, random_state=1),
        holes(factor_frame(["c"], days=DAYS[2:6], instruments=CODES[1:4], dtype="float32")),
        factor_frame(["d"], days=DAYS[6:], instruments=CODES[4:]).swaplevel(),
    ]
    check_panel(written(tmp_path, *frames), frames)


@pytest.mark.parametrize("unsorted", [False, True])
def test_factor_in_several_files(tmp_path: Path, unsorted: bool) -> None:
    """A factor that is equal in several files has the values of all of them, once."""
    frame = factor_frame(["a", "b"], days=DAYS, instruments=CODES)
    frames = [
        holes(frame[["a"]].loc[DAYS[:5]], seed=1),
        holes(frame.loc[DAYS[2:]], seed=2),
        frame[["b", "a"]].xs(CODES[0], level="instrument", drop_level=False),
    ]
    frames = [part.sample(frac=1, random_state=1) for part in frames] if unsorted else frames
    check_panel(written(tmp_path, *frames), frames)
    check_panel(written(tmp_path, *frames[::-1]), frames[::-1])
    same = written(tmp_path, frame)[0]
    check_panel([same, same], [frame])


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_factor_in_two_precisions(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    """A factor as float32 and as float64 is one factor, and the first file's value is taken."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    frames = [frame.iloc[:30].astype(dtypes[0]), frame.iloc[10:].astype(dtypes[1])]
    assert not frame.astype("float32").astype("float64").equals(frame)
    check_panel(written(tmp_path, *frames), frames)


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (1.0, 1 + 0.9e-6, True),
        (1.0, 1 + 1.0000005e-6, True),
        (1.0, 1 + 1.1e-6, False),
        (-1e-30, -1e-30 * (1 + 0.9e-6), True),
        (1e30, 1e30 * (1 + 1.1e-6), False),
        (5.0, -5.0, False),
        (0.0, -0.0, True),
        (0.0, 1e-9, True),
        (0.0, 1e-3, False),
        (1.0, float("nan"), True),
    ],
)
def test_tolerance(tmp_path: Path, first: float, second: float, equal: bool) -> None:
    """Equal up to a millionth of the larger and rounding beside zero; beyond it the row is named."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    other = frame.copy()
    frame.iloc[7], other.iloc[7] = first, second
    for one, two, values in ((frame, other, (first, second)), (other, frame, (second, first))):
        paths = written(tmp_path, one, two)
        if equal:
            check_panel(paths, [one, two])
            continue
        with panel.opened(paths) as found, pytest.raises(UnequalFactorError) as caught:
            found.read("a")
        error = caught.value
        assert error.fact == (
            "The factor a has other values in two sets: at (2020-01-02 00:00:00, SH600006), the first of 1 "
            f"rows, {values[0]:.6g} and {values[1]:.6g}"
        )
        assert error.place == f"{paths[0]} and {paths[1]}, column a"
        assert "SOTA_FACTORS_EXCLUDE" in error.fix
        assert_survives_pickling(error)


def test_unequal_in_many_rows(tmp_path: Path) -> None:
    """Rows that differ are counted where both files have a value, and nowhere else."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    other = frame.iloc[10:] + 1
    other.iloc[:5] = np.nan
    paths = written(tmp_path, frame.sample(frac=1, random_state=1), other)
    with pytest.raises(
        UnequalFactorError, match=r"at \(2020-01-06 00:00:00, SH600000\), the first of 25 rows"
    ):
        panel.examine(paths)


@pytest.mark.parametrize("rows", ["none in common", "in common without a value"])
def test_no_common_value(tmp_path: Path, rows: str) -> None:
    """A factor in two files that nothing shows to be the same is refused, whatever the reason."""
    frame = factor_frame(["a"], days=DAYS, instruments=CODES)
    one, two = frame.iloc[:20], frame.iloc[20:]
    if rows == "in common without a value":
        one, two = one.reindex(frame.index), two.reindex(frame.index)
    with pytest.raises(UnequalFactorError, match="share no row with a value of it"):
        panel.examine(written(tmp_path, one, two))


def test_choice(tmp_path: Path) -> None:
    """Only chosen factors are read, in the chosen order; a file without one adds no row and no fault."""
    frames = [
        factor_frame(["a", "b"], days=DAYS[:4], instruments=CODES[:2]),
        factor_frame(["c"], days=DAYS[4:], instruments=CODES[2:]),
        factor_frame(["b"], days=DAYS, instruments=CODES, seed=1),
    ]
    frames[2] = pd.concat([frames[2], frames[2]])  # rows twice
    frames[2]["b"] = np.inf
    seen: list[object] = []

    def choose(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        seen.extend(columns)
        return ("c", "a")

    paths = written(tmp_path, *frames)
    with panel.opened(paths, choose) as found:
        assert seen == [("a", "b"), ("c",), ("b",)]
        assert found.columns == ("c", "a")
        assert [file.path for file in found.files] == paths[:2]
        assert [name for name, _ in panel.values(found)] == ["c", "a"]
        assert found.rows == len(frames[0]) + len(frames[1])
    with panel.opened(paths, lambda columns: ("c",)) as found:
        assert (found.rows, found.instruments) == (len(frames[1]), CODES[2:])
        assert list(found.dates) == list(DAYS[4:])


def test_arrow_dictionary_with_an_instrument_twice(tmp_path: Path) -> None:
    """Codes of a dictionary that holds one instrument twice are one instrument."""
    frame = factor_frame(["a"], days=DAYS[:2], instruments=CODES[:2])
    table = pa.Table.from_pandas(frame)
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 2, 1, 2]), pa.array([CODES[0], CODES[0], CODES[1]]))
    place = table.schema.get_field_index("instrument")
    path = write_table(table.set_column(place, "instrument", codes), tmp_path)
    check_panel([path], [frame])


def test_unequal_among_three_files(tmp_path: Path) -> None:
    """The message names the two files that differ, not the first that has the factor."""
    frame = factor_frame(["a"])
    parts = [frame.iloc[:3], frame.iloc[3:], frame.iloc[2:] * 2]
    parts[2].iloc[0] /= 2
    paths = [write(part, tmp_path, f"{number}.parquet") for number, part in enumerate(parts)]
    shared = write(frame.iloc[2:4], tmp_path, "shared.parquet")
    with (
        panel.opened([paths[0], shared, paths[1], paths[2]]) as found,
        pytest.raises(UnequalFactorError) as caught,
    ):
        found.read("a")
    assert f"{shared} and {paths[2]}" in caught.value.place


@pytest.mark.parametrize("place", [0, 1])
def test_faults_of_rows_and_chosen_columns_stand_together(tmp_path: Path, place: int) -> None:
    """A file with rows that stand there twice is refused, with the faults of the chosen columns alone."""
    frame = factor_frame(["a", "b", "c"], days=DAYS, instruments=CODES)
    frame = pd.concat([frame, frame.iloc[:3]])
    frame["a"], frame["b"] = np.nan, np.inf
    frames = [factor_frame(["d"], days=DAYS, instruments=CODES)]
    frames.insert(place, frame)
    paths = written(tmp_path, *frames)
    with pytest.raises(FactorFileError) as caught, panel.opened(paths, lambda columns: ("a", "c", "d")):
        pass
    assert caught.value.path == str(paths[place])
    assert [failure.reason for failure in caught.value.failures] == [Reason.DUPLICATE_ROW, Reason.ALL_NAN]
