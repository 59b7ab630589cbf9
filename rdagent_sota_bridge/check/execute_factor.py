"""Running a factor's code again as RD-Agent does, beside copies of a folder of data."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from rdagent_sota_bridge.check.factor_settings import TIMEOUT, Execution
from rdagent_sota_bridge.check.truncate import UNREADABLE, NotCheckedError, copy_file, data_files
from rdagent_sota_bridge.factor_set.names import DATETIME, INSTRUMENT
from rdagent_sota_bridge.system import child

# The names that RD-Agent gives to a factor's code and result (`components/coder/factor_coder/factor.py`).
_CODE_FILE = "factor.py"
_VALUES_FILE = "result.h5"
_SHOWN = 300  # characters of what a code said


class RunError(Exception):
    """The code ran, and left no result."""


def run(code: str, data: Path, execution: Execution) -> pd.DataFrame:
    """Run code beside copies of the files of a folder, and return what it left, as `flat` does.

    The code is run with RD-Agent's interpreter, in its shell form (`components/coder/factor_coder/factor.py`,
    `FactorFBWorkspace.execute`, 0.8.0 and 1.0.0), but not through that method: its pickle cache knows the
    code alone and would answer with the values of other data.

    Args:
        code: The text of factor.py.
        data: The folder of the files to copy, which takes the place of the execution's own.
        execution: How the code is run.

    Raises:
        RunError: if it fails or leaves no result; the text has the end of its output.
        NotCheckedError: if it does not end in time, the data can't be copied, or the result has no such form.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sota-run-", ignore_cleanup_errors=True) as name,
        tempfile.TemporaryFile() as output,
    ):
        folder = Path(name)
        for file in data_files(data):
            if file.name != _VALUES_FILE:  # which is not the code's
                copy_file(file, folder / file.name)
        (folder / _CODE_FILE).write_text(code, encoding="utf-8")
        status = _execute(execution, folder, output)
        try:
            if status != 0:
                raise RunError(f"exit status {status}{_ending(output, folder)}")
            table = pd.read_hdf(folder / _VALUES_FILE)
        except FileNotFoundError:
            raise RunError(f"it leaves no {_VALUES_FILE}{_ending(output, folder)}") from None
        except UNREADABLE as error:
            raise RunError(f"its {_VALUES_FILE} can't be read: {str(error)[:_SHOWN]}") from None
    return flat(table.to_frame() if isinstance(table, pd.Series) else table)


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a code's result with the index levels (datetime, instrument) and one column a name.

    Mirrors what RD-Agent 1.0.0 does to a result (`scenarios/qlib/developer/utils.py`,
    `_normalize_factor_index`, and `factor_runner.py`): other levels go, and of columns with one name the last
    stays.

    Raises:
        NotCheckedError: if a level is not there or holds no plain times, or rows are there more than once.
    """
    fix = "see what the code writes: one row a datetime and instrument, and these as index levels"
    times, instruments = _level(frame.index, DATETIME), _level(frame.index, INSTRUMENT)
    if not isinstance(times, pd.DatetimeIndex) or times.tz is not None or instruments is None:
        there = ", ".join(str(name) for name in frame.index.names)
        fact = f"its result has no index level {DATETIME} of plain times, or no single {INSTRUMENT}: {there}"
        raise NotCheckedError(fact, fix)
    levels = [times.as_unit("ns"), instruments.astype(object)]
    index = pd.MultiIndex.from_arrays(levels, names=[DATETIME, INSTRUMENT])
    if index.has_duplicates:
        day, instrument = index[index.duplicated()][0]
        raise NotCheckedError(f"its result has more than one row for {instrument} on {day}", fix)
    names = [str(name[-1] if isinstance(name, tuple) else name) for name in frame.columns]
    named = frame.set_axis(index, axis=0).set_axis(names, axis=1)
    return named.loc[:, ~named.columns.duplicated(keep="last")]


def _level(index: pd.Index, name: str) -> pd.Index | None:
    found = [index.get_level_values(number) for number, level in enumerate(index.names) if level == name]
    # groupby().rolling() and the like leave the level of the group twice.
    return found[0] if found and all(other.equals(found[0]) for other in found[1:]) else None


def _execute(execution: Execution, folder: Path, output: BinaryIO) -> int:
    # The form of RD-Agent's command, whose interpreter may come with arguments; with the file's bare
    # name, as its path may have spaces. The processes form a group, so that none outlives the run.
    process = subprocess.Popen(  # noqa: S602
        f"{execution.python_bin} {_CODE_FILE}",
        shell=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(execution.timeout)
    except subprocess.TimeoutExpired:
        fact = f"it did not end within {execution.timeout:g} seconds"
        raise NotCheckedError(fact, f"give it more time with {TIMEOUT}") from None
    finally:
        child.end_group(process)  # its folder is removed next


def _ending(output: BinaryIO, folder: Path) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - 10 * _SHOWN))
    text = output.read().decode("utf-8", errors="replace").replace(f"{folder}{os.sep}", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {' | '.join(lines[-3:])[-_SHOWN:]}" if lines else ""
