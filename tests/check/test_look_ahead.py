"""Whether a factor's code sees the future."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.check.factor_settings import Execution
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.check.look_ahead import check_set
from rdagent_sota_bridge.factor_set.sessions import FactorCode

pytestmark = pytest.mark.usefixtures("nothing_left")

DAYS = pd.bdate_range("2020-01-01", periods=60)
INSTRUMENTS = [f"SH6000{number:02}" for number in range(12)]
CUT = "2020-02-27"
"""The day at 70 % of the 60 is Friday 2020-02-28; the one before it lies inside a week and a month."""

BEGIN = "import pandas as pd\nclose = pd.read_hdf('daily_pv.h5', key='data')['$close']\n"
END = "factor.to_hdf('result.h5', key='data')\n"
MOMENTUM = "factor = (close / close.groupby(level=1).shift(3) - 1).to_frame('alpha')\n"
TOMORROW = "factor = (close.groupby(level=1).shift(-1) / close - 1).to_frame('alpha')\n"


Leaving = Callable[..., FactorCode]


def code_of(name: str, text: str) -> FactorCode:
    """Return the code of a factor, as a run's log gives it."""
    return FactorCode(name, 0, True, text, "")


def prices(times: pd.DatetimeIndex = DAYS) -> pd.DataFrame:
    """Return the table that RD-Agent gives to factors, small: rows sorted by (datetime, instrument)."""
    index = pd.MultiIndex.from_product([times, INSTRUMENTS], names=["datetime", "instrument"])
    steps = np.random.default_rng(5).normal(scale=0.02, size=(len(times), len(INSTRUMENTS)))
    return pd.DataFrame({"$close": 10 * np.exp(steps.cumsum(axis=0)).ravel()}, index=index)


def values_of(body: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute factors as their code does, on the full data or on a table."""
    names: dict[str, Any] = {"close": (prices() if table is None else table)["$close"], "pd": pd}
    exec(body, names)  # the lines of this file
    frame: pd.DataFrame = names["factor"]
    return frame


def until_cut(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows up to the cut."""
    return frame[frame.index.get_level_values("datetime") <= CUT]


STORED = values_of(MOMENTUM).dropna()  # rows without a value go, as in RD-Agent


def bars_of_a_day() -> pd.DataFrame:
    """Return prices at two times of each day."""
    return prices(pd.DatetimeIndex([day + pd.Timedelta(hours=hour) for day in DAYS for hour in (10, 15)]))


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    """Return how this Python runs factors on a small data folder."""
    folder = tmp_path / "a project" / "data"
    folder.mkdir(parents=True)
    prices().to_hdf(folder / "daily_pv.h5", key="data")
    (folder / "README.md").write_text("Daily prices, 价格.", encoding="utf-8")
    return Execution(sys.executable, folder, 60)


@pytest.fixture
def leaving(tmp_path: Path) -> Leaving:
    """Return a function that makes code which leaves a table without pandas, whose import takes a second."""

    def make(table: pd.DataFrame, name: str = "alpha", first: str = "") -> FactorCode:
        prepared = tmp_path / f"prepared {len(list(tmp_path.iterdir()))}.h5"
        table.to_hdf(prepared, key="data")
        return code_of(name, f"{first}import shutil; shutil.copyfile({str(prepared)!r}, 'result.h5')\n")

    return make


def columns_of(frame: pd.DataFrame) -> dict[str, Callable[[], pd.Series]]:
    """Return what reads each column of a set."""
    return {str(name): frame[name].dropna().copy for name in frame}


def only_line(code: FactorCode, stored: pd.DataFrame, execution: Execution) -> Line:
    """Check a set with one code; fail where it gives more than one line."""
    (line,) = check_set([code], columns_of(stored), execution)
    return line


def assert_line(line: Line, state: str, *parts: str) -> None:
    """Fail unless a line has a state, these parts in its text, a fix where it needs one, and figures."""
    assert line.name == "look-ahead by re-execution"
    assert line.state == state, line
    for part in parts:
        assert part in line.text
    assert bool(line.fix) == (state != "pass")
    json.dumps(line.figures, allow_nan=False)


# --- what runs can show ---


def test_a_factor_made_from_the_past_passes(execution: Execution) -> None:
    """A momentum over past days is the same without the future; a relative 1e-7 is the arithmetic's noise."""
    body = f"{MOMENTUM}factor['noisy'] = factor['alpha']\nfactor['not in the set'] = close\n"
    stored = values_of(body).drop(columns="not in the set").dropna()
    stored["noisy"] *= 1 + 1e-7
    line = only_line(code_of("alpha", BEGIN + body + END), stored, execution)
    compared = until_cut(stored).size
    assert_line(line, "pass", f"alpha (alpha, noisy): {compared:,} values up to {CUT} stay the same")
    assert line.figures == {
        "factor": "alpha",
        "columns": ["alpha", "noisy"],
        "cut": CUT,
        "compared": compared,
    }


def test_tomorrows_return_fails_and_the_users_files_stay(execution: Execution, tmp_path: Path) -> None:
    """A window that reaches one day forward changes on the last day; what the code writes over is a copy."""
    (execution.data_folder / "result.h5").symlink_to(execution.data_folder / "daily_pv.h5")

    def files() -> dict[Path, tuple[bytes, int]]:
        found = (file for file in tmp_path.rglob("*") if file.is_file())
        return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in found}

    before = files()
    ruin = "(close * 0).to_frame('$close').to_hdf('daily_pv.h5', key='data', mode='w')\n"
    stored = values_of(TOMORROW).dropna()
    line = only_line(code_of("alpha", BEGIN + TOMORROW + ruin + END), stored, execution)
    value = stored.loc[(CUT, INSTRUMENTS[0]), "alpha"]
    assert_line(
        line,
        "fail",
        f"alpha: looks ahead: alpha of {INSTRUMENTS[0]} on {CUT} is stored as {value:.9g} and is no number",
    )
    assert line.text.endswith(f"12 of {len(until_cut(stored))} values up to there change")
    assert "SOTA_FACTORS_EXCLUDE=alpha)" in line.fix
    assert line.figures["first"] == {
        "factor": "alpha",
        "date": CUT,
        "instrument": INSTRUMENTS[0],
        "stored": value,
        "without_future": None,
        "with_future": value,
    }
    assert files() == before


