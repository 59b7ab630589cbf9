"""Whether a factor's code sees the future: it is run again on data that end early."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.check.execute_factor import RunError, flat, run
from rdagent_sota_bridge.check.factor_settings import Execution
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.check.truncate import NotCheckedError, cut_data, data_files, times_in
from rdagent_sota_bridge.factor_set.names import DATETIME
from rdagent_sota_bridge.factor_set.sessions import FactorCode

NAME = "look-ahead by re-execution"
"""The name of every line of this check."""

Stored = Mapping[str, Callable[[], pd.Series]]
"""From a column's name to what reads its values: float, index levels (datetime, instrument)."""

_PART_OF_THE_DATES = 0.7
_RELATIVE = 1e-6
_OF_SCALE = 1e-9


@dataclass(frozen=True)
class _Cut:
    """The data that end early: their folder, the last time of stored values to compare (a day or a time), and
    that of the data, with the whole day.
    """

    execution: Execution
    early: Path
    date: pd.Timestamp
    end: pd.Timestamp


def check_set(codes: Sequence[FactorCode], stored_by_name: Stored, execution: Execution) -> list[Line]:
    """Run the codes of a run on data that end early, and compare what they leave with the stored values.

    A value that changes when the future is taken away was made from the future. One cut is enough for both
    ways of seeing it: a window that reaches forward lacks its data in the last rows before the cut, and a
    mean, a scale or a rank over all dates changes in every row. (The cut lies inside a week and a month where
    the dates allow it, for else what reaches to the end of a period would reach no further than the cut.)

    Not seen are a future that a code reads from elsewhere and joins to the rows of its data files, and one
    that touches the rows before the cut by less than a relative 1e-6.

    Args:
        codes: The codes of a run, rejected ones too. Several may have made one column (a factor that was
            improved): those whose values the set does not hold are left out where another one's are in it.
        stored_by_name: The set.
        execution: How the codes are run.

    Returns:
        A line for each code whose columns are in the set: `pass`; `fail` with factor, first date, instrument
        and both values; or `warn` with the reason why it could not be checked. One more for the columns that
        no code is known for. Where the data can't be cut, one line for all.
    """
    distinct = {(code.name, code.code): code for code in codes}.values()
    if not distinct or not stored_by_name:
        return _without_code(list(stored_by_name))
    findings: list[tuple[Line | None, list[str], bool]] = []
    made: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="sota-ahead-") as scratch:
        try:
            cut = _cut(stored_by_name, execution, Path(scratch))
        except NotCheckedError as error:
            return [_not_checked(", ".join(stored_by_name), error)]
        for code in sorted(distinct, key=lambda code: code.name not in stored_by_name):
            if code.name not in stored_by_name and made.issuperset(stored_by_name):
                break  # the set is explained whole: the others were dropped, or never accepted
            line, columns, reproduces = _look(code, stored_by_name, cut)
            findings.append((line, columns, reproduces))
            made.update(columns if reproduces else ())
    unknown = [name for name in stored_by_name if not any(name in columns for _, columns, _ in findings)]
    lines = [
        line
        for line, columns, reproduces in findings
        # A code that failed may have made a column of another name; one that another code made is settled.
        if line and (reproduces or (set(columns) - made if columns else unknown))
    ]
    return [*lines, *_without_code(unknown)]


def _look(code: FactorCode, stored: Stored, cut: _Cut) -> tuple[Line | None, list[str], bool]:
    """Return the line of a code, the columns of the set that it makes, and whether in these values."""
    columns = [code.name] if code.name in stored else []
    try:
        result = _first_run(code, cut)
        columns = [name for name in stored if name in result.columns]
        if not columns:  # RD-Agent dropped it, or the user did
            return None, [], False
        held = flat(pd.DataFrame({name: stored[name]() for name in columns}))
        line, reproduces = _compared(code, held, result, cut)
    except NotCheckedError as error:
        return _not_checked(code.name, error), columns, False
    return line, columns, reproduces


def _compared(code: FactorCode, held: pd.DataFrame, result: pd.DataFrame, cut: _Cut) -> tuple[Line, bool]:
    """Return the line, and whether the code makes the stored values."""
    early, day = held[_times(held) <= cut.date], _day(cut.date)
    if not early.index.isin(result.index).any():
        fix = "see how the code names dates and instruments"
        raise NotCheckedError("its result has no row in common with the set", fix)
    # A column without a value at the cut has none that lacks the future.
    missing = [name for name, last in early[_times(early) == cut.date].items() if last.isna().all()]
    if missing:
        fact = f"{', '.join(missing)} has no value on {day}"
        raise NotCheckedError(fact, "check the set of its run by itself")
    names = list(early.columns)
    subject = code.name if names == [code.name] else f"{code.name} ({', '.join(names)})"
    figures = {
        "factor": code.name,
        "columns": names,
        "cut": day,
        "compared": int(early.notna().to_numpy().sum()),
    }
    without = values_like(early, result)
    if _differ(early, early, without).any():
        return _why_changed(code, early, without, subject, figures, cut)
    reached = _times(result).max()
    if reached > cut.end and reached >= _times(held.dropna(how="all")).max():
        fact = f"its result reaches to {_day(reached)}, its data to {day}: it reads data from elsewhere"
        fix = "let it read the files beside it, by their bare names, and mine the factor anew"
        raise NotCheckedError(fact, fix)
    text = f"{subject}: {figures['compared']:,} values up to {day} stay the same without the data after it"
    return Line(NAME, "pass", text, figures=figures), True


