"""What the store puts into a workspace, against what RD-Agent's own statements make of pandas' frame."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from examples.demo.market import Market
from rdagent_sota_bridge.factor_set import panel
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import seams
from tests.frames import factor_frame, nested, with_level, write, write_table
from tests.normal import (
    CODES,
    DAYS,
    NAMES,
    TYPES,
    Case,
    assert_equal,
    by_pandas,
    cases,
    check_files,
    handed_over,
    kept,
    merge_path,
    normalised,
    plain_case,
)

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
REPEATABLE = settings.get_profile("repeatable")

# --- the property ---


@given(case=cases(), rows=st.sampled_from([3, 1 << 18]))
@example(case=plain_case(factor_frame(NAMES[:6])), rows=1 << 18)
@example(case=plain_case(factor_frame(NAMES, dtype="float32").iloc[::-1]), rows=5)
@settings(REPEATABLE)
def test_what_is_handed_over_is_what_pandas_writes(case: Case, rows: int) -> None:
    """Whatever the frame and however it is written, each value, type, name and level arrives."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "_GROUP_ROWS", rows)
        folder = Path(name)
        path = case.written(folder)
        content = path.read_bytes()
        found = check_files([path], folder)
        assert list(found.columns) == [("feature", name) for name in case.frame.columns]
        assert path.read_bytes() == content


