"""Where a stage is, and what it can be resumed from, by its session files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.run import progress
from rdagent_sota_bridge.run.progress import Position
from tests import logs


@pytest.mark.parametrize(
    ("names", "position"),
    [
        ((), Position(0, "direct_exp_gen", 0, 0)),
        (("0/0_direct_exp_gen",), Position(0, "coding", 0, 0)),
        (("0/2_running",), Position(0, "feedback", 0, 1)),
        (("0/2_running", "0/4_record"), Position(1, "direct_exp_gen", 1, 1)),
        (("0/4_record", "1/1_coding"), Position(1, "running", 1, 0)),
        (("0/1_coding", "1/4_record"), Position(0, "running", 1, 0)),
        (("0/2_running", "0/3_feedback"), Position(1, "direct_exp_gen", 1, 1)),  # the last step of 0.8.0
        (("0/4_record", "1/2_running", "1/3_feedback"), Position(1, "record", 1, 1)),
        (("1/0_direct_exp_gen", "0/1_coding"), Position(0, "running", 0, 0)),
        (("0/9_dreaming",), Position(0, "", 0, 0)),
        (("0/0_direct_exp_gen", "0/.DS_Store", "x/1_coding"), Position(0, "coding", 0, 0)),
    ],
)
def test_position(tmp_path: Path, names: tuple[str, ...], position: Position) -> None:
    """Loop and step follow from what was done last, in one loop or several side by side."""
    for when, name in enumerate(names):
        file = tmp_path / "__session__" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9 + when, 1e9 + when))
    assert progress.position(progress.steps_done(tmp_path)) == position


@pytest.fixture
def sessions(tmp_path: Path) -> list[Path]:
    """Write a log of two loops side by side, and return its sessions, oldest first."""
    loop = logs.new_loop()
    files = []
    for number in (0, 1):
        logs.begin(loop, number, logs.factor_experiment(tmp_path / str(number), "a"))
        files.append(logs.dump(loop, tmp_path, number))
    logs.finish(loop, 0, logs.factor_experiment(tmp_path / "0", "a"), True)
    files.append(logs.dump(loop, tmp_path, 0))
    set_times(files)
    return files


def set_times(files: list[Path]) -> None:
    """Give files a time each, a second after the one before."""
    for when, file in enumerate(files):
        os.utime(file, (1e9 + when, 1e9 + when))


def cut_off(file: Path) -> None:
    """Leave half of a file, with its time."""
    status = file.stat()
    file.write_bytes(file.read_bytes()[: status.st_size // 2])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("is_copy", [False, True])
def test_the_session_that_was_written_last(tmp_path: Path, sessions: list[Path], is_copy: bool) -> None:
    """With loops side by side that is not the one of the highest loop; a copy has other times of files."""
    if is_copy:
        set_times(sessions[::-1])
    assert progress.where_to_resume(tmp_path) == (sessions[-1], 1, "")


def test_sessions_that_are_cut_off(tmp_path: Path, sessions: list[Path]) -> None:
    """The newest that can be read is taken, and the note names the one that can't.

    Where none of several can be read, hours are not thrown away: that is an error.
    """
    cut_off(sessions[-1])
    sessions[1].write_bytes(b"")
    os.utime(sessions[1], (1e9 + 1, 1e9 + 1))
    note = f"the newest session was cut off ({sessions[-1]}): 0/0_direct_exp_gen is taken"
    assert progress.where_to_resume(tmp_path) == (sessions[0], 0, note)
    cut_off(sessions[0])
    with pytest.raises(SessionError) as caught:
        progress.where_to_resume(tmp_path)
    assert str(sessions[-1]) in str(caught.value)


def test_nothing_to_resume_from(tmp_path: Path, sessions: list[Path]) -> None:
    """Without a session, or with a first one that is cut off, the stage begins anew."""
    assert progress.where_to_resume(tmp_path / "nothing") == (None, 0, "")
    for file in sessions[1:]:
        file.unlink()
    cut_off(sessions[0])
    found = progress.where_to_resume(tmp_path)
    assert found.file is None
    assert found.note.endswith("the stage begins anew")
