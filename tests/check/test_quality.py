"""What is found out about a set: which factors are taken, from which files, and that it is found out once."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.demo.market import Market as DemoMarket
from rdagent_sota_bridge.check import quality
from rdagent_sota_bridge.check.figures import FigureGround
from rdagent_sota_bridge.check.lines import set_lines
from rdagent_sota_bridge.check.quality import Quality, Wish, look
from rdagent_sota_bridge.errors import FactorFileError, Reason
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.qlib_files.market import Market, read_market
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from tests import seams
from tests.frames import INSTRUMENTS, factor_frame, nested, write

DAY = pd.Timestamp
TASK = Task(
    provider_uri="~/.qlib/qlib_data/cn_data",
    market="csi300",
    train=(DAY("2008-01-01"), DAY("2014-12-31")),
    valid=(DAY("2015-01-01"), DAY("2016-12-31")),
    test=(DAY("2017-01-01"), DAY("2020-08-01")),
    label="Ref($close, -2)/Ref($close, -1) - 1",
)
ALL = Wish(max_correlation=float("inf"))


@pytest.fixture
def demo(market_home: tuple[Path, DemoMarket]) -> DemoMarket:
    """Return the demo's market."""
    return market_home[1]


@pytest.fixture
def market(demo: DemoMarket) -> Market:
    """Return the same market as a check reads it."""
    found = read_market(str(demo.provider), "csi300")
    assert found is not None
    return found


def same(one: Quality, other: Quality) -> bool:
    """Tell whether two answers say the same."""
    names = ("figures", "filled", "dropped", "left_out", "in_market", "is_normal")
    return one.factors.digest == other.factors.digest and all(
        getattr(one, name) == getattr(other, name) for name in names
    )


def test_a_whole_file_keeps_its_digest(demo: DemoMarket, market: Market, tmp_path: Path) -> None:
    """Nothing chosen, the set is the file: its digest, its columns, its rows."""
    path = write(seams.factor_frame(demo, noise=1.0), tmp_path)
    found = look([path], Wish(), market, TASK)
    assert found.factors.digest == parquet.current_digest(path)
    assert found.factors.columns == ("overnight_gap", "noise")
    assert found.sources == (quality.Source(path, found.factors.digest, ("overnight_gap", "noise")),)
    assert (found.dropped, found.left_out, found.in_market) == ((), (), 60)
    assert found.figures["overnight_gap"].rank_ic == pytest.approx(0.78, abs=0.03)
    assert abs(found.figures["noise"].rank_ic or 1) < 0.05


@pytest.mark.parametrize("shift", [0, -1, 1])
def test_values_that_are_nothing_and_dates_of_the_day_before(shift: int, tmp_path: Path) -> None:
    """A tiny factor, and one of mostly one value, warn; so does a set whose dates are shifted by a day."""
    days = pd.bdate_range("2014-06-02", "2015-02-27")
    frame = factor_frame(["tiny", "few", "plain"], days=days + pd.Timedelta(days=shift))
    frame["tiny"] *= 1e-17
    frame["few"] = frame["few"].where(frame["few"] > 70, 0.0)
    market = Market(tmp_path, "csi300", days, INSTRUMENTS)
    found = look([write(frame, tmp_path)], Wish(), market, TASK)
    texts = {line.name: line.text for line in set_lines(found, market, TASK)}
    assert texts["factor tiny"].startswith("spreads too little: ")
    assert texts["factor few"].startswith("has one value in ")
    assert texts["factor plain"].startswith("coverage ")
    weekday = {-1: "Friday", 1: "Monday"}.get(shift, "")
    assert texts["missing days"].startswith(f"no {weekday} inside" if weekday else "none inside")


def test_what_is_chosen_is_in_the_digest(demo: DemoMarket, market: Market, tmp_path: Path) -> None:
    """A part of a file, another part, and the whole are three sets."""
    path = write(seams.factor_frame(demo, a=1.0, b=1.0), tmp_path)
    wishes = [Wish(), Wish(wanted=("a", "b")), Wish(excluded=("b",)), Wish(wanted=("overnight_*", "a"))]
    found = [look([path], wish, market, TASK) for wish in wishes]
    assert [at.factors.columns for at in found] == [
        ("overnight_gap", "a", "b"),
        ("a", "b"),
        ("overnight_gap", "a"),
        ("overnight_gap", "a"),
    ]
    assert found[1].left_out == ("overnight_gap",)
    digests = [at.factors.digest for at in found]
    assert digests[2] == digests[3], "the same factors are the same set, however they were asked for"
    assert len(set(digests)) == 3


