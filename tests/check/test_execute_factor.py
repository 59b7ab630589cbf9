"""Running a factor's code as RD-Agent does."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_bridge.check.execute_factor import RunError, flat, run
from rdagent_sota_bridge.check.factor_settings import Execution, settings_of_rdagent
from rdagent_sota_bridge.check.truncate import NotCheckedError
from rdagent_sota_bridge.errors import SettingsError
from tests.frames import assert_survives_pickling, factor_frame

pytestmark = pytest.mark.usefixtures("nothing_left")

FRAME = factor_frame(("alpha",))


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    """Return how this Python runs code on a data folder with one file."""
    folder = tmp_path / "a project" / "data"
    folder.mkdir(parents=True)
    (folder / "prices.csv").write_text("1,2")
    return Execution(sys.executable, folder, 60)


def code_leaving(tmp_path: Path, table: pd.DataFrame | pd.Series) -> str:
    """Return code that leaves a table, without the second that importing pandas takes."""
    prepared = tmp_path / "prepared.h5"
    table.to_hdf(prepared, key="data")
    return f"import shutil; shutil.copyfile({str(prepared)!r}, 'result.h5')\n"


def test_code_runs_beside_copies_of_the_data(execution: Execution, tmp_path: Path) -> None:
    """Code writes over copies, the user's files stay as they were, and an old result is not read."""
    (execution.data_folder / "result.h5").write_text("of the user's own")
    code = (
        "import os\nassert sorted(os.listdir()) == ['factor.py', 'prices.csv'], os.listdir()\n"
        "assert open('prices.csv').read() == '1,2'\nopen('prices.csv', 'w').write('gone')\n"
    )
    result = run(code + code_leaving(tmp_path, FRAME), execution.data_folder, execution)
    pd.testing.assert_frame_equal(result, FRAME, check_index_type=False)
    assert (execution.data_folder / "prices.csv").read_text() == "1,2"
    assert (execution.data_folder / "result.h5").read_text() == "of the user's own"


