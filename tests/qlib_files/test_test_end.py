"""The last day that a test segment may have: as Qlib's own back-test calendar has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_bridge.qlib_files.market import late_end, read_market
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, QlibStart, Task
from tests.qlib_files.test_market import put_market

DAYS = "2020-01-02\n2020-01-03\n2020-01-06\n"
NAT = pd.NaT

CASES = {
    "the day before the last": ("", "2020-01-03", False),
    "a week-end before the last": ("", "2020-01-05", False),
    "the last": ("", "2020-01-06", True),
    "after the last": ("", "2021-12-31", True),
    "open": ("", None, True),
    "the last, with a day to come": ("2020-01-07\n", "2020-01-06", False),
    "a day to come": ("2020-01-07\n2020-01-08\n", "2020-01-07", False),
    "the last day to come": ("2020-01-07\n", "2020-01-07", True),
    "open, with a day to come": ("2020-01-07\n", None, False),
}
"""From a case to the days to come, the end of the back-test, and whether that is too late."""

QLIB = """
import json, sys
import qlib
from qlib.backtest.utils import TradeCalendarManager
from qlib.data.data import Cal
from qlib.data.cache import H
from qlib.utils import get_date_by_shift
found = {}
for name, folder, end in json.loads(sys.argv[1]):
    qlib.init(provider_uri=folder, kernels=1)
    H.clear()
    end = end or get_date_by_shift(Cal.calendar()[-1], 1)  # as PortAnaRecord does
    days = TradeCalendarManager("day", "2020-01-02", end)
    try:
        days.get_step_time(days.get_trade_len() - 1)
        found[name] = False
    except IndexError:
        found[name] = True
print(json.dumps(found))
"""


def folder_of(place: Path, later: str) -> Path:
    """Write Qlib's text files with days to come, and return their folder."""
    place.mkdir()
    put_market(place, DAYS, "SH600000\t2005-01-04\t2030-12-31\n")
    if later:
        (place / "calendars" / "day_future.txt").write_text(DAYS + later)
    return place


def task(end: str | None) -> Task:
    """Return a task whose back-test ends on a day, or is open."""
    day = pd.Timestamp("2020-01-02")
    return Task("/q", "csi300", (day, day), (day, day), (day, NAT), "", backtest_end=pd.Timestamp(end))


@pytest.mark.parametrize("name", CASES)
def test_a_back_test_needs_one_more_day(name: str, tmp_path: Path) -> None:
    """One day of the calendar has to follow, of those to come where there are any; the last one is named."""
    later, end, is_late = CASES[name]
    market = read_market(str(folder_of(tmp_path / "q", later)), "csi300")
    assert market is not None
    found = late_end(market, QlibStart(CONFIG_FILE, "", {"test_end": str(end)}), task(end))
    assert (found is not None) is is_late
    if found is not None:
        last = "2020-01-06" if later else "2020-01-03"
        assert found.fix == f"set QLIB_MODEL_TEST_END={last} or earlier"
        assert ("day_future.txt" if later else "day.txt") in found.place
        in_yaml = late_end(market, QlibStart("my.yaml", "", {}), task(end))
        assert in_yaml is not None
        assert in_yaml.fix == f"let the test segment and the back-test of my.yaml end on {last} or earlier"


@pytest.mark.parametrize(("end", "last"), [("2020-01-02", ""), ("2020-01-03", "2020-01-02")])
def test_an_open_back_test_ends_after_the_last_prediction(end: str, last: str, tmp_path: Path) -> None:
    """Where the test segment has an end, Qlib tests to the day after it, and needs another one after that."""
    market, day = read_market(str(folder_of(tmp_path / "q", "")), "csi300"), pd.Timestamp(end)
    found = late_end(
        market,
        QlibStart(CONFIG_FILE, "", {"test_end": end}),
        Task("/q", "csi300", (day, day), (day, day), (day, day), "", backtest_end=NAT),
    )
    assert (found is not None) is bool(last)
    if found is not None:
        assert found.fix == f"set QLIB_MODEL_TEST_END={last} or earlier"
        assert found.fact.startswith(f"The test segment ends on {end}, ")


@pytest.mark.parametrize("content", ["", "soon\n", "2020-01-03\n2020-01-02\n"])
def test_a_calendar_of_days_to_come_that_is_none(content: str, tmp_path: Path) -> None:
    """The market is known all the same, and one message names that file: Qlib's back-test would read it."""
    folder = folder_of(tmp_path / "q", "")
    (folder / "calendars" / "day_future.txt").write_text(content)
    market = read_market(str(folder), "csi300")
    assert market is not None
    found = late_end(market, QlibStart(CONFIG_FILE, "", {}), task("2020-01-02"))
    assert found is not None
    assert found.place.endswith("calendars/day_future.txt")


def test_what_is_not_known_is_not_late(tmp_path: Path) -> None:
    """Without Qlib's data, or an end that is known, nothing is said."""
    start = QlibStart(CONFIG_FILE, "", {})
    assert late_end(None, start, task(None)) is None
    market = read_market(str(folder_of(tmp_path / "q", "")), "csi300")
    day = pd.Timestamp("2020-01-02")
    assert late_end(market, start, Task("/q", "csi300", (day, day), (day, day), (day, NAT), "")) is None


@pytest.mark.e2e
def test_qlib_itself_needs_one_more_day(tmp_path: Path) -> None:
    """The real Qlib's calendar of a back-test ends in an IndexError in the cases that are refused."""
    asked = [
        (name, str(folder_of(tmp_path / str(number), later)), end)
        for number, (name, (later, end, _)) in enumerate(CASES.items())
    ]
    process = subprocess.run(
        [sys.executable, "-c", QLIB, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads(process.stdout.splitlines()[-1]) == {name: late for name, (_, _, late) in CASES.items()}
