"""From figures to lines: what passes, warns and fails, and what stops a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.check.figures import FactorFigures
from rdagent_sota_bridge.check.line import Line, lines_of, worst
from rdagent_sota_bridge.check.lines import failures, set_lines
from rdagent_sota_bridge.check.quality import Quality, Source
from rdagent_sota_bridge.errors import ChoiceError, FactorFileError, Failure, Reason
from rdagent_sota_bridge.factor_set.selection import Dropped
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from tests.frames import factor_set

DAY = pd.Timestamp
CALENDAR = pd.bdate_range("2020-01-01", periods=30)
MARKET = Market(Path("/qlib"), "csi300", CALENDAR, ("SH600000", "SH600004", "SZ000001"))
TASK = Task(
    provider_uri="/qlib",
    market="csi300",
    train=(CALENDAR[0], CALENDAR[9]),
    valid=(CALENDAR[10], CALENDAR[19]),
    test=(CALENDAR[20], DAY("NaT")),
    label="Ref($close, -2)/Ref($close, -1) - 1",
)
UNKNOWN = (DAY("NaT"), DAY("NaT"))
GOOD = FactorFigures(
    coverage={"train": 1.0, "valid": 1.0, "test": 1.0},
    missing=0.0,
    constant_days=0,
    days=30,
    extreme=0.0,
    low=-1.0,
    high=1.0,
    rank_ic=0.05,
    rank_ic_days=8,
)


def quality(found: FactorFigures = GOOD, **changes: object) -> Quality:
    """Return what was found out about a set of one factor, `momentum`."""
    given = Quality(
        factors=factor_set(CALENDAR),
        sources=(Source(Path("/sets/a.parquet"), "sha256:00", ("momentum",)),),
        left_out=(),
        dropped=(),
        figures={"momentum": found},
        filled=dict(found.coverage),
        missing_days=CALENDAR[:0],
        in_market=3,
        is_normal=True,
    )
    return dataclasses.replace(given, **changes)


def lines(found: Quality, market: Market | None = MARKET, task: Task = TASK) -> dict[str, Line]:
    """Return the lines by name; each name stands there once, and what does not pass has a fix."""
    result = set_lines(found, market, task)
    by_name = {line.name: line for line in result}
    assert len(by_name) == len(result)
    assert [line.name for line in result if bool(line.fix) is (line.state == "pass")] == []
    return by_name


def test_a_good_set_passes() -> None:
    """Every line passes, and nothing stops a run."""
    found = lines(quality())
    names = "set, coverage train, coverage valid, coverage test, missing days, instruments, factor momentum"
    assert list(found) == names.split(", ")
    assert worst(list(found.values())) == "pass"
    assert failures(quality(), TASK) == ()


@pytest.mark.parametrize(
    ("share", "state"), [(0.0, "fail"), (0.349, "fail"), (0.35, "warn"), (0.899, "warn"), (0.9, "pass")]
)
@pytest.mark.parametrize("of_set", [True, False], ids=["set", "factor"])
def test_coverage(share: float, state: str, of_set: bool) -> None:
    """Under 35 % of a segment fails, under 90 % warns; a factor's line has only what the set's lacks."""
    figures = dataclasses.replace(GOOD, coverage={**GOOD.coverage, "valid": share})
    found = quality(figures) if of_set else quality(figures, filled=dict(GOOD.coverage))
    by_name = lines(found)
    states = {name: line.state for name, line in by_name.items() if line.state != "pass"}
    assert states == ({} if state == "pass" else {"coverage valid" if of_set else "factor momentum": state})
    if state != "pass" and not of_set:
        assert f"fills {share:.1%} of the valid segment" in by_name["factor momentum"].text
        assert "SOTA_FACTORS_EXCLUDE=momentum" in by_name["factor momentum"].fix
    stopping = failures(found, TASK)
    assert [(one.reason, one.column) for one in stopping] == (
        [(Reason.LOW_COVERAGE, None if of_set else "momentum")] if state == "fail" else []
    )
    for failure in stopping:
        assert f"{share:.1%} of the valid segment's cells (2020-01-15 to 2020-01-28)" in str(failure)
        assert ("QLIB_MODEL_VALID_START" in failure.fix) is of_set


@pytest.mark.parametrize(
    ("segment", "share", "reason", "text"),
    [
        ("train", 0.0, Reason.NO_TRAINING_VALUE, "2020-01-01 to 2020-01-14 as training segment"),
        ("test", None, Reason.NO_MARKET_DAY, "test: 2020-01-29 to the last day"),
    ],
)
def test_what_stops_a_run(segment: str, share: float | None, reason: Reason, text: str) -> None:
    """No value to train on, or a segment without a trading day, is the one message."""
    found = quality(dataclasses.replace(GOOD, coverage={**GOOD.coverage, segment: share}))
    (failure,) = failures(found, TASK)
    assert (failure.reason, text in str(failure)) == (reason, True)
    line = lines(found)[f"coverage {segment}"]
    assert line.state == "fail"
    assert (line.text == "there is no trading day in it (2020-01-29 to the last day)") is (share is None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rank_ic": 0.21}, "rank IC of +0.210"),
        ({"rank_ic": -0.21}, "rank IC of -0.210"),
        ({"extreme": 0.02}, "many extreme values"),
        ({"constant_days": 2}, "constant on many days"),
        (
            {"spread": 3.4e-16},
            "spreads too little: the median absolute deviation of its training values is 3.4e-16",
        ),
        ({"spread": 0.0, "share_of_median": 0.61}, "has one value in 61% of its training cells"),
        ({"spread": 1e-11}, ""),
        ({"spread": None}, ""),
        ({"rank_ic": 0.19}, ""),
        ({"extreme": None}, ""),
        ({"constant_days": 1}, ""),
        ({"missing": 0.4}, ""),
    ],
)
def test_a_factor_that_looks_odd(change: dict[str, float | None], expected: str) -> None:
    """A rank IC too good, no spread, extreme values and constant days warn; none of them stops a run."""
    found = quality(dataclasses.replace(GOOD, **change))
    line = lines(found)["factor momentum"]
    assert (line.state, expected in line.text) == ("warn" if expected else "pass", True)
    assert line.figures["low"] == -1.0
    assert failures(found, TASK) == ()


@pytest.mark.parametrize(
    ("spread", "fix"),
    [
        (9.9e-12, "multiply it by 1e12"),
        (3.4e-16, "multiply it by 1e16"),
        (0.0, "subtract each day's mean"),
    ],
)
def test_a_factor_that_the_norm_loses(spread: float, fix: str) -> None:
    """The fix brings the deviation to about 1; another norm than Qlib's RobustZScoreNorm loses nothing."""
    found = quality(dataclasses.replace(GOOD, spread=spread, share_of_median=0.5))
    assert lines(found)["factor momentum"].fix.startswith(fix)
    assert lines(found, task=dataclasses.replace(TASK, is_robust=False))["factor momentum"].state == "pass"


