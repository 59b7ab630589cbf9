"""The values of a model's factors for days that its set does not cover; their code is run for real."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.check import execute_factor
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileError,
    FactorFileNotFoundError,
    FreshValuesError,
    ResultError,
    SessionError,
    SetChangedError,
)
from rdagent_sota_bridge.factor_set import panel, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child, fresh
from tests import trained
from tests.factor_codes import (
    DAYS,
    LAST,
    OLD,
    PLAIN,
    code_of,
    mine,
    prices,
    trained_on,
    until,
    values_of,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with factor data of all days, in which this Python runs factors; be in it."""
    folder = tmp_path / "project"
    data = folder / "git_ignore_folder" / "factor_implementation_source_data"
    data.mkdir(parents=True)
    prices().to_hdf(data / "daily_pv.h5", key="data")
    (data / "README.md").write_text("Daily prices.")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FACTOR_CoSTEER_PYTHON_BIN", shlex.quote(sys.executable))
    return folder


def read(file: Path) -> pd.DataFrame:
    """Return the values of a factor file in normal form."""
    with panel.opened([file]) as found:
        assert panel.is_normal(found)
    frame = pd.read_parquet(file)
    return frame.set_axis([name for _, name in frame.columns], axis=1)


def covering(
    of: Path, day: str | None, data: str | None = None, say: Callable[[str], object] = print
) -> Path:
    """Return the factor file for a day."""
    file, own_end = fresh.covering(of, day, data, say)
    assert file == of / FACTOR_FILE or own_end < pd.read_parquet(file).index[-1][0]
    return file


def plain(project: Path, code: str = PLAIN) -> Path:
    """Return a model on the values of one plain factor, whose run left some code."""
    return trained_on(project, values_of(PLAIN, OLD).dropna(), mine(project, "run", {"alpha": code}))


def silent(text: str) -> None:
    """Fail: nothing is to be said."""
    raise AssertionError(text)


# --- the model's own file ---


