"""A factor set's figures on the market of its task, its correlations, and notes on what is missing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from examples.demo.market import Market as DemoMarket
from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import MarketError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report import factor_analysis
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis, analyse, mean_correlation
from tests import seams
from tests.frames import write

DAY = pd.Timestamp
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"


@pytest.fixture
def demo(market_home: tuple[Path, DemoMarket]) -> DemoMarket:
    """Return the demo's market."""
    return market_home[1]


@pytest.fixture
def task(demo: DemoMarket) -> Task:
    """Return a task on that market."""
    return Task(
        provider_uri=str(demo.provider),
        market="csi300",
        train=(DAY("2008-01-01"), DAY("2014-12-31")),
        valid=(DAY("2015-01-01"), DAY("2016-12-31")),
        test=(DAY("2017-01-01"), DAY("2020-08-01")),
        label=LABEL,
    )


@pytest.fixture
def frame(demo: DemoMarket) -> pd.DataFrame:
    """Return the planted alpha, noise, and a mixture of both with gaps."""
    frame = seams.factor_frame(demo, noise=0.004)
    frame["mixed"] = frame["noise"] - frame["overnight_gap"]
    return frame.mask(np.random.default_rng(2).random(frame.shape) < 0.1)


def source(path: Path, *columns: str) -> Source:
    """Return a file as a source of factors, with the digest that it has."""
    return Source(path, parquet.current_digest(path), columns)


def figures(path: Path, task: Task | None, *columns: str) -> FactorAnalysis:
    """Return the figures of one file's factors."""
    return analyse("sha256:00", [source(path, *columns)], task)


def correlations(frame: pd.DataFrame) -> Any:
    """Return the mean daily correlation of each pair, day by day with pandas."""
    found = pd.DataFrame(np.nan, index=frame.columns, columns=frame.columns)
    for one, other in itertools.combinations_with_replacement(frame, 2):
        pair = pd.DataFrame({"x": frame[one], "y": frame[other]}).dropna()
        days = [day for _, day in pair.groupby(level="datetime") if len(day) > 2]
        daily = [day["x"].corr(day["y"]) for day in days if day["x"].nunique() > 1 and day["y"].nunique() > 1]
        found.loc[one, other] = found.loc[other, one] = np.mean(daily) if daily else np.nan
    return found.to_numpy()


