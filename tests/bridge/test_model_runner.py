"""The check and the hand-off at the seams of the real model runner, without starting Qlib."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from rdagent.components.coder.factor_coder.factor import FactorTask
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from examples.demo.market import Market
from rdagent_sota_bridge import doctor
from rdagent_sota_bridge.bridge import dry_run, model_runner, plan, stop
from rdagent_sota_bridge.bridge.seam_check import Seams
from rdagent_sota_bridge.cli import check
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Reason, SeamError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import logs, seams


@dataclass(frozen=True)
class Place:
    """A market in HOME and a good factor set."""

    market: Market
    workspace: Path
    patch: pytest.MonkeyPatch

    def switch_on(self, **variables: str) -> None:
        """Set the variables of a run with the good set."""
        seams.switch_on(self.patch, self.workspace, **variables)

    def developed(self, runner: Any = None) -> Path:
        """Develop a model up to where Qlib would be started, and return the factor file in its workspace."""
        runner = runner or seams.build_runner()
        return in_workspace(seams.develop_up_to_qlib(runner, seams.model_experiment()))


@pytest.fixture
def place(market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Point HOME at the market, and write a good factor set."""
    folder, market = market_home
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return Place(market, seams.write_set(tmp_path / "set", seams.factor_frame(market)), monkeypatch)


def in_workspace(experiment: Any) -> Path:
    """Return the factor file in a model's workspace."""
    return Path(experiment.experiment_workspace.workspace_path) / FACTOR_FILE


# --- bad input ---


class Bad:
    """One kind of bad input: how it is made, and what the message has to name."""

    def __init__(
        self,
        name: str,
        make: Callable[[Place], Path | str | None],
        *expected: str,
        reason: Reason | None = None,
        line: str = "Failed to load SOTA factors from workspace: ",
        **variables: str,
    ) -> None:
        self.name, self.make, self.expected = name, make, expected
        self.reason, self.line, self.variables = reason, line, variables


def changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Place], Path]:
    """Return a maker of a set whose (flat) frame was changed."""

    def make(place: Place) -> Path:
        frame = change(seams.factor_frame(place.market, noise=1.0))
        return seams.write_set(place.workspace.parent / "bad", frame, nested=False)

    return make


def with_level(level: str, values: Callable[[pd.Index], object]) -> Callable[[Place], Path]:
    """Return a maker of a set with one index level replaced."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        index = frame.index.to_frame(index=False)
        index[level] = values(pd.Index(index[level]))
        frame.index = pd.MultiIndex.from_frame(index)
        return frame

    return changed(change)


def raw_bytes(content: Callable[[bytes], bytes]) -> Callable[[Place], Path]:
    """Return a maker of a set whose file's bytes were changed."""

    def make(place: Place) -> Path:
        folder = place.workspace.parent / "bad"
        folder.mkdir()
        (folder / FACTOR_FILE).write_bytes(content((place.workspace / FACTOR_FILE).read_bytes()))
        return folder

    return make


def of_another_tool(place: Place) -> Path:
    """Write a set with its keys as columns, under a name that nobody knows."""
    folder = place.workspace.parent / "bad"
    folder.mkdir()
    frame = seams.factor_frame(place.market).reset_index().rename(columns={"instrument": "symbol"})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), folder / FACTOR_FILE)
    return folder


def twice(place: Place) -> Path:
    """Write a column name twice, which pandas refuses to write and other tools do not."""
    flat = seams.write_set(place.workspace.parent / "flat", seams.factor_frame(place.market), nested=False)
    table = pq.read_table(flat / FACTOR_FILE)
    table = table.append_column("overnight_gap", table["overnight_gap"])
    folder = place.workspace.parent / "bad"
    folder.mkdir()
    pq.write_table(table, folder / FACTOR_FILE)
    return folder


def with_value(value: float, rows: slice) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a change that sets rows of the column `noise`."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[rows, 1] = value
        return frame

    return change