def test_scales_and_ends_of_periods_fail_on_other_data_too(execution: Execution) -> None:
    """Each column that looks ahead is named: scales of all dates, ends of periods, one with a value of 1e20.

    That the set was mined on other data is said as well, and a momentum beside them is not accused.
    """
    body = (
        f"{MOMENTUM}factor['标准分'] = (close - close.mean()) / close.std()\n"
        "factor['rank'] = close.groupby(level=1).rank(pct=True)\n"
        "days = close.index.get_level_values(0)\n"
        "factor['huge'] = factor['标准分'].where(days != '2020-01-06', 1e20)\n"
        "for unit in 'W', 'M':\n"
        "    of_period = close.groupby([days.to_period(unit), close.index.get_level_values(1)])\n"
        "    factor[unit] = of_period.transform('last')\n"
    )
    stored, early = values_of(body), values_of(body, until_cut(prices()))
    now = stored["标准分"].iloc[0]
    stored["标准分"] += 0.5
    line = only_line(code_of("scales", BEGIN + body + END), stored, execution)
    assert_line(
        line,
        "fail",
        f"标准分 of {INSTRUMENTS[0]} on {DAYS[0].date()} is stored as {now + 0.5:.9g} and is "
        f"{early['标准分'].iloc[0]:.9g} without the data after {CUT}",
        f"the data have changed since it was mined, too: with them it is {now:.9g} now",
    )
    assert line.figures["looking_ahead"] == ["标准分", "rank", "huge", "W", "M"]
    assert "SOTA_FACTORS_EXCLUDE=标准分,rank,huge,W,M)" in line.fix


