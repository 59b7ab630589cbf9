"""From what the user named to the factor file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    LocateError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.factor_set.locate import Located, factor_sets, named, with_its_log
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import logs
from tests.frames import (
    assert_survives_pickling,
    factor_file,
    factor_frame,
    public_folder,
    without_privileges,
    write,
)
from tests.logs import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return an empty project, and start in it."""
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.folder)
    return made


def from_log(path: Path | str) -> Located:
    """Return the one set that SOTA_LOG_PATH leads to."""
    (found,) = factor_sets((), (str(path),))
    return found


def error_of(ask: Callable[[], object], error_class: type[LocateError]) -> LocateError:
    """Return the error of what can't be located; fail where it is of another class."""
    with pytest.raises(LocateError) as caught:
        ask()
    assert type(caught.value) is error_class
    assert_survives_pickling(caught.value)
    return caught.value


def log_error(path: Path | str, error_class: type[LocateError] = SessionError) -> LocateError:
    """Return the error of a log that leads to no set."""
    return error_of(lambda: from_log(path), error_class)


# --- a workspace ---


@pytest.mark.parametrize("variable", ["SOTA_WORKSPACE_PATH", "SOTA_LOG_PATH"])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("git_ignore_folder/absent", "looked for at {here}/git_ignore_folder/absent"),
        ("set.parquet", "looked for at {here}/set.parquet"),
        ("link", "looked for at {here}/link"),
        ("~/absent", "looked for at {here}/home/absent"),
        ("~no-such-user-here/w", "Could not determine home directory"),
        ("w" * 300, "File name too long"),
    ],
    ids=["folder", "file", "link to nowhere", "below home", "home of nobody", "too long"],
)
def test_a_path_that_is_not_there(
    variable: str, text: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is not there, or can't be, is named as written, with the place where it was looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    if variable == "SOTA_LOG_PATH":
        error = log_error(text)
        assert error.fact == f"SOTA log path not found: {text}"
    else:
        error = error_of(lambda: factor_file(text), WorkspaceNotFoundError)
        assert error.fact == f"SOTA workspace path not found: {text}"
    assert error.place.startswith(f"{variable}, ")
    assert where.format(here=tmp_path) in error.place
    assert "a relative path is relative to the folder that the command is started in" in error.fix


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ((), "(an empty folder)"),
        (("factor.py", "daily_pv.h5"), "(a coder's folder: it holds factor.py, the code of one factor)"),
        (("model.py", "conf.yaml"), "(a model's folder: it holds model.py)"),
        (("__session__", "x"), "(a log folder: name it in SOTA_LOG_PATH instead)"),
        (("b.csv", "a.csv"), "(it holds a.csv, b.csv)"),
        (("c", "a", "d", "b"), "(it holds a, b, c, …)"),
    ],
)
def test_folder_without_the_file(tmp_path: Path, files: tuple[str, ...], what: str) -> None:
    """A folder without the file is described, so that a user sees which kind of folder it is."""
    folder = tmp_path / "alone" / "named"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    error = error_of(lambda: factor_file(str(folder)), FactorFileNotFoundError)
    assert error.fact == f"SOTA factors file not found: {folder / FACTOR_FILE}"
    assert error.place == f"SOTA_WORKSPACE_PATH={folder} {what}"
    assert error.fix == f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"


def test_a_wrong_folder_is_answered_with_sets(project: Project) -> None:
    """The newest two below it, else those beside it, with a warning of rejected loops."""
    for age, name in enumerate(("newest", "middle", "old")):
        os.utime(project.set(name), (1_700_000_000 - age,) * 2)
    (project.root / "empty").mkdir()
    for folder in (project.root, project.root / "empty"):
        assert error_of(lambda folder=folder: factor_file(str(folder)), FactorFileNotFoundError).fix == (
            f"name the workspace of an accepted factor loop (3 folders there with a {FACTOR_FILE}), the "
            f"newest {project.root / 'newest'} or {project.root / 'middle'}. A rejected loop leaves one too: "
            "`rdagent-sota list` shows which loop was accepted, and SOTA_LOG_PATH takes it from the run's log"
        )