def only_after_training(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep every row, and values after the training segment alone."""
    frame.loc[frame.index.get_level_values("datetime") < pd.Timestamp("2016-01-01")] = np.nan
    return frame


def empty_folder(place: Place) -> Path:
    """Make a folder without a factor file."""
    folder = place.workspace.parent / "empty"
    folder.mkdir()
    return folder


def folder_of_that_name(place: Place) -> Path:
    """Make a folder where the factor file should be."""
    folder = empty_folder(place)
    (folder / FACTOR_FILE).mkdir()
    return folder


def good(place: Place) -> Path:
    """Return the good set: something else is bad."""
    return place.workspace


def nothing(place: Place) -> None:
    """Name no workspace."""


def unequal(place: Place) -> str:
    """Join two sets that have other values of one factor."""
    frame = seams.factor_frame(place.market)
    frame.iloc[100] += 1
    other = seams.write_set(place.workspace.parent / "bad", frame)
    return f"{place.workspace}{os.pathsep}{other}"


def base_file(name: str, text: str) -> Callable[[Place], Path]:
    """Return a maker of a file in the current folder, beside a good set."""

    def make(place: Place) -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return place.workspace

    return make


def turned(codes: pd.Index) -> object:
    """Write the instruments as other data vendors do."""
    return [f"{code[2:]}.{code[:2]}" for code in codes]


def text_dates(days: pd.Index) -> object:
    """Write days as text in no form that is known."""
    return days.strftime("%d/%m/%Y")


TRAINING = "2008-01-01 to 2014-12-31"
MALFORMED = base_file("mine.yaml", "MA20: [1, 2")
UNCLOSED = base_file("mine.json", '{"MA20": "Mean($close, 20"}')
STORE = base_file("store", "")
NOT_FOUND = "SOTA workspace path not found: nowhere"
NO_FILE, NO_COPY = "SOTA factors file not found: ", "The factor set can't be copied into the store"
CSV = b"datetime,instrument,x\n"
CHANGED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], Reason, tuple[str, ...]]] = {
    "no rows": (lambda frame: frame.iloc[:0], Reason.NO_ROWS, ("no rows",)),
    "no columns": (lambda frame: frame[[]], Reason.NO_COLUMNS, ("no factor columns",)),
    "no datetime level": (
        lambda frame: frame.rename_axis(["day", "instrument"]),
        Reason.NO_LEVEL,
        ("[datetime]",),
    ),
    "no instrument level": (
        lambda frame: frame.rename_axis(["datetime", "ticker"]),
        Reason.NO_LEVEL,
        ("[instrument]",),
    ),
    "no index": (lambda frame: frame.reset_index(drop=True), Reason.NO_LEVEL, ("df.rename",)),
    "rows twice": (
        lambda frame: pd.concat([frame, frame.iloc[:3]]),
        Reason.DUPLICATE_ROW,
        ("3 in all", "SH600001"),
    ),
    "a column of text": (
        lambda frame: frame.assign(sector="bank"),
        Reason.NOT_NUMERIC,
        ("[sector]", "'bank'"),
    ),
    "a column all NaN": (with_value(np.nan, slice(None)), Reason.ALL_NAN, ("[noise]",)),
    "infinite values": (with_value(np.inf, slice(0, 5)), Reason.INFINITE, ("[noise]", "5 in all")),
    "other column groups": (lambda frame: pd.concat({"label": frame}, axis=1), Reason.LAYOUT, ("label",)),
    "no training day": (lambda frame: frame.loc["2016-01-01":], Reason.NO_TRAINING_DATE, (TRAINING,)),
    "no value in training": (only_after_training, Reason.NO_TRAINING_VALUE, (TRAINING,)),
    "too little of a segment": (
        lambda frame: frame.loc[:"2015-06-30"],
        Reason.LOW_COVERAGE,
        ("% of the valid segment", "0.0% of the test segment", "QLIB_MODEL_TEST_START"),
    ),
    "too little of a factor": (
        with_value(np.nan, slice(0, 27_000)),
        Reason.LOW_COVERAGE,
        ("[noise]", "SOTA_FACTORS_EXCLUDE=noise"),
    ),
}
ZONED = with_level("datetime", lambda days: days.tz_localize("Asia/Shanghai"))
AT_CLOSE = with_level("datetime", lambda days: days + pd.Timedelta(hours=15))
NUMBERS = with_level("instrument", lambda codes: [int(code[2:]) for code in codes])
BAD = [
    *(Bad(name, changed(change), *said, reason=why) for name, (change, why, said) in CHANGED.items()),
    Bad("no path set", nothing, "SOTA_WORKSPACE_PATH (not set)"),
    Bad("path missing", lambda place: "nowhere", "SOTA_WORKSPACE_PATH", line=NOT_FOUND),
    Bad("folder without the file", empty_folder, "an empty folder", line=NO_FILE),
    Bad("file is an empty folder", folder_of_that_name, "no rows", reason=Reason.NO_ROWS),
    Bad("not parquet", raw_bytes(lambda _: CSV), "not parquet", reason=Reason.NOT_PARQUET),
    Bad("empty file", raw_bytes(lambda _: b""), "not parquet", reason=Reason.NOT_PARQUET),
    Bad(
        "truncated", raw_bytes(lambda content: content[: len(content) // 2]), "cut off", reason=Reason.DAMAGED
    ),
    Bad("other names", of_another_tool, "rename(columns={'symbol': 'instrument'})", reason=Reason.NO_LEVEL),
    Bad("dates are text", with_level("datetime", text_dates), "to_datetime", reason=Reason.NOT_DATES),
    Bad("dates with a zone", ZONED, "Asia/Shanghai", reason=Reason.TIME_ZONE),
    Bad("times of day", AT_CLOSE, "15:00:00", reason=Reason.TIME_OF_DAY),
    Bad("instruments are numbers", NUMBERS, "SH600000", reason=Reason.NOT_TEXT),
    Bad("a column twice", twice, "[overnight_gap]", reason=Reason.DUPLICATE_NAME),
    Bad(
        "other market's codes",
        with_level("instrument", turned),
        *("600000.SH", "SH600000", "SH600001"),
        reason=Reason.NO_INSTRUMENT,
    ),
    Bad("misspelt factor", good, "overnight_gap", SOTA_FACTORS="overnite_gap"),
    Bad("misspelt exclusion", good, "SOTA_FACTORS_EXCLUDE", SOTA_FACTORS_EXCLUDE="noise*"),
    Bad("no factor left", good, "No factor is left", SOTA_FACTORS_EXCLUDE="*"),
    Bad("log missing", nothing, "SOTA log path not found: log/no", SOTA_LOG_PATH="log/no"),
    Bad("log that is none", nothing, "no session", SOTA_LOG_PATH="."),
    Bad("no log at all", nothing, "No log accepted", SOTA_LOG_PATH="latest"),
    Bad("factor unequal in two sets", unequal, "other values in two sets", "the first of 1 rows"),
    Bad("unknown entry of a list", good, "SOTA_LOG_PATH", "is empty", SOTA_LOG_PATH="a::b"),
    Bad("unknown correlation", good, "SOTA_MAX_CORRELATION", SOTA_MAX_CORRELATION="1.5"),
    Bad("unknown switch", good, "LOAD_SOTA_FROM_WORKSPACE", "'ture'", LOAD_SOTA_FROM_WORKSPACE="ture"),
    Bad("unknown alpha switch", good, "USE_ALPHA_FACTORS", "'maybe'", USE_ALPHA_FACTORS="maybe"),
    Bad("unknown base set", good, "ALPHA_FACTORS", "alpha20, alpha22, alpha158", ALPHA_FACTORS="alpha21"),
    Bad("unknown error mode", good, "SOTA_ON_ERROR", "'ignore'", SOTA_ON_ERROR="ignore"),
    Bad("base-set file missing", good, "ALPHA_FACTORS", "No such file", ALPHA_FACTORS="mine.json"),
    Bad("base-set file malformed", MALFORMED, "mine.yaml", "malformed", ALPHA_FACTORS="mine.yaml"),
    Bad("base-set expression malformed", UNCLOSED, "MA20", ALPHA_FACTORS="mine.json"),
    Bad("store that is a file", STORE, "SOTA_STORE_PATH", line=NO_COPY, SOTA_STORE_PATH="store"),
]


@pytest.mark.parametrize("what", BAD, ids=lambda what: what.name)
def test_bad_input(what: Bad, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stops with one message that names fact, place and fix; so does `check`, with a failed line.

    With SOTA_ON_ERROR=baseline the message is a warning and develop is RD-Agent's own; a setting that means
    nothing is never guessed at, and stops all the same.
    """
    path = what.make(place)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    if path is not None:
        monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(path))
    for name, value in what.variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit) as stopped:
        seams.build_runner()
    said = stopped.value.code
    assert isinstance(said, str), "a text as code is printed and makes status 1"
    assert said.startswith(what.line)
    assert [text for text in (*what.expected, "fix:") if text not in said] == []
    error = stopped.value.__cause__
    assert isinstance(error, BridgeError)
    if what.reason is not None:
        assert isinstance(error, FactorFileError)
        assert what.reason in {failure.reason for failure in error.failures}

    # The machine has tests of its own.
    monkeypatch.setattr(doctor, "lines", lambda size, place, look=None: [])
    asked = dry_run.of_models()
    monkeypatch.setattr(doctor, "look_at_rdagent", lambda: Seams(True, {}, asked=asked))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert check.run(None, False, True) == 1
    failed = [line for line in json.loads(printed.getvalue())["checks"] if line["state"] == "fail"]
    assert failed
    assert all(line["fix"] for line in failed)
    if what.reason not in (Reason.LOW_COVERAGE, Reason.NO_TRAINING_VALUE):
        said = " ".join(f"{line['text']} {line['fix']}" for line in failed)
        assert [text for text in what.expected if text not in said] == []

    if "SOTA_ON_ERROR" not in what.variables:
        monkeypatch.setenv("SOTA_ON_ERROR", "baseline")
    if what.name.startswith("unknown "):
        with pytest.raises(SystemExit):
            seams.build_runner()
        return
    with seams.logged() as logged:
        runner = seams.build_runner()
    assert any(line.startswith(f"WARNING: {what.line}") for line in logged)
    assert plan.record_of(runner) is None
    experiment = seams.develop_up_to_qlib(runner, seams.model_experiment())
    assert experiment.based_experiments == []
    assert not in_workspace(experiment).exists()


