"""What a living process uses: a lock until it ends, which it shares with others or has alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
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
        file = _opened(lock_file, os.O_RDONLY | os.O_CREAT)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    _release(lock_file)
    _held[lock_file] = file


def take(descriptor: int) -> bool:
    """Lock an open file for whoever has the descriptor, a child that keeps it too; False if another has it.

    Raises:
        OSError: if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
            file = stack.enter_context(_opened(lock_file, os.O_RDONLY if dry_run else os.O_RDWR | os.O_CREAT))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        yield is_free


def _opened(lock_file: Path, flags: int) -> BinaryIO:
    """Open the file of a lock: no link, which may lead out of the store, and no pipe, which would wait."""
    descriptor = os.open(lock_file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(
            errno.EINVAL, "it is no file, and stands where a lock has to be; remove it", str(lock_file)
        )
    return os.fdopen(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b")


def _release(lock_file: Path) -> None:
    if lock_file in _held:
        _held.pop(lock_file).close()
