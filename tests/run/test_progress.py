"""Where a stage is, and what it can go on from, by its session files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.run import progress
from rdagent_sota_bridge.run.progress import Position
from tests import logs


def leave(log: Path, *names: str) -> None:
    """Leave empty session files, each a second after the one before."""
    for when, name in enumerate(names):
        file = log / "__session__" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9 + when, 1e9 + when))


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
    leave(tmp_path, *names)
    assert progress.position(progress.steps_done(tmp_path)) == position


def real_log(folder: Path) -> list[Path]:
    """Write a log of two loops side by side, and return its sessions, oldest first."""
    loop = logs.new_loop()
    files = []
    for number in (0, 1):
        logs.begin(loop, number, logs.factor_experiment(folder / str(number), "a"))
        files.append(logs.dump(loop, folder, number))
    logs.finish(loop, 0, logs.factor_experiment(folder / "0", "a"), True)
    files.append(logs.dump(loop, folder, 0))
    for when, file in enumerate(files):
        os.utime(file, (1e9 + when, 1e9 + when))
    return files


def test_a_copy_resumes_from_the_same_session(tmp_path: Path) -> None:
    """The times of files, which a copy has other ones of, don't tell which session is the newest."""
    files = real_log(tmp_path)
    for when, file in enumerate(reversed(files)):
        os.utime(file, (1e9 + when, 1e9 + when))
    assert progress.where_to_resume(tmp_path).file == files[-1]


def cut_off(file: Path) -> None:
    """Leave half of a file, with its time."""
    status = file.stat()
    file.write_bytes(file.read_bytes()[: status.st_size // 2])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_resumes_from_the_session_that_was_written_last(tmp_path: Path) -> None:
    """With loops side by side that is not the one of the highest loop."""
    files = real_log(tmp_path)
    found = progress.where_to_resume(tmp_path)
    assert (found.file, found.finished, found.note) == (files[-1], 1, "")


def test_passes_over_sessions_that_are_cut_off(tmp_path: Path) -> None:
    """The newest that can be read is taken, with its finished loops; the note names the one that can't."""
    files = real_log(tmp_path)
    cut_off(files[-1])
    files[1].write_bytes(b"")
    os.utime(files[1], (1e9 + 1, 1e9 + 1))
    found = progress.where_to_resume(tmp_path)
    assert (found.file, found.finished) == (files[0], 0)
    assert found.note == f"the newest session was cut off ({files[-1]}): 0/0_direct_exp_gen is taken"


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    """Without a session, or with a first one that is cut off, the stage begins anew."""
    assert progress.where_to_resume(tmp_path) == progress.Resume(None)
    files = real_log(tmp_path / "log")
    for file in files[1:]:
        file.unlink()
    cut_off(files[0])
    found = progress.where_to_resume(tmp_path / "log")
    assert found.file is None
    assert found.note.endswith("the stage begins anew")


def test_sessions_that_all_can_not_be_read(tmp_path: Path) -> None:
    """Where none of several can be read, hours are not thrown away: that is an error."""
    files = real_log(tmp_path)
    for file in files:
        cut_off(file)
    with pytest.raises(SessionError) as caught:
        progress.where_to_resume(tmp_path)
    assert str(files[-1]) in str(caught.value)