@contextmanager
def nobody() -> Iterator[None]:
    """Read as a user who is not root: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_file_stops_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the user may not read is named, with the system's reason."""
    seams.switch_on(monkeypatch, place.workspace)
    seams.build_runner()  # whatever is imported late is imported now
    folder = Path("/var/tmp") / f"rdagent-sota-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        file = seams.write_set(folder, seams.factor_frame(place.market)) / FACTOR_FILE
        file.chmod(0)
        monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(file))
        with nobody(), pytest.raises(SystemExit) as stopped:
            seams.build_runner()
    finally:
        (folder / FACTOR_FILE).unlink()
        folder.rmdir()
    assert "Permission denied" in str(stopped.value.code)
    assert isinstance(stopped.value.__cause__, FactorFileError)
    assert stopped.value.__cause__.failures[0].reason is Reason.UNREADABLE


def test_a_segment_that_is_no_date_stops_the_run_where_rdagent_reads_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent 1.0.0 takes the segments from variables; 0.8.0 has them in its YAML and reads none."""
    from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

    seams.switch_on(monkeypatch, place.workspace, SOTA_ON_ERROR="baseline", QLIB_MODEL_TRAIN_START="soon")
    if "train_start" in ModelBasePropSetting.model_fields:
        with pytest.raises(SystemExit, match="QLIB_MODEL_TRAIN_START is no date: 'soon'"):
            seams.build_runner()
    else:
        assert plan.record_of(seams.build_runner()) is not None


@pytest.mark.parametrize("spoil", ["calendar", "instruments", "garbage", "all"])
def test_qlib_data_that_is_not_there_is_one_warning(
    spoil: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Qlib's data, or with half of a download, one warning says what can't be checked."""
    home = tmp_path / "home"
    folder = seams.put_market(home).provider
    if spoil == "garbage":
        (folder / "calendars" / "day.txt").write_text("<html>404</html>")
    elif spoil == "all":
        shutil.rmtree(home)
    else:
        next((folder / spoil.replace("calendar", "calendars")).glob("[dc]*.txt")).write_bytes(b"")
    monkeypatch.setenv("HOME", str(home))
    seams.switch_on(monkeypatch, place.workspace)
    with seams.logged() as lines:
        assert plan.record_of(seams.build_runner()) is not None
    (warning,) = [line for line in lines if line.startswith("WARNING")]
    assert "Qlib data is not there yet" in warning