@given(
    drawn=st.lists(cases(), min_size=2, max_size=3),
    rows=st.sampled_from([3, 1 << 18]),
    choose=st.randoms(use_true_random=False),
)
@settings(REPEATABLE, max_examples=20)
def test_joins_are_what_pandas_makes(drawn: list[Case], rows: int, choose: Any) -> None:
    """Two or three files, any of their columns in any order, arrive as pandas' join of them."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "_GROUP_ROWS", rows)
        folder, paths, seen = Path(name), [], set()
        for number, case in enumerate(drawn):
            (folder / str(number)).mkdir()
            fresh = [name for name in case.frame.columns if name not in seen]
            if not fresh:
                fresh = [f"only {number}"]
                case = plain_case(case.frame.iloc[:, :1].set_axis(pd.Index(fresh, dtype=object), axis=1))
            seen |= set(fresh)
            case = Case(case.frame[fresh], *list(vars(case).values())[1:])
            paths.append(case.written(folder / str(number)))
        with panel.opened(paths) as found:
            columns = list(found.columns)
        # At least one column of each file: a file without one is no part of the set.
        choose.shuffle(columns)
        check_files(paths, folder, columns)


# --- RD-Agent's develop itself ---


LAYOUTS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], Case]] = {
    "as RD-Agent writes it": lambda frame, _: plain_case(frame.drop(columns=["datetime", "instrument"])),
    "names of levels": lambda frame, _: plain_case(frame),
    "flat": lambda frame, _: Case(frame, False, False, "text", "ns", "pandas"),
    "unsorted": lambda _, shuffled: Case(shuffled, True, False, "text", "ns", "row groups"),
    "swapped, flat, categories": lambda _, mixed: Case(mixed, False, True, "categories", "us", "pandas"),
    "NaN kept": lambda frame, _: Case(frame, True, False, "text", "ns", "NaN kept"),
}
"""How a set on a market is written, of its frame and of the shuffled one."""


def colliding(market: Market) -> pd.DataFrame:
    """Return a frame with names that collide with others."""
    frame = seams.factor_frame(market, RESI5=1.0, datetime=0.5, instrument=2.0)
    frame = frame.rename(columns={"datetime": "动量 (20日)"})
    frame = frame.assign(size=np.arange(len(frame)), low=frame["RESI5"].astype("float32"))
    frame["low"] = frame["low"].where(frame["low"] < 1)
    frame["datetime"] = -0.0
    frame.iloc[5, -1] = 1e300
    return frame


def unmodified(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Return what RD-Agent's `develop` writes without the package, where its merge gives a frame."""
    from rdagent.scenarios.qlib.developer import model_runner

    from rdagent_sota_bridge.bridge import experiment as experiments

    with monkeypatch.context() as patch:
        patch.delenv("LOAD_SOTA_FROM_WORKSPACE")
        patch.setattr(model_runner, "process_factor_data", lambda listed: frame)
        experiment = seams.model_experiment()
        experiment.based_experiments = [experiments.base_experiment(), experiments.base_experiment()]
        seams.develop_up_to_qlib(seams.build_runner(), experiment)
    return pd.read_parquet(experiment.experiment_workspace.workspace_path / FACTOR_FILE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_develop_writes_the_same_with_and_without_us(
    market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """RD-Agent's `develop`, given our frame, leaves in the workspace what it writes of pandas' frame."""
    folder, market = market_home
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    frame = colliding(market)
    case = LAYOUTS[layout](frame, frame.sample(frac=0.9, random_state=2))
    path = case.written(tmp_path)
    seams.switch_on(monkeypatch, path, SOTA_MAX_CORRELATION="off")
    experiment = seams.develop_up_to_qlib(seams.build_runner(), seams.model_experiment())
    found = pd.read_parquet(experiment.experiment_workspace.workspace_path / FACTOR_FILE)
    assert [name for _, name in found.columns] == list(case.frame.columns)
    if hasattr(experiment, "base_features"):
        assert "RESI5" in experiment.base_features, "RD-Agent's own object is given back as it was"
    assert_equal(found, unmodified(normalised(pd.read_parquet(path)), monkeypatch))
    # And `merge_path` is as good as it.
    assert_equal(found, check_files([path], tmp_path))


# --- choice and joins ---


def written(folder: Path, *frames: pd.DataFrame) -> list[Path]:
    """Write frames as files of their own, and return the paths."""
    return [write(frame, folder, f"{number}.parquet") for number, frame in enumerate(frames)]


def base() -> pd.DataFrame:
    """Return the frame that the cases below are parts of."""
    return factor_frame(["a", "b", "c"], days=DAYS, instruments=CODES[:5])


@pytest.mark.parametrize("columns", [("b",), ("c", "a"), ("b", "a", "c"), ("a", "b", "c")], ids=str)
@pytest.mark.parametrize("order", ["sorted", "unsorted"])
def test_chosen_columns(tmp_path: Path, columns: tuple[str, ...], order: str) -> None:
    """Some columns of a file, in any order, are all that arrives."""
    frame = base() if order == "sorted" else base().sample(frac=0.8, random_state=1)
    found = check_files(written(tmp_path, nested(frame)), tmp_path, columns)
    assert list(found["feature"]) == list(columns)


@pytest.mark.parametrize("group_rows", [1, 7, 40, 1 << 18])
def test_several_files(tmp_path: Path, group_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files with gaps, a factor in two and in three of them, in few rows a group and in many."""
    monkeypatch.setattr(panel, "_GROUP_ROWS", group_rows)
    frame = base().assign(d=base()["a"] * 2)
    frames = [
        frame[["a", "b"]].iloc[:18].sample(frac=1, random_state=1),
        nested(frame[["b", "c", "a"]].iloc[10:30]),
        frame[["a", "d"]].iloc[5:].swaplevel(),
    ]
    paths = written(tmp_path, *frames)
    found = check_files(paths, tmp_path)
    assert len(found) == 40
    assert found["feature"]["b"].isna().sum() == 10
    (file,) = (tmp_path / "store").glob("*.parquet")
    groups = pq.ParquetFile(file).metadata.num_row_groups
    assert groups == -(-40 // group_rows)
    (tmp_path / "turned").mkdir()
    check_files(paths[::-1], tmp_path / "turned")


@pytest.mark.parametrize(
    ("first", "second", "gap", "expected"),
    [
        ("float64", None, True, "float64"),
        ("float32", None, True, "float32"),
        ("float32", None, False, "float32"),
        ("float16", None, True, "float16"),
        ("int64", None, False, "int64"),
        ("int64", None, True, "float64"),
        ("int8", None, False, "int8"),
        ("int8", None, True, "float64"),
        ("uint64", None, False, "uint64"),
        ("uint64", None, True, "float64"),
        ("float32", "float64", True, "float64"),
        ("float64", "float32", True, "float64"),
        ("float32", "float32", True, "float32"),
        ("float16", "float32", True, "float32"),
        ("int32", "int64", False, "float64"),
        ("int64", "float32", False, "float64"),
        ("int32", "int32", True, "float64"),
    ],
)
def test_types_in_a_join(tmp_path: Path, first: str, second: str | None, gap: bool, expected: str) -> None:
    """An integer stays one where every row has it; two types become one that holds both."""
    frame = base()[["a", "b"]].round().clip(0, 100)
    other = frame[["b"]].assign(**({"a": frame["a"].astype(second)} if second else {}))
    one = frame[["a"]].astype(first)
    paths = written(tmp_path, one.iloc[:30] if gap else one, other.iloc[5:])
    found = check_files(paths, tmp_path, ("a", "b"))
    assert found["feature"]["a"].dtype == expected


def test_integers_that_no_float_holds(tmp_path: Path) -> None:
    """Large integers arrive to the last digit: unsorted, and in a join; two types make one."""
    frame = base()[["a"]].assign(a=2**62 + 1 + np.arange(40))
    paths = written(tmp_path, frame.sample(frac=1, random_state=1), base()[["b"]])
    for number, files in enumerate((paths[:1], paths[:2])):
        (tmp_path / f"turn {number}").mkdir()
        found = check_files(files, tmp_path / f"turn {number}")
        assert list(found["feature"]["a"]) == list(frame["a"])
    small = base().round()[["a"]]
    for kinds in (("int32", "int64"), ("int64", "int32"), ("int64", "int64")):
        folder = tmp_path / "-".join(kinds)
        folder.mkdir()
        found = check_files(written(folder, *(small.astype(kind) for kind in kinds)), folder)
        assert found["feature"]["a"].dtype == "int64"


# --- is_normal ---


def decide(path: Path, columns: tuple[str, ...] | None = None) -> bool:
    """Return what `is_normal` says of a file."""
    with panel.opened([path], None if columns is None else lambda _: columns) as found:
        return panel.is_normal(found)


@pytest.mark.parametrize("writer", ["pandas", "row groups", "plain", "NaN kept"])
@pytest.mark.parametrize("kind", TYPES)
def test_normal_is_what_rdagent_writes(tmp_path: Path, writer: str, kind: str) -> None:
    """What the merge path writes is normal, by any writer that keeps pandas' schema; bytes are kept then."""
    frame = base().abs().round().astype(kind)
    path = Case(frame, True, False, "text", "ns", writer).written(tmp_path)
    assert decide(path)
    stored = kept([path], tmp_path / "store")
    assert stored.path.read_bytes() == path.read_bytes()
    assert_equal(handed_over(stored, tmp_path), by_pandas(frame, tmp_path))


def test_what_the_store_writes_is_normal(tmp_path: Path) -> None:
    """A set that was written anew stands in normal form: pandas' own schema, and null for no value."""
    frame = base().mask(base() > 50)
    (path,) = written(tmp_path, frame.sample(frac=1, random_state=1))
    stored = kept([path], tmp_path / "store")
    assert decide(stored.path)
    merge_path(frame, tmp_path / "expected.parquet")
    found, expected = (pq.read_table(file) for file in (stored.path, tmp_path / "expected.parquet"))
    assert found.equals(expected)
    assert found.schema.pandas_metadata == expected.schema.pandas_metadata


def arrow(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], Path]:
    """Return a maker of a file whose table was changed."""
    return lambda folder: write_table(change(pa.Table.from_pandas(nested(base()))), folder)


def pandas(frame: Callable[[], pd.DataFrame]) -> Callable[[Path], Path]:
    """Return a maker of a file of a frame."""
    return lambda folder: write(frame(), folder)


def level(name: str, values: Callable[[pd.Index], Any]) -> Callable[[Path], Path]:
    """Return a maker of a file with one level of the index made otherwise."""
    return pandas(lambda: nested(with_level(base(), name, values(base().index.get_level_values(name)))))


def cast(name: str, kind: pa.DataType) -> Callable[[Path], Path]:
    """Return a maker of a file with a field of another type."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, table[name].cast(kind)).replace_schema_metadata(
            table.schema.metadata
        )

    return arrow(change)


def other_fields_first(table: pa.Table) -> pa.Table:
    """Put the levels before the factors, as other writers do."""
    return table.select([*table.schema.names[-2:], *table.schema.names[:-2]])


def described_otherwise(part: str, table: pa.Table) -> pa.Table:
    """Let pandas' description of the last level or column say more than pandas does."""
    said = table.schema.pandas_metadata
    said[part][-1]["metadata"] = {"encoding": "UTF-8", "note": "ours"}
    return table.replace_schema_metadata({b"pandas": json.dumps(said).encode()})


NOT_NORMAL: dict[str, Callable[[Path], Path]] = {
    "flat": pandas(base),
    "unsorted": pandas(lambda: nested(base().iloc[::-1])),
    "sorted by instrument": pandas(lambda: nested(base().sort_index(level=1))),
    "one row displaced": pandas(lambda: nested(pd.concat([base().iloc[1:], base().iloc[:1]]))),
    "swapped": pandas(lambda: nested(base().swaplevel())),
    "swapped and sorted": pandas(lambda: nested(base().swaplevel().sort_index())),
    "categories": level("instrument", lambda codes: codes.astype("category")),
    "categories in another order": level(
        "instrument", lambda codes: pd.Categorical(codes, categories=["XX", *reversed(CODES)])
    ),
    "microseconds": level("datetime", lambda days: pd.DatetimeIndex(days).as_unit("us")),
    "milliseconds": level("datetime", lambda days: pd.DatetimeIndex(days).as_unit("ms")),
    "seconds": level("datetime", lambda days: pd.DatetimeIndex(days).as_unit("s")),
    "string[pyarrow]": level("instrument", lambda codes: codes.astype("string[pyarrow]")),
    "string[python]": level("instrument", lambda codes: codes.astype("string[python]")),
    "named column levels": pandas(lambda: nested(base()).rename_axis(columns=["group", "factor"])),
    "Int64": pandas(lambda: nested(base().round().astype("Int64"))),
    "Int64 with gaps": pandas(lambda: nested(base().round().mask(base() > 50).astype("Int64"))),
    "Float32": pandas(lambda: nested(base().mask(base() > 50).astype("Float32"))),
    "integers with nulls": arrow(
        lambda table: table.set_column(0, table.schema.names[0], pa.array([None, *range(39)], pa.int64()))
    ),
    "integer names": pandas(lambda: nested(base().set_axis([1, 2, 3], axis=1))),
    "flat integer names": pandas(lambda: base().set_axis([3, 1, 2], axis=1)),
    "names of dates": pandas(lambda: nested(base().set_axis(DAYS[:3], axis=1))),
    "large strings": cast("instrument", pa.large_string()),
    "dictionary": arrow(
        lambda table: table.set_column(4, "instrument", table["instrument"].dictionary_encode())
    ),
    "levels first": arrow(other_fields_first),
    "extra words about a level": arrow(functools.partial(described_otherwise, "columns")),
    "extra words about the columns": arrow(functools.partial(described_otherwise, "column_indexes")),
}


@pytest.mark.parametrize("what", NOT_NORMAL)
def test_what_is_not_normal(tmp_path: Path, what: str) -> None:
    """A file in another form is written anew, and is right; the second time it is normal."""
    path = NOT_NORMAL[what](tmp_path)
    assert not decide(path)
    found = check_files([path], tmp_path)
    assert found.index.levels[0].dtype == "datetime64[ns]"
    assert found.index.levels[1].dtype == object
    (again,) = (tmp_path / "store").glob("*.parquet")
    assert decide(again)


def test_a_part_of_a_set_or_two_files_are_not_normal(tmp_path: Path) -> None:
    """Some columns of a normal file, another order, or a second normal file: the set is written anew."""
    paths = written(tmp_path, nested(base()), nested(base()[["a"]].iloc[3:]))
    columns = (None, ("a", "b", "c"), ("a", "b"), ("a", "c", "b"))
    assert [decide(paths[0], some) for some in columns] == [True, True, False, False]
    assert decide(paths[1])
    with panel.opened(paths) as found:
        assert not panel.is_normal(found)
    check_files(paths, tmp_path)
