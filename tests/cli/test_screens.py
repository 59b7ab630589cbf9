"""The commands at a real terminal: nothing is stretched or broken, and what is shown can be read on white."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from rdagent_sota_bridge.factor_set import parquet, store
from tests import logs, trained
from tests.frames import factor_frame, nested, write
from tests.report.test_history import model, root_of, skip

COMMANDS = ("list", "store", "check nowhere", "verify log/run")
_STYLE = re.compile(r"\x1b\[([\d;]*)m")
# Of letters on white: dim, yellow, and bold green, which many terminals show as light green.
_PALE = re.compile(r"^(?:.*;)?(?:2|33|93|1;32|92)$")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a stored set, a workspace without a log, and a run of models of every state."""
    folder = tmp_path_factory.mktemp("project")
    root = root_of(folder)
    workspace = root / ("9" * 32)
    workspace.mkdir(parents=True)
    path = write(nested(factor_frame(("momentum",))), workspace)
    digest = parquet.current_digest(path)
    wanted = store.Wanted(digest, ("momentum",), ((path, digest),))
    store.keep(wanted, folder / "git_ignore_folder" / "sota_store")
    loop = logs.new_loop("ModelRDLoop")
    for number, experiment in enumerate(
        (model(trained.write_training(root / "with")), model(trained.write_baseline(root / "base")))
    ):
        logs.finish(loop, number, experiment, False)
    skip(loop, 2, model(root / "skipped"), "model.py is empty")
    logs.dump(loop, folder / "log" / "run", 2)
    return folder


def screen(project: Path, command: str, columns: int, **variables: str) -> str:
    """Run a command at a terminal of so many columns, and return the bytes that it got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    unset = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM")
    environ = {name: value for name, value in os.environ.items() if name not in unset}
    code = "from rdagent_sota_bridge.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command.split()],
        cwd=project,
        env={**environ, "TERM": "xterm", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(ours, 65536):
            said += piece
    os.close(ours)
    process.wait()
    return said.decode()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_at_a_terminal(project: Path, command: str, columns: int) -> None:
    """No table fills the screen, no path is cut, and no letters are pale on white."""
    said = screen(project, command, columns)
    shown = [_STYLE.findall(said), re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said).splitlines()]
    assert shown[0], "colours, at a terminal"
    assert not [style for style in shown[0] if _PALE.match(style)]
    place = {"list": "9" * 32, "store": f"{project}/git_ignore_folder/sota_store"}
    assert place.get(command, "nowhere" if "check" in command else f"{project}/log/run") in said
    if command in ("list", "store"):  # the tables
        assert all(len(line.rstrip()) < 80 for line in shown[1] if "/" not in line)
    assert "Traceback" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_without_colours(project: Path, command: str) -> None:
    """With NO_COLOR a terminal gets bold letters at the most."""
    assert set(_STYLE.findall(screen(project, command, 80, NO_COLOR="1"))) <= {"0", "1"}