def unknown_codes(count: int) -> Quality:
    """Return a set whose instruments are the market's three, and so many more."""
    more = tuple(f"{number:06}.SZ" for number in range(count))
    return quality(factors=factor_set(CALENDAR, (*MARKET.instruments, *more)))


@pytest.mark.parametrize(
    ("count", "end"),
    [
        (0, "; not in the market: 0 instruments of the set"),
        (1, "; not in the market: 1 instrument of the set: 000000.SZ"),
        (3, "; not in the market: 3 instruments of the set: 000000.SZ, 000001.SZ, 000002.SZ"),
        (9, ": 000000.SZ, 000001.SZ, 000002.SZ, 000003.SZ, 000004.SZ, … (9 in all)"),
    ],
)
def test_unknown_codes_are_shown(count: int, end: str) -> None:
    """Codes that the market does not have stand in the line, a few of many, in one that passes too."""
    line = lines(unknown_codes(count))["instruments"]
    assert (line.state, line.text.endswith(end)) == ("pass", True)


@pytest.mark.parametrize(
    ("gone", "weekday"),
    [
        (lambda days: days.dayofweek == 4, "Friday"),
        (lambda days: (days.dayofweek == 0) | (days == CALENDAR[7]), "Monday"),
        (lambda days: (days.dayofweek == 4) & (days != CALENDAR[7]), ""),
        (lambda days: days.dayofweek != 4, ""),
        (lambda days: days == CALENDAR[7], ""),
    ],
    ids=["every Friday", "every Monday and more", "most Fridays", "all but Fridays", "one day"],
)
@pytest.mark.parametrize("region", ["cn", "us"])
def test_all_of_one_weekday_missing(gone: Callable[[Any], Any], weekday: str, region: str) -> None:
    """Where exactly one weekday has no row at all, the text says what that is a sign of."""
    missing = CALENDAR[gone(CALENDAR)]
    missing = missing[(missing > CALENDAR[0]) & (missing < CALENDAR[-1])]
    line = lines(quality(missing_days=missing), task=dataclasses.replace(TASK, region=region))["missing days"]
    assert ("shifted by a day" in line.text) == bool(weekday)
    assert line.text.startswith(f"no {weekday} inside the set's range has a row") == bool(weekday)
    zone = {"cn": "Asia/Shanghai", "us": "America/New_York"}[region]
    assert (f".tz_convert('{zone}').tz_localize(None)" in line.fix) == bool(weekday)
    assert line.figures["ranges"]


def test_coverage_counts_no_day_that_the_calendar_does_not_have() -> None:
    """The days that a share is of are named: a segment that goes beyond the calendar ends with it there."""
    task = dataclasses.replace(
        TASK, train=(DAY("2000-01-01"), CALENDAR[9]), test=(CALENDAR[20], DAY("2030-01-01"))
    )
    found = lines(quality(), task=task)
    assert found["coverage train"].text == "rows for 100.0% of the cells (2020-01-01 to 2020-01-14)"
    assert found["coverage test"].text == "rows for 100.0% of the cells (2020-01-29 to 2020-02-11)"
    assert lines(quality())["coverage test"].text == found["coverage test"].text
    without = lines(quality(), market=None, task=task)["coverage test"]
    assert without.text == "rows for 100.0% of the cells (2020-01-29 to 2030-01-01)"


