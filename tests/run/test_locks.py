"""One job at a time in a log folder."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import locks
from tests.frames import public_folder, without_privileges

BOTH = pytest.mark.parametrize(
    ("name", "text"),
    [(locks.RUN_LOCK, "at work in this log folder"), (locks.STAGE_LOCK, "that was killed")],
    ids=["job", "stage of a killed job"],
)


def held_by_another(folder: Path, name: str) -> int:
    """Hold a lock as another process does, and return the descriptor."""
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@BOTH
def test_waits_for_one_that_ends(tmp_path: Path, name: str, text: str) -> None:
    """It is said once that the other is awaited, and the locks are had when it is gone."""
    said = list[str]()
    threading.Timer(0.7, os.close, (held_by_another(tmp_path, name),)).start()
    with locks.held(tmp_path, said.append) as descriptor:
        assert os.fstat(descriptor).st_ino == (tmp_path / locks.STAGE_LOCK).stat().st_ino
    (line,) = said
    assert line.startswith("waiting for")
    assert text in line


@BOTH
def test_one_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """One that outlives the patience is one error and left alone, and both locks are free afterwards."""
    monkeypatch.setattr(locks, "END_SECONDS", 0.1)
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    descriptor = held_by_another(tmp_path, name)
    with pytest.raises(JobError, match=text), locks.held(tmp_path, lambda _: None):
        pass
    os.close(descriptor)
    with locks.held(tmp_path, lambda _: None):
        pass


def test_a_folder_that_may_not_be_written() -> None:
    """A closed folder is one error that names it."""
    with public_folder() as folder:
        folder.chmod(0o555)
        with (
            without_privileges(),
            pytest.raises(JobError, match="can't be locked") as caught,
            locks.held(folder, lambda _: None),
        ):
            pass
    assert str(folder) in caught.value.place
