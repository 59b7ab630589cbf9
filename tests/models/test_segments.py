"""The segments of trainings on later days; those of a walk are planned by the real Qlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import BridgeError, ChoiceError, MarketError
from rdagent_sota_bridge.models import child, segments
from rdagent_sota_bridge.qlib_files import training_record
from tests import trained

DAYS = pd.bdate_range("2008-01-01", "2020-12-31")
"""Qlib's calendar. The training of `tests/trained.py` begins on its first day."""


def until(day: str) -> pd.DatetimeIndex:
    """Return the calendar up to a day."""
    return DAYS[: DAYS.searchsorted(pd.Timestamp(day), side="right")]


def put_calendar(home: Path, days: pd.DatetimeIndex) -> None:
    """Write a market of one instrument for the `provider_uri` of RD-Agent's templates."""
    folder = home / ".qlib" / "qlib_data" / "cn_data"
    for name in ("calendars", "instruments"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day.date()}\n" for day in days))
    (folder / "instruments" / "csi300.txt").write_text("SH600000\t2008-01-01\t2020-12-31\n")


def run_here(function: str, folder: Path, script: str) -> None:
    """Stand in for RD-Agent: run a script for Qlib in this environment."""
    assert function == "run_in_qlib"
    with (folder / child.OUTPUT).open("wb") as output:
        command = [sys.executable, script]
        subprocess.run(command, cwd=folder, stdout=output, stderr=output, env=os.environ, check=False)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the workspace of a model, on a market that goes on after its segments."""
    put_calendar(tmp_path, DAYS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(child, "call", run_here)
    return trained.write_training(tmp_path / "root" / "model")


def later(
    model: Path, train_end: str | None = None, rolling: str | None = None
) -> list[dict[str, tuple[str, str]]]:
    """Return the segments that a model gets."""
    return segments.later(model, training_record.read_training(model), train_end, rolling)


def positions(found: dict[str, tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return the segments as positions in the calendar."""
    return {name: (DAYS.get_loc(start), DAYS.get_loc(end)) for name, (start, end) in found.items()}


BEFORE = positions(
    {
        "train": ("2008-01-01", "2014-12-31"),
        "valid": ("2015-01-01", "2016-12-30"),
        "test": ("2017-01-02", "2020-07-31"),
    }
)


@pytest.mark.parametrize("train_end", [None, "2015-01-01", "2015-05-29"])
def test_all_segments_move_by_as_many_trading_days(train_end: str | None, model: Path) -> None:
    """Up to the last day whose label (the return up to the day after tomorrow) is known, or as asked for."""
    (found,) = later(model, train_end)
    by = len(DAYS) - 3 - BEFORE["test"][1]
    if train_end is not None:
        by = DAYS.get_loc(train_end) - BEFORE["train"][1]
    assert positions(found) == {name: (start + by, end + by) for name, (start, end) in BEFORE.items()}


@pytest.mark.parametrize(
    ("last", "train_end", "rolling", "kind", "words"),
    [
        ("2020-08-04", None, None, MarketError, "There are no later days to train on"),
        ("2020-06-30", None, None, MarketError, "whose days with a label end on 2020-06-26"),
        ("2020-08-04", "2015-01-01", None, MarketError, "the test segment ended on 2020-08-01"),
        ("2012-12-31", None, "3M", ChoiceError, "The walk can't go in pieces of 3M"),
        ("2020-12-31", "tomorrow", None, ChoiceError, "can't end on tomorrow"),
        ("2020-12-31", "2015-01-03", None, ChoiceError, "take a trading day of Qlib's from 2015-01-01"),
        ("2020-12-31", "2021-01-01", None, ChoiceError, "can't end on 2021-01-01"),
        ("2020-12-31", "2014-12-31", None, ChoiceError, "from 2015-01-01 to 2015-05-29"),
        ("2020-12-31", "2015-06-02", None, ChoiceError, "from 2015-01-01 to 2015-05-29"),
        ("2020-12-31", None, "soon", ChoiceError, "The walk can't go in pieces of soon"),
        ("2020-12-31", None, "0M", ChoiceError, "such as 3M, 8W or 1Y"),
        ("2020-12-31", None, "4Y", ChoiceError, "the days to test on are 2017-01-02 to 2020-12-29"),
    ],
)
def test_refusals(
    last: str, train_end: Any, rolling: Any, kind: type[BridgeError], words: str, model: Path, tmp_path: Path
) -> None:
    """Each is one message, before anything is trained."""
    put_calendar(tmp_path, until(last))
    with pytest.raises(kind, match=words):
        later(model, train_end, rolling)


def test_data_that_are_gone(model: Path, tmp_path: Path) -> None:
    """The message names their folder."""
    (tmp_path / ".qlib/qlib_data/cn_data/calendars/day.txt").unlink()
    with pytest.raises(MarketError, match="Qlib's data of the market can't be read"):
        later(model)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("rolling", "train_end", "last", "count"),
    [("1Y", None, "2020-12-31", 4), ("6M", "2015-05-29", "2020-12-31", 8), ("20W", None, "2018-05-22", 4)],
)
def test_a_walk(
    rolling: str, train_end: str | None, last: str, count: int, model: Path, tmp_path: Path
) -> None:
    """Each day is in one piece, and no label of a training reaches into the piece that it is tested on.

    The last has the calendar end where a fifth piece would begin.
    """
    put_calendar(tmp_path, until(last))
    found = [positions(one) for one in later(model, train_end, rolling)]
    assert len(found) == count
    by = 0 if train_end is None else DAYS.get_loc(train_end) - BEFORE["train"][1]
    first, end = BEFORE["test"][0] + by, len(until(last)) - 3
    tested = [day for one in found for day in range(one["test"][0], one["test"][1] + 1)]
    assert tested == list(range(first, end + 1))
    for one in found:
        assert one["train"][0] == BEFORE["train"][0] + by
        assert one["train"][1] < one["valid"][0] < one["valid"][1] == one["test"][0] - 3


def test_an_open_end(model: Path, tmp_path: Path) -> None:
    """The test segment ended on the last day that had a label then."""
    config: Any = trained.config()
    config["task"]["dataset"]["kwargs"]["segments"]["test"][1] = None
    folder = trained.write_record(model, config, run="e" * 32, ended=10**15)
    (folder / "artifacts" / "sig_analysis").mkdir()
    ic = pd.Series([0.1, 0.2, float("nan")], index=pd.to_datetime(["2020-07-30", "2020-07-31", "2020-08-03"]))
    for name in ("ic.pkl", "ric.pkl"):
        ic.to_pickle(folder / "artifacts" / "sig_analysis" / name)
    (found,) = later(model)
    by = len(DAYS) - 3 - BEFORE["test"][1]
    assert positions(found)["train"] == (by, BEFORE["train"][1] + by)