def _why_changed(
    code: FactorCode, stored: pd.DataFrame, without: Any, subject: str, figures: dict[str, Any], cut: _Cut
) -> tuple[Line, bool]:
    """Find out whether values differ for lack of the future, and return as `_compared` does."""
    day, data = _day(cut.date), cut.execution.data_folder
    within = values_like(stored, _again(code, data, "the full data", cut))
    ahead = _differ(stored, within, without)
    arrays = {"stored": stored.to_numpy("float64"), "without_future": without, "with_future": within}
    if not ahead.any():
        first = first_cell(stored, _differ(stored, stored, without), arrays)
        text = (
            f"{subject}: not checked: the code gives other values than the stored ones: {cell_name(first)} "
            f"is stored as {shown(first['stored'])} and is {shown(first['without_future'])} now, with and "
            "without the future"
        )
        fix = (
            f"the data in {data}, or the file, have changed since it was mined: restore them, or mine it anew"
        )
        return Line(NAME, "warn", text, fix, {**figures, "first": first}), False
    repeated = values_like(stored, _again(code, cut.early, f"the data up to {day}", cut))
    unsteady = _differ(stored, without, repeated)
    if unsteady.any():
        first = first_cell(stored, unsteady, {"first_run": without, "second_run": repeated})
        text = (
            f"{subject}: not checked: the code is not deterministic: two runs on the same data give "
            f"{shown(first['first_run'])} and {shown(first['second_run'])} for {cell_name(first)}"
        )
        fix = "fix the seed in the code, or leave the factor out: its values can't be made again"
        return Line(NAME, "warn", text, fix, {**figures, "first": first}), False
    first = first_cell(stored, ahead, arrays)
    changed, reproduces = int(ahead.sum()), not _differ(stored, stored, within).any()
    guilty = [name for name, found in zip(stored.columns, ahead.any(axis=0), strict=True) if found]
    text = (
        f"{subject}: looks ahead: {cell_name(first)} is stored as {shown(first['stored'])} and is "
        f"{shown(first['without_future'])} without the data after {day}; "
        f"{changed:,} of {figures['compared']:,} values up to there change"
    )
    if not reproduces:
        now = shown(first["with_future"])
        text += f" (the data have changed since it was mined, too: with them it is {now} now)"
    fix = f"leave it out (SOTA_FACTORS_EXCLUDE={','.join(guilty)}): nobody can know its values in time"
    figures = {**figures, "changed": changed, "looking_ahead": guilty, "first": first}
    return Line(NAME, "fail", text, fix, figures), reproduces


def values_like(stored: pd.DataFrame, result: pd.DataFrame) -> Any:
    """Return a result's values in the rows and columns of the stored ones, NaN where it has none.

    Raises:
        NotCheckedError: if they are no numbers.
    """
    try:
        frame = result.reindex(columns=stored.columns).reindex(stored.index)
        return frame.to_numpy(dtype="float64", na_value=np.nan)
    except (TypeError, ValueError) as error:
        fact = f"the result holds values that are no numbers: {error}"
        raise NotCheckedError(fact, "mine it anew") from None


def _differ(stored: pd.DataFrame, one: Any, other: Any) -> Any:
    """Return which of the stored values differ between two arrays, by more than the arithmetic's noise."""
    one, other, size = (
        np.asarray(one, "float64"),
        np.asarray(other, "float64"),
        stored.abs().to_numpy("float64"),
    )
    # By a quantile: one huge value must not make all others equal.
    noise = _RELATIVE * size + _OF_SCALE * np.nanquantile(size, 0.9, axis=0)
    with np.errstate(invalid="ignore"):
        same = (np.abs(one - other) <= noise) | (one == other) | (np.isnan(one) & np.isnan(other))
    return ~np.isnan(size) & ~same


