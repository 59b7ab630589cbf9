"""From figures to lines: what passes, warns and fails, and what stops a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_bridge.check import lines as checks
from rdagent_sota_bridge.check.figures import FactorFigures
from rdagent_sota_bridge.check.lines import Line, worst
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


def lines(found: Quality, market: Market | None = MARKET) -> dict[str, Line]:
    """Return the lines by name; each name stands there once."""
    result = checks.set_lines(found, market, TASK)
    by_name = {line.name: line for line in result}
    assert len(by_name) == len(result)
    return by_name


def test_a_good_set_passes() -> None:
    """Every line passes, none has a fix, and nothing stops a run."""
    found = lines(quality())
    assert list(found) == [
        "set",
        "coverage train",
        "coverage valid",
        "coverage test",
        "missing days",
        "instruments",
        "factor momentum",
    ]
    assert worst(list(found.values())) == "pass"
    assert not any(line.fix for line in found.values())
    assert checks.failures(quality(), TASK) == ()


@pytest.mark.parametrize(
    ("share", "state"), [(0.0, "fail"), (0.349, "fail"), (0.35, "warn"), (0.899, "warn"), (0.9, "pass")]
)
def test_coverage_of_the_set(share: float, state: str) -> None:
    """Under 35 % of a segment fails, under 90 % warns; the factors do not repeat what the set lacks."""
    figures = dataclasses.replace(GOOD, coverage={**GOOD.coverage, "valid": share})
    found = lines(quality(figures))
    assert found["coverage valid"].state == state
    assert found["factor momentum"].state == "pass"
    assert found["coverage train"].state == found["coverage test"].state == "pass"
    failures = checks.failures(quality(figures), TASK)
    if state == "fail":
        (failure,) = failures
        assert (failure.reason, failure.column) == (Reason.LOW_COVERAGE, None)
        assert f"{share:.1%} of the valid segment's cells (2020-01-15 to 2020-01-28)" in str(failure)
        assert "QLIB_MODEL_VALID_START" in failure.fix
    else:
        assert failures == ()


@pytest.mark.parametrize(("share", "state"), [(0.2, "fail"), (0.5, "warn"), (0.95, "pass")])
def test_coverage_of_a_factor(share: float, state: str) -> None:
    """A factor that lacks what the set has is told by its own line, and under 35 % stops the run."""
    figures = dataclasses.replace(GOOD, coverage={**GOOD.coverage, "test": share})
    found = quality(figures, filled=dict(GOOD.coverage))
    line = lines(found)["factor momentum"]
    assert line.state == state
    assert lines(found)["coverage test"].state == "pass"
    failures = checks.failures(found, TASK)
    assert [failure.column for failure in failures] == (["momentum"] if state == "fail" else [])
    if state != "pass":
        assert f"fills {share:.1%} of the test segment" in line.text
        assert "SOTA_FACTORS_EXCLUDE=momentum" in line.fix


def test_no_value_in_training() -> None:
    """Where no factor has a value to train on, that is the one message."""
    figures = dataclasses.replace(GOOD, coverage={**GOOD.coverage, "train": 0.0})
    (failure,) = checks.failures(quality(figures), TASK)
    assert failure.reason is Reason.NO_TRAINING_VALUE
    assert "2020-01-01 to 2020-01-14 as training segment" in str(failure)


def test_a_segment_without_a_trading_day() -> None:
    """A segment that Qlib's calendar does not reach fails, and stops a run."""
    figures = dataclasses.replace(GOOD, coverage={**GOOD.coverage, "test": None})
    line = lines(quality(figures))["coverage test"]
    assert (line.state, line.text) == ("fail", "there is no trading day in it (2020-01-29 to the last day)")
    (failure,) = checks.failures(quality(figures), TASK)
    assert failure.reason is Reason.NO_MARKET_DAY


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rank_ic": 0.21}, "rank IC of +0.210"),
        ({"rank_ic": -0.21}, "rank IC of -0.210"),
        ({"extreme": 0.02}, "many extreme values"),
        ({"constant_days": 2}, "constant on many days"),
        ({"rank_ic": 0.19}, ""),
        ({"extreme": None}, ""),
        ({"constant_days": 1}, ""),
        ({"missing": 0.4}, ""),
    ],
)
def test_a_factor_that_looks_odd(change: dict[str, float | None], expected: str) -> None:
    """A rank IC too good, extreme values and constant days warn, with a fix; none of them stops a run."""
    found = quality(dataclasses.replace(GOOD, **change))
    line = lines(found)["factor momentum"]
    assert (line.state, bool(line.fix)) == (("warn", True) if expected else ("pass", False))
    assert expected in line.text
    assert line.figures["low"] == -1.0
    assert checks.failures(found, TASK) == ()