def test_a_bad_column_that_is_left_out(demo: DemoMarket, market: Market, tmp_path: Path) -> None:
    """Columns that would stop a run stop none where they are not taken."""
    path = write(seams.factor_frame(demo).assign(broken=np.inf, empty=np.nan), tmp_path)
    with pytest.raises(FactorFileError) as bad:
        look([path], Wish(), market, TASK)
    assert {failure.reason for failure in bad.value.failures} == {Reason.INFINITE, Reason.ALL_NAN}
    found = look([path], Wish(excluded=("broken", "empty")), market, TASK)
    assert (found.factors.columns, set(found.left_out)) == (("overnight_gap",), {"broken", "empty"})


def test_two_files_are_joined(demo: DemoMarket, market: Market, tmp_path: Path) -> None:
    """Rows of both, equal factors once, and what the store keeps is what was looked at."""
    frame = seams.factor_frame(demo, a=1.0, b=1.0)
    early, late = frame.loc[:"2016-12-31"], frame.loc["2012-01-01":]
    one = write(early[["overnight_gap", "a"]], tmp_path, "one.parquet")
    two = write(late[["b", "overnight_gap"]].astype("float32"), tmp_path, "two.parquet")
    found = look([one, two], Wish(), market, TASK)
    assert found.factors.columns == ("overnight_gap", "a", "b")
    assert (found.factors.rows, found.factors.path) == (len(frame), one)
    assert [source.columns for source in found.sources] == [("overnight_gap", "a"), ("overnight_gap", "b")]
    assert found.factors.digest not in (parquet.current_digest(one), parquet.current_digest(two))
    sources = tuple((at.path, at.digest) for at in found.sources)
    wanted = store.Wanted(found.factors.digest, found.factors.columns, sources)
    loaded = pd.read_parquet(store.keep(wanted, tmp_path / "store").path)["feature"]
    assert tuple(loaded) == found.factors.columns
    expected = frame.assign(
        a=frame["a"].where(frame.index.isin(early.index)), b=frame["b"].where(frame.index.isin(late.index))
    )
    pd.testing.assert_frame_equal(
        loaded[list(frame.columns)],
        expected,
        check_exact=False,
        rtol=1e-6,
        check_dtype=False,
        check_freq=False,
    )
    assert found.figures["a"].coverage["test"] == 0
    assert found.filled["test"] == pytest.approx(1.0)


def test_the_later_of_two_factors_that_say_the_same_is_dropped(
    demo: DemoMarket, market: Market, tmp_path: Path
) -> None:
    """Also among new factors, also with the sign turned; SOTA_MAX_CORRELATION=off keeps them."""
    frame = seams.factor_frame(demo, noise=1.0)
    frame["turned"] = 3 - 2 * frame["overnight_gap"]
    path = write(frame, tmp_path)
    found = look([path], Wish(), market, TASK)
    assert found.factors.columns == ("overnight_gap", "noise")
    (drop,) = found.dropped
    assert (drop.column, drop.kept) == ("turned", "overnight_gap")
    assert drop.correlation == pytest.approx(1.0)
    assert found.factors.digest != parquet.current_digest(path)
    assert look([path], ALL, market, TASK).factors.digest == parquet.current_digest(path)


AGAIN = {"overnight_gap": "again"}


