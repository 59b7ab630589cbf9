"""Resuming: RD-Agent's real LoopBase, sessions on disk, and the check before `load` touches them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
from rdagent.utils.workflow import LoopBase, LoopMeta
from rdagent.utils.workflow.loop import LoopTrace

from examples.demo.market import Market
from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import plan
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set.names import LATEST_LOG
from rdagent_sota_bridge.factor_set.sessions import session_file
from tests import logs, seams


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
        """Call the parent."""
        return super().develop(exp)


@pytest.fixture
def workspace(market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME at the market, and return a good factor set, with the switch on."""
    home, content = market_home
    monkeypatch.setenv("HOME", str(home))
    folder = seams.write_set(tmp_path / "set", seams.factor_frame(content))
    seams.switch_on(monkeypatch, folder)
    return folder


def session(loop: _Loop, tmp_path: Path) -> Path:
    """Write the sessions of a finished loop and of a later one, as RD-Agent lays them out."""
    now = datetime.now(timezone.utc)
    loop.session_folder = tmp_path / "log" / "run" / "__session__"
    loop.loop_trace[0].append(LoopTrace(now, now, step_idx=0))
    loop.dump(loop.session_folder / "0" / "0_running")
    shutil.copytree(loop.session_folder / "0", loop.session_folder / "1")
    return loop.session_folder.parent


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the content and time of every file below a folder, but the text log that it has."""
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and file != folder / LATEST_LOG
    }


def refused(folder: Path) -> str:
    """Return the one message with which a resume ends; every session file is as it was."""
    before = tree(folder)
    with pytest.raises(SystemExit) as stop:
        ModelRDLoop.load(folder / "__session__" / "0" / "0_running", checkout=True)
    assert tree(folder) == before
    return str(stop.value.code)


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_resumed_run_keeps_its_set(
    is_moved: bool, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content, at another path too: the session loads, and RD-Agent cuts the later loop."""
    folder = session(ModelRDLoop(seams.build_runner()), tmp_path)
    if is_moved:
        workspace = workspace.rename(tmp_path / "moved")
        seams.switch_on(monkeypatch, workspace)
    with seams.logged() as lines:
        loaded = ModelRDLoop.load(folder / "__session__" / "0" / "0_running", checkout=True)
    record = plan.record_of(loaded.runner)
    assert record is not None
    assert record["path"] == str(workspace / "combined_factors_df.parquet")
    assert not (folder / "__session__" / "1").exists()
    assert "INFO: SOTA factors loaded from workspace" in "".join(lines)
    assert not [line for line in lines if line.startswith("WARNING") and "SOTA factors check" not in line]


