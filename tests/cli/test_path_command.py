"""`rdagent-sota path`: the path that a run would use, for scripts; and the `.env` that each command loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli.fetching import progress_bar
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import logs
from tests.frames import factor_frame, write


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # What a .env sets is taken back after the test.
    monkeypatch.setenv("SOTA_LOG_PATH", "x")
    monkeypatch.delenv("SOTA_LOG_PATH")
    return tmp_path


@pytest.fixture
def workspace(project: Path) -> Path:
    """Return the workspace of the one accepted loop of a run."""
    folder = project / "w" / "first"
    folder.mkdir(parents=True)
    write(factor_frame(), folder)
    logs.write_run(project / "log" / "run", project / "w", ("first", ("a",), True), ("gone", ("b",), False))
    return folder


def path(*arguments: str) -> tuple[int, str, str]:
    """Run `rdagent-sota path`; return status, output and errors."""
    done = CliRunner().invoke(app, ["path", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("named", ["log/run", "latest", ".env"])
def test_of_a_log(workspace: Path, named: str) -> None:
    """A log, `latest`, and a log in .env, lead to the folder that SOTA_WORKSPACE_PATH would name, alone."""
    if named == ".env":
        Path(".env").write_text("SOTA_LOG_PATH=latest\n", encoding="utf-8")
    assert path(*([] if named == ".env" else [named])) == (0, f"{workspace}\n", "")


def test_of_the_environment(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several paths stand on one line, a file of another name as it is."""
    other = Path(shutil.copy(workspace / FACTOR_FILE, "other.parquet")).absolute()
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", f"w/first{os.pathsep}other.parquet")
    assert path() == (0, f"{workspace}{os.pathsep}{other}\n", "")


def test_notes_go_to_stderr(workspace: Path) -> None:
    """A script gets the path alone; what the user should know stands beside."""
    second = workspace.with_name("second")
    second.mkdir()
    write(factor_frame(("a",)), workspace)
    write(factor_frame(("b",)), second)
    loops = (("first", ("a",), True), ("second", ("b",), True))
    shutil.rmtree("log")
    logs.write_run(Path("log/run"), second.parent, *loops)
    status, output, errors = path("latest")
    assert (status, output) == (0, f"{second}\n")
    assert errors.startswith("note: loop 0 was accepted too")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", "No factor set is named"),
        ("latest", "No log accepted a factor loop"),
        ("log/absent", "Neither a factor workspace nor a run's log: log/absent"),
        ("~nobody-here/x", "Neither a factor workspace nor a run's log: ~nobody-here/x"),
        ("x" * 300, "File name too long"),
        ("variable", "SOTA_WORKSPACE_PATH has an unknown value"),
        (b"# \xd2\xf2\xd7\xd3\n", ".env can't be read: "),
        ("A=因子\n".encode("utf-16"), ".env can't be read: "),
    ],
    ids=[
        "none",
        "latest",
        "absent",
        "home of nobody",
        "too long",
        "variable",
        ".env in GBK",
        ".env in UTF-16",
    ],
)
def test_no_set(project: Path, argument: str | bytes, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message on stderr with place and fix, nothing on stdout, status 1, no traceback."""
    if argument == "variable":
        monkeypatch.setenv("SOTA_WORKSPACE_PATH", f"a{os.pathsep}{os.pathsep}b")
    if isinstance(argument, bytes):
        (project / ".env").write_bytes(argument)
    given = [] if isinstance(argument, bytes) or argument in ("", "variable") else [argument]
    status, output, errors = path(*given)
    assert (status, output) == (1, "")
    assert expected in errors
    assert "\n  where: " in errors and "\n  fix:   " in errors


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar(terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows a bar on stderr, and nothing else does."""
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as show:
        show("s3://bucket/run", 1, None)
        show("s3://bucket/run", 50, 100)
    shown = capsys.readouterr()
    assert ("s3://bucket/run" in shown.err) is terminal
    assert terminal or shown.err == ""
    assert shown.out == ""