def test_metrics_that_can_not_be_read_are_one_warning(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged qlib_res.csv beside the set costs its metrics, not the run; it is read at the start."""
    (place.workspace / "qlib_res.csv").write_bytes(b"IC,\xff\xfe")
    seams.switch_on(monkeypatch, place.workspace)
    with seams.logged() as lines:
        record = plan.record_of(seams.build_runner())
    assert record is not None
    assert record["metrics"] == {}
    assert sum("qlib_res.csv can't be read" in line for line in lines) == 1


def test_a_rejected_set_and_a_misspelt_setting_are_warnings(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace that its run rejected is used where it is named, but with a warning, as are bad names."""
    project = tmp_path / "project"
    root = project / "git_ignore_folder" / "RD-Agent_workspace"
    workspace = seams.write_set(root / "w", seams.factor_frame(place.market))
    log = logs.write_run(project / "log" / "run", root, ("w", ("overnight_gap",), False))
    seams.switch_on(monkeypatch, workspace, SOTA_FACTOR="overnight_gap", SOTA_PREPARED_DATA="true")
    with seams.logged() as lines:
        record = plan.record_of(seams.build_runner())
    assert record is not None
    assert (record["sources"][0]["log"], record["sources"][0]["loop"]) == (str(log), 0)
    warnings = "".join(line for line in lines if line.startswith("WARNING"))
    assert f"verdict: {workspace} is the set of loop 0 of {log}, which was rejected" in warnings
    assert f"SOTA_LOG_PATH={log}" in warnings
    assert "SOTA_FACTOR is no setting of this package; fix: did you mean SOTA_FACTORS?" in warnings
    assert warnings.count("SOTA_PREPARED_DATA has no effect any more") == 1
    assert "accepted in loop" not in "".join(lines)


# --- the shape of RD-Agent ---


def test_another_shape_stops_a_run_that_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no develop, a run with the switch on stops; else it costs one line on stderr."""
    module = ModuleType("model_runner")
    module.QlibModelRunner = type("QlibModelRunner", (), {})  # type: ignore[attr-defined]
    with pytest.raises(SeamError, match=r"has no QlibModelRunner\.develop"):
        model_runner.runner_patches(module)
    error = SeamError("QlibModelRunner.develop has another shape", "model_runner.py", "m")
    stop.refuse(error)
    line = "rdagent-sota-bridge: QlibModelRunner.develop has another shape (model_runner.py)\n"
    assert capsys.readouterr().err == line
    place.switch_on()
    with pytest.raises(SystemExit, match="develop has another shape"):
        stop.refuse(error)


# --- the hand-off ---


def test_switched_off_the_original_is_called_and_nothing_else(place: Place) -> None:
    """Without the switch the runner carries nothing, and the experiment is what RD-Agent made."""
    runner, before = seams.build_runner(), seams.model_experiment()
    assert plan.RUNNER_ATTRIBUTE not in vars(runner)
    features = getattr(before, "base_features", None)
    experiment = seams.develop_up_to_qlib(runner, before)
    assert experiment.based_experiments == []
    assert getattr(experiment, "base_features", None) is features
    assert list(experiment.experiment_workspace.workspace_path.glob("*sota_manifest*")) == []


def test_the_workspace_gets_the_set(place: Place) -> None:
    """RD-Agent's own merge path ends with exactly the set's values, nested under `feature`.

    The user's file keeps its bytes and times, and nothing is written beside it; a runner that was pickled
    into a step's process knows its set from the session, not from the environment.
    """
    file = place.workspace / FACTOR_FILE
    before = file.read_bytes(), file.stat().st_mtime_ns, sorted(place.workspace.iterdir())
    place.switch_on()
    with seams.logged() as lines:
        runner = pickle.loads(pickle.dumps(seams.build_runner()))
        place.patch.delenv("SOTA_WORKSPACE_PATH")
        written = pd.read_parquet(place.developed(runner))
    pd.testing.assert_frame_equal(written, pd.read_parquet(file).sort_index())
    said = "".join(lines)
    for line in (
        f"INFO: SOTA factors loaded from workspace: {file}\n",
        f"INFO: SOTA factors shape: ({len(written)}, 1)\n",
        "INFO: SOTA factor experiment added to based_experiments\n",
        "INFO: SOTA factor processing ...\n",
        "INFO: 叠加Alpha因子: 22个\n",
    ):
        assert line in said
    assert (file.read_bytes(), file.stat().st_mtime_ns, sorted(place.workspace.iterdir())) == before


def test_features_chosen_in_rdagent_are_kept(place: Place) -> None:
    """Base features that the user chose in RD-Agent 1.0.0 stay, unless ALPHA_FACTORS is set explicitly."""
    place.switch_on()
    for explicit in (False, True):
        if explicit:
            place.patch.setenv("ALPHA_FACTORS", "alpha20")
        experiment = seams.model_experiment()
        chosen = experiment.base_features = {"MINE": "$close/$open"}  # 0.8.0 knows no such choice
        with seams.logged() as lines:
            seams.develop_up_to_qlib(seams.build_runner(), experiment)
        said = "".join(lines)
        assert experiment.base_features == chosen
        assert ("Base features chosen in RD-Agent are kept" in said and "MINE" in said) is not explicit
        taken = "INFO: The base set alpha20 takes the place of 1 base features chosen in RD-Agent\n"
        assert (taken in lines) is explicit
        assert f"INFO: 叠加Alpha因子: {20 if explicit else 1}个\n" in lines


def test_chosen_features_that_change_in_a_run_stop_it(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run keeps its base set too, also where it is the user's choice in RD-Agent."""
    place.switch_on()
    runner = seams.build_runner()
    experiments = [seams.model_experiment(), seams.model_experiment()]
    for experiment, name in zip(experiments, ("ONE", "TWO"), strict=True):
        experiment.base_features = {name: "$close/$open"}
    seams.develop_up_to_qlib(runner, experiments[0])
    with pytest.raises(typer.Exit):
        pickle.loads(pickle.dumps(runner)).develop(experiments[1])
    assert "The base set is not the one that this run began with" in capsys.readouterr().err


def test_the_synthetic_experiment_is_light_and_plain(place: Place) -> None:
    """It pickles without the data, leaves no folder, and unpickles where the package is not installed."""
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    root = Path(import_module("rdagent.core.conf").RD_AGENT_SETTINGS.workspace_path)
    before = set(root.iterdir())
    seams.develop_up_to_qlib(runner, experiment)
    own = (experiment.experiment_workspace, experiment.sub_workspace_list[0])
    assert set(root.iterdir()) - before <= {workspace.workspace_path for workspace in own}

    base, synthetic = experiment.based_experiments
    assert type(base) is type(synthetic) is QlibFactorExperiment
    content = pickle.dumps([base, synthetic, runner])
    assert len(content) < 20_000
    code = (
        "import pickle, sys; sys.modules['rdagent_sota_bridge'] = None\n"
        "base, synthetic, runner = pickle.load(sys.stdin.buffer)\n"
        "print(type(synthetic).__name__, synthetic.sota_factor_set['digest'])"
    )
    environment = {**os.environ, "RDAGENT_SOTA_BRIDGE": "0"}
    found = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, env=environment)
    assert found.returncode == 0, found.stderr.decode()
    assert found.stdout.decode().split() == ["QlibFactorExperiment", synthetic.sota_factor_set["digest"]]


