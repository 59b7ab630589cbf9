"""Qlib's label, the return that models are trained to predict, from Qlib's own price files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdagent_sota_bridge.errors import MarketError

_RETURN = re.compile(
    r"Ref\(\$(?P<field>\w+),\s*-(?P<later>\d+)\)\s*/\s*Ref\(\$(?P=field),\s*-(?P<earlier>\d+)\)\s*-\s*1"
)


def is_known(expression: str) -> bool:
    """Tell whether an expression has the form that is read here."""
    return _RETURN.fullmatch(expression.strip()) is not None


def file_of(folder: Path, expression: str, instrument: str) -> Path:
    """Return an instrument's file of the prices that the label is made from; of another form, its folder."""
    form = _RETURN.fullmatch(expression.strip())
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
    form = _RETURN.fullmatch(expression.strip())
    if form is None:
        return None
    files = [file_of(folder, expression, instrument) for instrument in instruments]
    later, earlier = (_field(files, days, int(form[name])) for name in ("later", "earlier"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = later / earlier - 1
    found[~np.isfinite(found)] = np.nan
    return found


def _field(files: Sequence[Path], days: Any, ahead: int) -> Any:
    """Return a field of Qlib's data so many days ahead; as in Qlib, none before an instrument's first day.

    The format is that of `qlib/data/storage/file_storage.py` (pyqlib 0.9.7): little-endian float32, the first
    the position of the first day.
    """
    found = np.full((len(days), len(files)), np.nan, dtype=np.float32)
    for column, file in enumerate(files):
        if not file.is_file():
            continue
        try:
            series = np.fromfile(file, dtype="<f4")
        except OSError as error:
            fix = "make it a file that you may read (ls -l tells), or download Qlib's data anew"
            raise MarketError(f"Qlib's prices can't be read: {error.strerror}", str(file), fix) from None
        if len(series) < 2 or not np.isfinite(series[0]):
            continue
        positions = days - int(series[0])
        inside = (positions >= 0) & (positions + ahead < len(series) - 1)
        found[inside, column] = series[1:][positions[inside] + ahead]
    return found
