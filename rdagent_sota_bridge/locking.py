"""A lock between processes, and word of it while one waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

_SECONDS = 10.0  # until a process that waits for another one says so, and says so again


@contextlib.contextmanager
def held(lock_file: Path, tell: Callable[[str], object], doing: str) -> Iterator[None]:
    """Hold a lock; while another process has it, wait and tell so. One that was killed holds it no more.

    Args:
        lock_file: The lock's file; it stays.
        tell: Is told of the wait.
        doing: What the other process does, such as `writes the set`.

    Raises:
        OSError: if the lock's file can't be written.
    """
    lock = filelock.FileLock(lock_file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_SECONDS)
        except filelock.Timeout:
            tell(f"waiting for another process that {doing} ({lock_file})")
    try:
        yield
    finally:
        lock.release()