def test_the_results_hold_every_metric_that_rdagent_asks_for(place: Place) -> None:
    """The factor run's metrics are there where it left them, else NaN; `.loc` works."""
    from rdagent.scenarios.qlib.developer.feedback import IMPORTANT_METRICS

    (place.workspace / "qlib_res.csv").write_text(",0\nIC,0.0521\nl2.train,0.99\nbroken,x\n")
    place.switch_on()
    experiment = seams.develop_up_to_qlib(seams.build_runner(), seams.model_experiment())
    # QLIB_SELECTED_METRICS of RD-Agent's log/ui/app.py, which can't be imported outside streamlit.
    selected = [*IMPORTANT_METRICS, "1day.excess_return_with_cost.information_ratio"]
    first, last = (based.result.loc[selected] for based in experiment.based_experiments)
    assert last["IC"] == 0.0521
    assert last.drop("IC").isna().all()
    assert first.isna().all()
    assert experiment.based_experiments[-1].result["l2.train"] == 0.99


def test_factor_experiments_of_the_run_itself_stay_and_come_once(place: Place) -> None:
    """Developing the same experiment again replaces our two experiments and keeps RD-Agent's own."""
    place.switch_on()
    runner, experiment, other = seams.build_runner(), seams.model_experiment(), seams.model_experiment("A")
    other.result = pd.Series({"IC": 0.01})
    experiment.based_experiments = [other]
    for _ in range(2):
        with seams.logged() as lines:
            seams.develop_up_to_qlib(runner, experiment)
        assert [based is other for based in experiment.based_experiments] == [False, True, False]
        assert lines.count("INFO: 叠加Alpha因子: 22个\n") == 1, "beside an accepted model too"