def test_its_own_file_covers_the_day(tmp_path: Path) -> None:
    """The last stored day, and an earlier one; nothing is run or written."""
    model = trained.write_training(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    for day in ("2020-01-07", "2020-01-03"):
        own = model / FACTOR_FILE, pd.Timestamp("2020-01-07")
        assert fresh.covering(model, day, None, silent) == own
    assert sorted(tmp_path.rglob("*")) == before


# --- new days ---


def test_new_rows_are_laid_behind_the_stored_ones(project: Path) -> None:
    """The stored rows to the bit, float32 as they are; and not run again, whatever comes first."""
    code = code_of("alpha", "beta")
    stored = values_of(code, OLD).dropna().astype({"beta": "float32"})
    stored["alpha"] *= 1 + 1e-6  # by which an adjustment of prices moves them
    model = trained_on(project, stored, mine(project, "run", {"alpha": code}))
    said: list[str] = []
    file = covering(model, LAST, None, said.append)
    found = read(file)
    pd.testing.assert_frame_equal(found.loc[: DAYS[OLD - 1]], stored, check_exact=True)
    new = values_of(code).astype({"beta": "float32"}).loc[DAYS[OLD] :]
    pd.testing.assert_frame_equal(found.loc[DAYS[OLD] :], new, check_exact=True)
    assert (said[0], len(said)) == ("the code of alpha is run again", 2)
    assert covering(model, LAST, None, silent) == file
    assert covering(model, str(DAYS[OLD].date()), None, silent) == file
    assert [found.path for found in store.entries(file.parent)[0]] == [file]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    assert read(covering(model, LAST, None, said.append)).equals(found), "a damaged copy is made anew"
    copy = shutil.copytree(
        project / "git_ignore_folder" / "factor_implementation_source_data", project / "data"
    )
    assert covering(model, LAST, "data", silent) == file, "the same data elsewhere"
    (copy / "README.md").write_text("Other data.")
    assert covering(model, LAST, "data", said.append) != file


@pytest.mark.parametrize(("stored_whole", "rows"), [(True, 2), (False, 3)])
def test_rows_with_a_missing_value(project: Path, stored_whole: bool, rows: int) -> None:
    """They go where the stored rows have none: RD-Agent drops them from its second accepted loop on."""
    code = code_of("alpha", "beta", then=f"beta.loc[('{LAST}', 'SZ000001')] = None\n")
    stored = values_of(code_of("alpha", "beta"), OLD)
    model = trained_on(
        project, stored.dropna() if stored_whole else stored, mine(project, "run", {"one": code})
    )
    assert len(read(covering(model, LAST)).loc[LAST]) == rows


def test_columns_of_two_runs(project: Path) -> None:
    """Each by the code of its own run; what ends sooner is filled, and what nobody chose is not run."""
    alpha, beta = code_of("alpha"), code_of("beta", days=3)
    first, second = values_of(alpha, OLD).dropna(), values_of(beta, OLD - 2).dropna()
    one = mine(
        project, "one", {"alpha": alpha}, {"left out": "raise SystemExit"}, columns=["alpha", "left out"]
    )
    other = mine(project, "other", {"beta": beta}, columns=["alpha", "beta"])
    stored = pd.concat([first, second], axis=1)
    found = read(covering(trained_on(project, stored, one, other), LAST))
    expected = pd.concat([values_of(alpha).dropna(), values_of(beta).dropna()], axis=1)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize("in_set", [True, False])
def test_a_factor_that_was_improved(project: Path, in_set: bool) -> None:
    """The latest code that makes the stored values; that of a loop behind the set's is not run."""
    before, improved, later = (code_of("alpha", days=days) for days in (1, 2, 3))
    run = mine(project, "run", {"alpha": before}, {"alpha": improved}, {"alpha": later}, loop=1)
    code, said = improved if in_set else before, list[str]()
    model = trained_on(project, values_of(code, OLD).dropna(), run)
    found = read(covering(model, LAST, None, said.append))
    pd.testing.assert_frame_equal(found, values_of(code).dropna(), check_exact=True)
    assert len(said) == (2 if in_set else 3)


def test_a_project_that_has_moved(project: Path) -> None:
    """The log is found by the name of the set's workspace, beside the model's or here."""
    code = code_of("alpha")
    run = mine(project, "run", {"alpha": code}, log="/gone/log/run")
    model = trained_on(project, values_of(code, OLD).dropna(), run)
    assert covering(model, LAST) != model / FACTOR_FILE


# --- the days of the market ---


@pytest.fixture
def with_market(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a market of all days where RD-Agent looks for Qlib's data."""
    monkeypatch.setenv("HOME", str(project.parent))
    folder = project.parent / ".qlib" / "qlib_data" / "cn_data"
    for name, text in (
        ("calendars/day.txt", "".join(f"{day:%Y-%m-%d}\n" for day in DAYS)),
        ("instruments/csi300.txt", "SH600000\t2020-01-01\t2020-12-31\n"),
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)


@pytest.mark.usefixtures("with_market")
def test_no_trading_day_and_the_last_one(project: Path) -> None:
    """A Sunday is the Friday before it, and no day the last one in Qlib's data."""
    assert DAYS[OLD - 2].dayofweek == 4
    shorter = until(values_of(PLAIN, OLD).dropna(), OLD - 1)
    model = trained_on(project, shorter, mine(project, "run", {"alpha": PLAIN}))
    own = model / FACTOR_FILE
    for day in ("2020-02-02", "2019-01-01"):
        assert covering(model, day, None, silent) == own
    for day in (None, "2020-12-31"):
        assert read(covering(model, day)).index[-1][0] == DAYS[-1]


@pytest.mark.usefixtures("with_market")
@pytest.mark.parametrize(("has_log", "why"), [(True, "--factor-data fresh"), (False, "is not known")])
def test_the_last_day_without_data_or_code(project: Path, has_log: bool, why: str) -> None:
    """The model's own file is taken where nobody has named data, and what is missing is said."""
    model = plain(project)
    data = project / "git_ignore_folder" / "factor_implementation_source_data" / "daily_pv.h5"
    until(prices(), OLD + 1).to_hdf(data, key="data", mode="w")
    if not has_log:
        shutil.rmtree(project / "log")
    said: list[str] = []
    assert covering(model, None, None, said.append) == model / FACTOR_FILE
    assert (len(said), why in said[0]) == (1, True)
    with pytest.raises(FreshValuesError):
        covering(model, None, "git_ignore_folder/factor_implementation_source_data", print)


def test_qlibs_data_are_elsewhere(project: Path) -> None:
    """Without a market that can be read here, the last day is that of the model's own file."""
    model = plain(project)
    assert covering(model, None, None, silent) == model / FACTOR_FILE


# --- what stops ---

WHOLE_SAMPLE = "alpha = alpha / alpha.std()\n"
LATE_CUT = f"alpha = alpha[alpha.index.get_level_values(0) < '{DAYS[OLD].date()}']\n"
INFINITE = f"alpha.loc['{LAST}'] = float('inf')\n"


NEWER = "newer set of the same columns"


def damaged_and_not_known(model: Path) -> None:
    """Put a damaged file in the set's place, as of a fin_quant run, whose file's digest nobody knows."""
    trained.put(FACTOR_FILE, "x")(model)
    manifest = json.loads((model / "sota_manifest.json").read_text())
    manifest["factor_set"]["stored"] = None
    trained.put("sota_manifest.json", json.dumps(manifest))(model)


NO_DAYS = "import pandas as pd\npd.DataFrame({'alpha': [1.0]}).to_hdf('result.h5', key='data')\n"


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (code_of("alpha", days=2), ("alpha of SH600000 on 2020-01-02 is stored", " makes no number of it")),
        (code_of("alpha", then=LATE_CUT), ("The code of alpha gives no value behind 2020-02-03",)),
        (code_of("alpha", then=INFINITE), ("The code of alpha gives infinite values behind 2020-02-03",)),
        (code_of("another"), ("No code of the run that mined alpha makes that now",)),
        ("raise ValueError('no $vwap')", ("The code of alpha can't be run again: ", "ValueError: no $vwap")),
        ("pass", ("The code of alpha can't be run again: it leaves no result.h5",)),
        (NO_DAYS, ("The code of alpha can't be run again: its result has no index level datetime",)),
    ],
    ids=["another code", "no new day", "infinite", "another column", "fails", "no result", "no frame"],
)
def test_codes_that_are_refused(project: Path, code: str, parts: tuple[str, ...]) -> None:
    """Each is one message; nothing is kept."""
    model = plain(project, code)
    refused(model, *parts)