def in_test(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test segment."""
    return frame.loc["2017-01-01":"2020-08-01"]


def test_the_demo(task: Task, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Each factor has its figures, and the matrix is pandas' own."""
    found = figures(write(frame, tmp_path), task, "overnight_gap", "noise", "mixed")
    assert found.notes == ()
    assert (found.digest, found.task) == ("sha256:00", task)
    assert found.columns == ("overnight_gap", "noise", "mixed")
    assert [sheet.name for sheet in found.sheets] == list(found.columns)
    gap, noise, mixed = found.sheets
    assert gap.mean_ic == pytest.approx(0.78, abs=0.03)
    assert abs(noise.mean_ic) < 0.05
    assert mixed.mean_ic < -0.4
    assert gap.coverage == pytest.approx(in_test(frame)["overnight_gap"].notna().mean())
    assert found.names == found.columns
    np.testing.assert_allclose(found.correlation, correlations(in_test(frame)), rtol=0, atol=1e-9)
    assert found.correlation[0, 2] < -0.5, "with its sign"


def test_two_files(task: Task, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A set of several files is their join, and only the factors that were taken are looked at."""
    one = write(frame[["overnight_gap", "mixed"]], tmp_path, "one.parquet")
    two = write(frame.loc[:"2018-12-31", ["noise"]], tmp_path, "two.parquet")
    found = analyse("sha256:00", [source(one, "overnight_gap"), source(two, "noise")], task)
    assert found.names == found.columns == ("overnight_gap", "noise")
    assert (len(found.sheets[0].ic), len(found.sheets[1].ic)) == (133, 74)
    whole = figures(write(frame, tmp_path), task, "overnight_gap", "noise")
    np.testing.assert_array_equal(found.sheets[0].ic, whole.sheets[0].ic)
    np.testing.assert_array_equal(found.sheets[1].ic, whole.sheets[1].ic[:74])


def test_membership_and_order(demo: DemoMarket, task: Task, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Cells outside the market change nothing, whatever they hold; nor does the order of the rows."""
    folder = tmp_path / "data"
    (folder / "instruments").mkdir(parents=True)
    for name in ("calendars", "features"):
        (folder / name).symlink_to(demo.provider / name)
    codes = sorted(demo.instruments)
    lines = [f"{code}\t2008-01-01\t2018-12-31\n" for code in codes[:30]]
    lines += [f"{code}\t2018-06-01\t2020-12-31\n" for code in codes[20:50]]
    (folder / "instruments" / "some.txt").write_text("".join(lines))
    some = dataclasses.replace(task, provider_uri=str(folder), market="some")
    found = figures(write(frame, tmp_path), some, "overnight_gap", "mixed")
    days, names = (frame.index.get_level_values(level) for level in frame.index.names)
    early = names.isin(codes[:30]) & (days <= "2018-12-31")
    inside = early | (names.isin(codes[20:50]) & (days >= "2018-06-01"))
    other = frame.copy()
    other.loc[~inside, "overnight_gap"] = 7.0
    other.loc["2008-12-30":"2009-12-31", "mixed"] = 3.0
    shuffled = write(other.sample(frac=1, random_state=1), tmp_path, "shuffled.parquet")
    again = figures(shuffled, some, "overnight_gap", "mixed")
    for one, two in zip(found.sheets, again.sheets, strict=True):
        np.testing.assert_array_equal(one.ic, two.ic)
        assert one.coverage == two.coverage
    np.testing.assert_array_equal(found.correlation, again.correlation)
    mine = in_test(frame[inside])[["overnight_gap", "mixed"]]
    np.testing.assert_allclose(found.correlation, correlations(mine), rtol=0, atol=1e-9)
    assert found.sheets[0].coverage == pytest.approx(mine["overnight_gap"].notna().mean())


@pytest.mark.parametrize(
    ("change", "note", "whole"),
    [
        ({"provider_uri": "/nowhere/cn"}, "Qlib's data of the market csi300 is not in /nowhere/cn: ", False),
        ({"market": "csi999"}, "Qlib's data of the market csi999 is not in ", False),
        ({"test": (DAY("2031-01-01"), DAY("2031-12-31"))}, " has no day in the test segment: ", True),
        (None, "Neither market nor test segment is known: ", True),
        (
            {"label": "Rank($close, 5)"},
            "The label Rank($close, 5) is no plain return between two days",
            False,
        ),
        ({"provider_uri": "no prices"}, " has no prices for the label in the test segment: ", False),
    ],
    ids=["no data", "no market", "no day", "no task", "another label", "no prices"],
)
def test_without_returns(
    change: dict[str, Any] | None,
    note: str,
    whole: bool,
    demo: DemoMarket,
    task: Task,
    frame: pd.DataFrame,
    tmp_path: Path,
) -> None:
    """Without a market or a label the note says so, and there is the matrix, on the set's rows."""
    for name in ("calendars", "instruments"):
        (tmp_path / name).symlink_to(demo.provider / name)
    if change == {"provider_uri": "no prices"}:
        change = {"provider_uri": str(tmp_path)}
    other = None if change is None else dataclasses.replace(task, **change)
    found = figures(write(frame, tmp_path), other, "overnight_gap", "mixed")
    assert (found.sheets, found.names) == ((), ("overnight_gap", "mixed"))
    assert [note in one and one.endswith("no IC, no returns.") for one in found.notes] == [True]
    rows = frame if whole else in_test(frame)
    expected = correlations(rows[["overnight_gap", "mixed"]])
    np.testing.assert_allclose(found.correlation, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mounted", [True, False])
def test_the_market_of_a_container(
    task: Task, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    """Where Qlib ran in Docker the figures are of the folder that is mounted there, not of `~/.qlib`."""
    host = Path(task.provider_uri).parents[1] if mounted else tmp_path / "other"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker")
    monkeypatch.delitem(sys.modules, "rdagent.components.coder.model_coder.conf", raising=False)
    monkeypatch.setenv("QLIB_DOCKER_EXTRA_VOLUMES", json.dumps({str(host): "/root/.qlib"}))
    inside = dataclasses.replace(task, provider_uri="~/.qlib/qlib_data/cn_data")
    found = figures(write(frame, tmp_path), inside, "overnight_gap")
    assert bool(found.sheets) is mounted
    assert any(str(host / "qlib_data" / "cn_data") in note for note in found.notes) is not mounted


def test_an_open_end(task: Task, demo: DemoMarket, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A test segment without an end reaches to the calendar's last day that has a label."""
    endless = dataclasses.replace(task, test=(DAY("2017-01-01"), pd.NaT))
    found = figures(write(frame, tmp_path), endless, "overnight_gap")
    assert found.sheets[0].days[-1] == demo.days[-3]


def test_prices_that_can_not_be_read(
    task: Task, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price file that may not be read (as in test_label) is noted with the system's reason."""
    error = MarketError("Qlib's prices can't be read: Permission denied", "/data/close.day.bin", "")
    monkeypatch.setattr(label, "values", Mock(side_effect=error))
    found = figures(write(frame, tmp_path), task, "overnight_gap")
    assert (found.sheets, found.names) == ((), ("overnight_gap",))
    assert found.notes == ("Qlib's prices can't be read: Permission denied (/data/close.day.bin).",)


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("gone", "The file {path} is not there any more"),
        ("changed", "The file {path} was changed since"),
        ("other columns", "The file {path} was changed since"),
        ("replaced meanwhile", "The file {path} was changed since"),
        ("damaged", "the file is damaged or cut off"),
        ("no column", "have no factor gone"),
        ("no source", "Nothing says which factors the set has"),
        ("duplicate rows", "rows stand there more than once"),
    ],
)
def test_no_figures(
    case: str, note: str, task: Task, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is gone, is not what was used, or can't be read, has a note that says so, no figures."""
    path = write(frame if case != "duplicate rows" else pd.concat([frame, frame.iloc[:1]]), tmp_path)
    if case == "damaged":
        path.write_bytes(path.read_bytes()[:-100])
    given = source(path, "overnight_gap", *(("gone",) if case == "no column" else ()))
    if case == "gone":
        path.unlink()
    elif case in ("changed", "replaced meanwhile"):
        write(frame + 1, tmp_path)
    elif case == "other columns":
        write(frame.rename(columns={"overnight_gap": "another"}), tmp_path)
    if case == "replaced meanwhile":  # the digest that counts is that of the bytes that are read
        monkeypatch.setattr(parquet, "current_digest", lambda path: given.digest)
    found = analyse("sha256:00", [] if case == "no source" else [given], task)
    assert (found.sheets, found.names, found.correlation.shape) == ((), (), (0, 0))
    assert (found.digest, found.task, len(found.notes)) == ("sha256:00", task, 1)
    assert note.format(path=path) in found.notes[0]
    assert "\n" not in found.notes[0]


def test_odd_factors(task: Task, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A factor of infinite values, one without any in the test segment, and one of few have a note."""
    frame["infinite"] = np.inf
    frame["early"] = frame["noise"].where(frame.index.get_level_values(0) < "2017-01-01")
    frame["sign"] = np.sign(frame["overnight_gap"])
    columns = ("infinite", "early", "sign", "overnight_gap")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = figures(write(frame, tmp_path), task, *columns)
    infinite, early, sign, gap = found.sheets
    assert tuple(sheet.name for sheet in found.sheets) == found.names == columns
    assert (infinite.coverage, early.coverage, len(infinite.ic), len(early.ic)) == (0, 0, 0, 0)
    assert sign.mean_ic > 0.5
    assert (sign.uncut_days, gap.uncut_days) == (133, 0)
    assert np.isnan(sign.quantile_returns).all()
    notes = " | ".join(found.notes)
    assert "No figures of infinite: " in notes
    assert "has infinite values" in notes
    assert "early has no IC" in notes
    assert "On 133 days the values of sign can't be cut into 5 groups" in notes
    assert len(found.notes) == 3
    assert np.isnan(found.correlation[:2]).all()
    assert found.correlation[2, 3] > 0.7


def test_many_cells(task: Task, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more values than memory is meant to hold, the matrix takes evenly spread days, and says so."""
    monkeypatch.setattr(factor_analysis, "CELLS", 2 * 60 * 3)
    found = figures(write(frame, tmp_path), task, "overnight_gap", "mixed")
    assert found.notes == ("The correlations are means over 3 evenly spread days of 133.",)
    assert len(found.sheets[0].ic) == 133
    days = in_test(frame).index.unique("datetime")[[0, 66, 132]]
    rows = frame.loc[frame.index.get_level_values(0).isin(days), ["overnight_gap", "mixed"]]
    np.testing.assert_allclose(found.correlation, correlations(rows), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150, 1e300])
def test_matrix_against_pandas(scale: float) -> None:
    """Values of any size, with gaps, levels and ties, on days of few and many instruments."""
    random = np.random.default_rng(9)
    block = random.standard_normal((12, 5, 9))
    block[:, 1] += 2 * block[:, 0]
    block[:, 2] = np.round(block[:, 2])
    block[:, 3] += 1e6
    block[random.random(block.shape) < 0.3] = np.nan
    block[3, :, 2:] = np.nan  # two instruments do not count
    block[4, 2] = 0.1  # a day without spread
    block[:, 4] = np.nan
    days = pd.bdate_range("2020-01-01", periods=12)
    index = pd.MultiIndex.from_product([days, range(9)], names=["datetime", "instrument"])
    frame = pd.DataFrame(block.transpose(0, 2, 1).reshape(-1, 5), index=index)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean_correlation(block * scale)
    np.testing.assert_allclose(found, correlations(frame), rtol=0, atol=1e-9)
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(np.diag(found)[:4], 1.0)
    assert np.isnan(mean_correlation(block[:0])).all()
    assert np.isnan(mean_correlation(block[..., :0])).all()