def test_missing_days_as_ranges() -> None:
    """Days without a row are ranges of the calendar: a week-end between two days is no gap."""
    missing = CALENDAR[[2, 3, 4, 9, 12, 13]]
    line = lines(quality(missing_days=missing))["missing days"]
    assert line.state == "warn"
    assert line.figures["ranges"] == [
        "2020-01-03 to 2020-01-07 (3 days)",
        "2020-01-14",
        "2020-01-17 to 2020-01-20 (2 days)",
    ]
    assert "6 trading days" in line.text


def test_few_instruments_of_the_market() -> None:
    """A set for another market's instruments warns with both numbers."""
    line = lines(quality(in_market=1))["instruments"]
    assert line.state == "warn"
    assert "1 of the 3 of market csi300 (/qlib) are in the set; 2 instruments of the set" in line.text


def test_without_a_market() -> None:
    """Qlib's data not there yet, one line says so, and no IC is missed."""
    found = lines(quality(dataclasses.replace(GOOD, rank_ic=None), in_market=None), None)
    assert found["instruments"].state == "warn"
    assert "Qlib data is not there yet (/qlib, market csi300)" in found["instruments"].text
    assert "missing days" not in found
    assert "rank IC" not in found


def test_without_prices() -> None:
    """A market whose label can't be read is told once, not passed over."""
    found = quality(dataclasses.replace(GOOD, rank_ic=None))
    line = lines(found)["rank IC"]
    assert line.state == "warn"
    assert "prices for the label in /qlib" in line.text
    other = dataclasses.replace(TASK, label="Ref($open, -1) / $close")
    (line,) = (line for line in checks.set_lines(found, MARKET, other) if line.name == "rank IC")
    assert line.state == "warn"
    assert "the label is Ref($open, -1) / $close" in line.text


def test_what_was_left_out_and_dropped() -> None:
    """Choice is a figure, a dropped factor a warning that says which and why."""
    found = lines(quality(left_out=("b",), dropped=(Dropped("c", "momentum", 0.9954),)))
    assert found["choice"].text.endswith(": b")
    assert found["correlation"].state == "warn"
    assert "c is dropped: its mean daily |correlation| with momentum" in found["correlation"].text
    assert "0.9954" in found["correlation"].text


def test_errors_become_lines() -> None:
    """Each fault of a file is a failed line with its fix; any other error is one."""
    failures = (
        Failure(Reason.ALL_NAN, "leave it out", "a", 9),
        Failure(Reason.INFINITE, "replace them", "b"),
    )
    found = checks.lines_of(FactorFileError("/f.parquet", failures))
    assert [(line.state, line.fix) for line in found] == [("fail", "leave it out"), ("fail", "replace them")]
    assert found[0].text == "/f.parquet: a column is all NaN [a], 9 in all"
    (line,) = checks.lines_of(ChoiceError("No factor is left", "SOTA_FACTORS=a", "leave one in"))
    assert (line.text, line.fix) == ("No factor is left (SOTA_FACTORS=a)", "leave one in")
