"""One job at a time in a log folder."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import filelock
import pytest

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import locks
from tests.frames import public_folder, without_privileges


def held_by_a_stage(folder: Path) -> int:
    """Hold the lock that a stage's lifeline keeps, and return the descriptor."""
    descriptor = os.open(folder / locks.STAGE_LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_waits_for_the_stage_of_a_killed_job(tmp_path: Path) -> None:
    """It is said once that the stage of a killed job is awaited, and the locks are had when it is gone."""
    descriptor, told = held_by_a_stage(tmp_path), list[str]()
    threading.Timer(0.7, os.close, (descriptor,)).start()
    with locks.held(tmp_path, told.append) as held:
        assert os.fstat(held).st_ino == (tmp_path / locks.STAGE_LOCK).stat().st_ino
    assert told == ["waiting for the stage of the job that was killed to end ..."]


def test_waits_for_a_job_that_was_told_to_stop(tmp_path: Path) -> None:
    """A job that ends within the patience is awaited, which is said; one that does not is one error."""
    before, told = filelock.FileLock(tmp_path / locks.RUN_LOCK, thread_local=False), list[str]()
    before.acquire()
    threading.Timer(0.7, before.release).start()
    with locks.held(tmp_path, told.append):
        pass
    (said,) = told
    assert "waiting for it to end" in said


def test_a_job_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that goes on is left alone, and the second one is refused."""
    monkeypatch.setattr(locks, "END_SECONDS", 0.1)
    with (
        locks.held(tmp_path, lambda text: None),
        pytest.raises(JobError, match="is at work in this log folder"),
        locks.held(tmp_path, lambda text: None),
    ):
        pass


def test_a_stage_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that outlives the patience is one error, and the other lock is free again."""
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    descriptor = held_by_a_stage(tmp_path)
    with pytest.raises(JobError, match="killed is still running"), locks.held(tmp_path, lambda text: None):
        pass
    os.close(descriptor)
    with locks.held(tmp_path, lambda text: None):
        pass


def test_a_folder_that_may_not_be_written() -> None:
    """A closed folder is one error that names it."""
    with public_folder() as folder:
        folder.chmod(0o555)
        with (
            without_privileges(),
            pytest.raises(JobError, match="can't be locked") as caught,
            locks.held(folder, lambda text: None),
        ):
            pass
    assert str(folder) in caught.value.place
