"""What a living process uses: a lock that it shares with others who use it, until it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_held: dict[Path, BinaryIO] = {}
# What a file system says that has no locks, or lets this user write none: then only times say what is used.
_NO_LOCKS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


def hold(lock_file: Path) -> None:
    """Let others see that this process uses what a lock file stands for; the kernel ends that with it.

    Waits while another process removes it (`free`), which takes a moment. To be called for each use: a lock
    on a file that was removed meanwhile holds nothing.

    Raises:
        OSError: if the lock's file can't be made for another reason than a missing right.
    """
    try:
        # Only to be read: its disk may be made read-only meanwhile, and be used by who may only read it.
        file = os.fdopen(os.open(lock_file, os.O_RDONLY | os.O_CREAT, 0o666), "rb")
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    _release(lock_file)
    _held[lock_file] = file


@contextlib.contextmanager
def free(lock_file: Path, *, dry_run: bool) -> Iterator[bool]:
    """Give True if no other process uses it; for the length of the block none begins to.

    Args:
        lock_file: The lock's file; it stays.
        dry_run: Make no file.

    Raises:
        OSError: if the lock's file can't be opened.
    """
    _release(lock_file)  # a process that removes it does not use it
    is_free = True
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # a dry run, and nobody has used it
            file = stack.enter_context(lock_file.open("rb" if dry_run else "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
        yield is_free


def _release(lock_file: Path) -> None:
    if lock_file in _held:
        _held.pop(lock_file).close()