OTHER_SET = "The factor set is not the one that this run began with"
OTHER_BASE = "The base set is not the one that this run began with"
CHANGES = {
    "content": OTHER_SET,
    "another set": OTHER_SET,
    "another choice": "The factors taken are not those that this run began with: "
    "it began with overnight_gap, noise, now taken are overnight_gap\n",
    "alpha20": OTHER_BASE,
    "alpha22": OTHER_BASE,  # by default it keeps features that were chosen in RD-Agent; by name it does not
    "set is gone": "SOTA workspace path not found",
    "factor log": "The session is one of FactorRDLoop",
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_set_stops_before_anything_is_touched(
    what: str,
    workspace: Path,
    market_home: tuple[Path, Market],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A set that is not the run's ends the process with one message, which names both digests."""
    frame = seams.factor_frame(market_home[1], **({"noise": 1.0} if what == "another choice" else {}))
    seams.write_set(workspace, frame)
    runner = seams.build_runner()
    began = plan.record_of(runner)
    folder = session((FactorRDLoop if what == "factor log" else ModelRDLoop)(runner), tmp_path)
    if what == "content":
        seams.write_set(workspace, frame * 2)
    elif what == "another set":
        seams.switch_on(monkeypatch, seams.write_set(tmp_path / "two", frame * 2))
    elif what == "another choice":
        monkeypatch.setenv("SOTA_FACTORS_EXCLUDE", "noise")
    elif what.startswith("alpha"):
        monkeypatch.setenv("ALPHA_FACTORS", what)
    elif what == "set is gone":
        shutil.rmtree(workspace)
    message = refused(folder)
    assert message.startswith(CHANGES[what])
    if CHANGES[what] == OTHER_SET:
        assert began is not None
        assert began["digest"] in message
        assert message.count("sha256:") == 2


@pytest.mark.parametrize(
    ("before", "after", "warning"),
    [
        ("true", "false", "goes on without it: LOAD_SOTA_FROM_WORKSPACE is off"),
        ("false", "true", "was trained without factors so far"),
        ("false", "false", ""),
    ],
)
def test_a_switch_that_was_turned_warns_once(
    before: str, after: str, warning: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has the factors from now on, or no longer, says so; off there is no word of ours."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", before)
    runner = seams.build_runner()
    folder = session(ModelRDLoop(runner), tmp_path)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", after)
    with seams.logged() as lines:
        loaded = ModelRDLoop.load(folder).runner
    warnings = [line for line in lines if line.startswith("WARNING") and "SOTA factors check" not in line]
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)
    assert (plan.record_of(loaded) is not None) == (after == "true")
    if after == "false":
        assert seams.develop_up_to_qlib(loaded, seams.model_experiment()).based_experiments == []
    if not warning:
        assert "SOTA" not in "".join(lines)
        assert vars(loaded).keys() == vars(runner).keys()
        assert ModelRDLoop.load(session(ModelRDLoop(None), tmp_path / "no runner")).runner is None


@pytest.mark.parametrize("value", ["true", "nonsense"])
def test_fin_factor_is_never_checked_or_stopped(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor loop is built and loaded whatever the variables hold."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", value)
    assert isinstance(FactorRDLoop.load(session(FactorRDLoop(None), tmp_path)), FactorRDLoop)


# What is done to a session, the fact of the message, and a part of its fix.
UNREADABLE = {
    "cut off": (
        "Artifact signature verification failed" if logs.SIGNED else "can't be read",
        "begin a new run",
    ),
    "emptied": ("can't be read: EOFError", "name an earlier session file of that log, or begin a new run"),
    "gone": ("The log is not there", "name the log folder of a run"),
    "a folder without sessions": ("holds no session", "name the log folder of a run"),
    **({"another key": ("with another key", "ARTIFACT_SIGNING_KEY_PATH")} if logs.SIGNED else {}),
    **({"unsigned": ("it is not signed", "ALLOW_UNSAFE_LEGACY_PICKLE=true")} if logs.SIGNED else {}),
}


def unreadable(what: str, loop: _Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a session that RD-Agent's `load` does not take."""
    folder = session(loop, tmp_path)
    file = folder / "__session__" / "1" / "0_running"
    content = file.read_bytes()
    if what == "another key":
        monkeypatch.setattr(
            RD_AGENT_SETTINGS, "artifact_signing_key", "another key, of 32 bytes or more, too"
        )
    elif what == "gone":
        return folder.parent / "no log"
    elif what == "a folder without sessions":
        shutil.rmtree(folder / "__session__")
        (folder / "__session__").mkdir()
    else:
        file.write_bytes({"cut off": content[:-20], "emptied": b"", "unsigned": content[25 + 32 :]}[what])
    return folder if what == "a folder without sessions" else file


@pytest.mark.parametrize("kind", [ModelRDLoop, FactorRDLoop])
@pytest.mark.parametrize("what", UNREADABLE)
def test_a_session_that_rdagent_refuses_is_one_message(
    what: str, kind: type[_Loop], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names reason, file and fix, and no factor set; switched off, RD-Agent's own error stays."""
    path = unreadable(what, kind(seams.build_runner()), tmp_path, monkeypatch)
    before = tree(tmp_path / "log" / "run")
    with pytest.raises(SystemExit) as stop:
        kind.load(path, checkout=True)
    fact, place, fix = str(stop.value.code).split("\n  ")
    assert UNREADABLE[what][0] in fact and UNREADABLE[what][1] in fix
    assert place == f"where: {path}"
    assert "SOTA" not in str(stop.value.code) and "factors" not in fact
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    with pytest.raises(Exception) as own:
        kind.load(path, checkout=True)
    assert not isinstance(own.value, BridgeError)
    assert tree(tmp_path / "log" / "run") == before


@pytest.mark.parametrize("kind", [OtherRunner, OwnDevelop])
def test_a_runner_that_can_not_be_bridged_stops_the_run(
    kind: type, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No QlibModelRunner, or one without the hand-off: refused, in a session before that is touched.

    With SOTA_ON_ERROR=baseline a new run is warned.
    """
    expected = f"can't be given the factors\n  where: {kind.__module__}.{kind.__name__}"
    runner = kind(None)
    with pytest.raises(SystemExit, match=expected):
        ModelRDLoop(runner)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    folder = session(ModelRDLoop(kind(None)), tmp_path)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    assert expected in refused(folder)
    monkeypatch.setenv("SOTA_ON_ERROR", "baseline")
    with seams.logged() as lines:
        ModelRDLoop(runner)
    assert sum("can't be given the factors" in line for line in lines) == 1


@pytest.mark.parametrize("on_error", ["fail", "baseline"])
def test_a_wrong_path_is_told_before_a_loop_is_built(
    on_error: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent may make Qlib's environment first, which takes minutes; a loop of factors begins."""
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("SOTA_ON_ERROR", on_error)
    built: list[Any] = []
    monkeypatch.setattr(_Loop, "__init__", lambda self, runner: built.append(runner))
    FactorRDLoop("factors")
    if on_error == "fail":
        with pytest.raises(SystemExit, match="SOTA workspace path not found"):
            ModelRDLoop("models")
    else:
        ModelRDLoop("models")
    assert built == ["factors", "models"][: 1 + (on_error == "baseline")]


def test_a_derived_runner_that_calls_its_parent_is_bridged(workspace: Path) -> None:
    """A class of the user's that builds on QlibModelRunner.develop gets the factors as that does."""
    loop = ModelRDLoop(Derived(None))
    assert len(seams.develop_up_to_qlib(loop.runner, seams.model_experiment()).based_experiments) == 2


@pytest.mark.parametrize("form", ["", "__session__", "__session__/2/4_record"])
def test_the_session_file_is_the_one_that_rdagent_reads(form: str, tmp_path: Path) -> None:
    """A folder, its __session__ and a file lead to the file that RD-Agent picks: by number, not name."""
    for name in ("2/4_record", "10/0_a", "10/2_b"):
        file = tmp_path / "__session__" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    expected = form if form.endswith("4_record") else "__session__/10/2_b"
    assert session_file(tmp_path / form) == tmp_path / expected
    assert session_file(tmp_path / "nothing") is None


# --- after an upgrade ---

# What `check_same_set` reads, and so all that a later release may need of a session of this form.
NEEDED = ("version", "path", "digest", "columns", "sources", "base_set")


def upgraded(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a log whose session has a record as another release wrote it."""
    runner = seams.build_runner()
    record = plan.record_of(runner)
    assert record is not None
    change(record)
    return session(ModelRDLoop(runner), tmp_path)


def test_a_session_of_an_earlier_release_resumes(workspace: Path, tmp_path: Path) -> None:
    """A record that lacks all that later releases added is enough; the run has this release's after it."""

    def keep_what_is_needed(record: dict[str, Any]) -> None:
        assert (record["version"], record["release"]) == (2, __version__)
        assert {"digest", "explicit", "name"} <= record["base_set"].keys()
        assert all({"path", "digest"} <= source.keys() for source in record["sources"])
        for name in record.keys() - NEEDED:
            del record[name]

    loaded = ModelRDLoop.load(upgraded(tmp_path, keep_what_is_needed))
    record = plan.record_of(loaded.runner)
    assert record is not None
    assert record["release"] == __version__
    assert {"rows", "choice", "metrics", *NEEDED} <= record.keys()
    experiment = seams.develop_up_to_qlib(loaded.runner, seams.model_experiment("resumed"))
    assert (experiment.experiment_workspace.workspace_path / "combined_factors_df.parquet").is_file()


def test_an_upgrade_is_logged(workspace: Path, tmp_path: Path) -> None:
    """A run that another release began says so in its log, and entries unknown here are no matter."""
    folder = upgraded(tmp_path, lambda record: record.update(release="9.9", later={"a": 1}))
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

    folder = upgraded(tmp_path, change)
    message = refused(folder)
    assert "was written by another release" in message
    assert fix in message
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    assert plan.record_of(ModelRDLoop.load(folder).runner) is None
