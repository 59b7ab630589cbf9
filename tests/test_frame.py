"""The frame of a stored set: nothing is read for the merge path, and all else is answered as pandas does."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import operator
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge import factors, placing, store
from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.frame import StoredFrame
from tests.frames import factor_frame, nested, write

COLUMNS = ("momentum", "turnover", "市值 (log)")
DAYS = ("2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07")
DAY = pd.Timestamp(DAYS[1])
ALL = np.ones(len(COLUMNS), dtype=bool)
SOME = np.array([True, False, True])


@dataclass(frozen=True)
class Place:
    """A stored set, what pandas reads of its source, and how it was placed."""

    stored: store.Stored
    source: Path
    placed: list[placing.How]

    def lazy(self) -> StoredFrame:
        """Return a frame of the set that is not read yet."""
        return StoredFrame(self.stored, True, self.placed.append)

    def real(self) -> pd.DataFrame:
        """Return the frame that pandas would have."""
        return pd.read_parquet(self.source)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Store a set with two types, gaps in the panel and missing values, once."""
    folder = tmp_path_factory.mktemp("kept")
    frame = factor_frame(COLUMNS, days=DAYS).astype({"turnover": "float32"}).drop(index=(DAY, "SH600004"))
    frame.iloc[2, 0] = np.nan
    frame.iloc[3, 1] = -0.0
    path = write(frame, folder, "source.parquet")
    digest = factors.current_digest(path)
    return Place(store.keep(store.Wanted(digest, COLUMNS, ((path, digest),)), folder / "store"), path, [])


@pytest.fixture
def place(kept: Place, tmp_path: Path) -> Place:
    """Give a test a stored file of its own, which it may take away."""
    path = tmp_path / "stored.parquet"
    shutil.copy(kept.stored.path, path)
    return Place(dataclasses.replace(kept.stored, path=path), kept.source, [])


@pytest.fixture(params=[False, True], ids=["", "copy on write"])
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let pandas' warnings be errors, in both of its modes of copying."""
    with pd.option_context("mode.copy_on_write", request.param), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a parquet file's values are read."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the values were read")

    for module, name in ((pd, "read_parquet"), (pq, "read_table"), (pq.ParquetFile, "read")):
        monkeypatch.setattr(module, name, refuse)


def assert_same(found: Any, expected: Any) -> None:
    """Fail unless two answers are the same, exactly, and the first holds no frame of ours."""
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True, check_column_type=True)
        assert found.attrs == expected.attrs
        assert (
            np.signbit(found.select_dtypes("number")) == np.signbit(expected.select_dtypes("number"))
        ).all(axis=None)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(found, expected, check_exact=True)
    elif isinstance(expected, pd.Index):
        pd.testing.assert_index_equal(found, expected, exact=True)
        assert [level.dtype for level in getattr(found, "levels", [found])] == [
            level.dtype for level in getattr(expected, "levels", [expected])
        ]
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected or (found != found and expected != expected)


def answer_of(ask: Callable[[pd.DataFrame], Any], frame: pd.DataFrame) -> Any:
    """Return what is answered, or the type and the text of the refusal."""
    try:
        return ask(frame)
    except Exception as error:
        return type(error).__name__, str(error).replace("StoredFrame", "DataFrame")


