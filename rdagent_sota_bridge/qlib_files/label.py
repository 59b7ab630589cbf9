"""Qlib's label, the return that models are trained to predict, from Qlib's own price files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdagent_sota_bridge.errors import MarketError
from rdagent_sota_bridge.system.files import open_file

_RETURN = re.compile(
    r"\s*Ref\(\$(?P<field>\w+),\s*-(?P<later>\d+)\)\s*/\s*Ref\(\$(?P=field),\s*-(?P<earlier>\d+)\)\s*-\s*1\s*"
)

_LATER = re.compile(r",\s*-\s*(\d+)\s*\)")


def is_known(expression: str) -> bool:
    """Return whether an expression has the form that is read here."""
    return _RETURN.fullmatch(expression) is not None


def days_ahead(expression: str) -> int:
    """Return how many trading days after its own a day's label needs, or more where its form is not known."""
    looks = [int(days) for days in _LATER.findall(expression)]
    return max(looks) if is_known(expression) else sum(looks)  # one may stand in another


def file_of(folder: Path, expression: str, instrument: str) -> Path:
    """Return an instrument's file of the prices that the label is made from; of another form, its folder."""
    form = _RETURN.fullmatch(expression)
    place = folder / "features" / instrument.lower()
    return place if form is None else place / f"{form['field'].lower()}.day.bin"


def values(folder: Path, expression: str, days: Any, instruments: Sequence[str]) -> Any:
    """Return the label of some days and instruments, or None where its expression is no plain return.

    Args:
        folder: Qlib's data folder.
        expression: The label's expression. What is read is the form of RD-Agent's templates, a return between
            two later days: `Ref($close, -2)/Ref($close, -1) - 1`.
        days: Positions in Qlib's calendar, (days,).
        instruments: The instruments; one without prices has no label.

    Raises:
        MarketError: if a price file can't be read.

    Returns:
        float32, (days, instruments), NaN where there is no label.
    """
    form = _RETURN.fullmatch(expression)
    if form is None:
        return None
    prices = np.full((2, len(days), len(instruments)), np.nan, dtype=np.float32)
    for column, instrument in enumerate(instruments):
        start, series = _prices(file_of(folder, expression, instrument))
        for place, ahead in enumerate((int(form["later"]), int(form["earlier"]))):
            # As in Qlib, a day before an instrument's first has none, though the day ahead has a price.
            inside = (days >= start) & (days + ahead < start + len(series))
            prices[place, inside, column] = series[days[inside] + ahead - start]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = prices[0] / prices[1] - 1
    found[~np.isfinite(found)] = np.nan
    return found


def _prices(file: Path) -> tuple[int, Any]:
    """Return the position of an instrument's first day, and its prices; none where it has none.

    The format is that of `qlib/data/storage/file_storage.py` (pyqlib 0.9.7): little-endian float32, the first
    the position of the first day.
    """
    try:
        with open_file(file) as content:
            series = np.fromfile(content, dtype="<f4")
    except FileNotFoundError:
        series = np.empty(0, dtype="<f4")
    except OSError as error:
        fix = "make it a file that you may read (see ls -l), or download Qlib's data anew"
        raise MarketError(f"Qlib's prices can't be read: {error.strerror}", str(file), fix) from None
    if len(series) < 2 or not np.isfinite(series[0]):
        return 0, series[:0]
    return int(series[0]), series[1:]
