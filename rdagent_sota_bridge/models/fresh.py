"""The values of a model's factors for days that its set does not cover: the factors' code is run again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_bridge.check import execute_factor, factor_settings, look_ahead
from rdagent_sota_bridge.check.execute_factor import RunError
from rdagent_sota_bridge.check.factor_settings import Execution
from rdagent_sota_bridge.check.truncate import UNREADABLE, NotCheckedError, data_files, times_in
from rdagent_sota_bridge.errors import FreshValuesError
from rdagent_sota_bridge.factor_set import locate, panel, parquet, sessions, store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import DATETIME, FACTOR_FILE
from rdagent_sota_bridge.factor_set.sessions import FactorCode
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.retrain import own_set
from rdagent_sota_bridge.qlib_files import manifest, market, training_record
from rdagent_sota_bridge.qlib_files.manifest import Source
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.system import files

FRESH = "fresh"
"""The word for factor data that are made anew; a folder of that name is `./fresh`."""

TOLERANCE = 1e-4
"""By so much of a factor's standard deviation its code may differ from the stored values: float32, and prices
that the provider adjusted anew."""

_DATA, _SAID = "factor_data", "factor_data.txt"  # in the store: the folder, and what Qlib said without data
_KEEP = ("Fresh factor values can't be kept", "set SOTA_STORE_PATH to a writable folder with room")
_CHANGED = (
    "bring a newer set of the same columns, for its data or code has changed, or it uses the whole sample"
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class _Mined:
    """Columns that one run mined: the codes that may make them, the latest first, and how these are run."""

    columns: tuple[str, ...]
    codes: tuple[FactorCode, ...]
    execution: Execution


def covering(of: Path, last_day: str | None, factor_data: str | None, say: Say) -> tuple[Path, pd.Timestamp]:
    """Return a factor file of a model's mined columns that covers the days up to one, and where its own ends.

    That is the file in the model's workspace where the rows of each run that mined it reach that day. Else
    the code that made the set is run again on the factor data, in the Python that RD-Agent runs factors in.
    The stored rows stay as they are, so that old predictions repeat to the bit; the new rows are laid behind
    them. On the stored days the code has to give the stored values again, up to `TOLERANCE`. The new file
    reaches as far as the factor data. The store keeps it: the same code is not run again on the same data.

    Args:
        of: The workspace of a model that was trained with mined columns.
        last_day: The last day that is needed (ISO); one without trading counts as the trading day before.
            None for the last one in Qlib's data: then the workspace's own file will do where `factor_data` is
            None, and the code is not known or RD-Agent's data end sooner; `say` gets the reason.
        factor_data: `FRESH` for data that RD-Agent's `generate.py` makes anew from Qlib's, in a folder of
            ours; else a folder in place of RD-Agent's own; None for that.
        say: Gets a line of what takes time.

    Returns:
        The file; and the last day that the set in the workspace covers.

    Raises:
        FactorFileNotFoundError, SetChangedError: if the file of the set is gone, or is another one.
        FreshValuesError: if the code of a column is not known, fails, gives other values than the stored ones
            (the message names factor, day, instrument and both values) or none behind them; or the factor
            data end before that day.
        ResultError: if the manifest, or what Qlib recorded of the model, can't be read.
        SessionError: if the log that holds the code can't be read.
        SettingsError: if a variable has a value that means nothing.
        StoreError: if a file can't be read or written.
    """
    of = of.absolute()
    record = manifest.read(of)
    stored = own_set(of, record.stored)
    old = execute_factor.flat(parquet.read_whole(stored))
    sources, day = sources_of(record, tuple(old.columns)), _trading_day(of, last_day)
    own_end = _last_day(old, sources)
    if day is None or own_end >= day:
        return stored, own_end
    place = store.folder(read_settings().store_path)
    with store.failing_at(place, _KEEP):
        try:
            runs = [mined_by(of, source) for source in sources]
            if factor_data is not None:
                folder = _made_anew(place, say) if factor_data == FRESH else Path(factor_data).expanduser()
                runs = [replace(one, execution=replace(one.execution, data_folder=folder)) for one in runs]
            folders = dict.fromkeys(one.execution.data_folder for one in runs)
            data = [_digests(folder, day, factor_data == FRESH) for folder in folders]
        except FreshValuesError as error:
            if last_day is not None or factor_data is not None:
                raise
            say(f"no values behind the set: {error.fact} ({error.place}); {error.fix}")
            return stored, own_end
        codes = [[one.columns, [(code.name, code.code) for code in one.codes]] for one in runs]
        key = json.dumps([parquet.current_digest(stored), codes, data])
        digest = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
        wanted = store.Wanted(digest, tuple(old.columns), ())
        known = store.find(digest, place)
        if known is None or store.trouble_of(known):
            values = _extended(old, runs, say)
            place.mkdir(parents=True, exist_ok=True)
            with files.new_folder(place, ".fresh-") as folder:
                file = folder / FACTOR_FILE
                values.set_axis(panel.nested_columns(wanted.columns), axis=1).to_parquet(file)
                made = replace(wanted, sources=((file, parquet.current_digest(file)),))
                store.keep(made, place, say)
        kept = store.keep(wanted, place).path
        end = _last_day(execute_factor.flat(pd.read_parquet(kept)), sources)
    if end < day:
        fact = f"The factors' values end on {end:%Y-%m-%d}, and the data that they are made from do not"
        raise FreshValuesError(
            fact, str(kept), "ask for no later day, or bring a newer set of the same columns"
        )
    return kept, own_end


# --- what the set was made of ---


def sources_of(record: manifest.Recorded, columns: tuple[str, ...]) -> list[Source]:
    """Return the files that a manifest names, each column once, and one without a path for the others.

    Among those are the columns that a run of fin_quant replaced by its own.
    """
    left, found = [name for name in columns if name not in record.own], []
    for source in record.sources:
        if mine := tuple(name for name in left if name in source.columns):
            found.append(source.model_copy(update={"columns": mine}))
            left = [name for name in left if name not in mine]
    known = {name for source in found for name in source.columns}
    others = tuple(name for name in columns if name not in known)
    return [*found, *([Source(columns=others)] if others else [])]


def mined_by(of: Path, source: Source) -> _Mined:
    """Return the run that mined columns; a FreshValuesError where its log is not known."""
    at = Located(Path(source.path), Path(source.log) if source.log else None, source.loop)
    if at.log is None or not at.log.is_dir():  # named by its workspace, or moved with its project since
        at = locate.with_its_log(Located(of.parent / at.path.parent.name / FACTOR_FILE))
    if at.log is None:
        what = ", ".join(source.columns)
        fact = f"The days are behind the set, and the code of {what} is not known: no log here mined it"
        fix = "bring a newer set of the same columns: rdagent-sota predict takes it with --factors"
        raise FreshValuesError(fact, source.path or str(of / manifest.MANIFEST_FILE), fix)
    # RD-Agent takes its data from the project that it was started in, the one that holds the log.
    execution = factor_settings.settings_of_rdagent(at.log.parent.parent)
    return _Mined(source.columns, sessions.codes_of_set(at.log, at.loop)[::-1], execution)


def _trading_day(of: Path, last_day: str | None) -> pd.Timestamp | None:
    """Return the last trading day in Qlib's data up to a day; as far as the data can be read from here."""
    record = training_record.read(of)
    task = record.task if record else None
    home = market.read_market(task.provider_uri, task.market) if task else None
    asked = None if last_day is None else pd.Timestamp(last_day)
    if home is None:
        return asked
    days = home.calendar.normalize()
    return days[-1 if asked is None else max(0, days.searchsorted(asked, side="right") - 1)]