@pytest.fixture
def own_factors(place: Place) -> Any:
    """Return an accepted factor experiment of the run itself, whose code RD-Agent would run again."""
    own = QlibFactorExperiment([FactorTask("own", "d", "f")])
    own.result = pd.Series({"IC": 0.02})
    index = seams.factor_frame(place.market).index

    def process(experiments: list[object]) -> pd.DataFrame:
        assert experiments == [own]
        return pd.DataFrame({"own": 1.0, "overnight_gap": 2.0, "MA20": 3.0}, index=index)

    # What runs factor code is RD-Agent's, and stands in here; ours lies over it as over the real one.
    module = ModuleType("stand_in")
    module.process_factor_data = process  # type: ignore[attr-defined]
    ((_, _, replacement),) = model_runner.merge_patches(module)
    at = import_module("rdagent.scenarios.qlib.developer.model_runner")
    place.patch.setattr(at, "process_factor_data", replacement)
    return own


def test_factors_that_the_run_accepted_itself_come_beside_the_set(place: Place, own_factors: Any) -> None:
    """In fin_quant RD-Agent's own factor experiments are merged too, each name once, newer values last.

    RD-Agent writes the file itself then: a link that lies there is taken away, and never written through.
    """
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    (stored,) = stored_files()
    content = stored.read_bytes()
    os.link(stored, in_workspace(experiment))
    experiment.based_experiments = [own_factors]
    seams.develop_up_to_qlib(runner, experiment)
    assert experiment.based_experiments[0] is own_factors
    assert len(experiment.based_experiments) == 2, "with one of its own it needs no empty one"
    written = pd.read_parquet(in_workspace(experiment))["feature"]
    assert set(written.columns) == {"overnight_gap", "own", "MA20"}
    assert (written["overnight_gap"] == 2.0).all()
    assert stored.read_bytes() == content


