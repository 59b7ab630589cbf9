"""Resuming: RD-Agent's real LoopBase, sessions on disk, and the check before `load` touches them."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
from rdagent.utils.workflow import LoopBase, LoopMeta

from examples.demo.market import Market
from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import loop as resume
from rdagent_sota_bridge.bridge import plan
from tests import seams


class _Loop(LoopBase, metaclass=LoopMeta):
    """The part of RD-Agent's loops that matters here: a runner, and one step."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        super().__init__()

    def running(self, previous: dict[str, Any]) -> str:
        """Do nothing."""
        return "done"


class ModelRDLoop(_Loop):
    """Named as RD-Agent names the loop of fin_model."""


class FactorRDLoop(_Loop):
    """Named as RD-Agent names the loop of fin_factor."""


class OtherRunner:
    """A runner of a user's own, named in QLIB_MODEL_RUNNER."""

    def __init__(self, scen: Any) -> None:
        pass


class OwnDevelop(QlibModelRunner):
    """A derived runner that does not build on its parent's develop."""

    def develop(self, exp: Any) -> Any:
        """Call itself, as RD-Agent's own does, and not its parent."""
        return self.develop(exp)


class Derived(QlibModelRunner):
    """A derived runner that does."""

    def develop(self, exp: Any) -> Any:
        """Go on to the parent."""
        return super().develop(exp)