def test_an_interpreter_with_arguments_and_the_environment(
    execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command goes through the shell, as RD-Agent's does, with the variables of this process."""
    monkeypatch.setenv("LAG", "3")
    code = "import os, sys\nassert sys.flags.utf8_mode == 1 and os.environ['LAG'] == '3'\n"
    shell = replace(execution, python_bin=f"{shlex.quote(sys.executable)} -X utf8")
    assert len(run(code + code_leaving(tmp_path, FRAME), execution.data_folder, shell)) == len(FRAME)


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("print('价格')\nraise ValueError('no $vwap')", ("exit status 1: ", "factor.py", "no $vwap")),
        ("print('x' * 9000); print('done')", ("it leaves no result.h5: ", "x | done")),
        ("", ("it leaves no result.h5",)),
        ("", ("exit status 127: ", "no-such-python")),
        ("open('result.h5', 'w').write('x')", ("its result.h5 can't be read: ",)),
    ],
    ids=["fails", "leaves none", "silent", "no interpreter", "unreadable"],
)
def test_code_without_a_result(execution: Execution, code: str, parts: tuple[str, ...]) -> None:
    """The error holds the end of what the code said, without our temporary folder, and is short."""
    if "127" in parts[0]:
        execution = replace(execution, python_bin="no-such-python")
    with pytest.raises(RunError) as caught:
        run(code, execution.data_folder, execution)
    for part in parts:
        assert part in str(caught.value)
    assert tempfile.gettempdir() not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_code_that_does_not_end(execution: Execution, tmp_path: Path) -> None:
    """A run that takes too long is ended with all that it started; the fix names RD-Agent's variable."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    child = (
        f"import time, pathlib; pathlib.Path({str(started)!r}).touch(); "
        f"time.sleep(1.2); pathlib.Path({str(ended)!r}).touch()"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {child!r}])\n"
    begin = time.monotonic()
    with pytest.raises(NotCheckedError) as caught:
        run(code, execution.data_folder, replace(execution, timeout=1))
    assert caught.value.fact == "it did not end within 1 seconds"
    assert "FACTOR_CoSTEER_FILE_BASED_EXECUTION_TIMEOUT" in caught.value.fix
    assert started.exists()
    time.sleep(max(0, begin + 2.5 - time.monotonic()))
    assert not ended.exists()


@pytest.mark.parametrize(
    "form",
    [
        lambda frame: frame["alpha"],
        lambda frame: frame.swaplevel().sort_index(),
        lambda frame: frame.groupby(level=1, group_keys=True).apply(lambda one: one),
        lambda frame: frame.set_axis(pd.MultiIndex.from_tuples([("feature", "alpha")]), axis=1),
        lambda frame: pd.concat([frame * 2, frame], axis=1),
        lambda frame: frame.set_index(pd.Index(range(len(frame)), name="number"), append=True),
        lambda frame: (
            frame.reset_index("instrument")
            .astype({"instrument": "category"})
            .set_index("instrument", append=True)
        ),
    ],
    ids=["series", "order of levels", "level twice", "nested", "column twice", "third level", "categories"],
)
def test_forms_of_a_result(
    execution: Execution, tmp_path: Path, form: Callable[[pd.DataFrame], pd.DataFrame | pd.Series]
) -> None:
    """A result has one form, whichever of those that RD-Agent takes the code leaves."""
    table = form(FRAME)
    found = flat(table.to_frame() if isinstance(table, pd.Series) else table)
    assert list(found.columns) == ["alpha"]
    pd.testing.assert_frame_equal(found.sort_index(), FRAME, check_index_type=False)
    if isinstance(table, pd.Series):
        found = run(code_leaving(tmp_path, table), execution.data_folder, execution)
        pd.testing.assert_frame_equal(found, FRAME, check_index_type=False)


@pytest.mark.parametrize(
    ("form", "part"),
    [
        (lambda frame: frame.reset_index(drop=True), "no index level datetime"),
        (lambda frame: frame.droplevel("instrument").tail(1), "no single instrument"),
        (lambda frame: frame.tz_localize("Asia/Shanghai", level=0), "of plain times"),
        (lambda frame: frame.set_axis(frame.index.set_levels(range(4), level=0)), "of plain times"),
        (lambda frame: pd.concat([frame, frame]), "more than one row for SH600000 on 2020-01-02"),
    ],
    ids=["no levels", "no instrument", "zone", "numbers", "rows twice"],
)
def test_results_of_another_form(form: Callable[[pd.DataFrame], pd.DataFrame], part: str) -> None:
    """A result with rows that are not distinct is refused with the reason and a fix."""
    with pytest.raises(NotCheckedError) as caught:
        flat(form(FRAME))
    assert part in caught.value.fact
    assert "one row a datetime and instrument" in caught.value.fix


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "FACTOR_CoSTEER_PYTHON_BIN": "python3 -B",
            "FACTOR_COSTEER_DATA_FOLDER": "/elsewhere/data",
            "factor_costeer_file_based_execution_timeout": "60",
        },
    ],
    ids=["defaults", "set, in any case"],
)
def test_settings_are_rdagents(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent itself reads the same three settings from the same environment."""
    from rdagent.components.coder.factor_coder.config import FactorCoSTEERSettings

    for name in [name for name in os.environ if name.lower().startswith("factor_costeer_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = FactorCoSTEERSettings()
    assert settings_of_rdagent(tmp_path) == Execution(
        expected.python_bin, tmp_path / expected.data_folder, expected.file_based_execution_timeout
    )


@pytest.mark.parametrize("value", ["an hour", "", "1.5"])
def test_a_timeout_without_a_meaning(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout that RD-Agent could not use either is an error that names its variable and value."""
    name = "FACTOR_CoSTEER_FILE_BASED_EXECUTION_TIMEOUT"
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings_of_rdagent(tmp_path)
    assert caught.value.fact == f"{name} has an unknown value: {value!r}"
    assert name in caught.value.place
    assert_survives_pickling(caught.value)