def values_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a plain frame of what a frame holds now."""
    return pd.DataFrame({number: frame.iloc[:, number] for number in range(frame.shape[1])}).set_axis(
        frame.columns, axis=1
    )


# --- what is answered from the names ---


def merged(frame: pd.DataFrame) -> pd.DataFrame:
    """Do what the merge path does with a frame before it writes it."""
    frame = frame.sort_index()
    frame = frame.loc[:, ~frame.columns.duplicated(keep="last")]
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    return frame


def test_the_merge_path_reads_nothing(place: Place, unread: None, strict: None, tmp_path: Path) -> None:
    """All of it but the writing works though the stored file is gone; the writing places that file."""
    away = place.stored.path.rename(tmp_path / "away")
    frame = place.lazy()
    assert not frame.empty
    assert len(frame) == place.stored.rows == 11
    assert list(frame.columns) == list(COLUMNS)
    assert "momentum" in frame
    assert list(frame) == list(frame.keys()) == list(COLUMNS)
    result = merged(frame)
    assert isinstance(result, StoredFrame)
    assert list(frame.columns) == list(COLUMNS), "the first frame keeps its names"
    assert list(result.columns) == [("feature", name) for name in COLUMNS]
    assert (len(result), result.empty, len(result.columns)) == (11, False, 3)
    away.rename(place.stored.path)
    target = tmp_path / "combined_factors_df.parquet"
    assert result.to_parquet(target, engine="pyarrow") is None
    assert target.read_bytes() == place.stored.path.read_bytes()
    assert len(place.placed) == 1
    assert target.samefile(place.stored.path) == (place.placed == ["link"])


@pytest.mark.parametrize("how", [str, Path])
@pytest.mark.parametrize("engine", [{}, {"engine": "auto"}, {"engine": "pyarrow"}], ids=str)
def test_placing(place: Place, unread: None, tmp_path: Path, how: type, engine: dict[str, str]) -> None:
    """Any spelling of the merge path's call places the file, in place of what is there, again and again."""
    target = tmp_path / "combined_factors_df.parquet"
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    os.link(other, target)
    for _ in range(2):
        merged(place.lazy()).to_parquet(how(target), **engine)
        assert target.read_bytes() == place.stored.path.read_bytes()
    assert other.read_bytes() == b"precious"
    assert len(place.placed) == 2
    assert not list(tmp_path.glob(".*"))


def test_where_a_link_will_not_do(place: Place, tmp_path: Path) -> None:
    """In a container's workspace the file is one of its own."""
    frame = StoredFrame(place.stored, False, place.placed.append)
    merged(frame).to_parquet(tmp_path / "own.parquet")
    assert place.placed[0] in ("copy", "clone")
    assert (tmp_path / "own.parquet").stat().st_nlink == place.stored.path.stat().st_nlink == 1
    assert (tmp_path / "own.parquet").read_bytes() == place.stored.path.read_bytes()


def test_a_place_that_is_not_there(place: Place, tmp_path: Path) -> None:
    """A stored file that can't be placed is one message, and nothing is told as placed."""
    with pytest.raises(StoreError, match="No such file"):
        merged(place.lazy()).to_parquet(tmp_path / "nowhere" / "x.parquet")
    assert place.placed == []


# --- what reads the values ---


def info(frame: pd.DataFrame) -> str:
    """Return what `info` prints after the class."""
    buffer = io.StringIO()
    frame.info(buf=buffer)
    return buffer.getvalue().partition("\n")[2]


def own(frame: pd.DataFrame) -> pd.DataFrame:
    """Return another frame on other rows, for the questions about two."""
    return factor_frame(("momentum", "size"), days=DAYS[1:], instruments=("SH600000", "SZ000001"), seed=3)