# --- the store ---


def stored_files() -> list[Path]:
    """Return the factor files of the store that the current folder has by default."""
    return sorted(Path("git_ignore_folder/sota_store").resolve().glob("*.parquet"))


def test_all_models_link_one_file_of_the_store(place: Place) -> None:
    """Each workspace gets a link to the one stored file, or its clone, and nothing reads the set for it."""
    place.switch_on()
    runner = seams.build_runner()
    (stored,) = stored_files()
    assert stored.stat().st_mode & 0o777 == 0o444
    read = pd.read_parquet

    def read_sample(path: Path) -> pd.DataFrame:
        assert pq.read_metadata(path).num_rows == 9, "the set itself is read"
        return read(path)

    place.patch.setattr(pd, "read_parquet", read_sample)
    with seams.logged() as lines:
        files = [place.developed(runner) for _ in range(2)]
    how = "link" if files[0].samefile(stored) else "clone"
    assert [file.samefile(stored) for file in files] == [how == "link"] * 2
    said = f"INFO: SOTA factors placed in the model's workspace: a {how} of {stored}"
    assert sum(said in line for line in lines) == 2
    assert stored_files() == [stored]


def test_a_workspace_of_a_container_has_a_file_of_its_own(place: Place) -> None:
    """Under Docker the workspace gets a copy: `chmod -R 777`, and writing, there reach no stored file."""
    coder = import_module("rdagent.components.coder.model_coder.conf").MODEL_COSTEER_SETTINGS
    place.patch.setattr(coder, "env_type", "docker")
    place.switch_on()
    file = place.developed()
    (stored,) = stored_files()
    content = stored.read_bytes()
    assert file.stat().st_ino != stored.stat().st_ino
    assert file.read_bytes() == content
    file.chmod(0o777)
    file.write_bytes(b"changed in the container")
    assert (stored.stat().st_mode & 0o777, stored.read_bytes()) == (0o444, content)