@pytest.fixture
def workspace(market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME at the market, and return a good factor set."""
    home, content = market_home
    monkeypatch.setenv("HOME", str(home))
    return seams.write_set(tmp_path / "set", seams.factor_frame(content))


def session(loop: _Loop, folder: Path) -> Path:
    """Write the sessions of a finished loop and of a later one, as RD-Agent lays them out."""
    from datetime import datetime, timezone

    from rdagent.utils.workflow.loop import LoopTrace

    now = datetime.now(timezone.utc)
    loop.session_folder = folder / "__session__"
    loop.loop_trace[0].append(LoopTrace(now, now, step_idx=0))
    loop.dump(loop.session_folder / "0" / "0_running")
    (loop.session_folder / "1").mkdir()
    shutil.copy(loop.session_folder / "0" / "0_running", loop.session_folder / "1" / "0_running")
    return folder


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the content and time of every file below a folder."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_resumed_run_goes_on_with_its_set(
    is_moved: bool, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content, at another path too: the session loads, and RD-Agent cuts the later loop as ever."""
    seams.switch_on(monkeypatch, workspace)
    folder = session(ModelRDLoop(seams.build_runner()), tmp_path / "log" / "run")
    if is_moved:
        workspace = workspace.rename(tmp_path / "moved")
        seams.switch_on(monkeypatch, workspace)
    with seams.logged() as lines:
        loaded = ModelRDLoop.load(folder / "__session__" / "0" / "0_running", checkout=True)
    assert plan.record_of(loaded.runner)["path"] == str(workspace / "combined_factors_df.parquet")
    assert not (folder / "__session__" / "1").exists()
    assert "INFO: SOTA factors loaded from workspace" in "".join(lines)
    assert not [line for line in lines if line.startswith("WARNING") and "SOTA factors check" not in line]


@pytest.mark.parametrize(
    "what",
    ["content", "another set", "another choice", "base set", "base set named", "set is gone", "factor log"],
)
def test_another_set_stops_before_anything_is_touched(
    what: str,
    workspace: Path,
    market_home: tuple[Path, Market],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A set that is not the run's ends the process with one message; every session file is as it was."""
    seams.switch_on(monkeypatch, workspace)
    if what == "another choice":
        seams.write_set(workspace, seams.factor_frame(market_home[1], noise=1.0))
    kind = FactorRDLoop if what == "factor log" else ModelRDLoop
    folder = session(kind(seams.build_runner()), tmp_path / "log" / "run")
    began = plan.record_of(seams.build_runner())
    expected = "The factor set is not the one that this run began with"
    if what == "content":
        seams.write_set(workspace, seams.factor_frame(market_home[1]) * 2)
    elif what == "another set":
        seams.switch_on(
            monkeypatch, seams.write_set(tmp_path / "two", seams.factor_frame(market_home[1]) * 2)
        )
    elif what == "another choice":
        monkeypatch.setenv("SOTA_FACTORS_EXCLUDE", "noise")
        expected = (
            "The factors taken are not those that this run began with: it began with overnight_gap, noise, "
            "now taken are overnight_gap\n"
        )
    elif what.startswith("base set"):
        # alpha22 by default keeps features that were chosen in RD-Agent; by name it does not.
        monkeypatch.setenv("ALPHA_FACTORS", "alpha20" if what == "base set" else "alpha22")
        expected = "The base set is not the one that this run began with"
    elif what == "set is gone":
        shutil.rmtree(workspace)
        expected = "SOTA workspace path not found"
    else:
        expected = "The session is one of FactorRDLoop"
    before = tree(folder)
    with pytest.raises(SystemExit) as stop:
        ModelRDLoop.load(folder / "__session__" / "0" / "0_running", checkout=True)
    message = str(stop.value.code)
    assert message.startswith(expected)
    assert tree(folder) == before
    if what in ("content", "another set"):
        assert began is not None
        assert began["digest"] in message
        assert message.count("sha256:") == 2


def test_switched_off_a_bridged_session_warns_once(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the switch off the run goes on without the factors, after one clear warning."""
    seams.switch_on(monkeypatch, workspace)
    folder = session(ModelRDLoop(seams.build_runner()), tmp_path / "log" / "run")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    with seams.logged() as lines:
        loaded = ModelRDLoop.load(folder)
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "goes on without it: LOAD_SOTA_FROM_WORKSPACE is off" in warnings[0]
    assert plan.record_of(loaded.runner) is None
    assert seams.develop_up_to_qlib(loaded.runner, seams.model_experiment()).based_experiments == []


def test_a_plain_session_resumed_with_the_switch_on_warns_once(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that began without factors takes them from now on, and says that its results don't compare."""
    folder = session(ModelRDLoop(seams.build_runner()), tmp_path / "log" / "run")
    seams.switch_on(monkeypatch, workspace)
    with seams.logged() as lines:
        loaded = ModelRDLoop.load(folder)
    assert sum("was trained without factors so far" in line for line in lines) == 1
    assert plan.record_of(loaded.runner) is not None


def test_switched_off_a_plain_session_loads_as_ever(tmp_path: Path) -> None:
    """There is no word and no attribute of ours, whatever the session holds."""
    for number, runner in enumerate((seams.build_runner(), None)):
        folder = session(ModelRDLoop(runner), tmp_path / f"log{number}" / "run")
        with seams.logged() as lines:
            loaded = ModelRDLoop.load(folder).runner
        assert (loaded is None) == (runner is None)
        assert runner is None or vars(loaded).keys() == vars(runner).keys()
        assert "SOTA" not in "".join(lines)


def test_fin_factor_is_never_checked_or_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor loop is built and loaded whatever the variables hold."""
    folder = session(FactorRDLoop(None), tmp_path / "log" / "run")
    for value in ("true", "nonsense"):
        monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", value)
        assert isinstance(FactorRDLoop.load(folder), FactorRDLoop)
        FactorRDLoop(None)


@pytest.mark.parametrize("kind", [OtherRunner, OwnDevelop])
def test_a_runner_that_can_not_be_bridged_stops_the_run(
    kind: type, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No QlibModelRunner, or one without the hand-off: refused, in a session before that is touched.

    With SOTA_ON_ERROR=baseline a new run is warned.
    """
    folder = session(ModelRDLoop(kind(None)), tmp_path / "log" / "run")
    before = tree(folder)
    seams.switch_on(monkeypatch, workspace)
    runner = kind(None)
    expected = rf"can't be given the factors\n.*test_resume\.{kind.__name__}"
    with pytest.raises(SystemExit, match=expected):
        ModelRDLoop(runner)
    with pytest.raises(SystemExit, match=expected):
        ModelRDLoop.load(folder)
    assert tree(folder) == before
    monkeypatch.setenv("SOTA_ON_ERROR", "baseline")
    with seams.logged() as lines:
        ModelRDLoop(runner)
    assert sum("can't be given the factors" in line for line in lines) == 1


def test_a_derived_runner_that_calls_its_parent_is_bridged(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class of the user's that builds on QlibModelRunner.develop gets the factors as that does."""
    seams.switch_on(monkeypatch, workspace)
    loop = ModelRDLoop(Derived(None))
    assert len(seams.develop_up_to_qlib(loop.runner, seams.model_experiment()).based_experiments) == 2


@pytest.mark.parametrize("form", ["folder", "__session__", "file"])
def test_the_session_file_is_the_one_that_rdagent_reads(form: str, tmp_path: Path) -> None:
    """A folder, its __session__ and a file lead to the file that RD-Agent picks: by number, not name."""
    files = [
        tmp_path / "__session__" / loop / step
        for loop, step in (("2", "4_record"), ("10", "0_a"), ("10", "2_b"))
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(None))
    path = {"folder": tmp_path, "__session__": tmp_path / "__session__", "file": files[0]}[form]
    assert resume.session_file(path) == (files[0] if form == "file" else files[2])
    assert resume.session_file(tmp_path / "nothing") is None


# --- after an upgrade ---

# What `check_same_set` reads, and so all that a later release may need of a session of this form.
NEEDED = ("version", "path", "digest", "columns", "sources", "base_set")


def upgraded(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> Path:
    """Return a log whose session has a record as another release wrote it."""
    seams.switch_on(monkeypatch, workspace)
    runner = seams.build_runner()
    record = plan.record_of(runner)
    assert record is not None
    change(record)
    return session(ModelRDLoop(runner), tmp_path / "log" / "run")


def keep_what_is_needed(record: dict[str, Any]) -> None:
    """Leave out of a record all that a later release may have added."""
    for name in set(record) - set(NEEDED):
        del record[name]


def test_a_session_of_an_earlier_release_goes_on(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that lacks all that later releases added is enough; the run has this release's after it."""
    folder = upgraded(workspace, tmp_path, monkeypatch, keep_what_is_needed)
    loaded = ModelRDLoop.load(folder)
    record = plan.record_of(loaded.runner)
    assert record is not None
    assert record["release"] == __version__
    assert {"rows", "choice", "metrics"} <= record.keys()
    experiment = seams.develop_up_to_qlib(loaded.runner, seams.model_experiment("goes on"))
    assert (experiment.experiment_workspace.workspace_path / "combined_factors_df.parquet").is_file()


def test_an_upgrade_is_told(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on with another release says so in its log, and entries unknown here are no matter."""
    folder = upgraded(
        workspace, tmp_path, monkeypatch, lambda record: record.update(release="9.9", later={"a": 1})
    )
    with seams.logged() as lines:
        ModelRDLoop.load(folder)
    said = f"This run began with rdagent-sota-bridge 9.9, and goes on with {__version__}"
    assert sum(said in line for line in lines) == 1


@pytest.mark.parametrize(
    ("release", "fix"),
    [("9.9", "install rdagent-sota-bridge==9.9, or"), (None, "install the release that it was written with")],
)
def test_a_session_of_another_form_is_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str | None, fix: str
) -> None:
    """It is named, with the release that it is for, and nothing of it is touched; switched off it loads."""

    def change(record: dict[str, Any]) -> None:
        record["version"] = plan.RECORD_VERSION + 1
        record.pop("release")
        record.update({} if release is None else {"release": release})

    folder = upgraded(workspace, tmp_path, monkeypatch, change)
    before = tree(folder)
    with pytest.raises(SystemExit, match="was written by another release") as stopped:
        ModelRDLoop.load(folder)
    assert fix in str(stopped.value)
    assert tree(folder) == before
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    assert plan.record_of(ModelRDLoop.load(folder).runner) is None


def test_a_record_names_the_release_that_wrote_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has all that a later release of this form may need, in the form that this one has."""
    seams.switch_on(monkeypatch, workspace)
    record = plan.record_of(seams.build_runner())
    assert record is not None
    assert set(NEEDED) <= record.keys()
    assert (record["version"], record["release"]) == (2, __version__)
    assert {"digest", "explicit", "name"} <= record["base_set"].keys()
    assert all({"path", "digest"} <= source.keys() for source in record["sources"])
