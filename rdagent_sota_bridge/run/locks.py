"""One job at a time in a log folder: two locks, one of `rdagent-sota run` itself and one of its stage."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from rdagent_sota_bridge.errors import JobError

RUN_LOCK = ".run.lock"
"""Held by `rdagent-sota run`; a killed one holds it no more."""

STAGE_LOCK = ".stage.lock"
"""Held by the lifeline of a stage until the last process of the stage is gone."""

END_SECONDS = 40.0
"""How long a job waits for another one, which may have been told to stop just now."""

WAIT_SECONDS = 60.0
"""How long a job waits for the stage of a killed one; a lifeline takes less to end whatever it started."""


@contextlib.contextmanager
def held(log_dir: Path, tell: Callable[[str], None]) -> Iterator[tuple[int, ...]]:
    """Hold both locks of a log folder for a block, and yield the descriptors that a stage's lifeline keeps.

    Args:
        log_dir: The folder, which is there.
        tell: What a wait is told to.

    Raises:
        JobError: if another job is at work there, the stage of a killed one does not end, or the folder can't
            be written or locked.
    """
    lock = filelock.FileLock(log_dir / RUN_LOCK)
    try:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            # One that was told to stop takes some seconds to end what it started.
            tell("another `rdagent-sota run` is at work in this log folder; waiting for it to end ...")
            lock.acquire(timeout=END_SECONDS)
    except filelock.Timeout:
        raise JobError(
            "Another `rdagent-sota run` is at work in this log folder",
            str(log_dir),
            "wait for it or end it (Ctrl-C), or give the new one a --log-dir of its own",
        ) from None
    except (OSError, NotImplementedError) as error:  # the second where the file system has no locks
        raise _no_lock(lock.lock_file, error) from None
    try:
        with _stage_lock(log_dir / STAGE_LOCK, tell) as descriptors:
            yield descriptors
    finally:
        lock.release()


@contextlib.contextmanager
def _stage_lock(file: Path, tell: Callable[[str], None]) -> Iterator[tuple[int, ...]]:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _no_lock(str(file), error) from None
    try:
        end, told = time.monotonic() + WAIT_SECONDS, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise JobError(
                        "The stage of a job that was killed is still running",
                        f"{file}, which its processes hold (fuser or lsof tells which)",
                        "end them, then go on",
                    ) from None
            except OSError as error:
                raise _no_lock(str(file), error) from None
            if not told:
                tell("waiting for the stage of the job that was killed to end ...")
                told = True
            time.sleep(0.2)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _no_lock(file: str, error: Exception) -> JobError:
    return JobError(
        f"The log folder can't be locked: {error}",
        file,
        "name a folder with --log-dir that you may write into, on a file system that has locks",
    )