def test_a_random_factor_is_no_look_ahead(execution: Execution, leaving: Leaving, tmp_path: Path) -> None:
    """A code that gives other values in each run warns with the values of two runs."""
    mark, again = tmp_path / "mark", leaving(STORED)
    once = leaving(STORED * 3, first=f"open({str(mark)!r}, 'w')\n")
    code = f"import os\nif os.path.exists({str(mark)!r}):\n    {again.code}else:\n    "
    line = only_line(code_of("alpha", code + once.code.replace("\n", "; ").strip("; ")), STORED, execution)
    value = STORED.iloc[0, 0]
    assert_line(line, "warn", "alpha: not checked: the code is not deterministic")
    assert f"{value * 3:.9g} and {value:.9g} for alpha of {INSTRUMENTS[0]} on 2020-01-06" in line.text


@pytest.mark.parametrize("daily", [True, False], ids=["daily values", "values within the day"])
def test_data_within_the_day(execution: Execution, daily: bool) -> None:
    """A daily factor made from bars keeps the whole day before the cut; values in it are cut at a bar."""
    bars = bars_of_a_day()
    bars.to_hdf(execution.data_folder / "daily_pv.h5", key="data", mode="w")
    body = MOMENTUM
    if daily:
        body = "days = close.index.get_level_values(0).normalize().rename('datetime')\n"
        body += "factor = close.groupby([days, 'instrument']).mean().to_frame('alpha')\n"
    line = only_line(code_of("alpha", BEGIN + body + END), values_of(body, bars), execution)
    assert_line(line, "pass", "up to 2020-02-27 stay" if daily else "up to 2020-02-28 10:00:00 stay")


SUSPICIOUS = (
    "import pandas as pd\nassert '2020-03-20' in pd.read_hdf('daily_pv.h5').index.levels[0], 'too short'\n"
)
PYTHON_BIN = f"FACTOR_CoSTEER_PYTHON_BIN={sys.executable}"
NOT_CHECKED: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "other data now": (
        STORED - 0.5,
        ("the code gives other values than the stored ones", f"is stored as {STORED.iloc[0, 0]:.9g} and is "),
        "/a project/data, or the file, have changed since it was mined",
    ),
    "data from elsewhere": (
        STORED,
        ("its result reaches to 2020-03-24", "it reads data from elsewhere"),
        "by their",
    ),
    "fails": ("raise ValueError('no $vwap')\n", ("fails on the full data as well", "no $vwap"), PYTHON_BIN),
    "fails without the future": (
        SUSPICIOUS,
        ("suspicious: the code works on the full data", f"not on the data up to {CUT}", "too short"),
        "read the code",
    ),
    "hangs": ("import time; time.sleep(60)", ("it did not end within 2.5 seconds",), "EXECUTION_TIMEOUT"),
    "no levels": (STORED.reset_index(drop=True), ("no index level",), "as index levels"),
    "other instruments": (STORED.rename(index=str.lower, level=1), ("no row in common",), "names"),
    "text": (STORED.astype(str) + " yuan", ("no numbers",), "mine it anew"),
    "empty": (STORED.iloc[:0], ("no row in common",), "names"),
}


@pytest.mark.parametrize("kind", NOT_CHECKED)
def test_what_can_not_be_checked(kind: str, execution: Execution, leaving: Leaving) -> None:
    """Where nothing can be said of the future the line gives the reason and the fix, and never passes."""
    made, parts, fix = NOT_CHECKED[kind]
    code = leaving(STORED, first=made) if made is SUSPICIOUS else made
    code = code_of("alpha", made) if isinstance(code, str) else code
    code = leaving(made) if isinstance(code, pd.DataFrame) else code
    if kind == "hangs":
        execution = replace(execution, timeout=2.5)
    line = only_line(code, STORED, execution)
    assert_line(line, "warn", "alpha: not checked: ", *parts)
    assert fix in line.fix


# --- sets ---