def first_cell(stored: pd.DataFrame, mask: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the earliest marked cell, of one date the first instrument's, and its value in each array.

    None stands for a value that is missing or infinite, which JSON can't hold.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    row = min(rows, key=lambda found: (stored.index[found][0], str(stored.index[found][1])))
    column = int(np.flatnonzero(mask[row])[0])
    date, instrument = stored.index[row]
    place = {"factor": str(stored.columns[column]), "date": _day(date), "instrument": str(instrument)}
    values = {name: float(array[row, column]) for name, array in arrays.items()}
    return {**place, **{name: value if np.isfinite(value) else None for name, value in values.items()}}


def cell_name(cell: dict[str, Any]) -> str:
    """Name a cell as `first_cell` returns it."""
    return f"{cell['factor']} of {cell['instrument']} on {cell['date']}"


def shown(value: float | None) -> str:
    """Return a value of a cell as messages show it."""
    return "no number" if value is None else f"{value:.9g}"


def _not_checked(subject: str, error: NotCheckedError) -> Line:
    return Line(NAME, "warn", f"{subject}: not checked: {error.fact}", error.fix, {"factor": subject})


def _without_code(names: list[str]) -> list[Line]:
    text = f"not checked: no code of the run makes {', '.join(names)}"
    fix = "check them with the log of the run that mined them, or read how they were made"
    return [Line(NAME, "warn", text, fix, {"columns": names})] if names else []


def _day(moment: pd.Timestamp) -> str:
    return str(moment.date()) if moment == moment.normalize() else str(moment)


def _times(frame: pd.DataFrame) -> pd.DatetimeIndex:
    return frame.index.get_level_values(DATETIME)


# --- where to cut ---


def _cut(stored: Stored, execution: Execution, scratch: Path) -> _Cut:
    """Choose where to cut, and cut the data there: each table must have times, and lose some rows."""
    folder = execution.data_folder
    fix = "name the folder with FACTOR_CoSTEER_DATA_FOLDER, or start in the project's folder"
    if not folder.is_dir():
        raise NotCheckedError(f"the data that factors are made from are not there: {folder}", fix)
    files = data_files(folder)
    spans = [(times.min(), times.max()) for file in files for times in times_in(file) if len(times)]
    if not spans:
        raise NotCheckedError(f"no table with rows is in {folder}", fix)
    first, last = max(span[0] for span in spans), min(span[1] for span in spans)
    # The times at which as many columns as possible have a value.
    counts: pd.Series = pd.Series(dtype="float64")
    for name in stored:
        ones = pd.Series(1.0, index=_times(flat(stored[name]().to_frame().dropna())).unique())
        counts = counts.add(ones, fill_value=0)
    times = pd.DatetimeIndex(counts.index[counts == counts.max()]).sort_values()
    daily = bool((times == times.normalize()).all())
    if daily:  # a day that the data have bars of counts whole, and the cut leaves all of it
        first, last = first.normalize(), last.normalize()
    date = _date_to_cut(times[(times >= first) & (times <= last)], last)
    if date is None:
        there = f"{_day(times[0])} to {_day(times[-1])}" if len(times) else "none"
        raise NotCheckedError(
            f"no stored date ({there}) has data before and after it in every table of {folder}: "
            f"one begins at {_day(first)}, one ends at {_day(last)}",
            "restore the data of its run, and keep only the tables that factors are made from",
        )
    end = date + pd.Timedelta(days=1) - pd.Timedelta(1, "ns") if daily else date
    for file in files:
        cut_data(file, scratch / file.name, end)
    return _Cut(execution, scratch, date, end)


def _date_to_cut(times: pd.DatetimeIndex, last: pd.Timestamp) -> pd.Timestamp | None:
    """Return one of the times, about 70 % of the way, with data after it; None where there is none."""
    weeks, months = times.to_period("W"), times.to_period("M")
    inside = [*((weeks[1:] == weeks[:-1]) & (months[1:] == months[:-1])), False]  # of its week and month
    wanted = int(_PART_OF_THE_DATES * len(times))
    positions = [position for position, time in enumerate(times) if time < last]
    best = min(positions, key=lambda at: (not inside[at], abs(at - wanted)), default=None)
    return None if best is None else times[best]


# --- running ---


def _first_run(code: FactorCode, cut: _Cut) -> pd.DataFrame:
    try:
        return run(code.code, cut.early, cut.execution)
    except RunError as error:
        early_error = error
    _again(code, cut.execution.data_folder, "the full data as well", cut)
    fact = f"suspicious: the code works on the full data and not on the data up to {_day(cut.date)}"
    fix = "read the code: does it need dates that lie in the future?"
    raise NotCheckedError(f"{fact}: {early_error}", fix)


def _again(code: FactorCode, data: Path, what: str, cut: _Cut) -> pd.DataFrame:
    try:
        return run(code.code, data, cut.execution)
    except RunError as error:
        fix = f"run it where RD-Agent runs factors (FACTOR_CoSTEER_PYTHON_BIN={cut.execution.python_bin})"
        raise NotCheckedError(f"the code fails on {what}: {error}", fix) from None