def _last_day(values: pd.DataFrame, sources: Sequence[Source]) -> pd.Timestamp:
    """Return the last day that the rows of every source reach."""
    ends = [_times(rows_of(values, one.columns)).max() for one in sources]
    return min(ends).normalize()


def rows_of(values: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns; where others were joined to them, without the rows that those alone have."""
    found = values[list(columns)]
    return found if len(columns) == len(values.columns) else found.dropna(how="all")


def _times(values: pd.DataFrame) -> pd.DatetimeIndex:
    return values.index.get_level_values(DATETIME)


# --- the data that factors are made from ---


def _made_anew(place: Path, say: Say) -> Path:
    """Return the folder of data that were made of Qlib's just now; equal ones are left as they were."""
    say("RD-Agent's generate.py makes the factor data anew from Qlib's")
    folder = place / _DATA
    folder.mkdir(parents=True, exist_ok=True)
    with files.new_folder(place, ".data-") as work:
        child.call("make_factor_data", work)
        made, kept = work / "daily_pv_all.h5", folder / "daily_pv.h5"
        if not made.is_file():
            said = (work / child.OUTPUT).replace(place / _SAID)
            raise FreshValuesError("No factor data were made", str(said), "see what Qlib says there")
        with contextlib.suppress(*UNREADABLE):  # there is none yet, or a damaged one
            if pd.read_hdf(kept).equals(pd.read_hdf(made)):
                return folder
        made.replace(kept)
    return folder


def _digests(folder: Path, day: pd.Timestamp, is_new: bool) -> list[str]:
    """Return names and digests of the files of factor data, which have to reach a day."""
    fix = f"make them anew from Qlib's data: --factor-data {FRESH}; or name a folder: --factor-data FOLDER"
    fix = "bring Qlib's data up to that day, and start again" if is_new else fix
    fact = "There are no data to make factors from"
    try:
        found = data_files(folder) if folder.is_dir() else []
        ends = [times.max() for file in found for times in times_in(file) if len(times)]
    except NotCheckedError as error:
        fact = f"The factor data can't be read: {error.fact}"
        raise FreshValuesError(fact, str(folder), error.fix) from None
    if ends and min(ends).normalize() >= day:
        return [f"{file.name} {parquet.current_digest(file)}" for file in found]
    if ends:
        fact = f"The factor data end on {min(ends):%Y-%m-%d}, and days up to {day:%Y-%m-%d} are asked for"
    raise FreshValuesError(fact, str(folder), fix)


# --- running ---


def _extended(old: pd.DataFrame, runs: Sequence[_Mined], say: Say) -> pd.DataFrame:
    """Return the stored values with the new rows of each run's columns behind them, sorted."""
    whole = old
    for one in runs:
        rows = _rows_behind(rows_of(old, one.columns), one, say)
        whole = whole.combine_first(rows.astype(old.dtypes[list(one.columns)]))
    return whole[list(old.columns)]


def _rows_behind(stored: pd.DataFrame, one: _Mined, say: Say) -> pd.DataFrame:
    """Return the rows behind the stored ones that the codes of a run leave now."""
    made: dict[str, pd.Series] = {}
    troubles: dict[str, FreshValuesError] = {}
    named = {code.name for code in one.codes}
    # A factor that was improved has several codes, of which the latest is in the set.
    for code in sorted(one.codes, key=lambda code: code.name not in one.columns):
        left = [name for name in one.columns if name not in made]
        # A code may give its column another name than the factor's.
        if code.name not in left and (code.name in one.columns or named.issuperset(left)):
            continue
        say(f"the code of {code.name} is run again")
        try:
            result = run_code(code.name, code.code, one.execution)
            for name in left:
                if name in result.columns:
                    made[name] = _new_values(stored[[name]], result, one.execution)
        except FreshValuesError as error:
            troubles.setdefault(code.name, error)
    if left := [name for name in one.columns if name not in made]:
        fact = f"No code of the run that mined {', '.join(left)} makes that now"
        none = FreshValuesError(fact, str(one.execution.data_folder), _CHANGED)
        raise next((troubles[name] for name in [*left, *troubles] if name in troubles), none)
    rows = pd.DataFrame(made)[list(one.columns)]
    # From its second accepted loop on RD-Agent drops rows with a missing value (`factor_runner.py`, 0.8.0,
    # 1.0.0): where the stored rows have none, the new ones shall have none.
    return rows.dropna() if stored.notna().all(axis=None) else rows


def run_code(name: str, code: str, execution: Execution) -> pd.DataFrame:
    """Return what a factor's code makes; a FreshValuesError where it fails."""
    try:
        return execute_factor.run(code, execution.data_folder, execution)
    except (RunError, NotCheckedError) as error:
        fix = getattr(error, "fix", f"see whether it runs with {execution.python_bin}, on these data")
        fact = f"The code of {name} can't be run again: {error.args[0]}"
        raise FreshValuesError(fact, str(execution.data_folder), fix) from None


def _new_values(stored: pd.DataFrame, result: pd.DataFrame, execution: Execution) -> pd.Series:
    """Return the values of a column behind the stored ones; these have to be the same in the result."""
    (name,), held = stored.columns, stored.dropna()
    now = look_ahead.values_like(held, result)
    numbers = held.to_numpy("float64")
    with np.errstate(invalid="ignore"):
        differ = ~(np.abs(numbers - now) <= TOLERANCE * numbers.std())  # so does a value that is not there
    place = str(execution.data_folder)
    if differ.any():
        first = look_ahead.first_cell(held, differ, {"stored": numbers, "now": now})
        was, is_now = (look_ahead.shown(first[which]) for which in ("stored", "now"))
        fact = f"{look_ahead.cell_name(first)} is stored as {was}, and its code makes {is_now} of it now"
        fact += f", the first of {differ.sum():,} such values"
        raise FreshValuesError(fact, place, _CHANGED)
    new = result.loc[_times(result) > _times(stored).max(), name].astype("float64")
    if not np.isfinite(new).any() or np.isinf(new).any():
        what = "infinite values" if np.isinf(new).any() else "no value"
        fact = f"The code of {name} gives {what} behind {_times(stored).max():%Y-%m-%d}, where the set ends"
        raise FreshValuesError(fact, place, "see how it names days; or bring a newer set of the same columns")
    return new