@pytest.mark.parametrize("what", ["changed", "lost"])
def test_a_stored_file_that_is_spoilt_in_a_run_is_written_anew(what: str, place: Place) -> None:
    """Writing through a workspace's link is a warning in the next loop, a deleted store costs a copy."""
    place.switch_on()
    runner = seams.build_runner()
    first = place.developed(runner)
    (stored,) = stored_files()
    if what == "changed":
        stored.chmod(0o644)
        stored.write_bytes(b"written through a link")
    else:
        shutil.rmtree("git_ignore_folder")
    with seams.logged() as lines:
        second = place.developed(runner)
    warned = sum("WARNING: SOTA factors store:" in line and "written anew" in line for line in lines)
    assert warned == (what == "changed")
    assert second.read_bytes() == (place.workspace / FACTOR_FILE).read_bytes()
    assert not first.exists() or first.stat().st_ino != second.stat().st_ino


def test_a_store_that_fails_in_a_loop_ends_the_run_with_one_message(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the copy can't be written any more, the run ends with the place and the fix, and status 1."""
    place.switch_on(SOTA_STORE_PATH="store")
    runner = seams.build_runner()
    shutil.rmtree("store")
    Path("store").touch()
    with pytest.raises(typer.Exit) as stopped:
        runner.develop(seams.model_experiment())
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().err
    assert f"where: {Path('store').resolve()}" in said
    assert "SOTA_STORE_PATH" in said


@pytest.mark.parametrize(("own", "fact"), [(False, "can't be placed"), (True, "can't be read any more")])
def test_a_set_that_is_gone_at_the_merge_is_one_message(
    own: bool, fact: str, place: Place, own_factors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored file that is deleted while RD-Agent merges ends the run before any training."""
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    experiment.sub_workspace_list[0].inject_files(**{"model.py": "model_cls = None"})
    experiment.based_experiments = [own_factors] if own else []
    keep = plan.keep_in_store

    def keep_not(record: plan.Record) -> Any:
        stored = keep(record)
        stored.path.unlink()
        return stored

    place.patch.setattr(plan, "keep_in_store", keep_not)
    with pytest.raises(typer.Exit):
        runner.develop(experiment)
    said = capsys.readouterr().err
    assert fact in said
    assert said.count("fix:") == 1


# --- identity ---


def test_cache_keys_differ_by_set_and_base_set(place: Place, tmp_path: Path) -> None:
    """The key differs by content, base set and switch, not by path; switched off it is RD-Agent's."""

    def key(workspace: Path | None, **variables: str) -> str:
        with place.patch.context() as patched:
            if workspace is not None:
                seams.switch_on(patched, workspace, **variables)
            return seams.cache_key(seams.develop_up_to_qlib(seams.build_runner(), seams.model_experiment()))

    other = seams.write_set(tmp_path / "other", seams.factor_frame(place.market) * 2)
    moved = seams.copy_set(place.workspace, tmp_path / "moved")
    keys = {
        "off": key(None),
        "set": key(place.workspace),
        "other set": key(other),
        "alpha20": key(place.workspace, ALPHA_FACTORS="alpha20"),
        "mined alone": key(place.workspace, USE_ALPHA_FACTORS="no"),
    }
    assert len(set(keys.values())) == len(keys)
    assert keys["off"] == seams.cache_key(seams.model_experiment())
    assert keys["set"] == key(moved)


def test_a_changed_file_stops_the_run_between_loops(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A run keeps its set: other content in the second loop ends it with both digests, status 1."""
    place.switch_on()
    runner = seams.build_runner()
    place.developed(runner)
    record = plan.record_of(runner)
    assert record is not None
    seams.write_set(place.workspace, seams.factor_frame(place.market) * 2)
    with pytest.raises(typer.Exit) as stopped:
        runner.develop(seams.model_experiment())
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().err
    assert record["digest"] in said
    assert said.count("sha256:") == 2
    (place.workspace / FACTOR_FILE).unlink()
    with pytest.raises(typer.Exit):
        runner.develop(seams.model_experiment())
    assert "SOTA factors file not found" in capsys.readouterr().err