def sorted_after(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort the rows of a frame that is in another order by now."""
    frame.sort_index(ascending=False, inplace=True)
    return values_of(frame.sort_index())


def renamed_view(frame: pd.DataFrame) -> list[Any]:
    """Name the columns of what came of a frame."""
    result = frame.sort_index()
    result.columns.name = "factor"
    taken = frame.loc[:, ALL]
    taken.columns.name = "taken"
    return [frame.columns.name, result.columns.name, taken.columns.name]


def kept_accessor(frame: pd.DataFrame) -> pd.DataFrame:
    """Ask an accessor that was made before a value was changed."""
    accessor = frame.loc
    frame.iloc[0, 0] = 99.0
    return values_of(accessor[:, ALL])


def attributes(frame: pd.DataFrame) -> list[Any]:
    """Let what came of a frame carry its attributes."""
    frame.attrs["market"] = "csi300"
    result, taken = frame.sort_index(), frame.loc[:, ALL]
    return [dict(found.attrs) for found in (result, taken, frame.copy(), pickle.loads(pickle.dumps(frame)))]


def set_names(names: Callable[[], Any]) -> Callable[[pd.DataFrame], Any]:
    """Return the question what the columns are once they were set, before and after the values are read."""

    def ask(frame: pd.DataFrame) -> list[Any]:
        frame.columns = names()
        before = frame.columns
        return [before, values_of(frame), frame.columns]

    return ask


def rows_then(frame: pd.DataFrame) -> list[Any]:
    """Ask for the length and emptiness after rows went."""
    frame.drop(index=DAY, level=0, inplace=True)
    left = len(frame)
    frame.drop(index=frame.index, inplace=True)
    return [left, len(frame), frame.empty, len(frame.columns)]


def binary(ask: Callable[[Any, Any], Any]) -> Callable[[pd.DataFrame], Any]:
    """Return the question about a frame and others, from both sides."""
    return lambda frame: [
        ask(frame, 2),
        ask(frame, frame),
        ask(frame, frame.copy()),
        ask(frame.copy(), frame),
        ask(frame, frame["momentum"].to_numpy()[:, None]),
    ]


ANSWERS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "concat of one": lambda frame: pd.concat([frame]),
    "concat columns": lambda frame: pd.concat([frame, own(frame)], axis=1),
    "concat columns, second": lambda frame: pd.concat([own(frame), frame], axis=1),
    "concat columns of one": lambda frame: pd.concat([frame], axis=1),
    "concat rows": lambda frame: pd.concat([frame, own(frame)]),
    "concat rows with itself": lambda frame: pd.concat([frame, frame], keys=["a", "b"]),
    "concat nested": lambda frame: pd.concat([nested(frame), nested(own(frame))], axis=1),
    "add": binary(operator.add),
    "subtract": binary(operator.sub),
    "divide": binary(operator.truediv),
    "power": lambda frame: frame.abs() ** 0.5,
    "from the right": lambda frame: [1 - frame, 2 * frame, 1 / frame, own(frame) - frame],
    "negative": lambda frame: [-frame, abs(frame), ~frame.isna()],
    "equal": lambda frame: [frame == frame.copy(), frame != 0, frame.eq(frame), frame > 0],
    "equals": lambda frame: [
        frame.equals(frame.copy()),
        frame.copy().equals(frame),
        frame.equals(own(frame)),
    ],
    "truth": lambda frame: bool(frame),
    "hash": lambda frame: hash(frame),
    "identity": lambda frame: [isinstance(frame, pd.DataFrame), frame.ndim, frame.size, frame.shape],
    "iteration": lambda frame: [list(frame), list(frame.items()), list(frame.iterrows())],
    "tuples": lambda frame: [tuple(row) for row in frame.itertuples()],
    "in": lambda frame: ["momentum" in frame, "datetime" in frame, 3 in frame],
    "keys": lambda frame: [frame.keys(), frame.index, frame.axes, frame.dtypes],
    "levels": lambda frame: list(frame.index.levels),
    "column": lambda frame: [frame["momentum"], frame.momentum, frame.get("市值 (log)"), frame.get("x", 3)],
    "columns": lambda frame: [frame[["turnover", "momentum"]], frame[frame["momentum"] > 0]],
    "column missing": lambda frame: frame["nothing"],
    "attribute missing": lambda frame: frame.copy().nothing,
    "groupby": lambda frame: frame.groupby(level="datetime").mean(),
    "groupby transform": lambda frame: frame.groupby("instrument")["momentum"].transform("rank"),
    "groupby apply": lambda frame: frame.groupby(level=0).apply(lambda day: day.max() - day.min()),
    "merge": lambda frame: frame.merge(own(frame), on=["datetime", "instrument"], how="outer"),
    "merge, second": lambda frame: pd.merge(own(frame), frame, left_index=True, right_index=True),
    "join": lambda frame: [frame.join(own(frame)["size"]), own(frame)[["size"]].join(frame, how="right")],
    "align": lambda frame: list(frame.align(own(frame))),
    "reindex": lambda frame: [frame.reindex(own(frame).index), frame.reindex(columns=["x", "momentum"])],
    "combine_first": lambda frame: [frame.combine_first(own(frame)), own(frame).combine_first(frame)],
    "corr": lambda frame: [frame.corr(), frame.cov(), frame.corrwith(frame["momentum"])],
    "values": lambda frame: [frame.values, frame.to_numpy("float32"), np.asarray(frame)],
    "numpy": lambda frame: [np.exp(frame / 1e3), np.isnan(frame), np.add(frame, 1), np.add(1, frame)],
    "mean": lambda frame: [frame.mean(), frame.sum(axis=1), np.mean(frame, axis=0), frame.count()],
    "T": lambda frame: [frame.T, frame.transpose()],
    "iloc": lambda frame: [frame.iloc[3], frame.iloc[:, 1], frame.iloc[2:4, [0]], frame.iloc[0, 0]],
    "at": lambda frame: [frame.at[(DAY, "SH600000"), "momentum"], frame.iat[2, 1]],
    "xs": lambda frame: [frame.xs(DAY), frame.xs("SH600000", level="instrument")],
    "query": lambda frame: frame.query("momentum > 0 and turnover < @ALL.size * 1000"),
    "eval": lambda frame: frame.eval("momentum + turnover"),
    "repr": lambda frame: [repr(frame), str(frame), frame.to_string(), frame._repr_html_(), frame.to_csv()],
    "info": info,
    "describe": lambda frame: [frame.describe(), frame.memory_usage(), frame.nunique()],
    "head": lambda frame: [frame.head(2), frame.tail(2), frame.sample(3, random_state=1), frame[1:3]],
    "copy": lambda frame: [frame.copy(), frame.copy(deep=False), copy.copy(frame), copy.deepcopy(frame)],
    "pickle": lambda frame: [pickle.loads(pickle.dumps(frame, protocol)) for protocol in range(2, 6)],
    "constructor": lambda frame: [pd.DataFrame(frame), pd.DataFrame(frame, columns=["turnover"])],
    "astype": lambda frame: [frame.astype("float32"), frame.convert_dtypes(), frame.select_dtypes("float32")],
    "stack": lambda frame: [
        frame.stack(future_stack=True),
        frame.unstack(),
        frame.reset_index(),
        frame.melt(),
    ],
    "swaplevel": lambda frame: [frame.swaplevel(), frame.reorder_levels([1, 0]), frame.droplevel(0)],
    "rename": lambda frame: [frame.rename(columns={"momentum": "m"}), frame.add_prefix("p_"), nested(frame)],
    "set_axis": lambda frame: [frame.set_axis(list("abc"), axis=1), frame.rename_axis(columns="factor")],
    "drop": lambda frame: [frame.drop(columns="momentum"), frame.dropna(), frame.drop_duplicates()],
    "fill": lambda frame: [frame.fillna(0.0), frame.ffill(), frame.shift(1), frame.rank(), frame.isna()],
    "where": lambda frame: [frame.where(frame > 0), frame.mask(frame > 0), frame.clip(-1, 1)],
    "apply": lambda frame: [
        frame.apply(np.nanmax),
        frame.map(abs),
        frame.agg(["min", "max"]),
        frame.pipe(abs),
    ],
    "assign": lambda frame: frame.assign(x=1.0, y=lambda found: found["momentum"] * 2),
    # pandas builds the first of these as the frame's own class, with values.
    "rolling": lambda frame: [
        frame.rolling(2).mean().copy(),
        frame.diff(),
        frame.pct_change(fill_method=None),
    ],
    "to_dict": lambda frame: [frame.to_dict("list")["turnover"], frame.to_records()["turnover"]],
    "duplicated": lambda frame: [frame.duplicated(), frame.columns.duplicated(), frame.index.is_unique],
    "sort_values": lambda frame: [frame.sort_values("momentum"), frame.nlargest(2, "momentum")],
    "sort_index": lambda frame: [
        values_of(frame.sort_index()),
        frame.sort_index(ascending=False),
        frame.sort_index(level="instrument"),
        frame.sort_index(axis=1),
        frame.sort_index(level=1, sort_remaining=False, kind="stable"),
        frame.sort_index(ignore_index=True),
    ],
    "sort_index by position": lambda frame: frame.sort_index(1),
    "sort_index after a change": sorted_after,
    "loc all": lambda frame: values_of(frame.loc[:, ALL]),
    "loc some": lambda frame: frame.loc[:, SOME],
    "loc none": lambda frame: frame.loc[:, ~ALL],
    "loc list": lambda frame: [
        frame.loc[:, ["turnover"]],
        frame.loc[:, list(COLUMNS)],
        frame.loc[:, [True] * 3],
    ],
    "loc series": lambda frame: frame.loc[:, pd.Series(SOME, index=list(COLUMNS))],
    "loc series of all": lambda frame: frame.loc[:, pd.Series(ALL, index=list(COLUMNS))],
    "loc callable": lambda frame: [
        frame.loc[:, lambda found: found.mean() > 0],
        frame.loc[lambda found: SOME[:0]],
    ],
    "loc rows": lambda frame: [
        frame.loc[DAY],
        frame.loc[frame["momentum"] > 0],
        frame.loc[(DAY, "SH600000")],
    ],
    "loc part": lambda frame: [frame.loc[DAY:, ALL], frame.loc[:, "momentum"], values_of(frame.loc[:, :])],
    "loc step": lambda frame: [frame.loc[::2, ALL], frame.loc[::-1, ALL]],
    "loc called": lambda frame: frame.loc(axis=0)[:, "SH600000"],
    "loc short mask": lambda frame: frame.loc[:, ALL[:2]],
    "loc long mask": lambda frame: frame.loc[:, np.ones(4, dtype=bool)],
    "loc numbers": lambda frame: frame.loc[:, np.ones(3, dtype=int)],
    "loc square mask": lambda frame: frame.loc[:, ALL[:, None]],
    "loc missing": lambda frame: frame.loc[:, "nothing"],
    "loc attribute": lambda frame: [frame.loc.name, frame.loc.ndim],
    "loc kept": kept_accessor,
    "names of what came of it": renamed_view,
    "attrs": attributes,
    "rows gone": rows_then,
    "columns list": set_names(lambda: ["a", "b", "c"]),
    "columns tuples": set_names(lambda: [("a", 1), ("b", 2), ("c", 3)]),
    "columns arrays": set_names(lambda: [np.array(["a", "b", "c"]), np.array([1, 2, 3])][:2]),
    "columns numbers": set_names(lambda: range(3)),
    "columns same": set_names(lambda: ["a", "a", "b"]),
    "columns named": set_names(lambda: pd.Index(["a", "b", "c"], name="factor")),
    "columns series": set_names(lambda: pd.Series(["a", "b", "c"], name="factor")),
    "columns dates": set_names(lambda: pd.to_datetime(list(DAYS[:3]))),
    "columns texts of dates": set_names(lambda: list(DAYS[:3])),
    "columns categories": set_names(lambda: pd.CategoricalIndex(["a", "b", "a"])),
    "columns nested": set_names(
        lambda: pd.MultiIndex.from_product([["g"], ["a", "b", "c"]], names=["x", "y"])
    ),
    "columns iterator": set_names(lambda: iter(["a", "b", "c"])),
    "columns too few": set_names(lambda: ["a", "b"]),
    "columns too many": set_names(lambda: list("abcd")),
    "columns none": set_names(lambda: None),
    "columns text": set_names(lambda: "abc"),
    "columns a set": set_names(lambda: {"a", "b", "c"}),
    "columns array": set_names(lambda: np.array(["a", "b", "c"])),
}


@pytest.mark.parametrize("question", ANSWERS)
def test_answers_as_pandas_does(place: Place, strict: None, question: str) -> None:
    """Asked anything, a frame that was not read answers (or refuses) as the real one, with plain frames."""
    expected = answer_of(ANSWERS[question], place.real())
    assert_same(answer_of(ANSWERS[question], place.lazy()), expected)
    assert_same(answer_of(ANSWERS[question], place.lazy().sort_index().loc[:, ALL]), expected)
    asked = place.lazy()
    asked.shape  # noqa: B018 - read by now
    assert_same(answer_of(ANSWERS[question], asked), expected)


def test_reading_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read at the first question that needs it, and then no more, though it be gone."""
    frame = place.lazy()
    again = frame.sort_index()
    expected = place.real()
    assert frame.shape == expected.shape
    place.stored.path.unlink()
    assert_same(frame.copy(), expected)
    with pytest.raises(StoreError):
        again.sum()


def test_pickles_load_without_the_package(place: Place) -> None:
    """A pickle is one of pandas: it loads where the package is not installed."""
    code = (
        "import pickle, sys; sys.modules['rdagent_sota_bridge'] = None\n"
        "for frame in pickle.load(sys.stdin.buffer):\n"
        "    print(type(frame).__module__, type(frame).__name__, frame.shape, frame.momentum.iloc[0])"
    )
    content = pickle.dumps([place.lazy(), merged(place.lazy())["feature"]])
    environment = {**os.environ, "RDAGENT_SOTA_BRIDGE": "0"}
    found = subprocess.run([sys.executable, "-c", code], input=content, env=environment, capture_output=True)
    assert found.returncode == 0, found.stderr.decode()
    line = f"pandas.core.frame DataFrame (11, 3) {place.real().iloc[0, 0]}"
    assert found.stdout.decode().splitlines() == [line, line]


# --- what changes it ---


def set_loc(frame: pd.DataFrame) -> None:
    """Set a row by label."""
    frame.loc[DAY] = 7.0


def set_loc_cell(frame: pd.DataFrame) -> None:
    """Set a column of a row by label."""
    frame.loc[(DAY, "SH600000"), frame.columns[0]] = 7.0


def set_loc_all(frame: pd.DataFrame) -> None:
    """Set all values by label."""
    frame.loc[:, ALL] = 7.0


def set_iloc(frame: pd.DataFrame) -> None:
    """Set a value by position."""
    frame.iloc[1, 1] = 7.0


def set_at(frame: pd.DataFrame) -> None:
    """Set a value with `at`."""
    frame.at[(DAY, "SH600000"), frame.columns[0]] = 7.0


def set_column(frame: pd.DataFrame) -> None:
    """Set a column."""
    frame[frame.columns[1]] = 1.0


def new_column(frame: pd.DataFrame) -> None:
    """Add a column."""
    frame["new"] = np.arange(len(frame))


def insert(frame: pd.DataFrame) -> None:
    """Insert a column first."""
    frame.insert(0, "first", 2.0)


def delete(frame: pd.DataFrame) -> None:
    """Take two columns away."""
    del frame[frame.columns[0]]
    frame.pop(frame.columns[0])


def rename(frame: pd.DataFrame) -> None:
    """Rename a column in place."""
    frame.rename(columns={"momentum": "speed"}, inplace=True)


def drop(frame: pd.DataFrame) -> None:
    """Drop rows in place."""
    frame.drop(index=DAY, level=0, inplace=True)


def sort_down(frame: pd.DataFrame) -> None:
    """Sort the rows in place, the last first."""
    frame.sort_index(ascending=False, inplace=True)


def sort_in_place(frame: pd.DataFrame) -> None:
    """Sort what is sorted in place."""
    assert frame.sort_index(inplace=True) is None


def sort_by_instrument(frame: pd.DataFrame) -> None:
    """Sort the rows in place by the second level."""
    frame.sort_index(level="instrument", inplace=True)


def add_in_place(frame: pd.DataFrame) -> None:
    """Add to all values in place."""
    frame += 1


def fill(frame: pd.DataFrame) -> None:
    """Fill what is missing in place."""
    frame.fillna(0.0, inplace=True)


def set_index(frame: pd.DataFrame) -> None:
    """Set the index."""
    frame.index = pd.MultiIndex.from_arrays(
        [range(len(frame)), ["x"] * len(frame)], names=["datetime", "instrument"]
    )


def name_levels(frame: pd.DataFrame) -> None:
    """Name the levels of the index otherwise."""
    frame.index.names = ["day", "code"]


def reset(frame: pd.DataFrame) -> None:
    """Make columns of the index in place."""
    frame.reset_index(inplace=True)


def other_order(frame: pd.DataFrame) -> None:
    """Give the columns each other's names."""
    frame.columns = frame.columns[::-1]


def other_group(frame: pd.DataFrame) -> None:
    """Nest the columns under another group."""
    flat = frame.columns.get_level_values(-1)
    frame.columns = pd.MultiIndex.from_product([["label"], flat])


def named_columns(frame: pd.DataFrame) -> None:
    """Name the levels of the columns, which pandas writes too."""
    flat = frame.columns.get_level_values(-1)
    frame.columns = pd.MultiIndex.from_product([["feature"], flat], names=["group", "factor"])


def names_in_place(frame: pd.DataFrame) -> None:
    """Name the levels of the columns through the columns."""
    frame.columns.names = [f"level {number}" for number in range(frame.columns.nlevels)]


def attribute(frame: pd.DataFrame) -> None:
    """Give the frame an attribute, which pandas writes too."""
    frame.attrs["market"] = "csi300"


def nothing(frame: pd.DataFrame) -> None:
    """Read the values, and change nothing."""
    frame.sum()


CHANGES: tuple[Callable[[pd.DataFrame], None], ...] = (
    set_loc, set_loc_cell, set_loc_all, set_iloc, set_at, set_column, new_column, insert, delete, rename,
    drop, sort_down, sort_in_place, sort_by_instrument, add_in_place, fill, set_index, name_levels, reset,
    other_order, other_group, named_columns, names_in_place, attribute, nothing,
)  # fmt: skip


@pytest.mark.parametrize("form", ["flat", "merged"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes(
    place: Place, strict: None, tmp_path: Path, change: Callable[[pd.DataFrame], None], form: str
) -> None:
    """What is changed is written as pandas writes it, never into the stored file through a link."""
    prepare = merged if form == "merged" else lambda frame: frame
    content = place.stored.path.read_bytes()
    target, expected_file = tmp_path / "target.parquet", tmp_path / "expected.parquet"
    os.link(place.stored.path, target)
    frame, expected = prepare(place.lazy()), prepare(place.real())
    change(frame)
    change(expected)
    frame.to_parquet(target, engine="pyarrow")
    expected.to_parquet(expected_file, engine="pyarrow")
    assert_same(pd.read_parquet(target), pd.read_parquet(expected_file))
    assert place.stored.path.read_bytes() == content
    assert_same(frame.copy(), expected)
    # What was made of the file before is untouched.
    assert_same(prepare(place.lazy()).copy(), prepare(place.real()))


@pytest.mark.parametrize(
    "arguments",
    [
        {"compression": "gzip"},
        {"compression": None},
        {"index": False},
        {"row_group_size": 3},
        {"engine": "pyarrow", "compression": "snappy"},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["flat", "merged"])
def test_other_ways_to_write(
    place: Place, strict: None, tmp_path: Path, arguments: dict[str, Any], form: str
) -> None:
    """With other arguments, or flat columns, pandas writes; what was a link is a file of its own then."""
    prepare = merged if form == "merged" else lambda frame: frame
    content = place.stored.path.read_bytes()
    target, expected = tmp_path / "target.parquet", tmp_path / "expected.parquet"
    for make in (os.link, os.symlink):
        target.unlink(missing_ok=True)
        make(place.stored.path, target)
        prepare(place.lazy()).to_parquet(target, **arguments)
        prepare(place.real()).to_parquet(expected, **arguments)
        assert target.read_bytes() == expected.read_bytes()
        assert place.stored.path.read_bytes() == content
        assert not target.is_symlink()
    assert place.placed == []


def test_the_positional_engine(place: Place, tmp_path: Path) -> None:
    """An engine that stands without its name is pandas' business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        merged(place.lazy()).to_parquet(tmp_path / "x.parquet", "pyarrow")
    assert_same(pd.read_parquet(tmp_path / "x.parquet"), merged(place.real()))
    assert place.placed == []


@pytest.mark.parametrize("form", ["flat", "merged"])
def test_writing_to_no_path(place: Place, strict: None, tmp_path: Path, form: str) -> None:
    """Bytes, an open file and a folder of parts are written as pandas does."""
    prepare = merged if form == "merged" else lambda frame: frame
    frame, expected = prepare(place.lazy()), prepare(place.real())
    assert prepare(place.lazy()).to_parquet() == expected.to_parquet()
    buffer = io.BytesIO()
    frame = prepare(place.lazy())
    with contextlib.suppress(ValueError):  # pandas closes the buffer
        frame.to_parquet(buffer)
        assert buffer.getvalue() == expected.to_parquet()
    with (tmp_path / "x.parquet").open("wb") as file:
        prepare(place.lazy()).to_parquet(file)
    assert (tmp_path / "x.parquet").read_bytes() == expected.to_parquet()
    if form == "flat":
        place.lazy().to_parquet(tmp_path / "by", partition_cols=["turnover"])
        expected.to_parquet(tmp_path / "by pandas", partition_cols=["turnover"])
        assert_same(pd.read_parquet(tmp_path / "by"), pd.read_parquet(tmp_path / "by pandas"))


@dataclass(frozen=True)
class OtherPath:
    """A path of another kind than pathlib's."""

    path: str

    def __fspath__(self) -> str:
        return self.path


def test_paths_of_other_kinds(
    place: Place, strict: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path below `~` and one of another class are what they are for pandas; no link is written to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    target = tmp_path / "target.parquet"
    content = place.stored.path.read_bytes()
    for path in ("~/target.parquet", Path("~/target.parquet"), OtherPath(str(target))):
        for change in (nothing, set_iloc, None):
            target.unlink(missing_ok=True)
            os.link(place.stored.path, target)
            frame, expected = merged(place.lazy()), merged(place.real())
            for found in (frame, expected) if change else ():
                change(found)
            frame.to_parquet(path, engine="pyarrow")
            assert_same(pd.read_parquet(target), expected)
            assert place.stored.path.read_bytes() == content, (path, change)


def test_a_url_is_written_by_pandas(place: Place, tmp_path: Path) -> None:
    """A URL is no path: pandas writes there."""
    pytest.importorskip("fsspec")
    merged(place.lazy()).to_parquet(f"file://{tmp_path}/target.parquet", engine="pyarrow")
    assert_same(pd.read_parquet(tmp_path / "target.parquet"), merged(place.real()))
    assert place.placed == []


def test_what_came_of_it_is_independent(place: Place, strict: None, tmp_path: Path) -> None:
    """A change of a frame changes neither what came of it before nor where it came from."""
    frame = place.lazy()
    one, other = frame.sort_index(), frame.loc[:, ALL]
    one.iloc[0, 0] = 5.0
    other.columns = list("abc")
    assert_same(frame.copy(), place.real())
    assert list(other) == list("abc")
    frame.iloc[0, 0] = 6.0
    assert (one.iloc[0, 0], other.iloc[0, 0]) == (5.0, place.real().iloc[0, 0])