@pytest.mark.parametrize(
    "text", ["w", "./w", f"w/{FACTOR_FILE}", "../project/w", "w/", "~/w", "linked", "link", "因子", "b.bin"]
)
def test_a_workspace_and_its_file(project: Project, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A workspace or a file of any name, relative to here or to home, or linked, is one absolute path."""
    (project.folder / "w").mkdir()
    expected = write(factor_frame(), project.folder / "w")
    (project.folder / "link").symlink_to(project.folder / "w")
    (project.folder / "linked").mkdir()
    (project.folder / "linked" / FACTOR_FILE).symlink_to(expected)
    for name in ("因子", "b.bin"):
        (project.folder / name).symlink_to(expected)
    monkeypatch.setenv("HOME", str(project.folder))
    assert factor_file(text) == named(text).path == expected.resolve()


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o400])
def test_a_folder_that_may_not_be_entered(mode: int) -> None:
    """A workspace that the user may not enter or list is an error of the package's, not a traceback."""
    with public_folder() as folder:
        closed = folder / "closed"
        closed.mkdir()
        closed.chmod(mode)
        try:
            with without_privileges(), pytest.raises(LocateError):
                factor_file(str(closed))
        finally:
            closed.chmod(0o700)


# --- a log ---


@pytest.mark.parametrize(
    "form", ["log/run", "./log/run/", "log/run/__session__", "~/log/run", "file", "an early file"]
)
def test_the_last_accepted_loop_of_a_log(
    project: Project, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set is that of the last accepted loop by then, not of the newest folder, which was rejected."""
    monkeypatch.setenv("HOME", str(project.folder))
    files = [project.set("first", "a"), project.set("second", "a", "b"), project.set("third", "a", "b", "c")]
    loops = (("first", ("a",), True), ("second", ("b",), True), ("third", ("c",), False))
    log = project.run("run", *loops)
    (newest,), (early,) = ((log / "__session__" / number).iterdir() for number in ("2", "0"))
    text = {"file": str(newest), "an early file": str(early)}.get(form, form)
    loop = 0 if form == "an early file" else 1
    assert from_log(text) == named(text) == Located(files[loop], log, loop, files[loop].parent.name, True)


def test_accepted_factors_of_fin_quant(project: Project) -> None:
    """In a run of fin_quant the last accepted experiment on factors counts, whatever models came after."""
    file = project.set("f", "a")
    log = project.run("run", ("f", ("a",), True), ("m", (), True), kind="QuantRDLoop")
    assert from_log(log).path == file


@pytest.mark.parametrize("where", ["beside the log", "WORKSPACE_PATH", "current folder", "recorded"])
def test_a_project_that_was_moved(
    project: Project, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace is found by its id, for the recorded path is stale; last of all, at that path."""
    project.set("w", "a")
    log = project.run("run", ("w", ("a",), True))
    moved = tmp_path / "moved"
    root = moved / "git_ignore_folder" / "RD-Agent_workspace"
    if where == "beside the log":
        project.folder.rename(moved)
        monkeypatch.chdir(tmp_path)
        log = moved / "log" / "run"
    elif where == "WORKSPACE_PATH":
        root = project.root.rename(moved)
        monkeypatch.setenv("WORKSPACE_PATH", str(root))
    elif where == "current folder":
        project.folder.rename(moved)
        log = (moved / "log" / "run").rename(tmp_path / "log only")
        monkeypatch.chdir(moved)
    else:
        log = log.rename(tmp_path / "log only")
        monkeypatch.chdir(tmp_path)
        root = project.root
    assert from_log(log).path == root / "w" / FACTOR_FILE


def test_the_project_that_holds_the_log_comes_first(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two copies of a project has its own set, wherever a run starts; then comes the present root."""
    project.set("w", "a")
    log = project.run("run", ("w", ("a",), True))
    copy = Path(shutil.copytree(project.folder, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    assert project.folder in from_log(log).path.parents
    assert copy in from_log("log/run").path.parents
    moved = Path(shutil.move(copy / "log", tmp_path / "elsewhere"))
    assert copy in from_log(moved / "run").path.parents


def test_a_workspace_that_is_gone_or_empty(project: Project) -> None:
    """The error lists where it was looked for; an empty one is what RD-Agent's result cache leaves."""
    log = project.run("run", ("w", ("a",), True))
    error = log_error(log, WorkspaceNotFoundError)
    assert error.fact == "SOTA workspace path not found: w"
    assert error.place == f"workspace of the accepted loop 0 of {log}, looked for at {project.root / 'w'}"
    assert "WORKSPACE_PATH" in error.fix
    (project.root / "w").mkdir()
    error = log_error(log, FactorFileNotFoundError)
    assert error.fact == f"SOTA factors file not found: {project.root / 'w' / FACTOR_FILE}"
    assert "answers a loop from its result cache" in error.place
    assert "CACHE_WITH_PICKLE=false" in error.fix


def test_a_run_that_accepted_nothing(project: Project) -> None:
    """A rejected set is never taken for want of an accepted one; nor is that of an unfinished loop."""
    project.set("w", "a")
    log = project.run("run", ("w", ("a",), False), ("m", (), True), kind="QuantRDLoop")
    error = log_error(log, NothingAcceptedError)
    assert error.fact == "The run accepted no factor loop (finished factor loops: 1)"
    assert str(log) in error.place
    loop = logs.new_loop()
    logs.begin(loop, 0, logs.factor_experiment(project.root / "w", "a"))
    logs.dump(loop, project.folder / "log" / "begun", 0)
    error = log_error("log/begun", NothingAcceptedError)
    assert error.fact == "The run has not finished a loop: no factor set has a verdict yet"


@pytest.mark.parametrize(
    ("kind", "what"), [("ModelRDLoop", "one of fin_model (ModelRDLoop)"), ("RDLoop", "another command")]
)
def test_a_log_that_mines_no_factors(project: Project, kind: str, what: str) -> None:
    """A log of fin_model, or of another scenario of RD-Agent's, is named as such."""
    assert what in log_error(project.run("run", ("m", (), True), kind=kind)).fact


def test_what_is_no_log(project: Project) -> None:
    """A workspace, and `log/latest.log`, which is easily taken for `latest`, are named as what they are."""
    assert "names a workspace, not a log folder" in log_error(project.set("w", "a").parent).fact
    (project.folder / "log").mkdir()
    (project.folder / "log" / "latest.log").write_text("text")
    for ask in (lambda: from_log("log/latest.log"), lambda: named("log/latest.log")):
        error = error_of(ask, SessionError)
        assert error.fact == "SOTA_LOG_PATH names the text log, which holds no session"


@pytest.mark.parametrize("text", ["lastest", "LATEST", "log/rum"])
def test_a_near_name_is_offered(project: Project, text: str) -> None:
    """For a text that is nearly `latest`, or nearly a run, that is offered."""
    project.run("run", ("w", ("a",), True))
    expected = f"did you mean {'log/run' if '/' in text else 'latest'}?"
    assert log_error(text).fix == error_of(lambda: named(text), LocateError).fix == expected


def test_a_workspace_that_may_not_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recorded folder is closed to the user, the error names it."""
    with public_folder() as folder:
        monkeypatch.chdir(folder)
        closed = folder / "closed"
        log = logs.write_run(folder / "log" / "run", closed, ("w", ("a",), True))
        closed.mkdir(mode=0o000)
        try:
            with without_privileges(), pytest.raises(LocateError) as caught:
                from_log(log)
            fact = "The workspace of an accepted loop can't be looked for: Permission denied"
            assert caught.value.fact == fact
            assert caught.value.place == f"{closed / 'w' / FACTOR_FILE}, for SOTA_LOG_PATH={log}"
        finally:
            monkeypatch.undo()
            closed.chmod(0o700)


# --- latest ---


def test_latest_names_logs_that_it_can_not_read(project: Project) -> None:
    """An older log is a note with its reason; one that may be newer stops, for it may be the latest."""
    project.set("x", "x")
    log = project.run("run", ("x", ("x",), True))
    older = project.damaged("older")
    logs.dump_object("text", project.folder / "log" / "older" / "2025-12-31_08-00-00-000000.pkl")
    (note,) = from_log("latest").notes
    assert "left out of the search" in note
    assert str(older) in note
    newer = project.damaged("newer")
    error = log_error("latest")
    assert error.fact.startswith("A log that can't be read may be newer than the latest: ")
    assert error.place == f"{newer}; the latest that can be read is {log}"
    assert error.fix.endswith("or name the log to take in place of `latest`")


def test_latest_without_an_accepted_loop(project: Project) -> None:
    """Without any set the error says how many logs there were, and which could not be read."""
    error = log_error("latest", NothingAcceptedError)
    assert error.place == f"{project.folder / 'log'}: 0 logs, of which 0 can't be read"
    assert "fin_factor" in error.fix
    project.run("a", ("x", ("x",), False))
    project.damaged("b")
    error = log_error("latest", NothingAcceptedError)
    assert error.place.startswith(f"{project.folder / 'log'}: 2 logs, of which 1 can't be read; ")
    assert "the one that holds __session__" in error.fix, "the fix of the log that can't be read"


# --- parallel loops ---


def test_siblings_whose_factors_are_missing(project: Project) -> None:
    """Of accepted loops that ran side by side a note names the factors; a file may be gone, or damaged."""
    first = project.set("first", "a", "both")
    project.set("third").write_bytes(b"damaged")
    last = project.set("last", "b", "both")
    loops = [(name, (name[0],), True) for name in ("first", "gone", "third", "last")]
    found = from_log(project.run("run", *loops))
    assert found.path == last
    lacks, gone, damaged = found.notes
    assert lacks == (
        "loop 0 was accepted too, and the set of loop 3 lacks its a (loops that run side by side do not see "
        f"each other's). To join both: SOTA_WORKSPACE_PATH={first.parent}{os.pathsep}{last.parent}"
    )
    assert gone == "loop 1 was accepted too, and the set of loop 3 lacks its g; its own file is gone"
    assert damaged.startswith("loop 2 was accepted too, and its set could not be compared: ")


# --- both variables, several entries ---


def test_both_variables(project: Project) -> None:
    """Naming one set twice is no contradiction; two different sets are an error that names both files."""
    file, other = project.set("w", "a"), project.set("other", "b")
    log = project.run("run", ("w", ("a",), True))
    assert factor_sets((str(file.parent),), (str(log),)) == (Located(file, log, 0, "w", True),)
    error = error_of(lambda: factor_sets((str(other),), (str(log),)), LocateError)
    assert error.fact == "SOTA_WORKSPACE_PATH and SOTA_LOG_PATH name different factor sets"
    assert error.place == f"{other} by the first, {file} by the second"


def test_several_entries(project: Project) -> None:
    """Every entry is found, in order, and each file once."""
    file, other = project.set("w", "a"), project.set("other", "b")
    log = project.run("run", ("w", ("a",), True))
    assert [one.path for one in factor_sets((str(other), str(file), str(other.parent)), ())] == [other, file]
    assert [one.loop for one in factor_sets((), (str(log), "latest"))] == [0]
    with pytest.raises(WorkspaceNotFoundError, match="nowhere"):
        factor_sets((str(other), "nowhere"), ())


def test_the_log_of_a_workspace(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace that was named is found in the logs of its project, with its verdict, or stays as it is."""
    files = {name: project.set(name, "a") for name in ("w", "x", "y")}
    log = project.run("run", ("w", ("a",), True), ("x", ("b",), False))
    project.damaged("damaged")
    monkeypatch.chdir(tmp_path)
    assert with_its_log(Located(files["w"])) == Located(files["w"], log, 0, "w", True)
    assert with_its_log(Located(files["x"])) == Located(files["x"], log, 1, "x", False)
    assert with_its_log(Located(files["y"])) == Located(files["y"])