def test_a_set_is_checked_code_by_code(execution: Execution, leaving: Leaving) -> None:
    """Each code has a line, the same code twice has one, and columns without a code have one together."""
    alpha = leaving(until_cut(STORED))
    beta = leaving(until_cut(STORED.rename(columns={"alpha": "beta"})), "the second")
    stored = STORED.assign(beta=STORED["alpha"], γ=1.0, delta=2.0)
    lines = check_set([beta, alpha, alpha], columns_of(stored), execution)
    assert [line.state for line in lines] == ["pass", "pass", "warn"]
    assert [line.text.split(":")[0] for line in lines[:2]] == ["alpha", "the second (beta)"]
    assert lines[2].text == "not checked: no code of the run makes γ, delta"
    assert lines[2].figures == {"columns": ["γ", "delta"]}


def test_codes_whose_factors_are_not_in_the_set_give_no_line(
    execution: Execution, leaving: Leaving, tmp_path: Path
) -> None:
    """A factor that RD-Agent dropped or the user left out is no line; where all is known it is not run."""
    dropped = leaving(until_cut(STORED.rename(columns={"alpha": "dropped"})), "dropped")
    alpha, unknown = leaving(until_cut(STORED)), STORED.assign(beta=1.0)
    first, second = check_set([dropped, alpha], columns_of(unknown), execution)
    assert_line(first, "pass", "alpha: ")
    assert second.text == "not checked: no code of the run makes beta"

    mark = tmp_path / "mark"
    marking = replace(dropped, code=f"open({str(mark)!r}, 'w')\n{dropped.code}")
    assert_line(*check_set([marking, alpha], columns_of(STORED), execution), "pass")
    assert not mark.exists()
    (line,) = check_set([marking], columns_of(STORED), execution)
    assert_line(line, "warn", "no code of the run makes alpha")
    assert mark.exists()


def test_a_failing_code_that_may_have_made_an_unknown_column(execution: Execution, leaving: Leaving) -> None:
    """A code that fails, and whose name is not in the set, counts as long as a column has no code."""
    failing, alpha = code_of("lost", "raise SystemExit('no $vwap')"), leaving(until_cut(STORED))
    lines = check_set([failing, alpha], columns_of(STORED.assign(beta=1.0)), execution)
    assert [line.state for line in lines] == ["pass", "warn", "warn"]
    assert_line(lines[1], "warn", "lost: not checked: the code fails")
    (line,) = check_set([failing, alpha], columns_of(STORED + 0.5), execution)
    assert_line(line, "warn", "alpha: not checked: the code gives other values")


@pytest.mark.parametrize("last", [True, False], ids=["first", "last"])
def test_of_several_codes_of_a_column_the_one_counts_that_made_it(
    execution: Execution, leaving: Leaving, last: bool
) -> None:
    """Versions of a factor with other values, or that fail, say nothing on a set that holds another one's."""
    others = [leaving(STORED * 2), code_of("alpha", "raise SystemExit('first try')")]
    alpha = [leaving(until_cut(STORED))]
    (line,) = check_set(others + alpha if last else alpha + others, columns_of(STORED), execution)
    assert_line(line, "pass")


@pytest.mark.parametrize(
    ("first", "count", "cut"),
    [("2020-01-01", 46, "2020-02-13"), ("2020-03-16", 17, "2020-03-30"), ("2020-03-16", 2, "2020-03-16")],
    ids=["end of a week", "end of a month", "two dates"],
)
def test_the_cut_lies_inside_a_week_and_a_month(
    execution: Execution, leaving: Leaving, first: str, count: int, cut: str
) -> None:
    """Where 70 % of the dates end a week or a month another is taken, with data after it in any case."""
    stored = prices(pd.bdate_range(first, periods=count))
    stored.to_hdf(execution.data_folder / "daily_pv.h5", key="data", mode="w")
    stored.columns = ["alpha"]
    line = only_line(leaving(stored[:cut]), stored, execution)  # type: ignore[misc]
    assert_line(line, "pass", f"up to {cut} stay the same")