@pytest.mark.parametrize(
    ("changes", "market", "missing"),
    [
        ({"market": ""}, None, "market"),
        ({"provider_uri": ""}, None, "data folder"),
        ({"label": ""}, MARKET, "label"),
        ({"train": UNKNOWN, "test": UNKNOWN}, MARKET, "train segment, test segment"),
    ],
)
def test_what_is_not_known_is_said_and_stops_nothing(
    changes: dict[str, object], market: Market | None, missing: str
) -> None:
    """One line says what depends on a variable that nothing hands over; the rest is looked at."""
    task = dataclasses.replace(TASK, **changes)
    known = dict.fromkeys(task.segments, 1.0)
    figures = dataclasses.replace(GOOD, coverage=known, rank_ic=None, rank_ic_days=0)
    found = quality(figures, filled=known)
    by_name = lines(found, market, task)
    assert [name for name, line in by_name.items() if line.state != "pass"] == ["qlib data"]
    assert by_name["qlib data"].text.endswith(f"for nothing hands it to the YAML yet: {missing}")
    assert failures(found, task) == ()


def test_missing_days_as_ranges() -> None:
    """Days without a row are ranges of the calendar: a week-end between two days is no gap."""
    line = lines(quality(missing_days=CALENDAR[[2, 3, 4, 9, 12, 13]]))["missing days"]
    ranges = ["2020-01-03 to 2020-01-07 (3 days)", "2020-01-14", "2020-01-17 to 2020-01-20 (2 days)"]
    assert (line.state, line.figures["ranges"]) == ("warn", ranges)
    assert "6 trading days" in line.text


NO_IC = dataclasses.replace(GOOD, rank_ic=None)


@pytest.mark.parametrize(
    ("found", "market", "label", "name", "text"),
    [
        (
            quality(in_market=1, factors=factor_set(CALENDAR, ("SH600000", "600004.SH", "000001.SZ"))),
            MARKET,
            "",
            "instruments",
            "1 of the 3 of market csi300 (/qlib) are in the set; not in the market: 2 instruments "
            "of the set: 000001.SZ, 600004.SH",
        ),
        (quality(NO_IC, in_market=None), None, "", "instruments", "is not there yet (/qlib, market csi300)"),
        (quality(NO_IC), MARKET, "", "rank IC", "prices for the label in /qlib"),
        (
            quality(NO_IC),
            MARKET,
            "Ref($open, -1) / $close",
            "rank IC",
            "the label is Ref($open, -1) / $close",
        ),
        (
            quality(dropped=(Dropped("c", "momentum", 0.9954),)),
            MARKET,
            "",
            "correlation",
            "c is dropped: its mean daily |correlation| with momentum, which comes first, is 0.9954",
        ),
    ],
    ids=["few instruments", "no market", "no prices", "another label", "dropped"],
)
def test_what_warns(found: Quality, market: Market | None, label: str, name: str, text: str) -> None:
    """What is not there, or not taken, is one line that warns."""
    task = dataclasses.replace(TASK, label=label or TASK.label)
    by_name = lines(found, market, task)
    assert [line.name for line in by_name.values() if line.state != "pass"] == [name]
    assert text in by_name[name].text
    assert ("missing days" in by_name) is (market is not None)


def test_what_was_left_out() -> None:
    """What the user left out is a line that passes."""
    line = lines(quality(left_out=("b",)))["choice"]
    assert (line.state, line.text[-3:], line.figures) == ("pass", ": b", {"left_out": ["b"]})


def test_what_was_understood_of_a_file() -> None:
    """A file in another form than RD-Agent's is a line that passes, with its path."""
    source = Source(Path("/sets/a.parquet"), "sha256:00", ("momentum",), "dates are text")
    line = lines(quality(sources=(source,)))["layout"]
    assert (line.state, line.text) == ("pass", "dates are text (/sets/a.parquet)")


def test_errors_become_lines() -> None:
    """Each fault of a file is a failed line with its fix; any other error is one."""
    faults = (
        Failure(Reason.ALL_NAN, "leave it out", "a", 9),
        Failure(Reason.INFINITE, "replace them", "b"),
    )
    found = lines_of(FactorFileError("/f.parquet", faults))
    assert [(line.state, line.fix) for line in found] == [("fail", "leave it out"), ("fail", "replace them")]
    assert found[0].text == "/f.parquet: a column is all NaN [a], 9 in all"
    (line,) = lines_of(ChoiceError("No factor is left", "SOTA_FACTORS=a", "leave one in"))
    assert (line.text, line.fix) == ("No factor is left (SOTA_FACTORS=a)", "leave one in")
