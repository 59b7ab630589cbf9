"""The values of a model's factors for days that its set does not cover: the factors' code is run again.

About 150 lines.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.check.execute_factor import flat
from rdagent_sota_bridge.errors import FreshValuesError
from rdagent_sota_bridge.factor_set.names import DATETIME, FACTOR_FILE
from rdagent_sota_bridge.models.retrain import set_is_gone

FRESH = "fresh"
"""The word for factor data that are made anew; a folder of that name is `./fresh`."""


def covering(of: Path, last_day: str, factor_data: str | None, say: Callable[[str], object]) -> Path:
    """Return a factor file of a model's mined columns that covers the days up to one.

    That is the file in the model's workspace where every column has a value on that day or later. Else the
    code that made the set is run again on the factor data, in the Python that RD-Agent runs factors in. The
    stored rows stay as they are, so that old predictions repeat to the bit; the new rows are laid behind
    them. On the stored days the code has to give the stored values again, up to 1e-4 of the factor's standard
    deviation. The new file reaches as far as the factor data. It is kept in the store's folder: the same
    code is not run again on the same data.

    Args:
        of: The workspace of a model that was trained with mined columns.
        last_day: The last trading day that is needed (ISO).
        factor_data: `FRESH` for data that RD-Agent's `generate.py` makes anew from Qlib's, in a folder of
            ours; else a folder in place of RD-Agent's own; None for that.
        say: Gets a line of what takes time.

    Raises:
        FactorFileNotFoundError: if the file of the set is gone.
        FreshValuesError: if the code of a column is not known, fails, gives other values than the stored ones
            (the message names factor, day, instrument and both values) or none for that day; or the factor
            data end before it.
        SessionError: if the log that holds the code can't be read.
        SettingsError: if a variable has a value that means nothing.
        StoreError: if a file can't be read or written.
    """
    stored = of.absolute() / FACTOR_FILE
    if not stored.is_file():
        raise set_is_gone(stored)
    if _last_day(flat(pd.read_parquet(stored))) >= pd.Timestamp(last_day):
        return stored
    fix = "bring a newer set of the same columns"
    raise FreshValuesError(f"The set ends before {last_day}", str(stored), fix)


def _last_day(values: pd.DataFrame) -> pd.Timestamp:
    """Return the last day on which, or after which, every column has a value."""
    return min(values[name].dropna().index.get_level_values(DATETIME).max() for name in values).normalize()
