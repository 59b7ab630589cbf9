"""The segments of trainings on later days: those of a recorded one moved, or a walk forward from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.errors import ChoiceError, MarketError, ResultError
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.qlib_files import label, market, training_record
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report import daily_ic

Segments = dict[str, tuple[str, str]]
"""First and last day (ISO, both inclusive) of train, valid and test."""

_DURATION = re.compile(r"([1-9]\d{0,3})([DWMY])")
_UNITS = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}


def later(
    of: Path, training: training_record.Training, train_end: str | None, rolling: str | None
) -> list[Segments]:
    """Return the segments of each training that is asked for.

    Raises:
        MarketError: if Qlib's data can't be read, or have no later day with a label.
        ChoiceError: if `train_end` or `rolling` means nothing, or asks for days that are not there.
        ResultError: if the recorded segments are not known, or Qlib gave no pieces.
    """
    record = training_record.read(of)
    task = record.task if record else None
    if record is None or task is None or task.unknown:
        fix = "leave the model out"
        raise ResultError("The segments that the model was trained on are not known", str(of), fix)
    days, last = _days(task)
    place = f"{task.provider_uri}, whose days with a label end on {iso(days[last])}"
    test_end = task.test[1]
    if pd.isna(test_end):  # the last one that had a label then
        test_end = daily_ic.read(of, record.recorder).ic.dropna().index[-1]
    before = {
        name: (int(days.searchsorted(start)), int(days.searchsorted(end, side="right")) - 1)
        for name, (start, end) in {**task.segments, "test": (task.test[0], test_end)}.items()
    }
    room = last - before["test"][1]
    if room < 1 and (rolling is None or train_end is not None):
        fact = f"There are no later days to train on: the test segment ended on {test_end.date()}"
        raise MarketError(fact, place, "bring newer data of Qlib's, then refresh the model")
    by = 0 if rolling else room
    if train_end is not None:
        train = before["train"][1]
        allowed = [iso(day) for day in days[train + 1 : train + room + 1]]
        if train_end not in allowed:
            fact = f"The training, which ended on {iso(days[train])}, can't end on {train_end}"
            fix = f"take a trading day of Qlib's from {allowed[0]} to {allowed[-1]}"
            raise ChoiceError(fact, f"option --train-end; {place}", fix)
        by = allowed.index(train_end) + 1
    moved = {name: (start + by, end + by) for name, (start, end) in before.items()}
    if rolling is None:
        return [{name: (iso(days[a]), iso(days[b])) for name, (a, b) in moved.items()}]
    return _rolled(of, training, days[: last + 1], moved, rolling, label.days_ahead(task.label))


def _days(task: Task) -> tuple[pd.DatetimeIndex, int]:
    """Return Qlib's trading days, and the position of the last one that has a label."""
    found = market.read_market(task.provider_uri, task.market)
    # Qlib's back-test reads the trading day after the last one, whatever the label is.
    last = -1 if found is None else len(found.calendar) - 1 - max(1, label.days_ahead(task.label))
    if found is None or last < 0:
        fix = "download Qlib's data anew"
        raise MarketError("Qlib's data of the market can't be read, or hold no day", task.provider_uri, fix)
    return found.calendar.normalize(), last


def _rolled(
    of: Path,
    training: training_record.Training,
    days: pd.DatetimeIndex,
    moved: dict[str, tuple[int, int]],
    rolling: str,
    ahead: int,
) -> list[Segments]:
    """Return the segments of a walk forward up to the last of some days, by Qlib."""
    first, span = moved["test"][0], len(days) - moved["test"][0]
    form = _DURATION.fullmatch(rolling)
    offset = pd.DateOffset(**{_UNITS[form[2]]: int(form[1])}) if form else pd.DateOffset(days=0)
    step = int(days.searchsorted(days[first] + offset)) - first if span > 0 else 0
    if step < 1 or days[first] + offset > days[-1]:
        tested = f"{iso(days[min(first, len(days) - 1)])} to {iso(days[-1])}"
        raise ChoiceError(
            f"The walk can't go in pieces of {rolling}",
            f"option --rolling; the days to test on are {tested}",
            "name a duration that fits into them, such as 3M, 8W or 1Y",
        )
    asked = {name: [iso(days[max(a, 1)]), iso(days[b])] for name, (a, b) in moved.items() if name != "test"}
    # It takes no segment from the calendar's first day (`TimeAdjuster.truncate`, pyqlib 0.9.7); the training
    # begins where it did in any case. A label of the last day before a piece reaches `ahead` days further.
    request: dict[str, Any] = {"qlib_init": training.config["qlib_init"]}
    request |= {"step": step, "trunc_days": ahead + 1}
    request["segments"] = {**asked, "test": [iso(days[first]), iso(days[-1])]}
    with child.folder_in(of, "The walk can't be planned") as folder:
        pieces = child.ask_qlib(folder, "sota_rolling.py", request, "Qlib planned no walk")
    start, end = iso(days[moved["train"][0]]), iso(days[-1])
    return [
        {"train": (start, train[1]), "valid": (valid[0], valid[1]), "test": (test[0], min(test[1], end))}
        for train, valid, test in (map(one.get, ("train", "valid", "test")) for one in pieces)
    ]


def iso(day: pd.Timestamp) -> str:
    """Return a day as text."""
    return str(day.date())