@pytest.mark.parametrize("day", [DAYS[0], DAYS[-1]], ids=["the first", "the last"])
def test_a_set_of_one_day_within_bars(execution: Execution, leaving: Leaving, day: pd.Timestamp) -> None:
    """A day has data after it only where a later day has: the last bar of a day is not its future."""
    bars = bars_of_a_day()
    bars.to_hdf(execution.data_folder / "daily_pv.h5", key="data", mode="w")
    stored = prices().loc[[day]].set_axis(["alpha"], axis=1)
    line = only_line(leaving(stored), stored, execution)
    if day == DAYS[0]:
        assert_line(line, "pass", f"up to {day.date()} stay the same")
    else:
        assert_line(line, "warn", f"no stored date ({day.date()} to {day.date()}) has data before and after")


def test_the_cut_is_where_most_columns_have_values(execution: Execution, leaving: Leaving) -> None:
    """A column that ends early, in a set joined of two, moves the cut; one without a value there is named."""
    frame = STORED.assign(half=1.0)
    frame["half"] = frame["half"].where(frame.index.get_level_values("datetime") <= "2020-01-31")
    result = STORED[:"2020-01-23"].assign(half=1.0)  # type: ignore[misc]
    (line,) = check_set([leaving(result)], columns_of(frame), execution)
    assert_line(line, "pass", "alpha (alpha, half): ", "up to 2020-01-23 stay the same")
    frame["late"] = frame["alpha"].where(frame.index.get_level_values("datetime") >= "2020-03-18")
    (line,) = check_set([leaving(result.assign(late=1.0))], columns_of(frame), execution)
    assert_line(line, "warn", "alpha: not checked: late has no value on 2020-01-29")


def test_sets_without_a_value_or_code(execution: Execution) -> None:
    """A set of NaN has no date to cut at, one without code is not checked; an empty set has no line."""
    code = code_of("alpha", "raise SystemExit")
    (line,) = check_set([code], {"alpha": (STORED["alpha"] * np.nan).copy}, execution)
    assert_line(line, "warn", "alpha: not checked: no stored date (none) has data before and after it")
    (line,) = check_set([], columns_of(STORED), execution)
    assert_line(line, "warn", "not checked: no code of the run makes alpha")
    assert check_set([], {}, execution) == check_set([code], {}, execution) == []


# --- data ---


NOT_CUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: folder.rename(folder.parent / "moved"), "are not there"),
    "no file": (lambda folder: None, "no table with rows"),
    "no rows": (lambda folder: prices()[:0].to_hdf(folder / "daily_pv.h5", key="data"), "no table with rows"),
    "no dates": (lambda folder: prices().loc[CUT].to_hdf(folder / "b.h5", key="data"), "b.h5 can't be cut"),
    "damaged": (lambda folder: (folder / "b.h5").write_bytes(b"\x89HDF damaged"), "b.h5 can't be cut"),
    "no format": (lambda folder: (folder / "b.bin").write_bytes(b"\x00"), "b.bin can't be cut"),
    "dead link": (
        lambda folder: (folder / "b.h5").symlink_to(folder / "nowhere"),
        "b.h5 is a folder, or no file",
    ),
    "folder": (lambda folder: (folder / "more").mkdir(), "more is a folder"),
    "other dates": (
        lambda folder: prices(DAYS - pd.Timedelta(days=999)).to_hdf(folder / "b.h5", key="data"),
        "no stored date (2020-01-06 to 2020-03-24) has data before and after it",
    ),
    "one row": (
        lambda folder: prices(pd.DatetimeIndex(["2010-01-01"])).to_hdf(folder / "b.h5", key="data"),
        "ends at 2010-01-01",
    ),
}


@pytest.mark.parametrize(("prepare", "part"), NOT_CUT.values(), ids=NOT_CUT)
def test_data_that_can_not_be_cut(execution: Execution, prepare: Callable[[Path], object], part: str) -> None:
    """Data without a date to cut at leave the whole set unchecked, in one line; no code is run."""
    if part == "no table with rows":
        (execution.data_folder / "daily_pv.h5").unlink()
    prepare(execution.data_folder)
    codes = [code_of("alpha", "raise SystemExit('was run')"), code_of("beta", "raise SystemExit('was run')")]
    (line,) = check_set(codes, columns_of(STORED.assign(beta=1.0)), execution)
    assert_line(line, "warn", "alpha, beta: not checked: ", part)
    assert "was run" not in line.text