@pytest.mark.parametrize(
    ("files", "wish", "left_out", "dropped"),
    [
        (lambda gap, ab: [gap, gap], Wish(), (), []),
        (lambda gap, ab: [gap, gap.rename(columns=AGAIN), gap], Wish(), (), ["again"]),
        (lambda gap, ab: [gap.loc["2009-01-01":], gap.rename(columns=AGAIN) * 2], Wish(), (), ["again"]),
        (lambda gap, ab: [ab[["a"]], ab[["b"]]], Wish(wanted=("a",)), ("b",), []),
    ],
    ids=["two copies", "a copy named last", "only repeats", "not chosen"],
)
def test_files_that_are_no_part_of_the_set(
    demo: DemoMarket,
    market: Market,
    tmp_path: Path,
    files: Callable[[pd.DataFrame, pd.DataFrame], list[pd.DataFrame]],
    wish: Wish,
    left_out: tuple[str, ...],
    dropped: list[str],
) -> None:
    """A file that has nothing of its own, or nothing chosen, is no source and brings no rows."""
    frame = seams.factor_frame(demo, a=1.0, b=1.0)
    frames = files(frame[["overnight_gap"]], frame[["a", "b"]])
    paths = [write(one, tmp_path, f"{number}.parquet") for number, one in enumerate(frames)]
    for _ in range(2):
        found = look(paths, wish, market, TASK)
        assert [source.path for source in found.sources] == [paths[0]]
        assert found.factors.columns == tuple(frames[0].columns)
        assert found.factors.rows == len(frames[0])
        assert found.factors.digest == parquet.current_digest(paths[0])
        assert found.left_out == left_out
        assert [drop.column for drop in found.dropped] == dropped


@pytest.mark.parametrize("change", ["nothing", "set", "wish", "segment", "market", "prices"])
def test_what_is_known_is_not_computed_again(
    change: str, demo: DemoMarket, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content, wish, segments and market are answered from memory, whatever the path; others not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(market.folder, tmp_path / "qlib")
    market = dataclasses.replace(market, folder=tmp_path / "qlib")
    frame = seams.factor_frame(demo, noise=1.0)
    first = look([write(frame, tmp_path)], Wish(), market, TASK)
    taken: list[float] = []
    take = FigureGround.take
    monkeypatch.setattr(FigureGround, "take", lambda *given: taken.append(1.0) or take(*given))
    (tmp_path / "other").mkdir()
    path = write(frame * 2 if change == "set" else frame, tmp_path / "other")
    wish = Wish(excluded=("noise",)) if change == "wish" else Wish()
    task = dataclasses.replace(TASK, test=(TASK.test[0], DAY("2019-08-01"))) if change == "segment" else TASK
    known = None if change == "market" else market
    if change == "prices":  # a new adjustment writes them in place
        for file in (tmp_path / "qlib" / "features").glob("*/close.day.bin"):
            np.fromfile(file, dtype="<f4")[::-1].tofile(file)
    again = look([path], wish, known, task)
    assert again.factors.path == again.sources[0].path == path
    assert same(first, again) == (change == "nothing")
    assert bool(taken) == (change != "nothing")


def test_what_must_not_answer(
    demo: DemoMarket, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found of a file replaced meanwhile is not kept for the old one; a cut entry is no harm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frame = seams.factor_frame(demo)
    path = write(frame, tmp_path)
    old, digest = path.read_bytes(), parquet.current_digest(path)
    write(frame * 2, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "current_digest", lambda _: digest)
        assert look([path], Wish(), market, TASK).factors.digest != digest
    path.write_bytes(old)
    first = look([path], Wish(), market, TASK)
    assert first.factors.digest == digest
    (entry,) = (tmp_path / "cache").rglob("quality-*/*.json")
    entry.write_text(entry.read_text()[:100])
    assert same(first, look([path], Wish(), market, TASK))


@pytest.mark.parametrize(
    ("change", "wish", "expected"),
    [
        (lambda frame: frame, Wish(), True),
        (lambda frame: frame.sample(frac=1, random_state=1), Wish(), False),
        (lambda frame: frame, Wish(excluded=("b",)), False),
    ],
    ids=["sorted and whole", "unsorted", "chosen"],
)
def test_the_form_of_a_set_is_known_of_it(
    demo: DemoMarket,
    market: Market,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    wish: Wish,
    expected: bool,
) -> None:
    """Whether the file is what RD-Agent would write is known at once, and when it is remembered."""
    path = write(nested(change(seams.factor_frame(demo, b=1.0))), tmp_path)
    found = [look([path], wish, market, TASK).is_normal for _ in range(2)]
    assert found == [expected] * 2