def test_a_factor_that_uses_the_whole_sample(project: Path) -> None:
    """The message has both values, and how many changed."""
    code = code_of("alpha", then=WHOLE_SAMPLE)
    stored, now = values_of(code, OLD).dropna(), values_of(code)
    model = trained_on(project, stored, mine(project, "run", {"alpha": code}))
    at = (DAYS[1], "SH600000")
    was, is_now = (f"{frame.loc[at, 'alpha']:.9g}" for frame in (stored, now))
    fact = f"alpha of SH600000 on 2020-01-02 is stored as {was}, and its code makes {is_now} of it now"
    refused(model, f"{fact}, the first of {len(stored)} such values", "or it uses the whole sample")


@pytest.mark.parametrize(
    ("spoil", "data", "kind", "parts"),
    [
        (trained.lose(FACTOR_FILE), None, FactorFileNotFoundError, ("not found",)),
        (trained.put(FACTOR_FILE, "x"), None, SetChangedError, ("not the one that the model",)),
        (damaged_and_not_known, None, FactorFileError, ("can't be used",)),
        (trained.lose("sota_manifest.json"), None, FreshValuesError, ("code of alpha is not",)),
        (trained.put("sota_manifest.json", "[]"), None, ResultError, ("trained on is not known",)),
        (trained.lose("../../../log"), None, FreshValuesError, ("code of alpha is not", "run-0", NEWER)),
        (trained.lose("../../../log/run/__session__"), None, SessionError, ("no session",)),
        (None, "none", FreshValuesError, ("There are no data", "none", "--factor-data fresh")),
        (None, "early", FreshValuesError, ("2020-02-10, and days up to 2020-02-11", "--factor-data fresh")),
        (None, "damaged", FreshValuesError, ("can't be read: ", "daily_pv.h5")),
        (None, "empty", FreshValuesError, ("There are no data",)),
        (None, "fresh", FreshValuesError, ("No factor data were made", "factor_data.txt")),
    ],
)
def test_what_is_not_there(
    spoil: Any, data: str | None, kind: Any, parts: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run: one message with the fix."""
    monkeypatch.setattr(child, "call", lambda _, folder: (folder / child.OUTPUT).write_text("no pyqlib"))
    monkeypatch.setattr(execute_factor, "run", None)
    model = plain(project)
    for name in ("early", "damaged", "empty"):
        (project / name).mkdir()
    until(prices(), len(DAYS) - 1).to_hdf(project / "early" / "daily_pv.h5", key="data")
    (project / "damaged" / "daily_pv.h5").write_text("no table")
    if spoil:
        spoil(model)
    refused(model, *parts, data=data, kind=kind)


def refused(
    model: Path, *parts: str, data: str | None = None, kind: type[BridgeError] = FreshValuesError
) -> None:
    """Fail unless new days are refused so, and nothing is kept."""
    with pytest.raises(kind) as caught:
        covering(model, LAST, data, print)
    assert [part for part in parts if part not in str(caught.value)] == []
    assert not list(model.parents[1].glob("sota_store/*.parquet"))


# --- data that are made anew ---


def test_data_that_are_made_anew(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the store's folder, and never over RD-Agent's own; equal ones lead to no second execution."""
    own = project / "git_ignore_folder" / "factor_implementation_source_data" / "daily_pv.h5"
    until(prices(), OLD).to_hdf(own, key="data", mode="w")
    before, calls = own.read_bytes(), 0

    def call(function: str, folder: Path) -> None:
        nonlocal calls
        calls += 1
        prices().to_hdf(folder / "daily_pv_all.h5", key="data")
        prices().to_hdf(folder / "daily_pv_debug.h5", key="data")
        assert function == "make_factor_data"

    monkeypatch.setattr(child, "call", call)
    model = plain(project)
    refused(model, "end on 2020-02-03")
    said: list[str] = []
    file = covering(model, LAST, "fresh", said.append)
    assert covering(model, LAST, "fresh", said.append) == file
    assert (calls, len(said), own.read_bytes()) == (2, 4, before)
    pd.testing.assert_frame_equal(read(file), values_of(PLAIN).dropna(), check_exact=True)
    refused_day = str((DAYS[-1] + pd.offsets.BDay()).date())
    with pytest.raises(FreshValuesError, match="bring Qlib's data up to that day"):
        covering(model, refused_day, "fresh", print)
    assert not list(file.parent.glob(".*-*"))
